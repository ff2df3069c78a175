"""A fine-tuned model as a function from texts to predictions, for torch models and exported ones."""

import dataclasses
import math
import threading
from collections.abc import Sequence
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tinydistilbert import progress
from tinydistilbert.errors import UserError
from tinydistilbert.models.lengths import read_length
from tinydistilbert.models.plain_tokenizer import load_plain_tokenizer
from tinydistilbert.models.runtimes import EXPORT_KEY, Runtime, difference_here, exported_config, open_exported
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.optional import training_libraries
from tinydistilbert.tasks.base import Examples, Kind
from tinydistilbert.tasks.best_answer import best_answer
from tinydistilbert.tasks.encoding import CHUNK, Features, encode, question_limit
from tinydistilbert.tasks.entities import entities_of, is_tag
from tinydistilbert.tasks.given_texts import as_list, check_texts, listed
from tinydistilbert.tasks.inference import Logits, predict
from tinydistilbert.tasks.label_thresholds import given_labels, sigmoid, stored_label_thresholds
from tinydistilbert.tasks.squad import TASKS, stored_null_threshold
from tinydistilbert.tasks.token_rows import TokenRows
from tinydistilbert.tasks.whole_inputs import Encoder, FastTokenizer, InputArrays, encoder_of, joined_inputs
from tinydistilbert.tasks.words import WORDS, Word, WordPredictions, joined, word_predictions, words_in

SQUAD = TASKS[0]
"""SQuAD's stride is used for every span model."""

OF_CLASSES = ("classification", "multi-label", "token-classification")
"""Task kinds whose outputs have names."""
NER = dataclasses.replace(SQUAD, name="entities", kind="token-classification", text="text", text_pair=None)
"""The task of every token classification model."""
Prediction = dict[str, Any]
"""What a model predicts for one text; its keys are listed at `Predictor.predict`."""
CUT = "cut_tokens"
"""Key of a prediction whose text was cut: the number of tokens that were not read."""


class Predictor:
    """A model with its tokenizer; create one with `load`. Several threads may ask it at the same time.

    Args:
        runtime: computes the logits.
        tokenizer: the model's.
        kind: task kind.
        labels: class names in the order of the logits; empty if there are no classes.
        max_length: tokens of a text, or of a window of a context; longer texts are cut.
        null_threshold: for a span model that may give no answer: how much higher “no answer” must score than the best
            answer. None = it always gives an answer.
        label_thresholds: for a multi-label model: the lowest probability at which each label is predicted.
    """

    def __init__(
        self, runtime: Runtime, tokenizer: FastTokenizer, kind: Kind, labels: tuple[str, ...],
        max_length: int, null_threshold: float | None = None, label_thresholds: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        self.runtime, self.kind, self.labels, self.max_length = runtime, kind, labels, max_length
        self.null_threshold, self.label_thresholds = null_threshold, label_thresholds
        # A call of the tokenizer first sets how it cuts: another thread's texts would be cut like these.
        self._tokenizer, self._tokenizing = tokenizer, threading.Lock()
        self._pad = int(tokenizer.pad_token_id or 0)

    def predict(
        self, texts: str | Sequence[str] | Sequence[Sequence[str]], pairs: str | Sequence[str] | None = None
    ) -> list[Prediction]:
        """Predict for each text, in order; texts of similar length are computed together.

        Args:
            texts: one text or many; for span models, the questions. Texts that are too long are cut as in training. For
                token classification, a text may be given as the list of its words.
            pairs: the second texts of pair tasks; for span models, the contexts.

        Returns:
            Classification: `label`, its probability `score`, and `scores`, the probability of each label. Multi-label:
            `labels`, the labels predicted for the text, and `scores`. Regression: `score`. Span: `answer`, its `start`
            and `end` in the context in characters, and its probability `score`; with a null threshold also `no_answer`,
            the probability that there is no answer. If no answer is found, `answer` is empty, `start` and `end` are 0,
            and `score` is the probability that there is none. Token classification: `entities`, each with its `label`,
            `text`, `start` and `end` in characters, and its probability `score`, the mean over its words; for a list of
            words (read as one text, joined by spaces) also `tags`, the IOB2 tag of each word. If a text was cut, also
            `cut_tokens`, the number of its tokens that were not read.

        Raises:
            UserError: neither a text nor several are given; the numbers of pairs and texts differ; one is no text; or
                the model's logits are not finite.
        """
        if self.kind == "token-classification":
            return self._tagged(as_list("texts", texts), pairs)
        texts, pairs = listed(cast("str | Sequence[str]", texts), pairs)
        if not texts:
            return []
        if self.kind == "span":
            if pairs is None:
                raise UserError("pairs", expected="a context for each question", found="none", fix="give the contexts")
            answers, lost = self._answers(texts, pairs), self.excess(texts, pairs)
        else:
            inputs = self._inputs(texts, pairs)
            logits = self._logits(inputs)
            _check_finite(logits)
            one = {"regression": _score, "multi-label": self._several}.get(self.kind)
            answers = [one(row) for row in logits] if one else self._classes(logits)
            lost = inputs.lost.tolist()
        for answer, tokens in zip(answers, lost, strict=True):
            if tokens:
                answer[CUT] = tokens
        return answers

    def excess(self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None) -> list[int]:
        """Return how many tokens of each text `predict` does not read because the text is too long.

        In span models, questions are cut, while contexts of any length are read in windows.

        Raises:
            UserError: the numbers of pairs and texts differ, or one is no text.
        """
        texts, pairs = listed(texts, pairs)
        if not texts:
            return []
        if self.kind == "span":
            with self._tokenizing:
                whole = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
            return [max(0, len(ids) - self.text_limit) for ids in whole["input_ids"]]
        lost: list[int] = self._inputs(texts, pairs).lost.tolist()
        return lost

    @property
    def text_limit(self) -> int:
        """Maximum number of tokens read of a text and its pair, with special tokens; in span models, of a question."""
        return question_limit(self._tokenizer, self.max_length) if self.kind == "span" else self.max_length

    @property
    def truncation_side(self) -> str:
        """The end at which texts that are too long are cut, `right` or `left`."""
        side: str = self._tokenizer.truncation_side
        return side

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Return the logits (texts, classes) in the order of the texts, for models of whole texts; see `predict`."""
        return self._logits(self._inputs(texts, pairs))

    def _inputs(self, texts: Sequence[str], pairs: Sequence[str] | None) -> InputArrays:
        parts = (slice(begin, begin + CHUNK) for begin in range(0, len(texts), CHUNK))
        with self._tokenizing:
            return joined_inputs([self._inputs_of(texts[part], pairs[part] if pairs else None) for part in parts])

    @cached_property
    def _inputs_of(self) -> Encoder:
        return encoder_of(self._tokenizer, self.max_length)

    def _encoded(self, examples: Examples) -> Features:
        with self._tokenizing:
            return encode(examples, self._tokenizer, self.max_length)

    def _logits(self, inputs: InputArrays) -> NDArray[np.float32]:
        if len(inputs.lengths) == 1:  # sorting and padding would add to the latency of a single text
            ids, types = inputs.ids[None].astype(np.int64), inputs.types[None].astype(np.int64)
            given = {"input_ids": ids, "attention_mask": np.ones(ids.shape[:2], np.int64)}
            return self.runtime({**given, "token_type_ids": types} if self.runtime.token_types else given)
        every, input_ids = np.arange(len(inputs.lengths)), TokenRows(inputs.ids, inputs.lengths)
        features = Features(input_ids, input_ids.with_flat(inputs.types), every, every)
        logits = predict(self.runtime, features, pad_token_id=self._pad)
        assert isinstance(logits, np.ndarray), "no span model"
        return logits

    def _classes(self, logits: NDArray[np.float32]) -> list[Prediction]:
        best = [(row, row.index(max(row))) for row in _probabilities(logits)]
        return [
            {"label": self.labels[i], "score": row[i], "scores": dict(zip(self.labels, row, strict=True))}
            for row, i in best
        ]

    def _several(self, logits: NDArray[np.float32]) -> Prediction:
        assert self.label_thresholds is not None
        scores = dict(zip(self.labels, sigmoid(logits).tolist(), strict=True))
        is_given = given_labels(logits, self.label_thresholds)
        return {"labels": [name for name, given in zip(self.labels, is_given, strict=True) if given], "scores": scores}

    def word_tags(self, examples: Examples) -> list[WordPredictions]:
        """Return the tags of the words of token classification examples, with their probabilities.

        Raises:
            UserError: the model's logits are not finite.
        """
        features = self._encoded(examples)
        logits = predict(self.runtime, features, pad_token_id=self._pad)
        _check_finite(logits)
        assert features.word_tokens is not None
        return [word_predictions(*row, self.labels) for row in zip(logits, features.word_tokens, strict=True)]

    def _tagged(self, texts: list[Any], pairs: Any) -> list[Prediction]:
        if pairs is not None:
            fix = "leave the pairs out"
            raise UserError("pairs", problem="the model tags the words of single texts", fix=fix)
        if not texts:
            return []
        check_texts("texts", texts, or_words=True)
        given = [(text, words_in(text)) if isinstance(text, str) else joined(text) for text in texts]
        columns: dict[str, list[Any]] = {"text": [text for text, _ in given], WORDS: [words for _, words in given]}
        columns["label"] = [None] * len(given)
        predictions = self.word_tags(Examples(NER, "given", columns, len(given)))
        answers = [
            {"entities": _entities(*of_text, words)} | ({} if isinstance(text, str) else {"tags": words.tags})
            for text, of_text, words in zip(texts, given, predictions, strict=True)
        ]
        lost = self.excess(columns["text"])
        return [answer | ({CUT: tokens} if tokens else {}) for answer, tokens in zip(answers, lost, strict=True)]

    def _answers(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Prediction]:
        unknown = {"text": [""], "answer_start": [0]}
        columns: dict[str, list[Any]] = {
            "question": [*questions],
            "context": [*contexts],
            "answers": [unknown] * len(questions),
        }
        features = self._encoded(Examples(SQUAD, "given", columns, len(questions)))
        logits = predict(self.runtime, features, pad_token_id=self._pad)
        _check_finite(logits)
        assert features.offsets is not None
        return [
            best_answer(
                [(logits[i], features.offsets[i]) for i in np.flatnonzero(features.example == number)],
                context,
                self.null_threshold,
            )
            for number, context in enumerate(contexts)
        ]


def _entities(text: str, words: Sequence[Word], predictions: WordPredictions) -> list[Prediction]:
    """The entities of a text."""
    return [
        {
            "label": kind, "text": text[words[first][0] : words[last][1]], "start": words[first][0],
            "end": words[last][1], "score": float(predictions.probabilities[first : last + 1].mean()),
        }
        for kind, first, last in entities_of(predictions.tags)
    ]  # fmt: skip


def _probabilities(logits: NDArray[np.float32]) -> list[list[float]]:
    """Return the softmax of each row; of a single one without numpy, whose calls take longer than the arithmetic."""
    if len(logits) == 1:
        values = logits[0].tolist()
        largest = max(values)
        powers = [math.exp(value - largest) for value in values]
        total = sum(powers)
        return [[power / total for power in powers]]
    of_all = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: list[list[float]] = (of_all / of_all.sum(axis=-1, keepdims=True)).tolist()
    return probabilities


def _score(logits: NDArray[np.float32]) -> Prediction:
    return {"score": float(logits[0])}


def _check_finite(logits: Logits) -> None:
    """Check that the logits of all texts are finite numbers; otherwise they hold no answer."""
    if isinstance(logits, np.ndarray):
        bad = int((~np.isfinite(logits).all(axis=-1)).sum())
    else:
        bad = sum(not np.isfinite(row).all() for row in logits)
    if bad:
        problem = f"the logits of {bad} of {len(logits)} texts are not finite numbers"
        raise UserError("the model", problem=problem, fix="use a model whose training did not diverge, in float32")


def load(
    folder: str | Path, *, threads: int = 0, compiled: bool = False, null_threshold: float | None = None
) -> Predictor:
    """Load a fine-tuned torch model, or one written by `export` or `compress`, to predict on the CPU.

    An exported model needs neither torch nor transformers.

    Args:
        folder: the model's folder; if it has a manifest, its files are checked against the hashes in it.
        threads: threads per operation; 0 = the cores that this process may use. With torch, this
            applies to the entire process.
        compiled: compile a torch model with torch.compile; the first prediction then takes about a minute.
        null_threshold: for a span model, replaces the threshold in its folder: the model gives no answer if “no answer”
            scores higher than the best answer by more than this. Use 0 for a model trained elsewhere on SQuAD 2.

    Raises:
        UserError: there is no model, it is incomplete or differs from its manifest, it has no task head, the library
            that runs it is not installed, a null threshold is given for another kind of model, or one that is no
            number, or the threads are no number from 0 on.
    """
    folder, threads = Path(folder), threads or 0
    if not _is_number(threads, Integral) or threads < 0:
        fix = "give 0 for the cores that this process may use"
        raise UserError("threads", expected="a whole number from 0 on", found=repr(threads)[:40], fix=fix)
    config = exported_config(folder)
    if config is None:
        is_here = (folder / CONFIG).is_file()
        with training_libraries(f"the torch model {folder}" if is_here else f"{folder} (it has no exported model)"):
            return _torch_predictor(folder, threads=threads, compiled=compiled, null_threshold=null_threshold)
    if compiled:
        raise UserError("compiled", expected="a torch model", found="an exported model", fix="leave it out")
    facts = config[EXPORT_KEY]
    if why := difference_here(facts):
        progress.say(f"{folder}: {why}")
    kind = _task_kind(folder, facts["head"])
    tokenizer = load_plain_tokenizer(folder, vocabulary_size=config["vocab_size"])
    names = config.get("id2label") or dict.fromkeys(range(2))  # transformers leaves out its default names
    labels = tuple(names.get(str(i)) or f"LABEL_{i}" for i in range(len(names)))
    _check_tags(folder, kind, labels)
    return Predictor(
        open_exported(folder, threads=threads), tokenizer, kind, labels if kind in OF_CLASSES else (),
        read_length(folder, tokenizer.model_max_length, facts["longest_input"], span=kind == "span"),
        _null_threshold(folder, config, kind, null_threshold), _label_thresholds(folder, config, kind, len(labels)),
    )  # fmt: skip


def _torch_predictor(folder: Path, *, threads: int, compiled: bool, null_threshold: float | None) -> Predictor:
    import torch

    from tinydistilbert.models.heads import head_of
    from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, longest_input
    from tinydistilbert.models.torch_runtime import TorchRuntime

    config = load_config(folder)
    head = head_of(folder, config)
    kind = _task_kind(folder, head)
    tokenizer = load_tokenizer(folder)
    if threads:
        torch.set_num_threads(threads)
    runtime = TorchRuntime(load_model(folder, head, require_head=True), span=kind == "span", compiled=compiled)
    labels = tuple(config.id2label[i] for i in range(config.num_labels)) if kind in OF_CLASSES else ()
    _check_tags(folder, kind, labels)
    length = read_length(folder, tokenizer.model_max_length, longest_input(config), span=kind == "span")
    threshold = _null_threshold(folder, config, kind, null_threshold)
    of_labels = _label_thresholds(folder, config, kind, len(labels))
    return Predictor(runtime, tokenizer, kind, labels, length, threshold, of_labels)


def _task_kind(folder: Path, head: str) -> Kind:
    """Return the kind of task that a head is for.

    Raises:
        UserError: no kind of task uses this head.
    """
    if head == "masked-lm":
        fix = "fine-tune it on a task first"
        raise UserError(
            str(folder), expected="a model with the head of a task", found="a masked language model", fix=fix
        )
    return cast("Kind", head)


def _check_tags(folder: Path, kind: Kind, labels: Sequence[str]) -> None:
    """Check that the outputs of a token classification model are IOB tags.

    Raises:
        UserError: the name of an output is not an IOB tag.
    """
    odd = [name for name in labels if not is_tag(name)] if kind == "token-classification" else []
    if odd:
        expected, fix = "outputs that are IOB tags: O, B-TYPE, I-TYPE", "rename them in id2label of its config.json"
        raise UserError(str(folder), expected=expected, found=repr(odd[0]), fix=fix)


def _label_thresholds(folder: Path, config: Any, kind: Kind, labels: int) -> NDArray[np.float64] | None:
    """Return the thresholds in the config of a multi-label model.

    Raises:
        UserError: they are not one probability for each label.
    """
    return stored_label_thresholds(config, str(folder), labels) if kind == "multi-label" else None


def _null_threshold(folder: Path, config: Any, kind: Kind, given: float | None) -> float | None:
    """Return the given null threshold, or else the one in the config of a span model.

    Raises:
        UserError: one is given for another kind of model, or the given one or that in the config is not a number.
    """
    if given is not None and not _is_number(given, Real):
        fix = "use 0 for a model trained elsewhere on SQuAD 2"
        raise UserError("null threshold", expected="a number", found=repr(given)[:40], fix=fix)
    if kind == "span":
        return stored_null_threshold(config, str(folder)) if given is None else float(given)
    if given is not None:
        expected, found = "a span model", f"a {kind} model"
        raise UserError("null threshold", expected=expected, found=found, fix="leave it out")
    return None


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and not math.isnan(cast("float", value))
