"""predict: the rows of files and the lines of pipes, one group after the other."""

import csv
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinydistilbert.cli import predict, predict_files
from tinydistilbert.cli.main import main
from tinydistilbert.cli.predict_files import ROW_GROUP, WINDOW

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
        lost = [{"cut_tokens": tokens} if tokens else {} for tokens in self.excess(texts)]
        return [
            {"label": f"{len(text)}{pair}", "score": 0.5} | cut
            for text, pair, cut in zip(texts, others, lost, strict=True)
        ]


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
    count = 2 * WINDOW + 3
    rows = [["id", "review"], *([str(n), "a, b" * (n % 3)] for n in range(count))]
    source, target = table(tmp_path / "in.csv", rows), tmp_path / "out.csv"
    code, out, err = call("predict", "folder", source, "--text", "review", "--output", target)
    assert code == 0 and not out, err
    answered = list(csv.reader(target.read_text(encoding="utf-8").splitlines()))
    assert answered[0] == ["id", "review", "prediction", "prediction_score"] and len(answered) == count + 1
    assert answered[3] == ["2", "a, ba, b", "8", "0.5"]
    assert lengths.groups == [WINDOW, WINDOW, 3], "never all of it at once"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_of_the_answers_is_never_there_twice(
    call: Call, lengths: Lengths, tmp_path: Path, suffix: str
) -> None:
    source, target = table(tmp_path / "in.csv", [["text", "prediction_score"], ["a", "1"]]), tmp_path / f"out{suffix}"
    code, _, err = call("predict", "folder", source, "--output", target)
    assert code == 2 and "'prediction_score' already" in err and not target.exists(), err
    assert call("predict", "folder", source, "--output", tmp_path / "out.jsonl")[0] == 0, "there it has its own place"


def test_a_long_text_that_ends_like_a_file(call: Call, lengths: Lengths) -> None:
    code, out, err = call("predict", "folder", "see " * 100 + "readme.txt")
    assert code == 0 and json.loads(out)["label"] == "410", err


def test_a_file_of_any_size_is_read_no_further_than_its_window(
    call: Call, lengths: Lengths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come from a generator: each window is answered and written before the next is read."""
    read, waiting = [0], [0]

    def rows() -> Iterator[dict[str, object]]:
        for number in range(50):
            read[0] += 1
            waiting[0] = max(waiting[0], read[0] - sum(lengths.groups))
            yield {"text": "x" * (number % 3 if number < 40 else 9), "number": number}

    @contextmanager
    def opened(_file: Path) -> Iterator[predict_files.InputRows]:
        yield predict_files.InputRows(rows())

    monkeypatch.setattr(predict, "opened", opened)
    monkeypatch.setattr(predict, "WINDOW", 8)
    monkeypatch.setattr(predict, "WINDOW_CHARACTERS", 18)
    (tmp_path / "in.jsonl").touch()
    target = tmp_path / "out.jsonl"
    code, _, err = call("predict", "folder", tmp_path / "in.jsonl", "--output", target)
    assert code == 0, err
    answered = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["number"] for row in answered] == [*range(50)], "in their order"
    assert waiting[0] == 8 and lengths.groups == [8] * 5 + [2] * 5, "long texts make shorter windows"


def test_lines_of_a_text_file_are_texts(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes("one, two\r\n\n\tthree é".encode())
    code, out, err = call("predict", "folder", source)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["text"], row["prediction"]["label"]) for row in rows] == [
        ("one, two", "8"),
        ("", "0"),
        ("\tthree é", "8"),
    ]
    assert call("predict", "folder", source, "--output", tmp_path / "out.txt")[0] == 2, "it is not written"


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


@pytest.mark.usefixtures("lengths")
def test_answers_that_cannot_be_written_are_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = table(tmp_path / "in.csv", [["text"], ["good"]]), tmp_path / "out.csv"
    (tmp_path / "folder.csv").mkdir()
    code, _, err = call("predict", "m", file, "--output", tmp_path / "folder.csv")
    assert code == 2 and "expected a file, found a folder" in err
    if Path("/dev/full").exists():
        (tmp_path / "out.csv.partial").symlink_to("/dev/full")
        code, _, err = call("predict", "m", file, "--output", output)
        assert code == 3 and err.startswith(f"error: {output}: no space left on the disk")

    def refuse(path: Path, mode: str = "r", **more: Any) -> IO[Any]:
        if path.name in refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, mode, **more)

    opens, refused = Path.open, ["out.csv.partial"]
    monkeypatch.setattr(Path, "open", refuse)
    code, _, err = call("predict", "m", file, "--output", output)
    expected = f"--output {output}: expected a file that can be written, found Permission denied"
    assert code == 2 and expected in err and err.count("\n") == 1
    refused[:] = ["in.csv"]
    code, _, err = call("predict", "m", file)
    assert code == 2 and "in.csv: expected a file that can be read, found Permission denied" in err


@pytest.mark.usefixtures("lengths")
def test_numbers_that_json_lacks_are_null(call: Call, tmp_path: Path) -> None:
    rows = [{"text": "good", "x": float("nan"), "y": [float("inf"), 1.0]}, {"text": "bad", "x": 2.0, "y": []}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    code, out, err = call("predict", "m", tmp_path / "in.parquet")
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in out.splitlines())
    assert code == 0 and (first["x"], first["y"], second["x"]) == (None, [None, 1.0], 2.0), err


def test_flags_of_files_need_a_file(call: Call, lengths: Lengths) -> None:
    for flag in ("--text", "--text-pair", "--output"):
        code, _, err = call("predict", "folder", "a text", flag, "x.csv")
        assert code == 2 and flag in err


def test_a_row_with_more_than_the_first_has_no_place_in_a_table(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b", "more": 1}\n')
    code, _, err = call("predict", "folder", source, "--output", tmp_path / "out.csv")
    assert code == 2 and "'more'" in err and not (tmp_path / "out.csv").exists()


def parquet(path: Path, count: int, **more: pa.Array) -> Path:
    texts = pa.array(["a, b" * (n % 3) for n in range(count)]).dictionary_encode()
    days = pa.array(range(count), pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"review": texts, "day": days, **more}), path, row_group_size=100)
    return path


def test_rows_of_parquet_keep_their_types_and_come_some_at_a_time(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    count = ROW_GROUP + 5
    nanoseconds = pa.array(range(count), pa.timestamp("ns"))
    source, target = parquet(tmp_path / "in.parquet", count, at=nanoseconds), tmp_path / "out.parquet"
    code, out, err = call("predict", "folder", source, "--text", "review", "--output", target)
    assert code == 0 and not out, err
    before, after = pq.read_table(source), pq.read_table(target)
    assert after.select(before.column_names).cast(before.schema).equals(before)
    assert after.schema.field("day").type == pa.date32() and after.schema.field("at").type == pa.timestamp("ns")
    assert after.column_names[3:] == ["prediction", "prediction_score"]
    assert after.column("prediction").to_pylist() == [str(len(text)) for text in before.column("review").to_pylist()]
    assert max(lengths.groups) <= WINDOW and pq.read_metadata(target).num_row_groups == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_parquet_from_and_to_other_files(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet", 4)
    code, out, err = call("predict", "folder", source, "--text", "review")
    assert code == 0 and json.loads(out.splitlines()[1])["day"] == "1970-01-02", err
    csv_file = tmp_path / "out.csv"
    assert call("predict", "folder", source, "--text", "review", "--output", csv_file)[0] == 0
    assert csv_file.read_text().splitlines()[2] == '"a, b",1970-01-02,4,0.5'
    target = tmp_path / "again.parquet"
    renamed = table(tmp_path / "b.csv", [["id", "text"], *([str(n), "x" * n] for n in range(300))])
    code, _, err = call("predict", "folder", renamed, "--no-truncate", "--output", target)
    assert code == 2 and "too long" not in err and "longer than" in err
    answered = pq.read_table(target).to_pylist()
    assert len(answered) == 300 and answered[3] == {
        "id": "3", "text": "xxx", "prediction": "3", "prediction_score": 0.5,
    }  # fmt: skip
    assert answered[299]["prediction"] is None


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_first_group_without_answers_loses_no_column(
    ending: str, call: Call, lengths: Lengths, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    texts = ["x" * 30] * WINDOW + ["short"]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code, _, _ = call("predict", "folder", source, "--no-truncate", "--output", tmp_path / f"out{ending}")
    target = tmp_path / f"out{ending}"
    assert code == 2
    columns = pq.read_schema(target).names if ending == ".parquet" else target.read_text().splitlines()[0].split(",")
    assert columns == ["text", "prediction", "prediction_score"]


def test_what_parquet_cannot_hold_or_is_none_is_one_line(call: Call, lengths: Lengths, tmp_path: Path) -> None:
    mixed = tmp_path / "in.jsonl"
    mixed.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "two"}\n')
    code, _, err = call("predict", "folder", mixed, "--output", tmp_path / "out.parquet")
    assert code == 2 and "several types" in err and ".jsonl" in err and err.count("\n") == 1
    broken = tmp_path / "in.parquet"
    broken.write_bytes(b"PAR1 and nothing")
    code, _, err = call("predict", "folder", broken)
    assert code == 2 and "readable parquet" in err and err.count("\n") == 1
    binary = parquet(broken, 2, data=pa.array([b"1", b"2"]))
    code, _, err = call("predict", "folder", binary, "--text", "review")
    assert code == 2 and "bytes" in err and ".parquet" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "in.parquet"]


def test_a_byte_order_mark_of_a_pipe_is_no_part_of_its_first_text() -> None:
    reading, writing = os.pipe()
    os.write(writing, "one\nÜ\n".encode("utf-8-sig"))
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:  # noqa: PTH123 # a descriptor
        assert list(predict._arriving(stream)) == [["one", "Ü"]]


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
