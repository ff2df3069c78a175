"""ELMo as an encoder like every other: the language model, the BiLSTM of the GLUE baseline over it, and its heads.

After this module is imported, transformers' Auto classes read and make such models. What is uncertain about the
baseline, and where its 180 M parameters are, stands in docs/explanation/elmo.md.
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
class Texts:
    """The single texts in a batch of single texts and pairs: a pair's are read one by one."""

    lengths: Int64[Tensor, " texts"]
    rows: Int64[Tensor, " texts"]
    """Which input of the batch each is in."""
    places: Int64[Tensor, "texts length"]
    """Where in that input its words are."""
    inside: Bool[Tensor, "texts length"]
    """Which of the places are its own; the others lie behind its end."""

    @classmethod
    def of(cls, members: Bool[Tensor, "batch two length"]) -> "Texts":
        """From which words are the first text's and which the second's; those of a text are neighbours."""
        lengths = members.sum(-1)
        there = lengths > 0
        starts, lengths = members.int().argmax(-1)[there], lengths[there]
        steps = torch.arange(int(lengths.max()), device=members.device)
        inside = steps < lengths[:, None]
        places = torch.where(inside, starts[:, None] + steps, 0)
        return cls(lengths, there.nonzero()[:, 0], places, inside)

    def out_of(self, batch: Tensor) -> Tensor:
        """The texts' own values, (texts, length, …), out of (batch, length, …)."""
        return batch[self.rows[:, None], self.places]

    def back_into(self, batch: Tensor, values: Float[Tensor, "texts length width"]) -> Tensor:
        """The values where their words are in `batch`, (batch, length, width); elsewhere zeros."""
        rows = self.rows[:, None].expand_as(self.places)[self.inside]
        made = values.new_zeros(*batch.shape[:2], values.shape[-1])
        return made.index_put((rows, self.places[self.inside]), values[self.inside])


def members(
    input_ids: Int64[Tensor, "batch length characters"], attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Bool[Tensor, "batch two length"]:
    """Which words are the first text's and which the second's; without a mask, all that have characters are counted."""
    counted = input_ids.any(-1) if attention_mask is None else attention_mask.bool()
    second = torch.zeros_like(counted) if token_type_ids is None else token_type_ids.bool()
    return torch.stack([counted & ~second, counted & second], dim=1)


class ScalarMix(nn.Module):
    """The layers' weighted mean times a factor; all three are learned (Peters et al. 2018, equation 1)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, layers: Sequence[Float[Tensor, "texts length width"]]) -> Float[Tensor, "texts length width"]:
        """The mixture."""
        return self.gamma * torch.einsum("l,l...->...", self.weights.softmax(0), torch.stack(list(layers)))


class ElmoPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What the models share: configuration, names, and how new weights are drawn."""

    config_class = ElmoConfig
    base_model_prefix = "elmo"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Uniform in ± 1 / sqrt(inputs), as torch does; the characters' in ± 1, as in ELMo's own code."""
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
    """The mixture of the language model's layers, read by a BiLSTM."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.bilm = BiLanguageModel(config)
        self.mix = ScalarMix(config.num_hidden_layers + 1)
        self.sentences = SentenceEncoder(2 * config.projection_size, config.hidden_size, config.sentence_layers)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of characters."""
        return self.bilm.words.embedding

    def forward(
        self,
        input_ids: Int64[Tensor, "batch length characters"],
        attention_mask: Int64[Tensor, "batch length"] | None = None,
        token_type_ids: Int64[Tensor, "batch length"] | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """`last_hidden_state` (batch, length, hidden): each word as it is read in its own text; 0 at padding.

        Args:
            input_ids: the words' character ids.
            attention_mask: 1 = word, 0 = padding.
            token_type_ids: 0 = first text, 1 = second text, which stands behind the first.
        """
        texts = Texts.of(members(input_ids, attention_mask, token_type_ids))
        with torch.no_grad() if self.config.freeze_encoder else nullcontext():
            layers = self.bilm(texts.out_of(input_ids), texts.lengths)
        words = self.sentences(self.dropout(self.mix(layers)), texts.lengths)
        return BaseModelOutput(last_hidden_state=texts.back_into(input_ids, self.dropout(words)))


class PairReader(nn.Module):
    """Each word with what it finds in the other text, by dot products; the baseline has a BiLSTM over that as well."""

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
        """The words; where there is one text only, what they find is 0."""
        if self.attends:
            first, second = members.unbind(1)
            others = (first[:, :, None] & second[:, None]) | (second[:, :, None] & first[:, None])
            scores = (hidden @ hidden.mT).masked_fill(~others, torch.finfo(hidden.dtype).min)
            hidden = torch.cat([hidden, scores.softmax(-1).masked_fill(~others, 0.0) @ hidden], dim=-1)
        if self.reader is None:
            return hidden
        texts = Texts.of(members)
        words = self.reader(texts.out_of(self.dropout(hidden)), texts.lengths)
        return texts.back_into(hidden, self.dropout(words))


class ClassificationHead(nn.Module):
    """[u; v; |u - v|; u * v] of the texts' largest values, and a layer of hidden units; v = 0 where there is none."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.pair = PairReader(config)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(4 * self.pair.width, config.classifier_size)
        self.output = nn.Linear(config.classifier_size, config.num_labels)

    def forward(
        self, hidden: Float[Tensor, "batch length hidden"], members: Bool[Tensor, "batch two length"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        words = self.pair(hidden, members)
        u, v = (
            words.masked_fill(~own[..., None], -torch.inf).amax(1).where(own.any(1, keepdim=True), 0.0)
            for own in members.unbind(1)
        )
        joined = self.dropout(torch.cat([u, v, (u - v).abs(), u * v], dim=-1))
        logits: Tensor = self.output(self.dropout(self.hidden(joined).tanh()))
        return logits


class SpanHead(nn.Module):
    """Start and end of an answer, from each word with what it finds in the other text."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.pair = PairReader(config)
        self.ends = nn.Linear(self.pair.width, 2)

    def forward(
        self, hidden: Float[Tensor, "batch length hidden"], members: Bool[Tensor, "batch two length"]
    ) -> Float[Tensor, "batch length two"]:
        """Logits."""
        logits: Tensor = self.ends(self.pair(hidden, members))
        return logits


class ElmoForSequenceClassification(ElmoPreTrainedModel):
    """ELMo with the classifier of the GLUE baseline, for single texts and pairs; one output is a regression."""

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
        """`logits` (batch, classes), and with `labels` the `loss`; the inputs as of `ElmoModel`."""
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
        """`start_logits` and `end_logits` (batch, length); the inputs as of `ElmoModel`."""
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
    """The published size with random weights and one output, and the tokenizer; 0.8 GB of memory."""
    return ElmoForSequenceClassification(ElmoConfig.from_dict({"num_labels": 1})).eval(), elmo_tokenizer()
