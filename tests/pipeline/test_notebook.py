"""The notebooks: their cells run from top to bottom, and what is committed holds no outputs.

They are executed here by `exec`, each expression at the end of a cell shown as a notebook would: a kernel (nbclient,
ipykernel) is more than thirty packages. The teacher is a toy in place of the encoder in the wheel; it learns
nothing in so few steps.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import tinydistilbert as td

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
QUICKSTART, OWN_LABELS = ROOT / "examples/quickstart.ipynb", ROOT / "examples/own-labels.ipynb"
TEACHER = '"offline"'


def cells(notebook: Path, kind: str = "code") -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; gives the value of an expression at its end."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def run(
    notebook: Path, teacher: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[Any]]:
    """Run its cells in an empty folder with a small teacher: the names that they define, and what each shows."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
    sources = ["".join(cell["source"]) for cell in cells(notebook)]
    assert sum(source.count(TEACHER) for source in sources) == 1
    names: dict[str, Any] = {}
    values = [shown(source.replace(TEACHER, repr(str(teacher))), names) for source in sources]
    for value in values:
        if hasattr(value, "_repr_html_"):
            assert "<table" in value._repr_html_()
    return names, values


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(notebook: Path) -> None:
    assert len(cells(notebook)) > 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(notebook))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(notebook: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert links and [link for link in links if not (notebook.parent / link).exists()] == []


def test_every_notebook_is_run_here() -> None:
    assert {QUICKSTART, OWN_LABELS} == {*NOTEBOOKS}


@pytest.mark.long
def test_the_quickstart_runs_from_top_to_bottom(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, values = run(QUICKSTART, teacher, tmp_path, monkeypatch)
    assert isinstance(names["student"], td.api.outcomes.TaskModel)
    predictions = [value for value in values if isinstance(value, list)]
    assert [len(answers) for answers in predictions] == [2, 1]
    assert {answer["label"] for answer in predictions[0]} <= {"good", "bad"}
    assert "<table>" in values[-3]._repr_html_() and names["student"].page.is_file()
    out = capsys.readouterr().out
    assert "best" in out and "report.html" in out
    assert Path(names["student"].model).is_relative_to("runs")


@pytest.mark.long
def test_own_labels_run_from_top_to_bottom(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, values = run(OWN_LABELS, teacher, tmp_path, monkeypatch)
    one, several = [value for value in values if isinstance(value, list)]
    assert {answer["label"] for answer in one} <= {"good", "bad"}
    assert all(set(answer["scores"]) == {"food", "service"} for answer in several)
    assert all(set(answer["labels"]) <= {"food", "service"} for answer in several)
    assert names["student"].page.is_file()
