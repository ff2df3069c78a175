"""A comparison as a table, and as a page with the examples that only one side gets right."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinydistilbert import __version__
from tinydistilbert.report.compare import Comparison, Difference
from tinydistilbert.report.differences import CAPTION, ONE_SEED, legend, score_cells, seeds_text, split_title
from tinydistilbert.report.disagreements import Case, as_lines, most_frequent_answer
from tinydistilbert.report.examples import NO_ANSWER, Example, RowPrediction, around, as_text
from tinydistilbert.report.html import render
from tinydistilbert.report.predictions import Pairing, Side
from tinydistilbert.report.scores import MAJORITY, WARNING, metric_title, row_title
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, format_p
from tinydistilbert.storage import atomic, json_lines

PAGE_FILE, CASES_FILE = "comparison.html", "differences.jsonl"
HEADINGS = {"question": "Question", "context": "Passage", "text": "Text", "text_pair": "Second text"}


def title_of(pairing: Pairing) -> str:
    """Return both rows, `Student − Teacher`, or one name if both runs have the same."""
    first, second = row_title(pairing.first.side.row), row_title(pairing.second.side.row)
    same = pairing.first.side.row == pairing.second.side.row
    return first if same else f"{first} − {second}"


def side_title(side: Side, comparison: Comparison) -> str:
    """Return a row's title, with its run if two are compared."""
    return f"{row_title(side.row)}, {side.run}" if comparison.second else row_title(side.row)


def comparison_table(comparison: Comparison) -> Table:
    """Return a table with a line for each task, split, pair of rows and metric."""
    headings = ("Task", "Rows", "First", "Second", "Difference", "p", "p, Holm", "Right alone", "Seeds", "Examples")
    caption = (
        f"{CAPTION} Right alone: examples that most seeds of the first (or second) get right and most of the "
        "other get wrong; for numbers, where it is closer to the label."
    )
    first, second = comparison.first, comparison.second
    title = f"{first.run} − {second.run}" if second else f"Rows of {first.run}"
    rows = tuple(_table_row(difference) for difference in comparison.differences)
    return Table("comparison", title, caption, headings, rows, tuple(_notes(comparison)))


def _table_row(difference: Difference) -> TableRow:
    paired, pairing = difference.paired, difference.pairing
    alone = NOTHING
    if difference.disagreement:
        alone = " / ".join(f"{len(cases):,}" for cases in difference.disagreement.cases)
    where, metric = split_title(pairing.task, pairing.split), metric_title(pairing.task, difference.metric)
    cells = score_cells(metric, where, title_of(pairing), paired, difference.mark, difference.adjusted)
    rest = (Cell(alone), Cell(seeds_text(difference.seeds)), Cell(f"{len(pairing.first.ids):,}"))
    return TableRow("measured" if difference.mark else "derived", (*cells, *rest))


def _notes(comparison: Comparison) -> Iterator[str]:
    differences = comparison.differences
    rows = [d for d in differences if d.pairing.second.side.row != MAJORITY]
    yield legend(len(rows), majority=len(rows) < len(differences))
    if any(1 in difference.seeds for difference in rows):
        yield ONE_SEED
    if any(difference.task.kind == "span" for difference in differences):
        yield "Right alone, for questions: judged by exact match."
    remarks: dict[str, None] = {}
    for d in differences:
        pairing, where = d.pairing, split_title(d.task, d.pairing.split)
        shared, (whole, others) = len(pairing.first.ids), pairing.whole
        if (shared, shared) != pairing.whole:
            unknown = "" if pairing.same_data else "; scores of version 0.1 do not say whether their texts are the same"
            on_shared = f"on the {shared:,} shared examples of {whole:,} and {others:,}"
            remarks[f"{where}: {on_shared}{unknown}."] = None
        elif not pairing.same_data:
            remarks[f"{where}: same ids and labels, but the texts differ or were read differently."] = None
        for predicted in (pairing.first, pairing.second):
            if predicted.warnings:
                whose = f"{where}, {side_title(predicted.side, comparison)}"
                remarks[f"{WARNING} {whose}: {'; '.join(predicted.warnings).rstrip('.')}."] = None
    yield from remarks
    tests = [
        f"{split_title(d.pairing.task, d.pairing.split)}, {title_of(d.pairing)} {format_p(d.disagreement.mcnemar)}"
        for d in differences
        if d.disagreement and d.disagreement.mcnemar is not None
    ]
    if tests:
        yield f"p of McNemar’s exact test on “Right alone”: {'; '.join(tests)}."


def _sections(comparison: Comparison, shown: int) -> Iterator[dict[str, Any]]:
    """Yield for the page a heading, and for each side a sentence with a few examples."""
    for difference in comparison.differences:
        if difference.disagreement is None:
            continue
        pairing, both = difference.pairing, difference.disagreement.cases
        titles = [side_title(predicted.side, comparison) for predicted in (pairing.first, pairing.second)]
        verb = "is closer on" if pairing.task.kind == "regression" else "alone is right on"
        kinds = []
        for title, cases in zip(titles, both, strict=True):
            count = f"{len(cases):,} example{'s' * (len(cases) != 1)}"
            some = f"; {shown} of them" if 0 < shown < len(cases) else ""
            sentence = f"{title} {verb} {count}{some}{':' if cases and shown else '.'}"
            kinds.append(
                {"sentence": sentence, "examples": [_example(pairing, titles, case) for case in cases[:shown]]}
            )
        yield {"title": f"{split_title(pairing.task, pairing.split)}: {title_of(pairing)}", "kinds": kinds}


def _example(pairing: Pairing, titles: Sequence[str], case: Case) -> Example:
    gold = str(case.gold[0]) if isinstance(case.gold, list) and case.gold else ""
    texts = [
        (heading, *around(case.texts[name], gold if name == "context" else ""))
        for name, heading in HEADINGS.items()
        if name in case.texts
    ]
    predictions = []
    for title, by_seed in zip(titles, (case.first, case.second), strict=True):
        answer, seeds = most_frequent_answer(by_seed)
        agreeing = (
            f" ({seeds} of {len(by_seed)} seeds)" if len(by_seed) > 1 and pairing.task.kind != "regression" else ""
        )
        predictions.append(RowPrediction(title, (as_text(answer) or NO_ANSWER) + agreeing, None))
    return Example(f"Example {case.id}", tuple(texts), as_text(case.gold) or NO_ANSWER, tuple(predictions))


def write_comparison(output: Path, comparison: Comparison, *, shown: int = 5, command: str = "") -> Table:
    """Write `comparison.html` and `differences.jsonl` into the folder `output`, and return the table.

    Args:
        output: made if missing; files of these names are replaced.
        comparison: what `compare` found.
        shown: examples on the page for each side of each line; the other file has all of them.
        command: the command that reproduces it.
    """
    table = comparison_table(comparison)
    significant = sum(bool(difference.mark) for difference in comparison.differences)
    compared_runs = [run for run in (comparison.first, comparison.second) if run]
    facts = [("Command", command), *(("Run", f"{o.run}, row {o.row}" if o.row else str(o.run)) for o in compared_runs)]
    html = render(
        "compare.html", name=table.title, table=table, sections=list(_sections(comparison, shown)),
        verdict=f"{significant} of {len(comparison.differences)} differences are significant",
        facts=[fact for fact in (*facts, ("Software", f"tinydistilbert {__version__}")) if fact[1]],
    )  # fmt: skip
    disagreements = [(d.pairing, d.disagreement) for d in comparison.differences]
    lines = [line for pairing, cases in disagreements if cases for line in as_lines(pairing, cases)]
    json_lines.write(output / CASES_FILE, lines)
    atomic.write_text(output / PAGE_FILE, html)
    return table
