"""A page made anew from what is stored: of a whole run folder, or of one of which the measurements were kept."""

from pathlib import Path

from tinydistilbert.report.compare import measured_differences
from tinydistilbert.report.differences import row_differences
from tinydistilbert.report.earlier_page import EarlierPage
from tinydistilbert.report.page import write_report
from tinydistilbert.report.read import read_run
from tinydistilbert.results import Origin
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks import tasks_of


def remake(folder: Path) -> Path:
    """Write the page of a run anew, from its recipe, its measurements and whatever else was kept; gives its path.

    Measurements are not changed. Where a run of an earlier version did not compare its rows and its predictions are
    there, they are compared for the page. What can no longer be drawn (curves, examples) is taken from the page before,
    and so is the command line.

    Raises:
        UserError: the folder has no recipe or no measurements, or one of its files is damaged.
    """
    run = RunFolder(folder)
    recipe, measurements = read_run(folder)
    is_compared = row_differences(measurements, tasks_of(recipe.finetune)) or not run.all_scores()
    compared = [] if is_compared else measured_differences(folder, Origin.of(recipe))
    earlier = EarlierPage.read(run.report)
    return write_report(folder, command=earlier.command, earlier=earlier, compared=compared)
