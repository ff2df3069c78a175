"""Splits one file in two by a hash of each text: a text stays on its side, whatever is added later."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.mapped_tables import filtered
from tinydistilbert.tasks.rows import Rows, shortened, shown

_SHARE = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*")


def scored_share(validation: str, where: str) -> float:
    """Return the share of the train file that a `validation` such as `10%` requests; 0 if it names a file.

    Raises:
        UserError: the share is none or all of the file.
    """
    match = _SHARE.fullmatch(validation)
    if match is None:
        return 0.0
    share = float(match[1]) / 100
    if not 0 < share < 1:
        raise UserError(where, expected="more than 0 % and less than 100 %", found=repr(validation), fix="write 10%")
    return share


def part_of(task: Task, split: str, rows: Rows) -> Rows:
    """Return the rows of a file that belong to `split`, if `task.scored_share` splits it.

    If a class would have no row to train on, all its rows are trained on.

    Raises:
        UserError: one of the two sides is empty.
    """
    column = task.text_pair if task.kind == "span" and task.text_pair else task.text  # no context is on both sides
    columns = [column, *([task.text_pair] if task.text_pair and task.kind != "span" else [])]
    texts = zip(*(rows.values(name) for name in columns), strict=True)
    is_scored = [_place(parts) < task.scored_share for parts in texts]
    if task.has_classes:
        _keep_classes(task, rows, is_scored)
    count = sum(is_scored)
    if count in (0, len(is_scored)):
        problem = f"too few rows ({len(is_scored):,}) to split off {100 * task.scored_share:g} % of them"
        raise UserError(rows.where, problem=problem, fix="add rows, or give the scored examples as --validation FILE")
    if split == task.train:
        text = f"{count:,} of {len(is_scored):,} rows, chosen by a hash of their text, are scored and not trained on"
        notice(rows.where, text)
    chosen = np.flatnonzero(np.array(is_scored) == (split != task.train))
    return replace(
        rows, table=filtered(rows.table, chosen), location=lambda row: rows.location(chosen[row]),
        sampled_from=round(rows.sampled_from * len(chosen) / len(is_scored)),
    )  # fmt: skip


def _place(parts: Sequence[Any]) -> float:
    """Return the position of a text in 0 to 1; leading, trailing and repeated white space is ignored."""
    text = "\n".join(" ".join(part.split()) if isinstance(part, str) else repr(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _keep_classes(task: Task, rows: Rows, is_scored: list[bool]) -> None:
    """Remove from the scored rows those of classes or labels that would have no row to train on."""
    labels = [{*map(str, label)} if isinstance(label, list) else {str(label)} for label in rows.values(task.label)]
    trained = set[str]().union(*(of_row for of_row, scored in zip(labels, is_scored, strict=True) if not scored))
    lost = set[str]().union(*labels) - trained
    if not lost:
        return
    for row, of_row in enumerate(labels):
        if of_row & lost:
            is_scored[row] = False
    named = shortened(", ".join(map(shown, sorted(lost))))
    notice(rows.where, f"no row of {counted(len(lost), 'class', 'classes')} is scored, all are trained on: {named}")
