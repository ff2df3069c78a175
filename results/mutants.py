"""Count which changes of the code the tests notice: `make mutants`, whose run mutmut leaves in `mutants/`.

The counts go into `results/mutants.json`. A change that no test notices must be explained in `results/survivors.toml`:
each reason with its changes, as `FUNCTION: the changed lines`.
"""

import datetime
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tinydistilbert.storage import atomic

ROOT = Path(__file__).resolve().parents[1]
COUNTS, EXPLAINED = ROOT / "results" / "mutants.json", ROOT / "results" / "survivors.toml"
LEAST = 0.9
"""Share of the changes of each file that tests must notice."""
CAUGHT = ("killed", "timeout", "caught by type check", "segfault")
MOST_TIMEOUTS = 0.02
"""Share of the changes whose tests may run out of time. They count as caught, but with `OMP_NUM_THREADS` above 1 every
forked test process hangs in the matrix library."""
_LINE = re.compile(r"\s*(tinydistilbert\.([\w.]+)\.\w+__mutmut_\d+): ([\w ]+)")


def _asked(*words: str) -> str:
    command = [Path(sys.executable).with_name("mutmut"), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def change(name: str) -> str:
    """A change of the code in words that stay true when other code is changed: its function, and the lines it has."""
    module, _, mangled = name.removeprefix("tinydistilbert.").rpartition(".")
    function = re.sub(r"^x_|__mutmut_\d+$", "", mangled.replace("xǁ", "").replace("ǁ", "."))
    lines = [line for line in _asked("show", name).splitlines() if not line.startswith(("#", "---", "+++"))]
    removed, added = ([line[1:].strip() for line in lines if line[:1] == sign] for sign in "-+")
    return f"{module}.{function}: {' '.join(added or [f'without {line}' for line in removed])}"


def counted() -> dict[str, Any]:
    """What the last run of mutmut found.

    Raises:
        SystemExit: it did not try all.
    """
    mutants = [
        match.groups() for line in _asked("results", "--all", "true").splitlines() if (match := _LINE.match(line))
    ]
    if unfinished := [name for name, _, status in mutants if status == "not checked"]:
        raise SystemExit(
            f"mutants: expected all of them tried, found {len(unfinished)} that were not; run mutmut again"
        )
    files = {}
    for module in dict.fromkeys(module for _, module, _ in mutants):
        statuses = Counter(status in CAUGHT for _, other, status in mutants if other == module)
        files[f"{module.replace('.', '/')}.py"] = {"mutants": statuses.total(), "caught": statuses[True]}
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "timeouts": sum(status == "timeout" for *_, status in mutants), "commit": head,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "files": files,
        "survivors": sorted(change(name) for name, _, status in mutants if status not in CAUGHT),
    }  # fmt: skip


def explained() -> dict[str, str]:
    """The reason for each change that no test needs to notice."""
    reasons = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["survivors"]
    return {change: group["reason"] for group in reasons for change in group["changes"]}


def faults(counts: dict[str, Any]) -> list[str]:
    """What is wrong with the counts: too few caught in a file, survivors without a reason."""
    reasons = explained()
    few = [
        f"{file}: {number['caught']} of {number['mutants']} caught, less than {LEAST:.0%}"
        for file, number in counts["files"].items()
        if number["caught"] < LEAST * number["mutants"]
    ]
    if counts.get("timeouts", 0) > MOST_TIMEOUTS * sum(number["mutants"] for number in counts["files"].values()):
        few.append(f"{counts['timeouts']} changes ran out of time: run the tests with OMP_NUM_THREADS=1")
    return few + [f"no reason for: {change}" for change in counts["survivors"] if change not in reasons]


def main() -> None:
    """Write the counts; exit with 1 when something is wrong with them."""
    counts = counted()
    atomic.write_json(COUNTS, counts)
    for file, number in counts["files"].items():
        print(f"{file}: {number['caught']} of {number['mutants']} caught ({number['caught'] / number['mutants']:.1%})")
    if wrong := faults(counts):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
