"""Run the tests as other CPUs would compute: `make test-cpus`. Each kind adds a line to `results/cpus.jsonl`.

Libraries choose their kernels by what the processor reports. Two ways make them choose others: their own environment
variables that forbid instructions, and `benchmarks/other_cpu.c`, which changes what the processor reports, also where
there is no such variable (ONNX Runtime, and MKL's check of the maker). Kinds that this machine cannot be are named and
left out.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from tinydistilbert.results import environment
from tinydistilbert.storage import atomic

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "results" / "cpus.jsonl"
TESTS = ("tests/unit", "tests/pipeline", "tests/real", "tests/faults/test_determinism.py", "tests/faults/test_kills.py")
"""Not the other faults: they are about files and signals, whichever numbers are in them."""
LEDGER_TEST = "tests/unit/test_results.py::test_the_reliability_page_shows_the_kinds_of_cpu_that_were_tried"
"""It would fail for every kind after the first, whose line is not in the page yet."""
MOST_WORKERS = 4


@dataclass(frozen=True)
class Kind:
    """A kind of CPU: what libraries are made to believe, and with how many threads they compute."""

    name: str
    threads: int
    variables: dict[str, str] = field(default_factory=dict)


KINDS = (
    Kind("this processor", 2),
    Kind("libraries told to keep to AVX2", 2, {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }),
    Kind("libraries told to keep to AVX2, torch to no vectors at all", 1, {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }),
    Kind("processor that says it has AVX2 and no VNNI", 1, {"OTHER_CPU": "avx2"}),
    Kind("processor that says it is AMD’s", 1, {"OTHER_CPU": "amd"}),
    Kind("processor that says it is AMD’s, with AVX2 and no VNNI", 2, {"OTHER_CPU": "amd avx2"}),
)  # fmt: skip


def preloaded(folder: Path) -> Path | None:
    """What changes the processor's answers, compiled; None where that is not possible."""
    library = folder / "other_cpu.so"
    source = ROOT / "benchmarks" / "other_cpu.c"
    try:
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    variables = {**os.environ, "LD_PRELOAD": str(library), "OTHER_CPU": "avx2"}
    possible = subprocess.run([sys.executable, "-c", ""], env=variables, check=False).returncode == 0
    return library if possible else None


def run(kind: Kind, library: Path | None, folder: Path, tests: list[str]) -> dict[str, object]:
    """The tests with a kind of CPU: how many passed and failed, which, and in how many seconds."""
    variables = os.environ | kind.variables | {"OMP_NUM_THREADS": str(kind.threads), "OMP_WAIT_POLICY": "passive"}
    if "OTHER_CPU" in kind.variables:
        variables["LD_PRELOAD"] = str(library)
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "-n", str(workers), "--dist", "loadfile",
        "--no-loadscope-reorder",
        "-m", "not slow and not gpu", f"--junitxml={folder / 'report.xml'}",
        "-p", "no:faulthandler",  # it would take the signal by which the answers are changed
        "--deselect", LEDGER_TEST,
        *(tests or TESTS),
    ]  # fmt: skip
    start = time.monotonic()
    (folder / "report.xml").unlink(missing_ok=True)
    ended = subprocess.run(command, cwd=ROOT, env=variables, check=False)
    seconds = time.monotonic() - start
    if ended.returncode not in (0, 1) or not (folder / "report.xml").exists():  # 0: all passed; 1: a test failed
        raise SystemExit(f"test-cpus: {kind.name}: pytest ended with exit code {ended.returncode} and ran no tests")
    cases = list(ET.parse(folder / "report.xml").getroot().iter("testcase"))
    of = {tag: [case for case in cases if case.find(tag) is not None] for tag in ("failure", "error", "skipped")}
    failed = sorted({f"{case.get('classname')}::{case.get('name')}" for case in of["failure"] + of["error"]})
    return {
        "passed": len(cases) - len(failed) - len(of["skipped"]), "failed": len(failed), "skipped": len(of["skipped"]),
        "seconds": round(seconds), "failures": failed[:20], "workers": workers,
    }  # fmt: skip


def main() -> None:
    """Run each kind, print and append its line; exit with 1 when a test failed under one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=int, nargs="+", default=range(len(KINDS)), help="numbers; default: all")
    parser.add_argument("tests", nargs="*", help="instead of all; then nothing is written")
    chosen = parser.parse_args()
    machine, bad = environment(), False
    with tempfile.TemporaryDirectory() as temporary:
        library = preloaded(Path(temporary))
        for kind in (KINDS[number] for number in chosen.kinds):
            if "OTHER_CPU" in kind.variables and library is None:
                print(f"{kind.name}: not possible on this machine (Linux on x86-64 with cc and CPUID faulting)")
                continue
            print(f"{kind.name}, {kind.threads} threads", flush=True)
            counts = run(kind, library, Path(temporary), chosen.tests)
            row = {
                "machine": machine["cpu"], "kind": kind.name, "variables": kind.variables, "threads": kind.threads,
                **counts, "commit": machine["commit"],
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }  # fmt: skip
            print(json.dumps(row, ensure_ascii=False), flush=True)
            bad |= bool(counts["failed"])
            if not chosen.tests:
                atomic.append_line(ROWS, json.dumps(row, ensure_ascii=False))
    if not chosen.tests:
        print("now run: python results/readme.py")
    raise SystemExit(bad)


if __name__ == "__main__":
    main()
