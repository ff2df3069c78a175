"""How others distil, reimplemented from their published recipes, to be compared with the library: see README.md here.

The notebook's way (TinyDistilBERT) and the authors' way (the DistilBERT scripts) are kept as they are, slow or not.
Every doubt is settled in their favour: batches are made before the clock starts, the optimiser's step is left out (they
take one in 256 and in 50 micro-batches), and every position that is not padding counts as a token of text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.training.precision import Precision, autocast

NOTEBOOK_LINES, NOTEBOOK_LENGTH, NOTEBOOK_ACCUMULATION = 16, 128, 256
"""Lines in a micro-batch, what each is padded or cut to, and micro-batches in one optimiser step."""
AUTHORS_ACCUMULATION = 50
AUTHORS_WEIGHTS = {"kl": 5.0, "mlm": 2.0, "cosine": 1.0}
AUTHORS_SHORTEST = 12
"""Tokens; shorter sequences are dropped by their loader."""
BIN_START, BIN_WIDTH = 3, 4
"""Their sampler puts sequences whose lengths lie in the same four tokens into one batch."""
TEMPERATURE = 2.0
CPU = torch.device("cpu")
IGNORED = -100

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Vocabulary:
    """What making batches needs to know of a tokenizer."""

    size: int
    cls: int
    sep: int
    pad: int
    mask: int
    special: tuple[int, ...]


def notebook_rows(lines: Iterable[Sequence[int]], vocabulary: Vocabulary) -> Int64[np.ndarray, "lines length"]:
    """Each line, blank ones too, as a row of its own: cut and padded to 128 tokens."""
    texts = [list(line)[: NOTEBOOK_LENGTH - 2] for line in lines]
    rows = np.full((len(texts), NOTEBOOK_LENGTH), vocabulary.pad, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text) + 2] = [vocabulary.cls, *text, vocabulary.sep]
    return rows


def authors_sequences(paragraphs: Iterable[Sequence[int]], length: int, vocabulary: Vocabulary) -> list[list[int]]:
    """Each paragraph as a sequence of its own, in pieces of at most `length` tokens; very short ones are dropped."""
    inside = length - 2
    pieces = (text[start : start + inside] for text in paragraphs for start in range(0, len(text), inside))
    sequences = ([vocabulary.cls, *piece, vocabulary.sep] for piece in pieces)
    return [sequence for sequence in sequences if len(sequence) >= AUTHORS_SHORTEST]


def grouped_by_length(lengths: Sequence[int], positions: int, random: np.random.Generator) -> list[list[int]]:
    """Batches of sequences from one length bin each, as many as fill `positions`; in random order, no incomplete ones.

    The authors take 5 sequences a batch, whatever their length; here they get batches as large as ours.

    Raises:
        ValueError: there is not one full batch.
    """
    bins: dict[int, list[int]] = {}
    for index in random.permutation(len(lengths)):
        bins.setdefault((lengths[index] - BIN_START) // BIN_WIDTH, []).append(int(index))
    batches = []
    for members in bins.values():
        rows = max(positions // max(lengths[index] for index in members), 1)
        batches += [members[start : start + rows] for start in range(0, len(members) - rows + 1, rows)]
    if not batches:
        raise ValueError(f"no batch of {positions} positions in {len(lengths)} sequences: give more text")
    return [batches[index] for index in random.permutation(len(batches))]


def padded(sequences: Sequence[Sequence[int]], pad: int) -> Int64[np.ndarray, "batch length"]:
    """Sequences as rows, padded to the longest of them."""
    rows = np.full((len(sequences), max(map(len, sequences))), pad, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows


def masked_batch(rows: Int64[np.ndarray, "batch length"], vocabulary: Vocabulary, random: np.random.Generator) -> Batch:
    """Rows with 15 % of their tokens chosen: 80 % of these become [MASK], 10 % any token, 10 % stay as they are."""
    chosen = (random.random(rows.shape) < 0.15) & ~np.isin(rows, vocabulary.special)
    fate = random.random(rows.shape)
    ids = np.where(chosen & (fate < 0.8), vocabulary.mask, rows)
    ids = np.where(chosen & (fate >= 0.9), random.integers(vocabulary.size, size=rows.shape), ids)
    return {
        "input_ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(np.where(chosen, rows, IGNORED)),
        "attention_mask": torch.from_numpy((rows != vocabulary.pad).astype(np.int64)),
    }


def notebook_batches(
    rows: Int64[np.ndarray, "lines length"], vocabulary: Vocabulary, seed: int
) -> Iterator[tuple[Batch, float]]:
    """Endless micro-batches of random lines, each with its tokens of text.

    All of them cost the same, whatever is in them, so the tokens are the mean of the whole text, not those of 16 lines.
    """
    random = np.random.default_rng(seed)
    lines = min(NOTEBOOK_LINES, len(rows))
    tokens = float((rows != vocabulary.pad).sum(1).mean()) * lines
    while True:
        yield masked_batch(rows[random.choice(len(rows), lines, replace=False)], vocabulary, random), tokens


def authors_batches(
    sequences: Sequence[Sequence[int]], positions: int, vocabulary: Vocabulary, seed: int
) -> Iterator[tuple[Batch, float]]:
    """Endless micro-batches of sequences of like length, each with its tokens of text."""
    random = np.random.default_rng(seed)
    lengths = [len(sequence) for sequence in sequences]
    while True:
        for members in grouped_by_length(lengths, positions, random):
            rows = padded([sequences[index] for index in members], vocabulary.pad)
            yield masked_batch(rows, vocabulary, random), float(sum(lengths[index] for index in members))


def notebook_loss(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """TinyDistilBERT's sum, weights 1 : 1 : 1: masked LM, KL of every position over the batch size, cosine of [CLS]."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        teacher_output = teacher(**inputs, output_hidden_states=True)
    made = student(**inputs, output_hidden_states=True)
    mlm = F.cross_entropy(made.logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
    learned = F.log_softmax(made.logits / TEMPERATURE, dim=-1)
    kl = (
        F.kl_div(learned, F.softmax(teacher_output.logits / TEMPERATURE, dim=-1), reduction="batchmean")
        * TEMPERATURE**2
    )
    student_hidden, teacher_hidden = made.hidden_states[-1][:, 0], teacher_output.hidden_states[-1][:, 0]
    return mlm + kl + nn.CosineEmbeddingLoss()(student_hidden, teacher_hidden, torch.ones(len(student_hidden)))


def notebook_micro_step(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, *, precision: Precision = "fp32"
) -> None:
    """Forward and backward of one micro-batch; gradients add up."""
    with autocast(CPU, precision):
        loss = notebook_loss(student, teacher, batch)
    (loss / NOTEBOOK_ACCUMULATION).backward()


def authors_terms(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, *, only_masked: bool
) -> dict[str, Tensor]:
    """The terms of DistilBERT's objective from logits of the whole vocabulary at every position of both models.

    `only_masked` takes the KL at masked positions (their `restrict_ce_to_mask`); by default it is taken at every token.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    made = student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        teacher_output = teacher(**inputs, output_hidden_states=True)
    is_text = batch["attention_mask"].bool()
    where = (batch["labels"] != IGNORED) if only_masked else is_text
    learned, wanted = _selected(made.logits, where), _selected(teacher_output.logits, where)
    kl = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(learned / TEMPERATURE, dim=-1), F.softmax(wanted / TEMPERATURE, dim=-1)
    )
    student_hidden, teacher_hidden = (
        _selected(made.hidden_states[-1], is_text),
        _selected(teacher_output.hidden_states[-1], is_text),
    )
    return {
        "kl": kl * TEMPERATURE**2,
        "mlm": nn.CrossEntropyLoss(ignore_index=IGNORED)(made.logits.flatten(0, 1), batch["labels"].flatten()),
        "cosine": nn.CosineEmbeddingLoss()(
            student_hidden, teacher_hidden, student_hidden.new_ones(len(student_hidden))
        ),
    }


def _selected(values: Tensor, where: Tensor) -> Tensor:
    """Rows of `values` at `where`, by a mask as large as the values and a copy, as the authors take them."""
    return torch.masked_select(values, where.unsqueeze(-1).expand_as(values)).view(-1, values.size(-1))


def authors_loss(terms: dict[str, Tensor]) -> Tensor:
    """The terms weighted 5 : 2 : 1."""
    return torch.stack([AUTHORS_WEIGHTS[name] * value for name, value in terms.items()]).sum()


def authors_micro_step(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, *, only_masked: bool,
    precision: Precision = "fp32",
) -> list[float]:  # fmt: skip
    """Forward and backward of one micro-batch; gradients add up. Returns what is read for the log."""
    with autocast(CPU, precision):
        terms = authors_terms(student, teacher, batch, only_masked=only_masked)
        loss = authors_loss(terms)
    read = [loss.item(), *(value.item() for value in terms.values())]
    if bool(torch.isnan(loss)):
        raise ValueError("the authors' loss is not a number")
    (loss / AUTHORS_ACCUMULATION).backward()
    return read
