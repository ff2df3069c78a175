"""Convert old pickled weights (`pytorch_model.bin`) to a folder with safetensors.

A pickle is a program. A separate process (`unpickle.py`) reads it, after giving up access to files, connections and
other processes, and sends the weights back through a pipe; then they are checked as untrusted weights.
"""

import shutil
import subprocess
import sys
import threading
from importlib import resources
from pathlib import Path
from typing import IO

from transformers import PretrainedConfig

from tinydistilbert.errors import UserError
from tinydistilbert.models import untrusted
from tinydistilbert.models.heads import head_of
from tinydistilbert.models.hub import local_folder
from tinydistilbert.models.loading import Head, load_config, load_model, load_tokenizer
from tinydistilbert.models.task_head import has_several_measurements
from tinydistilbert.storage import atomic, disk

SECONDS = 900
"""Time limit of the reading process."""
REFUSED = 77
"""Exit code of a reading process that tried a forbidden operation."""
SPARE = 100_000_000
"""Bytes by which the safetensors file may exceed the pickles, for its header."""
PIECE = 1 << 20


def convert(name: str | Path, output: Path) -> None:
    """Write the finished folder `output` from a model with weights in `pytorch_model.bin`, or in shards of it.

    Config and tokenizer are copied unchanged; tied weights, which the pickle has twice, are stored once. The folder is
    made only if `load_model` can read it.

    Args:
        name: a folder, or a name in the hub.
        output: a folder that does not exist yet.

    Raises:
        UserError: there is no such model; its weights are already safetensors; a pickle is damaged, contains more than
            weights, or does not fit the config; `output` exists.
    """
    atomic.check_new(output)
    config = load_config(name)
    pickle_files = (untrusted.PICKLE, untrusted.PICKLE_INDEX, "pytorch_model-*.bin")
    folder = local_folder(name, None, (untrusted.CONFIG, *untrusted.TOKENIZER, *pickle_files))
    for file_name in (untrusted.WEIGHTS, untrusted.INDEX):
        if (folder / file_name).exists():
            fix = "use the folder as it is"
            raise UserError(f"model {name}", expected=f"weights in {untrusted.PICKLE}", found=file_name, fix=fix)
    pickles = untrusted.weight_files(folder, str(name), weights=untrusted.PICKLE, index=untrusted.PICKLE_INDEX)
    with atomic.unfinished(output, converted_from=folder.name) as partial:
        try:
            _unpickle(pickles, partial / untrusted.WEIGHTS)
            for file in (untrusted.CONFIG, *untrusted.TOKENIZER):
                if (folder / file).is_file():
                    shutil.copyfile(folder / file, partial / file)
            _check(partial, config, str(name))
        except UserError:
            disk.remove(partial)
            raise


def _unpickle(pickles: list[Path], target: Path) -> None:
    """Let another process read the pickles, and write the safetensors file that it sends to `target`.

    Raises:
        UserError: the process failed, or tried a forbidden operation.
    """
    script = resources.files("tinydistilbert.models") / "unpickle.py"
    command = [sys.executable, "-I", str(script), *(str(path.absolute()) for path in pickles)]
    where, fix = str(pickles[0]), "use another model, or one that was published as safetensors"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    largest = sum(path.stat().st_size for path in pickles) + SPARE
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True, cwd="/",
        env=environment,
    )  # fmt: skip
    clock = threading.Timer(SECONDS, process.kill)
    clock.start()
    assert process.stdout is not None and process.stderr is not None
    try:
        sent = _copied(process.stdout, target, largest)
        fits = sent <= largest
        message = process.stderr.read(4096).decode("utf-8", "replace").strip() if fits else "more weights than bytes"
        code = process.wait() if fits else 1
    finally:
        process.kill()  # no effect if it has ended
        process.wait()
        clock.cancel()
        process.stdout.close()
        process.stderr.close()
    if code == 0:
        return
    found = {REFUSED: "a pickle that does more, which was stopped"}.get(code)
    found = found or (message.splitlines()[-1][:250] if message else f"a reader that was stopped ({code})")
    raise UserError(where, expected="a pickle that holds only weights", found=found, fix=fix)


def _copied(stream: IO[bytes], target: Path, largest: int) -> int:
    """Write the stream to `target`, and return its number of bytes; stop reading one piece after `largest`."""
    sent = 0
    with disk.disk_errors(target, largest), target.open("wb") as file:
        while sent <= largest and (piece := stream.read(PIECE)):
            file.write(piece)
            sent += len(piece)
    return sent


def _check(folder: Path, config: PretrainedConfig, name: str) -> None:
    """Read the new folder as every command does.

    Raises:
        UserError: it cannot be read.
    """
    head, has_head = _head(folder, config)
    try:
        load_model(folder, head, require_head=has_head)
        load_tokenizer(folder)
    except UserError as error:
        where = error.where.replace(str(folder), name)
        raise UserError(where, problem=error.problem, fix=error.fix) from None


def _head(folder: Path, config: PretrainedConfig) -> tuple[Head, bool]:
    """Return the head of a model by the class in its config, and whether the model has one."""
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("ForPreTraining"):  # masked LM and next sentence, as in published BERTs
        return "masked-lm", True
    if architecture.endswith("Model") or not architecture:
        return "classification", False
    if architecture.endswith("ForSequenceClassification") and has_several_measurements(config):
        return "classification", True  # nothing here answers with it, but a task's model can start from it
    return head_of(folder, config), True
