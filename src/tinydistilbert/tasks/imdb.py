"""Sentiment of film reviews (Maas et al. 2011): scored on the test split, as in the DistilBERT paper's Table 2."""

from tinydistilbert.tasks.base import ScoreTable, Task

TABLE = ScoreTable(
    "downstream",
    "Table 2. IMDb and SQuAD",
    "IMDb on its test split and SQuAD v1.1 on its development set, in points. "
    "(D): distilled a second time while fine-tuned, from a teacher that was itself fine-tuned.",
    has_mean=False,
)

TASKS = (
    Task(
        name="imdb",
        title="IMDb",
        table=TABLE,
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
        typical_length=276,
        official={"train": 25_000, "test": 25_000},
        published={"accuracy": {"BERT-base": 93.46, "DistilBERT": 92.82, "TinyDistilBERT": 86.19}},
    ),
)
