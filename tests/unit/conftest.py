"""Tiny masked-LM models of every family, task models and their exports."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # see `tests/conftest.py`
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "modernbert")
"""Those of `tiny.CONFIGS`."""


def model(family: str, head: str = "masked-lm", **settings: Any) -> "PreTrainedModel":
    """Four layers; of ModernBERT's 0 and 3 see everything, 1 and 2 three positions to each side."""
    from tests import tiny

    family_settings = {"local_attention": 6} if family == "modernbert" else {}
    settings = {"num_hidden_layers": 4, "pad_token_id": 0, **family_settings, **settings}
    return tiny.model(family, head, **tiny.WIDER, **settings)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """A test that takes this runs once for every family."""
    name: str = request.param
    return name


@pytest.fixture
def new_model() -> "Callable[[str], PreTrainedModel]":
    """Makes the model of a family as transformers initialises it."""
    return model


@pytest.fixture
def scrambled() -> "Callable[[str], PreTrainedModel]":
    """Makes the model of a family, every weight its own random number."""
    from tests import tiny

    return lambda family: tiny.scrambled(model(family))


@pytest.fixture(scope="session")
def task_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: "PreTrainedTokenizerFast"
) -> Callable[[str, str], Path]:
    """Makes the folder of a model of a family with a head, two layers, weights that all differ; each once.

    Of ModernBERT's two layers the first sees everything, the second three positions to each side.
    """
    from tests import tiny
    from tinydistilbert.models.loading import save_model

    assert tuple(tiny.CONFIGS) == FAMILIES

    @functools.cache
    def make(family: str, head: str) -> Path:
        settings: dict[str, Any] = {"num_labels": 1 if head == "regression" else 2}
        if head == "classification":
            names = {0: "bad", 1: "fair", 2: "good"}
            settings = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        folder = tmp_path_factory.mktemp(f"{family}-{head}")
        save_model(tiny.scrambled(model(family, head, num_hidden_layers=2, **settings)), tokenizer, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, task_model: Callable[[str, str], Path]
) -> Callable[[str, str], Path]:
    """Makes the exported folder of such a model; each once, for all processes of the tests. It is not to be changed."""
    from filelock import FileLock

    from tinydistilbert.export.to_onnx import export
    from tinydistilbert.storage import atomic

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    @functools.cache
    def make(family: str, head: str) -> Path:
        folder = shared / "exported" / f"{family}-{head}"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not atomic.is_finished(folder):
                export(task_model(family, head), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, task_model: Callable[[str, str], Path]) -> Path:
    """The exported folder of the DistilBERT classifier, in standard operators."""
    from tinydistilbert.export.to_onnx import export

    folder = tmp_path_factory.mktemp("plain") / "distilbert-classification"
    export(task_model("distilbert", "classification"), folder, fused=False)
    return folder
