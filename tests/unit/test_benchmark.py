"""Size and latency: what is counted, what is fed in which order, what numbers are called; never how long it took."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tinydistilbert import benchmark, fsio, results
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import save_model
from tinydistilbert.recipe import Benchmark, Recipe

BERT = BertConfig.from_dict(
    {
        "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 128, "num_labels": 1,
    }
)  # fmt: skip
DISTILBERT = DistilBertConfig.from_dict(
    {
        "vocab_size": 50, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 128,
        "num_labels": 1,
    }
)  # fmt: skip
TINY = {
    "bert-base": lambda: BertForSequenceClassification(BERT),
    "distilbert": lambda: DistilBertForSequenceClassification(DISTILBERT),
}


def test_parameters_are_those_of_the_encoder() -> None:
    # Embeddings (50 + 128 + 2) x 8 and a norm of 16; a layer of 4 x 72 + 16 + 144 + 136 + 16; a pooler of 72.
    assert parameter_count(TINY["bert-base"]().base_model) == 1456 + 600 + 72
    # Without token types and pooler.
    assert parameter_count(TINY["distilbert"]().base_model) == 1440 + 600


def test_the_default_architectures_have_the_published_sizes() -> None:
    with torch.device("meta"):
        counts = {name: parameter_count(build().base_model) for name, build in benchmark.ARCHITECTURES.items()}
    assert counts == {"bert-base": 109_482_240, "distilbert": 66_362_880}


@pytest.mark.parametrize(("examples", "rounds"), [(0, 5), (40, 4), (7, 3), (2, 5)])
def test_slices_hold_each_pair_once(examples: int, rounds: int) -> None:
    lengths = [10 + (7 * i) % 40 for i in range(103)]
    slices = benchmark.slices_of_like_lengths(lengths, examples, rounds, seed=3)
    dealt = [index for part in slices for index in part]
    assert len(dealt) == len(set(dealt)) == (examples or 103)
    assert len(slices) == min(rounds, examples or 103) and all(slices)
    assert slices == benchmark.slices_of_like_lengths(lengths, examples, rounds, seed=3)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_slices_hold_like_lengths() -> None:
    lengths = list(range(1000))
    slices = benchmark.slices_of_like_lengths(lengths, 0, 5, seed=0)
    means = [sum(part) / len(part) for part in slices]
    assert max(means) - min(means) <= 1  # dealt one way only they would differ by 4


def test_a_summary_worked_out_by_hand() -> None:
    row = benchmark.summarize([[0.010, 0.030], [0.020, 0.030]], total=1500)
    assert row["seconds_per_pass"] == pytest.approx(1500 * 0.0225)
    assert row["p50_ms"] == pytest.approx(25.0)
    assert row["p90_ms"] == pytest.approx(30.0)
    assert row["mean_ms"] == pytest.approx(22.5)
    assert row["spread"] == pytest.approx(0.025 / 0.020)
    assert row["noisy"] is True and row["estimated"] is True and row["rounds"] == 2
    alike = benchmark.summarize([[0.02, 0.02], [0.021, 0.021]], total=4)
    assert alike["noisy"] is False and alike["estimated"] is False


def test_one_core_is_given_back_even_after_an_error() -> None:
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pytest.raises(KeyError), benchmark.one_core():
        assert torch.get_num_threads() == 1
        assert cores is None or len(os.sched_getaffinity(0)) == 1
        raise KeyError
    assert torch.get_num_threads() == threads
    assert cores is None or os.sched_getaffinity(0) == cores


def test_every_round_goes_through_every_model_the_first_in_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    models: dict[str, PreTrainedModel] = {name: build().eval() for name, build in TINY.items()}
    seen: list[tuple[str, int, bool]] = []

    def record(name: str, model: PreTrainedModel) -> None:
        def hook(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
            seen.append((name, kwargs["input_ids"].shape[1], "token_type_ids" in kwargs))
            assert kwargs["attention_mask"].sum() in (11, 12)

        model.register_forward_pre_hook(hook, with_kwargs=True)

    for name, model in models.items():
        record(name, model)
    inputs = benchmark.Inputs(benchmark.synthetic_features(50, 0), 1500, "made up", True, "")
    lengths = inputs.features.lengths.tolist()
    first, second = lengths.index(11), lengths.index(12)
    seconds = benchmark.time_models(models, inputs, [[first], [second]], None, pad_token_id=0)
    # One pass to warm up (a slice of one pair has no second) and one that is timed.
    order = [("bert-base", 11, True), ("distilbert", 11, False), ("distilbert", 12, False), ("bert-base", 12, True)]
    assert seen == [one for one in order for _ in range(2)]
    assert {name: [len(part) for part in parts] for name, parts in seconds.items()} == {name: [1, 1] for name in models}
    seen.clear()
    benchmark.time_models(models, inputs, [[first]], 128, pad_token_id=0)
    assert {width for _, width, _ in seen} == {128}


def test_synthetic_lengths_are_like_those_of_sts_b() -> None:
    features = benchmark.synthetic_features(1000, seed=0)
    assert len(features) == 1500
    assert features.lengths.min() >= 10 and features.lengths.max() <= 128
    assert 29 < features.lengths.mean() < 33
    assert max(int(ids.max()) for ids in features.input_ids) < 1000


def test_without_the_data_it_times_random_ids_and_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for recipe in (Recipe(), Recipe(data=str(tmp_path))):
        inputs = benchmark.load_inputs(recipe, tokenizer)
        assert inputs.synthetic and inputs.total == 1500 and "random ids" in inputs.source


def test_with_the_data_it_times_sts_b(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    inputs = benchmark.load_inputs(Recipe(data=str(data)), tokenizer)
    assert not inputs.synthetic and inputs.total == len(inputs.features) == 1500 and inputs.fingerprint


def test_the_folder_holds_a_row_for_each_model_and_protocol(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    student = tmp_path / "student"
    save_model(BertForMaskedLM(BERT), tokenizer, student)
    output = tmp_path / "benchmark"
    settings = Benchmark(examples=12, padded_examples=6, rounds=3)
    rows = {"bert-base": None, "distilbert": None, "student": student}
    benchmark.benchmark(
        rows,
        settings,
        recipe=Recipe(name="mine", seed=7, device="cpu"),
        tokenizer=tokenizer,
        output=output,
        architectures=TINY,
    )
    assert fsio.read_manifest(output)
    measurements = results.read(output / "measurements.jsonl")
    assert [(m.model, m.value) for m in measurements if m.task == "size"] == [
        ("bert-base", 2128), ("distilbert", 2040), ("student", 2128),
    ]  # fmt: skip
    assert measurements[0].details["megabytes_fp32"] == pytest.approx(2128 * 4 / 1e6)
    latencies = [m for m in measurements if m.task == "latency"]
    assert [(m.details["protocol"], m.model, m.examples) for m in latencies] == [
        *(("padded-128", model, 6) for model in rows), *(("true-length", model, 12) for model in rows),
    ]  # fmt: skip
    for m in latencies:
        assert m.metric == "seconds_per_pass" and not m.higher_is_better and m.is_subset and m.examples_total == 1500
        assert m.value == pytest.approx(1.5 * m.details["mean_ms"]) and m.value > 0
        assert m.details["estimated"] and m.details["synthetic"] and m.details["rounds"] == 3
        assert (m.details["batch_size"], m.details["threads"], m.details["precision"]) == (1, 1, "fp32")
        assert m.details["weights"] == ("trained" if m.model == "student" else "random")
        assert (m.recipe, m.seed) == ("mine", 7) and m.recipe_hash
    raw = [json.loads(line) for line in (output / "latencies.jsonl").read_text().splitlines()]
    assert [[len(part) for part in row["milliseconds"]] for row in raw] == [[2, 2, 2]] * 3 + [[4, 4, 4]] * 3
