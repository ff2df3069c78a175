"""Scores, latencies and sizes of variants, and which variant is kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.benchmark.pairs import slices_of_like_lengths
from tinydistilbert.benchmark.timing import CLOCKS, Timed, one_core, summarize, time_in_turns
from tinydistilbert.compress.builder import (
    VariantBuilder,
    encoded,
    held_out_score,
    on_disk,
    pad_token_id,
    runtime_of,
    single_inputs,
)
from tinydistilbert.compress.variants import Variant, variants
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.scoring import majority_headline
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import load_model
from tinydistilbert.models.runtimes import ModelInputs, model_bytes
from tinydistilbert.models.size import Size
from tinydistilbert.recipe.schema import Compress
from tinydistilbert.recipe.types import quantity
from tinydistilbert.report.table import signed
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features

QUICK_INPUTS, QUICK_ROUNDS = 40, 2
"""Inputs and rounds by which a variant is compared with a target before the next one is made."""
TEACHER = "teacher, torch"
"""Name of the teacher in the times."""
ROUNDS = 5
"""Rounds in which all variants are timed side by side."""
Times = dict[str, list[list[float]]]
"""Seconds of single inputs, by variant name and round."""


@dataclass(frozen=True)
class MeasuredVariant:
    """A variant with the measurements by which it is chosen."""

    variant: Variant
    held_out: float
    """Headline metric on the held-out examples."""
    milliseconds: float
    """Median time of one input on one core."""
    size: int
    """Bytes of the model file."""
    operations: float
    """Operations for an input of mean length; in int8 variants, integer operations."""
    parameters: int

    def _by_target(self, settings: Compress) -> list[tuple[str, float, str]]:
        """Return each target, the reached value as a multiple of it, and the reached value in words."""
        reached = (
            (settings.target_latency, self.milliseconds, f"{self.milliseconds:.2f} ms"),
            (settings.target_size, self.size, f"{self.size / 1e6:.1f} MB"),
            (settings.target_operations, self.operations, f"{self.operations / 1e6:.0f} M operations"),
        )
        return [(target, value / quantity(target), shown) for target, value, shown in reached]

    def misses(self, settings: Compress) -> list[str]:
        """Return the targets that it does not reach, in words."""
        return [f"{shown} instead of {target}" for target, times, shown in self._by_target(settings) if times > 1]

    def excess(self, settings: Compress) -> float:
        """Return by what factor it misses its worst target."""
        return max(times for _, times, _ in self._by_target(settings))


def has_target(settings: Compress) -> bool:
    """Whether the recipe sets a target for latency, size or operations."""
    return bool(settings.target_latency or settings.target_size or settings.target_operations)


@dataclass(frozen=True)
class Bar:
    """The score that a variant must reach on the held-out examples."""

    score: float
    teacher: float = math.nan
    """The teacher's score and the majority baseline's, if the bar is a share of the difference between them."""
    majority: float = math.nan

    def kept(self, one: MeasuredVariant) -> float:
        """Return the share of the teacher's score above the majority that a variant keeps; NaN if it is undefined."""
        above = self.teacher - self.majority
        return (one.held_out - self.majority) / above if above > 0 else math.nan

    def misses(self, one: MeasuredVariant, settings: Compress) -> list[str]:
        """Return how a variant misses `min_kept`, in words."""
        if not settings.min_kept:
            return []
        if not self.teacher > self.majority:
            return ["nothing to keep, as the teacher is not above the majority on the held-out examples"]
        if one.held_out >= self.score:
            return []
        return [f"{100 * self.kept(one):.1f} % of the teacher's score instead of {100 * settings.min_kept:.4g} %"]


def bar_for(builder: VariantBuilder, measured: Sequence[MeasuredVariant]) -> Bar:
    """Return the bar: the first variant's score minus `max_loss`, or with `min_kept` a share of the teacher's score."""
    settings = builder.recipe.compress
    if not settings.min_kept:
        return Bar(measured[0].held_out - settings.max_loss / 100)
    majority = majority_headline(builder.held_out)
    teacher = held_out_score(builder, builder.teacher) if builder.teacher else measured[0].held_out
    return Bar(majority + settings.min_kept * max(teacher - majority, 0.0), teacher, majority)


def best_variant(measured: Sequence[MeasuredVariant], settings: Compress, bar: Bar) -> MeasuredVariant:
    """Return the variant to keep: the first to reach targets and bar, or without targets the fastest at the bar.

    With `min_kept`, it is the smallest one that reaches both. A variant below the bar is taken only if no other reaches
    the targets: with `min_kept` the best one that does, else the first. If none reaches the targets, it is the closest
    one. The first variant, the unchanged model, is only the reference for the others, unless it is the only one.
    """
    others = measured[1:] or measured
    within = [one for one in others if one.held_out >= bar.score]
    reaching = [one for one in others if not one.misses(settings)] if has_target(settings) else list(others)
    if both := [one for one in reaching if one in within]:
        if settings.min_kept:
            return min(both, key=lambda one: (one.size, one.milliseconds))
        return both[0] if has_target(settings) else min(both, key=lambda one: one.milliseconds)
    if reaching and settings.min_kept:
        return max(reaching, key=lambda one: one.held_out)
    if reaching:
        return reaching[0] if has_target(settings) else min(reaching, key=lambda one: one.milliseconds)
    return min(others, key=lambda one: one.excess(settings))


def measured_variants(builder: VariantBuilder, validation: Examples) -> list[MeasuredVariant]:
    """Return the variants down to the one that reaches the targets, each with its first measurements.

    Raises:
        UserError: the model itself cannot be exported. A later variant that cannot be made ends the list.
    """
    settings, measured = builder.recipe.compress, list[MeasuredVariant]()
    try:
        for variant in variants(builder):
            measured.append(_measure(builder, variant, validation))
            _log(builder, measured[-1], measured[0])
            is_int8_made = len(measured) > 2 or settings.quantization == "none"
            enough = is_int8_made if settings.min_kept else len(measured) > 1
            if enough and has_target(settings) and not measured[-1].misses(settings):
                break
    except UserError as error:
        if len(measured) < 2:
            raise
        builder.log(f"  no smaller variant: {error}")  # keep what was made
    return measured


def _measure(builder: VariantBuilder, variant: Variant, validation: Examples) -> MeasuredVariant:
    model = load_model(variant.source, builder.task.kind, require_head=True)
    length = float(encoded(builder, validation, variant.folder).lengths.mean())
    times = _times(builder, [variant], validation, QUICK_INPUTS, rounds=QUICK_ROUNDS)[variant.name]
    return MeasuredVariant(
        variant, held_out_score(builder, variant.folder), summarize(times, 1)["p50_ms"],
        model_bytes(on_disk(variant.folder)), Size.of(model).forward(length, length),
        parameter_count(model),
    )  # fmt: skip


def _log(builder: VariantBuilder, measured: MeasuredVariant, first: MeasuredVariant) -> None:
    lost = signed(measured.held_out - first.held_out)
    builder.log(
        f"  {measured.variant.name}: {measured.milliseconds:.2f} ms, {measured.size / 1e6:.1f} MB"
        + (f", {lost} points on held-out train examples" if measured is not first else "")
    )


def timed_side_by_side(
    builder: VariantBuilder, measured: Sequence[MeasuredVariant], validation: Examples
) -> tuple[list[MeasuredVariant], Times]:
    """Return the variants with the times that the table shows, and all single times, including the teacher's."""
    examples = builder.recipe.compress.timed_examples
    teacher = [Variant(TEACHER, builder.teacher, builder.teacher)] if builder.teacher else []
    times = _times(builder, [*(one.variant for one in measured), *teacher], validation, examples, rounds=ROUNDS)
    return [replace(one, milliseconds=summarize(times[one.variant.name], 1)["p50_ms"]) for one in measured], times


def _times(
    builder: VariantBuilder, timed_variants: Sequence[Variant], validation: Examples, examples: int, rounds: int
) -> Times:
    """Return the seconds of single validation inputs, by variant and round, timed in turns on one core."""
    features = [encoded(builder, validation, variant.folder) for variant in timed_variants]
    slices = slices_of_like_lengths(features[0].lengths.tolist(), examples, rounds, 0)
    timed = {
        variant.name: _timed(builder, variant, of_variant, same_windows(features[0].example, of_variant.example))
        for variant, of_variant in zip(timed_variants, features, strict=True)
    }
    with one_core():
        return time_in_turns(timed, slices, CLOCKS[builder.recipe.compress.clock])


def same_windows(windows: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each window of the texts the one at its place in the same text, by another tokenizer.

    Another tokenizer may cut a long context into more windows or fewer; beyond a text's last window, that one is taken.

    Args:
        windows: the text of each window, in ascending order.
        others: the same for the other tokenizer.
    """
    place = np.arange(len(windows)) - np.searchsorted(windows, windows)
    first, end = np.searchsorted(others, windows), np.searchsorted(others, windows, side="right")
    same: NDArray[np.int64] = np.minimum(first + place, end - 1)
    return same


def _timed(builder: VariantBuilder, variant: Variant, features: Features, window_of: NDArray[np.int64]) -> Timed:
    runtime, pad = runtime_of(builder, variant.folder, threads=1), pad_token_id(builder, variant.folder)
    left_out = () if runtime.token_types else ("token_type_ids",)

    def prepare(index: int) -> ModelInputs:
        (inputs,) = single_inputs(features, [int(window_of[index])], pad)
        return {name: array for name, array in inputs.items() if name not in left_out}

    return Timed(prepare, runtime)
