"""compress: a fine-tuned model down a ladder of smaller and faster forms, each scored and timed.

The rungs are those of FastFormers (Kim and Hassan 2020): the graph of ONNX Runtime, 8-bit integers, then fewer heads
and feed-forward neurons, with distillation after each pruning. Everything that is chosen is chosen by examples held out
of the train split; the validation split is scored once for each rung and chooses nothing.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert import results
from tinydistilbert.benchmark.pairs import slices_of_like_lengths
from tinydistilbert.benchmark.timing import Timed, one_core, summarize, time_in_turns
from tinydistilbert.compress.variants import Rung, Workshop, pad_token_id, single_inputs
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics
from tinydistilbert.evaluation.evaluate import write_predictions
from tinydistilbert.evaluation.scoring import Predictions, read_predictions, score
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import load_model
from tinydistilbert.models.runtimes import ModelInputs
from tinydistilbert.models.size import Size
from tinydistilbert.recipe.schema import Compress, recipe_hash
from tinydistilbert.recipe.types import quantity
from tinydistilbert.report.table import signed
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import MEASUREMENTS, VARIANT_TIMES, predictions_file
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.recipe_splits import scored_split, wanted_examples

QUICKLY_TIMED = 40
"""Inputs by which a rung is compared with a target before the next is made."""
TASK = "compress"
"""The task name of measurements of rungs; the task that the model was fine-tuned on is in their details."""


Times = dict[str, list[list[float]]]
"""Seconds of single inputs, by the name of the rung and round."""


@dataclass(frozen=True)
class Form:
    """A rung with what the search looks at."""

    rung: Rung
    held_out: float
    """Headline metric on the examples that choose."""
    milliseconds: float
    """Median of one input on one core."""
    size: int
    """Bytes of the model file."""
    operations: float
    """Of an input of mean length; of int8 forms they are integer ones."""
    parameters: int

    def _reached(self, settings: Compress) -> list[tuple[str, float, str]]:
        """For each target what was wanted, what came out as a multiple of it, and that in words."""
        found = (
            (settings.target_latency, self.milliseconds, f"{self.milliseconds:.2f} ms"),
            (settings.target_size, self.size, f"{self.size / 1e6:.1f} MB"),
            (settings.target_operations, self.operations, f"{self.operations / 1e6:.0f} M operations"),
        )
        return [(wanted, value / quantity(wanted), shown) for wanted, value, shown in found]

    def misses(self, settings: Compress) -> list[str]:
        """Targets that it does not reach, in words."""
        return [f"{shown} instead of {wanted}" for wanted, times, shown in self._reached(settings) if times > 1]

    def excess(self, settings: Compress) -> float:
        """The target that it misses most: how many times too much."""
        return max(times for _, times, _ in self._reached(settings))


def climb_down(workshop: Workshop) -> str:
    """Make the rungs until the targets are reached, measure them side by side, and keep the best.

    Writes `summary/` (measurements, predictions, single times) and `best/` into the output of the workshop.

    Returns:
        What was not reached, as one sentence; empty when nothing was asked for or all of it was reached.

    Raises:
        UserError: the model is not one of the task, or a file of the ladder is not as it was written.
    """
    summary = workshop.output.summary
    if not atomic.is_finished(summary):
        ladder = _Ladder(workshop)
        forms, times = ladder.timed_together(ladder.forms())
        best = choose(forms, workshop.recipe.compress)
        shutil.rmtree(atomic.partial(workshop.output.best), ignore_errors=True)  # perhaps with files of another form
        with atomic.unfinished(workshop.output.best) as folder:
            shutil.copytree(
                best.rung.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(atomic.MANIFEST)
            )
        ladder.write(forms, best, times, summary)
    return str(atomic.read_manifest(summary)["unreached"])


def choose(forms: Sequence[Form], settings: Compress) -> Form:
    """The form to keep: with targets the first that reaches them all, else the fastest within the loss allowed.

    A form that loses more than `max_loss` on the held-out examples is taken only where no other reaches the targets.
    Where none reaches them it is the one that comes nearest. The first form, the model as it was, is only what the
    others are compared with, if there are others.
    """
    others = forms[1:] or forms
    within = [form for form in others if form.held_out >= forms[0].held_out - settings.max_loss / 100] or others
    if not _has_target(settings):
        return min(within, key=lambda form: form.milliseconds)
    for candidates in (within, others):
        for form in candidates:
            if not form.misses(settings):
                return form
    return min(others, key=lambda form: form.excess(settings))


def _has_target(settings: Compress) -> bool:
    return bool(settings.target_latency or settings.target_size or settings.target_operations)


class _Ladder:
    """The measuring of the rungs of one workshop."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.settings = workshop, workshop.recipe.compress
        self.task = workshop.task

    @cached_property
    def validation(self) -> Examples:
        """What the tables score."""
        recipe = self.workshop.recipe
        limit = recipe.finetune.settings(self.task.name).validation_examples
        return wanted_examples(recipe, self.task, scored_split(recipe, self.task), limit=limit)

    def forms(self) -> list[Form]:
        """The rungs down to the one that reaches the targets, each with its first measurements."""
        found: list[Form] = []
        try:
            for rung in self.workshop.rungs():
                found.append(self._measured(rung))
                self._log(found[-1], found[0])
                if len(found) > 1 and _has_target(self.settings) and not found[-1].misses(self.settings):
                    break
        except UserError as error:
            if len(found) < 2:
                raise
            self.workshop.log(f"  the ladder ends here: {error}")  # what was made is worth keeping
        return found

    def timed_together(self, forms: Sequence[Form]) -> tuple[list[Form], Times]:
        """The forms with the times that the table shows, measured side by side; and every single time."""
        times = self._times([form.rung for form in forms], self.settings.timed_examples, rounds=5)
        return [replace(form, milliseconds=summarize(times[form.rung.name], 1)["p50_ms"]) for form in forms], times

    def _measured(self, rung: Rung) -> Form:
        model = load_model(rung.source, self.task.kind, require_head=True)
        length = float(self._features(rung).lengths.mean())
        times = self._times([rung], QUICKLY_TIMED, rounds=2)[rung.name]
        return Form(
            rung, self.workshop.held_out_score(rung.folder), summarize(times, 1)["p50_ms"],
            sum(path.stat().st_size for path in rung.folder.glob("model.*")), Size.of(model).forward(length, length),
            parameter_count(model),
        )  # fmt: skip

    def _log(self, form: Form, first: Form) -> None:
        lost = signed(form.held_out - first.held_out)
        self.workshop.log(
            f"  {form.rung.name}: {form.milliseconds:.2f} ms, {form.size / 1e6:.1f} MB"
            + (f", {lost} points on held-out train examples" if form is not first else "")
        )

    def _features(self, rung: Rung) -> Features:
        return self.workshop.encoded(self.validation, rung.folder)

    def _times(self, rungs: Sequence[Rung], examples: int, rounds: int) -> Times:
        """Seconds of single validation inputs, by rung and round, in turns on one core."""
        timed: dict[str, Timed] = {}
        slices: list[list[int]] = []
        for rung in rungs:
            features = self._features(rung)
            slices = slices or slices_of_like_lengths(features.lengths.tolist(), examples, rounds, 0)
            timed[rung.name] = self._timed(rung, features)
        with one_core():
            return time_in_turns(timed, slices)

    def _timed(self, rung: Rung, features: Features) -> Timed:
        runtime, pad = self.workshop.runtime(rung.folder, threads=1), pad_token_id(rung.folder)
        left_out = () if runtime.token_types else ("token_type_ids",)

        def prepare(index: int) -> ModelInputs:
            (inputs,) = single_inputs(features, [index], pad)
            return {name: array for name, array in inputs.items() if name not in left_out}

        return Timed(prepare, runtime)

    def write(self, forms: Sequence[Form], best: Form, times: Times, output: Path) -> None:
        """Score all forms, and write the finished folder `output`."""
        said = [self._predictions(form.rung) for form in forms]
        measurements: list[Measurement] = []
        unreached = "; ".join(best.misses(self.settings)) if _has_target(self.settings) else ""
        with atomic.unfinished(output, unreached=unreached, best=best.rung.name) as folder:
            for place, (form, predictions) in enumerate(zip(forms, said, strict=True)):
                shared = {
                    "of": self.task.name, "row": self.workshop.row, "place": place, "best": form is best,
                    "note": form.rung.note, "held_out": form.held_out, "held_out_first": forms[0].held_out,
                    "held_out_examples": len(self.workshop.held_out), "operations": form.operations,
                }  # fmt: skip
                measurements += self._rows(form, predictions, said[0], times[form.rung.name], shared)
                write_predictions(folder / predictions_file(place), self.validation, predictions)
            atomic.write_json(
                folder / VARIANT_TIMES,
                {name: [[round(1000 * s, 4) for s in part] for part in parts] for name, parts in times.items()},
            )
            results.write(folder / MEASUREMENTS, measurements)

    def _predictions(self, rung: Rung) -> Predictions:
        features = self._features(rung)
        return read_predictions(self.validation, features, self.workshop.logits(rung.folder, features))

    def _rows(
        self, form: Form, predictions: Predictions, first: Predictions, times: Sequence[Sequence[float]],
        shared: Mapping[str, Any],
    ) -> Iterable[Measurement]:  # fmt: skip
        recipe, headline = self.workshop.recipe, self.task.headline
        value, judged = score(self.validation, predictions, seed=recipe.seed)[headline]
        common: dict[str, Any] = {
            "split": self.validation.split, "seed": recipe.seed, "recipe": recipe.name,
            "recipe_hash": recipe_hash(recipe), "data_fingerprint": self.validation.fingerprint,
        }  # fmt: skip
        one = Measurement(form.rung.name, TASK, headline, value, **common)
        examples, total = len(self.validation), self.validation.total
        judged = {**judged, "difference": self._difference(predictions, first)}
        timed = summarize(times, total)
        details = {"protocol": "true-length", "batch_size": 1, "threads": 1, "device": "cpu", **timed}
        yield replace(one, examples=examples, examples_total=total, details={**shared, **judged})
        yield replace(
            one, metric="milliseconds", value=timed["p50_ms"], higher_is_better=False, examples=sum(map(len, times)),
            examples_total=total, seconds=sum(map(sum, times)), details={**shared, **details},
        )  # fmt: skip
        size = {**shared, "parameters": form.parameters}
        yield replace(one, metric="bytes", value=form.size, higher_is_better=False, details=size)

    def _difference(self, predictions: Predictions, first: Predictions) -> dict[str, Any]:
        """The headline metric less that of the model as it was, with a paired bootstrap."""
        gold: NDArray[Any]
        if self.task.kind == "span":
            metric = metrics.mean_score
            one, other = (
                metrics.squad_scores(said.words, said.gold)[self.task.headline] for said in (predictions, first)
            )
            gold = np.zeros(len(one))
        else:
            metric = metrics.METRICS[self.task.headline]
            one, other, gold = predictions.values, first.values, np.array(self.validation.columns["label"])
        paired = metrics.paired_bootstrap(
            metric, gold, one[None], other[None], seed=self.workshop.recipe.seed, resamples=5_000
        )
        return {"value": paired.difference, "interval": list(paired.interval), "p": paired.p}
