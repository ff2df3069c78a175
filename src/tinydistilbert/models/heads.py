"""What distillation needs of a masked-LM model, whatever its family: last hidden states, and logits at chosen positions.

Logits over the whole vocabulary are the costliest part of a small model (36 % of DistilBERT's arithmetic), so they are
computed only where a loss reads them: the caller gathers hidden states first and applies the head to those.
"""

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
    if model.config.model_type == "distilbert":
        transformed = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        logits: Tensor = model.vocab_projector(transformed)
        return logits
    head: nn.Module = model.cls if model.config.model_type == "bert" else model.lm_head
    logits = head(hidden)
    return logits


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in {id(p): p for p in module.parameters()}.values())


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the word embedding."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding) and isinstance(embedding.weight, torch.Tensor)
    return embedding.num_embeddings
