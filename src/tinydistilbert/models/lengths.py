"""How many tokens of a text a model reads: the length that it was trained with, which its folder carries."""

from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from tinydistilbert.models.loading import longest_input
from tinydistilbert.models.runtimes import exported_facts
from tinydistilbert.models.tokenizer_files import declared_length
from tinydistilbert.run_folder import MAX_LENGTH, training_facts
from tinydistilbert.storage import atomic

WINDOW = 384
"""Tokens of a window of a question with its context, as in BERT's run_squad.py."""


def trained_length(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> int | None:
    """Tokens of the longest input that a task model was trained with, as far as its folder says.

    Models of this program say it in `training.json` or in the facts of their export, others by a `model_max_length`
    below the reach of their position embeddings: where it is the reach, it says nothing of the training.
    """
    written = exported_facts(folder).get(MAX_LENGTH)
    if written is None and atomic.is_finished(folder):
        written = training_facts(folder).get(MAX_LENGTH)
    if isinstance(written, int):
        return written
    declared = declared_length(tokenizer)
    return declared if declared is not None and declared < longest_input(config) else None


def read_length(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, *, span: bool) -> int:
    """Tokens that are read of a text, or of a window of a context.

    It is the length that the model was trained with. Where that is unknown, texts are read as far as its position
    embeddings reach, and contexts in windows of `WINDOW` tokens.
    """
    reach = longest_input(config)
    return min(trained_length(folder, tokenizer, config) or (WINDOW if span else reach), reach)
