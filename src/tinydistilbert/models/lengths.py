"""How many tokens of a text a model reads: the length that it was trained with, stored in its folder."""

from pathlib import Path

from tinydistilbert.models.runtimes import exported_facts
from tinydistilbert.storage import atomic

MAX_LENGTH = "max_length"
"""Key in `training.json` and in the facts of an exported model: tokens of the longest input it was trained with."""
WINDOW = 384
"""Tokens of a window of a question with its context, as in BERT's run_squad.py."""
SHORTEST, UNLIMITED = 8, 10**9
"""Limits in tokens: a `model_max_length` below the first, or from the second on (transformers' 10^30), is ignored."""


def declared_length(model_max_length: float) -> int | None:
    """Return the longest input in tokens by a tokenizer's `model_max_length`; None if it has no meaning."""
    return int(model_max_length) if SHORTEST <= model_max_length < UNLIMITED else None


def trained_length(folder: Path, model_max_length: float, reach: int) -> int | None:
    """Return the tokens of the longest input that a task model was trained with; None if its folder does not say.

    Models of this program store it in `training.json` or in the facts of their export. For others it is a
    `model_max_length` below the number of positions; if it equals that number, the training length is unknown.

    Args:
        folder: of the model.
        model_max_length: of its tokenizer.
        reach: number of tokens that its position embeddings allow.
    """
    written = exported_facts(folder).get(MAX_LENGTH)
    if written is None and atomic.is_finished(folder):
        from tinydistilbert.run_folder import training_facts  # its libraries may be missing where a model is served

        written = training_facts(folder).get(MAX_LENGTH)
    declared = declared_length(written if isinstance(written, int) else model_max_length)
    return declared if declared is not None and (written is not None or declared < reach) else None


def read_length(folder: Path, model_max_length: float, reach: int, *, span: bool) -> int:
    """Return the tokens that a model reads of a text, or of a window of a context.

    It is the length that the model was trained with. If that is unknown, texts are read as far as its position
    embeddings allow, and contexts in windows of `WINDOW` tokens.

    Args:
        folder: of the model.
        model_max_length: of its tokenizer.
        reach: number of tokens that its position embeddings allow.
        span: whether it answers questions.
    """
    return min(trained_length(folder, model_max_length, reach) or (WINDOW if span else reach), reach)
