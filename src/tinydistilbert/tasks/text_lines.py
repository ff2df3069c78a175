"""The text of UTF-8 files, compressed or not, as a whole or by line; errors name the line that is not text."""

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tinydistilbert.data.compressed import BEGINNINGS, open_bytes
from tinydistilbert.errors import UserError
from tinydistilbert.tasks import samples

BYTES_AT_ONCE = 2**22
"""Bytes of a file read at a time."""


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file, without a byte-order mark."""
    with open_bytes(path) as stream:
        return _decoded(stream.read(), path, 0)


def _decoded(content: bytes, path: Path, lines: int) -> str:
    """Decode a part of a file that follows `lines` lines."""
    try:
        text = content.decode("utf-8" if lines else "utf-8-sig")
    except UnicodeDecodeError as error:
        # Positions are counted from after a byte-order mark.
        before = error.object[: error.start]
        line, column = lines + before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        for first, (packed_by, suffix) in BEGINNINGS.items():
            if not lines and content.startswith(first):
                problem, fix = f"it is compressed with {packed_by}", f"call it {path.name}{suffix}"
                raise UserError(str(path), problem=problem, fix=fix) from None
        found = f"byte 0x{error.object[error.start]:02x} at byte {column} of the line"
        raise UserError(f"{path}:{line}", expected="UTF-8", found=found, fix="save the file as UTF-8") from None
    if "\0" in text:
        line = lines + text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line}", expected="text", found="a NUL byte", fix="save the file as UTF-8 text")
    return text


@contextmanager
def opened_lines(path: Path, *, old_ends: bool = False) -> Iterator[Callable[[], Iterator[str]]]:
    """Yield a function whose every call reads the lines from the start, as `read_lines`.

    On leaving, the file is closed, also if its lines were not read to the end.
    """
    with ExitStack() as streams:
        yield lambda: streams.enter_context(closing(read_lines(path, old_ends=old_ends)))


def read_lines(path: Path, *, old_ends: bool = False) -> Generator[str, None, None]:
    """Yield the lines of a UTF-8 file with their ends, without a byte-order mark, a part of the file at a time.

    Only a line feed ends a line, with or without a carriage return; with `old_ends`, a carriage return also does in a
    file without line feeds.
    """
    count, waiting = 0, list[bytes]()
    with open_bytes(path) as stream:
        while part := stream.read(BYTES_AT_ONCE):
            before, end, rest = part.rpartition(b"\n")
            if not end:
                waiting.append(part)
                continue
            text = _decoded(b"".join([*waiting, before, end]), path, count)
            waiting = [rest]
            count += text.count("\n")
            yield from io.StringIO(text, newline="\n")
    if last := _decoded(b"".join(waiting), path, count):
        yield from io.StringIO(last, newline="\n" if count or not old_ends else "")


def split_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text with their ends: only a line feed ends one, with or without a carriage return."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def sampled_lines(path: Path, sample: samples.FileLines) -> Iterator[str]:
    """Yield the text of each line of a file's sample."""
    numbered = zip(sample.lines, sample.numbers, strict=True)
    return (_decoded(line, path, number - 1) for line, number in numbered)
