"""Windows and labels of span tasks, batches padded to their longest only, and predictions that ignore batching."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, PreTrainedTokenizerFast

from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import collate, encode, uses_token_types
from tinydistilbert.tasks.inference import predict

TEXT = "The tower was built by the engineer Gustave Eiffel for the world fair and many people came to see it ."
WORDS = TEXT.split()


def spans(*rows: tuple[str, str, str], task: str = "squad") -> Examples:
    """Examples from (question, context, answer); the answer's last occurrence counts."""
    return Examples(
        TASKS[task], "train",
        {
            "id": [str(i) for i in range(len(rows))],
            "question": [question for question, _, _ in rows],
            "context": [context for _, context, _ in rows],
            "answers": [{"text": [answer], "answer_start": [context.rindex(answer)]} for _, context, answer in rows],
        },
        len(rows),
    )  # fmt: skip


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like RoBERTa's: characters outside ASCII become several tokens with one place."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([" ".join(WORDS)], trainer)
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", cls_token="<s>", sep_token="</s>")


HARD = [
    ("who built it?", "The tower was built by Gustave Eiffel.", "Gustave Eiffel"),
    ("what?", "Paris is the capital of France", "Paris"),
    ("what?", "Paris is the capital of France", "France"),
    ("where?", "they met in a cafe\u0301 near Zu\u0308rich .", "cafe\u0301"),
    ("where?", "they met in Ko\u0308ln", "Ko\u0308ln"),
    ("which?", "she likes 😀 and 👩\u200d👩\u200d👧 a lot", "👩\u200d👩\u200d👧"),
    ("which?", "she likes 😀", "😀"),
    ("which?", "caf\u00e9 😀 na\u00efve", "na\u00efve"),
    ("how many?", "about 1,500 people", "1,500"),
    ("when?", "it was built (1889) in Paris", "1889"),
    ("whose?", "  it is the teacher's  ", "the teacher"),
    ("who? " * 200, " ".join(WORDS * 20) + " the end", "the end"),
    ("x" * 3000, "Paris is the capital", "capital"),
]


@pytest.mark.parametrize("family", ["wordpiece", "byte-level"])
@pytest.mark.parametrize("max_length", [8, 16, 40, 384])
def test_every_answer_can_be_cut_out_of_some_window(
    family: str, max_length: int, tokenizer: Any, byte_tokenizer: Any
) -> None:
    examples = spans(*HARD)
    features = encode(examples, tokenizer if family == "wordpiece" else byte_tokenizer, max_length)
    assert features.offsets is not None
    assert features.lengths.max() <= max_length
    found = set()
    for example, (first, last), offsets in zip(features.example, features.labels, features.offsets, strict=True):
        if (first, last) == (0, 0):
            continue
        begin, end = offsets[first, 0], offsets[last, 1]
        assert offsets[first : last + 1].min() >= 0, "only tokens of the context are labelled"
        assert examples.columns["context"][example][begin:end] == HARD[example][2]
        found.add(int(example))
    # A window of 16 holds 6 context tokens, one of 8 holds 2 or 3: long answers are in none of them.
    if max_length >= 40:
        assert found == set(range(len(HARD)))


def test_windows_cover_the_context_and_share_the_stride(tokenizer: Any) -> None:
    context = " ".join(WORDS * 30)
    features = encode(spans(("who built it?", context, "it .")), tokenizer, 384)
    assert features.offsets is not None and len(features) > 1
    inside = [offsets[offsets[:, 0] >= 0] for offsets in features.offsets]
    for one, two in pairwise(inside):
        assert (one[-128:] == two[:128]).all()
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert {tuple(place) for window in inside for place in window.tolist()} == set(whole)
    # the answer stands in the last window only, the others point at [CLS]
    assert features.labels[:-1].tolist() == [[0, 0]] * (len(features) - 1) and features.labels[-1].min() > 0


def test_a_long_question_is_cut_and_a_short_one_is_not(tokenizer: Any) -> None:
    separator = tokenizer.sep_token_id
    features = encode(spans(("tower " * 500, "Paris", "Paris"), ("tower tower", "Paris", "Paris")), tokenizer, 384)
    question_tokens = [list(ids).index(separator) - 1 for ids in features.input_ids]
    assert question_tokens == [64, 2 * len(tokenizer("tower", add_special_tokens=False)["input_ids"])]


def test_an_empty_context_gives_a_window_without_places(tokenizer: Any) -> None:
    features = encode(spans(("who?", "", "")), tokenizer, 40)
    assert features.offsets is not None and len(features) == 1
    assert features.offsets[0].max() == -1 and features.labels.tolist() == [[0, 0]]


def pairs(count: int, task: str = "rte", seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(random.choice(WORDS, random.integers(1, 30)))

    labels = [float(i % 6) for i in range(count)] if task == "stsb" else [i % 2 for i in range(count)]
    columns = {
        "idx": list(range(count)), "text": [text() for _ in range(count)], "text_pair": [text() for _ in range(count)],
        "label": labels,
    }  # fmt: skip
    return Examples(TASKS[task], "validation", columns, count)


def test_labels_have_the_type_that_the_loss_needs(tokenizer: Any) -> None:
    assert encode(pairs(3), tokenizer, 128).labels.dtype == np.int64
    assert encode(pairs(3, "stsb"), tokenizer, 128).labels.dtype == np.float32


def test_pairs_longer_than_the_limit_keep_both_texts(tokenizer: Any) -> None:
    columns = {"idx": [0], "text": ["tower " * 400], "text_pair": ["the fair"], "label": [1]}
    features = encode(Examples(TASKS["rte"], "train", columns, 1), tokenizer, 32)
    assert len(features.input_ids[0]) == 32
    second = features.input_ids[0][features.token_type_ids[0] == 1]
    assert tokenizer.decode(second, skip_special_tokens=True) == "the fair"


def test_a_batch_is_padded_to_its_longest_and_marks_padding(tokenizer: Any) -> None:
    features = encode(pairs(6), tokenizer, 128)
    batch = collate(features, [4, 1], tokenizer.pad_token_id, token_types=True)
    assert batch["input_ids"].shape == (2, max(features.lengths[4], features.lengths[1]))
    assert batch["attention_mask"].sum(1).tolist() == [features.lengths[4], features.lengths[1]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert batch["labels"].tolist() == [0, 1]
    assert collate(features, [1], 0, token_types=False, pad_to=128)["input_ids"].shape == (1, 128)
    assert "token_type_ids" not in collate(features, [1], 0, token_types=False)
    span = collate(encode(spans(*HARD[:2]), tokenizer, 64), [1], 0, token_types=False)
    assert set(span) == {"input_ids", "attention_mask", "start_positions", "end_positions"}


def tiny(tokenizer: Any, **more: Any) -> BertConfig:
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        **more,
    )


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_predictions_do_not_depend_on_batching(task: str, tokenizer: Any) -> None:
    labels = 1 if task == "stsb" else 2
    model = BertForSequenceClassification(tiny(tokenizer, num_labels=labels)).train()
    features = encode(pairs(20, task), tokenizer, 128)
    cpu = torch.device("cpu")
    whole = predict(model, features, pad_token_id=0, device=cpu, token_budget=100_000)
    single = predict(model, features, pad_token_id=0, device=cpu, token_budget=1)
    assert isinstance(whole, np.ndarray) and whole.shape == (20, labels)
    np.testing.assert_allclose(whole, single, atol=1e-5)
    # and they are the model's own, in the order of the examples
    texts, second = pairs(20, task).columns["text"], pairs(20, task).columns["text_pair"]
    with torch.no_grad():
        own = [model(**tokenizer(a, b, return_tensors="pt")).logits[0] for a, b in zip(texts, second, strict=True)]
    np.testing.assert_allclose(whole, torch.stack(own).numpy(), atol=1e-5)


def test_span_predictions_do_not_depend_on_batching_and_have_no_padding(tokenizer: Any) -> None:
    model = BertForQuestionAnswering(tiny(tokenizer))
    features = encode(spans(*HARD), tokenizer, 40)
    one = predict(model, features, pad_token_id=0, device=torch.device("cpu"), token_budget=1)
    many = predict(model, features, pad_token_id=0, device=torch.device("cpu"), token_budget=4000)
    assert [len(row) for row in many] == features.lengths.tolist()
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_token_types_go_only_to_models_that_have_them() -> None:
    def model(**config: int) -> Any:
        return SimpleNamespace(config=SimpleNamespace(**config))

    assert uses_token_types(model(type_vocab_size=2))
    assert not uses_token_types(model(type_vocab_size=1))
    assert not uses_token_types(model())
