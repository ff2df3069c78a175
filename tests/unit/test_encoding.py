"""Windows and labels of span tasks, batches padded to their longest only, and predictions that ignore batching."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.models.runtimes import MOST_TOKENS, TOKENS_A_THREAD, token_budget
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.squad import MAX_ANSWER_TOKENS, best_answers
from tinydistilbert.tasks.token_rows import TokenRows
from tinydistilbert.training.ranks import Ranks

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


FLAG = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
"""The flag of England: a black flag, five tags and an end of tags; normalisers drop all but the first."""

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
    ("where?", "\u6771\u4eac\u30bf\u30ef\u30fc is in \u6771\u4eac", "\u6771\u4eac"),
    ("where?", "in \ud55c\uad6d and elsewhere", "\ud55c\uad6d"),
    (
        "which?",
        "peace is \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u05b8 there",
        "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u05b8",
    ),
    ("which?", "here: \u0e44\u0e17\u0e22\u0e17\u0e35\u0e48 it is", "\u0e44\u0e17\u0e22\u0e17\u0e35\u0e48"),
    ("which?", f"flag {FLAG} of England", FLAG),
    ("which?", "press 1\ufe0f\u20e3 or \u2764\ufe0f now", "1\ufe0f\u20e3 or \u2764\ufe0f"),
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
    labelled = set()
    for example, (first, last), offsets in zip(features.example, features.labels, features.offsets, strict=True):
        if (first, last) == (0, 0):
            continue
        begin, end = offsets[first, 0], offsets[last, 1]
        assert offsets[first : last + 1].min() >= 0, "only tokens of the context are labelled"
        assert examples.columns["context"][example][begin:end] == HARD[example][2]
        labelled.add(int(example))
    # A window of 16 holds 6 context tokens, one of 8 holds 2 or 3: long answers are in none of them.
    if max_length >= 40:
        assert labelled == set(range(len(HARD)))


def answers_from_gold(examples: Examples, features: Features) -> list[str | None]:
    """The best answer of each example if the model is sure of the labels; None where no window has the answer."""
    assert features.offsets is not None
    answers: list[str | None] = []
    for example in range(len(examples)):
        windows = np.flatnonzero(features.example == example)
        logits = [np.zeros((features.lengths[window], 2), dtype=np.float32) for window in windows]
        for window, window_logits in zip(windows, logits, strict=True):
            window_logits[features.labels[window], [0, 1]] = 1
        context = examples.columns["context"][example]
        best = best_answers(logits, [features.offsets[window] for window in windows], context)[0]
        answers.append(best.text if features.labels[windows].any() else None)
    return answers


PIECES = [
    "tower", "Paris", "the", "1,500", "(", ".", "teacher's", "caf\u00e9", "cafe\u0301", "Zu\u0308rich",
    "\u0130stanbul", "\u6771\u4eac", "\ud55c\uad6d", "\u05e9\u05c1\u05b8\u05dc", "\u0e17\u0e35\u0e48", "\U0001f600",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", FLAG, "1\ufe0f\u20e3",
    "\u200bwide\u200b", "a\u00adb", "x\x00y", "\x07", "\ufffd", "qzx",
]  # fmt: skip
SPACES = ["", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u2028"]
MARK = re.compile(r"[\u0301\u0308\u05b8\u05c1\u0e35\u0e48\ufe0f\u20e3\U000e0020-\U000e007f]")


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(draw=st.data())
@pytest.mark.parametrize("family", ["wordpiece", "byte-level"])
def test_any_answer_comes_back_from_its_labels(
    family: str, tokenizer: Any, byte_tokenizer: Any, draw: st.DataObject
) -> None:
    chosen = tokenizer if family == "wordpiece" else byte_tokenizer
    pieces = draw.draw(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(SPACES)), min_size=1, max_size=40))
    context = "".join(piece + space for piece, space in pieces)
    tokens = chosen(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assume(tokens)
    first = draw.draw(st.integers(0, len(tokens) - 1))
    last = draw.draw(st.integers(first, min(first + 19, len(tokens) - 1)))
    begin, end = tokens[first][0], tokens[last][1]
    answer = context[begin:end]
    assume(answer.strip())
    # Whole letters with their marks, whatever the tokenizer makes of them, and no white space at the ends.
    whole_begin, whole_end = begin + len(answer) - len(answer.lstrip()), begin + len(answer.rstrip())
    while MARK.match(context, whole_begin):
        whole_begin -= 1
    while MARK.match(context, whole_end):
        whole_end += 1
    touching = [place for place in tokens if place[0] < whole_end and place[1] > whole_begin]
    assume(len(touching) <= MAX_ANSWER_TOKENS)
    max_length, doc_stride = draw.draw(st.integers(8, 80)), draw.draw(st.integers(0, 40))
    examples = Examples(
        dataclasses.replace(TASKS["squad"], doc_stride=doc_stride), "train",
        {"id": ["a"], "question": [draw.draw(st.sampled_from(["", "who?", "tower " * 90]))], "context": [context],
         "answers": [{"text": [answer], "answer_start": [begin]}]}, 1,
    )  # fmt: skip
    features = encode(examples, chosen, max_length)
    (best_answer,) = answers_from_gold(examples, features)
    assert best_answer in (context[whole_begin:whole_end], None)
    # Windows share `stride` tokens, so that any stride + 1 tokens in a row are together in one of them.
    room = max_length - chosen.num_special_tokens_to_add(pair=True)
    stride = min(doc_stride, (room - min(64, room // 2)) // 2)
    assert best_answer is not None or len(touching) > stride + 1
    # A window without a label lacks a character of the answer that has a token.
    assert features.offsets is not None
    needed = {place for b, e in touching for place in range(b, e)}
    for label, offsets in zip(features.labels, features.offsets, strict=True):
        covered = {place for b, e in offsets[offsets[:, 0] >= 0].tolist() for place in range(b, e)}
        assert label.any() == (needed <= covered)


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("\u200bParis\u200b", "\u200bParis\u200b"),
        ("\ufeffParis is the capital\x00", "Paris is the capital\x00"),
        ("\x07 Paris \x07 is", "\x07 Paris \x07"),
        ("in Pa\x00ris", "Pa\x00ris"),
        ("in Paris  ", " Paris  "),
    ],
)
def test_characters_without_a_token_do_not_hide_an_answer(context: str, answer: str, tokenizer: Any) -> None:
    features = encode(spans(("where?", context, answer)), tokenizer, 64)
    assert features.offsets is not None and len(features) == 1
    (first, last), offsets = features.labels[0], features.offsets[0]
    shown = context[offsets[first, 0] : offsets[last, 1]]
    assert first > 0 and shown == answer.strip("\u200b\x00\x07 ")


def test_of_a_repeated_answer_the_place_decides(tokenizer: Any) -> None:
    context = "the fair and the fair and the fair"
    for start in (0, 13, 26):
        answers = [{"text": ["the fair"], "answer_start": [start]}]
        columns = {"id": ["a"], "question": ["what?"], "context": [context], "answers": answers}
        features = encode(Examples(TASKS["squad"], "train", columns, 1), tokenizer, 64)
        assert features.offsets is not None
        first, last = features.labels[0]
        assert features.offsets[0][[first, last]].tolist() == [[start, start + 3], [start + 4, start + 8]]


def test_an_answer_that_a_window_cuts_is_labelled_where_it_is_whole(tokenizer: Any) -> None:
    # [CLS] it [SEP] … [SEP] leaves 8 of 12 tokens for the context.
    task = dataclasses.replace(TASKS["squad"], doc_stride=2)
    context = " ".join(["the"] * 16)

    def labels(first: int, last: int) -> list[list[int]]:
        answers = [{"text": [context[4 * first : 4 * last + 3]], "answer_start": [4 * first]}]
        columns = {"id": ["a"], "question": ["it"], "context": [context], "answers": answers}
        positions: list[list[int]] = encode(Examples(task, "train", columns, 1), tokenizer, 12).labels.tolist()
        return positions

    # The windows hold the words 0-7, 6-13 and 12-15, behind three other tokens.
    assert labels(0, 7) == [[3, 10], [0, 0], [0, 0]]
    assert labels(6, 13) == [[0, 0], [3, 10], [0, 0]]
    assert labels(6, 7) == [[9, 10], [3, 4], [0, 0]]
    assert labels(7, 8) == [[0, 0], [4, 5], [0, 0]]
    assert labels(15, 15) == [[0, 0], [0, 0], [6, 6]]
    assert labels(5, 8) == labels(0, 15) == [[0, 0]] * 3


def test_a_context_shorter_than_the_stride_is_one_window(tokenizer: Any) -> None:
    examples = spans(("who?", "Paris", "Paris"), ("who?", "the " * 127, "the"), ("who? " * 300, "it", "it"))
    features = encode(examples, tokenizer, 384)
    assert features.example.tolist() == [0, 1, 2] and features.labels.min() > 0
    assert answers_from_gold(examples, features) == ["Paris", "the", "it"]


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
    for task, kind in (("mrpc", torch.int64), ("stsb", torch.float32)):
        features = encode(pairs(3, task), tokenizer, 128)
        assert collate(features, [0, 2], 0, token_types=False)["labels"].dtype == kind


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


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_predictions_do_not_depend_on_batching(task: str, tokenizer: Any) -> None:
    labels = 1 if task == "stsb" else 2
    model = tiny.model(head="classification", num_labels=labels).train()
    features = encode(pairs(20, task), tokenizer, 128)
    cpu = torch.device("cpu")
    whole = predict(model, features, pad_token_id=0, device=cpu, token_budget=100_000)
    single = predict(model, features, pad_token_id=0, device=cpu, token_budget=1)
    assert isinstance(whole, np.ndarray) and whole.shape == (20, labels)
    np.testing.assert_allclose(whole, single, atol=1e-5)
    # and they are the model's own, in the order of the examples
    texts, second = pairs(20, task).columns["text"], pairs(20, task).columns["text_pair"]
    with torch.no_grad():
        expected = [model(**tokenizer(a, b, return_tensors="pt")).logits[0] for a, b in zip(texts, second, strict=True)]
    np.testing.assert_allclose(whole, torch.stack(expected).numpy(), atol=1e-5)


def test_batches_are_as_large_as_the_back_end_computes_quickest(tokenizer: Any) -> None:
    class Shapes:
        name, token_types, token_budget = "shapes", False, 60
        input_shapes: ClassVar[list[tuple[int, ...]]] = []

        def __call__(self, inputs: Any) -> Any:
            self.input_shapes.append(inputs["input_ids"].shape)
            return np.zeros((len(inputs["input_ids"]), 2), np.float32)

    features = encode(pairs(20, "rte"), tokenizer, 128)
    predict(Shapes(), features, pad_token_id=0)
    assert sum(rows for rows, _ in Shapes.input_shapes) == 20
    assert all(rows == 1 or rows * length <= 60 for rows, length in Shapes.input_shapes)
    assert max(rows for rows, _ in Shapes.input_shapes) > 1
    assert [token_budget(threads) for threads in (1, 2, 64)] == [TOKENS_A_THREAD, 2 * TOKENS_A_THREAD, MOST_TOKENS]


def test_span_predictions_do_not_depend_on_batching_and_have_no_padding(tokenizer: Any) -> None:
    model = tiny.model(head="span").train()
    features = encode(spans(*HARD), tokenizer, 40)
    one = predict(model, features, pad_token_id=0, device=torch.device("cpu"), token_budget=1)
    many = predict(model, features, pad_token_id=0, device=torch.device("cpu"), token_budget=4000)
    assert [len(row) for row in many] == features.lengths.tolist()
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@dataclass(frozen=True)
class Sender(Ranks):
    """A process that keeps what it would send to the others."""

    sent: list[torch.Tensor] = field(default_factory=list)

    def total(self, numbers: Iterable[float]) -> list[float]:
        return [max(numbers)] * self.world

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        self.sent.extend(tensor.clone() for tensor in tensors)


@pytest.mark.parametrize("kind", ["span", "classification"])
def test_processes_that_share_predictions_compute_each_input_once(kind: str, tokenizer: Any) -> None:
    model = tiny.model(head=kind)
    features = encode(spans(*HARD) if kind == "span" else pairs(20, "rte"), tokenizer, 40)
    settings: dict[str, Any] = {"pad_token_id": 0, "device": torch.device("cpu"), "token_budget": 60}
    alone = np.concatenate([np.ravel(row) for row in predict(model, features, **settings)])
    processes = [Sender(rank, 3) for rank in range(3)]
    for process in processes:
        predict(model, features, **settings, ranks=process)
    sent = np.stack([process.sent[0].numpy() for process in processes])
    assert ((sent != 0).sum(0) == 1).all() and (sent != 0).any(1).all()
    np.testing.assert_allclose(sent.sum(0), alone, atol=1e-6)


def test_token_types_go_only_to_models_that_have_them() -> None:
    def model(**config: int) -> Any:
        return SimpleNamespace(config=SimpleNamespace(**config))

    assert uses_token_types(model(type_vocab_size=2))
    assert not uses_token_types(model(type_vocab_size=1))
    assert not uses_token_types(model())


def test_rows_of_different_lengths_lie_in_one_array() -> None:
    rows = TokenRows(np.array([1, 2, 3, 4, 5]), np.array([2, 0, 1, 2]))
    assert [row.tolist() for row in rows] == [[1, 2], [], [3], [4, 5]] and rows[-1].tolist() == [4, 5]
    assert [row.tolist() for row in rows[1:3]] == [[], [3]] and rows[:2].lengths.tolist() == [2, 0]
    assert [row.tolist() for row in rows.with_flat(np.arange(5))] == [[0, 1], [], [2], [3, 4]]
    with pytest.raises(IndexError):
        rows[4]


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_and_pairs_are_cut_as_transformers_does(tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    tokenizer_copy = copy.deepcopy(tokenizer)
    tokenizer_copy.truncation_side = side
    tokenizer_copy("another call", truncation=False, padding="max_length", max_length=40)
    texts = ["short", TEXT, "", "\u4e00 [MASK] <unk>", TEXT * 2]
    for name, pairs in (("sst2", None), ("rte", [TEXT, "short", TEXT, "", "a pair"])):
        columns = {"text": texts, "label": [0] * 5} | ({"text_pair": pairs} if pairs else {})
        features = encode(Examples(TASKS[name], "train", columns, 5), tokenizer_copy, 12)
        whole = tokenizer_copy(texts, pairs, truncation=True, max_length=12)
        assert [ids.tolist() for ids in features.input_ids] == whole["input_ids"]
        assert [types.tolist() for types in features.token_type_ids] == whole["token_type_ids"]
        assert features.cut == sum(bool(each.overflowing) for each in whole.encodings) > 0
