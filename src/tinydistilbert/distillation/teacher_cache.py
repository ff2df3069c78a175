"""The teacher's cache: hidden states or top logits of the frozen teacher for a few maskings of the text, stored once.

A *view* is the whole training part with one mask. Epochs take the views in turn: epoch e reads view e % views. Each
view is a separate finished folder of memory-mapped arrays. So a build that was killed continues after the last finished
view, and a recipe with more views reuses the existing ones.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from tinydistilbert.data.masked_batches import Drawn, MaskedBatches, micro_batches
from tinydistilbert.data.masking import IGNORED
from tinydistilbert.data.npy import RowFile
from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.models.heads import hidden_states, vocabulary_logits, vocabulary_size
from tinydistilbert.progress import Progress
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.types import highest
from tinydistilbert.storage import atomic, locks
from tinydistilbert.storage.disk import free_bytes
from tinydistilbert.training.device import Compute
from tinydistilbert.training.precision import Precision, frozen, multiplying

FORMAT = 2
"""Increase it whenever the same teacher, text and settings would be stored differently."""
BLOCKS_AT_ONCE = 16
"""Blocks in one pass of the teacher; their masks are drawn together."""
POSITIONS_AT_ONCE = 512
"""Positions whose logits exist at a time: 62 MB for BERT's vocabulary."""
_NO_MATTER = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Settings of a model's configuration that do not change its outputs: its origin, and how it was saved."""
SPARE = 0.05
"""Extra disk space, as a share of the computed size: for manifests, and because masks are random."""

MASKED, SOFT = 1, 2
"""Bits of `marks`: the token is masked; it is a position of the KL."""
View = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CachedBatches:
    """The micro-batches of a training with stored outputs of the teacher."""

    batches: MaskedBatches
    """Which blocks each step reads: the same, in the same order, as without a cache."""
    views: tuple[View, ...]
    """Memory-mapped arrays of each view."""

    def __call__(self, step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
        """Return the micro-batches of `step`, as `MaskedBatches` makes them, with the stored outputs of the teacher.

        These are `teacher_hidden` [batch length hidden] in half precision, or `teacher_top_ids` and
        `teacher_top_log_probabilities` [soft k]: natural logarithms at the recipe's temperature, in descending order,
        with rows in the order of `soft`; the probability missing to 1 belongs to the rest of the vocabulary.
        """
        batches = self.batches
        indices, epochs = batches.chosen(step)
        views = [self.views[epoch % len(self.views)] for epoch in epochs]
        original = batches.blocks.train[indices].astype(np.int64)
        marks = _gather(views, "marks", indices)
        masked_ids = _gather(views, "input_ids", indices).astype(np.int64)
        drawn = Drawn(masked_ids, np.where(marks & MASKED, original, IGNORED), (marks & SOFT) > 0)
        size = batches.optimization.batch_size >> oom_splits
        made = micro_batches(original, drawn, batches.blocks, size, batches.attention)
        for number, batch in enumerate(made):
            part = slice(number * size, (number + 1) * size)
            if "hidden" in self.views[0]:
                batch["teacher_hidden"] = torch.from_numpy(_gather(views[part], "hidden", indices[part]))
            else:
                batch |= _top_tokens_at(batch["soft"].numpy(), views[part], indices[part])
        return made


def _gather(views: list[View], name: str, indices: Int64[np.ndarray, " batch"]) -> np.ndarray:
    """Return the blocks with these indices, each from its view."""
    return np.stack([view[name][index] for view, index in zip(views, indices, strict=True)])


def _top_tokens_at(
    soft: Int64[np.ndarray, " positions"], views: list[View], indices: Int64[np.ndarray, " batch"]
) -> dict[str, Tensor]:
    """Return the likeliest tokens at the flat positions `soft` of a micro-batch, in the order of `soft`.

    The cache stores the positions of a block in ascending order.
    """
    ids, log_probabilities = [], []
    for view, index in zip(views, indices, strict=True):
        of_block = slice(view["top_ends"][index - 1] if index else 0, view["top_ends"][index])
        ids.append(view["top_ids"][of_block])
        log_probabilities.append(view["top_log_probabilities"][of_block])
    order = np.argsort(np.argsort(soft))
    return {
        "teacher_top_ids": torch.from_numpy(np.concatenate(ids)[order].astype(np.int64)),
        "teacher_top_log_probabilities": torch.from_numpy(np.concatenate(log_probabilities)[order]),
    }


def make_cache(
    settings: schema.TeacherCache,
    batches: MaskedBatches,
    teacher: PreTrainedModel,
    folder: Path,
    compute: Compute,
    log: Callable[[str], None],
) -> CachedBatches:
    """Open the cache `folder/teacher-<key>` with the views that the settings ask for, and make missing ones.

    Args:
        settings: already checked by the recipe to be compatible with a cache.
        batches: of the training without a cache; the teacher reads their text and masks.
        teacher: already on the device and in evaluation mode.
        folder: of all caches.
        compute: where the teacher computes, and in which precision.
        log: called with the size and the folder of the cache, before anything is written.

    Raises:
        UserError: the disk has no room for it, or the folder holds the outputs of another teacher, or something else.
    """
    assert settings.kind != "none" and not teacher.training
    facts = _facts(settings, batches, teacher, compute.chosen)
    cache = _cache_folder(folder, facts)
    missing = _missing(cache, settings.views)
    total_bytes = check_room(settings, batches, teacher, folder, views=len(missing))
    size = f"{settings.views} views of {len(batches.blocks.train):,} blocks, {total_bytes / 1e9:,.2f} GB, in {cache}"
    log(f"teacher cache: {size}; {len(missing) or 'none'} to be made")
    for number in range(settings.views):
        _make_alone(cache, number, settings, batches, teacher, facts, compute.device)
    return CachedBatches(batches, tuple(_open_view(cache, number, facts) for number in range(settings.views)))


def make_view(
    settings: schema.TeacherCache, batches: MaskedBatches, teacher: PreTrainedModel, folder: Path, compute: Compute,
    number: int,
) -> None:  # fmt: skip
    """Make one view of the cache, as `make_cache` would, unless it is finished; for one process per view."""
    facts = _facts(settings, batches, teacher, compute.chosen)
    _make_alone(_cache_folder(folder, facts), number, settings, batches, teacher, facts, compute.device)


def _make_alone(
    cache: Path, number: int, settings: schema.TeacherCache, batches: MaskedBatches, teacher: PreTrainedModel,
    facts: dict[str, Any], device: torch.device,
) -> None:  # fmt: skip
    """Make a view unless it is finished, with a lock so that only one process makes it."""
    lock = cache.with_name(f".{cache.name}-{number}{atomic.LOCK}")
    if atomic.is_finished(_view_folder(cache, number)):
        locks.tidy(lock)
        return
    with locks.alone(lock, where=f"view {number + 1} of the cache {cache}", wait=True):
        if not atomic.is_finished(_view_folder(cache, number)):  # another process may have finished it meanwhile
            _make_view(cache, number, settings, batches, teacher, facts, device)


def check_room(
    settings: schema.TeacherCache, batches: MaskedBatches, teacher: PreTrainedModel, folder: Path, *, views: int
) -> int:
    """Check that the `views` still to be made fit on the disk, and return the bytes of all views of the cache.

    Raises:
        UserError: they do not fit.
    """
    blocks, length = batches.blocks.train.shape
    total_bytes = cache_bytes(
        settings, batches.objective, batches.masking, blocks=blocks, length=length,
        hidden_size=teacher.config.hidden_size, vocab_size=vocabulary_size(teacher),
    )  # fmt: skip
    if views:
        _refuse_full_disk(folder, total_bytes * views // settings.views)
    return total_bytes


def views_to_make(
    settings: schema.TeacherCache, batches: MaskedBatches, teacher: PreTrainedModel, folder: Path, compute: Compute
) -> list[int]:
    """Return the numbers of the views that `make_cache` would have to make for this teacher."""
    cache = _cache_folder(folder, _facts(settings, batches, teacher, compute.chosen))
    return _missing(cache, settings.views)


def _cache_folder(folder: Path, facts: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"teacher-{key}"


def cache_bytes(
    settings: schema.TeacherCache, objective: schema.Objective, masking: schema.Masking, *, blocks: int, length: int,
    hidden_size: int, vocab_size: int,
) -> int:  # fmt: skip
    """Return the bytes of all views of a cache; for `top-k`, of the expected number of positions.

    Args:
        settings: of the cache.
        objective: at which positions soft targets are needed.
        masking: how many positions are masked.
        blocks: of the training part.
        length: tokens in a block.
        hidden_size: of the teacher.
        vocab_size: of the teacher.
    """
    rate, id_bytes = highest(masking.rate), _id_type(vocab_size).itemsize
    tokens = blocks * length
    size = tokens * (id_bytes + 1)
    if settings.kind == "hidden":
        size += tokens * hidden_size * 2
    else:
        shares = {"all": 1.0, "masked": rate, "sampled": rate + (1 - rate) * objective.kl_sampled_share}
        positions = int(tokens * shares[objective.kl_positions])
        size += positions * min(settings.top_k, vocab_size) * (id_bytes + 4) + 8 * blocks
    return size * settings.views


def _id_type(vocab_size: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def weights_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 of all weights, in the order of the model's `state_dict`, with names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 of the settings that a model computes with: different models may have the same weights."""
    settings = {k: v for k, v in model.config.to_diff_dict().items() if k not in _NO_MATTER}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _facts(
    settings: schema.TeacherCache, batches: MaskedBatches, teacher: PreTrainedModel, precision: Precision
) -> dict[str, Any]:
    """Return everything that a view depends on, except its number. The number of views is not part of it."""
    objective = batches.objective
    tokens = json.dumps(batches.blocks.manifest, sort_keys=True)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "teacher": weights_hash(teacher),
        "config": _config_hash(teacher),
        "tokens": hashlib.sha256(tokens.encode()).hexdigest(),
        "masking": dataclasses.asdict(batches.masking),
        "seed": batches.seed,
        "kind": settings.kind,
        "kl_positions": objective.kl_positions,
        "attention": batches.attention,
        "precision": precision,
    }
    if objective.kl_positions == "sampled":
        facts["kl_sampled_share"] = objective.kl_sampled_share
    if settings.kind == "top-k":
        facts |= {"top_k": settings.top_k, "temperature": objective.temperature}
    return facts


def _missing(cache: Path, views: int) -> list[int]:
    """Return the numbers of the views that are not finished."""
    return [number for number in range(views) if not atomic.is_finished(_view_folder(cache, number))]


def _view_folder(cache: Path, number: int) -> Path:
    return cache / f"view-{number}"


def _refuse_full_disk(folder: Path, size: int) -> None:
    needed, free = int(size * (1 + SPARE)), free_bytes(folder)
    if needed > free:
        expected, found = f"{needed / 1e9:,.2f} GB free for the teacher's cache", f"{free / 1e9:,.2f} GB"
        fix = "free some space, point TINYDISTILBERT_CACHE at another disk, or lower distill.cache.views"
        raise UserError(str(folder), expected=expected, found=found, fix=fix)


def _make_view(
    cache: Path,
    number: int,
    settings: schema.TeacherCache,
    batches: MaskedBatches,
    teacher: PreTrainedModel,
    facts: dict[str, Any],
    device: torch.device,
) -> None:
    """Write one view, a few blocks at a time."""
    train = batches.blocks.train
    passes = -(-len(train) // BLOCKS_AT_ONCE)
    rate, id_type = highest(batches.masking.rate), _id_type(vocabulary_size(teacher))
    progress = Progress(f"teacher cache, view {number + 1} of {settings.views}", passes)
    tokens, top_rows = 0, 0
    files: dict[str, RowFile] = {}
    with (
        atomic.unfinished(_view_folder(cache, number), **facts, view=number) as partial,
        contextlib.ExitStack() as stack,  # closes the files before the folder is closed
        torch.inference_mode(),
        frozen(teacher, facts["precision"]),
    ):
        for done in range(passes):
            original = train[done * BLOCKS_AT_ONCE : (done + 1) * BLOCKS_AT_ONCE].astype(np.int64)
            drawn = batches.draw(original, rate=rate, number=number * passes + done)
            (batch,) = micro_batches(original, drawn, batches.blocks, BLOCKS_AT_ONCE, batches.attention)
            with multiplying(device, facts["precision"]):
                parts = _teacher_outputs(settings, batches.objective, teacher, batch, drawn.soft, device)
            parts["input_ids"] = drawn.input_ids.astype(id_type)
            marks = np.where(drawn.labels != IGNORED, MASKED, 0) | np.where(drawn.soft, SOFT, 0)
            parts["marks"] = marks.astype(np.uint8)
            if "top_ids" in parts:
                parts["top_ends"] = top_rows + np.cumsum(drawn.soft.sum(axis=1))
                top_rows += len(parts["top_ids"])
            for name, part in parts.items():
                if name not in files:
                    file = RowFile(partial / f"{name}.npy", part.shape[1:], part.dtype)
                    files[name] = stack.enter_context(file)
                files[name].append(part)
            tokens += len(batch["counted"])
            if progress.wants(done + 1):
                progress.show(done + 1, tokens, {})


def _teacher_outputs(
    settings: schema.TeacherCache,
    objective: schema.Objective,
    teacher: PreTrainedModel,
    batch: dict[str, Tensor],
    soft: Bool[np.ndarray, "batch length"],
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Return what the cache stores of one teacher pass; top tokens at the positions `soft` in ascending order."""
    mask = batch.get("attention_mask")
    hidden = hidden_states(teacher, batch["input_ids"].to(device), None if mask is None else mask.to(device))
    if settings.kind == "hidden":
        return {"hidden": _half(hidden)}
    positions = torch.from_numpy(np.flatnonzero(soft)).to(device)
    vocab_size = vocabulary_size(teacher)
    top_k, temperature = min(settings.top_k, vocab_size), highest(objective.temperature)
    ids, log_probabilities = _likeliest(teacher, hidden.flatten(0, 1)[positions], temperature, top_k)
    return {"top_ids": ids.astype(_id_type(vocab_size)), "top_log_probabilities": log_probabilities}


def _half(hidden: Float[Tensor, "batch length hidden"]) -> np.ndarray:
    half = hidden.half()
    if not torch.isfinite(half).all():
        found, fix = f"{float(hidden.abs().max()):.3g}", 'set distill.cache.kind = "top-k" or "none"'
        raise UserError("distill.cache.kind", expected="hidden states below 65504", found=found, fix=fix)
    array: np.ndarray = half.cpu().numpy()
    return array


def _likeliest(
    teacher: PreTrainedModel, hidden: Float[Tensor, "positions hidden"], temperature: float, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and log-probabilities of the `top_k` likeliest tokens at each position, the likeliest first."""
    ids, logs = [], []
    for part in torch.split(hidden, POSITIONS_AT_ONCE):
        logits = vocabulary_logits(teacher, part).float() / temperature
        top = logits.topk(top_k)
        ids.append(top.indices.cpu())
        logs.append((top.values - logits.logsumexp(-1, keepdim=True)).cpu())
    return torch.cat(ids).numpy(), torch.cat(logs).numpy()


def _open_view(cache: Path, number: int, facts: dict[str, Any]) -> View:
    """Return the arrays of a finished view, after checking it against its manifest.

    The check reads the files in full: a few seconds per gigabyte, once per training.
    """
    folder = _view_folder(cache, number)
    manifest = atomic.read_manifest(folder)
    fix = f"delete {cache} and run the command again"
    wrong = [name for name, value in {**facts, "view": number}.items() if manifest.get(name) != value]
    if "teacher" in wrong:
        stored_hash = f"{manifest.get('teacher')}"[:12]
        problem = f"these are outputs of another teacher ({stored_hash}, not {facts['teacher'][:12]})"
        raise UserError(str(folder), problem=problem, fix=fix)
    if wrong:
        (name, *_) = wrong
        expected, found = f"a cache of {name} = {facts.get(name, number)!r}", f"{name} = {manifest.get(name)!r}"
        raise UserError(str(folder), expected=expected, found=found, fix=fix)
    with as_user_error(str(folder), expected="arrays of numbers", fix=fix):
        files = {Path(name).stem: folder / name for name in manifest["files"]}
        return {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()}
