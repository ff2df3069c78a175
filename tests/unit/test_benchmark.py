"""Size, latency, memory: what is counted, what is fed in which order, what rows are called; never how long it took."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert import benchmark, results
from tinydistilbert.benchmark import backends, gpu, memory, stage, timing
from tinydistilbert.benchmark.backends import PlainTorch, open_runtime
from tinydistilbert.benchmark.memory import measure_memory
from tinydistilbert.benchmark.pairs import Pairs, load_pairs, made_up_examples, slices_of_like_lengths
from tinydistilbert.benchmark.protocols import PairInputs, encoded_pairs
from tinydistilbert.benchmark.record import Record
from tinydistilbert.benchmark.rows import BenchmarkRow, Subject, make_rows, make_subject
from tinydistilbert.benchmark.timing import Timed, mean_interval, one_core, summarize, time_in_turns
from tinydistilbert.compress import measure
from tinydistilbert.compress.variants import Variant
from tinydistilbert.errors import UserError
from tinydistilbert.models.elmo.model import ElmoConfig, ElmoForSequenceClassification
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.runtimes import ModelInputs
from tinydistilbert.recipe.schema import Benchmark, Compress, Finetune, Recipe
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.encoding import Features

pytestmark = pytest.mark.long

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 128}
ELMO = ElmoConfig.from_dict(
    {
        "num_labels": 1, "filters": [[1, 4], [2, 4]], "projection_size": 4, "cell_size": 8, "hidden_size": 8,
        "classifier_size": 4,
    }
)  # fmt: skip
TINY = {
    "elmo": lambda: ElmoForSequenceClassification(ELMO),
    "bert-base": lambda: tiny.model("bert", "classification", num_labels=1, **SIZES),
    "distilbert": lambda: tiny.model("distilbert", "classification", num_labels=1, **SIZES),
}
Made = Callable[[str], Subject]


@pytest.fixture
def make(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Made:
    """A tiny model with random weights by its name."""
    return lambda name: make_subject(name, None, architectures=TINY, tokenizer=tokenizer, seed=0, work=tmp_path)


@pytest.fixture(scope="module")
def pairs(tokenizer: PreTrainedTokenizerFast) -> Pairs:
    return Pairs(made_up_examples(tokenizer, 0), "made up", True)


def inputs_of(row: BenchmarkRow, pairs: Pairs) -> PairInputs:
    (features,) = encoded_pairs([row.subject], pairs).values()
    return PairInputs(row.subject, row.runtime.token_types, pairs, features)


def test_parameters_are_those_of_the_encoder() -> None:
    # Embeddings (232 + 128 + 2) x 8 and a norm of 16; a layer of 4 x 72 + 16 + 144 + 136 + 16; a pooler of 72.
    assert parameter_count(TINY["bert-base"]().base_model) == 2912 + 600 + 72
    # Without token types and pooler.
    assert parameter_count(TINY["distilbert"]().base_model) == 2896 + 600


def test_the_default_architectures_have_the_published_sizes() -> None:
    with torch.device("meta"):
        counts = {name: parameter_count(build().base_model) / 1e6 for name, build in benchmark.ARCHITECTURES.items()}
    assert counts == pytest.approx({"elmo": 178, "bert-base": 109.48224, "distilbert": 66.36288}, rel=0.01)


@pytest.mark.parametrize(("examples", "rounds"), [(0, 5), (40, 4), (7, 3), (2, 5)])
def test_slices_hold_each_pair_once(examples: int, rounds: int) -> None:
    lengths = [10 + (7 * i) % 40 for i in range(103)]
    slices = slices_of_like_lengths(lengths, examples, rounds, seed=3)
    dealt = [index for part in slices for index in part]
    assert len(dealt) == len(set(dealt)) == (examples or 103)
    assert len(slices) == min(rounds, examples or 103) and all(slices)
    assert slices == slices_of_like_lengths(lengths, examples, rounds, seed=3)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_slices_hold_like_lengths() -> None:
    lengths = list(range(1000))
    slices = slices_of_like_lengths(lengths, 0, 5, seed=0)
    means = [sum(part) / len(part) for part in slices]
    assert max(means) - min(means) <= 1  # dealt one way only they would differ by 4


def test_a_summary_worked_out_by_hand() -> None:
    row = summarize([[0.010, 0.030], [0.020, 0.030]], total=1500)
    assert row["seconds_per_pass"] == pytest.approx(1500 * 0.0225)
    assert row["p50_ms"] == pytest.approx(25.0)
    assert row["p90_ms"] == pytest.approx(30.0)
    assert row["mean_ms"] == pytest.approx(22.5)
    assert row["spread"] == pytest.approx(0.025 / 0.020)
    assert row["noisy"] is True and row["estimated"] is True and row["rounds"] == 2
    alike = summarize([[0.02, 0.02], [0.021, 0.021]], total=4)
    assert alike["noisy"] is False and alike["estimated"] is False


def test_a_spread_of_ten_per_cent_is_no_noise_yet() -> None:
    assert not summarize([[1.0], [1.09]], total=2)["noisy"]
    assert summarize([[1.0], [1.11]], total=2)["noisy"]


def test_p90_is_the_time_that_a_tenth_of_the_pairs_exceed() -> None:
    assert summarize([[n / 1000 for n in range(1, 12)]], total=11)["p90_ms"] == pytest.approx(10.0)


def test_the_interval_of_two_rounds_is_worked_out_by_hand() -> None:
    # Of the pairs of rounds (1, 1), (1, 3), (3, 1), (3, 3) a quarter each: the middle 95 % go from 1 to 3.
    assert mean_interval([[1.0, 1.0], [3.0, 3.0]]) == (1.0, 3.0)
    assert mean_interval([[2.0] * 3, [2.0] * 2]) == (2.0, 2.0)
    assert summarize([[2.0], [2.0]], total=10)["interval"] == [20.0, 20.0]


def test_the_interval_of_one_round_is_that_of_the_mean_of_its_pairs() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, 400)
    low, high = mean_interval([values.tolist()])
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1, values.mean() + 1.96 * 0.1), abs=0.03)


def test_rounds_that_differ_widen_the_interval_which_pairs_alone_would_not_show() -> None:
    generator = np.random.default_rng(2)
    parts = [generator.normal(mean, 0.1, 100) for mean in (9.0, 10.0, 11.0, 10.0)]
    apart = mean_interval([part.tolist() for part in parts])
    pooled = mean_interval([np.concatenate(parts).tolist()])
    assert apart[1] - apart[0] > 4 * (pooled[1] - pooled[0])


def test_one_core_is_given_back_even_after_an_error() -> None:
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pytest.raises(KeyError), one_core():
        assert torch.get_num_threads() == 1
        assert cores is None or len(os.sched_getaffinity(0)) == 1
        raise KeyError
    assert torch.get_num_threads() == threads
    assert cores is None or os.sched_getaffinity(0) == cores


def test_every_round_goes_through_every_row_the_first_in_turn() -> None:
    seen: list[str] = []
    timed = {name: Timed(lambda index, name=name: f"{name}{index}", seen.append) for name in "abc"}
    seconds = time_in_turns(timed, [[1], [2, 3, 4]])
    # A warm-up of two passes (a slice of one pair has no second), and each pair once.
    assert " ".join(seen) == "a1 a1 b1 b1 c1 c1 b2 b3 b2 b3 b4 c2 c3 c2 c3 c4 a2 a3 a2 a3 a4"
    assert {name: [len(part) for part in parts] for name, parts in seconds.items()} == {name: [1, 3] for name in "abc"}


def test_each_size_is_computed_once_before_a_row_is_timed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: dict[str, set[int]] = {"a": set(), "b": set()}
    clock = 0

    def answer(name: str, inputs: Mapping[str, np.ndarray]) -> None:  # an engine that takes long for a new length
        nonlocal clock
        length = inputs["input_ids"].shape[1]
        clock += 1 if length in prepared[name] else 100
        prepared[name].add(length)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock)
    timed = {
        name: Timed(lambda index: {"input_ids": np.zeros((1, index))}, functools.partial(answer, name)) for name in "ab"
    }
    ones = [[1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert time_in_turns(timed, [[3, 4, 5, 6], [4, 7, 8, 9, 9]]) == {"a": ones, "b": ones}


def test_preparing_and_warming_up_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timed = {"a": Timed(lambda index: next(clock), lambda _: None)}
    assert time_in_turns(timed, [[1, 2]]) == {"a": [[1, 1]]}


def test_compress_times_by_the_clock_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "encoded", lambda *_: SimpleNamespace(lengths=np.array([3, 4]), example=np.arange(2)))
    monkeypatch.setattr(measure, "_timed", lambda *_: Timed(lambda index: index, lambda _: time.sleep(0.03)))

    def seconds(clock: Literal["wall", "core"]) -> float:
        builder: Any = SimpleNamespace(recipe=Recipe(compress=Compress(clock=clock)))
        times = measure._times(builder, [Variant("a", Path(), Path())], cast(Any, None), 2, rounds=1)
        return max(times["a"][0])

    assert seconds("wall") >= 0.03 > 0.02 > seconds("core"), "who sleeps does not have the core"


def test_variants_of_other_tokenizers_are_timed_on_the_same_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = {"first": [0, 0, 0, 1, 2, 2], "fewer": [0, 0, 1, 2], "more": [0, 0, 0, 0, 1, 1, 2, 2]}
    read: dict[str, set[tuple[int, int]]] = {name: set() for name in windows}
    by_features: dict[int, str] = {}

    def encoded(_builder: Any, _examples: Any, folder: Path) -> Features:
        owners, rows = np.array(windows[folder.name]), [np.ones(3, np.int32)] * len(windows[folder.name])
        features = Features(rows, rows, np.zeros((len(rows), 2)), owners, offsets=[])
        by_features[id(features)] = folder.name
        return features

    def single_inputs(features: Features, indices: list[int], _pad: int) -> list[ModelInputs]:
        (index,), owners = indices, features.example.tolist()
        read[by_features[id(features)]].add((owners[index], index - owners.index(owners[index])))
        return [{"input_ids": np.ones((1, 3), np.int64)}]

    monkeypatch.setattr(measure, "encoded", encoded)
    monkeypatch.setattr(measure, "single_inputs", single_inputs)
    monkeypatch.setattr(measure, "runtime_of", lambda *_, **__: Mock(token_types=False))
    monkeypatch.setattr(measure, "pad_token_id", lambda *_: 0)
    builder: Any = SimpleNamespace(recipe=Recipe())
    measure._times(builder, [Variant(name, Path(name), Path()) for name in windows], cast(Any, None), 0, rounds=2)
    assert read == {
        "first": {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)}, "fewer": {(0, 0), (0, 1), (1, 0), (2, 0)},
        "more": {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)},
    }  # fmt: skip


def test_made_up_pairs_have_lengths_like_those_of_sts_b(tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> None:
    lengths = [
        len(ids) for ids in tokenizer(*(pairs.examples.columns[name] for name in ("text", "text_pair"))).input_ids
    ]
    assert len(lengths) == pairs.total == 1500
    assert min(lengths) >= 10 and max(lengths) <= 128
    assert 29 < sum(lengths) / 1500 < 33


def test_without_the_data_it_times_random_words_and_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for recipe in (Recipe(), Recipe(data=str(tmp_path))):
        loaded = load_pairs(recipe, tokenizer)
        assert loaded.synthetic and loaded.total == 1500 and "random words" in loaded.source and not loaded.fingerprint


STSB = "sentence1,sentence2,label\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("validation.csv", STSB + "one,two,9\n", r"validation\.csv:2, column label"),
        ("validation.csv", STSB + "one\n", r"validation\.csv:2"),
        ("validation.parquet", "PAR1", r"validation\.parquet.*readable parquet"),
        ("train.csv", STSB + "one,two,3\n", r"glue/stsb.*validation split"),
    ],
)
def test_damaged_data_is_an_error_and_not_replaced_by_made_up_pairs(
    name: str, content: str, message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    atomic.write_text(tmp_path / "glue" / "stsb" / name, content)
    with pytest.raises(UserError, match=message):
        load_pairs(Recipe(data=str(tmp_path)), tokenizer)


def test_sts_b_that_is_a_task_of_the_recipe_has_to_be_there(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"stsb.*validation"):
        load_pairs(Recipe(data=str(tmp_path), finetune=Finetune(tasks=("stsb",))), tokenizer)


def test_with_the_data_it_times_sts_b(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = load_pairs(Recipe(data=str(data)), tokenizer)
    assert not loaded.synthetic and loaded.total == len(loaded.examples) == 1500 and loaded.fingerprint
    assert loaded.texts(0)[0].startswith("A man with a hard hat")


class RecordingRuntime:
    """A runtime that keeps what it was given."""

    name = "seen"

    def __init__(self, token_types: bool) -> None:
        self.token_types = token_types
        self.inputs: list[ModelInputs] = []

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        self.inputs.append(inputs)
        return np.zeros((1, 1), np.float32)


@pytest.mark.parametrize("token_types", [True, False])
def test_a_protocol_is_padded_or_as_long_as_the_pair_or_from_its_words(
    make: Made, pairs: Pairs, token_types: bool
) -> None:
    runtime = RecordingRuntime(token_types)
    row = BenchmarkRow(make("bert-base"), "torch", Path(), runtime)
    length = int(inputs_of(row, pairs).features.lengths[3])
    for protocol in ("padded-128", "true-length", "with-tokenizer"):
        timed = inputs_of(row, pairs).timed(protocol, runtime)
        timed.answer(timed.prepare(3))
    padded, exact, read = runtime.inputs
    assert padded["input_ids"].shape == (1, 128) and padded["attention_mask"].sum() == length
    assert exact["input_ids"].shape == (1, length) and exact["attention_mask"].all()
    assert exact.keys() == read.keys() and ("token_type_ids" in exact) == token_types
    assert all((exact[name] == read[name]).all() and read[name].dtype == np.int64 for name in exact)


@pytest.mark.parametrize("name", ["bert-base", "distilbert", "elmo"])
def test_with_the_tokenizer_the_logits_are_those_at_true_length(make: Made, pairs: Pairs, name: str) -> None:
    (row,) = make_rows([make(name)], ["torch"], Path())
    pair_inputs = inputs_of(row, pairs)
    logits = []
    for protocol in ("true-length", "with-tokenizer"):
        timed = pair_inputs.timed(protocol, row.runtime)
        logits.append(np.concatenate([timed.answer(timed.prepare(index)) for index in range(5)]))
    assert (logits[0] == logits[1]).all() and len(np.unique(logits[0])) == 5


def test_the_back_end_torch_is_transformers_as_it_is(make: Made) -> None:
    folder = make("bert-base").folder
    runtime = open_runtime(folder, "torch")
    assert isinstance(runtime, PlainTorch)
    inputs = {name: np.ones((2, 9), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    inputs["input_ids"] += np.arange(9)
    with torch.no_grad():
        model = BertForSequenceClassification.from_pretrained(folder).eval()
        expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    assert_equal_up_to_rounding(runtime(inputs), expected.numpy())


def test_rows_are_models_by_back_ends_and_give_alike_logits(
    make: Made, pairs: Pairs, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    subjects = [make("elmo"), make("distilbert")]
    rows = make_rows(subjects, ["torch", "onnx", "onnx-int8"], tmp_path)
    assert [row.name for row in rows] == [
        "elmo/torch", "distilbert/torch", "distilbert/onnx", "distilbert/onnx-int8",
    ]  # fmt: skip
    assert [row.megabytes is None for row in rows] == [True, True, False, False]
    logits = [row.runtime(inputs_of(row, pairs).at(0)) for row in rows[1:]]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    np.testing.assert_allclose(logits[2], logits[0], atol=0.1)
    # An exported folder that is given is a row of the back end that it was made for.
    given = [
        make_subject("mine", row.folder, architectures=TINY, tokenizer=tokenizer, seed=0, work=tmp_path)
        for row in rows[2:]
    ]
    assert [row.name for row in make_rows(given, ["torch"], tmp_path)] == ["mine/onnx", "mine/onnx-int8"]
    assert {subject.weights for subject in given} == {"trained"}
    # The encoder's 3496 and the head's 72 + 9, less biases that are 0 and were left out by the exporter.
    assert given[0].parameters == given[1].parameters == pytest.approx(3496 + 72 + 9, abs=72)


def test_a_masked_language_model_gets_a_head_and_a_task_model_keeps_its_own(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder, task = tmp_path / "encoder", tmp_path / "task"
    save_model(tiny.model(**SIZES), tokenizer, encoder)
    save_model(tiny.model(head="classification", num_labels=3, **SIZES), tokenizer, task)
    work = tmp_path / "work"
    subjects = [
        make_subject(folder.name, folder, architectures=TINY, tokenizer=tokenizer, seed=0, work=work)
        for folder in (encoder, task)
    ]
    assert [subject.folder for subject in subjects] == [work / "encoder", task]
    assert {subject.parameters for subject in subjects} == {3584} and {s.weights for s in subjects} == {"trained"}
    ones = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert [open_runtime(s.folder, "torch")(ones).shape for s in subjects] == [(1, 1), (1, 3)]


def test_the_memory_of_a_row_is_more_than_that_of_its_weights(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 8192}
    save_model(tiny.model(head="classification", **SIZES | wide), tokenizer, tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size / 2**20
    assert weights > 35
    inputs = {name: np.ones((1, 16), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    usage = measure_memory("mine", tmp_path / "model", "torch", inputs)
    assert usage["peak_mib"] - usage["baseline_mib"] > 0.9 * weights
    assert usage["baseline_mib"] > 50 and usage["peak_mib"] >= usage["loaded_mib"] >= usage["baseline_mib"]


def test_a_process_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHILD", "raise MemoryError('all is full')")
    with pytest.raises(UserError, match=r"peak memory of a/torch: .*all is full; .*benchmark\.memory = false"):
        measure_memory("a/torch", Path(), "torch", {})


@pytest.mark.parametrize(
    ("module", "backend", "extra"), [("onnxruntime", "onnx-int8", "onnx"), ("openvino", "openvino", "openvino")]
)
def test_a_missing_back_end_names_the_command_that_installs_it_before_anything_is_written(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, module: str, backend: str,
    extra: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    settings = Benchmark(backends=("torch", backend))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"pip install 'tinydistilbert\[{extra}\]'"):
        benchmark.benchmark(
            {"distilbert": None}, settings, recipe=Recipe(), tokenizer=tokenizer, output=tmp_path / "benchmark",
            architectures=TINY,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_folder_holds_a_row_for_each_model_back_end_and_protocol(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    student = tmp_path / "student"
    save_model(tiny.model(**SIZES), tokenizer, student)
    output = tmp_path / "benchmark"
    settings = Benchmark(
        examples=12, padded_examples=6, rounds=3, memory=False, backends=("torch", "onnx"),
        protocols=("padded-128", "true-length", "with-tokenizer"),
    )  # fmt: skip
    models = {"elmo": None, "distilbert": None, "student": student}
    benchmark.benchmark(
        models, settings, recipe=Recipe(name="mine", seed=7, device="cpu"), tokenizer=tokenizer, output=output,
        architectures=TINY,
    )  # fmt: skip
    assert atomic.read_manifest(output) and {path.name for path in tmp_path.iterdir()} == {"student", "benchmark"}
    measurements = results.read(output / "measurements.jsonl")
    sizes = {m.model: m for m in measurements if m.metric == "parameters"}
    assert [(name, m.value) for name, m in sizes.items()][1:] == [("distilbert", 3496), ("student", 3584)]
    assert sizes["student"].details["megabytes_fp32"] == pytest.approx(3584 * 4 / 1e6)
    files = [m for m in measurements if m.metric == "megabytes"]
    assert [(m.model, m.details["backend"]) for m in files] == [("distilbert", "onnx"), ("student", "onnx")]
    rows = [
        ("elmo", "torch"),
        ("distilbert", "torch"),
        ("distilbert", "onnx"),
        ("student", "torch"),
        ("student", "onnx"),
    ]
    latencies = [m for m in measurements if m.task == "latency"]
    assert [(m.details["protocol"], m.model, m.details["backend"], m.examples) for m in latencies] == [
        *(("padded-128", *row, 6) for row in rows), *(("true-length", *row, 12) for row in rows),
        *(("with-tokenizer", *row, 12) for row in rows),
    ]  # fmt: skip
    for m in latencies:
        assert m.metric == "seconds_per_pass" and not m.higher_is_better and m.is_subset and m.examples_total == 1500
        assert m.value == pytest.approx(1.5 * m.details["mean_ms"]) and m.value > 0
        low, high = m.details["interval"]
        assert low <= m.value <= high
        assert m.details["estimated"] and m.details["synthetic"] and m.details["rounds"] == 3
        assert (m.details["batch_size"], m.details["threads"], m.details["precision"]) == (1, 1, "fp32")
        assert m.details["library"].split()[0] == {"torch": "torch", "onnx": "onnxruntime"}[m.details["backend"]]
        assert m.details["weights"] == ("trained" if m.model == "student" else "random")
        assert (m.recipe, m.seed) == ("mine", 7) and m.recipe_hash and m.environment["cpu"]
    raw = [json.loads(line) for line in (output / "latencies.jsonl").read_text().splitlines()]
    assert [(row["model"], row["backend"], row["protocol"]) for row in raw] == [
        (m.model, m.details["backend"], m.details["protocol"]) for m in latencies
    ]
    assert [[len(part) for part in row["milliseconds"]] for row in raw] == [[2, 2, 2]] * 5 + [[4, 4, 4]] * 10


def test_a_folder_for_openvino_is_a_row_in_its_precision(
    make: Made, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "version_of_module", lambda name: f"of {name}")
    monkeypatch.setattr(backends, "OpenVinoRuntime", lambda folder, threads: (folder, threads))
    subject = make("distilbert")
    runtime = open_runtime(subject.folder, "torch")
    names = ("openvino", "openvino-bf16", "openvino-int8", "torch-compile", "onnx-int8")
    rows = [BenchmarkRow(subject, name, subject.folder, runtime) for name in names]
    record = Record(pairs)
    settings = Benchmark(examples=2, rounds=1, memory=False, protocols=("true-length",))
    stage._measure([subject], rows, settings, record, seed=0)
    timed = [m.details for m in record.measurements if m.task == "latency"]
    assert [(one["precision"], one["library"].split()[0]) for one in timed] == [
        ("fp32", "openvino"), ("bf16", "openvino"), ("int8", "openvino"), ("fp32", "torch"), ("int8", "onnxruntime"),
    ]  # fmt: skip
    assert [open_runtime(subject.folder, name) for name in names[:3]] == [(subject.folder, 1)] * 3


def test_the_best_batch_is_where_throughput_stops_rising() -> None:
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return 1.0 if size <= 8 else size / 8

    throughput = gpu.best_batch(seconds)
    assert (throughput.batch_size, throughput.per_second) == (8, 8.0)
    assert tried == [1, 2, 4, 8, 16] and throughput.tried == {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 8.0}


def test_the_search_for_a_batch_ends_with_the_memory() -> None:
    def seconds(size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError
        return 1.0

    assert gpu.best_batch(seconds).batch_size == 4
    with pytest.raises(torch.OutOfMemoryError):
        gpu.best_batch(lambda size: seconds(8 * size))


@pytest.mark.slow
def test_the_script_ends_with_one_line_of_milliseconds(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_model(tiny.model(**SIZES), tokenizer, tmp_path / "teacher")
    script, rows = Path(__file__).resolve().parents[2] / "benchmarks" / "latency.py", tmp_path / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--tiny", "--models", "elmo", "bert-base", "distilbert-pruned",
         "--teacher", str(tmp_path / "teacher"), "--data", str(tmp_path), "--output", str(rows)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    milliseconds = json.loads(done.stdout.splitlines()[-1])
    assert set(milliseconds) == {"padded-128", "true-length", "with-tokenizer"}
    names = ["elmo/torch", "bert-base/torch", "bert-base/onnx", "bert-base/onnx-int8", "distilbert-pruned/onnx-int8"]
    assert all(list(by_row) == names and min(by_row.values()) > 0 for by_row in milliseconds.values())
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(line["protocol"], line["row"]) for line in lines] == [
        (protocol, row) for protocol in milliseconds for row in names
    ]
    assert all(line["quick"] and line["tiny"] and line["environment"]["cpu"] for line in lines)
