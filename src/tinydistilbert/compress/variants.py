"""The variants of a task model: exported, in 8-bit integers, and with fewer and fewer heads, neurons and layers.

Finished folders are not made again, so that an interrupted compression resumes where it was.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tinydistilbert.compress.builder import (
    VariantBuilder,
    encoded,
    held_out_score,
    make_folder,
    pad_token_id,
    single_inputs,
)
from tinydistilbert.compress.importance import Importance, importance_on
from tinydistilbert.compress.prune import drop_layers, most_important_layers, prune
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.data.files import find_splits, records
from tinydistilbert.export.openvino import has_bf16, to_bf16, to_int8
from tinydistilbert.export.quantize import quantize, sensitive_layers
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.runtimes import BF16, OPENVINO, ModelInputs, exported_facts
from tinydistilbert.run_folder import VariantFolder, training_facts
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import sample_rows
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.training.precision import multiplying


@dataclass(frozen=True)
class Variant:
    """A variant of the model."""

    name: str
    """Name in the table."""
    folder: Path
    """A model folder: exported, or the given model."""
    source: Path
    """The torch model from which it was made."""
    note: str = ""
    """Remarks, such as layers that stay in float."""


def variants(builder: VariantBuilder) -> Iterator[Variant]:
    """Yield the variants from the largest to the smallest, each made on demand."""
    settings, whole = builder.recipe.compress, builder.folder.variant("whole")
    yield Variant("as it is, torch", builder.model, builder.model)
    yield _exported(builder, builder.model, whole, "ONNX Runtime, fp32")
    if settings.quantization != "none":
        yield _quantized(builder, builder.model, whole, "int8")
    yield from _for_openvino(builder, builder.model, whole, "OpenVINO")
    source = builder.model
    for before, share in pairwise((1.0, *sorted(settings.keep, reverse=True))):
        name = f"{100 * share:g} % of heads and neurons" if share < 1 else "recovery fine-tuning alone"
        folder = builder.folder.variant(f"keep-{100 * share:g}")
        source = _pruned(builder, source, folder, partial(prune, keep=share / before))
        yield _smallest(builder, source, folder, name)
        yield from _for_openvino(builder, source, folder, f"{name}, OpenVINO")
    for count in sorted(settings.layers, reverse=True):
        folder = builder.folder.variant(f"layers-{count}")
        source = _pruned(builder, source, folder, partial(_keep_layers, count=count))
        yield _smallest(builder, source, folder, f"{count} layers")
        yield from _for_openvino(builder, source, folder, f"{count} layers, OpenVINO")


def _keep_layers(model: PreTrainedModel, importance: Importance, *, count: int) -> None:
    drop_layers(model, most_important_layers(importance, count))


def _smallest(builder: VariantBuilder, source: Path, folder: VariantFolder, name: str) -> Variant:
    if builder.recipe.compress.quantization == "none":
        return _exported(builder, source, folder, f"{name}, fp32")
    return _quantized(builder, source, folder, f"{name}, int8")


def _exported(builder: VariantBuilder, model: Path, folder: VariantFolder, name: str) -> Variant:
    source = model
    if builder.recipe.compress.vocabulary:
        source = make_folder(
            builder, folder.trimmed, "trim the vocabulary", lambda output: trim(model, _texts(builder), output)
        )
    onnx = make_folder(
        builder,
        folder.onnx,
        f"export {folder.name}",
        lambda output: export(source, output, max_length=builder.max_length),
    )
    failed = training_facts(model).get("failed")
    return Variant(name, onnx, source, f"the training failed at {failed}" if failed else "")


def _texts(builder: VariantBuilder) -> Iterator[str]:
    """Yield the texts that the vocabulary must cover."""
    vocabulary = builder.recipe.compress.vocabulary
    if vocabulary != "train":
        for file in find_splits(Path(vocabulary))[0]:
            yield from records(file, builder.recipe.corpus.text_column, builder.recipe.corpus.quoting)
        return
    columns = recipe_examples(builder.recovery_recipe, builder.task, builder.task.train).columns
    for name in ("text", "text_pair", "question", "context"):
        yield from columns.get(name, ())


def _quantized(builder: VariantBuilder, source: Path, folder: VariantFolder, name: str) -> Variant:
    settings, exported = builder.recipe.compress, _exported(builder, source, folder, name)
    method = settings.quantization
    threads = torch.get_num_threads()  # of the run
    assert method != "none"

    def make(output: Path) -> None:
        calibration = _calibration(builder, exported.folder) if method == "static" else []
        kept = sensitive_layers(
            exported.folder, score=partial(held_out_score, builder), max_loss=settings.max_loss / 100, method=method,
            calibration=calibration, threads=threads,
        )  # fmt: skip
        quantize(exported.folder, output, method=method, keep_float=kept, calibration=calibration, threads=threads)

    int8 = make_folder(builder, folder.int8, f"int8 of {folder.name}", make)
    kept = exported_facts(int8).get("keep_float", ())
    notes = [exported.note, f"in float: {', '.join(kept)}" if kept else ""]
    return replace(exported, folder=int8, note="; ".join(note for note in notes if note))


def _for_openvino(builder: VariantBuilder, source: Path, folder: VariantFolder, name: str) -> Iterator[Variant]:
    """Yield the model in bf16, if the processor supports it, and in int8, if the recipe names OpenVINO."""
    settings = builder.recipe.compress
    if OPENVINO not in settings.engines:
        return
    exported = _exported(builder, source, folder, name)
    if has_bf16():
        output = folder.openvino(BF16)
        made = make_folder(builder, output, f"{name} in bf16", lambda output: to_bf16(exported.folder, output))
        yield replace(exported, name=f"{name} bf16", folder=made)
    elif folder.name == "whole":
        builder.log("  no variant in bf16: this processor has no bf16")
    if settings.quantization != "none":
        made = make_folder(
            builder, folder.openvino("int8"), f"{name} in int8, by NNCF",
            lambda output: to_int8(exported.folder, output, _calibration(builder, exported.folder)),
        )  # fmt: skip
        yield replace(exported, name=f"{name} int8", folder=made)


def _calibration(builder: VariantBuilder, exported: Path) -> list[ModelInputs]:
    """Return inputs for measuring fixed ranges."""
    settings = builder.recipe.compress
    features = encoded(builder, builder.held_out, exported)
    chosen = sample_rows(len(features), settings.calibration_examples, builder.recipe.seed)
    return single_inputs(features, chosen, pad_token_id(builder, exported))


def _pruned(
    builder: VariantBuilder, source: Path, folder: VariantFolder,
    make_smaller: Callable[[PreTrainedModel, Importance], object],
) -> Path:  # fmt: skip
    """Make the model smaller, and return it after recovery fine-tuning."""

    def make(output: Path) -> None:
        task = builder.recovery_examples.task
        model = load_model(source, task.kind, labels=task.labels, require_head=True).to(builder.device)
        make_smaller(model, _importance(builder, model))
        with atomic.unfinished(output) as partial_output:
            save_model(model.cpu(), load_tokenizer(source), partial_output, max_length=builder.max_length)

    def recover(output: Path) -> None:
        recipe, soft_targets = builder.recovery_recipe, _soft_targets(builder)
        finetune(
            recipe.finetune, task_examples(recipe, builder.task, soft_targets), pruned, output,
            compute=builder.compute(), row=f"{builder.row} {folder.name}", seed=recipe.seed,
            soft_targets=soft_targets,
        )  # fmt: skip

    pruned = make_folder(builder, folder.pruned, f"prune to {folder.name}", make)
    return make_folder(builder, folder.recovered, f"recovery fine-tuning of {folder.name}", recover)


def _importance(builder: VariantBuilder, model: PreTrainedModel) -> Importance:
    """Return the importance of the model's heads, neurons and layers for its task."""
    examples, _ = training_examples(builder.recovery_recipe, builder.task, augmented=None, soft=False)
    features, settings = encoded(builder, examples, builder.model), builder.recipe
    chosen = sample_rows(len(features), settings.compress.importance_examples, settings.seed)
    return importance_on(model, features, chosen, builder.task.kind, pad_token_id(builder, builder.model))


def _soft_targets(builder: VariantBuilder) -> SoftTargetSource:
    """Return the soft targets from which pruned models learn in addition to the labels."""
    teachers = builder.teachers or (builder.model,)
    # Fine-tuning has already compared the teachers that the student learned from with the labels of its examples.
    labels = builder.teacher_labels if builder.recipe.compress.teachers else builder.teacher_labels or None

    def make(output: Path) -> None:
        compute = builder.compute()
        with multiplying(compute.device, compute.chosen):
            make_soft_targets(
                builder.recovery_examples, teachers, output, tokenizer=load_tokenizer(builder.model),
                device=compute.device, max_length=builder.max_length,
                given_labels=labels,
            )  # fmt: skip

    folder = make_folder(builder, builder.folder.soft_targets, "soft targets of the teacher", make)
    return SoftTargetSource(folder, teachers)
