"""From examples to token ids: whole inputs for classification and regression, windows over the context for spans."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tinydistilbert.tasks.base import Examples

MAX_QUESTION_TOKENS = 64
"""Questions are cut to this many tokens, as in BERT's run_squad.py, or to half of a shorter window."""

CHUNK = 1000
"""Examples that are tokenised in one call; bounds the memory that Python lists of offsets need."""

COMBINING_MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f]+")


@dataclass(frozen=True)
class Features:
    """Inputs of a model, one for each example, or one for each window of an example's context in span tasks."""

    input_ids: list[NDArray[np.int32]]
    token_type_ids: list[NDArray[np.int32]]
    labels: NDArray[Any]
    """(n,) int64 classes, (n,) float32 scores, or (n, 2) int64 first and last token of the answer: (0, 0), the [CLS]
    token, where the answer is not wholly inside the window."""
    example: NDArray[np.int64]
    """(n,) index of the example that each feature belongs to."""
    offsets: list[NDArray[np.int32]] | None = None
    """Span tasks: (length, 2) first character and end in the context of each token, (-1, -1) outside the context."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each feature."""
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)


def encode(examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Features:
    """Tokenise `examples` into inputs of at most `max_length` tokens; nothing is padded.

    Text pairs that are too long lose tokens from the longer text. Contexts that are too long are cut into windows that
    share `doc_stride` tokens.
    """
    if examples.task.kind == "span":
        return _encode_spans(examples, tokenizer, max_length)
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    pairs = examples.columns.get("text_pair")
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        encoded = tokenizer(
            examples.columns["text"][part], pairs[part] if pairs else None,
            truncation=True, max_length=max_length, return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip
        ids += [np.array(row, dtype=np.int32) for row in encoded["input_ids"]]
        types += [np.array(row, dtype=np.int32) for row in encoded["token_type_ids"]]
    dtype = np.float32 if examples.task.kind == "regression" else np.int64
    return Features(ids, types, np.array(examples.columns["label"], dtype=dtype), np.arange(len(ids)))


def _encode_spans(examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Features:
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    question_limit = min(MAX_QUESTION_TOKENS, room // 2)
    stride = min(examples.task.doc_stride, (room - question_limit) // 2)
    ids, types, labels, owner, offsets = [], [], [], [], []
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        contexts, answers = examples.columns["context"][part], examples.columns["answers"][part]
        encoded = tokenizer(
            _cut_questions(examples.columns["question"][part], tokenizer, question_limit), contexts,
            truncation="only_second", max_length=max_length, stride=stride, return_overflowing_tokens=True,
            return_offsets_mapping=True, return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip
        for window, source in enumerate(encoded["overflow_to_sample_mapping"]):
            in_context = np.array([sequence == 1 for sequence in encoded.sequence_ids(window)])
            places = np.array(encoded["offset_mapping"][window], dtype=np.int32)
            places = np.where(in_context[:, None], _with_combining_marks(places, contexts[source]), np.int32(-1))
            ids.append(np.array(encoded["input_ids"][window], dtype=np.int32))
            types.append(np.array(encoded["token_type_ids"][window], dtype=np.int32))
            offsets.append(places)
            owner.append(begin + source)
            labels.append(_span_label(places, contexts[source], answers[source]))
    return Features(ids, types, np.array(labels, dtype=np.int64), np.array(owner, dtype=np.int64), offsets)


def _cut_questions(questions: Sequence[str], tokenizer: PreTrainedTokenizerFast, limit: int) -> list[str]:
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        question if len(offsets) <= limit else _cut_question(question, offsets, tokenizer, limit)
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def _cut_question(question: str, offsets: list[tuple[int, int]], tokenizer: PreTrainedTokenizerFast, limit: int) -> str:
    # A cut inside a word can make more tokens of its beginning than there were, so the result is measured again.
    for keep in range(limit, 0, -1):
        shortened = question[: offsets[keep - 1][1]]
        if len(tokenizer(shortened, add_special_tokens=False)["input_ids"]) <= limit:
            return shortened
    return ""


def _with_combining_marks(offsets: NDArray[np.int32], context: str) -> NDArray[np.int32]:
    # Normalisers that strip accents drop a combining mark from the token, but it belongs to the answer's text.
    if not context.isascii():
        for mark in COMBINING_MARKS.finditer(context):
            offsets[offsets[:, 1] == mark.start(), 1] = mark.end()
    return offsets


def _span_label(offsets: NDArray[np.int32], context: str, answers: dict[str, list[Any]]) -> tuple[int, int]:
    """First and last token that touch the first gold answer; (0, 0) when it is not wholly inside the window."""
    text, begin = answers["text"][0], answers["answer_start"][0]
    begin, end = begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if inside.size == 0 or begin < offsets[inside[0], 0] or end > offsets[inside[-1], 1]:
        return 0, 0
    touching = inside[(offsets[inside, 0] < end) & (offsets[inside, 1] > begin)]
    return (int(touching[0]), int(touching[-1])) if touching.size else (0, 0)


def uses_token_types(model: nn.Module) -> bool:
    """Whether the model tells first and second text apart by token types: BERT does, DistilBERT and RoBERTa do not."""
    config: Any = model.config
    return int(getattr(config, "type_vocab_size", 0)) > 1


def collate(
    features: Features,
    indices: Sequence[int] | NDArray[np.int64],
    pad_token_id: int,
    *,
    token_types: bool,
    pad_to: int | None = None,
) -> dict[str, Tensor]:
    """The features at `indices` as a batch, padded to its longest, or to `pad_to` tokens.

    Returns:
        int64 `input_ids`, `attention_mask` (1 = token, 0 = padding) and, with `token_types`, `token_type_ids`, all
        (batch, length); with `labels` (batch,), or `start_positions` and `end_positions` (batch,) in span tasks.
    """
    length = pad_to or int(features.lengths[indices].max())
    batch = {
        "input_ids": _pad([features.input_ids[i] for i in indices], length, pad_token_id),
        "attention_mask": _pad([np.ones(features.lengths[i], np.int32) for i in indices], length, 0),
    }
    if token_types:
        batch["token_type_ids"] = _pad([features.token_type_ids[i] for i in indices], length, 0)
    labels = torch.from_numpy(features.labels[np.asarray(indices)])
    if features.offsets is None:
        return {**batch, "labels": labels}
    return {**batch, "start_positions": labels[:, 0], "end_positions": labels[:, 1]}


def _pad(rows: Sequence[NDArray[np.int32]], length: int, value: int) -> Tensor:
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)
