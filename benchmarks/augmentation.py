"""Words per second for which a masked LM proposes replacements: one at a time, as in TinyBERT, and our way.

One at a time, each word is masked in a separate input, which goes through the model alone, with logits over the whole
vocabulary at every position, and all logits of the masked word are sorted. Both ways take turns on words of the same
examples; one at a time on only some of the examples. Seconds are processor time of one thread, so that other work on
the machine changes them little; ours include tokenising and reading the vocabulary.
"""

import argparse
import itertools
import time
from pathlib import Path

import common
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.benchmark.turns import quartiles, table
from tinydistilbert.finetuning import augment
from tinydistilbert.finetuning.word_spans import find_words
from tinydistilbert.models.heads import vocabulary_size
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import TASKS, load_examples
from tinydistilbert.tasks.base import Examples, sample_rows

EXAMPLES = {"cola": (512, 32), "rte": (32, 4)}
"""Of each task: for ours, and how many of them one at a time. CoLA: short sentences; RTE: long pairs."""
CANDIDATES, MAX_LENGTH = schema.TaskDistillation().augment_candidates, 128
ONE_AT_A_TIME, THIS_LIBRARY = "one at a time", "ours"
CPU = torch.device("cpu")


def one_at_a_time(
    examples: Examples, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> list[list[list[str]]]:
    """For each example and each of its words, the likeliest tokens of letters but the word itself."""
    texts, pairs = examples.columns["text"], examples.columns.get("text_pair")
    words = find_words(texts, pairs, tokenizer, MAX_LENGTH)
    counts, proposals = np.diff(words.word_ends), []
    for example, count in enumerate(counts):
        proposals.append([])
        for number in range(count):
            # As many passes as words: each hides one.
            (word,), hidden, inputs = augment._hide(words, np.array([example]), np.array([number]), counts, tokenizer)
            with torch.inference_mode():
                logits = model(**inputs).logits[hidden][0]
            best = tokenizer.convert_ids_to_tokens(torch.argsort(logits, descending=True)[: 10 * CANDIDATES].tolist())
            original = (pairs if words.second[word] else texts)[example][words.begin[word] : words.end[word]].lower()
            proposals[-1].append([token for token in best if token.isalpha() and token != original][:CANDIDATES])
    return proposals


def in_batches(examples: Examples, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[list[list[str]]]:
    """The same by the library."""
    proposed = augment.propose(
        examples.columns["text"], examples.columns.get("text_pair"), model, tokenizer,
        augment.Vocabulary.of(tokenizer, vocabulary_size(model)),
        candidates=CANDIDATES, device=CPU, max_length=MAX_LENGTH, log=lambda _: None, show=lambda *_: None,
    )  # fmt: skip
    spelt = [[proposed.spellings[place] for place in row if place >= 0] for row in proposed.candidates]
    return [spelt[first:end] for first, end in itertools.pairwise(proposed.words.word_ends)]


def some(examples: Examples, count: int) -> tuple[Examples, list[int]]:
    """A sample, and the places of its examples."""
    rows = sample_rows(len(examples), count, seed=0).tolist()
    columns = {name: [values[row] for row in rows] for name, values in examples.columns.items()}
    return Examples(examples.task, examples.split, columns, examples.total), rows


def measure(task: str, data: str, teacher: Path | None, rounds: int) -> list[dict[str, float | str | int]]:
    """A row for each way, with the median of its words a second, and in that of ours what both proposed."""
    many, few = EXAMPLES[task]
    all_examples = load_examples(TASKS[task], "train", data=data, corpus=schema.Corpus(), limit=many, seed=0)
    sample, rows = some(all_examples, few)
    loaded = common.open_teacher(teacher)
    ways = {ONE_AT_A_TIME: (one_at_a_time, sample), THIS_LIBRARY: (in_batches, all_examples)}
    speed: dict[str, list[float]] = {name: [] for name in ways}
    proposals: dict[str, list[list[list[str]]]] = {}
    for _, (name, (way, examples)) in itertools.product(range(rounds), ways.items()):
        begin = time.process_time()
        proposals[name] = way(examples, loaded.model, loaded.tokenizer)
        speed[name].append(sum(map(len, proposals[name])) / (time.process_time() - begin))
    summaries = [
        {"task": task, "way": name, "examples": len(examples), "words": sum(map(len, proposals[name])),
         "words_per_second": round(quartiles(speed[name])[1], 1)}
        for name, (_, examples) in ways.items()
    ]  # fmt: skip
    ratios = [mine / other for mine, other in zip(speed[THIS_LIBRARY], speed[ONE_AT_A_TIME], strict=True)]
    return [summaries[0], summaries[1] | {"ratio": round(quartiles(ratios)[1], 2)} | agreement(proposals, rows)]


def agreement(proposals: dict[str, list[list[list[str]]]], rows: list[int]) -> dict[str, float]:
    """Share of the same proposals: of all words, and of those in examples where ours hides one word at a time too."""
    shared, is_single = [], []
    for other, mine in zip(proposals[ONE_AT_A_TIME], (proposals[THIS_LIBRARY][row] for row in rows), strict=True):
        shared += [len(set(a) & set(b)) / max(len(a), 1) for a, b in zip(other, mine, strict=True)]
        is_single += [bool(augment.passes_of(np.array([len(mine)]))[0] == len(mine))] * len(mine)
    alone = [share for share, single in zip(shared, is_single, strict=True) if single]
    assert not alone or np.mean(alone) > 0.999, "the same words hidden in the same way have the same proposals"
    return {"same_proposals": round(float(np.mean(shared)), 3)}


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/")
    parser.add_argument("--teacher", type=Path, help="masked LM with BERT's tokenizer; by default the offline one")
    parser.add_argument("--task", choices=EXAMPLES, action="append", help="only this one (repeatable)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=common.RESULTS / "augmentation.jsonl")
    chosen = parser.parse_args()
    rows = [
        row
        for task in chosen.task or EXAMPLES
        for row in common.in_fresh_process(1, measure, task, str(chosen.data), chosen.teacher, chosen.rounds)
    ]
    head = ("task", "way", "examples", "words", "words/s", "times as fast", "same proposals")
    cells = [
        (row["task"], row["way"], f"{row['examples']:,}", f"{row['words']:,}", f"{row['words_per_second']:,.0f}",
         str(row.get("ratio", "")), str(row.get("same_proposals", "")))
        for row in rows
    ]  # fmt: skip
    print(table(head, cells))
    common.append(chosen.output, ({"benchmark": "augmentation", "threads": 1, **row} for row in rows))


if __name__ == "__main__":
    main()
