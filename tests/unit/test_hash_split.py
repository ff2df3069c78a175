"""One file split in two by a hash of each text."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.repeated import refuse_one_file_for_two
from tinydistilbert.tasks.splits import read_split


def written(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


ROWS = [(f"text number {number % 190}", "ab"[number % 190 % 2]) for number in range(200)]


def sides(path: Path, share: str = "10%") -> dict[str, list[str]]:
    task = custom_task("t", CustomTask(train=str(path), validation=share))
    refuse_one_file_for_two(task, None)
    return {split: read_split(task, split, None).values("text") for split in ("train", "validation")}


def test_every_row_is_on_one_side_and_a_text_on_one_side_only(tmp_path: Path) -> None:
    texts = sides(written(tmp_path / "t.csv", ROWS))
    assert sorted(texts["train"] + texts["validation"]) == sorted(text for text, _ in ROWS)
    assert not {*texts["train"]} & {*texts["validation"]}
    assert 8 < len(texts["validation"]) < 34, "a tenth, as far as chance goes"


def test_a_text_stays_on_its_side_whatever_is_added_and_however_it_is_spaced(tmp_path: Path) -> None:
    before = sides(written(tmp_path / "t.csv", ROWS))
    more = [*((f"new {n}", "a") for n in range(50)), *((f"  {text} ", label) for text, label in reversed(ROWS))]
    after = sides(written(tmp_path / "t.csv", more))
    assert {*before["validation"]} <= {text.strip() for text in after["validation"]}
    assert not {*before["train"]} & {text.strip() for text in after["validation"]}


def test_texts_that_arrow_stores_as_views_are_split_alike(tmp_path: Path) -> None:
    texts, labels = (pa.array(values, pa.string_view()) for values in zip(*ROWS, strict=True))
    pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "t.parquet")
    assert sides(tmp_path / "t.parquet") == sides(written(tmp_path / "t.csv", ROWS))


def test_an_error_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ROWS)
    task = custom_task("t", CustomTask(train=str(path), validation="10%"))
    rows = read_split(task, "validation", None)
    lines = path.read_text().splitlines()
    for row, text in enumerate(rows.values("text")):
        assert lines[int(rows.location(row).rpartition(":")[2]) - 1].startswith(text)


def test_a_class_with_one_row_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, *((f"rare {n}", f"class {n}") for n in range(30))]
    path = written(tmp_path / "t.csv", rows)
    finetune = {"tasks": ["t"], "custom": {"t": {"train": str(path), "validation": "10%"}}}
    recipe = from_dict({"finetune": finetune}, "test")
    task = custom_task("t", recipe.finetune.custom["t"])
    assert len(recipe_examples(recipe, task, "validation").task.labels) == 32
    assert "is scored, all are trained on" in caplog.text


@pytest.mark.parametrize("share", ["0%", "100%", "300 %"])
def test_no_share_of_nothing_or_all(share: str) -> None:
    with pytest.raises(UserError, match="more than 0 %"):
        custom_task("t", CustomTask(train="t.csv", validation=share))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few rows"):
        sides(written(tmp_path / "t.csv", ROWS[:1]))
