"""Put the folders of gpu_pack.py together: run `python gpu_unpack.py TARGET` once in each folder, in any order.

A folder's piece is copied to the target. With the last piece, the archive is unpacked there, and its wheels are
installed into TARGET/site, for PYTHONPATH. Packs of other names can be unpacked into the same target. Needs only Python
and pip.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REPLACED_FOLDERS = ("src", "tests", "benchmarks", "results", "site", "wheels")
"""Folders that a pack with code replaces as a whole."""


def main(arguments: list[str]) -> None:
    """Copy this folder's piece, and unpack when none is missing."""
    if len(arguments) != 1:
        raise SystemExit("usage: python gpu_unpack.py TARGET")
    target, facts = Path(arguments[0]), json.loads((FOLDER / "pack.json").read_text(encoding="utf-8"))
    pieces: dict[str, str] = facts["pieces"]
    name = str(facts.get("name", "pack"))
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    done, waiting = target / f".unpacked-{name}", target / f"pieces-{name}"
    if done.exists() and done.read_text() == mark:
        print(f"unpacked before: {name} in {target}")
        return
    waiting.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        if (FOLDER / piece).exists():
            shutil.copy(FOLDER / piece, waiting / piece)
    missing = [piece for piece in pieces if not (waiting / piece).exists()]
    if missing:
        print(f"not yet there: {', '.join(missing)}")
        return
    archive = waiting / "whole"
    with archive.open("wb") as stream:
        for piece, expected in pieces.items():
            content = (waiting / piece).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise SystemExit(f"{piece} is damaged: carry it again")
            stream.write(content)
    with tarfile.open(archive) as tar:
        has_code = "pyproject.toml" in tar.getnames()
        for folder in REPLACED_FOLDERS if has_code else ():  # of another pack
            shutil.rmtree(target / folder, ignore_errors=True)
        tar.extractall(target, filter="data")
    shutil.rmtree(waiting)
    if has_code:
        shutil.copy(FOLDER / "pack.json", target / "pack.json")
        wheels = sorted(map(str, (target / "wheels").glob("*.whl")))
        if wheels:
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-cache-dir"]
            subprocess.run([*install, "--upgrade", "--target", str(target / "site"), *wheels], check=True)
    done.write_text(mark)
    print(f"unpacked: {name} in {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
