"""The files that sentence-transformers reads beside an encoder: how its states are pooled, and its longest text.

A student gets its teacher's, so that both are used in the same way. If the teacher has none, it is the mean of the
tokens, sentence-transformers' default. Task models have none, because their states were trained for a head.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from tinydistilbert.models import untrusted
from tinydistilbert.models.hub import local_folder
from tinydistilbert.models.loading import check_unchanged, longest_input
from tinydistilbert.notices import notice
from tinydistilbert.storage import atomic

MODULES, POOLING, LENGTH = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
FILES = (MODULES, POOLING, LENGTH)
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_KEYS = {mode: f"pooling_mode_{mode}" for mode in MODES} | {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
}  # fmt: skip
"""The name of each in the form of the file that every version of sentence-transformers reads."""
_MODULE = "sentence_transformers.models."


@dataclass(frozen=True)
class Pooling:
    """How the states of a text's tokens become one vector."""

    modes: tuple[str, ...] = ("mean",)
    """Of `MODES`; the vectors of several are concatenated."""
    normalizes: bool = False
    """Whether vectors are normalised to length one."""
    max_length: int | None = None
    """Tokens at which a text is cut; None = the tokenizer's limit."""


MEAN_OF_TOKENS = Pooling()


def read_pooling(name: str | Path, revision: str | None = None) -> Pooling:
    """Return a model's pooling; the mean of the tokens if it has none, or one that is not supported here.

    Raises:
        UserError: a file differs from the folder's manifest.
    """
    folder = local_folder(name, revision, (untrusted.CONFIG, *FILES))
    if not (folder / MODULES).is_file():
        return MEAN_OF_TOKENS
    check_unchanged(folder, FILES)
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in atomic.read_json(folder / MODULES)]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise ValueError(f"modules {', '.join(kinds) or 'none'}")
        length = atomic.read_json(folder / LENGTH).get("max_seq_length") if (folder / LENGTH).is_file() else None
        pooling = Pooling(
            _modes(atomic.read_json(folder / POOLING)), "Normalize" in kinds, int(length) if length else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notice(f"model {name}", f"its pooling is unknown, so the mean of the tokens is used: {str(error)[:100]}")
        return MEAN_OF_TOKENS
    if others := [kind for kind in kinds[2:] if kind != "Normalize"]:
        notice(
            f"model {name}", f"its layers after the pooling are left out of a student's vectors: {', '.join(others)}"
        )
    return pooling


def _modes(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the modes from either form of the file: a name, or a switch for each."""
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named or [mode for mode in MODES if settings.get(_KEYS[mode])]
    if not modes or not set(modes) <= set(MODES):
        raise ValueError(f"pooling by {', '.join(map(str, modes)) or 'nothing'}")
    return tuple(modes)


def write_pooling(pooling: Pooling, config: PretrainedConfig, folder: Path) -> None:
    """Write the files beside an encoder.

    Args:
        pooling: of the encoder.
        config: of the encoder.
        folder: of its model.
    """
    names = ["Transformer", "Pooling", *["Normalize"] * pooling.normalizes]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": _MODULE + name}
        for number, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    atomic.write_json(folder / MODULES, modules)
    (folder / POOLING).parent.mkdir(exist_ok=True)
    switches = {_KEYS[mode]: mode in pooling.modes for mode in MODES}
    atomic.write_json(folder / POOLING, {"word_embedding_dimension": config.hidden_size, **switches})
    if pooling.max_length:
        longest = min(pooling.max_length, longest_input(config))
        atomic.write_json(folder / LENGTH, {"max_seq_length": longest, "do_lower_case": False})
