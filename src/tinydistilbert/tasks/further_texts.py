"""Unlabelled texts that a second distillation reads in addition to the train examples: files, tasks, the corpus."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tinydistilbert.data.seen_texts import SeenTexts, hashes_of
from tinydistilbert.data.sources import open_source
from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice
from tinydistilbert.recipe.names import CORPUS_TEXTS, is_built_in, task_of_source
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import HELD_OUT, tasks_of
from tinydistilbert.tasks.base import Examples, Task, key_of, sample_rows
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, Column
from tinydistilbert.tasks.mapped_tables import are_many, collected, filtered
from tinydistilbert.tasks.recipe_splits import held_out_of_train, recipe_examples, scored_split
from tinydistilbert.tasks.splits import has_split
from tinydistilbert.tasks.synthetic import sentences_of
from tinydistilbert.tasks.unlabelled import read_unlabelled, without_labels

Texts = tuple[str, ...]
"""A text, or the two texts of a pair."""


def further_texts(recipe: Recipe, task: Task) -> Examples | None:
    """Return the texts of all sources that the recipe names for a task; None if it names none.

    A single file is taken as it is. With several sources, or with built-in ones, texts that are train examples,
    duplicates or scored are left out, and a notice says how many. Validation and test splits are never a source. Only
    some texts are in memory at a time: if many are taken, they are in a mapped file; duplicates are found by hash.

    Args:
        recipe: `finetune.distillation.unlabelled` and `unlabelled_examples` are read, with the override of the task.
        task: the task with its classes.

    Raises:
        UserError: a source is wrong or not of the task's kind, or a file contains a scored text.
        DiskError: the disk is full or failing.
    """
    settings = recipe.finetune.settings(task.name).distillation
    sources = (settings.unlabelled,) if isinstance(settings.unlabelled, str) else settings.unlabelled
    if not any(sources):
        return None
    scored = scored_texts(recipe, task)
    files = {name: read_unlabelled(Path(name), task) for name in sources if not is_built_in(name)}
    for name, examples in files.items():
        refuse_scored(examples, name, scored)
    if isinstance(settings.unlabelled, str) and files and not settings.unlabelled_examples:
        return files[settings.unlabelled]
    seen = SeenTexts()
    seen.add_all(recipe_examples(recipe, task, task.train).each_key())
    schema = pa.schema([(name, pa.string()) for name in ("text", *(["text_pair"] if task.text_pair else []))])
    estimated: list[float] = []

    def parts() -> Iterator[pa.RecordBatch]:
        for name in sources:
            source = _of_file(files[name]) if name in files else _built_in(name, recipe, task)
            count = 0
            for part in _new(source.texts, seen, scored, name):
                count += len(part)
                columns = [pa.array(column, pa.string()) for column in zip(*part, strict=True)]
                yield pa.record_batch(columns, schema)
            estimated.append(count * source.of_each)

    table = collected(schema, parts(), on_disk=None)
    total, limit, about = len(table), settings.unlabelled_examples, round(sum(estimated))
    rows: Sequence[int] = range(total)
    if 0 < limit < total:
        drawn = sample_rows(total, limit, recipe.seed)
        table, rows = filtered(table, drawn), Column(pa.chunked_array([pa.array(drawn)]))
        notice(task.name, f"{limit:,} of {total:,} further texts are read (unlabelled_examples)")
    about = min(about, limit or about)
    texts = {name: Column(table[name]) if are_many(table) else table[name].to_pylist() for name in table.column_names}
    return without_labels(task, texts, rows, sampled_from=about if about > len(rows) else 0)


def scored_texts(recipe: Recipe, task: Task) -> SeenTexts:
    """Return the keys of all examples of a task that are scored, or that choose an epoch."""
    finetune, scored = recipe.finetune, SeenTexts()
    splits = [scored_split(finetune, task), *(s for s in task.evaluation if has_split(task, s, recipe.data))]
    if held_out_of_train(finetune, task.name) is not None:
        splits.append(HELD_OUT)
    for split in dict.fromkeys(splits):
        scored.add_all(recipe_examples(recipe, task, split).each_key())
    return scored


def refuse_scored(examples: Examples, where: str, scored: SeenTexts) -> None:
    """Refuse a file with a scored text: the student would learn the teacher's answer to it.

    Raises:
        UserError: it contains one.
    """
    rows, first = list[int](), 1
    for keys in _in_parts(examples.each_key()):
        rows += (first + np.flatnonzero(scored.holds(hashes_of(keys)))).tolist()
        first += len(keys)
    if rows:
        named = ", ".join(f"{row:,}" for row in rows[:3]) + (" …" if len(rows) > 3 else "")
        problem = f"{len(rows):,} of its {len(examples):,} texts are also scored examples of {examples.task.title}"
        raise UserError(where, problem=f"{problem} (text {named})", fix="remove them")


def _in_parts(texts: Iterable[Texts]) -> Iterator[list[Texts]]:
    each = iter(texts)
    while part := list(itertools.islice(each, VALUES_AT_ONCE)):
        yield part


def _new(texts: Iterable[Texts], seen: SeenTexts, scored: SeenTexts, name: str) -> Iterator[list[Texts]]:
    """Yield, in parts, the texts that are neither scored nor seen, and add them to `seen`; report counts at the end."""
    kept = left_out = repeated = 0
    for part in _in_parts(texts):
        keys = [*map(key_of, part)]
        hashes = hashes_of(keys)
        is_scored = scored.holds(hashes)
        is_new = np.array([all(key) for key in keys]) & ~is_scored
        is_new[is_new] = seen.add(hashes[is_new])
        left_out += int(is_scored.sum())
        repeated += int((~is_scored & ~is_new).sum())
        kept += int(is_new.sum())
        if is_new.any():
            yield [part[row] for row in np.flatnonzero(is_new).tolist()]
    counts = [f"{left_out:,} that are scored"] if left_out else []
    counts += [f"{repeated:,} that are empty, repeated or in the train split"] if repeated else []
    text = f"{kept:,} of {kept + left_out + repeated:,} texts are used"
    notice(name, text + (f"; left out: {' and '.join(counts)}" if counts else ""))


@dataclass(frozen=True)
class _Source:
    """The texts of a source, before any is left out."""

    texts: Iterable[Texts]
    of_each: float = 1.0
    """How many texts each one stands for, if a dry run reads a sample."""


def _of_file(examples: Examples) -> _Source:
    return _Source(examples.each_text(), examples.count / max(len(examples), 1))


def _built_in(name: str, recipe: Recipe, task: Task) -> _Source:
    """Return the texts of a built-in source.

    Raises:
        UserError: its texts are not of the task's kind.
    """
    other = task_of_source(name)
    if name == CORPUS_TEXTS:
        if task.text_pair:
            raise _wrong_kind(name, task, "sentences")
        corpus = replace(recipe.corpus, packing="documents")
        documents = open_source(corpus, recipe.data).train()
        return _Source((sentence,) for document in documents for sentence in sentences_of(document))
    source = tasks_of(recipe.finetune)[other]
    examples = recipe_examples(recipe, source, source.train)
    columns, of_each = examples.columns, examples.count / max(len(examples), 1)
    if task.text_pair:
        if source.kind == "span" or not source.text_pair:
            raise _wrong_kind(name, task, "single texts")
        return _Source(zip(columns["text"], columns["text_pair"], strict=True), of_each)
    names = ("question",) if source.kind == "span" else ("text", "text_pair")
    return _Source(((text,) for column in names if column in columns for text in columns[column]), of_each)


def _wrong_kind(name: str, task: Task, found: str) -> UserError:
    fix = "name a task of pairs, or drop it for this task: finetune.override.TASK.distillation.unlabelled"
    return UserError(f"unlabelled {name}", expected=f"pairs of texts, as {task.title} has", found=found, fix=fix)
