"""The model card: a header the hub reads, and only what was measured."""

from pathlib import Path

from huggingface_hub import ModelCard

from tinydistilbert import results
from tinydistilbert.recipe import schema, toml
from tinydistilbert.report.card import model_card, write_card
from tinydistilbert.results import Measurement
from tinydistilbert.storage import atomic

SIZES = [
    Measurement(model, "size", "parameters", millions * 1e6, details={"megabytes_fp32": 4 * millions})
    for model, millions in (("teacher", 20.0), ("student", 15.0))
]


def test_the_header_is_read_by_the_hub_library(tmp_path: Path) -> None:
    settings = toml.from_toml('name = "mine"\n[teacher]\nmodel = "bert-base-uncased"\n', "test")
    atomic.write_text(tmp_path / "recipe.toml", toml.to_toml(settings))
    results.write(tmp_path / "results.jsonl", SIZES)
    path = write_card(tmp_path)
    assert path == tmp_path / "student" / "README.md"
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "bert-base-uncased"
    assert card.data.datasets == ["Salesforce/wikitext"]
    assert f"# {tmp_path.name}/student" in card.text


def test_places_on_this_machine_are_not_named_in_the_header(tmp_path: Path) -> None:
    settings = toml.from_toml(f'[teacher]\nmodel = "{tmp_path}"\n[corpus]\nsource = "python-docs"\n', "test")
    text = model_card(SIZES, settings, name="mine")
    assert "base_model" not in text.split("---")[1] and "datasets" not in text.split("---")[1]
    assert str(tmp_path) not in text and tmp_path.name in text


def test_the_offline_teacher_is_named_by_its_origin() -> None:
    settings = toml.from_toml('[teacher]\nmodel = "offline"\n', "test")
    assert ModelCard(model_card([], settings, name="mine")).data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_it_holds_measured_tables_only() -> None:
    text = model_card(SIZES, schema.Recipe(), name="mine")
    assert "has 75 % of its parameters" in text
    assert "**Table 3. Size and speed.**" in text and "| Student | 15.0 M | 60 |" in text
    assert "Table 1" not in text
    assert "Nothing was measured" in model_card([], schema.Recipe(), name="mine")


def test_it_tells_the_objective_and_the_layers() -> None:
    settings = toml.from_toml("[objective]\ncosine = 0\n[student]\nlayers = [0, 5]\n", "test")
    text = model_card([], settings, name="mine")
    assert "Objective: kl 5, mlm 2; temperature 2" in text
    assert "Layers copied from it: 0, 5." in text
