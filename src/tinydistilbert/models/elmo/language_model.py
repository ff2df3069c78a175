"""ELMo's bidirectional language model (Peters et al. 2018, arXiv 1802.05365): characters to words to two LSTM layers.

As in AllenNLP, with one difference: no state is carried over from one batch to the next, so that an output depends on
its own text alone.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PretrainedConfig

from tinydistilbert.models.elmo.tokenizer import BEGIN_OF_SENTENCE, CHARACTERS, END_OF_SENTENCE, FILLING, spelled

FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


class ElmoConfig(PretrainedConfig):  # type: ignore[misc]
    """The shape of an ELMo and of the task model around it; the defaults are the published model's.

    The first group is the language model's (Peters et al. 2018, the file `elmo_2x4096_512_2048cnn_2xhighway`), the
    second the task model's of the GLUE baseline (Wang et al. 2018, and its released code).
    """

    model_type = "elmo"

    vocab_size: int = CHARACTERS
    character_size: int = 16
    filters: list[list[int]] | tuple[tuple[int, int], ...] = FILTERS
    """Width in characters and number of each kind of filter."""
    num_highway_layers: int = 2
    projection_size: int = 512
    """Width of a word and of an LSTM's output, in one direction."""
    cell_size: int = 4096
    num_hidden_layers: int = 2
    cell_clip: float = 3.0
    projection_clip: float = 3.0

    freeze_encoder: bool = True
    """Whether the language model stays as it is in fine-tuning; the weights of its mixture are trained anyway."""
    hidden_size: int = 3000
    """Width of the BiLSTM over the mixed words, both directions together."""
    sentence_layers: int = 2
    pair_attention: bool = True
    """Whether each word of a text looks at the words of the other text."""
    attention_size: int = 0
    """Width of a BiLSTM over what the attention gives, both directions together; 0 = none; the released code: 3000."""
    classifier_size: int = 512
    dropout: float = 0.2
    type_vocab_size: int = 2
    pad_token_id: int = 0


def reversed_texts(values: Float[Tensor, "texts length width"], lengths: Int64[Tensor, " texts"]) -> Tensor:
    """Each text from its own end to its beginning; what lies behind its end stays where it is."""
    places = torch.arange(values.shape[1], device=values.device).expand(values.shape[:2])
    mirrored = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    return values.gather(1, mirrored[..., None].expand_as(values))


class CharacterEncoder(nn.Module):
    """Words from their characters: filters of several widths, the largest over all places, highway layers."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        width = sum(count for _, count in config.filters)
        self.widest = max(width for width, _ in config.filters)
        self.embedding = nn.Embedding(config.vocab_size, config.character_size)
        self.convolutions = nn.ModuleList(nn.Conv1d(config.character_size, n, size) for size, n in config.filters)
        self.highways = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(config.num_highway_layers))
        self.projection = nn.Linear(width, config.projection_size)

    def forward(self, words: Int64[Tensor, "words characters"]) -> Float[Tensor, "words width"]:
        """The vector of each word, which depends on nothing around it."""
        # Filters see the filling, too. Behind the longest word one window of each width over nothing else is enough:
        # further ones give the same, which changes no maximum.
        longest = int((words != FILLING).sum(-1).max())
        characters = self.embedding(words[:, : longest + self.widest]).transpose(1, 2)
        found = torch.cat([convolution(characters).amax(-1) for convolution in self.convolutions], dim=-1).relu()
        for highway in self.highways:
            transformed, gate = highway(found).chunk(2, dim=-1)
            found = torch.lerp(found, transformed.relu(), gate.sigmoid())
        projected: Tensor = self.projection(found)
        return projected


class ProjectedLstm(nn.Module):
    """One direction of one layer: an LSTM whose output is projected to fewer dimensions, cell and output clipped.

    Torch's LSTM can project but not clip. The rows of the gates are those of input, forget, cell and output.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.projection_size, 4 * config.cell_size)
        self.recurrent = nn.Linear(config.projection_size, 4 * config.cell_size, bias=False)
        self.projection = nn.Linear(config.cell_size, config.projection_size, bias=False)
        self.cell_clip, self.projection_clip = config.cell_clip, config.projection_clip

    def forward(self, inputs: Float[Tensor, "texts length width"]) -> Float[Tensor, "texts length width"]:
        """The outputs from the first place to the last: what stands behind the end of a text changes none before it."""
        state = inputs.new_zeros(len(inputs), self.recurrent.in_features)
        cell = inputs.new_zeros(len(inputs), self.projection.in_features)
        outputs = []
        weight = self.recurrent.weight.T
        for given in self.input(inputs).unbind(1):
            enter, forget, new, leave = torch.addmm(given, state, weight).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            cell = cell.clamp(-self.cell_clip, self.cell_clip)
            state = self.projection(leave.sigmoid() * cell.tanh()).clamp(-self.projection_clip, self.projection_clip)
            outputs.append(state)
        return torch.stack(outputs, dim=1)


class BiLanguageModel(nn.Module):
    """Character encoder and LSTM layers in both directions, which are independent of each other."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.words = CharacterEncoder(config)
        self.forward_layers = nn.ModuleList(ProjectedLstm(config) for _ in range(config.num_hidden_layers))
        self.backward_layers = nn.ModuleList(ProjectedLstm(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, words: Int64[Tensor, "texts length characters"], lengths: Int64[Tensor, " texts"]
    ) -> list[Float[Tensor, "texts length twice"]]:
        """The words and the outputs of each layer, forward and backward side by side; without meaning behind the ends.

        Args:
            words: character ids.
            lengths: words of each text, at least one.
        """
        ahead = self._with_boundaries(words, lengths)
        back = reversed_texts(ahead, lengths + 2)
        layers = [torch.cat([ahead, ahead], dim=-1)]
        for number, (forward, backward) in enumerate(zip(self.forward_layers, self.backward_layers, strict=True)):
            found = forward(ahead), backward(back)
            ahead, back = found if number == 0 else (found[0] + ahead, found[1] + back)
            layers.append(torch.cat([ahead, reversed_texts(back, lengths + 2)], dim=-1))
        return [layer[:, 1:-1] for layer in layers]

    def _with_boundaries(
        self, words: Int64[Tensor, "texts length characters"], lengths: Int64[Tensor, " texts"]
    ) -> Float[Tensor, "texts longer width"]:
        """The vectors of the words, of `<S>` before the first and of `</S>` behind the last; then zeros."""
        marks = np.stack([spelled([mark]) for mark in (BEGIN_OF_SENTENCE, END_OF_SENTENCE)])
        inside = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        vectors = self.words(torch.cat([torch.from_numpy(marks).to(words), words[inside]]))
        whole: Tensor = vectors.new_zeros(len(words), words.shape[1] + 2, vectors.shape[-1])
        texts = torch.arange(len(words), device=words.device)
        whole[:, 0], whole[texts, lengths + 1] = vectors[0], vectors[1]
        text, place = inside.nonzero(as_tuple=True)
        whole[text, place + 1] = vectors[2:]
        return whole


class SentenceEncoder(nn.Module):
    """Layers of a BiLSTM, which reads every text from both of its own ends."""

    def __init__(self, input_size: int, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, width // 2, num_layers=layers, batch_first=True, bidirectional=True)

    def forward(
        self, values: Float[Tensor, "texts length size"], lengths: Int64[Tensor, " texts"]
    ) -> Float[Tensor, "texts length width"]:
        """The last layer's outputs, forward and backward side by side; behind the ends zeros."""
        # Packed also where nothing is padded: oneDNN, which torch takes for plain tensors on a CPU, puts the weights
        # into another order in every call, and with texts as short as sentences that takes longer than the LSTM.
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=values.shape[1])
        return outputs
