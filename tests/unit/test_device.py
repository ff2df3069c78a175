"""A device that fails or has too little memory outside of a training: one line, and the run goes on later."""

from pathlib import Path

import pytest
import torch

from tinydistilbert.cli import main as entry
from tinydistilbert.errors import DeviceLost, OutOfMemory, UserError
from tinydistilbert.training.device import choose_device, device_errors, is_out_of_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", ["meta", "nonsense"])
def test_a_device_that_nothing_is_trained_on_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--device: expected auto, cpu, cuda or mps, and present, found '{name}'"):
        choose_device(name)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx",
        "CUDA driver error: device not ready",
    ],
)
def test_a_gpu_that_is_lost_is_said_in_one_line(message: str) -> None:
    with pytest.raises(DeviceLost, match="the same command goes on from there") as raised, device_errors(GPU):
        raise RuntimeError(message)
    assert message.split("\n")[0] in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(RuntimeError, match="error") as kept, device_errors(CPU):
        raise RuntimeError(message)
    assert type(kept.value) is RuntimeError, "there is none to lose"


@pytest.mark.parametrize("message", ["CUDA error: device-side assert triggered", "size mismatch"])
def test_a_mistake_of_ours_stays_one(message: str) -> None:
    with pytest.raises(RuntimeError) as raised, device_errors(GPU):
        raise RuntimeError(message)
    assert type(raised.value) is RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        MemoryError(),
    ],
)
def test_too_little_memory_outside_a_training_is_said_in_one_line(error: Exception) -> None:
    assert is_out_of_memory(error), "a training halves its micro-batches"
    with pytest.raises(OutOfMemory, match=r"out of memory on the cuda device; .*--device cpu"), device_errors(GPU):
        raise error


def test_the_command_line_ends_with_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lost(*_: object) -> None:
        raise DeviceLost("the cuda device failed")

    monkeypatch.setattr(entry, "call", lost)
    with pytest.raises(SystemExit) as stop:
        entry.main(["tasks"])
    assert stop.value.code == 1 and capsys.readouterr().err == "error: the cuda device failed\n"


@pytest.mark.long
def test_a_run_whose_gpu_is_lost_goes_on_from_its_checkpoint(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import tiny
    from tinydistilbert.models.loading import save_model
    from tinydistilbert.pipeline import run as pipeline
    from tinydistilbert.recipe import toml
    from tinydistilbert.storage import atomic
    from tinydistilbert.training import loop

    save_model(tiny.model(), tokenizer, tmp_path / "teacher")
    (tmp_path / "text").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "text" / f"{name}.txt").write_text("\n\n".join(["The student learns from the teacher."] * 40))
    recipe = toml.from_dict(
        {
            "teacher": {"model": str(tmp_path / "teacher")}, "checkpoint_minutes": 1e-9,
            "corpus": {"source": str(tmp_path / "text"), "block_size": 16},
            "student": {"num_hidden_layers": 1, "layers": "even"},
            "distill": {"max_steps": 4}, "validation": {"times": 1, "blocks": 2}, "finetune": {"models": ["student"]},
        },
        "test",
    )  # fmt: skip

    def context() -> pipeline.RunContext:
        return pipeline.run_context(recipe, tmp_path / "run", until="distill", log=lambda _: None)

    update = loop._Loop.update

    def until_the_third(self: loop._Loop, step: int) -> None:
        if step == 2:
            raise RuntimeError("CUDA error: unspecified launch failure")
        update(self, step)

    monkeypatch.setattr(pipeline, "device_errors", lambda _: device_errors(GPU))
    monkeypatch.setattr(loop._Loop, "update", until_the_third)
    with pytest.raises(DeviceLost):
        pipeline.run_stages(context())
    student = tmp_path / "run" / "student"
    assert not atomic.is_finished(student)
    steps = sorted(path.name for path in (atomic.partial(student) / atomic.CHECKPOINTS).iterdir())
    assert steps[-1].endswith("2"), steps
    monkeypatch.setattr(loop._Loop, "update", update)
    pipeline.run_stages(context())
    assert atomic.is_finished(student)
    assert [line.split(",")[0] for line in (student / "log.jsonl").read_text().splitlines()][:4] == [
        f'{{"step": {step}' for step in (1, 2, 3, 4)
    ]
