"""Models of others, looked at before a library reads them: names of files, numbers of a config, headers of weights.

Nothing is allocated here that the size of a file does not pay for, and what a config tells of the model's size must be
in the file of weights: a config of a million layers beside a megabyte of weights is refused at once.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError, as_user_error

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = (
    "tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model",
)  # fmt: skip
"""Files that make a tokenizer, of whichever kind."""

LARGEST_JSON = 200_000_000
"""Bytes; `tokenizer.json` of a quarter of a million pieces has 17 MB."""
LARGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file; the format's own limit."""
MOST_DIMENSIONS = 64
"""Of a tensor; PyTorch's own limit."""
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

_COUNTS = {
    "vocab_size": (1, 2_000_000), "hidden_size": (1, 16_384), "dim": (1, 16_384), "num_hidden_layers": (1, 512),
    "n_layers": (1, 512), "num_attention_heads": (1, 1024), "n_heads": (1, 1024), "intermediate_size": (1, 131_072),
    "hidden_dim": (1, 131_072), "max_position_embeddings": (1, 1_000_000), "type_vocab_size": (0, 1000),
    "num_labels": (1, 100_000), "chunk_size_feed_forward": (0, 1_000_000), "local_attention": (1, 1_000_000),
    "global_attn_every_n_layers": (1, 512), "character_size": (1, 1024), "num_highway_layers": (0, 64),
    "projection_size": (1, 16_384), "cell_size": (1, 65_536), "sentence_layers": (1, 64),
    "attention_size": (0, 16_384), "classifier_size": (1, 16_384),
}  # fmt: skip
"""Whole numbers in a config with the least and the largest that is believed: several times the largest encoders'."""
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_SHARES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
    "qa_dropout", "classifier_dropout", "embedding_dropout", "mlp_dropout",
)  # fmt: skip
_POSITIVE = ("layer_norm_eps", "norm_eps", "cell_clip", "projection_clip", "global_rope_theta", "local_rope_theta")
_OF_CODE = ("auto_map", "quantization_config", "transformers_weights", "per_layer_config", "gguf_file", "use_kernels")
"""Keys that name code, or files that are read in another way than by `load_model`."""
_OF_DECODERS = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
_ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_OWN_ATTENTION = (None, "eager", "sdpa")
"""Attention that is part of transformers; any other name may be that of code in the hub."""
_NAMED_FILES = ("tokenizer_file", "vocab_file", "merges_file", "gguf_file")
_WORDS = ("word_embeddings.weight", "tok_embeddings.weight")
"""How names of the matrix of word embeddings end."""


@dataclass(frozen=True)
class Entry:
    """A tensor as the header of a safetensors file tells it."""

    dtype: str
    shape: tuple[int, ...]


def read_object(path: Path, *, fix: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: no regular file, one of more than `LARGEST_JSON` bytes, or something else in it.
    """
    if not path.is_file():
        raise UserError(str(path), expected="a file", found="none", fix=fix)
    if (size := path.stat().st_size) > LARGEST_JSON:
        expected = f"at most {LARGEST_JSON:,} bytes"
        raise UserError(str(path), expected=expected, found=f"{size:,}", fix=fix)
    with as_user_error(str(path), expected="a JSON object", fix=fix):
        return _object(path.read_bytes().decode("utf-8"))


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError(f"JSON of another kind: {type(found).__name__}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that is there twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word}, which is no number of JSON")


def check_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's `config.json`, after its numbers and its words were found to be believable.

    `auto_map` is refused, though the families that are known need no code of its authors: where they had their own, the
    same weights in ours would make another model.

    Raises:
        UserError: no JSON object; a number that is none, is negative or is huge; heads that do not divide the width;
            code that would be needed; a decoder.
    """
    path = folder / CONFIG
    config = read_object(path, fix="give a folder with a whole config.json")
    for key, (low, high) in _COUNTS.items():
        if key in config:
            _check(path, key, config[key], f"a whole number from {low} to {high:,}", _is_whole(config[key], low, high))
    for key in _TOKENS:
        if config.get(key) is not None:
            last = config.get("vocab_size", 2_000_000) - 1
            fits = _is_whole(config[key], -1, last)
            _check(path, key, config[key], f"a token's number, at most {last:,}", fits)
    for key in _SHARES:
        if config.get(key) is not None:
            _check(path, key, config[key], "a share from 0 to 1", _is_number(config[key], 0, 1))
    for key in (*_POSITIVE, "initializer_range", "initializer_cutoff_factor"):
        if config.get(key) is not None:
            _check(path, key, config[key], "a number from 0 to 1e9", _is_number(config[key], 0, 1e9))
    for key in _OF_CODE:
        if config.get(key):
            _refuse_code(path, key)
    for key in _ATTENTION:
        known = any(config.get(key) is name or config.get(key) == name for name in _OWN_ATTENTION)
        _check(path, key, config.get(key), "eager or sdpa", known)
    for key in _OF_DECODERS:
        _check(path, key, config.get(key), "an encoder, so false", config.get(key) in (None, False))
    _check_words(path, config)
    width, heads = (config.get(name, config.get(short)) for name, short in _WIDTH_AND_HEADS)
    if width and heads:
        _check(path, "hidden_size", width, f"a multiple of the {heads} heads", width % heads == 0)
    return config


_WIDTH_AND_HEADS = (("hidden_size", "dim"), ("num_attention_heads", "n_heads"))


def _check_words(path: Path, config: dict[str, Any]) -> None:
    """Look at what in a config is not a number."""
    kind = config.get("model_type")
    _check(path, "model_type", kind, "the name of a family", isinstance(kind, str))
    names = config.get("architectures") or []
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _check(path, "architectures", names, "a list of names", listed)
    labels: Any = config.get("id2label") or {}
    named = isinstance(labels, dict) and all(k.isdecimal() and isinstance(v, str) for k, v in labels.items())
    _check(path, "id2label", labels, "a name for each number", named and len(labels) <= _COUNTS["num_labels"][1])
    numbered = labels.keys() == set(map(str, range(len(labels))))
    _check(path, "id2label", labels, "numbers from 0 on, without a gap", numbered)
    ids: Any = config.get("label2id") or {}
    known = isinstance(ids, dict) and all(_is_whole(number, 0, _COUNTS["num_labels"][1]) for number in ids.values())
    _check(path, "label2id", ids, "a number for each name", known)
    if "filters" in config:
        filters = config["filters"]
        pairs = isinstance(filters, list) and 0 < len(filters) <= 64 and all(_is_filter(pair) for pair in filters)
        _check(path, "filters", filters, "pairs of width and number", pairs)


def _is_filter(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and _is_whole(found[0], 1, 50) and _is_whole(found[1], 1, 16_384)


def _is_whole(found: Any, low: int, high: int) -> bool:
    return type(found) is int and low <= found <= high


def _is_number(found: Any, low: float, high: float) -> bool:
    return type(found) in (int, float) and low <= found <= high  # which is false of nan, and right of huge integers


def _check(path: Path, key: str, found: Any, expected: str, is_right: bool) -> None:
    if not is_right:
        fix = "use the config.json that was published with the weights"
        raise UserError(f"{path}: {key}", expected=expected, found=repr(found)[:80], fix=fix)


def _refuse_code(path: Path, key: str) -> None:
    expected, fix = "a model that needs no code of its own", "use another model: code of others is never run"
    raise UserError(f"{path}: {key}", expected=expected, found=f"the key {key}", fix=fix)


def check_tokenizer(folder: Path) -> None:
    """Look at the files of a tokenizer: JSON objects all, that name no code and no file elsewhere.

    Raises:
        UserError: they are not; that there is none is told by who loads it.
    """
    fix = "save the tokenizer beside the model"
    present = [name for name in TOKENIZER if (folder / name).is_file()]
    config: dict[str, Any] = {}
    for name in present:
        if name == "tokenizer.json":  # which Rust reads, and bounds
            if (size := (folder / name).stat().st_size) > LARGEST_JSON:
                expected = f"at most {LARGEST_JSON:,} bytes"
                raise UserError(str(folder / name), expected=expected, found=f"{size:,}", fix=fix)
        elif name.endswith(".json"):
            found = read_object(folder / name, fix=fix)
            config = found if name == TOKENIZER_CONFIG else config
    path = folder / TOKENIZER_CONFIG
    if config.get("auto_map"):
        _refuse_code(path, "auto_map")
    if "tokenizer.json" in present:  # then it is read, whatever the config says of the places of its author's machine
        return
    for key in _NAMED_FILES:
        _check(path, key, config.get(key), "no file elsewhere", config.get(key) is None)


def weight_files(folder: Path, name: str, *, weights: str = WEIGHTS, index: str = INDEX) -> list[Path]:
    """The files of weights in a model folder: the one, or the shards that an index names.

    Args:
        folder: of the model.
        name: of the model, as its user knows it; for the cure.
        weights: name of the one file.
        index: name of the index.

    Raises:
        UserError: neither is there, an adapter is, or the index names something else than regular files in the folder.
    """
    where = f"model {name}"
    if (folder / "adapter_config.json").exists():  # transformers would go and get the model that it names
        fix = "merge the adapter into its model, and give that"
        raise UserError(where, expected="a whole model", found="an adapter", fix=fix)
    if (folder / weights).is_file():
        return [folder / weights]
    if not (folder / index).is_file():
        has_pickle = weights == WEIGHTS and any((folder / other).is_file() for other in (PICKLE, PICKLE_INDEX))
        found = f"{PICKLE}, a pickle" if has_pickle else f"no {weights}"
        fix = f"tinydistilbert convert {name} --output NEW" if has_pickle else f"put {weights} beside config.json"
        expected = "a complete safetensors model" if weights == WEIGHTS else f"weights in {weights}"
        raise UserError(where, expected=expected, found=found, fix=fix)
    shards = read_object(folder / index, fix="download the model again").get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(shard, str) for shard in names):
        fix = "download the model again"
        raise UserError(str(folder / index), expected="a weight_map of files", found=repr(shards)[:80], fix=fix)
    return [_shard(folder, index, shard) for shard in dict.fromkeys(names)]


def _shard(folder: Path, index: str, name: str) -> Path:
    path, where = folder / name, f"{folder / index}: {name!r}"[:300]
    expected, fix = "a file in this folder", "download the model again"
    with as_user_error(where, expected=expected, fix=fix):  # the name may be too long for any file
        is_plain = not set(name) & {"/", "\\", "\0"}
        if is_plain and path.is_file() and any(path.resolve().is_relative_to(place) for place in _homes(folder)):
            return path
        found = "no such file" if is_plain and not path.exists() else "another place, or no file"
        raise UserError(where, expected=expected, found=found, fix=fix)


def _homes(folder: Path) -> list[Path]:
    """Where files that are named in the folder may lie: in it, and where the hub's cache puts what it links to."""
    whole = folder.resolve()
    return [whole, whole.parent.parent / "blobs"] if whole.parent.name == "snapshots" else [whole]


def read_header(path: Path) -> dict[str, Entry]:
    """What a safetensors file tells of its tensors; they follow each other without a gap and fill the file.

    Raises:
        UserError: the file is none, or not whole.
    """
    with as_user_error(str(path), expected="a whole safetensors file", fix="download the model again"):
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = _object(stream.read(length).decode("utf-8"))
        header.pop("__metadata__", None)
        return _entries(header, size - 8 - length)


def _entries(header: dict[str, Any], data: int) -> dict[str, Entry]:
    spans, entries = [], {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in ITEM_BYTES:
            raise ValueError(f"{name[:80]} of the unknown type {str(dtype)[:20]!r}")
        if len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"{name[:80]} of {len(shape)} dimensions")
        if not all(_is_whole(number, 0, sys.maxsize) for number in (*shape, begin, end)):
            raise ValueError(f"{name[:80]} with a size or a place that no file has")
        if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
            raise ValueError(f"{name[:80]} of shape {str(shape)[:40]} in {end - begin} bytes")
        spans.append((begin, end))
        entries[name] = Entry(dtype, tuple(shape))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise ValueError(f"a tensor at {begin} where the one before ends at {reached}")
        reached = end
    if reached != data:
        raise ValueError(f"{reached} bytes of tensors in {data} bytes of data")
    return entries


def check_weights(files: list[Path], config: Any, name: str) -> None:
    """Compare the headers of a model's files with its config: the word embeddings, and what the layers need at least.

    Args:
        files: of the weights.
        config: as the library read it, with its family's defaults.
        name: of the model, as its user knows it.

    Raises:
        UserError: a file is damaged, a tensor is there twice, or the weights are not those of such a config.
    """
    where, fix = f"model {name}", "use the config.json that was published with the weights"
    entries: dict[str, Entry] = {}
    for file in files:
        found = read_header(file)
        if twice := entries.keys() & found.keys():
            raise UserError(str(file), expected="each tensor once", found=f"{min(twice)[:80]} again", fix=fix)
        entries |= found
    wanted = (config.vocab_size, config.hidden_size)
    for key, entry in entries.items():
        if key.endswith(_WORDS) and entry.shape != wanted:
            shape = f"{key[:80]} of shape {entry.shape}"
            raise UserError(where, expected=f"word embeddings of shape {wanted}", found=shape, fix=fix)
    there, needed = sum(math.prod(entry.shape) for entry in entries.values()), least_weights(config)
    if there < needed:
        shape = f"{there:,} in {len(entries)} tensors" + (f", such as {min(entries)[:80]}" if entries else "")
        raise UserError(where, expected=f"weights of at least {needed:,} numbers", found=shape, fix=fix)


def least_weights(config: Any) -> int:
    """Numbers that an encoder of this config has at least: those of its matrices."""
    if config.model_type == "elmo":
        return int(2 * config.num_hidden_layers * 9 * config.cell_size * config.projection_size)
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    rows = config.vocab_size + getattr(config, "type_vocab_size", 0) * (config.model_type != "distilbert")
    if config.model_type != "modernbert":  # whose positions are no weights
        rows += config.max_position_embeddings
    pruned: Any = getattr(config, "pruned", None)
    if pruned is not None:  # as `shapes_of` has found to be right
        attention, inner = sum(pruned["heads"]) * (width // config.num_attention_heads), sum(pruned["intermediate"])
    else:
        attention, inner = layers * width, layers * int(getattr(config, "intermediate_size", None) or config.hidden_dim)
    return int(width * (rows + 4 * attention + 2 * inner))
