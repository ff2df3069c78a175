"""The word embeddings of a model, read from its weights without building the model."""

from pathlib import Path
from typing import cast

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

from tinydistilbert.models import untrusted
from tinydistilbert.models.hub import local_folder
from tinydistilbert.models.loading import load_config


def word_embeddings(name: str | Path) -> NDArray[np.float32] | None:
    """Return the (vocabulary, width) embeddings of a model folder or hub name; None if it has none, like ELMo.

    Raises:
        UserError: there is no such model, or its files are invalid.
    """
    config = load_config(name)
    folder = local_folder(name, None, (untrusted.CONFIG, untrusted.WEIGHTS, untrusted.INDEX, "model-*.safetensors"))
    files = untrusted.weight_files(folder, str(name))
    untrusted.check_weights(files, config, str(name))
    for file in files:
        with safetensors.safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (it is no mapping)
                if key.endswith(untrusted.WORD_EMBEDDINGS):
                    return cast("NDArray[np.float32]", tensors.get_tensor(key).to(torch.float32).numpy())
    return None
