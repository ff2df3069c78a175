"""The benchmark on a GPU: captured graphs give the model's logits, and every mode has its rows."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tinydistilbert import results
from tinydistilbert.benchmark import benchmark, gpu
from tinydistilbert.recipe.schema import Benchmark, Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

CONFIG = BertConfig.from_dict(
    {
        "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 128, "num_labels": 1,
    }
)  # fmt: skip


@torch.inference_mode()
def test_a_captured_graph_gives_the_logits_of_the_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Module.to(BertForSequenceClassification(CONFIG).eval(), torch.device("cuda"))
    captured = gpu.Captured(model)
    for shape in ((1, 9), (4, 30), (1, 9)):
        ids = torch.randint(5, 300, shape, device="cuda")
        mask = torch.ones_like(ids)
        mask[:, 7:] = 0
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        torch.testing.assert_close(captured(batch).clone(), model(**batch).logits, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_throughput_is_told_with_its_batch_size() -> None:
    model = torch.nn.Module.to(BertForSequenceClassification(CONFIG).eval(), torch.device("cuda"))
    speed = gpu.throughput(model, gpu.forward_of(model, gpu.EAGER), token_types=True)
    assert speed.tried[speed.batch_size] == speed.per_second == max(speed.tried.values()) > speed.tried[1]


def test_every_mode_is_a_row(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    settings = Benchmark(examples=4, padded_examples=2, rounds=2, memory=False)
    benchmark(
        {"bert-base": None}, settings, recipe=Recipe(), tokenizer=tokenizer, output=tmp_path / "benchmark",
        architectures={"bert-base": lambda: BertForSequenceClassification(CONFIG)},
    )  # fmt: skip
    measured = [
        m for m in results.read(tmp_path / "benchmark" / "measurements.jsonl") if m.details.get("device") == "cuda"
    ]
    assert [(m.task, m.details["backend"], m.details["protocol"]) for m in measured] == [
        *(("latency", mode, protocol) for protocol in ("padded-128", "true-length") for mode in gpu.MODES),
        *(("throughput", mode, "padded-128") for mode in gpu.MODES),
    ]  # fmt: skip
    assert all(m.value > 0 and m.details["gpu"] for m in measured)
