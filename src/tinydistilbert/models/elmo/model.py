"""ELMo as a transformers model: the language model, the BiLSTM of the GLUE baseline over it, and its heads.

Importing this module registers ELMo with transformers' Auto classes. docs/explanation/elmo.md explains what is
uncertain about the baseline, and where its 180 M parameters are.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput, SequenceClassifierOutput

from tinydistilbert.models.elmo.language_model import BiLanguageModel, ElmoConfig, SentenceEncoder
from tinydistilbert.models.elmo.tokenizer import ElmoTokenizer, elmo_tokenizer


@dataclass(frozen=True)
class SingleTexts:
    """The single texts in a batch of texts and pairs; the two texts of a pair are read separately."""

    lengths: Int64[Tensor, " texts"]
    rows: Int64[Tensor, " texts"]
    """The row of the batch that each text is in."""
    positions: Int64[Tensor, "texts length"]
    """The positions of its words in that row; 0 after its end."""
    is_word: Bool[Tensor, "texts length"]
    """False after the end of a text."""

    @classmethod
    def of(cls, members: Bool[Tensor, "batch two length"]) -> "SingleTexts":
        """Return the texts from the masks of first and second texts; the words of a text are contiguous."""
        lengths = members.sum(-1)
        has_words = lengths > 0
        starts, lengths = members.int().argmax(-1)[has_words], lengths[has_words]
        offsets = torch.arange(int(lengths.max()), device=members.device)
        is_word = offsets < lengths[:, None]
        positions = torch.where(is_word, starts[:, None] + offsets, 0)
        return cls(lengths, has_words.nonzero()[:, 0], positions, is_word)

    def out_of(self, batch: Tensor) -> Tensor:
        """Return the values of each text, (texts, length, …), from (batch, length, …)."""
        return batch[self.rows[:, None], self.positions]

    def back_into(self, batch: Tensor, values: Float[Tensor, "texts length width"]) -> Tensor:
        """Return the values at the positions of their words in `batch`, (batch, length, width); zeros elsewhere."""
        rows = self.rows[:, None].expand_as(self.positions)[self.is_word]
        zeros = values.new_zeros(*batch.shape[:2], values.shape[-1])
        return zeros.index_put((rows, self.positions[self.is_word]), values[self.is_word])


def members(
    input_ids: Int64[Tensor, "batch length characters"], attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Bool[Tensor, "batch two length"]:
    """Return masks of the words of first and of second texts; without a mask, all words with characters count."""
    counted = input_ids.any(-1) if attention_mask is None else attention_mask.bool()
    second = torch.zeros_like(counted) if token_type_ids is None else token_type_ids.bool()
    return torch.stack([counted & ~second, counted & second], dim=1)


class ScalarMix(nn.Module):
    """A learned weighted mean of the layers, times a learned factor (Peters et al. 2018, equation 1)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, layers: Sequence[Float[Tensor, "texts length width"]]) -> Float[Tensor, "texts length width"]:
        """Return the mixture of the layers."""
        return self.gamma * torch.einsum("l,l...->...", self.weights.softmax(0), torch.stack(list(layers)))


class ElmoPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Base class of the models: configuration, names, and initialisation of new weights."""

    config_class = ElmoConfig
    base_model_prefix = "elmo"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw uniformly in ± 1 / sqrt(inputs), as torch; character embeddings in ± 1, as ELMo's published code."""
        if isinstance(module, ScalarMix):
            init.zeros_(module.weights)
            init.ones_(module.gamma)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -1.0, 1.0)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.LSTM):
            inputs = module.hidden_size if isinstance(module, nn.LSTM) else module.weight[0].numel()
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)


class ElmoModel(ElmoPreTrainedModel):
    """The mixture of the language model's layers, and a BiLSTM over it."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.bilm = BiLanguageModel(config)
        self.mix = ScalarMix(config.num_hidden_layers + 1)
        self.sentences = SentenceEncoder(2 * config.projection_size, config.hidden_size, config.sentence_layers)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the character embeddings."""
        return self.bilm.words.embedding

    def forward(
        self,
        input_ids: Int64[Tensor, "batch length characters"],
        attention_mask: Int64[Tensor, "batch length"] | None = None,
        token_type_ids: Int64[Tensor, "batch length"] | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Return `last_hidden_state` (batch, length, hidden), 0 at padding; the texts of a pair are independent.

        Args:
            input_ids: the words' character ids.
            attention_mask: 1 = word, 0 = padding.
            token_type_ids: 0 = first text, 1 = second text, which follows the first.
        """
        texts = SingleTexts.of(members(input_ids, attention_mask, token_type_ids))
        with torch.no_grad() if self.config.freeze_encoder else nullcontext():
            layers = self.bilm(texts.out_of(input_ids), texts.lengths)
        words = self.sentences(self.dropout(self.mix(layers)), texts.lengths)
        return BaseModelOutput(last_hidden_state=texts.back_into(input_ids, self.dropout(words)))


class PairReader(nn.Module):
    """Each word with its attention over the other text, by dot products; the baseline also has a BiLSTM over that."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.attends = config.pair_attention
        self.width = config.hidden_size * (2 if self.attends else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.reader = SentenceEncoder(self.width, config.attention_size, 1) if config.attention_size else None
        self.width = config.attention_size or self.width

    def forward(
        self, hidden: Float[Tensor, "batch length hidden"], members: Bool[Tensor, "batch two length"]
    ) -> Float[Tensor, "batch length width"]:
        """Return the words with their attention output; in single texts that output is 0."""
        if self.attends:
            first, second = members.unbind(1)
            others = (first[:, :, None] & second[:, None]) | (second[:, :, None] & first[:, None])
            scores = (hidden @ hidden.mT).masked_fill(~others, torch.finfo(hidden.dtype).min)
            hidden = torch.cat([hidden, scores.softmax(-1).masked_fill(~others, 0.0) @ hidden], dim=-1)
        if self.reader is None:
            return hidden
        texts = SingleTexts.of(members)
        words = self.reader(texts.out_of(self.dropout(hidden)), texts.lengths)
        return texts.back_into(hidden, self.dropout(words))


class ClassificationHead(nn.Module):
    """[u; v; |u - v|; u * v] of the max-pooled texts, and a hidden layer; v = 0 for single texts."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.pair = PairReader(config)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(4 * self.pair.width, config.classifier_size)
        self.output = nn.Linear(config.classifier_size, config.num_labels)

    def forward(
        self, hidden: Float[Tensor, "batch length hidden"], members: Bool[Tensor, "batch two length"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        words = self.pair(hidden, members)
        u, v = (
            words.masked_fill(~mask[..., None], -torch.inf).amax(1).where(mask.any(1, keepdim=True), 0.0)
            for mask in members.unbind(1)
        )
        joined = self.dropout(torch.cat([u, v, (u - v).abs(), u * v], dim=-1))
        logits: Tensor = self.output(self.dropout(self.hidden(joined).tanh()))
        return logits


class SpanHead(nn.Module):
    """Start and end logits from each word with its attention over the other text."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.pair = PairReader(config)
        self.ends = nn.Linear(self.pair.width, 2)

    def forward(
        self, hidden: Float[Tensor, "batch length hidden"], members: Bool[Tensor, "batch two length"]
    ) -> Float[Tensor, "batch length two"]:
        """Return the logits."""
        logits: Tensor = self.ends(self.pair(hidden, members))
        return logits


class ElmoForSequenceClassification(ElmoPreTrainedModel):
    """ELMo with the classifier of the GLUE baseline, for single texts and pairs; with one output, a regression."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.elmo = ElmoModel(config)
        self.head = ClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int64[Tensor, "batch length characters"],
        attention_mask: Int64[Tensor, "batch length"] | None = None,
        token_type_ids: Int64[Tensor, "batch length"] | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return `logits` (batch, classes), and with `labels` the `loss`; inputs as in `ElmoModel`."""
        hidden = self.elmo(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits = self.head(hidden, members(input_ids, attention_mask, token_type_ids))
        loss = None
        if labels is not None and self.config.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels)
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class ElmoForQuestionAnswering(ElmoPreTrainedModel):
    """ELMo with start and end logits for every word of a question and its context."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.elmo = ElmoModel(config)
        self.head = SpanHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int64[Tensor, "batch length characters"],
        attention_mask: Int64[Tensor, "batch length"] | None = None,
        token_type_ids: Int64[Tensor, "batch length"] | None = None,
        **_: Any,
    ) -> QuestionAnsweringModelOutput:
        """Return `start_logits` and `end_logits` (batch, length); inputs as in `ElmoModel`."""
        hidden = self.elmo(input_ids, attention_mask, token_type_ids).last_hidden_state
        start, end = self.head(hidden, members(input_ids, attention_mask, token_type_ids)).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


__all__ = [
    "ElmoConfig", "ElmoForQuestionAnswering", "ElmoForSequenceClassification", "ElmoModel", "elmo_architecture",
]  # fmt: skip

AutoConfig.register(ElmoConfig.model_type, ElmoConfig)
AutoModel.register(ElmoConfig, ElmoModel)
AutoModelForSequenceClassification.register(ElmoConfig, ElmoForSequenceClassification)
AutoModelForQuestionAnswering.register(ElmoConfig, ElmoForQuestionAnswering)
AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer)


def elmo_architecture() -> tuple[ElmoForSequenceClassification, ElmoTokenizer]:
    """Return a model of the published size with random weights and one output, and its tokenizer; takes 0.8 GB."""
    return ElmoForSequenceClassification(ElmoConfig.from_dict({"num_labels": 1})).eval(), elmo_tokenizer()
