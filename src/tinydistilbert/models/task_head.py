"""The head of a task model, and whether it is kept when the model is fine-tuned further.

It is kept if it has the number and the kind of outputs of the new task. Otherwise the new head starts from random
weights, because the old outputs have another meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.models.class_names import match_classes

TaskHead = Literal["classification", "regression", "span", "multi-label", "token-classification"]

_ENDINGS: dict[TaskHead, str] = {
    "classification": "ForSequenceClassification", "regression": "ForSequenceClassification",
    "span": "ForQuestionAnswering", "multi-label": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
}  # fmt: skip
_WITHOUT_TASK = ("ForMaskedLM", "ForPreTraining", "Model")
"""Endings of the names of classes without a task head, so that a new head needs no notice."""
SHOWN_CLASSES = 12
_OF_CLASSES = ("classification", "multi-label", "token-classification")
_MULTI_LABEL = "multi_label_classification"
"""Transformers' name for a model each of whose outputs is a label that a text has or does not have."""
PROBLEM_TYPES = {
    "classification": "single_label_classification", "multi-label": _MULTI_LABEL, "regression": "regression",
}  # fmt: skip
"""The `problem_type` in the config for each head."""


@dataclass(frozen=True)
class StartingHead:
    """Whether a model's head is kept for a task, and how."""

    is_kept: bool | None
    """Whether the new head starts from its last matrix; None = only if the shapes are equal."""
    is_foreign: bool = False
    """Whether it belongs to another class of models, so that none of its weights is used."""
    note: str = ""
    """Notice for the user; empty = none."""
    order: tuple[int, ...] | None = None
    """Of a kept head of classes: for each class of the task, the output that becomes it; None = the same order."""


def starting_head(config: PretrainedConfig, head: TaskHead, labels: Sequence[str]) -> StartingHead:
    """Decide whether the head of a model is kept for a task.

    Args:
        config: of the model, as it was saved.
        head: the kind of the task.
        labels: the classes of the task; empty = those of the model.
    """
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if not architecture or architecture.endswith(_WITHOUT_TASK):
        return StartingHead(is_kept=None)
    outputs = {"regression": 1, "span": 2}.get(head) or len(labels) or config.num_labels
    is_measurement = config.problem_type == "regression" or (config.num_labels == 1 and not is_multi_label(config))
    fits = head == "span" or (config.num_labels == outputs and is_measurement == (head == "regression"))
    is_foreign = not architecture.endswith(_ENDINGS[head])
    if is_foreign or not fits:
        new = f"{outputs} classes" + (f", {listed(labels)}," if labels else "") if head in _OF_CLASSES else head
        note = f"{_described(config, architecture)} is left out; the new one for {new} starts from random weights"
        return StartingHead(is_kept=False, is_foreign=is_foreign, note=note)
    return _kept_classes(config, head, labels) if labels and head in _OF_CLASSES else StartingHead(is_kept=True)


def _described(config: PretrainedConfig, architecture: str) -> str:
    if not architecture.endswith(_ENDINGS["classification"]):
        return f"its head, of {architecture},"
    if config.num_labels == 1:
        return "its head of one output"
    kind = "measurements" if config.problem_type == "regression" else "classes"
    return f"its head of {config.num_labels} {kind}, {listed(output_names(config))},"


def _kept_classes(config: PretrainedConfig, head: TaskHead, labels: Sequence[str]) -> StartingHead:
    names = output_names(config)
    match = match_classes(names, labels)
    order = None if match is None or match.is_in_order else match.order
    notes = []
    if match is None or match.by != "name" or order:
        of_outputs = labels if order is None else [labels[order.index(output)] for output in range(len(order))]
        verb = "start as" if match is None else "are read as"
        notes.append(f"its outputs {listed(names)} {verb} {listed(of_outputs)}")
    if is_multi_label(config) != (head == "multi-label"):
        notes.append(
            "it predicted several labels at once and now predicts one"
            if is_multi_label(config)
            else "it predicted one class and now predicts any number of labels"
        )
    note = f"its head of {len(labels)} classes is kept: {'; '.join(notes)}" if notes else ""
    return StartingHead(is_kept=True, note=note, order=order)


def output_names(config: PretrainedConfig) -> list[str]:
    """Return the names of a model's outputs, in their order."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def listed(names: Sequence[str]) -> str:
    """Join names; if there are very many, the first ones and the number of the others."""
    more = len(names) - SHOWN_CLASSES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:SHOWN_CLASSES])} and {more} more"


def is_multi_label(config: PretrainedConfig) -> bool:
    """Return whether a model may predict several labels at once: a sigmoid for each logit, not a softmax over all.

    Models from elsewhere whose config does not say predict one class.
    """
    return bool(config.problem_type == _MULTI_LABEL)


def has_several_measurements(config: PretrainedConfig) -> bool:
    """Return whether the outputs of a model of whole texts are several measurements, and no classes of a softmax."""
    return bool(config.problem_type == PROBLEM_TYPES["regression"] and config.num_labels > 1)


def is_token_head(config: PretrainedConfig) -> bool:
    """Return whether a model is for token classification: each of its tokens has logits."""
    return str((getattr(config, "architectures", None) or [""])[0]).endswith(_ENDINGS["token-classification"])


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """Return the last matrix of the head of a task model of any family."""
    whole = cast("Any", model)
    head = whole.qa_outputs if hasattr(whole, "qa_outputs") else getattr(whole, "classifier", None)
    if head is None:  # ELMo
        head = whole.head.ends if hasattr(whole.head, "ends") else whole.head.output
    layer = getattr(head, "out_proj", head)
    assert isinstance(layer, nn.Linear), type(layer)
    return layer


def output_keys(model: PreTrainedModel) -> set[str]:
    """Return the names of weight and bias of the head's last matrix."""
    layer = output_layer(model)
    (name,) = (name for name, module in model.named_modules() if module is layer)
    return {f"{name}.weight", f"{name}.bias"}


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Reorder the outputs of a classification head: output `order[i]` becomes output i."""
    layer = output_layer(model)
    index = torch.tensor(order, device=layer.weight.device)
    layer.weight.copy_(layer.weight[index])
    layer.bias.copy_(layer.bias[index])


def restart_outputs(model: PreTrainedModel) -> None:
    """Give the last matrix of a head random weights, drawn as in its family."""
    layer = output_layer(model)
    for parameter in layer.parameters():
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # else the next line would not change it
    model._init_weights(layer)
