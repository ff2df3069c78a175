"""From examples to token ids: whole inputs for classification and regression, context windows for spans."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.tasks.base import Examples, Task, is_answerable
from tinydistilbert.tasks.token_rows import FlatFile, RowsFile, TokenRows
from tinydistilbert.tasks.whole_inputs import Encoded, FastTokenizer, encoder_of
from tinydistilbert.tasks.words import WORDS, is_first_piece, word_tokens

if TYPE_CHECKING:  # a served model runs without it
    from torch import Tensor

MAX_QUESTION_TOKENS = 64
"""Questions are cut to this many tokens, as in BERT's run_squad.py, or to half of a shorter window."""

NO_LABEL = -100
"""Class of an example without a label: torch's cross-entropy ignores it."""

CHUNK = 1000
"""Examples per tokenizer call; this limits the memory of Python lists of offsets."""


@dataclass(frozen=True)
class Features:
    """Inputs of a model: one per example, or in span tasks one per window of an example's context."""

    input_ids: Sequence[NDArray[Any]]
    """(length,) int32 tokens; for ELMo (length, 50) int16, the characters of each word."""
    token_type_ids: Sequence[NDArray[Any]]
    labels: NDArray[Any]
    """(n,) int32 classes (`NO_LABEL` for none), (n,) float32 scores (NaN for none), (n, labels) float32 of 0 and 1 (NaN
    for none), (n, 2) int64 first and last token of the answer ((0, 0), the [CLS] token, if the window does not hold the
    whole answer, or there is none), or (n, longest) int16 tag of each word at its first token, `NO_LABEL` elsewhere."""
    example: NDArray[np.integer[Any]]
    """(n,) index of the example of each feature."""
    offsets: list[NDArray[np.int32]] | TokenRows | None = None
    """Span tasks: (length, 2) start and end character of each token in the context, (-1, -1) outside it."""
    cut: int = 0
    """Number of examples cut because they are too long; in span tasks, only questions are cut."""
    word_tokens: list[NDArray[np.int32]] | TokenRows | None = None
    """Token classification: (words,) the first token of each word, -1 if none was read; see `words.word_tokens`."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def has_token_logits(self) -> bool:
        """Whether a model has logits for each token of an input, not only for the whole input."""
        return self.offsets is not None or self.word_tokens is not None

    @cached_property
    def lengths(self) -> NDArray[np.integer[Any]]:
        """(n,) number of tokens of each feature."""
        if isinstance(self.input_ids, TokenRows):
            return self.input_ids.lengths
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)


def encode(examples: Examples, tokenizer: FastTokenizer, max_length: int) -> Features:
    """Tokenise `examples` into inputs of at most `max_length` tokens; nothing is padded.

    Pairs that are too long lose tokens from the longer text. Contexts that are too long are cut into windows that share
    `doc_stride` tokens.
    """
    if examples.task.kind == "span":
        return _encode_spans(examples, tokenizer, max_length)
    if examples.task.kind == "token-classification":
        return _encode_words(examples, tokenizer, max_length)
    pairs, cut, inputs_of = examples.columns.get("text_pair"), 0, encoder_of(tokenizer, max_length)
    ids, types, lengths = FlatFile(), FlatFile(), np.empty(len(examples), dtype=np.int32)
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        encoded = inputs_of(examples.columns["text"][part], pairs[part] if pairs else None)
        ids.append(encoded.ids)
        types.append(encoded.types)
        lengths[part] = encoded.lengths
        cut += int(np.count_nonzero(encoded.lost))
    every = np.arange(len(examples), dtype=np.int32)
    input_ids = TokenRows(ids.whole(), lengths)
    return Features(input_ids, input_ids.with_flat(types.whole()), _labels(examples), every, cut=cut)


def cut_texts(task: Task, count: str, max_length: int, reach: int) -> str:
    """Return the sentence that texts of a task are cut, with the recipe key that lets the model read more of them.

    Args:
        task: the task of the texts.
        count: how many, as text: `30 of 60`.
        max_length: tokens that the model reads.
        reach: number of its position embeddings.
    """
    if task.kind == "span":
        return f"{count} questions are cut to {MAX_QUESTION_TOKENS} tokens or half a window"
    section = "custom" if task.labels_from_data else "override"
    key = f"finetune.{section}.{task.name}.max_length" + " (--max-length)" * task.labels_from_data
    more = f"; to read more, raise {key} (up to {reach})" if max_length < reach else ""
    return f"{count} texts are longer than {max_length} tokens and are cut{more}"


def token_lengths(examples: Examples, tokenizer: FastTokenizer) -> NDArray[np.int64]:
    """Return (n,) tokens of each text or pair without truncation; not for span tasks, whose contexts are not cut."""
    texts, pairs = examples.columns["text"], examples.columns.get("text_pair")
    lengths: list[int] = []
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        encoded = tokenizer(texts[part], pairs[part] if pairs else None, return_attention_mask=False, verbose=False)
        lengths += [len(row) for row in encoded["input_ids"]]
    return np.array(lengths, dtype=np.int64)


def _input_ids(encoded: Encoded) -> list[NDArray[Any]]:
    """Return the rows as arrays; ELMo's tokenizer already returns arrays, in a small type for fifty numbers a word."""
    rows = encoded["input_ids"]
    return [row if isinstance(row, np.ndarray) else np.array(row, dtype=np.int32) for row in rows]


def _labels(examples: Examples) -> NDArray[Any]:
    labels, count = examples.columns["label"], len(examples)
    if examples.task.kind == "multi-label":
        none = (np.nan,) * len(examples.task.labels)
        return np.array([none if label is None else label for label in labels], dtype=np.float32)
    if examples.task.kind == "regression":
        return np.fromiter((np.nan if label is None else label for label in labels), np.float32, count)
    return np.fromiter((NO_LABEL if label is None else label for label in labels), np.int32, count)


def _encode_words(examples: Examples, tokenizer: FastTokenizer, max_length: int) -> Features:
    ids, types, tokens, cut = RowsFile(), RowsFile(), RowsFile(), 0
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        encoded = tokenizer(
            examples.columns["text"][part], truncation=True, max_length=max_length, return_offsets_mapping=True,
            return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip
        ids.append(_input_ids(encoded))
        types.append([np.array(row, dtype=np.int32) for row in encoded["token_type_ids"]])
        words_and_offsets = zip(examples.columns[WORDS][part], encoded["offset_mapping"], strict=True)
        tokens.append([word_tokens(words, offsets) for words, offsets in words_and_offsets])
        cut += sum(len(e) >= max_length and bool(e.overflowing) for e in encoded.encodings)
    input_ids, of_words = ids.whole(), tokens.whole()
    labels = _word_labels(examples.columns["label"], of_words, int(input_ids.lengths.max(initial=0)))
    every = np.arange(len(input_ids), dtype=np.int32)
    return Features(input_ids, types.whole(), labels, every, word_tokens=of_words, cut=cut)


def _word_labels(
    tags: Sequence[Sequence[int] | None], word_tokens: Sequence[NDArray[np.int32]], longest: int
) -> NDArray[np.int16]:
    """Return (n, longest): the tag of each word at its first token, `NO_LABEL` elsewhere."""
    label_file = FlatFile()
    for begin in range(0, len(tags), CHUNK):
        part = slice(begin, begin + CHUNK)
        of_texts = tags[part]
        labels = np.full((len(of_texts), longest), NO_LABEL, dtype=np.int16)
        for row, of_words, of_text in zip(labels, word_tokens[part], of_texts, strict=True):
            if of_text is not None:
                is_first = is_first_piece(of_words)
                row[of_words[is_first]] = np.array(of_text, dtype=np.int16)[is_first]
        label_file.append(labels)
    return label_file.whole() if len(tags) else np.zeros((0, longest), dtype=np.int16)


def question_limit(tokenizer: FastTokenizer, max_length: int) -> int:
    """Return how many tokens of a question are read, before the context, in windows of at most `max_length`."""
    room = max_length - int(tokenizer.num_special_tokens_to_add(pair=True))
    return min(MAX_QUESTION_TOKENS, room // 2)


def _encode_spans(examples: Examples, tokenizer: FastTokenizer, max_length: int) -> Features:
    room, limit = max_length - tokenizer.num_special_tokens_to_add(pair=True), question_limit(tokenizer, max_length)
    stride = min(examples.task.doc_stride, (room - limit) // 2)
    ids, types, offsets, cut = RowsFile(), RowsFile(), RowsFile(), 0
    labels, owners = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    for begin in range(0, len(examples), CHUNK):
        part = slice(begin, begin + CHUNK)
        contexts, answers = examples.columns["context"][part], examples.columns["answers"][part]
        given = examples.columns["question"][part]
        questions = _cut_questions(given, tokenizer, limit)
        cut += sum(question != whole for question, whole in zip(questions, given, strict=True))
        encoded = tokenizer(
            questions, contexts, truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
            return_attention_mask=False,
        )  # fmt: skip
        sources = encoded["overflow_to_sample_mapping"]
        window_offsets = [_token_offsets(encoded, window, contexts[source]) for window, source in enumerate(sources)]
        ids.append(_input_ids(encoded))
        types.append([np.array(row, dtype=np.int32) for row in encoded["token_type_ids"]])
        labels.append(np.array(_span_labels(window_offsets, sources, answers), dtype=np.int64))
        owners.append(np.array(sources, dtype=np.int32) + np.int32(begin))
        offsets.append(window_offsets)
    of_windows = np.concatenate(labels), np.concatenate(owners)
    return Features(ids.whole(), types.whole(), *of_windows, offsets.whole(), cut)


def _cut_questions(questions: Sequence[str], tokenizer: FastTokenizer, limit: int) -> list[str]:
    encoded = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        question if len(offsets) <= limit else _cut_question(question, offsets, tokenizer, limit)
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def _cut_question(question: str, offsets: list[tuple[int, int]], tokenizer: FastTokenizer, limit: int) -> str:
    # Cutting inside a word can turn its beginning into more tokens than before, so the result is measured again.
    for keep in range(limit, 0, -1):
        shortened = question[: offsets[keep - 1][1]]
        if len(tokenizer(shortened, add_special_tokens=False)["input_ids"]) <= limit:
            return shortened
    return ""


def _token_offsets(encoded: Encoded, window: int, context: str) -> NDArray[np.int32]:
    """Return (length, 2) start and end character of each token of a window in the context, (-1, -1) outside it.

    A token includes the combining marks that follow it: normalisers that strip accents drop them, but they belong to
    the text of an answer.
    """
    plain = context.isascii()
    offsets = [
        (-1, -1) if sequence != 1 else (begin, end if plain else _end_of_marks(context, end))
        for sequence, (begin, end) in zip(encoded.sequence_ids(window), encoded["offset_mapping"][window], strict=True)
    ]
    return np.array(offsets, dtype=np.int32)


def _end_of_marks(context: str, position: int) -> int:
    """Return the first character from `position` that is not a combining mark: accent, vowel sign, tag of a flag."""
    while position < len(context) and (
        unicodedata.category(context[position]).startswith("M") or "\U000e0020" <= context[position] <= "\U000e007f"
    ):
        position += 1
    return position


def _span_labels(
    offsets: Sequence[NDArray[np.int32]], sources: Sequence[int], answers: Sequence[dict[str, list[Any]]]
) -> list[tuple[int, int]]:
    """Return first and last token that touch the first gold answer; (0, 0) in windows that do not hold all of them.

    Without an answer it is (0, 0) in all windows. Characters that a normaliser dropped at the ends of an answer are in
    no token, so they are not required.
    """
    touching = [_touching(window, answers[source]) for window, source in zip(offsets, sources, strict=True)]
    begin: dict[int, int] = {}
    end: dict[int, int] = {}
    for window, source, tokens in zip(offsets, sources, touching, strict=True):
        if tokens.size:
            first, last = int(window[tokens[0], 0]), int(window[tokens[-1], 1])
            begin[source], end[source] = min(first, begin.get(source, first)), max(last, end.get(source, last))
    return [
        (int(tokens[0]), int(tokens[-1]))
        if tokens.size and (window[tokens[0], 0], window[tokens[-1], 1]) == (begin[source], end[source])
        else (0, 0)
        for window, source, tokens in zip(offsets, sources, touching, strict=True)
    ]


def _touching(offsets: NDArray[np.int32], answer: dict[str, list[Any]]) -> NDArray[np.int64]:
    if not is_answerable(answer):
        return np.zeros(0, dtype=np.int64)
    text, begin = answer["text"][0], answer["answer_start"][0]
    begin, end = begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())
    return np.flatnonzero((offsets[:, 0] >= 0) & (offsets[:, 0] < end) & (offsets[:, 1] > begin))


def padded_inputs(
    features: Features,
    indices: Sequence[int] | NDArray[np.int64],
    pad_token_id: int,
    *,
    token_types: bool,
    pad_to: int | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Return the inputs of the features at `indices` as a batch, padded to the longest, or to `pad_to` tokens.

    Returns:
        int64 `input_ids`, `attention_mask` (1 = token, 0 = padding) and, with `token_types`, `token_type_ids`, all
        (batch, length); ELMo's `input_ids` are (batch, length, 50).
    """
    lengths = features.lengths[indices]
    is_token = np.arange(pad_to or int(lengths.max())) < lengths[:, None]
    batch = {
        "input_ids": _pad(features.input_ids, indices, is_token, pad_token_id),
        "attention_mask": is_token.astype(np.int64),
    }
    if token_types:
        batch["token_type_ids"] = _pad(features.token_type_ids, indices, is_token, 0)
    return batch


def collate(
    features: Features,
    indices: Sequence[int] | NDArray[np.int64],
    pad_token_id: int,
    *,
    token_types: bool,
    pad_to: int | None = None,
) -> "dict[str, Tensor]":
    """Return the batch of `padded_inputs` as tensors, with `labels` (batch,), or in span tasks the answer's positions.

    The positions are `start_positions` and `end_positions`, both (batch,). In token classification, `labels` is (batch,
    length).
    """
    import torch

    inputs = padded_inputs(features, indices, pad_token_id, token_types=token_types, pad_to=pad_to)
    batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
    labels = torch.from_numpy(features.labels[np.asarray(indices)])
    if features.word_tokens is not None:
        length, longest = batch["input_ids"].shape[1], labels.shape[1]
        padded = torch.nn.functional.pad(labels, (0, max(0, length - longest)), value=NO_LABEL)
        return {**batch, "labels": padded[:, :length].long()}
    if features.offsets is None:
        return {**batch, "labels": labels if labels.is_floating_point() else labels.long()}
    return {**batch, "start_positions": labels[:, 0], "end_positions": labels[:, 1]}


def _pad(
    rows: Sequence[NDArray[Any]], indices: Sequence[int] | NDArray[np.int64], is_token: NDArray[np.bool_], value: int
) -> NDArray[np.int64]:
    together = rows.together(indices) if isinstance(rows, TokenRows) else np.concatenate([rows[i] for i in indices])
    padded = np.full((*is_token.shape, *together.shape[1:]), value, dtype=np.int64)
    padded[is_token] = together
    return padded
