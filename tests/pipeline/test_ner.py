"""Named entities from a CoNLL file to a small model: fine-tuned, distilled, compressed, compared, asked."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

import tinydistilbert as td
from tinydistilbert.api.outcomes import TaskModel

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]
ENTITIES = {"PER": ["gustave eiffel", "she"], "LOC": ["paris", "france", "seine"], "THING": ["tower", "the old house"]}
WORDS = ["a", "small", "model", "answers", "quickly", ",", "cats", "like", "milk", "."]


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sentences in which a word tells the type of its entity."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words, tags = list[str](), list[str]()
        for _ in range(draw.randint(3, 7)):
            if draw.random() < 0.4:
                kind = draw.choice([*ENTITIES])
                entity = draw.choice(ENTITIES[kind]).split()
                words += entity
                tags += [f"B-{kind}", *[f"I-{kind}"] * (len(entity) - 1)]
            words.append(draw.choice(WORDS))
            tags.append("O")
        rows.append((words, tags))
    return rows


def as_conll(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    blocks = ("\n".join(f"{word} {tag}" for word, tag in zip(*row, strict=True)) for row in rows)
    path.write_text("-DOCSTART- O\n\n" + "\n\n".join(blocks) + "\n")
    return path


QUICK = {
    "finetune.epochs": 12, "finetune.optimization.learning_rate": 3e-3, "finetune.optimization.batch_size": 8,
    "finetune.min_steps": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    folder = tmp_path_factory.mktemp("ner")
    train, scored = as_conll(folder / "news.conll", sentences(120, 0)), as_conll(folder / "b.conll", sentences(40, 1))
    return td.finetune(
        teacher, train=train, validation=scored, kind="token-classification", output=folder / "run", settings=QUICK,
        quiet=True,
    )  # fmt: skip


def test_a_conll_file_becomes_a_model_that_finds_entities(tuned: TaskModel, tmp_path: Path, call: Call) -> None:
    by_metric = {m.metric: m for m in tuned.measurements if (m.model, m.task) == ("model", "news")}
    measured = by_metric["entity_f1"]
    assert measured.value > 0.8 and {"entity_precision", "entity_recall"} <= by_metric.keys()
    cheap = next(m for m in tuned.measurements if m.model == "most frequent tag" and m.metric == "entity_f1")
    assert 0.5 < cheap.value <= 1  # here words tell nearly all
    low, high = measured.details["interval"]
    assert low <= measured.value <= high and measured.details["majority"] == 0
    assert tuned.page is not None and "entity F1" in tuned.page.read_text(encoding="utf-8")

    card = (tuned.model / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card and 'aggregation_strategy="first"' in card and "B-THING" in card
    config = json.loads((tuned.model / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert [*config["id2label"].values()][:3] == ["O", "B-LOC", "I-LOC"]
    text = "She answers Paris, small cats like the old house."
    (answer,) = tuned.predict(text)
    assert [(e["label"], e["text"]) for e in answer["entities"]] == [
        ("PER", "She"), ("LOC", "Paris"), ("THING", "the old house"),
    ]  # fmt: skip
    assert all(text[e["start"] : e["end"]] == e["text"] and 0 < e["score"] <= 1 for e in answer["entities"])
    asked = pipeline("token-classification", model=str(tuned.model), aggregation_strategy="first")(text)
    for mine, other in zip(answer["entities"], asked, strict=True):
        assert (mine["label"], mine["start"], mine["end"]) == (other["entity_group"], other["start"], other["end"])
        assert mine["score"] == pytest.approx(float(other["score"]), abs=1e-4)
    (of_words,) = tuned.predict([["paris", ",", "the", "old", "house"]])
    assert of_words["tags"] == ["B-LOC", "O", "B-THING", "I-THING", "I-THING"]

    rows = [{"tokens": words, "ner_tags": tags} for words, tags in sentences(30, 2)]
    scores = tuned.score(rows)
    assert scores["entity_f1"] > 0.8 and list(scores) == ["entity_f1", "entity_precision", "entity_recall"]
    seqeval = pytest.importorskip("seqeval.metrics")
    tags = [one["tags"] for one in tuned.predict([row["tokens"] for row in rows])]
    assert scores["entity_f1"] == pytest.approx(seqeval.f1_score([row["ner_tags"] for row in rows], tags))

    table = tmp_path / "in.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], [text]])
    code, _, err = call("predict", tuned.model, table, "--output", tmp_path / "out.csv")
    assert code == 0, err
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert [e["text"] for e in json.loads(row["prediction"])] == ["She", "Paris", "the old house"]


@pytest.fixture(scope="module")
def shrunk(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    folder = tmp_path_factory.mktemp("small")
    train, more = as_conll(folder / "news.conll", sentences(200, 0)), folder / "more.txt"
    more.write_text("\n".join({" ".join(words) + "!" for words, _ in sentences(20, 5)}))
    settings = QUICK | {
        "finetune.distillation.epochs": 6.0, "finetune.distillation.intermediate_epochs": 2.0, "compress.keep": [0.5],
        "compress.timed_examples": 10, "compress.recovery_epochs": 1.0, "finetune.keep": "all",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
        return td.shrink(
            teacher, train=train, kind="token-classification", validation="25%", to="50MB", keep="30%",
            unlabelled=str(more), output=folder / "run", settings=settings, quiet=True,
        )  # fmt: skip


def test_a_conll_file_becomes_a_small_model_of_eight_bits(shrunk: TaskModel, call: Call, tmp_path: Path) -> None:
    by_row = {m.model: m for m in shrunk.measurements if m.task == "news" and m.metric == "entity_f1"}
    scores = {name: by_row[name].value for name in ("teacher", "model (D)", "most frequent tag")}
    assert scores["teacher"] > 0.8 and scores["model (D)"] > 0.7, scores
    assert by_row["model (D)"].details["unlabelled_examples"] > 10
    variants = [m for m in shrunk.measurements if m.task == "compress" and m.metric == "entity_f1"]
    assert {m.details["precision"] for m in variants} == {"fp32", "int8"}
    paired = [m for m in shrunk.measurements if m.task == "compare" and "most frequent tag" in str(m.details)]
    assert paired and shrunk.page is not None
    page = shrunk.page.read_text(encoding="utf-8")
    assert "Most frequent tag" in page and "first and last word" in page and "(LOC)" in page
    assert "entity F1 of each type" in page

    config = json.loads((shrunk.model / "config.json").read_text())
    assert config["tinydistilbert"]["head"] == "token-classification"
    (answer,) = shrunk.predict("paris, small cats like the old house.")
    assert [(e["label"], e["text"]) for e in answer["entities"]] == [("LOC", "paris"), ("THING", "the old house")]
    rows = [{"tokens": words, "ner_tags": tags} for words, tags in sentences(40, 1)]
    assert shrunk.score(rows)["entity_f1"] > 0.6
    code, out, err = call(
        "compare", f"{shrunk.folder}:teacher", f"{shrunk.folder}:model (D)", "--output", tmp_path / "page"
    )
    assert code == 0 and "entity F1" in out, err


def test_a_given_tagger_is_distilled_pruned_and_exported_from_the_command_line(
    tuned: TaskModel, tmp_path: Path, call: Call
) -> None:
    data = as_conll(tmp_path / "news.conll", sentences(60, 3))
    command = ["finetune", "--model", tuned.model, "--data", data, "--validation", "25%", "--kind",
               "token-classification", "--epochs", "1", "--seeds", "0", "--finetune.min_steps", "0", "--teacher",
               tuned.model, "--output", tmp_path / "run"]  # fmt: skip
    code, out, err = call(*command)
    assert code == 0 and "entity F1" in out and "Model (D)" in out, err
    for flags in ((), ("--int8",)):
        folder = tmp_path / f"exported{len(str(flags))}"
        code, _, err = call("export", tuned.model, "--output", folder, *flags)
        assert code == 0, err
        whole, small = (td.load(model).predict("paris like the old house.")[0] for model in (tuned.model, folder))
        assert (
            [e["text"] for e in small["entities"]]
            == [e["text"] for e in whole["entities"]]
            == ["paris", "the old house"]
        )
    given = td.evaluate(tuned.model, [{"text": "paris like she", "spans": [{"start": 0, "end": 5, "label": "LOC"}]}])
    assert given.examples == 1 and given["entity_recall"] == 1
