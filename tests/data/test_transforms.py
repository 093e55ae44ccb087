"""Augmentation of pictures and of batches."""

import pytest
import torch

from vertebra import pictures
from vertebra.data.transforms import Augment, TrainTransform, batch_transform
from vertebra.structures import Preprocess

PREPROCESS = Preprocess(size=(24, 32))
OFF = {"crop": 1.0, "flip": 0.0, "colour": 0.0}


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nothing_is_done_when_all_is_off():
    found = TrainTransform(Augment(**OFF), PREPROCESS)(picture())
    assert torch.equal(found, pictures.prepare(picture(), PREPROCESS))


@pytest.mark.parametrize(("option", "axis"), [("flip", 2), ("flip_vertical", 1)])
def test_flips(option, axis):
    square = Preprocess(size=(24, 24))
    whole = pictures.prepare(picture()[..., :40], square)
    found = TrainTransform(Augment(**{**OFF, option: 1.0}), square)(picture()[..., :40])
    assert torch.allclose(found, whole.flip(axis), atol=0.05)
    assert not torch.allclose(found, whole, atol=0.05)


@pytest.mark.parametrize(
    "option",
    [{"crop": 0.35}, {"rotate": 30.0}, {"colour": 0.4}, {"randaugment": 9}, {"erase": 1.0}, {"flip": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_option_changes_the_picture_and_keeps_its_form(option, channels):
    preprocess = PREPROCESS if channels == 3 else Preprocess(size=(24, 32), mean=(0.4,), std=(0.2,))
    transform = TrainTransform(Augment(**{**OFF, **option}), preprocess)
    source = picture()[:channels]
    plain = pictures.prepare(source, preprocess)
    found = []
    for seed in range(6):
        torch.manual_seed(seed)
        found.append(transform(source))
        assert found[-1].shape == (channels, 24, 32)
        assert found[-1].dtype == torch.float32
    assert any(not torch.equal(image, plain) for image in found)
    torch.manual_seed(5)
    assert torch.equal(transform(source), found[-1])  # torch's generator decides alone


def test_no_mixing():
    assert batch_transform(Augment(), 3) is None


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}], ids=str)
def test_mixed_labels_sum_to_one(options):
    mix = batch_transform(Augment(**options), 5)
    labels = torch.tensor([0, 1, 2, 3])
    images = labels.float().reshape(4, 1, 1, 1).expand(4, 3, 8, 8)  # each picture shows its own label
    torch.manual_seed(0)
    soft = 0
    for _ in range(10):
        mixed, shares = mix(images, labels)
        assert shares.shape == (4, 5)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert (shares >= 0).all()
        assert (shares[:, 4] == 0).all()
        # Both blend linearly, over values or over area, so the mean is the labels' mean.
        assert torch.allclose(mixed.mean((1, 2, 3)), shares @ torch.arange(5.0), atol=1e-5)
        soft += int((shares.max(1).values < 1).any())
    assert soft > 0
