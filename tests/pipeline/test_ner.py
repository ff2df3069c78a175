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
    found = []
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
        found.append((words, tags))
    return found


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
    by_metric = {m.metric: m for m in tuned.measurements if m.model == "model"}
    measured = by_metric["entity_f1"]
    assert measured.value > 0.8 and {"entity_precision", "entity_recall"} <= by_metric.keys()
    cheap = next(m for m in tuned.measurements if m.model == "most frequent tag" and m.metric == "entity_f1")
    assert 0.5 < cheap.value <= 1  # here words tell nearly all
    low, high = measured.details["interval"]
    assert low <= measured.value <= high and measured.details["majority"] == 0
    assert tuned.page is not None and "entity F1" in tuned.page.read_text(encoding="utf-8")

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
    found = tuned.score(rows)
    assert found["entity_f1"] > 0.8 and list(found) == ["entity_f1", "entity_precision", "entity_recall"]
    seqeval = pytest.importorskip("seqeval.metrics")
    tags = [one["tags"] for one in tuned.predict([row["tokens"] for row in rows])]
    assert found["entity_f1"] == pytest.approx(seqeval.f1_score([row["ner_tags"] for row in rows], tags))

    table = tmp_path / "in.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], [text]])
    code, _, err = call("predict", tuned.model, table, "--output", tmp_path / "out.csv")
    assert code == 0, err
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert [e["text"] for e in json.loads(row["prediction"])] == ["She", "Paris", "the old house"]
