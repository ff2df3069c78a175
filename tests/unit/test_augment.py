"""Copies of examples differ from them in words that a masked LM proposed for the place, and in nothing else."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tinydistilbert.data.seen_texts import SeenTexts
from tinydistilbert.finetuning import augment as module
from tinydistilbert.finetuning.augment import Proposals, Vocabulary, augment, augmented, passes_of, propose
from tinydistilbert.finetuning.word_spans import find_words
from tinydistilbert.models.heads import vocabulary_size
from tinydistilbert.recipe.schema import TaskDistillation
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples

CPU = torch.device("cpu")
TEXTS = [
    "She walked to the old house, and sat down.", "Paris is the capital", "In 1889 it was built; it's 300 m high.",
    "teacher", "The student learned from a large corpus of text, and many people came to see the tower near the lake.",
]  # fmt: skip
OTHERS = ["The dog likes bones", "A small model", "Some cats like milk.", "the river", "It was built by the engineer"]


def random_model(vocabulary: int, family: str = "bert") -> PreTrainedModel:
    sizes = {"vocab_size": vocabulary, **tiny.WIDER, "max_position_embeddings": 64, "initializer_range": 0.3}
    family_sizes = {"pad_token_id": 1, "type_vocab_size": 1} if family == "roberta" else {}
    return tiny.model(family, **sizes, **family_sizes)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return random_model(len(tokenizer))


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer like RoBERTa's, trained here: the case is kept, and a space belongs to the word behind it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    raw.train_from_iterator(
        [" ".join((*TEXTS, *OTHERS, *OTHERS, "the The THE house House"))] * 2 + ["the", "the"],
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": 0, "pad_token": 1, "eos_token": 2, "unk_token": 3, "mask_token": 4, "cls_token": 0}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, sep_token="</s>", **{name: special[place] for name, place in names.items()}
    )


def asked(
    texts: Sequence[str], pairs: Sequence[str] | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast,
    **other: int,
) -> Proposals:  # fmt: skip
    settings = {"candidates": 4, "max_length": 64, **other}
    vocabulary = Vocabulary.of(tokenizer, vocabulary_size(model))
    return propose(
        texts, pairs, model, tokenizer, vocabulary,
        device=CPU, log=lambda _: None, show=lambda _share, _tokens: None, **settings,
    )  # fmt: skip


def words(proposals: Proposals, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[list[str]]:
    """The words of each example, cut out of its texts by their characters."""
    spans, columns = proposals.words, (texts, pairs or texts)
    return [
        [columns[int(spans.second[row])][place][spans.begin[row] : spans.end[row]] for row in range(first, end)]
        for place, (first, end) in enumerate(zip(spans.word_ends, spans.word_ends[1:], strict=False))
    ]


def spelt(proposals: Proposals) -> list[list[str]]:
    return [[proposals.spellings[place] for place in row if place >= 0] for row in proposals.candidates]


def slow(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], place: slice) -> list[str]:
    """The tokens of whole words, best first, for one word hidden in one input without padding; of BERT's kind."""
    ids = [*ids[: place.start], tokenizer.mask_token_id, *ids[place.stop :]]
    second = ids.index(tokenizer.sep_token_id) + 1
    types = [int(position >= second) for position in range(len(ids))]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0, place.start]
    return [token for token in tokenizer.convert_ids_to_tokens(logits.argsort(descending=True)) if token.isalpha()]


@pytest.mark.parametrize("pairs", [None, OTHERS])
def test_proposals_are_those_of_one_word_at_a_time_against_the_unreplaced_rest(
    pairs: list[str] | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Slowly, for the examples short enough that a pass hides one word; the second text sees the given first."""
    proposals = asked(TEXTS, pairs, model, tokenizer)
    example_words, proposed, several = words(proposals, TEXTS, pairs), spelt(proposals), 0
    for row in (0, 1, 2, 3):
        encoded = tokenizer(TEXTS[row], pairs[row] if pairs else None)
        spans = {}
        for text in (0, 1) if pairs else (0,):
            for number in {n for n, t in zip(encoded.word_ids(), encoded.sequence_ids(), strict=True) if t == text}:
                tokens, chars = encoded[0].word_to_tokens(number, text), encoded[0].word_to_chars(number, text)
                spans[text, chars[0]] = slice(*tokens)
        first = proposals.words.word_ends[row]
        assert len(example_words[row]) < 2 / module.HIDDEN_SHARE, "more words would be hidden together"
        for offset, word in enumerate(example_words[row]):
            place = spans[int(proposals.words.second[first + offset]), proposals.words.begin[first + offset]]
            several += place.stop - place.start > 1
            others = [t for t in slow(model, tokenizer, encoded["input_ids"], place) if t != word.lower()]
            assert proposed[first + offset] == others[:4], (word, row)
    assert several, "some word has several pieces"


def test_words_are_the_letters_between_spaces_punctuation_and_numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["Don't, U.S. cats' 1889 m2 cafe\u0301s -- [MASK] naïve\u0301 x_y?", "日本", "12 ... 3!"]
    assert words(asked(texts, None, model, tokenizer), texts) == [
        ["Don", "cats", "cafe\u0301s", "naïve\u0301", "x", "y"],
        ["日", "本"],
        [],
    ]


def test_a_word_that_the_end_of_the_input_cuts_is_left_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["the engineering house"]
    pieces = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in texts[0].split()]
    assert pieces[1] > 1
    for length, expected in ((3, 1), (2 + pieces[1], 1), (3 + pieces[1], 2)):
        proposals = asked(texts, None, model, tokenizer, max_length=length)
        assert len(words(proposals, texts)[0]) == expected, length
    long = ["house " * 200]
    assert len(words(asked(long, None, model, tokenizer, max_length=512), long)[0]) == 62, "64 positions of the model"


def test_passes_hide_at_most_fifteen_percent_of_the_words_and_each_word_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """By hand: 13 words one at a time; of 14, two; of 20, three; of 100, fifteen."""
    assert passes_of(np.array([0, 1, 6, 13, 14, 20, 100])).tolist() == [0, 1, 6, 13, 7, 7, 7]
    spans = find_words(TEXTS, OTHERS, tokenizer, 64)
    count = np.diff(spans.word_ends)
    passes = passes_of(count)
    for example in range(len(TEXTS)):
        seen = []
        for number in range(passes[example]):
            hidden_words, hidden, inputs = module._hide(
                spans, np.array([example]), np.array([number]), passes, tokenizer
            )
            assert 1 <= len(hidden_words) <= max(1, 0.15 * count[example])
            assert (inputs["input_ids"] == tokenizer.mask_token_id).equal(hidden)
            assert hidden.sum() == len(hidden_words), "one [MASK], whatever pieces the word has"
            seen += hidden_words.tolist()
        assert sorted(seen) == list(range(spans.word_ends[example], spans.word_ends[example + 1]))


@pytest.mark.parametrize("pairs", [None, OTHERS])
def test_batches_do_not_change_proposals(
    pairs: list[str] | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asked(TEXTS, pairs, model, tokenizer)
    monkeypatch.setattr(module, "POSITIONS", 3)
    apart = asked(TEXTS, pairs, model, tokenizer, token_budget=40)
    assert (together.candidates == apart.candidates).all() and together.candidates.size
    single = [
        asked([text], [pairs[row]] if pairs else None, model, tokenizer, token_budget=1).candidates
        for row, text in enumerate(TEXTS)
    ]
    assert (np.concatenate(single) == together.candidates).all()


def test_fewer_proposals_than_asked_for_are_all_there_are(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    proposals = asked(["the house 12"], None, model, tokenizer, candidates=500)
    known = {token for token in tokenizer.get_vocab() if token.isalpha()}
    assert [set(row) for row in spelt(proposals)] == [known - {"the"}, known - {"house"}]
    assert (proposals.candidates[:, len(known) - 1 :] == -1).all()


def rigged(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, best: Sequence[str]) -> PreTrainedModel:
    """A model that proposes the tokens `best`, in this order, whatever it sees."""
    with torch.no_grad():
        bias: Tensor = model.get_output_embeddings().bias
        bias.zero_()
        for rank, token in enumerate(best):
            bias[tokenizer.convert_tokens_to_ids(token)] = 1e6 - 1e4 * rank
    return model


def examples(texts: list[str], pairs: list[str] | None = None, kind: str = "") -> Examples:
    columns = {"idx": list(range(10, 10 + len(texts))), "text": texts, "label": [0] * len(texts)}
    task = TASKS[kind or ("rte" if pairs else "cola")]
    return Examples(task, "train", columns | ({"text_pair": pairs} if pairs else {}), 2 * len(texts))


def copies_of(given: Examples, proposals: Proposals, **settings: Any) -> Examples:
    seen = SeenTexts()
    seen.add_all(given.each_text())
    return augmented(given, proposals, seen, **settings)


def together(parts: Iterable[Examples]) -> Examples:
    """The copies of all parts."""
    made = [*parts]
    columns = {name: [value for part in made for value in part.columns[name]] for name in made[0].columns}
    return replace(made[0], columns=columns, total=len(columns["idx"]))


def test_known_proposals_give_known_copies(tokenizer: PreTrainedTokenizerFast) -> None:
    """Of two proposals the one that is the word itself is passed over, so the copy can be told; the case is kept."""
    model = rigged(random_model(len(tokenizer)), tokenizer, ["[SEP]", "##s", ",", "the", "model"])
    given = examples(["The  model — it's\tTHE 1st, \u00e9t\u00e9!", "12"], ["Model\nthe", "model"], "rte")
    settings = TaskDistillation(augment=5, augment_share=1.0, augment_candidates=1)
    parts = augment(given, model, tokenizer, settings, seed=0, device=CPU, log=lambda _: None, max_length=64)
    copies = together(parts)
    assert copies.columns == {
        "idx": [10, 11],
        "text": ["Model  the — the's\tMODEL 1st, the!", "12"],
        "text_pair": ["The\nmodel", "the"],
        "label": [None, None],
    }
    assert (copies.task, copies.split, copies.total) == (given.task, "train", 2)
    assert given.columns["text"][0].startswith("The  model"), "the examples are left as they were"


def test_byte_level_tokenizers_keep_spaces_and_case(byte_level: PreTrainedTokenizerFast) -> None:
    assert "Ġthe" in byte_level.get_vocab() and "the" in byte_level.get_vocab()
    model = random_model(len(byte_level), "roberta")
    rigged(model, byte_level, ["ing", "Ġ", ",", "ĠThe", "Ġthe", "<s>", "Ġhouse"])
    given = examples(["the House,  in 1889 (Zürich) it's", "\u00a0see THE"], ["A house", "b"])
    settings = TaskDistillation(augment=1, augment_share=1.0, augment_candidates=1)
    parts = augment(given, model, byte_level, settings, seed=0, device=CPU, log=lambda _: None, max_length=64)
    copies = together(parts)
    assert copies.columns["text"] == ["house The,  The 1889 (The) The's", "\u00a0The house"]
    assert copies.columns["text_pair"] == ["The The", "The"]
    proposals = asked(TEXTS, OTHERS, random_model(len(byte_level), "roberta"), byte_level, candidates=500)
    for word, row in zip([w for ws in words(proposals, TEXTS, OTHERS) for w in ws], spelt(proposals), strict=True):
        begins = {token[1:] for token in byte_level.get_vocab() if token.startswith("Ġ") and token[1:].isalpha()}
        assert len(row) == len(set(row)) and {w for w in begins if w.lower() != word.lower()} >= set(row)
        assert {w.lower() for w in row} | {word.lower()} >= {w.lower() for w in begins if w.isascii()}


@pytest.fixture(scope="module")
def proposals(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Proposals:
    return asked(TEXTS, OTHERS, model, tokenizer)


def cut(text: str) -> list[str]:
    """Words and what is between them."""
    return re.findall(r"[^\W\d_]+|[\W\d_]+", text)


def test_copies_differ_in_words_alone_and_in_one_at_least(
    proposals: Proposals, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    given = examples(TEXTS, OTHERS)
    copies = copies_of(given, proposals, copies=30, share=0.3, seed=1)
    proposed, all_words = spelt(proposals), [w for ws in words(proposals, TEXTS, OTHERS) for w in ws]
    known: dict[str, set[str]] = {}
    for word, row in zip(all_words, proposed, strict=True):
        known.setdefault(word, set()).update(row)
    pairs = list(zip(copies.columns["text"], copies.columns["text_pair"], strict=True))
    assert len(set(pairs)) == len(pairs) > 100 and not set(pairs) & set(zip(TEXTS, OTHERS, strict=True))
    for idx, pair in zip(copies.columns["idx"], pairs, strict=True):
        changed = 0
        for before, after in zip((TEXTS[idx - 10], OTHERS[idx - 10]), pair, strict=True):
            for old, new in zip(cut(before), cut(after), strict=True):
                changed += old != new
                assert old == new or new.lower() in known[old]
                assert new[0].isupper() == old[0].isupper(), (old, new)
        assert changed


def test_the_share_of_replaced_words_is_the_chance(proposals: Proposals) -> None:
    """Of the example with the most words: 26 words, 400 copies; five standard deviations."""
    given = examples(TEXTS, OTHERS)
    copied_examples = copies_of(given, proposals, copies=400, share=0.4, seed=0)
    copies = [
        cut(f"{text} {pair}")
        for idx, text, pair in zip(*(copied_examples.columns[n] for n in ("idx", "text", "text_pair")), strict=True)
        if idx == 14
    ]
    original = cut(f"{TEXTS[4]} {OTHERS[4]}")
    total = (proposals.words.word_ends[5] - proposals.words.word_ends[4]) * len(copies)
    assert len(copies) == 400 and total > 10_000
    replaced = sum(old != new for copy in copies for old, new in zip(original, copy, strict=True))
    assert abs(replaced / total - 0.4) < 5 * (0.4 * 0.6 / total) ** 0.5


def test_a_copy_in_which_chance_replaces_nothing_has_one_word_replaced(proposals: Proposals) -> None:
    copies = copies_of(examples(TEXTS, OTHERS), proposals, copies=3, share=0.0, seed=0)
    assert set(copies.columns["idx"]) == {10, 11, 12, 13, 14}
    for idx, text, pair in zip(*(copies.columns[name] for name in ("idx", "text", "text_pair")), strict=True):
        before, after = cut(f"{TEXTS[idx - 10]} {OTHERS[idx - 10]}"), cut(f"{text} {pair}")
        assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_copies_are_a_function_of_the_seed_and_the_example_alone(
    proposals: Proposals, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    given = examples(TEXTS, OTHERS)

    def made(copies: int = 6, seed: int = 3, share: float = 0.4) -> dict[str, list[object]]:
        return copies_of(given, proposals, copies=copies, share=share, seed=seed).columns

    assert made() == made() != made(seed=4)
    assert copies_of(given, proposals, copies=0, share=0.4, seed=3).columns["idx"] == []

    def of(columns: dict[str, list[object]], idx: int) -> list[object]:
        return [t for t, i in zip(columns["text"], columns["idx"], strict=True) if i == idx]

    more = made(copies=9)
    for idx in given.columns["idx"]:
        assert of(more, idx)[: len(of(made(), idx))] == of(made(), idx)
    alone = replace(given, columns={name: values[2:3] for name, values in given.columns.items()})
    proposals_alone = asked(TEXTS[2:3], OTHERS[2:3], model, tokenizer)
    assert copies_of(alone, proposals_alone, copies=6, share=0.4, seed=3).columns["text"] == of(made(), 12)


def test_nothing_is_read_but_the_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is opened")

    given = examples(TEXTS)
    lines: list[str] = []
    read: Callable[..., None] = refuse
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", read)
        patch.setattr("pathlib.Path.open", read)
        patch.setattr("tinydistilbert.tasks.load_examples", read)
        two = TaskDistillation(augment=2)
        copies = together(augment(given, model, tokenizer, two, seed=0, device=CPU, log=lines.append, max_length=64))
    assert copies.columns["label"] == [None] * len(copies) and len(copies) > len(TEXTS)
    assert len(lines) == 1 and "5 examples" in lines[0]
    many = TaskDistillation(augment=200, augment_candidates=2)
    copies = together(augment(given, model, tokenizer, many, seed=0, device=CPU, log=lines.append, max_length=64))
    assert f"{1000 - len(copies)} of 1,000 copies left out" in lines[-1] and "0 examples without" in lines[-1]
