"""A task model and the splits of its task → predictions, samples and measurements, in one finished folder."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from tinydistilbert import results
from tinydistilbert.evaluation.scoring import Predictions, notes_on_answers, read_predictions, score, threshold_for
from tinydistilbert.models.lengths import MAX_LENGTH
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer
from tinydistilbert.notices import notice
from tinydistilbert.recipe.schema import Recipe, recipe_hash
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import EXAMPLE_HASH, MEASUREMENTS, SAMPLES, predictions_file
from tinydistilbert.storage import atomic, json_lines
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.label_thresholds import LABEL_THRESHOLDS
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.repeated import is_alarming, shared_in_words
from tinydistilbert.tasks.span_losses import span_losses
from tinydistilbert.tasks.splits import has_split
from tinydistilbert.tasks.squad import NULL_THRESHOLD
from tinydistilbert.tasks.words import WORDS
from tinydistilbert.training.ranks import ALONE, Ranks

SAMPLE_COUNT = 8
"""Number of examples that are shown with their predictions."""


def predictions_table(examples: Examples, predictions: Predictions) -> pa.Table:
    """Return the predictions with their example's `idx` or `id`, hash and label, and logits or best answers.

    In token classification, label and prediction are lists of tags.
    """
    if examples.task.kind == "span":
        shared = {"id": examples.columns["id"], "answers": predictions.gold, "prediction_text": predictions.texts}
    elif predictions.tags:
        shared = {"idx": examples.columns["idx"], "label": predictions.tags[0], "prediction": predictions.tags[1]}
    else:
        columns = examples.columns
        shared = {"idx": columns["idx"], "label": columns["label"], "prediction": predictions.values.tolist()}
    return pa.table({**shared, EXAMPLE_HASH: examples.hashes, **predictions.extra})


def samples(examples: Examples, predictions: Predictions, *, seed: int) -> list[dict[str, Any]]:
    """Return up to eight examples, the same for every model, with label and prediction as words."""
    count = min(SAMPLE_COUNT, len(examples))
    chosen = np.sort(np.random.default_rng(seed).choice(len(examples), count, replace=False))
    shown = [name for name in examples.columns if name not in ("label", "answers", WORDS)]
    return [
        {
            "split": examples.split,
            **{name: examples.columns[name][i] for name in shown},
            "gold": predictions.gold[i],
            "prediction": _finite(predictions.texts[i]),
        }
        for i in chosen
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def evaluate(
    model_folder: Path, task: Task, *, row: str, seed: int, recipe: Recipe, output: Path, device: torch.device,
    training: Mapping[str, Any], max_length: int, output_labels: tuple[str, ...] = (),
    shared: Mapping[str, int] = MappingProxyType({}), ranks: Ranks = ALONE,
) -> None:  # fmt: skip
    """Score a task model on every available split of its task, or on the held-out part of the train split.

    Writes the finished folder `output`: `predictions-<split>.parquet`, `samples.jsonl` and `measurements.jsonl`. The
    sample of the split, the resamples and the shown examples depend on `recipe.seed`, so they are the same for every
    row and seed of a recipe.

    Args:
        model_folder: a model with the task's head, and its tokenizer.
        task: the task to score it on.
        row: name of the model in the tables.
        seed: that the model was fine-tuned with.
        recipe: has the data and the sizes.
        output: folder to write.
        device: to predict on.
        training: content of the `training.json` of `finetune`; empty for a given model.
        max_length: tokens that the model reads of an input.
        output_labels: the class of each output of a given model; empty = by the names in its config.
        shared: by split, how many of the scored texts are in the train split.
        ranks: the processes that share the predictions; rank 0 scores and writes them.

    Raises:
        UserError: the split of the tables is missing, or its content is wrong.
    """
    tokenizer = load_tokenizer(model_folder)
    model = load_model(model_folder, task.kind, labels=task.labels, require_head=True)
    present, missing = scored_splits(recipe, task)
    measurements: list[Measurement] = []
    shown: list[dict[str, Any]] = []
    with ranks.unfinished(output, task=task.name, row=row, seed=seed) as folder:
        for split in present:
            begin = time.perf_counter()
            limit = recipe.finetune.settings(task.name).validation_examples
            examples = recipe_examples(recipe, task, split, limit=limit)
            features = encode(examples, tokenizer, max_length)
            logits = predict(model, features, pad_token_id=_pad_token_id(tokenizer), device=device, ranks=ranks)
            if not ranks.is_main:
                continue
            config = load_config(model_folder)
            order = check_classes(model_folder, config, examples.task, output_labels)
            if order is not None:  # a given model with another order of classes
                logits = [row[..., order] for row in logits]
            threshold = threshold_for(config, examples, order)
            predictions = read_predictions(examples, features, logits, threshold=threshold)
            scores = score(examples, predictions, seed=recipe.seed)
            seconds = time.perf_counter() - begin
            common: dict[str, Any] = {
                "device": str(device), "precision": "fp32", "seconds_training": training.get("seconds", 0.0)
            }  # fmt: skip
            warnings = [*trained_badly(training), *trained_on_scored(examples, shared.get(split, 0))]
            if shared.get(split):
                common["shared_texts"] = shared[split]
            if task.kind == "span":
                notes = [*notes_on_answers(examples), *span_losses(examples, features)]
                for note in notes:
                    notice(task.title, note)
                common |= {"answer_units": task.answer_units, "notes": [*notes, *training.get("notes", ())]}
            if isinstance(threshold, np.ndarray):
                common[LABEL_THRESHOLDS] = threshold.tolist()
            elif threshold is not None:
                common[NULL_THRESHOLD] = threshold
                if not hasattr(config, NULL_THRESHOLD):
                    warnings.append("the model has no null threshold, so 0 was used")
            common |= {
                name: training[name] for name in ("selected", "unlabelled_examples", "left_out") if name in training
            }
            common |= {
                MAX_LENGTH: max_length,
                "cut_texts": features.cut,
                "cut_train_texts": training.get("cut_texts", 0),
            }
            if "precision" in training:
                common["training_precision"] = training["precision"]
            if missing:
                common["missing"] = missing
            measurements += [
                Measurement(
                    model=row, task=task.name, metric=metric, value=value, split=split,
                    **_counts(examples, details), train_examples=training.get("train_examples", 0),
                    train_examples_total=training.get("train_examples_total", 0), seed=seed,
                    seconds=round(common["seconds_training"] + seconds, 3),
                    recipe=recipe.name, recipe_hash=recipe_hash(recipe), data_fingerprint=examples.fingerprint,
                    details={**details, **common, "warnings": [*warnings, *details["warnings"]]},
                )
                for metric, (value, details) in scores.items()
            ]  # fmt: skip
            shown += samples(examples, predictions, seed=recipe.seed)
            write_predictions(folder / predictions_file(split), examples, predictions)
        if not ranks.is_main:
            return
        json_lines.write(folder / SAMPLES, shown)
        results.write(folder / MEASUREMENTS, measurements)


def scored_splits(recipe: Recipe, task: Task) -> tuple[list[str], list[str]]:
    """Return the splits that a recipe scores on, and the missing ones; if all are missing, loading the first fails."""
    wanted = (HELD_OUT,) if recipe.finetune.score_on == "train" else task.evaluation
    present = [split for split in wanted if split == HELD_OUT or has_split(task, split, recipe.data)]
    return present or [wanted[0]], [split for split in wanted if split not in present]


def trained_on_scored(examples: Examples, shared: int) -> list[str]:
    """Return a warning if too many of the scored texts are in the train split."""
    if not is_alarming(examples.task, shared, len(examples)):
        return []
    return [shared_in_words(examples.task, examples.split, shared, len(examples))]


def _counts(examples: Examples, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of scored and of all examples of a metric; some metrics are of a part of the questions."""
    part = details.get("examples")
    if part is None:
        return {"examples": len(examples), "examples_total": examples.total}
    return {"examples": part, "examples_total": part if len(examples) == examples.total else examples.total}


def trained_badly(training: Mapping[str, Any]) -> list[str]:
    """Return reasons in its training to distrust a score, one sentence each."""
    warnings = []
    if "failed" in training:
        warnings.append(f"the training failed at {training['failed']}")
    if training.get(NULL_THRESHOLD, {}).get("questions") == 0:
        warnings.append("too few train questions to choose the null threshold, so it is 0")
    loss, without = training.get("loss"), training.get("loss_without_learning")
    if loss is not None and without is not None and loss >= without:
        warnings.append(
            f"the head learned nothing: its training loss ended at {loss:.3f}; label frequencies give {without:.3f}"
        )
    return warnings


def _pad_token_id(tokenizer: Any) -> int:
    assert isinstance(tokenizer.pad_token_id, int), "encoders have a padding token"
    return tokenizer.pad_token_id


def write_predictions(path: Path, examples: Examples, predictions: Predictions) -> None:
    """Write the predictions of all examples to a Parquet file."""
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(predictions_table(examples, predictions), buffer, compression="zstd")
    atomic.write_bytes(path, buffer.getvalue().to_pybytes())
