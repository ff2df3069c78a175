"""`tinydistilbert predict` on a CSV file, compared with a plain loop over ONNX Runtime that sorts the texts by length.

The loop reads the whole file, tokenises it in one call, sorts by length, pads each batch to its longest text, and
writes label and score after each row. Both are separate processes, started in turns, with the same model and threads,
and measured with their start. Processor seconds hardly depend on other work on the machine; wall-clock seconds and peak
memory are shown beside them.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

BATCHES = (8, 16, 32, 64, 128)


def plain_loop(model: Path, source: Path, target: Path, threads: int, batch: int, longest: int) -> None:
    """The loop, which imports nothing of this package."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    folder = next(parent for parent in model.parents if (parent / "tokenizer.json").is_file())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.no_padding()
    labels = json.loads((folder / "config.json").read_text()).get("id2label", {})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = {item.name for item in session.get_inputs()}
    with source.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    column = header.index("text")
    encodings = tokenizer.encode_batch_fast([row[column] for row in rows])
    ids = [encoding.ids for encoding in encodings]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    answers: list[Any] = [None] * len(ids)
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        length = max(len(ids[row]) for row in chosen)
        inputs = np.zeros((len(chosen), length), dtype=np.int64)
        mask = np.zeros_like(inputs)
        for place, row in enumerate(chosen):
            inputs[place, : len(ids[row])], mask[place, : len(ids[row])] = ids[row], 1
        given = {"input_ids": inputs, "attention_mask": mask, "token_type_ids": np.zeros_like(inputs)}
        (logits,) = session.run(None, {name: given[name] for name in names})
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        scores = powers / powers.sum(-1, keepdims=True)
        best = scores.argmax(-1)
        for place, row in enumerate(chosen):
            answers[row] = labels.get(str(best[place]), f"LABEL_{best[place]}"), float(scores[place, best[place]])
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*header, "prediction", "prediction_score"])
        writer.writerows([*row, *answer] for row, answer in zip(rows, answers, strict=True))


def cost(command: Sequence[str], threads: int) -> tuple[float, float, float]:
    """Processor seconds, seconds on the clock, and the most memory in MiB of a process."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak, ended = 0.0, 0
    while not ended:  # the peak that the system keeps for the parent has that of the process it was forked from
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max(peak, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
        time.sleep(0.02)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begun, peak


def write_texts(file: Path, data: Path, rows: int) -> None:
    """A CSV file of texts of 2 to some 120 words, most of them short."""
    import common
    import numpy as np

    from tinydistilbert.data.sources import open_source

    words: list[str] = []
    for document in open_source(*common.open_corpus(data)).train():
        words += document.split()
        if len(words) > 500_000:
            break
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(2.8, 0.7, rows), 2, 120).astype(int)
    begins = random.integers(len(words) - 120, size=rows)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        for row, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            writer.writerow([row, " ".join(words[begin : begin + length])])


def compared(one: Path, other: Path) -> tuple[int, float]:
    """How many labels differ between two files of answers, and by how much the scores differ at most."""
    with one.open(encoding="utf-8", newline="") as first, other.open(encoding="utf-8", newline="") as second:
        pairs = list(zip(csv.DictReader(first), csv.DictReader(second), strict=True))
    return (
        sum(a["prediction"] != b["prediction"] for a, b in pairs),
        max(abs(float(a["prediction_score"]) - float(b["prediction_score"])) for a, b in pairs),
    )


def main() -> None:
    """Measure, print and append."""
    import common

    from tinydistilbert.models.runtimes import onnx_file
    from tinydistilbert.predictor import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="exported models that put texts into classes")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA)
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="of the loop; the best one is compared")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "predict_stream.jsonl")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, few = Path(scratch, "in.csv"), Path(scratch, "few.csv")
        write_texts(source, asked.data, asked.rows)
        write_texts(few, asked.data, asked.rows // 5)
        print("".join(f"{name:>16}" for name in ("", "texts/cpu s", "texts/s", "MiB")))
        for folder in asked.folders:
            model = onnx_file(folder)
            assert model is not None, "a folder for ONNX Runtime"
            longest = load(folder).max_length

            def loop(batch: int, texts: Path, model: Path = model, longest: int = longest) -> list[str]:
                rest = (str(model), str(texts), str(Path(scratch, "loop.csv")), str(asked.threads), str(batch))
                return [sys.executable, __file__, "--loop", *rest, str(longest)]

            def command_line(texts: Path, folder: Path = folder) -> list[str]:
                start = [sys.executable, "-m", "tinydistilbert", "predict", str(folder), str(texts)]
                return [*start, "--threads", str(asked.threads), "--output", str(Path(scratch, "predict.csv"))]

            tried = {batch: cost(loop(batch, few), asked.threads)[0] for batch in asked.batch}
            batch = min(tried, key=tried.__getitem__)
            way = f"loop, {batch}"
            commands = {way: loop(batch, source), "predict": command_line(source)}
            costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
            for _ in range(asked.rounds):
                for name, command in commands.items():
                    costs[name].append(cost(command, asked.threads))
            differing, most = compared(Path(scratch, "loop.csv"), Path(scratch, "predict.csv"))
            rows = []
            for name, each in costs.items():
                cpu, clock, memory = (median(values) for values in zip(*each, strict=True))
                print(f"{name:>16}" + "".join(f"{v:16.0f}" for v in (asked.rows / cpu, asked.rows / clock, memory)))
                facts = {"model": folder.name, "threads": asked.threads, "rows": asked.rows, "way": name}
                rows.append({**facts, "cpu_seconds": round(cpu, 2), "seconds": round(clock, 2), "mib": round(memory)})
            ratios = [median(a[i] / b[i] for a, b in zip(costs[way], costs["predict"], strict=True)) for i in range(2)]
            print(
                f"{folder.name}: predict answers {ratios[0]:.2f} times as many texts a processor second and "
                f"{ratios[1]:.2f} times as many on the clock; {differing} of {asked.rows} labels differ, "
                f"scores by at most {most:.1g}",
                flush=True,
            )
            rows[-1] |= {"of_loop_by_cpu": round(ratios[0], 3), "of_loop_by_clock": round(ratios[1], 3)}
            common.append(asked.output, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        file, texts, answers, *numbers = sys.argv[2:]
        plain_loop(Path(file), Path(texts), Path(answers), *map(int, numbers))
    else:
        main()
