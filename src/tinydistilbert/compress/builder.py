"""The shared inputs of all variants of one task model, and how to run a variant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.evaluation.scoring import (
    Predictions,
    Threshold,
    headline_score,
    read_predictions,
    threshold_for,
)
from tinydistilbert.finetuning.examples import training_examples
from tinydistilbert.models import untrusted
from tinydistilbert.models.hub import local_folder
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer
from tinydistilbert.models.runtimes import ModelInputs, Runtime, exported_facts, open_exported
from tinydistilbert.models.torch_runtime import TorchRuntime
from tinydistilbert.recipe.schema import Recipe, TaskSettings
from tinydistilbert.run_folder import CompressedFolder
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MadeFrom
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import INPUTS, Logits, predict
from tinydistilbert.tasks.recipe_splits import length_for, recipe_examples
from tinydistilbert.training.device import Compute


@dataclass
class Tokenized:
    """A tokenizer, and the features it has made from examples."""

    tokenizer: PreTrainedTokenizerFast
    features: dict[int, tuple[Examples, Features]] = field(default_factory=dict)
    """By the examples' `id`, which is unique while they are kept here."""


@dataclass(frozen=True)
class VariantBuilder:
    """The inputs of all variants of one task model; examples are loaded on first use."""

    recipe: Recipe
    task: Task
    model: Path
    """Folder of the fine-tuned model, in Hugging Face format."""
    teachers: tuple[Path, ...]
    """Teachers of recovery fine-tuning; empty = the model itself."""
    row: str
    """Row of the model in the tables."""
    folder: CompressedFolder
    device: torch.device
    log: Callable[[str], None]
    compute: Callable[[], Compute]
    """Returns how models are trained; called only for a training: not every machine can compute as the run began."""
    sources: MadeFrom
    """What every variant folder is made from."""
    tokenized: dict[tuple[str, ...], Tokenized] = field(default_factory=dict, compare=False, repr=False)
    """By the hashes of a tokenizer's files: nearly all variants have the same tokenizer and read the same examples."""

    @cached_property
    def recovery_recipe(self) -> Recipe:
        """The recipe of recovery fine-tuning, with its epochs and the hold-out by which variants are chosen."""
        compress, task = self.recipe.compress, self.task.name
        finetune = self.recipe.finetune
        train = recipe_examples(self.recipe, self.task, self.task.train)
        different = train.total if self.task.is_synthetic else len(set(train.keys))
        a_tenth = max(1, different // 10, min(len(train.task.labels), different // 2))  # one of each class, if possible
        of_task = finetune.settings(task)
        # Attention losses need all heads on both sides; separate stages would need more epochs.
        distillation = replace(
            of_task.distillation, attention=0.0, relation=0.0, intermediate_epochs=0.0,
            intermediate_learning_rate=None, epochs=None, learning_rate=None, batch_size=None,
            final_examples="all",
        )  # fmt: skip
        # If fine-tuning held out examples to choose an epoch, the unpruned model has not seen them either: a tenth
        # again.
        is_held_out = of_task.select == "heldout"
        settings = replace(
            of_task, distillation=distillation, epochs=compress.recovery_epochs, min_steps=0, select="fixed",
            learning_rates=(), score_on="train",
            validation_examples=0 if is_held_out else min(compress.held_out or a_tenth, a_tenth),
            override={task: TaskSettings(max_length=self.max_length)},
        )  # fmt: skip
        return replace(self.recipe, finetune=settings)

    @cached_property
    def held_out(self) -> Examples:
        """Train examples by which everything is chosen; no pruned model is trained on them."""
        of_tenth = self.recipe.finetune.select == "heldout"
        limit = self.recipe.compress.held_out if of_tenth else 0
        return recipe_examples(self.recovery_recipe, self.task, HELD_OUT, limit=limit)

    @property
    def teacher(self) -> Path | None:
        """The model whose score is to be kept; None if the model is its own teacher."""
        return next((teacher for teacher in self.teachers if teacher != self.model), None)

    @property
    def teacher_labels(self) -> tuple[str, ...]:
        """The class of each output of teachers from elsewhere, if the user gave it; empty = by their config's names."""
        distillation = self.recipe.finetune.settings(self.task.name).distillation
        are_given = bool(self.recipe.compress.teachers) or isinstance(distillation.teachers, tuple)
        return distillation.teacher_labels if self.teachers and are_given else ()

    @cached_property
    def recovery_examples(self) -> Examples:
        """The train examples of pruned models."""
        return training_examples(self.recovery_recipe, self.task, augmented=None, soft=True)[0]

    @cached_property
    def max_length(self) -> int:
        """Maximum input length in tokens."""
        finetune = self.recipe.finetune
        if self.recipe.compress.model:
            return length_for(finetune, self.task, self.model)
        return finetune.max_length(self.task.name, self.task.max_length)


def make_folder(builder: VariantBuilder, path: Path, title: str, make: Callable[[Path], None]) -> Path:
    """Make one folder, unless it is finished; return its path.

    Raises:
        UserError: it was made or begun from something other than the builder's sources.
    """
    if atomic.is_finished(path):
        made_from.check(path, builder.sources)
        atomic.tidy(path)
    else:
        made_from.begin(path, builder.sources)
        builder.log(f"compress {builder.row} on {builder.task.title}: {title}")
        make(path)
    return path


def on_disk(model: Path) -> Path:
    """Return the folder with a model's files: of a hub name, which a given model may have, that in the hub's cache."""
    files = (untrusted.CONFIG, *untrusted.TOKENIZER, untrusted.WEIGHTS, untrusted.INDEX, "model-*.safetensors")
    return model if model.is_dir() else local_folder(model, None, files)


def encoded(builder: VariantBuilder, examples: Examples, folder: Path) -> Features:
    """Return the examples as inputs of a variant: a variant with a trimmed vocabulary has another tokenizer."""
    by = _tokenized(builder, folder)
    if id(examples) not in by.features:
        by.features[id(examples)] = examples, encode(examples, by.tokenizer, builder.max_length)
    return by.features[id(examples)][1]


def _tokenized(builder: VariantBuilder, folder: Path) -> Tokenized:
    files = (on_disk(folder) / name for name in untrusted.TOKENIZER)
    key = tuple(f"{file.name} {atomic.sha256(file)}" for file in files if file.is_file())
    if key not in builder.tokenized:
        builder.tokenized[key] = Tokenized(load_tokenizer(folder))
    return builder.tokenized[key]


def runtime_of(builder: VariantBuilder, folder: Path, *, threads: int = 0) -> Runtime:
    """Return a variant ready to predict; `threads` = 0: on the run's device, with the threads of the run."""
    if exported_facts(folder):
        return open_exported(folder, threads=threads or torch.get_num_threads())
    task = builder.recovery_examples.task
    model = load_model(folder, task.kind, labels=task.labels, require_head=True)
    device = torch.device("cpu") if threads else builder.device
    return TorchRuntime(model, span=task.kind == "span", device=device)


def logits_of(builder: VariantBuilder, folder: Path, features: Features) -> Logits:
    """Return the logits of a variant, computed with the threads of the run."""
    pad = pad_token_id(builder, folder)
    return predict(runtime_of(builder, folder), features, pad_token_id=pad, device=builder.device)


def held_out_score(builder: VariantBuilder, folder: Path) -> float:
    """Return the headline metric of a variant, or of the teacher, on the held-out examples."""
    features, logits, threshold = _on_held_out(builder, folder)
    return headline_score(builder.held_out, features, logits, threshold=threshold)


def held_out_predictions(builder: VariantBuilder, folder: Path) -> Predictions:
    """Return the predictions of a variant, or of the teacher, on the held-out examples."""
    features, logits, threshold = _on_held_out(builder, folder)
    return read_predictions(builder.held_out, features, logits, threshold=threshold)


def _on_held_out(builder: VariantBuilder, folder: Path) -> tuple[Features, Logits, Threshold | None]:
    """Return the held-out examples as inputs, and logits and threshold of a model, both in the order of the classes.

    A teacher from elsewhere may have its classes in another order.
    """
    config, examples = load_config(folder), builder.held_out
    features = encoded(builder, examples, folder)
    logits = logits_of(builder, folder, features)
    is_teacher = folder == builder.teacher
    order = check_classes(folder, config, examples.task, builder.teacher_labels) if is_teacher else None
    if order is not None:
        logits = logits[..., order] if isinstance(logits, np.ndarray) else [row[..., order] for row in logits]
    return features, logits, threshold_for(config, examples, order)


def pad_token_id(builder: VariantBuilder, folder: Path) -> int:
    """Return the padding token of the tokenizer in a model folder."""
    return int(_tokenized(builder, folder).tokenizer.pad_token_id)


def single_inputs(features: Features, indices: Sequence[int] | NDArray[np.int64], pad: int) -> list[ModelInputs]:
    """Return the inputs of some features, each as a separate batch."""
    batches = (collate(features, [index], pad, token_types=True) for index in indices)
    return [{name: batch[name].numpy() for name in INPUTS} for batch in batches]
