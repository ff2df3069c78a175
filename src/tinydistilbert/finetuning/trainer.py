"""One fine-tuning, ready to run: a task's examples, a model with a new head, the batches and the objective."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tinydistilbert.data.order import length_grouped
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.evaluation.scoring import headline_score
from tinydistilbert.finetuning.objective import TEACHER_IDS, TaskLoss
from tinydistilbert.finetuning.soft_targets import Targets
from tinydistilbert.models.loading import ELMO, load_config, load_model, load_tokenizer, set_dropout
from tinydistilbert.models.matching import uniform_matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.runtimes import uses_token_types
from tinydistilbert.models.used_words import UsedWords
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.run_folder import LOG
from tinydistilbert.storage import atomic, json_lines
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.compatible import check_same_tokenizer
from tinydistilbert.tasks.encoding import NO_LABEL, Features, collate, encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.recipe_splits import wanted_examples
from tinydistilbert.tasks.unlabelled import read_unlabelled
from tinydistilbert.training.best_epoch import Best, Chooser
from tinydistilbert.training.loop import Batch, TrainingJob, step_seed, train
from tinydistilbert.training.optimizer import learning_rate_factor


def finished_steps(folder: Path) -> int:
    """Optimiser steps in the log of a training."""
    return sum("learning_rate" in line for line in json_lines.read(folder / LOG))


MOST_LOOKS = 20
"""Times that a training is scored to choose an epoch, at most."""


@dataclass(frozen=True)
class Lesson:
    """What a second distillation learns from beside the labels."""

    targets: Path
    """Folder of `task_targets.make_targets`."""
    teachers: tuple[Path, ...]
    """Fine-tuned models; the first is looked into where the recipe compares layers."""
    augmented: Path | None = None
    """File with augmented copies of the train examples, if the recipe wants them."""


def finetune_steps(settings: schema.Finetune, features: int) -> int:
    """Optimiser steps of a fine-tuning on `features` inputs (in span tasks: windows): its epochs, and `min_steps`."""
    batches = math.ceil(features / settings.optimization.batch_size)
    steps = math.ceil(settings.epochs * batches / settings.optimization.gradient_accumulation_steps)
    return max(steps, settings.min_steps)


def intermediate_steps(settings: schema.Finetune, features: int) -> int:
    """The first steps of a second distillation on so many inputs, in which only the terms on layers count."""
    batches = settings.distillation.intermediate_epochs * math.ceil(features / settings.optimization.batch_size)
    return round(batches / settings.optimization.gradient_accumulation_steps)


def training_examples(recipe: Recipe, task: Task, *, augmented: Path | None, soft: bool) -> tuple[Examples, int]:
    """The examples that a model is trained on, and how many of them, which come first, have a label.

    Only with `soft` targets there are others: the recipe's unlabelled texts, and the augmented copies.

    Raises:
        UserError: the data are wrong.
    """
    settings = recipe.finetune.settings(task.name)
    labelled = wanted_examples(recipe, task, task.train, limit=settings.train_examples)
    more = []
    if soft and settings.distillation.unlabelled:
        more.append(read_unlabelled(Path(settings.distillation.unlabelled), labelled.task))
    if soft and augmented is not None:
        more.append(read_unlabelled(augmented, labelled.task, may_be_empty=True))
    columns = {
        name: [*values, *(value for part in more for value in part.columns[name])]
        for name, values in labelled.columns.items()
    }
    return replace(labelled, columns=columns), len(labelled)


def _refuse_elmo(*folders: Path) -> None:
    """Refuse ELMo in a second distillation: it is the baseline, a student cut from no teacher.

    Raises:
        UserError: one of the models is an ELMo.
    """
    for folder in folders:
        if load_config(folder).model_type == ELMO:
            fix = "fine-tune ELMo without a teacher, and no student from it"
            raise UserError(str(folder), expected="a transformer as teacher and student", found="ELMo", fix=fix)


class TaskTraining:
    """One fine-tuning, ready to run: the model with its new head, the batches and the objective.

    Args:
        recipe: its section finetune, with the task's override, is read.
        task: a row of `tasks_of`.
        encoder: folder of the model to start from.
        seed: of the head's weights, the order of the examples, and dropout; a sample of them is `recipe.seed`'s.
        device: where to compute.
        lesson: what a second distillation learns from.
        learning_rate: instead of the recipe's.

    Raises:
        UserError: the data, the encoder or the teachers do not fit the task.
    """

    def __init__(
        self, recipe: Recipe, task: Task, encoder: Path, *, seed: int, device: torch.device,
        lesson: Lesson | None = None, learning_rate: float | None = None,
    ) -> None:  # fmt: skip
        if lesson is not None:
            _refuse_elmo(encoder, *lesson.teachers)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.settings = recipe.finetune.settings(task.name)
        if learning_rate is not None:
            changed = replace(self.settings.optimization, learning_rate=learning_rate)
            self.settings = replace(self.settings, optimization=changed)
        self.max_length = recipe.finetune.max_length(task.name, task.max_length)
        self.tokenizer = load_tokenizer(encoder)
        self.examples, self.labelled = training_examples(
            recipe, task, augmented=lesson.augmented if lesson else None, soft=lesson is not None
        )
        self.task = self.examples.task
        features = encode(self.examples, self.tokenizer, self.max_length)
        self.scored = self._scored_examples()
        scored = encode(self.scored, self.tokenizer, self.max_length) if self.scored else None

        torch.manual_seed(step_seed(seed))  # of the new head
        self.model = load_model(encoder, self.task.kind, labels=self.task.labels)
        set_dropout(self.model, self.optimization.dropout, self.optimization.attention_dropout)
        self.objective, self.projected = self._objective(lesson, len(features))
        self._targets = Targets(lesson.targets, self.examples, features) if lesson else None
        self._words, self._pad = self._used_words(features, scored)
        self._whole_ids = features.input_ids if self.objective.inner else None
        self._features = self._in_used_words(features)
        self._scored = self._in_used_words(scored) if scored else None
        self._epoch = lru_cache(maxsize=2)(self._grouped)
        self.work = TrainingJob(
            steps=finetune_steps(self.settings, len(features)), micro_batches=self._micro_batches,
            term_weights=self.objective.term_weights, token_shares=self.objective.token_shares,
            loss=self.objective.loss, tokens=lambda batch: int(batch["attention_mask"].sum()),
            oom_splits=int(math.log2(self.optimization.batch_size)),
        )  # fmt: skip

    @property
    def optimization(self) -> schema.Optimization:
        """AdamW and the schedule of this task."""
        return self.settings.optimization

    @property
    def batches_per_epoch(self) -> int:
        """Forward passes that read every input once."""
        return math.ceil(len(self._features) / self.optimization.batch_size)

    def _used_words(self, features: Features, scored: Features | None) -> tuple[UsedWords | None, int]:
        """The cut word embedding and padding's place in it; ELMo has none: its inputs are characters."""
        padding = int(self.tokenizer.pad_token_id)
        if self.model.config.model_type == ELMO:
            return None, padding
        pad = np.array([padding])
        words = UsedWords(self.model, [pad, *features.input_ids, *(scored.input_ids if scored else [])])
        return words, int(words.places([pad])[0][0])

    def _in_used_words(self, features: Features) -> Features:
        """The features with the words' places in the cut embedding."""
        return features if self._words is None else replace(features, input_ids=self._words.places(features.input_ids))

    def _scored_examples(self) -> Examples | None:
        """The examples that choose an epoch, if any do."""
        by = self.settings.select
        if by == "fixed":
            return None
        split = HELD_OUT if by == "heldout" else self.examples.task.evaluation[0]
        return wanted_examples(self.recipe, self.examples.task, split, limit=self.settings.validation_examples)

    def _objective(self, lesson: Lesson | None, features: int) -> tuple[TaskLoss, ProjectedStudent]:
        if lesson is None:
            return TaskLoss(self.task.kind), ProjectedStudent(self.model)
        distillation = self.settings.distillation
        plain = TaskLoss(self.task.kind, distillation)
        if not plain.inner:
            return plain, ProjectedStudent(self.model)
        check_same_tokenizer(lesson.teachers[0], load_tokenizer(lesson.teachers[0]), self.tokenizer)
        teacher = load_model(lesson.teachers[0], self.task.kind, require_head=True).to(self.device)
        teacher.eval().requires_grad_(False)
        matches = uniform_matches(teacher.config, self.model.config, distillation)
        steps = intermediate_steps(self.settings, features)
        return TaskLoss(self.task.kind, distillation, teacher, matches, steps), ProjectedStudent(self.model, teacher)

    def _micro_batches(self, step: int, oom_splits: int = 0) -> list[Batch]:
        accumulation = self.optimization.gradient_accumulation_steps
        numbers = range(step * accumulation, (step + 1) * accumulation)
        places = [divmod(number, self.batches_per_epoch) for number in numbers]
        parts = [np.array_split(self._epoch(epoch)[place], 2**oom_splits) for epoch, place in places]
        return [self._batch(part) for split in parts for part in split if len(part)]

    def _grouped(self, epoch: int) -> list[NDArray[np.int64]]:
        # Where scores are learned, batches of like length are alike in their scores too, and cost points.
        settings = {"sorted_together": 1} if self.task.kind == "regression" else {}
        lengths = self._features.lengths.tolist()
        return length_grouped(lengths, self.optimization.batch_size, self.seed, epoch, **settings)

    def _batch(self, indices: NDArray[np.int64]) -> Batch:
        batch = collate(self._features, indices, self._pad, token_types=uses_token_types(self.model))
        if self._whole_ids is not None:
            whole = replace(self._features, input_ids=self._whole_ids)
            pad = int(self.tokenizer.pad_token_id)
            batch[TEACHER_IDS] = collate(whole, indices, pad, token_types=False)["input_ids"]
        return batch | (self._targets.batch(indices) if self._targets else {})

    def score(self) -> float:
        """The headline metric of the model as it is, on the examples that choose."""
        assert self.scored is not None and self._scored is not None
        logits = predict(self.model, self._scored, pad_token_id=self._pad, device=self.device)
        return headline_score(self.scored, self._scored, logits)

    def run(self, folder: Path, label: str) -> tuple[float, Best | None]:
        """Train in `folder`; gives the seconds, and what an epoch was chosen by. The model is whole again afterwards.

        Raises:
            NonFiniteLoss: a loss or gradient is not finite; the model is as it was before that step.
        """
        chosen = folder / atomic.CHECKPOINTS
        chooser = Chooser(self.model, chosen, self.score) if self.scored is not None else None
        work, steps = self.work, self.work.steps
        if chooser is not None:
            work = replace(work, validate=chooser.look, validate_after=self._ends_of_epochs())
        try:
            seconds = 0.0
            if chooser is None or not chooser.is_finished:
                with self.objective.quick(self.model):
                    seconds = train(
                        self.projected, work, self.optimization, seed=self.seed, folder=folder, device=self.device,
                        label=label, checkpoint_minutes=self.recipe.checkpoint_minutes, precision=self.recipe.precision,
                    )  # fmt: skip
            if chooser is None:
                return seconds, None
            best = chooser.finish(seconds)
            steps = best.step
            return best.seconds or 0.0, best
        except NonFiniteLoss:
            steps = finished_steps(folder)
            raise
        finally:
            if self._words is not None:
                self._words.restore(self._unused_factor(steps))
            self.model.eval()

    def _ends_of_epochs(self) -> frozenset[int]:
        """Steps after which an epoch is over; of many epochs, evenly chosen ones."""
        whole = self.work.steps * self.optimization.gradient_accumulation_steps / self.batches_per_epoch
        looks = min(max(round(whole), 1), MOST_LOOKS)
        return frozenset(math.ceil(self.work.steps * look / looks) for look in range(1, looks + 1))

    def _unused_factor(self, steps: int) -> float:
        """What weight decay has left of a row without gradient after so many steps."""
        settings = self.optimization
        from_zero = settings.warmup_start == "zero"
        rates = (
            learning_rate_factor(step, self.work.steps, settings.warmup_ratio, from_zero=from_zero)
            for step in range(steps)
        )
        return math.prod(1 - settings.learning_rate * rate * settings.weight_decay for rate in rates)

    def loss_without_learning(self) -> float:
        """The loss of a head that sees no input: the labels' entropy or variance; for spans, of choosing any token."""
        if self.task.kind == "span":
            return float(np.log(self._features.lengths).mean())
        labels = self._features.labels[: self.labelled]
        if self.task.kind == "regression":
            return float(labels.var())
        shares = np.unique(labels[labels != NO_LABEL], return_counts=True)[1] / self.labelled
        return float(-(shares * np.log(shares)).sum())
