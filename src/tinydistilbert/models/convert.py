"""Old pickled weights (`pytorch_model.bin`) as a folder with safetensors.

A pickle is a program. It is read in a process of its own (`unpickle.py`), which gives up files, connections and other
processes first, and sends the weights back through a pipe; here they are looked at like those of any stranger.
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
from tinydistilbert.storage import atomic, disk

SECONDS = 900
"""After which the reading process is stopped."""
REFUSED = 77
"""Exit code of a reading process that tried what it had given up."""
SPARE = 100_000_000
"""Bytes that safetensors may have more than the pickles: the header."""
PIECE = 1 << 20


def convert(name: str | Path, output: Path) -> None:
    """Make the finished folder `output` from a model whose weights are in `pytorch_model.bin`, or in shards of it.

    Config and tokenizer are copied as they are. What is tied, and thus in the file twice, is stored once. The folder is
    made only if `load_model` reads it strictly.

    Args:
        name: the folder, or a name in the hub.
        output: a folder that is not there yet.

    Raises:
        UserError: no such model; weights in safetensors already; a pickle that is more than weights, is damaged, or
            does not fit the config; `output` is there already.
    """
    atomic.check_new(output)
    config = load_config(name)
    wanted = (untrusted.CONFIG, *untrusted.TOKENIZER, untrusted.PICKLE, untrusted.PICKLE_INDEX, "pytorch_model-*.bin")
    folder = local_folder(name, None, wanted)
    for there in (untrusted.WEIGHTS, untrusted.INDEX):
        if (folder / there).exists():
            fix = "use the folder as it is"
            raise UserError(f"model {name}", expected=f"weights in {untrusted.PICKLE}", found=there, fix=fix)
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
    """Have another process read the pickles, and write what it sends.

    Raises:
        UserError: it could not, or tried more than to read.
    """
    script = resources.files("tinydistilbert.models") / "unpickle.py"
    command = [sys.executable, "-I", str(script), *(str(path.absolute()) for path in pickles)]
    where, fix = str(pickles[0]), "use another model, or one that was published as safetensors"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    most = sum(path.stat().st_size for path in pickles) + SPARE
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True, cwd="/",
        env=environment,
    )  # fmt: skip
    clock = threading.Timer(SECONDS, process.kill)
    clock.start()
    assert process.stdout is not None and process.stderr is not None
    try:
        sent = _copied(process.stdout, target, most)
        said = process.stderr.read(4096).decode("utf-8", "replace").strip() if sent <= most else "more than was read"
        code = process.wait() if sent <= most else 1
    finally:
        process.kill()  # nothing where it has ended
        process.wait()
        clock.cancel()
        process.stdout.close()
        process.stderr.close()
    if code == 0:
        return
    found = {REFUSED: "a pickle that does more than that: it was stopped"}.get(code)
    found = found or (said.splitlines()[-1][:250] if said else f"a reader that was stopped ({code})")
    raise UserError(where, expected="a pickle of weights alone", found=found, fix=fix)


def _copied(stream: IO[bytes], target: Path, most: int) -> int:
    """Bytes that came out of the stream; no more than `most` and a piece are taken."""
    sent = 0
    with disk.disk_errors(target, most), target.open("wb") as file:
        while sent <= most and (piece := stream.read(PIECE)):
            file.write(piece)
            sent += len(piece)
    return sent


def _check(folder: Path, config: PretrainedConfig, name: str) -> None:
    """Read the new folder as every command would.

    Raises:
        UserError: it cannot be.
    """
    head, has_head = _head(folder, config)
    try:
        load_model(folder, head, require_head=has_head)
        load_tokenizer(folder)
    except UserError as error:
        where = error.where.replace(str(folder), name)
        raise UserError(where, problem=error.problem, fix=error.fix) from None


def _head(folder: Path, config: PretrainedConfig) -> tuple[Head, bool]:
    """Which head a model has by the class that its config names, and whether it has one at all."""
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("ForPreTraining"):  # masked words and next sentences, as BERT was published
        return "masked-lm", True
    if architecture.endswith("Model") or not architecture:
        return "classification", False
    return head_of(folder, config), True
