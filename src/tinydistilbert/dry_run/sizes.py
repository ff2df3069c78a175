"""How much text and how many examples a recipe has: counted if they are on disk, else estimated.

Nothing is written or fetched from the hub: published sizes stand in for data on the hub.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.corpus import prepared_splits
from tinydistilbert.data.sources import WIKITEXT2, is_on_hub, open_source
from tinydistilbert.finetuning.examples import less_threshold
from tinydistilbert.notices import notice
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.storage import cache
from tinydistilbert.tasks import HELD_OUT, hold_out, repeated, tasks_of
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.encoding import Features, cut_texts, encode, token_lengths
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import held_out_of_train, recipe_examples
from tinydistilbert.tasks.span_losses import span_losses
from tinydistilbert.tasks.splits import has_split
from tinydistilbert.tasks.token_losses import token_losses

WIKITEXT2_COUNTS = {"train": (2_137_010, 36_718), "validation": (215_376, 3_760)}
"""Tokens in BERT's uncased vocabulary, and lines, of the splits of WikiText-2, used while it is on the hub."""
SAMPLE = 1000
"""Task examples that are tokenised to estimate the mean length and how many are cut."""
FEW, STEP = 0.01, 32
"""Share of the texts that the suggested length still cuts, and the number of which that length is a multiple."""
GROWTH = 0.6
"""Exponent with which the number of used words grows with the number of texts (Heaps' law: 0.4 to 0.6)."""
SAMPLE_WORDS = 20_000
"""Words of the corpus that are tokenised to estimate its tokens."""


@dataclass(frozen=True)
class TextSize:
    """The token blocks of a corpus."""

    train: int
    validation: int
    useful: float
    """Share of the positions in train blocks that are not padding."""
    is_prepared: bool
    """Whether the blocks were counted in the cache, not estimated."""
    tokens: int
    disk: int
    """Bytes that are still to be written."""
    seconds: float
    """Seconds left to tokenise."""


@dataclass(frozen=True)
class TaskSize:
    """The examples of a task within the recipe's limits."""

    examples: int
    features: int
    """Inputs made of the train examples; in span tasks, windows."""
    length: float
    """Mean tokens of a train input."""
    longest: int
    """Tokens of the longest sampled input."""
    evaluation_examples: int
    """Examples in all evaluation splits together."""
    evaluation_tokens: float
    unlabelled: int
    """Further texts that a second distillation is trained on."""
    notes: tuple[str, ...] = ()
    """Sentences about the parts of the texts that the model does not read."""
    words: int = 0
    """About how many words of the vocabulary the train texts use; 0 = unknown."""


def limited(count: int, limit: int) -> int:
    """Return `count`, or `limit` if that is less; a limit of 0 is none."""
    return min(count, limit) if limit else count


def text_size(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> TextSize | None:
    """Return the corpus as token blocks; None if it is on the hub and its size is unknown.

    Raises:
        UserError: the source is wrong, as in `prepare`.
    """
    corpus = recipe.corpus
    if is_on_hub(corpus, recipe.data):
        is_known = corpus.source == WIKITEXT2 and not corpus.max_train_documents
        return _blocks(recipe, tokenizer, WIKITEXT2_COUNTS, 0.0) if is_known else None
    source = open_source(corpus, recipe.data)
    splits = prepared_splits(corpus, tokenizer, source, cache.folder())
    if splits is not None:
        train, tokens = splits["train"]["blocks"], splits["train"]["tokens"]
        useful = min(tokens / (train * corpus.block_size), 1.0)
        return TextSize(train, splits["validation"]["blocks"], useful, True, tokens, 0, 0.0)
    per_word, seconds_per_token = _tokens_per_word(source.train(), tokenizer)
    counts = {}
    for split, documents in (("train", source.train()), ("validation", source.validation())):
        words = [len(document.split()) for document in documents]
        counts[split] = round(sum(words) * per_word), len(words)
    return _blocks(recipe, tokenizer, counts, seconds_per_token)


def _tokens_per_word(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> tuple[float, float]:
    """Return the tokens per word of the first documents, and the seconds per token."""
    sample: list[str] = []
    words = 0
    for document in documents:
        sample.append(document)
        words += len(document.split())
        if words >= SAMPLE_WORDS:
            break
    begin = perf_counter()
    encoded = tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"] if sample else []
    tokens = sum(map(len, encoded))
    return tokens / max(words, 1), (perf_counter() - begin) / max(tokens, 1)


def _blocks(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, counts: dict[str, tuple[int, int]], seconds_per_token: float
) -> TextSize:
    """Return blocks for those counts of tokens and documents (or lines) per split, cut as `prepare` cuts them."""
    size, packed = recipe.corpus.block_size, recipe.corpus.packing == "documents"
    train, validation = (
        (tokens + documents) // (size - 2) if packed else documents for tokens, documents in counts.values()
    )
    tokens = counts["train"][0]
    useful = 1.0 if packed else min((tokens / max(train, 1) + 2) / size, 1.0)
    disk = (train + validation) * size * (2 if len(tokenizer) <= 2**16 else 4)
    return TextSize(
        train, validation, useful, False, tokens, disk, sum(t for t, _ in counts.values()) * seconds_per_token
    )


def task_size(
    recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast, *, reach: int, max_length: int
) -> TaskSize | None:
    """Return how many examples a task has; None if it is made from a corpus on the hub.

    All examples are loaded, not only the recipe's sample of them, so that every label is checked as in a run.

    Args:
        recipe: says how many examples are used.
        name: name of the task.
        tokenizer: the model's tokenizer.
        reach: number of the model's position embeddings.
        max_length: tokens that the model reads of an input.

    Raises:
        UserError: a split is missing or wrong, as in a run.
    """
    task, settings = tasks_of(recipe.finetune)[name], recipe.finetune.settings(name)
    also = [split for split in task.evaluation[1:] if has_split(task, split, recipe.data)]
    splits = [HELD_OUT] if settings.score_on == "train" else [task.evaluation[0], *also]
    if task.is_synthetic and is_on_hub(recipe.corpus, recipe.data):
        return None
    if task.official and recipe.data is None:
        whole, held_out = task.official[task.train], held_out_of_train(recipe.finetune, name)
        not_trained_on = 0 if held_out is None else held_out or round(hold_out.SHARE * whole)
        count = limited(max(whole - not_trained_on, 1), settings.train_examples)
        if task.may_lack_answer and settings.select != "heldout":  # this share chooses the null threshold
            count -= round(hold_out.SHARE * count)
        official = dict(task.official) | {HELD_OUT: not_trained_on}
        scored = sum(limited(official[split], settings.validation_examples) for split in splits)
        length = min(task.typical_length, max_length)
        return TaskSize(count, count, length, max_length, scored, scored * length, _unlabelled(recipe, task))
    totals, windows, lengths, longest, trained_share, words = [], [], [], 0, 1.0, 0
    notes = list[str]()
    repeated.refuse_one_file_for_two(task, recipe.data)
    loaded = [recipe_examples(recipe, task, split) for split in (task.train, splits[0])]
    repeated.check_repeated(recipe, loaded[0], loaded[1:])
    for examples in loaded:
        totals.append(examples.count)
        if examples.split == task.train:
            trained_on, _ = less_threshold(recipe, examples)
            trained_share, examples = len(trained_on) / len(examples), trained_on
        sample = _sample(examples)
        features = encode(sample, tokenizer, max_length)
        if examples.split == task.train:
            growth = max(1.0, limited(examples.count, settings.train_examples) / len(sample)) ** GROWTH
            words = min(len(tokenizer), round(growth * len(np.unique(np.concatenate(features.input_ids)))))
        for loss in span_losses(sample, features, total=examples.count):
            notice(task.title, loss)
        windows.append(len(features) / len(sample))
        lengths.append(float(features.lengths.mean()))
        longest = max(longest, int(features.lengths.max()))
        notes += token_losses(sample, features, tokenizer)
        notes += _cut(sample, features, tokenizer, total=examples.count, max_length=max_length, reach=reach)
    count = round(limited(totals[0], settings.train_examples) * trained_share)
    scored = limited(totals[1], settings.validation_examples) * len(splits)
    return TaskSize(
        count, round(count * windows[0]), lengths[0], longest, scored, scored * windows[1] * lengths[1],
        _unlabelled(recipe, task), tuple(notes), words,
    )  # fmt: skip


def _cut(
    sample: Examples, features: Features, tokenizer: PreTrainedTokenizerFast, *, total: int, max_length: int, reach: int
) -> list[str]:
    """Return a note if a sample shows that texts of a split are cut, with a length that cuts few; else nothing."""
    if not features.cut:
        return []
    about = "" if len(sample) == total else "about "
    count = f"{about}{round(features.cut * total / len(sample)):,} of {total:,} {sample.split}"
    words = cut_texts(sample.task, count, max_length, reach)
    if sample.task.kind == "span" or max_length >= reach:
        return [words]
    lengths = token_lengths(sample, tokenizer)
    enough = float(np.quantile(lengths, 1 - FEW))
    suggested = min(reach, STEP * math.ceil(enough / STEP))
    left = round(float((lengths > suggested).mean()) * total)
    return [f"{words}; {suggested} would cut {about}{left:,}"]


def _unlabelled(recipe: Recipe, task: Task) -> int:
    """Return the number of texts without labels that the recipe names, if a second distillation reads them.

    Raises:
        UserError: the file is wrong, as in a run.
    """
    is_taught = any(job.is_second_distillation and job.task == task.name for job in jobs(recipe))
    texts = further_texts(recipe, task) if is_taught else None
    return 0 if texts is None else texts.count


def _sample(examples: Examples) -> Examples:
    """Return at most `SAMPLE` of the examples, evenly spread."""
    step = -(-len(examples) // SAMPLE)
    return replace(examples, columns={name: values[::step] for name, values in examples.columns.items()})
