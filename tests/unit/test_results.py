"""The committed results: the README shows what they hold."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_the_tables_of_the_committed_run() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "results" / "readme.py")
    assert spec is not None and spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.written(text) == text, "run: python results/readme.py"
