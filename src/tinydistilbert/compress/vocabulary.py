"""A vocabulary cut to a corpus: the word embedding is most of a small model, and a task uses few of its rows.

WordPiece takes the longest piece that fits, again and again. A smaller vocabulary has no piece that the larger one had
not, so where all pieces of a text were kept, each is still the longest, and the text becomes the same pieces with the
same embeddings. Other text falls apart into smaller pieces that were kept.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.models.hub import local_folder
from tinydistilbert.models.lengths import declared_length
from tinydistilbert.models.loading import last_unused_position, load_config, load_tokenizer, longest_input
from tinydistilbert.models.tokenizer_files import save_tokenizer
from tinydistilbert.notices import counted
from tinydistilbert.storage import atomic

TEXTS_AT_ONCE = 1000
"""Texts that are tokenised in one call."""
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
_EMBEDDING = re.compile(r"(.*\.)?word_embeddings\.weight")
_HEAD = re.compile(
    r"(vocab_projector|generator_lm_head)\.(weight|bias)|(cls\.predictions|lm_head)\.(decoder\.weight|decoder\.bias|bias)"
)
"""Tensors of a masked-LM head with a row for each token."""


def trim(model_folder: Path, texts: Iterable[str], output: Path, *, minimum_count: int = 1) -> None:
    """Make the finished folder `output`: the model with the tokens of `texts`, and those that any text may need.

    Kept are the tokens that occur in the texts, the special ones, and all single characters, at the beginning of a word
    and inside it; their order stays, their numbers change. For a text whose tokens were all kept, the tokens are the
    same and a task model's output is the same up to rounding. (A word that the old vocabulary could not make up stays
    unknown if every character in the vocabulary is a token of its own too, as in BERT's.)

    Args:
        model_folder: a model of any head with a WordPiece tokenizer; files beside model and tokenizer are left behind.
        texts: read once.
        output: folder to make; its manifest says how many tokens of how many were kept.
        minimum_count: how often a token must occur to be kept.

    Raises:
        UserError: no complete model, a file that is not what its manifest says, or a tokenizer of another kind.
    """
    if atomic.is_finished(model_folder):
        atomic.read_manifest(model_folder)
    config, tokenizer = load_config(model_folder), load_tokenizer(model_folder)
    always = _always_kept(model_folder, config, tokenizer)
    weights = _weights(model_folder, config, tokenizer)
    counts = _counts(tokenizer, texts)
    kept = sorted(always | {token for token, count in counts.items() if count >= minimum_count})
    new = {old: number for number, old in enumerate(kept)}
    with atomic.unfinished(output, tokens=len(kept), tokens_before=config.vocab_size) as folder:
        atomic.write_bytes(folder / WEIGHTS, safetensors.torch.save(_rows(weights, kept), metadata={"format": "pt"}))
        raw = atomic.read_json(model_folder / CONFIG)
        atomic.write_json(folder / CONFIG, raw | _numbers(config, new) | {"vocab_size": len(kept)})
        longest = min(declared_length(tokenizer.model_max_length) or sys.maxsize, longest_input(config))
        save_tokenizer(tokenizer, folder, config, longest=longest)
        _renumber_tokenizer(folder, new)


def losses(before: PreTrainedTokenizerFast, after: PreTrainedTokenizerFast, texts: Iterable[str]) -> str:
    """What a smaller vocabulary loses of texts, in words: empty where every text has the pieces that it had.

    Args:
        before: the tokenizer of the whole vocabulary.
        after: that of the smaller one.
        texts: read once.
    """
    read, pieces, changed, unknown = 0, 0, 0, 0
    for part in _parts(iter(texts)):
        both = (tokenizer(part, add_special_tokens=False, verbose=False) for tokenizer in (before, after))
        for whole, trimmed in zip(*(encodings.encodings for encodings in both), strict=True):
            read, pieces = read + 1, pieces + len(whole.tokens)
            changed += whole.tokens != trimmed.tokens
            unknown += trimmed.tokens.count(after.unk_token) - whole.tokens.count(before.unk_token)
    if not changed:
        return ""
    smaller = f"{changed:,} of {counted(read, 'text')} are split into other pieces"
    lost = f"{counted(unknown, 'word')} in {pieces:,} tokens become {after.unk_token}" if unknown else "no word is lost"
    return f"with the smaller vocabulary {smaller}, and {lost}"


def _always_kept(model_folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Special and added tokens, those that the config names, and single characters."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        fix = "keep the whole vocabulary, or use a model of the BERT kind"
        problem = f"only a WordPiece vocabulary can be trimmed, and this is {model['type']}"
        raise UserError(f"tokenizer of {model_folder}", problem=problem, fix=fix)
    prefix = model["continuing_subword_prefix"]
    single = {token for piece, token in model["vocab"].items() if 1 in (len(piece), len(piece.removeprefix(prefix)))}
    kept = single | set(tokenizer.added_tokens_decoder) | set(_named(config).values())
    # Where positions are numbered from the padding's token on, its number stays.
    return kept | set(range(last_unused_position(config) + 1))


def _named(config: PretrainedConfig) -> dict[str, int]:
    """The tokens that the config names, by its keys."""
    named = {key: value for key, value in config.to_dict().items() if key.endswith("_token_id")}
    return {key: value for key, value in named.items() if isinstance(value, int) and 0 <= value < config.vocab_size}


def _numbers(config: PretrainedConfig, new: Mapping[int, int]) -> dict[str, int]:
    return {key: new[value] for key, value in _named(config).items()}


def _counts(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs."""
    counts: Counter[int] = Counter()
    for part in _parts(iter(texts)):
        for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    return counts


def _parts(texts: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(texts, TEXTS_AT_ONCE)):
        yield part


def _weights(model_folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """All tensors of the model, with a word embedding among them that the tokenizer fits."""
    where, fix = str(model_folder / WEIGHTS), "use a complete model folder"
    folder = local_folder(model_folder, None, (WEIGHTS,))
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        found = str(error).split("\n", 1)[0][:160]
        raise UserError(where, expected="the model's weights", found=found, fix=fix) from None
    rows = [len(value) for key, value in weights.items() if _EMBEDDING.fullmatch(key)]
    if rows != [config.vocab_size] or len(tokenizer) > rows[0]:
        expected = f"word embeddings for {len(tokenizer)} tokens, in the {config.vocab_size} rows of config.json"
        raise UserError(where, expected=expected, found=f"{rows} rows", fix=fix)
    return weights


def _rows(weights: Mapping[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """The weights with those rows only, where there is a row for each token."""
    index = torch.tensor(kept)
    return {
        key: value[index] if _EMBEDDING.fullmatch(key) or _HEAD.fullmatch(key) else value
        for key, value in weights.items()
    }


def _renumber_tokenizer(folder: Path, new: Mapping[int, int]) -> None:
    """Leave only the pieces that are in `new`, under their new numbers, in the files of a saved tokenizer."""
    content = atomic.read_json(folder / TOKENIZER)
    pieces = content["model"]["vocab"]
    content["model"]["vocab"] = {piece: new[token] for piece, token in pieces.items() if token in new}
    content["added_tokens"] = [added | {"id": new[added["id"]]} for added in content["added_tokens"]]
    _renumber_processor(content["post_processor"], new)
    atomic.write_json(folder / TOKENIZER, content)
    settings = atomic.read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        added = settings["added_tokens_decoder"]
        settings["added_tokens_decoder"] = {str(new[int(token)]): value for token, value in added.items()}
        atomic.write_json(folder / "tokenizer_config.json", settings)


def _renumber_processor(processor: Any, new: Mapping[int, int]) -> None:
    """The same in what puts special tokens around a text: a template, or BERT's own form, or several in a row."""
    if processor is None:
        return
    for part in processor.get("processors", []):
        _renumber_processor(part, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new[token] for token in special["ids"]]
    for key in ("sep", "cls"):
        if key in processor:
            piece, token = processor[key]
            processor[key] = [piece, new[token]]
