"""Make a page again from stored data: from a whole run folder, or from one with only its measurements."""

from pathlib import Path

from tinydistilbert.report.card import write_card
from tinydistilbert.report.compare import measured_differences
from tinydistilbert.report.differences import row_differences
from tinydistilbert.report.earlier_page import EarlierPage
from tinydistilbert.report.page import write_report
from tinydistilbert.report.read import read_run
from tinydistilbert.report.task_card import write_task_cards
from tinydistilbert.results import Origin
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of


def remake(folder: Path) -> Path:
    """Write the page of a run and the cards of its models again from what was kept; return the path of the page.

    Measurements are not changed. If a run of an earlier version did not compare its rows and its predictions are there,
    they are compared for the page. The command line, and what can no longer be drawn (curves, examples), are taken from
    the previous page.

    Raises:
        UserError: the folder has no recipe or no measurements, or one of its files is damaged.
    """
    run = RunFolder(folder)
    recipe, measurements = read_run(folder)
    is_compared = row_differences(measurements, tasks_of(recipe.finetune)) or not run.all_scores()
    compared = [] if is_compared else measured_differences(folder, Origin.of(recipe))
    if atomic.is_finished(run.student):
        write_card(folder)
    write_task_cards(folder)
    earlier = EarlierPage.read(run.report)
    return write_report(folder, command=earlier.command, earlier=earlier, compared=compared)
