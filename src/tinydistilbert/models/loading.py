"""Models and tokenizers from folders or the hub: safetensors only, known families only, and every weight accounted for.

This module reads all models from elsewhere. A hub model is read at one commit, a folder that this program finished is
compared with its manifest, and `untrusted.py` checks names, numbers and sizes before anything is allocated.
Plain `from_pretrained` accepts a file with one of 24 tensors and fills the rest with random numbers, with only a
warning. Here a missing or unexpected weight is an error, unless it belongs to a head that the task does not share.
"""

import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention
from transformers.utils import logging

from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.models import untrusted
from tinydistilbert.models.elmo.model import ElmoConfig  # the import also registers ELMo with the Auto classes
from tinydistilbert.models.hub import FIX, local_folder
from tinydistilbert.models.lengths import declared_length
from tinydistilbert.models.pruned import is_pruned, shaped, shapes_of
from tinydistilbert.models.task_head import (
    PROBLEM_TYPES,
    StartingHead,
    is_token_head,
    output_keys,
    reorder_outputs,
    restart_outputs,
    starting_head,
)
from tinydistilbert.models.tokenizer_files import forget_lengths, save_tokenizer
from tinydistilbert.notices import notice
from tinydistilbert.storage import atomic

Head = Literal["masked-lm", "classification", "regression", "span", "multi-label", "token-classification"]

SUPPORTED_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "modernbert")
ROBERTA_FAMILIES = ("roberta", "xlm-roberta", "camembert")
"""Families of one architecture, whose positions are numbered from their padding token's id + 1."""
MPNET_PADDING = 1
"""MPNet numbers positions from this + 1, whatever padding id its config has."""
ELMO = ElmoConfig.model_type
"""The baseline: it can be fine-tuned, scored and timed, but without a masked-LM head it is no teacher or student."""
_CLASSES = {
    "masked-lm": AutoModelForMaskedLM,
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "span": AutoModelForQuestionAnswering,
    "multi-label": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}
_HEADS = {  # in ModernBERT every head begins with a layer `head`, and the span head is called `classifier` too
    "masked-lm": re.compile(
        r"(cls\.predictions|vocab_(transform|layer_norm|projector)|generator_(predictions|lm_head)|lm_head|head|decoder)\."
    ),
    "sequence": re.compile(r"((pre_)?classifier|head)\."),
    "span": re.compile(r"(qa_outputs|classifier|head)\."),
    "pooler": re.compile(r"(\w+\.)?pooler\."),
    "task model": re.compile(r"(elmo\.)?(mix|sentences)\."),  # not in ELMo's published weights
    "discriminator": re.compile(r"discriminator_predictions\."),
    "next sentence": re.compile(r"cls\.seq_relationship\."),
    "buffer": re.compile(r"(.*\.)?position_ids$"),
}


_one_at_a_time = threading.RLock()
"""These settings are global: of two threads, the second would save the first one's silence, and restore that."""


def _where(name: str | Path, revision: str | None) -> str:
    return f"model {name}" + (f"@{revision}" if revision else "")


@contextmanager
def _quietly() -> Iterator[None]:
    """Switch off transformers' progress bars and load reports: `load_model` checks and reports all of that itself."""
    with _one_at_a_time:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        if bars:
            logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


def load_config(name: str | Path, revision: str | None = None) -> PretrainedConfig:
    """Return the configuration of a model folder or hub name.

    Raises:
        UserError: there is no such model, its family is neither ELMo nor one of `SUPPORTED_FAMILIES`, or its config
            has impossible values (`untrusted.check_config`).
    """
    where = _where(name, revision)
    folder = local_folder(name, revision, (untrusted.CONFIG,))
    if not (folder / untrusted.CONFIG).is_file():
        raise UserError(where, expected="a model folder or hub name", found="no config.json in it", fix=FIX)
    check_unchanged(folder, (untrusted.CONFIG,))
    family = untrusted.check_config(folder)["model_type"]
    if family not in (*SUPPORTED_FAMILIES, ELMO):
        expected = f"a family among {', '.join((*SUPPORTED_FAMILIES, ELMO))}"
        raise UserError(where, expected=expected, found=repr(family), fix="use another model")
    with as_user_error(
        where, expected="a config.json that transformers reads", fix="use the one it was published with"
    ):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config.name_or_path = str(name)
    return config


def load_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Return a model's fast tokenizer, with the truncation and padding of its file switched off.

    Raises:
        UserError: there is none, it lacks one of the special tokens that masked-LM distillation needs, it has token ids
            without embeddings in the model, or its files name code or other files.
    """
    where = f"tokenizer of {_where(name, revision)}"
    config = load_config(name, revision)  # may be the only file with the kind of tokenizer
    folder = local_folder(name, revision, (untrusted.CONFIG, *untrusted.TOKENIZER))
    check_unchanged(folder, untrusted.TOKENIZER)
    untrusted.check_tokenizer(folder)
    with as_user_error(where, expected="tokenizer.json", fix="save the tokenizer beside the model"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer.name_or_path = str(name)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            found = type(tokenizer).__name__
            raise UserError(where, expected="a fast tokenizer", found=found, fix="convert it to tokenizer.json")
        for token in ("cls_token", "sep_token", "pad_token", "mask_token"):
            if getattr(tokenizer, token) is None:
                raise UserError(where, expected=f"a {token}", found="none", fix="use a tokenizer like BERT's")
        forget_lengths(tokenizer)
        vocabulary = tokenizer.get_vocab()
    if config.model_type == ELMO:  # it reads characters, and has no vocabulary
        return tokenizer
    if vocabulary.keys() <= set(tokenizer.all_special_tokens):  # transformers makes one up where there is no file
        found, fix = "only special tokens", "save the tokenizer beside the model"
        raise UserError(where, expected="a vocabulary in tokenizer.json", found=found, fix=fix)
    if max(vocabulary.values()) >= config.vocab_size:
        expected, found = f"token ids below {config.vocab_size}", str(max(vocabulary.values()))
        raise UserError(where, expected=expected, found=found, fix="put the model's own tokenizer beside it")
    return tokenizer


def check_unchanged(folder: Path, names: Iterable[str]) -> None:
    """Compare the files of a folder that a loader reads with the manifest, if the folder has one.

    Raises:
        UserError: a file was changed, deleted or added after the folder was finished, or the run deleted weights that
            it no longer needed.
    """
    if atomic.is_finished(folder):
        manifest = atomic.read_manifest(folder, verify=False)
        atomic.refuse_released(folder, manifest)
        listed = manifest["files"]
        for name in names:
            if name in listed or (folder / name).exists():
                atomic.intact(folder, name)


_ATTENTION_DROPOUT = re.compile(r".*\battention\.(self\.|attn\.)?dropout$")


def set_dropout(model: nn.Module, dropout: float | None, attention_dropout: float | None) -> None:
    """Set the dropout of hidden states and of attention weights in place; None leaves the model's own.

    The model's config stays as it is, so that a saved student is trained with its family's usual dropout next time.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Dropout):
            of_output = f"{name.removesuffix('dropout')}attn.dropout" in modules  # MPNet has two
            of_weights = _ATTENTION_DROPOUT.match(name) and not of_output
            probability = attention_dropout if of_weights else dropout
            module.p = module.p if probability is None else probability
        elif isinstance(module, ModernBertAttention):  # stores the former as a number, and has no module for 0
            if attention_dropout is not None:
                module.attention_dropout = attention_dropout
            if dropout is not None:
                module.out_drop = nn.Dropout(dropout).train(module.training)


def load_model(
    name: str | Path,
    head: Head,
    *,
    revision: str | None = None,
    labels: tuple[str, ...] = (),
    require_head: bool = False,
) -> PreTrainedModel:
    """Load the model `name` in single precision with the head `head`; every weight must be accounted for.

    A head that the folder does not have, or has for another number of outputs, starts from random weights (seed torch
    first); heads that the task does not need are left out. A notice says whether a task model's head is kept
    (`task_head.starting_head`). The encoder must be complete; a pruned one has the shapes in its config.

    Args:
        name: local folder or hub name.
        head: `regression` is a classification head with one output.
        revision: of a hub model; without a commit, one is looked up and printed (`hub.local_folder`).
        labels: class names of a task model, in the order of their ids; stored in the model's config.
        require_head: whether a missing head is an error, because the model should be a fine-tuned one; its outputs then
            keep their order.

    Raises:
        UserError: there is no such model or no safetensors file, weights are missing, unexpected or of another shape, a
            file differs from the folder's manifest, the config has impossible values, or ELMo is requested as a
            masked-LM or token classification model.
    """
    where = _where(name, revision)
    config = load_config(name, revision)
    if head == "masked-lm" and config.model_type == ELMO:
        fix = "fine-tune it instead (finetune.model), or use another teacher"
        raise UserError(where, problem="ELMo is not a masked language model", fix=fix)
    if head == "token-classification" and config.model_type == ELMO:
        raise UserError(where, problem="ELMo cannot tag words here", fix="use a transformer")
    if require_head and (is_token_head(config) != (head == "token-classification")):  # their weights have one name
        found = (config.architectures or ["no architecture"])[0]
        fix = "give a model of that kind"
        raise UserError(where, expected=f"a model with the head of {head}", found=found, fix=fix)
    new_head = {"masked-lm": "masked-lm", "span": "span"}.get(head, "sequence")
    starting = None if head == "masked-lm" or require_head else starting_head(config, head, labels)
    if head in PROBLEM_TYPES:
        config.problem_type = PROBLEM_TYPES[head]
    if head == "regression":
        config.num_labels = 1
    elif head == "span":
        config.num_labels = 2  # start and end, whatever classes the folder's earlier head had
    elif labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    architecture: Any = _CLASSES[head]
    if is_pruned(config):
        shapes_of(config)  # raises if they are wrong
        architecture = shaped(architecture._model_mapping[type(config)])
    folder = local_folder(name, revision, (untrusted.CONFIG, untrusted.WEIGHTS, untrusted.INDEX, "model-*.safetensors"))
    files = untrusted.weight_files(folder, str(name))
    check_unchanged(folder, {untrusted.WEIGHTS, untrusted.INDEX, *(file.name for file in files)})
    untrusted.check_weights(files, config, str(name))
    fix = "check the folder; weights must be in model.safetensors"
    with as_user_error(where, expected="a complete safetensors model", fix=fix), _quietly():
        model, info = architecture.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,  # reported below
        )  # fmt: skip
    has_head = require_head or head == "masked-lm" or (starting is not None and starting.is_kept)
    allowed_missing = [] if has_head else [_HEADS[new_head], _HEADS["pooler"], _HEADS["task model"]]
    missing = _unaccounted(info["missing_keys"], allowed_missing)
    others = [p for key, p in _HEADS.items() if key != new_head or (starting and starting.is_foreign)]
    unexpected = _unaccounted(info["unexpected_keys"], others)
    mismatched = {key for key, *_ in info["mismatched_keys"]}
    outputs = set[str]() if starting is None or starting.is_kept else output_keys(model)
    other_outputs, mismatched = mismatched & outputs, mismatched - outputs
    for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(mismatched))):
        if keys:
            found = f"{len(keys)} {kind}, such as {keys[0]}"
            raise UserError(
                where,
                expected=f"every weight of a {head} {config.model_type}",
                found=found,
                fix=_fix_of_weights(head, config),
            )
    if starting is not None:
        if starting.is_kept is None and other_outputs:  # its config names no class
            starting = replace(starting, note="its head has another number of outputs and is replaced by a new one")
        _start_head(model, starting, where, has_restarted=outputs <= info["missing_keys"] | other_outputs)
    if bad := next((key for key, tensor in model.named_parameters() if not torch.isfinite(tensor).all()), None):
        raise UserError(where, problem=f"{bad} has values that are not finite", fix="use another copy of the model")
    if is_pruned(config):
        model.__class__ = architecture.__base__  # `shaped` is needed only to build it
    return cast("PreTrainedModel", model)


def _fix_of_weights(head: Head, config: PretrainedConfig) -> str:
    """Return the advice for weights that do not fit."""
    if head != "masked-lm":
        return "use a complete model of that kind"
    if config.model_type == "electra" and (config.architectures or [""])[0] == "ElectraForPreTraining":
        return "this is ELECTRA's discriminator: use its generator as the teacher, or fine-tune it (finetune.model)"
    return "use the masked-LM checkpoint of that model (only the teacher 'offline' gets a new head)"


def _start_head(model: PreTrainedModel, starting: StartingHead, where: str, *, has_restarted: bool) -> None:
    """Restart or reorder a loaded head as decided, and print a notice."""
    if starting.is_kept is False and not has_restarted:  # it has the shape of the new one by chance
        restart_outputs(model)
    if starting.order is not None:
        reorder_outputs(model, starting.order)
    if starting.note:
        notice(where, starting.note)


def _unaccounted(keys: set[str] | list[str], patterns: list[re.Pattern[str]]) -> list[str]:
    return sorted(key for key in keys if not any(pattern.match(key) for pattern in patterns))


def longest_input(config: PretrainedConfig) -> int:
    """Return the largest number of tokens that the position embeddings allow.

    RoBERTa and MPNet number positions from their padding id + 1; ELMo has no position embeddings, so any length is
    possible.
    """
    if config.model_type == ELMO:
        return sys.maxsize
    return int(config.max_position_embeddings) - (last_unused_position(config) + 1)


def last_unused_position(config: PretrainedConfig) -> int:
    """Return the position before that of an input's first token, which is the padding's; -1 = none."""
    if config.model_type == "mpnet":
        return MPNET_PADDING
    return int(config.pad_token_id) if config.model_type in ROBERTA_FAMILIES else -1


def check_length(where: str, length: int, longest: int) -> None:
    """Check that inputs are not longer than a model's position embeddings.

    Raises:
        UserError: they are longer.
    """
    if length > longest:
        raise UserError(where, expected=f"at most the teacher's {longest} positions", found=str(length), fix="lower it")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, max_length: int | None = None
) -> None:
    """Write model and tokenizer as the folder that `AutoModel.from_pretrained` reads (safetensors).

    Args:
        model: with any head.
        tokenizer: the model's.
        folder: to write into.
        max_length: tokens of the longest input that a task model was trained with; by default the tokenizer's, limited
            by the position embeddings.
    """
    with _quietly():
        model.save_pretrained(folder)
    longest = min(max_length or declared_length(tokenizer.model_max_length) or sys.maxsize, longest_input(model.config))
    is_span = type(model).__name__.endswith("QuestionAnswering")
    save_tokenizer(tokenizer, folder, model.config, longest=longest, truncates=max_length is not None and not is_span)
