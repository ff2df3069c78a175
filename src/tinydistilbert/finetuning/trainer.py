"""One fine-tuning: prepare it from a task's examples and an encoder, train, and select the best epoch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.evaluation.scoring import choose_threshold, headline_score, plain_threshold
from tinydistilbert.finetuning.batches import InTurn, TaskBatches
from tinydistilbert.finetuning.examples import TaskExamples
from tinydistilbert.finetuning.label_scale import LabelScale
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.finetuning.schedule import distillation_phases, finetune_steps, intermediate_steps
from tinydistilbert.finetuning.soft_targets import SoftTargets, SoftTargetSource
from tinydistilbert.models.dropout import keeps_attention_weights
from tinydistilbert.models.loading import ELMO, load_config, load_model, load_tokenizer, set_dropout
from tinydistilbert.models.matching import task_matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.size import Size
from tinydistilbert.models.task_head import starting_head
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.models.used_words import only_used_words
from tinydistilbert.notices import notice
from tinydistilbert.recipe import schema
from tinydistilbert.run_folder import LOG
from tinydistilbert.storage import atomic, json_lines
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.compatible import check_same_tokenizer
from tinydistilbert.tasks.encoding import NO_LABEL, Features, encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.span_losses import span_losses
from tinydistilbert.tasks.token_rows import in_parts
from tinydistilbert.training.best_epoch import BestEpoch, EpochSelector
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Phase, TrainingJob, step_seed
from tinydistilbert.training.loop import train
from tinydistilbert.training.memory import taken
from tinydistilbert.training.optimizer import layer_scales, learning_rate_factor
from tinydistilbert.training.precision import frozen, multiplying, prepares_products

VECTORS_OF_TEACHER, COPIES_OF_SCORES = 4, 4
"""Tensors that a loss on layers keeps: states, queries, keys and values of each teacher layer; and attention scores of
teacher and student, their difference and its gradient."""
LABELS_AT_ONCE = 2**20
"""Labels that are counted together."""
MAX_SELECTIONS = 20
"""Most times that a training is scored to select an epoch."""


@dataclass(frozen=True)
class TaskTraining:
    """One fine-tuning, ready to run."""

    settings: schema.Finetune
    """Of this task."""
    examples: TaskExamples
    tokenizer: PreTrainedTokenizerFast
    student: ProjectedStudent
    """The model with its new head."""
    objective: TaskLoss
    batches: TaskBatches
    last_batches: TaskBatches
    """Of the last phase, if it reads fewer inputs; else the same as `batches`."""
    scale: LabelScale
    """The units that a regression is trained in; `give_labels` converts the model back to labels."""
    selection: Features | None
    """The inputs that select an epoch, if any."""
    job: TrainingJob
    max_length: int
    """Tokens of a text that the model reads."""
    seed: int
    compute: Compute

    @property
    def model(self) -> PreTrainedModel:
        """The model that is saved in the end."""
        return self.student.student

    def give_labels(self) -> None:
        """Convert a model that was trained in standard units to labels."""
        self.scale.to_labels(self.model)

    @property
    def optimization(self) -> schema.Optimization:
        """AdamW and the schedule of this task."""
        return self.settings.optimization


def prepare_training(
    settings: schema.Finetune,
    examples: TaskExamples,
    encoder: Path,
    *,
    compute: Compute,
    seed: int,
    soft_targets: SoftTargetSource | None = None,
    learning_rate: float | None = None,
) -> TaskTraining:
    """Encode the examples, put a new head on the encoder, and describe the training.

    Args:
        settings: of all tasks; those of the examples' task are used.
        examples: to train on.
        encoder: folder of the model to start from.
        compute: where to compute.
        seed: of the head's weights, the order of the examples, and dropout.
        soft_targets: what a second distillation learns from.
        learning_rate: replaces the settings' rate.

    Raises:
        UserError: the encoder or the teachers do not fit the task, or each other.
    """
    if soft_targets is not None:
        _refuse_elmo(encoder, *soft_targets.teachers)
    task = examples.task
    max_length = settings.max_length(task.name, task.max_length)
    settings = settings.settings(task.name, is_distilled=soft_targets is not None)
    if learning_rate is not None:
        settings = replace(settings, optimization=replace(settings.optimization, learning_rate=learning_rate))
    tokenizer = load_tokenizer(encoder)
    features, scale = encode(examples.train, tokenizer, max_length), LabelScale.of(examples.train)
    if not scale.is_plain:
        features = replace(features, labels=scale.standard(examples.train.columns["label"]))
    originals = first_features(features, examples)
    for loss in span_losses(examples.originals, originals):
        notice(task.title, loss)
    selection = encode(examples.selection, tokenizer, max_length) if examples.selection else None

    torch.manual_seed(step_seed(seed))  # for the new head
    model = load_model(encoder, task.kind, labels=task.labels)
    if model.config.model_type == ELMO:  # recurrent: it multiplies one word at a time
        compute = replace(compute, precision="fp32")
    if task.kind == "regression" and starting_head(load_config(encoder), "regression", ()).is_kept:
        scale.to_standard(model)
    set_dropout(model, settings.optimization.dropout, settings.optimization.attention_dropout)
    objective = _objective(settings, examples, len(features), model, tokenizer, soft_targets, compute.device)
    only_originals = soft_targets is not None and settings.distillation.ends_with_originals(task.kind)
    answered, inputs = (examples.originals, originals) if only_originals else (examples.train, features)
    soft = SoftTargets.open(soft_targets.targets, answered, inputs, scale) if soft_targets else None

    def batches_of(inputs: Features, soft: SoftTargets | None) -> TaskBatches:
        return TaskBatches(
            inputs, task.kind, settings.optimization, seed, int(tokenizer.pad_token_id), uses_token_types(model), soft,
            prepares_products(compute.device, compute.chosen),
        )  # fmt: skip

    batches = batches_of(features, None if only_originals else soft)
    last_batches = batches_of(originals, soft) if only_originals else batches
    phases = _phases(settings, len(features), len(originals) * only_originals, is_distilled=soft_targets is not None)
    micro_batches = InTurn(batches, last_batches, phases[0].steps) if only_originals else batches
    job = TrainingJob(
        steps=sum(phase.steps for phase in phases), micro_batches=micro_batches, term_weights=objective.term_weights,
        token_shares=objective.token_shares, loss=objective.loss,
        tokens=lambda batch: int(batch["attention_mask"].sum()),
        oom_splits=int(math.log2(settings.optimization.batch_size)),
        memory=partial(
            micro_batch_memory, model, objective, settings.optimization, compute, int(features.lengths.max())
        ),
        phases=phases, layer_decay=1.0 if soft_targets else settings.layer_decay,
    )  # fmt: skip
    student = ProjectedStudent(model, objective.teacher)
    return TaskTraining(
        settings, examples, tokenizer, student, objective, batches, last_batches, scale, selection, job, max_length,
        seed, compute,
    )  # fmt: skip


def micro_batch_memory(
    model: PreTrainedModel, objective: TaskLoss, optimization: schema.Optimization, compute: Compute, longest: int,
    splits: int,
) -> float:  # fmt: skip
    """Return the bytes of the largest micro-batch after so many halvings, without the models.

    For a teacher whose layers are compared, it includes the tensors that are kept of them.
    """
    size = Size.of(model)
    examples = math.ceil(optimization.batch_size / 2**splits)
    weights_kept = keeps_attention_weights(compute.device, compute.chosen, optimization.attention_dropout)
    total = size.activation_memory(examples * longest, length=longest if weights_kept else 0)
    if objective.teacher is not None:
        teacher = Size.of(objective.teacher)
        total += 4 * examples * longest * teacher.layers * VECTORS_OF_TEACHER * teacher.width
        if {"attention", "relation"} & set(objective.inner):
            total += 4 * examples * longest**2 * COPIES_OF_SCORES * size.heads
    return taken(total, compute.device, compute.chosen)


def _phases(settings: schema.Finetune, features: int, originals: int, *, is_distilled: bool) -> tuple[Phase, ...]:
    if is_distilled:
        return distillation_phases(settings, features, originals)
    return (Phase(finetune_steps(settings, features), settings.optimization.learning_rate),)


def first_features(features: Features, examples: TaskExamples) -> Features:
    """Return the inputs of the examples that have a label, which come first."""
    count = int(np.searchsorted(features.example, examples.labelled))
    if count == len(features):
        return features
    return replace(
        features, input_ids=features.input_ids[:count], token_type_ids=features.token_type_ids[:count],
        labels=features.labels[:count], example=features.example[:count],
        offsets=None if features.offsets is None else features.offsets[:count],
        word_tokens=None if features.word_tokens is None else features.word_tokens[:count],
    )  # fmt: skip


def _refuse_elmo(*folders: Path) -> None:
    """Refuse ELMo in a second distillation: it is a baseline, not a student cut from a teacher.

    Raises:
        UserError: one of the models is an ELMo.
    """
    for folder in folders:
        if load_config(folder).model_type == ELMO:
            fix = "fine-tune it without a teacher, and make no student from it"
            raise UserError(str(folder), problem="ELMo can be neither teacher nor student", fix=fix)


def _objective(
    settings: schema.Finetune, examples: TaskExamples, features: int, model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast, soft_targets: SoftTargetSource | None, device: torch.device,
) -> TaskLoss:  # fmt: skip
    """Return the loss on labels; with soft targets also theirs, and with inner terms that on the teacher's layers."""
    kind = examples.task.kind
    if soft_targets is None:
        return TaskLoss(kind)
    outer = TaskLoss(kind, settings.distillation)
    if not outer.inner:
        return outer
    folder = soft_targets.teachers[0]
    check_same_tokenizer(folder, load_tokenizer(folder), tokenizer)
    teacher = load_model(folder, kind, require_head=True).to(device)
    teacher.eval().requires_grad_(False)
    matches = task_matches(teacher.config, model.config, settings.distillation, soft_targets.copied_layers)
    return TaskLoss(kind, settings.distillation, teacher, matches, intermediate_steps(settings, features))


def run_training(training: TaskTraining, folder: Path, label: str) -> tuple[float, BestEpoch | None]:
    """Train in `folder`, and return the seconds and the selected epoch. The model keeps all of its vocabulary.

    With several processes, only rank 0 keeps the best epoch and has its weights in the end.

    Raises:
        NonFiniteLoss: a loss or gradient is not finite; the model is as it was before that step.
    """
    job, selector, ranks = training.job, None, training.compute.ranks
    if training.selection is not None:
        selector = EpochSelector(training.model, folder / atomic.CHECKPOINTS, partial(selection_score, training))
        scored = selector.score_epoch if ranks.is_main else (lambda _: {"score": selection_score(training)})
        job = replace(job, validate=scored, validate_after=_ends_of_epochs(training))
    with only_used_words(training.model, _token_ids(training)) as decay_others:
        steps = job.steps
        try:
            if selector is None:
                return _train(training, job, folder, label), None
            is_finished = ranks.broadcast(selector.is_finished)
            seconds = 0.0 if is_finished else _train(training, job, folder, label)
            if not ranks.is_main:
                return seconds, None
            best = selector.finish(seconds)
            steps = best.step
            return best.seconds or 0.0, best
        except NonFiniteLoss:
            steps = finished_steps(folder)
            raise
        finally:
            decay_others(_unused_factor(training, steps))
            training.model.eval()


def _train(training: TaskTraining, job: TrainingJob, folder: Path, label: str) -> float:
    if not training.scale.is_plain:  # refuses checkpoints of a version that trained on plain labels
        label = f"{label}, standard units"
    with training.objective.quick(training.model), frozen(training.objective.teacher, training.compute.chosen):
        return train(
            training.student, job, training.optimization, training.compute, seed=training.seed, folder=folder,
            label=label,
        )  # fmt: skip


def selection_score(training: TaskTraining) -> float:
    """Return the current model's headline metric on the examples that select an epoch."""
    examples, features = training.examples.selection, training.selection
    assert examples is not None and features is not None
    pad_token_id = training.batches.pad_token_id
    compute = training.compute
    with multiplying(compute.device, compute.chosen):
        logits = predict(
            training.model, features, pad_token_id=pad_token_id, device=compute.device, ranks=compute.ranks
        )
    if isinstance(logits, np.ndarray) and not training.scale.is_plain:
        logits = training.scale.labels(logits).astype(np.float32)
    threshold = None
    if training.examples.train.needs_threshold:
        # Examples scored in the end may select an epoch if the recipe says so, but never set a threshold.
        chosen = choose_threshold(examples, features, logits) if examples.split == HELD_OUT else None
        threshold = chosen.value if chosen else plain_threshold(examples)
    return headline_score(examples, features, logits, threshold=threshold)


def _token_ids(training: TaskTraining) -> Iterator[NDArray[np.int32]]:
    """Yield every token id that the model reads."""
    yield np.array([training.batches.pad_token_id], dtype=np.int32)
    yield from in_parts(training.batches.features.input_ids)
    if training.selection is not None:
        yield from in_parts(training.selection.input_ids)


def _ends_of_epochs(training: TaskTraining) -> frozenset[int]:
    """Return the steps at which epochs of the last phase end; of many epochs, evenly spaced ones."""
    steps = training.job.phases[-1].steps
    epochs = steps * training.optimization.gradient_accumulation_steps / training.last_batches.per_epoch
    count = min(max(round(epochs), 1), MAX_SELECTIONS)
    first = training.job.steps - steps
    return frozenset(first + math.ceil(steps * number / count) for number in range(1, count + 1))


def finished_steps(folder: Path) -> int:
    """Return the number of optimiser steps in the log of a training."""
    return sum("learning_rate" in line for line in json_lines.read(folder / LOG))


def _unused_factor(training: TaskTraining, steps: int) -> float:
    """Return the factor that weight decay leaves of a row without gradient after so many steps."""
    settings = training.optimization
    from_zero = settings.warmup_start == "zero"
    factor, scale = 1.0, min(layer_scales(training.model, training.job.layer_decay).values())  # of the embeddings
    for step in range(steps):
        first, phase = training.job.phase_at(step, settings.learning_rate)
        share = learning_rate_factor(step - first, phase.steps, settings.warmup_ratio, from_zero=from_zero)
        factor *= 1 - phase.learning_rate * scale * share * settings.weight_decay
    return factor


def loss_without_learning(training: TaskTraining) -> float:
    """Return the loss of a head that sees no input: the labels' entropy or variance; for spans, of a uniform guess."""
    features, labelled = training.batches.features, training.examples.labelled
    if training.examples.task.kind == "span":
        return float(np.log(features.lengths).mean())
    labels = features.labels[:labelled]
    if training.examples.task.kind == "regression":
        return float(labels.var())
    if training.examples.task.kind == "multi-label":
        shares = labels.mean(0, dtype=np.float64)
        return float((entr(shares) + entr(1 - shares)).mean())
    parts, classes = np.array_split(labels, 1 + len(labels) // LABELS_AT_ONCE), int(labels.max()) + 1
    counts = sum(np.bincount(part[part != NO_LABEL], minlength=classes) for part in parts)
    return float(entr(counts / np.sum(counts)).sum())
