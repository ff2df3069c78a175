"""More texts of a task's kind without labels: read from a file, and written to one."""

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
    """The texts of a .csv, .tsv, .jsonl or .parquet file in the task's columns, or of a .txt file, one a line.

    Other columns are ignored; of labels, that is said.

    Args:
        path: the file.
        task: not of spans; for a .txt file, of one text.
        may_be_empty: whether a table may have empty texts, as copies of published examples have: QQP's train split has
            empty questions.

    Returns:
        Columns `idx` (row in the file), `text`, `text_pair` if the task has one, `words` where they are tagged, and
        `label`, which is None throughout.

    Raises:
        UserError: the file or the task is of another kind, a column is missing, a text is missing or, unless it may be,
            empty, or anything is not as the format has it.
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
    """Texts as examples without labels; where words are tagged, with the words that `words_in` finds.

    Args:
        task: whose texts they are like.
        texts: `text`, and `text_pair` if the task has one; of many texts a `Column`.
        idx: a number for each.
        sampled_from: about how many there are, where these are a sample; 0 = these are all.
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
    """For each column of the texts of `Examples` the one of a file."""
    return {"text": task.text, **({"text_pair": task.text_pair} if task.text_pair else {})}


def _lines(path: Path, wanted: list[str]) -> tuple[Sequence[str], int]:
    """The lines of a file of texts, and about how many there are if these are a sample, else 0."""
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
        samples.tell(path, len(texts), sampled_from)
    values = Column(texts) if is_large(path) else list(texts.to_pylist())
    return values, sampled_from if sampled_from > len(texts) else 0


def _checked(path: Path, numbered: Iterable[tuple[int, str]]) -> Iterator[str]:
    for number, line in numbered:
        text = line.rstrip("\r\n")
        if not text.strip():
            raise UserError(f"{path}:{number}", expected="a text", found="an empty line", fix="delete the line")
        yield text


def question_copies(path: Path, examples: Examples) -> Examples:
    """The examples of a span task once more, with the questions in a file of `write_examples`.

    Args:
        path: the file; its `idx` is the place of the example among `examples`.
        examples: what the questions are copies of.
    """
    rows = read_rows(path)
    of_example = rows.table["idx"].to_numpy()
    columns = {**examples.take(of_example).columns, "question": rows.values(examples.task.text)}
    return Examples(examples.task, "unlabelled", columns, len(of_example))


def holds_examples(path: Path) -> bool:
    """Whether a file of `write_examples` has any rows: it has none where no word could be replaced."""
    return bool(pyarrow.parquet.read_metadata(path).num_rows)


def write_examples(task: Task, parts: Iterable[Examples], path: Path) -> None:
    """Write texts of a classification or regression task as the Parquet file that `read_unlabelled` reads.

    The column `idx` is kept, so that each copy can be traced to its example.

    Args:
        task: of the texts.
        parts: texts, each part of which is written before the next one is asked for.
        path: of the file.
    """
    names = _names(task)
    schema = pa.schema([("idx", pa.int64()), *((name, pa.string()) for name in names.values())])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts:
            values = [part.columns[column] for column in ("idx", *names)]
            arrays = [pa.array([*column], field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
