"""Where each default of the recipe comes from: the page docs/reference/defaults.md, made by `python results/readme.py`.

Every default that does something has a source here. One that does nothing (off, empty, no limit) needs none.
"""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase

from tinydistilbert.recipe import keys

AUTHORS, PAPER, BERT, TINYBERT = "the authors’ command", "the paper", "BERT", "TinyBERT"
"""The page says what these are."""
CHOSEN = "our choice; not varied"
NOT_SET = "not set; [the recipe](recipe.md) says what then applies"


def _decision(number: int, name: str, words: str) -> str:
    return f"{words}: [decision {number}](../decisions/{number:04}-{name}.md)"


SOURCES: tuple[tuple[str, str], ...] = (
    ("name", "any name"), ("seed", "no number is better than another"), ("device", "what the machine has"),
    ("precision", _decision(30, "precision", "measured")),
    ("checkpoint_minutes", f"{CHOSEN}: the time that a kill may cost"),
    ("teacher.model", f"{PAPER}: its teacher"),
    ("teacher.sharding", _decision(34, "several-processes", "only if the teacher does not fit")),
    ("corpus.source", "the TinyDistilBERT replication, in place of the paper's Wikipedia and BookCorpus"),
    ("corpus.text_column", "the name in most hub data sets"),
    ("corpus.quoting", "[how each kind of file is usually written](files.md#quotes-in-csv-and-tsv)"),
    ("corpus.validation_share", CHOSEN),
    ("corpus.packing", _decision(4, "packed-blocks", "measured")),
    ("corpus.block_size", "the length of the replication; the paper has 512, but attention costs its square"),
    ("corpus.attention", f"{BERT}: blocks cross documents ([decision 4](../decisions/0004-packed-blocks.md))"),
    ("adapt.optimization.learning_rate", _decision(6, "the-whole-encoder-is-adapted", "only this rate was tried")),
    ("adapt.optimization.weight_decay", f"{BERT}, appendix A.2"),
    ("adapt.optimization.max_grad_norm", f"{BERT}’s code"),
    ("adapt.optimization.batch_size", CHOSEN),
    ("student.layers", f"{AUTHORS}: layers 0, 2, 4, 7, 9, 11 of 12"),
    ("student.architecture", "the student has its teacher's architecture"),
    ("student.initialization", f"{PAPER}, section 3"),
    ("student.width_reduction", _decision(10, "narrower-students", "measured")),
    ("objective.kl", AUTHORS), ("objective.mlm", AUTHORS), ("objective.cosine", AUTHORS),
    ("objective.temperature", AUTHORS), ("objective.kl_positions", AUTHORS),
    ("objective.kl_sampled_share", _decision(12, "what-the-ablation-showed", "one row of an ablation")),
    ("objective.relation_layer", "[MiniLMv2](https://arxiv.org/abs/2012.15828) for BERT-base: the last"),
    ("objective.matched_layers", TINYBERT),
    ("objective.reduction", "the [definitions](objective.md) are means, so that no term grows with the batch"),
    ("masking.*", f"{BERT}, appendix A.1"),
    ("validation.*", CHOSEN),
    ("distill.epochs", AUTHORS),
    ("distill.cache.kind", "[when it pays off](../explanation/teacher-cache.md#when-it-pays)"),
    ("distill.cache.*", "[measured](../explanation/teacher-cache.md#when-it-pays)"),
    ("distill.optimization.batch_size", f"{CHOSEN}; the authors' command has 5, with 50 accumulated"),
    ("*.optimization.decayed", f"{AUTHORS}; {BERT}’s code"),
    ("*.optimization.warmup_start", "no step is wasted on a learning rate of 0"),
    ("*.optimization.gradient_accumulation_steps", "no accumulation: a step reads one batch"),
    ("distill.optimization.*", AUTHORS),
    ("adapt.optimization.*", f"as for `distill`: {AUTHORS}"),
    ("finetune.models", "what the paper compares"),
    ("finetune.seeds", f"{PAPER}, Table 1: medians of five runs"),
    ("finetune.epochs", f"{BERT}, appendix A.3: 2 to 4"),
    ("finetune.min_steps", "longer on small sets ([Mosbach et al.](https://arxiv.org/abs/2006.04884)); our number"),
    ("finetune.select", "[the protocol](../explanation/protocol.md): reported scores choose nothing"),
    ("finetune.score_on", "[the protocol](../explanation/protocol.md)"),
    ("finetune.keep", _decision(32, "what-is-kept", "fits on the disk of a laptop")),
    ("finetune.layer_decay", "the same for all layers, as in the paper"),
    ("finetune.baselines", _decision(27, "kept", "a student has to beat them")),
    ("finetune.distillation.tasks", _decision(14, "what-distilling-for-a-task-gave", "it costs little")),
    ("finetune.distillation.teachers", f"{CHOSEN}: one teacher, as in the paper"),
    ("finetune.distillation.start", f"{PAPER}: the pretrained student"),
    ("finetune.distillation.cut", f"{PAPER}: the layers that `student` names"),
    ("finetune.distillation.temperature", AUTHORS), ("finetune.distillation.soft", f"{AUTHORS}: 0.5 and 0.5"),
    ("finetune.distillation.matched_layers", TINYBERT), ("finetune.distillation.final_examples", TINYBERT),
    ("finetune.distillation.augment_*", f"{TINYBERT}: p_t and K"),
    ("finetune.optimization.learning_rate", f"{BERT}, appendix A.3: 5e-5, 3e-5 or 2e-5"),
    ("finetune.optimization.batch_size", f"{BERT}, appendix A.3: 16 or 32"),
    ("finetune.optimization.adam_epsilon", "transformers' fine-tuning"),
    ("finetune.optimization.*", f"{BERT}, appendix A.2, and its code"),
    ("compress.row", "the student is the model of interest"),
    ("compress.quantization", _decision(17, "int8", "measured")),
    ("compress.engines", "runs on every machine; [OpenVINO](../decisions/0029-openvino.md) only on request"),
    ("compress.keep", _decision(18, "pruning", "measured at these shares")),
    ("compress.max_loss", f"{CHOSEN}: one point"),
    ("compress.timed_examples", f"{CHOSEN}: [how latency is measured](../explanation/latency.md)"),
    ("compress.clock", "the time that a user waits: [how latency is measured](../explanation/latency.md)"),
    ("compress.*", CHOSEN),
    ("benchmark.models", f"{PAPER}, Table 3, and the run's own two"),
    ("benchmark.backends", _decision(19, "latency", "the library of the published times")),
    ("benchmark.protocols", "the replication's protocol, and [the true length](../explanation/latency.md)"),
    ("benchmark.memory", "[how latency is measured](../explanation/latency.md)"),
    ("benchmark.rounds", f"{CHOSEN}: [how latency is measured](../explanation/latency.md)"),
    ("ablate.table4", f"{PAPER}, Table 4"), ("ablate.seeds", f"{CHOSEN}: one seed is cheap, but shows little"),
)  # fmt: skip
"""A pattern of keys, and where their defaults come from; the first that fits holds."""
_OFF = (None, "", (), 0, False)
"""Defaults that do nothing."""


def source_of(key: keys.Key) -> str | None:
    """Where a default comes from; None where nothing says so."""
    origin = next((source for pattern, source in SOURCES if fnmatchcase(key.name, pattern)), None)
    does_nothing = any(key.default is off or key.default == off for off in _OFF)
    return NOT_SET if does_nothing and not _is_named(key.name) else origin


def _is_named(name: str) -> bool:
    """Whether the table has the key itself: then 0 or nothing is the published value."""
    return any(pattern == name for pattern, _ in SOURCES)


def unsourced() -> Iterator[str]:
    """Keys whose default has no source here."""
    yield from (key.name for section in keys.sections() for key in section.keys if source_of(key) is None)


def unused() -> list[str]:
    """Patterns of sources that fit no key."""
    names = [key.name for section in keys.sections() for key in section.keys]
    return [pattern for pattern, _ in SOURCES if not any(fnmatchcase(name, pattern) for name in names)]


def defaults_section() -> str:
    """Every key with its default and its source, by section."""
    shown = []
    for section in keys.sections():
        if section.keys:
            shown += ["", f"### {f'`[{section.name}]`' if section.name else 'The recipe itself'}", ""]
            shown += ["| key | default | where it comes from |", "| --- | --- | --- |"]
            for key in section.keys:
                default = "unset" if key.default is None else json.dumps(key.default)
                shown.append(f"| `{key.name}` | `{default}` | {source_of(key)} |")
    return "\n".join(shown[1:]) + "\n"
