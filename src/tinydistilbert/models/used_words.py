"""Train only the rows of the word embedding that occur; the others have no gradient.

A small task contains a few thousand of BERT's 30,522 words, yet AdamW reads and writes every row in every step, and the
gradient of all rows is cleared. A row without gradient keeps its moments at 0 and only decays, which one product at the
end does. The result is the same up to rounding.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.models.loading import ELMO


class _CutEmbedding(nn.Embedding):
    """Some rows of a word embedding, looked up by the original token ids; any other id is an error."""

    row_of: Tensor

    def __init__(self, whole: nn.Embedding, used: Int64[Tensor, " words"]) -> None:
        rows = whole.weight.detach()[used]
        row_of = torch.full((whole.num_embeddings,), -1, device=used.device)
        row_of[used] = torch.arange(len(used), device=used.device)
        padding = None if whole.padding_idx is None else int(row_of[whole.padding_idx])
        super().__init__(len(rows), rows.shape[1], padding, _weight=rows.clone())
        self.register_buffer("row_of", row_of, persistent=False)

    def forward(self, input: Int64[Tensor, "batch length"]) -> Tensor:
        """Return the embeddings of the tokens."""
        return super().forward(self.row_of[input])


@contextmanager
def only_used_words(
    model: PreTrainedModel, token_ids: Iterable[NDArray[np.integer]]
) -> Iterator[Callable[[float], None]]:
    """Inside the `with`, the word embedding of `model` has only the rows of tokens that occur; then it is whole again.

    The model reads the same token ids inside and outside. An ELMo, whose inputs are characters, stays as it is.

    Args:
        model: its input embedding is replaced; it must not be tied to an output.
        token_ids: every token that the model will see, including padding.

    Yields:
        A function that multiplies the rows that are left out by a factor, the effect of weight decay on them.
    """
    if model.config.model_type == ELMO:
        yield lambda _: None
        return
    whole: nn.Embedding = model.get_input_embeddings()
    occurs = np.zeros(whole.num_embeddings, dtype=bool)
    for row in token_ids:
        occurs[row] = True
    occurs[: (whole.padding_idx or 0) + 1] = True  # for compatibility with earlier checkpoints
    used = torch.from_numpy(np.flatnonzero(occurs)).to(whole.weight.device)
    cut = _CutEmbedding(whole, used)

    def decay_others(factor: float) -> None:
        with torch.no_grad():
            whole.weight.mul_(factor)  # also the used rows, which are overwritten at the end

    model.set_input_embeddings(cut)
    try:
        yield decay_others
    finally:
        with torch.no_grad():
            whole.weight[used] = cut.weight.to(whole.weight.device)
        model.set_input_embeddings(whole.to(cut.weight.device))
