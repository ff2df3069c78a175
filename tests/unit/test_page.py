"""The page of a made-up run: complete, self-contained, and safe against what is in a data set."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import quick
from tinydistilbert import results
from tinydistilbert.cli.main import main
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml as recipe_file
from tinydistilbert.recipe.names import GLUE_NAMES, SYNTHETIC_NAMES
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report import compression, page
from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.page import write_report
from tinydistilbert.report.paper_tables import console_tables
from tinydistilbert.report.read import read_run
from tinydistilbert.report.remake import remake
from tinydistilbert.report.summary import summarize
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import AblationFolder, RunFolder
from tinydistilbert.run_record import keep_notices
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, tasks_of

ENVIRONMENT = {
    "commit": "0123456789ab", "python": "3.11.7", "system": "Linux x86_64", "cores": 2, "cpu": "Example CPU @ 2.9GHz",
    "torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23", "datasets": "5.0", "numpy": "2.4",
}  # fmt: skip
TEACHER = {
    "cola": 0.421, "mnli": 0.752, "mrpc": 0.851, "qnli": 0.842, "qqp": 0.823, "rte": 0.581, "sst2": 0.893,
    "stsb": 0.842, "wnli": 0.563, "imdb": 0.901, "squad": 0.721, "acceptability": 0.602, "adjacency": 0.743,
    "cloze-qa": 0.412,
}  # fmt: skip
KEPT = {"teacher": 1.0, "student": 0.93, "student (D)": 0.95, "control": 0.84}
SCRIPT = "<script>alert('x')</script>"


def scored(names: Iterable[str], models: Iterable[str], seeds: int = 1) -> list[Measurement]:
    """Measurements of every metric of the tasks, with a share of made-up teacher's scores."""
    measurements = []
    for name in names:
        task = TASKS[name]
        for model in models:
            if model == "student (D)" and task.kind != "span":
                continue
            for metric in task.metrics:
                for seed in range(seeds):
                    value = TEACHER[name] * KEPT[model] * (0.8 if metric == "exact_match" else 1.0) + 0.004 * seed
                    warning = f"{value:.3f} is not above the 0.560 of the majority class alone"
                    measurements.append(
                        Measurement(
                            model, name, metric, value, task.evaluation[0], examples=400,
                            examples_total=1043 if name == "cola" else 400,
                            train_examples=2000, train_examples_total=19636 if name == "mnli" else 2000, seed=seed,
                            data_fingerprint="f" * 64, date="2026-01-02T03:04:05+00:00", environment=ENVIRONMENT,
                            details={
                                "interval": [value - 0.03, value + 0.03], "majority": 0.56 if name != "cola" else 0.0,
                                "warnings": [warning] if name == "rte" and value <= 0.56 else [],
                            },
                        )
                    )  # fmt: skip
    return measurements


def timed() -> list[Measurement]:
    """Sizes and latencies of the four rows of Table 3."""
    rows = {"bert-base": (109.5, 143.0), "distilbert": (66.4, 74.0), "teacher": (22.7, 27.0), "student": (17.4, 13.9)}
    measurements = []
    for model, (millions, milliseconds) in rows.items():
        details: dict[str, Any] = {"megabytes_fp32": millions * 4}
        common: dict[str, Any] = {"environment": ENVIRONMENT, "date": "2026-01-02T03:04:05+00:00"}
        measurements.append(Measurement(model, "size", "parameters", millions * 1e6, details=details, **common))
        for protocol, factor, examples in (("padded-128", 3.4, 100), ("true-length", 1.0, 1500)):
            mean = milliseconds * factor
            measurements.append(
                Measurement(
                    model, "latency", "seconds_per_pass", 1.5 * mean, "validation", False, examples, 1500, **common,
                    details={
                        "protocol": protocol, "device": "cpu", "p50_ms": mean, "p90_ms": 1.4 * mean, "mean_ms": mean,
                        "spread": 1.14 if model == "distilbert" else 1.03, "noisy": model == "distilbert", "rounds": 5,
                        "estimated": examples < 1500, "backend": "torch eager", "weights": "random", "gpu": "",
                        "inputs": "STS-B validation", "synthetic": False, "load_average": 0.5,
                    },
                )
            )  # fmt: skip
    return measurements


def pretrained() -> list[Measurement]:
    """Held-out losses of teacher, student and control."""
    rows = {"teacher": (0.0, 3.55, 34.8), "student": (0.61, 4.02, 55.7), "control": (3.1, 7.9, 2697.3)}
    return [
        Measurement(model, "pretraining", metric, value, "validation", False, 160, 1700, environment=ENVIRONMENT)
        for model, values in rows.items()
        for metric, value in zip(("kl", "mlm", "perplexity"), values, strict=True)
    ]


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def samples(slug: str, *, graded: bool) -> list[list[dict[str, Any]]]:
    """What `evaluate` leaves as samples: judged sentences, pairs (graded or classified) and a question."""
    knows = slug == "teacher"
    judged = [
        ("The book was read by the boys.", "acceptable", "acceptable"),
        (f"Was boys the read. {SCRIPT}", "unacceptable", "unacceptable" if knows else "acceptable"),
    ]
    pairs: list[tuple[str, Any, Any]] = [
        ("A man is playing a guitar.", 4.8, 4.61 if knows else 4.2),
        ("A dog runs.", 0.2, 0.4),
    ]
    if not graded:
        pairs = [("A man is playing.", "adjacent", "adjacent"), ("A dog runs.", "not_adjacent", "adjacent")]
    question = {
        "id": "q1", "question": "Who built the tower?", "gold": ["Gustave Eiffel", "Eiffel"],
        "context": "Many came. " * 60 + "It was built by Gustave Eiffel & sons for the fair. " + "They left. " * 60,
        "prediction": "Gustave Eiffel" if knows else "the fair",
    }  # fmt: skip
    return [
        [
            {"split": "validation", "idx": i, "text": t, "gold": g, "prediction": p}
            for i, (t, g, p) in enumerate(judged)
        ],
        [
            {"split": "validation", "idx": i, "text": t, "text_pair": "A man plays.", "gold": g, "prediction": p}
            for i, (t, g, p) in enumerate(pairs)
        ],
        [{"split": "validation", **question}],
    ]


def make_run(folder: Path, names: Iterable[str], *, seeds: int = 1, toml: str = 'name = "made-up"\n') -> Path:
    """A run folder as `replicate` leaves it, with made-up numbers."""
    atomic.write_text(folder / "recipe.toml", recipe_file.to_toml(recipe_file.from_toml(toml, "test")))
    measured = scored(names, KEPT, seeds) + timed() + pretrained()
    results.write(folder / "results.jsonl", measured)
    curve = [
        {"step": s, "loss": 9 / s, "kl": 3 / s**0.5, "mlm": 4 + 4 / s, "cosine": 0.5 / s} for s in range(1, 200, 3)
    ]
    checks = [{"step": s, "validation": {"kl": 3 / s**0.5, "mlm": 4.1 + 4 / s, "cosine": 0.6 / s}} for s in (20, 199)]
    write_lines(folder / "student" / "log.jsonl", [*curve, *checks])
    write_lines(
        folder / "teacher" / "log.jsonl", [{"step": s, "loss": 5 + 5 / s, "mlm": 5 + 5 / s} for s in range(1, 99)]
    )
    tasks = ("cola", "stsb", "squad") if "cola" in names else SYNTHETIC_NAMES
    for slug in ("teacher", "student", "control"):
        for task, lines in zip(tasks, samples(slug, graded="cola" in names), strict=True):
            write_lines(folder / "tasks" / task / slug / "seed-0" / "scores" / "samples.jsonl", lines)
    return folder


class Page(HTMLParser):
    """Collects what a page holds: tags with their attributes, and whether every one is closed."""

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def parsed(html: str) -> Page:
    parser = Page()
    parser.feed(html)
    parser.close()
    ids = [attributes["id"] for _, attributes in parser.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), f"ids that are there twice: {sorted(str(i) for i in ids if ids.count(i) > 1)}"
    return parser


@pytest.fixture(scope="module")
def glue_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("run"), (*GLUE_NAMES, "imdb", "squad"), seeds=3)
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("synthetic"), SYNTHETIC_NAMES)


def test_every_tag_is_closed_and_nothing_is_loaded_or_run(glue_page: str) -> None:
    page = parsed(glue_page)
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(names)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action")]
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "url(http" not in glue_page and "@import" not in glue_page
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in str(policies[0]) and "script" not in str(policies[0])


def test_text_of_data_sets_is_shown_as_text(glue_page: str) -> None:
    assert SCRIPT not in glue_page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in glue_page


def test_text_of_a_recipe_is_shown_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, SYNTHETIC_NAMES, toml=f"name = {json.dumps(SCRIPT)}\n")
    assert SCRIPT not in write_report(run).read_text(encoding="utf-8")


def test_the_three_tables_and_the_three_kinds_of_example_are_there(glue_page: str) -> None:
    for heading in ("Table 1. GLUE", "Table 2. IMDb and SQuAD", "Table 3. Size and speed", "Masked language model"):
        assert f"<h3>{heading}</h3>" in glue_page
    for heading in ("A single text", "A pair of texts", "A question"):
        assert f"<h3>{heading}</h3>" in glue_page
    assert "<mark>Gustave Eiffel</mark>" in glue_page
    assert glue_page.count("Every metric, with intervals") >= 1


def test_every_table_has_a_caption_and_scrolls_in_its_own_box(glue_page: str) -> None:
    tables = re.findall(r'<div class="scroll" tabindex="0".*?</div>', glue_page, re.DOTALL)
    assert len(tables) == 5
    assert all("<caption>" in table for table in tables)


def test_labels_say_what_was_answered_rightly(glue_page: str) -> None:
    answers = re.search(r"Was boys the read.*?</article>", glue_page, re.DOTALL)
    assert answers
    rows = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)\s*<span class="(\w+)"', answers.group())
    assert rows == [
        ("Teacher", "unacceptable", "right"), ("Student", "acceptable", "wrong"), ("Control", "acceptable", "wrong"),
    ]  # fmt: skip


def test_the_headline_is_computed_from_the_measurements(glue_page: str) -> None:
    # The student's scores are 0.93 of the teacher's plus 0.004 for seed 1, the median; the majority baseline has 0 on
    # CoLA and 0.56 elsewhere. The teacher is beyond chance where its median less 0.03 is above that.
    majority = {name: 0.0 if name == "cola" else 0.56 for name in GLUE_NAMES}
    counted = [name for name in GLUE_NAMES if TEACHER[name] + 0.004 - 0.03 > majority[name]]
    assert set(GLUE_NAMES) - set(counted) == {"rte", "wnli"}
    shares = [
        (0.93 * TEACHER[name] + 0.004 - majority[name]) / (TEACHER[name] + 0.004 - majority[name]) for name in counted
    ]
    assert f"keeps {100 * sum(shares) / 7:.1f} % of the teacher’s score above the majority (7 of 9 tasks: " in glue_page
    teacher = sum(TEACHER[name] for name in GLUE_NAMES) / 9 + 0.004
    student = 0.93 * sum(TEACHER[name] for name in GLUE_NAMES) / 9 + 0.004
    assert f"raw share {100 * student / teacher:.1f} %" in glue_page
    assert f"is {27.0 / 13.9:.2f} times as fast" in glue_page
    assert "medians over at least 3 trainings" in glue_page


def test_the_command_is_shown_as_it_was_given(synthetic_run: Path) -> None:
    shown = "tinydistilbert replicate mine.toml --seed 3 --output <here>"
    html = write_report(synthetic_run, command=shown).read_text(encoding="utf-8")
    assert "<dd>tinydistilbert replicate mine.toml --seed 3 --output &lt;here&gt;</dd>" in html


def test_a_run_from_python_is_done_again_by_its_own_recipe(tmp_path: Path) -> None:
    """Its name is no preset; and a recipe of a model to compress is one for `compress`."""

    def shown(recipe: Recipe) -> str:
        run = tmp_path / "a run"
        atomic.write_text(RunFolder(run).recipe, recipe_file.to_toml(recipe))
        results.write(RunFolder(run).results, [])
        html = write_report(run).read_text(encoding="utf-8")
        return html.partition("<dt>Command</dt><dd>")[2].partition("</dd>")[0]

    by_recipe = f"&#39;{tmp_path / 'a run' / 'recipe.toml'}&#39;"
    preset = recipe_file.load("minilm")
    assert shown(preset) == "tinydistilbert replicate minilm"
    assert shown(replace(preset, seed=7)) == f"tinydistilbert replicate {by_recipe}"
    assert shown(replace(Recipe(), name="finetune-reviews")) == f"tinydistilbert replicate {by_recipe}"
    of_model = {"finetune": {"tasks": ["cola"]}, "compress": {"model": "model", "tasks": ["cola"]}}
    assert shown(recipe_file.from_dict(of_model, "test")) == f"tinydistilbert compress {by_recipe}"


def test_what_was_left_out_of_the_files_is_on_the_page(synthetic_run: Path) -> None:
    keep_notices(RunFolder(synthetic_run), ("a.csv: 2 empty lines <left> out",))
    html = write_report(synthetic_run).read_text(encoding="utf-8")
    assert "<dt>Notice</dt><dd>a.csv: 2 empty lines &lt;left&gt; out</dd>" in html
    RunFolder(synthetic_run).notices.unlink()


def test_the_same_run_gives_the_same_bytes(synthetic_run: Path) -> None:
    first = write_report(synthetic_run).read_bytes()
    quick.DRAWN.clear()
    assert write_report(synthetic_run).read_bytes() == first


def test_a_run_on_synthetic_tasks_shows_them_first_and_folds_the_published_tables(synthetic_run: Path) -> None:
    html = write_report(synthetic_run).read_text(encoding="utf-8")
    folded = html.index("Published tables without a measurement of this run")
    assert html.index("<h3>Synthetic tasks</h3>") < folded < html.index("<h3>Table 1. GLUE</h3>")
    assert "Faults repeated on purpose" not in html
    assert [table.name for table in console_tables(synthetic_run)] == ["synthetic", "speed", "pretraining"]


def test_a_run_of_the_notebook_says_that_it_keeps_the_faults(tmp_path: Path) -> None:
    run = make_run(tmp_path, SYNTHETIC_NAMES, toml='name = "seed"\n[objective]\nreduction = "notebook"\n')
    assert "Faults repeated on purpose" in write_report(run).read_text(encoding="utf-8")


def test_a_run_with_nothing_but_a_recipe_and_no_measurements_is_reported(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "recipe.toml", 'name = "empty"\n')
    atomic.write_text(tmp_path / "results.jsonl", "")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert parsed(html).open == []
    assert "has not yet measured" in html
    assert console_tables(tmp_path) == []


def test_a_folder_that_is_no_run_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a run folder with recipe.toml"):
        write_report(tmp_path)
    atomic.write_text(tmp_path / "recipe.toml", 'name = "damaged"\n')
    atomic.write_text(tmp_path / "results.jsonl", "{}\n")
    with pytest.raises(UserError, match="expected measurements"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_page_is_made_anew_from_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", ("cola", "stsb", "squad"))
    first = write_report(run, command='tinydistilbert distill "a b" & more').read_text(encoding="utf-8")
    stored = (run / "results.jsonl").read_bytes()
    for name in ("student", "teacher", "tasks"):
        shutil.rmtree(run / name)
    main(["report", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["page"] == str(run / "report.html")
    again = (run / "report.html").read_text(encoding="utf-8")
    assert parsed(again).open == [] and (run / "results.jsonl").read_bytes() == stored
    for kept in (
        "tinydistilbert distill &#34;a b&#34; &amp; more",
        "Distillation of the student, term by term",
        "<article>",
    ):
        assert again.count(kept) == first.count(kept) > 0, kept
    assert "curves and examples as on the earlier page" in again and "earlier page" not in first
    remake(run)
    assert (run / "report.html").read_text(encoding="utf-8") == again
    (run / "report.html").write_text(first.replace("<article>", "<article><script>1</script>"))
    assert "<article>" not in remake(run).read_text(encoding="utf-8")


def test_a_page_is_made_of_what_is_there_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", ("cola", "stsb", "squad"))
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run), "--seed", "3"])
    assert "--seed" in capsys.readouterr().err and not (run / "report.html").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "empty")])
    assert "recipe.toml" in capsys.readouterr().err


PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("*/recipe.toml"))


@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_page_says_what_its_measurements_say(recipe: Path) -> None:
    """If not: `tinydistilbert report results/NAME` makes it anew."""
    settings, measurements = read_run(recipe.parent)
    (shown,) = re.findall(r"<h1>(.*?)</h1>", (recipe.parent / "report.html").read_text(encoding="utf-8"))
    verdict = summarize(measurements, tasks_of(settings.finetune)).verdict
    numbers = re.compile(r"\d+(?:\.\d+)?")
    assert numbers.findall(shown) == numbers.findall(verdict) and len(PUBLISHED) >= 5


def test_a_published_ablation_is_made_anew(tmp_path: Path) -> None:
    folder = AblationFolder(tmp_path / "ablation")
    shutil.copytree(PUBLISHED[0].parents[1] / "ablation", folder.path)
    stored, page = folder.results.read_bytes(), folder.report.read_text(encoding="utf-8")
    main(["report", str(folder.path)])
    again = folder.report.read_text(encoding="utf-8")
    assert folder.results.read_bytes() == stored and "--data ../shared/data" in again
    assert again.count("<tr") == page.count("<tr") > 10


def test_a_page_of_two_compressed_tasks_has_every_id_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(PUBLISHED[0].parents[1] / "squad-compressed", tmp_path / "run"))
    settings, measurements = read_run(run)
    (one,) = compression.compressed_models(measurements, tasks_of(settings.finetune))
    second = replace(one, task=replace(one.task, name="second", title="Second"))
    monkeypatch.setattr(compression, "compressed_models", lambda *_: [one, second])
    answers = Answers(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    chosen = ChosenAnswers(np.array([0, 0]), answers, answers, ("no", "yes"), [("a",), ("b",)])
    monkeypatch.setattr(page, "chosen_answers", lambda *_: chosen)
    html = write_report(run).read_text(encoding="utf-8")
    ids = {str(attributes.get("id")) for _, attributes in parsed(html).tags}
    assert {"compress-squad", "compress-second", "confusion-squad", "confusion-second"} <= ids
    assert "Use this model" not in html, "its folder was not published"
    assert "Where it errs on Second" in html and "yes (80\u00a0%)" in html, "a number and its unit stay together"
