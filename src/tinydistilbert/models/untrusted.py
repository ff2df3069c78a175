"""Checks of untrusted models before a library reads them: names of files, numbers of a config, headers of weights.

The checks allocate no more memory than the files have bytes. The weights must have the size of the model that the
config describes: a config of a million layers beside a megabyte of weights is refused at once.
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
"""Files of tokenizers, of all kinds."""

LARGEST_JSON = 200_000_000
"""Bytes; the `tokenizer.json` of a quarter of a million pieces has 17 MB."""
LARGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file; the format's own limit."""
MOST_DIMENSIONS = 64
"""Dimensions of a tensor; PyTorch's own limit."""
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
    "attention_size": (0, 16_384), "classifier_size": (1, 16_384), "relative_attention_num_buckets": (1, 1024),
    "embedding_size": (1, 16_384),
}  # fmt: skip
"""Whole numbers in a config, with the smallest and the largest accepted value, several times a large encoder's."""
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_SHARES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
    "qa_dropout", "classifier_dropout", "embedding_dropout", "mlp_dropout",
    "summary_last_dropout",
)  # fmt: skip
_POSITIVE = ("layer_norm_eps", "norm_eps", "cell_clip", "projection_clip", "global_rope_theta", "local_rope_theta")
_OF_CODE = ("auto_map", "quantization_config", "transformers_weights", "per_layer_config", "gguf_file", "use_kernels")
"""Keys that name code, or files that `load_model` does not check."""
_OF_DECODERS = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
_ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_BUILT_IN_ATTENTION = (None, "eager", "sdpa")
"""Attention that is part of transformers; any other name may refer to code in the hub."""
_NAMED_FILES = ("tokenizer_file", "vocab_file", "merges_file", "gguf_file")
WORD_EMBEDDINGS = ("word_embeddings.weight", "tok_embeddings.weight")
"""Endings of the names of the word embedding matrix."""


@dataclass(frozen=True)
class Entry:
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]


def read_object(path: Path, *, fix: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: it is not a regular file, has more than `LARGEST_JSON` bytes, or does not contain a JSON object.
    """
    if not path.is_file():
        raise UserError(str(path), expected="a file", found="none", fix=fix)
    if (size := path.stat().st_size) > LARGEST_JSON:
        expected = f"at most {LARGEST_JSON:,} bytes"
        raise UserError(str(path), expected=expected, found=f"{size:,}", fix=fix)
    with as_user_error(str(path), expected="a JSON object", fix=fix):
        return _object(path.read_bytes().decode("utf-8"))


def _object(text: str) -> dict[str, Any]:
    content = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    if not isinstance(content, dict):
        raise ValueError(f"JSON of another kind: {type(content).__name__}")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key that occurs twice")
    return content


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word}, which is not a number in JSON")


def check_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model folder's `config.json`, after checking all of its values.

    `auto_map` is refused, though the supported families need no code of the model's authors: if the authors had their
    own code, transformers' code would make another model of the same weights.

    Raises:
        UserError: it is not a JSON object; a value is of another type, negative or huge; heads do not divide the width;
            the model needs its authors' code, or is a decoder.
    """
    path = folder / CONFIG
    config = read_object(path, fix="give a folder with a complete config.json")
    for key, (low, high) in _COUNTS.items():
        if key in config:
            _check(path, key, config[key], f"a whole number from {low} to {high:,}", _is_whole(config[key], low, high))
    for key in _TOKENS:
        if config.get(key) is not None:
            last = config.get("vocab_size", 2_000_000) - 1
            fits = _is_whole(config[key], -1, last)
            _check(path, key, config[key], f"a token id, at most {last:,}", fits)
    for key in _SHARES:
        if config.get(key) is not None:
            _check(path, key, config[key], "a number from 0 to 1", _is_number(config[key], 0, 1))
    for key in (*_POSITIVE, "initializer_range", "initializer_cutoff_factor"):
        if config.get(key) is not None:
            _check(path, key, config[key], "a number from 0 to 1e9", _is_number(config[key], 0, 1e9))
    for key in _OF_CODE:
        if config.get(key):
            _refuse_code(path, key)
    for key in _ATTENTION:
        known = any(config.get(key) is name or config.get(key) == name for name in _BUILT_IN_ATTENTION)
        _check(path, key, config.get(key), "eager or sdpa", known)
    for key in _OF_DECODERS:
        _check(path, key, config.get(key), "false, as for encoders", config.get(key) in (None, False))
    _check_names(path, config)
    width, heads = (config.get(name, config.get(short)) for name, short in _WIDTH_AND_HEADS)
    if width and heads:
        _check(path, "hidden_size", width, f"a multiple of the {heads} heads", width % heads == 0)
    return config


_WIDTH_AND_HEADS = (("hidden_size", "dim"), ("num_attention_heads", "n_heads"))


def _check_names(path: Path, config: dict[str, Any]) -> None:
    """Check the values of a config that are not numbers."""
    kind = config.get("model_type")
    _check(path, "model_type", kind, "the name of a family", isinstance(kind, str))
    names = config.get("architectures") or []
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _check(path, "architectures", names, "a list of names", listed)
    labels: Any = config.get("id2label") or {}
    named = isinstance(labels, dict) and all(k.isdecimal() and isinstance(v, str) for k, v in labels.items())
    _check(path, "id2label", labels, "a label name for each id", named and len(labels) <= _COUNTS["num_labels"][1])
    numbered = labels.keys() == set(map(str, range(len(labels))))
    _check(path, "id2label", labels, "ids 0, 1, 2, … without a gap", numbered)
    ids: Any = config.get("label2id") or {}
    known = isinstance(ids, dict) and all(_is_whole(number, 0, _COUNTS["num_labels"][1]) for number in ids.values())
    _check(path, "label2id", ids, "an id for each label name", known)
    if "filters" in config:
        filters = config["filters"]
        pairs = isinstance(filters, list) and 0 < len(filters) <= 64 and all(_is_filter(pair) for pair in filters)
        _check(path, "filters", filters, "pairs of width and number", pairs)


def _is_filter(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_whole(value[0], 1, 50) and _is_whole(value[1], 1, 16_384)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # false for nan, and exact for huge integers


def _check(path: Path, key: str, value: Any, expected: str, is_valid: bool) -> None:
    if not is_valid:
        fix = "use the config.json that was published with the weights"
        raise UserError(f"{path}: {key}", expected=expected, found=repr(value)[:80], fix=fix)


def _refuse_code(path: Path, key: str) -> None:
    problem = "this key asks for code of the model's authors, which is never run"
    raise UserError(f"{path}: {key}", problem=problem, fix="use another model")


def check_tokenizer(folder: Path) -> None:
    """Check that the files of a tokenizer are JSON objects that name neither code nor files outside the folder.

    Raises:
        UserError: they are not. If there are no files, `load_tokenizer` raises instead.
    """
    fix = "save the tokenizer beside the model"
    present = [name for name in TOKENIZER if (folder / name).is_file()]
    config: dict[str, Any] = {}
    for name in present:
        if name == "tokenizer.json":  # the Rust library reads and checks it
            if (size := (folder / name).stat().st_size) > LARGEST_JSON:
                expected = f"at most {LARGEST_JSON:,} bytes"
                raise UserError(str(folder / name), expected=expected, found=f"{size:,}", fix=fix)
        elif name.endswith(".json"):
            content = read_object(folder / name, fix=fix)
            config = content if name == TOKENIZER_CONFIG else config
    path = folder / TOKENIZER_CONFIG
    if config.get("auto_map"):
        _refuse_code(path, "auto_map")
    if "tokenizer.json" in present:  # then only it is read, and files named in the config are not
        return
    for key in _NAMED_FILES:
        _check(path, key, config.get(key), "no other file", config.get(key) is None)


EXPORTED = ("onnx/model.onnx", "onnx/model_quantized.onnx", "model.xml", "model.onnx")
"""Model files that `export` and `compress` write: ONNX in float and in int8, OpenVINO, and ONNX of versions up to 0.1.
The first two are where transformers.js, optimum and text-embeddings-inference look."""


def weight_files(folder: Path, name: str, *, weights: str = WEIGHTS, index: str = INDEX) -> list[Path]:
    """Return the files of weights in a model folder: a single file, or the shards in an index.

    Args:
        folder: of the model.
        name: of the model, as the user gave it; for messages.
        weights: name of the single file.
        index: name of the index.

    Raises:
        UserError: neither exists, the folder holds an adapter, or the index names anything but regular files in the
            folder.
    """
    where = f"model {name}"
    if (folder / "adapter_config.json").exists():  # transformers would download its base model
        fix = "merge the adapter into its base model, and give that"
        raise UserError(where, expected="a complete model", found="an adapter", fix=fix)
    if (folder / weights).is_file():
        return [folder / weights]
    if not (folder / index).is_file():
        has_pickle = weights == WEIGHTS and any((folder / other).is_file() for other in (PICKLE, PICKLE_INDEX))
        found = f"{PICKLE}, a pickle" if has_pickle else f"no {weights}"
        fix = f"run: tinydistilbert convert {name} --output NEW" if has_pickle else f"put {weights} beside config.json"
        if weights == WEIGHTS and (exported := next((name for name in EXPORTED if (folder / name).is_file()), None)):
            found = f"an exported model ({exported}), which can only predict"
            fix = "give the model that it was made from, or its teacher"
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
        if is_plain and path.is_file() and any(path.resolve().is_relative_to(home) for home in _homes(folder)):
            return path
        found = "no such file" if is_plain and not path.exists() else "a path outside of it, or no regular file"
        raise UserError(where, expected=expected, found=found, fix=fix)


def _homes(folder: Path) -> list[Path]:
    """Return the folders that a model's files may be in: its own, and the target of links in the hub's cache."""
    resolved = folder.resolve()
    return [resolved, resolved.parent.parent / "blobs"] if resolved.parent.name == "snapshots" else [resolved]


def read_header(path: Path) -> dict[str, Entry]:
    """Return the tensors in the header of a safetensors file; they must be contiguous and fill the file.

    Raises:
        UserError: it is not a complete safetensors file.
    """
    with as_user_error(str(path), expected="a complete safetensors file", fix="download the model again"):
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
            raise ValueError(f"{name[:80]} with an impossible size or offset")
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
    """Compare the headers of a model's files with its config: shape of the word embeddings, least number of weights.

    Args:
        files: of the weights.
        config: as read by transformers, with its family's defaults.
        name: of the model, as the user gave it; for messages.

    Raises:
        UserError: a file is damaged, a tensor occurs twice, or the weights do not fit the config.
    """
    where, fix = f"model {name}", "use the config.json that was published with the weights"
    entries: dict[str, Entry] = {}
    for file in files:
        header = read_header(file)
        if repeated := entries.keys() & header.keys():
            raise UserError(str(file), expected="each tensor once", found=f"{min(repeated)[:80]} twice", fix=fix)
        entries |= header
    embeddings_shape = (config.vocab_size, embedding_size(config))
    for key, entry in entries.items():
        if key.endswith(WORD_EMBEDDINGS) and entry.shape != embeddings_shape:
            found = f"{key[:80]} of shape {entry.shape}"
            raise UserError(where, expected=f"word embeddings of shape {embeddings_shape}", found=found, fix=fix)
    stored, needed = sum(math.prod(entry.shape) for entry in entries.values()), least_weights(config)
    if stored < needed:
        found = f"{stored:,} in {len(entries)} tensors" + (f", such as {min(entries)[:80]}" if entries else "")
        raise UserError(where, expected=f"at least {needed:,} weights", found=found, fix=fix)


def embedding_size(config: Any) -> int:
    """Return the width of the word embeddings, which equals that of the hidden states except in ELECTRA."""
    return int(config.embedding_size if config.model_type == "electra" else config.hidden_size)


def least_weights(config: Any) -> int:
    """Return a lower bound of an encoder's number of weights from its config: those of its matrices."""
    if config.model_type == "elmo":
        return int(2 * config.num_hidden_layers * 9 * config.cell_size * config.projection_size)
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    rows = config.vocab_size + getattr(config, "type_vocab_size", 0) * (config.model_type != "distilbert")
    if config.model_type != "modernbert":  # it has no position embeddings
        rows += config.max_position_embeddings
    pruned: Any = getattr(config, "pruned", None)
    if pruned is not None:  # already checked by `shapes_of`
        attention, inner = sum(pruned["heads"]) * (width // config.num_attention_heads), sum(pruned["intermediate"])
    else:
        attention, inner = layers * width, layers * int(getattr(config, "intermediate_size", None) or config.hidden_dim)
    return int(embedding_size(config) * rows + width * (4 * attention + 2 * inner))
