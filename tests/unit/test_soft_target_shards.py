"""What teachers say of many examples: shard by shard into one file, gone on with after a kill, the same as at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning import soft_targets
from tinydistilbert.finetuning.soft_targets import make_soft_targets
from tinydistilbert.models.loading import save_model
from tinydistilbert.run_folder import SOFT_TARGETS
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples

Make = Callable[..., np.ndarray]


@pytest.fixture
def examples() -> Examples:
    texts = [f"the student learns {'from the old teacher ' * (n % 4)}{n}" for n in range(30)]
    labels: list[Any] = [n % 2 if n < 20 else None for n in range(30)]
    return Examples(TASKS["cola"], "train", {"idx": [*range(30)], "text": texts, "label": labels}, 30)


@pytest.fixture
def make(examples: Examples, tmp_path: Path, tokenizer: Any) -> Make:
    """The soft targets of two teachers, in a folder."""
    folders = [tmp_path / f"teacher-{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        save_model(tiny.scrambled(tiny.model(head="classification", seed=seed, num_labels=2)), tokenizer, folder)

    def made(name: str, **settings: Any) -> np.ndarray:
        given = {"tokenizer": tokenizer, "max_length": 64, "device": torch.device("cpu"), **settings}
        make_soft_targets(given.pop("examples", examples), folders, tmp_path / name, **given)
        targets: np.ndarray = np.load(tmp_path / name / SOFT_TARGETS, mmap_mode="r")
        return targets

    return made


def test_shards_are_answered_once_and_what_was_done_survives_a_kill(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make("whole")
    assert "soft targets:" not in capsys.readouterr().err
    monkeypatch.setattr(soft_targets, "SHARD", 8)
    np.testing.assert_allclose(make("shards"), whole, atol=1e-5)
    assert "soft targets: 24 of 30 examples answered" in capsys.readouterr().err

    asked, real = list[int](), soft_targets.predict

    def counted(model: Any, features: Any, **settings: Any) -> Any:
        asked.append(len(features))
        if len(asked) == 6:
            raise KeyboardInterrupt
        return real(model, features, **settings)

    monkeypatch.setattr(soft_targets, "predict", counted)
    with pytest.raises(KeyboardInterrupt):
        make("killed")
    assert asked == [8] * 6 and not (tmp_path / "killed").exists()
    np.testing.assert_array_equal(make("killed"), np.load(tmp_path / "shards" / SOFT_TARGETS))
    assert asked[6:] == [8, 8, 6, 6], "16 examples were answered before"
    assert "16 of 30 examples were answered before; continuing" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.long
@pytest.mark.parametrize("change", ["other examples", "damaged", "cut off"])
def test_what_was_done_of_something_else_is_not_gone_on_with(
    change: str, examples: Examples, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_targets, "SHARD", 8)
    right, real = make("right"), soft_targets._Shards.append
    monkeypatch.setattr(soft_targets._Shards, "append", lambda *_: (real(*_), (_ for _ in ()).throw(OSError("full"))))
    with pytest.raises(OSError, match="full"):
        make("run")
    monkeypatch.setattr(soft_targets._Shards, "append", real)
    partial = atomic.partial(tmp_path / "run")
    assert json.loads((partial / "checkpoints" / "soft-targets.json").read_text())["done"] == 8
    file = partial / SOFT_TARGETS
    if change == "damaged":
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    if change == "cut off":
        file.write_bytes(file.read_bytes()[:-3])
    given = {}
    if change == "other examples":
        columns = {**examples.columns, "text": [f"{text}!" for text in examples.columns["text"]]}
        given["examples"] = Examples(examples.task, "train", columns, 30)
        right = make("right again", **given)
    np.testing.assert_array_equal(make("run", **given), right)


def test_the_outputs_of_a_given_teacher_are_checked_by_examples_of_the_whole_file_before_the_first_shard(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Any]] = []

    def doubts(where: str, logits: np.ndarray, some: Examples, **_: Any) -> None:
        seen.append(some.columns["idx"])
        assert len(logits) == len(some)
        raise UserError(where, problem="its outputs stand for other classes", fix="name them")

    monkeypatch.setattr(soft_targets, "check_teacher", doubts)
    monkeypatch.setattr(soft_targets, "SHARD", 8)
    monkeypatch.setattr(soft_targets, "CHECKED", 5)
    with pytest.raises(UserError, match="other classes"):
        make("checked", given_labels=())
    assert seen == [[0, 4, 8, 12, 16]]


def test_soft_labels_stand_in_place_of_the_teachers_shard_by_shard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.full((30, 2), np.nan)
    given[[3, 17]] = [[1.0, -1.0], [2.0, -2.0]]
    without = make("without")
    monkeypatch.setattr(soft_targets, "SHARD", 8)
    targets = make("with", soft_labels=given)
    np.testing.assert_array_equal(targets[[3, 17]], given[[3, 17]])
    others = [row for row in range(30) if row not in (3, 17)]
    np.testing.assert_allclose(targets[others], without[others], atol=1e-5)
