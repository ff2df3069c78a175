"""`tinydistilbert shrink` from a file to a small model, for three kinds of task, with its estimated and actual time.

The sets are made from real data below `--data`, as files like a user's. Two come from paragraphs of SQuAD, whose
questions and answers serve as labels: what was asked about a text, and which words were the answer.

- `sst2`: part of GLUE's SST-2 as CSV, scored on its validation split.
- `answers`, entities: the answers in a sentence, typed by their question (WHO, WHEN, WHERE, NUMBER). Other names in it
are not marked, so no model could find exactly these.
- `asked`, several labels: which kinds of question people asked about a paragraph (who, when, where, how many …).

Each command runs in a separate process, so that its processor time is known, which other programs disturb less than the
clock.
"""

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import pyarrow.parquet as pq

from tinydistilbert.benchmark.turns import table

MISSED = 1
"""Exit code where no form keeps what was asked for; the nearest is there."""
RESULTS = common.ROOT / "results" / "shrink" / "kinds.jsonl"
ASKED = {
    "who": r"\b(who|whom|whose)\b", "when": r"\b(when|what year|which year|what date)\b", "where": r"\bwhere\b",
    "number": r"\bhow (many|much)\b", "why": r"\bwhy\b", "how": r"\bhow\b(?! (many|much))",
}  # fmt: skip
"""What a question asks, by its words."""
TYPED = {"who": "WHO", "when": "WHEN", "where": "WHERE", "number": "NUMBER"}
"""The kinds of question whose answers look alike."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
Row = dict[str, Any]


def asked(question: str) -> list[str]:
    """The kinds of a question, often none: "what" and "which" ask for anything."""
    return [name for name, words in ASKED.items() if re.search(words, question.lower())]


def paragraphs(questions: Sequence[Row]) -> Iterator[Row]:
    """Each paragraph once, with the kinds of question asked about it."""
    kinds: dict[str, set[str]] = {}
    for row in questions:
        kinds.setdefault(row["context"], set()).update(asked(row["question"]))
    for text, text_kinds in kinds.items():
        yield {"text": text, "kinds": "|".join(name for name in ASKED if name in text_kinds)}


def sentences(questions: Sequence[Row]) -> Iterator[Row]:
    """Each sentence with a typed answer, once; of answers that overlap, the first in the text, of these the longest."""
    spans: dict[str, set[tuple[int, int, str]]] = {}
    for row in questions:
        kinds = [TYPED[name] for name in asked(row["question"]) if name in TYPED]
        text, begin = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        if len(kinds) == 1:
            spans.setdefault(row["context"], set()).add((begin, begin + len(text), kinds[0]))
    for context, answers in spans.items():
        begin = 0
        for end in [*(match.start() for match in SENTENCE_END.finditer(context)), len(context)]:
            entities, last = [], begin
            for start, stop, label in sorted(answers, key=lambda one: (one[0], -one[1])):
                if last <= start and stop <= end:
                    entities.append({"start": start - begin, "end": stop - begin, "label": label})
                    last = stop
            if entities:
                yield {"text": context[begin:end], "entities": entities}
            begin = end + len(context[end:]) - len(context[end:].lstrip())


def sst2(rows: Sequence[Row]) -> Iterator[Row]:
    """Sentences with the names of their labels."""
    for row in rows:
        yield {"text": row["sentence"].strip(), "label": ("negative", "positive")[row["label"]]}


def some(rows: Sequence[Row], count: int) -> list[Row]:
    """So many of them, or all, drawn by a seed."""
    return random.Random(0).sample(rows, min(count, len(rows)))


def write(path: Path, rows: Sequence[Row]) -> Path:
    """The rows as CSV or JSON lines."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".csv":
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


SETS: dict[str, tuple[str, str, Callable[[Sequence[Row]], Iterator[Row]], list[str]]] = {
    "sst2": ("glue/sst2", ".csv", sst2, []),
    "answers": ("squad", ".jsonl", sentences, ["--kind", "token-classification"]),
    "asked": ("squad", ".csv", paragraphs, ["--kind", "multi-label", "--label", "kinds"]),
}
"""Where the rows come from, how they are written, what makes them, and the flags of `shrink`."""


def made(name: str, data: Path, folder: Path, most: dict[str, int]) -> tuple[dict[str, Path], dict[str, int]]:
    """The files of a set by split, with at most so many rows, and how many they have."""
    source, ending, rows_of, _ = SETS[name]
    files, counts = {}, {}
    for split, limit in most.items():
        rows = some([*rows_of(pq.read_table(data / source / f"{split}.parquet").to_pylist())], limit)
        files[split], counts[split] = write(folder / f"{name}-{split}{ending}", rows), len(rows)
    return files, counts


def command(*arguments: object) -> tuple[Any, int, float, float]:
    """What a command prints as JSON, its exit code, and its seconds: of the clock, and of all its threads."""
    before, begin = os.times(), time.perf_counter()
    line = [sys.executable, "-m", "tinydistilbert", *map(str, arguments), "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    seconds, after = time.perf_counter() - begin, os.times()
    if done.returncode not in (0, MISSED):
        raise SystemExit(done.returncode)
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout), done.returncode, seconds, worked


def shrunk(name: str, arguments: argparse.Namespace) -> Row:
    """One set through `shrink`: what was estimated, what it took, and what came of it."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    most = {"train": arguments.rows, "validation": arguments.scored}
    files, rows = made(name, arguments.data, arguments.folder, most)
    flags = [
        "shrink", files["train"], "--validation", files["validation"], *SETS[name][3], "--teacher", arguments.teacher,
        "--threads", arguments.threads, "--output", arguments.folder / name, *arguments.flags,
    ]  # fmt: skip
    planned, *_ = command(*flags, "--dry-run")
    answer, code, seconds, worked = command(*flags)
    return {
        "set": name, "threads": arguments.threads, "teacher": arguments.teacher, "flags": arguments.flags, "rows": rows,
        "estimated_seconds": planned["seconds"], "seconds": seconds, "processor_seconds": worked,
        "stages": {one["stage"]: one["seconds"] for one in planned["stages"]}, "precision": planned["precision"],
        "missed": answer["missed"], "exit_code": code, "facts": answer["facts"],
        "measurements": [
            {key: one[key] for key in ("model", "task", "metric", "value", "examples", "seconds")}
            for one in answer["measurements"]
        ],
    }  # fmt: skip


def shown(rows: Sequence[Row]) -> str:
    """A line for each set."""
    head = ("set", "rows", "estimated", "took", "processor", "kept", "ms", "MB")
    lines = []
    for row in rows:
        facts = row["facts"]
        lines.append((
            row["set"], f"{row['rows']['train']:,}", f"{row['estimated_seconds']:,.0f} s", f"{row['seconds']:,.0f} s",
            f"{row['processor_seconds']:,.0f} s", "–" if facts["kept"] is None else f"{100 * facts['kept']:.1f} %",
            f"{facts['milliseconds']:.2f}", f"{facts['bytes'] / 1e6:.1f}",
        ))  # fmt: skip
    return table(head, lines)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="a folder with glue/sst2 and squad")
    parser.add_argument("--folder", type=Path, default=Path("runs/shrink-kinds"), help="for the files and runs")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--rows", type=int, default=4000, help="train examples of each")
    parser.add_argument("--scored", type=int, default=1000, help="validation examples of each")
    parser.add_argument("--teacher", default="offline")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON lines that are added to")
    parser.add_argument("flags", nargs="*", help="more flags of shrink, behind --")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        rows.append(shrunk(name, arguments))
        common.append(arguments.output, rows[-1:])
        print(shown(rows[-1:]), flush=True)
    print(shown(rows))


if __name__ == "__main__":
    main()
