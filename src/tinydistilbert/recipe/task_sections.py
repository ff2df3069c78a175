"""The recipe's sections about tasks: fine-tuning, learning from fine-tuned teachers, compression."""

import dataclasses
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from tinydistilbert.recipe.names import Quoting, base_task
from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.recipe.types import (
    Bytes,
    Epochs,
    Milliseconds,
    Operations,
    Optimization,
    Share,
    alone,
    renamed_values,
    section,
)


@section
class CustomTask:
    """A custom task: its files, their columns, and what is predicted."""

    train: str = ""
    """CSV, TSV, JSONL or Parquet file, SQuAD's JSON for `span`, a CoNLL file for `token-classification`, a folder
    written by `save_to_disk`, or a hub data set (`owner/name:configuration:split`; default split: `train`)."""
    validation: str = ""
    """Examples to score, in the forms of `train` (default split of a hub data set: `validation`); or a share of
    `train`, such as `10%`, picked by a hash of the text. May be empty with finetune.score_on = "train"."""
    kind: Literal["classification", "regression", "span", "multi-label", "token-classification"] = "classification"
    """`span`: answers in a context (SQuAD). `multi-label`: several labels. `token-classification`: entities."""
    text: str = "text"
    """Column of the text; if `kind` is span, of the question, by default `question`."""
    text_pair: str = ""
    """Column of a second text, if any; if `kind` is span, of the context, by default `context`."""
    label: str | tuple[str, ...] = "label"
    """Column of the label; for multi-label, a column of lists or several columns of 0 and 1."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """Separates several labels in a cell."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens; by default 128, or 384 if `kind` is span."""
    answer_units: Literal["words", "characters"] = "words"
    """Units in which F1 and exact match of `span` compare answers: `words`, SQuAD's official rules, or `characters` for
    scripts without spaces (Chinese, Japanese, Thai …), as MLQA does for Chinese."""
    quoting: Quoting = "auto"
    """Quotes in CSV and TSV: `csv`, they enclose fields; `none`, they are part of the texts; `auto`: `csv`, but in a
    .tsv file only if the file is clearly quoted."""

    _one_column = field_validator("label", mode="before")(alone)


@section
class TaskDistillationSettings:
    """Settings of the second distillation of one task that differ from `finetune.distillation`."""

    temperature: PositiveFloat | None = None
    soft: Share | None = None
    hidden: NonNegativeFloat | None = None
    attention: NonNegativeFloat | None = None
    relation: NonNegativeFloat | None = None
    intermediate_epochs: NonNegativeFloat | None = None
    intermediate_learning_rate: PositiveFloat | None = None
    epochs: Epochs | None = None
    learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    final_examples: Literal["all", "original"] | None = None
    unlabelled: str | tuple[str, ...] | None = None
    unlabelled_examples: NonNegativeInt | None = None
    augment: NonNegativeInt | None = None

    _one_source = field_validator("unlabelled", mode="before")(alone)


@section
class TaskSettings:
    """Settings of one task that differ from `finetune`."""

    epochs: Epochs | None = None
    learning_rate: PositiveFloat | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    batch_size: PositiveInt | None = None
    train_examples: NonNegativeInt | None = None
    validation_examples: NonNegativeInt | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    augment: NonNegativeInt | None = None
    distillation: TaskDistillationSettings = TaskDistillationSettings()


@section
class TaskDistillation:
    """Fine-tuning with teachers in addition to the labels: the rows "(D)" (Sanh et al. 2019, section 3)."""

    tasks: Literal["all", "span", "none"] = "all"
    """Tasks on which the student is also fine-tuned with a teacher; DistilBERT's authors did so on SQuAD only."""
    teachers: Literal["first", "all"] | tuple[str, ...] = "first"
    """The run's teacher of the first seed, the mean of its teachers of all seeds, or folders of fine-tuned models."""
    teacher_labels: tuple[str, ...] = ()
    """For teachers in folders: the class of each output, in the order of the outputs; empty = the names in the model's
    config, with LABEL_0, LABEL_1 … standing for the classes in their order."""
    start: Literal["student", "teacher"] = "student"
    """What the rows "(D)" start from: the pretrained student; or the task's first fine-tuned teacher, cut to the layers
    that `student` names, with its pooler and head. `teacher` needs no pretraining distillation; with finetune.model,
    that model becomes the task's teacher if no other is given."""
    cut: Literal["layers", "importance"] = "layers"
    """Layers to keep with start = "teacher": those that `student` names, or the same number of layers that matter most
    to the task, by the first derivative of its loss on train examples (as in `compress`)."""
    temperature: PositiveFloat = 2.0
    """Temperature T of the soft targets."""
    soft: Share = 0.5
    """Weight of the soft targets; the labels have the rest (the authors' alpha_ce = alpha_squad = 0.5)."""
    hidden: NonNegativeFloat = 0.0
    """Weight of the squared difference of hidden states (TinyBERT); the teacher then runs in every step."""
    attention: NonNegativeFloat = 0.0
    """Weight of the squared difference of attention scores before the softmax (TinyBERT); needs equal numbers of
    heads."""
    relation: NonNegativeFloat = 0.0
    """Weight of the self-attention relations Q-Q, K-K and V-V of the last layers (MiniLMv2)."""
    intermediate_epochs: NonNegativeFloat = 0.0
    """Epochs at the start that train with hidden, attention and relation only; later epochs train without them."""
    intermediate_learning_rate: PositiveFloat | None = None
    """Highest learning rate of the intermediate epochs; by default that of `finetune.optimization`. If this key,
    `epochs` or `learning_rate` is set, warm-up, decay and AdamW's moments restart after those epochs."""
    epochs: Epochs | None = None
    """Epochs of the rows "(D)" after the intermediate ones, regardless of `min_steps`; by default `finetune.epochs`,
    which then include the intermediate ones (TinyBERT: 3)."""
    learning_rate: PositiveFloat | None = None
    """Highest learning rate of the epochs after the intermediate ones; by default that of `finetune.optimization`
    (TinyBERT: 1e-5, 2e-5 or 3e-5)."""
    batch_size: PositiveInt | None = None
    """Examples in a step of the rows "(D)", in all their epochs; by default that of `finetune.optimization`. Larger
    batches make better use of a GPU when copies make an epoch many times as long."""
    matched_layers: Literal["uniform", "copied"] = "uniform"
    """Teacher layers that hidden and attention compare with: `uniform`, evenly spread, the last of each group
    (TinyBERT: 2, 4, 6 of 6 for 3 layers); or `copied`, those that the student's layers were copied from."""
    soft_labels: str = ""
    """File with soft labels of train examples from a source other than a model folder (an LLM, an API, an ensemble,
    votes): a column for each class or label, and the task's text columns or `id` to join by. Examples without one use
    the teacher model's. Classification and multi-label only."""
    final_examples: Literal["all", "original"] = "all"
    """Examples to read after the intermediate epochs: all, or only the train examples, without copies and unlabelled
    texts (TinyBERT on STS-B)."""
    unlabelled: str | tuple[str, ...] = ""
    """More texts of the same kind, without labels: a file with the task's columns or one text per line, `task:NAME`
    (train texts of another task), `corpus` (sentences of the corpus), or a list of these; not for span tasks."""
    unlabelled_examples: NonNegativeInt = 0
    """Read a seeded sample of this many unlabelled texts; 0 = all."""
    augment: NonNegativeInt = 0
    """Copies of each train example with words replaced by proposals of a masked LM (TinyBERT), for soft targets;
    duplicates are dropped. For span tasks: words of the question, and in the intermediate epochs only."""
    augment_share: Share = 0.4
    """Probability that a word is replaced in a copy (TinyBERT's p_t)."""
    augment_candidates: PositiveInt = 15
    """Number of proposals from which a replacement is drawn (TinyBERT's K)."""

    _one_source = field_validator("unlabelled", mode="before")(alone)

    def ends_with_originals(self, kind: str) -> bool:
        """Whether the epochs after the intermediate ones read only train examples, in a task of that kind."""
        return self.final_examples == "original" or (kind == "span" and self.augment > 0)

    @property
    def has_stages(self) -> bool:
        """Whether the intermediate epochs and those after them are two trainings, each with its own schedule."""
        return not (self.epochs is self.learning_rate is self.intermediate_learning_rate is None)

    @property
    def inner_terms(self) -> dict[str, float]:
        """The weights above 0 of the terms that compare layers, by name."""
        weights = {name: getattr(self, name, 0.0) for name in sorted(TERMS) if TERMS[name].is_inner}
        return {name: weight for name, weight in weights.items() if weight > 0}


@section
class Finetune:
    """Fine-tuning and scoring, by the same code for teacher, student and control."""

    tasks: tuple[str, ...] = ()
    """Names from `tinydistilbert tasks`, or of custom tasks in `custom`; `rte@mnli`: RTE, started from this run's MNLI
    models, as a separate column."""
    model: str = ""
    """Folder or hub name of a model to fine-tune instead of teacher, student and control."""
    teacher: str = ""
    """Encoder that the row `teacher` starts from, with its pooler: `original` (`teacher.model` unchanged), or a folder,
    hub name or `offline`; empty = the run's teacher, adapted if `adapt` says so. "(D)" learns from it."""
    models: tuple[Literal["teacher", "student", "control"], ...] = ("teacher", "student")
    """`control` is the same cut of the teacher, without distillation."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2, 3, 4)
    """Each model is fine-tuned once with each seed. Tables show medians (five runs, as in the paper)."""
    epochs: Epochs = 3.0
    """Passes over the train examples; may be fractional."""
    min_steps: NonNegativeInt = 500
    """Small train sets get more epochs until they reach this many steps (Mosbach et al. 2021); 0 = never."""
    select: Literal["fixed", "heldout", "reported"] = "fixed"
    """What chooses the epoch: nothing, examples held out of train, or the reported split, as TinyDistilBERT did."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """With select = "heldout": candidate learning rates, from which the held-out examples choose one."""
    train_examples: NonNegativeInt = 0
    """Train on a seeded sample of this many examples per task; 0 = all. Tables mark a sample."""
    validation_examples: NonNegativeInt = 0
    """Score on a seeded sample of this many examples per task; 0 = all. Tables mark a sample."""
    score_on: Literal["validation", "train"] = "validation"
    """`train`: score on `validation_examples` examples of the train split that are not trained on; for choosing
    settings."""
    keep: Literal["best", "all", "least"] = "best"
    """Weights to keep when the run no longer needs them: `best`, for each task the first-seed models that the run is
    about; `all`, also those of the teacher, the control and the other seeds; `least`, as `best`, but for a compressed
    task only the chosen variant, and not the adapted teacher. Scores and logs are always kept."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer as a share of the layer above it, from the head down to the embeddings (ULMFiT,
    Howard and Ruder 2018; ELECTRA: 0.8); 1 = the same for all. Not for the rows "(D)"."""
    baselines: bool = True
    """Add rows of cheap models on the same examples, which a student has to beat: a linear model on TF-IDF and one on
    the mean of the teacher's word embeddings; for token classification, each word's most frequent tag. Not for span
    tasks."""
    distillation: TaskDistillation = TaskDistillation()
    optimization: Optimization = Optimization(
        learning_rate=5e-5, weight_decay=0.01, adam_beta2=0.999, adam_epsilon=1e-8, warmup_ratio=0.1,
        max_grad_norm=1.0, batch_size=32,
    )  # fmt: skip
    override: dict[str, TaskSettings] = field(default_factory=dict)
    """Settings of single tasks: `[finetune.override.cola]`."""
    custom: dict[str, CustomTask] = field(default_factory=dict)
    """Custom tasks by name: `[finetune.custom.reviews]`."""

    _renamed = renamed_values("finetune.select")

    @property
    def has_student_of_teachers(self) -> bool:
        """Whether a run of its own teacher has what the rows "student (D)" start from and learn from."""
        has_teacher = isinstance(self.distillation.teachers, tuple) or "teacher" in self.models
        return has_teacher and ("student" in self.models or self.distillation.start == "teacher")

    def settings(self, task: str, *, is_distilled: bool = False) -> "Finetune":
        """Return these settings with the override of `task` applied; `override` of the result is empty.

        Args:
            task: name of the task.
            is_distilled: whether they are for a row "(D)", which may have its own batch size.
        """
        override = self._override(task)
        changes = {key: value for key, value in dataclasses.asdict(override).items() if value is not None}
        optimization = {key: changes.pop(key) for key in ("learning_rate", "batch_size") if key in changes}
        changes.pop("max_length", None)
        of_distillation = changes.pop("distillation")
        distillation = {key: changes.pop(key) for key in ("augment",) if key in changes}
        distillation |= {key: value for key, value in of_distillation.items() if value is not None}
        size = distillation.get("batch_size", self.distillation.batch_size)
        if is_distilled and size is not None:
            optimization["batch_size"] = size
        return dataclasses.replace(
            self, optimization=dataclasses.replace(self.optimization, **optimization),
            distillation=dataclasses.replace(self.distillation, **distillation), override={}, **changes,
        )  # fmt: skip

    def _override(self, task: str) -> TaskSettings:
        """Return what differs for a task; for `rte@mnli` without an override of its own, what differs for `rte`."""
        return self.override.get(task) or self.override.get(base_task(task), TaskSettings())

    def max_length(self, task: str, default: int) -> int:
        """Return the longest input of `task` in tokens: its override, or else the task's `default`."""
        return self.stated_max_length(task) or default

    def stated_max_length(self, task: str) -> int | None:
        """Return the longest input of `task` in tokens if this recipe states one; None = the task's default."""
        custom = self.custom.get(base_task(task))
        return self._override(task).max_length or (custom.max_length if custom else None)


@section
class Compress:
    """Smaller and faster variants of fine-tuned models, made one after the other, each with its score."""

    tasks: tuple[str, ...] = ()
    """Tasks whose model (of the first seed) is compressed; if `model` is given, the one task of that model."""
    row: Literal["teacher", "student", "student (D)", "control", "model", "model (D)"] = "student"
    """Row of the tables to compress."""
    model: str = ""
    """Folder of a fine-tuned model to compress instead of one of the run."""
    teachers: tuple[str, ...] = ()
    """Fine-tuned models that pruned models learn from; by default the run's teacher, else the unpruned model."""
    vocabulary: str = ""
    """First reduce the vocabulary to the tokens of these texts: a file or folder, or `train`; empty = keep it."""
    quantization: Literal["dynamic", "static", "none"] = "dynamic"
    """Activation scales of int8: `dynamic`, from each token; `static`, from calibration inputs held out of train;
    `none`: no int8."""
    engines: tuple[Literal["onnxruntime", "openvino"], ...] = ("onnxruntime",)
    """With `openvino`, every variant is also made for OpenVINO: in bf16, if the processor has it, and in int8."""
    calibration_examples: PositiveInt = 256
    """Held-out train examples for measuring the scales of `static`, and of OpenVINO's int8."""
    keep: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.75, 0.5, 0.35)
    """Shares of the weights in heads and feed-forward neurons that the pruned variants keep; each variant is made from
    the previous one. With 1 first, one variant shows what the same recovery fine-tuning gains without pruning."""
    layers: tuple[PositiveInt, ...] = ()
    """Further variants after those: numbers of encoder layers to keep, the most important ones."""
    importance_examples: PositiveInt = 1000
    """Train examples for estimating the importance of heads, neurons and layers (Michel et al. 2019)."""
    recovery_epochs: Epochs = 2.0
    """Epochs of recovery fine-tuning with the teacher after each pruning."""
    held_out: NonNegativeInt = 1000
    """Train examples that pruned models are not trained on and that choose among the variants; at most a tenth of all;
    0 = a tenth."""
    max_loss: NonNegativeFloat = 1.0
    """Points of the headline metric that may be lost on held-out examples. If int8 loses more, some layers stay in
    float; variants that lose more are marked."""
    min_kept: Share = 0.0
    """Share of the teacher's score above the majority baseline that the chosen variant has to keep on the held-out
    examples, instead of `max_loss`; the teacher is the first of `teachers`, or the run's. 0 = no such limit."""
    target_latency: Milliseconds = ""
    """`5ms`: make smaller variants until the median latency of one input on one core is at most this."""
    target_size: Bytes = ""
    """`20MB`: make smaller variants until the model file is this small."""
    target_operations: Operations = ""
    """`100M`: make smaller variants until an input of mean length needs at most this many floating-point operations."""
    timed_examples: PositiveInt = 200
    """Validation inputs to time, at their true length."""
    clock: Literal["wall", "core"] = "wall"
    """What is timed: `wall`, the time until the answer is ready; `core`, only the CPU time of it, which compares
    variants on a machine with other work but is not a latency."""
