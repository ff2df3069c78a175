"""The student: some of the teacher's layers, with the teacher's embeddings, token types and masked-LM head."""

import copy
import re

import torch
from torch import Tensor
from transformers import DistilBertConfig, DistilBertForMaskedLM, PretrainedConfig, PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.narrow import Widths, narrowed, student_widths
from tinydistilbert.models.pruned import is_pruned
from tinydistilbert.recipe import schema

_LAYER = re.compile(r"(.*\blayers?\.)(\d+)(\..*)")

# BERT's names of a layer's parts, and DistilBERT's.
_LAYER_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_OTHER_PARTS = {
    "bert.embeddings.word_embeddings": "distilbert.embeddings.word_embeddings",
    "bert.embeddings.position_embeddings": "distilbert.embeddings.position_embeddings",
    "bert.embeddings.LayerNorm": "distilbert.embeddings.LayerNorm",
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
}


def uniform_layers(size: int, depth: int) -> tuple[int, ...]:
    """Return the last layer of each of `size` groups of teacher layers (TinyBERT, Jiao et al. 2020, section 4.1)."""
    return tuple((index + 1) * depth // size - 1 for index in range(size))


def layer_map(student: schema.Student, depth: int) -> tuple[int, ...]:
    """Return the teacher layers that the student's layers are copied from, lowest first.

    `distilbert` spreads them evenly from the first to the last layer, which for 12 -> 6 is exactly the choice of
    DistilBERT's authors, 0, 2, 4, 7, 9, 11. `even` spaces them from the first on (12 -> 6: 0, 2, 4, 6, 8, 10),
    `uniform` up to the last (1, 3, 5, 7, 9, 11); `first` and `last` take consecutive layers.

    Args:
        student: its `layers` and `num_hidden_layers` are read.
        depth: number of the teacher's layers.

    Raises:
        UserError: the student has more layers than the teacher, or a layer that the teacher does not have.
    """
    if not isinstance(student.layers, str):
        bad = [layer for layer in student.layers if layer >= depth]
        if bad or not student.layers or len(set(student.layers)) != len(student.layers):
            expected = f"different layers among 0 to {depth - 1}"
            raise UserError("student.layers", expected=expected, found=str(list(student.layers)), fix="change the list")
        return student.layers
    size = student.num_hidden_layers or max(depth // 2, 1)
    if size > depth:
        raise UserError(
            "student.num_hidden_layers", expected=f"at most the teacher's {depth}", found=str(size), fix="lower it"
        )
    if student.layers == "first":
        return tuple(range(size))
    if student.layers == "last":
        return tuple(range(depth - size, depth))
    if student.layers == "uniform":
        return uniform_layers(size, depth)
    if student.layers == "even":
        return tuple(index * depth // size for index in range(size))
    return tuple(round(index * (depth - 1) / max(size - 1, 1)) for index in range(size))


def _as_distilbert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return BERT's weights by DistilBERT's names, token type 0 folded into the positions, pooler left out."""
    renamed = {}
    for key, value in weights.items():
        name, _, kind = key.rpartition(".")
        if match := _LAYER.fullmatch(name):
            renamed[f"distilbert.transformer.layer.{match[2]}.{_LAYER_PARTS[match[3][1:]]}.{kind}"] = value
        elif name in _OTHER_PARTS:
            renamed[f"{_OTHER_PARTS[name]}.{kind}"] = value
    token_type = weights["bert.embeddings.token_type_embeddings.weight"][0]
    renamed["distilbert.embeddings.position_embeddings.weight"] = (
        weights["bert.embeddings.position_embeddings.weight"] + token_type
    )
    return renamed


def _distilbert_config(teacher: PreTrainedModel, layers: int) -> DistilBertConfig:
    config = teacher.config
    if config.model_type != "bert" or config.layer_norm_eps != 1e-12 or config.hidden_act != "gelu":
        norms = getattr(config, "layer_norm_eps", None)
        found = f"{config.model_type}, {getattr(config, 'hidden_act', None)}, layer_norm_eps {norms}"
        fix = 'set student.architecture = "same"'
        expected = "a BERT teacher with gelu and layer_norm_eps 1e-12 for distilbert"
        raise UserError("student.architecture", expected=expected, found=found, fix=fix)
    return DistilBertConfig(
        vocab_size=config.vocab_size, max_position_embeddings=config.max_position_embeddings, n_layers=layers,
        n_heads=config.num_attention_heads, dim=config.hidden_size, hidden_dim=config.intermediate_size,
        dropout=config.hidden_dropout_prob, attention_dropout=config.attention_probs_dropout_prob,
        initializer_range=config.initializer_range, pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )  # fmt: skip


def _same_config(teacher: PretrainedConfig, layers: tuple[int, ...]) -> PretrainedConfig:
    config = copy.deepcopy(teacher)
    config.num_hidden_layers = len(layers)
    if config.model_type == "modernbert":  # local or global attention of each layer
        config.layer_types = [teacher.layer_types[layer] for layer in layers]
    return config


def _widths(config: PretrainedConfig) -> Widths:
    rows = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return Widths(config.hidden_size, config.num_attention_heads, rows)


def _set_widths(config: PretrainedConfig, widths: Widths) -> None:
    if config.model_type == "electra" and config.embedding_size == config.hidden_size:  # else it is projected
        config.embedding_size = widths.hidden
    config.hidden_size, config.num_attention_heads = widths.hidden, widths.heads
    setattr(config, "hidden_dim" if config.model_type == "distilbert" else "intermediate_size", widths.rows)


def cut_student(teacher: PreTrainedModel, student: schema.Student, *, seed: int) -> PreTrainedModel:
    """Return a new masked-LM model of the chosen teacher layers; with all layers, its logits equal the teacher's.

    Args:
        teacher: masked-LM model of one of the known families; if on the meta device, the student has no weights either.
        student: which layers, which architecture, how wide, copied or random weights.
        seed: of the random weights.

    Raises:
        UserError: the layers do not exist, or the architecture or the widths cannot be made from this teacher.
    """
    if is_pruned(teacher.config):
        fix = "cut the student from the model before it was pruned"
        raise UserError("the teacher", problem="no student can be cut from a pruned model", fix=fix)
    layers = layer_map(student, teacher.config.num_hidden_layers)
    as_distilbert = student.architecture == "distilbert" and teacher.config.model_type != "distilbert"
    config = _distilbert_config(teacher, len(layers)) if as_distilbert else _same_config(teacher.config, layers)
    wide = _widths(config)
    narrow = student_widths(wide, student)
    if config.model_type == "mpnet" and narrow.heads != wide.heads:
        expected = "the teacher's width, as all layers of MPNet share a bias for each head"
        fix = "leave it out; intermediate_size and the layers may be fewer"
        raise UserError("student.hidden_size", expected=expected, found=str(narrow.hidden), fix=fix)
    _set_widths(config, narrow)
    torch.manual_seed(seed)
    model: PreTrainedModel = DistilBertForMaskedLM(config) if as_distilbert else type(teacher)(config)
    if student.initialization == "random":
        return model
    _check_first_layer(config, layers)
    weights = teacher.state_dict()
    if as_distilbert:
        weights = _as_distilbert(weights)
    kept = _weights_of_layers(weights, model, layers)
    if narrow != wide:
        kept = narrowed(kept, wide, narrow, student.width_reduction)
    model.load_state_dict(kept, strict=True)  # copies: nothing is shared with the teacher
    return model


def task_student_config(teacher: PretrainedConfig, student: schema.Student) -> PretrainedConfig:
    """Return the config of the model that `cut_task_student` makes.

    Args:
        teacher: the config of a fine-tuned model of one of the known families.
        student: its layers are read; its other settings must keep the head's weights usable.

    Raises:
        UserError: the layers do not exist, the teacher is pruned, or the student should have another architecture,
            other widths or random weights.
    """
    if is_pruned(teacher):
        fix = "give the teacher from before it was pruned"
        raise UserError("the fine-tuned teacher", problem="no student can be cut from a pruned model", fix=fix)
    if teacher.model_type == "elmo":
        raise UserError(
            "the fine-tuned teacher", problem="ELMo has no layers that can be cut", fix="give another teacher"
        )
    wide = _widths(teacher)
    as_they_are: dict[str, tuple[object, ...]] = {
        "architecture": ("same", teacher.model_type), "initialization": ("teacher",),
        "hidden_size": (0, wide.hidden), "intermediate_size": (0, wide.rows),
    }  # fmt: skip
    for key, fitting in as_they_are.items():
        if (found := getattr(student, key)) not in fitting:
            expected = (
                f'{fitting[0]!r} with finetune.distillation.start = "teacher", whose weights are copied unchanged'
            )
            fix = 'change it, or set start = "student"'
            raise UserError(f"student.{key}", expected=expected, found=repr(found), fix=fix)
    layers = layer_map(student, teacher.num_hidden_layers)
    _check_first_layer(teacher, layers)
    return _same_config(teacher, layers)


def cut_task_student(teacher: PreTrainedModel, student: schema.Student) -> PreTrainedModel:
    """Return a task model of the chosen layers of a fine-tuned teacher, with its embeddings, pooler and head.

    With all layers, its logits equal the teacher's. Patient knowledge distillation (Sun et al. 2019) starts like this.

    Args:
        teacher: a fine-tuned model.
        student: has the layers.

    Raises:
        UserError: as in `task_student_config`.
    """
    config = task_student_config(teacher.config, student)
    model: PreTrainedModel = type(teacher)(config)
    layers = layer_map(student, teacher.config.num_hidden_layers)
    model.load_state_dict(_weights_of_layers(teacher.state_dict(), model, layers), strict=True)
    return model


def _weights_of_layers(
    weights: dict[str, Tensor], model: PreTrainedModel, layers: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the weights for a model of these layers; weights outside the layers stay as they are."""
    kept = {}
    for key in model.state_dict():
        match = _LAYER.fullmatch(key)
        kept[key] = weights[f"{match[1]}{layers[int(match[2])]}{match[3]}" if match else key]
    return kept


def _check_first_layer(config: PretrainedConfig, layers: tuple[int, ...]) -> None:
    """Refuse a ModernBERT without its first layer.

    Raises:
        UserError: it is left out.
    """
    if config.model_type == "modernbert" and layers[0] != 0:
        expected = "a list that begins with layer 0, ModernBERT's only layer without a norm before attention"
        raise UserError("student.layers", expected=expected, found=str(list(layers)), fix="change it")
