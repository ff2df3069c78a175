"""What distillation needs of a masked-LM model of any family: last hidden states, and logits at chosen positions.

Logits over the whole vocabulary are the costliest part of a small model (36 % of DistilBERT's arithmetic), so they are
computed only where a loss reads them: the caller gathers hidden states first and applies the head to those.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel


def hidden_states(
    model: PreTrainedModel, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"] | None
) -> Float[Tensor, "batch length hidden"]:
    """Last hidden states of the encoder; `attention_mask=None` says that nothing is padding."""
    output: Tensor = model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return output


def vocabulary_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, "positions vocabulary"]:
    """The masked-LM head of BERT, DistilBERT or RoBERTa applied to gathered hidden states."""
    family, head = model.config.model_type, cast("Any", model)
    if family == "distilbert":
        return cast(
            "Tensor", head.vocab_projector(head.vocab_layer_norm(head.activation(head.vocab_transform(hidden))))
        )
    return cast("Tensor", head.cls(hidden) if family == "bert" else head.lm_head(hidden))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())  # parameters() yields a shared tensor once


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the word embedding."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding) and isinstance(embedding.weight, torch.Tensor)
    return embedding.num_embeddings
