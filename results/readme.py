"""Write the tables of the committed real run into README.md: `python results/readme.py`. A test compares the two."""

from collections.abc import Sequence
from pathlib import Path

from tinydistilbert import fsio, results
from tinydistilbert.report.cells import Table, to_markdown
from tinydistilbert.report.speed import speed_table
from tinydistilbert.report.tables import downstream_table, glue_table, pretraining_table
from tinydistilbert.results import Measurement

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "results" / "minilm"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """The tables that the README shows."""
    return [make(measurements) for make in (glue_table, downstream_table, speed_table, pretraining_table)]


def section(run: Path) -> str:
    """The part of the README between its two marks."""
    return "\n" + "\n".join(to_markdown(table) for table in tables(results.read(run / "results.jsonl"))) + "\n"


def main() -> None:
    """Replace that part."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    fsio.write_text(ROOT / "README.md", before + BEGIN + section(RUN) + END + after)


if __name__ == "__main__":
    main()
