"""This machine's processor and its instruction sets, from Linux' /proc/cpuinfo; on other systems they are unknown."""

import functools
import platform
from pathlib import Path
from typing import Any

LISTED = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Instruction sets that results depend on."""


@functools.cache
def processor() -> dict[str, Any]:
    """Return `cpu`, its name, and `instruction_sets`, those of `LISTED` that it has."""
    info: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            info.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = set(info.get("flags", "").split())
    return {"cpu": info.get("model name", platform.processor()), "instruction_sets": [f for f in LISTED if f in flags]}
