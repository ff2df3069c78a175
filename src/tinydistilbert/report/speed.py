"""Table 3: size, speed and memory, published and measured; a row for each model by each back end."""

from collections.abc import Sequence

from tinydistilbert.report import published
from tinydistilbert.report.published import Published
from tinydistilbert.report.scores import SUBSET, TITLES, WARNING
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, as_printed
from tinydistilbert.results import Measurement

TORCH = "torch"
BACKENDS = {
    TORCH: "torch eager", "torch-compile": "torch.compile", "torch-graph": "CUDA graph", "onnx": "ONNX Runtime",
    "onnx-int8": "ONNX Runtime int8", "openvino": "OpenVINO",
}  # fmt: skip
"""Back ends as the table names them; rows of the first, which published seconds belong to, do not name it."""
PROTOCOLS = {"padded-128": "padded, s", "true-length": "true length, s", "with-tokenizer": "with tokenizer, s"}
PUBLISHED = {
    "elmo": published.ELMO, "bert-base": published.BERT_BASE, "distilbert": published.DISTILBERT,
    "tinydistilbert": published.TINYDISTILBERT,
}  # fmt: skip
"""Printed rows by the name under which a model of that shape is measured; nothing is measured under the last."""
REFERENCES = {"bert-base": "BERT-base", "teacher": "the teacher"}
"""What the others are compared with, in torch eager: the first of these that was timed so."""

Condition = tuple[str, str]
"""Device and protocol under which a row was timed."""
RowKey = tuple[str, str]
"""Model and back end."""


def _backend(m: Measurement) -> str:
    name = str(m.details["backend"])
    return TORCH if name == BACKENDS[TORCH] else name  # version 0.1 used this name for its only back end


def _latencies(measurements: Sequence[Measurement]) -> dict[RowKey, dict[Condition, Measurement]]:
    """Return latencies by row and condition; of a number measured again, the last one counts."""
    latencies: dict[RowKey, dict[Condition, Measurement]] = {}
    for m in measurements:
        if m.task == "latency":
            condition = m.details["device"], m.details["protocol"]
            latencies.setdefault((m.model, _backend(m)), {})[condition] = m
    return latencies


def measured_seconds(measurements: Sequence[Measurement]) -> dict[tuple[str, str, str], Measurement]:
    """Return latency by model, device and protocol, all with one back end: torch eager, or if not timed, another."""
    latencies = _latencies(measurements)
    backends = [backend for _, backend in latencies]
    chosen = TORCH if TORCH in backends else next(iter(backends), "")
    return {
        (model, *condition): m
        for (model, backend), row in latencies.items()
        if backend == chosen
        for condition, m in row.items()
    }


def _title(model: str) -> str:
    names = {**{name: row.name for name, row in PUBLISHED.items()}, **TITLES}
    return names.get(model) or model[:1].upper() + model[1:]


def _row_title(key: RowKey) -> str:
    model, backend = key
    return _title(model) if backend == TORCH else f"{_title(model)}, {BACKENDS.get(backend, backend)}"


def _percent(spread: float) -> str:
    return f"{100 * (spread - 1):.0f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _seconds_cell(m: Measurement | None, reference: Measurement | None) -> Cell:
    if m is None:
        return Cell(NOTHING)
    marks = SUBSET * bool(m.details["estimated"]) + WARNING * bool(m.details["noisy"])
    details = []
    if "interval" in m.details:
        details.append("–".join(map(_seconds, m.details["interval"])))
    if reference:
        details.append(f"{reference.value / m.value:.2f}×")
    return Cell(_seconds(m.value), marks, "; ".join(details))


class _Speed:
    """The measurements behind the table, indexed for its cells."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.latencies = _latencies(measurements)
        self.timed = [m for row in self.latencies.values() for m in row.values()]
        self.sizes = {m.model: m for m in measurements if m.task == "size" and m.metric == "parameters"}
        self.files = {(m.model, _backend(m)): m for m in measurements if m.task == "size" and m.metric == "megabytes"}
        self.memory = {(m.model, _backend(m)): m for m in measurements if m.task == "memory"}
        self.throughputs = {(m.model, _backend(m)): m for m in measurements if m.task == "throughput"}
        every = dict.fromkeys(condition for row in self.latencies.values() for condition in row)
        self.conditions: list[Condition] = list(every) or [("cpu", "padded-128"), ("cpu", "true-length")]
        self.reference = next((name for name in REFERENCES if (name, TORCH) in self.latencies), "")

    def rows(self) -> list[tuple[RowKey, Published | None]]:
        """Models in the order of the paper, then those of the run, each with its back ends."""
        measured = dict.fromkeys([*self.sizes, *(model for model, _ in self.latencies)])
        keys = []
        for model in dict.fromkeys([*PUBLISHED, *measured]):
            model_keys = [key for key in self.latencies if key[0] == model] or [(model, TORCH)]
            keys += [(key, PUBLISHED.get(model) if key == model_keys[0] else None) for key in model_keys]
        return keys

    def cells(self, key: RowKey, printed: Published | None) -> tuple[Cell, ...]:
        """Return one line of the table."""
        model, backend = key
        size, file, row = self.sizes.get(model), self.files.get(key), self.latencies.get(key, {})
        parameters = f"{size.value / 1e6:.1f} M" if size else NOTHING
        if size is None and printed:
            parameters = f"{printed.parameters_millions:.0f} M"
        megabytes = file.value if file else size.details["megabytes_fp32"] if size and _is_torch(backend) else None
        reference = self.latencies.get((self.reference, TORCH), {})
        exact = row.get(("cpu", "true-length"))
        cells = [
            Cell(_row_title(key)), Cell(parameters), Cell(NOTHING if megabytes is None else f"{megabytes:.0f}"),
            Cell(f"{printed.seconds:.0f}" if printed and printed.seconds else NOTHING, printed=True),
            Cell(as_printed(printed.seconds_replication if printed else None), printed=True),
            *(_seconds_cell(row.get(condition), reference.get(condition)) for condition in self.conditions),
            Cell(f"{exact.details['p50_ms']:.1f}/{exact.details['p90_ms']:.1f}" if exact else NOTHING),
        ]  # fmt: skip
        if self.memory:
            cells.append(_memory_cell(self.memory.get(key)))
        if self.throughputs:
            cells.append(_throughput_cell(self.throughputs.get(key)))
        return tuple(cells)


def _is_torch(backend: str) -> bool:
    return backend.startswith(TORCH)


def _memory_cell(m: Measurement | None) -> Cell:
    if m is None:
        return Cell(NOTHING)
    return Cell(f"{m.value:,.0f}", detail=f"{m.details['baseline_mib']:,.0f} without the model")


def _throughput_cell(m: Measurement | None) -> Cell:
    return Cell(NOTHING) if m is None else Cell(f"{m.value:,.0f}", detail=f"batch {m.details['batch_size']:,}")


def speed_table(measurements: Sequence[Measurement]) -> Table:
    """Return Table 3: parameters, size, seconds of a pass over STS-B validation, memory; published and measured."""
    speed = _Speed(measurements)
    body = [
        TableRow(
            "measured" if key[0] in speed.sizes or key in speed.latencies else "published", speed.cells(key, printed)
        )
        for key, printed in speed.rows()
    ]
    headings = [
        f"GPU, {PROTOCOLS[protocol]}" if device == "cuda" else PROTOCOLS[protocol].capitalize()
        for device, protocol in speed.conditions
    ]
    more = ("Peak MiB",) * bool(speed.memory) + ("GPU, pairs/s",) * bool(speed.throughputs)
    columns = ("Model", "Parameters", "MB", "Paper, s", "Replication, s", *headings, "p50/p90, ms", *more)
    return Table("speed", "Table 3. Size and speed", _caption(speed), columns, tuple(body), tuple(_notes(speed)))


def _caption(speed: _Speed) -> str:
    made_up = any(m.details["synthetic"] for m in speed.timed)
    pairs = (
        "1,500 made-up pairs as long as those of STS-B validation" if made_up else "the 1,500 pairs of STS-B validation"
    )
    caption = (
        f"Parameters of the encoder without task head, and seconds of a full pass over {pairs} at batch 1 on one core: "
        "padded to 128 tokens, as the replication did, and at true length"
    )
    if ("cpu", "with-tokenizer") in speed.conditions:
        caption += "; with tokenizer: at true length, tokenization included"
    caption += "."
    if speed.reference:
        interval = "95 % interval, and " if any("interval" in m.details for m in speed.timed) else ""
        caption += f" Small: {interval}speed-up over {REFERENCES[speed.reference]} by torch eager in that column."
    return caption


def _notes(speed: _Speed) -> list[str]:
    notes = []
    extrapolated: dict[str, dict[str, None]] = {}
    for m in speed.timed:
        if m.details["estimated"]:
            extrapolated.setdefault(f"{m.examples:,} of {m.examples_total:,} pairs", {})[m.details["protocol"]] = None
    if extrapolated:
        counts = (f"{count} ({', '.join(protocols)})" for count, protocols in extrapolated.items())
        notes.append(f"{SUBSET} extrapolated from {'; '.join(counts)}.")
    noisy = [m for m in speed.timed if m.details["noisy"]]
    if noisy:
        rows = ", ".join(
            f"{_row_title((m.model, _backend(m)))} {m.details['protocol']} {_percent(m.details['spread'])}"
            for m in noisy
        )
        notes.append(f"{WARNING} the rounds differ by more than 10 %, so these times are uncertain: {rows}.")
    if speed.timed:
        notes += [_machine(speed.timed), *_ways(speed)]
    not_measured = (
        "" if ("elmo", TORCH) in speed.latencies else " ELMo's figures are published ones, not measured here."
    )
    return [*notes, published.SPEED_NOTE + not_measured]


def _machine(timed: Sequence[Measurement]) -> str:
    first = timed[0]
    gpus = dict.fromkeys(m.details["gpu"] for m in timed if m.details.get("gpu"))
    sets = first.environment.get("instruction_sets")
    cpu = str(first.environment.get("cpu") or "an unnamed CPU") + (f" ({', '.join(sets)})" if sets else "")
    machine = " and ".join([cpu, *gpus])
    loads = [m.details["load_average"] for m in timed if m.details.get("load_average") is not None]
    load = f"; load average when it began {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return (
        f"Measured here on {machine}: one thread on one pinned core, interleaved rounds{load}; p50 / p90 of one pair "
        f"at true length. Inputs: {first.details['inputs']}."
    )


def _ways(speed: _Speed) -> list[str]:
    backends = dict.fromkeys(backend for _, backend in speed.latencies)
    libraries = dict.fromkeys(m.details["library"] for m in speed.timed if "library" in m.details)
    versions = f" ({', '.join(libraries)})" if libraries else ""
    others = [BACKENDS.get(backend, backend) for backend in backends if backend != TORCH]
    backend_note = "Rows without a back end: torch eager, fp32, the model as transformers runs it"
    if others:
        backend_note += f"; the others: {', '.join(others)}, the last layer computed for the first token only"
    notes = [f"{backend_note}{versions}."]
    if speed.files:
        notes.append("MB: the encoder in fp32; of exported models the whole file.")
    if speed.memory:
        notes.append("Peak MiB: resident memory of a process that loads and runs only that model.")
    random = dict.fromkeys(_title(m.model) for m in speed.timed if m.details.get("weights") == "random")
    if random:
        *most, last = random
        names = f"{', '.join(most)} and {last}" if most else last
        notes.append(f"{names}: timed with random weights; speed does not depend on the weights.")
    return notes
