"""Further texts for a task without labels: read from a file, and written to one."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tinydistilbert.data.compressed import ending
from tinydistilbert.data.files import records
from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice
from tinydistilbert.tasks import samples
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, Column, nothing
from tinydistilbert.tasks.mapped_tables import collected, is_large
from tinydistilbert.tasks.readers import read_rows
from tinydistilbert.tasks.row_checks import check_columns, texts_of
from tinydistilbert.tasks.text_lines import sampled_lines
from tinydistilbert.tasks.words import WORDS, words_in

TEXT = ".txt"


def read_unlabelled(path: Path, task: Task, *, may_be_empty: bool = False) -> Examples:
    """Read the texts of a .csv, .tsv, .jsonl or .parquet file in the task's columns, or of a .txt file, one per line.

    Other columns are ignored; a notice reports ignored labels.

    Args:
        path: the file.
        task: not a span task; for a .txt file, a task with one text.
        may_be_empty: whether a table may have empty texts, as copies of published examples do: QQP's train split has
            empty questions.

    Returns:
        Columns `idx` (row in the file), `text`, `text_pair` if the task has one, `words` if they are tagged, and
        `label`, which is always None.

    Raises:
        UserError: the file or the task is of another kind, a column is missing, a text is missing or (unless allowed)
            empty, or the file violates its format.
    """
    if task.kind == "span":
        problem = f"{task.title} cannot use them: its answers are pieces of texts"
        raise UserError(f"unlabelled texts {path}", problem=problem, fix="leave unlabelled texts out of its recipe")
    names = _names(task)
    if ending(path) == TEXT:
        lines, sampled_from = _lines(path, list(names.values()))
        texts: dict[str, Sequence[Any]] = {"text": lines}
    else:
        rows = read_rows(path, task.quoting)
        check_columns(rows, list(names.values()))
        if not {task.label, *task.label_columns}.isdisjoint(rows.table.column_names):
            notice(str(path), f"its column {task.label!r} is not read: the teacher labels these texts")
        texts = {name: texts_of(rows, column, may_be_empty=may_be_empty) for name, column in names.items()}
        sampled_from = rows.sampled_from
    return without_labels(task, texts, range(len(texts["text"])), sampled_from=sampled_from)


def without_labels(
    task: Task, texts: Mapping[str, Sequence[Any]], idx: Sequence[int], *, sampled_from: int = 0
) -> Examples:
    """Return texts as examples without labels; for token classification, with the words found by `words_in`.

    Args:
        task: the task of the texts.
        texts: `text`, and `text_pair` if the task has one; a `Column` for many texts.
        idx: a number for each text.
        sampled_from: estimated number of all texts, if these are a sample; 0 = these are all.
    """
    count, columns, first = len(idx), dict(texts), texts["text"]
    if task.kind == "token-classification":
        columns[WORDS] = first.each(words_in) if isinstance(first, Column) else [words_in(text) for text in first]
    if isinstance(first, Column):
        columns = {"idx": idx, **columns, "label": nothing(count)}
    else:
        columns = {"idx": [*idx], **columns, "label": [None] * count}
    return Examples(task, "unlabelled", columns, count, sampled_from=sampled_from)


def _names(task: Task) -> dict[str, str]:
    """Return the file's column for each text column of `Examples`."""
    return {"text": task.text, **({"text_pair": task.text_pair} if task.text_pair else {})}


def _lines(path: Path, wanted: list[str]) -> tuple[Sequence[str], int]:
    """Return the lines of a text file, and for a sample the estimated number of all lines, else 0."""
    if len(wanted) > 1:
        expected, fix = f"the columns {', '.join(wanted)}", "save the texts as .csv, .tsv, .jsonl or .parquet"
        raise UserError(str(path), expected=expected, found="a file with one text per line", fix=fix)
    if not path.is_file():
        raise UserError(str(path), problem="there is no such file", fix="correct the path")
    schema, sample = pa.schema([("text", pa.string())]), None
    numbered: Iterable[tuple[int, str]] = enumerate(records(path, wanted[0]), 1)
    if samples.is_sampled(path):
        sample = samples.lines_of(path, are_quoted=False)
        numbered = zip(sample.numbers, sampled_lines(path, sample), strict=True)
    lines = _checked(path, numbered)

    def parts() -> Iterator[pa.RecordBatch]:
        while part := list(itertools.islice(lines, VALUES_AT_ONCE)):
            yield pa.record_batch([pa.array(part, pa.string())], schema)

    texts = collected(schema, parts(), on_disk=is_large(path))["text"]
    if not len(texts):
        raise UserError(str(path), expected="at least one text", found="an empty file", fix="write one text per line")
    sampled_from = sample.rows(len(texts)) if sample else 0
    if sampled_from > len(texts):
        samples.warn_of_sample(path, len(texts), sampled_from)
    values = Column(texts) if is_large(path) else list(texts.to_pylist())
    return values, sampled_from if sampled_from > len(texts) else 0


def _checked(path: Path, numbered: Iterable[tuple[int, str]]) -> Iterator[str]:
    for number, line in numbered:
        text = line.rstrip("\r\n")
        if not text.strip():
            raise UserError(f"{path}:{number}", expected="a text", found="an empty line", fix="delete the line")
        yield text


def question_copies(path: Path, examples: Examples) -> Examples:
    """Return examples of a span task again, with the questions in a file of `write_examples`.

    Args:
        path: the file; its `idx` is the position of the example in `examples`.
        examples: the examples of which the questions are copies.
    """
    rows = read_rows(path)
    of_example = rows.table["idx"].to_numpy()
    columns = {**examples.take(of_example).columns, "question": rows.values(examples.task.text)}
    return Examples(examples.task, "unlabelled", columns, len(of_example))


def holds_examples(path: Path) -> bool:
    """Whether a file of `write_examples` has rows: it has none if no word could be replaced."""
    return bool(pyarrow.parquet.read_metadata(path).num_rows)


def write_examples(task: Task, parts: Iterable[Examples], path: Path) -> None:
    """Write texts of a classification or regression task as the Parquet file that `read_unlabelled` reads.

    It keeps the column `idx`, so that each copy can be traced to its example.

    Args:
        task: the task of the texts.
        parts: texts; each part is written before the next one is requested.
        path: the file.
    """
    names = _names(task)
    schema = pa.schema([("idx", pa.int64()), *((name, pa.string()) for name in names.values())])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts:
            values = [part.columns[column] for column in ("idx", *names)]
            arrays = [pa.array([*column], field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
