"""Narrower weights: fewer attention heads and feed-forward rows in each layer, and fewer dimensions between the layers.

Heads and rows are chosen layer by layer, by norm: how sharply a head can look, how much a row can write. The dimensions
in which embeddings, layers and head speak to each other (the residual stream) are reduced alike everywhere, by one
basis with orthonormal columns: unit vectors where the strongest dimensions are kept as they are (`slice`), directions
of the word embeddings where all are projected (`svd`). Measured in docs/decisions/0010-narrower-students.md.
"""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema

ROUNDED_TO = 8
"""An `intermediate_size` in proportion is a multiple of this, for the sake of matrix kernels."""

# Parts of the models by what they do, in the names of BERT, RoBERTa, DistilBERT and ModernBERT.
_PARTS = {
    "words": r"word_embeddings|tok_embeddings",
    "other embeddings": r"position_embeddings|token_type_embeddings",
    "query": r"query|q_lin",
    "key": r"key|k_lin",
    "value": r"value|v_lin",
    "query, key and value": r"Wqkv",
    "attention output": r"attention\.output\.dense|out_lin|attn\.Wo",
    "rows": r"intermediate\.dense|lin1",
    "gated rows": r"Wi",
    "output": r"output\.dense|lin2|mlp\.Wo",
    "transform": r"transform\.dense|vocab_transform|lm_head\.dense|head\.dense",
    "decoder": r"decoder|vocab_projector|cls\.predictions|lm_head",
    "norm": r"LayerNorm|\w*layer_norm|norm|\w+_norm",
}
_PATTERNS = {part: re.compile(rf"(?:.*\.)?(?:{names})") for part, names in _PARTS.items()}
_AXES = {
    "words": ("all", "hidden"),
    "other embeddings": ("all", "hidden"),
    "query": ("heads", "hidden"),
    "key": ("heads", "hidden"),
    "value": ("heads", "hidden"),
    "query, key and value": ("heads thrice", "hidden"),
    "attention output": ("hidden", "heads"),
    "rows": ("rows", "hidden"),
    "gated rows": ("rows twice", "hidden"),
    "output": ("hidden", "rows"),
    "transform": ("hidden", "hidden"),
    "decoder": ("all", "hidden"),
    "norm": ("hidden",),
}
"""What the axes of a part's weight stand for, outputs first; its bias has the first of them."""
_KEY = re.compile(r"((?:.*\blayers?\.\d+\.)?)(.*)\.(weight|bias)")


@dataclass(frozen=True)
class Widths:
    """The widths of an encoder."""

    hidden: int
    heads: int
    rows: int
    """`intermediate_size`: rows of the first feed-forward matrix."""

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden // self.heads


def student_widths(teacher: Widths, student: schema.Student) -> Widths:
    """The widths that the recipe asks for; attention heads keep the teacher's size, so there are fewer of them.

    Raises:
        UserError: wider than the teacher, or not a whole number of heads.
    """
    hidden = student.hidden_size or teacher.hidden
    if hidden > teacher.hidden or hidden % teacher.head_size:
        expected = f"a multiple of {teacher.head_size}, the size of the teacher's heads, up to its {teacher.hidden}"
        raise UserError("student.hidden_size", expected=expected, found=str(hidden), fix="change it")
    rows = student.intermediate_size
    if not rows:
        in_proportion = round(teacher.rows * hidden / teacher.hidden / ROUNDED_TO) * ROUNDED_TO
        rows = teacher.rows if hidden == teacher.hidden else min(max(in_proportion, ROUNDED_TO), teacher.rows)
    if rows > teacher.rows:
        expected = f"at most the teacher's {teacher.rows}"
        raise UserError("student.intermediate_size", expected=expected, found=str(rows), fix="lower it")
    return Widths(hidden, hidden // teacher.head_size, rows)


def narrowed(weights: dict[str, Tensor], wide: Widths, narrow: Widths, reduction: str) -> dict[str, Tensor]:
    """The weights of a masked-LM model in other widths.

    Args:
        weights: state dictionary of a model of any known family.
        wide: the widths that it has.
        narrow: the widths to make; where one is the same, nothing changes along it.
        reduction: `slice` or `svd`: how the hidden dimensions are reduced.
    """
    parts = {key: _part(key) for key in weights}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, (layer, part, kind) in parts.items():
        if kind == "weight":
            layers.setdefault(layer, {})[part] = weights[key]
    basis = None if narrow.hidden == wide.hidden else _BASES[reduction](weights, narrow.hidden)
    kept = {layer: _kept(matrices, wide, narrow) for layer, matrices in layers.items() if layer}
    made = {}
    for key, value in weights.items():
        layer, part, kind = parts[key]
        made[key] = value
        if part == "norm" and kind == "weight":
            made[key] = value if basis is None else _gain(value, basis)
            continue
        for axis, name in enumerate(_AXES[part][: value.dim()]):
            if name == "hidden":
                made[key] = made[key] if basis is None else _projected(made[key], basis, axis)
            elif name != "all":
                made[key] = made[key].index_select(axis, kept[layer][name])
    return made


def _part(key: str) -> tuple[str, str, str]:
    """The layer that a tensor belongs to ("" = none), the part, and `weight` or `bias`."""
    match = _KEY.fullmatch(key)
    assert match, key
    layer, name, kind = match.groups()
    return layer, next(part for part, pattern in _PATTERNS.items() if pattern.fullmatch(name)), kind


def _strongest(scores: Float[Tensor, "candidates"], count: int) -> Int[Tensor, "count"]:
    """Places of the highest scores, the first of equal ones, in their old order."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _kept(layer: dict[str, Tensor], wide: Widths, narrow: Widths) -> dict[str, Tensor]:
    """Indices to keep along the axes of one layer, by the axes' names.

    A head counts by the Frobenius norm of its QᵀK, which says how sharply it can look; a row by the norm of its outputs
    times that of its inputs (and its gate), the size of what it can write. What a head writes does not enter: large
    values go with a diffuse look, and heads that were chosen by them recovered least in training.
    """
    if "query" in layer:
        query, key = layer["query"], layer["key"]
    else:
        query, key, _ = layer["query, key and value"].chunk(3)
    queries, keys = (matrix.view(wide.heads, wide.head_size, -1) for matrix in (query, key))
    squared = (queries @ queries.mT) * (keys @ keys.mT)  # ||QᵀK||² = trace(QQᵀ KKᵀ), without making QᵀK
    heads = _strongest(squared.sum((1, 2)), narrow.heads)
    dimensions = (heads[:, None] * wide.head_size + torch.arange(wide.head_size, device=heads.device)).flatten()

    inputs = [layer["rows"]] if "rows" in layer else list(layer["gated rows"].chunk(2))
    scores = torch.linalg.vector_norm(layer["output"], dim=0)
    for matrix in inputs:
        scores = scores * torch.linalg.vector_norm(matrix, dim=1)
    rows = _strongest(scores, narrow.rows)
    return {
        "heads": dimensions,
        "heads thrice": torch.cat([dimensions + third * wide.hidden for third in range(3)]),
        "rows": rows,
        "rows twice": torch.cat([rows, rows + wide.rows]),
    }


def _projected(value: Tensor, basis: Float[Tensor, "wide narrow"], axis: int) -> Tensor:
    return torch.movedim(torch.tensordot(value, basis, dims=([axis], [0])), -1, axis)


def _gain(weight: Float[Tensor, "wide"], basis: Float[Tensor, "wide narrow"]) -> Float[Tensor, "narrow"]:
    """The diagonal of LayerNorm's gain in the new basis, where as a whole it is no longer diagonal."""
    return weight @ basis.square()


def _strongest_dimensions(weights: dict[str, Tensor], count: int) -> Float[Tensor, "wide count"]:
    """Unit vectors of the dimensions to which the LayerNorms give the largest gains, each LayerNorm counting alike."""
    gains = [value for key, value in weights.items() if _part(key)[1:] == ("norm", "weight")]
    scores = torch.stack([gain.square() / gain.square().sum() for gain in gains]).sum(0)
    return torch.eye(len(scores), dtype=scores.dtype, device=scores.device)[:, _strongest(scores, count)]


def _principal_directions(weights: dict[str, Tensor], count: int) -> Float[Tensor, "wide count"]:
    """The right singular vectors of the word embeddings with the largest singular values."""
    words = next(value for key, value in weights.items() if _part(key)[1] == "words")
    _, _, directions = torch.linalg.svd(words, full_matrices=False)
    chosen: Tensor = directions[:count].T
    return chosen


_BASES = {"slice": _strongest_dimensions, "svd": _principal_directions}
