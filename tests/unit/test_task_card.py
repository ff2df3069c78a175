"""Cards of task models: what they say of scores and licences, and names that are meant to break them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml
from tinydistilbert.report import card_text
from tinydistilbert.report.card_subjects import CardSubject, RunFacts
from tinydistilbert.report.card_text import code, escaped
from tinydistilbert.report.inheritance import model_source
from tinydistilbert.report.task_card import task_card, verdict, write_export_card
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

HOSTILE = [
    "<script>alert(1)</script>", "![x](http://evil.example/x.png)", "[click](javascript:alert(1))", "a | b | c",
    "`rm -rf`", "``", "# heading", "---", "...\n---\nlicense: mit\n---\n", "{{ 7*7 }}", "*bold* _it_ ~~no~~", "$x$",
    "https://evil.example", "www.evil.example", "me@evil.example", "&lt;b&gt; &#60;b&#62;", "\\", "- item", "",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe", "\x1b[31mred", "a" * 5000, "'single' \"double\"", "!!python/object:os.system",
    "key: value", "yes", "null", "1e3", "<!-- tinydistilbert 0000000000000000 -->", "日本語",
]  # fmt: skip


def measured(row: str, value: float, **details: Any) -> Measurement:
    all_details = {"interval": [value - 0.02, value + 0.02], "majority": 0.5, "warnings": [], **details}
    return Measurement(
        row, "reviews", "accuracy", value, split="validation", examples=400, examples_total=400, details=all_details,
        environment={"cpu": "Some CPU"},
    )  # fmt: skip


def facts_of(tmp_path: Path, measurements: Sequence[Measurement], name: str = "mine", **finetune: Any) -> RunFacts:
    settings = {"custom": {"reviews": {"train": "secret/place/reviews.csv", "validation": "10%"}}, **finetune}
    recipe = toml.from_dict({"name": name, "finetune": {"tasks": ["reviews"], "model": "offline", **settings}}, name)
    return RunFacts(RunFolder(tmp_path), recipe, tuple(measurements))


def card_of(facts: RunFacts, folder: Path, labels: Sequence[str] = ("bad", "good"), **more: Any) -> str:
    atomic.write_json(folder / "config.json", {"id2label": {str(i): name for i, name in enumerate(labels)}})
    mine = tuple(m for m in facts.measurements if m.model == "model")
    subject = CardSubject(folder, f"{facts.recipe.name}: x", facts.tasks["reviews"], "model", mine, **more)
    return task_card(facts, subject)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_escaped_is_shown_and_does_nothing(text: str) -> None:
    (paragraph, inline, _) = MarkdownIt("gfm-like", {"linkify": False}).parse(f"x {escaped(text)} y")
    assert paragraph.type == "paragraph_open" and inline.children is not None
    assert {child.type for child in inline.children} <= {"text", "text_special"}, inline.children
    assert "".join(child.content for child in inline.children) == f"x {card_text._plain(text)} y".replace("  ", "  ")
    (_, inline, _) = MarkdownIt("commonmark").parse(f"x {code(text)} y")
    assert inline.children is not None
    assert [child.type for child in inline.children] == ["text", "code_inline", "text"]
    for sign in ("://", "www.", "@"):
        assert sign not in escaped(text), "GitHub makes links of bare addresses"


def test_names_of_others_break_neither_header_nor_page(tmp_path: Path) -> None:
    for name in filter(None, (" ".join(name.split()) for name in HOSTILE)):
        facts = facts_of(tmp_path, [measured("model", 0.8, warnings=[name])], name=name)
        text = card_of(facts, tmp_path / "model", [name, "good"], speed=(escaped(name),), form=escaped(name))
        card = ModelCard(text)
        assert card.data.license == "apache-2.0" and card.data.eval_results[0].metric_value == 0.8
        assert card.data.model_name == f"{name}: x"
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card.text)
        flat = [child.type for token in tokens for child in (token.children or [])] + [token.type for token in tokens]
        assert not {"html_block", "html_inline", "link_open", "image"} & set(flat), name
        assert flat.count("heading_open") == 7 and flat.count("tr_open") == 2, name


def test_what_is_kept_is_above_the_majority_and_only_of_a_teacher_that_beats_it(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, [measured("teacher", 0.9), measured("model", 0.8)])
    text = card_of(facts, tmp_path / "model")
    assert "keeps 75.0 % of the teacher’s score above the majority (raw share 88.9 %)" in text
    assert "| accuracy | validation | 80.0 | 78.0 to 82.0 | 400 | 50.0 | 90.0 | 75.0 % |" in text
    facts = facts_of(tmp_path, [measured("teacher", 0.51), measured("model", 0.8)])
    text = card_of(facts, tmp_path / "model")
    assert "cannot be determined: the teacher does not beat the majority baseline beyond chance" in text
    assert "| 51.0 | – |" in text.replace("—", "–")
    assert "no teacher was scored" in card_of(facts_of(tmp_path, [measured("model", 0.8)]), tmp_path / "model")
    assert "Nothing was measured" in card_of(facts_of(tmp_path, []), tmp_path / "model")


def test_numbers_of_the_card_are_those_of_the_measurements(tmp_path: Path) -> None:
    text = card_of(facts_of(tmp_path, [measured("model", 0.8125)]), tmp_path / "model", speed=("2 ms on Some CPU",))
    (result,) = ModelCard(text).data.eval_results
    assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("reviews", "custom", "validation")
    assert result.metric_value == 0.8125 and result.metric_name == "accuracy (95 % interval 0.7925 to 0.8325)"
    assert "2 ms on Some CPU" in text and "secret/place" not in text and "`reviews.csv`" in text
    assert "licence apache-2.0" in text and "its licence is unknown" in text


def test_paths_of_the_machine_are_in_no_card_even_after_they_are_gone(tmp_path: Path) -> None:
    text = card_of(facts_of(tmp_path, [measured("model", 0.8)], model="/home/me/models/teacher"), tmp_path / "model")
    assert "/home/me" not in text and "from `teacher`" in text


def test_a_number_that_is_none_is_in_no_card(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, [measured("model", math.nan)])
    folder = tmp_path / "model"
    atomic.write_json(folder / "config.json", {})
    assert "Nothing was measured" in verdict(facts, CardSubject(folder, "x", facts.tasks["reviews"], "model"))


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForTokenClassification", "token-classification"), ("BertForQuestionAnswering", "question-answering"),
        ("DistilBertForMaskedLM", "fill-mask"), ("BertForSequenceClassification", "text-classification"),
    ],
)  # fmt: skip
def test_an_export_of_a_model_from_elsewhere_has_a_card(tmp_path: Path, architecture: str, task: str) -> None:
    output = tmp_path / "output"
    atomic.write_json(output / "config.json", {"architectures": [architecture], "id2label": {"0": "a", "1": "b"}})
    data = ModelCard.load(write_export_card(tmp_path / "from" / "elsewhere", output)).data
    assert (data.pipeline_tag, data.license, data.library_name) == (task, "unknown", "transformers")


def test_a_run_that_cannot_be_read_is_said_and_the_export_stays(tmp_path: Path) -> None:
    notices.begin()
    source, output = tmp_path / "run/tasks/reviews/model/seed-0/model", tmp_path / "output"
    atomic.write_text(tmp_path / "run" / "recipe.toml", "of = 'another version'")
    atomic.write_json(output / "config.json", {"architectures": ["BertForSequenceClassification"]})
    assert "Nothing was measured" in write_export_card(source, output).read_text()
    assert "does not describe the run" in " ".join(notices.all_notices())


def test_the_licence_of_a_folder_is_that_of_its_card(tmp_path: Path) -> None:
    assert "unknown" in model_source("Weights", str(tmp_path), None).line
    for content, licence in (("---\nlicense: mit\n---\n", "mit"), ("---\nlicense: [\n---\n", None), ("none", None)):
        (tmp_path / "README.md").write_text(content)
        assert model_source("Weights", str(tmp_path), None).licence == licence


def test_a_card_that_was_changed_by_hand_is_kept(tmp_path: Path) -> None:
    notices.begin()
    path = card_text.write(tmp_path, "---\nlicense: mit\n---\n\n# one\n")
    assert card_text.is_as_written(path)
    card_text.write(tmp_path, "---\nlicense: mit\n---\n\n# two\n")
    assert "# two" in path.read_text() and not notices.all_notices()
    path.write_text(path.read_text().replace("# two", "# mine"))
    card_text.write(tmp_path, "---\nlicense: mit\n---\n\n# three\n")
    assert "# mine" in path.read_text() and "changed by hand" in notices.all_notices()[0]


@pytest.mark.parametrize("content", [b"", b"# no header", b"---\nlicense: [\n---\n", b"---\n- a list\n---\n", b"\xff"])
def test_a_card_that_the_hub_would_refuse_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(UserError, match="a card with a header"):
        card_text.read_card(tmp_path / "README.md")
