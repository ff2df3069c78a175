"""The rows of Table 3: each model by each back end, made from one folder per model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tinydistilbert.benchmark.backends import INT8, ONNX, OPENVINO, TORCH, ClampedRuntime, open_runtime
from tinydistilbert.benchmark.pairs import PADDED_LENGTH
from tinydistilbert.export.quantize import quantize
from tinydistilbert.export.to_onnx import export, exported_weights
from tinydistilbert.models.elmo.model import elmo_architecture
from tinydistilbert.models.elmo.tokenizer import elmo_tokenizer
from tinydistilbert.models.heads import head_of, parameter_count
from tinydistilbert.models.lengths import read_length
from tinydistilbert.models.loading import ELMO, load_config, load_model, load_tokenizer, longest_input, save_model
from tinydistilbert.models.runtimes import Runtime, is_exported, model_bytes, open_exported
from tinydistilbert.optional import require

Architectures = Mapping[str, Callable[[], PreTrainedModel]]

ARCHITECTURES: Architectures = {
    "elmo": lambda: elmo_architecture()[0],
    "bert-base": lambda: BertForSequenceClassification(BertConfig.from_dict({"num_labels": 1})),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig.from_dict({"num_labels": 1})),
}
"""Rows with random weights, because speed does not depend on the weights' values."""


@dataclass(frozen=True)
class Subject:
    """A model with a task head: the folder that all its back ends are made from."""

    name: str
    folder: Path
    weights: str
    """`random` or `trained`."""
    tokenizer: PreTrainedTokenizerFast
    vocabulary_size: int | None
    """Rows of its word embedding; None if it reads characters."""
    parameters: int
    counted: str
    """The part of the model that `parameters` counts."""
    max_length: int
    """Tokens of a text that it reads, at most `PADDED_LENGTH`."""


EXPORTED = "the exported model with its task head"
"""What `parameters` of exported models counts."""


@dataclass(frozen=True)
class BenchmarkRow:
    """A model run by a back end: a row of Table 3."""

    subject: Subject
    backend: str
    folder: Path
    """The folder that the back end reads."""
    runtime: Runtime

    @property
    def name(self) -> str:
        """`bert-base/torch`, `student/onnx-int8`."""
        return f"{self.subject.name}/{self.backend}"

    @property
    def megabytes(self) -> float | None:
        """Size of the exported model's file; None for torch, whose folder may hold heads that are not timed."""
        if not is_exported(self.folder):
            return None
        return model_bytes(self.folder) / 1e6


def make_subject(
    name: str, given: Path | None, *, architectures: Architectures, tokenizer: PreTrainedTokenizerFast, seed: int,
    work: Path,
) -> Subject:  # fmt: skip
    """Return a row's model: the task model in the folder `given`, or one of `architectures` with random weights.

    A masked-LM model gets a regression head, which STS-B needs. New models are saved below `work`.
    """
    if given is not None and is_exported(given):
        exported_tokenizer = load_tokenizer(given)
        vocabulary_size = len(exported_tokenizer)
        return Subject(
            name, given, "trained", exported_tokenizer, vocabulary_size, exported_weights(given), EXPORTED,
            min(PADDED_LENGTH, _read(given, exported_tokenizer, load_config(given))),
        )  # fmt: skip
    torch.manual_seed(seed)
    if given is None:
        model, folder = architectures[name]().float(), work / name
    else:
        head = head_of(given, load_config(given))
        has_task = head != "masked-lm"
        model, folder = load_model(given, head if has_task else "regression"), given if has_task else work / name
        tokenizer = load_tokenizer(given)
    reads_characters = model.config.model_type == ELMO
    if reads_characters:
        tokenizer = elmo_tokenizer()
    if folder != given:
        save_model(model, tokenizer, folder)
    return Subject(
        name, folder, "random" if given is None else "trained", tokenizer,
        None if reads_characters else model.config.vocab_size,
        parameter_count(model.base_model), "encoder without task head, tied tensors once",
        PADDED_LENGTH if given is None else min(PADDED_LENGTH, _read(given, tokenizer, model.config)),
    )  # fmt: skip


def _read(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> int:
    return read_length(folder, tokenizer.model_max_length, longest_input(config), span=False)


def make_rows(subjects: Sequence[Subject], backends: Sequence[str], work: Path) -> list[BenchmarkRow]:
    """Open every subject in each of its back ends; exported forms are made below `work`.

    ELMo has only torch, because export does not support it. An exported folder has only the back end that it was made
    for.
    """
    rows = []
    for subject in subjects:
        if is_exported(subject.folder):
            runtime = open_exported(subject.folder, threads=1)
            rows.append(BenchmarkRow(subject, runtime.name, subject.folder, runtime))
            continue
        for backend in (TORCH,) if subject.vocabulary_size is None else backends:
            folder = _folder_for(backend, subject, work)
            opened = open_runtime(folder, backend)
            if subject.vocabulary_size is not None and subject.vocabulary_size < len(subject.tokenizer):
                opened = ClampedRuntime(opened, subject.vocabulary_size)
            rows.append(BenchmarkRow(subject, backend, folder, opened))
    return rows


def _folder_for(backend: str, subject: Subject, work: Path) -> Path:
    """Return the subject's folder in the format of `backend`, made once."""
    if backend not in (ONNX, INT8, OPENVINO):
        return subject.folder
    folder = work / f"{subject.name}-{backend}"
    if not folder.exists():
        if backend == INT8:
            quantize(_folder_for(ONNX, subject, work), folder)
        else:
            export(subject.folder, folder, tokenizer=subject.tokenizer, fused=backend == ONNX)
    return folder


def check_installed(backends: Sequence[str]) -> None:
    """Refuse back ends whose library is missing, before anything is made.

    Raises:
        UserError: one is missing; the message names the command that installs it.
    """
    if {ONNX, INT8, OPENVINO} & set(backends):
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, extra="onnx")
    if OPENVINO in backends:
        require("openvino", extra="openvino")
