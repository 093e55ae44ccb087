"""Batches of several heads: which heads take part in a step, and that an epoch does not depend on the ones before."""

import itertools

import pytest
import torch

from vertebra.data.heads import HeadBatches, HeadSampler, InTurn
from vertebra.data.loader import Batch, BatchSampler
from vertebra.structures import Target


def sampler(shares, counts=(6, 10)):
    heads = {name: BatchSampler(count, 2, seed=3, training=True) for name, count in zip(shares, counts, strict=False)}
    return HeadSampler(heads, shares)


def test_a_head_takes_part_by_its_share_and_the_longest_decides_the_steps():
    batches = sampler({"a": 1.0, "b": 0.4})
    assert len(batches) == 3  # those of a: b takes no part in every step
    steps = [{name for name, _, _ in step} for epoch in range(4) for step in batches._epoch(epoch)]
    assert all("a" in step for step in steps)
    assert [i for i, step in enumerate(steps) if "b" in step] == [2, 4, 7, 9]
    assert len(sampler({"a": 1.0, "b": 1.0})) == 5


def test_a_later_epoch_is_what_comes_after_the_ones_before():
    batches = sampler({"a": 1.0, "b": 0.5})
    steps = list(itertools.islice(iter(batches), 4 * len(batches)))
    assert [*batches._epoch(2), *batches._epoch(3)] == steps[2 * len(batches) :]
    of_b = [(index, seed) for step in steps for name, index, seed in step if name == "b"]
    alone = itertools.chain.from_iterable(batches.heads["b"]._epoch(epoch) for epoch in range(2))
    assert of_b == [item for batch in itertools.islice(alone, 6) for item in batch]  # none left out, none twice


@pytest.mark.parametrize("share", [0.1, 0.3, 1 / 3, 0.7])
def test_shares_are_kept_over_many_steps(share):
    batches = sampler({"a": 1.0, "b": share})
    assert batches.batches_before("b", 3000) == pytest.approx(3000 * share, abs=1)
    assert batches.batches_before("a", 3000) == 3000


def test_validation_goes_through_the_heads_in_turn():
    batch = Batch(torch.zeros(1, 3, 4, 4), [Target()], ["x.png: damaged"], [], [0])
    turns = InTurn({"a": [batch, batch], "b": [batch]})
    assert len(turns) == 3
    assert [list(part.parts) for part in turns] == [["a"], ["a"], ["b"]]
    both = HeadBatches({"a": batch, "b": batch})
    assert len(both.targets) == 2
    assert both.unreadable == ["x.png: damaged"] * 2
    assert both.channels_last().parts["b"].images.is_contiguous(memory_format=torch.channels_last)
