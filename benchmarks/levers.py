"""What each lever for a stronger student gains on one task: trains and compares the rows of results/levers/rows.toml.

Each row has its own run folder and learns from the task teachers of replication.py. Finished rows are skipped, stopped
ones continue. results/levers/results.jsonl gets the scores of the finished rows, and the paired tests.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
from gpu_replication import call
from replication_results import differences
from torch.nn import ModuleList
from transformers import AutoModel

from tinydistilbert import results
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.student import uniform_layers
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.pipeline import stages
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.predictions import pair, read_predicted, scored_run
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.tasks import TASKS

LEVERS = common.ROOT / "results" / "levers"
ENCODER = "encoder"
"""Folder in the run of what a row starts from that is not cut from the task's teacher."""


def recipes(plan: Mapping[str, Any], chosen: argparse.Namespace) -> dict[str, Recipe]:
    """The recipe of each row, with the paths of this machine."""
    roots = {"runs/levers": chosen.run, "runs/replication": chosen.replication}

    def local(name: str) -> str:
        root = next((root for root in roots if name.startswith(f"{root}/")), "")
        return str(roots[root].resolve() / name.removeprefix(f"{root}/")) if root else name

    by_row = {}
    for row in plan["rows"]:
        recipe = toml.from_dict(toml.merge(plan["base"], row.get("changes", {})), f"row {row['name']!r}")
        distillation = recipe.finetune.distillation
        assert isinstance(distillation.teachers, tuple)
        distillation = dataclasses.replace(distillation, teachers=tuple(map(local, distillation.teachers)))
        limits = {"train_examples": chosen.train_examples, "validation_examples": chosen.validation_examples}
        finetune = dataclasses.replace(
            recipe.finetune, model=local(recipe.finetune.model), distillation=distillation,
            **{key: count for key, count in limits.items() if count},
        )  # fmt: skip
        by_row[row["name"]] = dataclasses.replace(recipe, data=str(chosen.data.resolve()), finetune=finetune)
    return by_row


def cut_encoder(folder: Path, layers: int) -> None:
    """The encoder as the wheel has it with every second of its layers, up to the last, and its pooler."""
    if atomic.is_finished(folder):
        return
    source = wheel_folder()
    model = AutoModel.from_pretrained(source)
    kept = uniform_layers(layers, model.config.num_hidden_layers)
    model.encoder.layer = ModuleList(model.encoder.layer[index] for index in kept)
    model.config.num_hidden_layers = layers
    with atomic.unfinished(folder) as output:
        model.save_pretrained(output)
        load_tokenizer(source).save_pretrained(output)


def score_teachers_once(run: Path) -> None:
    """Take the scores of a teacher from the row that was scored first, for all rows have the same."""
    score = stages._evaluate

    def once(context: RunContext, job: Job, output: Path) -> None:
        place = output.relative_to(context.folder.path)
        finished = [other / place for other in sorted(run.iterdir()) if atomic.is_finished(other / place)]
        if job.is_given and finished:
            left_out = shutil.ignore_patterns(atomic.MANIFEST, made_from.FILE)
            with atomic.unfinished(output, task=job.task, row=job.row, seed=job.seed) as folder:
                shutil.copytree(finished[0], folder, dirs_exist_ok=True, ignore=left_out)
        else:
            score(context, job, output)

    setattr(stages, "_evaluate", once)  # noqa: B010 (mypy knows it as a function of the package)


def folder_of(run: Path, row: str) -> Path:
    """The run folder of a row."""
    return run / row.replace(" ", "-")


def collect(plan: Mapping[str, Any], of_rows: Mapping[str, Recipe], run: Path, output: Path) -> int:
    """Write the measurements of the rows that are scored, and their differences; gives how many rows those are."""
    measured, answers = list[Measurement](), {}
    for name, recipe in of_rows.items():
        (task,) = (TASKS[task] for task in recipe.finetune.tasks)
        row = "model" if recipe.finetune.distillation.tasks == "none" else "model (D)"
        folders = RunFolder(folder_of(run, name)).scores_of_seeds(task.name, row)
        if len(folders) < len(recipe.finetune.seeds):
            continue
        row_measurements = [m for folder in folders for m in results.read(folder / MEASUREMENTS) if m.model == row]
        measured += [dataclasses.replace(m, model=name, recipe=plan["base"]["name"]) for m in row_measurements]
        predicted = read_predicted(scored_run(folder_of(run, name)), task, row, task.evaluation[0])
        answers[name] = dataclasses.replace(predicted, side=dataclasses.replace(predicted.side, row=name))
    sides = [(pair["first"], pair["second"]) for pair in plan["compared"]]
    pairs = [(answers[a], answers[b]) for a, b in sides if a in answers and b in answers]
    tests = differences([pair(task, task.evaluation[0], *two) for two in pairs], recipe=plan["base"]["name"])
    results.write(output, [*measured, *tests])
    return len(answers)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/")
    parser.add_argument("--run", type=Path, default=common.ROOT / "runs" / "levers", help="the run folders")
    parser.add_argument(
        "--replication", type=Path, default=common.ROOT / "runs" / "replication", help="those of replication.py"
    )
    parser.add_argument("--output", type=Path, default=LEVERS / "results.jsonl")
    parser.add_argument("--rows", nargs="*", help="only these; none = only collect what is done")
    parser.add_argument("--train-examples", type=int, default=0, help="fewer, to try the script out")
    parser.add_argument("--validation-examples", type=int, default=0, help="fewer, as above")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not done, write what is; exit 1 where a row failed."""
    chosen = parse(arguments)
    plan = tomllib.loads((LEVERS / "rows.toml").read_text(encoding="utf-8"))
    of_rows = recipes(plan, chosen)
    os.environ["HF_HUB_OFFLINE"] = "1"
    cut_encoder(chosen.run / ENCODER, layers=3)
    score_teachers_once(chosen.run.resolve())
    failed = []
    for name, recipe in of_rows.items():
        if chosen.rows is not None and name not in chosen.rows:
            continue
        folder = folder_of(chosen.run, name)
        file = folder.with_suffix(".toml")
        atomic.write_text(file, toml.to_toml(recipe))
        if call("evaluate", file, "--output", folder):
            failed.append(name)
        collect(plan, of_rows, chosen.run, chosen.output)
    print(f"{collect(plan, of_rows, chosen.run, chosen.output)} of {len(of_rows)} rows are done", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
