"""Tasks made from text: balanced, repeatable, split by document, and with answers where they say they are."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.tasks import TASKS, load_examples, synthetic

NOUNS = [
    "river", "teacher", "model", "engineer", "tower", "market",
    "garden", "painter", "captain", "winter", "island", "letter",
]  # fmt: skip
VERBS = ["crossed", "described", "followed", "admired", "measured", "remembered"]
CITIES = ["Paris", "London", "Vienna", "Oslo", "Cairo", "Lima"]


def document(seed: int) -> str:
    """Six paragraphs of four sentences that no other seed has."""
    choose = random.Random(seed)

    def sentence(number: int) -> str:
        one, two, three = choose.sample(NOUNS, 3)
        end = f"in {choose.choice(CITIES)} with {seed * 100 + number} people and the old {three}"
        return f"The {one} slowly {choose.choice(VERBS)} the quiet {two} {end}."

    return "\n".join(" ".join(sentence(4 * p + s) for s in range(4)) for p in range(6))


DOCUMENTS = [document(seed) for seed in range(1, 9)]
EACH = pytest.mark.parametrize("name", ["acceptability", "adjacency", "cloze-qa"])


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One came. Two left!  Three?", ["One came.", "Two left!", "Three?"]),
        ("Dr. Who met J. Smith. He ran.", ["Dr. Who met J. Smith.", "He ran."]),
        ("It cost 3.5 dollars, i.e. little. So be it.", ["It cost 3.5 dollars, i.e. little.", "So be it."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("No end mark", ["No end mark"]),
    ],
)
def test_sentences_are_cut_where_a_reader_would(paragraph: str, sentences: list[str]) -> None:
    split = synthetic.split_sentences(paragraph)
    assert [text for _, text in split] == sentences
    assert all(paragraph[start : start + len(text)] == text for start, text in split)


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("The teacher gave the book to a student.", True),
        ("the teacher gave the book to a student.", False),
        ("The teacher gave the book to a student", False),
        ("Too short.", False),
        ("X = f(y) + g_2(z) ** 0x1F if a[i] else None.", False),
    ],
)
def test_only_prose_is_used(text: str, usable: bool) -> None:
    assert synthetic.is_usable(text) is usable


@EACH
def test_the_same_documents_and_seed_give_the_same_examples_and_another_seed_others(name: str) -> None:
    task = TASKS[name]
    one = synthetic.make(task, DOCUMENTS, seed=0, cap=1000)
    synthetic._KEPT.clear()  # or they would not be made again
    assert one == synthetic.make(task, iter(DOCUMENTS), seed=0, cap=1000)
    assert one != synthetic.make(task, DOCUMENTS, seed=1, cap=1000)
    assert one[:10] == synthetic.make(task, DOCUMENTS, seed=0, cap=10)
    keys = [row.key for row in one]
    assert len(keys) > 50 and len(set(keys)) == len(keys)


@EACH
@pytest.mark.parametrize("cap", [10, 1000])
def test_what_is_kept_is_given_again_for_the_same_documents_only(
    name: str, cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [DOCUMENTS[0], DOCUMENTS[2], *DOCUMENTS[2:]]
    for others in (DOCUMENTS, changed, DOCUMENTS[:-1], [*DOCUMENTS, document(9)], DOCUMENTS[:1], DOCUMENTS[::-1]):
        monkeypatch.setattr(synthetic, "_KEPT", {})
        expected = synthetic.make(TASKS[name], others, seed=0, cap=cap)
        monkeypatch.setattr(synthetic, "_KEPT", {})
        first = synthetic.make(TASKS[name], DOCUMENTS, seed=0, cap=cap)
        first.clear()  # the list is the caller's
        assert synthetic.make(TASKS[name], iter(others), seed=0, cap=cap) == expected

    again, real = synthetic.make(TASKS[name], DOCUMENTS, seed=0, cap=cap), synthetic._paragraphs
    monkeypatch.setattr(synthetic, "_paragraphs", lambda _: pytest.fail("made again"))
    for _ in range(2):
        given = synthetic.make(TASKS[name], iter(DOCUMENTS), seed=0, cap=cap)
        assert given == again
        given.clear()
    monkeypatch.setattr(synthetic, "_paragraphs", real)
    assert len(synthetic.make(TASKS[name], DOCUMENTS, seed=0, cap=5)) == 5
    for seed in range(1, 2 * synthetic.MOST_KEPT):
        synthetic.make(TASKS[name], DOCUMENTS[:1], seed=seed, cap=1)
    assert len(synthetic._KEPT) == synthetic.MOST_KEPT


@pytest.mark.parametrize("name", ["acceptability", "adjacency"])
@pytest.mark.parametrize("limit", [0, 30, 31])
def test_labels_are_balanced_in_the_whole_and_in_a_sample(name: str, limit: int, tmp_path: Path) -> None:
    labels = load_examples(
        TASKS[name], "train", data=None, corpus=Corpus(source=str(corpus(tmp_path))), limit=limit, seed=0
    ).columns["label"]
    assert limit in (0, len(labels))
    assert abs(labels.count(0) - labels.count(1)) <= 1


def test_an_unacceptable_sentence_has_the_words_of_a_real_one_in_another_order() -> None:
    for row in synthetic.make(TASKS["acceptability"], DOCUMENTS, seed=0, cap=1000):
        text = row.values["text"]
        assert (text == row.key) == (row.values["label"] == 1)
        assert sorted(text.split()) == sorted(row.key.split())
        assert text.split()[0] == row.key.split()[0] and text.split()[-1] == row.key.split()[-1]


def test_second_sentences_follow_or_come_from_the_document_before() -> None:
    rows = synthetic.make(TASKS["adjacency"], DOCUMENTS, seed=0, cap=1000)
    assert {row.values["label"] for row in rows} == {0, 1}
    for row in rows:
        one, two = row.values["text"], row.values["text_pair"]
        (home,) = [number for number, text in enumerate(DOCUMENTS) if one in text]
        origin = DOCUMENTS[home if row.values["label"] else home - 1]
        assert two in origin
        assert (f"{one} {two}" in DOCUMENTS[home]) == (row.values["label"] == 1)
        assert f"\n{two}" not in origin, "a sentence that begins a paragraph would give the label away"


def test_answers_are_in_the_context_and_not_in_the_question() -> None:
    kinds = set()
    for row in synthetic.make(TASKS["cloze-qa"], DOCUMENTS, seed=0, cap=1000):
        question, context, answers = (row.values[key] for key in ("question", "context", "answers"))
        (answer,), (start,) = answers["text"], answers["answer_start"]
        assert context[start : start + len(answer)] == answer
        assert row.key in context and len(context) <= synthetic.CONTEXT_CHARACTERS
        assert answer.lower() not in question.lower()
        word = next(word for word in synthetic.PHRASES if f" {word}" in f" {question}")
        kinds.add(word)
        stem = question.removesuffix("?")
        before, _, after = stem.partition(word)
        assert before.strip() in row.key and after.strip() in row.key
    assert kinds == set(synthetic.PHRASES)


@pytest.mark.parametrize(
    ("kind", "sentence", "phrases"),
    [
        ("which number", "In 1889 it cost 1,500.50 francs, 3 times x86 or 4-fold.", ["1889", "1,500.50", "3"]),
        ("which name", "The tower of Gustave Eiffel stands in Paris, near the Ecole of War.",
         ["Gustave Eiffel", "Paris", "Ecole of War"]),
        ("what", "He saw the old stone bridge, a dog and the end of it.", ["the old stone bridge", "a dog", "the end"]),
    ],
)  # fmt: skip
def test_phrases_that_can_be_asked_for(kind: str, sentence: str, phrases: list[str]) -> None:
    assert [match.group() for match in synthetic.PHRASES[kind].finditer(sentence)] == phrases


def corpus(folder: Path, documents: Sequence[str] = DOCUMENTS) -> Path:
    """A text file of documents that the source reads as articles."""
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


@EACH
def test_train_and_validation_come_from_different_documents(name: str, tmp_path: Path) -> None:
    settings = Corpus(source=str(corpus(tmp_path)), validation_share=0.3)
    task = TASKS[name]

    def homes(split: str) -> set[int]:
        columns = load_examples(task, split, data=None, corpus=settings, limit=0, seed=0).columns
        texts = columns["context"] if name == "cloze-qa" else columns["text"]
        words = [set(text.split()) for text in texts]  # moved words are still the document's
        numbers = [next(int(word) // 100 for word in text if word.isdigit()) for text in words]
        return set(numbers)

    assert homes("train") and homes("validation")
    assert not homes("train") & homes("validation")


def test_a_sentence_that_train_documents_have_too_is_not_asked_in_validation(tmp_path: Path) -> None:
    shared = "This very long sentence stands in the middle of every document."
    documents = [f"{document(seed)}\n{shared}" for seed in range(20)]
    source = Corpus(source=str(corpus(tmp_path, documents)), validation_share=0.5)

    def occurrences(split: str) -> int:
        columns = load_examples(TASKS["acceptability"], split, data=None, corpus=source, limit=0, seed=0).columns
        return sum(sorted(text.split()) == sorted(shared.split()) for text in columns["text"])

    assert (occurrences("train"), occurrences("validation")) == (1, 0)


def test_lines_without_sentences_are_a_users_error(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(f"word{i}" for i in range(200)), encoding="utf-8")
    with pytest.raises(UserError, match=r"adjacency \(train\) from .*no document has enough sentences"):
        load_examples(TASKS["adjacency"], "train", data=None, corpus=Corpus(source=str(path)), limit=0, seed=0)
