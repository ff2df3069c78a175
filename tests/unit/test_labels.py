"""Names beside the points of a chart: near them, and never on one another."""

import itertools
import random
import re
from typing import Any

import pytest

from tinydistilbert.report import figures
from tinydistilbert.report.figures import Tradeoff
from tinydistilbert.report.labels import RADIUS, Box, overlap, place

BOUNDS = (0.0, 0.0, 400.0, 300.0)


def boxes(corners: list[tuple[float, float] | None], sizes: list[tuple[float, float]]) -> list[Box]:
    placed = [(corner, size) for corner, size in zip(corners, sizes, strict=True) if corner]
    return [(*corner, corner[0] + size[0], corner[1] + size[1]) for corner, size in placed]


def placed_corners(*arguments: Any) -> list[tuple[float, float]]:
    return [corner for corner in place(*arguments) if corner]


def test_a_name_alone_stands_right_of_its_point_and_one_at_the_edge_left_of_it() -> None:
    ((x, y),) = placed_corners([(100, 100)], [(50, 10)], BOUNDS, RADIUS)
    assert 100 + RADIUS < x < 112 and y == 95
    ((x, y),) = placed_corners([(390, 100)], [(50, 10)], BOUNDS, RADIUS)
    assert x + 50 < 390 - RADIUS and y == 95


@pytest.mark.parametrize("seed", range(10))
def test_no_name_lies_on_a_name_on_a_point_or_over_the_edge(seed: int) -> None:
    draw = random.Random(seed)
    points = [(draw.uniform(150, 250), draw.uniform(120, 180)) for _ in range(9)]
    sizes = [(draw.uniform(20, 110), 9.0) for _ in points]
    placed = boxes(place(points, sizes, BOUNDS, RADIUS), sizes)
    marks = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    assert len(placed) == len(points)
    assert not any(overlap(one, other) for one, other in itertools.combinations(placed, 2))
    assert not any(overlap(name, mark) for name in placed for mark in marks)
    assert all(min(left, low) >= 0 and right <= 400 and high <= 300 for left, low, right, high in placed)


def test_a_name_leaves_a_line_free_where_it_can() -> None:
    line = [(100.0, 100.0), (200.0, 100.0)]
    ((x, y),) = placed_corners([(100, 100)], [(50, 10)], BOUNDS, RADIUS, line)
    assert not x <= 150 <= x + 50 or not y <= 100 <= y + 10
    assert place([(10, 5)], [(50, 10)], (0, 0, 68, 11), RADIUS, [(10, 5), (60, 5)]) == [(17, 0)], "no other room"


def test_a_name_without_room_is_left_out() -> None:
    assert place([(10, 10)], [(50, 10)], (0, 0, 40, 40), RADIUS) == [None]


def test_names_of_variants_that_are_equally_fast_are_written_apart() -> None:
    variants = [Tradeoff(f"a variant of number {n}", 1 + n / 100, 80 + n / 50, (79, 81), False) for n in range(12)]
    svg = figures.pareto(variants, "a")
    spots = [(float(x), float(y)) for x, y in re.findall(r'<text[^>]* x="([0-9.]+)" y="([0-9.]+)"[^>]*>a variant', svg)]
    assert len(spots) == 12
    assert all(
        abs(y - other_y) > 8 or abs(x - other_x) > 60 for (x, y), (other_x, other_y) in itertools.combinations(spots, 2)
    )
