"""Questions without an answer: the rules of SQuAD 2 on worked cases, the null threshold, and a model that learns it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tinydistilbert import notices, results
from tinydistilbert.cli.parser import parse
from tinydistilbert.dry_run.plan import plan
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics
from tinydistilbert.evaluation.scoring import choose_threshold, read_predictions, score, threshold_for
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.examples import task_examples, threshold_rows
from tinydistilbert.models.loading import load_config, save_model
from tinydistilbert.pipeline.run import run_context, run_stages
from tinydistilbert.predictor import load
from tinydistilbert.recipe.schema import Corpus, CustomTask, Recipe
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks import TASKS, load_examples
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.squad import null_score, stored_null_threshold

CONTEXT = "Paris is the capital"
OFFSETS = np.array([[-1, -1], [-1, -1], [0, 5], [6, 8], [9, 12], [13, 20], [-1, -1]], dtype=np.int32)
NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}


# The official rules.


@pytest.mark.parametrize(
    ("prediction", "answers", "exact_match", "f1"),
    [
        ("", [], 1, 1),
        ("the", [], 1, 1),  # nothing is left of an article
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("paris!", ["London", "Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
        ("", ["the", "Paris"], 0, 0),  # of two answers, the one that is nothing does not count
        ("", ["the"], 1, 1),  # unless it is the only one
        ("Paris", ["the"], 0, 0),
    ],
)
def test_worked_cases_of_the_rules_of_squad_2(
    prediction: str, answers: list[str], exact_match: float, f1: float
) -> None:
    scores = metrics.squad_scores([prediction, "x"], [answers, []])
    assert [scores[name][0] for name in ("exact_match", "f1")] == pytest.approx([exact_match, f1])


def test_where_every_question_has_an_answer_the_rules_are_those_of_version_1() -> None:
    scores = metrics.squad_scores(["", ""], [["the"], ["the", "Paris"]])
    assert (scores["exact_match"].tolist(), scores["f1"].tolist()) == ([1, 1], [0, 0])


def official_best_threshold(f1: list[float], texts: list[str], differences: list[float], answerable: list[bool]) -> Any:
    """`find_best_thresh`, as the script of SQuAD 2.0 does it: one question after the other is given its answer."""
    current = best = float(sum(not has for has in answerable))
    threshold = None
    for i in sorted(range(len(f1)), key=lambda i: differences[i]):
        current += f1[i] if answerable[i] else (-1 if texts[i] else 0)
        if current > best:
            best, threshold = current, differences[i]
    return best / len(f1), threshold


def test_the_best_threshold_of_worked_cases() -> None:
    # Answers given in the order of the differences: + 1, - 1, + 0.5, - 1, upon two questions right without one.
    given, withheld = np.array([1.0, 0, 0.5, 0]), np.array([0.0, 1, 0, 1])
    assert metrics.best_null_threshold(given, withheld, np.array([-3.0, -1, 2, 5])) == (-2, 3 / 4)
    # The second has no answer to give either, so that giving it loses nothing.
    assert metrics.best_null_threshold(given, withheld, np.array([-3.0, 6, -1, 5])) == (2, 3.5 / 4)
    assert metrics.best_null_threshold(np.ones(2), np.zeros(2), np.array([1.0, 4])) == (5, 1)  # all are answered
    assert metrics.best_null_threshold(np.zeros(2), np.ones(2), np.array([1.0, 4])) == (0, 1)  # none is
    # Of equal differences all or none are answered: the first alone would be best.
    assert metrics.best_null_threshold(np.array([1.0, 0]), np.array([0.0, 1]), np.array([1.0, 1]))[1] == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_is_that_of_the_official_script(seed: int) -> None:
    random = np.random.default_rng(seed)
    answerable = random.random(30) < 0.5
    f1 = np.where(answerable, random.integers(0, 5, 30) / 4, 0.0)
    differences = random.permutation(30) - 15.0
    best, official = official_best_threshold(f1.tolist(), ["x"] * 30, differences.tolist(), answerable.tolist())
    threshold, value = metrics.best_null_threshold(f1, 1.0 - answerable, differences)
    assert value == pytest.approx(best)
    official = -np.inf if official is None else official
    assert (differences <= threshold).tolist() == (differences <= official).tolist()


# Predictions with a threshold.


def window(null: float, answer: float) -> np.ndarray:
    """Logits whose "no answer" scores 2 `null`, and whose "Paris" scores 2 `answer`."""
    logits = np.full((7, 2), -9, dtype=np.float32)
    logits[0], logits[2] = null, answer
    return logits


def questions(*answers: dict[str, list[Any]], task: str = "squad_v2") -> Examples:
    count = len(answers)
    columns = {
        "id": [f"q{i}" for i in range(count)], "question": ["?"] * count, "context": [CONTEXT] * count,
        "answers": [*answers],
    }  # fmt: skip
    return Examples(TASKS[task], "validation", columns, count)


def features_of(*examples: int) -> Features:
    ids = [np.zeros(7, dtype=np.int32)] * len(examples)
    return Features(ids, ids, np.zeros((len(ids), 2), np.int64), np.array(examples), [OFFSETS] * len(examples))


PARIS = {"text": ["Paris"], "answer_start": [0]}


def test_no_answer_is_given_where_it_scores_above_the_threshold_in_all_windows() -> None:
    logits = [window(3, 1), window(9, -2), window(3, 1), window(0, 1)]
    assert null_score(logits[2:]) == 0  # the least over the windows
    examples, features = questions(NONE, NONE, PARIS), features_of(0, 1, 2, 2)
    predictions = read_predictions(examples, features, logits, threshold=0.0)
    assert predictions.texts == ["", "", "Paris"] and predictions.extra["null_difference"] == [4, 22, -2]
    assert read_predictions(examples, features, logits, threshold=4.0).texts == ["Paris", "", "Paris"]
    always = read_predictions(examples, features, logits)
    assert always.texts == ["Paris"] * 3 and "null_difference" not in always.extra


def test_the_threshold_is_chosen_by_questions_of_both_kinds_or_not_at_all() -> None:
    logits = [window(3, 1), window(1, 3), window(1, 2)]
    chosen = choose_threshold(questions(NONE, PARIS, PARIS), features_of(0, 1, 2), logits)
    assert chosen is not None and (chosen.examples, chosen.unanswerable, chosen.score) == (3, 1, 1.0)
    assert -2 < chosen.value < 4
    for answers in ((PARIS, PARIS, PARIS), (NONE, NONE, NONE)):
        assert choose_threshold(questions(*answers), features_of(0, 1, 2), logits) is None


def test_scores_are_also_given_of_questions_with_and_without_an_answer() -> None:
    examples = questions(NONE, PARIS, PARIS, NONE)
    logits = [window(3, 1), window(1, 3), window(2, 1), window(-1, 1)]
    scores = score(examples, read_predictions(examples, features_of(0, 1, 2, 3), logits, threshold=0.0), seed=0)
    values = {name: value for name, (value, _) in scores.items()}
    assert values == {
        "exact_match": 0.5, "f1": 0.5, "has_ans_exact_match": 0.5, "has_ans_f1": 0.5, "no_ans_exact_match": 0.5,
        "no_ans_f1": 0.5,
    }  # fmt: skip
    assert scores["no_ans_f1"][1]["examples"] == 2 and scores["has_ans_f1"][1]["examples"] == 2
    assert scores["f1"][1]["majority"] == 0.5  # of two kinds, each half
    answered = dataclasses.replace(examples, columns={name: column[1:3] for name, column in examples.columns.items()})
    predictions = read_predictions(answered, features_of(0, 1), logits[1:3])
    assert [*score(answered, predictions, seed=0)] == ["exact_match", "f1"]


def test_a_window_without_an_answer_is_labelled_with_its_first_token(tokenizer: Any) -> None:
    features = encode(questions(NONE, PARIS), tokenizer, 384)
    assert features.labels[0].tolist() == [0, 0] and features.labels[1].min() > 0


def test_a_model_without_a_threshold_is_scored_with_0_where_one_is_needed() -> None:
    config = tiny.config()
    assert threshold_for(config, questions(PARIS)) is None
    assert threshold_for(config, questions(PARIS, NONE)) == 0
    config.null_threshold = -1.5
    assert threshold_for(config, questions(PARIS)) == threshold_for(config, questions(NONE)) == -1.5
    assert threshold_for(config, dataclasses.replace(questions(PARIS), task=TASKS["rte"])) is None


def test_an_exported_or_given_model_of_another_kind_takes_no_threshold(tmp_path: Path, tokenizer: Any) -> None:
    save_model(tiny.model(head="classification", num_labels=2), tokenizer, tmp_path / "model")
    with pytest.raises(UserError, match="null threshold: expected a span model"):
        load(tmp_path / "model", null_threshold=0.0)


@pytest.mark.parametrize("value", ["high", True, [1], float("nan")])
def test_a_stored_threshold_is_a_number(value: Any) -> None:
    config = tiny.config()
    assert stored_null_threshold(config, "model") is None
    config.null_threshold = 2
    assert stored_null_threshold(config, "model") == 2.0
    config.null_threshold = value
    with pytest.raises(UserError, match="null_threshold: expected a finite number"):
        stored_null_threshold(config, "model")


def test_predict_takes_a_threshold() -> None:
    assert parse(["predict", "model", "Who?", "Context", "--null-threshold", "-1.5"]).null_threshold == -1.5
    for value in ("high", "nan"):
        with pytest.raises(UserError, match="--null-threshold: expected a number"):
            parse(["predict", "model", "Who?", "Context", f"--null-threshold={value}"])


# Files.


def flat(**answers: Any) -> dict[str, Any]:
    return {"id": "a", "question": "Where?", "context": CONTEXT, **answers}


def read(path: Path, content: str) -> list[Any]:
    path.write_text(content)
    task = custom_task("mine", CustomTask(train=str(path), kind="span"))
    columns = load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0).columns
    return columns["answers"]


PLAUSIBLE = [{"text": "Paris", "answer_start": 0}]


@pytest.mark.parametrize(
    "row",
    [
        flat(answers=NONE),  # squad_v2 on the hub
        flat(answers=NONE, is_impossible=True),
        flat(answers=None, is_impossible=True),
        flat(answers=[], is_impossible="True", plausible_answers=PLAUSIBLE),
        flat(answers=NONE, plausible_answers={"text": ["Paris"], "answer_start": [0]}),
        flat(answers={"text": [""], "answer_start": [-1]}),
        flat(answers={"text": [""], "answer_start": [0]}, is_impossible=1),
    ],
)
def test_rows_say_in_many_ways_that_there_is_no_answer(row: dict[str, Any], tmp_path: Path) -> None:
    answered = flat(answers=PARIS if isinstance(row["answers"], dict) else None) | {"id": "b"}
    lines = [row, answered] if isinstance(row["answers"], dict) else [row]
    assert read(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))[0] == NONE


def test_answers_may_stand_in_a_list_as_in_the_official_files(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", json.dumps(flat(answers=PLAUSIBLE))) == [PARIS]


def paragraphs(*asked: dict[str, Any]) -> str:
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]})


def test_the_official_form_of_squad_2_is_read(tmp_path: Path) -> None:
    asked = [
        {"id": "a", "question": "?", "is_impossible": True, "answers": [], "plausible_answers": PLAUSIBLE},
        {"id": "b", "question": "?", "is_impossible": False, "answers": PLAUSIBLE},
        {"id": "c", "question": "?", "is_impossible": True, "plausible_answers": PLAUSIBLE},
        {"id": "d", "question": "?", "answers": [], "plausible_answers": PLAUSIBLE},
    ]
    assert read(tmp_path / "a.json", paragraphs(*asked)) == [NONE, PARIS, NONE, NONE]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": PLAUSIBLE, "is_impossible": True}, "expected no answer.*marked impossible, found 1"),
        ({"answers": [], "is_impossible": False}, "is_impossible = false.*found none"),
        ({"answers": [], "is_impossible": "perhaps"}, "column is_impossible: expected true or false"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.json", paragraphs({"id": "a", "question": "?", **row}))


def test_how_many_rows_have_wrong_answers_is_told(tmp_path: Path) -> None:
    wrong = [{"text": "Paris", "answer_start": 1}]
    asked = [{"id": str(i), "question": "?", "answers": wrong if i else PLAUSIBLE} for i in range(4)]
    with pytest.raises(UserError, match=r"qas\[1\].*found 'aris ' \(and 2 more rows"):
        read(tmp_path / "a.json", paragraphs(*asked))


def written(path: Path, asked: list[dict[str, Any]]) -> None:
    """The questions as SQuAD's JSON, as rows of JSON or as Parquet, by the ending of the path."""
    if path.suffix == ".json":
        path.write_text(paragraphs(*asked))
        return
    rows = [
        {
            "id": one["id"], "question": one["question"], "context": CONTEXT,
            "answers": {key: [answer[key] for answer in one["answers"]] for key in ("text", "answer_start")},
        }
        for one in asked
    ]  # fmt: skip
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@settings(max_examples=40, deadline=None)
@given(spans=st.lists(st.none() | st.sampled_from([(0, 5), (6, 8), (9, 12), (13, 20)]), min_size=1, max_size=12))
def test_every_question_of_any_file_comes_out_with_its_answer_or_none(
    spans: list[tuple[int, int] | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asked = [
        {"id": f"q{i}", "question": f"{i}?", "is_impossible": span is None,
         "answers": [{"text": CONTEXT[slice(*span)], "answer_start": span[0]}] if span else []}
        for i, span in enumerate(spans)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("forms")
    for ending in ("json", "jsonl", "parquet"):
        path = folder / f"a.{ending}"
        written(path, asked)
        task = custom_task("mine", CustomTask(train=str(path), kind="span"))
        examples = load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0)
        assert examples.columns["id"] == [one["id"] for one in asked] and len(examples) == examples.total == len(spans)
        texts = [answer["text"] for answer in examples.columns["answers"]]
        assert texts == [[CONTEXT[slice(*span)]] if span else [] for span in spans]
        assert examples.has_unanswerable == (None in spans)


def test_squad_2_is_a_task_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "squad_v2").mkdir()
    written(tmp_path / "squad_v2" / "train.parquet", [{"id": "a", "question": "?", "answers": []}])
    task = TASKS["squad_v2"]
    examples = load_examples(task, "train", data=str(tmp_path), corpus=Corpus(), limit=0, seed=0)
    assert (len(examples), examples.total, examples.has_unanswerable) == (1, 130_319, True)
    assert (task.hub, task.may_lack_answer, TASKS["squad"].may_lack_answer) == (
        ("rajpurkar/squad_v2", None),
        True,
        False,
    )


# Training.

PEOPLE, LOCATIONS = (
    ("paris", "eiffel", "the engineer", "the student"),
    ("the lake", "the tower", "the old house", "france"),
)


def squad_2(path: Path, count: int, seed: int) -> str:
    """A file of contexts with one question that they answer, and one that they do not."""
    random = np.random.default_rng(seed)
    entries = []
    for i in range(count):
        who, where = random.choice(PEOPLE), random.choice(LOCATIONS)
        context = f"{who} is near {where} and page {i}"
        answer = {"text": where, "answer_start": context.index(where, len(who))}
        asked = [
            {"id": f"{i}a", "question": "where is it?", "is_impossible": False, "answers": [answer]},
            {"id": f"{i}b", "question": "who answered?", "is_impossible": True, "answers": []},
        ]
        entries.append({"context": context, "qas": asked})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": entries}]}))
    return str(path)


def recipe(folder: Path, model: str, **finetune: Any) -> Recipe:
    train, validation = squad_2(folder / "train.json", 60, 0), squad_2(folder / "validation.json", 20, 1)
    section = {
        "model": model, "tasks": ["mine"], "seeds": [0], "epochs": 16.0, "min_steps": 0,
        "custom": {"mine": {"train": train, "validation": validation, "kind": "span", "max_length": 64}},
        "optimization": {"learning_rate": 3e-3, "batch_size": 16}, **finetune,
    }  # fmt: skip
    return from_dict({"name": "questions", "finetune": section}, "questions")


def test_the_questions_that_choose_the_threshold_are_never_trained_on(tmp_path: Path) -> None:
    of = recipe(tmp_path, "none")
    task = custom_task("mine", of.finetune.custom["mine"])
    notices.begin()
    examples = task_examples(of, task, None)
    assert examples.threshold is not None
    assert any("60 of 120 questions have no answer" in line for line in notices.all_notices())
    assert any("12 of 120 train questions are not trained on" in line for line in notices.all_notices())
    assert not {*examples.threshold.columns["context"]} & {*examples.train.columns["context"]}
    assert (len(examples.threshold), len(examples.train), examples.train.total) == (12, 108, 120)
    assert examples.threshold.columns["answers"].count(NONE) == 6
    held_out = task_examples(recipe(tmp_path, "none", select="heldout"), task, None)
    assert held_out.threshold is held_out.selection is not None
    assert not {*held_out.selection.columns["id"]} & {*held_out.train.columns["id"]}
    reported = task_examples(recipe(tmp_path, "none", select="reported"), task, None)
    assert reported.threshold is not None and reported.threshold is not reported.selection


def test_where_questions_are_few_both_kinds_are_left_to_train_on() -> None:
    assert len(threshold_rows(questions(NONE, PARIS, NONE, PARIS))) == 2
    assert threshold_rows(questions(NONE, PARIS)) == threshold_rows(questions(NONE, PARIS, PARIS)) == []


@pytest.mark.long
def test_a_tiny_model_learns_to_say_that_there_is_no_answer(tmp_path: Path, tokenizer: Any) -> None:
    base = tmp_path / "base"
    save_model(tiny.model(hidden_size=32, num_attention_heads=4, intermediate_size=64), tokenizer, base)
    first = recipe(tmp_path, str(base))
    assert "108 examples" in plan(run_context(first, tmp_path / "run", until="report", log=lambda _: None))
    assert not run_stages(run_context(first, tmp_path / "run", until="report", log=lambda _: None))
    model = RunFolder(tmp_path / "run").task_model("mine", "model", 0)
    facts = json.loads((model / "training.json").read_text())["null_threshold"]
    assert (facts["questions"], facts["unanswerable"]) == (12, 6)
    assert load_config(model).null_threshold == facts["value"]
    measured = {m.metric: m for m in results.read(RunFolder(tmp_path / "run").results)}
    assert measured["f1"].value > 0.9 and measured["has_ans_f1"].value > 0.8 and measured["no_ans_f1"].value > 0.8
    assert (measured["no_ans_f1"].examples, measured["f1"].examples) == (20, 40)
    assert measured["f1"].details["null_threshold"] == facts["value"]
    asked = (["who answered?", "where is it?"], ["paris is near the lake and page 7"] * 2)
    none, some = load(model).predict(*asked)
    assert (none["answer"], none["start"], none["end"], some["answer"]) == ("", 0, 0, "the lake")
    assert none["score"] == none["no_answer"] > 0.5 > some["no_answer"]
    export(model, tmp_path / "onnx")
    assert [one["answer"] for one in load(tmp_path / "onnx").predict(*asked)] == ["", "the lake"]
    assert load(model, null_threshold=1e9).predict(*asked)[0]["answer"] != ""

    # A student learns it from that model, and from one without such questions no threshold comes.
    second = recipe(tmp_path, str(base), distillation={"teachers": [str(model)]})
    assert not run_stages(run_context(second, tmp_path / "distilled", until="report", log=lambda _: None))
    learned = {m.metric: m.value for m in results.read(RunFolder(tmp_path / "distilled").results) if "D" in m.model}
    assert learned["no_ans_f1"] > 0.8 and learned["has_ans_f1"] > 0.8
