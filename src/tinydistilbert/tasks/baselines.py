"""Cheap models that a student has to beat: a linear model on TF-IDF, or on the mean of a teacher's word embeddings.

Nothing in them is random. A pair of texts becomes both vectors, the sizes of their differences, their products, and
their cosine, so that a linear model can tell texts that are alike.
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
"""From texts to a matrix with a row for each, sparse or not."""

BASELINES: dict[Kind, tuple[str, ...]] = {
    "classification": TEXT_BASELINES, "regression": TEXT_BASELINES, "multi-label": TEXT_BASELINES,
    "token-classification": (MOST_FREQUENT_TAG,),
}  # fmt: skip
"""By kind of task; a question has no cheap answer. That of tags is in `tag_baseline.py`."""
MOST_EXAMPLES = 500_000
"""That one is fitted to, all of which are in memory; of more a seeded sample."""
TEXTS_AT_ONCE = 10_000
"""That are tokenised together."""
MOST_TERMS = 200_000
MOST_COMPONENTS = 256
"""Of embeddings, as in model2vec: the inputs of a large train set have to fit into memory."""
STEPS = 500
"""Of the logistic regression, at most."""
PENALTY = {TF_IDF: 0.1, STATIC_EMBEDDINGS: 0.1}
"""Of the squared weights of the logistic regression (1 / C), chosen on held-out train examples of GLUE and IMDb
(decision 27); of static embeddings, whose inputs are standardised, for each input."""
RIDGE = {TF_IDF: 1.0, STATIC_EMBEDDINGS: 3.0}
"""The same of the regression on numbers (alpha)."""
LEAST_PROBABILITY = 1e-12
"""Of a class that is in no train example, for its logarithm to be a finite number."""


@dataclass(frozen=True)
class CheapModel:
    """A fitted baseline."""

    features: Callable[[Examples], Any]
    head: Any
    """A fitted estimator of scikit-learn, or one for each of several labels; None where the train examples have one
    class only."""
    classes: tuple[int, ...]
    """Those of the train examples; none for numbers."""
    labels: int
    """How many classes the task has; 0 for numbers."""
    converged: bool = True
    """Whether the logistic regression came to its end within `STEPS`."""
    thresholds: NDArray[np.float64] | None = None
    """Of several labels: the probability of each from which on it is given."""

    def outputs(self, examples: Examples) -> NDArray[np.float64]:
        """(n, classes) logarithms of probabilities, (n, labels) of odds, or (n, 1) numbers."""
        if isinstance(self.head, OneVsRest):
            return self.head.log_odds(self.features(examples))
        if not self.labels:
            return np.asarray(self.head.predict(self.features(examples)), dtype=np.float64)[:, None]
        probabilities = np.full((len(examples), self.labels), LEAST_PROBABILITY)
        known = self.head.predict_proba(self.features(examples)) if self.head else np.ones((len(examples), 1))
        probabilities[:, list(self.classes)] = np.maximum(known, LEAST_PROBABILITY)
        return np.asarray(np.log(probabilities))


def fit(name: str, train: Examples, vectors: Vectors) -> CheapModel:
    """A baseline, fitted to labelled examples of a task of whole texts.

    Args:
        name: `tf-idf` or `static embeddings`.
        train: the examples.
        vectors: what `tf_idf` or `static_embeddings` gave for the same examples.
    """
    features = Features(vectors, train, standardise=name == STATIC_EMBEDDINGS)
    inputs, labels = features(train), np.array(train.columns["label"])
    times = inputs.shape[1] if name == STATIC_EMBEDDINGS else 1
    if train.task.kind == "regression":
        from sklearn.linear_model import Ridge  # here and below: a second of every command that fits none of them

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
    """A logistic regression, and whether it came to its end."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(C=strength, max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by `converged`
        head.fit(inputs, labels)
    return head, bool((head.n_iter_ < STEPS).all())


@dataclass(frozen=True)
class OneVsRest:
    """A logistic regression for each of several labels."""

    heads: tuple[Any, ...]
    """True or False in the place of one: every train example has that label, or none has."""
    converged: bool

    @classmethod
    def fit(cls, inputs: Any, labels: NDArray[Any], strength: float) -> "OneVsRest":
        """One for each column of the labels (n, labels)."""
        fitted = [
            (bool(gold[0]), True) if (gold == gold[0]).all() else _regression(inputs, gold, strength)
            for gold in labels.T
        ]
        return cls(tuple(head for head, _ in fitted), all(converged for _, converged in fitted))

    def log_odds(self, inputs: Any) -> NDArray[np.float64]:
        """(n, labels)."""
        least = np.log(LEAST_PROBABILITY)
        columns = [
            np.full(inputs.shape[0], -least if head else least)
            if isinstance(head, bool)
            else head.decision_function(inputs)
            for head in self.heads
        ]
        return np.stack(columns, axis=-1).astype(np.float64)


def _several(features: Callable[[Examples], Any], inputs: Any, train: Examples, strength: float) -> CheapModel:
    """One-vs-rest, with thresholds that were chosen on examples which it had not seen; then it is fitted to all."""
    labels, thresholds = np.array(train.columns["label"]), None
    if len(set(train.keys)) > 1:
        parts = hold_out.draw(train.keys, hold_out.classes_to_draw_by(train), 0)
        first = OneVsRest.fit(inputs[parts.trained], labels[parts.trained], strength)
        thresholds = best_thresholds(first.log_odds(inputs[parts.scored]), labels[parts.scored])
    head = OneVsRest.fit(inputs, labels, strength)
    return CheapModel(features, head, (), labels.shape[1], head.converged, thresholds)


class Features:
    """From examples to the inputs of the linear model."""

    def __init__(self, vectors: Vectors, train: Examples, *, standardise: bool) -> None:
        self._vectors = vectors
        self._standardise = standardise
        if standardise:
            inputs = self._joined(train)
            deviation = inputs.std(0)
            self._mean, self._scale = inputs.mean(0), np.where(deviation > 0, deviation, np.float32(1))

    def __call__(self, examples: Examples) -> Any:
        """(n, features), sparse or not."""
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
    """Unit vectors of words and pairs of neighbouring words, weighted by their rareness in the train texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS, token_pattern=r"(?u)\b\w+\b"
    )
    texts = _texts(train)
    try:
        vectorizer.fit(texts)
    except ValueError:  # no word in any of them
        return lambda texts: sp.csr_matrix((len(texts), 1))
    if len(vectorizer.vocabulary_) == MOST_TERMS:
        notice(train.task.title, f"{TF_IDF} reads only the {MOST_TERMS:,} most frequent words and word pairs")
    return lambda texts: vectorizer.transform(texts).tocsr()


def static_embeddings(train: Examples, tokenizer: PreTrainedTokenizerFast, embeddings: NDArray[np.float32]) -> Vectors:
    """The mean of the embeddings of a text's tokens, each weighted by its rareness in the train texts.

    What model2vec makes of a model, its principal components too, but without the forward pass of each token: no
    context, no position, no layer.

    Args:
        train: its texts give the weights, log((1 + texts) / (1 + texts with the token)) + 1.
        tokenizer: that the embeddings belong to.
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
    """The embeddings in at most `MOST_COMPONENTS` dimensions, those in which they differ most."""
    if embeddings.shape[1] <= MOST_COMPONENTS:
        return embeddings
    centred = embeddings - embeddings.mean(0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return np.asarray(centred @ directions[:, -MOST_COMPONENTS:], dtype=np.float32)


def _texts(examples: Examples) -> list[str]:
    columns = [name for name in ("text", "text_pair") if name in examples.columns]
    return [text for name in columns for text in examples.columns[name]]
