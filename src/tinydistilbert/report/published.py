"""The published models of the three tables, as printed, with their sources."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tinydistilbert.tasks.base import Task

PAPER = "Sanh et al. 2019, DistilBERT, arXiv:1910.01108v4, Tables 1 to 3 (GLUE: medians of five runs)"
REPLICATION = "TinyDistilBERT, github.com/Solomon-Lee/distillBert_4782: its report and its run table (results/*.tsv)"
ABLATION = (
    "Sanh et al. 2019, DistilBERT, arXiv:1910.01108v4, Table 4: change of the GLUE macro score after full training; "
    "its rows are labelled by what is struck out, and read as “that term is dropped”"
)
SPEED_NOTE = (
    "Published seconds: the paper's on one Intel Xeon E5-2690 v3 (threads and padding not stated); the replication's "
    "on its own CPU, one thread, inputs padded to 128. Compare ratios, not seconds, between machines."
)


@dataclass(frozen=True)
class Published:
    """One published model; its scores are stored with the tasks (`Task.published`), under its name."""

    name: str
    source: str
    parameters_millions: float | None = None
    seconds: float | None = None
    """Seconds of a full pass over STS-B validation at batch 1 on a CPU, in the paper."""
    seconds_replication: float | None = None
    """The same, as measured by TinyDistilBERT."""


ELMO = Published("ELMo", PAPER, parameters_millions=180, seconds=895)
BERT_BASE = Published("BERT-base", PAPER, parameters_millions=110, seconds=668, seconds_replication=423.65)
DISTILBERT = Published("DistilBERT", PAPER, parameters_millions=66, seconds=410, seconds_replication=209.1)
DISTILBERT_D = Published("DistilBERT (D)", PAPER)
TINYDISTILBERT = Published("TinyDistilBERT", REPLICATION, parameters_millions=66, seconds_replication=215.79)
TINYDISTILBERT_MEDIANS = Published("TinyDistilBERT, medians", REPLICATION)
TINYDISTILBERT_D = Published("TinyDistilBERT (D)", REPLICATION)

MODELS = {
    model.name: model
    for model in (
        ELMO, BERT_BASE, DISTILBERT, DISTILBERT_D, TINYDISTILBERT, TINYDISTILBERT_MEDIANS, TINYDISTILBERT_D,
    )
}  # fmt: skip
"""Published models by name, in the order of the tables."""

TABLE_4 = {"kl": -2.96, "cosine": -1.46, "mlm": -0.31, "random": -3.69}
"""Points of the GLUE macro score that are lost without a term, or if the student starts from random weights."""


def models_of(tasks: Iterable[Task]) -> tuple[str, ...]:
    """Return the models with published scores on any of `tasks`: those of `MODELS` first, in their order."""
    with_scores = dict.fromkeys(model for task in tasks for scores in task.published.values() for model in scores)
    return (*(model for model in MODELS if model in with_scores), *(m for m in with_scores if m not in MODELS))


def mean_over(model: str, tasks: Sequence[Task]) -> float | None:
    """Return the mean of a model's published headline scores in points, as corrected; None if a score is missing."""
    scores = [task.corrected.get(model, task.published.get(task.headline, {}).get(model)) for task in tasks]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None
