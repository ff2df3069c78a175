"""How good, how fast and how large variants are, and which of them is kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinydistilbert.benchmark.pairs import slices_of_like_lengths
from tinydistilbert.benchmark.timing import CLOCKS, Timed, one_core, summarize, time_in_turns
from tinydistilbert.compress.builder import (
    VariantBuilder,
    encoded,
    held_out_score,
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
"""By which a variant is compared with a target before the next is made."""
TEACHER = "teacher, torch"
"""The name of the teacher among the times."""
ROUNDS = 5
"""In which all variants are timed side by side."""
Times = dict[str, list[list[float]]]
"""Seconds of single inputs, by the name of the variant and round."""


@dataclass(frozen=True)
class MeasuredVariant:
    """A variant with what it is chosen by."""

    variant: Variant
    held_out: float
    """Headline metric on the examples that choose."""
    milliseconds: float
    """Median of one input on one core."""
    size: int
    """Bytes of the model file."""
    operations: float
    """Of an input of mean length; of int8 variants they are integer ones."""
    parameters: int

    def _by_target(self, settings: Compress) -> list[tuple[str, float, str]]:
        """For each target its value, what was reached as a multiple of it, and that in words."""
        reached = (
            (settings.target_latency, self.milliseconds, f"{self.milliseconds:.2f} ms"),
            (settings.target_size, self.size, f"{self.size / 1e6:.1f} MB"),
            (settings.target_operations, self.operations, f"{self.operations / 1e6:.0f} M operations"),
        )
        return [(target, value / quantity(target), shown) for target, value, shown in reached]

    def misses(self, settings: Compress) -> list[str]:
        """Targets of time and size that it does not reach, in words."""
        return [f"{shown} instead of {target}" for target, times, shown in self._by_target(settings) if times > 1]

    def excess(self, settings: Compress) -> float:
        """The target that it misses most: how many times too much."""
        return max(times for _, times, _ in self._by_target(settings))


def has_target(settings: Compress) -> bool:
    """Whether the recipe says how fast or small the model has to become."""
    return bool(settings.target_latency or settings.target_size or settings.target_operations)


@dataclass(frozen=True)
class Bar:
    """The score on the held-out examples that a variant has to have."""

    score: float
    teacher: float = math.nan
    """The teacher's score on them, and the majority's, where the bar is a share of what lies between."""
    majority: float = math.nan

    def kept(self, one: MeasuredVariant) -> float:
        """Share of the teacher's score above the majority that a variant has; NaN where there is no such share."""
        above = self.teacher - self.majority
        return (one.held_out - self.majority) / above if above > 0 else math.nan

    def misses(self, one: MeasuredVariant, settings: Compress) -> list[str]:
        """What a variant misses of `min_kept`, in words."""
        if not settings.min_kept:
            return []
        if not self.teacher > self.majority:
            return ["nothing to keep, as the teacher is not above the majority on the held-out examples"]
        if one.held_out >= self.score:
            return []
        return [f"{100 * self.kept(one):.1f} % of the teacher's score instead of {100 * settings.min_kept:.4g} %"]


def bar_for(builder: VariantBuilder, measured: Sequence[MeasuredVariant]) -> Bar:
    """What the variants' scores are compared with: the first's less `max_loss`, or with `min_kept` the teacher's."""
    settings = builder.recipe.compress
    if not settings.min_kept:
        return Bar(measured[0].held_out - settings.max_loss / 100)
    majority = majority_headline(builder.held_out)
    teacher = held_out_score(builder, builder.teacher) if builder.teacher else measured[0].held_out
    return Bar(majority + settings.min_kept * max(teacher - majority, 0.0), teacher, majority)


def best_variant(measured: Sequence[MeasuredVariant], settings: Compress, bar: Bar) -> MeasuredVariant:
    """The variant to keep: with targets the first that reaches them all, else the fastest that reaches the bar.

    With `min_kept` it is the smallest of those that reach both.
    A variant below the bar is taken only where no other reaches the targets: with `min_kept` the best of those that
    do, else the first. Where none reaches the targets it is the one that comes nearest. The first, the model as it was,
    is only what the others are compared with, if there are others.
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
    """The variants down to the one that reaches the targets, each with its first measurements.

    Raises:
        UserError: the model itself cannot be exported. A later variant that cannot be made is the end of the list.
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
        builder.log(f"  no smaller variant: {error}")  # what was made is worth keeping
    return measured


def _measure(builder: VariantBuilder, variant: Variant, validation: Examples) -> MeasuredVariant:
    model = load_model(variant.source, builder.task.kind, require_head=True)
    length = float(encoded(builder, validation, variant.folder).lengths.mean())
    times = _times(builder, [variant], validation, QUICK_INPUTS, rounds=QUICK_ROUNDS)[variant.name]
    return MeasuredVariant(
        variant, held_out_score(builder, variant.folder), summarize(times, 1)["p50_ms"],
        model_bytes(variant.folder), Size.of(model).forward(length, length),
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
    """The variants with the times that the table shows, and every single time, the teacher's too."""
    examples = builder.recipe.compress.timed_examples
    teacher = [Variant(TEACHER, builder.teacher, builder.teacher)] if builder.teacher else []
    times = _times(builder, [*(one.variant for one in measured), *teacher], validation, examples, rounds=ROUNDS)
    return [replace(one, milliseconds=summarize(times[one.variant.name], 1)["p50_ms"]) for one in measured], times


def _times(
    builder: VariantBuilder, timed_variants: Sequence[Variant], validation: Examples, examples: int, rounds: int
) -> Times:
    """Seconds of single validation inputs, by variant and round, in turns on one core."""
    timed: dict[str, Timed] = {}
    slices: list[list[int]] = []
    for variant in timed_variants:
        features = encoded(builder, validation, variant.folder)
        slices = slices or slices_of_like_lengths(features.lengths.tolist(), examples, rounds, 0)
        timed[variant.name] = _timed(builder, variant, features)
    with one_core():
        return time_in_turns(timed, slices, CLOCKS[builder.recipe.compress.clock])


def _timed(builder: VariantBuilder, variant: Variant, features: Features) -> Timed:
    runtime, pad = runtime_of(builder, variant.folder, threads=1), pad_token_id(builder, variant.folder)
    left_out = () if runtime.token_types else ("token_type_ids",)

    def prepare(index: int) -> ModelInputs:
        (inputs,) = single_inputs(features, [index], pad)
        return {name: array for name, array in inputs.items() if name not in left_out}

    return Timed(prepare, runtime)
