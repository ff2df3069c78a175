"""The notebook: its cells run from top to bottom, and what is committed holds no outputs.

They are executed here by `exec`, each expression at the end of a cell shown as a notebook would: a kernel (nbclient,
ipykernel) is more than thirty packages. The teacher is a toy in place of the encoder in the wheel; it learns
nothing in so few steps.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import tinydistilbert as td

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"
TEACHER = '"offline"'


def cells() -> list[dict[str, Any]]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; gives the value of an expression at its end."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_the_notebook_is_committed_without_outputs() -> None:
    assert len(cells()) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


@pytest.mark.long
def test_its_cells_run_from_top_to_bottom(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    sources = ["".join(cell["source"]) for cell in cells()]
    assert sum(source.count(TEACHER) for source in sources) == 1
    names: dict[str, Any] = {}
    values = [shown(source.replace(TEACHER, repr(str(teacher))), names) for source in sources]
    assert isinstance(names["student"], td.api.outcomes.TaskModel)
    for value in values:
        if hasattr(value, "_repr_html_"):
            assert "<table" in value._repr_html_()
    predictions = [value for value in values if isinstance(value, list)]
    assert [len(answers) for answers in predictions] == [2, 1]
    assert {answer["label"] for answer in predictions[0]} <= {"good", "bad"}
    assert "<table>" in values[-3]._repr_html_() and names["student"].page.is_file()
    out = capsys.readouterr().out
    assert "best" in out and "report.html" in out
    assert Path(names["student"].model).is_relative_to("runs")
