"""Tiny masked-LM models of every family, task models and their exports, and the scripts in benchmarks/ as modules."""

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from tinydistilbert.export.to_onnx import export
from tinydistilbert.models.loading import save_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = (
    "common",
    "reference_ways",
    "throughput_ways",
    "distill_throughput",
    "finetune_ways",
    "finetune_scores",
    "finetune_throughput",
    "corpus_scaling",
    "cache_payoff",
    "narrowing",
    "gpu_day",
    "gpu_pack",
)
"""Each after those that it imports."""

SIZES = {
    "vocab_size": 232, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 4,
    "pad_token_id": 0,
}  # fmt: skip
"""As many words as the tokenizer of the tests has."""


def modernbert() -> PreTrainedModel:
    """Layers 0 and 3 see everything, 1 and 2 three positions to each side."""
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    return ModernBertForMaskedLM(ModernBertConfig(**SIZES, **special, local_attention=6))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=232, n_layers=4, dim=32, n_heads=4, hidden_dim=48)
    ),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZES)),
    "modernbert": modernbert,
}


@pytest.fixture(params=MODELS)
def family(request: pytest.FixtureRequest) -> str:
    """A test that takes this runs once for every family."""
    name: str = request.param
    return name


@pytest.fixture
def new_model() -> Callable[[str], PreTrainedModel]:
    """Makes the model of a family as transformers initialises it."""
    return lambda family: MODELS[family]()


@pytest.fixture
def scrambled() -> Callable[[str], PreTrainedModel]:
    """Makes the model of a family, every weight its own random number, so that a forgotten one shows.

    Fresh biases are all zero.
    """

    def make(family: str) -> PreTrainedModel:
        model = MODELS[family]().eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        return model

    return make


TASK_MODELS: dict[str, Callable[[PretrainedConfig], PreTrainedModel]] = {
    "classification": AutoModelForSequenceClassification.from_config,
    "regression": AutoModelForSequenceClassification.from_config,
    "span": AutoModelForQuestionAnswering.from_config,
    "masked-lm": AutoModelForMaskedLM.from_config,
}


@pytest.fixture(scope="session")
def task_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Callable[[str, str], Path]:
    """Makes the folder of a model of a family with a head, two layers, weights that all differ; each once."""

    @functools.cache
    def make(family: str, head: str) -> Path:
        config = MODELS[family]().config
        if family != "modernbert":  # which has a list of its layers beside their number
            config.num_hidden_layers = 2
        config.num_labels = 1 if head == "regression" else 3 if head == "classification" else 2
        if head == "classification":
            config.id2label = {0: "bad", 1: "fair", 2: "good"}
            config.label2id = {name: index for index, name in config.id2label.items()}
        torch.manual_seed(1)
        model = TASK_MODELS[head](config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        folder = tmp_path_factory.mktemp(f"{family}-{head}")
        save_model(model, tokenizer, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, task_model: Callable[[str, str], Path]
) -> Callable[[str, str], Path]:
    """Makes the exported folder of such a model; each once."""

    @functools.cache
    def make(family: str, head: str) -> Path:
        folder = tmp_path_factory.mktemp("exported") / f"{family}-{head}"
        export(task_model(family, head), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, task_model: Callable[[str, str], Path]) -> Path:
    """The exported folder of the DistilBERT classifier, in standard operators."""
    folder = tmp_path_factory.mktemp("plain") / "distilbert-classification"
    export(task_model("distilbert", "classification"), folder, fused=False)
    return folder


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules; they import each other by name, as they do when one of them is run."""
    found: dict[str, ModuleType] = {}
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    yield found
    for name in NAMES:
        del sys.modules[name]
