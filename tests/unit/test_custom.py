"""Tasks of one's own: their files, their classes in an order that can be told, and what is wrong with a label."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from tinydistilbert.data.hub import HubName, parse
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.metrics import METRICS
from tinydistilbert.recipe.schema import Corpus, CustomTask, Finetune
from tinydistilbert.tasks import HELD_OUT, TASKS, Examples, custom, load_examples, splits, tasks_of
from tinydistilbert.tasks.base import Kind, Task
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.splits import has_split


def table(path: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = ("review", "stars")) -> str:
    """A file of any of the formats, by the ending of `path`."""
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if separator:
        path.write_text("".join(separator.join(map(str, row)) + "\n" for row in [columns, *rows]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    return str(path)


def reviews(train: str, validation: str = "", **other: Any) -> Task:
    return custom_task("reviews", CustomTask(train=train, validation=validation, text="review", label="stars", **other))


def load(task: Task, split: str = "train", **other: Any) -> Examples:
    return load_examples(task, split, **{"data": None, "corpus": Corpus(), "limit": 0, "seed": 0, **other})


ROWS = [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("poor", "neg")]


@pytest.mark.parametrize("kind", ["classification", "regression", "span"])
def test_a_section_of_the_recipe_becomes_a_task(kind: Any) -> None:
    task = custom_task("mine", CustomTask(train="a.csv", validation="b.csv", kind=kind))
    assert (task.name, task.title, task.table, task.kind) == ("mine", "mine", custom.TABLE, kind)
    assert task.headline in task.metrics and task.evaluation == ("validation",) and hash(task) == hash(task)
    if kind == "span":
        assert (task.text, task.text_pair, task.max_length, task.doc_stride) == ("question", "context", 384, 128)
        assert task.metrics == ("exact_match", "f1")
    else:
        assert (task.text, task.text_pair, task.label, task.max_length) == ("text", None, "label", 128)
        assert set(task.metrics) <= set(METRICS)


def test_columns_and_length_can_be_set() -> None:
    settings = CustomTask(kind="span", text="ask", text_pair="page", max_length=200)
    task = custom_task("mine", settings)
    assert (task.text, task.text_pair, task.max_length) == ("ask", "page", 200)
    with pytest.raises(UserError, match=r"finetune\.custom\.mine: one column .* a, a"):
        custom_task("mine", CustomTask(text="a", label="a"))


def test_they_stand_behind_the_built_in_ones() -> None:
    tasks = tasks_of(Finetune(custom={"mine": CustomTask(train="a.csv")}))
    assert list(tasks) == [*TASKS, "mine"] and tasks_of(Finetune()) == TASKS


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(suffix: str, tmp_path: Path) -> None:
    task = reviews(table(tmp_path / f"train.{suffix}", ROWS), table(tmp_path / f"val.{suffix}", ROWS[:1]))
    train, validation = load(task), load(task, "validation")
    assert train.task.labels == validation.task.labels == ("neg", "pos")
    assert train.columns == {
        "idx": [0, 1, 2, 3], "text": ["good", "bad", "fine", "poor"], "label": [1, 0, 1, 0],
    }  # fmt: skip
    assert validation.columns == {"idx": [0], "text": ["good"], "label": [1]}
    assert (train.total, validation.total) == (4, 1)


def test_classes_do_not_depend_on_the_sample_or_on_what_is_held_out(tmp_path: Path) -> None:
    rows = [(f"t{i}", "rare" if i == 70 else f"c{i % 2}") for i in range(100)]
    task = reviews(table(tmp_path / "a.csv", rows))
    for split, other in (("train", {"limit": 3}), ("train", {"held_out": 0}), (HELD_OUT, {"held_out": 0})):
        assert load(task, split, **other).task.labels == ("c0", "c1", "rare")
    scored, rest = (load(task, split, held_out=20).columns["idx"] for split in (HELD_OUT, "train"))
    assert len(scored) == 20 and sorted(scored + rest) == list(range(100))


def test_the_order_of_a_models_classes_can_be_kept(tmp_path: Path) -> None:
    task = reviews(table(tmp_path / "a.csv", ROWS), table(tmp_path / "b.csv", ROWS[:2]))
    for split in ("train", "validation"):
        loaded = load(task, split, labels=("pos", "other", "neg"))
        assert loaded.task.labels == ("pos", "other", "neg") and loaded.columns["label"][:2] == [0, 2]
    with pytest.raises(UserError, match=r"a\.csv:3, column stars: expected a class of the train split: pos, found"):
        load(task, labels=("pos",))


def test_a_label_that_train_does_not_have_is_told_with_the_nearest(tmp_path: Path) -> None:
    task = reviews(table(tmp_path / "a.csv", ROWS), table(tmp_path / "b.csv", [("x", "pos"), ("y", "Negg")]))
    message = r"b\.csv:3, column stars: expected a class .*: neg, pos, found 'Negg'; did you mean 'neg'\?"
    with pytest.raises(UserError, match=message):
        load(task, "validation")


def test_scores_may_be_any_finite_numbers(tmp_path: Path) -> None:
    task = reviews(table(tmp_path / "a.csv", [("a", "-3e2"), ("b", "7")]), kind="regression")
    assert load(task).columns["label"] == [-300.0, 7.0] and load(task).task.labels == ()
    for wrong in ("", "inf", "NaN", "4,5", "many"):
        path = tmp_path / "b.jsonl"
        path.write_text(json.dumps({"review": "a", "stars": wrong}) + "\n")
        with pytest.raises(UserError, match=r"b\.jsonl:1, column stars: expected a finite number, found"):
            load(reviews(str(path), kind="regression"))


def test_columns_that_are_not_there_are_told_with_the_setting_to_correct(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ROWS, ("Review", "stars"))
    message = r"columns review, stars, found Review, stars; did you mean 'Review'.*finetune\.custom\.reviews \(--text"
    with pytest.raises(UserError, match=message):
        load(reviews(path))


@pytest.mark.parametrize("column", ["id", "idx"])
def test_two_examples_of_one_name_are_refused(column: str, tmp_path: Path) -> None:
    rows = [("7", "good", "pos"), ("8", "bad", "neg"), ("7", "fine", "pos")]
    path = table(tmp_path / "a.csv", rows, (column, "review", "stars"))
    message = rf"a\.csv:4, column {column}: expected a name that no other row has, found '7' again, as in .*a\.csv:2"
    with pytest.raises(UserError, match=message):
        load(reviews(path))


def test_a_column_that_is_read_as_text_or_label_names_no_examples(tmp_path: Path) -> None:
    settings = CustomTask(train=table(tmp_path / "a.csv", [("x", "0"), ("x", "1"), ("y", "0")], ("id", "idx")))
    task = custom_task("mine", dataclasses.replace(settings, text="id", label="idx"))
    assert load(task).columns == {"idx": [0, 1, 2], "text": ["x", "x", "y"], "label": [0, 1, 0]}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_empty_texts_are_refused_in_every_split(split: str, tmp_path: Path) -> None:
    good, bad = table(tmp_path / "a.csv", ROWS), table(tmp_path / "b.csv", [*ROWS, (" ", "pos")])
    with pytest.raises(UserError, match=r"b\.csv:6, column review: expected a text, found white space alone"):
        load(reviews(bad, good) if split == "train" else reviews(good, bad), split)


def test_paths_are_looked_for_in_the_working_folder_and_then_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.chdir(tmp_path)
    table(data / "train.csv", [("from data", "a"), ("x", "b")])
    task = reviews("train.csv")
    assert load(task, data=str(data)).columns["text"][0] == "from data"
    table(tmp_path / "train.csv", [("from here", "a"), ("x", "b")])
    assert load(task, data=str(data)).columns["text"][0] == "from here"
    assert has_split(task, "train", None) and not has_split(task, "validation", str(data))


@pytest.mark.parametrize("named", ["none.csv", "folder/none.csv", "./none", "a/b/c", "reviews", ""])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finetune\.custom\.reviews\.train: expected a file .*found no") as caught:
        load(reviews(named), data=str(tmp_path))
    assert "correct the path" in str(caught.value)


@pytest.mark.parametrize("named", [r"C:\data\train.xlsx", r"data\none:x", "~nobody-of-this-name/train"])
def test_a_windows_path_and_a_home_of_nobody_are_no_hub_names(named: str) -> None:
    with pytest.raises(UserError, match=r"finetune\.custom\.reviews\.train: expected a file .*found no file"):
        load(reviews(named))


def test_a_task_without_a_validation_split_does_not_take_the_working_folder_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.json").write_text("{}")  # as `save_to_disk` writes, and other programs
    monkeypatch.chdir(tmp_path)
    assert not has_split(reviews("train.csv"), "validation", None)


def test_hub_data_have_the_names_of_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"review": Value("string"), "stars": ClassLabel(names=["pos", "neg"])})
    hub_data = {
        "train": Dataset.from_dict({"review": ["good", "bad"], "stars": [0, 1]}, features=features),
        "validation": Dataset.from_dict({"review": ["poor", "?"], "stars": [1, -1]}, features=features),
    }
    asked = []

    def load_dataset(name: str, configuration: str | None, split: str) -> Dataset:
        asked.append((name, configuration, split))
        return hub_data[split]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    task = reviews("someone/reviews", "someone/reviews")
    train = load(task)
    assert train.task.labels == ("neg", "pos") and train.columns["label"] == [1, 0]
    with pytest.raises(UserError, match=r"someone/reviews \(validation\), row 1, column stars: .*found nothing"):
        load(task, "validation")
    assert asked[0] == ("someone/reviews", None, "train")


def test_without_network_the_cure_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(
        UserError, match=r"hub data set someone/none: .*correct finetune\.custom\.reviews\.train .*, conn"
    ):
        load(reviews("someone/none"))


def test_questions_may_come_in_the_form_of_squad_or_in_rows(tmp_path: Path) -> None:
    answers = [{"text": "France", "answer_start": 12}]
    paragraph = {"context": "Paris is in France", "qas": [{"id": "q", "question": "Where?", "answers": answers}]}
    nested, flat = tmp_path / "train.json", tmp_path / "val.jsonl"
    nested.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    row = {"ask": "Where?", "page": "Paris is in France", "answers": {"text": ["France"], "answer_start": [12]}}
    flat.write_text(json.dumps(row) + "\n")
    one = load(custom_task("mine", CustomTask(train=str(nested), kind="span"))).columns
    other = load(custom_task("mine", CustomTask(train=str(flat), kind="span", text="ask", text_pair="page"))).columns
    assert one == {
        "id": ["q"], "question": ["Where?"], "context": ["Paris is in France"],
        "answers": [{"text": ["France"], "answer_start": [12]}],
    }  # fmt: skip
    assert other == {**one, "id": ["0"]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stanfordnlp/imdb", HubName("stanfordnlp/imdb")),
        ("me/my.data-set_2:en", HubName("me/my.data-set_2", "en")),
        ("me/set:en:test", HubName("me/set", "en", "test")),
        ("me/set::train[:10%]", HubName("me/set", None, "train[:10%]")),
        ("glue:sst2:validation", HubName("glue", "sst2", "validation")),
        *(
            (text, None)
            for text in ("imdb", "./a/b", "../a", "~/a", "a/b/c", "/a/b", "/a/b:c", "me/set:", "C:/a/b", "")
        ),
    ],
)
def test_what_is_a_name_on_the_hub(text: str, name: HubName | None) -> None:
    assert parse(text) == name


def test_a_configuration_and_a_split_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, configuration: str | None, split: str) -> Dataset:
        asked.append((name, configuration, split))
        return Dataset.from_dict({"review": ["good", "bad"], "stars": [0, 1]})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    task = reviews("me/set:en:train[:90%]", "me/set:en")
    assert (len(load(task)), len(load(task, "validation"))) == (2, 2)
    assert asked == [("me/set", "en", "train[:90%]"), ("me/set", "en", "validation"), ("me/set", "en", "train[:90%]")]


@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_a_parquet_file_of_datasets_with_a_row_without_a_label_is_refused(tmp_path: Path, kind: Kind) -> None:
    numbers: list[Any] = [0, 1, -1]
    stars: Any = ClassLabel(names=["pos", "neg"])
    if kind == "multi-label":
        numbers, stars = [[number] for number in numbers], List(stars)
    rows = {"text": ["good", "bad", "?"], "label": numbers}
    Dataset.from_dict(rows, features=Features({"text": Value("string"), "label": stars})).to_parquet(
        tmp_path / "a.parquet"
    )
    task = custom_task("reviews", CustomTask(train=str(tmp_path / "a.parquet"), kind=kind))
    with pytest.raises(UserError, match=r"a\.parquet, row 2, column label: the label is missing: .*ClassLabel.*, -1 "):
        load(task)


def test_a_folder_of_save_to_disk_is_read_by_its_splits(tmp_path: Path) -> None:
    features = Features({"review": Value("string"), "stars": ClassLabel(names=["pos", "neg"])})
    rows = Dataset.from_dict({"review": ["good", "bad"], "stars": [0, 1]}, features=features)
    DatasetDict({"train": rows, "validation": rows.select([1]), "test": rows.select([0])}).save_to_disk(
        tmp_path / "all"
    )
    rows.save_to_disk(tmp_path / "one")
    folder = str(tmp_path / "all")
    task = reviews(folder, folder)
    assert load(task).task.labels == ("neg", "pos") and load(task).columns["label"] == [1, 0]
    assert load(task, "validation").columns["text"] == ["bad"]
    assert load(reviews(folder, f"{folder}::test"), "validation").columns["text"] == ["good"]
    assert load(reviews("all"), data=str(tmp_path)).columns["text"] == ["good", "bad"]
    assert len(load(reviews(str(tmp_path / "one")))) == 2 and not splits.is_fetched(task, "train", None)
    with pytest.raises(UserError, match=r"reviews\.train .*all: expected a split dev, found train, validation, test"):
        load(reviews(f"{folder}::dev"))
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match=r"found another folder, .*plain; name the file in it"):
        load(reviews(str(tmp_path / "plain")))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"one: expected a data set that save_to_disk wrote"):
        load(reviews(str(tmp_path / "one")))
