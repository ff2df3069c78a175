"""A new loss term that needs no new input is a row and a function: two files of the package, and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tinydistilbert

ROW = '''
    last_difference: Ramp = _weight(
        0.0,
        Term(
            "last hidden states", "Last hidden states, squared", colour=3, needs=Needs.LAST_HIDDEN_STATE,
            mean_over=MeanOver.COUNTED,
        ),
    )
    """Weight of the squared difference of the last hidden states."""
    temperature: PositiveRamp'''
FUNCTION = '''
def last_difference(
    student_hidden: Float[Tensor, "positions hidden"], teacher_hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, ""]:
    """Mean squared difference of the last hidden states."""
    return F.mse_loss(student_hidden, teacher_hidden)


FUNCTIONS: Mapping'''
RUN = """
import sys
from tinydistilbert.cli.main import main
from tinydistilbert.dry_run import machine
machine.PROBE_SECONDS, machine.PROBE_INPUTS, machine.COPIED = 0.0, 2, 100_000  # as in tests/quick.py
main(["distill", *sys.argv[1:], "--dry-run"])
main(["distill", *sys.argv[1:]])
main(["report", *sys.argv[1:]])
main(["distill", *sys.argv[1:], "--objective.reduction", "notebook"])
"""
OBJECTIVE = """
[objective]
last_difference = 2.0
cosine = 0.0
[benchmark]
models = ["student"]
protocols = ["true-length"]
examples = 2
rounds = 1
memory = false
"""


def changed(path: Path, old: str, new: str) -> None:
    """Replace the one place of `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_row_and_a_function_lead_from_the_recipe_to_the_page(recipe_file: Path, tmp_path: Path) -> None:
    package = tmp_path / "source" / "tinydistilbert"
    shutil.copytree(Path(tinydistilbert.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    changed(package / "recipe" / "objective.py", "\n    temperature: PositiveRamp", ROW)
    changed(package / "losses" / "terms.py", "\nFUNCTIONS: Mapping", FUNCTION)
    entry = '"hidden": hidden,'
    changed(package / "losses" / "terms.py", entry, f'{entry} "last_difference": last_difference,')
    changed(recipe_file, "tokens = 2_000", "tokens = 0")
    changed(recipe_file, "max_steps = 40", "max_steps = 12")
    recipe_file.write_text(recipe_file.read_text().partition("[finetune]")[0] + OBJECTIVE)  # no tasks

    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(recipe_file), "--output", str(run)],
        env={**os.environ, "PYTHONPATH": str(package.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    log = run / "student" / "log.jsonl"
    assert log.is_file(), done.stderr
    steps = [json.loads(line) for line in log.read_text().splitlines() if "learning_rate" in line]
    values = [line["last_difference"] for line in steps]
    assert len(values) == 12 and "cosine" not in steps[0]
    assert values[-1] < values[0]
    assert all(
        abs(line["loss"] - 5 * line["kl"] - 2 * line["mlm"] - 2 * line["last_difference"]) < 1e-3 for line in steps
    )
    assert (run / "report.html").is_file(), done.stderr
    page = (run / "report.html").read_text()
    curves = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    with_term = [curve for curve in curves if "Last hidden states, squared" in curve]
    assert with_term and all("var(--series-3)" in curve for curve in with_term)
    assert "last_difference 2" in (run / "student" / "README.md").read_text()
    assert done.returncode == 2 and "last_difference has a weight" in done.stderr
