"""Pack what gpu_day.py or replication.py needs on a machine without a network into folders that are carried separately.

One archive holds the code, the data, the teacher and the wheels that the machine lacks. It is cut into pieces, one per
folder, each with checksums and a script that puts them together again (gpu_unpack.py). For replication.py, there are
four archives that can be unpacked separately.
"""

import argparse
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import common

CODE = (
    "src",
    "tests/__init__.py",
    "tests/conftest.py",
    "tests/shapes.py",
    "tests/tiny.py",
    "tests/gpu",
    "benchmarks",
    "results/replication",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
DATA = (
    "wikitext2",
    *(f"glue/{task}" for task in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")),
)
UNREAD = ("train_reconstructed_from_squad.parquet", "test.txt")
"""Files beside the splits that nothing here reads."""
GROUPS: dict[str, tuple[bool, tuple[str, ...], tuple[str, ...]]] = {
    "first": (
        True, ("minilm-l6-mlm",),
        ("wikitext2", "glue/cola", "glue/mrpc", "glue/rte", "glue/stsb", "glue/wnli", "glue/sst2"),
    ),
    "second": (False, ("minilm-l6",), ("squad", "glue/mnli", "glue/qnli", "glue/qqp")),
    "third": (False, ("paraphrase-minilm-l3",), ("imdb",)),
    "fourth": (False, (), ("extra_corpus",)),
}  # fmt: skip
"""What replication.py needs, in archives below the limit: whether code and wheels are in it, models, data."""
LIMIT_MIB = 60.0
ARCHIVE, LIST, UNPACK = "pack.tar.gz", "pack.json", "gpu_unpack.py"
COMPRESSION = 5
PRESENT = (
    "accelerate", "click", "contourpy", "cycler", "filelock", "fonttools", "fsspec", "hf-xet", "httpx", "hypothesis",
    "huggingface-hub", "jaxtyping", "jinja2", "kiwisolver", "markdown-it-py", "markupsafe", "matplotlib", "mdurl",
    "mpmath", "networkx", "numpy", "packaging", "pandas", "pillow", "psutil", "pyarrow", "pygments", "pyparsing",
    "pytest", "python-dateutil", "pyyaml", "regex", "requests", "rich", "safetensors", "scikit-learn", "scipy",
    "setuptools", "six", "sympy", "torch", "tqdm", "transformers", "triton", "typer", "tzdata",
    "wadler-lindig", "xxhash",
)  # fmt: skip
"""What an image for PyTorch with transformers has; what else the package needs, and what that needs, goes along.

Tokenizers goes along too: images had 0.23.2, which loses windows of long contexts.
"""
OF_TESTS = ("typeguard", "beartype")
"""That tests/conftest.py may import, where they are installed here."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def code_files() -> Iterator[tuple[Path, str]]:
    """Files of the checkout, and their names in the pack."""
    left_out = (("benchmarks", "results"), ("results", "replication", "predictions"))
    for name in CODE:
        path = common.ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            place = file.relative_to(common.ROOT)
            if file.is_file() and "__pycache__" not in place.parts and not any(
                place.parts[: len(folder)] == folder for folder in left_out
            ):  # fmt: skip
                yield file, str(place)


def data_files(data: Path, parts: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Files of folders of the data, and their names in the pack."""
    for name in parts:
        if not (data / name).is_dir():
            raise SystemExit(f"no folder {data / name}: give --data, or other --parts")
        for file in sorted((data / name).iterdir()):
            if file.is_file() and file.name not in UNREAD:
                yield file, f"data/{name}/{file.name}"


def model_files(folder: Path, place: str) -> Iterator[tuple[Path, str]]:
    """Files of a model, and their names in the pack."""
    if not (folder / "config.json").is_file():
        raise SystemExit(f"no model in {folder}: give --teacher")
    for file in sorted(folder.iterdir()):
        yield file, f"{place}/{file.name}"


def encoder_of_wheel(output: Path) -> Path:
    """The offline encoder with its pooler as a model folder in half precision, in which it is half as much to carry."""
    from transformers import AutoModel

    from tinydistilbert.models.loading import load_tokenizer
    from tinydistilbert.models.teacher import wheel_folder

    AutoModel.from_pretrained(wheel_folder()).half().save_pretrained(output)
    load_tokenizer(wheel_folder()).save_pretrained(output)
    return output


def needed(present: Iterable[str]) -> list[str]:
    """`name==version` of what the package needs and an image does not have, as it is installed here."""
    known = {_plain(name) for name in present}
    versions: dict[str, str] = {}
    project = tomllib.loads((common.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*_names(project["dependencies"]), *_names(project["optional-dependencies"]["train"]), *OF_TESTS]
    while waiting:
        name = _plain(waiting.pop())
        if name in known or name in versions:
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += _names(importlib.metadata.requires(name) or [])
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _names(requirements: Iterable[str]) -> list[str]:
    """Of packages that are required without any extra; markers of other systems are not looked at."""
    names = (re.match(r"[\w.-]+", line) for line in requirements if "extra ==" not in line)
    return [name[0] for name in names if name]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(packages: Sequence[str], folder: Path, python: str) -> None:
    """The wheels for Linux on x86-64 and that Python."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
        "--implementation", "cp", "--python-version", python, *platforms, *packages,
    ]  # fmt: skip
    if packages and subprocess.run(command, check=False).returncode:
        raise SystemExit(f"pip has no wheels of {', '.join(packages)}: give --wheels FOLDER with them")


def commit() -> str:
    """Of the checkout that is packed, with `+` when there are uncommitted changes."""
    run = [["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "-uno"]]
    outputs = [
        subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for command in run
    ]
    return outputs[0] + ("+" if outputs[1] else "")


def write(archive: Path, output: Path, limit: int, name: str = "pack") -> list[Path]:
    """Cut the archive into folders of less than `limit` bytes each; they are made anew."""
    size, unpack = archive.stat().st_size, Path(__file__).with_name(UNPACK)
    room = limit - unpack.stat().st_size - 4096  # of the list of checksums
    count = -(-size // room)
    names = [f"{ARCHIVE}.{index:02d}" for index in range(count)]
    for old in output.glob(f"{name}-*"):
        shutil.rmtree(old)
    folders, sums = [output / f"{name}-{index + 1}" for index in range(count)], {}
    with archive.open("rb") as stream:
        for folder, piece in zip(folders, names, strict=True):
            folder.mkdir(parents=True)
            content = stream.read(-(-size // count))
            sums[piece] = hashlib.sha256(content).hexdigest()
            (folder / piece).write_bytes(content)
    for folder in folders:
        facts = {"name": name, "commit": commit(), "pieces": sums}
        (folder / LIST).write_text(json.dumps(facts, indent=1) + "\n")
        shutil.copy(unpack, folder / UNPACK)
    return folders


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pack what gpu_day.py needs into folders of less than --limit MiB.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/ and glue/")
    parser.add_argument(
        "--teacher", type=Path, help="masked-LM teacher, best in half precision; default: beside the data"
    )
    parser.add_argument("--parts", nargs="+", default=list(DATA), help="folders of the data")
    parser.add_argument("--replication", action="store_true", help="what replication.py needs, in four archives")
    parser.add_argument(
        "--models", type=Path, help="of --replication, the folder with the models; default: beside the data"
    )
    parser.add_argument("--output", type=Path, default=common.ROOT / "packs")
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, help="MiB of a folder")
    parser.add_argument("--python", default="3.12", help="of the machine")
    parser.add_argument("--present", nargs="+", default=list(PRESENT), help="packages that the machine has")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels to pack, instead of asking pip for them")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack."""
    chosen = parse(arguments)
    beside = chosen.data.resolve().parent / "models"
    with tempfile.TemporaryDirectory() as scratch:
        wheels = chosen.wheels or Path(scratch) / "wheels"
        if chosen.wheels is None:
            download(needed(chosen.present), wheels, chosen.python)
        code = [*code_files(), *((wheel, f"wheels/{wheel.name}") for wheel in sorted(wheels.glob("*.whl")))]
        archives = {"pack": [*code, *data_files(chosen.data, chosen.parts)]}
        if chosen.replication:
            archives = {}
            for name, (has_code, models, parts) in GROUPS.items():
                archives[name] = [*(code if has_code else ()), *data_files(chosen.data, parts)]
                for model in models:
                    folder = (chosen.models or beside) / model
                    if model == "minilm-l6" and not folder.is_dir():
                        folder = encoder_of_wheel(Path(scratch) / model)
                    archives[name] += model_files(folder, f"models/{model}")
        else:
            archives["pack"] += model_files(chosen.teacher or beside / "minilm-l6-mlm", "teacher")
        folders = []
        for name, files in archives.items():
            archive = Path(scratch) / ARCHIVE
            with tarfile.open(archive, "w:gz", compresslevel=COMPRESSION) as tar:
                for file, place in files:
                    tar.add(file, place)
            folders += write(archive, chosen.output, int(chosen.limit * common.MIB), name)
    for folder in folders:
        print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / common.MIB:.1f} MiB")


if __name__ == "__main__":
    main()
