"""The back end of torch models, with the same interface as those of exported models."""

import threading
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from tinydistilbert.models import tokenizer_files
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.loading import ELMO, longest_input
from tinydistilbert.models.runtimes import MOST_TOKENS, ModelInputs, check_fits, token_budget

CPU = torch.device("cpu")


def uses_token_types(model: nn.Module) -> bool:
    """Return whether the model takes `token_type_ids`: BERT does, DistilBERT and RoBERTa do not."""
    config: Any = model.config
    return tokenizer_files.uses_token_types(config)


class TorchRuntime:
    """A task model in torch, in evaluation mode; the last layer computes only the token that the head reads.

    Args:
        model: with a classification, regression or span head.
        span: whether the head is a span head.
        compiled: use torch.compile, for any batch and length; the first call takes about a minute, and the last layer
            stays reduced to the first token as long as this object exists.
        device: where to compute; the model is moved there.
    """

    def __init__(
        self, model: PreTrainedModel, *, span: bool, compiled: bool = False, device: torch.device = CPU
    ) -> None:
        self.name = "torch-compile" if compiled else "torch"
        self.token_types = uses_token_types(model)
        # A recurrent model does a step for each word of the longest text, whatever the number of texts.
        is_parallel = device.type != "cpu" or model.config.model_type == ELMO
        self.token_budget = MOST_TOKENS if is_parallel else token_budget(torch.get_num_threads())
        self._model, self._span, self._device = model.to(device).eval(), span, device
        self._longest = longest_input(model.config)
        self._forward: Any = model
        self._reduced = ExitStack()
        self._calling = threading.Lock()  # the reduction changes the model: one thread would end that of another
        if compiled:
            if not span:  # only once: torch would compile a new function again in each call
                self._reduced.enter_context(first_token_only(model))
            self._forward = torch.compile(model, dynamic=True)

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`."""
        check_fits(inputs, self._longest)
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        reduction = nullcontext() if self._span else first_token_only(self._model)
        with self._calling, torch.inference_mode(), reduction:
            output = self._forward(**tensors)
            logits = torch.stack((output.start_logits, output.end_logits), dim=-1) if self._span else output.logits
        array: NDArray[np.float32] = logits.float().cpu().numpy()
        return array
