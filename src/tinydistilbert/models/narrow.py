"""Narrower weights: fewer attention heads and feed-forward rows in each layer, and fewer dimensions between the layers.

Heads and rows are chosen layer by layer, by norms of their weights. The dimensions of the hidden states, which all
layers share (the residual stream), are reduced in the same way everywhere, by one basis with orthonormal columns: unit
vectors of the strongest dimensions (`slice`), or the principal directions of the word embeddings (`svd`).
Measurements are in docs/decisions/0010-narrower-students.md.
"""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema

ROUNDED_TO = 8
"""A computed `intermediate_size` is a multiple of this, for efficient matrix kernels."""

_PROJECTION = "projection of the embeddings"
# Parts of the models by their role, with their names in all families.
_PARTS = {
    "word embeddings": r"word_embeddings|tok_embeddings",
    "other embeddings": r"position_embeddings|token_type_embeddings",
    "position bias": r"relative_attention_bias",
    _PROJECTION: r"embeddings_project",
    "query": r"query|q_lin|attn\.q",
    "key": r"key|k_lin|attn\.k",
    "value": r"value|v_lin|attn\.v",
    "query, key and value": r"Wqkv",
    "attention output": r"attention\.output\.dense|out_lin|attn\.(Wo|o)",
    "rows": r"intermediate\.dense|lin1",
    "gated rows": r"Wi",
    "output": r"output\.dense|lin2|mlp\.Wo",
    "transform": r"transform\.dense|vocab_transform|lm_head\.dense|head\.dense|generator_predictions\.dense",
    "decoder": r"decoder|vocab_projector|cls\.predictions|lm_head|generator_lm_head",
    "norm": r"LayerNorm|\w*layer_norm|norm|\w+_norm",
}
_PATTERNS = {part: re.compile(rf"(?:.*\.)?(?:{names})") for part, names in _PARTS.items()}
_AXES = {
    "word embeddings": ("all", "hidden"),
    "other embeddings": ("all", "hidden"),
    "position bias": ("all", "all"),
    _PROJECTION: ("hidden", "all"),
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
"""The meaning of the axes of a part's weight, outputs first; its bias has the first axis."""
_AXES_OF_NARROW_EMBEDDINGS = _AXES | {
    "word embeddings": ("all", "all"),
    "other embeddings": ("all", "all"),
    "transform": ("all", "hidden"),
    "decoder": ("all", "all"),
}
"""The axes in an ELECTRA whose word embeddings have their own width, which stays."""
_NORM_OF_EMBEDDINGS = re.compile(r".*\bembeddings\.LayerNorm\..*|generator_predictions\.LayerNorm\..*")
_KEY = re.compile(r"((?:.*\blayers?\.\d+\.)?)(.*)\.(weight|bias)")


@dataclass(frozen=True)
class Widths:
    """The widths of an encoder."""

    hidden: int
    heads: int
    rows: int
    """Rows of the first feed-forward matrix: `intermediate_size`."""

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden // self.heads


def student_widths(teacher: Widths, student: schema.Student) -> Widths:
    """Return the recipe's widths; attention heads keep the teacher's size, so a narrower student has fewer heads.

    Raises:
        UserError: a width is larger than the teacher's, or not a multiple of the size of a head.
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
    """Return the weights of a masked-LM model reduced to other widths.

    Args:
        weights: state dictionary of a model of any known family.
        wide: its current widths.
        narrow: the new widths; axes whose width stays the same are not changed.
        reduction: of the hidden dimensions, `slice` or `svd`.
    """
    parts = {key: _part(key) for key in weights}
    has_projection = _PROJECTION in {part for _, part, _ in parts.values()}
    axes_of = _AXES_OF_NARROW_EMBEDDINGS if has_projection else _AXES
    untouched = {key for key in weights if has_projection and _NORM_OF_EMBEDDINGS.fullmatch(key)}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, (layer, part, kind) in parts.items():
        if kind == "weight":
            layers.setdefault(layer, {})[part] = weights[key]
    basis = (
        None
        if narrow.hidden == wide.hidden
        else _BASES[reduction]({key: value for key, value in weights.items() if key not in untouched}, narrow.hidden)
    )
    kept = {layer: _kept(matrices, wide, narrow) for layer, matrices in layers.items() if layer}
    reduced = {}
    for key, value in weights.items():
        layer, part, kind = parts[key]
        reduced[key] = value
        if key in untouched:
            continue
        if part == "norm" and kind == "weight":
            reduced[key] = value if basis is None else _gain(value, basis)
            continue
        for axis, name in enumerate(axes_of[part][: value.dim()]):
            if name == "hidden":
                reduced[key] = reduced[key] if basis is None else _projected(reduced[key], basis, axis)
            elif name != "all":
                reduced[key] = reduced[key].index_select(axis, kept[layer][name])
    return reduced


def _part(key: str) -> tuple[str, str, str]:
    """Return the layer that a tensor belongs to ("" = none), the part, and `weight` or `bias`."""
    match = _KEY.fullmatch(key)
    assert match, key
    layer, name, kind = match.groups()
    return layer, next(part for part, pattern in _PATTERNS.items() if pattern.fullmatch(name)), kind


def _strongest(scores: Float[Tensor, "candidates"], count: int) -> Int[Tensor, "count"]:
    """Return the indices of the highest scores in ascending order; of equal scores, the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _kept(layer: dict[str, Tensor], wide: Widths, narrow: Widths) -> dict[str, Tensor]:
    """Return the indices to keep along the axes of one layer, by the axes' names.

    A head's score is the Frobenius norm of its QᵀK, which bounds how sharp its attention can be; a row's score is the
    norm of its outputs times that of its inputs (and its gate), which bounds what it can add. A head's values are not
    used: large values go with diffuse attention, and heads chosen by them recovered least in training.
    """
    if "query" in layer:
        query, key = layer["query"], layer["key"]
    else:
        query, key, _ = layer["query, key and value"].chunk(3)
    queries, keys = (matrix.view(wide.heads, wide.head_size, -1) for matrix in (query, key))
    squared = (queries @ queries.mT) * (keys @ keys.mT)  # ||QᵀK||² = trace(QQᵀ KKᵀ), without computing QᵀK
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
    """Return the diagonal of LayerNorm's gain in the new basis, where the gain is no longer a diagonal matrix."""
    return weight @ basis.square()


def _strongest_dimensions(weights: dict[str, Tensor], count: int) -> Float[Tensor, "wide count"]:
    """Return unit vectors of the dimensions with the largest gains of the LayerNorms, which all weigh the same."""
    gains = [value for key, value in weights.items() if _part(key)[1:] == ("norm", "weight")]
    scores = torch.stack([gain.square() / gain.square().sum() for gain in gains]).sum(0)
    return torch.eye(len(scores), dtype=scores.dtype, device=scores.device)[:, _strongest(scores, count)]


def _principal_directions(weights: dict[str, Tensor], count: int) -> Float[Tensor, "wide count"]:
    """Return the right singular vectors of the word embeddings with the largest singular values."""
    matrices = {_part(key)[1]: value for key, value in weights.items() if _part(key)[2] == "weight"}
    embeddings = matrices["word embeddings"]
    if _PROJECTION in matrices:
        embeddings = embeddings @ matrices[_PROJECTION].T
    _, _, directions = torch.linalg.svd(embeddings, full_matrices=False)
    chosen: Tensor = directions[:count].T
    return chosen


_BASES = {"slice": _strongest_dimensions, "svd": _principal_directions}
