"""Tables: their cells and rows, and their output for a terminal and as Markdown (a template makes the page)."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "–"
METRICS = {
    "matthews_correlation": "Matthews correlation", "f1": "F1", "exact_match": "exact match", "accuracy": "accuracy",
    "pearson": "Pearson", "spearman": "Spearman", "f1_accuracy_mean": "mean of F1 and accuracy",
    "pearson_spearman_mean": "mean of Pearson and Spearman", "macro_f1": "macro F1", "micro_f1": "micro F1",
    "has_ans_exact_match": "exact match, with an answer", "has_ans_f1": "F1, with an answer",
    "entity_f1": "entity F1", "entity_precision": "entity precision", "entity_recall": "entity recall",
    "no_ans_exact_match": "exact match, without an answer", "no_ans_f1": "F1, without an answer",
}  # fmt: skip
"""Names of metrics in tables."""
RowKind = Literal["published", "baseline", "measured", "derived"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the marks behind it and a smaller second line."""

    text: str
    marks: str = ""
    detail: str = ""
    share: float | None = None
    """Share of 1 to draw as a bar."""
    printed: bool = False
    """Whether it is a published figure in the row of a model that was measured too."""


@dataclass(frozen=True)
class TableRow:
    """Cells of one line; `kind` separates printed figures from measured ones."""

    kind: RowKind
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with everything that must be read with it."""

    name: str
    """Short and stable: `glue`, `downstream`, `speed`, `synthetic`, `custom`, `pretraining`, `variants`."""
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether this run has measured anything in it."""
        return any(row.kind == "measured" for row in self.rows)


def as_printed(value: float | None) -> str:
    """Return a published figure with the one or two decimals that its source prints."""
    return NOTHING if value is None else f"{value:.2f}".removesuffix("0")


def points(value: float | None) -> str:
    """Return a share or a correlation in points, with one decimal; 0.0 has no sign."""
    return NOTHING if value is None else f"{100 * value:z.1f}"


def to_rich(table: Table) -> RichTable:
    """Return the table for a terminal, with the notes as its caption."""
    rich = RichTable(  # a str would be read as markup: the name of a label or a folder may hold brackets
        title=Text(table.title, style="bold"), caption=Text("\n".join((table.caption, *table.notes)), style="dim"),
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left",
    )  # fmt: skip
    for index, heading in enumerate(table.columns):
        rich.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    styles = {"published": "dim", "baseline": "dim", "measured": "bold", "derived": "cyan"}
    for row, following in zip(table.rows, (*table.rows[1:], None), strict=True):
        texts = [Text(c.text + c.marks + (f"\n{c.detail}" if c.detail else "")) for c in row.cells]
        ends = following is not None and following.kind != row.kind
        rich.add_row(*texts, style=styles[row.kind], end_section=ends)
    return rich


def to_text(table: Table, width: int = 100) -> str:
    """Return the table as plain text of that many columns, as in a terminal."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(to_rich(table))
    return captured.get()


def to_markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with title, caption and notes around it."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    rule = "|" + "|".join([" :-- "] + [" --: "] * (len(table.columns) - 1)) + "|"
    rows = [line([c.text + c.marks + (f" ({c.detail})" if c.detail else "") for c in row.cells]) for row in table.rows]
    notes = "".join(f"\n{note}  " for note in table.notes)
    return (
        "\n".join([f"**{table.title}.** {table.caption}", "", line(table.columns), rule, *rows]) + "\n" + notes + "\n"
    )


def signed(value: float) -> str:
    """Return a difference of shares or correlations in points, with its sign."""
    shown = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if shown in ("+0.0", "−0.0") else shown


def format_p(p: float) -> str:
    """Return a p-value with three decimals, or as very small."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
