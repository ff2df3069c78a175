"""Flags: the recipe's own keys, and the short ones that stand for a key."""

import pytest

from tinydistilbert.cli.flags import parse
from tinydistilbert.cli.main import main
from tinydistilbert.errors import UserError


def test_the_time_budget_has_a_short_flag() -> None:
    assert parse(["quickstart", "--distill.max_steps", "0", "--time-budget", "20m"]).recipe.distill.time_budget == "20m"
    short = ["minilm", "--time-budget=1h30m"]
    assert parse(short) == parse(["minilm", "--distill.time_budget", "1h30m"])
    with pytest.raises(UserError, match=r"distill\.time_budget.*'soon'"):
        parse(["minilm", "--time-budget", "soon"])


def test_help_names_ablate_and_the_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ablate", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("tinydistilbert ablate RECIPE") and "--time-budget 20m" in text and "--ablate.seeds" in text
    main(["--help"])
    assert "\n  ablate " in capsys.readouterr().out
