"""F1 and exact match by characters of scripts without blanks: MLQA's rule on worked cases, chosen and named."""

from typing import Any

import pytest

from tinydistilbert.cli.parser import parse
from tinydistilbert.evaluation.answer_units import characters, without_blanks, words
from tinydistilbert.evaluation.metrics import squad_exact_match, squad_f1, squad_scores
from tinydistilbert.evaluation.scoring import notes_on_answers
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.report.paper_tables import all_tables
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.custom import custom_task


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("今天天气很好", ["今", "天", "天", "气", "很", "好"]),
        ("《红楼梦》。", ["红", "楼", "梦"]),
        ("iPhone 15 手机", ["iphone", "15", "手", "机"]),
        ("约1,000名the学生", ["约", "1000", "名", "the", "学", "生"]),
        ("カメラとﾃﾚﾋﾞ", ["カ", "メ", "ラ", "と", "ﾃ", "ﾚ", "ﾋ", "ﾞ"]),
        ("ที่นี่", ["ที่", "นี่"]),  # marks belong to their letter
        ("the Old House", ["the", "old", "house"]),
        ("서울 특별시", ["서울", "특별시"]),  # Korean has blanks
        ("。、 ", []),
    ],
)
def test_characters_are_those_of_scripts_without_blanks(text: str, units: list[str]) -> None:
    assert characters(text) == units


def test_the_official_rule_stays_the_default() -> None:
    assert squad_f1("天气很好", ["今天天气很好"]) == 0 and squad_f1("der Hund", ["Hund"]) == pytest.approx(2 / 3)
    assert words("The “old” house, a b-c") == ["“old”", "house", "bc"]


def test_f1_and_exact_match_by_characters() -> None:
    assert squad_f1("天气很好", ["今天天气很好"], "characters") == pytest.approx(2 * 4 / 10)
    assert squad_exact_match("《红楼梦》", ["红 楼 梦"], "characters") == 1
    assert squad_exact_match("红楼", ["红楼梦"], "characters") == 0
    scores = squad_scores(["天气", "", "好"], [["天气好"], [], []], "characters")
    assert scores["f1"].tolist() == pytest.approx([0.8, 1, 0])


def chinese(answers: list[str], **settings: Any) -> Examples:
    task = custom_task("fragen", CustomTask(train="a.json", kind="span", **settings))
    count = len(answers)
    columns = {
        "id": [*map(str, range(count))], "question": ["?"] * count, "context": answers,
        "answers": [{"text": [answer], "answer_start": [0]} if answer else {"text": [], "answer_start": []}
                    for answer in answers],
    }  # fmt: skip
    return Examples(task, "validation", columns, count)


def test_that_f1_says_little_is_noted_where_most_answers_have_no_blanks() -> None:
    assert without_blanks(["天气很好", "1976", "東京 Tower", "Wien"]) == 2
    (note,) = notes_on_answers(chinese(["天气很好", "红楼梦", "1976", ""]))
    assert "2 of 3 answers" in note and "--answer-units" in note
    assert notes_on_answers(chinese(["天气很好", "Wien", "1976"])) == []
    assert notes_on_answers(chinese(["天气很好"], answer_units="characters")) == []


def test_the_table_names_the_rule_and_the_notes() -> None:
    task = custom_task("fragen", CustomTask(train="a.json", kind="span", answer_units="characters"))
    details = {"notes": ["2 of 3 answers are odd"], "majority": 0.1, "interval": [0, 1], "warnings": []}
    shared: dict[str, Any] = {"split": "validation", "seed": 0, "details": details}
    measured = [
        Measurement("model", "fragen", metric, value, examples=count, examples_total=count, **shared)
        for metric, value, count in (
            ("f1", 0.5, 9), ("exact_match", 0.4, 9), ("has_ans_f1", 0.8, 5), ("no_ans_f1", 0.125, 4),
        )
    ]  # fmt: skip
    (table,) = (table for table in all_tables(measured, TASKS | {"fragen": task}) if table.name == "custom")
    assert "fragen, F1 of characters" in table.columns
    notes = "\n".join(table.notes)
    assert "5 and 4 questions with and without an answer: Model 80.0 and 12.5" in notes
    assert "fragen: 2 of 3 answers are odd." in notes and "MLQA" in notes


def test_the_rule_is_chosen_by_a_flag() -> None:
    given = ["finetune", "--model", "m", "--data", "a.json", "--kind", "span", "--answer-units", "characters"]
    assert "characters" in parse(given).custom_task.values()
    task = custom_task("mine", CustomTask(train="a.json", kind="span", answer_units="characters"))
    assert task.answer_units == "characters" and TASKS["squad"].answer_units == "words"
