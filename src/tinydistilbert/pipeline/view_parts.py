"""The views of the teacher's cache in parallel (`--jobs`): each is made by a separate process, like task models.

A view is a finished folder in the cache, where the distillation then finds it. The distillation makes views that no
process has made.
"""

from tinydistilbert.data.masked_batches import MaskedBatches
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import check_room, make_view, views_to_make
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.storage import atomic, cache
from tinydistilbert.workers.jobs import Part
from tinydistilbert.workers.run import run_parts

VIEW = "teacher-cache/view-"
"""Prefix of a view's name in `--part`, before its number."""


def make_views(run: RunContext) -> None:
    """Make the views that a distillation needs and does not find in its cache, in parallel; a single one is left to it.

    Raises:
        UserError: the disk has no room for them.
    """
    settings = run.recipe.distill.cache
    if settings.kind == "none" or not run.makes_student() or atomic.is_finished(run.folder.student):
        return
    missing = _missing(run)
    if len(missing) < 2:
        return
    check_room(settings, _batches(run), run.teacher.model, cache.folder(), views=len(missing))
    parts = (
        Part(f"teacher cache, view {n + 1} of {settings.views}", part_arguments(run, "distill", f"{VIEW}{n}"))
        for n in missing
    )

    def ended(part: Part, why: str) -> None:
        if why:
            run.log(f"{part.name}: failed, {why}")

    assert run.workers, "asked for by --jobs"
    run_parts(run.workers, len(missing), lambda: next(parts, None), ended, folder=run.folder.path, log=run.log)
    if left := _missing(run):
        run.log(
            f"teacher cache: {counted(len(left), 'view')} still missing, and made by this process; if the others ran "
            "on other machines, TINYDISTILBERT_CACHE must be on storage that all machines share"
        )


def part_arguments(run: RunContext, command: str, name: str) -> tuple[str, ...]:
    """The command line that makes a part: the recipe as it was begun, and those of its keys that may differ."""
    data = ("--data", run.recipe.data) if run.recipe.data else ()
    return (
        command, str(run.folder.recipe), "--output", str(run.folder.path), "--device", run.recipe.device, *data,
        "--part", name,
    )  # fmt: skip


def is_view(name: str) -> bool:
    """Whether a part is a view of the cache."""
    return name.startswith(VIEW)


def make_named_view(run: RunContext, name: str) -> None:
    """Make the view that `--part` names.

    Raises:
        UserError: there is no such view, or the run has not reached the distillation.
    """
    settings, number = run.recipe.distill.cache, name.removeprefix(VIEW)
    is_there = number.isdecimal() and int(number) < settings.views and settings.kind != "none"
    if not is_there or not atomic.is_finished(run.folder.teacher):
        found, fix = repr(name), "leave --part out: --jobs passes it to the processes that it starts"
        raise UserError(
            "--part", expected="a view of the teacher's cache of a run that was begun", found=found, fix=fix
        )
    teacher = run.teacher.model.eval().to(run.device)
    make_view(settings, _batches(run), teacher, cache.folder(), run.compute, int(number))


def _batches(run: RunContext) -> MaskedBatches:
    recipe = run.recipe
    setup = PretrainingSetup.of(recipe, run.sources.blocks, run.compute)
    return setup.batches(recipe.objective, recipe.distill.optimization, steps=1)


def _missing(run: RunContext) -> list[int]:
    return views_to_make(run.recipe.distill.cache, _batches(run), run.teacher.model, cache.folder(), run.compute)
