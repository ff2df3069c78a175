"""Trims the vocabulary to a corpus: the word embedding is most of a small model, and a task uses few of its rows.

WordPiece repeatedly takes the longest piece that fits. The trimmed vocabulary has no new pieces, so if all pieces of a
text were kept, each is still the longest, and the text becomes the same pieces with the same embeddings. Other text is
split into smaller pieces that were kept.
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
from tinydistilbert.models.untrusted import INDEX, weight_files
from tinydistilbert.notices import counted
from tinydistilbert.storage import atomic

TEXTS_AT_ONCE = 1000
"""Texts per tokenizer call."""
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
_EMBEDDING = re.compile(r"(.*\.)?word_embeddings\.weight")
_HEAD = re.compile(
    r"(vocab_projector|generator_lm_head)\.(weight|bias)|(cls\.predictions|lm_head)\.(decoder\.weight|decoder\.bias|bias)"
)
"""Tensors of a masked-LM head with one row per token."""


def trim(model_folder: Path, texts: Iterable[str], output: Path, *, minimum_count: int = 1) -> None:
    """Make the finished folder `output`: the model with the tokens of `texts`, and those that any text may need.

    It keeps the tokens that occur in the texts, special tokens, and all single characters, at the start of a word and
    inside it; their order stays, their ids change. A text whose tokens were all kept has the same tokens, and a task
    model's output is the same up to rounding. (A word that the old vocabulary could not represent stays unknown if
    every character in the vocabulary is also a token by itself, as in BERT's.)

    Args:
        model_folder: a model with any head and a WordPiece tokenizer; other files in the folder are not copied.
        texts: read once.
        output: folder to make; its manifest records how many tokens there were and how many were kept.
        minimum_count: minimum number of occurrences of a kept token.

    Raises:
        UserError: the model is incomplete, a file differs from its manifest, or the tokenizer is of another kind.
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
        raw = atomic.read_json(local_folder(model_folder, None, (CONFIG,)) / CONFIG)
        atomic.write_json(folder / CONFIG, raw | _numbers(config, new) | {"vocab_size": len(kept)})
        longest = min(declared_length(tokenizer.model_max_length) or sys.maxsize, longest_input(config))
        save_tokenizer(tokenizer, folder, config, longest=longest)
        _renumber_tokenizer(folder, new)


def losses(before: PreTrainedTokenizerFast, after: PreTrainedTokenizerFast, texts: Iterable[str]) -> str:
    """Return what a smaller vocabulary loses of texts, in words; empty if all texts keep their pieces.

    Args:
        before: the tokenizer of the whole vocabulary.
        after: the tokenizer of the smaller one.
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
    """Return special and added tokens, tokens that the config names, and single characters."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        fix = "keep the whole vocabulary, or use a model of the BERT kind"
        problem = f"only a WordPiece vocabulary can be trimmed, and this is {model['type']}"
        raise UserError(f"tokenizer of {model_folder}", problem=problem, fix=fix)
    prefix = model["continuing_subword_prefix"]
    single = {token for piece, token in model["vocab"].items() if 1 in (len(piece), len(piece.removeprefix(prefix)))}
    kept = single | set(tokenizer.added_tokens_decoder) | set(_named(config).values())
    # If positions are numbered from the padding token's id on, that id must stay.
    return kept | set(range(last_unused_position(config) + 1))


def _named(config: PretrainedConfig) -> dict[str, int]:
    """Return the tokens that the config names, by key."""
    named = {key: value for key, value in config.to_dict().items() if key.endswith("_token_id")}
    return {key: value for key, value in named.items() if isinstance(value, int) and 0 <= value < config.vocab_size}


def _numbers(config: PretrainedConfig, new: Mapping[int, int]) -> dict[str, int]:
    return {key: new[value] for key, value in _named(config).items()}


def _counts(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Counter[int]:
    """Count how often each token occurs."""
    counts: Counter[int] = Counter()
    for part in _parts(iter(texts)):
        for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    return counts


def _parts(texts: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(texts, TEXTS_AT_ONCE)):
        yield part


def _weights(model_folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Return all tensors of the model, including a word embedding that fits the tokenizer."""
    where, fix = str(model_folder / WEIGHTS), "use a complete model folder"
    folder = local_folder(model_folder, None, (WEIGHTS, INDEX, "model-*.safetensors"))
    in_shards = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    files = weight_files(folder, str(model_folder)) if in_shards else [folder / WEIGHTS]
    try:
        weights = {key: tensor for file in files for key, tensor in safetensors.torch.load_file(file).items()}
    except (OSError, SafetensorError) as error:
        found = str(error).split("\n", 1)[0][:160]
        raise UserError(where, expected="the model's weights", found=found, fix=fix) from None
    rows = [len(value) for key, value in weights.items() if _EMBEDDING.fullmatch(key)]
    if rows != [config.vocab_size] or len(tokenizer) > rows[0]:
        expected = f"word embeddings for {len(tokenizer)} tokens, in the {config.vocab_size} rows of config.json"
        raise UserError(where, expected=expected, found=f"{rows} rows", fix=fix)
    return weights


def _rows(weights: Mapping[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """Return the weights with only the kept rows in tensors that have one row per token."""
    index = torch.tensor(kept)
    return {
        key: value[index] if _EMBEDDING.fullmatch(key) or _HEAD.fullmatch(key) else value
        for key, value in weights.items()
    }


def _renumber_tokenizer(folder: Path, new: Mapping[int, int]) -> None:
    """Keep only the pieces in `new`, with their new ids, in the files of a saved tokenizer."""
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
    """Renumber the post-processor that adds special tokens: a template, BERT's own kind, or a sequence of them."""
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
