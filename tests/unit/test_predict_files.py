"""predict: the rows of files and the lines of pipes, one group after the other."""

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tinydistilbert.cli.main import main
from tinydistilbert.cli.predict import ROWS

Call = Callable[..., tuple[int, str, str]]


class Lengths:
    """A predictor whose answer is the length of a text; it reads twenty characters, and keeps what it was asked."""

    text_limit = 20
    groups: list[int]

    def __init__(self) -> None:
        self.groups = []

    def excess(self, texts: list[str], pairs: list[str] | None = None) -> list[int]:
        return [max(0, len(text) - self.text_limit) for text in texts]

    def predict(self, texts: list[str], pairs: list[str] | None = None) -> list[dict[str, object]]:
        self.groups.append(len(texts))
        others = pairs or [""] * len(texts)
        return [{"label": f"{len(text)}{pair}", "score": 0.5} for text, pair in zip(texts, others, strict=True)]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; gives exit code, standard output and standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    predictor = Lengths()
    monkeypatch.setattr("tinydistilbert.predictor.load", lambda folder, **settings: predictor)
    return predictor


def table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_rows_of_a_file_with_their_answers(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    count = 2 * ROWS + 3
    rows = [["id", "review"], *([str(n), "a, b" * (n % 3)] for n in range(count))]
    source, target = table(tmp_path / "in.csv", rows), tmp_path / "out.csv"
    code, out, err = call("predict", "folder", source, "--text", "review", "--output", target)
    assert code == 0 and not out, err
    answered = list(csv.reader(target.read_text(encoding="utf-8").splitlines()))
    assert answered[0] == ["id", "review", "prediction", "prediction_score"] and len(answered) == count + 1
    assert answered[3] == ["2", "a, ba, b", "8", "0.5"]
    assert lengths.groups == [ROWS, ROWS, 3], "never all of it at once"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_lines_of_json_pairs_and_texts_that_are_cut(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps({"text": "x" * n, "other": "!"}) for n in (3, 30)) + "\n")
    code, out, err = call("predict", "folder", source, "--text-pair", "other")
    assert code == 0 and err == "line 2: cut, 20 of 30 tokens were read\n"
    assert [json.loads(line)["prediction"]["label"] for line in out.splitlines()] == ["3!", "30!"]
    code, out, err = call("predict", "folder", source, "--no-truncate", "--output", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 2 and "line 2: 1 of 2 texts" in err and "too long" in lines[1]["prediction"]["error"]


@pytest.mark.parametrize(
    ("content", "arguments", "part"),
    [
        ("id,review\n1,a\n", [], "--text COLUMN"),
        ("text\na\n", ["--text-pair", "b"], "the column 'b'"),
        ("text,prediction\na,b\n", ["--output", "out.csv"], "'prediction'"),
        ("text\n", [], "at least one row"),
        ("text\na\n", ["--output", "out.xls"], "answers.csv"),
        ("text\na\n", ["--output", "out.csv.gz"], "answers.csv"),
        ("text\na\n", ["pair"], "--text-pair COLUMN"),
        ("text,b\na,b,c\n", ["--output", "out.csv"], "2 fields"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    content: str, arguments: list[str], part: str, call: Call, lengths: Lengths, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text(content)
    code, out, err = call("predict", "folder", "in.csv", *arguments)
    assert code == 2 and not out and part in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_flags_of_files_need_a_file(call: Call, lengths: Lengths) -> None:
    for flag in ("--text", "--text-pair", "--output"):
        code, _, err = call("predict", "folder", "a text", flag, "x.csv")
        assert code == 2 and flag in err


def test_a_row_with_more_than_the_first_has_no_place_in_a_table(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b", "more": 1}\n')
    code, _, err = call("predict", "folder", source, "--output", tmp_path / "out.csv")
    assert code == 2 and "'more'" in err and not (tmp_path / "out.csv").exists()


@pytest.mark.long
def test_a_line_of_a_pipe_is_answered_before_the_next_one_comes() -> None:
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).resolve().parents[2])]!r}
import tinydistilbert.predictor
from tests.unit.test_predict_files import Lengths
tinydistilbert.predictor.load = lambda folder, **settings: Lengths()
from tinydistilbert.cli.main import main
main(["predict", "folder", "-"])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
    timer = threading.Timer(100, done.kill)
    timer.start()
    assert done.stdin and done.stdout
    try:
        for line in ("one", "three", "Ünïcödé"):
            done.stdin.write(line + "\n")
            done.stdin.flush()
            assert json.loads(done.stdout.readline())["label"] == str(len(line))
        done.stdin.write("no line break")
        done.stdin.close()
        assert json.loads(done.stdout.readline())["label"] == "13"
        assert done.wait() == 0
    finally:
        timer.cancel()
        done.kill()
        done.wait()
        for stream in (done.stdin, done.stdout):
            stream.close()
