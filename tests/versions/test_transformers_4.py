"""Folders that this package writes, read by the last transformers 4: `make test-transformers-4`.

Another Python has that version; the variable `TRANSFORMERS_4` names it.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer

from tests import tiny
from tests.tiny import SPECIAL_TOKENS, TEXT
from tests.versions.answers import answers
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.export.quantize import quantize
from tinydistilbert.export.to_onnx import export, to_half
from tinydistilbert.models.loading import save_model

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif("TRANSFORMERS_4" not in os.environ, reason="make test-transformers-4 sets TRANSFORMERS_4"),
    pytest.mark.filterwarnings("default"),
]
HEADS = ("classification", "regression", "span", "masked-lm")
LENGTH = 40
NAMES = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}


def roberta() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as RoBERTa has it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    raw.train_from_iterator([TEXT], trainer)
    model = json.loads(raw.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def xlm_roberta() -> PreTrainedTokenizerFast:
    """Unigram, as XLM-RoBERTa has it."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = sorted({*TEXT.replace(",", " ").replace(".", " ").split()})
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -8.0) for letter in sorted({*TEXT} - {" ", "\n"})]
    return XLMRobertaTokenizer(vocab=[*pieces, ("▁", -9.0), ("<mask>", 0.0)])


def modernbert(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer without a class of its own, as ModernBERT has it on the hub."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=raw, **dict(zip(names, SPECIAL_TOKENS, strict=True)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Each kind of folder that this package writes, with its head."""
    made: dict[str, str] = {}
    beside = {"bert": tokenizer, "distilbert": tokenizer, "roberta": roberta(), "xlm-roberta": xlm_roberta(),
              "modernbert": modernbert(tokenizer), "camembert": xlm_roberta(), "electra": tokenizer,
              "mpnet": modernbert(tokenizer)}  # fmt: skip
    assert beside.keys() == tiny.CONFIGS.keys(), "every family that is supported"
    root = tmp_path_factory.mktemp("folders")
    for family, reads in beside.items():
        tokens = {"pad_token_id": reads.pad_token_id, "cls_token_id": reads.cls_token_id,
                  "sep_token_id": reads.sep_token_id, "bos_token_id": reads.cls_token_id,
                  "eos_token_id": reads.sep_token_id}  # fmt: skip
        for head in HEADS:
            labels: dict[str, Any] = {"classification": NAMES, "regression": {"num_labels": 1}}.get(head, {})
            settings = {**tiny.WIDER, "vocab_size": len(reads), **tokens, **labels}
            folder = root / f"{family}-{head}"
            model = tiny.scrambled(tiny.model(family, head, **settings), std=0.1)
            save_model(model, reads, folder, max_length=None if head == "masked-lm" else LENGTH)
            made[str(folder)] = head
    bert, distilbert = root / "bert-classification", root / "distilbert-classification"
    export(distilbert, root / "onnx")
    quantize(root / "onnx", root / "int8")
    export(root / "modernbert-classification", root / "modernbert-onnx", fused=False)
    made |= {str(root / name): "exported" for name in ("onnx", "int8", "modernbert-onnx")}
    to_half(bert, root / "half")
    trim(distilbert, [TEXT], root / "trimmed")
    return made | {str(root / name): "classification" for name in ("half", "trimmed")}


@pytest.fixture(scope="module")
def of_4(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of transformers 4."""
    work = tmp_path_factory.mktemp("answers")
    (work / "folders.json").write_text(json.dumps(folders))
    program = Path(__file__).with_name("answers.py")
    command = [os.environ["TRANSFORMERS_4"], str(program), str(work / "folders.json"), str(work / "answers.json")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, capture_output=True, timeout=500, env=environment)
    loaded: dict[str, Any] = json.loads((work / "answers.json").read_text())
    assert loaded.pop("version").startswith("4."), "another version is installed there"
    return loaded


def test_every_folder_is_read_and_answers_alike(folders: dict[str, str], of_4: dict[str, Any]) -> None:
    wrong = []
    for folder, head in folders.items():
        old, new = of_4[folder], json.loads(json.dumps(answers(folder, head)))
        if "error" in old:
            wrong.append(f"{Path(folder).name}: {old['error']}")
            continue
        if old["tokens"] != new["tokens"] or old["longest"] != new["longest"]:
            wrong.append(f"{Path(folder).name}: other tokens")
            continue
        for one, other in zip(old.get("logits", ()), new.get("logits", ()), strict=True):
            for mine, its in zip(one, other, strict=True):
                torch.testing.assert_close(torch.tensor(mine), torch.tensor(its), atol=1e-4, rtol=1e-4)
        for one, other in zip(old.get("pipeline", ()), new.get("pipeline", ()), strict=True):
            assert one.keys() == other.keys()
            assert {k: v for k, v in one.items() if k != "score"} == {k: v for k, v in other.items() if k != "score"}
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert not wrong, "\n".join(wrong)


def test_they_carry_the_length_that_they_were_trained_with(folders: dict[str, str], of_4: dict[str, Any]) -> None:
    lengths: dict[Callable[..., Any] | str, int] = {Path(f).name: of_4[f].get("longest", 0) for f in folders}
    assert {name for name, length in lengths.items() if length != LENGTH} == {
        f"{family}-masked-lm" for family in tiny.CONFIGS
    }
