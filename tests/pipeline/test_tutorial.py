"""The tutorial: its commands and its Python run in order as they stand, with a toy for the encoder and few steps."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tinydistilbert import results
from tinydistilbert.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"```(sh|python)\n(.*?)```", (ROOT / "docs/tutorial/first-run.md").read_text(encoding="utf-8"), re.DOTALL
)
SMALL = {
    "corpus.max_train_documents": "20", "adapt.tokens": "2_000", "distill.max_steps": "2", "validation.blocks": "4",
    "finetune.train_examples": "60", "finetune.validation_examples": "30", "finetune.epochs": "1",
    "finetune.distillation.epochs": "1", "finetune.distillation.intermediate_epochs": "1",
    "finetune.override.library-area.distillation.unlabelled_examples": "20",
    "finetune.override.what-does-it-do.epochs": "1", "compress.timed_examples": "4", "benchmark.examples": "4",
    "benchmark.padded_examples": "2", "benchmark.rounds": "1",
}  # fmt: skip
"""What else `replicate` is told here: the tutorial's own run takes minutes."""
PREPARING = (". .venv/bin/activate",)


def program_line(line: str) -> list[str]:
    """A line as words; what `make replicate` runs in its place."""
    if line == "make replicate":
        (recipe,) = re.findall(r"^replicate:.*\n\t.*\$\(TOOL\) (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        line = f"tinydistilbert {recipe}"
    words = shlex.split(line)
    assert words[0] == "tinydistilbert", line
    return words[1:]


@pytest.mark.long
def test_the_tutorial_runs_from_top_to_bottom(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    small = SMALL | {"teacher.model": str(teacher)}
    printed = []
    for kind, block in BLOCKS:
        capsys.readouterr()
        if kind == "python":
            exec(compile(block, "first-run.md", "exec"), {})
            printed.append(capsys.readouterr().out)
            continue
        for line in (line for line in block.replace("\\\n", "").splitlines() if line not in PREPARING):
            words = program_line(line)
            more = small.items() if words[0] == "replicate" else ()
            # The third run makes nothing that the two before it do not make: that its flags fit is enough.
            words += ["--dry-run"] * ("same-module" in words)
            words += ["--compress.tasks", "[]"] * ("runs/no-hidden" in words)  # the first run has done so
            main([*words, *(part for key, value in more if f"--{key}" not in words for part in (f"--{key}", value))])
            printed.append(capsys.readouterr().out)
    replicated, predicted, in_python, planned, varied, paired = printed
    ask = "tinydistilbert predict runs/quickstart/tasks/library-area/compressed/best"
    assert "The page:" in replicated and ask in replicated.splitlines()[-1]
    assert json.loads(predicted)["label"] in in_python, "the command and Python answer the same"
    assert "time left" in planned and "The page:" in varied
    assert "same-module" in paired.lower().replace(" ", "-") and "time left" in paired
    for run, has_hidden in (("quickstart", True), ("no-hidden", False)):
        rows = {measurement.model for measurement in results.read(tmp_path / "runs" / run / "results.jsonl")}
        assert {"teacher", "student (D)", "control", "tf-idf", "static embeddings"} <= rows
        (log,) = (tmp_path / "runs" / run / "tasks/library-area/student-d").rglob("log.jsonl")
        assert ("hidden" in json.loads(log.read_text().splitlines()[0])) == has_hidden
