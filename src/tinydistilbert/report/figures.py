"""Figures as SVG text, byte-identical for the same numbers, in the page's own colours for light and dark mode."""

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.report import published, scores
from tinydistilbert.report.labels import name_points
from tinydistilbert.report.scores import TITLES, ScoresByRow
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.glue import TABLE as GLUE

if TYPE_CHECKING:  # saves half a second in every command that draws nothing
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours stand for variables of the page's style sheet, which defines a value for light and one for dark.
INK, GRID = "#000001", "#000002"
SERIES = {
    "teacher": "#000011", "student": "#000012", "student (D)": "#000012", "control": "#000013", "model": "#000012",
    "model (D)": "#000012",
}  # fmt: skip
CURVES = {name: (term.title, f"#00002{term.colour}") for name, term in TERMS.items()} | {"loss": ("Loss", "#000024")}
"""Title and colour of the curve of each loss term, and of their weighted sum if a log has no terms."""
_VARIABLES = {
    INK: "var(--ink-2)", GRID: "var(--line)", "#000011": "var(--teacher)", "#000012": "var(--student)",
    "#000013": "var(--control)", "#000021": "var(--series-1)", "#000022": "var(--series-2)",
    "#000023": "var(--series-3)", "#000024": "var(--series-4)",
}  # fmt: skip
MARKERS = {"teacher": "s", "student": "o", "student (D)": "D", "control": "^", "model": "o", "model (D)": "D"}
_STYLE: Any = {
    "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GRID, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0, "axes.grid": True, "grid.color": GRID,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollar signs
}  # fmt: skip
LONGEST_NAME = 48
"""Characters of a row's name that leave room for the drawing."""
WIDTH = 5.2
"""Inches of 72 points: about the width of a phone, so that text stays readable there."""


def style(**settings: Any) -> "AbstractContextManager[None]":
    """Draw in the body with the style of all figures and these further settings of matplotlib."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE | settings)


def to_svg(figure: "Figure", label: str) -> str:
    """Return the figure as inline SVG named `label` for screen readers, without date, prolog or global styles."""
    stream = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style(**{"svg.hashsalt": label}):
        figure.savefig(stream, format="svg", metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]+", r"font: \1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", text)  # matplotlib 3.11 writes it separately
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Unreferenced names are the same in every figure, and a page has several figures.
    referenced = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in referenced else "", text)
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box, "matplotlib always writes a view box"
    head = f'<svg {view_box.group()} role="img" aria-label="{escape(label)}" xmlns="http://www.w3.org/2000/svg" '
    head += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + text[text.index(">") + 1 :].strip()


def new_figure(height: float, panels: int = 1) -> tuple["Figure", list["Axes"]]:
    """Return a figure of that many panels, three in a row; `height` is the height of one row."""
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    for axis in axes:
        axis.patch.set_alpha(0)
    return figure, axes


def loss_curves(log: Sequence[Mapping[str, Any]], title: str) -> str | None:
    """Draw the loss terms over the steps, thin in training, thick on held-out text; None for an empty log.

    `log` holds the lines of a log.jsonl. Each term has its own scale: they have different units.
    """
    train = [line for line in log if "validation" not in line]
    held_out = [(line["step"], line["validation"]) for line in log if "validation" in line]
    present = {name for line in train for name in line} | {name for _, values in held_out for name in values}
    terms = [name for name in TERMS if name in present] or [name for name in ("loss",) if name in present]
    if not terms:
        return None
    with style():
        figure, axes = new_figure(2.4, len(terms))
        for axis, name in zip(axes, terms, strict=True):
            curve_title, colour = CURVES[name]
            points = [(line["step"], line[name]) for line in train if line.get(name) is not None]
            checked = [(step, values[name]) for step, values in held_out if values.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.55)
            if checked:
                axis.plot(*zip(*checked, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.5)
            axis.set_title(curve_title, fontsize=9, loc="left")
            axis.set_xlabel("step")
            axis.locator_params(axis="x", nbins=3)
            axis.locator_params(axis="y", nbins=5)
        return to_svg(figure, title)


def task_scores(run_scores: ScoresByRow, tasks: Sequence[Task]) -> str | None:
    """Draw a line per task with a mark for every measured row and the majority baseline; None without scores."""
    tasks = scores.tasks_scored(run_scores, tasks)
    if not tasks:
        return None
    with style():
        figure, (axis,) = new_figure(0.9 + 0.32 * len(tasks))
        rows = range(len(tasks))
        majority = [_majority(run_scores, task) for task in tasks]
        known = [(100 * value, row) for row, value in enumerate(majority) if value is not None]
        if known:
            x, y = zip(*known, strict=True)
            axis.scatter(x, y, marker="|", s=90, color=INK, linewidths=1.2, label="Majority baseline")
        for model in ("control", "teacher", "student", "student (D)", "model", "model (D)"):
            by_row = [(row, scores.of_task(run_scores, model, task)) for row, task in enumerate(tasks)]
            points = [(100 * score.value, row) for row, score in by_row if score is not None]
            if points:
                x, y = zip(*points, strict=True)
                axis.scatter(x, y, marker=MARKERS[model], s=34, color=SERIES[model], label=TITLES[model], zorder=3)
        for row, task in enumerate(tasks):
            teacher, *students = (
                scores.of_task(run_scores, model, task) for model in ("teacher", "student", "model (D)")
            )
            for score in students:
                if teacher is not None and score is not None:
                    ends = [100 * teacher.value, 100 * score.value]
                    axis.plot(ends, [row, row], color=INK, linewidth=1, alpha=0.6, zorder=2)
        axis.set_yticks(list(rows), [task.title for task in tasks])
        axis.invert_yaxis()
        axis.set_ylim(len(tasks) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("points")
        figure.legend(loc="outside upper left", ncols=5, fontsize=8, columnspacing=0.9, handletextpad=0.3, borderpad=0)
        return to_svg(figure, "Scores by model and task, in points")


@dataclass(frozen=True)
class Effect:
    """The result of one row of an ablation: each number has a value per seed, none if it was not measured."""

    name: str
    change: Sequence[float]
    """Change of the task mean against the baseline, in points."""
    published: float | None
    """The same change in the paper."""
    kl: Sequence[float]
    """KL to the teacher on held-out text, in nats."""


def _shortened(row: Effect) -> str:
    return row.name if len(row.name) <= LONGEST_NAME else f"{row.name[: LONGEST_NAME - 1]}…"


def effects(rows: Sequence[Effect]) -> str | None:
    """Draw a line per row of an ablation: change of the task mean on the left, KL on the right; None without numbers.

    A point is the median over seeds, its line the range; a square is the published change.
    """
    rows = [row for row in rows if row.change or row.kl]
    if not rows:
        return None
    from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

    has_change = any(row.change for row in rows)
    with style():
        figure, axes = new_figure(1.0 + 0.24 * len(rows), 2 if has_change else 1)
        if has_change:
            axes[0].axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            known = [(row.published, y) for y, row in enumerate(rows) if row.published is not None]
            if known:
                x, y = zip(*known, strict=True)
                axes[0].scatter(x, y, marker="s", s=26, color=SERIES["control"], label="Published")
            _spreads(axes[0], [row.change for row in rows])
            axes[0].set_xlabel("Δ of the task mean, points")
        _spreads(axes[-1], [row.kl for row in rows])
        axes[-1].set_xlabel("KL to teacher, nats")
        axes[-1].set_xscale("log")
        axes[-1].xaxis.set_major_locator(MaxNLocator(4))
        axes[-1].xaxis.set_minor_locator(NullLocator())
        axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for index, axis in enumerate(axes):
            axis.set_yticks(range(len(rows)), list(map(_shortened, rows)) if index == 0 else [""] * len(rows))
            axis.set_ylim(len(rows) - 0.5, -0.5)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
        return to_svg(figure, "Change of the task mean and KL to the teacher, row by row")


def _spreads(axis: "Axes", values: Sequence[Sequence[float]]) -> None:
    """Draw a point at the median of each row's values, and a line over their range."""
    measured = [(y, sorted(by_seed)) for y, by_seed in enumerate(values) if by_seed]
    for y, by_seed in measured:
        axis.plot([by_seed[0], by_seed[-1]], [y, y], color=SERIES["student"], linewidth=1.2, alpha=0.6)
    x = [statistics.median(by_seed) for _, by_seed in measured]
    axis.scatter(x, [y for y, _ in measured], s=30, color=SERIES["student"], zorder=3, label="Measured")


@dataclass(frozen=True)
class Tradeoff:
    """A variant of a model: its score and its time."""

    name: str
    milliseconds: float
    score: float
    interval: tuple[float, ...]
    chosen: bool


def pareto(variants: Sequence[Tradeoff], title: str) -> str:
    """Draw score against milliseconds of one model's variants; the line joins those that no other beats in both.

    Bars are 95 % intervals of the scores. The chosen variant is filled.
    """
    best, frontier = float("-inf"), []
    for variant in sorted(variants, key=lambda variant: (variant.milliseconds, -variant.score)):
        if variant.score > best:
            best = variant.score
            frontier.append((variant.milliseconds, variant.score))
    with style():
        figure, (axis,) = new_figure(3.2 + 0.06 * len(variants))  # room for their names
        axis.plot(*zip(*frontier, strict=True), color=SERIES["student"], linewidth=1, alpha=0.5)
        for variant in variants:
            axis.plot([variant.milliseconds] * 2, variant.interval[:2], color=INK, linewidth=0.8, alpha=0.4)
            face = SERIES["student"] if variant.chosen else "none"
            axis.scatter(
                variant.milliseconds, variant.score, s=46, facecolors=face, edgecolors=SERIES["student"], zorder=3
            )
        times = [variant.milliseconds for variant in variants]
        logarithmic(axis, min(times) / 1.3, max(times) * 2.4)
        axis.set_xlabel("milliseconds of one input, one core")
        axis.set_ylabel("points")
        axis.margins(y=0.12)
        ordered = sorted(variants, key=lambda variant: variant.milliseconds)
        name_points(axis, [(v.milliseconds, v.score, v.name) for v in ordered], size=7.5, colour=INK, line=frontier)
        return to_svg(figure, title)


def logarithmic(axis: "Axes", lowest: float, highest: float) -> None:
    """Set a logarithmic horizontal axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_xscale("log")
    axis.set_xlim(lowest, highest)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def best_so_far(trials: Sequence[tuple[int, float]], unit: str, *, highest: bool) -> str:
    """Draw the value of each trial of a sweep, and the best value up to each.

    Args:
        trials: number and value of the finished trials, in order.
        unit: label of the vertical axis.
        highest: whether more is better.
    """
    from matplotlib.ticker import MaxNLocator

    numbers, values = zip(*sorted(trials), strict=True)
    best = [(max if highest else min)(values[: index + 1]) for index in range(len(values))]
    with style():
        figure, (axis,) = new_figure(2.6)
        axis.scatter(numbers, values, s=26, color=SERIES["control"])
        axis.step(numbers, best, where="post", color=SERIES["student"], linewidth=1.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("trial")
        axis.set_ylabel(unit)
        return to_svg(figure, "Each trial, and the best so far")


def _majority(run_scores: ScoresByRow, task: Task) -> float | None:
    known = [score.majority for model in TITLES if (score := scores.of_task(run_scores, model, task)) is not None]
    return next((value for value in known if value is not None), None)


def trade(raw_share: float, speed_up: float) -> str:
    """Draw the share of the teacher's score against speed-up: this run's student beside the published students.

    Args:
        raw_share: student's score as a share of the teacher's; 1 = all of it.
        speed_up: teacher's seconds over the student's.
    """
    printed_scores, seconds = GLUE.published_scores, published.BERT_BASE.seconds
    replication = published.BERT_BASE.seconds_replication
    assert seconds and replication, "BERT-base has printed figures"
    points = []
    for row in (published.DISTILBERT, published.TINYDISTILBERT):
        row_seconds, reference = (row.seconds, seconds) if row.seconds else (row.seconds_replication, replication)
        assert row_seconds, f"{row.name} has printed figures"
        points.append(
            (
                row.name,
                reference / row_seconds,
                100 * printed_scores[row.name] / printed_scores[published.BERT_BASE.name],
            )
        )
    with style():
        figure, (axis,) = new_figure(3.3)
        axis.axhline(100, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for name, x, y in points:
            axis.scatter(x, y, marker="s", s=40, color=SERIES["control"])
            axis.annotate(name, (x, y), (-7, -3), textcoords="offset points", fontsize=8, ha="right")
        axis.scatter(speed_up, 100 * raw_share, marker="o", s=70, color=SERIES["student"], zorder=3)
        axis.annotate(
            "This run", (speed_up, 100 * raw_share), (8, -3), textcoords="offset points", fontsize=9, weight="bold"
        )
        every = [speed_up, *(x for _, x, _ in points)]
        axis.set_xlim(min(1.0, *every) - 0.05, 1 + 1.25 * (max(every) - 1))
        axis.set_ylim(min(60.0, 100 * raw_share - 8), max(104.0, 100 * raw_share + 5))
        axis.set_xlabel("speed-up over its teacher")
        axis.set_ylabel("% of its teacher's score, raw")
        return to_svg(figure, "Raw share of the teacher's score against speed-up")
