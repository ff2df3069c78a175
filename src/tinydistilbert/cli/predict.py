"""predict: answers to a text, to the lines of a pipe as they arrive, or to the rows of a file of any size."""

import argparse
import codecs
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tinydistilbert.cli.predict_files import (
    ANSWER,
    ENDINGS,
    ROWS,
    TEXT,
    WINDOW,
    WINDOW_CHARACTERS,
    Row,
    opened,
    print_lines,
    written,
)
from tinydistilbert.data.compressed import ending
from tinydistilbert.errors import UserError

if TYPE_CHECKING:
    from tinydistilbert.predictor import Predictor

LINES_NAMED = 10
"""Number of too long texts that are named one by one; beyond that, only their number is given."""


@dataclass
class _Answering:
    """The state of answering: what was answered so far."""

    predictor: "Predictor"
    truncate: bool
    texts: int = 0
    long: list[int] = field(default_factory=list)
    """Numbers of the first texts that are too long, counted from 1."""
    long_count: int = 0

    def answers(self, texts: list[str], pairs: list[str] | None) -> list[Row]:
        """Return answers to further texts; a too long one that must not be truncated gets an error instead."""
        from tinydistilbert.predictor import CUT

        if self.truncate:
            rows = self.predictor.predict(texts, pairs)
            excess = [answer.get(CUT, 0) for answer in rows]
        else:
            excess = self.predictor.excess(texts, pairs)
            asked = [number for number, tokens in enumerate(excess) if not tokens]
            answers = iter(self.predictor.predict([texts[i] for i in asked], pairs and [pairs[i] for i in asked]))
            rows = [{"error": f"{tokens} tokens too long"} if tokens else next(answers) for tokens in excess]
        for number, tokens in enumerate(excess, self.texts + 1):
            if tokens:
                self._note(number, tokens)
        self.texts += len(texts)
        return rows

    def _note(self, number: int, tokens: int) -> None:
        self.long_count += 1
        limit = self.predictor.text_limit
        if len(self.long) < LINES_NAMED:
            self.long.append(number)
            if self.truncate:
                cut = f"line {number}: cut, {limit} of {limit + tokens} tokens were read"
                print(cut, file=sys.stderr)

    def end(self) -> None:
        """Report which texts were too long.

        Raises:
            UserError: some were and must not be truncated; the others were answered.
        """
        limit = self.predictor.text_limit
        if self.truncate and self.long_count > LINES_NAMED:
            print(f"{self.long_count:,} of {self.texts:,} texts were cut to {limit} tokens", file=sys.stderr)
        elif self.long_count and not self.truncate:
            shown = ", ".join(map(str, self.long)) + ", …" * (self.long_count > LINES_NAMED)
            count = f"{self.long_count:,} of {self.texts:,} texts"
            problem = f"{count} are longer than the {limit} tokens that the model reads"
            raise UserError(f"line {shown}", problem=problem, fix="shorten them, or leave out --no-truncate")


def predict(parsed: argparse.Namespace, _command_line: str) -> None:
    """Run the parsed command.

    Raises:
        UserError: the model or file is missing, or a text is too long and must not be truncated.
    """
    from tinydistilbert.predictor import load

    file = Path(parsed.text)
    is_file = ending(file) in (*ENDINGS, TEXT) and os.path.isfile(file)  # noqa: PTH113 # False for a long text
    columns = {name: getattr(parsed, name) for name in ("text_column", "pair_column", "output")}
    if not is_file and (used := next((name for name, value in columns.items() if value is not None), None)):
        flag = "--" + used.removesuffix("_column").replace("pair", "text-pair")
        problem = f"it is for files of texts, but {parsed.text!r} is no file ({', '.join((*ENDINGS, TEXT))})"
        raise UserError(flag, problem=problem, fix=f"give a file in place of TEXT, or leave {flag} out")
    if (is_file or parsed.text == "-") and parsed.pair is not None:
        fix = "write it after a tab on each line of the standard input"
        fix = "name its column: --text-pair COLUMN" if is_file else fix
        raise UserError(f"predict {parsed.text}", problem=f"it takes no PAIR beside it ({parsed.pair!r})", fix=fix)
    output = parsed.output
    if output is not None and output.suffix.lower() not in ENDINGS:
        found, fix = output.suffix or "no ending", "call it answers.csv"
        raise UserError("--output", expected=f"a file {', '.join(ENDINGS)}", found=found, fix=fix)
    predictor = load(parsed.folder, threads=parsed.threads or 0, null_threshold=parsed.null_threshold)
    answering = _Answering(predictor, truncate=not parsed.no_truncate)
    if is_file:
        _of_file(answering, file, parsed.text_column, parsed.pair_column, output)
    elif parsed.text == "-":
        for texts, pairs in _of_pipe():
            print_lines(answering.answers(texts, pairs))
    else:
        print_lines(answering.answers([parsed.text], None if parsed.pair is None else [parsed.pair]))
    answering.end()


def _of_pipe() -> Iterator[tuple[list[str], list[str] | None]]:
    """Yield texts and pairs of the standard input, as many at a time as have arrived.

    Raises:
        UserError: only some lines have a pair.
    """
    width, number = 0, 0
    for lines in _arriving(sys.stdin):
        parts = [line.rstrip("\r\n").split("\t", 1) for line in lines]
        width = width or len(parts[0])
        for line, of_line in enumerate(parts, number + 1):
            if len(of_line) != width:
                has = "has a tab, but line 1 has none" if width == 1 else "has no tab, but line 1 has one"
                fix = "write a pair after a tab on every line, or on none"
                raise UserError(f"standard input, line {line}", problem=f"it {has}", fix=fix)
        number += len(parts)
        yield [part[0] for part in parts], [part[1] for part in parts] if width > 1 else None


def _arriving(stream: IO[str]) -> Iterator[list[str]]:
    """Yield the lines of a stream in the groups in which they arrive, at most `ROWS` at a time."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # not a real file, as in a notebook
        yield from _groups(stream)
        return
    decode, rest = codecs.getincrementaldecoder("utf-8-sig")(), ""
    try:
        while chunk := os.read(descriptor, 2**16):
            *lines, rest = (rest + decode.decode(chunk)).split("\n")
            yield from _groups(lines)
        rest += decode.decode(b"", final=True)
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}"
        raise UserError("standard input", expected="UTF-8", found=found, fix="convert it") from None
    if rest:
        yield [rest]


def _groups(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, ROWS)):
        yield group


def _windows(rows: Iterable[Row], columns: Iterable[str | None]) -> Iterator[list[Row]]:
    """Yield the rows of a file to answer together: many, so that similar lengths meet, or fewer long ones."""
    names, window, characters = [name for name in columns if name], list[Row](), 0
    for row in rows:
        window.append(row)
        for name in names:
            characters += len(value) if isinstance(value := row.get(name), str) else 0
        if len(window) == WINDOW or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _of_file(answering: _Answering, file: Path, text: str | None, text_pair: str | None, output: Path | None) -> None:
    """Answer the rows of a file, into another file or as lines of JSON; neither is ever completely in memory."""
    with opened(file) as source:
        first = next(source.rows, None)
        if first is None:
            raise UserError(str(file), expected="at least one row", found="none", fix="give another file")
        text, names = _text_column(file, text, first), list(first)
        if text_pair is not None and text_pair not in first:
            found = ", ".join(names)
            raise UserError(str(file), expected=f"the column {text_pair!r}", found=found, fix="correct --text-pair")
        if ANSWER in first and output is not None:
            fix = "rename that column"
            raise UserError(str(file), problem=f"it has a column {ANSWER!r} already, which the answers need", fix=fix)
        with written(output, names, source) as write:
            done = 0
            for group in _windows(itertools.chain([first], source.rows), (text, text_pair)):
                texts = _texts_of(group, text, file, done)
                pairs = _texts_of(group, text_pair, file, done) if text_pair else None
                write(group, answering.answers(texts, pairs))
                done += len(group)


def _text_column(file: Path, given: str | None, row: Mapping[str, Any]) -> str:
    """Return the column of the texts: the named one, else `text`, else the only one."""
    name = given or ("text" if "text" in row or len(row) > 1 else next(iter(row)))
    if name not in row:
        fix = "name it: --text COLUMN"
        raise UserError(str(file), expected=f"the column {name!r}", found=", ".join(row), fix=fix)
    return name


def _texts_of(rows: Iterable[Row], column: str, file: Path, done: int) -> list[str]:
    """Return the texts of one column; `done` rows of the file precede these."""
    texts = list[str]()
    for row, value in enumerate((row.get(column) for row in rows), done + 1):
        if not isinstance(value, str):
            found = "nothing" if value is None else type(value).__name__
            where = f"{file}, row {row}, column {column}"
            raise UserError(where, expected="a text", found=found, fix="correct it or drop the row")
        texts.append(value)
    return texts
