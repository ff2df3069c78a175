"""The loop: accumulation, schedule, resumption, refusal of non-finite numbers. On a model of a few weights."""

import dataclasses
import json
import signal
from _thread import interrupt_main
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tinydistilbert.errors import Interrupted, NonFiniteLoss, OutOfMemory, UserError
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.types import ramp_at
from tinydistilbert.storage import disk
from tinydistilbert.training import checkpoint, loop
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train
from tinydistilbert.training.memory import OPTIMIZER_BYTES, SHARE
from tinydistilbert.training.optimizer import learning_rate_factor, make_optimizer

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


def job(
    steps: int,
    sizes: list[int],
    *,
    spoil: int | None = None,
    stop_at: int | None = None,
    term_weights: Callable[[int], Mapping[str, float]] = lambda step: {"fit": 2.0},
) -> TrainingJob:
    """Regression on rows of `DATA`; a step reads 8 rows, in micro-batches of `sizes`."""
    assert sum(sizes) == 8

    def micro_batches(step: int, oom_splits: int = 0) -> list[Batch]:
        if step == stop_at:
            interrupt_main(signal.SIGTERM)
        rows = DATA[[(step * 8 + i) % 64 for i in range(8)]]
        if step == spoil:
            rows = rows * float("nan")
        smaller = [max(1, size >> oom_splits) for size in sizes for _ in range(min(size, 2**oom_splits))]
        return [{"rows": part} for part in rows.split(smaller)]

    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        predicted = model(batch["rows"]).squeeze(-1)
        terms = {"fit": (predicted - batch["rows"].sum(-1)).square().mean(), "size": predicted.square().mean()}
        return scaled_sum({name: terms[name] for name in term_scales}, term_scales)

    return TrainingJob(
        steps=steps, micro_batches=micro_batches, loss=loss, term_weights=term_weights,
        token_shares=lambda batches: token_shares([{"fit": len(b["rows"]), "size": len(b["rows"])} for b in batches]),
        tokens=lambda batch: len(batch["rows"]),
        validate=lambda _: {"always": 1.0}, validate_after=frozenset({steps // 2, steps}), oom_splits=3,
    )  # fmt: skip


def run(
    folder: Path, what: TrainingJob, *, dropout: float = 0.2, minutes: float = 1e-9, accumulation: int = 1,
    model: Net | None = None,
) -> Net:  # fmt: skip
    """Train `model`, by default a new one."""
    model = model or Net()
    model.layers[2].p = dropout
    settings = schema.Optimization(learning_rate=0.05, weight_decay=0.1, gradient_accumulation_steps=accumulation)
    folder.mkdir(exist_ok=True)
    train(model, what, settings, Compute(CPU, "auto", minutes), seed=3, folder=folder, label="fit")
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_learns_and_logs_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, job(40, [8]), dropout=0.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 41))
    assert steps[-1]["loss"] < steps[0]["loss"] / 3
    assert steps[0]["loss"] == pytest.approx(2 * steps[0]["fit"], rel=1e-4)
    assert steps[-1]["tokens"] == 320
    assert [line["step"] for line in lines if "validation" in line] == [20, 40]
    printed = (
        capsys.readouterr().err.splitlines()
    )  # not a terminal: no rewritten lines, one for each validation, one at the end
    assert printed[0] == "fit: step 20/40  validation: always 1"
    assert printed[-2].startswith("fit: step 40/40  ") and "tokens/s  fit " in printed[-2] and "done in" in printed[-2]
    assert len(printed) == 3 and not any("\r" in line for line in printed)


@pytest.mark.parametrize("sizes", [[1] * 8, [4, 4], [5, 3], [7, 1]])
def test_accumulated_micro_batches_equal_one_batch(tmp_path: Path, sizes: list[int]) -> None:
    whole, parts = (run(tmp_path / str(len(s)), job(10, s), dropout=0.0) for s in ([8], sizes))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_stopped_and_resumed_is_never_interrupted(tmp_path: Path) -> None:
    uninterrupted = run(tmp_path / "a", job(30, [4, 4]))
    with pytest.raises(Interrupted, match="after step 12 of 30"):
        run(tmp_path / "b", job(30, [4, 4], stop_at=11), minutes=60)
    with (tmp_path / "b" / "log.jsonl").open("a") as log:
        log.write('{"step": 13, "loss": "of a life that ended before its checkpoint"}\n')
    assert same(uninterrupted, run(tmp_path / "b", job(30, [4, 4])))
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == (tmp_path / "b" / "log.jsonl").read_bytes()


def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uninterrupted = run(tmp_path / "a", job(20, [8]))
    with pytest.raises(Interrupted):
        run(tmp_path / "b", job(20, [8], stop_at=9))  # a checkpoint after each step: 9 and 10 are kept
    kept = sorted((tmp_path / "b" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-00000009", "step-00000010"]
    weights = kept[1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert same(uninterrupted, run(tmp_path / "b", job(20, [8])))
    assert "skipping checkpoint step-00000010" in capsys.readouterr().err


def test_with_only_damaged_checkpoints_it_does_not_start_from_zero(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, job(20, [8], stop_at=9))
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(UserError, match="2 that were skipped"):
        run(tmp_path, job(20, [8]))


def test_nan_stops_before_the_update_and_names_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 4: the term.* fit"):
        run(tmp_path, job(10, [4, 4], spoil=3))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_each_step_drops_others(tmp_path: Path) -> None:
    what = job(4, [8])
    same_rows = dataclasses.replace(what, micro_batches=lambda *_: what.micro_batches(0))
    settings = schema.Optimization(learning_rate=1e-30)
    tmp_path.joinpath("run").mkdir()
    train(Net(), same_rows, settings, Compute(CPU, "auto", 60), seed=3, folder=tmp_path / "run", label="fit")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len({line["fit"] for line in lines if "fit" in line}) == 4


def test_numbers_that_are_read_late_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU, which is asked every few steps only.
    at_once, late = tmp_path / "at-once", tmp_path / "late"
    run(at_once, job(7, [8]))
    monkeypatch.setitem(loop.FLUSH_EVERY, "cpu", 4)
    run(late, job(7, [8]))
    assert (late / "log.jsonl").read_bytes() == (at_once / "log.jsonl").read_bytes()


def test_nan_that_is_noticed_late_has_changed_nothing_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, noticed_late = Net(), Net()
    with pytest.raises(Interrupted, match="after step 5 of 8"):
        run(tmp_path / "before", job(8, [8], stop_at=4), minutes=60, model=before)
    monkeypatch.setitem(loop.FLUSH_EVERY, "cpu", 100)
    with pytest.raises(NonFiniteLoss, match="step 6"):  # steps 7 and 8, which are sound, are done before it is read
        run(tmp_path / "late", job(8, [8], spoil=5), minutes=60, model=noticed_late)
    assert same(noticed_late, before)
    lines = [json.loads(line) for line in (tmp_path / "late" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_an_update_with_a_gradient_that_is_not_finite_is_left_out_by_the_optimizer() -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, schema.Optimization(learning_rate=1.0, weight_decay=0.5))
    before = model.weight.detach().clone()
    for found_inf, changes in ((1.0, False), (0.0, True)):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        assert bool((model.weight != before).any()) is changes


def test_weights_may_change_from_step_to_step(tmp_path: Path) -> None:
    # All of the weight on one term first, all on the other in the end; each is logged as its plain mean.
    def weights(step: int) -> dict[str, float]:
        return {"fit": 1 - step / 3, "size": step / 3}

    run(tmp_path, job(4, [5, 3], term_weights=weights), dropout=0.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    for step, line in enumerate(lines):
        assert line["loss"] == pytest.approx((1 - step / 3) * line["fit"] + step / 3 * line["size"], rel=1e-4)
    assert lines[0]["loss"] == lines[0]["fit"] and lines[3]["loss"] == lines[3]["size"]


def test_a_term_whose_weight_is_zero_at_a_step_moves_nothing_then(tmp_path: Path) -> None:
    only = run(tmp_path / "a", job(5, [8], term_weights=lambda step: {"fit": 1.0}), dropout=0.0)
    beside = run(tmp_path / "b", job(5, [8], term_weights=lambda step: {"fit": 1.0, "size": 0.0}), dropout=0.0)
    assert same(only, beside)


def test_changing_weights_survive_an_interruption(tmp_path: Path) -> None:
    def weights(step: int) -> dict[str, float]:
        return {"fit": 1.0, "size": ramp_at((0.0, 2.0), step, 20)}

    uninterrupted = run(tmp_path / "a", job(20, [4, 4], term_weights=weights))
    with pytest.raises(Interrupted):
        run(tmp_path / "b", job(20, [4, 4], term_weights=weights, stop_at=11), minutes=60)
    assert same(uninterrupted, run(tmp_path / "b", job(20, [4, 4], term_weights=weights)))
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == (tmp_path / "b" / "log.jsonl").read_bytes()


def test_shares_by_hand() -> None:
    shares = token_shares([{"kl": 6, "mlm": 1}, {"kl": 2, "mlm": 3}, {"kl": 0, "mlm": 0}])
    assert shares == [{"kl": 0.75, "mlm": 0.25}, {"kl": 0.25, "mlm": 0.75}, {"kl": 0, "mlm": 0}]
    assert token_shares([{"mlm": 0}, {"mlm": 0}]) == [{"mlm": 0}, {"mlm": 0}]  # blank lines: nothing counts


def test_weighted_terms_by_hand() -> None:
    term = torch.tensor(3.0, requires_grad=True)
    total, means = scaled_sum({"fit": term, "size": torch.tensor(5.0)}, {"fit": 0.5, "size": 2.0})
    total.backward()
    assert total.item() == 11.5 and term.grad is not None and term.grad.item() == 0.5
    assert {name: value.item() for name, value in means.items()} == {"fit": 3.0, "size": 5.0}
    assert not any(value.requires_grad for value in means.values())


def test_schedule_by_hand() -> None:
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_schedule_from_zero_by_hand() -> None:
    factors = [learning_rate_factor(step, 10, 0.2, from_zero=True) for step in range(10)]
    assert factors == pytest.approx([0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


@pytest.mark.parametrize("from_zero", [False, True])
def test_the_steps_of_warm_up_are_rounded_down(from_zero: bool) -> None:
    # 0.19 · 10 is one step of warm-up, and 0.09 · 10 is none.
    assert learning_rate_factor(1, 10, 0.19, from_zero=from_zero) == 1
    assert learning_rate_factor(0, 10, 0.09, from_zero=from_zero) == 1


def test_a_schedule_from_zero_changes_nothing_in_its_first_step(tmp_path: Path) -> None:
    logged = {}
    for start in ("zero", "above zero"):
        model, settings = Net(), schema.Optimization(learning_rate=0.05, warmup_ratio=0.5, warmup_start=start)
        (tmp_path / start).mkdir()
        train(model, job(4, [8]), settings, Compute(CPU, "auto", 60), seed=3, folder=tmp_path / start, label="fit")
        lines = [json.loads(line) for line in (tmp_path / start / "log.jsonl").read_text().splitlines()]
        logged[start] = [line["learning_rate"] for line in lines if "loss" in line]
    assert logged["zero"] == pytest.approx([0, 0.025, 0.05, 0.025])
    assert logged["above zero"] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.025], rel=1e-5)


@pytest.mark.parametrize(
    ("decayed", "shapes"), [("matrices", {0.1: [2, 2], 0.0: [1, 1, 1, 1]}), ("all", {0.1: [1, 1, 1, 1, 2, 2], 0.0: []})]
)
def test_weight_decay_is_on_matrices_only_or_on_all_parameters(decayed: str, shapes: dict[float, list[int]]) -> None:
    optimizer = make_optimizer(Net(), schema.Optimization(weight_decay=0.1, decayed=decayed))
    dims = {group["weight_decay"]: sorted(p.dim() for p in group["params"]) for group in optimizer.param_groups}
    assert dims == shapes


def test_parameters_without_a_gradient_are_not_decayed() -> None:
    model = Net()
    model.layers[0].requires_grad_(False)
    for decayed in ("matrices", "all"):
        optimizer = make_optimizer(model, schema.Optimization(weight_decay=0.1, decayed=decayed))
        given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert given == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_no_more_checkpoints_than_needed(tmp_path: Path) -> None:
    model = Net()
    optimizer = make_optimizer(model, schema.Optimization())
    log = tmp_path / "log.jsonl"
    assert checkpoint.load(tmp_path, model, optimizer, training="fit", log=log) is None
    (tmp_path / "step-00000007.partial").mkdir()  # of a process that was killed
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, model, optimizer, checkpoint.State(step), training="fit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def hungry(what: TrainingJob, rows: int, since: int) -> TrainingJob:
    """The same job where from a step on no more than so many rows fit into the memory."""

    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        total_and_terms = what.loss(model, batch, term_scales, step)
        if step >= since and len(batch["rows"]) > rows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return total_and_terms

    return dataclasses.replace(what, loss=loss)


def test_out_of_memory_halves_the_micro_batches_and_keeps_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "whole", job(20, [8]), dropout=0.0)
    parts = run(tmp_path / "parts", hungry(job(20, [8]), 2, since=7), dropout=0.0)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    halved = [line for line in lines if "micro_batches_halved" in line]
    assert halved == [{"step": 8, "micro_batches_halved": 1}, {"step": 8, "micro_batches_halved": 2}]
    assert [line["tokens"] for line in lines if "loss" in line] == [8 * step for step in range(1, 21)]
    assert "out of memory in step 8; from now on in micro-batches of 1/4 of their size" in capsys.readouterr().err


def test_micro_batches_fit_into_a_share_of_the_memory_from_the_first_step_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole ones take 800 bytes beside the optimiser's, quarters 200: four fifths of the free have room for those."""
    trained = sum(parameter.numel() for parameter in Net().parameters())
    monkeypatch.setattr(loop, "free_bytes", lambda _: (OPTIMIZER_BYTES * trained + 250) / SHARE)
    small = dataclasses.replace(job(20, [8]), memory=lambda splits: 800 / 2**splits)
    whole = run(tmp_path / "whole", job(20, [8]), dropout=0.0)
    parts = run(tmp_path / "parts", small, dropout=0.0)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    first, *lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert first == {"step": 1, "micro_batches_halved": 2} and all("micro_batches_halved" not in x for x in lines)
    printed = capsys.readouterr().err
    assert "fit: in micro-batches of 1/4 of their size" in printed and "may use 80%" in printed
    fits = dataclasses.replace(small, memory=lambda splits: 250.0)
    run(tmp_path / "fits", fits)
    assert "micro-batches" not in capsys.readouterr().err


def test_a_training_that_is_begun_again_keeps_its_micro_batches_though_more_memory_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(job(20, [8]), memory=lambda splits: 1e9 / 2**splits)

    def dies(model: nn.Module, batch: Batch, scales: Mapping[str, float], step: int) -> Any:
        if step == 2:
            raise RuntimeError("killed before the first checkpoint")
        return small.loss(model, batch, scales, step)

    monkeypatch.setattr(loop, "free_bytes", lambda _: 1e9)
    uninterrupted = run(tmp_path / "a", small)
    with pytest.raises(RuntimeError, match="killed before"):
        run(tmp_path / "b", dataclasses.replace(small, loss=dies), minutes=60)
    monkeypatch.setattr(loop, "free_bytes", lambda _: 1e12)
    assert same(uninterrupted, run(tmp_path / "b", small))
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in "ab"]
    assert logs[0] == logs[1] and json.loads(logs[0].splitlines()[0])["micro_batches_halved"] == 1
    assert not same(uninterrupted, run(tmp_path / "c", small)), "other micro-batches have another dropout"


def test_halved_micro_batches_survive_an_interruption(tmp_path: Path) -> None:
    uninterrupted = run(tmp_path / "a", hungry(job(20, [8]), 4, since=3))
    with pytest.raises(Interrupted):
        run(tmp_path / "b", hungry(job(20, [8], stop_at=9), 4, since=3), minutes=60)
    # Memory would do again, but a step in other parts has another dropout.
    assert same(uninterrupted, run(tmp_path / "b", job(20, [8])))


def test_without_memory_for_a_row_it_ends_with_a_word_about_it(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="fit: out of memory at step 4 with micro-batches of 1; lower max_length"):
        run(tmp_path, hungry(job(20, [8]), 0, since=3))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 4, 4]


def test_what_is_no_want_of_memory_is_no_reason_to_halve(tmp_path: Path) -> None:
    def loss(*_: object) -> tuple[Tensor, Mapping[str, Tensor]]:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        run(tmp_path, dataclasses.replace(job(4, [8]), loss=loss))


def test_a_stop_does_not_wait_for_the_end_of_a_validation(tmp_path: Path) -> None:
    uninterrupted = run(tmp_path / "a", job(20, [4, 4]))
    ended = []

    def validate(step: int) -> dict[str, float]:
        interrupt_main(signal.SIGINT)
        ended.append(step)
        return {"always": 1.0}

    with pytest.raises(Interrupted, match="after step 10 of 20"):
        run(tmp_path / "b", dataclasses.replace(job(20, [4, 4]), validate=validate), minutes=60)
    assert not ended
    assert same(uninterrupted, run(tmp_path / "b", job(20, [4, 4])))
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == (tmp_path / "b" / "log.jsonl").read_bytes()


def test_a_training_at_its_end_is_not_done_again(tmp_path: Path) -> None:
    done = run(tmp_path, job(20, [8]))  # what follows it, such as saving the model, was killed
    log = (tmp_path / "log.jsonl").read_bytes()
    assert same(done, run(tmp_path, dataclasses.replace(job(20, [8]), loss=None)))  # type: ignore[arg-type]
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, job(20, [8]))
    with pytest.raises(UserError, match="expected a whole checkpoint, found 2 that were skipped"):
        run(tmp_path, job(30, [8]))
    printed = capsys.readouterr().err
    assert "expected a checkpoint of fit, seed 3, 30 steps, found one of fit, seed 3, 20 steps" in printed


def test_a_checkpoint_counts_only_with_the_log_that_it_was_made_with(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, job(20, [8], stop_at=9))
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(UserError, match="2 that were skipped"):
        run(tmp_path, job(20, [8]))


def test_numbers_that_are_not_finite_leave_something_to_look_into(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=f"which are in {tmp_path / 'diagnosis'}"):
        run(tmp_path, job(10, [4, 4], spoil=3))
    facts = json.loads((tmp_path / "diagnosis" / "facts.json").read_text())
    assert facts["step"] == 4 and facts["terms"] == {"fit": "nan"} and facts["gradient_norm"] == "nan"
    assert facts["parameters"] == [] and "layers.0.weight" in facts["gradients"]
    batch = load_file(tmp_path / "diagnosis" / "batch.safetensors")
    assert {name: tuple(rows.shape) for name, rows in batch.items()} == {"0/rows": (4, 6), "1/rows": (4, 6)}


def test_the_log_is_durable_when_the_training_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who notes durably that it is over, as a choice of weights does, never has it written again."""
    operations: list[tuple[str, Path]] = []

    def watch(operation: disk.Operation) -> AbstractContextManager[object]:
        operations.append((operation.kind, operation.path))
        return nullcontext()

    monkeypatch.setattr(disk, "hook", watch)
    run(tmp_path, job(2, [8]), minutes=60)
    assert operations[-2:] == [("sync", tmp_path / "log.jsonl"), ("sync folder", tmp_path)]
