"""distill.compile: the compiled encoders learn the same, and where the compiler fails, the plain ones do."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch._dynamo.utils import counters

SETTINGS = """
[distill]
max_steps = 3
{}
[distill.optimization]
batch_size = 4
dropout = 0.0
attention_dropout = 0.0
"""


@pytest.fixture
def losses(
    recipe_text: str, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> Callable[[bool], list[float]]:
    """The losses of the three steps of a distillation, compiled or not."""
    content = (
        recipe_text.replace("[distill]\nmax_steps = 40\n", "").replace("2_000", "0").replace("times = 2", "times = 1")
    )

    def distilled(compiled: bool) -> list[float]:
        file, output = tmp_path / f"{compiled}.toml", tmp_path / str(compiled)
        file.write_text(content + SETTINGS.format("compile = true" if compiled else ""))
        code, _, err = call("distill", file, "--output", output)
        assert code == 0, err
        lines = [json.loads(line) for line in (output / "student" / "log.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    return distilled


@pytest.fixture(autouse=True)
def own_compiler() -> Iterator[None]:
    """What a test does to the compiler ends with it."""
    torch._dynamo.reset()
    counters.clear()
    # Shapes are checked in tests alone, by wrappers that the compiler cannot read.
    jaxtyping.config.update("jaxtyping_disable", True)
    with torch._dynamo.config.patch(suppress_errors=False):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
def test_compiled_encoders_learn_the_same(losses: Callable[[bool], list[float]]) -> None:
    plain = losses(False)
    assert not counters["frames"]
    compiled = losses(True)
    assert counters["frames"]["ok"] == counters["frames"]["total"] > 0  # nothing fell back
    assert len(plain) == 3 and compiled == pytest.approx(plain, rel=1e-4)


def test_where_the_compiler_fails_the_encoders_run_as_they_are(
    losses: Callable[[bool], list[float]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, compile_with = losses(False), torch.nn.Module.compile

    def fails(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler on this machine")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_with(module, backend=fails))
    with caplog.at_level(logging.WARNING, "torch._dynamo"):
        assert losses(True) == plain
    assert "no compiler on this machine" in caplog.text
