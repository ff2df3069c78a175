"""The fine-tuning benchmark: what its ways go through, and that they train towards the same."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import finetune_scores
import finetune_throughput
import finetune_ways
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.trainer_pt_utils import get_length_grouped_indices

from tests import tiny
from tinydistilbert.benchmark.turns import Sample, pooled
from tinydistilbert.models.loading import save_model
from tinydistilbert.tasks.encoding import Features

pytestmark = pytest.mark.long

WORDS = ["the", "student", "learns", "from", "a", "teacher", "and", "old", "engineer", "built", "large", "tower"]


def features(lengths: Sequence[int], spans: bool = False) -> Features:
    """Inputs of those lengths; token 7 everywhere."""
    ids = [np.full(length, 7, np.int32) for length in lengths]
    labels = np.array([(1, 2)] * len(ids) if spans else [number % 2 for number in range(len(ids))])
    return Features(ids, ids, labels, np.arange(len(ids)), [np.zeros((1, 2), np.int32)] * len(ids) if spans else None)


def setup(lengths: Sequence[int], batches: int, encoder: Path = Path()) -> object:
    """Batches of two of SST-2."""
    made = features(lengths)
    return finetune_ways.Setup(
        model="offline-student", encoder=encoder, task="sst2", data=Path(), train_examples=0, features=made,
        steps=finetune_ways.representative(made, 2, batches), batch_size=2, rounds=2, threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny DistilBERT."""
    folder = tmp_path_factory.mktemp("encoder")
    save_model(tiny.model("distilbert"), tokenizer, folder)
    return folder


def write_data(folder: Path) -> Path:
    """A data folder with a few rows of SST-2, STS-B and SQuAD."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in range(24)]
    rows = {
        "glue/sst2": [{"sentence": text, "label": number % 2, "idx": number} for number, text in enumerate(texts)],
        "glue/stsb": [
            {"sentence1": text, "sentence2": texts[-number], "label": number / 5, "idx": number}
            for number, text in enumerate(texts)
        ],
        "squad": [
            {
                "id": str(number), "title": "", "context": text, "question": "who learns",
                "answers": {"text": [text.split()[0]], "answer_start": [0]},
            }
            for number, text in enumerate(texts)
        ],
    }  # fmt: skip
    for name, examples in rows.items():
        (folder / name).mkdir(parents=True)
        for split in ("train", "validation"):
            pyarrow.parquet.write_table(pa.Table.from_pylist(examples), folder / name / f"{split}.parquet")
    return folder


def test_the_batches_that_stand_for_all_are_nearest_to_the_means_of_equal_runs() -> None:
    made = features([12, 60, 6, 1, 8, 13, 2, 20, 7])
    # Runs 1 2 6, 7 8 12 and 13 20 60 have the means 3, 9 and 31.
    steps = finetune_ways.representative(made, 1, 3)
    assert [len(made.input_ids[finetune_ways.epoch_batches(made, 1)[step][0]]) for step in steps] == [2, 8, 20]
    with pytest.raises(ValueError, match="expected 5 batches of 2, found 4"):
        finetune_ways.representative(made, 2, 5)  # the ninth example makes a batch that is not whole


@pytest.mark.parametrize("way", ["padded", "dynamic", "grouped"])
def test_every_pass_of_every_way_has_the_examples_of_ours(way: str) -> None:
    made = setup(range(3, 43), 6)
    batches = finetune_ways.plan(way, made)
    assert next(batches).tolist() == made.batches[0].tolist()
    setup_batches = [batch.tolist() for batch in made.batches]
    passes = [[next(batches).tolist() for _ in setup_batches] for _ in range(2)]
    assert all(sorted(chain(*one_pass)) == sorted(chain(*setup_batches)) for one_pass in passes)
    assert (passes[0] == setup_batches) == (way == "grouped") == (passes[0] == passes[1])
    assert made.tokens_per_example == np.mean(made.features.lengths[[*chain(*setup_batches)]])


def test_our_batches_of_like_length_are_as_even_as_the_trainers() -> None:
    lengths = np.random.default_rng(0).geometric(0.08, 32 * 200) + 2
    order = get_length_grouped_indices(lengths.tolist(), 32)
    trainer_batches = [order[first : first + 32] for first in range(0, len(order), 32)]
    epoch_batches = finetune_ways.epoch_batches(features(lengths.tolist()), 32)
    positions = [
        sum(len(batch) * lengths[batch].max() for batch in batches) for batches in (trainer_batches, epoch_batches)
    ]
    assert positions[1] == pytest.approx(positions[0], rel=0.01)


def test_rows_have_tokens_and_labels_and_no_padding() -> None:
    rows = finetune_ways.rows
    assert rows(features([3, 2]), [1]) == {1: {"input_ids": [7, 7], "attention_mask": [1, 1], "labels": 1}}
    (row,) = rows(features([3], spans=True), [0]).values()
    assert (row["start_positions"], row["end_positions"]) == (1, 2)


def test_inputs_without_padding_are_found_where_all_are_padded_on() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    batch = {"attention_mask": mask, "input_ids": 7 * mask, "start_positions": torch.tensor([0, 1, 2])}
    unpadded, filled = finetune_ways.without_padding(batch)
    assert {name: value.tolist() for name, value in unpadded.items()} == {
        "attention_mask": [[1, 1, 1]] * 2, "input_ids": [[7, 7, 7]] * 2, "start_positions": [0, 2]
    }  # fmt: skip
    assert filled.tolist() == [True, False, True]


class Turns:
    """The end of a connection that has so many turns to give."""

    def __init__(self, count: int) -> None:
        self.left, self.sent = [0.0] * count, []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def recv(self) -> float | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("padded", {128}),
        ("dynamic", None),
        ("grouped", {4, 9, 14, 20}),
        ("ours", {4, 9, 14, 20}),
        ("ours_no_attention_dropout", {4, 9, 14, 20}),
    ],
)
def test_a_way_trains_on_the_inputs_that_its_name_says_with_the_same_dropout(
    encoder: Path, tmp_path: Path, way: str, wanted: set[int] | None
) -> None:
    turns, lengths = Turns(8), [3, 4, 8, 9, 13, 14, 19, 20]
    rows = [{"sentence": "the " * (length - 2), "label": length % 2, "idx": length} for length in lengths]
    (tmp_path / "glue" / "sst2").mkdir(parents=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "glue" / "sst2" / "train.parquet")
    task, settings = finetune_ways.TASKS["sst2"], finetune_ways.settings_for(way, 2, tmp_path, 0)
    examples, _ = finetune_throughput.training_examples(settings, task, augmented=None, soft=False)
    encoded = finetune_throughput.encode(examples, finetune_ways.load_tokenizer(encoder), 128)
    assert encoded.lengths.tolist() == lengths
    made = replace(setup(lengths, 4, encoder), data=tmp_path, features=encoded)
    shapes: list[tuple[int, ...]] = []
    rates: set[float] = set()

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if module.training and isinstance(module, nn.Embedding) and module.num_embeddings < 512:  # not of positions
            shapes.append(tuple(inputs[0].shape))
        if module.training and isinstance(module, nn.Dropout):
            rates.add(module.p)
        if module.training and hasattr(module, "q_lin"):
            rates.add(module.dropout.p)

    hook = nn.modules.module.register_module_forward_hook(record)
    try:
        with pytest.raises(finetune_ways.Finished):
            measure = finetune_ways.measure_ours if way in finetune_ways.LIBRARY_WAYS else finetune_ways.measure_theirs
            measure(way, made, finetune_ways.Clock(turns))
    finally:
        hook.remove()
    assert turns.sent[0] is None and len(turns.sent) == 9  # ready, and eight steps
    assert len(shapes) == 9 and all(batch == 2 for batch, _ in shapes)  # with the one that is not measured
    seen = {length for _, length in shapes}
    assert seen == wanted if wanted else seen <= set(lengths) and 20 in seen
    assert rates == {0.1, 0.2} | ({0.0} if way == "ours_no_attention_dropout" else set())


def sample(speed: float) -> object:
    return Sample(tokens=speed * 2, operations=0.0, seconds=2.0, peak_mib=100.0)


def test_a_turn_is_the_sum_of_its_steps_with_the_tokens_of_an_average_one() -> None:
    made = setup([4] * 4 + [10] * 4, 2)
    steps = [Sample(0.0, 0.0, seconds, peak) for seconds, peak in ((1.0, 50), (2.0, 40))]
    turn = pooled(steps, made.batch_size * made.tokens_per_example)
    assert (turn.tokens, turn.seconds, turn.peak_mib) == (2 * 2 * 7.0, 3.0, 50)
    measured = finetune_throughput.Measured(made, {"ours": {0: turn}}, [1e9])
    assert measured.examples_per_second("ours")[1] == pytest.approx(4 / 3)


def test_the_last_line_has_the_ratios_of_sst2_and_one_of_squad() -> None:
    made = setup([4] * 8, 2)
    speeds = {"ours": 12, "padded": 1, "dynamic": 4, "grouped": 8}
    samples = {way: {0: sample(speed)} for way, speed in speeds.items()}
    slower = samples | {"padded": {0: sample(3)}}
    measured = [
        finetune_throughput.Measured(replace(made, task=task), task_samples, [1e9])
        for task, task_samples in (("sst2", samples), ("cola", slower), ("squad", slower))
    ]
    assert finetune_throughput.last_line(measured) == {
        "offline-student": {"padded": 12.0, "dynamic": 3.0, "grouped": 1.5, "squad_padded": 4.0}
    }
    assert finetune_throughput.last_line(measured[1:2])["offline-student"]["padded"] is None


def test_both_codes_begin_with_the_same_model_and_score_it_alike(encoder: Path, tmp_path: Path) -> None:
    settings = finetune_ways.settings_for("ours", 4, write_data(tmp_path), 8)
    still = replace(settings.finetune.optimization, learning_rate=1e-12)
    settings = replace(settings, finetune=replace(settings.finetune, optimization=still, epochs=1, min_steps=0))
    task = finetune_scores.TASKS["stsb"]
    scores = {(way, seed): finetune_scores.measure(way, settings, task, encoder, seed).value
              for way, seed in (("dynamic", 0), ("ours", 0), ("ours", 1))}  # fmt: skip
    assert scores["dynamic", 0] == pytest.approx(scores["ours", 0], abs=1e-6)
    assert scores["ours", 0] != pytest.approx(scores["ours", 1], abs=1e-3)


def test_scores_are_shown_as_ranges_and_whether_the_median_lies_in_the_others() -> None:
    values = {"dynamic": (0.1, 0.2, 0.3), "ours": (0.25, 0.31, 0.32)}
    scores = [finetune_scores.Score("cola", way, seed, value, 0, 5.0) for way, way_values in values.items()
              for seed, value in enumerate(way_values)]  # fmt: skip
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in finetune_scores.shown(scores).splitlines()[2:]
    ]
    assert lines == [
        ["CoLA", "dynamic", "20.0", "10.0 to 30.0", "3", "no", "5"],
        ["CoLA", "ours", "31.0", "25.0 to 32.0", "3", "no", "5"],
    ]
