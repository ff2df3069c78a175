"""The facts about a model's shape that determine its time and memory."""

from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.models.heads import parameter_count, vocabulary_size
from tinydistilbert.models.pruned import is_pruned, parts_of

FORWARD_AND_BACKWARD = 3
"""A backward pass has two products for each matrix, one for the gradient of its input and one for its own."""

TRAINING_BYTES = 16
"""Bytes of a parameter in training: weight, gradient and AdamW's two moments, in single precision."""

ATTENTION_WEIGHT_BYTES = 9
"""Bytes of an attention weight kept for the backward pass: the softmax, its value after dropout, and the mask."""


def layer_shapes(config: PretrainedConfig) -> tuple[tuple[int, int], ...]:
    """Return inner size and columns of the matrices of a transformer's layer; none for a recurrent model.

    The second feed-forward matrix has the first one's shape transposed, which a backward pass multiplies by too.
    """
    if config.model_type == "elmo":
        return ()
    width = config.hidden_size
    inner: int = getattr(config, "hidden_dim" if config.model_type == "distilbert" else "intermediate_size")
    return ((width, width), (width, inner))


@dataclass(frozen=True)
class Size:
    """The facts about a model's shape that determine its time and memory."""

    parameters: int
    """Number of parameters, the masked-LM head included, tied ones counted once."""
    matrices: int
    """Weights in the matrices of the encoder's layers: each costs one multiplication and one addition per token."""
    layers: int
    width: int
    vocabulary: int
    attended: int
    """Sum of the widths of all layers' queries; in pruned layers they are narrower than the model."""
    heads: int = 0
    """Attention heads of all layers."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Size":
        """Return the size of a masked-LM or task model, which may be on the meta device, without any weights."""
        encoder: nn.Module = model.base_model
        config, parameters = model.config, parameter_count(model)
        if config.model_type == "elmo":  # recurrent: one use of each weight per word, no attention
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
        """Return the encoder's operations on `tokens` tokens in inputs of `length` tokens: matrices and attention."""
        return tokens * (2 * self.matrices + 4 * length * self.attended)

    def vocabulary_head(self, positions: float) -> float:
        """Return the masked-LM head's operations at so many positions: transform, and product with the vocabulary."""
        return 2 * positions * self.width * (self.width + self.vocabulary)

    def training_memory(self, tokens: int, positions: float) -> float:
        """Return the bytes of training on a micro-batch of `tokens`, with the vocabulary's logits at `positions`.

        See `activation_memory`.
        """
        return TRAINING_BYTES * self.parameters + self.activation_memory(tokens, positions)

    def activation_memory(self, tokens: int, positions: float = 0.0, *, length: int = 0) -> float:
        """Return the bytes of the single-precision tensors that a micro-batch needs in addition to the model.

        For the backward pass a layer keeps about 22 vectors of the model's width per token: 4 projections, attention's
        output, 2 x 4 in the feed-forward part, residuals and normalisations. Logits exist about five times: student,
        teacher, two softmaxes, gradient.

        Args:
            tokens: of the micro-batch, padding included.
            positions: number of positions with logits over the vocabulary.
            length: of its inputs, if attention weights are kept for the backward pass; 0 = they are not.
        """
        kept = tokens * self.layers * 22 * self.width
        weights = tokens * length * self.heads
        return 4 * (kept + 5 * positions * self.vocabulary) + ATTENTION_WEIGHT_BYTES * weights
