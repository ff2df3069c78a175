"""The real data sets: every file is what its task says, and its majority scores and windows are the known ones."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tinydistilbert import metrics
from tinydistilbert.recipe import Corpus
from tinydistilbert.tasks import TASKS, has_split, load_examples
from tinydistilbert.tasks.encoding import encode

pytestmark = pytest.mark.real

# Shares of the most frequent class in the published validation splits.
MAJORITY = {"cola": 69.1, "mnli": 35.4, "mrpc": 68.4, "qnli": 50.5, "rte": 52.7, "sst2": 50.9, "wnli": 56.3}


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.family in ("glue", "imdb", "squad")])
def test_every_row_of_every_file_is_accepted(name: str, data: Path) -> None:
    task = TASKS[name]
    for split in (task.train, *task.evaluation):
        if not has_split(task, split, str(data)):
            assert split == "validation_mismatched"
            continue
        examples = load_examples(task, split, data=str(data), corpus=Corpus(), limit=0, seed=0)
        assert len(examples) <= examples.total == task.official[split]
        if split == task.evaluation[0] and name in MAJORITY:
            share = metrics.majority_score("accuracy", np.array(examples.columns["label"]))
            assert round(100 * share, 1) == pytest.approx(MAJORITY[name], abs=0.051)


def test_real_answers_are_recovered_from_their_windows(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = load_examples(TASKS["squad"], "train", data=str(data), corpus=Corpus(), limit=500, seed=0)
    features = encode(examples, tokenizer, 384)
    assert features.offsets is not None
    found = set()
    for example, (first, last), offsets in zip(features.example, features.labels, features.offsets, strict=True):
        if last > 0:
            gold = examples.columns["answers"][example]["text"][0]
            text = examples.columns["context"][example][offsets[first, 0] : offsets[last, 1]]
            assert gold.strip() in text and len(text) < len(gold) + 40  # a gold answer may end inside a word
            found.add(int(example))
    assert len(found) == len(examples)


@pytest.mark.parametrize("name", ["acceptability", "adjacency", "cloze-qa"])
def test_probes_can_be_made_from_wikitext(name: str, data: Path) -> None:
    corpus = Corpus(source="wikitext2")
    for split, least in (("train", 5000), ("validation", 1000)):
        examples = load_examples(TASKS[name], split, data=str(data), corpus=corpus, limit=0, seed=0)
        assert len(examples) >= least
