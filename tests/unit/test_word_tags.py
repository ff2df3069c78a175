"""Named entities: reading CoNLL files, lists of words and tags, and pieces of texts; schemes of tags; the metrics."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, pipeline

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.api import inputs
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics, resampling
from tinydistilbert.evaluation.by_type import scores_by_type
from tinydistilbert.evaluation.scoring import majority_headline, predictions_of_tags, score
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.finetuning.soft_targets import SoftTargets, make_soft_targets
from tinydistilbert.finetuning.teacher_check import check_teacher
from tinydistilbert.models.loading import load_config, load_model, save_model
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.task_head import output_layer
from tinydistilbert.predictor import load
from tinydistilbert.recipe.schema import Corpus, CustomTask, TaskDistillation
from tinydistilbert.tasks import HELD_OUT, load_examples
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.encoding import NO_LABEL, collate, encode
from tinydistilbert.tasks.entities import NO_ENTITIES, as_iob2, counts, entities_of, tag_names, tags_of
from tinydistilbert.tasks.tag_baseline import MostFrequentTag
from tinydistilbert.tasks.unlabelled import read_unlabelled
from tinydistilbert.tasks.words import is_first_piece, joined, word_predictions, word_tokens, words_in

CONLL = "EU B-ORG\nrejects O\nGerman B-MISC\ncall O\n\nPeter B-PER\nBlackburn I-PER\n\nin O\nNew B-LOC\nYork I-LOC\n"
NAMES = ["O", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
TOKENS = [["EU", "rejects", "German", "call"], ["Peter", "Blackburn"], ["in", "New", "York"]]
TAGS = [["B-ORG", "O", "B-MISC", "O"], ["B-PER", "I-PER"], ["O", "B-LOC", "I-LOC"]]


def task(train: object = "", validation: object = "", **columns: Any) -> Task:
    settings = CustomTask(train=str(train), validation=str(validation), kind="token-classification", **columns)
    return custom_task("mine", settings)


def read(of: Task, split: str = "train", **more: Any) -> Examples:
    notices.begin()
    return load_examples(of, split, data=None, corpus=Corpus(), limit=0, seed=0, **more)


def notice_text() -> str:
    return "\n".join(notices.all_notices())


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def named(examples: Examples) -> list[list[str]]:
    return [[examples.task.labels[tag] for tag in tags] for tags in examples.columns["label"]]


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows))


# Reading.


def as_rows(tags: list[Any], **names: str) -> list[dict[str, Any]]:
    text, label = names.get("text", "tokens"), names.get("label", "ner_tags")
    return [{text: words, label: of_words} for words, of_words in zip(TOKENS, tags, strict=True)]


SPANS = [
    {"text": "EU rejects German call", "entities": [
        {"start": 11, "end": 17, "label": "MISC"}, {"start": 0, "end": 2, "label": "ORG"},
    ]},
    {"text": "Peter Blackburn", "entities": [{"start": 0, "end": 15, "label": "PER"}]},
    {"text": "in New York", "entities": [{"start": 3, "end": 11, "label": "LOC"}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.conll", CONLL, {}),
        ("a.txt", "-DOCSTART- -X- O O\n\n" + CONLL.replace(" ", " NN I-NP "), {}),
        ("a.bio", CONLL.replace(" ", "\t").replace("\n\n", "\n \t\n"), {}),
        ("a.conll", CONLL.replace("EU B-ORG", "# a comment of words\nEU B-ORG").replace("\n", "\r\n"), {}),
        ("a.txt", CONLL.replace(" ", "\tX\t").replace("\n", "\tlast\n").replace("\tlast\n\tlast", "\tlast\n")
         .replace("O\tlast", "O\tO"), {"label": "3"}),
        ("a.tsv", CONLL.replace(" ", "\t"), {}),
        ("a.tsv", "tokens\tner_tags\n" + "".join(f"{w}\t{t}\n" for w, t in zip(TOKENS, TAGS, strict=True)), {}),
        ("a.jsonl", lines(*as_rows(TAGS)), {}),
        ("a.jsonl", lines(*as_rows(TAGS, label="tags")), {}),
        ("a.jsonl", lines(*as_rows(TAGS, text="ws", label="x")), {"text": "ws", "label": "x"}),
        ("a.jsonl", lines(*SPANS), {}),
        ("a.jsonl", lines(*({"text": r["text"], "spans": r["entities"]} for r in SPANS)), {}),
        ("a.jsonl", lines(*({"text": r["text"], "label": [[*s.values()] for s in r["entities"]]} for r in SPANS)), {}),
        ("a.csv", "tokens,ner_tags\n" + "".join(f'"{w}","{t}"\n' for w, t in zip(TOKENS, TAGS, strict=True)), {}),
    ],
)  # fmt: skip
def test_every_way_of_writing_entities_is_read_alike(
    tmp_path: Path, name: str, content: str, columns: dict[str, Any]
) -> None:
    examples = read(task(written(tmp_path / name, content), **columns))
    assert examples.task.labels == tuple(NAMES)
    assert named(examples) == TAGS
    assert examples.columns["text"] == [" ".join(words) for words in TOKENS]
    assert examples.columns["words"][0] == ((0, 2), (3, 10), (11, 17), (18, 22))
    assert ("-DOCSTART-" in notice_text()) == ("-DOCSTART-" in content)
    assert ("1 comment line" in notice_text()) == ("comment" in content)


def test_numbers_have_the_names_that_the_data_set_gives_them(tmp_path: Path) -> None:
    order = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "B-ORG", "B-MISC"]
    numbers = [[order.index(tag) for tag in tags] for tags in TAGS]
    of_tags = datasets.List(datasets.ClassLabel(names=order))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": of_tags})
    rows = datasets.Dataset.from_dict({"tokens": TOKENS, "ner_tags": numbers}, features=features)
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "a.parquet"))
    for source in (tmp_path / "saved", tmp_path / "a.parquet"):
        for label in ("label", "ner_tags"):
            examples = read(task(source, label=label))
            assert named(examples) == TAGS and examples.task.labels == tuple(NAMES)


def test_python_data_of_every_form_is_read(tmp_path: Path) -> None:
    import pandas as pd

    triples = [[tuple(span.values()) for span in row["entities"]] for row in SPANS]
    texts = [row["text"] for row in SPANS]
    forms: list[Any] = [
        [{"tokens": words, "ner_tags": tags} for words, tags in zip(TOKENS, TAGS, strict=True)],
        pd.DataFrame({"tokens": TOKENS, "ner_tags": TAGS}),
        pd.DataFrame({"text": texts, "entities": triples}),
        [{"text": text, "spans": spans} for text, spans in zip(texts, triples, strict=True)],
        pd.DataFrame(SPANS),
    ]
    for number, form in enumerate(forms):
        file = inputs.written(inputs.as_given(form, "train"), tmp_path / f"{number}.parquet")
        assert named(read(task(file))) == TAGS, number


@pytest.mark.parametrize("separator", [" ", "  ", "\t"])
def test_a_word_of_a_conll_file_may_have_a_no_break_space(tmp_path: Path, separator: str) -> None:
    words = [("10\u00a0000", "B-NUM"), ("mots", "O")]
    file = written(tmp_path / "a.conll", "\n".join(map(separator.join, words)))
    examples = read(task(file))
    assert examples.columns["text"] == ["10\u00a0000 mots"] and examples.columns["words"] == [((0, 6), (7, 11))]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONLL.replace("B-MISC", "NN"), ":1, column ner_tags, word 3|IOB tag|'NN'|--label"),
        (CONLL.replace("call O", "call"), ":4|2 columns separated by blanks|1: 'call'|empty line"),
        ("EU\nrejects\n", ":1|only one column|tag on each line"),
        (CONLL.replace("B-", "X-").replace("I-", "X-"), "IOB tag|'X-ORG'"),
        ("a O\nb O\n\nc O\n", "no text has an entity|--label"),
        ("\n\n", "at least one sentence"),
    ],
)
def test_a_conll_file_that_is_none_is_refused_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        read(task(written(tmp_path / "a.conll", content)))
    assert all(word in str(error.value) for word in words.split("|")), error.value


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (as_rows([TAGS[0], TAGS[1][:1], TAGS[2]]), ":2, column ner_tags|as many tags as words|2 words and 1 tag"),
        (as_rows([[1, 0, 2, 0], [3, 4], [0, 5, 6]]), ":1|number, 1|names"),
        (as_rows([TAGS[0], None, TAGS[2]]), ":2|list of tags|nothing"),
        ([{"tokens": [], "ner_tags": []}], "list of words"),
        ([{"text": "a b", "entities": [{"start": 2, "end": 4, "label": "X"}]}], ":1|3 characters|X 2–4"),
        ([{"text": "a b", "entities": [{"start": 2, "end": 2, "label": "X"}]}], "3 characters"),
        ([{"text": "a b", "entities": [{"start": 1, "end": 2, "label": "X"}]}], "white space alone"),
        ([{"text": "a b", "entities": [{"start": 0, "label": "X"}]}], "start and end"),
        ([{"text": "a b", "entities": None}, SPANS[0]], ":1|list of pieces"),
        ([{"text": "a b c", "entities": [
            {"start": 0, "end": 3, "label": "X"}, {"start": 2, "end": 5, "label": "Y"},
        ]}], "overlap|X 0–3 and Y 2–5"),
        ([{"words": ["a"], "tags": ["O"]}], "tokens|--text"),
    ],
)  # fmt: skip
def test_rows_with_another_fault_are_refused(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UserError) as error:
        read(task(written(tmp_path / "a.jsonl", lines(*rows))))
    assert all(word in str(error.value) for word in words.split("|")), error.value


def test_a_type_that_only_the_validation_has_is_refused(tmp_path: Path) -> None:
    train, scored = written(tmp_path / "a.conll", CONLL), written(tmp_path / "b.conll", CONLL.replace("-PER", "-PERS"))
    of = task(train, scored)
    with pytest.raises(UserError, match=r"b\.conll:6.*a tag of the train split.*B-PERS.*did you mean 'B-PER'"):
        read(of, "validation")
    longer = written(tmp_path / "c.conll", "EU B-ORG\nCommission I-ORG\n")  # I-ORG is in no train example
    assert named(read(task(train, longer), "validation")) == [["B-ORG", "I-ORG"]]


def test_a_conll_file_of_another_kind_is_refused_with_the_kind_it_is_for(tmp_path: Path) -> None:
    file = written(tmp_path / "a.conll", CONLL)
    with pytest.raises(UserError, match="--kind token-classification"):
        read(custom_task("mine", CustomTask(train=str(file))))


def test_a_second_text_is_refused() -> None:
    with pytest.raises(UserError, match="text_pair"):
        task(text_pair="other")


def test_entities_inside_words_are_widened_and_told(tmp_path: Path) -> None:
    rows = [
        {"text": "Parisians in Paris-Nord.", "entities": [
            {"start": 0, "end": 5, "label": "LOC"}, {"start": 5, "end": 9, "label": "PER"},
            {"start": 13, "end": 18, "label": "LOC"}, {"start": 18, "end": 23, "label": "LOC"},
        ]},
    ]  # fmt: skip
    examples = read(task(written(tmp_path / "a.jsonl", lines(*rows))))
    assert named(examples) == [["B-LOC", "O", "B-LOC", "B-LOC", "I-LOC", "O"]]
    assert "2 of 4 entities begin or end inside a word" in notice_text()
    assert "1 of 4 entities share a word" in notice_text()


def test_both_sides_of_a_hold_out_have_every_type_that_has_two_texts(tmp_path: Path) -> None:
    sentences = [f"a{i} O\nb{i} B-X" for i in range(40)] + [f"c{i} B-Y\nd{i} I-Y" for i in range(2)] + ["e B-Z"]
    of = task(written(tmp_path / "a.conll", "\n\n".join(sentences) + "\n"))
    scored, rest = read(of, HELD_OUT, held_out=5), read(of, "train", held_out=5)
    assert len(scored) == 5 and len(rest) == 38
    for examples in (scored, rest):
        assert {"B-X", "B-Y"} <= {tag for tags in named(examples) for tag in tags}
    assert "1 class has no examples on one side of the hold-out: Z" in notice_text()


# Tags.


@pytest.mark.parametrize(
    ("written_tags", "scheme", "changed"),
    [
        ("I-A I-A O I-B B-B I-A", "IOB1", 3),
        ("B-A L-A O U-B U-B U-A", "BILOU", 4),
        ("B-A E-A O S-B S-B S-A", "BIOES", 4),
        ("B-A E-A O W-B W-B W-A", "BIOES", 4),
        ("B-A I-A O B-B B-B B-A", "IOB1", 0),
    ],
)
def test_other_schemes_are_read_as_iob2(written_tags: str, scheme: str, changed: int) -> None:
    converted = as_iob2([written_tags.split()])
    assert converted.tags == [["B-A", "I-A", "O", "B-B", "B-B", "B-A"]]
    assert (converted.scheme, converted.changed) == (scheme, changed)


def test_another_scheme_is_told(tmp_path: Path) -> None:
    content = CONLL.replace("B-", "I-")
    assert named(read(task(written(tmp_path / "a.conll", content)))) == TAGS
    assert "4 of 9 tags are written in the scheme IOB1 and converted to IOB2" in notice_text()


tags_strategy = st.lists(st.sampled_from(tag_names(("A", "B"))), max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(tags_strategy, tags_strategy), min_size=1, max_size=6))
def test_entities_and_scores_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    pytest.importorskip("seqeval")
    from seqeval.metrics import sequence_labeling as labeling

    gold = [one[: len(other)] for one, other in pairs]
    guesses = [other[: len(one)] for one, other in pairs]
    for tags in gold:
        assert entities_of(tags) == labeling.get_entities(tags)
        assert entities_of(tags_of(entities_of(tags), len(tags))) == entities_of(tags)
    table = np.array([counts(*pair) for pair in zip(gold, guesses, strict=True)])
    for name in ("precision", "recall", "f1"):
        value = float(metrics.METRICS_OF_LABELS[f"entity_{name}"](np.zeros_like(table), table))
        expected = getattr(labeling, f"{name}_score")(gold, guesses, zero_division=0)
        assert value == pytest.approx(expected)
    if any(map(entities_of, gold)):
        report = labeling.classification_report(gold, guesses, output_dict=True, zero_division=0)
        for kind, scores in scores_by_type(gold, guesses).items():
            names = {"precision": "precision", "recall": "recall", "f1": "f1-score", "entities": "support"}
            assert scores == {mine: pytest.approx(float(report[kind][key])) for mine, key in names.items()}


def test_resamples_and_the_paired_test_count_entities_of_sentences() -> None:
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 4, 200)
    one = np.stack([gold, gold, gold], -1)  # always right
    right = draw.binomial(gold, 0.6)
    other = np.stack([right, gold, gold], -1)
    paired = resampling.paired_test(
        "token-classification", "entity_f1", np.zeros_like(one), one[None], other[None], seed=0
    )
    assert paired.first == 1 and paired.second == pytest.approx(right.sum() / gold.sum())
    low, high = paired.interval
    assert low < paired.difference < high < 1 and low > 0.2 and paired.p < 0.001


# Words.


@pytest.mark.parametrize(
    "text",
    [
        "In New York-based AC/DC's U.S. tour.",
        "Zoë's café – „schön“ (3,5 €)",
        "北京 is Beijing",
        "a_b\t c\n",
        "cafe\u0301 x",
    ],
)
def test_words_are_those_that_berts_tokenizer_begins_with(text: str) -> None:
    from tokenizers import pre_tokenizers
    from transformers import BertTokenizerFast  # noqa: F401  # the same pre-tokenizer

    parts = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)
    if "北" in text:  # its normaliser sets blanks around ideographs
        assert [text[a:b] for a, b in words_in(text)] == ["北", "京", "is", "Beijing"]
    else:
        assert [text[a:b] for a, b in words_in(text)] == [word for word, _ in parts]


def test_random_sentences_keep_their_entities_through_characters(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = []
    for _ in range(20):
        words = [draw.choice(["Paris", "x", "New", "York", ",", "the"]) for _ in range(8)]
        text, at = " ".join(words), draw.randrange(6)
        start = len(" ".join(words[:at])) + bool(at)
        rows.append({"text": text, "entities": [{"start": start, "end": start + len(" ".join(words[at : at + 2])),
                                                 "label": "L"}]})  # fmt: skip
    examples = read(task(written(tmp_path / "a.jsonl", lines(*rows))))
    for row, text, words, tags in zip(
        rows, *(examples.columns[n] for n in ("text", "words")), named(examples), strict=True
    ):
        ((kind, first, last),) = entities_of(tags)
        span = row["entities"][0]
        assert (kind, text[words[first][0] : words[last][1]]) == ("L", text[span["start"] : span["end"]])


# Models.


def tagged(*rows: tuple[str, str], labels: tuple[str, ...] = ("O", "B-L", "I-L")) -> Examples:
    """Examples of words with blanks between them and their tags."""
    texts = [joined(words.split()) for words, _ in rows]
    columns = {
        "idx": [*range(len(rows))], "text": [text for text, _ in texts], "words": [words for _, words in texts],
        "label": [tuple(labels.index(tag) for tag in tags.split()) for _, tags in rows],
    }  # fmt: skip
    return Examples(dataclasses.replace(task(), labels=labels), "validation", columns, len(rows))


def test_a_words_label_is_at_its_first_piece_and_nowhere_else(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = tagged(("capitals of gustaves \u200b eiffels", "O O B-L I-L I-L"))
    features = encode(examples, tokenizer, 64)
    pieces = tokenizer.convert_ids_to_tokens(features.input_ids[0])
    at = {int(place): int(label) for place, label in enumerate(features.labels[0]) if label != NO_LABEL}
    assert [pieces[place][0] for place in at] == ["c", "o", "g", "e"] and [*at.values()] == [0, 0, 1, 2]
    assert len(pieces) > 6 and features.word_tokens is not None and features.word_tokens[0][3] == -1
    batch = collate(features, [0], 0, token_types=True, pad_to=len(pieces) + 3)
    assert batch["labels"].shape == (1, len(pieces) + 3) and (batch["labels"][0, -3:] == NO_LABEL).all()


def test_words_that_share_a_token_go_on_as_the_first_and_cut_ones_are_outside() -> None:
    offsets = [(0, 0), (0, 2), (2, 6), (7, 9), (0, 0)]
    words = [(0, 2), (2, 4), (4, 6), (7, 9), (10, 12)]
    tokens = word_tokens(words, offsets)
    assert tokens.tolist() == [1, 2, 2, 3, -1] and is_first_piece(tokens).tolist() == [True, True, False, True, False]
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 2]] * 5
    predicted = word_predictions(logits, tokens, ("O", "B-L", "I-L"))
    assert predicted.tags == ["O", "B-L", "I-L", "O", "O"] and predicted.are_finite
    assert predicted.probabilities[:4] == pytest.approx(np.exp(5) / (np.exp(5) + 2)) and predicted.probabilities[4] == 1
    logits[3] = np.nan
    broken = word_predictions(logits, tokens, ("O", "B-L", "I-L"))
    assert broken.tags == ["O", "B-L", "I-L", "O", "O"] and not broken.are_finite


def test_the_loss_counts_words_and_not_examples(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.scrambled(tiny.model("bert", "token-classification", num_labels=3))
    features = encode(tagged(("paris is small", "B-L O O"), ("she", "O")), tokenizer, 64)
    whole, parts = (
        collate(features, [0, 1], 0, token_types=True),
        [collate(features, [row], 0, token_types=True) for row in (0, 1)],
    )
    objective, student = TaskLoss("token-classification"), ProjectedStudent(model)
    shares = [share["hard"] for share in objective.token_shares(parts)]
    assert shares == [0.75, 0.25]
    total, _ = objective.loss(student, whole, {"hard": 1.0}, 0)
    each = [objective.loss(student, part, {"hard": 1.0}, 0)[0] for part in parts]
    tiny.assert_equal_up_to_rounding(total, shares[0] * each[0] + shares[1] * each[1])
    logits = model(**{name: whole[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    tiny.assert_equal_up_to_rounding(total, F.cross_entropy(logits.flatten(0, 1), whole["labels"].flatten()))


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "mpnet", "modernbert"])
def test_a_model_of_any_family_tags_words_as_transformers_does(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, family: str
) -> None:
    made = tiny.scrambled(tiny.model(family, "token-classification", num_labels=3))
    with torch.no_grad():
        output_layer(made).bias[0] -= made.get_parameter("classifier.weight").abs().sum() / 8
    made.config.id2label = {0: "O", 1: "B-L", 2: "I-L"}
    save_model(made, tokenizer, tmp_path, max_length=16)
    text = "Paris, the capital of France; a book by the river Seine and many people came to see it."
    (answer,) = load(tmp_path).predict([text[:40]])
    asked = pipeline("token-classification", model=made, tokenizer=tokenizer, aggregation_strategy="first")
    expected = [(e["entity_group"], e["start"], e["end"], pytest.approx(float(e["score"]), abs=1e-4))
                for e in asked(text[:40])]  # fmt: skip
    assert [(e["label"], e["start"], e["end"], e["score"]) for e in answer["entities"]] == expected and expected
    (cut,) = load(tmp_path).predict(text)
    assert cut["cut_tokens"] > 0 and all(e["end"] < len(text) - 20 for e in cut["entities"])


def test_other_heads_are_not_taken_for_one_that_tags_words(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for head, other in (("token-classification", "classification"), ("classification", "token-classification")):
        save_model(tiny.model("distilbert", head, num_labels=3), tokenizer, tmp_path / head)
        with pytest.raises(UserError, match=f"head of {other}.*DistilBertFor"):
            load_model(tmp_path / head, other, require_head=True)
        labels = ("O", "B-L", "I-L")
        begun = load_model(tmp_path / head, other, labels=labels)  # an encoder to start from
        assert begun.config.id2label == dict(enumerate(labels))
        of = dataclasses.replace(task(), labels=labels, kind=other)
        with pytest.raises(UserError, match="tags words"):
            check_classes(tmp_path / head, load_config(tmp_path / head), of)
    with pytest.raises(UserError, match=r"IOB tags.*LABEL_0"):
        load(tmp_path / "token-classification")


def test_the_cheap_baseline_gives_each_word_its_most_frequent_tag() -> None:
    train = tagged(("paris x x", "B-L O I-L"), ("paris paris y", "O B-L O"))
    guesses = MostFrequentTag.fit(train).tags(tagged(("paris x z y", "B-L O O O")))
    assert guesses == [["B-L", "O", "O", "O"]]
    scored = tagged(("paris x", "B-L I-L"), ("y", "O"))
    predictions = predictions_of_tags(scored, MostFrequentTag.fit(train).tags(scored))
    assert predictions.texts == ["paris (L)", NO_ENTITIES] and predictions.gold == ["paris x (L)", NO_ENTITIES]
    assert predictions.values.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert majority_headline(scored) == 0
    value, details = score(scored, predictions, seed=0)["entity_f1"]
    assert value == 0 and details["majority"] == 0 and "not above" in str(details["warnings"])


def test_soft_targets_lie_at_the_words_that_the_teacher_read(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    teacher = tiny.scrambled(tiny.model("distilbert", "token-classification", num_labels=3))
    teacher.config.id2label = {0: "B-L", 1: "O", 2: "I-L"}  # another order
    save_model(teacher, tokenizer, tmp_path / "teacher", max_length=8)
    examples = tagged(
        ("gustave eiffels tower", "B-L I-L O"), ("she walked to the old house near the lake", "O O O B-L I-L I-L O O O")
    )
    texts = examples.columns["text"]
    make_soft_targets(
        examples, [tmp_path / "teacher"], tmp_path / "soft", tokenizer=tokenizer, max_length=16,
        device=torch.device("cpu"),
    )  # fmt: skip
    features = encode(examples, tokenizer, 16)
    batch = SoftTargets.open(tmp_path / "soft", examples, features).batch(np.array([0, 1]))
    teacher_words, assigned = batch["teacher_words"], features.labels != NO_LABEL
    assert teacher_words.shape == assigned.shape and not (teacher_words.numpy() & ~assigned).any()
    assert teacher_words.sum(1).tolist() == [3, 6] and assigned.sum(1).tolist() == [3, 9]  # the teacher reads 8 tokens
    for row, text in enumerate(texts):
        inputs = tokenizer(text, truncation=True, max_length=8, return_tensors="pt", return_token_type_ids=False)
        logits = teacher(**inputs).logits[0][:, [1, 0, 2]]
        positions = teacher_words[row].nonzero().flatten()
        tiny.assert_equal_up_to_rounding(batch["teacher_logits"][row, positions], logits[positions])

    student = tiny.scrambled(tiny.model("bert", "token-classification", num_labels=3))
    objective = TaskLoss("token-classification", TaskDistillation(soft=1.0, temperature=2.0))
    whole = collate(features, [0, 1], 0, token_types=True) | batch
    loss, _ = objective.loss(ProjectedStudent(student), whole, {"soft": 1.0}, 0)
    logits = student(**{name: whole[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    of_teacher = batch["teacher_logits"][teacher_words]
    expected = 4 * F.kl_div(
        (logits[teacher_words] / 2).log_softmax(-1),
        (of_teacher / 2).log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    tiny.assert_equal_up_to_rounding(loss, expected)
    halves = [{name: value[row : row + 1] for name, value in whole.items()} for row in (0, 1)]
    shares = [share["soft"] for share in objective.token_shares(halves)]
    assert shares == [count / int(teacher_words.sum()) for count in teacher_words.sum(1).tolist()]


def test_a_teacher_that_says_nothing_about_the_tags_is_refused() -> None:
    right = np.zeros((40, 3))
    examples = tagged(*[("paris is x y", "B-L O O I-L")] * 10)
    right[np.arange(40), np.concatenate(examples.columns["label"])] = 5
    right[3] = np.nan  # a word that was not read
    check_teacher("teacher", right, examples, order=[0, 1, 2], is_given=False)
    with pytest.raises(UserError, match="39 train words"):
        check_teacher("teacher", np.where(np.isnan(right), right, 1.0) * [0, 0, 1], examples, order=[0, 1, 2],
                      is_given=False)  # fmt: skip


def test_further_texts_have_words_to_be_taught_at(tmp_path: Path) -> None:
    of = dataclasses.replace(task(), labels=tuple(NAMES))
    texts = read_unlabelled(written(tmp_path / "a.txt", "In Paris.\nno name\n"), of)
    assert (
        texts.columns["words"] == [((0, 2), (3, 8), (8, 9)), ((0, 2), (3, 7))] and texts.columns["label"] == [None] * 2
    )
