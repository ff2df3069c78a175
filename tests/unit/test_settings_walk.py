"""The page about three settings: its files are there, mention what it says, and are counted right."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tinydistilbert"
PAGE = (ROOT / "docs/reference/settings-walk.md").read_text(encoding="utf-8")
SETTINGS = ("objective.temperature", "finetune.optimization.learning_rate", "compress.max_loss")
NAMES = "name the setting or its section"
WHOLE = "take the whole recipe"


def section_of(setting: str) -> str:
    """The part of the page about a setting now."""
    return PAGE.split(f"### Now: `{setting}`\n")[1].split("\n## ")[0]


def rows_of(setting: str) -> list[tuple[str, str]]:
    """Each file that names the setting, and what it mentions."""
    return re.findall(r"^\| `([\w/]+\.py)` \| `([^`]+)` \|", section_of(setting), re.MULTILINE)


def whole_recipe_of(setting: str) -> list[str]:
    """The files on the way that take the whole recipe."""
    (sentence,) = re.findall(r"The whole recipe on the way: (.*?)\.\n", f"{section_of(setting)}\n", re.DOTALL)
    return re.findall(r"`([\w/]+\.py)`", sentence)


def counts_now(kind: str) -> list[int]:
    """The numbers of files of a kind, as the table at the top has them, in the order of `SETTINGS`."""
    (cells,) = re.findall(rf"^\| {kind} \| (.*) \|$", PAGE, re.MULTILINE)
    return [int(cell) for cell in cells.split(" | ")[1::2]]


@pytest.mark.parametrize("setting", SETTINGS)
def test_files_mention_what_the_page_says(setting: str) -> None:
    rows = rows_of(setting)
    assert len(rows) > 3
    for file, mention in rows:
        assert mention in (PACKAGE / file).read_text(encoding="utf-8"), (file, mention)
    for file in whole_recipe_of(setting):
        assert re.search(r"\brecipe: Recipe\b|\brun\.recipe\b", (PACKAGE / file).read_text(encoding="utf-8")), file


def test_every_file_of_today_that_is_named_is_there() -> None:
    paragraphs = [text for text in PAGE.split("\n\n") if not text.startswith("Before:")]
    named = {file for text in paragraphs for file in re.findall(r"`([\w/]+\.py)`", text)}
    assert len(named) > 20
    assert [file for file in sorted(named) if not (PACKAGE / file).is_file()] == []


def test_no_other_file_reads_the_points_that_may_be_lost() -> None:
    named = {file for file, _ in rows_of("compress.max_loss")}
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "max_loss" in path.read_text("utf-8")}
    assert files <= named


def test_the_counts_are_those_of_the_lists() -> None:
    assert counts_now(NAMES) == [len(rows_of(setting)) for setting in SETTINGS]
    assert counts_now(WHOLE) == [len(whole_recipe_of(setting)) for setting in SETTINGS]


def test_the_temperature_is_known_to_six_files_at_most() -> None:
    assert len(rows_of("objective.temperature")) <= 6
