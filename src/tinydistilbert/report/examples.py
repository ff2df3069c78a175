"""Examples with the predictions of every row: of a single text, of a pair of texts, and of a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.evaluation.metrics import squad_exact_match
from tinydistilbert.report.scores import TITLES
from tinydistilbert.run_folder import SAMPLES, RunFolder
from tinydistilbert.storage import json_lines
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task

HEADINGS = SENTENCE, PAIR, QUESTION = "A single text", "A pair of texts", "A question"
"""Headings of the page; each has examples of the first such task that was run."""
NO_ANSWER = "(no answer)"
LONGEST = 480
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class RowPrediction:
    """The prediction of one row; `right` is None for numbers, which are near or far, not right or wrong."""

    model: str
    text: str
    right: bool | None


@dataclass(frozen=True)
class Example:
    """One example. `texts` are (heading, before, gold answer or empty, after), so that the answer can be marked."""

    task: str
    texts: tuple[tuple[str, str, str, str], ...]
    gold: str
    predictions: tuple[RowPrediction, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples under one heading."""

    title: str
    examples: tuple[Example, ...]


def _name(sample: dict[str, Any]) -> str:
    return str(sample.get("idx", sample.get("id")))


def _samples(run: Path, task: str, row: str) -> dict[str, dict[str, Any]]:
    """Return the samples of the first seed and split by example name; empty if the row was not scored."""
    for path in (scores / SAMPLES for scores in RunFolder(run).scores_of_seeds(task, row)):
        if not path.is_file():
            continue
        lines = json_lines.read(path)
        return {
            _name(line): line for line in lines if line.get("split", lines[0].get("split")) == lines[0].get("split")
        }
    return {}


def as_text(value: Any) -> str:
    """Return a label or a prediction as text, several as alternatives."""
    if isinstance(value, (list, tuple)):
        return " / ".join(dict.fromkeys(map(as_text, value)))
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value).replace("_", " ")


def around(text: str, answer: str) -> tuple[str, str, str]:
    """Return `text` cut to `LONGEST` characters around `answer`, in three parts; its beginning if it has no answer."""
    at = text.find(answer) if answer else -1
    if at < 0:
        return (text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"), "", ""
    end = at + len(answer)
    first, last = max(0, at - LONGEST // 2), min(len(text), end + LONGEST // 2)
    if first:  # begin and end at a word
        first = min(at, text.find(" ", first) + 1)
    if last < len(text):
        last = max(end, text.rfind(" ", 0, last))
    return ("… " * (first > 0) + text[first:at]), answer, (text[end:last] + " …" * (last < len(text)))


def _is_right(task: Task, sample: dict[str, Any]) -> bool | None:
    if task.kind == "regression":
        return None
    if task.kind == "span":
        return bool(squad_exact_match(sample["prediction"], sample["gold"], task.answer_units))
    return bool(sample["prediction"] == sample["gold"])


def _example(task: Task, rows: dict[str, dict[str, Any]]) -> Example:
    sample = next(iter(rows.values()))
    gold = sample["gold"]
    first_gold = str(next(iter(gold), "")) if isinstance(gold, (list, tuple)) else as_text(gold)
    texts = []
    for key, heading in (
        ("question", "Question"),
        ("context", "Passage"),
        ("text", "Text"),
        ("text_pair", "Second text"),
    ):
        if sample.get(key):
            texts.append((heading, *around(str(sample[key]), first_gold if key == "context" else "")))
    predictions = tuple(
        RowPrediction(
            TITLES[row],
            as_text(sample["prediction"]) or NO_ANSWER,
            _is_right(task, sample),
        )
        for row, sample in rows.items()
    )
    return Example(task.title, tuple(texts), as_text(gold) or NO_ANSWER, predictions)


def _examples_to_show(task: Task, samples: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the examples to show: one of each of two labels, or two of one label; for questions one."""
    if task.kind == "span":
        return [_name(sample) for sample in samples[:1]]
    first_of_gold: dict[str, str] = {}
    for sample in samples:
        first_of_gold.setdefault(as_text(sample["gold"]), _name(sample))
    return list(first_of_gold.values())[:2] if len(first_of_gold) > 1 else [_name(sample) for sample in samples[:2]]


def _group_of(task: Task) -> str:
    return QUESTION if task.kind == "span" else PAIR if task.text_pair else SENTENCE


def read_examples(run: Path, tasks: Mapping[str, Task] = TASKS) -> list[ExampleGroup]:
    """Return examples from the scores folders of `run`; headings without a scored task are left out.

    Args:
        run: its folder.
        tasks: by name, as `tasks_of` gives them for the run's recipe.
    """
    # The user's own tasks come first, tasks made from text last.
    ordered = sorted(tasks.values(), key=lambda task: (task.is_made, bool(task.official)))
    groups = []
    for title in HEADINGS:
        for task in (task for task in ordered if _group_of(task) == title):
            rows = {row: samples for row in TITLES if (samples := _samples(run, task.name, row))}
            if not rows:
                continue
            first = next(iter(rows.values()))
            shared = [sample for name, sample in first.items() if all(name in samples for samples in rows.values())]
            chosen = _examples_to_show(task, shared or list(first.values()))
            examples = [
                _example(task, {row: samples[name] for row, samples in rows.items() if name in samples})
                for name in chosen
            ]
            groups.append(ExampleGroup(title, tuple(examples)))
            break
    return groups
