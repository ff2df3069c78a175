"""The precision of matrix products: what a probe comes to, that a run keeps it, and that a training computes in it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tinydistilbert import run_record
from tinydistilbert.errors import UserError
from tinydistilbert.models.size import layer_shapes
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.recipe import schema
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.training import precision
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum
from tinydistilbert.training.loop import train
from tinydistilbert.training.precision import (
    Choice,
    Precision,
    autocast,
    choose,
    chosen_precision,
    decide,
    frozen,
    onednn,
)

CPU = torch.device("cpu")
LAYER = ((256, 256), (256, 1024))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this machine one with or without units for bf16, of so many seconds in each precision."""

    def be(units: bool, error: float = 3e-7, **seconds: float) -> None:
        times = {name.replace("_", "-"): value for name, value in seconds.items()}

        def measured(_: object, names: Sequence[Precision]) -> dict[Precision, float]:
            return {name: times[name] for name in names}

        monkeypatch.setattr(precision, "has_bf16_units", lambda: units)
        monkeypatch.setattr(precision, "onednn_error", lambda _: error)
        monkeypatch.setattr(precision, "product_seconds", measured)

    return be


@pytest.mark.parametrize(
    ("fp32", "onednn", "bf16", "error", "chosen"),
    [
        (1.0, None, 0.76, 2e-3, "bf16"),  # 1.31 times as fast
        (1.0, None, 0.78, 2e-3, "fp32"),  # 1.28 times
        (1.0, 0.6, 0.3, 3e-7, "bf16"),
        (1.0, 0.6, 0.9, 3e-7, "fp32-onednn"),
        (1.0, 0.5, 0.6, 3e-7, "fp32-onednn"),  # as fast and more exact
        (1.0, 0.6, None, 3e-7, "fp32-onednn"),
        (1.0, 0.6, None, 2e-3, "fp32"),  # fast, for it rounds
        (1.0, 0.95, None, 3e-7, "fp32"),  # no faster, as far as a probe can tell
        (1.0, None, None, 2e-3, "fp32"),
        (1.0, 2.0, 7.0, 3e-7, "fp32"),  # without units for it
    ],
)
def test_what_is_decided(fp32: float, onednn: float | None, bf16: float | None, error: float, chosen: str) -> None:
    seconds = {"fp32": fp32, "fp32-onednn": onednn, "bf16": bf16}
    choice = decide({name: value for name, value in seconds.items() if value is not None}, error)  # type: ignore[misc]
    assert choice.precision == chosen and choice.why


def test_only_what_is_possible_is_probed(machine: Callable[..., None]) -> None:
    machine(True, error=2e-3, fp32=1.0, bf16=0.2)  # no seconds for oneDNN: to ask for them would be an error
    assert choose(CPU, LAYER).precision == "bf16"
    machine(False, error=3e-7, fp32=1.0, fp32_onednn=0.5)
    assert choose(CPU, LAYER).precision == "fp32-onednn"


def test_narrow_models_and_those_without_layers_stay_in_fp32(machine: Callable[..., None]) -> None:
    machine(True, fp32=1.0, fp32_onednn=0.1, bf16=0.01)
    assert choose(CPU, layer_shapes(tiny.config(**tiny.WIDER))).precision == "fp32"
    assert choose(CPU, ()).precision == "fp32"


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_shapes_of_a_layer(family: str) -> None:
    assert layer_shapes(tiny.config(family, **tiny.WIDER)) == ((32, 32), (32, 48))


def test_the_probe_times_all_precisions_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PROBE_SECONDS", 0.0)
    before = torch.backends.mkldnn.matmul.fp32_precision
    names: tuple[Precision, ...] = ("fp32", "fp32-onednn", "bf16") if precision._has_onednn() else ("fp32",)
    seconds = precision.product_seconds(((16, 16), (16, 32)), names)
    assert tuple(seconds) == names and all(0 <= value < 10 for value in seconds.values())
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.skipif(not precision._has_onednn(), reason="torch without oneDNN")
def test_the_error_of_onednn_is_that_of_single_precision_or_of_bf16() -> None:
    error = precision.onednn_error(LAYER)
    assert 1e-8 < error < 1e-6 or 1e-4 < error < 1e-1  # the second with AMX


def test_onednn_is_used_inside_only() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), onednn("fp32-onednn"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        raise ZeroDivisionError
    with onednn("fp32"):
        assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_precision_that_this_machine_cannot_do_is_refused(machine: Callable[..., None]) -> None:
    machine(False, error=2e-3)
    with pytest.raises(UserError, match=r"precision: expected a device that multiplies in bf16.*set fp32"):
        chosen_precision(CPU, "bf16")
    with pytest.raises(UserError, match=r"single precision.*found 2e-03"):
        chosen_precision(CPU, "fp32-onednn")
    assert chosen_precision(CPU, "fp32") == chosen_precision(CPU) == "fp32", "auto never probes here"
    machine(True)
    assert chosen_precision(CPU, "bf16") == "bf16" and chosen_precision(CPU, "fp32-onednn") == "fp32-onednn"


def context(folder: Path, wanted: str = "auto", compared_with: RunFolder | None = None) -> RunContext:
    recipe = schema.Recipe(device="cpu", precision=wanted)  # type: ignore[arg-type]
    return run_context(recipe, folder, until="distill", log=lambda _: None, compared_with=compared_with)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the probe is going to find, the last first."""
    precisions: list[str] = []
    monkeypatch.setattr(RunContext, "_layer_shapes", lambda _: LAYER)
    monkeypatch.setattr("tinydistilbert.pipeline.context.choose", lambda *_: Choice(precisions.pop(), "probed"))  # type: ignore[arg-type]
    return precisions


def begin(folder: Path, name: str) -> RunFolder:
    folder.mkdir()
    run_record.keep_precision(RunFolder(folder), name)
    return RunFolder(folder)


def test_a_run_keeps_what_it_was_begun_in_whatever_a_probe_would_say(
    tmp_path: Path, probed: list[str], machine: Callable[..., None]
) -> None:
    machine(True)
    probed.append("bf16")
    assert context(tmp_path / "new").compute.precision == "bf16" and not probed
    begin(tmp_path / "run", "bf16")
    assert context(tmp_path / "run").compute.precision == "bf16"
    machine(False)
    with pytest.raises(UserError, match=r"run, begun in bf16: expected .* bf16, found cpu without bf16 units"):
        _ = context(tmp_path / "run").compute
    with pytest.raises(UserError, match="began in bf16 in the meantime"):
        run_record.keep_precision(RunFolder(tmp_path / "run"), "fp32")


def test_a_run_of_a_version_that_kept_nothing_stays_in_fp32(tmp_path: Path, probed: list[str]) -> None:
    probed.append("bf16")
    atomic.write_json(tmp_path / "inputs.json", {"corpus": "e0f2"})
    assert context(tmp_path).compute.precision == "fp32" and probed == ["bf16"]
    assert run_record.begun_in(RunFolder(tmp_path)) == "auto", "nothing is written into it"


def test_rows_are_trained_in_the_precision_of_what_they_are_compared_with(
    tmp_path: Path, probed: list[str], machine: Callable[..., None]
) -> None:
    machine(True)
    probed.append("fp32")
    references = begin(tmp_path / "references", "bf16")
    assert context(tmp_path / "row", compared_with=references).compute.precision == "bf16"
    assert context(tmp_path / "row", "fp32", compared_with=references).compute.precision == "fp32"
    atomic.write_json(references.inputs, {"corpus": "e0f2"})
    assert context(tmp_path / "row", compared_with=references).compute.precision == "fp32" and probed == ["fp32"]
    new = RunFolder(tmp_path / "new")
    assert context(new.path, compared_with=new).compute.precision == "fp32" and not probed


class RecordingLinear(nn.Module):
    """A product that remembers the type of its result, and what oneDNN may do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 1)
        self.seen: list[tuple[torch.dtype, str]] = []

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.linear(rows)
        self.seen.append((result.dtype, torch.backends.mkldnn.matmul.fp32_precision))
        return result.float()


@pytest.mark.long
@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_a_training_computes_in_it(name: Precision, machine: Callable[..., None], tmp_path: Path) -> None:
    machine(True)
    before, model = torch.backends.mkldnn.matmul.fp32_precision, RecordingLinear()
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    job = TrainingJob(
        steps=3, micro_batches=lambda *_: [{"rows": rows}], term_weights=lambda _: {"fit": 1.0},
        token_shares=lambda _: [{"fit": 1.0}], tokens=lambda _: 4, oom_splits=0,
        loss=_loss,
    )  # fmt: skip
    train(model, job, schema.Optimization(), Compute(CPU, name, 60), seed=0, folder=tmp_path, label="fit")
    expected = (torch.bfloat16 if name == "bf16" else torch.float32, "bf16" if name == "fp32-onednn" else before)
    assert set(model.seen) == {expected} and torch.backends.mkldnn.matmul.fp32_precision == before
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses == sorted(losses, reverse=True) and model.linear.weight.dtype is torch.float32


def _loss(net: nn.Module, batch: Batch, scales: Mapping[str, float], _step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    return scaled_sum({"fit": net(batch["rows"]).square().mean()}, scales)


@pytest.mark.long
def test_weights_are_converted_once_a_step_and_accumulated_gradients_are_those_of_one_batch(
    machine: Callable[..., None], tmp_path: Path
) -> None:
    machine(True)
    rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    weights = []
    for parts in (1, 4):
        model, batches = RecordingLinear(), [{"rows": part} for part in rows.chunk(parts)]
        job = TrainingJob(
            steps=3, micro_batches=lambda *_, made=batches: made, term_weights=lambda _: {"fit": 1.0},
            token_shares=lambda made: [{"fit": 1 / len(made)} for _ in made], tokens=lambda _: 4, oom_splits=0,
            loss=_loss,
        )  # fmt: skip
        folder = tmp_path / str(parts)
        folder.mkdir()
        with torch.profiler.profile(record_shapes=True) as profiled:
            train(
                model, job, schema.Optimization(), Compute(CPU, "bf16", 60), seed=0, folder=folder, label="fit"
            )  # fmt: skip
        converted = [e for e in profiled.events() if e.name == "aten::_to_copy" and e.input_shapes[:1] == [[1, 8]]]
        assert len(converted) == 3 + 3 * parts, "of the weight in a step, and of its gradient in each backward pass"
        weights.append(model.linear.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-5)


def test_a_frozen_model_has_its_matrices_in_bf16_and_gets_them_back() -> None:
    model = tiny.scrambled(tiny.model())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), autocast(CPU, "bf16"):
        wanted = model(ids).logits
        with frozen(model, "bf16"):
            logits, whole = model(ids).logits, model.get_input_embeddings().weight
            assert model.get_output_embeddings().weight.dtype is torch.bfloat16 and whole.dtype is torch.float32
    torch.testing.assert_close(logits, wanted)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "tied again"
    with frozen(model, "fp32"), frozen(None, "bf16"):
        assert model.get_output_embeddings().weight.dtype is torch.float32


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, "4096"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7"), ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "7"}, None)],
)
def test_onednn_keeps_more_prepared_products_unless_the_user_says_how_many(
    given: dict[str, str], kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    precision.keep_prepared_products()
    assert os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == kept


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN multiplies no bf16 here")
def test_products_of_many_sizes_stay_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that imported it before its first product, 1,100 sizes are prepared once, not twice."""
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_VERBOSE", "profile")
    code = (
        "import torch, tinydistilbert.training.precision\n"
        "weight = torch.ones(64, 64, dtype=torch.bfloat16)\n"
        "for _ in range(2):\n"
        "    for rows in range(30, 1130):\n"
        "        torch.ones(rows, 64, dtype=torch.bfloat16) @ weight\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 0 < lines.count("create:cache_miss") < 2 * 1100 - 1024
