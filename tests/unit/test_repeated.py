"""Texts that are trained on and scored, that repeat, or contradict one another: counted, said, marked or refused."""

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.evaluate import trained_on_scored
from tinydistilbert.recipe.schema import CustomTask, Finetune, Recipe
from tinydistilbert.report.scores import Score, notes_on_marks
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, Examples, tasks_of
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.repeated import (
    check_repeated,
    is_alarming,
    refuse_one_file_for_two,
    shared_texts,
    shared_with_train,
)


@pytest.fixture(autouse=True)
def fresh_notices() -> None:
    notices.begin()


def examples(texts: Sequence[str], labels: Sequence[int] = (), *, task: str = "sst2", split: str = "train") -> Examples:
    labels = labels or [0] * len(texts)
    columns = {"idx": [*range(len(texts))], "text": [*texts], "label": [*labels]}
    return Examples(TASKS[task], split, columns, len(texts))


def recipe_of(folder: Path, train: Sequence[str], validation: Sequence[str] | None, **finetune: str) -> Recipe:
    """A recipe with a task of one's own; a row is `text,label`, or `text,other,label` of pairs."""
    head = "text,other,label\n" if train[0].count(",") == 2 else "text,label\n"
    for name, rows in (("train", train), ("validation", validation)):
        (folder / f"{name}.csv").write_text(head + "".join(f"{row}\n" for row in rows or ()))
    scored = str(folder / "validation.csv") if validation is not None else ""
    pair = "other" if head.count(",") == 2 else ""
    custom_task = CustomTask(train=str(folder / "train.csv"), validation=scored, text_pair=pair)
    return Recipe(finetune=Finetune(tasks=("own",), custom={"own": custom_task}, **finetune))


def check(recipe: Recipe) -> None:
    task = tasks_of(recipe.finetune)["own"]
    train = recipe_examples(recipe, task, task.train)
    check_repeated(recipe, train, [recipe_examples(recipe, train.task, "validation")])


@pytest.mark.parametrize("seed", range(20))
def test_the_shared_texts_of_any_two_splits_are_counted(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    draw = [f"text {chance.randrange(60)}" for _ in range(chance.randint(20, 60))]
    cut = chance.randint(5, len(draw) - 5)
    train, validation = draw[:cut], [*draw[cut:], "one of its own"]
    shared = sum(text in train for text in validation)
    label = (
        [f"{text},{row % 2}" for row, text in enumerate(train)],
        [f" {t} ,{row % 2}" for row, t in enumerate(validation)],
    )
    recipe = recipe_of(tmp_path, *label)
    check(recipe)
    lines = [line for line in notices.all_notices() if "scored texts" in line]
    assert len(lines) == bool(shared) and all(f"{shared} of {len(validation)} scored texts" in line for line in lines)
    assert shared_texts(recipe, tasks_of(recipe.finetune)["own"], ["validation"]) == {"validation": shared}


def test_everything_shared_is_refused_under_whatever_name(tmp_path: Path) -> None:
    rows = ["a,0", "b,1", "c,0"]
    with pytest.raises(UserError, match=r"own\.validation: all of its 2 texts.*score_on"):
        check(recipe_of(tmp_path, rows, ["c,1", "a,0"]))
    check(recipe_of(tmp_path, rows, ["c,1", "d,0"]))


def test_a_published_task_that_scores_what_it_trains_on_is_refused() -> None:
    train, scored = examples(["a", "b", "c"]), examples(["c", "a"], split="validation")
    with pytest.raises(UserError, match=r"sst2: all of its 2 texts.*score_on"):
        check_repeated(Recipe(), train, [scored])
    check_repeated(Recipe(), train, [examples(["c", "d"], split="validation")])


def test_a_copy_in_another_format_or_in_capitals_is_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nThe caf\u00e9  is old,0\nParis,1\n")
    texts = pa.table({"text": ["PARIS", "the cafe\u0301 is OLD"], "label": [1, 0]})
    pq.write_table(texts, tmp_path / "validation.parquet")
    custom_task = CustomTask(train=str(tmp_path / "train.csv"), validation=str(tmp_path / "validation.parquet"))
    with pytest.raises(UserError, match=r"all of its 2 texts"):
        check(Recipe(finetune=Finetune(tasks=("own",), custom={"own": custom_task})))


def test_of_pairs_both_texts_count(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ["a,b,0", "c,d,1"], ["a,d,0", "b,a,0", "c,d,0"])
    check(recipe)
    assert any("1 of 3 scored texts" in line for line in notices.all_notices())


@pytest.mark.parametrize("link", [False, True])
def test_one_file_for_both_splits_is_refused(link: bool, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ["a,0", "b,1"], ["c,0"])
    (tmp_path / "validation.csv").unlink()
    if link:
        (tmp_path / "validation.csv").symlink_to(tmp_path / "train.csv")
    else:
        custom_task = CustomTask(train=str(tmp_path / "train.csv"), validation=str(tmp_path / "." / "train.csv"))
        recipe = Recipe(finetune=Finetune(tasks=("own",), custom={"own": custom_task}))
    with pytest.raises(UserError, match=r"finetune\.custom\.own\.validation: .*is also the train file"):
        refuse_one_file_for_two(tasks_of(recipe.finetune)["own"], None)


def test_what_is_held_out_chooses_and_still_counts_as_train(tmp_path: Path) -> None:
    rows = [f"text {n},{n % 2}" for n in range(40)]
    recipe = recipe_of(tmp_path, rows, ["another,0", *rows[:30]], select="heldout")
    check(recipe)
    assert any("30 of 31 scored texts" in line for line in notices.all_notices())


def test_repeated_contradicting_and_empty_rows_are_told_in_one_line() -> None:
    train = examples(["a", "a ", "b", "b", "", "c", "a"], [0, 1, 1, 1, 0, 0, 0])
    check_repeated(Recipe(), train, [examples(["d", "d"], split="validation")])
    assert notices.all_notices() == (
        "sst2 train: 3 of 7 rows repeat a text; 1 text with more than one label (3 rows); 1 row with an empty text",
        "sst2 validation: 1 of 2 rows repeat a text",
    )


def test_nothing_is_told_where_all_texts_differ() -> None:
    check_repeated(Recipe(), examples(["a", "b"]), [examples(["c"], split="validation")])
    assert not notices.all_notices()


def test_a_score_on_trained_texts_is_marked_of_published_splits_only_where_they_are_many(tmp_path: Path) -> None:
    task = tasks_of(recipe_of(tmp_path, ["a,0", "b,1"], ["c,0"]).finetune)["own"]
    assert is_alarming(task, 1, 1000) and not is_alarming(task, 0, 1000)
    assert not is_alarming(TASKS["cola"], 16, 1043) and is_alarming(TASKS["cola"], 60, 1043)
    train, scored = examples(["a", "b"]), examples(["a", *"cdefgh"], split="validation")
    shared = shared_with_train(train, scored)
    assert trained_on_scored(scored, shared) == ["1 of 7 scored texts of SST-2 (validation) are in the train split"]
    assert trained_on_scored(scored, 0) == []


def test_few_shared_texts_of_a_published_split_are_a_note_and_rows_left_out_have_their_reason() -> None:
    details = {"shared_texts": 16, "left_out": 5}
    measured = Measurement(
        "model", "cola", "accuracy", 0.9, "validation", examples=1043, examples_total=1043, train_examples=95,
        train_examples_total=100, details=details,
    )  # fmt: skip
    score = Score((measured,))
    assert score.marks == "†"
    notes = notes_on_marks([("Model, CoLA", "CoLA", score)])
    assert any("CoLA 95 of 100 (5 repeat a text that is held out)" in note for note in notes), notes
    assert any("CoLA 16 of 1,043" in note and "too few to be an alarm" in note for note in notes), notes
