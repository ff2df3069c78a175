"""Texts without labels that a second distillation reads beside the train examples: files, other tasks, the corpus."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinydistilbert.data.sources import open_source
from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice
from tinydistilbert.recipe.names import CORPUS_TEXTS, is_built_in, task_of_source
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import HELD_OUT, tasks_of
from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.recipe_splits import held_out_of_train, recipe_examples, scored_split
from tinydistilbert.tasks.splits import has_split
from tinydistilbert.tasks.synthetic import sentences_of
from tinydistilbert.tasks.unlabelled import read_unlabelled, with_words_of

Texts = tuple[str, ...]
"""A text, or the two of a pair."""


def further_texts(recipe: Recipe, task: Task) -> Examples | None:
    """The texts of all sources that the recipe names for a task; None where it names none.

    One file alone is taken as it is. Of several sources, and of those that come with the program, a text that is a
    train example, or was there before, is left out, and so is one that is scored; a line says how many. No validation
    or test split is a source.

    Args:
        recipe: `finetune.distillation.unlabelled` and `unlabelled_examples` are read, with the override of the task.
        task: with its classes.

    Raises:
        UserError: a source is wrong or not of the task's kind, or a file has a text that is scored.
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
    seen = {*recipe_examples(recipe, task, task.train).keys}
    texts: list[Texts] = []
    for name in sources:
        found = files[name].texts if name in files else _built_in(name, recipe, task)
        kept = _new(found, seen, scored, name)
        texts += kept
    rows = sample_rows(len(texts), settings.unlabelled_examples, recipe.seed)
    if len(rows) < len(texts):
        notice(task.name, f"{len(rows):,} of {len(texts):,} further texts are read (unlabelled_examples)")
    columns: dict[str, Sequence[Any]] = {}
    for place, column in enumerate(("text", "text_pair") if task.text_pair else ("text",)):
        columns[column] = [texts[row][place] for row in rows]
    columns = {"idx": [int(row) for row in rows], **with_words_of(task, columns), "label": [None] * len(rows)}
    return Examples(task, "unlabelled", columns, len(rows))


def scored_texts(recipe: Recipe, task: Task) -> set[Texts]:
    """The keys of all examples of a task that are scored, or choose an epoch."""
    finetune = recipe.finetune
    splits = [scored_split(finetune, task), *(s for s in task.evaluation if has_split(task, s, recipe.data))]
    if held_out_of_train(finetune, task.name) is not None:
        splits.append(HELD_OUT)
    return {key for split in dict.fromkeys(splits) for key in recipe_examples(recipe, task, split).keys}


def refuse_scored(examples: Examples, where: str, scored: set[Texts]) -> None:
    """Refuse a file with a scored text: the student would learn the teacher's answer to it.

    Raises:
        UserError: there is one.
    """
    rows = [row for row, key in enumerate(examples.each_key(), 1) if key in scored]
    if rows:
        named = ", ".join(f"{row:,}" for row in rows[:3]) + (" …" if len(rows) > 3 else "")
        problem = f"{len(rows):,} of its {len(examples):,} texts are scored examples of {examples.task.title}"
        raise UserError(where, problem=f"{problem} (text {named})", fix="take them out")


def _new(found: Iterable[Texts], seen: set[Texts], scored: set[Texts], name: str) -> list[Texts]:
    """Those that are neither scored nor seen before, which they then are."""
    kept, left_out, repeated = [], 0, 0
    for texts in found:
        key = tuple(" ".join(text.split()) for text in texts)
        if key in scored:
            left_out += 1
        elif key in seen or not all(key):
            repeated += 1
        else:
            seen.add(key)
            kept.append(texts)
    counts = [f"{left_out:,} that are scored"] if left_out else []
    counts += [f"{repeated:,} that are empty, come twice or are in the train split"] if repeated else []
    text = f"{len(kept):,} of {len(kept) + left_out + repeated:,} texts are taken"
    notice(name, text + (f"; left out: {' and '.join(counts)}" if counts else ""))
    return kept


def _built_in(name: str, recipe: Recipe, task: Task) -> Sequence[Texts]:
    """The texts of a source that comes with the program, before any is left out.

    Raises:
        UserError: its texts are not of the task's kind.
    """
    other = task_of_source(name)
    if name == CORPUS_TEXTS:
        if task.text_pair:
            raise _wrong_kind(name, task, "sentences")
        corpus = replace(recipe.corpus, packing="documents")
        documents = open_source(corpus, recipe.data).train()
        return [(sentence,) for document in documents for sentence in sentences_of(document)]
    source = tasks_of(recipe.finetune)[other]
    columns = recipe_examples(recipe, source, source.train).columns
    if task.text_pair:
        if source.kind == "span" or not source.text_pair:
            raise _wrong_kind(name, task, "single texts")
        return list(zip(columns["text"], columns["text_pair"], strict=True))
    if source.kind == "span":
        return [(question,) for question in columns["question"]]
    return [(text,) for column in ("text", "text_pair") if column in columns for text in columns[column]]


def _wrong_kind(name: str, task: Task, found: str) -> UserError:
    fix = "name a task of pairs, or leave it out for this task: finetune.override.TASK.distillation.unlabelled"
    return UserError(f"unlabelled {name}", expected=f"pairs of texts, as {task.title} has", found=found, fix=fix)
