"""The ablation of the levers: rows that differ in one thing, paths of this machine, the table of what was measured."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import another_task_first
import levers
import levers_page
import pytest
from levers_page import Levers
from replication_results import Published
from transformers import AutoModel

from tinydistilbert.recipe.schema import to_dict
from tinydistilbert.report.predictions import Predicted
from tinydistilbert.report.table import to_markdown
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task

PLAN = Levers.read().plan


def test_rows_differ_in_how_the_task_is_distilled_alone(tmp_path: Path) -> None:
    chosen = levers.parse(["--run", str(tmp_path / "levers"), "--replication", str(tmp_path / "teachers")])
    of_rows = levers.recipes(PLAN, chosen)
    assert list(of_rows) == [row["name"] for row in PLAN["rows"]]
    rest = []
    for recipe in of_rows.values():
        content = to_dict(recipe)
        distillation = content["finetune"].pop("distillation")
        rest.append(content)
        if distillation["augment"]:  # their words are proposed by a masked LM, which the encoder is not
            assert distillation["start"] == "teacher", "the model only proposes: the student is another"
            content["finetune"]["model"] = rest[0]["finetune"]["model"]
        assert all(Path(folder).is_relative_to(tmp_path / "teachers") for folder in distillation["teachers"])
        # As many epochs in every row; without a teacher those of finetune.
        alone = content["finetune"]["epochs"]
        assert distillation["tasks"] == "none" or distillation["intermediate_epochs"] + distillation["epochs"] == alone
    assert all(content == rest[0] for content in rest)
    assert Path(rest[0]["finetune"]["model"]) == tmp_path / "levers" / levers.ENCODER
    assert len({repr(recipe.finetune.distillation) for recipe in of_rows.values()}) == len(of_rows)


def test_what_is_compared_exists() -> None:
    names = {row["name"] for row in PLAN["rows"]}
    assert {pair[side] for pair in PLAN["compared"] for side in ("first", "second")} <= names


@pytest.mark.long
def test_the_encoder_keeps_every_second_layer_and_its_pooler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = levers.wheel_folder()
    levers.cut_encoder(tmp_path / "encoder", layers=3)
    cut, whole = AutoModel.from_pretrained(tmp_path / "encoder"), AutoModel.from_pretrained(source)
    kept = [layer.output.dense.weight for layer in cut.encoder.layer]
    assert all(
        (a == whole.encoder.layer[index].output.dense.weight).all() for a, index in zip(kept, (1, 3, 5), strict=True)
    )
    assert (cut.pooler.dense.weight == whole.pooler.dense.weight).all() and atomic.is_finished(tmp_path / "encoder")


def test_another_task_first_is_compared_with_the_published_rows_of_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Published.read(levers.common.ROOT / "results" / "replication")
    answers = {row: published.predicted(row, "rte") for row in ("teacher", "task-student")}
    task = TASKS["rte"]

    def predicted(_run: object, of: Task, row: str, split: str) -> Predicted:
        assert (of.name, split) == ("rte@mnli", "validation")
        whole = answers[another_task_first.ROWS[row]]
        assert whole is not None and len(whole.answers) == 3
        wrong = [1 - label for label in whole.gold]
        return dataclasses.replace(whole, answers={0: list(whole.gold) if row == "teacher" else wrong})

    names = {"mnli": TASKS["mnli"], "rte@mnli": dataclasses.replace(task, name="rte@mnli")}
    monkeypatch.setattr(another_task_first, "scored_run", lambda _: SimpleNamespace(tasks=names))
    monkeypatch.setattr(another_task_first, "read_predicted", predicted)
    lines = another_task_first.measured(tmp_path, levers.common.ROOT / "results" / "replication")
    table = levers_page.mnli_first_table(lines)
    teacher, student = ([cell.text for cell in row.cells] for row in table.rows)
    scored = {
        row: next(m.value for m in published.measured(row, "rte") if m.metric == "accuracy" and m.seed == 0)
        for row in answers
    }
    assert teacher[:4] == ["RTE", "Its teacher", f"{100 * scored['teacher']:.1f}", "100.0"]
    assert student[1:4] == ["Student (e)", f"{100 * scored['task-student']:.1f}", "0.0"]
    assert "▲" in to_markdown(table) and "▼" in to_markdown(table)


def test_the_table_has_a_line_for_each_lever() -> None:
    first = PLAN["compared"][0]
    line = Measurement(
        first["first"], COMPARE, "pearson_spearman_mean", 0.04, "validation", examples=9, examples_total=9,
        details={
            "of": "stsb", "against": first["second"], "first": 0.8, "second": 0.76, "p": 0.001, "p_adjusted": 0.004,
            "interval": [0.01, 0.07], "seeds": [1, 1],
        },
    )  # fmt: skip
    table = levers_page.lever_table(Levers(PLAN, [line]))
    assert len(table.rows) == len(PLAN["compared"])
    assert [cell.text for cell in table.rows[0].cells[1:4]] == ["+4.0", "+1.0 to +7.0", "0.004"]
    assert table.rows[1].cells[1].text == "not measured" and "▲" in to_markdown(table)
