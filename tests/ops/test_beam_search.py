"""Beam search over a decoder whose probabilities are written down."""

import itertools
import math

import pytest
import torch

from vertebra.ops.beam_search import beam_search, repeated
from vertebra.text import BEGIN, END, PAD, UNKNOWN

A, B = 4, 5
TABLE = {  # after the last token, the probabilities of A, B and the end
    BEGIN: (0.6, 0.4, 0.0),
    A: (0.3, 0.3, 0.4),
    B: (0.0, 0.1, 0.9),
    PAD: (1, 0, 0),
    UNKNOWN: (1, 0, 0),
    END: (1, 0, 0),
}


def step(tokens, state):
    rows = [(1e-30, 1e-30, 1e-30, TABLE[int(t)][2], TABLE[int(t)][0], TABLE[int(t)][1]) for t in tokens]
    weights = torch.zeros(len(tokens), 2)
    weights[:, 0] = 0.5  # the first source token alone is looked at
    return torch.tensor(rows).clamp(min=1e-30).log(), weights, {"count": state["count"] + 1}


def search(beam, sources=1, limit=6, **options):
    mask = torch.ones(sources, 2, dtype=torch.bool)
    state = repeated({"count": torch.zeros(sources)}, beam)
    return beam_search(step, state, mask, beam=beam, max_lengths=torch.full((sources,), limit), **options)


def probability(sentence):
    pairs = itertools.pairwise([BEGIN, *sentence])
    return math.prod(TABLE[a][(A, B, END).index(b)] for a, b in pairs)


def test_greedy_takes_the_most_probable_token_at_each_step():
    found = search(1, sources=3)
    assert found.tokens.tolist() == [[A, END]] * 3  # 0.6 * 0.4
    assert found.scores.exp().tolist() == pytest.approx([0.24] * 3)


def test_greedy_does_not_end_where_another_token_is_more_probable(monkeypatch):
    monkeypatch.setitem(TABLE, BEGIN, (0.55, 0.0, 0.45))
    monkeypatch.setitem(TABLE, A, (0.0, 0.55, 0.45))
    assert search(1).tokens.tolist() == [[A, B, END]]


def test_a_beam_finds_the_most_probable_sentence():
    found = search(2)
    sentences = [(*s, END) for n in range(4) for s in itertools.product((A, B), repeat=n) if n]
    best = max(sentences, key=probability)
    assert best == (B, END)
    assert found.tokens.tolist() == [list(best)]
    assert found.scores.exp().item() == pytest.approx(0.36)  # 0.4 * 0.9


def test_the_length_penalty_prefers_long_sentences():
    """Divided by ((5 + length) / 6) ** 8, A B END (0.6 * 0.3 * 0.9 = 0.162) wins over B END (0.36)."""
    short, long = (math.log(p) / ((5 + n) / 6) ** 8 for p, n in ((0.36, 2), (0.162, 3)))
    assert long > short
    found = search(3, length_penalty=8.0, limit=3)
    assert found.tokens.tolist() == [[A, B, END]]
    assert found.scores.item() == pytest.approx(long, rel=1e-5)


def test_the_coverage_penalty():
    """B END looks twice at the first token by 0.5 each, and never at the second."""
    found = search(2, coverage_penalty=0.1)
    assert found.scores.item() == pytest.approx(math.log(0.36) + 0.1 * (math.log(1) + math.log(1e-9)), rel=1e-5)


def test_a_sentence_ends_at_its_greatest_length():
    found = search(1, limit=1)
    assert found.tokens.tolist() == [[A]]


def test_sources_of_other_lengths_do_not_matter():
    mask = torch.ones(2, 2, dtype=torch.bool)
    state = repeated({"count": torch.zeros(2)}, 2)
    found = beam_search(step, state, mask, beam=2, max_lengths=torch.tensor([1, 6]))
    assert found.tokens.tolist() == [[A, PAD], [B, END]]


@pytest.mark.parametrize("beam", [9, 12])
def test_what_a_decoder_keeps_follows_its_hypothesis(beam):
    """Probabilities depend on the last two tokens, of which the state keeps one; a beam that holds all hypotheses
    finds what enumeration finds, for each of 20 sources."""
    torch.manual_seed(0)
    tables = (4 * torch.randn(20, 6, 6, 6)).softmax(-1)  # source, token before, last token, next token
    tables[..., [PAD, UNKNOWN, BEGIN]] = 1e-30
    tables[:, [PAD, BEGIN], :, END] *= 1e-3  # so that the best has two tokens or more

    def step(tokens, state):
        logits = tables[state["source"], state["before"], tokens].log()
        return logits, torch.ones(len(tokens), 1), {"source": state["source"], "before": tokens}

    state = repeated({"source": torch.arange(20), "before": torch.full((20,), PAD)}, beam)
    mask = torch.ones(20, 1, dtype=torch.bool)
    searched = beam_search(step, state, mask, beam=beam, max_lengths=torch.full((20,), 3))
    for i, table in enumerate(tables):
        sentences = ((*s, END) for n in range(3) for s in itertools.product((A, B), repeat=n))
        best = max(sentences, key=lambda sentence, table=table: probability_of(table, sentence))
        assert [t for t in searched.tokens[i].tolist() if t != PAD] == list(best)


def probability_of(table, sentence):
    table = table / table.sum(-1, keepdim=True)
    triples = zip([PAD, BEGIN, *sentence], [BEGIN, *sentence], sentence, strict=False)
    return math.prod(float(table[triple]) for triple in triples)
