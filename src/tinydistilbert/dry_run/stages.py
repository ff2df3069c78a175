"""The estimates of the stages that read text, of the latency benchmark, and what leads to those of the tasks."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from tinydistilbert.benchmark import ARCHITECTURES, PADDED_LENGTH, PAIRS, WARM_UP
from tinydistilbert.benchmark.protocols import PADDED
from tinydistilbert.data.masked_batches import VALIDATION_RATE
from tinydistilbert.distillation.adapt import adapt_steps, check_head
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.distillation.teacher_cache import cache_bytes
from tinydistilbert.dry_run import machine
from tinydistilbert.dry_run.basis import SECONDS_A_FOLDER, TOKENIZER_BYTES, Basis, Line, state_of
from tinydistilbert.dry_run.compression import compression
from tinydistilbert.dry_run.sizes import limited
from tinydistilbert.dry_run.tasks import TaskEstimates
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.size import Size
from tinydistilbert.pipeline.run import Run
from tinydistilbert.recipe.objective import TERMS, Needs
from tinydistilbert.recipe.schema import Optimization
from tinydistilbert.recipe.types import highest, seconds_of
from tinydistilbert.storage import atomic

PAIR_LENGTH = 31
"""Mean tokens of an STS-B pair, on which latency is timed."""
SECONDS_OF_REPORT = 5.0


class Planner(Basis):
    """The estimates for one recipe in one folder."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._tasks = TaskEstimates(self)

    def check_inputs(self) -> None:
        """Look at whatever a run checks before its first stage, in the same order; what is found is kept.

        Raises:
            UserError: something is wrong.
        """
        if self.recipe.finetune.model or self.recipe.compress.model:
            self.run.check_inputs()
            return
        match_layers(self.recipe.objective, self.recipe.student, self.models[0].config, self.models[1].config)
        self.run.check_lengths(self.models[0].config)
        _ = self._tasks.sizes if self.run.tasks() else None, self.text

    def lines(self, stage: str) -> Iterator[Line]:
        """The lines of a stage."""
        if stage == "finetune":
            yield from self._tasks.finetune()
        elif stage == "evaluate":
            yield self._tasks.evaluate()
        elif stage == "compress":
            yield compression(self)
        elif stage == "distill":
            if "control" in self.recipe.finetune.models:
                yield self._pretraining("control", "distill (control)", self.student, None, 0)
            if self.run.needs_student():
                yield self._distill()
        else:
            yield getattr(self, f"_{stage}")()

    def _prepare(self) -> Line:
        text = self.text
        if text is None:
            return Line("prepare", "to do", "data set on the hub: unknown until prepared", None)
        how = "" if text.is_prepared else "about "
        size = self.recipe.corpus.block_size
        what = f"{how}{text.train:,} + {text.validation:,} blocks of {size}, {how}{text.tokens:,} tokens"
        return Line("prepare", "finished" if text.is_prepared else "to do", what, text.seconds, text.disk)

    def _adapt(self) -> Line:
        if self.teacher_is_here and not atomic.is_finished(self.run.folder.teacher):
            check_head(self.recipe.adapt, self.run.original_teacher)
        settings = self.recipe.adapt
        steps = adapt_steps(settings, self.recipe.corpus.block_size)
        return self._pretraining("teacher", "adapt", self.teacher, settings.optimization, steps)

    def _distill(self) -> Line:
        budget = self.recipe.distill.time_budget
        steps = distill_steps(self.recipe.distill, self.recipe.objective, self.text.train) if self.text else None
        line = self._pretraining("student", "distill", self.student, self.recipe.distill.optimization, steps)
        if budget and line.state != "finished":
            line = replace(line, what=f"as many steps as fit into {budget}", seconds=seconds_of(budget))
        settings = self.recipe.distill.cache
        if settings.kind == "none" or self.text is None or line.state == "finished":
            return line
        size, width = self.recipe.corpus.block_size, self.models[0].config.hidden_size
        disk = cache_bytes(
            settings, self.recipe.objective, self.recipe.masking, blocks=self.text.train, length=size,
            hidden_size=width, vocab_size=self.teacher.vocabulary,
        )  # fmt: skip
        what = f"{line.what}; teacher cached in {settings.views} views, if they are not there yet"
        passes = self.machine.seconds(settings.views * self.teacher.forward(self.text.train * size, size))
        return replace(line, what=what, disk=line.disk + disk, seconds=(line.seconds or 0.0) + passes)

    def _pretraining(
        self, folder: str, title: str, model: Size, optimization: Optimization | None, steps: int | None
    ) -> Line:
        """A training on token blocks of so many steps (None = unknown), and what is measured on validation blocks."""
        state, done = state_of(self.run.folder.encoder(folder))
        size, recipe = self.recipe.corpus.block_size, self.recipe
        teacher = None if folder == "teacher" else self.teacher
        disk = 0 if state == "finished" else 4 * model.parameters + TOKENIZER_BYTES
        if steps is None or (self.text is None and state != "finished"):
            return Line(title, state, "unknown until the corpus is prepared", None, disk)
        validation = limited(self.text.validation if self.text else 0, recipe.validation.blocks) * size
        measured = [m for m in (model, teacher) if m]
        once = sum(m.forward(validation, size) + m.vocabulary_head(validation * VALIDATION_RATE) for m in measured)
        if not steps or optimization is None:
            what = "the cut alone" if folder == "control" else "the teacher as it is"
            seconds = 0.0 if state == "finished" else self.machine.seconds(once) + SECONDS_A_FOLDER
            return Line(title, state, what, seconds, disk)
        blocks = optimization.batch_size * optimization.gradient_accumulation_steps
        tokens = blocks * size
        what = f"{steps:,} steps × {blocks} blocks, {steps * tokens:,} tokens"
        if state == "finished":
            return Line(title, state, what)
        useful = self.text.useful if self.text else 1.0
        positions, taught = self._positions(useful, with_teacher=teacher is not None)
        operations = machine.FORWARD_AND_BACKWARD * (
            model.forward(tokens, size) + model.vocabulary_head(tokens * positions)
        )
        batch = optimization.batch_size * size
        memory = model.training_memory(batch, batch * positions)
        if teacher is not None:
            is_live = recipe.distill.cache.kind == "none"
            operations += is_live * teacher.forward(tokens, size) + teacher.vocabulary_head(tokens * taught)
            memory += 4 * teacher.parameters
        times = recipe.validation.times + (1 if teacher else 2)  # at the end, and of a teacher also before
        seconds = self.training_seconds(model, operations * (steps - done), steps - done) + self.machine.seconds(
            times * once
        )
        return Line(title, state, what, seconds, disk, self.checkpoints(model, seconds), memory)

    def _positions(self, useful: float, *, with_teacher: bool) -> tuple[float, float]:
        """Shares of the positions at which the student's and the teacher's logits are computed."""
        objective, masked = self.recipe.objective, useful * highest(self.recipe.masking.rate)
        if not with_teacher:
            return masked, 0.0
        if objective.reduction == "notebook":
            return 1.0, 1.0
        needs = {TERMS[name].needs for name in objective.terms}
        if Needs.LOGITS in needs:
            sampled = masked + (useful - masked) * objective.kl_sampled_share
            share = {"all": useful, "masked": masked, "sampled": sampled}[objective.kl_positions]
            return share, share
        return (masked if Needs.TOKENS in needs else 0.0), 0.0

    def _benchmark(self) -> Line:
        settings = self.recipe.benchmark
        pairs = {
            protocol: limited(PAIRS, settings.padded_examples if protocol == PADDED else settings.examples)
            for protocol in settings.protocols
        }
        backends = len(settings.backends)
        what = f"{len(settings.models)} models by {backends} back end{'s' * (backends > 1)}, pairs: " + ", ".join(
            f"{count:,} {protocol}" for protocol, count in pairs.items()
        )
        state, _ = state_of(self.run.folder.benchmark)
        if state == "finished":
            return Line("benchmark", state, what)
        warm_up = WARM_UP * settings.rounds
        operations, disk = 0.0, 0.0
        for name in settings.models:
            if name in ARCHITECTURES:
                with torch.device("meta"):
                    model = Size.of(ARCHITECTURES[name]())
            else:
                model = self.teacher if name == "teacher" else self.student
            rows = 1 if name == "elmo" else backends  # each counted as if it were as slow as torch
            for protocol, count in pairs.items():
                length = PADDED_LENGTH if protocol == PADDED else PAIR_LENGTH
                operations += rows * model.forward((count + warm_up) * length, length)
                disk += rows * 10 * count
        seconds = self.machine.seconds_on_one_core(operations) + SECONDS_A_FOLDER * len(settings.models) * backends
        return Line("benchmark", state, what, seconds, disk)

    def _report(self) -> Line:
        return Line("report", "always anew", "report.html, model card", SECONDS_OF_REPORT, 2e6)
