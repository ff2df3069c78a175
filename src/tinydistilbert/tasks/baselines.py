"""Baselines that a student has to beat: a linear model on TF-IDF, or on the mean of a teacher's word embeddings.

Nothing in them is random. A pair of texts becomes both vectors, the absolute values of their differences, their
products and their cosine, so that a linear model can recognise similar texts.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.notices import notice
from tinydistilbert.recipe.names import MOST_FREQUENT_TAG, STATIC_EMBEDDINGS, TEXT_BASELINES, TF_IDF
from tinydistilbert.tasks import hold_out
from tinydistilbert.tasks.base import Examples, Kind
from tinydistilbert.tasks.label_thresholds import best_thresholds

Vectors = Callable[[Sequence[str]], Any]
"""Turns texts into a matrix with one row each, sparse or dense."""

BASELINES: dict[Kind, tuple[str, ...]] = {
    "classification": TEXT_BASELINES, "regression": TEXT_BASELINES, "multi-label": TEXT_BASELINES,
    "token-classification": (MOST_FREQUENT_TAG,),
}  # fmt: skip
"""Baselines by kind of task; there is none for span tasks. The one for tags is in `tag_baseline.py`."""
MOST_EXAMPLES = 500_000
"""Maximum number of examples to fit, all in memory; a seeded sample is taken of more."""
TEXTS_AT_ONCE = 10_000
"""Texts that are tokenised together."""
MOST_TERMS = 200_000
MOST_COMPONENTS = 256
"""Maximum number of embedding dimensions, as in model2vec: the inputs of a large train set must fit into memory."""
STEPS = 500
"""Maximum number of steps of the logistic regression."""
PENALTY = {TF_IDF: 0.1, STATIC_EMBEDDINGS: 0.1}
"""Penalty of the squared weights of the logistic regression (1 / C), chosen on held-out train examples of GLUE and IMDb
(decision 27); for static embeddings, whose inputs are standardised, it is per input."""
RIDGE = {TF_IDF: 1.0, STATIC_EMBEDDINGS: 3.0}
"""The penalty of the ridge regression (alpha)."""
LEAST_PROBABILITY = 1e-12
"""Probability of a class without train examples, so that its logarithm is finite."""


@dataclass(frozen=True)
class CheapModel:
    """A fitted baseline."""

    features: Callable[[Examples], Any]
    head: Any
    """A fitted scikit-learn estimator, or one for each of several labels; None if the train examples have only one
    class."""
    classes: tuple[int, ...]
    """Classes of the train examples; empty for regression."""
    labels: int
    """Number of classes of the task; 0 for regression."""
    converged: bool = True
    """Whether the logistic regression converged within `STEPS`."""
    thresholds: NDArray[np.float64] | None = None
    """For multi-label tasks: the lowest probability at which each label is predicted."""

    def outputs(self, examples: Examples) -> NDArray[np.float64]:
        """Return (n, classes) log probabilities, (n, labels) log odds, or (n, 1) numbers."""
        if isinstance(self.head, OneVsRest):
            return self.head.log_odds(self.features(examples))
        if not self.labels:
            return np.asarray(self.head.predict(self.features(examples)), dtype=np.float64)[:, None]
        probabilities = np.full((len(examples), self.labels), LEAST_PROBABILITY)
        known = self.head.predict_proba(self.features(examples)) if self.head else np.ones((len(examples), 1))
        probabilities[:, list(self.classes)] = np.maximum(known, LEAST_PROBABILITY)
        return np.asarray(np.log(probabilities))


def fit(name: str, train: Examples, vectors: Vectors) -> CheapModel:
    """Fit a baseline to labelled examples of a task of whole texts.

    Args:
        name: `tf-idf` or `static embeddings`.
        train: the examples.
        vectors: the result of `tf_idf` or `static_embeddings` for the same examples.
    """
    features = Vectorizer(vectors, train, standardise=name == STATIC_EMBEDDINGS)
    inputs, labels = features(train), np.array(train.columns["label"])
    times = inputs.shape[1] if name == STATIC_EMBEDDINGS else 1
    if train.task.kind == "regression":
        from sklearn.linear_model import Ridge  # imported here and below because it takes a second

        head: Any = Ridge(alpha=RIDGE[name] * times)
        return CheapModel(features, head.fit(inputs, labels.astype(np.float64)), (), 0)
    if train.task.kind == "multi-label":
        return _several(features, inputs, train, 1 / (PENALTY[name] * times))
    classes = tuple(int(label) for label in np.unique(labels))
    if len(classes) == 1:
        return CheapModel(features, None, classes, len(train.task.labels))
    head, converged = _regression(inputs, labels, 1 / (PENALTY[name] * times))
    return CheapModel(features, head, classes, len(train.task.labels), converged)


def _regression(inputs: Any, labels: NDArray[Any], strength: float) -> tuple[Any, bool]:
    """Return a logistic regression, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(C=strength, max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` reports it
        head.fit(inputs, labels)
    return head, bool((head.n_iter_ < STEPS).all())


@dataclass(frozen=True)
class OneVsRest:
    """A logistic regression for each of several labels."""

    heads: tuple[Any, ...]
    """One per label; True or False instead if every train example has the label, or none has."""
    converged: bool

    @classmethod
    def fit(cls, inputs: Any, labels: NDArray[Any], strength: float) -> "OneVsRest":
        """Fit one for each column of the labels (n, labels)."""
        fitted = [
            (bool(gold[0]), True) if (gold == gold[0]).all() else _regression(inputs, gold, strength)
            for gold in labels.T
        ]
        return cls(tuple(head for head, _ in fitted), all(converged for _, converged in fitted))

    def log_odds(self, inputs: Any) -> NDArray[np.float64]:
        """Return the log odds, (n, labels)."""
        least = np.log(LEAST_PROBABILITY)
        columns = [
            np.full(inputs.shape[0], -least if head else least)
            if isinstance(head, bool)
            else head.decision_function(inputs)
            for head in self.heads
        ]
        return np.stack(columns, axis=-1).astype(np.float64)


def _several(features: Callable[[Examples], Any], inputs: Any, train: Examples, strength: float) -> CheapModel:
    """Fit one-vs-rest; choose the thresholds on held-out examples, then fit to all examples."""
    labels, thresholds = np.array(train.columns["label"]), None
    if len(set(train.keys)) > 1:
        parts = hold_out.draw(train.keys, hold_out.classes_to_draw_by(train), 0)
        first = OneVsRest.fit(inputs[parts.trained], labels[parts.trained], strength)
        thresholds = best_thresholds(first.log_odds(inputs[parts.scored]), labels[parts.scored])
    head = OneVsRest.fit(inputs, labels, strength)
    return CheapModel(features, head, (), labels.shape[1], head.converged, thresholds)


class Vectorizer:
    """Turns examples into the inputs of the linear model."""

    def __init__(self, vectors: Vectors, train: Examples, *, standardise: bool) -> None:
        self._vectors = vectors
        self._standardise = standardise
        if standardise:
            inputs = self._joined(train)
            deviation = inputs.std(0)
            self._mean, self._scale = inputs.mean(0), np.where(deviation > 0, deviation, np.float32(1))

    def __call__(self, examples: Examples) -> Any:
        """Return the inputs, (n, features), sparse or dense."""
        inputs = self._joined(examples)
        if self._standardise:
            inputs -= self._mean
            inputs /= self._scale
        return inputs

    def _joined(self, examples: Examples) -> Any:
        first: Any = self._vectors(examples.columns["text"])
        if examples.task.text_pair is None:
            return first
        second: Any = self._vectors(examples.columns["text_pair"])
        if not isinstance(first, np.ndarray):
            products = first.multiply(second).tocsr()
            cosine: Any = sp.csr_matrix(products.sum(1))
            return sp.hstack([first, second, abs(first - second), products, cosine]).tocsr()
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        products = first * second
        cosine = products.sum(1) / np.where(lengths > 0, lengths, np.float32(1))
        return np.hstack([first, second, np.abs(first - second), products, cosine[:, None]])


def tf_idf(train: Examples) -> Vectors:
    """Return a function to unit vectors of words and neighbouring word pairs, weighted by rarity in the train texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS, token_pattern=r"(?u)\b\w+\b"
    )
    texts = _texts(train)
    try:
        vectorizer.fit(texts)
    except ValueError:  # no text contains a word
        return lambda texts: sp.csr_matrix((len(texts), 1))
    if len(vectorizer.vocabulary_) == MOST_TERMS:
        notice(train.task.title, f"{TF_IDF} reads only the {MOST_TERMS:,} most frequent words and word pairs")
    return lambda texts: vectorizer.transform(texts).tocsr()


def static_embeddings(train: Examples, tokenizer: PreTrainedTokenizerFast, embeddings: NDArray[np.float32]) -> Vectors:
    """Return a function to the mean of a text's token embeddings, each weighted by its rarity in the train texts.

    This is what model2vec makes of a model, including principal components, but without a forward pass per token: no
    context, no position, no layer.

    Args:
        train: its texts determine the weights, log((1 + texts) / (1 + texts with the token)) + 1.
        tokenizer: the tokenizer of the embeddings.
        embeddings: (vocabulary, width).
    """
    backend, embeddings = tokenizer.backend_tokenizer, _principal(embeddings)

    def counts(texts: Sequence[str]) -> sp.csr_matrix:
        parts = [texts[begin : begin + TEXTS_AT_ONCE] for begin in range(0, len(texts), TEXTS_AT_ONCE)]
        return sp.vstack([*map(counts_of_part, parts or [texts])]).tocsr()

    def counts_of_part(texts: Sequence[str]) -> sp.csr_matrix:
        encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encoded]
        ends = np.cumsum([0, *map(len, ids)])
        flat = np.concatenate([np.array(row, dtype=np.int64) for row in ids]) if ids else np.zeros(0, dtype=np.int64)
        matrix = sp.csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(ids), len(embeddings)))
        matrix.sum_duplicates()
        return matrix

    occurring = counts(_texts(train))
    frequency = np.bincount(occurring.indices, minlength=len(embeddings))
    weights = np.log((1 + occurring.shape[0]) / (1 + frequency)) + 1

    def means(texts: Sequence[str]) -> NDArray[np.float32]:
        weighted = counts(texts).multiply(weights[None]).tocsr().astype(np.float32)
        total = np.asarray(weighted.sum(1))
        return np.asarray(weighted @ embeddings / np.where(total > 0, total, 1), dtype=np.float32)

    return means


def _principal(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings in at most `MOST_COMPONENTS` dimensions, their principal components."""
    if embeddings.shape[1] <= MOST_COMPONENTS:
        return embeddings
    centred = embeddings - embeddings.mean(0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return np.asarray(centred @ directions[:, -MOST_COMPONENTS:], dtype=np.float32)


def _texts(examples: Examples) -> list[str]:
    columns = [name for name in ("text", "text_pair") if name in examples.columns]
    return [text for name in columns for text in examples.columns[name]]
