"""Necks, on every backbone that needs one."""

import pytest
import torch

from vertebra import backbones, ledger
from vertebra.errors import VertebraError
from vertebra.necks import FPN, HRFPN, ExtraLevels, SimplePyramid
from vertebra.structures import Level

PLAIN = [entry.name for entry in ledger.entries() if len(entry.levels) <= 2]
"""Backbones of one scale, or of two; that the ledger has every backbone's levels is tested with the backbones."""


@pytest.mark.parametrize("name", PLAIN)
def test_every_plain_backbone_gets_a_pyramid(name):
    shallow = {"depth": 2} if hasattr(backbones.family(name).VARIANTS[name], "depth") else {}
    with torch.device("meta"):
        backbone = backbones.create(name, **shallow)
        neck = SimplePyramid(backbone.levels, 16)
        side = backbone.config.image_size[0]
        maps = neck(backbone(torch.empty(1, 3, side, side)))
    assert [level.stride for level in neck.levels] == (
        [7, 14, 28, 56] if backbone.levels[-1].stride == 14 else [4, 8, 16, 32]
    )
    for level, feature in zip(neck.levels, maps, strict=True):
        assert list(feature.shape) == [1, 16, -(-side // level.stride), -(-side // level.stride)]


def test_the_families_of_one_scale_are_plain():
    families = {backbones.family(name).__name__.rpartition(".")[2] for name in PLAIN}
    assert families == {"vit", "mixer", "resmlp", "gmlp", "vip", "s2mlp"}


def test_the_pyramid_trains():
    torch.manual_seed(0)
    neck = SimplePyramid([Level(16, 8)], 4)
    maps = neck([torch.randn(2, 8, 5, 4)])
    assert [tuple(x.shape[2:]) for x in maps] == [(20, 16), (10, 8), (5, 4), (3, 2)]
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_a_stride_without_a_pyramid_is_refused():
    with pytest.raises(VertebraError, match="stride 3 makes no pyramid"):
        SimplePyramid([Level(3, 8)])


def test_hrnets_pyramid_by_hand():
    """Maps of ones: the finest takes the sum of the 1x1's weights, and pooling a constant leaves it.

    What does not fill a cell is dropped, as the authors have it.
    """
    levels = [Level(4, 1), Level(8, 2)]
    neck = HRFPN(levels, channels=1, count=3)
    for conv in (neck.reduction, *neck.convs):
        torch.nn.init.zeros_(conv.bias)
    torch.nn.init.ones_(neck.reduction.weight)
    for conv in neck.convs:
        torch.nn.init.dirac_(conv.weight)
    with torch.no_grad():
        maps = neck([torch.ones(1, 1, 8, 6), torch.ones(1, 2, 4, 3)])
    assert [tuple(x.shape) for x in maps] == [(1, 1, 8, 6), (1, 1, 4, 3), (1, 1, 2, 1)]
    assert [level.stride for level in neck.levels] == [4, 8, 16]
    for x in maps:
        torch.testing.assert_close(x, torch.full_like(x, 3.0))


def test_the_pyramid_of_chosen_levels_by_hand():
    """Of three maps the outer two: every cell gets its own value and that of the cell above it, four times as large."""
    levels = [Level(4, 1), Level(8, 1), Level(16, 1)]
    neck = FPN(levels, 1, strides=(4, 16))
    for conv in (*neck.lateral, *neck.output):
        torch.nn.init.dirac_(conv.conv.weight)
        torch.nn.init.zeros_(conv.conv.bias)
    fine, coarse = torch.arange(64.0).view(1, 1, 8, 8), torch.tensor([[100.0, 200], [300, 400]])[None, None]
    with torch.no_grad():
        first, last = neck([fine, torch.full((1, 1, 4, 4), 1e9), coarse])
    assert torch.equal(last, coarse)
    assert torch.equal(first, fine + coarse.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert [level.stride for level in neck.levels] == [4, 16]
    with pytest.raises(VertebraError, match=r"no map of stride 32; its strides are \[4, 8, 16\]"):
        FPN(levels, 1)


def test_hrfpn_passes_over_finer_maps_than_it_was_made_for():
    maps = [torch.randn(1, channels, 32 // 2**i, 32 // 2**i) for i, channels in enumerate((1, 2, 3))]
    neck = HRFPN([Level(4, 2), Level(8, 3)], channels=1, count=2)
    for one, other in zip(neck(maps), neck(maps[1:]), strict=True):
        assert torch.equal(one, other)


def test_fpn_without_convolutions_of_its_sums():
    """Lateral weights of one: the finer map is its input plus the coarser one, repeated."""
    neck = FPN([Level(4, 1), Level(8, 1)], 1, (4, 8), output=False)
    for layer in neck.lateral:
        torch.nn.init.ones_(layer.conv.weight)
    fine, coarse = neck([torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([[[[10.0]]]])])
    assert fine.tolist() == [[[[11, 12], [13, 14]]]]
    assert coarse.tolist() == [[[[10]]]]


class Extended(torch.nn.Module):
    """A map of the images' size, two of twice the stride each on top of it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.extra = ExtraLevels([Level(32, 4)], 2)
        self.head = torch.nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images):
        return [self.head(x) for x in self.extra([self.conv(images)])]


def test_subsampled_maps_are_exported_for_every_size():
    """Sides that subsampling halves, as those of the traced maps, and sides that it rounds up."""
    model = Extended().eval().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, 20, 16).contiguous(memory_format=torch.channels_last)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (images,), dynamic_shapes=({2: dynamic, 3: dynamic},), strict=False).module()
    for size in ((20, 16), (25, 33), (14, 27)):
        images = torch.randn(1, 3, *size)
        maps = model(images)
        assert [tuple(x.shape[2:]) for x in maps] == [size, *(tuple(-(-s // n) for s in size) for n in (2, 4))]
        assert all(torch.equal(a, b) for a, b in zip(program(images), maps, strict=True))
