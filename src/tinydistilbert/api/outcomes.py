"""The results of the functions: runs, task models and scores, with their numbers, folders and pages."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from tinydistilbert import results
from tinydistilbert.predictor import Prediction, Predictor, load
from tinydistilbert.report.html import as_html
from tinydistilbert.report.paper_tables import console_tables
from tinydistilbert.report.table import Table, to_text
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """A run folder, finished or in part."""

    folder: Path
    until: str = "report"
    """The last stage."""
    failures: tuple[str, ...] = ()
    """Failures that did not stop the run: fine-tunings whose loss became infinite."""

    @property
    def page(self) -> Path | None:
        """The report, `report.html`; None if the run has not reached it."""
        page = RunFolder(self.folder).report
        return page if page.is_file() else None

    @property
    def recipe_file(self) -> Path:
        """The recipe as it ran."""
        return RunFolder(self.folder).recipe

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every number that was measured."""
        path = RunFolder(self.folder).results
        return tuple(results.read(path)) if path.is_file() else ()

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables of the report."""
        return tuple(console_tables(self.folder)) if self.measurements else ()

    def __repr__(self) -> str:
        shown = "\n".join(to_text(table) for table in self.tables)
        return f"{type(self).__name__}({self.folder})" + (f"\n{shown}" if shown else "")

    def _repr_html_(self) -> str:
        return "".join(map(as_html, self.tables)) + _links(self.folder, self.page)


Label: TypeAlias = str | tuple[str, ...] | list[str]
"""The column of the label; of a multi-label task also several columns of 0 and 1."""


@dataclass(frozen=True)
class TaskColumns:
    """The columns of a task in its data."""

    text: str
    label: Label
    text_pair: str = ""
    kind: str = "classification"
    label_separator: str = ""
    """Separator of the labels in a cell, for multi-label; empty = the default."""

    @property
    def section(self) -> dict[str, Any]:
        """The columns as keys of `finetune.custom`."""
        separator = {"label_separator": self.label_separator} if self.label_separator else {}
        label = self.label if isinstance(self.label, str) else tuple(self.label)
        return {"text": self.text, "label": label, "text_pair": self.text_pair, "kind": self.kind, **separator}


@dataclass(frozen=True, repr=False)
class TaskModel(Run):
    """A model of one task, in the run that made it."""

    model: Path = Path()
    """The model's folder: `load` reads it, and nothing else is needed to use the model elsewhere."""
    task: str = ""
    row: str = ""
    """The model's row in the tables."""
    columns: TaskColumns = field(default_factory=lambda: TaskColumns("text", "label"))
    missed: str = ""
    """The targets that were not reached, in words; empty if all were."""

    @cached_property
    def predictor(self) -> Predictor:
        """The model, ready to predict on the CPU."""
        return load(self.model)

    def predict(
        self, texts: str | Sequence[str] | Sequence[Sequence[str]], pairs: str | Sequence[str] | None = None
    ) -> list[Prediction]:
        """A prediction for each text, as `Predictor.predict` gives it."""
        return self.predictor.predict(texts, pairs)

    def score(self, data: Any, *, text: str = "", label: Label = "", text_pair: str = "") -> "Scores":
        """Score the model on further labelled data; by default with the columns of its training.

        Answers are compared by the `answer_units` of its task.

        Raises:
            UserError: a column is missing, or a label that the model does not know.
        """
        from tinydistilbert.api.score import score_of
        from tinydistilbert.api.task_data import answer_units_of

        mine = self.columns
        columns = replace(
            mine, text=text or mine.text, label=label or mine.label, text_pair=text_pair or mine.text_pair
        )
        return score_of(self.predictor, data, columns, answer_units_of(self))

    def _repr_html_(self) -> str:
        missed = f"<p><b>{html.escape(self.missed)}</b></p>" if self.missed else ""
        return f"<p>Model: <code>{html.escape(str(self.model))}</code></p>{missed}" + super()._repr_html_()


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """The metrics of a model on some data, as shares of 1; a mapping from name to value."""

    values_by_metric: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap intervals over the examples."""
    majority: Mapping[str, float]
    """Value of each metric for the majority baseline."""
    examples: int
    warnings: tuple[str, ...] = ()

    def __getitem__(self, metric: str) -> float:
        return self.values_by_metric[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_metric)

    def __len__(self) -> int:
        return len(self.values_by_metric)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (name, f"{value:.4f}", "{:.4f} to {:.4f}".format(*self.intervals[name]), f"{self.majority[name]:.4f}")
            for name, value in self.values_by_metric.items()
        ]

    def __repr__(self) -> str:
        lines = [
            f"{name}: {value} ({interval}; majority {majority})" for name, value, interval, majority in self._rows()
        ]
        return "\n".join([f"Scores on {self.examples:,} examples", *lines, *self.warnings])

    def _repr_html_(self) -> str:
        head = "<tr><th>metric</th><th>value</th><th>95 % interval</th><th>majority</th></tr>"
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in self._rows())
        return f"<table>{head}{rows}</table><p>{self.examples:,} examples</p>"


@dataclass(frozen=True)
class ComparisonResult:
    """Two rows compared example by example."""

    table: Table
    differences: tuple[Any, ...]
    """One per task, split and metric, with `paired` (difference, interval, p) and the examples that differ."""
    page: Path | None = None

    def __repr__(self) -> str:
        return to_text(self.table)

    def _repr_html_(self) -> str:
        return as_html(self.table) + (_links(self.page.parent, self.page) if self.page else "")


def _links(folder: Path, page: Path | None) -> str:
    link = f'<a href="{html.escape(str(page))}">{html.escape(str(page))}</a>' if page else "none yet"
    return f"<p>Folder: <code>{html.escape(str(folder))}</code>; page: {link}</p>"
