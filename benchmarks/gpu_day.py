"""Everything that needs a GPU, in one call of some minutes: tests, measurements, as much of a replication as fits.

Parts run one after another, each in separate processes with its own time limit; unused time goes to the next parts. A
part that fails or runs out of time is recorded, and the next one runs. The same call again skips what is done and
continues with the rest. No network is needed. README.md here explains how to run it, on a rented GPU too.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import common

from tinydistilbert.benchmark.turns import table

FOLDER = Path(__file__).resolve().parent
PARTS = ("tests", "steps", "latency", "distill", "finetune")
SHARES = {"tests": 0.15, "steps": 0.23, "latency": 0.16, "distill": 0.2, "finetune": 0.26}
"""Of the time, what each part may take at least."""
TASKS = ("mrpc", "rte", "wnli", "cola", "qnli", "stsb", "mnli", "sst2", "qqp")
"""Dealt to the processes in this order: about as much to each, the short ones first."""
QUICK_TASKS, TOY_TASKS = ("wnli", "rte"), ("wnli",)
WORKERS = 3
"""Processes that fine-tune at once on a GPU: models of this size keep it waiting for the next launch."""
GRACE = 8.0
"""Seconds between asking a process to stop, when a training writes its checkpoint, and ending it."""
SHOWN_LINES = 14
LEFT_OUT = ("*.safetensors", "*.partial", "*.tmp", "tokenizer.json", "*.npy")
"""Of the run, what does not go into the archive."""


@dataclass(frozen=True)
class Day:
    """What was asked for."""

    data: Path
    teacher: Path
    output: Path
    run: Path
    device: str
    size: str
    """`full`, `quick` or `toy`."""
    workers: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those to fine-tune on."""
        return {"full": TASKS, "quick": QUICK_TASKS, "toy": TOY_TASKS}[self.size]

    def arguments(self) -> list[str]:
        """Of a process that works on a part."""
        return [
            "--data", str(self.data), "--teacher", str(self.teacher), "--output", str(self.output),
            "--run", str(self.run), "--device", self.device, "--size", self.size,
        ]  # fmt: skip

    def commands(self, part: str, seconds: float) -> list[list[str]]:
        """The processes of a part, which run side by side, and have so many seconds."""
        if part == "tests":
            marks = ["-m", "gpu", "tests/gpu", "-q", "-p", "no:cacheprovider", "-W", "default", "--durations=5"]
            return [[sys.executable, "-m", "pytest", *marks, f"--junitxml={self.output / 'tests.xml'}"]]
        script = "gpu_replication.py" if part in ("distill", "finetune") else "gpu_measures.py"
        command = [sys.executable, str(FOLDER / script), part, *self.arguments(), "--seconds", f"{0.92 * seconds:.0f}"]
        if part != "finetune":
            return [command]
        workers = min(self.workers, len(self.tasks))
        return [[*command, "--tasks", *self.tasks[index::workers]] for index in range(workers)]


def run_part(day: Day, part: str, seconds: float, log: TextIO) -> dict[str, Any]:
    """Run the processes of a part; says how it ended, and of those that failed the last lines."""
    begun, end = time.monotonic(), time.monotonic() + seconds
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true",
        "TINYDISTILBERT_CACHE": str(day.run / "cache"),
        "PYTHONPATH": os.pathsep.join([str(common.ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        **({} if day.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}),
    }  # fmt: skip
    commands = day.commands(part, seconds)
    logs = [day.run / f"{part}-{index}.log" for index in range(len(commands))]
    processes = []
    for command, path in zip(commands, logs, strict=True):
        with path.open("w", encoding="utf-8") as stream:
            processes.append(
                subprocess.Popen(
                    command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=common.ROOT,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )
            )  # fmt: skip
    codes = [_ended(process, end) for process in processes]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    for command, text in zip(commands, texts, strict=True):
        log.write(f"\n=== {part}: {' '.join(command[1:])}\n{text}\n")
    log.flush()
    state = "out of time" if None in codes else "failed" if any(codes) else "done"
    bad = [text.rstrip().splitlines()[-SHOWN_LINES:] for text, code in zip(texts, codes, strict=True) if code != 0]
    counts = {"summary": (texts[0].rstrip().splitlines() or [""])[-1]} if part == "tests" else {}
    return {
        "part": part, "state": state, "seconds": round(time.monotonic() - begun, 1), "limit": round(seconds, 1),
        "size": day.size, "exit_codes": codes, "packed": packed_commit(), **counts, "last_lines": bad,
    }  # fmt: skip


def packed_commit() -> str:
    """The commit that a pack was made from; empty in a checkout, whose commit every line of the results has."""
    path = common.ROOT / "pack.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["commit"]) if path.exists() else ""


def _ended(process: subprocess.Popen[bytes], end: float) -> int | None:
    """Exit code of a process that has until `end`; None where it had to be stopped."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it started, such as the compiler's processes
        process.wait()


def finished(path: Path, size: str) -> set[str]:
    """The parts that an earlier call has done at this size."""
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {row["part"] for row in rows if row["state"] == "done" and row["size"] == size}


def archive(day: Day) -> None:
    """Logs, scores and predictions of the replication in one small file; the weights stay where they are."""
    partial = day.output / "run.tar.gz.partial"
    with tarfile.open(partial, "w:gz") as tar:
        for path in sorted(day.run.rglob("*")):
            place = path.relative_to(day.run)
            if path.is_file() and place.parts[0] != "cache" and not any(map(path.match, LEFT_OUT)):
                tar.add(path, place)
    partial.replace(day.output / "run.tar.gz")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Tests, measurements and a replication on a GPU, within minutes.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/ and glue/")
    parser.add_argument("--teacher", type=Path, help="masked-LM teacher of the replication; default: beside the data")
    parser.add_argument("--output", type=Path, default=common.ROOT / "runs" / "gpu", help="what is measured goes here")
    parser.add_argument("--run", type=Path, help="models and run folders; default: run/ in the output")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="only these")
    parser.add_argument("--workers", type=int, help=f"processes that fine-tune at once; default: {WORKERS}, on a CPU 1")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a little of everything, in two minutes")
    sizes.add_argument("--toy", action="store_true", help="tiny models, to try the script out on a CPU")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are not done; exit 1 where one did not come to its end."""
    begun, chosen = time.monotonic(), parse(arguments)
    output, data = chosen.output.resolve(), chosen.data.resolve()
    teacher = (chosen.teacher or data.parent / "models" / "minilm-l6-mlm").resolve()
    for folder in (data, teacher):
        if not folder.is_dir():
            raise SystemExit(f"no folder {folder}: give --data and --teacher")
    day = Day(
        data=data, teacher=teacher, output=output, run=(chosen.run or output / "run").resolve(), device=chosen.device,
        size="toy" if chosen.toy else "quick" if chosen.quick else "full",
        workers=chosen.workers or (WORKERS if chosen.device == "cuda" else 1),
    )  # fmt: skip
    for folder in (day.output, day.run):
        folder.mkdir(parents=True, exist_ok=True)
    rows_file, end = output / "parts.jsonl", begun + 60 * chosen.minutes
    before = finished(rows_file, day.size)
    left = [part for part in PARTS if part in chosen.parts and part not in before]
    states: list[str] = []
    with (output / "log.txt").open("a", encoding="utf-8") as log:
        while left:
            share = SHARES[left[0]] / sum(SHARES[part] for part in left)
            part = left.pop(0)
            row = run_part(day, part, max(1.0, (end - time.monotonic()) * share), log)
            states.append(row["state"])
            common.append(rows_file, [row])
            print(f"{part}: {row['state']} after {row['seconds']} of {row['limit']} s {row.get('summary', '')}")
            for lines in row["last_lines"]:
                print("\n".join(f"    {line[:300]}" for line in lines))
            sys.stdout.flush()
            archive(day)
    measured = output / "measured.jsonl"
    if measured.exists():
        print(shown([json.loads(line) for line in measured.read_text(encoding="utf-8").splitlines()]))
    if any(state != "done" for state in states):
        raise SystemExit(1)


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """What was measured, a line each."""
    lines = [(row["measure"], row["what"], f"{row['value']:.5g}", row["unit"], row.get("note", "")) for row in rows]
    return table(("measure", "of", "value", "unit", ""), lines)


if __name__ == "__main__":
    main()
