"""Put the folders of gpu_pack.py together: python gpu_unpack.py TARGET, once in each folder, in any order.

A folder's piece is copied to the target; with the last of them the archive is unpacked there, and the wheels in it are
installed into TARGET/site, for PYTHONPATH. Needs nothing but Python and pip.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DONE = ".unpacked"


def main(arguments: list[str]) -> None:
    """Copy this folder's piece, and unpack when none is missing."""
    if len(arguments) != 1:
        raise SystemExit("usage: python gpu_unpack.py TARGET")
    target, facts = Path(arguments[0]), json.loads((HERE / "pack.json").read_text(encoding="utf-8"))
    pieces: dict[str, str] = facts["pieces"]
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if (target / DONE).exists() and (target / DONE).read_text() == mark:
        print(f"unpacked before: {target}")
        return
    (target / "pieces").mkdir(parents=True, exist_ok=True)
    for name in pieces:
        if (HERE / name).exists():
            shutil.copy(HERE / name, target / "pieces" / name)
    missing = [name for name in pieces if not (target / "pieces" / name).exists()]
    if missing:
        print(f"not yet there: {', '.join(missing)}")
        return
    archive = target / "pieces" / "whole"
    with archive.open("wb") as stream:
        for name, expected in pieces.items():
            content = (target / "pieces" / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise SystemExit(f"{name} is damaged: carry it again")
            stream.write(content)
    for folder in ("src", "tests", "benchmarks", "site", "wheels"):  # of another pack
        shutil.rmtree(target / folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    shutil.rmtree(target / "pieces")
    shutil.copy(HERE / "pack.json", target / "pack.json")
    wheels = sorted(map(str, (target / "wheels").glob("*.whl")))
    if wheels:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-cache-dir"]
        subprocess.run([*install, "--upgrade", "--target", str(target / "site"), *wheels], check=True)
    (target / DONE).write_text(mark)
    print(f"unpacked: {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
