"""The recipe's section `objective`, and with its weights the table of loss terms.

Everything about a term is in its row here but the function that computes it, which is in `losses/terms.py` under the
same name. The table lies in the recipe because recipes are checked, and help is shown, before torch is loaded. A new
term that needs no new input is a row here and a function there: the objective, checks of the recipe, curves, estimates
and the reference page take it from these two.
"""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from pydantic import NonNegativeInt

from tinydistilbert.recipe.types import PositiveRamp, Ramp, Rate, highest, section


class Needs(Enum):
    """What a term compares, and with it how its function is called."""

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
    """What a term is a mean over: with it the micro-batches of a step are weighted so that they give one mean."""

    KL_POSITIONS = "the positions of `objective.kl_positions`"
    MASKED = "masked positions"
    COUNTED = "counted positions"
    PAIRS = "visible pairs of positions"


@dataclass(frozen=True)
class Term:
    """A row of the table of loss terms."""

    label: str
    """In a sentence: "without masked LM"."""
    title: str
    """Of its curve, with the unit."""
    colour: int
    """Of its curve: the number of one of the page's four colours for series."""
    needs: Needs
    mean_over: MeanOver
    by_chunks: bool = False
    """Computed in `losses/vocabulary.py`, for which the logits of all positions never exist together; and with a cache
    of kind "top-k", from the teacher's likeliest tokens alone."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares with a teacher."""
        return self.needs is not Needs.TOKENS

    @property
    def is_on_logits(self) -> bool:
        """Whether it reads what the masked-LM head gives."""
        return self.needs in (Needs.TOKENS, Needs.LOGITS)

    @property
    def is_inner(self) -> bool:
        """Whether it looks into the layers of both models."""
        return self.needs in (Needs.HIDDEN_STATES, Needs.ATTENTION, Needs.RELATION)


def _weight(default: float, term: Term) -> Any:
    """A field of `Objective`: the weight of a term, with the term's row."""
    return field(default=default, metadata={"term": term})


@section
class Objective:
    """The weighted sum that the student minimises; terms as defined in docs/reference/objective.md."""

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
    """T, by which the logits of both models are divided for `kl`."""
    kl_positions: Literal["all", "masked", "sampled"] = "all"
    """Where the KL is taken: at every token (the authors' default), at masked ones, or at masked and some others."""
    kl_sampled_share: Rate = 0.15
    """Share of the unmasked tokens at which `sampled` also takes the KL."""
    relation_heads: NonNegativeInt = 0
    """Heads that Q, K and V are cut into for `relation`, whatever the models have; 0 = the teacher's number."""
    relation_layer: int = -1
    """Teacher layer whose relations the student's last layer learns; negative numbers count from the last, -1."""
    matched_layers: Literal["uniform", "copied"] | tuple[NonNegativeInt, ...] = "uniform"
    """Teacher layers that `attention` and `hidden` compare with: the last of each run of layers that a student layer
    stands for (TinyBERT), those that it was copied from, or a list."""
    reduction: Literal["mean", "notebook"] = "mean"
    """`notebook` keeps TinyDistilBERT's faults: KL summed over positions, divided by the batch; cosine on [CLS]."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that have weight at any step, in the order of tables and logs."""
        return tuple(name for name in TERMS if highest(getattr(self, name)) > 0)


TERMS: dict[str, Term] = {item.name: item.metadata["term"] for item in fields(Objective) if "term" in item.metadata}
"""The table: every loss term by name, in the order of tables and logs."""
NOTEBOOK_TERMS = ("kl", "mlm", "cosine")
"""Those that TinyDistilBERT had, which alone `reduction = "notebook"` computes."""
