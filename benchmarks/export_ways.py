"""Ways to export an encoder for ONNX Runtime, compared by the time of one sentence pair on one core.

The figures of docs/decisions/0016. Models have random weights, which do not affect their speed, and lengths are those
of STS-B's pairs. Rows take turns after every two pairs. The time is how long a row had the core (`time.thread_time`),
so that other work on the machine disturbs less; an idle machine is better.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import common
import numpy as np
import onnxruntime
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from tinydistilbert.benchmark.pairs import LOG_MEAN, LOG_STD, PADDED_LENGTH, SHORTEST
from tinydistilbert.benchmark.timing import Timed, core_clock, one_core, time_in_turns
from tinydistilbert.benchmark.turns import table
from tinydistilbert.export import fused_attention
from tinydistilbert.export import to_onnx as exporting
from tinydistilbert.export.quantize import quantize
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.runtimes import ModelInputs, OnnxRuntime
from tinydistilbert.models.torch_runtime import TorchRuntime

SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "BERT 6 x 384": lambda: BertForSequenceClassification(
        BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_labels=1)
    ),
    "DistilBERT 3 x 384": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=384, n_layers=3, hidden_dim=1536, num_labels=1)
    ),
    "DistilBERT 6 x 768": lambda: DistilBertForSequenceClassification(DistilBertConfig(num_labels=1)),
}
ROUND = 2
"""Pairs after which the next row has its turn."""


@contextmanager
def all_tokens() -> Iterator[None]:
    """Export the whole last layer."""
    fuse = fused_attention.fuse
    with ExitStack() as patches:
        patches.enter_context(
            mock.patch.object(fused_attention, "fuse", lambda model, **_: fuse(model, first_token=False))
        )
        patches.enter_context(mock.patch.object(exporting, "first_token_only", lambda _: ExitStack()))
        yield


@contextmanager
def packed_attention() -> Iterator[None]:
    """Export by the operator that also multiplies by the weights of query, key and value, where all tokens ask."""
    separate = fused_attention._attention

    def packed(attention: Any, projections: Any, *, first: bool) -> Callable[[Tensor, Tensor], Tensor]:
        if first:
            return separate(attention, projections, first=True)
        weight = torch.cat([linear.weight for linear in projections]).T.contiguous().detach()
        bias = torch.cat([linear.bias for linear in projections]).detach()
        width = weight.shape[1] // 3
        settings = {"num_heads": width // attention.attention_head_size}
        return lambda hidden, mask: torch.onnx.ops.symbolic(
            "com.microsoft::Attention", (hidden, weight, bias, mask.flatten(1)), settings,
            dtype=hidden.dtype, shape=(*hidden.shape[:2], width), version=1,
        )  # fmt: skip

    with mock.patch.object(fused_attention, "_attention", packed):
        yield


WAYS: dict[str, tuple[Callable[[], Any], bool, bool]] = {
    "exporter": (all_tokens, False, True),
    "exporter, first token": (ExitStack, False, True),
    "operator": (all_tokens, True, True),
    "operator, first token": (ExitStack, True, True),
    "packed operator, first token": (packed_attention, True, False),
}
"""What is changed while exporting, whether attention is an operator of ONNX Runtime's, and whether int8 is timed."""


def make(model: PreTrainedModel, tokenizer: Any, work: Path) -> dict[str, Callable[[ModelInputs], Any]]:
    """The rows of one shape."""
    model.config.num_labels = 1
    save_model(model, tokenizer, work / "model")
    rows: dict[str, Callable[[ModelInputs], Any]] = {
        "torch": whole(model),
        "torch, first token": TorchRuntime(model, span=False),
    }
    for number, (way, (changed, with_operator, int8)) in enumerate(WAYS.items()):
        folder = work / str(number)
        with changed():
            exporting.export(work / "model", folder, fused=with_operator)
        rows[way] = OnnxRuntime(folder, threads=1)
        if int8:
            quantize(folder, work / f"{number}-int8")
            rows[f"{way}, int8"] = OnnxRuntime(work / f"{number}-int8", threads=1)
    for name, fusions in (("transformers", None), ("transformers, fused for ONNX Runtime", "cpu")):
        for ending, quantizer in (("", None), (", int8", OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()))):
            rows[name + ending] = by_transformers(model, work / f"{name}{ending}", fusions, quantizer)
    return rows


def by_transformers(
    model: PreTrainedModel, folder: Path, fusions: Any, quantizer: OnnxRuntimeQuantizer | None
) -> Callable[[ModelInputs], Any]:
    """The model as the exporter of transformers makes it, with its own int8 where a quantizer is given.

    Raises:
        ValueError: its answer is another than the model's.
    """
    sample = {name: torch.from_numpy(array.repeat(2, 0)) for name, array in pair(model, 16).items()}
    settings = OnnxConfig(dynamic=True, ort_fusions=fusions, quantizer=quantizer)
    with redirect_stdout(sys.stderr):
        OnnxExporter().export(model, sample, config=settings).save_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}

    def answer(inputs: ModelInputs) -> Any:
        return session.run(None, {name: array for name, array in inputs.items() if name in names})[0]

    tried = pair(model, 37)
    if quantizer is None and not np.allclose(answer(tried), whole(model)(tried), atol=1e-4):
        raise ValueError(f"expected the model's answer of {folder.name}, found another")
    return answer


def whole(model: PreTrainedModel) -> Callable[[ModelInputs], Any]:
    """The model as transformers runs it."""

    def answer(inputs: ModelInputs) -> Any:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()

    return answer


def pair(model: PreTrainedModel, length: int) -> ModelInputs:
    """One made-up pair."""
    ids = np.random.default_rng(length).integers(1000, model.config.vocab_size, (1, length))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if model.config.model_type == "bert":
        inputs["token_type_ids"] = (np.arange(length)[None] >= length // 2).astype(np.int64)
    return inputs


def measure(shape: str, pairs: int, repeats: int, work: Path) -> list[dict[str, Any]]:
    """A row for each way, in milliseconds: mean over the pairs of the median over the repeats."""
    model = SHAPES[shape]().eval()
    ways = make(model, common.open_teacher(None).tokenizer, work)
    lengths = np.random.default_rng(0).lognormal(LOG_MEAN, LOG_STD, pairs)
    given = [pair(model, int(length)) for length in np.clip(np.rint(lengths), SHORTEST, PADDED_LENGTH)]
    rounds = [[*range(start, min(start + ROUND, pairs))] for start in range(0, pairs, ROUND)] * repeats
    with one_core():
        seconds = time_in_turns({name: Timed(given.__getitem__, row) for name, row in ways.items()}, rounds, core_clock)
    rows = []
    for name, parts in seconds.items():
        each = np.concatenate([np.asarray(part) for part in parts]).reshape(repeats, pairs)
        low, middle, high = (1000 * float(np.quantile(each, q, axis=0).mean()) for q in (0.25, 0.5, 0.75))
        rows.append({"shape": shape, "way": name, "ms": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]})
    return rows


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=common.RESULTS / "export_ways.jsonl")
    chosen = parser.parse_args()
    rows = []
    for shape in chosen.shapes:
        with tempfile.TemporaryDirectory() as work:
            rows += measure(shape, chosen.pairs, chosen.repeats, Path(work))
        common.append(chosen.output, [row for row in rows if row["shape"] == shape])
        cells_of_shape = [
            (row["way"], f"{row['ms']:.2f}", "{:.2f}–{:.2f}".format(*row["quartiles"]))
            for row in rows
            if row["shape"] == shape
        ]
        print(table((shape, "ms", "quartiles"), cells_of_shape), flush=True)


if __name__ == "__main__":
    main()
