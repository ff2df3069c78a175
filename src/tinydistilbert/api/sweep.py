"""Sweeps from Python: a search for settings by trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.api.run import OnLog, session, with_settings
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.html import as_html
from tinydistilbert.report.table import Table, to_text
from tinydistilbert.run_folder import SweepFolder
from tinydistilbert.storage.disk import in_home
from tinydistilbert.training.device import use_threads
from tinydistilbert.tuning import run as tuning
from tinydistilbert.workers.jobs import jobs_of


@dataclass(frozen=True)
class Sweep:
    """A sweep, finished or in part."""

    folder: Path
    best: str
    """The best trial in a sentence."""
    table: Table
    """Every trial, the best first."""

    @property
    def best_recipe(self) -> Recipe:
        """The recipe with the settings of the best trial, for `replicate`."""
        return toml.read(SweepFolder(self.folder).best)

    @property
    def page(self) -> Path:
        """`report.html`: the trials, the curve, and which settings mattered."""
        return SweepFolder(self.folder).report

    def __repr__(self) -> str:
        return f"Sweep({self.folder})\n{to_text(self.table)}\n{self.best}"

    def _repr_html_(self) -> str:
        return as_html(self.table)


def sweep(
    recipe: str | Path | Recipe, space: str | Path, *, trials: int = tuning.TRIALS, output: str | Path | None = None,
    storage: str = "", settings: dict[str, Any] | None = None, threads: int | None = None,
    jobs: int | str | None = None, quiet: bool = False, on_log: OnLog | None = None,
) -> Sweep:  # fmt: skip
    """Run a recipe repeatedly with settings that Optuna chooses; the same call in other processes joins the sweep.

    Args:
        recipe: the name of a preset, a TOML file, or a `Recipe`.
        space: a TOML file with a table for each setting: `low` and `high` (`log`, `step`), or `choices`.
        trials: total number of trials, of all processes that share the folder.
        output: the folder; None = `runs/NAME-sweep` of the recipe.
        storage: URL of a database for Optuna, `sqlite:///FILE`; empty = a journal in the folder.
        settings: keys of the recipe and their values, the same in every trial.
        threads: threads for matrix products; None = the cores that this process may use, or a trial's share of them.
        jobs: number of trials to run at a time, each in a separate process; `"ray"`: by Ray.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work.

    Raises:
        UserError: the recipe, the space or the data is invalid.
    """
    chosen = with_settings(recipe if isinstance(recipe, Recipe) else toml.load(str(recipe)), settings)
    folder = in_home(output or Path("runs") / f"{chosen.name}-sweep")
    workers = jobs_of(jobs, threads, chosen.device)
    use_threads(threads)
    with session(quiet=quiet, on_log=on_log) as log:
        table, best = tuning.sweep(
            chosen, Path(space), folder, trials=trials, storage=storage, log=log, workers=workers
        )
    return Sweep(folder, best, table)
