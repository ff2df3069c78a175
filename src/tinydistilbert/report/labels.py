"""Names beside the points of a chart, placed so that none covers another name or a point or crosses the edge."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # saves half a second in every command that draws nothing
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
GAP = 2.0
"""Points between a name and anything that it must not touch."""
DISTANCES = (7, 13, 20, 28, 37, 47, 58, 70, 85, 100, 120, 140)
"""Distances of a name from its point, nearest first."""
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
RADIUS = 4.0
"""Radius of a point."""
LED_FROM = 13
"""From this distance on, a line connects a name with its point."""


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], bounds: Box, radius: float,
    line: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float] | None]:  # fmt: skip
    """Return the lower left corner of each name, as near to its point as there is room; None if there is no room.

    Args:
        points: centres of the points, in the units of the rest.
        sizes: width and height of each name.
        bounds: no name goes beyond it.
        radius: radius of the points.
        line: corners of a line; a name covers it only if there is no other room.
    """
    marks = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    corners = list[tuple[float, float] | None]()
    taken, on_line = list(marks), list(_spots(line))
    for point, size in zip(points, sizes, strict=True):
        free = [box for box in _around(point, size) if _is_free(box, taken, bounds)]
        chosen = next(
            (box for box in free if not any(overlap(box, spot) for spot in on_line)), free[0] if free else None
        )
        corners.append(None if chosen is None else chosen[:2])
        taken += [] if chosen is None else [chosen]
    return corners


def _spots(line: Sequence[tuple[float, float]]) -> Iterator[Box]:
    for (x, y), (to_x, to_y) in pairwise(line):
        count = 1 + int(math.hypot(to_x - x, to_y - y) / GAP)
        for step in range(count + 1):
            at_x, at_y = x + (to_x - x) * step / count, y + (to_y - y) * step / count
            yield at_x, at_y, at_x, at_y


def _around(point: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    (x, y), (width, height) = point, size
    for distance, (right, up) in product(DISTANCES, DIRECTIONS):
        left = x + distance if right > 0 else x - distance - width if right < 0 else x - width / 2
        # Beside a far point, names move up and down with the distance; close beside it, by half a line.
        bottom = y - height / 2 + up * (distance if distance >= LED_FROM or not right else height / 2)
        left = left if distance < LED_FROM or not up else left - right * distance / 2
        yield left, bottom, left + width, bottom + height


def _is_free(box: Box, taken: Sequence[Box], bounds: Box) -> bool:
    is_inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
    return is_inside and not any(overlap(box, other, GAP) for other in taken)


def overlap(first: Box, second: Box, gap: float = 0.0) -> bool:
    """Whether two boxes share a point, or are closer to each other than `gap`."""
    return (
        first[0] < second[2] + gap and second[0] < first[2] + gap
        and first[1] < second[3] + gap and second[1] < first[3] + gap
    )  # fmt: skip


def name_points(
    axis: "Axes", points: Sequence[tuple[float, float, str]], *, size: float, colour: str,
    line: Sequence[tuple[float, float]] = (),
) -> None:  # fmt: skip
    """Write a name beside each point (x, y, name) of a chart whose limits and other content are final.

    A name without room is left out: a table with all of them stands beside every chart.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    figure = axis.get_figure()  # get_figure(root=True) needs matplotlib 3.10
    assert isinstance(figure, Figure), "the axis is of a figure, and no figure in another one"
    figure.draw_without_rendering()  # the layout moves the axis
    scale = 72 / figure.dpi

    def drawn(x: float, y: float) -> tuple[float, float]:
        across, up = axis.transData.transform((x, y))
        return float(scale * across), float(scale * up)

    font, height = FontProperties(size=size), 1.2 * size
    sizes = [(TextToPath().get_text_width_height_descent(name, font, False)[0], height) for *_, name in points]
    edge = axis.get_window_extent()
    bounds = (scale * edge.x0, scale * edge.y0, scale * edge.x1, scale * edge.y1)
    centres = [drawn(x, y) for x, y, _ in points]
    corners = place(centres, sizes, bounds, RADIUS, [drawn(x, y) for x, y in line])
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "shrinkA": 0, "shrinkB": RADIUS}
    for (x, y, name), at, (width, _), corner in zip(points, centres, sizes, corners, strict=True):
        if corner is None:
            continue
        left, bottom = corner[0] - at[0], corner[1] - at[1]
        away = max(left, -left - width, bottom, -bottom - height)
        written = axis.annotate(
            name, (x, y), (left, bottom + 0.25 * size), textcoords="offset points", fontsize=size,
            arrowprops=arrow if away >= LED_FROM else None,
        )  # fmt: skip
        written.set_in_layout(False)  # it would move the axis again
