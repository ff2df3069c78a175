"""Figures: well-formed, the same bytes each time, in the page's own colours, and with the right points."""

import re
from xml.etree import ElementTree

import pytest

from tests import quick
from tinydistilbert.report import figures, scores
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS

LOG = [
    {"step": 1, "loss": 9.0, "kl": 4.0, "mlm": 6.0, "learning_rate": 1e-4},
    {"step": 2, "loss": 8.0, "kl": 3.0, "mlm": 5.0, "learning_rate": 1e-4},
    {"step": 2, "validation": {"kl": 3.5, "mlm": 5.5, "perplexity": 245.0}},
]


def measured(model: str, task: str, metric: str, value: float, majority: float | None = None) -> Measurement:
    return Measurement(model, task, metric, value, "validation", details={"majority": majority})


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_loss_curves_show_the_terms_that_are_there() -> None:
    svg = figures.loss_curves(LOG, 'Loss "over" steps')
    assert svg is not None
    assert {"KL, nats", "Masked LM, nats"} <= set(words(svg))
    assert "1 − cosine" not in words(svg)
    assert 'aria-label="Loss &quot;over&quot; steps"' in svg


def test_a_log_without_terms_shows_the_loss_and_an_empty_one_nothing() -> None:
    svg = figures.loss_curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "a")
    assert svg is not None and "Loss" in words(svg)
    assert figures.loss_curves([], "a") is None
    assert figures.loss_curves([{"step": 1, "tokens": 3}], "a") is None


def test_figures_are_deterministic_and_carry_no_date_style_or_fixed_colour() -> None:
    svg = figures.loss_curves(LOG, "a")
    quick.DRAWN.clear()
    assert svg is not None and svg == figures.loss_curves(LOG, "a")
    assert not re.search(r"<metadata|<style|<\?xml|<!DOCTYPE|\b20\d\d-\d\d", svg)
    assert not re.search(r"#0000[0-9]{2}\b", svg), "a colour that was not given to the page"
    assert "var(--series-1)" in svg and "var(--ink-2)" in svg


def test_task_scores_has_a_row_for_each_measured_task_only() -> None:
    collected = scores.collect(
        [
            measured("teacher", "sst2", "accuracy", 0.9, 0.5),
            measured("student", "sst2", "accuracy", 0.8, 0.5),
            measured("student", "rte", "accuracy", 0.6),
        ]
    )
    svg = figures.task_scores(collected, [TASKS[name] for name in ("sst2", "rte", "wnli")])
    assert svg is not None
    assert {"SST-2", "RTE", "Teacher", "Student", "Majority baseline"} <= set(words(svg))
    assert "WNLI" not in words(svg) and "Control" not in words(svg)
    assert figures.task_scores({}, [TASKS["sst2"]]) is None


def test_trade_places_the_published_students_where_the_paper_does() -> None:
    svg = figures.trade(raw_share=0.5, speed_up=3.0)
    assert {"DistilBERT", "TinyDistilBERT", "This run"} <= set(words(svg))
    # Seen from the axis: 3.0 times lies right of 423.65/215.79 = 1.96 times, which lies right of 668/410 = 1.63 times;
    # and lower is less: 50 % below 54.9/79.5 = 69 % below 77.0/79.5 = 97 %.
    markers = re.findall(
        r'<use xlink:href="#[^"]+" x="([0-9.]+)" y="([0-9.]+)" style="(?:fill|stroke): var\(--(\w+)\)', svg
    )
    points = [(float(x), float(y)) for x, y, colour in markers if colour in ("control", "student")]
    assert len(points) == 3
    distilbert, tiny, run = points
    assert distilbert[0] < tiny[0] < run[0]
    assert distilbert[1] < tiny[1] < run[1]
    horizontal = (run[0] - tiny[0]) / (tiny[0] - distilbert[0])
    assert abs(horizontal - (3.0 - 423.65 / 215.79) / (423.65 / 215.79 - 668 / 410)) < 1e-3


@pytest.mark.filterwarnings("error")
def test_a_row_of_an_ablation_may_have_any_name() -> None:
    """Dollar signs are no formula, and a long name leaves room for the drawing."""
    for name in ("from $1 to $2", r"$\frac$", "x" * 300):
        drawn = figures.effects([figures.Effect("baseline", [], None, [1.0]), figures.Effect(name, [1.0], None, [1.0])])
        longest = "x" * (figures.LONGEST_NAME - 1) + "…"
        assert drawn is not None and (name if len(name) < 300 else longest) in words(drawn)
