"""Soft labels from a file: joined, counted, refused."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.soft_labels import joined_soft_labels, read_soft_labels
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.tasks import load_examples, mapped_tables
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.recipe_splits import recipe_examples

TRAIN = "id,text,label\n7,a  house,good\n8,a lake,bad\n9,a dog,bad\n"


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    (tmp_path / "t.csv").write_text(TRAIN)
    custom = {"train": str(tmp_path / "t.csv"), "validation": str(tmp_path / "t.csv")}
    recipe = from_dict({"finetune": {"tasks": ["t"], "custom": {"t": custom}}}, "test")
    task = custom_task("t", CustomTask(**custom))
    return recipe_examples(recipe, task, "train")


@pytest.fixture
def several(tmp_path: Path) -> Examples:
    """Texts that may have several labels."""
    (tmp_path / "m.csv").write_text("id,text,toxic,insult\n7,a  house,1,0\n8,a lake,0,0\n9,a dog,1,1\n")
    custom = {"train": str(tmp_path / "m.csv"), "kind": "multi-label", "label": ("toxic", "insult")}
    return load_examples(custom_task("m", CustomTask(**custom)), "train", data=None, corpus=Corpus(), limit=0, seed=0)


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "soft.csv").write_text(text)
    return tmp_path / "soft.csv"


def test_joined_by_text_in_the_order_of_the_classes(
    examples: Examples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert examples.task.labels == ("bad", "good")
    path = written(tmp_path, "text,good,bad\na house,0.8,0.2\n a lake ,0,1\nno such text,0.5,0.5\n")
    logits = joined_soft_labels(path, examples, None)
    np.testing.assert_allclose(logits[0], [math.log(0.2), math.log(0.8)])
    np.testing.assert_allclose(logits[1], [0, math.log(1e-6)])
    assert np.isnan(logits[2]).all()
    assert "by text to 2 of 3 train examples" in caplog.text and "1 row without a match" in caplog.text


def test_joined_by_id_votes_and_scores(examples: Examples, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logits = joined_soft_labels(written(tmp_path, "id,good,bad\n9,3,1\n7,0,4\n8,2,2\n"), examples, None)
    np.testing.assert_allclose(np.exp(logits[:, 1]), [1e-6, 0.5, 0.75])
    assert "votes" in caplog.text
    scores = read_soft_labels(written(tmp_path, "id,good,bad\n9,3.5,-1\n"), examples.task)
    np.testing.assert_allclose(scores.logits, [[-1, 3.5]])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("text,good,bad\na house,3.5,3.5\n", ["soft.csv:2", "sum to 1", "a sum of 7"]),
        ("text,good,bad\na house,1e30,0.5\n", ["soft.csv:2", "sum to 1", "a sum of 1e+30"]),
        ("text,good\na house,1\n", ["bad, good", "without bad"]),
        ("text,good,bad,ugly\na house,1,0,0\n", ["also ugly"]),
        ("text,good,Bad\na house,1,0\n", ["did you mean 'bad' by 'Bad'"]),
        ("id,good,bad\n7,1,0\n7,0,1\n", ["soft.csv:3", "'7' again", "soft.csv:2"]),
        ("name,good,bad\n7,1,0\n", ["'text' or 'id' to join by"]),
        ("text,good,bad\nanother,1,0\n", ["none of its 1 rows"]),
        ("text,good,bad\na house,much,0\n", ["soft.csv:2, column good", "a number"]),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, parts: list[str], examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        joined_soft_labels(written(tmp_path, text), examples, None)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_an_id_twice_in_the_train_examples(examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRAIN.replace("9,a dog", "7,a dog"))
    with pytest.raises(UserError, match=r"t.csv:4, column id.*'7' again"):
        joined_soft_labels(written(tmp_path, "id,good,bad\n7,1,0\n"), examples, None)


def test_several_labels_have_a_probability_each(
    several: Examples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "text,insult,toxic\na house,0.9,0.8\n a lake ,0,1\nno such text,0.5,0.5\n")
    logits = joined_soft_labels(path, several, None)
    np.testing.assert_allclose(logits[0], [math.log(4), math.log(9)])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[1])), [1 - 1e-6, 1e-6])
    assert np.isnan(logits[2]).all()
    assert "by text to 2 of 3 train examples" in caplog.text and "1 row without a match" in caplog.text
    scores = read_soft_labels(written(tmp_path, "id,insult,toxic\n9,3.5,-1\n"), several.task)
    np.testing.assert_allclose(scores.logits, [[-1, 3.5]])
    assert "before a sigmoid" in caplog.text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("text,toxic,insult\na house,3,0\na lake,0,2\n", [":2, column toxic", "from 0 to 1", "3 (2 such values)"]),
        ("text,toxic\na house,1\n", ["the labels toxic, insult", "without insult"]),
        ("text,toxic,insult\na house,NaN,0\n", ["soft.csv:2, column toxic", "a number"]),
        ("text,toxic,insult\nA house,1,0\n", ["none of its 1 rows"]),
    ],
)  # fmt: skip
def test_a_mistake_in_those_of_several_labels(text: str, parts: list[str], several: Examples, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        joined_soft_labels(written(tmp_path, text), several, None)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_pairs_are_joined_by_both_texts(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text,other,label\na,b,no\na,c,yes\n")
    columns = {"train": str(tmp_path / "p.csv"), "text_pair": "other"}
    pairs = load_examples(custom_task("p", CustomTask(**columns)), "train", data=None, corpus=Corpus(), limit=0, seed=0)
    logits = joined_soft_labels(written(tmp_path, "other,text,no,yes\nc,a,0.1,0.9\nb,a,0.8,0.2\n"), pairs, None)
    np.testing.assert_allclose(np.exp(logits), [[0.8, 0.2], [0.1, 0.9]])
    with pytest.raises(UserError, match="'text' and 'other' or 'id'"):
        joined_soft_labels(written(tmp_path, "text,no,yes\na,0.1,0.9\n"), pairs, None)


def test_many_are_joined_by_numbers_of_each_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and keys in lists and a table took some 400 bytes for each row."""
    count = 6000
    for name in ("rows", "columns"):
        monkeypatch.setattr(f"tinydistilbert.tasks.{name}.VALUES_AT_ONCE", 200)
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    texts = [f"a rather long text of which there are many, number {row}" for row in range(count)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f'"{text}",{"ab"[len(text) % 2]}\n' for text in texts))
    task = custom_task("t", CustomTask(train=str(tmp_path / "t.csv")))
    examples = load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0)
    first, path = np.arange(count) % 2, tmp_path / "soft.parquet"
    pq.write_table(pa.table({"text": texts, "a": first, "b": 1 - first}), path)
    logits = joined_soft_labels(path, examples, None)
    assert (logits.argmax(-1) == 1 - first).all()
    tracemalloc.start()
    try:
        joined_soft_labels(path, examples, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250 * count, peak
