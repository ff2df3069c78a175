"""The child process of `convert`: pickled weights in, safetensors out. Run by its path, never imported.

Its arguments are names of files; it writes the safetensors file to standard output, or one line to standard error.
Before it reads a pickle it gives up what it does not need: memory and processor time beyond a limit, writing to files,
connections, other processes. The first protection is torch's `weights_only` reader, the second these limits.
"""

import os
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

SECONDS = 600
"""Limit of processor time."""
SPARE = 2 * 2**30
"""Bytes of memory allowed in addition to four times the size of the files."""
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn", "subprocess.Popen", "pty.spawn",
    "socket.", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.putenv", "shutil.", "ftplib.", "urllib.", "smtplib.", "webbrowser.", "ctypes.dlopen",
)  # fmt: skip
"""Prefixes of audit events that end the process."""


def give_up(size: int) -> None:
    """Restrict this process permanently to what reading `size` bytes of weights needs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, used + 4 * size + SPARE)
    limit(resource.RLIMIT_CPU, SECONDS)
    limit(resource.RLIMIT_FSIZE, 0)  # no writing to files, but to the pipe
    limit(resource.RLIMIT_CORE, 0)
    sys.addaudithook(_refuse)


def limit(kind: int, value: int) -> None:
    """Set a limit of this process, unless it is already lower."""
    now = resource.getrlimit(kind)[1]
    lowest = value if now == resource.RLIM_INFINITY else min(value, now)
    resource.setrlimit(kind, (lowest, lowest))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and (
        set(str(arguments[1] or "")) & set("wax+")
        or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    )
    if writes or event.startswith(FORBIDDEN):
        os._exit(77)


def read(paths: list[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of all files, copied so that none share memory; of tied tensors, only the first."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise ValueError("no dictionary of tensors by name")
        for name, value in content.items():
            if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
                raise ValueError(f"no plain tensor under {name[:80]!r}")
            if name in tensors:
                raise ValueError(f"{name[:80]!r} a second time")
            tensors[name] = value.detach()
    kept: dict[str, torch.Tensor] = {}
    seen = set()
    for name, value in tensors.items():
        memory = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() == 0 or memory not in seen:  # otherwise tied, like a head to the word embeddings
            seen.add(memory)
            kept[name] = value.clone(memory_format=torch.contiguous_format)
    return kept


def main(paths: list[str]) -> int:
    """Read the files and write the tensors; the exit code is 1 if that fails."""
    warnings.simplefilter("ignore")
    try:
        give_up(sum(Path(path).stat().st_size for path in paths))
        content = save(read(paths), metadata={"format": "pt"})
    except MemoryError:
        sys.stderr.write("it needs more memory than files of this size should\n")
        return 1
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        sys.stderr.write(f"{type(error).__name__}: {first[:200]}\n")
        return 1
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
