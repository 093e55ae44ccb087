"""The recurrent encoder-decoder with attention: every step looks back at the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vertebra.attention import Attention, LocalMonotonicAttention, LocalPredictiveAttention, scores
from vertebra.errors import in_range
from vertebra.nn.recurrent import Bidirectional
from vertebra.ops.beam_search import State
from vertebra.structures import Preprocess
from vertebra.tasks import translator
from vertebra.tasks.translator import Translator, TranslatorConfig, embedding

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
LOCATIONS = 128
"""Source tokens that the score `location` knows; those after them get no attention."""
SCORES: dict[str, Callable[[int], nn.Module]] = {
    "additive": lambda width: scores.Additive(width, width, width),
    "dot": lambda width: scores.Dot(),
    "scaled_dot": lambda width: scores.ScaledDot(),
    "bilinear": lambda width: scores.Bilinear(width, width),
    "concat": lambda width: scores.Concat(width, width, width),
    "cosine": lambda width: scores.Cosine(10.0, learned=True),
    "gaussian": lambda width: scores.Gaussian(width**0.5, learned=True),
    "location": lambda width: scores.Location(width, LOCATIONS),
}


@dataclass(frozen=True)
class Config(TranslatorConfig):
    """The model, its training loss and its search."""

    width: int = 256
    """Channels of the embeddings and of the decoder's state."""
    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell of encoder and decoder."""
    depth: int = 1
    """Layers of the encoder, each in both directions, and of the decoder."""
    score: Literal["additive", "dot", "scaled_dot", "bilinear", "concat", "cosine", "gaussian", "location"] = "additive"
    """How well the decoder's state and a source token match; `additive` is Bahdanau's, `dot`, `bilinear` (general),
    `concat` and `location` are Luong's."""
    window: Literal["global", "local_monotonic", "local_predictive"] = "global"
    """Source tokens that a step can attend to: all, or those near its own position or near a predicted one."""
    half_window: int = 10
    """Source tokens on either side of the centre of a local window."""
    input_feeding: bool = True
    """Whether a step is given the attentional state of the one before; without it training is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("width", self.width, 1, 65536)
        in_range("depth", self.depth, 1, 64)
        in_range("half_window", self.half_window, 1, 10_000)


class Recurrent(Translator):
    """Source ids [B, S] -> memory [B, S, width] and the source ids.

        s_t = cell(s_{t-1}, [y_{t-1}; h_{t-1}])    c_t = attention(s_t, memory)    h_t = tanh(W [c_t; s_t])

    y: embedded tokens; h: attentional states, from which the logits are computed.

    Sources: arXiv:1409.0473 for the encoder and the additive score; arXiv:1508.04025, equations 5 and 6 and section
    3.3, for the decoder.
    """

    def __init__(self, config: Config, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__(config, classes, preprocess)
        width, cell = config.width, CELLS[config.cell]
        self.source_embedding = embedding(len(self.source), width)
        self.target_embedding = embedding(len(self.target), width)
        self.encoder = nn.ModuleList(
            Bidirectional(width if i == 0 else 2 * width, width, cell) for i in range(config.depth)
        )
        self.bridge = nn.Linear(2 * width, width)
        self.initial = nn.Linear(width, config.depth * width)
        feed = width if config.input_feeding else 0
        self.decoder = cell(width + feed, width, config.depth, batch_first=True)
        score = SCORES[config.score](width)
        if config.window == "global":
            self.attention: Attention = Attention(score)
        elif config.window == "local_monotonic":
            self.attention = LocalMonotonicAttention(score, config.half_window)
        else:
            self.attention = LocalPredictiveAttention(score, width, config.half_window)
        self.combine = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, len(self.target))
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(self.source_embedding(source))
        for layer in self.encoder:
            x = self.dropout(layer(x, mask))
        memory: Tensor = self.bridge(x)
        return memory

    def start(self, memory: Tensor, mask: Tensor) -> tuple[State, State]:
        """Hidden states [B, depth, width] from the mean of the memory."""
        mean = (memory * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        hidden = self.initial(mean).tanh().unflatten(-1, (self.config.depth, -1))
        state = {"hidden": hidden, "place": torch.zeros(len(mask), dtype=torch.int64, device=mask.device)}
        if self.config.cell == "lstm":
            state["cell"] = torch.zeros_like(hidden)
        if self.config.input_feeding:
            state["attentional"] = torch.zeros_like(mean)
        return state, {"memory": memory, "mask": mask}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        attentional, weights, state = self._step(self.target_embedding(tokens), state, context)
        return self.head(attentional), weights, state

    def _step(self, x: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, State]:
        """Embedded tokens [N, width] to the attentional state [N, width] and the weights [N, S]."""
        if self.config.input_feeding:
            x = torch.cat((x, state["attentional"]), -1)
        outputs, recurrent = self._recur(x[:, None], state)
        weights = self._weights(outputs, context["memory"], context["mask"], int(state["place"][0]))
        attentional = self._attentional(outputs, weights, context["memory"])[:, 0]
        after = {**state, **recurrent, "place": state["place"] + 1}
        if self.config.input_feeding:
            after["attentional"] = attentional
        return attentional, weights[:, 0], after

    def _recur(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Inputs [N, T, C] to the decoder's states [N, T, width], and its last ones by layer."""
        hidden = state["hidden"].transpose(0, 1).contiguous()
        if self.config.cell == "lstm":
            outputs, (hidden, cell) = self.decoder(x, (hidden, state["cell"].transpose(0, 1).contiguous()))
            return outputs, {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}
        outputs, hidden = self.decoder(x, hidden)
        return outputs, {"hidden": hidden.transpose(0, 1)}

    def _weights(self, states: Tensor, memory: Tensor, mask: Tensor, start: int = 0) -> Tensor:
        """Of the decoder's states [N, T, width], the first at position `start`: [N, T, S]."""
        if isinstance(self.attention, LocalMonotonicAttention):
            return self.attention.weights(states, memory, mask[:, None], start)
        return self.attention.weights(states, memory, mask[:, None])

    def _attentional(self, states: Tensor, weights: Tensor, memory: Tensor) -> Tensor:
        combined: Tensor = self.dropout(self.combine(torch.cat((weights @ memory, states), -1)).tanh())
        return combined

    def _run(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attentional states [B, T, width] and weights [B, T, S] for given tokens."""
        x = self.dropout(self.target_embedding(tokens))
        state, context = self.start(memory, mask)
        if not self.config.input_feeding:
            states, _ = self._recur(x, state)
            weights = self._weights(states, memory, mask)
            return self._attentional(states, weights, memory), weights
        steps = []
        for i in range(tokens.shape[1]):
            attentional, weights, state = self._step(x[:, i], state, context)
            steps.append((attentional, weights))
        return torch.stack([a for a, _ in steps], 1), torch.stack([w for _, w in steps], 1)

    def teacher_forced(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self._run(memory, mask, tokens)[0])
        return logits

    def align(self, memory: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        return self._run(memory, mask, tokens)[1][:, None, None]


MODEL = Recurrent
RECIPE = {**translator.RECIPE, "lr": 0.002}
SOURCES: dict[str, Any] = {}
