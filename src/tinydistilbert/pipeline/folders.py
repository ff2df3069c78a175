"""Make each folder of a run once, and collect what every finished one measured in `results.jsonl`."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from tinydistilbert import results, run_record
from tinydistilbert.models import hub
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.progress import duration
from tinydistilbert.run_folder import MEASUREMENTS
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MadeFrom


def make_folder(
    run: RunContext, path: Path, title: str, make: Callable[[Path], None], sources: MadeFrom, *, together: bool = False
) -> None:
    """Make one folder of the run, unless it is finished.

    Args:
        run: whose folder it is.
        path: the folder.
        title: its name in log lines.
        make: function that makes it.
        sources: what it is made from.
        together: whether all processes of a launcher call `make`; otherwise rank 0 does, and the others wait.

    Raises:
        UserError: it was made from, or begun with, something other than `sources`.
    """
    to_be_made, made = f"{path} is to be made", f"{path} is made"
    if not run.ranks.is_main:
        if together and run.ranks.wait_for(to_be_made):
            make(path)
        run.ranks.wait_for(made)
        return
    if atomic.is_finished(path):
        made_from.check(path, sources)
        atomic.tidy(path)
        run.log(f"{title}: finished before, skipped")
        run.ranks.publish(to_be_made, False)
        run.ranks.publish(made)
        return
    started = time.monotonic()
    made_from.begin(path, sources)
    run.ranks.publish(to_be_made)
    make(path)
    run.log(f"{title}: {duration(time.monotonic() - started)}")
    if not run.is_part:  # files of the whole run are written by the process that holds it
        run_record.keep_revisions(run.folder, hub.pinned_revisions())
        write_results(run)
    run.ranks.publish(made)


def write_results(run: RunContext) -> None:
    """Write `results.jsonl`: what every finished stage measured, in the order of the stages."""
    folder = run.folder
    scores = [*(job.scores(folder) for job in run.jobs), *(job.scores(folder) for job in run.baselines)]
    summaries = [folder.compressed(name).summary for name in run.recipe.compress.tasks]
    comparisons = [folder.comparisons] if are_compared(run) else []
    folders = [folder.teacher, folder.control, folder.student, *scores, *comparisons, *summaries, folder.benchmark]
    finished = [path for path in folders if atomic.is_finished(path)]
    results.write(folder.results, [m for path in finished for m in results.read(path / MEASUREMENTS)])


def are_compared(run: RunContext) -> bool:
    """Whether the stored comparisons of the rows belong to the current scores."""
    comparisons = run.folder.comparisons
    if not atomic.is_finished(comparisons):
        return False
    return bool(atomic.read_manifest(comparisons)["scores"] == scores_hash(run))


def scores_hash(run: RunContext) -> str:
    """Return one hash of everything that was scored."""
    manifests = [path / atomic.MANIFEST for path in run.folder.all_scores() if atomic.is_finished(path)]
    hashes = [[path.parent.relative_to(run.folder.path).as_posix(), atomic.sha256(path)] for path in manifests]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
