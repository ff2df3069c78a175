"""demo: what lies in its folder, what it refuses, and the page in a real browser, where one is installed."""

import json
import os
import random
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import tiny
from tests.unit.browser import CHROMIUM, Browser, browser
from tinydistilbert.demo.build import PAGE, demo, read_examples
from tinydistilbert.demo.show import server_of
from tinydistilbert.errors import UserError
from tinydistilbert.export.to_onnx import export
from tinydistilbert.models.loading import save_model
from tinydistilbert.predictor import load
from tinydistilbert.tasks.entities import entities_of

Maker = Callable[[str, str], Path]
NODE = Path(os.environ.get("TINYDISTILBERT_NODE_MODULES", Path(__file__).resolve().parents[2] / "node_modules"))
HIT = "window.hit=1"
PAYLOADS = [
    f"<script>{HIT}</script>", f"<img src=x onerror={HIT}>", f"<svg onload={HIT}>", f"<body onload={HIT}>",
    f"<iframe src=javascript:{HIT}>", f"<a href=javascript:{HIT}>a</a>", f"\"><script>{HIT}</script>",
    f"'><img src=x onerror='{HIT}'>", f"</textarea><script>{HIT}</script>", f"</option><script>{HIT}</script>",
    f"</script><script>{HIT}</script>", f"<input autofocus onfocus={HIT}>", f"<details open ontoggle={HIT}>",
    f"<video><source onerror={HIT}>", f"<audio src=x onerror={HIT}>", f"<object data=javascript:{HIT}>",
    f"<embed src=javascript:{HIT}>", f"<math><mi xlink:href=javascript:{HIT}>", f"<marquee onstart={HIT}>",
    f"<form action=javascript:{HIT}><button>", f"<style>@import 'javascript:{HIT}';</style>",
    "<meta http-equiv=refresh content=0>", "<base href=https://example.org/>", "<link rel=stylesheet href=x>",
    f"${{{HIT}}}", f"{{{{{HIT}}}}}", f"<%= {HIT} %>", f"`${{{HIT}}}`", f"javascript:{HIT}", f"\\u003cscript>{HIT}",
    f"&lt;script&gt;{HIT}", "&#60;b&#62;", "%3Cscript%3E", "<!--", "-->", "]]>", "\u202eevil", "\u2028line",
    "__proto__", "constructor",
]  # fmt: skip


def test_there_are_forty_payloads() -> None:
    assert len(set(PAYLOADS)) == 40


def test_the_page_inserts_text_alone_and_forbids_the_rest() -> None:
    script, page = ((PAGE / name).read_text(encoding="utf-8") for name in ("demo.js", "index.html"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert word not in script
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "'unsafe-eval'" not in policy
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", page), "no code and no style in the page itself"
    assert set(re.findall(r'<label for="(\w+)"', page)) == {"examples", "text", "pair"} and '<html lang="en">' in page


@pytest.mark.long
def test_the_folder_of_a_demo(exported: Maker, tmp_path: Path) -> None:
    first, second = exported("bert", "classification"), exported("distilbert", "classification")
    new = demo([first, second, first], tmp_path / "new", examples=["a cat", [PAYLOADS[0]]])
    settings = json.loads((new / "models.json").read_text())
    assert [model["name"] for model in settings["models"]] == [f"{first.name} (1)", second.name, f"{first.name} (3)"]
    assert settings["models"][0]["labels"] == ["bad", "fair", "good"] and settings["models"][0]["dtype"] == "fp32"
    assert settings["examples"] == [["a cat"], [PAYLOADS[0]]] and settings["library"].startswith(
        "https://cdn.jsdelivr.net"
    )
    for number in (1, 2, 3):
        model = new / "models" / f"model-{number}"
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {part.name for part in model.iterdir()}
        assert (model / "onnx" / "model.onnx").is_file()
    _, head, _ = (new / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["sdk"] == "static" and card["app_file"] == "index.html" and first.name in card["title"]
    page = (new / "index.html").read_text(encoding="utf-8")
    assert "script-src 'self' 'wasm-unsafe-eval' https://cdn.jsdelivr.net;" in page and PAYLOADS[0] not in page
    with pytest.raises(UserError, match="new"):
        demo([first], new)
    with server_of(new) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/demo.js"
        with urllib.request.urlopen(address) as answer:
            assert answer.headers["Content-Type"] == "text/javascript" and b"textContent" in answer.read()
        with pytest.raises(UserError, match="in use"):
            server_of(new, server.server_address[1])
        server.shutdown()


@pytest.mark.long
def test_what_cannot_be_shown(exported: Maker, task_model: Maker, tmp_path: Path) -> None:
    new, model = tmp_path / "new", exported("bert", "classification")
    for folders, more, words in (
        ([task_model("bert", "classification")], {}, "a torch model"), ([], {}, "folders of models"),
        ([model, exported("bert", "span")], {}, "one kind"), ([tmp_path], {}, "no config.json"),
        ([model], {"offline_assets": tmp_path}, "npm install"),
        ([exported("bert", "span")], {"examples": ["a"]}, "2 texts"),
        ([model], {"examples": ["a", None]}, r"examples, the 2.: expected a text or two, found None"),
        ([model], {"examples": [{"text": "a"}]}, r"the 1.: expected a text or two, found {'text'"),
        ([model], {"examples": [["a", 3]]}, r"the 1.: expected a text or two, found \['a', 3\]"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            demo(folders, new, **more)
        assert not new.exists()


@pytest.mark.long
def test_a_single_text_is_one_example(exported: Maker, tmp_path: Path) -> None:
    new = demo(exported("bert", "classification"), tmp_path / "new", examples="a cat")
    assert json.loads((new / "models.json").read_text())["examples"] == [["a cat"]]


def test_examples_are_read_from_a_file(tmp_path: Path) -> None:
    lines, pairs = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text(f"one\n\n{PAYLOADS[0]}\n")
    pairs.write_text('"one"\n["a", "b"]\n\n')
    assert read_examples(lines) == ["one", PAYLOADS[0]] and read_examples(pairs) == ["one", ["a", "b"]]
    lines.write_text("one\u2028line\x85\r\n\x0btwo\n", encoding="utf-8")
    pairs.write_text('"one\u2028line"\n["a\x85", "b"]\n', encoding="utf-8")
    assert read_examples(lines) == ["one\u2028line\x85", "\x0btwo"]
    assert read_examples(pairs) == ["one\u2028line", ["a\x85", "b"]]
    for wrong in ("3", "{", '["a", 3]', "[]"):
        pairs.write_text(f'"one"\n{wrong}\n')
        with pytest.raises(UserError, match=r"a.jsonl:2"):
            read_examples(pairs)
    with pytest.raises(UserError, match="text file"):
        read_examples(tmp_path / "none.txt")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_page_joins_tags_of_every_scheme_as_python_does() -> None:
    generator = random.Random(0)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BILUESMW" for kind in ("A", "I-B"))]
    texts = [[generator.choice(tags) for _ in range(12)] for _ in range(200)]
    source = (PAGE / "demo.js").read_text(encoding="utf-8")
    (function,) = re.findall(r"^function entitiesOf.*?^}$", source, re.MULTILINE | re.DOTALL)
    words = [[[place, place + 1, tag] for place, tag in enumerate(text)] for text in texts]
    program = f"{function}\nconsole.log(JSON.stringify({json.dumps(words)}.map(entitiesOf)))"
    done = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        [[first, last + 1, kind] for kind, first, last in entities_of(text)] for text in texts
    ]


@contextmanager
def shown(folder: Path, profile: Path) -> Iterator[Browser]:
    """The page of a demo in a browser, when its models are loaded."""
    with server_of(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browser(profile) as page:
            page("Page.navigate", url=f"http://127.0.0.1:{server.server_address[1]}/")
            page.wait("document.getElementById('status')?.textContent === 'Ready.'")
            yield page
        server.shutdown()


needs_a_browser = pytest.mark.skipif(
    CHROMIUM is None or not (NODE / "@huggingface" / "transformers").is_dir(),
    reason="needs Chromium, and @huggingface/transformers in node_modules (TINYDISTILBERT_NODE_MODULES)",
)


@pytest.mark.long
@needs_a_browser
def test_in_a_browser_by_keyboard_alone_payloads_are_text(tokenizer: Any, tmp_path: Path) -> None:
    names = dict(enumerate(PAYLOADS))
    settings = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    save_model(tiny.scrambled(tiny.model("distilbert", "classification", **settings)), tokenizer, tmp_path / "torch")
    export(tmp_path / "torch", tmp_path / "<b>model")
    folder = demo([tmp_path / "<b>model"], tmp_path / "new", examples=PAYLOADS, offline_assets=NODE)
    with shown(folder, tmp_path / "profile") as page:
        page("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        for wanted in ("examples", "text"):
            page.key("Tab", 9)
            assert page.value("document.activeElement.id") == wanted
        page("Input.insertText", text="".join(PAYLOADS))
        page.key("Tab", 9)
        page.key("Tab", 9)
        assert page.value("document.activeElement.id") == "ask"
        page.key("Enter", 13, "\r")
        page.wait("document.getElementById('status').textContent === 'Answered.'")
        labels = page.value("[...document.querySelectorAll('#models li span:first-child')].map(e => e.textContent)")
        assert sorted(labels) == sorted(PAYLOADS)
        expected = load(tmp_path / "<b>model").predict("".join(PAYLOADS))[0]["scores"]
        bars = page.value(
            "[...document.querySelectorAll('#models progress')].map(e => [e.getAttribute('aria-label'), e.value])"
        )
        for label, (name, value) in zip(labels, bars, strict=True):
            assert value == pytest.approx(expected[label], abs=1e-3) and name.startswith(label)
        options = page.value("[...document.querySelectorAll('#examples option')].map(e => e.textContent)")
        assert options[1:] == PAYLOADS
        assert page.value("document.querySelector('h2').textContent") == "<b>model"
        assert page.value("window.hit") is None
        assert (
            page.value("document.querySelectorAll('main :is(script, img, svg, iframe, a, b, object, style)').length")
            == 0
        )
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than 390 pixels"
        tree = page("Accessibility.getFullAXTree")["nodes"]
        roles = [(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node["ignored"]]
        wanted = ("textbox", "combobox", "button", "progressbar", "progress", "ProgressIndicator", "article")
        named = [(role, name) for role, name in roles if role in wanted]
        assert len(named) > len(PAYLOADS) and all(name for _, name in named)
        assert page.logged() == [], "the policy of the page was not broken, and nothing failed"


@pytest.mark.long
@needs_a_browser
def test_in_a_browser_the_answer_is_marked_where_python_finds_it(exported: Maker, tmp_path: Path) -> None:
    model, question = exported("bert", "span"), "Who built it?"
    context = "The tower was built by Gustave Eiffel, in 1889. It stands in Paris."
    folder = demo(model, tmp_path / "new", examples=[[question, context]], offline_assets=NODE)
    with shown(folder, tmp_path / "profile") as page:
        page.value(
            "const e = document.getElementById('examples'); e.selectedIndex = 1; e.dispatchEvent(new Event('change'))"
        )
        page.value("document.getElementById('ask').click()")
        page.wait("document.getElementById('status').textContent === 'Answered.'")
        answer = load(model).predict(question, context)[0]
        assert page.value("document.querySelector('mark').textContent") == answer["answer"]
        assert page.value("document.querySelector('.context').textContent") == context
        assert page.value("document.querySelector('progress').value") == pytest.approx(answer["score"], abs=1e-3)


@pytest.mark.long
@needs_a_browser
def test_in_a_browser_entities_are_marked_where_python_finds_them(tokenizer: Any, tmp_path: Path) -> None:
    names = dict(enumerate(("O", "B-PERSON", "I-PERSON", "B-PLACE", "I-PLACE")))
    settings = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    text = "The tower was built by Gustave Eiffel, in 1889. It stands in Paris, near the U.S. embassy."
    model = tiny.scrambled(tiny.model("bert", "token-classification", **tiny.WIDER, **settings)).eval()
    with torch.inference_mode():  # no tag is the likeliest everywhere
        model.classifier.bias -= model(**tokenizer(text, return_tensors="pt")).logits[0].mean(0)
    save_model(model, tokenizer, tmp_path / "torch")
    export(tmp_path / "torch", tmp_path / "model")
    entities = [(one["label"], one["text"]) for one in load(tmp_path / "model").predict(text)[0]["entities"]]
    folder = demo(tmp_path / "model", tmp_path / "new", examples=[text], offline_assets=NODE)
    with shown(folder, tmp_path / "profile") as page:
        page.value(
            "const e = document.getElementById('examples'); e.selectedIndex = 1; e.dispatchEvent(new Event('change'))"
        )
        page.value("document.getElementById('ask').click()")
        page.wait("document.getElementById('status').textContent === 'Answered.'")
        marks = page.value(
            "[...document.querySelectorAll('mark')].map(e => [e.querySelector('.kind').textContent, e.firstChild.data])"
        )
        assert [tuple(mark) for mark in marks] == entities and len(entities) > 2
        assert page.value("document.querySelector('.context').textContent.length") >= len(text)
        assert page.logged() == []
