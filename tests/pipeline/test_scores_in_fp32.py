"""What a run in bf16 reports is computed in fp32 and says so; what it learns from and chooses by is in bf16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinydistilbert import results
from tinydistilbert.compress import builder
from tinydistilbert.evaluation import evaluate
from tinydistilbert.finetuning import soft_targets, thresholds, trainer
from tinydistilbert.training import precision

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]


def test_scores_are_computed_in_fp32_whatever_a_run_is_trained_in(
    recipe_text: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[bool, str]]] = {}
    for module in (evaluate, builder, trainer, soft_targets, thresholds):
        name = module.__name__.rpartition(".")[2]

        def recorded(*arguments: Any, name: str = name, real: Any = module.predict, **settings: Any) -> Any:
            products = torch.backends.mkldnn.matmul.fp32_precision
            seen.setdefault(name, set()).add((torch.is_autocast_enabled("cpu"), products))
            return real(*arguments, **settings)

        monkeypatch.setattr(module, "predict", recorded)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    text = recipe_text.replace('["acceptability", "adjacency", "cloze-qa"]', '["adjacency"]')
    text = text.replace('["teacher", "student", "control"]', '["teacher", "student"]').replace("= 40\n", "= 4\n", 1)
    recipe.write_text(text.replace("epochs = 1", 'epochs = 1\nselect = "heldout"'))
    more = ["--precision", "bf16", "--compress.tasks", "adjacency", "--compress.keep", "[]", "--quiet"]
    code, _, err = call("compress", recipe, "--output", run, *more, "--compress.timed_examples", "4")
    assert code == 0, err

    before = torch.backends.mkldnn.matmul.fp32_precision
    assert seen["evaluate"] == seen["builder"] == {(False, before)}, "scores are in fp32"
    assert seen["trainer"] == seen["soft_targets"] == {(True, before)}, "what selects and what is learned from is not"
    rows = results.read(run / "results.jsonl")
    scored = [m.details for m in rows if m.task == "adjacency" and m.model in ("teacher", "student", "student (D)")]
    assert len(scored) > 2 and {(d["precision"], d["training_precision"]) for d in scored} == {("fp32", "bf16")}
    pretrained = [m.details for m in rows if m.task == "pretraining"]
    assert {d["precision"] for d in pretrained} == {"fp32"}
    variants = {m.model: m.details["precision"] for m in rows if m.task == "compress" and m.metric == "accuracy"}
    assert set(variants.values()) == {"fp32", "int8"}, variants
