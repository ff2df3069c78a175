"""Scores of a model on a program's own data, by the same code as the rows of the tables."""

import tempfile
from pathlib import Path

import numpy as np

from tinydistilbert.api.inputs import Data, as_given, written
from tinydistilbert.api.outcomes import Label, Scores, TaskColumns, TaskModel
from tinydistilbert.evaluation.answer_units import Units
from tinydistilbert.evaluation.scoring import Predictions, predictions_of_rows, predictions_of_tags, score
from tinydistilbert.predictor import Predictor, load
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.tasks import load_examples
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.custom import custom_task

SEED = 0
"""Seed of the bootstrap's resamples."""


def evaluate(
    model: "str | Path | TaskModel | Predictor", data: Data, *, text: str = "", label: Label = "", text_pair: str = "",
) -> Scores:  # fmt: skip
    """Score a task model, torch or exported, on labelled data.

    Args:
        model: the folder of a model, the result of `load`, or that of `finetune`, `distill`, `compress` or `shrink`.
        data: a data frame, a list of dictionaries, a `datasets.Dataset`, a path or a hub name.
        text: column of the text; for a span model, of the question. By default as in training, else `text`.
        label: column of the label, by default as in training, else `label`; not read for a span model. For a
            multi-label model also several columns of 0 and 1; for token classification, the default is that of custom
            tasks.
        text_pair: column of the second text, if any.

    Raises:
        UserError: there is no such model or data, a column is missing, or the model does not know a label.
    """
    if isinstance(model, TaskModel):
        return model.score(data, text=text, label=label, text_pair=text_pair)
    predictor = model if isinstance(model, Predictor) else load(model)
    defaults = CustomTask()
    columns = TaskColumns(text or defaults.text, label or defaults.label, text_pair, predictor.kind)
    return score_of(predictor, data, columns)


def score_of(predictor: Predictor, data: Data, columns: TaskColumns, answer_units: Units = "words") -> Scores:
    """Return the scores of a loaded model; see `evaluate`. Answers of a span model are compared by `answer_units`.

    Raises:
        UserError: a column is missing, or the model does not know a label.
    """
    given = as_given(data, "data", label=columns.label)
    with tempfile.TemporaryDirectory(prefix="tinydistilbert-") as folder:
        source = written(given, Path(folder) / "data" / "examples.parquet")
        section = {**columns.section, "kind": predictor.kind, "answer_units": answer_units}
        settings = CustomTask(train=source, validation=source, **section)
        task = custom_task("data", settings)
        examples = load_examples(
            task, "validation", data=None, corpus=Corpus(), limit=0, seed=SEED, labels=predictor.labels or None
        )
    by_metric = score(examples, _predictions(predictor, examples), seed=SEED)
    return Scores(
        {name: value for name, (value, _) in by_metric.items()},
        {name: (details["interval"][0], details["interval"][1]) for name, (_, details) in by_metric.items()},
        {name: details["majority"] for name, (_, details) in by_metric.items()},
        len(examples),
        tuple(dict.fromkeys(warning for _, details in by_metric.values() for warning in details["warnings"])),
    )


def _predictions(predictor: Predictor, examples: Examples) -> Predictions:
    columns = examples.columns
    if predictor.kind == "token-classification":
        return predictions_of_tags(examples, [tagged.tags for tagged in predictor.word_tags(examples)])
    if predictor.kind != "span":
        logits = predictor.logits(columns["text"], columns.get("text_pair"))
        return predictions_of_rows(examples, logits, predictor.label_thresholds)
    texts = [answer["answer"] for answer in predictor.predict(columns["question"], columns["context"])]
    return Predictions(np.array(texts), texts, [answer["text"] for answer in columns["answers"]], {})
