"""Table 3: size and speed, published and measured."""

from collections.abc import Sequence

from tinydistilbert.report import published
from tinydistilbert.report.cells import NOTHING, Cell, Row, Table, as_printed
from tinydistilbert.report.published import Published
from tinydistilbert.report.scores import SUBSET, TITLES, WARNING
from tinydistilbert.results import Measurement


def measured_seconds(measurements: Sequence[Measurement]) -> dict[tuple[str, str, str], Measurement]:
    """Latency by model, device and length protocol; of a number measured again, the last one counts."""
    rows = [m for m in measurements if m.task == "latency"]
    return {(m.model, m.details["device"], m.details["protocol"]): m for m in rows}


def _title(model: str) -> str:
    return {"bert-base": "BERT-base", "distilbert": "DistilBERT", **TITLES}.get(model, model)


def _percent(spread: float) -> str:
    return f"{100 * (spread - 1):.0f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _seconds_cell(m: Measurement | None, reference: Measurement | None) -> Cell:
    if m is None:
        return Cell(NOTHING)
    marks = SUBSET * bool(m.details["estimated"]) + WARNING * bool(m.details["noisy"])
    ratio = f"{reference.value / m.value:.2f}×" if reference else ""
    return Cell(_seconds(m.value), marks, ratio)


def speed_table(measurements: Sequence[Measurement]) -> Table:
    """Table 3: parameters and the seconds of a full pass over STS-B validation, published and measured."""
    seconds = measured_seconds(measurements)
    sizes = {m.model: m for m in measurements if m.task == "size" and m.metric == "parameters"}
    timings = list(dict.fromkeys((device, protocol) for _, device, protocol in seconds)) or [
        ("cpu", "padded-128"), ("cpu", "true-length"),
    ]  # fmt: skip
    rows: list[tuple[str, str, Published | None]] = [
        ("", "ELMo", published.ELMO), ("bert-base", "BERT-base", published.BERT_BASE),
        ("distilbert", "DistilBERT", published.DISTILBERT), ("", "TinyDistilBERT", published.TINYDISTILBERT),
    ]  # fmt: skip
    known = {model for model, _, _ in rows}
    others = dict.fromkeys([*sizes, *(model for model, _, _ in seconds)])
    rows += [(model, _title(model), None) for model in others if model not in known]
    reference = "bert-base" if "bert-base" in others else "teacher"
    body = []
    for model, title, printed in rows:
        size = sizes.get(model)
        cells = [
            Cell(f"{size.value / 1e6:.1f} M")
            if size
            else Cell(f"{printed.parameters_millions:.0f} M" if printed else NOTHING),
            Cell(f"{size.details['megabytes_fp32']:.0f}" if size else NOTHING),
            Cell(f"{printed.seconds:.0f}" if printed and printed.seconds else NOTHING, printed=True),
            Cell(as_printed(printed.seconds_replication if printed else None), printed=True),
        ]
        cells += [_seconds_cell(seconds.get((model, *timing)), seconds.get((reference, *timing))) for timing in timings]
        exact = seconds.get((model, "cpu", "true-length"))
        cells.append(Cell(f"{exact.details['p50_ms']:.1f}/{exact.details['p90_ms']:.1f}" if exact else NOTHING))
        body.append(Row("measured" if model in others else "published", (Cell(title), *cells)))
    names = {"padded-128": "padded, s", "true-length": "true length, s"}
    headings = [
        f"GPU, {names[protocol]}" if device == "cuda" else names[protocol].capitalize() for device, protocol in timings
    ]
    caption = (
        "Parameters of the encoder without task head, and seconds of a full pass over the 1,500 pairs of STS-B "
        "validation at batch 1 on one core: padded to 128 tokens, as the replication did, and at true length."
    )
    if seconds:
        caption += (
            f" Small: times as fast as {'BERT-base' if reference == 'bert-base' else 'the teacher'} in that column."
        )
    columns = ("Model", "Parameters", "fp32, MB", "Paper, s", "Replication, s", *headings, "p50/p90, ms")
    return Table(
        "speed", "Table 3. Size and speed", caption, columns, tuple(body), tuple(_speed_notes(list(seconds.values())))
    )


def _speed_notes(timed: Sequence[Measurement]) -> list[str]:
    notes = []
    estimated = {
        f"{m.details['protocol']} {m.examples:,} of {m.examples_total:,}": None for m in timed if m.details["estimated"]
    }
    if estimated:
        notes.append(f"{SUBSET} told from the mean of a part of the pairs: {', '.join(estimated)}.")
    noisy = [m for m in timed if m.details["noisy"]]
    if noisy:
        rows = ", ".join(f"{_title(m.model)} {m.details['protocol']} {_percent(m.details['spread'])}" for m in noisy)
        notes.append(f"{WARNING} the rounds differ by more than 10 %, so read these times with care: {rows}.")
    if timed:
        first = timed[0]
        gpus = dict.fromkeys(m.details["gpu"] for m in timed if m.details.get("gpu"))
        machine = " and ".join([str(first.environment.get("cpu") or "an unnamed CPU"), *gpus])
        notes.append(
            f"Measured here on {machine}: one thread on one pinned core, fp32, {first.details['backend']}, interleaved "
            f"rounds; p50 / p90 of one pair at true length. Inputs: {first.details['inputs']}."
        )
        if any(m.details.get("weights") == "random" for m in timed):
            notes.append(
                "BERT-base and DistilBERT were timed with random weights: their speed does not depend on them."
            )
    return [*notes, published.SPEED_NOTE + " ELMo's figures are published ones, not measured here."]
