"""The progress line."""

import pytest

from tinydistilbert.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_time_left_counts_only_the_steps_of_this_process() -> None:
    progress = Progress("fit", 100, done=50)
    progress.start -= 10  # ten seconds ago
    line = progress.line(60, 5000, {"kl": 0.25})
    assert "step 60/100" in line and "kl 0.250" in line and "40 s left" in line
    assert "500 tokens/s" in line
