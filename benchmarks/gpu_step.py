"""Variants of a distillation step on a GPU, compared in turns, and the kernels that take the time.

The variants: the vocabulary losses by chunks of 512 positions with an operation for each step, as up to 0.1; by whole
chunks; those compiled; the encoders compiled too, with and without attention; the teacher in bf16 throughout, including
residuals and normalisation. `utilisation` is the share of the best rate of bf16 products measured in the same call.
With `--profile WAY`, a table of the kernels of some steps of that variant follows. Every row is printed and appended as
soon as it is measured.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import common
import gpu_measures
import torch
from gpu_measures import EVERYWHERE, MASKED, SECONDS, Measures
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.losses import vocabulary
from tinydistilbert.storage import cache

BATCHES = {"full": 256, "quick": 256, "toy": 2}
"""Blocks in a step."""
PROFILED_SECONDS, SHOWN_KERNELS = 0.5, 30


@contextmanager
def by_rows() -> Iterator[None]:
    """Chunks of 512 positions, an operation at a time."""
    with mock.patch.object(vocabulary, "ROW_DEVICES", ("cpu", "cuda")), mock.patch.object(vocabulary, "ROWS", 512):
        yield


@contextmanager
def encoders_as_they_are() -> Iterator[None]:
    """Compile the losses alone."""
    with mock.patch.object(gpu_measures, "compile_encoders", lambda *_: None):
        yield


@contextmanager
def teacher_in_bf16() -> Iterator[None]:
    """The whole encoder of the teacher in bf16, outside of autocast."""
    whole = PretrainingLoss._teacher_output

    def output(loss: PretrainingLoss, batch: Any, term_scales: Any) -> Any:
        assert loss.teacher is not None
        loss.teacher.base_model.to(torch.bfloat16)
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            outputs = whole(loss, batch, term_scales)
        return replace(outputs, last_hidden_state=outputs.last_hidden_state.float()) if outputs else None

    with mock.patch.object(PretrainingLoss, "_teacher_output", output):
        yield


@contextmanager
def attention_apart() -> Iterator[None]:
    """Leave attention out of what is compiled: torch 2.11's compiler replaces its kernel by products in fp32."""
    known = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS.register("sdpa", torch._dynamo.disable(known))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register("sdpa", known)


@contextmanager
def both(*changes: Callable[[], Any]) -> Iterator[None]:
    """Several changes at once."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        yield


WAYS: dict[str, tuple[Callable[[], Any], bool]] = {
    "by rows": (by_rows, False),
    "whole chunks": (ExitStack, False),
    "whole chunks, teacher in bf16": (teacher_in_bf16, False),
    "losses compiled": (encoders_as_they_are, True),
    "losses compiled, teacher in bf16": (lambda: both(encoders_as_they_are, teacher_in_bf16), True),
    "all compiled": (ExitStack, True),
    "all compiled, teacher in bf16": (teacher_in_bf16, True),
    "all but attention compiled": (attention_apart, True),
    "all but attention compiled, teacher in bf16": (lambda: both(attention_apart, teacher_in_bf16), True),
}
"""What is changed, and whether `distill.compile` is on."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--pair", choices=("bert-base", "offline"), default="bert-base")
    parser.add_argument("--positions", nargs="+", choices=("masked", "all"), default=["masked", "all"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--profile", choices=list(WAYS), help="show the kernels of this variant")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=tuple(SECONDS), default="quick")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--output", type=Path, default=common.RESULTS / "gpu_step.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, print, append."""
    chosen, begun = parse(), time.monotonic()
    chosen.output.unlink(missing_ok=True)  # another machine, other numbers
    measures = Measures(chosen.output, torch.device(chosen.device), chosen.size, begun + 60 * chosen.minutes)
    gpu_measures.matrices(measures)
    corpus, folder = common.open_corpus(
        chosen.data, max_train_documents=gpu_measures.DOCUMENTS[chosen.size], block_size=gpu_measures.BLOCK
    )
    tokenizer = common.open_teacher(chosen.teacher).tokenizer
    blocks = load_blocks(prepare(corpus, tokenizer, cache.folder(), folder))
    objectives = {"masked": MASKED, "all": EVERYWHERE}

    def step(way: str, positions: str, label: str) -> None:
        changed, is_compiled = WAYS[way]
        torch._dynamo.reset()
        with changed():
            gpu_measures._step(
                measures, chosen.pair, chosen.teacher, blocks, BATCHES[chosen.size], objectives[positions],
                is_compiled, label,
            )  # fmt: skip

    for way in chosen.ways:  # what needs no compiler first
        for positions in chosen.positions:
            label = f"{chosen.pair}, KL {positions}, {way}"
            measures.attempt("distill", label, lambda w=way, p=positions, name=label: step(w, p, name))  # type: ignore[misc]
    if chosen.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if measures.device.type == "cuda" else []
        with (
            mock.patch.dict(SECONDS, {chosen.size: PROFILED_SECONDS}),
            torch.profiler.profile(activities=activities) as profiled,
        ):
            step(chosen.profile, chosen.positions[0], f"{chosen.profile}, profiled")
        by = "self_cuda_time_total" if measures.device.type == "cuda" else "self_cpu_time_total"
        print(profiled.key_averages().table(sort_by=by, row_limit=SHOWN_KERNELS, max_name_column_width=80), flush=True)
    if measures.failed:
        raise SystemExit(f"{measures.failed} could not be measured")


if __name__ == "__main__":
    main()
