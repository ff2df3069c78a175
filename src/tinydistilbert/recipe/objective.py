"""The recipe's section `objective`, whose weights form the table of loss terms.

A term's row here holds everything about it except the function that computes it, which is in `losses/terms.py` under
the same name. The table lies in the recipe because recipes are checked, and help is shown, before torch is loaded. A
new term that needs no new input is a row here and a function there: the objective, checks of the recipe, curves,
estimates and the reference page use these two.
"""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from pydantic import NonNegativeInt

from tinydistilbert.recipe.types import PositiveRamp, Ramp, Rate, highest, section


class Needs(Enum):
    """What a term compares, which determines how its function is called."""

    TOKENS = "the student's logits, the original tokens"
    """function(student_logits, labels) at the masked positions; no teacher is needed."""
    LOGITS = "logits"
    """function(student_logits, teacher_logits, temperature) at the positions of `objective.kl_positions`."""
    LAST_HIDDEN_STATE = "last hidden states"
    """function(student_hidden, teacher_hidden) at the counted positions, the student's projected to the same width."""
    HIDDEN_STATES = "hidden states of matched layers"
    """The same for each pair of matched layers; the term is the mean over the pairs."""
    ATTENTION = "queries and keys of matched layers"
    """function(student_attention, teacher_attention, visible) for each pair of matched layers, then the mean."""
    RELATION = "queries, keys and values of the relation layer"
    """function(student_vectors, teacher_vectors, relation_heads, visible) for queries, keys and values, then the mean;
    the student's last layer is compared with the teacher's `objective.relation_layer`."""


class MeanOver(Enum):
    """What a term is averaged over, by which micro-batches of a step are weighted to give one mean."""

    KL_POSITIONS = "the positions of `objective.kl_positions`"
    MASKED = "masked positions"
    COUNTED = "counted positions"
    PAIRS = "visible pairs of positions"


@dataclass(frozen=True)
class Term:
    """A row in the table of loss terms."""

    label: str
    """Name in a sentence: "without masked LM"."""
    title: str
    """Title of its curve, with the unit."""
    colour: int
    """Colour of its curve: the number of one of the page's four colours for series."""
    needs: Needs
    mean_over: MeanOver
    by_chunks: bool = False
    """Whether it is computed in `losses/vocabulary.py`, so that the logits of all positions never exist together; and
    with a cache of kind "top-k", from only the teacher's likeliest tokens."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares with a teacher."""
        return self.needs is not Needs.TOKENS

    @property
    def is_on_logits(self) -> bool:
        """Whether it reads the output of the masked-LM head."""
        return self.needs in (Needs.TOKENS, Needs.LOGITS)

    @property
    def is_inner(self) -> bool:
        """Whether it compares the layers of both models."""
        return self.needs in (Needs.HIDDEN_STATES, Needs.ATTENTION, Needs.RELATION)


def _weight(default: float, term: Term) -> Any:
    """Return a field of `Objective`: the weight of a term, with the term's row."""
    return field(default=default, metadata={"term": term})


@section
class Objective:
    """The weighted sum that the student minimises; its terms are defined in docs/reference/objective.md."""

    kl: Ramp = _weight(
        5.0, Term("KL", "KL, nats", colour=1, needs=Needs.LOGITS, mean_over=MeanOver.KL_POSITIONS, by_chunks=True)
    )
    """Weight of the soft targets (Sanh et al. 2019, L_ce; weights 5/2/1 are the authors' published command)."""
    mlm: Ramp = _weight(
        2.0,
        Term("masked LM", "Masked LM, nats", colour=2, needs=Needs.TOKENS, mean_over=MeanOver.MASKED, by_chunks=True),
    )
    """Weight of the masked-LM cross-entropy."""
    cosine: Ramp = _weight(
        1.0, Term("cosine", "1 − cosine", colour=3, needs=Needs.LAST_HIDDEN_STATE, mean_over=MeanOver.COUNTED)
    )
    """Weight of 1 - cos of the last hidden states."""
    relation: Ramp = _weight(
        0.0, Term("relations", "Relations, nats", colour=4, needs=Needs.RELATION, mean_over=MeanOver.COUNTED)
    )
    """Weight of the self-attention relations Q-Q, K-K and V-V (MiniLMv2, Wang et al. 2021)."""
    attention: Ramp = _weight(
        0.0, Term("attention", "Attention", colour=1, needs=Needs.ATTENTION, mean_over=MeanOver.PAIRS)
    )
    """Weight of the squared difference of attention scores before the softmax (TinyBERT, Jiao et al. 2020)."""
    hidden: Ramp = _weight(
        0.0, Term("hidden states", "Hidden", colour=2, needs=Needs.HIDDEN_STATES, mean_over=MeanOver.COUNTED)
    )
    """Weight of the squared difference of hidden states (TinyBERT); a learned projection joins different widths."""
    temperature: PositiveRamp = 2.0
    """T, which divides the logits of both models for `kl`."""
    kl_positions: Literal["all", "masked", "sampled"] = "all"
    """Tokens at which the KL is computed: all (the authors' default), the masked ones, or the masked and a sample of
    the others."""
    kl_sampled_share: Rate = 0.15
    """Share of the unmasked tokens at which `sampled` computes the KL."""
    relation_heads: NonNegativeInt = 0
    """Heads into which Q, K and V are split for `relation`, regardless of the models' own; 0 = the teacher's number."""
    relation_layer: int = -1
    """Teacher layer whose relations the student's last layer learns; negative numbers count from the last, -1."""
    matched_layers: Literal["uniform", "copied"] | tuple[NonNegativeInt, ...] = "uniform"
    """Teacher layers that `attention` and `hidden` compare with: `uniform`, the last of each group of layers that a
    student layer replaces (TinyBERT); `copied`, those that the student's were copied from; or a list."""
    reduction: Literal["mean", "notebook"] = "mean"
    """`notebook` reproduces TinyDistilBERT's faults: KL summed over positions and divided by the batch; cosine at
    [CLS]."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that have weight at any step, in the order of tables and logs."""
        return tuple(name for name in TERMS if highest(getattr(self, name)) > 0)


TERMS: dict[str, Term] = {item.name: item.metadata["term"] for item in fields(Objective) if "term" in item.metadata}
"""Every loss term by name, in the order of tables and logs."""
NOTEBOOK_TERMS = ("kl", "mlm", "cosine")
"""TinyDistilBERT's terms, the only ones that `reduction = "notebook"` computes."""
