"""`tinydistilbert.load`: from texts to answers, the same from torch and from exported folders."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

import tinydistilbert
from tinydistilbert.errors import UserError
from tinydistilbert.export.quantize import quantize
from tinydistilbert.models import torch_runtime
from tinydistilbert.models.loading import load_model
from tinydistilbert.models.plain_tokenizer import PlainTokenizer
from tinydistilbert.models.torch_runtime import TorchRuntime
from tinydistilbert.predictor import CUT, Predictor, load
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.squad import best_answers

pytestmark = pytest.mark.long

Maker = Callable[[str, str], Path]
TEXTS = ["the student learns", "a cat", "paris is the capital of france ; it lies on the river seine"]
PAIRS = ["some dogs like bones", "in 1889 the tower was built by the engineer", "a book"]
CONTEXT = "Paris is the capital of France; it lies on the river Seine. " * 12


@pytest.fixture(params=["torch", "onnx"])
def folder_of(request: pytest.FixtureRequest, task_model: Maker, exported: Maker) -> Maker:
    return task_model if request.param == "torch" else exported


def test_classes_with_their_probabilities(folder_of: Maker, task_model: Maker, tokenizer) -> None:
    predictor = tinydistilbert.load(folder_of("bert", "classification"))
    assert (predictor.kind, predictor.labels) == ("classification", ("bad", "fair", "good"))
    model = load_model(task_model("bert", "classification"), "classification").eval()
    answers = predictor.predict(TEXTS, PAIRS)
    for text, pair, answer in zip(TEXTS, PAIRS, answers, strict=True):
        with torch.inference_mode():
            expected = softmax(model(**tokenizer(text, pair, return_tensors="pt")).logits[0].numpy())
        np.testing.assert_allclose(list(answer["scores"].values()), expected, atol=1e-4)
        assert answer["label"] == predictor.labels[expected.argmax()]
        assert answer["score"] == answer["scores"][answer["label"]] == max(answer["scores"].values())
        assert abs(sum(answer["scores"].values()) - 1) < 1e-6


def test_one_text_is_answered_as_among_many(folder_of: Maker) -> None:
    predictor = load(folder_of("distilbert", "regression"))
    assert predictor.kind == "regression" and predictor.labels == ()
    many = predictor.predict(TEXTS, PAIRS)
    alone = [predictor.predict(text, pair)[0] for text, pair in zip(TEXTS, PAIRS, strict=True)]
    assert [set(answer) for answer in many] == [{"score"}] * 3
    np.testing.assert_allclose([a["score"] for a in many], [a["score"] for a in alone], atol=1e-5)
    assert len({round(answer["score"], 5) for answer in many}) == 3
    assert predictor.predict([]) == []
    long = [TEXTS[0], " ".join(TEXTS * 40)]
    (whole, cut), (one,) = predictor.predict(long), predictor.predict(long[1])
    assert CUT not in whole and cut[CUT] == one[CUT] == predictor.excess(long)[1] > 0
    assert cut["score"] == pytest.approx(one["score"], abs=1e-5)


@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_in_int8_one_text_is_answered_as_among_many(exported: Maker, head: str, tmp_path: Path) -> None:
    quantize(exported("bert", head), tmp_path / "int8")
    predictor, pairs = load(tmp_path / "int8"), [*PAIRS, CONTEXT]
    texts = [*TEXTS, "Where does Paris lie?"]
    many = predictor.predict(texts, pairs)
    alone = [predictor.predict(text, pair)[0] for text, pair in zip(texts, pairs, strict=True)]
    for one, other in zip(many, alone, strict=True):
        assert one.keys() == other.keys() and one.get("label") == other.get("label")
        assert one.get("answer") == other.get("answer")
        assert one["score"] == pytest.approx(other["score"], rel=0.02, abs=1e-3)


def test_answers_are_pieces_of_their_context_found_over_all_windows(
    folder_of: Maker, task_model: Maker, tokenizer
) -> None:
    predictor = load(folder_of("distilbert", "span"))
    long, short = predictor.predict(["Where does Paris lie?"] * 2, [CONTEXT, "It lies on the Seine."])
    for answer, context in ((long, CONTEXT), (short, "It lies on the Seine.")):
        assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
        assert 0 < answer["score"] < 1
    # the short one by hand: one window, softmax of starts and of ends over the context's tokens
    encoded = tokenizer(
        "Where does Paris lie?", "It lies on the Seine.", return_offsets_mapping=True, return_tensors="pt"
    )
    inside = np.array([name == 1 for name in encoded.sequence_ids(0)])
    model = load_model(task_model("distilbert", "span"), "span").eval()
    with torch.inference_mode():
        output = model(input_ids=encoded["input_ids"])
    logits = torch.stack((output.start_logits[0], output.end_logits[0]), -1).numpy()
    offsets = np.where(inside[:, None], encoded["offset_mapping"][0].numpy(), -1)
    best = best_answers([logits], [offsets], "It lies on the Seine.")[0]
    chance = np.exp(best.score) / np.exp(logits[inside].astype(np.float64)).sum(0).prod()
    assert short["answer"] == best.text
    assert short["score"] == pytest.approx(chance, rel=1e-3)


def test_both_forms_give_the_same_answers(task_model: Maker, exported: Maker) -> None:
    torch_predictor, onnx_predictor = (load(folder("bert", "span"), threads=1) for folder in (task_model, exported))
    for one, other in zip(
        *(p.predict(["Where is it?", "Who?"], [CONTEXT, CONTEXT]) for p in (torch_predictor, onnx_predictor)),
        strict=True,
    ):
        assert (one["answer"], one["start"], one["end"]) == (other["answer"], other["start"], other["end"])
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)


def test_what_it_cannot_answer_is_told(folder_of: Maker) -> None:
    predictor = load(folder_of("distilbert", "regression"))
    with pytest.raises(UserError, match="2 texts and 1 pairs"):
        predictor.predict(["one", "two"], ["pair"])
    with pytest.raises(UserError, match="a context for each question"):
        load(folder_of("bert", "span")).predict("Where?")


def test_what_is_no_text_is_told_with_its_number(tokenizer) -> None:
    nothing: Any = None
    whole = Predictor(nothing, tokenizer, "regression", (), 32)
    bad: list[Any] = [float("nan"), None, 3, b"a", "half of a pair \ud83d", ("a", "b")]
    for one in bad:
        with pytest.raises(UserError, match=r"texts\[1\]: expected a text, found"):
            whole.predict(["a", one])
        with pytest.raises(UserError, match=r"pairs\[0\]: expected a text, found"):
            whole.predict(["a", "é \U0001f600"], [one, "b"])
    tagger = Predictor(nothing, tokenizer, "token-classification", ("O",), 32)
    for one in bad[:3]:
        with pytest.raises(UserError, match=r"texts\[1\]: expected a text, found"):
            tagger.predict(["a", one])
        with pytest.raises(UserError, match=r"texts\[1\]\[2\]: expected a text, found"):
            tagger.predict(["a", ["a", "b", one]])


@pytest.mark.parametrize("kind", ["regression", "token-classification"])
def test_what_is_neither_a_text_nor_several_is_told(tokenizer, kind: Any) -> None:
    nothing: Any = None
    predictor = Predictor(nothing, tokenizer, kind, ("O",), 32)
    bad: list[Any] = [None, 3, {"text": "a"}, pd.DataFrame({"text": ["a", "b"]})]
    for one in bad:
        with pytest.raises(UserError, match=rf"texts: expected a text or several, found a {type(one).__name__}"):
            predictor.predict(one)
    with pytest.raises(UserError, match="pairs: expected a text or several, found a int"):
        Predictor(nothing, tokenizer, "regression", (), 32).predict("a", bad[1])


def tagger_of(folder: Path, tokenizer: Any) -> Predictor:
    """A model of two outputs as one that tags words."""
    runtime = TorchRuntime(load_model(folder, "token-classification"), span=False)
    return Predictor(runtime, tokenizer, "token-classification", ("O", "B-X"), 64)


@pytest.mark.parametrize("head", ["classification", "token-classification"])
def test_a_column_or_a_generator_is_read_as_a_list(task_model: Maker, tokenizer, head: str) -> None:
    folder = task_model("distilbert", head)
    predictor = load(folder) if head == "classification" else tagger_of(folder, tokenizer)
    expected = predictor.predict(TEXTS)
    several: list[Any] = [iter(TEXTS), pd.Series(TEXTS, index=[3, 5, 7]), np.array(TEXTS), tuple(TEXTS)]
    for one in several:
        assert predictor.predict(one) == expected
    empty: list[Any] = [iter(()), np.array([]), pd.Series([], dtype=object)]
    assert [predictor.predict(one) for one in empty] == [[]] * 3


class Alone:
    """Counts the threads that are between its beginning and its end, and stays there for a while."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


def test_of_threads_one_at_a_time_changes_tokenizer_and_model(
    task_model: Maker, exported: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_tokenizer, in_model = Alone(), Alone()
    call = PlainTokenizer.__call__

    def counted(*arguments: Any, **settings: Any) -> Any:
        with in_tokenizer:
            return call(*arguments, **settings)

    monkeypatch.setattr(PlainTokenizer, "__call__", counted)
    monkeypatch.setattr(torch_runtime, "first_token_only", lambda _: in_model)
    spans, classes = load(exported("distilbert", "span")), load(task_model("distilbert", "classification"))
    expected = spans.predict(TEXTS, [CONTEXT, *PAIRS[:2]])
    with ThreadPoolExecutor(4) as threads:
        several = [*threads.map(lambda _: spans.predict(TEXTS, [CONTEXT, *PAIRS[:2]]), range(4))]
        [*threads.map(lambda _: classes.predict(TEXTS), range(4))]
    assert several == [expected] * 4
    assert (in_tokenizer.most, in_model.most) == (1, 1)


@pytest.mark.parametrize("head", ["classification", "regression", "span"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(task_model: Maker, head: str, bad: float) -> None:
    predictor = load(task_model("distilbert", head))
    computed = predictor.runtime

    class Broken:
        name, token_types = computed.name, computed.token_types

        def __call__(self, inputs):
            logits = computed(inputs)
            logits[0, -1] = bad
            return logits

    predictor.runtime = Broken()
    with pytest.raises(UserError, match=r"1 of 2 .*not finite"):
        predictor.predict(["Paris is old", "what is a river ?"], ["Paris", "a river"] if head == "span" else None)


def test_folders_that_are_no_task_model_are_told(
    task_model: Maker, exported: Maker, folder_of: Maker, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="found a masked language model"):
        load(folder_of("bert", "masked-lm"))
    with pytest.raises(UserError, match="expected a model folder or hub name"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="compiled: expected a torch model"):
        load(exported("bert", "span"), compiled=True)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_settings_that_are_no_numbers_are_told(task_model: Maker, exported: Maker, form: str) -> None:
    folder = (task_model if form == "torch" else exported)("distilbert", "span")
    bad: list[Any] = [-1, 1.5, "2", True]
    for threads in bad:
        with pytest.raises(UserError, match=rf"threads: expected a whole number from 0 on, found {threads!r}"):
            load(folder, threads=threads)
    worse: list[Any] = ["0", np.nan, False]
    for threshold in worse:
        with pytest.raises(UserError, match=rf"null threshold: expected a number, found {threshold!r}"):
            load(folder, null_threshold=threshold)
    assert load(folder, threads=1, null_threshold=np.float32(-2)).null_threshold == -2.0


def test_files_that_changed_are_told(exported: Maker, tmp_path: Path) -> None:
    shutil.copytree(exported("distilbert", "classification"), tmp_path, dirs_exist_ok=True)
    assert isinstance(load(tmp_path), Predictor)
    config = atomic.read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(str(config).replace("good", "fine"))
    with pytest.raises(UserError, match="found other content"):
        load(str(tmp_path))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, tinydistilbert; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"False"
    assert tinydistilbert.load is load
    with pytest.raises(AttributeError, match="lode"):
        _ = tinydistilbert.lode
