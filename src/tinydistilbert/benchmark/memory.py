"""Peak memory of one row, measured in a process that loads and runs nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from tinydistilbert.errors import UserError
from tinydistilbert.models.runtimes import ModelInputs

PASSES = 3
MIB = 2**20
_CHILD = "from tinydistilbert.benchmark.memory import child; child()"


def measure_memory(name: str, folder: Path, backend: str, inputs: ModelInputs) -> dict[str, float]:
    """Measure the resident memory in MiB of a process that loads a row and runs some passes.

    Args:
        name: of the row, for messages.
        folder: that the back end reads.
        backend: of the row.
        inputs: of the longest pair.

    Returns:
        `baseline_mib` before the model is loaded (Python and libraries), `loaded_mib` after loading, and `peak_mib`,
        the largest from start to end.

    Raises:
        UserError: the process failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "inputs.npz"
        np.savez(file, allow_pickle=False, **inputs)
        command = [sys.executable, "-c", _CHILD, str(folder), backend, str(file)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    if done.returncode:
        found = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
        fix = "free memory, or set benchmark.memory = false"
        raise UserError(f"peak memory of {name}", expected="a process that runs it", found=found, fix=fix)
    sizes: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return sizes


def child() -> None:
    """Run the measured process: its arguments are folder, back end and inputs file; it prints one line of JSON."""
    from tinydistilbert.benchmark.backends import INT8, ONNX, OPENVINO, open_runtime

    folder, backend, file = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if backend in (ONNX, INT8):
        import onnxruntime  # noqa: F401 (so that the library is in the baseline)
    if backend.startswith(OPENVINO):
        import openvino  # noqa: F401
    with np.load(file, allow_pickle=False) as stored:
        inputs = {name: stored[name] for name in stored.files}
    baseline = resident_mib()
    runtime = open_runtime(folder, backend)
    loaded = resident_mib()
    for _ in range(PASSES):
        runtime(inputs)
    sys.stdout.write(json.dumps({"baseline_mib": baseline, "loaded_mib": loaded, "peak_mib": peak_mib()}) + "\n")


def resident_mib() -> float:
    """Return the resident memory of this process, in MiB."""
    return float(psutil.Process().memory_info().rss / MIB)


def peak_mib() -> float:
    """Return the largest resident memory of this process since its start, in MiB."""
    if psutil.WINDOWS:
        return float(psutil.Process().memory_info().peak_wset / MIB)
    if psutil.LINUX:  # getrusage would return the parent's peak if that is higher
        lines = Path("/proc/self/status").read_text().splitlines()
        if peaks := [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]:
            return peaks[0]
    import resource  # missing on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / MIB if psutil.MACOS else largest / 1024  # macOS counts in bytes
