"""How many tokens of a text a model reads: the length that it was trained with, which its folder carries."""

from pathlib import Path

from tinydistilbert.models.runtimes import exported_facts
from tinydistilbert.storage import atomic

MAX_LENGTH = "max_length"
"""Key in `training.json`, and in the facts of an exported model: tokens of the longest input it was trained with."""
WINDOW = 384
"""Tokens of a window of a question with its context, as in BERT's run_squad.py."""
SHORTEST, UNLIMITED = 8, 10**9
"""Tokens. A `model_max_length` below the one, or from the other on such as transformers' 10^30, says nothing."""


def declared_length(model_max_length: float) -> int | None:
    """What a tokenizer's `model_max_length` says: the longest input in tokens; None = nothing."""
    return int(model_max_length) if SHORTEST <= model_max_length < UNLIMITED else None


def trained_length(folder: Path, model_max_length: float, reach: int) -> int | None:
    """Tokens of the longest input that a task model was trained with, as far as its folder says.

    Models of this program say it in `training.json` or in the facts of their export, others by a `model_max_length`
    below the reach of their position embeddings: where it is the reach, it says nothing of the training.

    Args:
        folder: of the model.
        model_max_length: of its tokenizer.
        reach: tokens that its position embeddings reach.
    """
    written = exported_facts(folder).get(MAX_LENGTH)
    if written is None and atomic.is_finished(folder):
        from tinydistilbert.run_folder import training_facts  # a served model has none, and no libraries that it needs

        written = training_facts(folder).get(MAX_LENGTH)
    declared = declared_length(written if isinstance(written, int) else model_max_length)
    return declared if declared is not None and (written is not None or declared < reach) else None


def read_length(folder: Path, model_max_length: float, reach: int, *, span: bool) -> int:
    """Tokens that are read of a text, or of a window of a context.

    It is the length that the model was trained with. Where that is unknown, texts are read as far as its position
    embeddings reach, and contexts in windows of `WINDOW` tokens.

    Args:
        folder: of the model.
        model_max_length: of its tokenizer.
        reach: tokens that its position embeddings reach.
        span: whether it answers questions.
    """
    return min(trained_length(folder, model_max_length, reach) or (WINDOW if span else reach), reach)
