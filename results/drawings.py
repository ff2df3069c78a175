"""Figures of the documentation as standalone SVG files, with the colours of the report pages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.report.figures import INK, SERIES, logarithmic, new_figure, style, to_svg
from tinydistilbert.report.labels import name_points

PAGE_STYLE = Path(__file__).resolve().parents[1] / "src" / "tinydistilbert" / "report" / "templates" / "page.css"
"""Has the colours, for light and for dark."""


@dataclass(frozen=True)
class ScoredModel:
    """A model in the picture of scores against time."""

    name: str
    milliseconds: float
    score: float
    series: str
    """`published`, `teacher` or `student`."""
    chosen: bool = False


def score_against_time(models: Sequence[ScoredModel], title: str, unit: str) -> str:
    """Score against milliseconds: squares are published, a line goes from each form of the student to the next.

    It stands for itself, as a file: it brings the colours of the pages with it, in light and in dark.

    Args:
        models: in the order of the line.
        title: for whoever does not see it.
        unit: beside the vertical axis.
    """
    colours = {"published": SERIES["control"], "teacher": SERIES["teacher"], "student": SERIES["student"]}
    with style(**{"font.size": 11, "axes.labelsize": 11}):
        figure, (axis,) = new_figure(3.6)
        line = [(model.milliseconds, model.score) for model in models if model.series != "published"]
        axis.plot(*zip(*line, strict=True), color=SERIES["student"], linewidth=1, alpha=0.5)
        for model in models:
            colour = colours[model.series]
            axis.scatter(
                model.milliseconds, model.score, s=46, marker="s" if model.series == "published" else "o",
                facecolors=colour if model.chosen or model.series == "published" else "none", edgecolors=colour,
                zorder=3,
            )  # fmt: skip
        times = [model.milliseconds for model in models]
        logarithmic(axis, min(times) / 1.6, max(times) * 1.6)
        axis.margins(y=0.14)
        axis.set_xlabel("milliseconds of one input, one core")
        axis.set_ylabel(unit)
        ordered = sorted(models, key=lambda model: model.milliseconds)
        name_points(axis, [(m.milliseconds, m.score, m.name) for m in ordered], size=10.5, colour=INK, line=line)
        return standing_alone(to_svg(figure, title))


@dataclass(frozen=True)
class Difference:
    """Of two rows, the first minus the second."""

    name: str
    value: float
    interval: tuple[float, float]


def differences(rows: Sequence[Difference], title: str, unit: str) -> str:
    """Differences with their intervals, a line each; filled where the interval does not hold 0. A file of its own.

    Args:
        rows: from the top.
        title: for whoever does not see it.
        unit: under the horizontal axis; the values are shares, and shown in points.
    """
    with style(**{"font.size": 10, "axes.labelsize": 10}):
        figure, (axis,) = new_figure(0.7 + 0.24 * len(rows))
        axis.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for y, row in enumerate(rows):
            low, high = row.interval
            axis.plot([100 * low, 100 * high], [y, y], color=SERIES["student"], linewidth=1.4)
            face = SERIES["student"] if low > 0 or high < 0 else "none"
            axis.scatter(100 * row.value, y, s=30, facecolors=face, edgecolors=SERIES["student"], zorder=3)
        axis.set_yticks(range(len(rows)), [row.name for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(unit)
        return standing_alone(to_svg(figure, title))


def standing_alone(svg: str) -> str:
    """A figure as a file of its own, with the variables that it uses and a size."""
    css = PAGE_STYLE.read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"(--[a-z0-9-]+): ([^;]+);", block)) for block in re.findall(r":root {([^}]*)}", css)[:2]
    )
    used = sorted(set(re.findall(r"var\((--[a-z0-9-]+)\)", svg)))

    def variables(values: Mapping[str, str]) -> str:
        return "svg {" + "".join(f"{name}: {values[name]};" for name in used if name in values) + "}"

    colours = f"<style>{variables(light)}\n@media (prefers-color-scheme: dark) {{{variables(dark)}}}</style>"
    width, height = re.findall(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)[0]
    size = f'width="{1.5 * float(width):.0f}" height="{1.5 * float(height):.0f}"'
    end = svg.index(">")
    return f"{svg[:end]} {size}>{colours}{svg[end + 1 :]}\n"
