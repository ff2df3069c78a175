"""The rungs of the ladder that `compress` goes down: one fine-tuned model in smaller and smaller forms.

Every folder is made once and then found finished, so an interrupted ladder goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tinydistilbert.compress.importance import Importance, head_and_neuron_importance
from tinydistilbert.compress.prune import drop_layers, most_important_layers, prune
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.data.files import find_splits, records
from tinydistilbert.evaluation.scoring import headline_score
from tinydistilbert.export.quantize import quantize, sensitive_layers
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.finetune import finetune, training_facts
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.finetuning.soft_targets import make_targets
from tinydistilbert.finetuning.trainer import Lesson, training_examples
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.runtimes import MODEL_FILE, ModelInputs, OnnxRuntime, Runtime, TorchRuntime, uses_token_types
from tinydistilbert.recipe.schema import Recipe, TaskSettings
from tinydistilbert.run_folder import CompressedFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import INPUTS, Logits, batches_by_length, predict
from tinydistilbert.tasks.recipe_splits import wanted_examples

TOKENS_A_BATCH = 2048
"""Of what importance is told from."""


@dataclass(frozen=True)
class Rung:
    """One form of the model."""

    name: str
    """As the table shows it."""
    folder: Path
    """A model folder: exported, or the model as it was given."""
    source: Path
    """The torch model that it was made from."""
    note: str = ""
    """What is special about it: layers that were left in float."""


@dataclass(frozen=True)
class Workshop:
    """Everything that the rungs of one model are made with."""

    recipe: Recipe
    task: Task
    model: Path
    """The fine-tuned model, in a Hugging Face folder."""
    teachers: tuple[Path, ...]
    """That pruned models learn from again; none = the model itself."""
    row: str
    output: CompressedFolder
    """Gets a folder for each rung."""
    device: torch.device
    log: Callable[[str], None]

    @cached_property
    def held_out(self) -> Examples:
        """Train examples by which everything is chosen; no pruned model is trained on them."""
        return wanted_examples(self._own_recipe, self.task, HELD_OUT)

    def held_out_score(self, folder: Path) -> float:
        """The headline metric of a form of the model on them."""
        features = self.encoded(self.held_out, folder)
        return headline_score(self.held_out, features, self.logits(folder, features))

    def encoded(self, examples: Examples, folder: Path) -> Features:
        """The examples as inputs of a form of the model: one with a trimmed vocabulary has a tokenizer of its own."""
        max_length = self.recipe.finetune.max_length(self.task.name, self.task.max_length)
        return encode(examples, load_tokenizer(folder), max_length)

    def logits(self, folder: Path, features: Features) -> Logits:
        """What a form of the model says, on as many cores as there are."""
        pad = pad_token_id(folder)
        return predict(self.runtime(folder), features, pad_token_id=pad, device=self.device)

    def runtime(self, folder: Path, *, threads: int = 0) -> Runtime:
        """A form of the model, ready to answer."""
        if (folder / MODEL_FILE).is_file():
            return OnnxRuntime(folder, threads=threads)
        model = load_model(folder, self.task.kind, labels=self._training.task.labels, require_head=True)
        device = torch.device("cpu") if threads else self.device
        return TorchRuntime(model, span=self.task.kind == "span", device=device)

    def rungs(self) -> Iterator[Rung]:
        """The rungs from the top, each made when it is asked for."""
        settings = self.recipe.compress
        yield Rung("as it is, torch", self.model, self.model)
        yield self._exported(self.model, "whole", "ONNX Runtime, fp32")
        if settings.quantization != "none":
            yield self._quantized(self.model, "whole", "int8")
        source = self.model
        for before, share in pairwise((1.0, *sorted(settings.keep, reverse=True))):
            name = f"{100 * share:g} % of heads and neurons" if share < 1 else "taught again"
            source = self._pruned(source, f"keep-{100 * share:g}", partial(prune, keep=share / before))
            yield self._small(source, f"keep-{100 * share:g}", name)
        for count in sorted(settings.layers, reverse=True):
            source = self._pruned(source, f"layers-{count}", partial(_keep_layers, count=count))
            yield self._small(source, f"layers-{count}", f"{count} layers")

    def _small(self, source: Path, slug: str, name: str) -> Rung:
        if self.recipe.compress.quantization == "none":
            return self._exported(source, slug, f"{name}, fp32")
        return self._quantized(source, slug, f"{name}, int8")

    def _folder(self, path: Path, title: str, make: Callable[[Path], None]) -> Path:
        if atomic.is_finished(path):
            atomic.tidy(path)
        else:
            self.log(f"compress {self.row} on {self.task.title}: {title}")
            make(path)
        return path

    def _exported(self, model: Path, slug: str, name: str) -> Rung:
        source = model
        if self.recipe.compress.vocabulary:
            source = self._folder(
                self.output.variant(slug).trimmed, "cut the vocabulary", lambda to: trim(model, self._texts(), to)
            )
        folder = self._folder(self.output.variant(slug).onnx, f"export {slug}", lambda to: export(source, to))
        return Rung(name, folder, source, self._note(model))

    def _texts(self) -> Iterator[str]:
        """What the vocabulary must cover."""
        named = self.recipe.compress.vocabulary
        if named != "train":
            for file in find_splits(Path(named))[0]:
                yield from records(file, self.recipe.corpus.text_column)
            return
        columns = wanted_examples(self._own_recipe, self.task, self.task.train).columns
        for name in ("text", "text_pair", "question", "context"):
            yield from columns.get(name, ())

    def _quantized(self, source: Path, slug: str, name: str) -> Rung:
        settings, whole = self.recipe.compress, self._exported(source, slug, name)
        exported = whole.folder
        method = settings.quantization
        assert method != "none"

        def make(to: Path) -> None:
            calibration = self._calibration(exported)
            kept = sensitive_layers(
                exported, score=self.held_out_score, max_loss=settings.max_loss / 100, method=method,
                calibration=calibration,
            )  # fmt: skip
            quantize(exported, to, method=method, keep_float=kept, calibration=calibration)

        folder = self._folder(self.output.variant(slug).int8, f"int8 of {slug}", make)
        kept = tuple(atomic.read_json(folder / "config.json")["tinydistilbert"].get("keep_float", ()))
        notes = [whole.note, f"in float: {', '.join(kept)}" if kept else ""]
        return replace(whole, folder=folder, note="; ".join(note for note in notes if note))

    def _note(self, model: Path) -> str:
        """What its training itself says against a form."""
        failed = training_facts(model).get("failed")
        return f"the training failed at {failed}" if failed else ""

    def _calibration(self, exported: Path) -> list[ModelInputs]:
        if self.recipe.compress.quantization != "static":
            return []
        features = self.encoded(self.held_out, exported)
        chosen = sample_rows(len(features), self.recipe.compress.calibration_examples, self.recipe.seed)
        return single_inputs(features, chosen, pad_token_id(exported))

    def _pruned(self, source: Path, slug: str, smaller: Callable[[PreTrainedModel, Importance], object]) -> Path:
        """The model made smaller, and taught again."""

        def make(to: Path) -> None:
            model = load_model(source, self.task.kind, labels=self._training.task.labels, require_head=True).to(
                self.device
            )
            smaller(model, self._importance(model))
            with atomic.unfinished(to) as folder:
                save_model(model.cpu(), load_tokenizer(source), folder)

        cut = self._folder(self.output.variant(slug).pruned, f"prune to {slug}", make)
        return self._folder(
            self.output.variant(slug).recovered, f"teach {slug} again",
            lambda to: finetune(
                self._own_recipe, self.task, cut, to, row=f"{self.row} {slug}", seed=self.recipe.seed,
                device=self.device, lesson=self._lesson,
            ),
        )  # fmt: skip

    def _importance(self, model: PreTrainedModel) -> Importance:
        examples, _ = training_examples(self._own_recipe, self.task, augmented=None, soft=False)
        features = self.encoded(examples, self.model)
        chosen = sample_rows(len(features), self.recipe.compress.importance_examples, self.recipe.seed)
        objective, projected = TaskLoss(self.task.kind), ProjectedStudent(model)
        batches = (
            collate(features, chosen[places], pad_token_id(self.model), token_types=uses_token_types(model))
            for places in batches_by_length(features.lengths[chosen], TOKENS_A_BATCH)
        )
        return head_and_neuron_importance(
            model, batches, lambda _, batch: objective.loss(projected, dict(batch), {"hard": 1.0}, 0)[0]
        )

    @cached_property
    def _own_recipe(self) -> Recipe:
        """The recipe with what is held out here, and with the epochs of recovery."""
        compress, task = self.recipe.compress, self.task.name
        finetune = self.recipe.finetune
        a_tenth = max(1, wanted_examples(self.recipe, self.task, self.task.train, limit=1).total // 10)
        length = finetune.max_length(task, self.task.max_length)
        own = finetune.settings(task)
        # What compares attention needs all heads on both sides, and stages of their own more epochs.
        distillation = replace(own.distillation, attention=0.0, relation=0.0, intermediate_epochs=0.0)
        settings = replace(
            own, distillation=distillation, epochs=compress.recovery_epochs, min_steps=0, select="fixed",
            learning_rates=(), score_on="train", validation_examples=min(compress.held_out or a_tenth, a_tenth),
            override={task: TaskSettings(max_length=length)},
        )  # fmt: skip
        return replace(self.recipe, finetune=settings)

    @cached_property
    def _training(self) -> Examples:
        return training_examples(self._own_recipe, self.task, augmented=None, soft=True)[0]

    @cached_property
    def _lesson(self) -> Lesson:
        teachers = self.teachers or (self.model,)
        folder = self._folder(
            self.output.soft_targets, "ask the teacher",
            lambda to: make_targets(
                self._training, teachers, to, tokenizer=load_tokenizer(self.model), device=self.device,
                max_length=self.recipe.finetune.max_length(self.task.name, self.task.max_length),
            ),
        )  # fmt: skip
        return Lesson(folder, teachers)


def _keep_layers(model: PreTrainedModel, importance: Importance, *, count: int) -> None:
    drop_layers(model, most_important_layers(importance, count))


def pad_token_id(folder: Path) -> int:
    """Of the tokenizer in a model folder."""
    return int(load_tokenizer(folder).pad_token_id)


def single_inputs(features: Features, indices: Sequence[int] | NDArray[np.int64], pad: int) -> list[ModelInputs]:
    """The inputs of some features, each a batch of its own."""
    batches = (collate(features, [index], pad, token_types=True) for index in indices)
    return [{name: batch[name].numpy() for name in INPUTS} for batch in batches]
