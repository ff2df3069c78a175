"""What another task first gives: the rows of results/levers/mnli-first.toml beside those of the replication without it.

It reads the run folder of `tinydistilbert evaluate results/levers/mnli-first.toml` and the published predictions of
results/replication on the same examples, with the same seeds, and writes results/levers/mnli-first.jsonl.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import common
from replication_results import Published, differences

from tinydistilbert import results
from tinydistilbert.report.predictions import Predicted, pair, read_predicted, scored_run
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder
from tinydistilbert.tasks import TASKS

NAME = "mnli-first"
OUTPUT = common.ROOT / "results" / "levers" / f"{NAME}.jsonl"
ROWS = {"teacher": "teacher", "student (D)": "task-student"}
"""Rows of the run, and what rows without another task first are called in the replication."""
AFTER = " after MNLI"


def measured(run: Path, replication: Path) -> list[Measurement]:
    """Return the scores of the run, and their differences to the published rows, of all tasks that are scored.

    Args:
        run: the run folder.
        replication: the folder with the published results and predictions.
    """
    scored, published = scored_run(run), Published.read(replication)
    scores, pairs = list[Measurement](), []
    for name in scored.tasks:
        plain, _, first = name.partition("@")
        for row, row_without in ROWS.items() if first else ():
            task, split = TASKS[plain], TASKS[plain].evaluation[0]
            folders = RunFolder(run).scores_of_seeds(name, row)
            renamed = {"model": row_without + AFTER, "task": plain, "recipe": NAME}
            lines = (m for folder in folders for m in results.read(folder / MEASUREMENTS) if m.model == row)
            scores += [dataclasses.replace(line, **renamed) for line in lines]
            after = read_predicted(scored, scored.tasks[name], row, split)
            after = dataclasses.replace(after, side=dataclasses.replace(after.side, row=row_without + AFTER))
            without = published.predicted(row_without, plain)
            assert without is not None, f"{row_without} is published on {plain}"
            pairs.append(pair(task, split, after, of_seeds(without, after)))
    return [*scores, *differences(pairs, recipe=NAME)]


def of_seeds(without: Predicted, after: Predicted) -> Predicted:
    """Return the published predictions of the seeds that the run has."""
    return dataclasses.replace(without, answers={seed: without.answers[seed] for seed in after.answers})


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the scores and the differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=common.ROOT / "runs" / NAME, help="the run folder")
    parser.add_argument("--replication", type=Path, default=common.ROOT / "results" / "replication")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    lines = measured(chosen.run, chosen.replication)
    results.write(chosen.output, lines)
    print(f"{len(lines)} measurements in {chosen.output}")


if __name__ == "__main__":
    main()
