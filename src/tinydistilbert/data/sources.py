"""The source of a corpus's documents: local files, the Python library or the hub."""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tinydistilbert.data import files, hub, python_docs, wikitext
from tinydistilbert.data.compressed import ending
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.schema import PYTHON_DOCS, Corpus
from tinydistilbert.storage import disk

WIKITEXT2 = "wikitext2"
WIKITEXT2_ON_HUB = ("Salesforce/wikitext", "wikitext-2-raw-v1")
LINES_TO_LOOK_AT = 1000
"""Lines at the start of a text from which its layout is recognised."""
LONGEST_DOCUMENT = 200_000
"""Characters after which a text without blank lines is cut at the end of a line. A document is tokenised in one call,
which takes 150 bytes of memory per character: a text of 50 MB in one piece would take 7 GB."""

Packing = Literal["documents", "lines"]
Documents = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Source:
    """The documents of a corpus; each call of `train` or `validation` reads them again, one by one.

    A document is the text of an article, one paragraph per line. With `packing = "lines"`, each line is a document,
    blank ones included.
    """

    name: str
    fingerprint: str
    """SHA-256 of the content; for a hub data set, of the fingerprints of its revision."""
    train: Documents
    validation: Documents
    endings: tuple[str, ...] = ()
    """Of files that are not plain text: by it each file is read."""


def open_source(corpus: Corpus, data: str | None) -> Source:
    """Open the source that `corpus` names, without reading the documents yet.

    Args:
        corpus: the recipe's section `corpus`.
        data: folder with `wikitext2/`, which is then read instead of the hub data set.

    Raises:
        UserError: there is no such file, no file of a known kind, an empty file, or a hub data set that cannot be
            loaded. Errors inside a file are reported when the documents are read.
    """
    if corpus.streaming and not is_on_hub(corpus, data):
        problem, fix = "corpus.streaming is for data sets on the hub", "leave it out: files are always streamed"
        raise UserError(f"corpus.source {corpus.source}", problem=problem, fix=fix)
    source = _open(corpus, data)
    if corpus.max_train_documents:
        all_documents = source.train
        return replace(source, train=lambda: itertools.islice(all_documents(), corpus.max_train_documents))
    return source


def _open(corpus: Corpus, data: str | None) -> Source:
    if corpus.source == PYTHON_DOCS:
        return _python_docs(corpus)
    if corpus.source == WIKITEXT2:
        if data is None:
            name, config = WIKITEXT2_ON_HUB
            return _from_hub(replace(corpus, source=name, config=config))
        return _from_files(corpus, Path(data) / WIKITEXT2)
    if is_on_hub(corpus, data):
        return _from_hub(corpus)
    if saved := hub.saved_folder(corpus.source):
        folder, split = saved
        return _from_hub(replace(corpus, source=str(folder)), split)
    return _from_files(corpus, disk.in_home(corpus.source))


def is_on_hub(corpus: Corpus, data: str | None) -> bool:
    """Whether `open_source` would look for the corpus on the hub."""
    if corpus.source in (PYTHON_DOCS, WIKITEXT2):
        return corpus.source == WIKITEXT2 and data is None
    is_there = disk.in_home(corpus.source).exists() or hub.saved_folder(corpus.source) is not None
    return not (is_there or _must_be_path(corpus.source))


_OTHER_ENDINGS = (".json", ".md", ".html", ".xml", ".pdf", ".docx", ".xlsx", ".zip")
"""Endings of files that cannot be read; no data set on the hub has them in its name."""


def _must_be_path(source: str) -> bool:
    """Whether a name cannot be `owner/name` on the hub, so that a mistyped path is not looked up on the network."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    return is_path or source.lower().endswith((*files.ENDINGS, *_OTHER_ENDINGS))


def is_held_out(name: str, share: float) -> bool:
    """Whether a document belongs to the validation split, by the hash of its name or text alone."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _python_docs(corpus: Corpus) -> Source:
    documents = python_docs.documents()

    def select(held_out: bool) -> Iterator[str]:
        chosen = (text for name, text in documents if is_held_out(name, corpus.validation_share) == held_out)
        return _raw_lines(chosen) if corpus.packing == "lines" else chosen

    content = "\0".join(part for document in documents for part in document)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return Source(PYTHON_DOCS, fingerprint, lambda: select(held_out=False), lambda: select(held_out=True))


def _from_files(corpus: Corpus, path: Path) -> Source:
    if not path.exists():
        fix = "correct corpus.source or --data"
        raise UserError(f"corpus.source {corpus.source}", problem=f"{path} does not exist", fix=fix)
    train, validation = files.find_splits(path)

    def read(paths: Sequence[Path]) -> Iterator[str]:
        for file in paths:
            texts = files.records(file, corpus.text_column, corpus.quoting)
            where = "" if corpus.source == WIKITEXT2 else str(file)
            yield from to_documents(texts, has_rows=files.has_rows(file), packing=corpus.packing, where=where)

    read_validation = functools.partial(read, validation) if validation else None
    fingerprint = files.fingerprint(train, validation)
    endings = tuple(ending(file) if files.has_rows(file) else "" for file in (*train, *validation))
    source = _with_validation(corpus, fingerprint, functools.partial(read, train), read_validation)
    return replace(source, endings=endings if any(endings) else ())


def _from_hub(corpus: Corpus, split: str | None = None) -> Source:
    """Return the source for a hub data set or a saved folder; with a `split`, all text comes from that one."""
    named = None if split or hub.is_saved(Path(corpus.source)) else hub.parse(corpus.source)
    name, config = corpus.source, corpus.config
    if named is not None:
        if config and named.config and config != named.config:
            problem = f"the configuration is {named.config!r} in corpus.source and {config!r} in corpus.config"
            raise UserError(f"corpus.source {name}", problem=problem, fix="delete one")
        name, config, split = named.name, named.config or config, named.split
    splits: Mapping[str, Any]
    if corpus.streaming:
        splits, fingerprint = hub.stream(name, config, split)
    else:
        splits = hub.load(name, config, split)
        fingerprint = hub.fingerprint(splits)

    def read(split: str) -> Iterator[str]:
        texts = hub.records(splits[split], corpus.source, corpus.text_column)
        where = "" if corpus.source == WIKITEXT2_ON_HUB[0] else f"{corpus.source} ({split})"
        return to_documents(texts, has_rows=True, packing=corpus.packing, where=where)

    read_validation = functools.partial(read, "validation") if "validation" in splits else None
    return _with_validation(corpus, fingerprint, functools.partial(read, "train"), read_validation)


def _with_validation(corpus: Corpus, fingerprint: str, train: Documents, validation: Documents | None) -> Source:
    """Return a source with its validation split, or with a share of the training documents, chosen by their hash."""
    if validation is not None:
        return Source(corpus.source, fingerprint, train, validation)
    if corpus.packing == "lines":  # else the lines of one article would be divided between the splits
        expected, fix = 'a validation split for packing = "lines"', 'add one, or set packing = "documents"'
        raise UserError(f"corpus.source {corpus.source}", expected=expected, found="none", fix=fix)

    def select(held_out: bool) -> Iterator[str]:
        return (text for text in train() if is_held_out(text, corpus.validation_share) == held_out)

    return Source(corpus.source, fingerprint, lambda: select(held_out=False), lambda: select(held_out=True))


def _raw_lines(records: Iterable[str]) -> Iterator[str]:
    """Yield the lines of all records; a line break at the end of a record adds no empty line."""
    return (line.strip() for record in records for line in record.removesuffix("\n").split("\n"))


@dataclass
class _LeftOut:
    """What is left out or cut between the records of one file or data set and its documents; reported at the end."""

    where: str
    """The file or data set, for notices; empty = no notices."""
    headings: int = 0
    empty_rows: int = 0
    cuts: int = 0

    def on_heading(self) -> None:
        self.headings += 1

    def then_tell(self, documents: Iterable[str]) -> Iterator[str]:
        """Yield the documents; after the last one, report what was left out."""
        yield from documents
        if not self.where:
            return
        if self.headings:
            text = f"read as WikiText because of its titles: {counted(self.headings, 'heading')} left out"
            notice(self.where, f"{text}, spaces around punctuation removed")
        if self.empty_rows:
            notice(self.where, f"{counted(self.empty_rows, 'row')} without text left out")
        if self.cuts:
            text = f"documents of more than {LONGEST_DOCUMENT:,} characters cut in {counted(self.cuts, 'place')}"
            notice(self.where, text)


def _paragraph_groups(lines: Iterable[str], left_out: _LeftOut) -> Iterator[str]:
    """Yield groups of lines between blank ones; cut groups of more than `LONGEST_DOCUMENT` characters."""
    group: list[str] = []
    characters = 0
    is_cut = False
    for line in itertools.chain(map(str.strip, lines), [""]):
        left_out.cuts += is_cut and bool(line)
        is_cut = False
        if line:
            group.append(line)
            characters += len(line)
        if group and (not line or characters >= LONGEST_DOCUMENT):
            yield "\n".join(group)
            is_cut = bool(line)
            group, characters = [], 0


def to_documents(records: Iterable[str], *, has_rows: bool, packing: Packing, where: str = "") -> Iterator[str]:
    """Make documents from lines or rows.

    WikiText is recognised by its titles, in lines and in rows, and cut into articles. Any other row is one document;
    other lines are cut into documents at blank lines, or after `LONGEST_DOCUMENT` characters.

    Args:
        records: lines of a text file, or texts of rows.
        has_rows: whether the records are rows.
        packing: with `lines`, each line is a document.
        where: the file or data set, for notices of what is left out; empty = none.
    """
    if packing == "lines":
        return _raw_lines(records)
    left_out = _LeftOut(where)
    stream = iter(records)
    head = list(itertools.islice(stream, LINES_TO_LOOK_AT))
    stream = itertools.chain(head, stream)
    if wikitext.is_wikitext(list(_raw_lines(head))):
        lines, is_tokenized = _raw_lines(stream), wikitext.is_tokenized(head)
        return left_out.then_tell(wikitext.articles(lines, tokenized=is_tokenized, on_heading=left_out.on_heading))
    if has_rows:
        return left_out.then_tell(_rows(stream, left_out))
    return left_out.then_tell(_paragraph_groups(stream, left_out))


def _rows(texts: Iterable[str], left_out: _LeftOut) -> Iterator[str]:
    for text in texts:
        if row := "\n".join(filter(None, map(str.strip, text.split("\n")))):
            yield row
        else:
            left_out.empty_rows += 1
