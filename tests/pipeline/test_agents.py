"""The guide for agents: its commands run as they stand, with a toy for the encoder in the wheel and few steps."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tinydistilbert.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
SMALL = {
    "finetune.epochs": "2", "finetune.min_steps": "0", "finetune.distillation.epochs": "1",
    "finetune.distillation.intermediate_epochs": "1", "compress.timed_examples": "4",
}  # fmt: skip
"""What `shrink` is told beside what stands there."""
PARTS = {"good": ("a fine place", "warm and well run", "kind people"), "bad": ("a sad place", "we left early", "rude")}


def exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.long
def test_its_commands_run_in_order(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    rows = [(f"{PARTS[stars][n % 3]}, table {n}", stars) for n in range(60) for stars in PARTS]
    text = "review,stars\n" + "".join(f'"{review}",{stars}\n' for review, stars in rows)
    (tmp_path / "reviews.csv").write_text(text, encoding="utf-8")
    assert len(COMMANDS) > 5
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        capsys.readouterr()
        assert program == "tinydistilbert"
        if arguments[0] == "shrink":
            arguments += [part for key, value in SMALL.items() for part in (f"--{key}", value)]
        code = exit_code([str(teacher) if argument == "offline" else argument for argument in arguments])
        captured = capsys.readouterr()
        # A toy keeps nothing: then everything is made, as the guide says.
        assert code == 0 or (code == 1 and "missed the target" in captured.err), (line, captured.err)
        if "--json" in arguments:
            json.loads(captured.out)
        if "--dry-run" in arguments:
            assert "memory" in captured.out
    answers = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert len(answers) == len(rows) + 1
    assert (tmp_path / "runs/shrink-reviews/results.jsonl").is_file()


def test_exit_codes_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["shrink", "missing.csv"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
