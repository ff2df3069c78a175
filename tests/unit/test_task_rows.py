"""A task is a row: one that is added to `TASKS` is read, estimated, scored and reported without another edit."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tinydistilbert import results
from tinydistilbert.dry_run.sizes import task_size
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus, Finetune, Recipe
from tinydistilbert.report import paper_tables
from tinydistilbert.report.card import model_card
from tinydistilbert.report.page import write_report
from tinydistilbert.report.summary import summarize
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, load_examples
from tinydistilbert.tasks.base import ScoreTable, Task

TABLE = ScoreTable("weather", "Table 9. Weather", "Made up.", unit="forecast")
ROW = Task(
    name="rain", title="Rain", table=TABLE, kind="regression", text="forecast", text_pair=None, labels=(),
    label="millimetres", label_range=(0.0, 300.0), metrics=("pearson", "spearman"), headline="spearman",
    folder="weather/rain", hub=("nobody/weather", None), max_length=16, typical_length=7,
    official={"train": 9000, "validation": 500}, published={"spearman": {"BERT-base": 61.5, "Barometer": 44.25}},
)  # fmt: skip


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "rain", ROW)


def measured() -> list[Measurement]:
    details = {"interval": [0.4, 0.6], "majority": 0.0}
    return [
        Measurement(model, "rain", "spearman", value, "validation", examples=500, examples_total=500, details=details)
        for model, value in (("teacher", 0.6), ("student", 0.54))
    ]


def test_its_rows_are_read_and_its_range_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "weather" / "rain" / "train.csv"
    file.parent.mkdir(parents=True)
    file.write_text("forecast,millimetres\nshowers,12.5\ndrizzle,0\n")
    examples = load_examples(ROW, "train", data=str(tmp_path), corpus=Corpus(), limit=0, seed=0)
    assert examples.columns == {"idx": [0, 1], "text": ["showers", "drizzle"], "label": [12.5, 0.0]}
    assert examples.total == 9000
    file.write_text("forecast,millimetres\nflood,300.5\n")
    with pytest.raises(UserError, match=r"train\.csv:2, column millimetres: .*0\.0 to 300\.0"):
        load_examples(ROW, "train", data=str(tmp_path), corpus=Corpus(), limit=0, seed=0)


def test_the_dry_run_has_its_published_sizes_and_typical_length(tokenizer: PreTrainedTokenizerFast) -> None:
    size = task_size(
        Recipe(name="test", finetune=Finetune(tasks=("rain",))), "rain", tokenizer, reach=512, max_length=16
    )
    assert size is not None
    assert (size.examples, size.evaluation_examples, size.length, size.longest) == (9000, 500, 7, 16)


def test_its_table_stands_in_the_report_with_the_published_numbers() -> None:
    (table,) = [table for table in paper_tables.all_tables(measured()) if table.name == "weather"]
    assert table.title == "Table 9. Weather" and table.columns == ("Model", "Rain, Spearman")
    cells = {row.cells[0].text: (row.kind, row.cells[1].text) for row in table.rows}
    assert cells["BERT-base"] == ("published", "61.5") and cells["Barometer"] == ("published", "44.25")
    assert cells["Student"] == ("measured", "54.0") and cells["Student, % kept"] == ("derived", "90.0")


def test_verdict_page_and_card_name_it(tmp_path: Path) -> None:
    assert "90.0 %" in summarize(measured()).verdict and "1 forecast: Rain" in summarize(measured()).verdict
    (tmp_path / "recipe.toml").write_text('name = "test"\n')
    results.write(tmp_path / "results.jsonl", measured())
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Table 9. Weather" in page and ">Rain<" in page, "the table, and a line of the figure"
    assert "Table 9. Weather" in model_card(measured(), Recipe(name="test"), name="student")


def test_nothing_of_it_enters_other_tables() -> None:
    others = [table for table in paper_tables.all_tables(measured()) if table.name != "weather"]
    assert not any(table.is_measured for table in others)
