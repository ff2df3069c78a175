"""The real data sets: every file is what its task says, and its majority scores and windows are the known ones."""

import functools
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data import wikitext
from tinydistilbert.evaluation import metrics, sanity
from tinydistilbert.evaluation.scoring import read_predictions, score
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.tasks import TASKS, load_examples, synthetic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.splits import has_split

pytestmark = pytest.mark.real

# Shares of the most frequent class in the published validation splits.
MAJORITY = {"cola": 69.1, "mnli": 35.4, "mrpc": 68.4, "qnli": 50.5, "rte": 52.7, "sst2": 50.9, "wnli": 56.3}


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.official])
def test_every_row_of_every_file_is_accepted(name: str, data: Path) -> None:
    task = TASKS[name]
    if not (data / task.folder).is_dir():
        pytest.skip(f"no {task.folder}/ in the folder of real data")
    for split in (task.train, *task.evaluation):
        if not has_split(task, split, str(data)):
            assert split == "validation_mismatched"
            continue
        examples = load_examples(task, split, data=str(data), corpus=Corpus(), limit=0, seed=0)
        assert len(examples) <= examples.total == task.official[split]
        if split == task.evaluation[0] and name in MAJORITY:
            share = sanity.majority_score("accuracy", np.array(examples.columns["label"]))
            assert round(100 * share, 1) == pytest.approx(MAJORITY[name], abs=0.051)


@pytest.fixture(scope="module")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's own, uncased: that of the offline teacher."""
    return load_tokenizer(wheel_folder())


def squad(split: str, data: Path, limit: int) -> Examples:
    return load_examples(TASKS["squad"], split, data=str(data), corpus=Corpus(), limit=limit, seed=0)


def first(examples: Examples, count: int) -> Examples:
    columns = {name: column[:count] for name, column in examples.columns.items()}
    return Examples(examples.task, examples.split, columns, examples.total)


def gold_logits(features: Features) -> list[NDArray[np.float32]]:
    """1 at the first and at the last token of the answer, or at [CLS] in windows without it; 0 elsewhere."""
    logits = [np.zeros((length, 2), dtype=np.float32) for length in features.lengths]
    for window_logits, label in zip(logits, features.labels, strict=True):
        window_logits[label, [0, 1]] = 1
    return logits


def test_real_answers_are_found_in_some_window(data: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = squad("train", data, 3000)
    features = encode(examples, bert_tokenizer, 384)
    answered = np.unique(features.example[features.labels[:, 1] > 0])
    assert len(answered) >= 0.999 * len(examples)


def test_gold_logits_give_the_answers_of_squad(data: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = first(squad("validation", data, 0), 2000)
    features = encode(examples, bert_tokenizer, 384)
    texts = read_predictions(examples, features, gold_logits(features)).texts
    gold = [answer["text"][0] for answer in examples.columns["answers"]]
    exact = [metrics.squad_exact_match(word, [answer]) for word, answer in zip(texts, gold, strict=True)]
    assert np.mean(exact) > 0.99
    # The others are numbers and words whose place in the data begins or ends inside a token: "5" in "50".
    for word, answer, right in zip(texts, gold, exact, strict=True):
        assert right or (answer in word and " " not in word)


def official_scores(dataset: list[dict[str, Any]], predictions: dict[str, str]) -> dict[str, float]:
    """`evaluate` of the official script for SQuAD v1.1, written anew from its rules: in percent."""

    def tokens(text: str) -> list[str]:
        kept = "".join(" " if c.isspace() else c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(?:a|an|the)\b", " ", kept).split()

    def f1(guess: list[str], gold: list[str]) -> float:
        left, same = list(gold), 0
        for token in guess:
            if token in left:
                left.remove(token)
                same += 1
        if same == 0:
            return 0.0
        precision, recall = same / len(guess), same / len(gold)
        return 2 * precision * recall / (precision + recall)

    exact, overlap = [], []
    for question in dataset:
        guess = tokens(predictions[question["id"]])
        golds = [tokens(text) for text in question["answers"]]
        exact.append(max(guess == gold for gold in golds))
        overlap.append(max(f1(guess, gold) for gold in golds))
    return {"exact_match": 100 * sum(exact) / len(dataset), "f1": 100 * sum(overlap) / len(dataset)}


def test_scores_of_real_answers_are_those_of_the_official_rules(
    data: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    # Answers of a model that is half sure: right ones, parts of them, too long ones and wrong ones.
    examples = squad("validation", data, 1000)
    features = encode(examples, bert_tokenizer, 384)
    random = np.random.default_rng(0)
    logits = [3.5 * gold + random.normal(size=gold.shape).astype(np.float32) for gold in gold_logits(features)]
    predictions = read_predictions(examples, features, logits)
    golds = [answer["text"] for answer in examples.columns["answers"]]
    dataset = [{"id": i, "answers": gold} for i, gold in zip(examples.columns["id"], golds, strict=True)]
    official = official_scores(dataset, dict(zip(examples.columns["id"], predictions.texts, strict=True)))
    scores = {name: 100 * value for name, (value, _) in score(examples, predictions, seed=0).items()}
    assert scores == pytest.approx(official, abs=1e-9)
    assert 5 < official["exact_match"] < official["f1"] < 95


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """What the tasks do alike with each of a million words is done for the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wikitext, "detokenize", functools.cache(wikitext.detokenize))
        patch.setattr(synthetic, "is_usable", functools.cache(synthetic.is_usable))
        yield


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("name", ["acceptability", "adjacency", "cloze-qa"])
def test_synthetic_tasks_can_be_made_from_wikitext(name: str, data: Path) -> None:
    corpus = Corpus(source="wikitext2")
    for split, least in (("train", 5000), ("validation", 1000)):
        examples = load_examples(TASKS[name], split, data=str(data), corpus=corpus, limit=0, seed=0)
        assert len(examples) >= least
