"""The cheap baselines as rows of the tables: fitted and scored by the same protocol as the models beside them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.evaluate import samples, scored_splits, trained_on_scored, write_predictions
from tinydistilbert.evaluation.scoring import Predictions, predictions_of_rows, predictions_of_tags, score
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.word_embeddings import word_embeddings
from tinydistilbert.notices import notice
from tinydistilbert.recipe.names import MOST_FREQUENT_TAG, STATIC_EMBEDDINGS, TF_IDF
from tinydistilbert.recipe.schema import Recipe, recipe_hash
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import MEASUREMENTS, SAMPLES, predictions_file
from tinydistilbert.storage import atomic, json_lines
from tinydistilbert.tasks import baselines
from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.tag_baseline import MostFrequentTag

SEED = 0
"""Seed in the folder's name and the measurements; nothing in a baseline is random."""


def evaluate_baseline(
    name: str, task: Task, *, encoder: str | Path, recipe: Recipe, output: Path,
    shared: Mapping[str, int] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Fit a baseline to at most `MOST_EXAMPLES` train examples of a recipe, and score it as `evaluate` scores a model.

    Train examples, scored splits, metrics, intervals and warnings are the same. Texts are read whole, not cut to the
    longest input of a model. Writes the finished folder `output`: predictions, samples and measurements.

    Args:
        name: of the row: one of `baselines.BASELINES` for the task's kind.
        task: the task to fit it to.
        encoder: the teacher, whose word embeddings and tokenizer `static embeddings` uses.
        recipe: has the data and the sizes.
        output: folder to write.
        shared: by split, how many of the scored texts are in the train split.

    Raises:
        UserError: the data are wrong, or the encoder has no word embeddings.
    """
    begin = time.perf_counter()
    train = recipe_examples(recipe, task, task.train, limit=recipe.finetune.settings(task.name).train_examples)
    if len(train) > baselines.MOST_EXAMPLES and name != MOST_FREQUENT_TAG:  # counting tags has no such limit
        notice(task.name, f"{name} is fitted to {baselines.MOST_EXAMPLES:,} of {len(train):,} train examples")
        train = train.take(sample_rows(len(train), baselines.MOST_EXAMPLES, recipe.seed))
    predict, converged = _fitted(name, train, encoder)
    seconds_training = time.perf_counter() - begin
    present, missing = scored_splits(recipe, task)
    measurements, shown = list[Measurement](), list[dict[str, Any]]()
    with atomic.unfinished(output, task=task.name, row=name, seed=SEED) as folder:
        for split in present:
            begin = time.perf_counter()
            limit = recipe.finetune.settings(task.name).validation_examples
            examples = recipe_examples(recipe, task, split, limit=limit)
            predictions = predict(examples)
            scores = score(examples, predictions, seed=recipe.seed)
            common: dict[str, Any] = {"device": "cpu", "seconds_training": round(seconds_training, 3)}
            common |= {"converged": converged} | ({"missing": missing} if missing else {})
            common |= {"left_out": train.left_out} if train.left_out else {}
            warnings = trained_on_scored(examples, shared.get(split, 0))
            seconds = round(seconds_training + time.perf_counter() - begin, 3)
            measurements += [
                Measurement(
                    model=name, task=task.name, metric=metric, value=value, split=split, examples=len(examples),
                    examples_total=examples.total, train_examples=len(train), train_examples_total=train.total,
                    seed=SEED, seconds=seconds, recipe=recipe.name, recipe_hash=recipe_hash(recipe),
                    data_fingerprint=examples.fingerprint,
                    details={**details, **common, "warnings": [*warnings, *details["warnings"]]},
                )
                for metric, (value, details) in scores.items()
            ]  # fmt: skip
            shown += samples(examples, predictions, seed=recipe.seed)
            write_predictions(folder / predictions_file(split), examples, predictions)
        json_lines.write(folder / SAMPLES, shown)
        results.write(folder / MEASUREMENTS, measurements)


def _fitted(name: str, train: Examples, encoder: str | Path) -> tuple[Callable[[Examples], Predictions], bool]:
    """Return the prediction function, and whether the fit converged."""
    if name == MOST_FREQUENT_TAG:
        tagger = MostFrequentTag.fit(train)
        return lambda examples: predictions_of_tags(examples, tagger.tags(examples)), True
    model = baselines.fit(name, train, _vectors(name, train, encoder))
    return lambda examples: predictions_of_rows(examples, model.outputs(examples), model.thresholds), model.converged


def _vectors(name: str, train: Examples, encoder: str | Path) -> baselines.Vectors:
    makers: dict[str, Callable[[], baselines.Vectors]] = {
        TF_IDF: lambda: baselines.tf_idf(train),
        STATIC_EMBEDDINGS: lambda: _static(train, encoder),
    }
    return makers[name]()


def _static(train: Examples, encoder: str | Path) -> baselines.Vectors:
    embeddings = word_embeddings(encoder)
    if embeddings is None:
        fix = "set finetune.baselines = false"
        raise UserError(str(encoder), problem="it has no word embeddings, which the baseline needs", fix=fix)
    return baselines.static_embeddings(train, load_tokenizer(encoder), np.asarray(embeddings))
