"""Sentiment of film reviews (Maas et al. 2011): scored on the test split, as in the DistilBERT paper's Table 2."""

from tinydistilbert.tasks.base import Task

TASKS = (
    Task(
        name="imdb",
        title="IMDb",
        family="imdb",
        kind="classification",
        text="text",
        text_pair=None,
        labels=("negative", "positive"),
        metrics=("accuracy",),
        headline="accuracy",
        folder="imdb",
        hub=("stanfordnlp/imdb", None),
        evaluation=("test",),
        max_length=512,
        official={"train": 25_000, "test": 25_000},
    ),
)
