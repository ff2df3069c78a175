"""Train only the rows of the word embedding that can be needed: the others have no gradient.

Of BERT's 30,522 words a small task contains a few thousand, yet AdamW reads and writes every row in every step, and the
gradient is cleared for all of them. A row without gradient keeps its moments at 0 and only decays, which is done at the
end in one product. What is trained is the same up to rounding.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel


class UsedWords:
    """The word embedding of `model`, cut to the tokens that occur; `restore` puts the whole one back.

    Args:
        model: its input embedding is exchanged; it must not be tied to an output.
        token_ids: every token that the model will see, padding among them.
    """

    def __init__(self, model: PreTrainedModel, token_ids: Iterable[NDArray[np.int32]]) -> None:
        self._model = model
        self._whole: nn.Embedding = model.get_input_embeddings()
        occurs = np.zeros(self._whole.num_embeddings, dtype=bool)
        for row in token_ids:
            occurs[row] = True
        # RoBERTa tells padding by its id, so the ids up to it keep their places.
        occurs[: (self._whole.padding_idx or 0) + 1] = True
        self._used = torch.from_numpy(np.flatnonzero(occurs))
        self._place = np.cumsum(occurs, dtype=np.int32) - 1
        rows = self._whole.weight.detach()[self._used.to(self._whole.weight.device)]
        model.set_input_embeddings(
            nn.Embedding(len(rows), rows.shape[1], self._whole.padding_idx, _weight=rows.clone())
        )

    def __len__(self) -> int:
        return len(self._used)

    def places(self, token_ids: Iterable[NDArray[np.int32]]) -> list[Int64[np.ndarray, " length"]]:
        """The token ids as rows of the cut embedding."""
        return [self._place[row] for row in token_ids]

    def restore(self, unused_factor: float = 1.0) -> None:
        """Put the whole embedding back, the trained rows in it; the others are multiplied by what they have decayed."""
        trained: nn.Embedding = self._model.get_input_embeddings()
        with torch.no_grad():
            self._whole.weight.mul_(unused_factor)
            self._whole.weight[self._used] = trained.weight.to(self._whole.weight.device)
        self._model.set_input_embeddings(self._whole.to(trained.weight.device))
