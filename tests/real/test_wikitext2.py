"""The whole of WikiText-2, word-level variant, from its files to token blocks."""

import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.data.sources import open_source
from tinydistilbert.recipe.schema import Corpus

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def wikitext2(data: Path) -> None:
    if not (data / "wikitext2" / "train.txt").is_file():
        pytest.skip(f"no wikitext2/ in {data}")


def test_all_tokens_and_articles_are_found(data: Path) -> None:
    """600 and 60 articles, 2,088,628 and 217,646 tokens with one for each line's end: Merity et al. 2017, table 1."""
    lines = open_source(Corpus(packing="lines"), str(data))
    tokens = [sum(len(line.split()) + 1 for line in split()) for split in (lines.train, lines.validation)]
    assert tokens == [2_088_628, 217_646]
    source = open_source(Corpus(), str(data))
    train, validation = list(source.train()), list(source.validation())
    assert (len(train), len(validation)) == (600, 60)
    assert not set(train) & set(validation)


def test_tokens_have_become_text(data: Path) -> None:
    text = "\n".join(open_source(Corpus(), str(data)).validation())
    assert not re.findall(r"@.@|^ ?= .*=$|\n\n| [,.;:!?)\]](?= |$)|[(\[] |\w 's\b", text, flags=re.MULTILINE)
    assert "with a body length up to 60 centimetres (24 in) and" in text
    assert "weigh 0.7–2.2 kg (1.5–4.9 lb)" in text
    assert 'only becoming "lobster red" on cooking.' in text


def test_its_documents_are_tokenised(data: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    corpus = Corpus(max_train_documents=100)  # all 600 take five times as long, and are counted above
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path, str(data)))
    splits = blocks.manifest["splits"]
    assert (splits["train"]["documents"], splits["validation"]["documents"]) == (100, 60)
    for split in splits.values():
        assert split["blocks"] == (split["tokens"] + split["documents"]) // 126
    assert (blocks.train != blocks.pad_token_id).all()
