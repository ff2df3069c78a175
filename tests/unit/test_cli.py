"""The command line as it is seen: help, JSON, errors, completion. Whole runs are in tests/pipeline."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinydistilbert.api import run as api
from tinydistilbert.api.outcomes import Run
from tinydistilbert.cli import flags
from tinydistilbert.cli.arguments import COMMANDS
from tinydistilbert.cli.main import main
from tinydistilbert.cli.parser import build
from tinydistilbert.errors import MissedTarget
from tinydistilbert.recipe import keys
from tinydistilbert.report import use
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command line in this process on 80 columns; gives exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("chosen", ["", "cp1252"])
def test_output_has_every_character_on_any_system(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    """As a pipe of Windows, whose code page has no arrow."""
    monkeypatch.setenv("PYTHONIOENCODING", chosen)
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="cp1252"))
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    sys.stdout.flush()
    assert stop.value.code == 0
    assert ("text \\u2192 token" if chosen else "text → token") in buffer.getvalue().decode(chosen or "utf-8")


def test_the_overview_has_every_command_in_80_columns(call: Call) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        code, out, err = call(*arguments)
        assert code == 0 and not err
        assert set(re.findall(r"^    ([a-z]+) ", out, re.MULTILINE)) == set(COMMANDS)
        assert max(map(len, out.splitlines())) <= 80
    assert call("--version")[1].startswith("tinydistilbert ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_short_and_says_how_to_see_more(command: str, call: Call) -> None:
    code, out, err = call(command, "--help")
    assert code == 0 and not err and out.startswith(f"usage: tinydistilbert {command} {COMMANDS[command].usage}")
    assert max(map(len, out.splitlines())) <= 80
    if command not in flags.SHORT:
        return
    assert f"tinydistilbert {command} --help-all" in out and len(out.splitlines()) < 116
    for flag, key in flags.SHORT[command].items():
        assert re.search(rf"^  --{flag} ", out, re.MULTILINE), flag
        assert re.search(rf"\({re.escape(key)}[;)]", " ".join(out.split())), key
    for flag in ("--output", "--seed", "--device", "--threads", "--data", "--dry-run", "--json", "--quiet"):
        assert re.search(rf"^  {flag}\b", out, re.MULTILINE), flag
    shown = set(re.findall(r"^  --([a-z-]+)", out, re.MULTILINE))
    assert ("--objective.kl" not in out) and ("text-pair" in shown) == (command in flags.CUSTOM_TASK)


def test_help_all_has_every_setting_with_default_and_meaning(call: Call) -> None:
    code, out, _ = call("replicate", "--help-all")
    text = " ".join(out.split())
    assert code == 0
    for section in keys.sections():
        for key in section.keys:
            assert f" --{key.name} " in text or f" --{key.name}, " in text, key.name
            assert key.help, key.name
            assert re.sub(r"[\s-]", "", key.help) in re.sub(r"[\s-]", "", text), key.name
    assert "--objective.temperature X ..." in out and "(default: 2.0)" in out
    assert "--finetune.override.TASK.epochs" in out and "--finetune.custom.NAME.train" in out
    assert call("predict", "--help-all")[0] == 2
    code, out, _ = call("sweep", "--help-all")
    assert code == 0 and "--objective.temperature X ..." in out and "--space FILE" in out


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["replicate", "--help-all"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "numpy", "rich", "shtab", "datasets")
    heavy += ("pydantic",) if arguments == ["--help"] else ()
    code = f"""
import sys
from tinydistilbert.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(sorted(set(sys.modules) & {set(heavy)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.long
def test_a_run_loads_what_it_draws_and_tests_with_when_it_does() -> None:
    """Half a second each of a command that only trains, or says what it would do."""
    heavy = ("matplotlib", "scipy.stats", "sklearn", "pandas", "datasets", "onnx", "optuna")
    code = f"import sys, tinydistilbert.pipeline.run; print(sorted(set(sys.modules) & {set(heavy)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.long
def test_help_that_nobody_reads_to_its_end_is_no_error() -> None:
    command = f"{sys.executable} -m tinydistilbert replicate --help-all | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage:") and not done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["distil"], ["'distil'", "did you mean 'distill'"]),
        (["--seed", "3"], ["'--seed'", "prepare"]),
        (["export", "a"], ["--output", "none"]),
        (["export", "a", "--output", "b", "c"], ["'c'"]),
        (["export", "a", "--output", "b", "--half", "--int8"], ["--half", "--int8"]),
        (["elmo", "--weights", "a", "--output", "b"], ["--options"]),
        (["convert"], ["MODEL"]),
        (["compare"], ["RUN"]),
        (["shrink", "a.csv", "--to", "5ms", "--to", "20MB"], ["--to", "given twice"]),
        (["sweep", "minilm", "--space", "a", "--objective.temprature", "3"], ["did you mean --objective.temperature?"]),
        (["compare", "a", "b", "c"], ["'c'"]),
        (["compare", "/nowhere"], ["/nowhere", "a run folder"]),
        (["compare", "a", "--seed", "x"], ["--seed", "'x'"]),
        (["predict", "a"], ["TEXT"]),
        (["predict", "a", "b", "--txt"], ["'--txt'", "[--] TEXT"]),
        (["recipes", "quikstart"], ["did you mean 'quickstart'"]),
        (["tasks", "sst2"], ["'sst2'"]),
        (["completion", "fish"], ["fish"]),
        (["distill", "quickstart", "--distill.time_budget", "20x"], ["key distill.time_budget", "'20x'"]),
        (["compress", "minilm"], ["compress.tasks"]),
        (["replicate", 'name = "mine"\n' * 30], ['name = "mine" name = ', "a file or one of"]),
        (["report", "x" * 300], ["a file or one of"]),
        (["compress", "x" * 300], ["a file or one of"]),
        (["compare", "x" * 300], ["a run folder"]),
    ],
)
def test_mistakes_leave_with_exit_code_2_and_one_line(arguments: list[str], parts: list[str], call: Call) -> None:
    code, out, err = call(*arguments)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    assert all(part in err for part in parts), err


class Echo:
    """A predictor that gives back what it is asked, and reads three characters of a text."""

    text_limit = 3

    def excess(self, texts: list[str], pairs: list[str] | None = None) -> list[int]:
        return [max(0, len(text) - self.text_limit) for text in texts]

    def predict(self, texts: list[str], pairs: list[str] | None = None) -> list[dict[str, object]]:
        lost = [{"cut_tokens": tokens} if tokens else {} for tokens in self.excess(texts)]
        given = zip(texts, pairs or [None] * len(texts), lost, strict=True)
        return [{"text": text, "pair": pair} | cut for text, pair, cut in given]


@pytest.mark.parametrize(
    ("words", "text", "pair"),
    [
        (["a fine film"], "a fine film", None),
        (["one", "two"], "one", "two"),
        (["--", "--help"], "--help", None),
        (["--", "-x", "--y"], "-x", "--y"),
        (["-5 degrees, and --help is a word"], "-5 degrees, and --help is a word", None),
        (["-5"], "-5", None),
        ([""], "", None),
        (["a, b]"], "a, b]", None),
    ],
)
def test_predict_takes_any_text(
    words: list[str], text: str, pair: str | None, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinydistilbert.predictor.load", lambda folder, **settings: Echo())
    code, out, err = call("predict", "folder", *words)
    assert code == 0 and json.loads(out) | {"cut_tokens": 0} == {"text": text, "pair": pair, "cut_tokens": 0}, err
    code, out, _ = call("predict", "folder", "--help")
    assert code == 0 and "predict FOLDER -- --help" in out


def test_the_list_of_presets_keeps_to_the_width_of_a_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = call("recipes")[1].splitlines()
    monkeypatch.setattr("tinydistilbert.cli.output.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "50")
    shown = call("recipes")[1].splitlines()
    assert len(shown) > len(piped) and max(map(len, shown)) <= 50
    assert " ".join(" ".join(shown).split()) == " ".join(" ".join(piped).split())


def test_tasks_and_recipes_as_json(call: Call) -> None:
    tasks = {task["name"]: task for task in json.loads(call("tasks", "--json")[1])}
    assert tasks["stsb"]["kind"] == "regression" and "pearson" in tasks["stsb"]["metrics"]
    assert list(tasks) == [line.split()[0] for line in call("tasks")[1].splitlines()]
    recipes = {recipe["name"] for recipe in json.loads(call("recipes", "--json")[1])}
    assert recipes == {line.split()[0] for line in call("recipes")[1].splitlines()} >= {"quickstart", "seed"}
    assert json.loads(call("recipes", "--json", "quickstart")[1])["name"] == "quickstart"


TASKS = """
[finetune]
tasks = ["cola", "rte"]
[compress]
tasks = ["cola", "rte"]
"""


@pytest.fixture
def compressing(tmp_path: Path) -> list[str]:
    """The arguments of a run that compresses models of two tasks."""
    (tmp_path / "two.toml").write_text(TASKS)
    return ["replicate", str(tmp_path / "two.toml"), "--output", str(tmp_path / "run")]


def test_a_run_that_misses_its_target_prints_what_it_made(
    compressing: list[str], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> Run:
        raise MissedTarget("missed the target: 9 ms")

    monkeypatch.setattr(api, "run", missing)
    code, out, err = call(*compressing, "--json")
    assert code == 1 and err == "error: missed the target: 9 ms\n"
    document = json.loads(out)
    assert document["missed"] == "missed the target: 9 ms" and document["page"].endswith("report.html")
    code, out, err = call(*compressing)
    assert code == 1 and out.startswith("The page: ") and err == "error: missed the target: 9 ms\n"


def test_a_run_whose_first_task_failed_prints_the_model_of_the_next(
    compressing: list[str], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose process failed (`--jobs`) has nothing compressed."""
    made = Run(Path(compressing[-1]), failures=("finetune student on CoLA, seed 0: killed by SIGKILL, twice",))
    monkeypatch.setattr(api, "run", lambda *_, **__: made)
    asked: list[str] = []
    facts = SimpleNamespace(sentence="It keeps all.", model="best", command="ask it")
    monkeypatch.setattr(use, "facts_of_best", lambda _, task: asked.append(task) or facts)
    assert call(*compressing)[0] == 1 and not asked
    summary = RunFolder(made.folder).compressed("rte").summary
    summary.mkdir(parents=True)
    atomic.write_manifest(summary)
    code, out, err = call(*compressing)
    assert code == 1 and "It keeps all." in out and asked == ["rte"]
    assert err == f"error: {made.failures[0]}\n"


@pytest.mark.long
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_settings(shell: str, call: Call) -> None:
    code, out, _ = call("completion", shell)
    assert code == 0
    for part in ("replicate", "--objective.temperature", "--learning-rate", "heldout", "--quiet"):
        assert part in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["tinydistilbert", "repl"], {"replicate"}),
        (["tinydistilbert", "distill", "--objective.te"], {"--objective.temperature"}),
        (["tinydistilbert", "finetune", "--select", ""], {"fixed", "heldout", "reported"}),
    ],
)
@pytest.mark.long
def test_completion_in_bash(words: list[str], candidates: set[str], tmp_path: Path, call: Call) -> None:
    (tmp_path / "completion.bash").write_text(call("completion", "bash")[1])
    script = f"""
source {tmp_path}/completion.bash
COMP_WORDS=({" ".join(repr(word) for word in words)})
COMP_CWORD={len(words) - 1}
_shtab_tinydistilbert tinydistilbert {words[-1]!r}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == candidates, done.stderr


def test_one_parser_has_all_commands() -> None:
    assert build().parse_known_args(["tasks"])[0].command == "tasks"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the predictor, and what stands on the standard input."""

    def with_input(text: str) -> None:
        monkeypatch.setattr("tinydistilbert.predictor.load", lambda folder, **settings: Echo())
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return with_input


def test_of_a_text_that_is_too_long_its_line_is_named_and_the_others_are_answered(call: Call, echo) -> None:
    echo("a\nlonger\nb\n")
    code, out, err = call("predict", "folder", "-")
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == ["a", "longer", "b"]
    assert err == "line 2: cut, 3 of 6 tokens were read\n"
    echo("a\nlonger\nb\n")
    code, out, err = call("predict", "folder", "-", "--no-truncate")
    first, second, third = map(json.loads, out.splitlines())
    assert (first["text"], third["text"]) == ("a", "b") and "3 tokens too long" in second["error"]
    assert code == 2 and "line 2: 1 of 3 texts" in err
    echo("longer\n" * 30)
    code, out, err = call("predict", "folder", "-")
    assert code == 0 and err.count("line ") == 10 and "30 of 30 texts were cut to 3 tokens" in err


def test_a_line_without_the_pair_that_others_have_is_named(call: Call, echo) -> None:
    echo("a\tb\nc\td\ne\n")
    code, out, err = call("predict", "folder", "-")
    assert code == 2 and not out and "standard input, line 3" in err
    echo("a\tb\n")
    assert "PAIR" in call("predict", "folder", "-", "pair")[2]
