"""Data as Python programs have it, and the public names."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tinydistilbert as td
from tinydistilbert.api.inputs import as_given, written
from tinydistilbert.api.outcomes import Run, TaskColumns, TaskModel
from tinydistilbert.api.run import with_settings
from tinydistilbert.api.targets import targets
from tinydistilbert.api.task import _folder, listed_seeds, recipe_of
from tinydistilbert.api.task_data import task_data
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import CustomTask, Recipe

ROWS = [{"text": "a house", "label": "good"}, {"text": "a lake", "label": "bad"}]


def test_every_form_of_data_is_the_same_table(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    named = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    numbers = datasets.Dataset.from_list([{"text": "a house", "label": 1}, {"text": "a lake", "label": 0}], named)
    forms = [ROWS, frame, pa.Table.from_pylist(ROWS), datasets.Dataset.from_list(ROWS), numbers]
    forms.append(frame.assign(label=frame["label"].astype("category")))
    for form in forms:
        given = as_given(form, "train", label="label")
        assert not isinstance(given, str) and given.to_pylist() == ROWS
    assert as_given("owner/name", "train") == "owner/name" and as_given(tmp_path, "train") == str(tmp_path)


@pytest.mark.parametrize(("form", "columns"), [("torch", None), ("torch", ["ids"]), ("numpy", None), ("arrow", None)])
def test_a_data_set_in_another_format_has_the_names_of_its_classes(form: str, columns: list[str] | None) -> None:
    names = datasets.ClassLabel(names=["bad", "good"])
    kinds = {
        "text": datasets.Value("string"),
        "one": names,
        "many": datasets.List(names),
        "ids": datasets.Value("int64"),
    }
    rows = {"text": ["a", "b"], "one": [1, 0], "many": [[0, 1], []], "ids": [1, 2]}
    formatted = datasets.Dataset.from_dict(rows, datasets.Features(kinds)).with_format(form, columns=columns)
    one, many = as_given(formatted, "train", label="one"), as_given(formatted, "train", label="many")
    assert not isinstance(one, str) and one["one"].to_pylist() == ["good", "bad"]
    assert not isinstance(many, str) and many["many"].to_pylist() == [["bad", "good"], []]


def test_a_key_that_the_first_row_lacks_is_not_lost() -> None:
    given = as_given([{"text": "a"}, {"text": "b", "label": 1}], "train")
    assert given.to_pylist() == [{"text": "a", "label": None}, {"text": "b", "label": 1}]


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (pd.DataFrame({"text": ["a", 3], "label": [1, 2]}), ["train['text']", "str ('a'), int (3)", "astype(str)"]),
        ([{"label": "a"}, {"label": 3}], ["'label'", "one kind"]),
        ([{"label": 0.5}, {"label": True}], ["'label'", "one kind", "float (0.5), bool (True)"]),
        ([], ["one row"]),
        (pd.DataFrame({"text": []}), ["one row"]),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), ["DatasetDict", "one split"]),
        (np.zeros(3), ["a data frame", "ndarray"]),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), ["'text' twice"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_in_one_line(data: object, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        as_given(data, "train")
    message = str(caught.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_data_of_a_run_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run/data/train.parquet"
    assert written(as_given(ROWS, "train"), path) == written(as_given(pd.DataFrame(ROWS), "train"), path) == str(path)
    with pytest.raises(UserError, match="other data"):
        written(as_given(ROWS[:1], "train"), path)
    assert len(pd.read_parquet(path)) == 2


def test_data_with_nan_is_the_same_when_a_run_goes_on(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "weight": pa.array([float("nan"), 1.0])})
    path = tmp_path / "run/data/train.parquet"
    assert written(table, path) == written(table, path) == str(path)
    with pytest.raises(UserError, match="other data"):
        written(table.slice(1), path)


def test_settings_may_be_sections_and_have_earlier_names() -> None:
    section = {"epochs": 2.0}
    made = with_settings(Recipe(), {"finetune": section, "finetune.distillation_weight": 0.7, "finetune.min_steps": 3})
    assert (made.finetune.epochs, made.finetune.min_steps, made.finetune.distillation.soft) == (2.0, 3, 0.7)
    assert section == {"epochs": 2.0}, "what the program gave is not changed"
    assert with_settings(Recipe(), {"finetune.epochs": 2.0, "finetune": {"min_steps": 3}}).finetune.epochs == 2.0
    with pytest.raises(UserError, match="key seed"):
        with_settings(Recipe(), {"seed": 1, "seed.x": 2})


def test_settings_may_be_paths_and_numbers_of_numpy(tmp_path: Path) -> None:
    given = {"data": tmp_path, "finetune": {"seeds": np.int64(3), "distillation": {"teachers": (tmp_path / "a",)}}}
    recipe = with_settings(Recipe(), given)
    assert (recipe.data, recipe.finetune.seeds) == (str(tmp_path), (3,))
    assert recipe.finetune.distillation.teachers == (str(tmp_path / "a"),)


def test_a_setting_that_contradicts_an_argument_is_refused(tmp_path: Path) -> None:
    """It replaced what the argument says, in silence."""
    data: dict[str, Any] = {"train": "a.csv", "validation": "b.csv", "output": tmp_path / "run", "quiet": True}
    calls: dict[str, Callable[[], object]] = {
        "finetune.seeds": lambda: td.finetune("m", seeds=3, settings={"finetune.seeds": [5]}, **data),
        "finetune.distillation.unlabelled": lambda: td.distill(
            "m", unlabelled="c.txt", settings={"finetune.distillation": {"unlabelled": "d.txt"}}, **data
        ),
        "compress.target_latency": lambda: td.compress(
            "m", to="5ms", settings={"compress.target_latency": "9ms"}, **data
        ),
    }
    for key, call in calls.items():
        with pytest.raises(UserError, match=rf"settings, key {key}: an argument sets it already, to .*leave one"):
            call()
    for settings in ({"finetune.seeds": [5]}, {"finetune.seeds": [0], "finetune.model": "offline"}):
        with pytest.raises(UserError, match=r"^(?!settings)"):  # neither the model nor the data is there
            td.finetune(settings=settings, **data)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_labels_in_a_set_are_the_same_data_in_every_process() -> None:
    code = "from tinydistilbert.api.inputs import as_given, fingerprint\n"
    code += "print(fingerprint(as_given([{'label': {*'abcdefgh'}}, {'label': None}, {'label': {'a'}}], 'train')))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]


def test_another_time_budget_is_another_folder() -> None:
    data = task_data(ROWS, None, text="", label="")
    changes = {"finetune": {"model": "offline"}}
    folders = {_folder("shrink-examples", data, changes, budget) for budget in ("", "15m", "2h", "15m")}
    assert len(folders) == 3


def qa_model(tmp_path: Path) -> TaskModel:
    custom = {"train": "a.tsv", "validation": "b.tsv", "kind": "span", "text": "question", "text_pair": "context"}
    custom |= {"answer_units": "characters", "max_length": 64, "quoting": "none"}
    recipe = toml.from_dict({"name": "finetune-qa", "finetune": {"tasks": ["qa"], "custom": {"qa": custom}}}, "")
    teacher = TaskModel(
        tmp_path, "report", (), tmp_path, "qa", "model", TaskColumns("question", "label", "context", "span")
    )
    teacher.recipe_file.write_text(toml.to_toml(recipe), encoding="utf-8")
    return teacher


def test_answers_are_scored_by_the_units_of_the_models_task(tmp_path: Path) -> None:
    model = qa_model(tmp_path)
    answers = [{"answer": "天气"}]
    model.__dict__["predictor"] = SimpleNamespace(kind="span", labels=(), predict=lambda *_: answers)
    answer = {"text": ["天气很好"], "answer_start": [2]}
    scores = model.score([{"question": "怎么样?", "context": "今天天气很好", "answers": answer}])
    assert scores["f1"] == pytest.approx(2 * 2 / (2 + 4)), "two of four characters; as words, none is the same"


def test_a_students_task_is_its_teachers_whatever_data_it_gets(tmp_path: Path) -> None:
    teacher = qa_model(tmp_path)

    def section(train: str | None, changes: dict[str, Any]) -> CustomTask:
        data = task_data(train, None, text="", label="", like=teacher)
        return recipe_of("distill-qa", data, toml.nested(changes), tmp_path / "data").finetune.custom["qa"]

    same = section(None, {})
    assert (same.answer_units, same.max_length, same.quoting, same.train) == ("characters", 64, "none", "a.tsv")
    other = section("c.csv", {"finetune.custom.qa.max_length": 96})
    assert (other.answer_units, other.max_length, other.quoting, other.train) == ("characters", 96, "auto", "c.csv")


def test_the_output_of_a_call_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    outputs: list[Path] = []

    def run(_: Recipe, output: Path, **__: Any) -> Run:
        outputs.append(output)
        return Run(output)

    monkeypatch.setattr("tinydistilbert.api.run.run", run)
    monkeypatch.setattr("tinydistilbert.api.task.run", run)
    td.replicate("minilm", output="~/run", quiet=True)
    td.finetune("offline", train="a.csv", validation="b.csv", output="~/tuned", quiet=True)
    assert outputs == [tmp_path / "run", tmp_path / "tuned"]


def test_targets_and_seeds() -> None:
    assert targets(["5 ms", "20MB"]) == {"target_latency": "5ms", "target_size": "20MB"}
    assert targets("100M") == {"target_operations": "100M"} and targets(()) == {}
    for wrong in ("5", "ms", "5 apples", "-5ms", "0ms"):
        with pytest.raises(UserError, match="5ms, 20MB"):
            targets(wrong)
    with pytest.raises(UserError, match="targets of the same kind"):
        targets(["5ms", "6ms"])
    assert listed_seeds(2) == listed_seeds(np.int64(2)) == [0, 1] and listed_seeds((7,)) == [7]  # type: ignore[arg-type]
    for none in (0, 2.5):
        with pytest.raises(UserError, match="one training"):
            listed_seeds(none)  # type: ignore[arg-type]


def test_the_public_names_are_there_typed_and_documented() -> None:
    stub = Path(td.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert (
        re.findall(r"^from \S+ import (\w+) as \1$", stub, re.MULTILINE)
        and (Path(td.__file__).parent / "py.typed").exists()
    )
    assert sorted(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == sorted(td.__all__)
    for name in td.__all__:
        assert getattr(td, name).__doc__ and name in dir(td)
    with pytest.raises(AttributeError, match="no attribute 'shrunk'"):
        _ = td.shrunk
    importlib.import_module("tinydistilbert.compress")
    importlib.import_module("tinydistilbert.export")
    assert callable(td.compress) and callable(td.export), "packages of the same names do not hide the functions"
    with pytest.raises(UserError, match="cannot be combined"):
        td.export("m", "n", int8=True, half=True)


@pytest.mark.long
def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, tinydistilbert; print(len({'torch', 'numpy', 'pyarrow', 'pydantic'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0\n"
