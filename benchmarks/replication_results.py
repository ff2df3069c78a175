"""What the run folders of replication.py hold, as results/replication: scores, paired tests, predictions."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from replication_jobs import DISTILL, RECIPES, Setting

from tinydistilbert import results
from tinydistilbert.evaluation import resampling
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report.predictions import Pairing, Predicted, majority_of, pair, read_predicted, scored_run
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS

PRETRAINING = "pretraining"
Answers = dict[str, dict[str, Predicted]]
"""By task and row, what was predicted on the first scored split."""


def collect(setting: Setting) -> None:
    """Write results.jsonl and the predictions of every row that is scored with all its seeds; both are made anew."""
    rows = [row for row in setting.plan["rows"] if "recipe" in row]
    tasks = [*setting.plan["small"], *setting.plan["large"]]
    measured = [m for row in rows for m in _measured(setting, row, tasks)]
    answers: Answers = {task: _answers(setting, rows, task) for task in tasks}
    measured += _compared(answers, setting.plan["compared"]["pairs"])
    results.write(RECIPES / "results.jsonl", measured)
    for task, by_row in answers.items():
        if by_row:
            _write_predictions(task, by_row)
    print(
        f"{len(measured)} measurements of {sum(map(len, answers.values()))} rows on tasks: {RECIPES / 'results.jsonl'}"
    )


def _scored(setting: Setting, row: Mapping[str, str], task: str) -> list[Path]:
    """The folders of a row's scores on a task, a seed each; none where a seed is not scored, whatever else is done."""
    folders = RunFolder(setting.run / row["recipe"] / task).scores_of_seeds(task, row["row"])
    wanted = 1 if row["row"] in BASELINE_NAMES else len(setting.seeds(task))
    return folders if len(folders) == wanted else []


def _measured(setting: Setting, row: Mapping[str, str], tasks: Sequence[str]) -> Iterator[Measurement]:
    """The measurements of a row under its name here; those of pretraining once."""
    pretraining = RunFolder(setting.run / row["recipe"] / DISTILL).results
    found = results.read(pretraining) if pretraining.exists() and row["name"] != "teacher" else []
    found = [m for m in found if m.task == PRETRAINING]
    for task in tasks:
        found += [m for folder in _scored(setting, row, task) for m in results.read(folder / MEASUREMENTS)]
    yield from (dataclasses.replace(m, model=row["name"]) for m in found if m.model == row["row"])


def _answers(setting: Setting, rows: Sequence[Mapping[str, str]], name: str) -> dict[str, Predicted]:
    """By row, what was predicted on the first scored split of a task."""
    task, found = TASKS[name], dict[str, Predicted]()
    for row in rows:
        if not _scored(setting, row, name):
            continue
        run = scored_run(setting.run / row["recipe"] / name)
        predicted = read_predicted(run, task, row["row"], task.evaluation[0])
        side = dataclasses.replace(predicted.side, row=row["name"])
        found[row["name"]] = dataclasses.replace(predicted, side=side)
    return found


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
