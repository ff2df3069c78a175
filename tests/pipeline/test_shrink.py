"""shrink: one command from a CSV to a small model, its recipe, its page, its mistakes."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import tinydistilbert as td
from tinydistilbert.api import shrink as api
from tinydistilbert.api.task_data import task_data
from tinydistilbert.dry_run import machine
from tinydistilbert.dry_run.plan import plan_as_json
from tinydistilbert.errors import UserError
from tinydistilbert.models.runtimes import exported_facts
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.predictor import load
from tinydistilbert.recipe import toml

WORDS = ("tower", "student", "teacher", "model", "paris", "layer", "word", "line")
Call = Callable[..., tuple[int, str, str]]
QUICK = {
    "finetune.epochs": 6, "finetune.distillation.epochs": 3.0, "finetune.distillation.intermediate_epochs": 2.0,
    "finetune.optimization.learning_rate": 3e-3, "finetune.optimization.batch_size": 8, "compress.keep": [],
    "compress.timed_examples": 10, "finetune.keep": "all",
}  # fmt: skip


@pytest.fixture(scope="module")
def reviews_csv(tmp_path_factory: pytest.TempPathFactory, reviews: Callable[[Path, int, int], Path]) -> Path:
    return reviews(tmp_path_factory.mktemp("shrink") / "reviews.csv", 160, 0)


@pytest.fixture(scope="module")
def made(reviews_csv: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> td.api.outcomes.TaskModel:
    output = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(output.parent / "cache"))
        return td.shrink(
            teacher, train=reviews_csv, text="review", label="stars", validation="25%", to="50MB", keep="30%",
            output=output,
            settings=QUICK, quiet=True,
        )  # fmt: skip


@pytest.mark.long
def test_a_csv_becomes_a_small_model_with_its_page(made: td.api.outcomes.TaskModel, call: Call, tmp_path: Path) -> None:
    assert made.missed == "" and made.model.name == "best" and made.row == "model (D)"
    scored = {m.model: m.value for m in made.measurements if (m.task, m.metric) == ("reviews", "accuracy")}
    assert {"teacher", "model (D)", "tf-idf"} <= scored.keys() and scored["teacher"] > 0.8
    recipe = toml.read(made.recipe_file)
    assert recipe.finetune.custom["reviews"].validation == "25%" and recipe.finetune.select == "heldout"
    assert made.page is not None
    page = made.page.read_text(encoding="utf-8")
    for part in ("Use this model", "core-seconds for 1,000 texts", "Confusion matrix", "Expected calibration error"):
        assert part in page, part
    assert page.index("Use this model") < page.index("How sure is that?") and str(made.model) in page
    facts = exported_facts(made.model)
    agreement = facts["agreement"]
    assert facts["texts_per_input"] == 1 and agreement["wanted"] == 0.98
    assert (agreement["threshold"] is None) == (agreement["examples"] == 0)
    assert 0.98 * agreement["examples"] <= agreement["agreeing"] <= agreement["examples"] <= agreement["held_out"]
    shown = "At no confidence" if agreement["threshold"] is None else f"{100 * agreement['threshold']:.1f} % sure"
    assert shown in page and f"{agreement['held_out']:,} held-out examples" in page, (
        "the page has the folder's threshold"
    )
    assert exported_facts(made.model.parent / "whole" / "onnx")["texts_per_input"] == 1, "known from the training"
    source = tmp_path / "in.csv"
    source.write_text("review\nthe tower\nthe student\n")
    code, _, err = call("predict", made.model, source, "--output", tmp_path / "out.csv")
    assert code == 0, err
    answered = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert answered[0] == ["review", "prediction", "prediction_score"]
    assert {row[1] for row in answered[1:]} <= {"good", "bad"}


@pytest.mark.long
def test_every_folder_that_is_shared_has_its_card(made: td.api.outcomes.TaskModel, call: Call, tmp_path: Path) -> None:
    student = made.folder / "tasks/reviews/model-d/seed-0/model"
    code, _, err = call("export", student, "--output", tmp_path / "exported", "--int8")
    assert code == 0, err
    cards = {}
    for folder in (made.model, student, made.folder / "tasks/reviews/teacher/seed-0/model", tmp_path / "exported"):
        cards[folder] = ModelCard.load(folder / "README.md")
        text = cards[folder].text
        assert cards[folder].data.pipeline_tag == "text-classification" and "bad" in text and "good" in text
        for heading in ("How it was made", "Results", "Speed and size", "Labels", "Limits", "Licence and data"):
            assert f"## {heading}\n" in text, folder
        assert "unknown" in text and str(made.folder) not in text, "a path of this machine means nothing elsewhere"
    best = cards[made.model]
    (result,) = best.data.eval_results
    measured = next(
        m for m in made.measurements if m.task == "compress" and m.details.get("best") and m.metric == "accuracy"
    )
    assert result.metric_value == pytest.approx(measured.value, abs=1e-6) and "95 % interval" in result.metric_name
    assert best.data.library_name == "transformers.js" and "int8" in best.data.tags
    assert "above the majority" in best.text and "on one core of" in best.text and "MB" in best.text
    assert not cards[tmp_path / "exported"].data.eval_results, "scores of another form of the model are not its own"
    assert "before it was turned into 8-bit integers" in cards[tmp_path / "exported"].text


@pytest.mark.long
def test_a_given_teacher_is_not_trained_again_and_a_target_missed_is_exit_code_1(
    made: td.api.outcomes.TaskModel, reviews_csv: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MOST_EPOCHS", 4)  # of the default, which is 40 for so few examples
    tuned = made.folder / "tasks/reviews/teacher/seed-0/model"
    output = tmp_path / "run"
    arguments = [
        "shrink", reviews_csv, "--text", "review", "--label", "stars", "--teacher", tuned, "--validation", "25%",
        "--keep", "100%", "--to", "30kB", "--time-budget", "1h", "--quiet", "--output", output, "--json",
    ]  # fmt: skip
    code, out, err = call(*arguments)
    assert out, err
    content = json.loads(out)
    assert code == (1 if content["missed"] else 0), err
    assert content["facts"]["bytes"] > 0 and Path(content["model"]).is_dir()
    assert not (output / "tasks/reviews/teacher/seed-0/model").exists()
    again = call(*arguments)
    assert again[0] == code and json.loads(again[1])["facts"] == content["facts"], "the same command finds it finished"


@pytest.mark.long
def test_a_teacher_has_weights_that_can_teach(
    made: td.api.outcomes.TaskModel, reviews_csv: Path, tmp_path: Path
) -> None:
    """An exported student has none; and of a run that keeps its best models, the fine-tuned model teaches a shrink."""
    for call_of in (td.shrink, td.distill):
        with pytest.raises(UserError, match=r"exported model \(onnx/model\w*.onnx\).*give the model that it was"):
            call_of(made, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    student = made.folder / "tasks/reviews/model-d/seed-0/model"
    settings = {key: value for key, value in QUICK.items() if key != "finetune.keep"}
    tuned = td.finetune(
        student, train=reviews_csv, text="review", label="stars", validation="25%", output=tmp_path / "teacher",
        settings={"finetune.epochs": 1, "finetune.min_steps": 0, "finetune.baselines": False}, seeds=2, quiet=True,
    )  # fmt: skip
    assert toml.read(tuned.recipe_file).finetune.keep == "best"
    small = td.shrink(tuned, to="50MB", keep="1%", output=tmp_path / "small", settings=settings, quiet=True)
    assert small.model.is_dir() and not (small.folder / "tasks/reviews/teacher/seed-0/model").exists()
    assert td.compare(tuned, small).differences, "scored on the same examples, those of the teacher"
    assert load(tuned.model).predict("the tower")[0]["label"] in ("good", "bad"), "the teacher is still there"


def test_the_recipe_is_an_ordinary_one_that_is_shown(
    reviews_csv: Path, teacher: Path, call: Call, tmp_path: Path
) -> None:
    arguments = [reviews_csv, "--text", "review", "--label", "stars", "--teacher", teacher, "--to", "5ms", "20MB"]
    code, out, err = call("shrink", *arguments, "--print-recipe", "--output", tmp_path / "run")
    assert code == 0 and not (tmp_path / "run").exists(), err
    recipe = toml.from_toml(out, "printed")
    assert recipe.finetune.custom["reviews"].validation == "10%" and recipe.compress.target_size == "20MB"
    data = task_data(str(reviews_csv), None, text="review", label="stars")
    changes = api.changes_of(teacher, to=("5ms", "20MB"), keep=None, soft_labels="", unlabelled="", seeds=1)
    assert recipe == api.recipe_for(data, changes, tmp_path / "run", "")
    assert recipe.finetune.epochs == 40, "a few examples are seen often"


def test_keys_of_the_recipe_are_flags_and_what_is_given_stays(
    reviews_csv: Path, teacher: Path, call: Call, tmp_path: Path
) -> None:
    given = ("--finetune.epochs", "3", "--compress.keep", "0.5", "0.25", "--device=cpu", "--student.layers", "first")
    arguments = [reviews_csv, "--text", "review", "--label", "stars", "--teacher", teacher, *given]
    code, out, err = call("shrink", *arguments, "--print-recipe", "--output", tmp_path / "run")
    assert code == 0, err
    recipe = toml.from_toml(out, "printed")
    assert recipe.finetune.epochs == 3, "as it was given, though it is the default of other commands"
    assert recipe.finetune.distillation.epochs == 40 and recipe.compress.keep == (0.5, 0.25)
    assert recipe.device == "cpu" and recipe.student.layers == "first"


def test_the_time_told_first_counts_every_training(
    reviews_csv: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of a fixed speed, twice the epochs of a training are twice its time, and nothing else changes."""
    fixed = machine.Machine("cpu", 1, 1e8, 1e8, 1e15, "fp32", 1e8, 0.4)
    monkeypatch.setattr(machine, "measure", lambda *_: fixed)
    data = task_data(str(reviews_csv), None, text="review", label="stars")

    def seconds(settings: dict[str, Any], seeds: int = 1) -> dict[str, float]:
        changes = api.changes_of(
            teacher, to="50MB", keep=None, soft_labels="", unlabelled="", seeds=seeds,
            settings={"precision": "fp32", **settings},
        )  # fmt: skip
        output = tmp_path / "run"
        context = run_context(api.recipe_for(data, changes, output, ""), output, until="report", log=lambda _: None)
        plan = plan_as_json(context)
        assert plan["seconds"] == pytest.approx(sum(line["seconds"] for line in plan["stages"]))
        return {line["stage"]: line["seconds"] for line in plan["stages"]}

    def more(settings: dict[str, Any], seeds: int = 1) -> dict[str, float]:
        estimates = seconds(settings, seeds)
        return {stage: estimates[stage] - before for stage, before in base.items() if estimates[stage] > before * 1.001}

    base = seconds({})
    of_teacher, of_student = "finetune teacher, reviews", "finetune model (D), reviews"
    assert {of_teacher, of_student, "evaluate", "evaluate baselines", "compress"} <= base.keys()
    longer = more({"finetune.epochs": 80})
    assert longer == {of_teacher: pytest.approx(base[of_teacher], rel=0.05)}
    intermediate = more({"finetune.distillation.intermediate_epochs": 80})
    answers = more({"finetune.distillation.epochs": 80})
    assert intermediate.keys() == answers.keys() == {of_student}
    assert intermediate[of_student] > 1.2 * answers[of_student], "the teacher is asked in every intermediate step"
    assert intermediate[of_student] + answers[of_student] == pytest.approx(base[of_student], rel=0.05)
    assert more({"compress.recovery_epochs": 40}).keys() == {"compress"}
    assert "evaluate baselines" not in {stage for stage, cost in seconds({"finetune.baselines": False}).items() if cost}
    twice = more({}, seeds=2)
    assert twice[of_teacher] == pytest.approx(base[of_teacher], rel=0.05) and of_student in twice


def test_a_time_budget_counts_that_trainings_run_side_by_side(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.csv").write_text(rows(90, lambda n: "ab"[n % 2]))
    data = task_data(tmp_path / "data.csv", None, text="", label="", text_pair="", kind="classification")
    changes = api.changes_of(teacher, to=(), keep=None, soft_labels="", unlabelled="", seeds=4, time_budget="10m")

    def planned(run: RunContext) -> dict[str, Any]:  # a minute an epoch and seed
        return {"seconds": 60 * run.recipe.finetune.epochs * 4 / (run.workers.at_once if run.workers else 1)}

    monkeypatch.setattr(api, "plan_as_json", planned)
    epochs = {
        jobs: api.recipe_for(data, changes, tmp_path / "run", "10m", threads=1, jobs=jobs).finetune.epochs
        for jobs in (None, 1, 2, 4)
    }
    assert epochs[None] == epochs[1] < 3 and 4 < epochs[2] <= 5 and 9 < epochs[4] <= 10
    with pytest.raises(UserError, match=r"--jobs"):
        api.recipe_for(data, changes, tmp_path / "run", "10m", jobs=0)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--compress.target_size", "20MB"], ["compress.target_size", "--to sets it"]),
        (["--to", "5ms", "--compress.target-latency", "6ms"], ["--to sets it"]),
        (["--compress.min_kept", "0.9"], ["--keep sets it"]),
        (["--finetune.seeds", "0", "1"], ["--seeds sets it"]),
        (["--finetune.tasks", "rte"], ["finetune.tasks", "FILE sets it"]),
        (["--finetune.custom.data.label", "x"], ["finetune.custom.data.label", "an argument sets it"]),
        (["--compress.row", "teacher"], ["compress.row", "leave it out"]),
        (["--distill.epochs", "2"], ["distill.epochs", "no such stage"]),
        (["--finetune.epochs", "2", "--time-budget", "15m"], ["finetune.epochs", "--time-budget sets it"]),
        (["--finetune.epochs", "many"], ["finetune.epochs", "'many'"]),
        (["--finetune.epohcs", "2"], ["did you mean --finetune.epochs"]),
        (["--epochs", "2"], ["did you mean --finetune.epochs"]),
        (["--teachers", "x"], ["did you mean --teacher"]),
    ],
)
def test_a_key_that_is_not_the_callers_is_refused(
    arguments: list[str], parts: list[str], teacher: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text(rows(90, lambda n: "ab"[n % 2]))
    code, out, err = call("shrink", "data.csv", "--teacher", teacher, *arguments, "--output", "run")
    last = err.splitlines()[-1]
    assert code == 2 and not out and last.startswith("error: ") and all(part in last for part in parts), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv"]


def test_settings_in_python_are_held_to_the_same_rules(teacher: Path, tmp_path: Path) -> None:
    examples = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(90)]
    for key, value in (("compress.target_size", "20MB"), ("name", "mine"), ("finetune.tasks", ["rte"])):
        with pytest.raises(UserError, match=f"key {key}"):
            td.shrink(teacher, train=examples, settings={key: value}, output=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=r"key finetune.custom.examples.text: an argument sets it already"):
        settings = {"finetune.custom.examples.text": "b"}
        td.finetune(teacher, train=examples, settings=settings, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def rows(count: int, label: Callable[[int], str]) -> str:
    return "text,label\n" + "".join(f"a text number {n} about {n % 7},{label(n)}\n" for n in range(count))


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        (rows(12, lambda n: "ab"[n % 2]), [], ["50 rows or more"]),
        (rows(45, lambda n: "ab"[n % 2]), [], ["50 rows or more"]),
        (rows(90, lambda n: "a"), [], ["two classes"]),
        (rows(90, lambda n: "ab"[n % 2] if n != 7 else "NaN"), [], [":9, column label", "missing"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--to", "1kB"], ["--to", "1kB", "allow more"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--to", "0.0000001ms"], ["--to", "allow more"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--to", "fast"], ["--to", "5ms, 20MB"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--keep", "120%"], ["--keep", "97%"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--label", "labell"], ["did you mean 'label'"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--validation", "data.csv"], ["also the train file"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--teacher", "no/such-model"], ["no/such-model"]),
        (rows(90, lambda n: "ab"[n % 2]), ["--time-budget", "1s"], ["--time-budget"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_cure_and_nothing_is_written(
    content: str, arguments: list[str], parts: list[str], teacher: Path, call: Call, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text(content)
    given = arguments if "--teacher" in arguments else ["--teacher", str(teacher), *arguments]
    code, out, err = call("shrink", "data.csv", *given, "--output", "run", "--quiet")
    last = err.splitlines()[-1]
    assert code == 2 and not out and last.startswith("error: ") and all(part in last for part in parts), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv"]


def test_a_label_that_only_the_validation_has(teacher: Path, call: Call, tmp_path: Path) -> None:
    train, validation = tmp_path / "a.csv", tmp_path / "b.csv"
    train.write_text(rows(90, lambda n: "ab"[n % 2]))
    validation.write_text("text,label\nx,c\n")
    output = tmp_path / "run"
    code, _, err = call("shrink", train, "--validation", validation, "--teacher", teacher, "--output", output)
    assert code == 2 and "b.csv:2" in err and "'c'" in err and not output.exists()


@pytest.mark.long
def test_questions_become_a_small_model(teacher: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows_of_file = []
    for number in range(90):
        words = draw.sample(WORDS, 6)
        context, answer = " ".join(words), words[number % 6]
        given = {"text": [answer], "answer_start": [context.index(answer)]}
        rows_of_file.append({"question": f"where is {answer}", "context": context, "answers": given})
    source = tmp_path / "questions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of_file))
    made = td.shrink(
        teacher,
        train=source,
        kind="span",
        validation="25%",
        to="50MB",
        output=tmp_path / "run",
        settings=QUICK,
        quiet=True,
    )
    assert made.model.name == "best" and made.columns.kind == "span"
    scored = {(m.model, m.metric) for m in made.measurements if m.task == "questions"}
    assert {("teacher", "f1"), ("model (D)", "exact_match")} <= scored
    answer = made.predict("where is it", rows_of_file[0]["context"])[0]
    assert answer["answer"] == rows_of_file[0]["context"][answer["start"] : answer["end"]]
    assert made.page is not None and "Use this model" in made.page.read_text(encoding="utf-8")
    scores = made.score(source)
    assert 0 <= scores["f1"] <= 1 and scores.examples == 90


@pytest.mark.long
def test_numbers_become_a_small_model(teacher: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    examples = []
    for number in range(120):
        words = [draw.choice(WORDS) for _ in range(3)]
        examples.append({"text": " ".join([*words, str(number)]), "label": 2.5 * words.count(WORDS[0]) + 0.5})
    made = td.shrink(
        teacher, train=examples, kind="regression", validation="25%", to="50MB", output=tmp_path / "run",
        settings=QUICK, quiet=True,
    )  # fmt: skip
    assert made.model.name == "best"
    scored = {(m.model, m.metric) for m in made.measurements if m.task == "examples"}
    assert {("teacher", "pearson"), ("model (D)", "spearman")} <= scored
    assert isinstance(made.predict("a text")[0]["score"], float)
    assert made.page is not None and "Use this model" in made.page.read_text(encoding="utf-8")
    assert made.score(examples).examples == 120


def test_shares() -> None:
    assert api.share("97%") == api.share(0.97) == api.share("97 %") == 0.97
    for wrong in ("0%", "97", "much", "101%"):
        with pytest.raises(UserError, match="97%"):
            api.share(wrong)


def test_its_help_fits_on_one_screen(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call("shrink", "--help")
    assert code == 0 and len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 80
