"""The report of a run: one HTML file that needs no other file, no network and no script."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinydistilbert import __version__, results
from tinydistilbert.recipe import schema, toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.types import highest
from tinydistilbert.report import compression, figures, paper_tables, scores, summary
from tinydistilbert.report.calibration import calibration_lines, confusion_table
from tinydistilbert.report.chosen import chosen_answers
from tinydistilbert.report.differences import differences_table, row_differences
from tinydistilbert.report.earlier_page import NO_PAGE, EarlierPage
from tinydistilbert.report.examples import read_examples
from tinydistilbert.report.html import figure, render
from tinydistilbert.report.label_table import label_table
from tinydistilbert.report.read import read_log, read_run
from tinydistilbert.report.surest import surest_errors
from tinydistilbert.report.use import best_facts
from tinydistilbert.report.variants_table import variants_table
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import LOG, RunFolder, released_models
from tinydistilbert.run_record import kept_lost, kept_notices
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Task


def _faults(settings: Recipe) -> tuple[str, ...]:
    """Return the faults of TinyDistilBERT's notebook that a recipe with its losses repeats, a sentence each."""
    if settings.objective.reduction != "notebook":
        return ()
    optimization, size = settings.distill.optimization, settings.corpus.block_size
    accumulated = optimization.gradient_accumulation_steps
    kept = {
        "the KL is summed over all positions, padding too, and divided by the batch only": highest(
            settings.objective.kl
        )
        > 0,
        "the cosine loss is taken at [CLS] only": highest(settings.objective.cosine) > 0,
        "the student starts from random weights": settings.student.initialization == "random",
        f"each line is an input, blank ones too, padded or cut to {size} tokens": settings.corpus.packing == "lines",
        f"few optimiser steps: {accumulated} micro-batches of {optimization.batch_size} each": accumulated > 16,
    }
    return tuple(fault for fault, is_kept in kept.items() if is_kept)


def _score_figures(
    measurements: Sequence[Measurement], headline: summary.Summary, tasks: Mapping[str, Task]
) -> list[dict[str, Any]]:
    run_scores = scores.collect(measurements)
    real = [task for task in tasks.values() if not task.is_synthetic]
    chosen = real if scores.tasks_scored(run_scores, real) else list(tasks.values())
    caption = "Each model by task. Line: what was lost of the teacher’s score. Stroke: the majority baseline."
    drawn = figure(figures.task_scores(run_scores, chosen), caption)
    raw = headline.kept.raw if headline.kept else None
    if raw is not None and headline.speed_up is not None:
        caption = (
            f"Raw share of the teacher’s score ({headline.basis}) against speed-up. Squares: published, on GLUE and "
            "other machines; their share above the majority is not known."
        )
        drawn += figure(figures.trade(raw, headline.speed_up), caption)
    return drawn


def _compression(
    run: Path, settings: Recipe, measurements: Sequence[Measurement],
    compressed_models: Sequence[compression.CompressedModel],
) -> list[dict[str, Any]]:  # fmt: skip
    drawn = []
    for compressed in compressed_models:
        answers = chosen_answers(run, settings, compressed)
        table = compression.compression_table(compressed)
        svg = figures.pareto(
            [*compression.tradeoffs(compressed), *_teacher_point(compressed, measurements)], table.title
        )
        caption = "Up and to the left is better. Strokes: 95 % intervals. Filled: the chosen variant."
        drawn.append(
            {
                "table": table, "figures": figure(svg, caption), "title": compressed.task.title,
                "anchor": compressed.task.name if len(compressed_models) > 1 else "",
                # a page may be made again after only the numbers were published
                "use": best_facts(run, compressed, measurements)
                if atomic.is_finished(RunFolder(run).compressed(compressed.task.name).best) else None,
                "by_class": (label_table if answers.are_several else confusion_table)(answers) if answers else None,
                "calibration": calibration_lines(answers) if answers else [],
                "surest": surest_errors(answers) if answers else [],
            }
        )  # fmt: skip
    return drawn


def _teacher_point(
    compressed: compression.CompressedModel, measurements: Sequence[Measurement]
) -> list[figures.Tradeoff]:  # fmt: skip
    """Return the teacher's point, if it was scored and timed together with the variants."""
    timed = compressed.teacher.get(compression.TEACHER_TIME)
    teacher_score = scores.of_task(scores.collect(measurements), scores.TEACHER, compressed.task)
    if timed is None or teacher_score is None:
        return []
    interval = tuple(100 * end for end in teacher_score.middle.details["interval"])
    return [figures.Tradeoff(timed.model, timed.value, 100 * teacher_score.middle.value, interval, chosen=False)]


def _curves(run: RunFolder) -> list[dict[str, Any]]:
    held_out = "Thin: training; thick: held-out text."
    student = figures.loss_curves(read_log(run.student / LOG), "Distillation: terms of the loss over the steps")
    teacher = figures.loss_curves(read_log(run.teacher / LOG), "Adaptation of the teacher: loss over the steps")
    return [
        *figure(student, f"Distillation of the student, term by term. {held_out}"),
        *figure(teacher, f"Adaptation of the teacher to this text. {held_out}"),
    ]


def facts(
    command: str, settings: Recipe, measurements: Sequence[Measurement], notices: Sequence[str] = (),
    released: Sequence[str] = (),
) -> list[tuple[str, str]]:  # fmt: skip
    """Return recipe, machine, software and data behind the numbers, and notices about the data, as (name, value).

    Models whose weights were deleted are listed too.
    """
    last = measurements[-1].environment if measurements else {}
    dates = sorted(m.date for m in measurements)
    versions = ", ".join(f"{name} {last[name]}" for name in (*results.LIBRARIES, "python") if last.get(name))
    machines = dict.fromkeys(
        f"{machine.get('cpu') or 'unnamed CPU'}, {machine.get('cores')} cores, {machine.get('system')}"
        for machine in (m.environment for m in measurements)
    )
    given, teacher = settings.finetune.model, settings.teacher
    made_of = (
        [("Model", given)]
        if given
        else [
            ("Teacher", teacher.model + (f"@{teacher.revision}" if teacher.revision else "")),
            ("Text", settings.corpus.source),
        ]
    )
    fingerprints = sorted({m.data_fingerprint[:12] for m in measurements if m.data_fingerprint})
    hashes = {m.recipe_hash for m in measurements if m.recipe == settings.name}
    # A recipe that an earlier version hashed otherwise has the hash in its measurements.
    hashed = hashes.pop() if len(hashes) == 1 else schema.recipe_hash(settings)
    entries = [
        ("Recipe", f"{settings.name} ({hashed})"),
        ("Command", command),
        *made_of,
        ("Made", " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else ""),
        ("Commit", ", ".join(dict.fromkeys(c for m in measurements if (c := m.environment.get("commit"))))),
        ("Machine", "; ".join(machines)),
        ("Software", f"tinydistilbert {__version__}, {versions}"),
        ("Data, SHA-256", ", ".join(fingerprints)),
        ("Weights not kept", ", ".join(released)),
        *(("Notice", line) for line in notices),
    ]
    return [(name, value) for name, value in entries if value]


def _command_of(run: RunFolder, settings: Recipe) -> str:
    """Return a command that does what a run did, for runs that no command began: they were begun from Python."""
    is_preset = settings.name in toml.presets() and toml.load(settings.name) == settings
    name = settings.name if is_preset else shlex.quote(str(run.recipe))
    return f"tinydistilbert {'compress' if settings.compress.model else 'replicate'} {name}"


def write_report(
    run: Path, *, command: str = "", earlier: EarlierPage = NO_PAGE, compared: Sequence[Measurement] = ()
) -> Path:
    """Write `report.html` into the run folder and return its path.

    Args:
        run: the folder that `replicate` filled.
        command: the command that reproduces it; by default made from the recipe.
        earlier: a page whose curves and examples are shown if those of the run are gone.
        compared: differences between the rows, if they are not among the measurements.

    Raises:
        UserError: `run` is not a run folder.
    """
    folder = RunFolder(run)
    settings, stored = read_run(run)
    measurements, tasks = [*stored, *compared], tasks_of(settings.finetune)
    curves, example_groups = _curves(folder), read_examples(run, tasks)
    gone: dict[str, bool] = {
        "curves": bool(earlier.curves) and not curves,
        "examples": bool(earlier.examples) and not example_groups,
    }
    taken = " and ".join(name for name, is_gone in gone.items() if is_gone)
    headline = summary.summarize(measurements, tasks)
    every = paper_tables.all_tables(measurements, tasks)
    html = render(
        "page.html",
        name=settings.name,
        summary=headline,
        score_figures=_score_figures(measurements, headline, tasks),
        score_tables=[table for table in every if table.is_measured and table.name != "pretraining"],
        unmeasured=[table for table in every if not table.is_measured and table.name != "pretraining"],
        differences=differences_table(row_differences(measurements, tasks)),
        compressed=_compression(run, settings, measurements, compression.compressed_models(measurements, tasks)),
        variants=variants_table(measurements, tasks),
        pretraining=paper_tables.pretraining_table(measurements),
        curves=curves,
        example_groups=example_groups,
        earlier=earlier,
        faults=_faults(settings),
        facts=[
            *facts(
                command or _command_of(folder, settings),
                settings,
                stored,
                [
                    *(
                        f"{title}: failed, {why}; the same command tries it again"
                        for title, why in kept_lost(folder).items()
                    ),
                    *kept_notices(folder),
                ],
                [path.relative_to(run).as_posix() for path in released_models(folder)],
            ),
            *([("Made again", f"{taken} as on the earlier page; logs and samples were not kept")] if taken else []),
        ],
        recipe_toml=folder.recipe.read_text(encoding="utf-8"),
    )
    atomic.write_text(folder.report, html)
    return folder.report
