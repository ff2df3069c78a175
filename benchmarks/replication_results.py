"""Turn the run folders of replication.py into results/replication: scores, paired tests, predictions."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from replication_jobs import DISTILL, RECIPES, Job, Setting, is_chosen

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import resampling
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report.predictions import Pairing, Predicted, Side, majority_of, pair, read_predicted, scored_run
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS

PRETRAINING = "pretraining"
Answers = dict[str, dict[str, Predicted]]
"""By task and row, what was predicted on the first scored split."""


def collect(setting: Setting, recipes: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> None:
    """Write results.jsonl and the predictions: of rows that are scored with all their seeds; of others what is there.

    Args:
        setting: of the run folders.
        recipes: only what was made by these (RECIPE or RECIPE/TASK) is taken from the run folders; default: all.
        tasks: only these, likewise.

    Raises:
        UserError: a row was scored on other examples than one that is there.
    """
    rows = [row for row in setting.plan["rows"] if "recipe" in row]
    every = [*setting.plan["small"], *setting.plan["large"]]
    published = Published.read(RECIPES)
    measured: list[Measurement] = []
    answers: Answers = {task: {} for task in every}
    taken = 0
    for row in rows:
        is_wanted = any(is_chosen(Job(row["recipe"], task), recipes) for task in every)
        measured += (is_wanted and _pretraining(setting, row)) or published.measured(row["name"], PRETRAINING)
        for task in every:
            is_wanted = is_chosen(Job(row["recipe"], task), recipes) and (tasks is None or task in tasks)
            folders = _scored(setting, row, task) if is_wanted else []
            if folders:
                measured += _measured(row, folders)
                answers[task][row["name"]] = _answers(setting, row, task)
                taken += 1
            elif (predicted := published.predicted(row["name"], task)) is not None:
                measured += published.measured(row["name"], task)
                answers[task][row["name"]] = predicted
    for task, by_row in answers.items():
        if len({predicted.fingerprint for predicted in by_row.values()}) > 1:
            problem, fix = (
                "rows were scored on different examples",
                "collect those of one data set in a folder of its own",
            )
            raise UserError(f"{RECIPES}, {TASKS[task].title}", problem=problem, fix=fix)
    measured += _compared(answers, setting.plan["compared"]["pairs"])
    for task, by_row in answers.items():
        if by_row:
            _write_predictions(task, by_row)
    results.write(RECIPES / "results.jsonl", measured)
    kept = sum(map(len, answers.values())) - taken
    print(
        f"{len(measured)} measurements in {RECIPES / 'results.jsonl'}: rows on a task, {taken} of the run, {kept} kept"
    )


@dataclass(frozen=True)
class Published:
    """What was collected before."""

    folder: Path
    measurements: Sequence[Measurement]
    predictions: Mapping[str, pa.Table]
    """By task."""

    @classmethod
    def read(cls, folder: Path) -> "Published":
        path = folder / "results.jsonl"
        tables = {file.stem: pq.read_table(file) for file in sorted((folder / "predictions").glob("*.parquet"))}
        return cls(folder, results.read(path) if path.exists() else [], tables)

    def measured(self, row: str, task: str) -> list[Measurement]:
        return [m for m in self.measurements if (m.model, m.task) == (row, task)]

    def predicted(self, row: str, name: str) -> Predicted | None:
        """What a row predicted on the first scored split of a task; None where it was not scored."""
        if name not in self.predictions:
            return None
        table, split = self.predictions[name], TASKS[name].evaluation[0]
        columns = (re.fullmatch(rf"{re.escape(row)}, seed (\d+)", column) for column in table.column_names)
        answers = {int(match[1]): table[match[0]].to_pylist() for match in columns if match}
        if not answers:
            return None
        gold = table["label"].to_pylist()
        if TASKS[name].kind == "span":
            gold = [json.loads(answer) for answer in gold]
        fingerprint = next(m.data_fingerprint for m in self.measured(row, name) if m.split == split)
        return Predicted(Side(self.folder, row), table["id"].to_pylist(), gold, answers, fingerprint)


def _scored(setting: Setting, row: Mapping[str, str], task: str) -> list[Path]:
    """The folders of a row's scores on a task, a seed each; none where a seed is not scored, whatever else is done."""
    folders = RunFolder(setting.run / row["recipe"] / task).scores_of_seeds(task, row["row"])
    wanted = 1 if row["row"] in BASELINE_NAMES else len(setting.seeds(task))
    return folders if len(folders) == wanted else []


def _pretraining(setting: Setting, row: Mapping[str, str]) -> list[Measurement]:
    """The measurements of a row's pretraining distillation."""
    path = RunFolder(setting.run / row["recipe"] / DISTILL).results
    measurements = results.read(path) if path.exists() and row["name"] != "teacher" else []
    return [_renamed(m, row) for m in measurements if m.task == PRETRAINING and m.model == row["row"]]


def _measured(row: Mapping[str, str], folders: Sequence[Path]) -> Iterator[Measurement]:
    """The measurements of a row on a task."""
    measurements = (m for folder in folders for m in results.read(folder / MEASUREMENTS))
    return (_renamed(m, row) for m in measurements if m.model == row["row"])


def _renamed(measured: Measurement, row: Mapping[str, str]) -> Measurement:
    return dataclasses.replace(measured, model=row["name"])


def _answers(setting: Setting, row: Mapping[str, str], name: str) -> Predicted:
    """What a row gave on the first scored split of a task."""
    run = scored_run(setting.run / row["recipe"] / name)
    predicted = read_predicted(run, TASKS[name], row["row"], TASKS[name].evaluation[0])
    return dataclasses.replace(predicted, side=dataclasses.replace(predicted.side, row=row["name"]))


def _compared(answers: Answers, pairs: Sequence[Sequence[str]]) -> list[Measurement]:
    """The rows compared with one another, and teachers with the majority baseline: two families, as in `compare`."""
    rows, majority = list[Pairing](), list[Pairing]()
    for name, by_row in answers.items():
        task, split = TASKS[name], TASKS[name].evaluation[0]
        rows += [pair(task, split, by_row[a], by_row[b]) for a, b in pairs if a in by_row and b in by_row]
        teachers = [by_row[row] for row in by_row if row.startswith("teacher")]
        majority += [pair(task, split, teacher, majority_of(task, teacher)) for teacher in teachers]
    return [*differences(rows), *differences(majority)]


def differences(pairings: Sequence[Pairing], recipe: str = "replication") -> Iterator[Measurement]:
    """The differences in the metrics of the tables, adjusted by Holm over all of them."""
    tests = [
        (pairing, metric, resampling.paired_test(
            pairing.task.kind, metric, pairing.labels, *pairing.predictions(metric), seed=0
        ))
        for pairing in pairings for metric in pairing.task.table_metrics
    ]  # fmt: skip
    adjusted = resampling.holm([paired.p for *_, paired in tests])
    for (pairing, metric, paired), p in zip(tests, adjusted, strict=True):
        yield Measurement(
            pairing.first.side.row, COMPARE, metric, paired.difference, pairing.split, examples=len(pairing.first.ids),
            examples_total=pairing.whole[0], recipe=recipe, data_fingerprint=pairing.first.fingerprint,
            details={
                "of": pairing.task.name, "against": pairing.second.side.row, "first": paired.first,
                "second": paired.second, "interval": list(paired.interval), "p": paired.p, "p_adjusted": p,
                "seeds": [len(pairing.first.answers), len(pairing.second.answers)],
            },
        )  # fmt: skip


def _write_predictions(name: str, by_row: Mapping[str, Predicted]) -> None:
    """One Parquet file a task: the examples once, and a column for each training, `ROW, seed N`."""
    first = next(iter(by_row.values()))
    columns: dict[str, Any] = {"id": first.ids, "label": first.gold}
    if TASKS[name].kind == "span":
        columns["label"] = [json.dumps(gold, ensure_ascii=False) for gold in first.gold]
    for row, predicted in by_row.items():
        for seed, given in predicted.answers.items():
            columns[f"{row}, seed {seed}"] = given
    table = pa.table(columns)
    if TASKS[name].kind == "regression":
        table = table.set_column(1, "label", table["label"].cast(pa.float32()))
        for index in range(2, table.num_columns):
            table = table.set_column(index, table.column_names[index], table.column(index).cast(pa.float32()))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", compression_level=19)
    atomic.write_bytes(RECIPES / "predictions" / f"{name}.parquet", buffer.getvalue().to_pybytes())
