"""Synthetic tasks, made from any text without labels: a sentence task, a pair task and a span task.

`acceptability` (like CoLA): is this a sentence, or have words of it been moved? `adjacency` (a pair task like QNLI):
does the second sentence follow the first, or is it from the previous document? `cloze-qa` (like SQuAD; after Lewis et
al. 2019, arXiv 1906.04980): a sentence in which a question word replaces a phrase, to be answered from the surrounding
passage. The examples depend only on the documents and the seed. Scores compare models with each other; they say nothing
about the data sets named here.
"""

import hashlib
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from random import Random
from typing import Any, TypeVar

from tinydistilbert.tasks.base import Candidate, ScoreTable, Task

TABLE = ScoreTable(
    "synthetic", "Synthetic tasks",
    "Tasks made from text without labels, scored on documents that were not trained on, in points. They show how "
    "teacher, student and control differ; they are not GLUE and must not be compared with it.",
    unit="synthetic task",
)  # fmt: skip

TRAIN_CAP, EVALUATION_CAP = 20_000, 2_000
"""Maximum number of examples in a split, however long the text is."""
PER_DOCUMENT = 40
"""Maximum number of examples from one document, so that no long document dominates."""
CONTEXT_CHARACTERS = 500
"""Maximum characters of a cloze question's passage when neighbouring paragraphs are added: short is fast."""
MIN_QUESTION_WORDS, QUESTION_WORDS = 5, 10
"""Minimum number of words in a question besides the question word, and maximum kept on each side of it."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and its position in the document."""

    text: str
    paragraph: int
    start: int
    """Position of its first character in the paragraph."""
    first: bool
    """Whether it begins the paragraph."""


@dataclass(frozen=True)
class SyntheticExample:
    """An example, and the sentence that it was made from."""

    key: str
    values: dict[str, Any]


Item = TypeVar("Item")

BOUNDARY = re.compile(r"[.!?][\"”’')\]]*\s+(?=[\"“'(\[]?[A-Z0-9])")
ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Sgt|Rev|Jr|Sr|No|vs|cf|ca|etc|Fig|Vol|e\.g|i\.e)\.$"
)
WORD = re.compile(r"[A-Za-z][a-z]*(?:['’-][A-Za-z]?[a-z]+)*")
WORDS_IN_SENTENCE = range(6, 41)
MIN_PLAIN_WORDS = 0.7


def split_sentences(paragraph: str) -> list[tuple[int, str]]:
    """Return start and text of each sentence, cut after . ! ? before a capital or digit, but not in "Dr. Who"."""
    begin, sentences = 0, []
    for match in BOUNDARY.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[begin : match.start() + 1]):
            sentences.append((begin, paragraph[begin : match.end()].rstrip()))
            begin = match.end()
    return [*sentences, (begin, paragraph[begin:].rstrip())]


def is_usable(sentence: str) -> bool:
    """Whether a piece of text reads as a sentence of 6 to 40 words: a capital, an end mark, and mostly plain words."""
    words = sentence.split()
    if len(words) not in WORDS_IN_SENTENCE or not sentence[0].isupper() or sentence[-1] not in ".!?":
        return False
    return sum(WORD.fullmatch(word.strip(".,;:!?\"'()")) is not None for word in words) >= MIN_PLAIN_WORDS * len(words)


def sentences_of(document: str) -> list[str]:
    """Return the usable sentences of a document."""
    return [sentence.text for sentence in _sentences(_paragraphs(document))]


def _paragraphs(document: str) -> list[str]:
    return [stripped for line in document.split("\n") if (stripped := line.strip())]


def _sentences(paragraphs: list[str]) -> list[Sentence]:
    return [
        Sentence(text, number, start, start == 0)
        for number, paragraph in enumerate(paragraphs)
        for start, text in split_sentences(paragraph)
        if is_usable(text)
    ]


def _shuffled(items: list[Item], random: Random) -> list[Item]:
    return random.sample(items, len(items))


def _acceptability(paragraphs: list[str], _previous: list[str], random: Random) -> Iterator[Candidate]:
    for sentence in _shuffled(_sentences(paragraphs), random):
        moved = move_words(sentence.text, random)
        if moved is not None:
            yield sentence.text, ({"text": moved}, {"text": sentence.text})


def move_words(sentence: str, random: Random) -> str | None:
    """Return the sentence with one or two words moved by at least two places; None if too few words can be moved.

    The first and last word and words with punctuation stay, so that neither capitals nor commas reveal the change.
    """
    words = sentence.split()
    movable = [i for i in range(1, len(words) - 1) if WORD.fullmatch(words[i]) and words[i].islower()]
    pairs = [(i, j) for i in movable for j in movable if abs(i - j) >= 2]
    if not pairs:
        return None
    for source, target in random.sample(pairs, min(len(pairs), 1 if len(words) < 12 else 2)):
        words.insert(target, words.pop(source))
    moved = " ".join(words)
    return None if moved == " ".join(sentence.split()) else moved


def _adjacency(paragraphs: list[str], previous: list[str], random: Random) -> Iterator[Candidate]:
    # A sentence that begins a paragraph never follows another, so it is not used as a wrong second sentence either.
    others = [sentence.text for sentence in _sentences(previous) if not sentence.first]
    if not others:
        return
    for one, two in _shuffled(list(pairwise(_sentences(paragraphs))), random):
        gap = paragraphs[one.paragraph][one.start + len(one.text) : two.start]
        other = random.choice(others)
        if one.paragraph == two.paragraph and not gap.strip() and other not in (one.text, two.text):
            yield one.text, ({"text": one.text, "text_pair": other}, {"text": one.text, "text_pair": two.text})


FUNCTION_WORD = (
    "(?:a|about|after|also|although|among|an|and|any|are|around|as|at|be|because|been|before|being|between|both|but|by|can|"
    "could|did|do|does|during|each|for|from|had|has|have|he|her|his|if|in|into|is|it|its|may|might|must|no|nor|not|of|on|"
    "only|or|over|she|should|since|so|some|such|than|that|the|their|them|then|there|these|they|this|those|through|to|under|"
    "until|up|upon|was|were|what|when|where|whether|which|while|who|whom|whose|will|with|within|without|would|you|your)"
)
CONTENT_WORD = rf"(?!{FUNCTION_WORD}\b)[a-z]+(?:-[a-z]+)*"
PHRASES = {
    "which number": re.compile(r"(?<![\w.,-])\d+(?:[.,]\d+)*(?![\w-])"),
    "which name": re.compile(r"(?<=[a-z,] )[A-Z][\w’'-]*[a-z](?: (?:(?:of|de|von|van) )?[A-Z][\w’'-]*[a-z]){0,3}\b"),
    "what": re.compile(rf"\b(?:the|an?) {CONTENT_WORD}(?: {CONTENT_WORD}){{0,2}}(?=[,.;:?!)]| {FUNCTION_WORD}\b)"),
}
"""Question words and the phrases they replace: numbers, names, and an article with one to three words."""


def _cloze_qa(paragraphs: list[str], _previous: list[str], random: Random) -> Iterator[Candidate]:
    for sentence in _shuffled(_sentences(paragraphs), random):
        phrases = {word: list(pattern.finditer(sentence.text)) for word, pattern in PHRASES.items()}
        words = [word for word, matches in phrases.items() if matches]
        if not words:
            continue
        word = random.choice(words)
        phrase = random.choice(phrases[word])
        question = make_question(sentence.text, phrase.start(), phrase.end(), word, random)
        if question is None or phrase.group().lower() in question.lower():
            continue
        context, start = _context(paragraphs, sentence.paragraph, random)
        answers = {"text": [phrase.group()], "answer_start": [start + sentence.start + phrase.start()]}
        yield sentence.text, ({"question": question, "context": context, "answers": answers},)


def make_question(sentence: str, start: int, end: int, question_word: str, random: Random) -> str | None:
    """Replace `sentence[start:end]` by the question word and cut randomly; None if too few words are left."""
    before, after = sentence[:start].split(), sentence[end:].rstrip(" .!?\"'”’)").split()
    before = before[-random.randint(MIN_QUESTION_WORDS, QUESTION_WORDS) :]
    after = after[: random.randint(MIN_QUESTION_WORDS, QUESTION_WORDS)]
    if len(before) + len(after) < MIN_QUESTION_WORDS:
        return None
    joined = " ".join([*before, question_word, *after]).rstrip(" ,;:")
    return re.sub(r" ([,;:.])", r"\1", joined) + "?"


def _context(paragraphs: list[str], number: int, random: Random) -> tuple[str, int]:
    """Return the paragraph with up to one neighbour on each side, and the paragraph's first character in it."""
    context, start = paragraphs[number], 0
    for neighbour in random.sample((number - 1, number + 1), 2):
        inside = 0 <= neighbour < len(paragraphs)
        if inside and len(context) + 1 + len(paragraphs[neighbour]) <= CONTEXT_CHARACTERS:
            if neighbour < number:
                context, start = f"{paragraphs[neighbour]} {context}", len(paragraphs[neighbour]) + 1
            else:
                context = f"{context} {paragraphs[neighbour]}"
    return context, start


@dataclass(frozen=True)
class _Kept:
    """Cached examples, and what they were made from."""

    rows: list[SyntheticExample]
    digests: list[str]
    """Hashes of the documents read."""
    is_full: bool
    """Whether the requested number of examples was reached, so that no further document was read."""


_KEPT: dict[Hashable, _Kept] = {}
MOST_KEPT = 16
"""Sets of examples that a process caches: three tasks, train and validation, and some seeds; about 10 MB each."""

# Makers yield candidates in random order, one by one, so that no more are made than are used.
TASKS = (
    Task(
        "acceptability", "Acceptability", TABLE, "classification", "text", None, ("unacceptable", "acceptable"),
        ("matthews_correlation", "accuracy"), "matthews_correlation", make=_acceptability,
    ),
    Task(
        "adjacency", "Adjacency", TABLE, "classification", "text", "text_pair", ("not_adjacent", "adjacent"),
        ("accuracy",), "accuracy", make=_adjacency,
    ),
    Task(
        "cloze-qa", "Cloze QA", TABLE, "span", "question", "context", (), ("exact_match", "f1"), "f1", make=_cloze_qa,
        max_length=384, doc_stride=128,
    ),
)  # fmt: skip


def make(
    task: Task, documents: Iterable[str], *, seed: int, cap: int, exclude: Collection[str] = frozenset()
) -> list[SyntheticExample]:
    """Make at most `cap` examples, with alternating labels; sentences in `exclude` and repeated ones are left out.

    A run requests the same examples dozens of times, and making them takes seconds: the latest sets are cached, and
    returned if the documents are the same.
    """
    assert task.make, f"{task.name} is made from documents"
    asked = (task.name, task.make, seed, cap, frozenset(exclude))
    kept, documents = _KEPT.pop(asked, None), iter(documents)
    if kept is not None:
        is_same, documents = _is_made_from(kept, documents)
        if is_same:
            _KEPT[asked] = kept
            return list(kept.rows)
    rows: list[SyntheticExample] = []
    digests: list[str] = []
    used = set(exclude)
    previous: list[str] = []  # the paragraphs of the previous document
    for document in documents:
        # Seeded by the document, so that its draws do not depend on how many documents came before it.
        digests.append(_digest(document))
        random = Random(f"{seed} {task.name} {digests[-1]}")
        room = min(PER_DOCUMENT, cap - len(rows))
        paragraphs = _paragraphs(document)
        for key, variants in task.make(paragraphs, previous, random):
            if room == 0:
                break
            if key not in used:
                used.add(key)
                label = len(rows) % len(variants)
                rows.append(SyntheticExample(key, {**variants[label], "label": label}))
                room -= 1
        previous = paragraphs
        if len(rows) == cap:
            break
    _KEPT[asked] = _Kept(rows, digests, is_full=len(rows) == cap)
    while len(_KEPT) > MOST_KEPT:
        del _KEPT[next(iter(_KEPT))]
    return list(rows)


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def _is_made_from(kept: _Kept, documents: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Return whether the cached examples were made from these documents, and an iterator over all of them."""
    seen: list[str] = []
    for digest in kept.digests:
        document = next(documents, None)
        if document is None:
            return False, iter(seen)
        seen.append(document)
        if _digest(document) != digest:
            return False, chain(seen, documents)
    if kept.is_full:  # whatever follows
        return True, documents
    further = next(documents, None)
    return further is None, chain(seen, [] if further is None else [further], documents)


def columns(made: list[SyntheticExample], rows: list[int]) -> dict[str, list[Any]]:
    """Return the columns of `Examples` for the chosen rows; `idx` or `id` is the number among all examples made."""
    chosen = [made[row].values for row in rows]
    if "question" in chosen[0]:
        content = {name: [values[name] for values in chosen] for name in ("question", "context", "answers")}
        return {"id": [f"cloze-{row:05d}" for row in rows], **content}
    return {"idx": rows, **{name: [values[name] for values in chosen] for name in chosen[0]}}
