"""What transformers, whatever its version, makes of model folders: a program, and for the test a function.

`python answers.py FOLDERS.json OUTPUT.json`: for each folder the version, the tokens, and the outputs, in the ways in
which a user gets them.
"""

import json
import sys
from pathlib import Path
from typing import Any

TEXTS = ["the student learns", "Paris is the capital of France; it lies on the river Seine.", "a cat"]
PAIRS = ["some dogs like bones", "in 1889 the tower was built", "a book"]


def answers(folder: str, head: str) -> dict[str, Any]:
    """Tokens of texts and of pairs, and the logits of both, from the Auto classes and from a pipeline."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    observed: dict[str, Any] = {"tokens": [tokenizer(*given)["input_ids"] for given in zip(TEXTS, PAIRS, strict=True)]}
    observed["tokens"] += [tokenizer(text, truncation=True)["input_ids"] for text in TEXTS]
    observed["longest"] = len(tokenizer("a cat " * 800, truncation=True)["input_ids"])
    if head == "exported":  # no torch model: its tokenizer and its config are what is read
        observed["labels"] = transformers.AutoConfig.from_pretrained(folder).id2label
        return observed
    kind = {"classification": "SequenceClassification", "regression": "SequenceClassification",
            "span": "QuestionAnswering", "masked-lm": "MaskedLM"}[head]  # fmt: skip
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder).eval().float()
    observed["logits"] = []
    with torch.no_grad():
        for given in [*zip(TEXTS, PAIRS, strict=True), *((text,) for text in TEXTS)]:
            outputs = model(**tokenizer(*given, return_tensors="pt"))
            logits = [outputs.start_logits, outputs.end_logits] if head == "span" else [outputs.logits]
            observed["logits"].append([part.tolist() for part in logits])
    if head in ("classification", "regression"):
        pipe = transformers.pipeline("text-classification", model=folder, device="cpu")
        observed["pipeline"] = [pipe(text)[0] for text in TEXTS]
    elif head == "masked-lm":
        pipe = transformers.pipeline("fill-mask", model=folder, device="cpu")
        observed["pipeline"] = [pipe(f"the {pipe.tokenizer.mask_token} learns")[0]]
    return observed


def main(folders: Path, output: Path) -> None:
    """Write the answers of every folder that a JSON file names, with its head."""
    import transformers

    made: dict[str, Any] = {"version": transformers.__version__}
    for folder, head in json.loads(folders.read_text()).items():
        try:
            made[folder] = answers(folder, head)
        except Exception as error:
            made[folder] = {"error": f"{type(error).__name__}: {error}"[:300]}
    output.write_text(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
