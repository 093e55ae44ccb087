"""Segmenters: their options."""

import pytest
import torch

from vertebra import tasks
from vertebra.errors import VertebraError


def test_semantic_fpn_without_convolutions_of_the_pyramids_sums():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in tasks.create("semantic", method="semantic_fpn", classes=3, **options).parameters())
            for options in ({}, {"neck_output": False})
        ]
    assert sizes[0] - sizes[1] == 4 * (256 * 256 * 9 + 256)


def test_semantic_fpn_over_a_map_of_one_scale_has_no_fpn():
    with torch.device("meta"), pytest.raises(VertebraError, match="vit_tiny_16 has maps of one scale, and no FPN"):
        tasks.create("semantic", method="semantic_fpn", backbone="vit_tiny_16", classes=3, neck_output=False)
