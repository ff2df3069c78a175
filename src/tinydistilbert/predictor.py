"""A fine-tuned model as a function from texts to answers: torch and exported folders alike."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from transformers import PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.models.elmo.tokenizer import ElmoTokenizer
from tinydistilbert.models.heads import head_of
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.runtimes import OnnxRuntime, Runtime, TorchRuntime, exported_facts
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples, Kind
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.squad import TASKS, best_answers

SQUAD = TASKS[0]
"""Its window and stride serve every span model."""

Prediction = dict[str, Any]


class Predictor:
    """A model with its tokenizer; made by `load`.

    Args:
        runtime: computes the logits.
        tokenizer: the model's.
        kind: what it answers.
        labels: names of its classes, in the order of its logits; none where it has no classes.
        longest_input: tokens that its position embeddings reach.
    """

    def __init__(
        self, runtime: Runtime, tokenizer: PreTrainedTokenizerFast, kind: Kind, labels: tuple[str, ...],
        longest_input: int,
    ) -> None:  # fmt: skip
        self.runtime, self.kind, self.labels, self.longest_input = runtime, kind, labels, longest_input
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._pad = int(tokenizer.pad_token_id or 0)

    def predict(self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None) -> list[Prediction]:
        """An answer for each text, in their order; texts of like length are computed together.

        Args:
            texts: one text or many; in span models the questions.
            pairs: the second texts of pair tasks; in span models the contexts.

        Returns:
            Classification: `label`, its probability `score`, and `scores`, the probability of each label. Regression:
            `score`. Span: `answer`, its `start` and `end` in the context in characters, and its probability `score`.

        Raises:
            UserError: not as many pairs as texts, or a text is longer than the model can read.
        """
        texts = [texts] if isinstance(texts, str) else [*texts]
        pairs = [pairs] if isinstance(pairs, str) else None if pairs is None else [*pairs]
        if pairs is not None and len(pairs) != len(texts):
            raise UserError("pairs", expected=f"{len(texts)}, one a text", found=str(len(pairs)), fix="add the others")
        if not texts:
            return []
        if self.kind == "span":
            if pairs is None:
                raise UserError("pairs", expected="a context for each question", found="none", fix="give them")
            return self._answers(texts, pairs)
        logits = self.logits(texts, pairs)
        if self.kind == "regression":
            return [{"score": float(row[0])} for row in logits]
        return [self._classes(row) for row in logits]

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """(texts, classes) logits of texts that are not span tasks', in their order; see `predict`."""
        rows = [self._encoded(text, pairs[i] if pairs else None) for i, text in enumerate(texts)]
        if len(rows) == 1:  # without sorting and padding: this is the path whose milliseconds count
            ids, types = rows[0]
            inputs = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
            return self.runtime({**inputs, "token_type_ids": types[None]} if self.runtime.token_types else inputs)
        every = np.arange(len(rows))
        features = Features([ids for ids, _ in rows], [types for _, types in rows], every, every)
        found = predict(self.runtime, features, pad_token_id=self._pad)
        assert isinstance(found, np.ndarray), "no span model"
        return found

    def _encoded(self, text: str, pair: str | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens and token types; past the tokenizer's Python side, which takes longer than the tokenizer."""
        if isinstance(self._tokenizer, ElmoTokenizer):  # whose Python side makes the characters
            whole = self._tokenizer(text, pair, return_token_type_ids=True)
            return np.asarray(whole["input_ids"], np.int64), np.asarray(whole["token_type_ids"], np.int64)
        encoded = self._backend.encode(text, pair)
        return np.array(encoded.ids, np.int64), np.array(encoded.type_ids, np.int64)

    def _classes(self, logits: NDArray[np.float32]) -> Prediction:
        values = logits.tolist()  # a few numbers: numpy's calls would take longer than the arithmetic
        best = max(range(len(values)), key=values.__getitem__)
        powers = [math.exp(value - values[best]) for value in values]
        total = sum(powers)
        probabilities = [power / total for power in powers]
        return {
            "label": self.labels[best], "score": probabilities[best],
            "scores": dict(zip(self.labels, probabilities, strict=True)),
        }  # fmt: skip

    def _answers(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Prediction]:
        unknown = {"text": [""], "answer_start": [0]}
        columns: dict[str, list[Any]] = {
            "question": [*questions],
            "context": [*contexts],
            "answers": [unknown] * len(questions),
        }
        features = encode(
            Examples(SQUAD, "given", columns, len(questions)), self._tokenizer,
            min(SQUAD.max_length, self.longest_input),
        )  # fmt: skip
        logits = predict(self.runtime, features, pad_token_id=self._pad)
        assert features.offsets is not None
        return [
            _best([(logits[i], features.offsets[i]) for i in np.flatnonzero(features.example == number)], context)
            for number, context in enumerate(contexts)
        ]


def _best(windows: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]], context: str) -> Prediction:
    """The best answer over all windows of a context, each given by its logits and the places of its tokens."""
    best = best_answers([logits for logits, _ in windows], [places for _, places in windows], context, n_best=1)[0]
    inside = np.concatenate([logits[places[:, 0] >= 0] for logits, places in windows]).astype(np.float64)
    chance = float(np.exp(best.score - logsumexp(inside, axis=0).sum())) if best.text else 0.0
    return {"answer": best.text, "start": best.start, "end": best.start + len(best.text), "score": chance}


def load(folder: str | Path, *, threads: int = 0, compiled: bool = False) -> Predictor:
    """A fine-tuned model, as torch or as `export` and `compress` write it, ready to answer on the CPU.

    Args:
        folder: of the model; its files are compared with the hashes in its manifest, if it has one.
        threads: that one operation may use; 0 = as many as there are cores. With torch it holds for the whole process.
        compiled: of a torch model: by torch.compile; the first answer takes about a minute then.

    Raises:
        UserError: no model is there, it is not complete or not as its manifest says, or it has no task's head.
    """
    folder = Path(folder)
    config = load_config(folder)
    facts = exported_facts(folder)
    if facts:  # of a torch model each loader looks at what it reads
        atomic.check_intact(folder)
    kind = facts["head"] if facts else head_of(folder, config)
    if kind == "masked-lm":
        fix = "fine-tune it on a task first"
        raise UserError(str(folder), expected="a model with a task's head", found="a masked language model", fix=fix)
    tokenizer = load_tokenizer(folder)
    runtime: Runtime
    if facts:
        if compiled:
            raise UserError("compiled", expected="a torch model", found="an exported one", fix="leave it out")
        runtime = OnnxRuntime(folder, threads=threads)
    else:
        if threads:
            torch.set_num_threads(threads)
        model = load_model(folder, kind, require_head=True)
        runtime = TorchRuntime(model, span=kind == "span", compiled=compiled)
    labels = tuple(config.id2label[i] for i in range(config.num_labels)) if kind == "classification" else ()
    longest = facts["longest_input"] if facts else longest_input(config)
    return Predictor(runtime, tokenizer, kind, labels, longest)
