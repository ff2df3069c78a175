"""Progress: bars on a terminal, lines elsewhere, nothing where it is not wanted."""

import io
import re
import sys
import types

import pytest

from tinydistilbert import progress as module
from tinydistilbert.progress import Progress, duration, reporting, say


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_left_counts_only_the_steps_of_this_process() -> None:
    progress = Progress("fit", 100, done=50)
    progress.start -= 10  # ten seconds ago
    line = progress.line(60, 5000, {"kl": 0.25})
    assert "step 60/100" in line and "kl 0.250" in line and "40 s left" in line
    assert "500 tokens/s" in line
    assert "   " not in progress.line(60, 5000, {}), "nothing stands where no terms are"


class Stream(io.StringIO):
    """Standard error, a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A terminal of 80 columns that does everything; a test puts it in place itself, because pytest does so too."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Stream(terminal=True)


def frames(text: str) -> list[str]:
    """What was on the line of the bar, one time after the other, without codes for colours and the cursor."""
    return [frame for frame in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if frame.strip()]


def train(label: str = "finetune student (D) on Multi-Genre NLI, seed 3", steps: int = 1200) -> None:
    progress = Progress(label, steps)
    progress.start -= 60
    for step in (steps // 3, steps // 2):
        progress.last -= 60
        assert progress.wants(step)
        progress.show(step, step * 4096, {"kl": 1.25, "mlm": 2.5, "cosine": 0.125})
    progress.note(steps // 2, "validation", {"kl": 0.5})
    progress.show(steps, steps * 4096, {"kl": 1.25})


def test_a_terminal_gets_a_bar_in_80_columns(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with reporting(quiet=False):
        train()
        assert sys.stderr is terminal, "the bar is gone after the last step"
    shown = frames(terminal.getvalue())
    bars = [frame for frame in shown if "tokens/s" in frame and "step" not in frame]
    assert all(len(frame) <= 80 for frame in bars) and "\x1b[3" in terminal.getvalue()
    first = r"finetune student.* 400/1200 2\d,\d{3} tokens/s  2 min 0\d s left"
    assert any(re.match(first, frame) for frame in bars), bars
    assert shown[-1].startswith("finetune student (D) on Multi-Genre NLI, seed 3: step 1200/1200"), "it stays"
    assert "validation: kl 0.5" in " ".join(" ".join(shown).split())
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h"), "the cursor is back"


def test_losses_are_shown_where_they_fit(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "140")
    train("distill")
    assert any("kl 1.250  mlm 2.500" in frame and len(frame) <= 140 for frame in frames(terminal.getvalue()))


def test_a_bar_that_an_exception_leaves_is_taken_away(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(RuntimeError), reporting(quiet=False):
        Progress("distill", 100).show(3, 4096, {})
        raise RuntimeError
    assert sys.stderr is terminal and terminal.getvalue().endswith("\x1b[2K")
    Progress("distill", 100).show(3, 4096, {})
    Progress("and another", 100).show(3, 4096, {})  # of a library's user, who caught what the first raised
    module._remove_bar()
    assert sys.stderr is terminal


def test_lines_of_others_stand_above_the_bar(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with reporting(quiet=False):
        Progress("[distill]", 100).show(3, 4096, {})
        sys.stderr.write("out of memory\n")
    shown = frames(terminal.getvalue())
    assert "out of memory" in shown and "[distill]" in shown[-1], "brackets are no mark-up"


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_terminals_that_cannot_rewrite_get_lines(
    name: str, value: str, terminal: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv(name, value)
    train()
    assert "\x1b" not in terminal.getvalue() and "\r" not in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) == 4


def test_no_color(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    train()
    assert not re.search(r"\x1b\[(\d+;)*(3[0-8]|9\d)", terminal.getvalue()) and "400/1200" in terminal.getvalue()


def test_a_pipe_gets_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    train()
    assert "\x1b" not in stream.getvalue() and len(stream.getvalue().splitlines()) == 4
    progress = Progress("distill", 100)
    progress.last -= module.SECONDS_BETWEEN_UPDATES
    assert not progress.wants(3) and progress.wants(100)
    progress.last -= module.SECONDS_BETWEEN_LINES
    assert progress.wants(3)


def test_quiet(terminal: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with reporting(quiet=True):
        progress = Progress("distill", 100)
        progress.last -= 60
        assert not progress.wants(3) and not progress.wants(100), "nobody fetches numbers from a device"
        progress.note(3, "validation", {"kl": 1.0})
        say("a round")
    assert not terminal.getvalue()
    say("a round")
    assert terminal.getvalue() == "a round\n"


def test_a_notebook_shows_each_job_as_one_output_whose_text_changes(
    monkeypatch: pytest.MonkeyPatch, terminal: Stream
) -> None:
    outputs: list[list[str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            outputs[-1].append(content["text/plain"])

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        outputs.append([content["text/plain"]])
        return Handle()

    shell = types.SimpleNamespace(kernel="a kernel")
    modules = {"IPython": types.ModuleType("IPython"), "IPython.display": types.ModuleType("IPython.display")}
    modules["IPython"].get_ipython = lambda: shell  # type: ignore[attr-defined]
    modules["IPython.display"].display = display  # type: ignore[attr-defined]
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, content)
    monkeypatch.setattr(sys, "stderr", terminal)
    for job in ("finetune one", "finetune two"):
        progress = Progress(job, 1000)
        assert not progress.wants(1)
        for step in (10, 500, 1000):
            progress.last -= 10
            assert progress.wants(step)
            progress.show(step, 100, {})
    assert [len(output) for output in outputs] == [3, 3] and "finetune two: step 1000/1000" in outputs[1][-1]
    assert terminal.getvalue() == "", "no bar, although standard error says that it is a terminal"
    del shell.kernel
    assert module._is_for_bars(), "a console of IPython"
