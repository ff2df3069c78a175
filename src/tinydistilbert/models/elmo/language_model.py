"""ELMo's bidirectional language model (Peters et al. 2018, arXiv 1802.05365): characters to words to two LSTM layers.

As in AllenNLP, with one difference: no state is carried over from one batch to the next, so that the output for a text
depends only on that text.
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

    The first group describes the language model (Peters et al. 2018, the file `elmo_2x4096_512_2048cnn_2xhighway`), the
    second the task model of the GLUE baseline (Wang et al. 2018, and its released code).
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
    """Whether fine-tuning leaves the language model as it is; the weights of its mixture are always trained."""
    hidden_size: int = 3000
    """Width of the BiLSTM over the mixture, both directions together."""
    sentence_layers: int = 2
    pair_attention: bool = True
    """Whether the words of a text attend to the words of the other text."""
    attention_size: int = 0
    """Width of a BiLSTM over the attention's output, both directions together; 0 = none. The released code has 3000."""
    classifier_size: int = 512
    dropout: float = 0.2
    type_vocab_size: int = 2
    pad_token_id: int = 0


def reversed_texts(values: Float[Tensor, "texts length width"], lengths: Int64[Tensor, " texts"]) -> Tensor:
    """Return each text from its end to its beginning; padding after the end is not moved."""
    positions = torch.arange(values.shape[1], device=values.device).expand(values.shape[:2])
    mirrored = torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)
    return values.gather(1, mirrored[..., None].expand_as(values))


class CharacterEncoder(nn.Module):
    """Words from their characters: convolutions of several widths, the maximum over positions, highway layers."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        width = sum(count for _, count in config.filters)
        self.widest = max(width for width, _ in config.filters)
        self.embedding = nn.Embedding(config.vocab_size, config.character_size)
        self.convolutions = nn.ModuleList(nn.Conv1d(config.character_size, n, size) for size, n in config.filters)
        self.highways = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(config.num_highway_layers))
        self.projection = nn.Linear(width, config.projection_size)

    def forward(self, words: Int64[Tensor, "words characters"]) -> Float[Tensor, "words width"]:
        """Return the vector of each word, without its context."""
        # Filters also read the filling. After the longest word one window of filling for each width is enough: further
        # windows have the same value, which changes no maximum.
        longest = int((words != FILLING).sum(-1).max())
        characters = self.embedding(words[:, : longest + self.widest]).transpose(1, 2)
        features = torch.cat([convolution(characters).amax(-1) for convolution in self.convolutions], dim=-1).relu()
        for highway in self.highways:
            transformed, gate = highway(features).chunk(2, dim=-1)
            features = torch.lerp(features, transformed.relu(), gate.sigmoid())
        projected: Tensor = self.projection(features)
        return projected


class ProjectedLstm(nn.Module):
    """One direction of one layer: an LSTM whose output is projected to fewer dimensions, cell and output clipped.

    Torch's LSTM can project but not clip. The rows of the gates are in the order input, forget, cell, output.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.projection_size, 4 * config.cell_size)
        self.recurrent = nn.Linear(config.projection_size, 4 * config.cell_size, bias=False)
        self.projection = nn.Linear(config.cell_size, config.projection_size, bias=False)
        self.cell_clip, self.projection_clip = config.cell_clip, config.projection_clip

    def forward(self, inputs: Float[Tensor, "texts length width"]) -> Float[Tensor, "texts length width"]:
        """Return the outputs of all positions; padding after the end of a text changes no output before it."""
        state = inputs.new_zeros(len(inputs), self.recurrent.in_features)
        cell = inputs.new_zeros(len(inputs), self.projection.in_features)
        outputs = []
        weight = self.recurrent.weight.T
        for projected_input in self.input(inputs).unbind(1):
            gates = torch.addmm(projected_input, state, weight).chunk(4, dim=-1)
            input_gate, forget_gate, candidate, output_gate = gates
            cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
            cell = cell.clamp(-self.cell_clip, self.cell_clip)
            state = self.projection(output_gate.sigmoid() * cell.tanh())
            state = state.clamp(-self.projection_clip, self.projection_clip)
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
        """Return the words and the outputs of each layer, forward and backward concatenated; meaningless at padding.

        Args:
            words: character ids.
            lengths: words of each text, at least one.
        """
        ahead = self._with_boundaries(words, lengths)
        back = reversed_texts(ahead, lengths + 2)
        layers = [torch.cat([ahead, ahead], dim=-1)]
        for number, (forward, backward) in enumerate(zip(self.forward_layers, self.backward_layers, strict=True)):
            outputs = forward(ahead), backward(back)
            ahead, back = outputs if number == 0 else (outputs[0] + ahead, outputs[1] + back)
            layers.append(torch.cat([ahead, reversed_texts(back, lengths + 2)], dim=-1))
        return [layer[:, 1:-1] for layer in layers]

    def _with_boundaries(
        self, words: Int64[Tensor, "texts length characters"], lengths: Int64[Tensor, " texts"]
    ) -> Float[Tensor, "texts longer width"]:
        """Return the vectors of `<S>`, of the words and of `</S>`; then zeros."""
        marks = np.stack([spelled([mark]) for mark in (BEGIN_OF_SENTENCE, END_OF_SENTENCE)])
        is_word = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        vectors = self.words(torch.cat([torch.from_numpy(marks).to(words), words[is_word]]))
        bounded: Tensor = vectors.new_zeros(len(words), words.shape[1] + 2, vectors.shape[-1])
        texts = torch.arange(len(words), device=words.device)
        bounded[:, 0], bounded[texts, lengths + 1] = vectors[0], vectors[1]
        text, position = is_word.nonzero(as_tuple=True)
        bounded[text, position + 1] = vectors[2:]
        return bounded


class SentenceEncoder(nn.Module):
    """A BiLSTM of several layers, whose backward direction starts at the last word of each text."""

    def __init__(self, input_size: int, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, width // 2, num_layers=layers, batch_first=True, bidirectional=True)

    def forward(
        self, values: Float[Tensor, "texts length size"], lengths: Int64[Tensor, " texts"]
    ) -> Float[Tensor, "texts length width"]:
        """Return the last layer's outputs, forward and backward concatenated; zeros at padding."""
        # Packed even without padding: for plain tensors on a CPU torch uses oneDNN, which reorders the weights in every
        # call. For texts as short as sentences that takes longer than the LSTM itself.
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=values.shape[1])
        return outputs
