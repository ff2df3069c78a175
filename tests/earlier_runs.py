"""What runs of the tests take over from earlier ones: graphs that the same exporter has traced of the same models.

To trace them takes a tenth of the time of all tests. A clean checkout begins without them.
"""

import hashlib
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "src/tinydistilbert/export/*.py", "src/tinydistilbert/models/**/*.py", "src/tinydistilbert/data/python_docs.py",
    "tests/*.py",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "numpy")


def may_be_used() -> bool:
    """Whether the code that runs is that of the files: mutants are not."""
    return "MUTANT_UNDER_TEST" not in os.environ


def folder(cache: Path) -> Path:
    """The folder in `cache` of what this code has made with these libraries; what others have made is deleted."""
    kept = cache / _key()
    for other in cache.iterdir():
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def _key() -> str:
    digest = hashlib.sha256(f"{sys.version} {[*map(_version, LIBRARIES)]}".encode())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
