"""Nothing finished is reused for other inputs: each input of each stage is changed, and the command given again.

One run with every stage is made for all tests; a command that is refused writes nothing, so that they can share it.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tinydistilbert import notices
from tinydistilbert.cli.main import main
from tinydistilbert.pipeline import inputs
from tinydistilbert.pipeline.run import STAGES
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic, made_from

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, teacher: Path, reviews: Callable[[Path, int, int], Path]
) -> Path:
    """A folder with every input that a run can have, the recipe `all.toml`, and the finished `run`."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(corpus, folder / "corpus")
    shutil.copytree(teacher, folder / "teacher")
    for name, count, seed in (("train", 40, 0), ("validation", 20, 1), ("more", 12, 2)):
        reviews(folder / f"{name}.csv", count, seed)
    of_validation = {*(folder / "validation.csv").read_text().splitlines()[1:]}
    header, *more = (folder / "more.csv").read_text().splitlines()
    unscored = [line for line in more if line not in of_validation]
    (folder / "more.csv").write_text("\n".join([header, *unscored]) + "\n")
    (folder / "words.txt").write_text("the old house\nthe student\nthe tower\n")
    pairs = folder / "data" / "glue" / "stsb" / "validation.jsonl"
    pairs.parent.mkdir(parents=True)
    rows = [{"sentence1": f"a lake {n}", "sentence2": "the river", "label": n % 6, "idx": n} for n in range(6)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "all.toml").write_text(
        f"""
        data = "{folder}/data"
        teacher.model = "{folder}/teacher"
        corpus = {{ source = "{folder}/corpus", block_size = 32 }}
        adapt.tokens = 600
        distill.max_steps = 2
        validation = {{ times = 1, blocks = 4 }}
        compress = {{ tasks = ["reviews"], vocabulary = "{folder}/words.txt", keep = [], timed_examples = 4 }}
        benchmark = {{ models = ["student"], protocols = ["true-length"], memory = false, rounds = 1 }}
        [finetune]
        tasks = ["reviews"]
        seeds = [0]
        keep = "all"
        epochs = 1
        min_steps = 0
        distillation = {{ unlabelled = "{folder}/more.csv", augment = 1 }}
        [finetune.custom.reviews]
        train = "{folder}/train.csv"
        validation = "{folder}/validation.csv"
        text = "review"
        label = "stars"
        """
    )
    main(command(folder))
    return folder


def command(study: Path) -> list[str]:
    return ["replicate", str(study / "all.toml"), "--output", str(study / "run"), "--quiet"]


@contextmanager
def changed(path: Path, *change: str, more: str = "") -> Iterator[None]:
    """The file with the first word replaced by the second, or with more at its end; afterwards as it was."""
    before = path.read_bytes()
    try:
        path.write_bytes((before.replace(*(word.encode() for word in change)) if change else before) + more.encode())
        assert path.read_bytes() != before
        yield
    finally:
        path.write_bytes(before)


def refused(call: Call, study: Path, *parts: str) -> None:
    """The same command, and its dry run, are refused in one line that says what changed, and write nothing."""
    run = study / "run"
    before = {path: path.read_bytes() for path in run.rglob("*.json*")}
    code, out, err = call(*command(study))
    assert code == 2 and err.count("\n") == 1, (out, err)
    assert all(part in err for part in (*parts, "give another --output")), err
    assert {path: path.read_bytes() for path in run.rglob("*.json*")} == before


def test_the_same_command_with_the_same_inputs_makes_nothing_again(study: Path, call: Call) -> None:
    run = study / "run"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}
    code, out, err = call(*command(study)[:-1])
    assert code == 0 and out.count("finished before, skipped") == 12, (out, err)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")} == before
    finished = {path.parent for path in before}
    know = {path.parent for path in run.rglob(made_from.FILE)}
    assert finished - know == {run / "comparisons"}, "which are made anew; every other folder knows its inputs"


DATA = {
    "train.csv": ("bad", "good", "reviews train"),
    "validation.csv": ("tower", "house", "reviews validation"),
    "more.csv": ("lake", "river", "unlabelled texts"),
    "words.txt": ("house", "lake", "compress.vocabulary"),
    "corpus/train.txt": ("Paris", "the fair", "corpus"),
    "corpus/validation.txt": ("Paris", "the fair", "corpus"),
    "data/glue/stsb/validation.jsonl": ("lake", "house", "benchmark pairs"),
    "teacher/config.json": ("0.2", "0.3", "config.json changed"),
    "teacher/tokenizer.json": ("##", "++", "tokenizer.json changed"),
}
"""What is replaced in each file, and what the message calls it."""


@pytest.mark.parametrize("name", DATA)
def test_changed_data_is_refused_whether_the_command_runs_or_only_plans(name: str, study: Path, call: Call) -> None:
    *change, called = DATA[name]
    if name == "train.csv":
        change = ["the tower", "the old tower"]
    with changed(study / name, *change):
        refused(call, study, called)
        code, _, err = call(*command(study), "--dry-run")
        assert code == 2 and called in err, err


@pytest.mark.parametrize(
    "name", ["train.csv", "validation.csv", "more.csv", "words.txt", "data/glue/stsb/validation.jsonl"]
)
def test_a_row_more_is_another_input_too(name: str, study: Path, call: Call) -> None:
    rows = {
        "words.txt": "a book\n",
        "data/glue/stsb/validation.jsonl": '{"sentence1": "a", "sentence2": "b", "label": 1}\n',
    }
    with changed(study / name, more=rows.get(name, "the lake,good\n")):
        refused(call, study, DATA[name][-1])


def test_folders_know_their_data_when_the_file_of_the_run_is_lost(study: Path, call: Call) -> None:
    kept = RunFolder(study / "run").inputs
    before = kept.read_bytes()
    for name in ("train.csv", "validation.csv", "more.csv", "words.txt", "data/glue/stsb/validation.jsonl"):
        kept.unlink()
        with changed(study / name, *(DATA[name][:2] if name != "train.csv" else ("the tower", "the old tower"))):
            code, _, err = call(*command(study))
        assert code == 2 and f"{DATA[name][-1]} has changed" in err and "delete this folder" in err, (name, err)
    kept.write_bytes(before)


@pytest.mark.parametrize(
    ("folder", "reader"),
    [
        ("teacher", "student"), ("student", "tasks/reviews/student/seed-0/model"),
        ("teacher", "tasks/reviews/teacher/seed-0/model"), ("teacher", "tasks/reviews/augmented"),
        ("tasks/reviews/teacher/seed-0/model", "tasks/reviews/targets"),
        ("tasks/reviews/teacher/seed-0/model", "tasks/reviews/student-d/seed-0/model"),
        ("tasks/reviews/student/seed-0/model", "tasks/reviews/student/seed-0/scores"),
        ("tasks/reviews/student/seed-0/model", "tasks/reviews/compressed/summary"),
        ("student", "benchmark"), ("tasks/reviews/compressed/best", "benchmark"),
    ],
)  # fmt: skip
def test_a_folder_knows_the_folders_that_it_was_made_from(folder: str, reader: str, study: Path) -> None:
    read = atomic.read_json(study / "run" / reader / made_from.FILE)["inputs"]
    assert folder in read, read


@pytest.mark.parametrize("folder", ["teacher", "student", "tasks/reviews/teacher/seed-0/model"])
def test_what_was_made_from_a_folder_that_was_made_anew_is_refused(folder: str, study: Path, call: Call) -> None:
    model = study / "run" / folder
    manifest, weights = (model / name for name in (atomic.MANIFEST, "model.safetensors"))
    before, old = manifest.read_bytes(), weights.read_bytes()
    try:
        weights.write_bytes(old[:-4] + bytes(4))
        atomic.write_manifest(model)
        code, _, err = call(*command(study))
    finally:
        manifest.write_bytes(before)
        weights.write_bytes(old)
    assert code == 2 and f"{folder} has changed" in err, err
    assert "what was made with it (" in err or folder.startswith("tasks"), "what has to be deleted with it is named"
    assert "tasks" in err and "more)" not in err, "all of it"


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("adapt.tokens = 600", "adapt.tokens = 700", "adapt.tokens = 600 (now 700)"),
        ("max_steps = 2", "max_steps = 3", "distill.max_steps"),
        ("epochs = 1", "epochs = 2", "finetune.epochs"),
        ("timed_examples = 4", "timed_examples = 5", "compress.timed_examples"),
        ("rounds = 1", "rounds = 2", "benchmark.rounds"),
    ],
)
def test_a_recipe_that_was_edited_in_the_run_folder_too_is_noticed(
    before: str, after: str, key: str, study: Path, call: Call
) -> None:
    run = RunFolder(study / "run")
    in_run = {
        "adapt.tokens = 600": ("tokens = 600", "tokens = 700"),
        "epochs = 1": ("epochs = 1.0\nmin", "epochs = 2.0\nmin"),
    }
    with changed(study / "all.toml", before, after):
        code, _, err = call(*command(study))
        assert code == 2 and "a run of this recipe" in err, err
        with changed(run.recipe, *in_run.get(before, (before, after))):
            code, _, err = call(*command(study))
    assert code == 2 and key in err and "made from something else" in err, err


@pytest.mark.parametrize(
    "stage", sorted(inputs.FORMATS.keys() - {"augment", "cut", "targets"})
)  # read by unfinished (D) alone
def test_a_folder_of_a_version_with_other_results_is_refused(
    stage: str, study: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inputs.FORMATS, stage, 2)
    refused(call, study, "another version of the program")


def test_every_stage_that_makes_folders_has_a_format_and_its_sections() -> None:
    assert {stage.name for stage in STAGES} - {"prepare", "report"} <= inputs.FORMATS.keys() == inputs.SETTINGS.keys()


def test_data_that_is_gone_leaves_finished_folders_as_they_are_and_says_so(study: Path, call: Call) -> None:
    (study / "validation.csv").rename(study / "elsewhere")
    try:
        code, out, err = call(*command(study)[:-1])
    finally:
        (study / "elsewhere").rename(study / "validation.csv")
    assert code == 0, (out, err)
    assert any("reviews validation" in line and "no longer exists" in line for line in notices.all_notices())
