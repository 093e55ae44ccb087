"""Beam search: the most probable sentences of a decoder that predicts one token after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vertebra.text import BEGIN, END, PAD

State = dict[str, Tensor]
"""What a decoder keeps between steps; the first dimension of every tensor is that of the hypotheses."""
Step = Callable[[Tensor, State], tuple[Tensor, Tensor, State]]
"""Last tokens [N] and the state to logits [N, V], attention weights over the source [N, S], and the next state."""


class Hypotheses(NamedTuple):
    """The best sentence for each source."""

    tokens: Tensor
    """[B, T] int64, filled with PAD; each ends with END unless it reached its greatest length."""
    scores: Tensor
    """[B] float32, what the search maximises."""


def beam_search(
    step: Step,
    state: State,
    mask: Tensor,
    *,
    beam: int,
    max_lengths: Tensor,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
) -> Hypotheses:
    """The sentences of the highest score among those that a beam of `beam` hypotheses reaches.

        score = log p / lp + cp        lp = ((5 + length) / 6)^alpha        cp = beta sum_s log(min(sum_t a_ts, 1))

    Args:
        step: of the decoder.
        state: for B sources, each repeated `beam` times: N = B * beam.
        mask: [B, S] bool, True = token of the source.
        beam: hypotheses per source; 1 is greedy search.
        max_lengths: [B] int, tokens of a sentence at most, END among them.
        length_penalty: alpha, 0 or more; 0 prefers short sentences.
        coverage_penalty: beta, 0 or more; prefers sentences that attend to the whole source.

    Source: GNMT, arXiv:1609.08144, section 7, equation 14; greedy search takes the most probable token at each step.
    """
    count, sources = len(mask), mask.repeat_interleave(beam, 0)
    device = mask.device
    first = torch.arange(count, device=device)[:, None] * beam  # of each source's hypotheses
    tokens = torch.full((count * beam, 1), BEGIN, device=device)
    log_probs = torch.full((count, beam), float("-inf"), device=device)
    log_probs[:, 0] = 0  # all hypotheses of a source are the same at first
    attended = torch.zeros(sources.shape, device=device)
    best = torch.full((count,), float("-inf"), device=device)
    best_tokens = torch.full((count, int(max_lengths.max())), PAD, device=device)
    done = torch.zeros(count, dtype=torch.bool, device=device)

    def score(values: Tensor, length: Tensor | int, weights: Tensor) -> Tensor:
        """Scores [B, K] of log probabilities [B, K] and attention [B, K, S]."""
        result = values / ((5 + length) / 6) ** length_penalty
        if coverage_penalty:
            covered = weights.clamp(1e-9, 1).log().masked_fill(~mask[:, None], 0).sum(-1)
            result = result + coverage_penalty * covered
        return result

    for length in range(1, best_tokens.shape[1] + 1):
        logits, weights, state = step(tokens[:, -1], state)
        logits[:, [PAD, BEGIN]] = float("-inf")
        candidates = log_probs[..., None] + logits.float().log_softmax(-1).unflatten(0, (count, beam))
        # At most one per hypothesis ends. A beam of 1 is greedy: it takes the most probable token, END or not.
        values, flat = candidates.flatten(1).topk(2 * beam if beam > 1 else 1, 1)
        parents, words = flat // candidates.shape[-1], flat % candidates.shape[-1]
        rows = first + parents
        attended = attended + weights.float()
        ends = words == END
        last = length == max_lengths
        finishing = ends | (last & best.isinf())[:, None]  # at its greatest length a sentence ends as it is
        scores = score(values, length, attended[rows]).masked_fill(~finishing | done[:, None], float("-inf"))
        top, place = scores.max(1)
        better = top > best
        if bool(better.any()):
            best = torch.where(better, top, best)
            row, word = (x.gather(1, place[:, None])[:, 0] for x in (rows, words))
            ended = torch.cat((tokens[row, 1:], word[:, None]), 1)
            best_tokens[better] = PAD
            best_tokens[better, :length] = ended[better]
        values, order = values.masked_fill(ends, float("-inf")).topk(beam, 1)
        done |= last | (ends[:, 0] if beam == 1 else _cannot_win(values[:, 0], best, max_lengths, length_penalty))
        if bool(done.all()):
            break
        log_probs = values
        rows, words = rows.gather(1, order).flatten(), words.gather(1, order).flatten()
        tokens = torch.cat((tokens[rows], words[:, None]), 1)
        if beam > 1:
            attended = attended[rows]
            state = {name: tensor[rows] for name, tensor in state.items()}
    used = int((best_tokens != PAD).sum(1).max())
    return Hypotheses(best_tokens[:, :used], best)


def _cannot_win(log_prob: Tensor, best: Tensor, max_lengths: Tensor, length_penalty: float) -> Tensor:
    """Whether no continuation of the most probable hypothesis [B] can exceed the best sentence: probabilities only
    fall, and the penalty is at most that of the greatest length."""
    return log_prob / ((5 + max_lengths) / 6) ** length_penalty <= best


def repeated(state: Mapping[str, Tensor], times: int) -> State:
    """Every row so many times, one after the other: [B, ...] -> [B * times, ...]."""
    return {name: tensor.repeat_interleave(times, 0) for name, tensor in state.items()}
