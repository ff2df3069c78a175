"""The nine tasks of GLUE (Wang et al. 2019, arXiv 1804.07461), with the Hugging Face column and label order.

The metrics are the official ones in every variant. The headline is the one that enters the DistilBERT paper's Table 1:
the mean of accuracy and F1 for MRPC and QQP, the mean of both correlations for STS-B.
"""

from typing import Any

from tinydistilbert.tasks.base import Task

F1_AND_ACCURACY: dict[str, Any] = {"metrics": ("accuracy", "f1", "f1_accuracy_mean"), "headline": "f1_accuracy_mean"}
ENTAILMENT = ("entailment", "not_entailment")


def _glue(
    name: str, title: str, columns: tuple[str, str | None], labels: tuple[str, ...], sizes: Any, **other: Any
) -> Task:
    settings: dict[str, Any] = {"kind": "classification", "metrics": ("accuracy",), "headline": "accuracy", **other}
    return Task(
        name=name, title=title, family="glue", text=columns[0], text_pair=columns[1], labels=labels,
        folder=f"glue/{name}", hub=("nyu-mll/glue", name), official=sizes, **settings,
    )  # fmt: skip


TASKS = (
    _glue(
        "cola", "CoLA", ("sentence", None), ("unacceptable", "acceptable"), {"train": 8551, "validation": 1043},
        metrics=("matthews_correlation", "accuracy"), headline="matthews_correlation",
    ),
    _glue(
        "mnli", "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
        {"train": 392_702, "validation_matched": 9815, "validation_mismatched": 9832},
        evaluation=("validation_matched", "validation_mismatched"),
    ),
    _glue(
        "mrpc", "MRPC", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"),
        {"train": 3668, "validation": 408}, **F1_AND_ACCURACY,
    ),
    _glue("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, {"train": 104_743, "validation": 5463}),
    _glue(
        "qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"),
        {"train": 363_846, "validation": 40_430}, **F1_AND_ACCURACY,
    ),
    _glue("rte", "RTE", ("sentence1", "sentence2"), ENTAILMENT, {"train": 2490, "validation": 277}),
    _glue("sst2", "SST-2", ("sentence", None), ("negative", "positive"), {"train": 67_349, "validation": 872}),
    _glue(
        "stsb", "STS-B", ("sentence1", "sentence2"), (), {"train": 5749, "validation": 1500}, kind="regression",
        metrics=("pearson", "spearman", "pearson_spearman_mean"), headline="pearson_spearman_mean",
    ),
    _glue(
        "wnli", "WNLI", ("sentence1", "sentence2"), ("not_entailment", "entailment"), {"train": 635, "validation": 71},
    ),
)  # fmt: skip
SCORE_RANGE = (0.0, 5.0)
"""Lowest and highest similarity score of STS-B."""
