"""Writes the folder of a demo: page, models, examples and, for offline use, the library that runs them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.models.runtimes import EARLIER_FILE, EXTERNAL, INT8_FILE, MODEL_FILE
from tinydistilbert.models.untrusted import CONFIG, TOKENIZER
from tinydistilbert.serve.model import Served, load_served
from tinydistilbert.storage import atomic

PAGE = Path(__file__).parent / "page"
LIBRARY, RUNTIME = "4.3.1", "1.31.0-dev.20260914-8d85527a0"
"""Version of @huggingface/transformers with which the page is tested, and of the onnxruntime-web that it needs."""
CDN = "https://cdn.jsdelivr.net"
SCRIPT, WASM = "transformers.min.js", ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ASSETS, MODELS, SETTINGS = "assets", "models", "models.json"
DemoInput = str | Sequence[str]
EXAMPLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "span": (("Who built the tower?", "The tower was built by Gustave Eiffel. It stands in Paris on the Seine."),),
    "token-classification": (("Ada Lovelace met Charles Babbage in London.",),),
}
"""Examples to pick from if none are given."""
OTHER_EXAMPLES = (("A fine place, well run.",), ("Nothing worked, and nobody came.",), ("It was as one expects.",))


def demo(
    folders: str | Path | Sequence[str | Path], output: str | Path, *, examples: Sequence[DemoInput] = (),
    offline_assets: str | Path | None = None,
) -> Path:  # fmt: skip
    """Write a static folder that runs models side by side in the browser; it is also a ready Hugging Face Space.

    Args:
        folders: exported models of one kind, such as a teacher and its student, in display order.
        output: a folder that does not exist yet.
        examples: examples to pick from: texts, or pairs of texts; a single text is one example.
        offline_assets: the folder of the npm package `@huggingface/transformers`, with `onnxruntime-web` next to it:
            both are copied, so that the page needs no network. None = they come from a public server.

    Returns:
        The new folder.

    Raises:
        UserError: a folder is not an exported model, or browsers cannot run it; the models are of different kinds; the
            package is missing; or `output` exists.
    """
    listed = [folders] if isinstance(folders, str | Path) else [*folders]
    sources, new = [Path(folder) for folder in listed], Path(output)
    atomic.check_new(new)
    if not sources:
        raise UserError("demo", expected="the folders of models", found="none", fix="name one or more")
    models = [load_served(folder) for folder in sources]
    kinds = {model.predictor.kind for model in models}
    if len(kinds) > 1:
        found = " and ".join(sorted(kinds))
        raise UserError("demo", expected="models of one kind", found=found, fix="make a demo for each kind")
    files = [_model_file(folder) for folder in sources]
    assets = _assets(Path(offline_assets)) if offline_assets is not None else {}
    shown = _examples(examples, models[0])
    with atomic.unfinished(new) as folder:
        names: list[dict[str, Any]] = []
        for number, (source, model, file) in enumerate(zip(sources, models, files, strict=True), 1):
            names.append(_add_model(folder / MODELS / f"model-{number}", source, model, file))
        _name_apart(names)
        _copy(PAGE / "style.css", folder / "style.css")
        _copy(PAGE / "demo.js", folder / "demo.js")
        for name, path in assets.items():
            _copy(path, folder / ASSETS / name)
        html = (PAGE / "index.html").read_text(encoding="utf-8")
        atomic.write_text(folder / "index.html", html.replace(" CDN", "" if assets else f" {CDN}"))
        texts = {model.texts_per_input for model in models}
        both = texts.pop() if len(texts) == 1 else None
        atomic.write_json(
            folder / SETTINGS,
            {"kind": kinds.pop(), "texts": both, **_library_urls(bool(assets)), "examples": shown, "models": names},
        )
        atomic.write_text(folder / "README.md", _readme([str(name["name"]) for name in names]))
    return new


def read_examples(file: Path) -> list[DemoInput]:
    """Read the examples in a file: one text per line, or in JSON Lines a text or a list of two texts.

    Raises:
        UserError: there is no such file, it is not UTF-8, or a line is neither.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # `splitlines` would also cut at U+2028 and others
    except (OSError, UnicodeDecodeError):
        problem = "this is not a text file in UTF-8"
        raise UserError(str(file), problem=problem, fix="correct --examples") from None
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        return [line for line in lines if line.strip()]
    examples: list[DemoInput] = []
    for number, line in enumerate(lines, 1):
        try:
            value: Any = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            value = 0
        is_pair = isinstance(value, list) and len(value) in (1, 2) and all(isinstance(part, str) for part in value)
        if isinstance(value, str) or is_pair:
            examples.append(value)
        elif value is not None:
            expected, fix = "a text or a list of two", 'write "a text" or ["a", "b"]'
            raise UserError(f"{file}:{number}", expected=expected, found=line[:40], fix=fix)
    return examples


def _examples(given: Sequence[DemoInput], model: Served) -> list[list[str]]:
    """Return the examples, each as a list of one text or two.

    Raises:
        UserError: an example is neither a text nor two, or has another number of texts than the model reads.
    """
    listed: list[list[str]] = []
    for number, one in enumerate([given] if isinstance(given, str) else given, 1):
        if not isinstance(one, str | list | tuple) or not all(isinstance(text, str) for text in one):
            found = ascii(one)[:40]
            raise UserError(f"examples, the {number}.", expected="a text or two", found=found, fix="correct it")
        listed.append([one] if isinstance(one, str) else [*one])
    for number, one in enumerate(listed, 1):
        if len(one) not in (1, 2) or (model.texts_per_input is not None and len(one) != model.texts_per_input):
            found, fix = f"{len(one)} in example {number}", "correct it"
            raise UserError("examples", expected=f"{model.texts_per_input or '1 or 2'} texts", found=found, fix=fix)
    kind = model.predictor.kind
    of_kind = EXAMPLES.get(kind, () if model.texts_per_input == 2 else OTHER_EXAMPLES)
    return listed or [[*one] for one in of_kind]


def _model_file(folder: Path) -> tuple[Path, str]:
    """Return the model's file and its name in the layout of transformers.js.

    Raises:
        UserError: browsers cannot run the model.
    """
    for name in (MODEL_FILE, INT8_FILE):
        if (folder / name).is_file():
            return folder / name, name
    if (folder / EARLIER_FILE).is_file():
        facts = atomic.read_json(folder / CONFIG)["tinydistilbert"]
        return folder / EARLIER_FILE, INT8_FILE if facts.get("precision") == "int8" else MODEL_FILE
    fix = "export the model for ONNX Runtime: tinydistilbert export MODEL --output FOLDER"
    raise UserError(str(folder), expected="a model in ONNX", found="a model for OpenVINO", fix=fix)


def _add_model(new: Path, source: Path, model: Served, file: tuple[Path, str]) -> dict[str, Any]:
    """Copy what a browser needs of a model; return the facts that the page gets about it."""
    path, name = file
    _copy(path, new / name)
    external = path.with_name(path.name + EXTERNAL)
    if external.is_file():
        _copy(external, new / f"{name}{EXTERNAL}")
    for part in (CONFIG, *TOKENIZER):
        if (source / part).is_file():
            _copy(source / part, new / part)
    predictor = model.predictor
    thresholds = None if predictor.label_thresholds is None else predictor.label_thresholds.tolist()
    return {
        "folder": new.name, "name": model.name, "kind": predictor.kind, "labels": list(predictor.labels),
        "precision": model.precision, "dtype": "q8" if name == INT8_FILE else "fp32", "external": external.is_file(),
        "bytes": sum(part.stat().st_size for part in (path, external) if part.is_file()),
        "max_length": predictor.max_length, "null_threshold": predictor.null_threshold,
        "label_thresholds": thresholds,
        "defer_below": None if model.defer_below is None else min(model.defer_below, 1.0),
    }  # fmt: skip


def _name_apart(models: list[dict[str, Any]]) -> None:
    """Number models whose folders have the same name."""
    names = [model["name"] for model in models]
    for number, model in enumerate(models, 1):
        if names.count(model["name"]) > 1:
            model["name"] = f"{model['name']} ({number})"


def _assets(package: Path) -> dict[str, Path]:
    """Return the files of the library in the folder of its npm package, or in the `node_modules` around it.

    Raises:
        UserError: a file is missing.
    """
    inside = package / "@huggingface" / "transformers"
    package = inside if inside.is_dir() else package
    around = (package, package / "node_modules" / "onnxruntime-web", package.parent.parent / "onnxruntime-web")
    paths = {}
    for name in (SCRIPT, *WASM):
        path = next((part / "dist" / name for part in around if (part / "dist" / name).is_file()), None)
        if path is None:
            fix = f"run: npm install @huggingface/transformers@{LIBRARY}, and give its folder node_modules"
            raise UserError(f"--offline-assets {package}", expected=name, found="none", fix=fix)
        paths[name] = path
    return paths


def _library_urls(offline: bool) -> dict[str, Any]:
    """Return from where the page loads the library."""
    if offline:
        return {"library": f"{ASSETS}/{SCRIPT}", "wasm": {"mjs": f"{ASSETS}/{WASM[0]}", "wasm": f"{ASSETS}/{WASM[1]}"}}
    runtime = f"{CDN}/npm/onnxruntime-web@{RUNTIME}/dist"
    return {
        "library": f"{CDN}/npm/@huggingface/transformers@{LIBRARY}/dist/{SCRIPT}",
        "wasm": {"mjs": f"{runtime}/{WASM[0]}", "wasm": f"{runtime}/{WASM[1]}"},
    }


def _readme(names: Sequence[str]) -> str:
    """Return the front matter that makes the folder a Space."""
    title = json.dumps(", ".join(names)[:60])  # JSON strings are valid YAML
    appearance = "emoji: 📚\ncolorFrom: blue\ncolorTo: green"
    head = f"title: {title}\n{appearance}\nsdk: static\napp_file: index.html\npinned: false"
    return f"---\n{head}\n---\n\nModels side by side in the browser, made by `tinydistilbert demo`.\n"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
