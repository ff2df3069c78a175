"""What is looked at before a stranger's model is read."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.models import untrusted
from tinydistilbert.models.elmo.language_model import ElmoConfig
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.recipe import schema
from tinydistilbert.storage import atomic

CONFIG = tiny.config(**tiny.WIDER)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(tiny.model(**tiny.WIDER), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def put(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_headers_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(0, dtype=torch.int64), "c": torch.ones(5, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = untrusted.read_header(tmp_path / "x.safetensors")
    shapes = {
        "a": untrusted.Entry("F32", (2, 3)),
        "b": untrusted.Entry("I64", (0,)),
        "c": untrusted.Entry("BF16", (5,)),
    }
    assert header == shapes


def header_file(path: Path, header: object, data: int) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    ("offsets", "shapes", "data", "problem"),
    [
        ([(0, 4), (4, 8)], [[1], [1]], 8, None),
        ([(0, 4), (0, 4)], [[1], [1]], 4, "a tensor at 0 where the one before ends at 4"),
        ([(0, 4), (8, 12)], [[1], [1]], 12, "a tensor at 8 where the one before ends at 4"),
        ([(4, 8), (8, 12)], [[1], [1]], 12, "a tensor at 4 where the one before ends at 0"),
        ([(0, 4), (4, 8)], [[1], [1]], 9, "8 bytes of tensors in 9 bytes of data"),
        ([(0, 4), (4, 8)], [[1], [2]], 8, r"t1 of shape \[2\] in 4 bytes"),
        ([(0, 4), (4, 8)], [[1], [-1]], 8, "t1 with an impossible size or offset"),
        ([(0, 4), (4, 8)], [[1], [2**62]], 8, "t1 of shape"),
    ],
)
def test_tensors_fill_the_file_one_after_the_other(offsets, shapes, data, problem, tmp_path: Path) -> None:
    entries = [{"dtype": "F32", "shape": s, "data_offsets": o} for s, o in zip(shapes, offsets, strict=True)]
    path = header_file(tmp_path / "x", {f"t{i}": entry for i, entry in enumerate(entries)}, data)
    if problem is None:
        assert set(untrusted.read_header(path)) == {"t0", "t1"}
        return
    with pytest.raises(UserError, match=problem):
        untrusted.read_header(path)


def test_a_config_of_more_than_the_file_holds_is_refused_at_once_and_without_memory(folder: Path) -> None:
    for changes in ({"vocab_size": 10**6, "hidden_size": 10**5}, {"vocab_size": 10**6, "hidden_size": 16_384}):
        put(folder / "config.json", **changes)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(UserError):
            load_model(folder, "masked-lm")
        assert time.process_time() - start < 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_least_weights_of_a_config_are_those_of_its_matrices(new_model, family: str) -> None:
    model = new_model(family)
    counted = sum(parameter.numel() for parameter in model.base_model.parameters() if parameter.dim() == 2)
    assert 0.7 * counted < untrusted.least_weights(model.config) <= counted


def test_a_config_counts_what_was_pruned_as_gone() -> None:
    pruned = BertConfig.from_dict(CONFIG.to_dict() | {"pruned": {"heads": [1, 2], "intermediate": [3, 4]}})
    gone = 32 * (4 * (32 + 32 - 8 - 16) + 2 * (48 + 48 - 3 - 4))
    assert untrusted.least_weights(CONFIG) - untrusted.least_weights(pruned) == gone


def test_shards_in_the_folder_are_read_and_those_elsewhere_are_not(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, "masked-lm")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    names = set(json.loads((folder / untrusted.INDEX).read_text())["weight_map"].values())
    assert len(names) > 1
    again = load_model(folder, "masked-lm")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    first = min(names)
    (folder / first).rename(tmp_path / first)
    (folder / first).symlink_to(tmp_path / first)
    with pytest.raises(UserError, match="a file in this folder"):
        load_model(folder, "masked-lm")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_files_of_a_finished_folder_are_compared_with_its_manifest(folder: Path, name: str) -> None:
    def read() -> None:
        load_config(folder)
        load_tokenizer(folder)
        load_model(folder, "masked-lm")

    atomic.write_manifest(folder)
    read()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" ")
    with pytest.raises(UserError, match="other content"):
        read()
    (folder / name).write_bytes(content)
    (folder / "added_tokens.json").write_text("{}")  # which would be read, and was not there
    with pytest.raises(UserError, match="none in the manifest"):
        read()


def test_weights_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.write_manifest(folder)
    hashed: list[str] = []
    real = atomic.sha256
    monkeypatch.setattr(atomic, "sha256", lambda path: (hashed.append(path.name), real(path))[1])
    load_teacher(schema.Teacher(model=str(folder)))
    assert hashed.count("model.safetensors") == 1


def test_whatever_a_library_raises_is_told_in_one_line() -> None:
    class PanicException(BaseException):
        """As the libraries in Rust have one."""

    for error in (KeyError("a"), Exception("first\nlast"), RecursionError(), MemoryError(), PanicException("oh")):
        with pytest.raises(UserError, match="expected this"), as_user_error("here", expected="this", fix="do"):
            raise error
    for stop in (KeyboardInterrupt(), SystemExit(2)):
        with pytest.raises(type(stop)), as_user_error("here", expected="this", fix="do"):
            raise stop


def test_the_wrong_encoder_is_still_an_encoder_of_its_family(folder: Path) -> None:
    BertModel(CONFIG).save_pretrained(folder)
    with pytest.raises(UserError, match="missing"):
        load_model(folder, "masked-lm")


def refused(check: Callable[..., object], *arguments: object, **named: object) -> str:
    """The line that a user reads."""
    with pytest.raises(UserError) as error:
        check(*arguments, **named)
    return str(error.value)


def config_of(folder: Path, **keys: object) -> dict[str, Any]:
    """What is read of a folder whose config.json has these keys."""
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | keys))
    return untrusted.check_config(folder)


OTHER_CONFIG = "use the config.json that was published with the weights"


@pytest.mark.parametrize("key", untrusted._COUNTS)
def test_counts_in_a_config_are_believed_from_the_least_to_the_largest(key: str, tmp_path: Path) -> None:
    low, high = untrusted._COUNTS[key]
    for right in (low, high):
        assert config_of(tmp_path, **{key: right})[key] == right
    for wrong in (low - 1, high + 1, -high, 10**4000, True, float(low), str(low), [low], None):
        expected = f"expected a whole number from {low} to {high:,}, found {repr(wrong)[:80]}; {OTHER_CONFIG}"
        line = f"{tmp_path / 'config.json'}: {key}: {expected}"
        assert refused(config_of, tmp_path, **{key: wrong}) == line


@pytest.mark.parametrize("key", untrusted._SHARES)
def test_shares_in_a_config_are_from_0_to_1(key: str, tmp_path: Path) -> None:
    for right in (0, 0.0, 0.1, 1, 1.0, None):
        assert config_of(tmp_path, **{key: right})[key] == right
    for wrong in (-1e-9, 1.0000001, 2, 10**400, True, "0.1", [0.1]):
        expected = f"expected a number from 0 to 1, found {repr(wrong)[:80]}; {OTHER_CONFIG}"
        assert refused(config_of, tmp_path, **{key: wrong}) == f"{tmp_path / 'config.json'}: {key}: {expected}"


@pytest.mark.parametrize("key", [*untrusted._POSITIVE, "initializer_range", "initializer_cutoff_factor"])
def test_sizes_in_a_config_are_not_negative_and_not_huge(key: str, tmp_path: Path) -> None:
    for right in (0, 1e-12, 0.02, 3, 160_000.0, 10**9, None):
        assert config_of(tmp_path, **{key: right})[key] == right
    for wrong in (-1e-12, 10**9 + 1, 10**400, True, "3", [3]):
        expected = f"expected a number from 0 to 1e9, found {repr(wrong)[:80]}; {OTHER_CONFIG}"
        assert refused(config_of, tmp_path, **{key: wrong}) == f"{tmp_path / 'config.json'}: {key}: {expected}"


@pytest.mark.parametrize("key", untrusted._TOKENS)
def test_special_tokens_in_a_config_are_in_its_vocabulary(key: str, tmp_path: Path) -> None:
    for right in (-1, 0, 9, None):  # -1 is "there is none" in old configs
        assert config_of(tmp_path, vocab_size=10, **{key: right})[key] == right
    assert config_of(tmp_path, **{key: 1_999_999})[key] == 1_999_999
    where, ending = f"{tmp_path / 'config.json'}: {key}: expected a token id", f"found {{}}; {OTHER_CONFIG}"
    for wrong in (-2, 10, True, 1.0, "1", [1]):
        line = f"{where}, at most 9, {ending.format(repr(wrong))}"
        assert refused(config_of, tmp_path, vocab_size=10, **{key: wrong}) == line
    line = f"{where}, at most 1,999,999, {ending.format(2_000_000)}"
    assert refused(config_of, tmp_path, **{key: 2_000_000}) == line


@pytest.mark.parametrize(
    "keys",
    [
        {  # XLM-RoBERTa XXL, the largest encoder that is published
            "model_type": "xlm-roberta", "vocab_size": 250_880, "hidden_size": 4096, "num_hidden_layers": 48,
            "num_attention_heads": 32, "intermediate_size": 16_384, "max_position_embeddings": 514,
            "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "architectures": ["XLMRobertaXLForMaskedLM"],
        },
        {"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "qa_dropout": 0.1},
        {
            "model_type": "modernbert", "vocab_size": 50_368, "hidden_size": 1024, "num_attention_heads": 16,
            "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "local_attention": 128, "norm_eps": 1e-5,
        },
        {
            "model_type": "elmo", "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
            "cell_size": 4096, "projection_size": 512, "cell_clip": 3.0, "projection_clip": 3.0,
        },
        {"is_decoder": False, "add_cross_attention": None, "is_encoder_decoder": False},
        {"attn_implementation": "eager", "_attn_implementation": "sdpa", "experts_implementation": None},
        {"architectures": None, "id2label": None, "label2id": None, "auto_map": None, "quantization_config": {}},
        {"architectures": [], "id2label": {}, "label2id": {}, "hidden_size": 48, "num_attention_heads": 16},
        {"id2label": {"1": "good", "0": "bad"}, "label2id": {"good": 1, "bad": 0, "unknown": 100_000}},
        {"id2label": {str(number): "" for number in range(100_000)}, "num_labels": 100_000},
        {"filters": [[1, 1], [50, 1], [1, 16_384]]},
        {"filters": [[1, 1]]},
        {"filters": [[1, 1]] * 64},
    ],
    ids=lambda keys: ", ".join(keys)[:60],
)  # fmt: skip
def test_configs_as_they_are_published_are_read_whole(keys: dict[str, object], tmp_path: Path) -> None:
    assert config_of(tmp_path, **keys) == {"model_type": "bert"} | keys


LISTED, NAMED = "a list of names", "a label name for each id"
NUMBERED, PAIRS = "an id for each label name", "pairs of width and number"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model_type", None, "the name of a family"),
        ("model_type", ["bert" * 50], "the name of a family"),
        ("architectures", "BertModel", LISTED),
        ("architectures", {"BertModel": 1}, LISTED),
        ("architectures", ["BertModel", 1], LISTED),
        ("id2label", ["bad", "good"], NAMED),
        ("id2label", {"0": "bad", "good": "1"}, NAMED),
        ("id2label", {"0": "bad", "1": 1}, NAMED),
        ("id2label", {"-1": "bad"}, NAMED),
        ("id2label", {str(number): "" for number in range(100_001)}, NAMED),
        ("id2label", {"1": "bad", "2": "good"}, "ids 0, 1, 2, … without a gap"),
        ("id2label", {"0": "bad", "2": "good"}, "ids 0, 1, 2, … without a gap"),
        ("id2label", {"0": "bad", "00": "good"}, "ids 0, 1, 2, … without a gap"),
        ("id2label", {"1" * 5000: "bad"}, "ids 0, 1, 2, … without a gap"),
        ("label2id", ["bad", "good"], NUMBERED),
        ("label2id", {"bad": 0, "good": "1"}, NUMBERED),
        ("label2id", {"bad": -1}, NUMBERED),
        ("label2id", {"bad": 100_001}, NUMBERED),
        ("filters", None, PAIRS),
        ("filters", {"1": 32}, PAIRS),
        ("filters", [], PAIRS),
        ("filters", [[1, 1]] * 65, PAIRS),
        ("filters", [[1, 32], 2], PAIRS),
        ("filters", [[1]], PAIRS),
        ("filters", [[1, 32, 2]], PAIRS),
        ("filters", [{"1": 32, "2": 32}], PAIRS),
        ("filters", [[0, 32]], PAIRS),
        ("filters", [[51, 32]], PAIRS),
        ("filters", [[1, 0]], PAIRS),
        ("filters", [[1, 16_385]], PAIRS),
        ("filters", [[1.0, 32]], PAIRS),
        *((key, "evil/kernel", "eager or sdpa") for key in untrusted._ATTENTION),
        ("attn_implementation", "flash_attention_2", "eager or sdpa"),
        ("attn_implementation", False, "eager or sdpa"),
        *((key, True, "false, as for encoders") for key in untrusted._OF_DECODERS),
        ("is_decoder", "false", "false, as for encoders"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_in_a_config_is_told_with_its_key(key: str, value: object, expected: str, tmp_path: Path) -> None:
    shown_value = repr(value)[:80]  # enough to see what it is
    line = f"{tmp_path / 'config.json'}: {key}: expected {expected}, found {shown_value}; {OTHER_CONFIG}"
    assert refused(config_of, tmp_path, **{key: value}) == line


@pytest.mark.parametrize(
    ("keys", "width", "heads"),
    [
        ({"hidden_size": 10, "num_attention_heads": 4}, 10, 4),
        ({"dim": 9, "n_heads": 2}, 9, 2),
        ({"hidden_size": 10, "dim": 8, "num_attention_heads": 4}, 10, 4),
        ({"hidden_size": 12, "num_attention_heads": 8, "n_heads": 4}, 12, 8),
        ({"hidden_size": 3, "num_attention_heads": 6}, 3, 6),
    ],
)
def test_heads_divide_the_width(keys: dict[str, object], width: int, heads: int, tmp_path: Path) -> None:
    expected = f"expected a multiple of the {heads} heads, found {width}; {OTHER_CONFIG}"
    assert refused(config_of, tmp_path, **keys) == f"{tmp_path / 'config.json'}: hidden_size: {expected}"


def test_width_and_heads_alone_are_believed(tmp_path: Path) -> None:
    for keys in ({"hidden_size": 10}, {"num_attention_heads": 4}, {"dim": 9}, {"n_heads": 2}):
        assert config_of(tmp_path, **keys) == {"model_type": "bert"} | keys


NO_CODE = "this key asks for code of the model's authors, which is never run; use another model"


@pytest.mark.parametrize("key", untrusted._OF_CODE)
def test_configs_that_name_code_are_refused(key: str, tmp_path: Path) -> None:
    line = refused(config_of, tmp_path, **{key: {"AutoModel": "evil.Evil"}})
    assert line == f"{tmp_path / 'config.json'}: {key}: {NO_CODE}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": 1', "Expecting ',' delimiter: line 1 column 8 (char 7)"),
        (b"[]", "JSON of another kind: list"),
        (b'"a"', "JSON of another kind: str"),
        (b"null", "JSON of another kind: NoneType"),
        (b'{"a": {"b": 1, "b": 2}}', "a key that occurs twice"),
        (b'{"a": NaN}', "NaN, which is not a number in JSON"),
        (b'{"a": -Infinity}', "-Infinity, which is not a number in JSON"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_what_is_no_json_object_is_told(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    line = f"{path}: expected a JSON object, found {problem}; give a folder with a complete config.json"
    assert refused(untrusted.check_config, tmp_path) == line


def test_json_is_read_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes('{"größe": "三"}'.encode())
    assert untrusted.read_object(tmp_path / "x.json", fix="do") == {"größe": "三"}


def test_a_file_of_json_is_a_regular_file_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    assert refused(untrusted.read_object, path, fix="do") == f"{path}: expected a file, found none; do"
    assert refused(untrusted.read_object, tmp_path, fix="do") == f"{tmp_path}: expected a file, found none; do"
    path.write_text('{"a": "bcd"}')
    monkeypatch.setattr(untrusted, "LARGEST_JSON", 12)
    assert untrusted.read_object(path, fix="do") == {"a": "bcd"}
    monkeypatch.undo()
    with path.open("r+b") as stream:
        stream.truncate(200_000_001)  # which takes no room on the disk, and would take some in memory
    line = f"{path}: expected at most 200,000,000 bytes, found 200,000,001; do"
    assert refused(untrusted.read_object, path, fix="do") == line


BESIDE = "save the tokenizer beside the model"


def test_a_tokenizer_file_is_as_large_as_a_file_of_json_may_be(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for size in (200_000_000, 200_000_001):
        with path.open("wb") as stream:
            stream.truncate(size)
        if size == 200_000_000:
            untrusted.check_tokenizer(tmp_path)  # and is not read here, or it would be no JSON
    line = f"{path}: expected at most 200,000,000 bytes, found 200,000,001; {BESIDE}"
    assert refused(untrusted.check_tokenizer, tmp_path) == line


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"]
)
def test_files_of_a_tokenizer_are_json_objects(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "vocab.txt").write_bytes(b"\xff")  # no JSON by its name
    (tmp_path / name).write_text("{}")
    untrusted.check_tokenizer(tmp_path)
    (tmp_path / name).write_text("[]")
    line = f"{tmp_path / name}: expected a JSON object, found JSON of another kind: list; {BESIDE}"
    assert refused(untrusted.check_tokenizer, tmp_path) == line


@pytest.mark.parametrize("beside", [(), ("tokenizer.json",), ("vocab.txt", "special_tokens_map.json")])
def test_a_tokenizer_that_names_code_is_refused(beside: tuple[str, ...], tmp_path: Path) -> None:
    for name in beside:
        (tmp_path / name).write_text("{}")
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')
    assert refused(untrusted.check_tokenizer, tmp_path) == f"{path}: auto_map: {NO_CODE}"
    path.write_text('{"auto_map": {}}')
    untrusted.check_tokenizer(tmp_path)


@pytest.mark.parametrize("key", untrusted._NAMED_FILES)
def test_a_tokenizer_names_files_only_where_they_are_not_read(key: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    (tmp_path / "vocab.txt").write_text("[PAD]")
    path.write_text(json.dumps({key: None}))
    untrusted.check_tokenizer(tmp_path)
    path.write_text(json.dumps({key: "/home/author/vocab.txt"}))
    line = f"{path}: {key}: expected no other file, found '/home/author/vocab.txt'; {OTHER_CONFIG}"
    assert refused(untrusted.check_tokenizer, tmp_path) == line
    (tmp_path / "tokenizer.json").write_text("{}")
    untrusted.check_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_names_no_code(tmp_path: Path) -> None:
    untrusted.check_tokenizer(tmp_path)


PICKLED = {"weights": untrusted.PICKLE, "index": untrusted.PICKLE_INDEX}
AGAIN = "download the model again"


@pytest.mark.parametrize(
    ("present", "kind", "line"),
    [
        (
            ["adapter_config.json", "model.safetensors"], {},
            "expected a complete model, found an adapter; merge the adapter into its base model, and give that",
        ),
        (
            ["config.json"], {},
            "expected a complete safetensors model, found no model.safetensors; "
            "put model.safetensors beside config.json",
        ),
        *(
            (
                [pickle], {},
                "expected a complete safetensors model, found pytorch_model.bin, a pickle; "
                "run: tinydistilbert convert m --output NEW",
            )
            for pickle in ("pytorch_model.bin", "pytorch_model.bin.index.json")
        ),
        (
            ["onnx/model.onnx", "onnx/model_quantized.onnx"], {},
            "expected a complete safetensors model, found an exported model (onnx/model.onnx), which can "
            "only predict; give the model that it was made from, or its teacher",
        ),
        (
            ["onnx/model.onnx"], PICKLED,
            "expected weights in pytorch_model.bin, found no pytorch_model.bin; "
            "put pytorch_model.bin beside config.json",
        ),
        (
            ["model.safetensors"], PICKLED,
            "expected weights in pytorch_model.bin, found no pytorch_model.bin; "
            "put pytorch_model.bin beside config.json",
        ),
        (
            ["pytorch_model.bin"], {"weights": "other.bin"},
            "expected weights in other.bin, found no other.bin; put other.bin beside config.json",
        ),
    ],
)  # fmt: skip
def test_what_is_there_instead_of_weights_is_told(
    present: list[str], kind: dict[str, str], line: str, tmp_path: Path
) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert refused(untrusted.weight_files, tmp_path, "m", **kind) == f"model m: {line}"


def test_one_file_of_weights_comes_before_an_index(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        (tmp_path / name).touch()
    assert untrusted.weight_files(tmp_path, "m") == [tmp_path / "model.safetensors"]
    assert untrusted.weight_files(tmp_path, "m", **PICKLED) == [tmp_path / "pytorch_model.bin"]


def test_shards_come_once_and_in_the_order_of_the_index(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    text = json.dumps({"weight_map": {"x": "b", "y": "a", "z": "b"}})
    for index, kind in ((untrusted.INDEX, {}), (untrusted.PICKLE_INDEX, PICKLED)):
        (tmp_path / index).write_text(text)
        assert untrusted.weight_files(tmp_path, "m", **kind) == [tmp_path / "b", tmp_path / "a"]


@pytest.mark.parametrize(
    ("index", "shown_map"),
    [
        ("{}", "None"),
        ('{"weight_map": {}}', "{}"),
        ('{"weight_map": ["b"]}', "['b']"),
        ('{"weight_map": {"x": "b", "y": 7}}', "{'x': 'b', 'y': 7}"),
        (json.dumps({"weight_map": "b" * 100}), "'" + "b" * 79),
    ],
)
def test_an_index_maps_tensors_to_files(index: str, shown_map: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    (tmp_path / "b").touch()
    line = f"{path}: expected a weight_map of files, found {shown_map}; {AGAIN}"
    assert refused(untrusted.weight_files, tmp_path, "m") == line


def test_an_index_is_a_json_object(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text("[]")
    line = f"{path}: expected a JSON object, found JSON of another kind: list; {AGAIN}"
    assert refused(untrusted.weight_files, tmp_path, "m") == line


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "no such file"),
        ("below", "a path outside of it, or no regular file"),
        ("below/shard", "a path outside of it, or no regular file"),
        ("../outside", "a path outside of it, or no regular file"),
        ("../none", "a path outside of it, or no regular file"),
        ("link", "a path outside of it, or no regular file"),
        ("dangling", "no such file"),
        ("..\\outside", "a path outside of it, or no regular file"),
        ("a\0b", "a path outside of it, or no regular file"),
        ("", "a path outside of it, or no regular file"),
        (".", "a path outside of it, or no regular file"),
        ("..", "a path outside of it, or no regular file"),
    ],
)
def test_a_shard_is_a_file_in_the_folder(name: str, problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "shard").touch()
    (folder / "..\\outside").touch()  # a plain name here, and a way out of the folder on Windows
    (tmp_path / "outside").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "dangling").symlink_to(tmp_path / "none")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"x": name}}))
    line = f"{path}: {name!r}: expected a file in this folder, found {problem}; {AGAIN}"
    assert refused(untrusted.weight_files, folder, "m") == line


def test_the_name_of_a_shard_may_be_too_long_for_a_file(tmp_path: Path) -> None:
    path, name = tmp_path / "model.safetensors.index.json", "a" * 5000
    path.write_text(json.dumps({"weight_map": {"x": name}}))
    line, start = refused(untrusted.weight_files, tmp_path, "m"), f"{path}: '{name}"[:300]
    assert line.startswith(f"{start}: expected a file in this folder, found ")  # in words of the system
    assert line.endswith(f"; {AGAIN}")


def test_shards_in_the_cache_of_the_hub_are_links_to_its_blobs(tmp_path: Path) -> None:
    folder, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "hash").touch()
    (tmp_path / "models--a--b" / "refs").touch()
    (folder / "shard").symlink_to("../../blobs/hash")
    path = folder / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"x": "shard"}}')
    assert untrusted.weight_files(folder, "m") == [folder / "shard"]
    elsewhere = folder.parent.parent / "copies" / "0123"  # where no cache is, links lead out
    elsewhere.parent.mkdir()
    folder.rename(elsewhere)
    problem = "a path outside of it, or no regular file"
    line = f"{elsewhere / path.name}: 'shard': expected a file in this folder, found {problem}; {AGAIN}"
    assert refused(untrusted.weight_files, elsewhere, "m") == line
    elsewhere.rename(folder)
    (folder / "shard").unlink()
    (folder / "shard").symlink_to("../../refs")
    line = f"{path}: 'shard': expected a file in this folder, found a path outside of it, or no regular file; {AGAIN}"
    assert refused(untrusted.weight_files, folder, "m") == line


@pytest.mark.parametrize("dtype", untrusted.ITEM_BYTES)
def test_tensors_of_each_type_are_as_large_as_torch_writes_them(dtype: str, tmp_path: Path) -> None:
    of_torch = {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
        "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "I64": torch.int64,
        "U64": torch.uint64, "F64": torch.float64,
    }  # fmt: skip
    save_file({"a": torch.zeros(2, 3).to(of_torch[dtype])}, tmp_path / "x.safetensors")
    assert untrusted.read_header(tmp_path / "x.safetensors") == {"a": untrusted.Entry(dtype, (2, 3))}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dtype": "OBJECT" * 5}, "{name} of the unknown type 'OBJECTOBJECTOBJECTOB'"),
        ({"dtype": 7}, "{name} of the unknown type '7'"),
        ({"shape": ["1"]}, "{name} with an impossible size or offset"),
        ({"shape": [True]}, "{name} with an impossible size or offset"),
        ({"shape": [-1, -1]}, "{name} with an impossible size or offset"),
        ({"data_offsets": [0, 4.0]}, "{name} with an impossible size or offset"),
        ({"data_offsets": [-4, 0]}, "{name} with an impossible size or offset"),
        ({"shape": [2**63, 0]}, "{name} with an impossible size or offset"),
        ({"shape": [2**63 - 1]}, "{name} of shape [9223372036854775807] in 4 bytes"),
        ({"shape": [1] * 65}, "{name} of 65 dimensions"),
        ({"shape": [10**4000] * 200}, "{name} of 200 dimensions"),
        ({"shape": [2]}, "{name} of shape [2] in 4 bytes"),
        ({"shape": [], "data_offsets": [4, 4]}, "{name} of shape [] in 0 bytes"),
        ({"shape": [0], "data_offsets": [0, 4]}, "{name} of shape [0] in 4 bytes"),
        ({"shape": [10] + [1] * 20}, "{name} of shape [10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, in 4 bytes"),
        ({"data_offsets": [4, 8]}, "a tensor at 4 where the one before ends at 0"),
        ({"data_offsets": [0]}, "not enough values to unpack (expected 2, got 1)"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_told(changes: dict[str, object], problem: str, tmp_path: Path) -> None:
    name = "t" * 90  # of which 80 are told
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}
    path = header_file(tmp_path / "x", header, 4)
    line = f"{path}: expected a complete safetensors file, found {problem.format(name=name[:80])}; {AGAIN}"
    assert refused(untrusted.read_header, path) == line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\x02", "a header of 2 bytes in a file of 1"),
        (bytes(7), "a header of 0 bytes in a file of 7"),
        (bytes(8), "Expecting value: line 1 column 1 (char 0)"),
        (b"\x03" + bytes(7) + b"{}", "a header of 3 bytes in a file of 10"),
        (b"\xff" * 8 + b"{}", "a header of 18,446,744,073,709,551,615 bytes in a file of 10"),
        (b"\x02" + bytes(7) + b"[]", "JSON of another kind: list"),
        (b"\x01" + bytes(7) + b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_a_header_is_as_long_as_it_says(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    line = f"{path}: expected a complete safetensors file, found {problem}; {AGAIN}"
    assert refused(untrusted.read_header, path) == line


def test_a_tensor_may_have_as_many_dimensions_as_pytorch_knows(tmp_path: Path) -> None:
    path = header_file(tmp_path / "x", {"a": {"dtype": "F32", "shape": [1] * 64, "data_offsets": [0, 4]}}, 4)
    assert untrusted.read_header(path)["a"].shape == torch.zeros([1] * 64).shape


def test_a_file_may_hold_no_tensors(tmp_path: Path) -> None:
    assert untrusted.read_header(header_file(tmp_path / "x", {}, 0)) == {}


def test_a_header_of_more_than_the_format_allows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    with path.open("r+b") as stream:
        stream.truncate(10**9)
    problem = "a header of 100,000,001 bytes in a file of 1,000,000,000"
    line = f"{path}: expected a complete safetensors file, found {problem}; {AGAIN}"
    assert refused(untrusted.read_header, path) == line
    header_file(path, {"größe": {"dtype": "U8", "shape": [30], "data_offsets": [0, 30]}}, 30)
    length = path.stat().st_size - 38
    monkeypatch.setattr(untrusted, "LARGEST_HEADER", length)
    assert set(untrusted.read_header(path)) == {"größe"}
    monkeypatch.setattr(untrusted, "LARGEST_HEADER", length - 1)
    assert f"a header of {length} bytes in a file of {length + 38}" in refused(untrusted.read_header, path)


def weight_file(path: Path, **shapes: tuple[int, ...]) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    return path


SMALL = BertConfig(
    vocab_size=4, hidden_size=2, num_attention_heads=1, intermediate_size=3, num_hidden_layers=1,
    max_position_embeddings=5, type_vocab_size=2, pad_token_id=0,
)  # fmt: skip
"""Of embeddings of 4 + 5 + 2 rows, four matrices of 2 × 2 for attention, and two of 2 × 3: 50 numbers."""


def test_weights_are_at_least_those_of_the_config(tmp_path: Path) -> None:
    words = weight_file(tmp_path / "words", **{"bert.word_embeddings.weight": (4, 2)})
    rest = weight_file(tmp_path / "rest", b=(30,), a=(12,))
    untrusted.check_weights([words, rest], SMALL, "m")
    weight_file(rest, b=(30,), a=(11,))
    counts = "found 49 in 3 tensors, such as a"
    line = f"model m: expected at least 50 weights, {counts}; {OTHER_CONFIG}"
    assert refused(untrusted.check_weights, [words, rest], SMALL, "m") == line
    line = f"model m: expected at least 50 weights, found 0 in 0 tensors; {OTHER_CONFIG}"
    assert refused(untrusted.check_weights, [], SMALL, "m") == line
    large = BertConfig(**SMALL.to_dict() | {"max_position_embeddings": 1005})
    weight_file(rest, a=(2000,))
    counts = "found 2,008 in 2 tensors, such as a"
    line = f"model m: expected at least 2,050 weights, {counts}; {OTHER_CONFIG}"
    assert refused(untrusted.check_weights, [words, rest], large, "m") == line


def test_a_tensor_is_in_one_of_the_files(tmp_path: Path) -> None:
    one, two = weight_file(tmp_path / "one", a=(50,), b=(1,), c=(1,)), weight_file(tmp_path / "two", b=(1,), c=(1,))
    line = f"{two}: expected each tensor once, found b twice; {OTHER_CONFIG}"
    assert refused(untrusted.check_weights, [one, two], SMALL, "m") == line


def test_of_long_names_a_line_has_the_beginning(tmp_path: Path) -> None:
    name = "t" * 81
    one = weight_file(tmp_path / "one", **{name: (1,)})
    assert f"found {name[:80]} twice;" in refused(untrusted.check_weights, [one, one], SMALL, "m")
    assert f"found 1 in 1 tensors, such as {name[:80]};" in refused(untrusted.check_weights, [one], SMALL, "m")
    words = weight_file(tmp_path / "words", **{f"{name}.word_embeddings.weight": (5, 2)})
    assert f"found {name[:80]} of shape (5, 2);" in refused(untrusted.check_weights, [words], SMALL, "m")


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings.weight", "model.embeddings.tok_embeddings.weight"])
def test_word_embeddings_are_as_large_as_the_config_says(name: str, tmp_path: Path) -> None:
    path = weight_file(tmp_path / "x", rest=(42,), **{name: (4, 2)})
    untrusted.check_weights([path], SMALL, "m")
    weight_file(path, rest=(42,), **{name: (5, 2)})
    expected = f"expected word embeddings of shape (4, 2), found {name} of shape (5, 2)"
    assert refused(untrusted.check_weights, [path], SMALL, "m") == f"model m: {expected}; {OTHER_CONFIG}"
    weight_file(path, **{f"{name}.other": (5, 10)})
    untrusted.check_weights([path], SMALL, "m")


SIZES = {"vocab_size": 11, "hidden_size": 6, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 7}
PRUNED = {"heads": [1, 3], "intermediate": [4, 5]}


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        # Rows of embeddings, four matrices of each layer's attention, two of its feed-forward part.
        (BertConfig(**SIZES, max_position_embeddings=5, type_vocab_size=2), 6 * (11 + 5 + 2) + 2 * (4 * 36 + 2 * 42)),
        (
            DistilBertConfig(
                vocab_size=11, dim=6, n_heads=3, n_layers=2, hidden_dim=7, max_position_embeddings=5,
                type_vocab_size=2,  # of which a DistilBERT makes nothing
            ),
            6 * (11 + 5) + 2 * (4 * 36 + 2 * 42),
        ),
        (
            ModernBertConfig(
                **SIZES, max_position_embeddings=5, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
                sep_token_id=2,
            ),
            6 * 11 + 2 * (4 * 36 + 2 * 42),
        ),
        # Two directions of two layers, of four gates that see a word and what came before, and a projection.
        (ElmoConfig(projection_size=3, cell_size=5), 2 * 2 * (4 * (3 + 3) * 5 + 5 * 3)),
        # Four heads of width 2 and nine neurons are left.
        (
            BertConfig(**SIZES, max_position_embeddings=5, type_vocab_size=2, pruned=PRUNED),
            6 * (11 + 5 + 2) + 4 * 6 * 4 * 2 + 2 * 6 * 9,
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_least_weights_are_those_counted_by_hand(config: PretrainedConfig, numbers: int) -> None:
    assert untrusted.least_weights(config) == numbers
