"""What the estimates of all stages share: a line of the plan, the sizes of the models, the speed of the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.dry_run import machine as costs
from tinydistilbert.dry_run.machine import Machine
from tinydistilbert.dry_run.sizes import TextSize, text_size
from tinydistilbert.models.loading import load_config, load_tokenizer
from tinydistilbert.models.pruned import give_shapes, is_pruned, shapes_of
from tinydistilbert.models.size import Size
from tinydistilbert.models.student import cut_student
from tinydistilbert.pipeline.run import Run
from tinydistilbert.recipe.schema import OFFLINE_TEACHER
from tinydistilbert.storage import atomic
from tinydistilbert.training import checkpoint

SECONDS_A_FOLDER = 1.0
"""Loading, tokenising, saving, hashing around a training or an evaluation; 0.7 to 1.4 s in a quickstart on 2 cores."""
TOKENIZER_BYTES = 750_000
"""`tokenizer.json` of 30,000 pieces."""


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


class Basis:
    """What is known of one recipe in one folder; what several lines need is found once."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe = run, run.recipe

    @cached_property
    def machine(self) -> Machine:
        """Measured when the first time is asked for."""
        return costs.measure(self.run.device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The teacher's."""
        if name := self.recipe.finetune.model:
            return load_tokenizer(name)
        if self.teacher_is_here:
            return self.run.original_teacher.tokenizer
        return load_tokenizer(self.recipe.teacher.model, self.recipe.teacher.revision)

    @cached_property
    def teacher_is_here(self) -> bool:
        """Whether the teacher is read from this machine, not from the hub."""
        return self.recipe.teacher.model == OFFLINE_TEACHER or Path(self.recipe.teacher.model).exists()

    @cached_property
    def models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Teacher and student on the meta device, without weights: of a teacher on the hub only the config is read."""
        named = self.recipe.teacher
        if self.teacher_is_here:
            config = self.run.original_teacher.model.config
        else:
            config = load_config(named.model, named.revision)
        with torch.device("meta"):
            teacher = AutoModelForMaskedLM.from_config(config)
            return teacher, cut_student(teacher, self.recipe.student, seed=self.recipe.seed)

    @cached_property
    def teacher(self) -> Size:
        """The size of the teacher."""
        return Size.of(self.models[0])

    @cached_property
    def student(self) -> Size:
        """The size of the student, and of the control."""
        return Size.of(self.models[1])

    @cached_property
    def text(self) -> TextSize | None:
        """The corpus; None when it is on the hub and nothing is known of it."""
        return text_size(self.recipe, self.tokenizer)

    def training_seconds(self, model: Size, operations: float, steps: int) -> float:
        """Time of so many updates and so many operations of forward and backward passes."""
        traffic = steps * model.parameters * costs.BYTES_PER_UPDATE
        return self.machine.seconds(operations, traffic=traffic) + SECONDS_A_FOLDER

    def checkpoints(self, model: Size, seconds: float) -> float:
        """Bytes of those that are kept, and of one being written."""
        if seconds < self.recipe.checkpoint_minutes * 60:
            return 0.0
        return (checkpoint.KEPT + 1) * costs.CHECKPOINT_BYTES * model.parameters


def encoder_size(name: str) -> Size:
    """The size of a model's encoder, of which only the config is read."""
    with torch.device("meta"):
        config = load_config(name)
        model = AutoModel.from_config(config)
        if is_pruned(config):
            give_shapes(model, shapes_of(config))
        return Size.of(model)


def state_of(folder: Path) -> tuple[str, int]:
    """What a real run would find at `folder`, in words, and the step that it would go on from."""
    if atomic.is_finished(folder):
        return "finished", 0
    step = checkpoint.newest_step(atomic.partial(folder) / atomic.CHECKPOINTS)
    return (f"goes on from step {step:,}" if step else "to do"), step


def together(states: Sequence[str]) -> str:
    """The state of several folders as one."""
    finished = states.count("finished")
    begun = next((state for state in states if state.startswith("goes on")), None)
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(([f"{finished} of {len(states)} finished"] if finished else []) + ([begun] if begun else []))
