"""Flags: keys of the recipe, short names of some, values with odd characters, and the files of a task of one's own."""

from pathlib import Path
from typing import Any

import pytest

from tinydistilbert.cli import flags
from tinydistilbert.cli.request import request
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import keys, schema, toml


def refusal(*arguments: str) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(UserError) as caught:
        request(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recipe(*arguments: str) -> schema.Recipe:
    return request(arguments).recipe


def test_every_setting_is_a_flag_and_gives_what_a_file_gives(tmp_path: Path) -> None:
    (tmp_path / "defaults.toml").write_text("")
    arguments = []
    for section in keys.sections():
        for key in section.keys:
            if key.default not in (None, "", ()):
                values = key.default if isinstance(key.default, tuple) else (key.default,)
                arguments += [
                    f"--{key.name}",
                    *(str(value).lower() if value is True else str(value) for value in values),
                ]
    assert len(arguments) > 200
    assert recipe("distill", str(tmp_path / "defaults.toml"), *arguments) == schema.Recipe()
    by_flag = recipe("distill", "minilm", "--objective.temperature", "3", "1", "--student.layers=even", "--seed=7")
    in_file = toml.from_dict(
        toml.merge(
            schema.to_dict(toml.load("minilm")),
            {"objective": {"temperature": [3, 1]}, "student": {"layers": "even"}, "seed": 7},
        ),
        "here",
    )
    assert by_flag == in_file


@pytest.mark.parametrize("command", flags.SHORT)
def test_a_short_flag_means_a_key_of_its_command(command: str) -> None:
    known = {key.name: key for section in keys.sections() for key in section.keys}
    given = {"select": "heldout", "time-budget": "20m", "target-latency": "5ms", "target-size": "20MB", "task": "rte"}
    given |= {"target-operations": "100M", "model": "m"}
    for flag, name in flags.SHORT[command].items():
        if flag == "model":
            continue
        value = given.get(flag, "1")
        needed = [command, "small-glue", *(["--space", "space.toml"] if command == "sweep" else [])]
        assert recipe(*needed, f"--{flag}", value) == recipe(*needed, f"--{name}", value), flag
        assert name in known


def test_distill_changes_the_distillation() -> None:
    changed = recipe("distill", "minilm", "--learning-rate", "9", "--epochs", "7", "--teacher", "DIR")
    plain = toml.load("minilm")
    assert changed.distill.optimization.learning_rate == 9 and changed.distill.epochs == 7
    assert changed.teacher.model == "DIR" and changed.finetune == plain.finetune
    changed = recipe("finetune", "minilm", "--learning-rate", "9", "--epochs", "7", "--teacher", "DIR")
    assert changed.finetune.optimization.learning_rate == 9 and changed.finetune.epochs == 7
    assert changed.finetune.distillation.teachers == ("DIR",) and changed.distill == plain.distill
    assert recipe("adapt", "minilm", "--learning-rate", "9").adapt.optimization.learning_rate == 9


@pytest.mark.parametrize("command", ["evaluate", "benchmark", "report", "replicate", "ablate"])
@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--epochs", ["--distill.epochs", "--finetune.epochs"]),
        ("--learning-rate", ["--distill.optimization.learning_rate", "--finetune.optimization.learning_rate"]),
        ("--teacher", ["--teacher.model", "--finetune.distillation.teachers"]),
    ],
)
def test_what_could_mean_two_keys_is_refused_with_both(command: str, flag: str, meant: list[str]) -> None:
    message = refusal(command, "minilm", flag, "3")
    assert message.startswith(flag) and all(key in message for key in meant)


def test_with_a_model_alone_only_fine_tuning_can_be_meant() -> None:
    asked = recipe("replicate", "--model", "m", "--task", "cola", "--epochs", "2", "--teacher", "a", "b")
    assert asked.finetune.epochs == 2 and asked.finetune.distillation.teachers == ("a", "b")
    assert asked == recipe("finetune", "--model=m", "--task", "cola", "--epochs", "2", "--teacher", "a", "b")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["distill", "minilm", "--seeds", "3"], ["--seeds", "--finetune.seeds"]),
        (["distill", "minilm", "--task", "rte"], ["--task", "--finetune.tasks"]),
        (["distill", "--model", "m"], ["--model", "--finetune.model"]),
        (["distill", "minilm", "--text", "t"], ["--text", "finetune"]),
        (["ablate", "minilm", "--seeds", "3"], ["--seeds", "--finetune.seeds"]),
        (["finetune", "minilm", "--keep", "0.5"], ["--keep", "--compress.keep"]),
    ],
)
def test_a_short_flag_of_another_command_is_refused_with_its_key(arguments: list[str], parts: list[str]) -> None:
    message = refusal(*arguments)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("flag", "first"),
    [
        ("--finetune.learning_rate", "--finetune.optimization.learning_rate"),
        ("--distill.learning_rate", "--distill.optimization.learning_rate"),
        ("--learning_rate", "--learning-rate"),
        ("--objectiv.kl", "--objective.kl"),
        ("--objective.temprature", "--objective.temperature"),
        ("--finetune.temperature", "--finetune.distillation.temperature"),
        ("--finetune.epoch", "--finetune.epochs"),
        ("--sed", "--seed"),
        ("--outptu", "--output"),
        ("--finetune.override.rte.epoch", "--finetune.override.rte.epochs"),
        ("--finetune.custom.mine.txt", "--finetune.custom.mine.text"),
        ("--ablate.rows.hot.masking.rat", "--ablate.rows.hot.masking.rate"),
    ],
)
def test_a_misspelt_flag_is_answered_with_the_right_one_first(flag: str, first: str) -> None:
    _, asks, suggestions = refusal("finetune", "minilm", flag, "1e-4").partition("did you mean ")
    assert asks and suggestions.split("?")[0].split(",")[0].split(" or ")[0] == first


def test_the_learning_rate_has_one_short_name_that_errors_say() -> None:
    assert "In short: --learning-rate" in refusal("finetune", "minilm", "--finetune.learning_rate", "1e-4")


def test_the_home_folder_may_be_named_behind_an_equals_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell leaves `--output=~/run` as it is, and a folder called `~` would be made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert request(["distill", "minilm", "--output=~/run"]).output == tmp_path / "run"
    assert request(["distill", "minilm", "--output=~nobody-of-this-name/run"]).output == Path(
        "~nobody-of-this-name/run"
    )


@pytest.mark.parametrize(
    "path", ["a,b.txt", "a]", "[a]", "[1]", "-a", "--a", "a b", " a ", "a=b", "a,[b],c d", "größer"]
)
def test_a_path_stays_as_it_is(path: str) -> None:
    changed = recipe("finetune", "minilm", f"--corpus.source={path}", f"--teacher={path}", f"--data={path}")
    assert changed.corpus.source == changed.data == path
    assert changed.finetune.distillation.teachers == (path,)
    assert request(["distill", "minilm", f"--output={path}"]).output == Path(path)
    if not path.startswith("-"):
        changed = recipe("finetune", "minilm", "--corpus.source", path, "--teacher", path, path + "2", "--data", path)
        assert changed.corpus.source == changed.data == path
        assert changed.finetune.distillation.teachers == (path, path + "2")


def test_a_value_that_reads_as_a_flag_is_told_how_it_is_written() -> None:
    message = refusal("distill", "minilm", "--corpus.source", "-a.txt")
    assert "'-a.txt'" in message and "--corpus.source=-a.txt" in message
    assert recipe("distill", "minilm", "--objective.relation_layer", "-2").objective.relation_layer == -2


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--finetune.seeds", "3", "4"], (3, 4)),
        (["--finetune.seeds", "3,4"], (3, 4)),
        (["--finetune.seeds", "[3, 4]"], (3, 4)),
        (["--finetune.seeds", "[3,", "4]"], (3, 4)),
        (["--finetune.seeds=3", "--finetune.seeds=4"], (3, 4)),
        (["--seeds", "3", "--finetune.seeds", "4"], (3, 4)),
    ],
)
def test_ways_to_write_a_list(arguments: list[str], value: tuple[int, ...]) -> None:
    assert recipe("finetune", "minilm", *arguments).finetune.seeds == value


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--teacher", '["a,b", "c d"]'], "finetune.distillation.teachers", ("a,b", "c d")),
        (["--teacher", "all"], "finetune.distillation.teachers", "all"),
        (["--teacher=-a", "--teacher=-b"], "finetune.distillation.teachers", ("-a", "-b")),
        (["--task", "cola,rte"], "finetune.tasks", ("cola", "rte")),
        (["--compress.keep", "[]"], "compress.keep", ()),
        (["--student.layers", "3"], "student.layers", (3,)),
        (["--student.layers", "0,3"], "student.layers", (0, 3)),
        (["--student.layers", "[0, 3]"], "student.layers", (0, 3)),
        (["--student.layers", "even"], "student.layers", "even"),
        (["--masking.rate", "0.3"], "masking.rate", 0.3),
        (["--masking.rate", "0.3", "0.2"], "masking.rate", (0.3, 0.2)),
        (["--masking.rate", "[0.3, 0.2]"], "masking.rate", (0.3, 0.2)),
        (["--benchmark.models", "teacher", "student"], "benchmark.models", ("teacher", "student")),
        (["--masking.whole_words", "true"], "masking.whole_words", True),
        (["--masking.whole-words=true"], "masking.whole_words", True),
        (["--corpus.config", "en"], "corpus.config", "en"),
    ],
)
def test_values_come_out_as_their_keys_want_them(arguments: list[str], key: str, value: Any) -> None:
    setting: Any = recipe("finetune", "minilm", *arguments)
    for part in key.split("."):
        setting = getattr(setting, part)
    assert setting == value and type(setting) is type(value)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["minilm", "--epochs", "3", "--epochs", "4"], ["--epochs", "twice", "'3'", "'4'"]),
        (["minilm", "--epochs", "3", "--finetune.epochs", "4"], ["--finetune.epochs", "twice"]),
        (["minilm", "--objective.kl", "5", "--objective.kl", "1"], ["--objective.kl", "twice"]),
        (["minilm", "--teacher", "all", "--teacher", "b"], ["--teacher", "twice"]),
        (["minilm", "--output", "a", "--output", "b"], ["--output", "twice"]),
        (["minilm", "--output", ""], ["--output", "an empty one"]),
        (["minilm", "--data="], ["--data", "an empty one"]),
        (["minilm", "--epochs", ""], ["--epochs", "an empty one"]),
        (["minilm", "--teacher", ""], ["--teacher", "an empty one"]),
        ([""], ["RECIPE", "an empty one"]),
        (["minilm", "--seeds"], ["--seeds", "a value"]),
        (["minilm", "--seeds", "--epochs", "3"], ["--seeds", "a value"]),
        (["minilm", "--dry-run=yes"], ["--dry-run", "no value", "'yes'"]),
        (["minilm", "--threads", "0"], ["--threads", ">= 1", "'0'"]),
        (["minilm", "--epochs", "3", "4"], ["one recipe", "'minilm' and '4'"]),
        (["minilm", "--epoch", "3"], ["--epoch", "did you mean --epochs"]),
        (["minilm", "--labels", "stars"], ["--labels", "did you mean --label?"]),
        (["minilm", "--text-column", "review"], ["--text-column", "did you mean --text?"]),
        (["minilm", "--quote", "none"], ["--quote", "did you mean --quoting?"]),
        (["minilm", "--objective", "3"], ["--objective", "did you mean --objective.kl"]),
    ],
)
def test_a_value_too_few_too_many_or_empty(arguments: list[str], parts: list[str]) -> None:
    message = refusal("finetune", *arguments)
    assert all(part in message for part in parts), message


def test_an_empty_text_is_right_where_it_means_none() -> None:
    assert recipe("distill", "minilm", "--time-budget", "").distill.time_budget == ""


def test_no_flag_is_guessed_from_its_beginning() -> None:
    assert "did you mean --learning-rate" in refusal("finetune", "minilm", "--learning-rat", "1")


def test_settings_of_one_task_and_of_rows() -> None:
    changed = recipe(
        "finetune", "minilm", "--finetune.override.cloze-qa.max_length", "99",
        "--finetune.custom.mine.train=a.csv", "--finetune.custom.mine.validation", "b, c.csv",
        "--ablate.rows.rate 30 %.masking.rate=0.3", "--ablate.rows.a.student.layers", "0", "3",
    )  # fmt: skip
    assert changed.finetune.override["cloze-qa"].max_length == 99
    assert changed.finetune.custom["mine"].validation == "b, c.csv"
    assert changed.ablate.rows["rate 30 %"] == {"masking": {"rate": 0.3}}
    assert changed.ablate.rows["a"] == {"student": {"layers": [0, 3]}}


def test_a_mistake_in_a_value_is_told_as_in_a_file() -> None:
    for key, value in (("objective.kl", "much"), ("student.layers", "odd"), ("finetune.select", "best")):
        section, name = key.split(".")
        with pytest.raises(UserError) as in_file:
            toml.from_dict({section: {name: value}}, "command line")
        assert refusal("finetune", "minilm", f"--{key}", value) == str(in_file.value)


def test_a_model_needs_no_recipe_and_gives_the_run_its_tasks_name() -> None:
    asked = request(["finetune", "--model", "some/model", "--task", "cola", "rte", "--teacher", "a", "--dry-run"])
    assert asked.recipe.finetune.model == "some/model" and asked.recipe.finetune.tasks == ("cola", "rte")
    assert asked.recipe.finetune.distillation.teachers == ("a",)
    assert asked.output == Path("runs/cola-rte") and asked.dry_run
    assert not request(["distill", "quickstart"]).dry_run


def test_flags_of_the_run() -> None:
    asked = request(["distill", "minilm", "--json", "--quiet", "--threads", "2", "--device=cpu", "--data", "somewhere"])
    assert asked.json and asked.quiet and asked.threads == 2
    assert asked.recipe.device == "cpu" and asked.recipe.data == "somewhere"
    assert asked.output == Path("runs/minilm")


def test_a_task_of_ones_own_is_called_after_its_train_file() -> None:
    given = ["--model", "m", "--data", "in/My Reviews.csv", "--validation", "v.csv", "--text", "t", "--label", "l"]
    changed = recipe("finetune", *given, "--text-pair", "u", "--kind", "regression", "--max-length", "64")
    (name,) = changed.finetune.tasks
    task = changed.finetune.custom[name]
    assert name == "my-reviews" == changed.name
    assert (task.train, task.validation, task.text, task.text_pair) == ("in/My Reviews.csv", "v.csv", "t", "u")
    assert (task.label, task.kind, task.max_length) == ("l", "regression", 64)
    assert changed.data is None
    for name in ("squad.csv", "squad.csv.gz", "squad.csv.zst"):
        given = ["--model", "m", "--data", name, "--text", "t", "--validation", "v"]
        assert recipe("finetune", *given).name == "own-squad"


def test_compress_compresses_what_it_fine_tunes_a_given_model_on() -> None:
    asked = recipe("compress", "--model", "m", "--task", "cola")
    assert asked.finetune.tasks == asked.compress.tasks == ("cola",) and asked.compress.row == "model"
    asked = recipe("compress", "--model", "m", "--task", "cola", "--teacher", "t")
    assert asked.finetune.distillation.teachers == ("t",) and asked.compress.row == "model (D)"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "a recipe"),
        (["quickstart", "minilm"], "one recipe"),
        (["--model", "m", "--label", "l"], "with --data alone"),
        (["--model", "m", "--task", "colla"], "did you mean 'cola'"),
        (["--model", "m"], "--task"),
        (["--model", "m", "--data", "size.csv", "--text", "t"], "validation"),
        (["quikstart"], "did you mean 'quickstart'"),
    ],
)
def test_mistakes_about_the_recipe(arguments: list[str], part: str) -> None:
    assert part in refusal("finetune", *arguments)
