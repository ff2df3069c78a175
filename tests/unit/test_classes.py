"""Classes are named as the file names them; what is renamed is counted, and what is no class is told by its line."""

import csv
import json
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.tasks import Examples, load_examples
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.classes import class_name, class_positions
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.custom import custom_task


def file_of(path: Path, labels: list[Any]) -> str:
    """A file with these labels, each beside a text with its number."""
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *((row["text"], row["label"]) for row in rows)])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def load(train: str, validation: str = "", split: str = "train", **given: Any) -> Examples:
    task = custom_task("mine", CustomTask(train=train, validation=validation))
    notices.begin()
    return load_examples(task, split, data=None, corpus=Corpus(), limit=0, seed=0, **given)


def named(examples: Examples) -> list[str]:
    """The name of each row's class."""
    return [examples.task.labels[label] for label in examples.columns["label"]]


LONG = ["10000000000000000001", "10000000000000000010", "10000000000000000100"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "1", "010", "10"], ("01", "1", "010", "10")),
        (LONG, tuple(LONG)),
        (["٣", "3", "\uff13"], ("3", "٣", "\uff13")),
        (["1E5", "100000", "1_0"], ("100000", "1E5", "1_0")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["2.0", "10.0", "3"], ("2.0", "3", "10.0")),
        (["True", "FALSE"], ("FALSE", "True")),
        (["True", "true"], ("True", "true")),
        (["01.11", "62.01", "01.2"], ("01.11", "01.2", "62.01")),
        (["2.5", "n/a"], ("2.5", "n/a")),
        (["NA", "None", "null", "-", "#N/A"], ("#N/A", "-", "NA", "None", "null")),
        (["0x10", "1e400", "1" * 5000], ("0x10", "1" * 5000, "1e400")),
    ],
)
def test_cells_of_csv_name_their_classes(labels: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    train = load(file_of(tmp_path / "a.csv", labels))
    assert train.task.labels == classes and named(train) == labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, -1], ["10", "9", "-1"]),
        ([1.0, 3.0, -0.0], ["1", "3", "0"]),
        ([True, False], ["true", "false"]),
        ([9007199254740993, 9007199254740992], ["9007199254740993", "9007199254740992"]),
        ([["a"], ["b"]], ["a", "b"]),
        (["01", "1"], ["01", "1"]),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_numbers_and_truth_values_of_other_formats_get_a_name(
    labels: list[Any], names: list[str], suffix: str, tmp_path: Path
) -> None:
    assert named(load(file_of(tmp_path / f"a.{suffix}", labels))) == names
    assert len(notices.all_notices()) == (isinstance(labels[0], (float, list)))


def test_long_codes_of_json_and_decimals_of_parquet_keep_their_digits(tmp_path: Path) -> None:
    assert named(load(file_of(tmp_path / "a.jsonl", [*map(int, LONG), 7]))) == [*LONG, "7"]
    assert named(load(file_of(tmp_path / "a.parquet", [Decimal(code) for code in LONG]))) == LONG


label_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
number_texts = st.from_regex(r"[+-]?0{0,2}[0-9]{1,22}(\.0{1,2})?(E[0-9])?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(label_texts, number_texts), min_size=2, max_size=12))
def test_every_label_comes_out_as_it_went_in_or_is_counted(labels: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(Path(folder) / "a.csv", labels)
        try:
            names = named(load(path))
        except UserError as error:  # a missing label, fractions, or one class alone: never in silence
            assert "label" in str(error)
            return
    changed = Counter(label for label, name in zip(labels, names, strict=True) if label != name)
    lines = "\n".join(notices.all_notices())
    spaced = sum(count for label, count in changed.items() if label != label.strip())
    assert not spaced or f"white space around {spaced} label" in lines
    for label, count in changed.items():
        assert label != label.strip() or f"{count} label{'s' * (count > 1)} {label!r} read as" in lines
    assert len(names) == len(labels)


def test_one_point_nought_beside_one_is_one_class_and_told(tmp_path: Path) -> None:
    train = load(file_of(tmp_path / "a.csv", ["1", "2", "1.0", "1.00", "3.0"]))
    assert train.task.labels == ("1", "2", "3.0") and named(train) == ["1", "2", "1", "1", "3.0"]
    lines = "\n".join(notices.all_notices())
    assert "1 label '1.0' read as the class '1'" in lines and "'1.00'" in lines and "'3.0'" not in lines


def test_another_file_may_spell_the_classes_as_its_format_does(tmp_path: Path) -> None:
    train = file_of(tmp_path / "a.csv", ["1.0", "2.0", "True"])
    other = load(train, file_of(tmp_path / "b.jsonl", [1, 2, 2]), "validation")
    assert named(other) == ["1.0", "2.0", "2.0"] and "2 labels '2' read as the class '2.0'" in str(
        notices.all_notices()
    )
    assert named(load(train, file_of(tmp_path / "c.parquet", [True]), "validation")) == ["True"]
    with pytest.raises(UserError, match=r"d\.csv:2, column label: expected a class of the train split: .*found '01'"):
        load(train, file_of(tmp_path / "d.csv", ["01"]), "validation")


def test_white_space_is_taken_off_and_counted_and_near_twins_are_named(tmp_path: Path) -> None:
    train = load(file_of(tmp_path / "a.csv", ["pos", " pos", "Pos", "neg\t"]))
    assert named(train) == ["pos", "pos", "Pos", "neg"]
    lines = "\n".join(notices.all_notices())
    assert "white space around 2 labels" in lines and "nearly the same name ('Pos', 'pos') kept apart" in lines


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", ""], r"a\.csv:4, column label: expected a word or a whole number .*found ''; fill it in or drop"),
        (["1", "2", "2.5"], r'a\.csv:4, .*found \'2\.5\'; set .*mine\.kind = "regression" \(--kind re.*v2\.5'),
        (
            ["1", "2", "nan"],
            r"a\.csv:4, column label: the label is missing: programs write 'nan' for a missing value; fill it in",
        ),
        (["a", "b", " -Inf "], r"a\.csv:4, column label: the label is missing: programs write '-Inf'"),
        (["a", "a", " a"], r"a\.csv, column label: expected two classes or more, found 'a' in every row"),
        ([str(i) for i in range(1001)], r'at most 1,000 classes, found 1,001; .*mine\.kind = "regression"'),
    ],
)
def test_labels_that_make_no_classes_are_told(labels: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(file_of(tmp_path / "a.csv", labels))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "expected a word or a whole number"),
        (b"a", "expected a word or a whole number"),
        (float("nan"), "the label is missing: programs write 'nan'"),
        (float("inf"), "the label is missing: programs write 'inf'"),
        (2.5, "--kind regression"),
        (1e17, "floats round whole numbers as long as this one; write the codes as texts"),
        (["a", "b"], r"this row lists 2 labels: \['a', 'b'\]"),
        ([[1]], "this row lists 1 label"),
    ],
)
def test_what_is_no_label_at_all_is_told_by_its_row(label: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["x", "y"], "label": [label, label]}), path)
    with pytest.raises(UserError, match=rf"a\.parquet, row 0, column label: .*{message}"):
        load(str(path))


def test_names_are_matched_by_the_very_name_first() -> None:
    assert class_positions(["1", "1.0"], ["1.0", "1"]) == {"1": 1, "1.0": 0}
    assert class_positions(["true", "2", "01"], ["True", "2.0", "1"]) == {"true": 0, "2": 1}
    assert class_positions(["true"], ["True", "TRUE"]) == {}, "in doubt is no match"
    assert class_name("01") == "01" and class_name(Decimal("1.50")) is None


def test_a_teachers_classes_are_matched_as_names() -> None:
    def order(names: list[str], labels: tuple[str, ...]) -> list[int] | None:
        task = Task("mine", "Mine", None, "classification", "text", None, labels, (), "accuracy")  # type: ignore[arg-type]
        return check_classes(Path("teacher"), BertConfig(id2label=dict(enumerate(names))), task)

    assert order(["010", "1", "01"], ("01", "1", "010")) == [2, 1, 0]
    with pytest.raises(UserError, match="expected the classes 01, 1, found 1, 10"):
        order(["1", "10"], ("01", "1"))
    notices.begin()
    assert order(["false", "true"], ("True", "False")) == [1, 0]
    assert "outputs false, true are read as False, True" in notices.all_notices()[0]
