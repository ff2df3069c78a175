"""The facts about a model's shape on which its time and memory depend."""

from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.models.heads import parameter_count, vocabulary_size
from tinydistilbert.models.pruned import is_pruned, parts_of

FORWARD_AND_BACKWARD = 3
"""A backward pass multiplies each matrix twice, once for the gradient of its input and once for its own."""

TRAINING_BYTES = 16
"""Bytes of a parameter in training: weight, gradient and AdamW's two moments, in single precision."""

ATTENTION_WEIGHT_BYTES = 9
"""Of an attention weight that is kept for the backward pass: the softmax, what dropout leaves of it, and where."""


def layer_shapes(config: PretrainedConfig) -> tuple[tuple[int, int], ...]:
    """Inner size and columns of the matrices of a transformer's layer, none of a recurrent model.

    The second feed-forward matrix is as the first the other way round, which a backward pass multiplies with too.
    """
    if config.model_type == "elmo":
        return ()
    width = config.hidden_size
    inner: int = getattr(config, "hidden_dim" if config.model_type == "distilbert" else "intermediate_size")
    return ((width, width), (width, inner))


@dataclass(frozen=True)
class Size:
    """The facts about a model's shape on which its time and memory depend."""

    parameters: int
    """Number of parameters, the masked-LM head included, tied ones counted once."""
    matrices: int
    """Weights in the matrices of the encoder's layers: each costs one multiplication and one addition a token."""
    layers: int
    width: int
    vocabulary: int
    attended: int
    """Sum of the widths of all layers' queries; in pruned layers they are narrower than the model."""
    heads: int = 0
    """Attention heads of all layers."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Size":
        """The size of a masked-LM or task model; it may be on the meta device, without any weights."""
        encoder: nn.Module = model.base_model
        config, parameters = model.config, parameter_count(model)
        if config.model_type == "elmo":  # recurrent: each weight is used once a word, and there is no attention
            return cls(parameters, parameter_count(encoder), config.num_hidden_layers, config.hidden_size, 0, 0)
        linear = [m for name, m in encoder.named_modules() if isinstance(m, nn.Linear) and "pooler" not in name]
        pruned = is_pruned(config)
        heads = (
            [layer.heads for layer in parts_of(model)]
            if pruned
            else [config.num_attention_heads] * config.num_hidden_layers
        )
        return cls(
            parameters, sum(m.weight.numel() for m in linear), config.num_hidden_layers, config.hidden_size,
            vocabulary_size(model),
            sum(layer.heads * layer.head_size for layer in parts_of(model)) if pruned
            else config.num_hidden_layers * config.hidden_size, sum(heads),
        )  # fmt: skip

    def forward(self, tokens: float, length: float) -> float:
        """Operations of the encoder on `tokens` tokens in inputs of `length` tokens: matrices and attention."""
        return tokens * (2 * self.matrices + 4 * length * self.attended)

    def vocabulary_head(self, positions: float) -> float:
        """Operations of the masked-LM head at so many positions: its transform, and the product with the vocabulary."""
        return 2 * positions * self.width * (self.width + self.vocabulary)

    def training_memory(self, tokens: int, positions: float) -> float:
        """Bytes while a micro-batch of `tokens` is trained on, with the vocabulary's logits at `positions`.

        See `activation_memory`.
        """
        return TRAINING_BYTES * self.parameters + self.activation_memory(tokens, positions)

    def activation_memory(self, tokens: int, positions: float = 0.0, *, length: int = 0) -> float:
        """Bytes of the tensors in single precision that a micro-batch needs beside the model.

        A layer keeps about 22 vectors of the model's width a token for the backward pass: 4 projections, attention's
        output, 2 x 4 in the feed-forward part, residuals and normalisations. Logits exist about five times: student,
        teacher, two softmaxes, gradient.

        Args:
            tokens: of the micro-batch, padding included.
            positions: where the logits of the vocabulary are computed.
            length: of its inputs, where attention weights are kept for the backward pass; 0 = they are not.
        """
        kept = tokens * self.layers * 22 * self.width
        weights = tokens * length * self.heads
        return 4 * (kept + 5 * positions * self.vocabulary) + ATTENTION_WEIGHT_BYTES * weights
