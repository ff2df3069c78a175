"""The estimates behind `--dry-run`: for each stage what is left to do, and the time, memory and disk that it takes.

Steps come from the functions that the stages use, the checks from `pipeline.Run`; only the sizes of what is not there
yet are estimated. Nothing is written, not even into the token cache.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert import checkpoint, costs, fsio
from tinydistilbert.adapt import adapt_steps, check_head
from tinydistilbert.benchmark import ARCHITECTURES, PADDED_LENGTH, PAIRS, WARM_UP
from tinydistilbert.costs import Machine, Size
from tinydistilbert.data.masked import VALIDATION_RATE
from tinydistilbert.distill import distill_steps
from tinydistilbert.jobs import Job, jobs
from tinydistilbert.models.loading import load_config, load_tokenizer
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.student import cut_student
from tinydistilbert.pipeline import Run
from tinydistilbert.recipe import OFFLINE_TEACHER, Optimization
from tinydistilbert.recipe_types import highest, seconds_of
from tinydistilbert.sizes import TaskSize, TextSize, limited, task_size, text_size
from tinydistilbert.task_training import finetune_steps
from tinydistilbert.teacher_cache import cache_bytes

PAIR_LENGTH = 31
"""Mean tokens of an STS-B pair, on which latency is timed."""
SECONDS_A_FOLDER = 1.0
"""Loading, tokenising, saving, hashing around a training or an evaluation; 0.7 to 1.4 s in a quickstart on 2 cores."""
SECONDS_OF_REPORT = 5.0
TOKENIZER_BYTES = 750_000
"""`tokenizer.json` of 30,000 pieces."""
SCORES_BYTES_PER_EXAMPLE = 100
MOST_FINETUNE_ROWS = 12
"""With more, the rows of one task are told in one line."""


@dataclass(frozen=True)
class Line:
    """One line of the plan: a stage, or a part of it."""

    stage: str
    state: str
    what: str
    seconds: float | None = 0.0
    """Left to compute; None = unknown."""
    disk: float = 0.0
    """Bytes still to be written, to stay."""
    passing: float = 0.0
    """Bytes of checkpoints that are there while it trains."""
    memory: float = 0.0
    """Bytes at its peak, beside those of the bare process."""


class Planner:
    """The estimates for one recipe in one folder; what several lines need is found once."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe = run, run.recipe

    def check_inputs(self) -> None:
        """Look at whatever a run checks before its first stage, in the same order; what is found is kept.

        Raises:
            UserError: something is wrong.
        """
        if self.recipe.finetune.model:
            self.run.check_inputs()
            return
        match_layers(self.recipe, self._models[0].config, self._models[1].config)
        self.run.check_lengths(self._models[0].config)
        _ = self._task_sizes if self.run.tasks() else None, self.text

    @cached_property
    def machine(self) -> Machine:
        """Measured when the first time is asked for."""
        return costs.measure(self.run.device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The teacher's."""
        if name := self.recipe.finetune.model:
            return load_tokenizer(name)
        if self._teacher_is_here:
            return self.run.original_teacher.tokenizer
        return load_tokenizer(self.recipe.teacher.model, self.recipe.teacher.revision)

    @cached_property
    def _teacher_is_here(self) -> bool:
        return self.recipe.teacher.model == OFFLINE_TEACHER or Path(self.recipe.teacher.model).exists()

    @cached_property
    def _models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Teacher and student on the meta device, without weights: of a teacher on the hub only the config is read."""
        named = self.recipe.teacher
        if self._teacher_is_here:
            config = self.run.original_teacher.model.config
        else:
            config = load_config(named.model, named.revision)
        with torch.device("meta"):
            teacher = AutoModelForMaskedLM.from_config(config)
            return teacher, cut_student(teacher, self.recipe.student, seed=self.recipe.seed)

    @cached_property
    def teacher(self) -> Size:
        """The size of the teacher."""
        return Size.of(self._models[0])

    @cached_property
    def student(self) -> Size:
        """The size of the student, and of the control."""
        return Size.of(self._models[1])

    @cached_property
    def text(self) -> TextSize | None:
        """The corpus; None when it is on the hub and nothing is known of it."""
        return text_size(self.recipe, self.tokenizer)

    def lines(self, stage: str) -> Iterator[Line]:
        """The lines of a stage."""
        if stage == "finetune":
            yield from self._finetune()
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
        if self._teacher_is_here and not fsio.is_finished(self.run.output / "teacher"):
            check_head(self.recipe, self.run.original_teacher)
        return self._pretraining(
            "teacher", "adapt", self.teacher, self.recipe.adapt.optimization, adapt_steps(self.recipe)
        )

    def _distill(self) -> Line:
        budget = self.recipe.distill.time_budget
        steps = distill_steps(self.recipe, self.text.train) if self.text else None
        line = self._pretraining("student", "distill", self.student, self.recipe.distill.optimization, steps)
        if budget and line.state != "finished":
            line = replace(line, what=f"as many steps as fit into {budget}", seconds=seconds_of(budget))
        settings = self.recipe.distill.cache
        if settings.kind == "none" or self.text is None or line.state == "finished":
            return line
        size, width = self.recipe.corpus.block_size, self._models[0].config.hidden_size
        disk = cache_bytes(self.text.train, size, width, self.teacher.vocabulary, self.recipe)
        what = f"{line.what}; teacher cached in {settings.views} views, if they are not there yet"
        passes = self.machine.seconds(settings.views * self.teacher.forward(self.text.train * size, size))
        return replace(line, what=what, disk=line.disk + disk, seconds=(line.seconds or 0.0) + passes)

    def _pretraining(
        self, folder: str, title: str, model: Size, optimization: Optimization | None, steps: int | None
    ) -> Line:
        """A training on token blocks of so many steps (None = unknown), and what is measured on validation blocks."""
        state, done = _state(self.run.output / folder)
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
        operations = costs.FORWARD_AND_BACKWARD * (
            model.forward(tokens, size) + model.vocabulary_head(tokens * positions)
        )
        batch = optimization.batch_size * size
        memory = model.training_memory(batch, batch * positions)
        if teacher is not None:
            is_live = recipe.distill.cache.kind == "none"
            operations += is_live * teacher.forward(tokens, size) + teacher.vocabulary_head(tokens * taught)
            memory += 4 * teacher.parameters
        times = recipe.validation.times + (1 if teacher else 2)  # at the end, and of a teacher also before
        seconds = self._training_seconds(model, operations * (steps - done), steps - done) + self.machine.seconds(
            times * once
        )
        return Line(title, state, what, seconds, disk, self._checkpoints(model, seconds), memory)

    def _positions(self, useful: float, *, with_teacher: bool) -> tuple[float, float]:
        """Shares of the positions at which the student's and the teacher's logits are computed."""
        objective, masked = self.recipe.objective, useful * highest(self.recipe.masking.rate)
        if not with_teacher:
            return masked, 0.0
        if objective.reduction == "notebook":
            return 1.0, 1.0
        if highest(objective.kl):
            sampled = masked + (useful - masked) * objective.kl_sampled_share
            share = {"all": useful, "masked": masked, "sampled": sampled}[objective.kl_positions]
            return share, share
        return (masked if highest(objective.mlm) else 0.0), 0.0

    def _training_seconds(self, model: Size, operations: float, steps: int) -> float:
        traffic = steps * model.parameters * costs.BYTES_PER_UPDATE
        return self.machine.seconds(operations, traffic=traffic) + SECONDS_A_FOLDER

    def _checkpoints(self, model: Size, seconds: float) -> float:
        """Bytes of those that are kept, and of one being written."""
        if seconds < self.recipe.checkpoint_minutes * 60:
            return 0.0
        return (checkpoint.KEPT + 1) * costs.CHECKPOINT_BYTES * model.parameters

    def _finetune(self) -> Iterator[Line]:
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in (job for job in jobs(self.recipe) if not job.is_given):
            groups.setdefault((job.task, job.row), []).append(job)
        if len(groups) <= MOST_FINETUNE_ROWS:
            for (task, row), members in groups.items():
                yield self._jobs_line(f"finetune {row}, {self.run.known[task].title}", members)
            return
        for task, keys in itertools.groupby(groups, key=lambda key: key[0]):
            yield self._jobs_line(
                f"finetune {self.run.known[task].title}", [job for key in keys for job in groups[key]]
            )

    def _jobs_line(self, title: str, members: Sequence[Job]) -> Line:
        """Fine-tunings on one task as one line."""
        states = {job: _state(self.run.output / job.folder / "model") for job in members}
        left = [job for job in members if states[job][0] != "finished"]
        state = _together([state for state, _ in states.values()])
        models = f"{len(members)} models × " if len(members) > 1 else ""
        if not left:
            return Line(title, state, f"{len(members)} model{'s' if len(members) > 1 else ''}")
        name = members[0].task
        size = self._task_sizes.get(name)
        disk = sum(4 * self._size(job).parameters + TOKENIZER_BYTES for job in left)
        if size is None:
            return Line(title, state, models + "unknown until the corpus is prepared", None, disk)
        settings = self.recipe.finetune.settings(name)
        copies = settings.distillation.augment if members[0].is_second_distillation else 0
        steps = finetune_steps(settings, size.features * (1 + copies))
        seconds = passing = memory = 0.0
        for job in left:
            model, waiting = self._size(job), steps - states[job][1]
            tokens = waiting * settings.optimization.batch_size * size.length
            operations = costs.FORWARD_AND_BACKWARD * model.forward(tokens, size.length)
            spent = self._training_seconds(model, operations, waiting)
            seconds, passing = seconds + spent, max(passing, self._checkpoints(model, spent))
            memory = max(memory, model.training_memory(settings.optimization.batch_size * size.longest, 0))
        seconds *= max(1, len(settings.learning_rates))
        if left[0].is_second_distillation and not fsio.is_finished(self.run.output / f"tasks/{name}/targets"):
            asked = size.features * size.length * (1 + copies) * self._teachers()
            seconds += self.machine.seconds(self._task_teacher.forward(asked, size.length))
        what = f"{models}{steps:,} steps × {settings.optimization.batch_size}, {size.examples:,} examples"
        return Line(title, state, f"{what} of {size.length:.0f} tokens", seconds, disk, passing, memory)

    def _size(self, job: Job) -> Size:
        if job.row == "teacher":
            return self._task_teacher
        return self._given if self.recipe.finetune.model else self.student

    @cached_property
    def _given(self) -> Size:
        """The size of the model that is fine-tuned instead of a student."""
        return _encoder_size(self.recipe.finetune.model)

    @cached_property
    def _task_teacher(self) -> Size:
        """The size of a fine-tuned teacher."""
        given = self.recipe.finetune.distillation.teachers
        return _encoder_size(given[0]) if isinstance(given, tuple) else self.teacher

    def _teachers(self) -> int:
        """How many teachers a second distillation asks."""
        chosen = self.recipe.finetune.distillation.teachers
        if isinstance(chosen, tuple):
            return len(chosen)
        return len(self.recipe.finetune.seeds) if chosen == "all" else 1

    @cached_property
    def _task_sizes(self) -> dict[str, TaskSize | None]:
        """Of every task with something left to do."""
        unfinished = [job for job in jobs(self.recipe) if not fsio.is_finished(self.run.output / job.folder / "scores")]
        return {
            name: task_size(self.recipe, name, self.tokenizer) for name in dict.fromkeys(job.task for job in unfinished)
        }

    def _evaluate(self) -> Line:
        states = {job: _state(self.run.output / job.folder / "scores")[0] for job in jobs(self.recipe)}
        if not states:
            return Line("evaluate", "nothing to do", "no tasks")
        left = [job for job, state in states.items() if state != "finished"]
        sizes = {job: self._task_sizes[job.task] for job in left}
        what = f"{len(states)} models on {len(self.recipe.finetune.tasks)} tasks"
        seconds: float | None = 0.0
        disk = 0.0
        for job, size in sizes.items():
            if size is None or seconds is None:
                seconds = None
                continue
            length = size.evaluation_tokens / size.evaluation_examples
            operations = self._size(job).forward(size.evaluation_tokens, length)
            seconds += self.machine.seconds(operations) + SECONDS_A_FOLDER
            disk += size.evaluation_examples * SCORES_BYTES_PER_EXAMPLE
        return Line("evaluate", _together(list(states.values())), what, seconds, disk)

    def _benchmark(self) -> Line:
        settings = self.recipe.benchmark
        padded, free = (limited(PAIRS, count) for count in (settings.padded_examples, settings.examples))
        what = f"{len(settings.models)} models, {padded:,} padded pairs + {free:,} of true length"
        state, _ = _state(self.run.output / "benchmark")
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
            for pairs, length in ((padded, PADDED_LENGTH), (free, PAIR_LENGTH)):
                operations += model.forward((pairs + warm_up) * length, length)
                disk += 10 * pairs
        seconds = self.machine.seconds_on_one_core(operations) + SECONDS_A_FOLDER * len(settings.models)
        return Line("benchmark", state, what, seconds, disk)

    def _report(self) -> Line:
        return Line("report", "always anew", "report.html, model card", SECONDS_OF_REPORT, 2e6)


def _encoder_size(name: str) -> Size:
    """The size of a model's encoder, of which only the config is read."""
    with torch.device("meta"):
        return Size.of(AutoModel.from_config(load_config(name)))


def _state(folder: Path) -> tuple[str, int]:
    """What a real run would find at `folder`, in words, and the step that it would go on from."""
    if fsio.is_finished(folder):
        return "finished", 0
    step = checkpoint.newest_step(folder.with_name(folder.name + ".partial") / "checkpoints")
    return (f"goes on from step {step:,}" if step else "to do"), step


def _together(states: Sequence[str]) -> str:
    """The state of several folders as one."""
    finished = states.count("finished")
    begun = next((state for state in states if state.startswith("goes on")), None)
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(([f"{finished} of {len(states)} finished"] if finished else []) + ([begun] if begun else []))
