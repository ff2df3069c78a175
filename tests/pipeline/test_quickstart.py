"""The embedded default as it is, offline: minutes, so it runs with `make test-slow`."""

from pathlib import Path

import pytest

from tinydistilbert import results
from tinydistilbert.cli.main import main


@pytest.mark.slow
def test_the_quickstart_distils_and_its_students_learn(tmp_path: Path) -> None:
    main(["replicate", "quickstart", "--output", str(tmp_path / "run")])
    measured = results.read(tmp_path / "run" / "results.jsonl")
    pretraining = {(m.model, m.metric): m for m in measured if m.task == "pretraining"}
    teacher = pretraining["teacher", "mlm"]
    assert teacher.value < teacher.details["mlm_before"] - 3, "adapt trains the new head"
    assert pretraining["student", "kl"].value < 0.6 * pretraining["control", "kl"].value, "distillation pays"
    scores = {(m.model, m.task, m.metric): m for m in measured}
    for row in ("teacher", "student", "student (D)", "control"):
        answered = scores[row, "cloze-qa", "f1"]
        assert answered.value > 2 * answered.details["majority"]
