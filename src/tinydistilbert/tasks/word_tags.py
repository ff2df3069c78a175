"""The words of texts with a tag for each: from lists of words and tags, or from character spans of texts."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.tasks.answers import DROP
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.classes import MOST_CLASSES, class_names, in_order, unknown_class, warn_of_twins
from tinydistilbert.tasks.conll import TAGS, TOKENS
from tinydistilbert.tasks.entities import OUTSIDE, Entity, as_iob2, is_tag, tag_names, tags_of, type_of
from tinydistilbert.tasks.label_sets import written_list
from tinydistilbert.tasks.row_checks import check_columns, texts_of
from tinydistilbert.tasks.rows import Rows, shown
from tinydistilbert.tasks.words import WORDS, Word, joined, words_in

TEXT_COLUMNS, _LABELS = (TOKENS, "text"), (TAGS, "tags", "entities", "spans", "label")
"""Columns to look for if none are named; the last ones are the default columns of other tasks."""
_SPAN = ("start", "end", "label")
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class _Tagged:
    """A text with its words and their tags."""

    text: str
    words: Sequence[Word]
    tags: list[str]


def with_words(task: Task, rows: Rows) -> Rows:
    """Return the rows as texts in `task.text`, their words in `words`, and the words' IOB2 tags in `task.label`.

    Notices report what was converted: other tag schemes, and entities that end inside a word.

    Raises:
        UserError: the columns are missing, tags are not IOB, the numbers of tags and words differ, or spans are outside
            the text or overlap.
    """
    text, label = _columns(task, rows)
    first = rows.values(text)[0]
    has_lists = not isinstance(first, str) or written_list(first) is not None
    tagged = _of_lists(rows, text, label) if has_lists else _of_spans(rows, text, label)
    kept = [name for name in ("id", "idx") if name in rows.table.column_names]
    table = rows.table.select(kept)
    for name, values, kind in (
        (task.text, [one.text for one in tagged], pa.string()),
        (WORDS, [[[*word] for word in one.words] for one in tagged], pa.list_(pa.list_(pa.int32()))),
        (task.label, [one.tags for one in tagged], pa.list_(pa.string())),
    ):
        table = table.append_column(name, pa.array(values, kind))
    return dataclasses.replace(rows, table=table)


def labels_of(task: Task, rows: Rows) -> tuple[str, ...]:
    """Return the tags of the entity types in a train split after `with_words`, types in alphabetical order.

    Raises:
        UserError: it has no entity, or implausibly many types.
    """
    types = in_order({type_of(tag) for tags in rows.values(task.label) for tag in tags if tag != OUTSIDE})
    where = f"{rows.where}, column {task.label}"
    if not types:
        problem = "no text has an entity, so nothing could be learned"
        raise UserError(where, problem=problem, fix="name the column of the tags (--label), or add texts with entities")
    if 2 * len(types) >= MOST_CLASSES:
        expected, fix = f"fewer than {MOST_CLASSES // 2} types of entities", "correct the tags"
        raise UserError(where, expected=expected, found=f"{len(types):,}", fix=fix)
    warn_of_twins(where, types)
    return tag_names(types)


def with_tag_numbers(task: Task, rows: Rows) -> Rows:
    """Return the rows with tag numbers, in the order of `task.labels`.

    Raises:
        UserError: a tag is not one of the task's.
    """
    positions = {tag: place for place, tag in enumerate(task.labels)}
    numbers = []
    for row, tags in enumerate(rows.values(task.label)):
        for tag in tags:
            if tag not in positions:
                raise unknown_class(task, rows, row, tag)
        numbers.append([positions[tag] for tag in tags])
    place = rows.table.column_names.index(task.label)
    column = pa.array(numbers, pa.list_(pa.int16()))
    return dataclasses.replace(rows, table=rows.table.set_column(place, task.label, column))


def _columns(task: Task, rows: Rows) -> tuple[str, str]:
    """Return the columns of texts and labels: the named ones, else the first with known names.

    Raises:
        UserError: there are no such columns.
    """
    names = rows.table.column_names
    texts = TEXT_COLUMNS if task.text == CustomTask().text else (task.text,)
    labels = _LABELS if task.label == CustomTask().label else (task.label,)
    pairs = [(text, label) for text in texts for label in labels if {text, label} <= {*names}]
    fitting = [
        (text, label)
        for text, label in pairs
        if _is_list(rows.table.schema.field(text).type) != _is_list_of_structs(rows.table.schema.field(label).type)
    ]
    if not pairs:
        fix = f"correct finetune.custom.{task.name} (--text, --label): words and tags, or text and entities"
        check_columns(rows, [texts[0], labels[0]], fix)
    return (fitting or pairs)[0]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_list_of_structs(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (_is_list(kind) and pa.types.is_struct(kind.value_type))


def _as_list(value: Any) -> Any:
    """Return the value; a text that is a list in JSON or Python syntax becomes that list."""
    parsed = written_list(value) if isinstance(value, str) else None
    return value if parsed is None else parsed


# Lists of words and tags.


def _of_lists(rows: Rows, text: str, label: str) -> list[_Tagged]:
    names = class_names(rows.table, label)
    tokens, tags = [], []
    for row, (words, given) in enumerate(zip(rows.values(text), rows.values(label), strict=True)):
        tokens.append(_words(rows, row, text, _as_list(words)))
        tags.append(_tags(rows, row, label, _as_list(given), names))
        if len(tags[-1]) != len(tokens[-1]):
            found = f"{counted(len(tokens[-1]), 'word')} and {counted(len(tags[-1]), 'tag')}"
            fix = f"give each word one tag {DROP}"
            raise UserError(rows.at(row, label), expected="as many tags as words", found=found, fix=fix)
    read = as_iob2(tags)
    total = sum(map(len, tags))
    if read.changed:
        notice(
            f"{rows.where}, column {label}",
            f"{read.changed:,} of {total:,} tags are written in the scheme {read.scheme} and converted to IOB2",
        )
    if blank := sum(not word.strip() for words in tokens for word in words):
        notice(f"{rows.where}, column {text}", f"{counted(blank, 'word')} of white space alone, which no model reads")
    return [_Tagged(*joined(words), of_words) for words, of_words in zip(tokens, read.tags, strict=True)]


def _words(rows: Rows, row: int, column: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        odd = next((word for word in value if not isinstance(word, str)), value) if isinstance(value, list) else value
        fix = f"write one {DROP}; .jsonl and .parquet hold lists"
        raise UserError(rows.at(row, column), expected="a list of words", found=shown(odd), fix=fix)
    return value


def _tags(rows: Rows, row: int, column: str, value: Any, names: Sequence[str] | None) -> list[str]:
    if not isinstance(value, list):
        fix = f"write one {DROP}"
        raise UserError(rows.at(row, column), expected="a list of tags", found=shown(value), fix=fix)
    tags = []
    for word, given in enumerate(value, 1):
        where, tag = f"{rows.at(row, column)}, word {word}", given
        if type(given) is int:
            if names is None:
                problem = f"the tag is a number, {given}, and the file does not say which tags its numbers mean"
                raise UserError(where, problem=problem, fix="write the names: O, B-PER, I-PER …")
            tag = names[given] if 0 <= given < len(names) else given
        if not isinstance(tag, str) or not is_tag(tag.strip()):
            expected = "an IOB tag: O, B-TYPE or I-TYPE"
            fix = f"correct it, name the column of such tags (--label), {DROP}"
            raise UserError(where, expected=expected, found=shown(tag), fix=fix)
        tags.append(tag.strip())
    return tags


# Character spans.


def _of_spans(rows: Rows, column: str, label: str) -> list[_Tagged]:
    texts, tagged = texts_of(rows, column, may_be_empty=False), []
    widened, lost, total = 0, 0, 0
    for row, (text, value) in enumerate(zip(texts, rows.values(label), strict=True)):
        words, entities = words_in(text), list[Entity]()
        for start, end, kind in _spans(rows, row, label, text, _as_list(value)):
            total += 1
            touched = [place for place, (begin, stop) in enumerate(words) if begin < end and stop > start]
            inner = text[start:end]
            edges = start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
            widened += edges != (words[touched[0]][0], words[touched[-1]][1])
            if entities and touched[0] <= entities[-1][2]:
                lost += 1
                continue
            entities.append((kind, touched[0], touched[-1]))
        tagged.append(_Tagged(text, words, tags_of(entities, len(words))))
    where = f"{rows.where}, column {label}"
    if widened:
        notice(where, f"{widened:,} of {total:,} entities begin or end inside a word and are extended to whole words")
    if lost:
        notice(where, f"{lost:,} of {total:,} entities share a word with the one before and are left out")
    return tagged


def _spans(rows: Rows, row: int, column: str, text: str, value: Any) -> list[tuple[int, int, str]]:
    """Return the spans of a text, in order."""
    where = rows.at(row, column)
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in _SPAN):
        value = [dict(zip(_SPAN, one, strict=False)) for one in zip(*(value[key] for key in _SPAN), strict=False)]
    if not isinstance(value, list):
        expected, fix = "a list of pieces with start, end and label", f"write an empty list where there are none {DROP}"
        raise UserError(where, expected=expected, found=shown(value), fix=fix)
    spans = sorted((_span(where, text, one) for one in value), key=lambda span: span[:2])
    for (start, end, kind), (begin, stop, other) in itertools.pairwise(spans):
        if begin < end:
            found = f"{kind} {start}–{end} and {other} {begin}–{stop}: {text[start : max(end, stop)][:_SHOWN]!r}"
            fix = f"keep one of them {DROP}"
            raise UserError(where, expected="entities that do not overlap", found=found, fix=fix)
    return spans


def _span(where: str, text: str, value: Any) -> tuple[int, int, str]:
    start, end, label = (value.get(key) for key in _SPAN) if isinstance(value, dict) else (None, None, None)
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label.strip():
        expected = "start and end as numbers, and a label"
        raise UserError(where, expected=expected, found=shown(value), fix=f"write them as such {DROP}")
    if not 0 <= start < end <= len(text):
        expected = f"start and end within the text's {len(text):,} characters, the end after the last character"
        found = f"{label} {start}–{end} of {text[:_SHOWN]!r}"
        raise UserError(where, expected=expected, found=found, fix=f"correct start and end {DROP}")
    if not text[start:end].strip():
        problem = f"the piece {start}–{end} is white space alone"
        raise UserError(where, problem=problem, fix=f"correct start and end {DROP}")
    return start, end, label.strip()
