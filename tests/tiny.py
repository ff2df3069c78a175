"""Tiny models of every family with any head, in BERT's words, and comparison up to rounding.

```python
tiny.model()                                              # a BERT masked LM, two layers of 16 dimensions
tiny.model("roberta", "classification", num_labels=3, seed=1)
tiny.scrambled(tiny.model("modernbert", **tiny.WIDER))    # every weight its own random number
```
"""

import re
from typing import Any

import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertTokenizerFast,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

TEXT = """The student learns from the teacher, and the teacher learned from a large corpus of text. A small model
answers quickly. A large model answers slowly, but it knows more words. Paris is the capital of France; it lies on the
river Seine. In 1889 the tower was built by the engineer Gustave Eiffel for the world fair, and many people came to see
it. Some cats like milk, and some dogs like bones. She walked to the old house near the lake, opened the door, and sat
down to read a book."""
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = 232
"""Of the tokenizer."""
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
WIDER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS: dict[str, type[PretrainedConfig]] = {
    "bert": BertConfig, "distilbert": DistilBertConfig, "roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig, "electra": ElectraConfig, "mpnet": MPNetConfig,
    "modernbert": ModernBertConfig,
}  # fmt: skip
HEADS = {
    "masked-lm": AutoModelForMaskedLM, "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering,
    "token-classification": AutoModelForTokenClassification,
}  # fmt: skip
DISTILBERT = {
    "hidden_size": "dim", "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
}  # fmt: skip
"""What DistilBERT's configuration calls it."""
SPECIAL = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
"""ModernBERT's own defaults lie beyond a small vocabulary."""
ULPS = 64
"""Units in the last place of the largest value, by which two ways of one computation may differ: each adds its terms in
an order of its own, and over a few layers of a tiny model the differences add up to some ten units."""


def tokenizer() -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer of 232 pieces, BERT's special tokens as ids 0 to 4, alike in every process.

    Its pieces are the characters of `TEXT`, its words, and of longer words the first letters and the rest.
    (A trained vocabulary differs from process to process, and with it every number that a test looks at.)
    """
    words = sorted({*re.findall(r"\w+|[^\w\s]", TEXT.lower())})
    letters = sorted({*"".join(words)})
    parts = [part for cut in (3, 2) for word in words if len(word) > 4 for part in (word[:cut], f"##{word[cut:]}")]
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words, *parts]
    vocabulary = {piece: index for index, piece in enumerate([*dict.fromkeys(pieces)][:PIECES])}
    assert len(vocabulary) == PIECES
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=raw, model_max_length=512)


def config(family: str = "bert", **settings: Any) -> PretrainedConfig:
    """The configuration of a small model with as many words as the tests' tokenizer has pieces.

    Args:
        family: as its configuration says (`model_type`).
        settings: instead of `SIZES` and the family's own, in BERT's names for every family.
    """
    settings = {"vocab_size": PIECES, **SIZES, **settings}
    if family == "distilbert":
        settings = {DISTILBERT.get(name, name): value for name, value in settings.items()}
    if family == "electra":
        settings = {"embedding_size": 12} | settings
    if family == "modernbert":
        settings = SPECIAL | settings
    return CONFIGS[family](**settings)


def model(family: str = "bert", head: str = "masked-lm", *, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A model with that head as transformers initialises it, not in training; see `config`."""
    torch.manual_seed(seed)
    return HEADS[head].from_config(config(family, **settings)).eval()


@torch.no_grad()
def scrambled(model: PreTrainedModel, *, std: float = 0.3) -> PreTrainedModel:
    """The model, every weight its own random number, so that a forgotten one shows; fresh biases are all zero."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.normal_(std=std)
    return model


def assert_equal_up_to_rounding(
    actual: Tensor | NDArray[Any], expected: Tensor | NDArray[Any], *, ulps: float = ULPS
) -> None:
    """Compares two ways of one computation in float32.

    Only one and the same computation, on one machine, gives the same bits. Not so even one model in memory and as read
    from its file: on some CPUs a matrix product adds in another order where a matrix begins at another address.
    """
    actual, expected = (torch.as_tensor(values).detach().double() for values in (actual, expected))
    largest = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=ulps * torch.finfo(torch.float32).eps * largest)
