"""compress: makes smaller and faster variants of a fine-tuned model, scores and times each, and keeps the best.

The order is that of FastFormers (Kim and Hassan 2020): ONNX Runtime's graph, 8-bit integers, then fewer heads and
feed-forward neurons, with distillation after each pruning. All choices use examples held out of the train split; the
validation split is scored once for each variant and chooses nothing.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert import results
from tinydistilbert.benchmark.timing import summarize
from tinydistilbert.compress.builder import VariantBuilder, encoded, held_out_predictions, logits_of, on_disk
from tinydistilbert.compress.measure import (
    TEACHER,
    Bar,
    MeasuredVariant,
    Times,
    bar_for,
    best_variant,
    has_target,
    measured_variants,
    timed_side_by_side,
)
from tinydistilbert.compress.variants import Variant
from tinydistilbert.compress.vocabulary import losses
from tinydistilbert.evaluation import metrics, resampling
from tinydistilbert.evaluation.evaluate import trained_on_scored, write_predictions
from tinydistilbert.evaluation.scoring import Predictions, read_predictions, score, threshold_for
from tinydistilbert.models.lengths import MAX_LENGTH
from tinydistilbert.models.loading import load_config, load_tokenizer
from tinydistilbert.models.processor import processor
from tinydistilbert.models.runtimes import AGREEMENT, EXPORT_KEY, TEXTS, exported_facts, model_bytes
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.notices import notice
from tinydistilbert.recipe.schema import recipe_hash
from tinydistilbert.report.calibration import AGREEMENT as WANTED
from tinydistilbert.report.calibration import agreement
from tinydistilbert.report.chosen import Answers
from tinydistilbert.report.compression import TEACHER_SIZE, TEACHER_TIME
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import CARD, MEASUREMENTS, VARIANT_TIMES, CompressedFolder, predictions_file
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.recipe_splits import recipe_examples, scored_split
from tinydistilbert.tasks.repeated import shared_texts

_PROTOCOL = {"protocol": "true-length", "batch_size": 1, "threads": 1, "device": "cpu"}
TASK = "compress"
"""The task name of measurements of variants; their details name the task that the model was fine-tuned on."""


def compress_task_model(builder: VariantBuilder) -> None:
    """Make the variants until the targets are reached, measure them side by side, and keep the best.

    Writes `summary/` (measurements, predictions, single times) and `best/` into the builder's folder; if they are
    finished, it only checks that they were made from the current inputs.

    Raises:
        UserError: the model does not fit the task, a file of a variant has changed since it was written, or the folder
            was made from something other than the builder's sources.
    """
    folder, recipe, task = builder.folder, builder.recipe, builder.task
    if atomic.is_finished(folder.summary):
        made_from.check(folder.summary, builder.sources)
        return
    limit = recipe.finetune.settings(task.name).validation_examples
    validation = recipe_examples(recipe, task, scored_split(recipe.finetune, task), limit=limit)
    measured, times = timed_side_by_side(builder, measured_variants(builder, validation), validation)
    _say_what_the_vocabulary_loses(builder, validation)
    bar = bar_for(builder, measured)
    best = best_variant(measured, recipe.compress, bar)
    shutil.rmtree(atomic.partial(folder.best), ignore_errors=True)  # it may have files of another variant
    made_from.begin(folder.best, builder.sources)
    left_out = shutil.ignore_patterns(atomic.MANIFEST, made_from.FILE, CARD)
    with atomic.unfinished(folder.best) as output:
        shutil.copytree(best.variant.folder, output, dirs_exist_ok=True, ignore=left_out)
        if facts := exported_facts(output):
            config = atomic.read_json(output / CONFIG)
            facts |= {
                "scored_on": processor(),
                TEXTS: builder.task.texts_per_input,
                **_agreement(builder, best.variant),
            }
            atomic.write_json(output / CONFIG, config | {EXPORT_KEY: facts})
    _write_summary(builder, measured, best, bar, times, validation)


def _agreement(builder: VariantBuilder, variant: Variant) -> dict[str, Any]:
    """Return from which confidence a variant agrees with the teacher on the held-out examples; `serve` reads it.

    Empty if the model is its own teacher, or if predictions are not single classes.
    """
    if builder.teacher is None or builder.task.kind != "classification":
        return {}
    student, teacher = (
        Answers(predicted.values, np.array(predicted.extra["probabilities"]))
        for predicted in (held_out_predictions(builder, folder) for folder in (variant.folder, builder.teacher))
    )
    finite = np.isfinite(student.confidence)
    level = agreement(student.confidence[finite], (student.classes == teacher.classes)[finite])
    counts = {"examples": level.examples, "agreeing": level.agreeing} if level else {"examples": 0, "agreeing": 0}
    threshold = level.threshold if level else None
    return {AGREEMENT: {"threshold": threshold, "wanted": WANTED, **counts, "held_out": len(builder.held_out)}}


def _say_what_the_vocabulary_loses(builder: VariantBuilder, validation: Examples) -> None:
    """Print a notice if a smaller vocabulary splits the scored texts into other pieces."""
    trimmed = builder.folder.variant("whole").trimmed
    if builder.recipe.compress.vocabulary and atomic.is_finished(trimmed):
        texts = (text for example in validation.texts for text in example)
        if lost := losses(load_tokenizer(builder.model), load_tokenizer(trimmed), texts):
            notice(f"compress {builder.task.title}", f"{lost} ({validation.split})")


def missed_targets(folder: CompressedFolder) -> str:
    """Return what a finished compression did not reach, in words; empty if it reached all targets or had none."""
    return str(atomic.read_manifest(folder.summary)["unreached"])


def _write_summary(
    builder: VariantBuilder, measured: Sequence[MeasuredVariant], best: MeasuredVariant, bar: Bar, times: Times,
    validation: Examples,
) -> None:  # fmt: skip
    """Score all variants, and write the finished summary folder."""
    settings = builder.recipe.compress
    scored = [_predictions(builder, one.variant, validation) for one in measured]
    first = scored[0][0]
    measurements: list[Measurement] = []
    in_train = shared_texts(builder.recipe, builder.task, [validation.split]).get(validation.split, 0)
    made_from.begin(builder.folder.summary, builder.sources)
    missed = best.misses(settings) if has_target(settings) else []
    unreached = "; ".join([*missed, *bar.misses(best, settings)])
    with atomic.unfinished(builder.folder.summary, unreached=unreached, best=best.variant.name) as output:
        for number, (one, (predicted, cut)) in enumerate(zip(measured, scored, strict=True)):
            shared = {
                "of": builder.task.name, "row": builder.row, "place": number, "best": one is best,
                "note": one.variant.note, "held_out": one.held_out, "held_out_first": measured[0].held_out,
                "held_out_examples": len(builder.held_out), "operations": one.operations, "shared_texts": in_train,
                MAX_LENGTH: builder.max_length, "cut_texts": cut,
                "precision": exported_facts(one.variant.folder).get("precision", "fp32"),
            }  # fmt: skip
            measurements += _measurements(builder, one, validation, predicted, first, times[one.variant.name], shared)
            write_predictions(output / predictions_file(number), validation, predicted)
        if builder.teacher:
            measurements += _of_teacher(builder, builder.teacher, validation, times[TEACHER])
        atomic.write_json(
            output / VARIANT_TIMES,
            {name: [[round(1000 * s, 4) for s in part] for part in parts] for name, parts in times.items()},
        )
        results.write(output / MEASUREMENTS, measurements)


def _predictions(builder: VariantBuilder, variant: Variant, validation: Examples) -> tuple[Predictions, int]:
    """Return the predictions of a variant, and how many texts were cut for it."""
    features = encoded(builder, validation, variant.folder)
    threshold = threshold_for(load_config(variant.folder), validation)
    logits = logits_of(builder, variant.folder, features)
    return read_predictions(validation, features, logits, threshold=threshold), features.cut


def _measurements(
    builder: VariantBuilder, one: MeasuredVariant, validation: Examples, predictions: Predictions, first: Predictions,
    times: Sequence[Sequence[float]], shared: Mapping[str, Any],
) -> Iterable[Measurement]:  # fmt: skip
    """Return score, time and size of a variant."""
    recipe, headline = builder.recipe, builder.task.headline
    value, details = score(validation, predictions, seed=recipe.seed)[headline]
    common: dict[str, Any] = {
        "split": validation.split, "seed": recipe.seed, "recipe": recipe.name, "recipe_hash": recipe_hash(recipe),
        "data_fingerprint": validation.fingerprint,
    }  # fmt: skip
    scored = Measurement(one.variant.name, TASK, headline, value, **common)
    details = {**details, "warnings": [*trained_on_scored(validation, shared["shared_texts"]), *details["warnings"]]}
    difference = _difference(builder.task, validation, predictions, first, seed=recipe.seed)
    timed = summarize(times, validation.total)
    protocol = {**_PROTOCOL, "clock": recipe.compress.clock, **timed}
    yield replace(
        scored, examples=len(validation), examples_total=validation.total,
        details={**shared, **details, "difference": difference},
    )  # fmt: skip
    yield replace(
        scored, metric="milliseconds", value=timed["p50_ms"], higher_is_better=False, examples=sum(map(len, times)),
        examples_total=validation.total, seconds=sum(map(sum, times)), details={**shared, **protocol},
    )  # fmt: skip
    size = {**shared, "parameters": one.parameters}
    yield replace(scored, metric="bytes", value=one.size, higher_is_better=False, details=size)


def _of_teacher(
    builder: VariantBuilder, teacher: Path, validation: Examples, times: Sequence[Sequence[float]]
) -> Iterable[Measurement]:
    """Return time and size of the teacher, which was timed in turns with the variants."""
    recipe, timed = builder.recipe, summarize(times, validation.total)
    common: dict[str, Any] = {
        "split": validation.split, "higher_is_better": False, "seed": recipe.seed, "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe), "data_fingerprint": validation.fingerprint,
    }  # fmt: skip
    of = {"of": builder.task.name, "row": builder.row}
    protocol = {**_PROTOCOL, "clock": recipe.compress.clock, **timed}
    yield Measurement(
        TEACHER, TASK, TEACHER_TIME, timed["p50_ms"], examples=sum(map(len, times)), examples_total=validation.total,
        seconds=sum(map(sum, times)), details={**of, **protocol}, **common,
    )  # fmt: skip
    size = model_bytes(on_disk(teacher))
    yield Measurement(TEACHER, TASK, TEACHER_SIZE, size, details=of, **common)


def _difference(
    task: Task, validation: Examples, predictions: Predictions, first: Predictions, *, seed: int
) -> dict[str, Any]:
    """Return the difference in headline metric to the unchanged model, with a paired bootstrap."""
    gold: NDArray[Any]
    if task.kind == "span":
        one, other = (
            metrics.squad_scores(side.texts, side.gold, task.answer_units)[task.headline]
            for side in (predictions, first)
        )
        gold = np.zeros(len(one))
    else:
        one, other = predictions.values, first.values
        gold = np.zeros_like(one) if predictions.tags else np.array(validation.columns["label"])
    paired = resampling.paired_test(task.kind, task.headline, gold, one[None], other[None], seed=seed)
    return {"value": paired.difference, "interval": list(paired.interval), "p": paired.p}
