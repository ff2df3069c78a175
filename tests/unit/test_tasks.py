"""The task table, and the reading of splits: samples, fingerprints, and one clear line for everything that is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.metrics import METRICS
from tinydistilbert.recipe.names import GLUE_NAMES
from tinydistilbert.recipe.schema import Corpus, Finetune, TaskSettings
from tinydistilbert.tasks import HELD_OUT, TASKS, Examples, load_examples
from tinydistilbert.tasks.base import sample_rows
from tinydistilbert.tasks.recipe_splits import held_out_of_train
from tinydistilbert.tasks.splits import has_split


def write(folder: Path, task: str, split: str, rows: list[dict[str, Any]]) -> str:
    path = folder / TASKS[task].folder / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(folder)


def load(task: str, split: str, data: str, limit: int = 0, seed: int = 0) -> Examples:
    return load_examples(TASKS[task], split, data=data, corpus=Corpus(), limit=limit, seed=seed)


def rte(count: int) -> list[dict[str, Any]]:
    return [{"sentence1": f"one {i}", "sentence2": f"two {i}", "label": i % 2, "idx": i} for i in range(count)]


def squad(answer: str, start: int, context: str = "Paris is in France") -> list[dict[str, Any]]:
    return [{"id": "a", "question": "q?", "context": context, "answers": {"text": [answer], "answer_start": [start]}}]


def test_every_task_has_metrics_that_exist_and_a_headline_among_them() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.headline in task.metrics
        assert set(task.metrics) <= ({"exact_match", "f1"} if task.kind == "span" else set(METRICS))
        assert (task.kind == "classification") == (len(task.labels) >= 2)
        assert (task.kind == "span") == (task.doc_stride > 0)
        assert hash(task) == hash(TASKS[name])
        assert bool(task.official) == bool(task.typical_length) == (not task.is_made), "the dry run needs both"


def test_headlines_are_those_of_the_distilbert_paper() -> None:
    headlines = {name: TASKS[name].headline for name in (*GLUE_NAMES, "imdb", "squad")}
    special = {k: v for k, v in headlines.items() if v != "accuracy"}
    assert special == {
        "cola": "matthews_correlation", "mrpc": "f1_accuracy_mean", "qqp": "f1_accuracy_mean",
        "stsb": "pearson_spearman_mean", "squad": "f1",
    }  # fmt: skip
    assert TASKS["imdb"].evaluation == ("test",)
    assert TASKS["mnli"].evaluation == ("validation_matched", "validation_mismatched")


def test_columns_get_their_common_names(tmp_path: Path) -> None:
    examples = load("rte", "train", write(tmp_path, "rte", "train", rte(3)))
    assert examples.columns == {
        "idx": [0, 1, 2], "text": ["one 0", "one 1", "one 2"], "text_pair": ["two 0", "two 1", "two 2"],
        "label": [0, 1, 0],
    }  # fmt: skip
    data = write(tmp_path, "squad", "train", squad("Paris", 0))
    assert load("squad", "train", data).columns == {
        "id": ["a"], "question": ["q?"], "context": ["Paris is in France"],
        "answers": [{"text": ["Paris"], "answer_start": [0]}],
    }  # fmt: skip


def test_a_sample_is_seeded_without_replacement_and_in_order(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", rte(3000))
    sample = load("rte", "train", data, limit=50, seed=1)
    rows = sample.columns["idx"]
    assert len(sample) == 50 == len(set(rows)) and rows == sorted(rows) and rows != list(range(50))
    assert sample.columns["text"] == [f"one {row}" for row in rows]
    assert rows == load("rte", "train", data, limit=50, seed=1).columns["idx"]
    assert rows != load("rte", "train", data, limit=50, seed=2).columns["idx"]
    assert sample.total == 3000
    assert len(load("rte", "train", data, limit=9999)) == 3000


def test_a_file_with_a_part_of_the_official_split_is_known_as_a_part(tmp_path: Path) -> None:
    examples = load("qqp", "validation", write(tmp_path, "qqp", "validation", [
        {"question1": "a", "question2": "b", "label": 0}, {"question1": "c", "question2": "d", "label": 1},
    ]))  # fmt: skip
    assert (len(examples), examples.total) == (2, 40_430)


def test_sampled_pairs_stay_together() -> None:
    rows = sample_rows(101, 20, 3, pairs=True)
    assert len(rows) == 20 and (rows[1::2] == rows[::2] + 1).all() and (rows[::2] % 2 == 0).all()
    for total in range(2, 12):
        for limit in range(1, total):
            for pairs in (True, False):
                rows = sample_rows(total, limit, 0, pairs=pairs)
                assert len(rows) == limit == len(set(rows.tolist())) and rows.max() < total
    np.testing.assert_array_equal(sample_rows(5, 0, 0), np.arange(5))


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one = load("rte", "train", write(tmp_path / "1", "rte", "train", rte(10)))
    same = load("rte", "train", write(tmp_path / "2", "rte", "train", rte(10)))
    changed = rte(10)
    changed[7]["label"] = 0
    other = load("rte", "train", write(tmp_path / "3", "rte", "train", changed))
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_files_are_read_like_parquet(suffix: str, tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", rte(5))
    expected = load("rte", "train", data)
    table = pyarrow.parquet.read_table(tmp_path / "glue/rte/train.parquet")
    (tmp_path / "glue/rte/train.parquet").unlink()
    path = tmp_path / f"glue/rte/train.{suffix}"
    if suffix == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        table.to_pandas().to_json(path, orient="records", lines=True)
    assert load("rte", "train", data).columns == expected.columns


def test_a_missing_split_is_told_and_can_be_asked_for(tmp_path: Path) -> None:
    data = write(tmp_path, "mnli", "validation_matched", [{"premise": "a", "hypothesis": "b", "label": 2}])
    assert has_split(TASKS["mnli"], "validation_matched", data)
    assert not has_split(TASKS["mnli"], "validation_mismatched", data)
    assert has_split(TASKS["mnli"], "validation_mismatched", None)
    with pytest.raises(
        UserError, match=r"validation_mismatched\.parquet: expected the validation_mismatched split of MNLI"
    ):
        load("mnli", "validation_mismatched", data)


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("rte", [{"sentence1": "a", "label": 0}], r"the columns sentence1, sentence2, label, found sentence1, label"),
        ("rte", [*rte(4), {"sentence1": "a", "sentence2": "b", "label": 2}],
         r"row 4, column label: .* 0 to 1 \(entail.*found 2"),
        ("rte", [{"sentence1": "a", "sentence2": "b", "label": -1}], r"found -1; .*unlabelled test split"),
        ("rte", [{"sentence1": "a", "sentence2": "b", "label": 0.5}], r"column label: .*found 0\.5"),
        ("rte", [*rte(2), {"sentence1": "a", "sentence2": None, "label": 1}],
         r"row 2, column sentence2: .*found nothing"),
        ("rte", [*rte(2), {"sentence1": "a", "sentence2": "b", "label": None}],
         r"row 2, column label: .*found nothing"),
        ("stsb", [{"sentence1": "a", "sentence2": "b", "label": 5.2}], r"a number from 0\.0 to 5\.0, found 5\.2"),
        ("stsb", [{"sentence1": "a", "sentence2": "b", "label": float("nan")}], r"found nan"),
        ("squad", squad("Paris", 1), r"row 0, column answers: expected 'Paris' at answer_start 1, found 'aris '"),
        ("squad", squad("e", -1), r"expected 'e' at answer_start -1, found ''"),
        ("squad", [{**squad("", 0)[0], "answers": {"text": [], "answer_start": []}}],
         r"expected at least one answer, as in SQuAD v1\.1, found none; use the task squad_v2"),
        ("squad", [{**squad("", 0)[0], "answers": "Paris"}], r"\"text\": \[...\].*found 'Paris'"),
    ],
)  # fmt: skip
def test_wrong_rows_are_told_with_file_row_cause_and_cure(
    task: str, rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(task, "train", write(tmp_path, task, "train", rows))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_an_empty_split_and_a_broken_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "glue/rte/train.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rte(1)).slice(0, 0), path)
    with pytest.raises(UserError, match="at least one row, found none"):
        load("rte", "train", str(tmp_path))
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="a readable parquet file"):
        load("rte", "train", str(tmp_path))


def test_without_network_and_data_the_cure_is_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"nyu-mll/glue: .*give --data FOLDER with glue/rte/train.parquet"):
        load_examples(TASKS["rte"], "train", data=None, corpus=Corpus(), limit=0, seed=0)


def held_out(
    task: str, split: str, data: str | None, count: int = 0, *, corpus: Corpus | None = None, **sample: int
) -> Examples:
    given = {"limit": 0, "seed": 0, **sample}
    return load_examples(TASKS[task], split, data=data, corpus=corpus or Corpus(), held_out=count, **given)


def test_what_is_held_out_of_train_is_never_trained_on(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", rte(300))
    scored, rest = held_out("rte", HELD_OUT, data, 40), held_out("rte", "train", data, 40)
    assert (len(scored), len(rest)) == (40, 260)
    assert set(scored.columns["idx"]) | set(rest.columns["idx"]) == set(range(300))
    assert scored.columns["text"] == [f"one {row}" for row in scored.columns["idx"]]
    assert (scored.split, scored.total, rest.split, rest.total) == (HELD_OUT, 40, "train", 2490)
    sample = held_out("rte", "train", data, 40, limit=100)
    assert len(sample) == 100 and not set(sample.columns["idx"]) & set(scored.columns["idx"])


def test_the_held_out_examples_are_the_same_for_every_seed_and_not_the_first(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", rte(300))
    one, two = (held_out("rte", HELD_OUT, data, 40, seed=seed, limit=5) for seed in (1, 2))
    assert one.columns == two.columns and len(one) == 40
    assert one.columns["idx"] != list(range(40)) and one.fingerprint == two.fingerprint
    trained = [held_out("rte", "train", data, 40, seed=seed, limit=50).columns["idx"] for seed in (1, 2)]
    assert trained[0] != trained[1]


def test_a_tenth_is_held_out_by_default_and_never_everything(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", rte(30))
    assert [len(held_out("rte", split, data)) for split in (HELD_OUT, "train")] == [3, 27]
    for count in (30, 31):
        with pytest.raises(UserError, match=r"validation_examples of rte: expected fewer than the 30 .* found 3"):
            held_out("rte", HELD_OUT, data, count)


def test_a_repeated_example_is_not_trained_on_when_its_twin_is_scored(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "train", [{**row, "idx": i} for i, row in enumerate([*rte(50), *rte(50)])])
    scored, rest = held_out("rte", HELD_OUT, data, 20), held_out("rte", "train", data, 20)
    assert len(scored) == 20 and not set(scored.columns["text"]) & set(rest.columns["text"])
    assert len(rest) == 100 - 2 * len(set(scored.columns["text"]))


def test_other_splits_do_not_change_when_train_examples_are_held_out(tmp_path: Path) -> None:
    data = write(tmp_path, "rte", "validation", rte(20))
    assert held_out("rte", "validation", data, 5).columns == load("rte", "validation", data).columns


def test_synthetic_examples_are_held_out_in_pairs_the_same_for_every_seed(tmp_path: Path) -> None:
    word = ("old", "small", "tall", "grey", "green", "young", "quiet", "proud")
    documents = [
        "\n".join(
            " ".join(f"The {word[(d + s) % 8]} tower number {d} stood near house {p} on day {s}." for s in range(4))
            for p in range(6)
        )
        for d in range(12)
    ]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    corpus = Corpus(source=str(tmp_path / "text.txt"))
    parts = {
        (split, seed): held_out("adjacency", split, None, 10, corpus=corpus, seed=seed)
        for split in (HELD_OUT, "train")
        for seed in (0, 5)
    }
    assert parts[HELD_OUT, 0].columns == parts[HELD_OUT, 5].columns
    scored, rest = parts[HELD_OUT, 0], parts["train", 5]
    assert scored.columns["label"] == [0, 1] * 5
    assert not set(scored.columns["idx"]) & set(rest.columns["idx"])
    assert len(scored) + len(rest) == rest.total and rest.columns["label"][:8] == [0, 1] * 4


def test_settings_say_how_many_are_held_out() -> None:
    override = {"rte": TaskSettings(validation_examples=7)}
    settings = Finetune(score_on="train", validation_examples=9, override=override)
    assert [held_out_of_train(settings, name) for name in ("rte", "cola")] == [7, 9]
    assert held_out_of_train(Finetune(validation_examples=9), "rte") is None
