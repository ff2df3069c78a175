"""The cheap baselines: what they see of a text, that they learn, and that they are rows like any other."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import notices, results
from tinydistilbert.evaluation.baselines import evaluate_baseline
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.word_embeddings import word_embeddings
from tinydistilbert.pipeline.jobs import baseline_jobs
from tinydistilbert.recipe.names import TEXT_BASELINES
from tinydistilbert.recipe.schema import CustomTask, Finetune, Recipe
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, baselines, tasks_of
from tinydistilbert.tasks.base import Examples

WORDS = ["the tower", "a book", "some cats", "the lake", "the house"]


def examples(name: str, texts: list[str], labels: list[Any], pairs: list[str] | None = None) -> Examples:
    columns: dict[str, list[Any]] = {"idx": list(range(len(texts))), "text": texts, "label": labels}
    return Examples(TASKS[name], "train", columns | ({"text_pair": pairs} if pairs else {}), len(texts))


def test_static_embeddings_are_the_mean_weighted_by_rareness(tokenizer: PreTrainedTokenizerFast) -> None:
    train = examples("sst2", ["the tower", "the book", "the cats"], [0, 1, 1])
    embeddings = np.random.default_rng(0).normal(size=(len(tokenizer), 8)).astype(np.float32)
    vectors = baselines.static_embeddings(train, tokenizer, embeddings)
    the, tower = (tokenizer.convert_tokens_to_ids(word) for word in ("the", "tower"))
    rare = np.log(4 / 2) + 1  # in one of three texts; "the" is in all: log(4 / 4) + 1
    expected = (1 * embeddings[the] + rare * embeddings[tower]) / (1 + rare)
    assert vectors(["the tower"])[0] == pytest.approx(expected, abs=1e-6)
    assert not vectors([""]).any(), "of no token, no direction"


def test_wide_embeddings_are_reduced_without_losing_what_differs(tokenizer: PreTrainedTokenizerFast) -> None:
    narrow = np.random.default_rng(0).normal(size=(len(tokenizer), 200)).astype(np.float32)
    wide = np.hstack([narrow, np.ones((len(tokenizer), 200), dtype=np.float32)])  # the rest is the same for all
    train = examples("sst2", ["the tower", "the book", "the cats"], [0, 1, 1])
    one, other = (baselines.static_embeddings(train, tokenizer, e)(["the tower", "book"]) for e in (narrow, wide))
    assert other.shape == (2, baselines.MOST_COMPONENTS)
    assert np.linalg.norm(one[0] - one[1]) == pytest.approx(np.linalg.norm(other[0] - other[1]), rel=1e-3)


@pytest.mark.parametrize("name", TEXT_BASELINES)
def test_they_learn_words_and_the_likeness_of_pairs(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    embeddings = np.random.default_rng(0).normal(size=(len(tokenizer), 16)).astype(np.float32)

    def vectors(train: Examples) -> baselines.Vectors:
        return (
            baselines.tf_idf(train) if name == "tf-idf" else baselines.static_embeddings(train, tokenizer, embeddings)
        )

    texts = [f"{WORDS[i % 5]} {'built' if i % 3 else 'opened'}" for i in range(60)]
    train = examples("sst2", texts, [int(i % 3 > 0) for i in range(60)])
    outputs = baselines.fit(name, train, vectors(train)).outputs(train)
    assert outputs.shape == (60, 2) and np.exp(outputs).sum(1) == pytest.approx(1)
    assert (outputs.argmax(1) == train.columns["label"]).all()
    again = baselines.fit(name, train, vectors(train)).outputs(train)
    assert np.array_equal(outputs, again), "nothing is random"

    first, second = [WORDS[i % 5] for i in range(60)], [WORDS[(i // 5) % 5] for i in range(60)]
    alike = [int(a == b) for a, b in zip(first, second, strict=True)]
    pairs = examples("mrpc", first, alike, second)
    predicted = baselines.fit(name, pairs, vectors(pairs)).outputs(pairs).argmax(1)
    assert (predicted == alike).all(), "which no word alone tells"
    numbers = examples("stsb", first, [5.0 * label for label in alike], second)
    scores = baselines.fit(name, numbers, vectors(numbers)).outputs(numbers)
    assert scores.shape == (60, 1) and np.corrcoef(scores[:, 0], alike)[0, 1] > 0.9


def test_sets_from_which_nothing_can_be_learned_are_no_error(tokenizer: PreTrainedTokenizerFast) -> None:
    one_class = examples("mnli", ["a", "b"], [2, 2], ["c", "d"])
    outputs = baselines.fit("tf-idf", one_class, baselines.tf_idf(one_class)).outputs(one_class)
    assert np.isfinite(outputs).all() and outputs.argmax(1).tolist() == [2, 2]
    wordless = examples("sst2", ["!", "", "?"], [0, 1, 1])
    outputs = baselines.fit("tf-idf", wordless, baselines.tf_idf(wordless)).outputs(wordless)
    assert outputs.argmax(1).tolist() == [1, 1, 1]


@pytest.fixture
def setup(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[Recipe, Path]:
    """A recipe with a few sentences of SST-2, and a teacher."""
    folder = tmp_path / "data/glue/sst2"
    folder.mkdir(parents=True)
    for split, count in (("train", 80), ("validation", 40)):
        rows = {
            "sentence": [f"{WORDS[i % 5]} {'built' if i % 2 else 'opened'} {i}" for i in range(count)],
            "label": [i % 2 for i in range(count)], "idx": list(range(count)),
        }  # fmt: skip
        pyarrow.parquet.write_table(pa.table(rows), folder / f"{split}.parquet")
    save_model(tiny.model(), tokenizer, tmp_path / "teacher")
    recipe = Recipe(name="tiny", data=str(tmp_path / "data"), finetune=Finetune(tasks=("sst2",), train_examples=60))
    return recipe, tmp_path / "teacher"


@pytest.mark.parametrize("name", TEXT_BASELINES)
def test_they_are_measured_as_models_are(name: str, setup: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, teacher = setup
    evaluate_baseline(name, TASKS["sst2"], encoder=teacher, recipe=recipe, output=tmp_path / "scores")
    (measured,) = results.read(tmp_path / "scores/measurements.jsonl")
    assert (measured.model, measured.task, measured.metric, measured.split) == (name, "sst2", "accuracy", "validation")
    assert (measured.examples, measured.train_examples, measured.train_examples_total) == (40, 60, 67_349)
    assert measured.value > 0.9 and measured.details["majority"] == 0.5 and not measured.details["warnings"]
    low, high = measured.details["interval"]
    assert low <= measured.value <= high and measured.details["converged"]
    table = pyarrow.parquet.read_table(tmp_path / "scores/predictions-validation.parquet")
    assert np.mean(np.array(table["label"]) == np.array(table["prediction"])) == pytest.approx(measured.value)
    assert {"logits", "probabilities"} <= set(table.column_names)
    assert atomic.read_manifest(tmp_path / "scores")["row"] == name


@pytest.mark.parametrize("name", TEXT_BASELINES)
def test_of_many_examples_they_are_fitted_to_a_sample(
    name: str, setup: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, teacher = setup
    monkeypatch.setattr(baselines, "MOST_EXAMPLES", 30)
    evaluate_baseline(name, TASKS["sst2"], encoder=teacher, recipe=recipe, output=tmp_path / "scores")
    (measured,) = results.read(tmp_path / "scores/measurements.jsonl")
    assert measured.train_examples == 30 and measured.value > 0.9
    assert any(f"{name} is fitted to 30 of 60 train examples" in line for line in notices.all_notices())


def test_texts_are_tokenised_in_parts(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    train = examples("sst2", WORDS, [0, 1, 1, 0, 1])
    embeddings = np.random.default_rng(0).normal(size=(len(tokenizer), 8)).astype(np.float32)
    whole = baselines.static_embeddings(train, tokenizer, embeddings)
    expected, none = whole(WORDS), whole([])
    monkeypatch.setattr(baselines, "TEXTS_AT_ONCE", 2)
    in_parts = baselines.static_embeddings(train, tokenizer, embeddings)
    assert in_parts(WORDS) == pytest.approx(expected) and none.shape == in_parts([]).shape == (0, 8)


def test_word_embeddings_are_read_without_the_model(setup: tuple[Recipe, Path]) -> None:
    embeddings, weights = word_embeddings(setup[1]), tiny.model().get_input_embeddings().weight
    assert embeddings is not None and embeddings.shape == tuple(weights.shape)
    assert embeddings == pytest.approx(weights.detach().numpy())


def test_which_rows_a_recipe_has() -> None:
    recipe = Recipe(name="all", finetune=Finetune(tasks=("squad", "stsb", "sst2")))
    jobs = [(job.task, job.row) for job in baseline_jobs(recipe)]
    assert jobs == [(task, row) for task in ("sst2", "stsb") for row in TEXT_BASELINES], "a question has none"
    off = dataclasses.replace(recipe, finetune=dataclasses.replace(recipe.finetune, baselines=False))
    assert list(baseline_jobs(off)) == []


def test_rows_that_repeat_a_held_out_text_are_counted_as_for_models(setup: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, teacher = setup
    rows = {"text": [f"{WORDS[i % 5]} opened" for i in range(60)], "label": [i % 5 % 2 for i in range(60)]}
    pyarrow.parquet.write_table(pa.table(rows), tmp_path / "own.parquet")
    custom = {"own": CustomTask(train=str(tmp_path / "own.parquet"))}
    recipe = dataclasses.replace(recipe, finetune=Finetune(tasks=("own",), score_on="train", custom=custom))
    task = tasks_of(recipe.finetune)["own"]
    evaluate_baseline("tf-idf", task, encoder=teacher, recipe=recipe, output=tmp_path / "scores")
    measured = results.read(tmp_path / "scores/measurements.jsonl")[0]
    assert 0 < measured.details["left_out"] == 60 - measured.train_examples - measured.examples
