"""Malformed input through the real command line: one line that names file or flag, exit code 2, nothing written.

Named cases first, each a mistake that people make; then valid files with random damage, through the same readers.
"""

import contextlib
import gzip
import json
import math
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.cli.main import main
from tinydistilbert.cli.request import request
from tinydistilbert.data.sources import open_source
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.pipeline.run import check_inputs, run_context
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.storage import cache
from tinydistilbert.tasks import load_examples
from tinydistilbert.tasks.custom import custom_task

LONG = 100_000_000
"""Bytes of a line that is too long."""
MOST_SECONDS, MOST_MEMORY = 5.0, 2e9
"""Of processor time, and bytes beyond what was in use before."""
HANGS_AFTER = 60
ROWS = [("the tower", "good"), ("the student", "bad"), ("a tower near the lake", "good"), ("a student", "bad")]


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("review", "stars"), separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows])


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def squad(*questions: dict[str, Any], context: Any = "Paris is in France.") -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [*questions]}]}]})


def asked(text: Any = "France", start: Any = 12, name: str = "q1", **other: Any) -> dict[str, Any]:
    return {"id": name, "question": "Where?", "answers": [{"text": text, "answer_start": start}], **other}


GOOD = table(ROWS)
SCORED = table([*ROWS, ("none of the train file", ROWS[0][1])])
REVIEWS = [{"review": text, "stars": stars} for text, stars in ROWS]
TEXTS, STARS = (list(column) for column in zip(*ROWS, strict=True))
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 4, [None, pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in range(5))), pa.py_buffer(b"ab\xff ")]
)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))
PROSE = (
    "\n\n".join(f"The student {i} learns from the teacher in a large house near the lake {i}." for i in range(60))
    + "\n"
)


class Place:
    """A folder for the files of a case, and the command lines that read them."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.folder, self.teacher, self.output = folder, teacher, folder / "run"

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def finetune(self, *flags: object) -> list[object]:
        where = [] if "--output" in flags else ["--output", self.output]
        return ["finetune", "--model", self.teacher, *flags, *where]

    def custom(
        self, train: str | bytes | Path, *flags: object, name: str = "train.csv", kind: str = ""
    ) -> list[object]:
        """Of a task of one's own; what is wrong is in its train file."""
        path = train if isinstance(train, Path) else self.file(name, train)
        scored = squad(asked(start=11), context="Lyon is in France.") if kind == "span" else SCORED
        validation = self.file("val.json" if kind == "span" else "val.csv", scored)
        columns = {} if kind == "span" else {"--text": "review", "--label": "stars"}
        if kind == "regression":
            validation = self.file("val.csv", table([("a", 1.5), ("b", 2.5)]))
        usual = {"--data": path, "--validation": validation, **columns, **({"--kind": kind} if kind else {})}
        return self.finetune(*(word for flag in usual.items() if flag[0] not in flags for word in flag), *flags)

    def glue(self, task: str, train: list[Any], validation: list[Any] | None = None) -> list[object]:
        """Of a task of GLUE whose train split is wrong, in JSON lines."""
        self.file(f"data/glue/{task}/train.jsonl", lines(*train))
        self.file(f"data/glue/{task}/validation.jsonl", lines(*(train[:1] if validation is None else validation)))
        return self.finetune("--task", task, "--data", self.folder / "data")

    def recipe(self, text: str | bytes, command: str = "distill") -> list[object]:
        return [command, self.file("mine.toml", text), "--output", self.output]

    def setting(self, line: str) -> list[object]:
        """A recipe that is right but for one line in its section."""
        head = f'[teacher]\nmodel = "{self.teacher}"\n' if "[teacher]" not in line else ""
        source = (
            "" if "[corpus]" in line else f'[corpus]\nsource = "{self.file("corpus.txt", PROSE)}"\nblock_size = 16\n'
        )
        return self.recipe(f"{head}{source}{line}\n")

    def corpus(self, content: str | bytes | Path, name: str = "corpus.txt") -> list[object]:
        path = content if isinstance(content, Path) else self.file(name, content)
        text = f'[teacher]\nmodel = "{self.teacher}"\n[corpus]\nsource = "{path}"\nblock_size = 16\n'
        return self.recipe(text, "prepare")

    def link(self, name: str, to: object) -> Path:
        (self.folder / name).symlink_to(str(to))
        return self.folder / name

    def pipe(self, name: str) -> Path:
        os.mkfifo(self.folder / name)
        return self.folder / name

    def model(self, **files: str | bytes | None) -> Path:
        """A copy of the teacher's folder with some files exchanged or left out (None)."""
        folder = self.folder / "model"
        folder.mkdir()
        changed = {name.replace("__", "."): content for name, content in files.items()}
        for file in self.teacher.iterdir():
            content = changed.get(file.name, file.read_bytes())
            if content is not None:
                self.file(f"model/{file.name}", content)
        return folder


def folder_at(place: Place, name: str) -> Path:
    (place.folder / name).mkdir(parents=True)
    return place.folder / name


Maker = Callable[[Place], list[object]]
DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5000

CASES: dict[str, tuple[Maker, str]] = {
    # A table of one's own: CSV and TSV.
    "CSV that is empty": (lambda p: p.custom(""), "train.csv"),
    "CSV of nothing but a header": (lambda p: p.custom("review,stars\n"), "train.csv"),
    "CSV that is a picture": (lambda p: p.custom(PNG), "train.csv:1"),
    "CSV in UTF-16": (lambda p: p.custom(GOOD.encode("utf-16")), "train.csv:1"),
    "CSV in UTF-16 without a mark": (lambda p: p.custom(GOOD.encode("utf-16-be")), "train.csv:1"),
    "CSV with a NUL byte": (lambda p: p.custom("review,stars\na,good\nb\0,bad\n"), "train.csv:3"),
    "CSV in Latin-1": (lambda p: p.custom("review,stars\na,good\ncafé,bad\n".encode("latin-1")), "train.csv:3"),
    "CSV with a text of 100 MB": (lambda p: p.custom(f"{GOOD}{'a ' * (LONG // 2)},bad\n"), "train.csv:6"),
    "CSV whose header is 100 MB": (lambda p: p.custom("review" + "x" * LONG + ",stars\na,good\n"), "train.csv"),
    "CSV with a row too long": (lambda p: p.custom(GOOD + "one, two,good\n"), "train.csv:6"),
    "CSV with a row too short": (lambda p: p.custom("review,stars\na,good\nb\n"), "train.csv:3"),
    "CSV with a column twice": (lambda p: p.custom("review,stars,review\na,good,b\n"), "train.csv:1"),
    "CSV with another name for a column": (lambda p: p.custom(GOOD.replace("review", "reviews")), "did you mean"),
    "CSV without the label": (lambda p: p.custom("review\na\nb\n"), "stars"),
    "CSV with semicolons": (lambda p: p.custom(GOOD.replace(",", ";")), "separate the columns"),
    "CSV with tabs": (lambda p: p.custom(GOOD.replace(",", "\t")), "separate the columns"),
    "CSV with an open quote": (lambda p: p.custom('review,stars\n"a,good\nb,bad\n'), "train.csv:2"),
    "CSV with a quote within quotes": (lambda p: p.custom('review,stars\n"a "b" c",good\nb,bad\n'), "train.csv:2"),
    "CSV with escapes of a terminal in a label": (
        lambda p: p.custom(GOOD, "--validation", p.file("v.csv", "review,stars\na,\x1b[2J\x1b]0;x\x07\r\n")), "v.csv:2",
    ),
    "CSV with line separators of Unicode in a column": (
        lambda p: p.custom("re\u2028view,stars\na,good\n"), "train.csv",
    ),
    "TSV with commas": (lambda p: p.custom(GOOD, name="train.tsv"), "separate the columns"),
    "label that is missing": (lambda p: p.custom("review,stars\na,good\nb,\n"), "train.csv:3"),
    "label that is half a class": (lambda p: p.custom("review,stars\na,1\nb,0.5\n"), "train.csv:3"),
    "labels that are all the same": (lambda p: p.custom("review,stars\na,good\nb,good\n"), "two classes or more"),
    "labels that are all different": (
        lambda p: p.custom(table([(f"text {i}", f"class {i}") for i in range(1001)])), "at most 1,000 classes",
    ),
    "label that training does not know": (
        lambda p: p.custom(GOOD, "--validation", p.file("v.csv", "review,stars\na,goood\n")), "did you mean 'good'",
    ),
    "label that is a truth value among words": (
        lambda p: p.custom(GOOD, "--validation", p.file("v.csv", "review,stars\na,True\n")), "v.csv:2",
    ),
    "text that is empty": (lambda p: p.custom("review,stars\na,good\n,bad\n"), "train.csv:3, column review"),
    "text that is white space": (lambda p: p.custom("review,stars\na,good\n \u00a0\t,bad\n"), "train.csv:3"),
    "ids that are used twice": (lambda p: p.custom("id,review,stars\n1,a,good\n2,b,bad\n1,c,bad\n"), "train.csv:4"),
    "text and label in one column": (lambda p: p.custom(GOOD, "--label", "review"), "finetune.custom.train"),
    "regression on words": (lambda p: p.custom(GOOD, kind="regression"), "train.csv:2"),
    "regression on a NaN": (lambda p: p.custom("review,stars\na,1.5\nb,nan\n", kind="regression"), "train.csv:3"),
    "regression on infinity": (lambda p: p.custom("review,stars\na,1.5\nb,1e999\n", kind="regression"), "train.csv:3"),
    # What is no file, or none that can be read.
    "data that are a FIFO": (lambda p: p.custom(p.pipe("train.csv")), "train.csv"),
    "data that are a folder": (lambda p: p.custom(folder_at(p, "train.csv")), "train.csv"),
    "data that are a dead link": (lambda p: p.custom(p.link("train.csv", "/nowhere/at-all.csv")), "train.csv"),
    "data that are a link to itself": (lambda p: p.custom(p.link("train.csv", p.folder / "train.csv")), "train.csv"),
    "data that are a device": (lambda p: p.custom(p.link("train.csv", "/dev/zero")), "train.csv"),
    "data that the system does not give": (lambda p: p.custom(p.link("train.csv", "/proc/self/mem")), "train.csv"),
    "data that are not there": (lambda p: p.custom(p.folder / "trian.csv"), "trian.csv"),
    "data with a name too long": (lambda p: p.custom(p.folder / ("x" * 300 + ".csv")), "finetune.custom"),
    "data in a spreadsheet": (lambda p: p.custom("PK", name="train.xlsx"), "train.xlsx"),
    "data without an ending": (lambda p: p.custom(GOOD, name="train"), "train"),
    "gzip that is cut off": (
        lambda p: p.custom(gzip.compress(GOOD.encode())[:-9], name="train.csv.gz"), "train.csv.gz",
    ),
    "gzip that is none": (lambda p: p.custom(GOOD, name="train.csv.gz"), "train.csv.gz"),
    "gzip that fills the memory": (
        lambda p: p.custom(gzip.compress(b"review,stars\n" + b"a" * LONG), name="train.csv.gz"), "50 times its size",
    ),
    "gzip without its ending": (lambda p: p.custom(gzip.compress(GOOD.encode())), "train.csv.gz"),
    "TSV whose quotes merge rows": (
        lambda p: p.custom('"review"\t"stars"\n"a\tgood\nb"\tbad\n', name="train.tsv"), "train.tsv:2",
    ),
    "data set that save_to_disk did not write": (
        lambda p: p.custom(p.file("saved/state.json", "{").parent), "saved",
    ),
    # JSON lines.
    "JSONL that is empty": (lambda p: p.custom("\n\n", name="train.jsonl"), "train.jsonl"),
    "JSONL with a list": (lambda p: p.custom(lines(*REVIEWS, ["a", "good"]), name="train.jsonl"), "train.jsonl:5"),
    "JSONL with a line cut off": (lambda p: p.custom(lines(*REVIEWS)[:-9], name="train.jsonl"), "train.jsonl:4"),
    "JSONL with deep brackets": (lambda p: p.custom(f"{lines(*REVIEWS)}{DEEP}\n", name="train.jsonl"), "train.jsonl:5"),
    "JSONL with a NaN": (
        lambda p: p.custom(lines(REVIEWS[0], {"review": "a", "stars": math.nan}), name="train.jsonl"), "train.jsonl:2",
    ),
    "JSONL with a number of 5,000 digits": (
        lambda p: p.custom(f'{lines(*REVIEWS)}{{"review": "a", "stars": {DIGITS}}}\n', name="train.jsonl"),
        "train.jsonl:5",
    ),
    "JSONL with a number of 80 bits": (
        lambda p: p.custom(lines({"review": "a", "stars": 2**80}, REVIEWS[0]), name="train.jsonl"), "train.jsonl:",
    ),
    "JSONL with a key twice": (
        lambda p: p.custom('{"review": "a", "stars": "x", "stars": "y"}\n', name="train.jsonl"), "train.jsonl:1",
    ),
    "JSONL with a number for a text": (
        lambda p: p.custom(lines({"review": 1, "stars": "a"}, {"review": 2, "stars": "b"}), name="train.jsonl"),
        "train.jsonl:1",
    ),
    "JSONL with a null for a text": (
        lambda p: p.custom(lines(REVIEWS[0], {"review": None, "stars": "bad"}), name="train.jsonl"), "train.jsonl:2",
    ),
    "JSONL with half a character": (
        lambda p: p.custom(lines(REVIEWS[0], {"review": "\ud83d", "stars": "bad"}), name="train.jsonl"),
        "train.jsonl:2",
    ),
    "JSONL with texts and lists in a column": (
        lambda p: p.custom(lines(REVIEWS[0], {"review": ["a"], "stars": "bad"}), name="train.jsonl"), "train.jsonl:2",
    ),
    "JSONL with an object for an id": (
        lambda p: p.custom(lines({**REVIEWS[0], "id": {"a": 1}}, {**REVIEWS[1], "id": {"a": 2}}), name="train.jsonl"),
        "train.jsonl:1",
    ),
    "JSONL of 100 MB without a line break": (
        lambda p: p.custom('{"review": "' + "a " * (LONG // 2), name="t.jsonl"), "t.jsonl",
    ),
    # Parquet.
    "Parquet that is empty": (lambda p: p.custom("", name="train.parquet"), "train.parquet"),
    "Parquet that is CSV": (lambda p: p.custom(GOOD, name="train.parquet"), "train.parquet"),
    "Parquet cut off": (
        lambda p: p.custom(parquet(review=TEXTS, stars=STARS)[:-40], name="train.parquet"), "train.parquet",
    ),
    "Parquet cut at its head": (
        lambda p: p.custom(parquet(review=TEXTS, stars=STARS)[40:], name="train.parquet"), "train.parquet",
    ),
    "Parquet without rows": (
        lambda p: p.custom(
            parquet(review=pa.array([], pa.string()), stars=pa.array([], pa.string())), name="t.parquet"
        ),
        "t.parquet",
    ),
    "Parquet with lists for texts": (
        lambda p: p.custom(parquet(review=[[text] for text in TEXTS], stars=STARS), name="t.parquet"), "t.parquet",
    ),
    "Parquet with tables for labels": (
        lambda p: p.custom(parquet(review=TEXTS, stars=[{"a": star} for star in STARS]), name="t.parquet"), "t.parquet",
    ),
    "Parquet with texts that are not UTF-8": (
        lambda p: p.custom(parquet(review=NOT_UTF8, stars=STARS), name="t.parquet"), "t.parquet",
    ),
    "Parquet with dates for labels": (
        lambda p: p.custom(parquet(review=TEXTS, stars=pa.array([2**62] * 4, pa.timestamp("us"))), name="t.parquet"),
        "t.parquet",
    ),
    "Parquet without the column": (lambda p: p.custom(parquet(text=TEXTS, stars=STARS), name="t.parquet"), "t.parquet"),
    "Parquet with a null": (
        lambda p: p.custom(parquet(review=[*TEXTS[:3], None], stars=STARS), name="t.parquet"), "t.parquet, row 3",
    ),
    # Questions and answers.
    "answer beyond its context": (lambda p: p.custom(squad(asked(start=400)), name="t.json", kind="span"), "qas[0]"),
    "answer not at its place": (
        lambda p: p.custom(squad(asked(start=11)), name="t.json", kind="span"), "answer_start 11",
    ),
    "answer before its context": (lambda p: p.custom(squad(asked(start=-7)), name="t.json", kind="span"), "-7"),
    "answer that is empty": (lambda p: p.custom(squad(asked(text=" ", start=5)), name="t.json", kind="span"), "qas[0]"),
    "answer_start in words": (lambda p: p.custom(squad(asked(start="12")), name="t.json", kind="span"), "t.json"),
    "question without the answer that it is said to have": (
        lambda p: p.custom(squad({**asked(), "answers": [], "is_impossible": False}), name="t.json", kind="span"),
        "is_impossible",
    ),
    "question that is marked impossible": (
        lambda p: p.custom(squad(asked(is_impossible=True)), name="t.json", kind="span"), "is_impossible",
    ),
    "questions of one id": (lambda p: p.custom(squad(asked(), asked()), name="t.json", kind="span"), "qas[1]"),
    "questions without a context": (
        lambda p: p.custom(squad(asked(), context=None), name="t.json", kind="span"), "t.json",
    ),
    "questions without the key data": (lambda p: p.custom("{}", name="t.json", kind="span"), "t.json"),
    "questions in a list": (lambda p: p.custom("[]", name="t.json", kind="span"), "t.json"),
    "questions cut off": (lambda p: p.custom(squad(asked())[:-30], name="t.json", kind="span"), "t.json"),
    "questions in deep brackets": (lambda p: p.custom(DEEP, name="t.json", kind="span"), "t.json"),
    "questions with a number of 5,000 digits": (
        lambda p: p.custom(squad(asked(start=12)).replace("12", DIGITS), name="t.json", kind="span"), "t.json",
    ),
    "answers in a cell of CSV": (
        lambda p: p.custom("id,question,context,answers\n1,a,b,c\n", name="t.csv", kind="span"), "t.csv:2",
    ),
    # The folder with the data of the paper's tasks.
    "SST-2 with the labels of a test split": (
        lambda p: p.glue("sst2", [{"sentence": "a", "label": -1, "idx": 0}]), "-1 marks",
    ),
    "SST-2 with a class that it has not": (lambda p: p.glue("sst2", [{"sentence": "a", "label": 2}]), "0 to 1"),
    "SST-2 with another column": (lambda p: p.glue("sst2", [{"text": "a", "label": 0}]), "sentence"),
    "SST-2 with a name twice": (
        lambda p: p.glue("sst2", [{"sentence": "a", "label": 0, "idx": 7}, {"sentence": "b", "label": 1, "idx": 7}]),
        "train.jsonl:2",
    ),
    "STS-B with a score of 7": (
        lambda p: p.glue("stsb", [{"sentence1": "a", "sentence2": "b", "label": 7.0}]), "0.0 to 5.0",
    ),
    "STS-B with words for scores": (
        lambda p: p.glue("stsb", [{"sentence1": "a", "sentence2": "b", "label": "near"}]), "train.jsonl:1",
    ),
    "RTE without its second text": (lambda p: p.glue("rte", [{"sentence1": "a", "label": 0}]), "sentence2"),
    "GLUE without the split": (
        lambda p: p.finetune("--task", "cola", "--data", folder_at(p, "data")), "cola/train.parquet",
    ),
    "data folder that is not there": (lambda p: p.finetune("--task", "sst2", "--data", p.folder / "dta"), "--data"),
    "data folder that is a file": (lambda p: p.finetune("--task", "sst2", "--data", p.file("data", "a")), "--data"),
    # Text to distil on.
    "corpus that is empty": (lambda p: p.corpus(""), "corpus.txt"),
    "corpus of blank lines": (lambda p: p.corpus("\n" * 99), "corpus.txt"),
    "corpus that is a picture": (lambda p: p.corpus(PNG), "corpus.txt:1"),
    "corpus in UTF-16": (lambda p: p.corpus(PROSE.encode("utf-16")), "corpus.txt:1"),
    "corpus in UTF-16 without a mark": (lambda p: p.corpus(PROSE.encode("utf-16-le")), "corpus.txt:1"),
    "corpus in Latin-1": (lambda p: p.corpus(PROSE.encode() + "\ncafé\n".encode("latin-1")), "corpus.txt:121"),
    "corpus in one line of 100 MB": (lambda p: p.corpus("a " * (LONG // 2)), "corpus.txt:1"),
    "corpus that is a FIFO": (lambda p: p.corpus(p.pipe("corpus.txt")), "corpus.txt"),
    "corpus that is a dead link": (lambda p: p.corpus(p.link("corpus.txt", "/nowhere/at-all.txt")), "corpus.txt"),
    "corpus that the system does not give": (lambda p: p.corpus(p.link("corpus.txt", "/proc/self/mem")), "corpus.txt"),
    "corpus in a folder without text": (lambda p: p.corpus(folder_at(p, "texts")), "texts"),
    "corpus in a folder of dead links": (
        lambda p: p.corpus(p.link("texts/a.txt" if folder_at(p, "texts") else "", "/nowhere/a.txt").parent), "texts",
    ),
    "corpus in gzip that is cut off": (lambda p: p.corpus(gzip.compress(PROSE.encode())[:-9], "c.txt.gz"), "c.txt.gz"),
    "corpus in gzip that fills the memory": (
        lambda p: p.corpus(gzip.compress(b"a b\n" * (LONG // 4)), "c.txt.gz"), "50 times its size",
    ),
    "corpus of CSV with an open quote": (lambda p: p.corpus('text\n"a\n' + PROSE, "c.csv"), "c.csv:2"),
    "corpus of CSV without the column": (lambda p: p.corpus("body\na\n", "c.csv"), "c.csv:1"),
    "corpus in a form that is not read": (lambda p: p.corpus("{}", "c.json"), "c.json"),
    "corpus of JSONL without the column": (lambda p: p.corpus(lines({"txt": "a"}), "c.jsonl"), "c.jsonl:1"),
    "corpus of JSONL with a list": (lambda p: p.corpus(lines({"text": PROSE}, []), "c.jsonl"), "c.jsonl:2"),
    "corpus of JSONL in deep brackets": (lambda p: p.corpus(DEEP, "c.jsonl"), "c.jsonl:1"),
    "corpus of JSONL with 5,000 digits": (lambda p: p.corpus(f'{{"text": {DIGITS}}}', "c.jsonl"), "c.jsonl:1"),
    "corpus of JSONL with half a character": (lambda p: p.corpus(lines({"text": "\ud83d"}), "c.jsonl"), "c.jsonl:1"),
    "corpus of Parquet cut off": (lambda p: p.corpus(parquet(text=[PROSE])[:-40], "c.parquet"), "c.parquet"),
    "corpus of Parquet with a damaged page": (
        lambda p: p.corpus(parquet(text=[PROSE])[:4] + b"\xff" * 60 + parquet(text=[PROSE])[64:], "c.parquet"),
        "c.parquet",
    ),
    "corpus of Parquet with numbers": (lambda p: p.corpus(parquet(text=[1, 2]), "c.parquet"), "c.parquet"),
    "corpus of Parquet that is not UTF-8": (lambda p: p.corpus(parquet(text=NOT_UTF8), "c.parquet"), "c.parquet"),
    "corpus of Parquet with a text of 30 MB": (
        lambda p: p.corpus(parquet(text=["a " * 15_000_000]), "c.parquet"), "c.parquet",
    ),
    # Recipes.
    "recipe with a key misspelt": (lambda p: p.setting("[distill]\nepoch = 1"), "did you mean 'epochs'"),
    "recipe with a section misspelt": (lambda p: p.setting("[distil]\nepochs = 1"), "did you mean 'distill'"),
    "recipe with words for a number": (lambda p: p.setting('[distill]\nepochs = "many"'), "distill.epochs"),
    "recipe with a key twice": (lambda p: p.setting("[distill]\nepochs = 1\nepochs = 2"), "mine.toml"),
    "recipe with a section twice": (lambda p: p.setting("[distill]\n[distill]"), "mine.toml"),
    "recipe that is no TOML": (lambda p: p.recipe("epochs: 3\n"), "mine.toml"),
    "recipe in UTF-16": (lambda p: p.recipe("[distill]\nepochs = 1\n".encode("utf-16")), "mine.toml"),
    "recipe in Latin-1": (lambda p: p.recipe('name = "café"\n'.encode("latin-1")), "mine.toml"),
    "recipe that is a picture": (lambda p: p.recipe(PNG), "mine.toml"),
    "recipe in deep brackets": (lambda p: p.recipe(f"name = {DEEP}\n"), "mine.toml"),
    "recipe in deep sections": (lambda p: p.recipe(f"[{'a.' * 5000}a]\nb = 1\n"), "mine.toml"),
    "recipe with a number of 5,000 digits": (lambda p: p.recipe(f"seed = {DIGITS}\n"), "mine.toml"),
    "recipe with a text of 1 MB for a number": (lambda p: p.recipe(f'seed = "{"x" * 1_000_000}"\n'), "mine.toml"),
    "recipe with infinite epochs": (lambda p: p.setting("[distill]\nepochs = inf"), "distill.epochs"),
    "recipe with epochs that are no number": (lambda p: p.setting("[distill]\nepochs = nan"), "distill.epochs"),
    "recipe with a billion epochs": (lambda p: p.setting("[distill]\nepochs = 1e9"), "distill.epochs"),
    "recipe with a billion fine-tuning epochs": (lambda p: p.setting("[finetune]\nepochs = 1e9"), "finetune.epochs"),
    "recipe with a billion validations": (lambda p: p.setting("[validation]\ntimes = 1_000_000_000"), "times"),
    "recipe with a billion layers": (lambda p: p.setting("[student]\nnum_hidden_layers = 1_000_000_000"), "num_hidden"),
    "recipe with a width of a billion": (lambda p: p.setting("[student]\nhidden_size = 1_000_000_000"), "hidden_size"),
    "recipe with a billion examples at once": (
        lambda p: p.setting("[distill.optimization]\nbatch_size = 1_000_000_000"), "batch_size",
    ),
    "recipe with a batch of 80 bits": (
        lambda p: p.setting(f"[distill.optimization]\nbatch_size = {2**80}"), "batch_size",
    ),
    "recipe with a negative batch": (lambda p: p.setting("[distill.optimization]\nbatch_size = -8"), "batch_size"),
    "recipe with no layer": (lambda p: p.setting("[student]\nlayers = []"), "student.layers"),
    "recipe with a layer that is not there": (lambda p: p.setting("[student]\nlayers = [0, 7]"), "student"),
    "recipe with a negative seed": (lambda p: p.setting("[finetune]\nseeds = [-1]"), "finetune.seeds"),
    "recipe with a seed twice": (lambda p: p.setting("[finetune]\nseeds = [1, 1]"), "finetune.seeds"),
    "recipe with options that exclude each other": (
        lambda p: p.setting('[distill]\ntime_budget = "1m"\nmax_steps = 3'), "distill",
    ),
    "recipe with rows of rows": (
        lambda p: p.setting("[ablate.rows.a.ablate.rows.b.ablate.rows.c.distill]\nepoch = 1"), "epoch",
    ),
    "recipe with a duration that is none": (lambda p: p.setting('[distill]\ntime_budget = "20 min"'), "time_budget"),
    "recipe with a task that is not there": (
        lambda p: p.setting('[finetune]\ntasks = ["sst3"]'), "did you mean 'sst2'",
    ),
    "recipe with blocks longer than the teacher reads": (
        lambda p: p.setting(f'[corpus]\nsource = "{p.folder}"\nblock_size = 9999'),
        "corpus.block_size",
    ),
    "recipe with a NUL in a path": (lambda p: p.setting('[corpus]\nsource = "/a\\u0000b"'), "corpus.source"),
    "recipe that is not there": (lambda p: ["distill", "quickstrat", "--output", p.output], "did you mean"),
    "recipe that is a folder": (lambda p: ["distill", folder_at(p, "r.toml"), "--output", p.output], "r.toml"),
    "recipe that is a FIFO": (lambda p: ["distill", p.pipe("r.toml"), "--output", p.output], "r.toml"),
    "recipe that is a dead link": (
        lambda p: ["distill", p.link("r.toml", "/nowhere/r.toml"), "--output", p.output], "r.toml",
    ),
    "recipe that the system does not give": (
        lambda p: ["distill", p.link("r.toml", "/proc/self/mem"), "--output", p.output], "r.toml",
    ),
    # Models.
    "teacher in an empty folder": (lambda p: p.setting(f'[teacher]\nmodel = "{folder_at(p, "m")}"'), "config.json"),
    "teacher that is a file": (lambda p: p.setting(f'[teacher]\nmodel = "{p.file("m", "a")}"'), "/m"),
    "teacher that is a FIFO": (lambda p: p.setting(f'[teacher]\nmodel = "{p.pipe("m")}"'), "/m"),
    "teacher whose config is cut off": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(config__json="{")}"'), "model",
    ),
    "teacher whose config is a list": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(config__json="[]")}"'), "model",
    ),
    "teacher of no known family": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(config__json=json.dumps({"model_type": "gpt2"}))}"'), "gpt2",
    ),
    "teacher without weights": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(model__safetensors=None)}"'), "safetensors",
    ),
    "teacher whose weights are cut off": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(model__safetensors=b"x" * 99)}"'), "safetensors",
    ),
    "teacher without a tokenizer": (
        lambda p: p.setting(
            f'[teacher]\nmodel = "{p.model(tokenizer__json=None, tokenizer_config__json=None)}"'
        ), "tokenizer",
    ),
    "teacher whose tokenizer is cut off": (
        lambda p: p.setting(f'[teacher]\nmodel = "{p.model(tokenizer__json="{")}"'), "tokenizer",
    ),
    "predict with a model without a task": (lambda p: ["predict", p.teacher, "a text"], "teacher"),
    "predict with a folder that is not there": (lambda p: ["predict", p.folder / "m", "a text"], "/m"),
    "predict with an empty folder": (lambda p: ["predict", folder_at(p, "m"), "a text"], "/m"),
    "predict with a FIFO": (lambda p: ["predict", p.pipe("m"), "a text"], "/m"),
    "predict with a config cut off": (lambda p: ["predict", p.model(config__json="{"), "a text"], "model"),
    "predict with a config in deep brackets": (lambda p: ["predict", p.model(config__json=DEEP), "a text"], "model"),
    "predict with a config that is a picture": (lambda p: ["predict", p.model(config__json=PNG), "a text"], "model"),
    "predict without a text": (lambda p: ["predict", p.teacher], "predict"),
    "export of a folder that is not there": (lambda p: ["export", p.folder / "m", "--output", p.output], "/m"),
    "export onto other files": (
        lambda p: ["export", p.teacher, "--output", p.file("there/a.txt", "a").parent], "--output",
    ),
    "elmo without its weights": (
        lambda p: ["elmo", "--weights", p.folder / "w", "--options", p.folder / "o", "--output", p.output], "/",
    ),
    # Runs and flags.
    "compare without a run": (lambda p: ["compare"], "compare"),
    "compare with a folder that is no run": (lambda p: ["compare", p.folder], "recipe.toml"),
    "compare with a run that is a FIFO": (lambda p: ["compare", p.pipe("r")], "/r"),
    "compare with a recipe cut off": (
        lambda p: ["compare", p.file("r/recipe.toml", "[distill").parent], "recipe.toml",
    ),
    "compare with a recipe that is a picture": (
        lambda p: ["compare", p.file("r/recipe.toml", PNG).parent], "recipe.toml",
    ),
    "compare with a run without scores": (lambda p: ["compare", p.file("r/recipe.toml", "").parent], "/r"),
    "command misspelt": (lambda p: ["distil", "quickstart"], "did you mean 'distill'"),
    "flag misspelt": (lambda p: p.custom(GOOD, "--finetune.epoch", "1"), "did you mean --finetune.epochs"),
    "flag without a value": (lambda p: ["distill", "quickstart", "--distill.epochs"], "--distill.epochs"),
    "flag with a word for a number": (lambda p: p.custom(GOOD, "--epochs", "many"), "finetune.epochs"),
    "flag with a kind misspelt": (lambda p: p.custom(GOOD, "--kind", "regresion"), "kind"),
    "two recipes": (lambda p: ["distill", "quickstart", "seed"], "one recipe"),
    "output that is a file": (lambda p: p.custom(GOOD, "--output", p.file("there", "a")), "--output"),
    "output below a file": (lambda p: p.custom(GOOD, "--output", p.file("there", "a") / "run"), "--output"),
    "output that is a dead link": (lambda p: p.custom(GOOD, "--output", p.link("there", p.folder / "no")), "--output"),
    "output with a name too long": (lambda p: p.custom(GOOD, "--output", p.folder / ("x" * 300)), "--output"),
    "output where nothing can be made": (lambda p: p.custom(GOOD, "--output", "/proc/run"), "--output"),
    "output with other files in it": (
        lambda p: p.custom(GOOD, "--output", p.file("there/a.txt", "a").parent), "--output",
    ),
    "output with a recipe cut off": (
        lambda p: p.custom(GOOD, "--output", p.file("there/recipe.toml", "[a").parent), "recipe.toml",
    ),
    "output with a recipe that is a picture": (
        lambda p: p.custom(GOOD, "--output", p.file("there/recipe.toml", PNG).parent), "recipe.toml",
    ),
}  # fmt: skip

ACCEPTED: dict[str, Maker] = {
    "CSV in UTF-8 with a mark": lambda p: p.custom(GOOD.encode("utf-8-sig")),
    "CSV with the line ends of Windows": lambda p: p.custom(GOOD.replace("\n", "\r\n")),
    "CSV with a line break in quotes": lambda p: p.custom(GOOD + '"two\nlines, ""quoted""",good\n'),
    "CSV with empty lines and ids left out": lambda p: p.custom("id,review,stars\n1,a,good\n\n,b,bad\n,c,bad\n"),
    "JSONL with a mark and empty lines": lambda p: p.custom(
        b"\xef\xbb\xbf\n" + lines(*REVIEWS).encode(), name="t.jsonl"
    ),
    "a recipe in UTF-8 with a mark": lambda p: [
        *p.setting("[distill]\nepochs = 1")[:1],
        p.file("mine.toml", b"\xef\xbb\xbf" + (p.folder / "mine.toml").read_bytes()),
    ],
    "a corpus with a mark and the line ends of Windows": lambda p: p.corpus(
        PROSE.replace("\n", "\r\n").encode("utf-8-sig")
    ),
}
"""Odd, and right."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a BERT of two narrow layers."""
    folder = tmp_path_factory.mktemp("malformed") / "teacher"
    save_model(tiny.model(), tokenizer, folder)
    return folder


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[[list[object]], tuple[int, str]]:
    """Run the command line in this process; gives exit code and standard error, whoever wrote it."""

    def run(words: list[object]) -> tuple[int, str]:
        capfd.readouterr()
        try:
            main(list(map(str, words)))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capfd.readouterr().err

    return run


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """What waits for ever, or takes all memory of the machine, fails instead."""

    def log(*_: object) -> None:
        pytest.fail(f"it hung for {HANGS_AFTER} seconds")

    before = signal.signal(signal.SIGALRM, log)
    signal.alarm(HANGS_AFTER)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory("VmSize") + 2 * MOST_MEMORY), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def forget_peak() -> None:
    """Let the kernel count the peak of the memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Bytes: `VmRSS` now, or `VmHWM` at the peak."""
    matched = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert matched is not None
    return int(matched[1]) * 1024


def names(folder: Path) -> list[tuple[str, int]]:
    """What lies below a folder, and how large it is."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def check_refusal(
    place: Place, case: tuple[Maker, str], call: Callable[[list[object]], tuple[int, str]], most: dict[str, float]
) -> None:
    make, names_it = case
    words = make(place)
    cache.folder().mkdir(parents=True, exist_ok=True)
    before = names(place.folder), names(cache.folder())
    forget_peak()  # of those before
    in_use, begun = memory("VmRSS"), time.process_time()
    with no_hang():
        code, error = call(words)
    seconds, taken = time.process_time() - begun, memory("VmHWM") - in_use
    assert code == 2, (code, error)
    assert len(error.splitlines()) == 1 and error.endswith("\n") and len(error) < 2000, error
    assert re.fullmatch(r"error: .+: .+; .+", error.strip()) and names_it in error, error
    assert all(character.isprintable() for character in error[:-1]), error
    assert (names(place.folder), names(cache.folder())) == before, "something was written"
    assert seconds < MOST_SECONDS and taken < MOST_MEMORY, (seconds, taken)
    most["seconds of processor time at most"] = round(max(seconds, most.get("seconds of processor time at most", 0)), 1)
    most["MB at most"] = round(max(taken / 1e6, most.get("MB at most", 0)))


MUTATIONS_OF_QUICK = 60


def test_malformed_input_is_refused_in_one_line(
    trials: Callable[..., Any], call: Callable[[list[object]], tuple[int, str]], teacher: Path, tmp_path: Path
) -> None:
    goal = "malformed input: exit 2, one line, nothing written, under 5 s and 2 GB"
    cases = list(CASES.items())
    assert len(cases) >= 60
    with trials(goal, quick=len(cases) + MUTATIONS_OF_QUICK, full=2000) as all_of_them:
        all_of_them.facts["named cases"] = len(cases)
        for number, random_ in enumerate(all_of_them):
            if number < len(cases):
                name, case = cases[number]
                with all_of_them.trial(name):
                    folder = tmp_path / str(number)
                    folder.mkdir()
                    check_refusal(Place(folder, teacher), case, call, all_of_them.facts)
            else:
                kind = list(VALID)[number % len(VALID)]
                with all_of_them.trial(f"{kind}, mutation {number}"), no_hang():
                    became = f"mutations {check_mutated(kind, random_, tmp_path)}"
                    all_of_them.facts[became] = all_of_them.facts.get(became, 0) + 1


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_odd_but_right_is_read(name: str, teacher: Path, tmp_path: Path) -> None:
    arguments = [str(argument) for argument in ACCEPTED[name](Place(tmp_path, teacher))]
    check_inputs(run_context(request(arguments).recipe, tmp_path / "run", until=arguments[0], log=print))


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three changes: bits, cuts, pieces inserted, moved or said twice, numbers and words."""
    made = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(made) + 1)
        to = min(len(made), at + draw.choice((1, 2, 8, 64)))
        match draw.randrange(7):
            case 0 if made:
                made[min(at, len(made) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                del made[at:]
            case 2:
                del made[at:to]
            case 3:
                made[at:at] = draw.choice(
                    (b"\0", b'"', b"\n", b"\r", b",", b"\xff\xfe", b"[", b"{", b"\xed\xa0\x80", b"\\u")
                )
            case 4:
                made[at:at] = made[at:to] * draw.randint(1, 30)
            case 5:
                piece = bytes(made[at:to])
                del made[at:to]
                destination = draw.randrange(len(made) + 1)
                made[destination:destination] = piece
            case _:
                odd = (b"NaN", b"1e999", b"-1", b"null", b"true", b"9" * 5000, b"[]", b"''", b"99999999999999999999")
                made[at:to] = draw.choice(odd)
    return bytes(made)


def _examples(path: Path, kind: Any) -> None:
    settings = CustomTask(train=str(path), validation=str(path), kind=kind, **COLUMNS[kind])
    load_examples(custom_task("mine", settings), "validation", data=None, corpus=Corpus(), limit=0, seed=0)


def _corpus(path: Path) -> None:
    source = open_source(Corpus(source=str(path)), None)
    for split in (source.train, source.validation):
        for text in split():
            text.encode()  # what no tokenizer could read


def _recipe(path: Path) -> None:
    read = toml.load(str(path))
    assert toml.from_toml(toml.to_toml(read), "itself") == read


COLUMNS: dict[str, dict[str, str]] = {
    "classification": {"text": "review", "label": "stars"}, "regression": {"text": "review", "label": "stars"},
    "span": {},
}  # fmt: skip
SCORES = [1.0, 2.5, 3.0, 0.5]
VALID: dict[str, tuple[bytes, Callable[[Path], None]]] = {
    "a.csv": (GOOD.encode(), lambda path: _examples(path, "classification")),
    "b.tsv": (table(ROWS, separator="\t").encode(), lambda path: _examples(path, "classification")),
    "c.jsonl": (lines(*REVIEWS).encode(), lambda path: _examples(path, "classification")),
    "d.parquet": (parquet(review=TEXTS, stars=STARS, id=[1, 2, 3, 4]), lambda path: _examples(path, "classification")),
    "e.csv": (
        table([*zip(TEXTS, SCORES, strict=True)]).encode(),
        lambda path: _examples(path, "regression"),
    ),
    "f.parquet": (parquet(review=TEXTS, stars=SCORES), lambda path: _examples(path, "regression")),
    "g.json": (squad(asked(), asked(name="q2")).encode(), lambda path: _examples(path, "span")),
    "h.parquet": (
        parquet(
            id=["a", "b"], question=["Where?"] * 2, context=["Paris is in France."] * 2,
            answers=[{"text": ["France"], "answer_start": [12]}] * 2,
        ), lambda path: _examples(path, "span"),
    ),
    "i.txt": (PROSE.encode(), _corpus),
    "j.jsonl": (lines(*({"text": f"{PROSE} {i}"} for i in range(9))).encode(), _corpus),
    "k.parquet": (parquet(text=[f"{PROSE} {i}" for i in range(9)]), _corpus),
    "l.toml": (
        b'name = "mine"\n[distill]\nepochs = 2.5\n[student]\nlayers = [0, 3]\n[finetune]\ntasks = ["sst2"]\n', _recipe,
    ),
}  # fmt: skip
"""By file name: valid content, and what reads it."""


def check_mutated(name: str, draw: random.Random, folder: Path) -> str:
    """A valid file with random damage is read, or refused in one line that names it; nothing else is raised."""
    content, read = VALID[name]
    path = folder / name
    if draw.random() < 0.1 and name.endswith((".csv", ".tsv")):
        rows = [line.split(b"," if b"," in line else b"\t") for line in content.splitlines()]
        content = b"\n".join(b",".join(reversed(row)) for row in rows)
    path.write_bytes(mutated(content, draw))
    try:
        read(path)
    except UserError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 2000, message
        assert name in message or message.startswith("corpus.source"), message
        return "refused"
    return "accepted"


@pytest.mark.parametrize("name", VALID)
def test_the_files_that_are_mutated_are_valid(name: str, tmp_path: Path) -> None:
    content, read = VALID[name]
    path = tmp_path / name
    path.write_bytes(content)
    read(path)
