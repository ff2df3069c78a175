"""ELMo: its sizes, its tokenizer, its task model, and everything that encoders go through."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.evaluate import evaluate
from tinydistilbert.finetuning.examples import task_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.soft_targets import SoftTargetSource
from tinydistilbert.finetuning.trainer import TaskTraining, prepare_training
from tinydistilbert.models.elmo.model import (
    ElmoConfig,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoModel,
    PairReader,
    ScalarMix,
)
from tinydistilbert.models.elmo.tokenizer import ElmoTokenizer, elmo_tokenizer
from tinydistilbert.models.loading import load_model, load_tokenizer, longest_input, save_model
from tinydistilbert.recipe.schema import Finetune, Optimization, Recipe
from tinydistilbert.results import read
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import collate, encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.training.device import Compute

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "filters": [[1, 3], [2, 4], [3, 5]], "character_size": 4, "projection_size": 6, "cell_size": 10, "hidden_size": 16,
    "classifier_size": 12,
}  # fmt: skip


def scrambled(model: Any) -> Any:
    """The model in evaluation mode with weights of some size, so that nothing can hide."""
    return tiny.scrambled(model, std=0.4).eval()


# --- Sizes ---


def test_the_parameters_of_the_published_size_part_by_part():
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        model = ElmoForSequenceClassification(ElmoConfig.from_dict({"num_labels": 1}))
        alone = ElmoForSequenceClassification(ElmoConfig.from_dict({"num_labels": 1, "pair_attention": False}))
        released = ElmoForSequenceClassification(ElmoConfig.from_dict({"num_labels": 1, "attention_size": 3000}))
    bilm = model.elmo.bilm
    assert count(bilm.words.embedding) == 262 * 16
    assert count(bilm.words.convolutions) == sum(
        16 * width * number + number
        for width, number in zip(range(1, 8), (32, 32, 64, 128, 256, 512, 1024), strict=True)
    )
    assert count(bilm.words.highways) == 2 * (2048 * 4096 + 4096)
    assert count(bilm.words.projection) == 2048 * 512 + 512
    assert count(bilm.forward_layers) == 2 * (2 * 512 * 16384 + 16384 + 4096 * 512) == count(bilm.backward_layers)
    assert count(bilm) == 93_600_864
    assert count(model.elmo.sentences) == 2 * 6000 * (1024 + 1500 + 2) + 2 * 6000 * (3000 + 1500 + 2) == 84_336_000
    assert count(model.elmo) == 93_600_864 + 84_336_000 + 4 == 177_936_868
    assert abs(count(model.elmo) / 180e6 - 1) < 0.02
    assert count(model.head) == 4 * 6000 * 512 + 512 + 512 + 1
    assert count(alone) == 184_081_893
    assert count(released.head.pair) == 2 * 6000 * (6000 + 1500 + 2)
    assert count(released) == 274_105_893


# --- The tokenizer ---


def test_a_word_is_its_bytes_between_two_marks_all_one_higher():
    ids = elmo_tokenizer()("né")["input_ids"]
    assert ids.tolist() == [[259, ord("n") + 1, 0xC3 + 1, 0xA9 + 1, 260] + [261] * 45]
    long = elmo_tokenizer()("a" * 60)["input_ids"]
    assert long.tolist() == [[259] + [98] * 48 + [260]]


def test_texts_become_cased_words_and_marks_with_offsets_and_types():
    encoded = elmo_tokenizer()("Don't stop,  now", "Why?", return_offsets_mapping=True)
    text = "Don't stop,  now"
    words = [text[begin:end] for begin, end in encoded["offset_mapping"][:6]]
    assert words == ["Don", "'", "t", "stop", ",", "now"]
    assert encoded["token_type_ids"] == [0] * 6 + [1, 1]
    assert encoded["input_ids"].shape == (8, 50)
    assert encoded["input_ids"][6, 1] == ord("W") + 1


def test_padding_has_no_characters_and_an_empty_text_is_one_empty_word():
    encoded = elmo_tokenizer()(["one two", ""], padding=True, return_tensors="pt")
    assert encoded["input_ids"].shape == (2, 2, 50) and not encoded["input_ids"][1].any()
    alone = elmo_tokenizer()([""])
    assert alone["input_ids"][0].tolist() == [[259, 260] + [261] * 48]
    assert (alone["token_type_ids"], alone["attention_mask"]) == ([[0]], [[1]])


def test_a_saved_tokenizer_is_found_again(tmp_path: Path):
    save_model(ElmoModel(ElmoConfig(**SIZES)), elmo_tokenizer(), tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, ElmoTokenizer) and again.pad_token_id == 0
    assert np.array_equal(again("Once more")["input_ids"], elmo_tokenizer()("Once more")["input_ids"])


def span_examples() -> Examples:
    context = "In 1889 the tower was built by the engineer Gustave Eiffel for the world fair in Paris."
    columns = {
        "id": ["a", "b"], "question": ["Who built it?", "When?"], "context": [context, context],
        "answers": [
            {"text": ["Gustave Eiffel"], "answer_start": [context.index("Gustave")]},
            {"text": ["1889"], "answer_start": [3]},
        ],
    }  # fmt: skip
    return Examples(TASKS["squad"], "train", columns, 2)


def test_windows_of_a_context_are_words_with_the_answer_among_them():
    examples = span_examples()
    features = encode(examples, elmo_tokenizer(), 12)
    assert features.offsets is not None and len(features) > 2
    assert all(ids.shape == (length, 50) for ids, length in zip(features.input_ids, features.lengths, strict=True))
    answers = {0: set(), 1: set()}
    for window in range(len(features)):
        first, last = features.labels[window]
        if (first, last) != (0, 0):
            context = examples.columns["context"][0]
            begin, end = features.offsets[window][first, 0], features.offsets[window][last, 1]
            answers[int(features.example[window])].add(context[begin:end])
    assert answers == {0: {"Gustave Eiffel"}, 1: {"1889"}}


# --- The task model ---


def pairs() -> dict[str, torch.Tensor]:
    """Two pairs and a single text, of different lengths."""
    first = ["The old tower", "Some cats like milk", "It lies on the river"]
    second = ["was built quickly by people", "No", ""]
    encoded: dict[str, torch.Tensor] = dict(elmo_tokenizer()(first, second, padding=True, return_tensors="pt"))
    return encoded


def padded(batch: dict[str, torch.Tensor], more: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat([value, value.new_zeros(len(value), more, *value.shape[2:])], dim=1)
        for name, value in batch.items()
    }


@pytest.mark.parametrize("settings", [{}, {"pair_attention": False}, {"attention_size": 10}])
@torch.no_grad()
def test_neither_padding_nor_the_rest_of_the_batch_changes_a_logit(settings: dict[str, Any]):
    batch = pairs()
    model = scrambled(ElmoForSequenceClassification(ElmoConfig(**SIZES, **settings)))
    span = scrambled(ElmoForQuestionAnswering(ElmoConfig(**SIZES, **settings)))
    logits, start = model(**batch).logits, span(**batch).start_logits
    torch.testing.assert_close(model(**padded(batch, 5)).logits, logits)
    torch.testing.assert_close(span(**padded(batch, 5)).start_logits[:, : start.shape[1]], start)
    for row in range(3):
        length = int(batch["attention_mask"][row].sum())
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        torch.testing.assert_close(model(**alone).logits[0], logits[row])
        torch.testing.assert_close(span(**alone).start_logits[0], start[row, :length])
    assert logits.std(0).min() > 1e-3


@torch.no_grad()
def test_the_texts_of_a_pair_are_read_one_by_one():
    model = scrambled(ElmoModel(ElmoConfig(**SIZES)))
    tokenizer = elmo_tokenizer()
    both = model(**tokenizer("The old tower", "was built", return_tensors="pt")).last_hidden_state[0]
    for text, expected in (("The old tower", both[:3]), ("was built", both[3:])):
        alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(alone, expected)


@torch.no_grad()
def test_attention_takes_from_the_other_text_alone():
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], [[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    members = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 0, 0]]]).bool()
    output = PairReader(ElmoConfig(hidden_size=2)).eval()(hidden, members)
    torch.testing.assert_close(output[:, :, :2], hidden)
    first = float(1 / (1 + np.exp(-1.0)))  # its products with the two words of the other text are 3 and 2
    expected = torch.tensor([[3.0, 1.0], [3.0, 1.0], [first, 2 * (1 - first)]])
    torch.testing.assert_close(output[0, :, 2:], expected)
    assert not output[1, :, 2:].any()


@torch.no_grad()
def test_the_mixture_is_a_weighted_mean_times_gamma():
    mix = ScalarMix(3)
    mix.weights.copy_(torch.tensor([0.0, 0.0, np.log(2.0)]))
    mix.gamma.fill_(4.0)
    layers = [torch.full((1, 1, 2), value) for value in (1.0, 3.0, 5.0)]
    torch.testing.assert_close(mix(layers), torch.full((1, 1, 2), 4 * (0.25 * 1 + 0.25 * 3 + 0.5 * 5)))


def test_gradients_reach_the_language_model_only_where_it_is_not_frozen():
    for frozen in (True, False):
        torch.manual_seed(0)
        model = ElmoForSequenceClassification(ElmoConfig(**SIZES, freeze_encoder=frozen))
        model(**pairs(), labels=torch.tensor([0, 1, 1])).loss.backward()
        reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        inside = {name for name, _ in model.named_parameters() if name.startswith("elmo.bilm.")}
        assert reached & inside == (set() if frozen else inside)
        assert {name for name, _ in model.named_parameters()} - reached == (inside if frozen else set())


# --- As an encoder like every other ---


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elmo")
    save_model(scrambled(ElmoModel(ElmoConfig(**SIZES))), elmo_tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA, with sentences in which one word tells the label."""
    folder = tmp_path_factory.mktemp("data")
    words = ["cats", "milk", "Paris", "lake"]
    for split, count, seed in (("train", 64, 0), ("validation", 30, 1)):
        draw, rows = random.Random(seed), []
        for index in range(count):
            chosen = [draw.choice(words) for _ in range(draw.randint(1, 3))]
            chosen.insert(draw.randint(0, len(chosen)), "!" if index % 2 else "tower")
            rows.append({"sentence": " ".join(chosen), "label": index % 2})
        path = folder / TASKS["cola"].folder / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return folder


def recipe(data: Path, *, epochs: float = 1.0) -> Recipe:
    optimization = Optimization(learning_rate=1e-2, weight_decay=0.01, batch_size=8, dropout=0.0)
    settings = Finetune(tasks=("cola",), epochs=epochs, min_steps=0, optimization=optimization)
    return Recipe(name="tiny", data=str(data), finetune=settings)


def finetuned(settings: Recipe, encoder: Path, output: Path) -> None:
    examples, compute = task_examples(settings, TASKS["cola"], None), Compute.of(settings, CPU)
    finetune(settings.finetune, examples, encoder, output, compute=compute, row="elmo", seed=0)


def prepared(settings: Recipe, encoder: Path, source: SoftTargetSource) -> TaskTraining:
    examples, compute = task_examples(settings, TASKS["cola"], source), Compute.of(settings, CPU)
    return prepare_training(settings.finetune, examples, encoder, compute=compute, seed=0, soft_targets=source)


@pytest.mark.long
def test_it_learns_and_is_scored_like_every_encoder(data: Path, tmp_path: Path):
    model = scrambled(ElmoModel(ElmoConfig(**SIZES, freeze_encoder=False)))  # frozen, random filters tell too little
    save_model(model, elmo_tokenizer(), tmp_path / "encoder")
    tiny, task = recipe(data, epochs=16.0), TASKS["cola"]
    finetuned(tiny, tmp_path / "encoder", tmp_path / "model")
    evaluate(
        tmp_path / "model",
        task,
        row="elmo",
        seed=0,
        recipe=tiny,
        output=tmp_path / "scores",
        device=CPU,
        training={},
        max_length=task.max_length,
    )
    scores = {line.metric: line.value for line in read(tmp_path / "scores" / "measurements.jsonl")}
    assert scores["matthews_correlation"] > 0.9


@pytest.mark.long
def test_fine_tuning_leaves_the_language_model_as_it_was_and_nothing_else(data: Path, encoder: Path, tmp_path: Path):
    task = TASKS["cola"]
    finetuned(recipe(data), encoder, tmp_path / "model")
    before = load_model(encoder, "classification", labels=task.labels).elmo.state_dict()
    after = load_model(tmp_path / "model", "classification", require_head=True).elmo.state_dict()
    assert {name for name, value in before.items() if torch.equal(after[name], value)} == {
        name for name in before if name.startswith("bilm.")
    }


@pytest.mark.parametrize("head", ["classification", "span"])
def test_a_prediction_does_not_depend_on_how_inputs_are_batched(head: str):
    tokenizer = elmo_tokenizer()
    if head == "span":
        model, features = (
            scrambled(ElmoForQuestionAnswering(ElmoConfig(**SIZES))),
            encode(span_examples(), tokenizer, 14),
        )
    else:
        columns = {"idx": [0, 1, 2, 3], "text": ["It", "", "The old tower", "No"], "label": [0, 1, 0, 1]}
        columns["text_pair"] = ["is a tower", "", "a b c d e f g h", "Yes"]
        model = scrambled(ElmoForSequenceClassification(ElmoConfig(**SIZES)))
        features = encode(Examples(TASKS["rte"], "train", columns, 4), tokenizer, 8)
        assert features.lengths.tolist() == [4, 1, 8, 2]
    together = predict(model, features, pad_token_id=0, device=CPU)
    apart = predict(model, features, pad_token_id=0, device=CPU, token_budget=1)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_batch_is_padded_with_words_without_characters():
    features = encode(span_examples(), elmo_tokenizer(), 12)
    batch = collate(features, [0, len(features) - 1], 0, token_types=True, pad_to=20)
    assert batch["input_ids"].shape == (2, 20, 50) and batch["input_ids"].dtype == torch.int64
    assert torch.equal(batch["input_ids"].any(-1), batch["attention_mask"].bool())


def test_it_is_refused_where_a_masked_language_model_is_needed(encoder: Path, tmp_path: Path, data: Path):
    with pytest.raises(UserError, match="ELMo is not a masked language model"):
        load_model(encoder, "masked-lm")
    source = SoftTargetSource(tmp_path / "targets", (tmp_path / "teacher",))
    with pytest.raises(UserError, match="ELMo can be neither teacher nor student"):
        prepared(recipe(data), encoder, source)


def test_it_is_refused_as_the_teacher_of_a_second_distillation(
    encoder: Path, tmp_path: Path, data: Path, tokenizer: Any
):
    save_model(tiny.model(), tokenizer, tmp_path / "student")
    source = SoftTargetSource(tmp_path / "targets", (encoder,))
    with pytest.raises(UserError, match="ELMo can be neither teacher nor student"):
        prepared(recipe(data), tmp_path / "student", source)


def test_it_reads_texts_of_any_length(encoder: Path):
    assert longest_input(load_model(encoder, "classification").config) > 1_000_000
