"""Augmentation of single images and of batches, for classes of whole images."""

import pytest
import torch

from vertebra.data.augment.category import CategoryAugment, CategoryTransform, batch_transform, eased
from vertebra.data.geometry import Example
from vertebra.errors import VertebraError
from vertebra.images import prepare
from vertebra.structures import Masks, Preprocess, Target

PREPROCESS = Preprocess(size=(24, 32))
OFF = {"crop": 1.0, "flip": 0.0, "colour": 0.0}


def image() -> torch.Tensor:
    return torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(transform: CategoryTransform, source: torch.Tensor) -> torch.Tensor:
    return transform(Example(source, Target(label=torch.tensor(1))), pytest.fail)[0]


def test_nothing_is_done_when_all_is_off():
    result = augmented(CategoryTransform(CategoryAugment(**OFF), PREPROCESS), image())
    assert torch.equal(result, prepare(image(), PREPROCESS))


def test_the_target_keeps_what_holds_for_the_whole_image():
    """The steps move pixels alone, so boxes and the like would be wrong."""
    target = Target(
        label=torch.tensor(2),
        boxes=torch.tensor([[1.0, 2, 9, 9]]),
        labels=torch.tensor([0]),
        masks=Masks.from_dense(torch.ones(1, 40, 50, dtype=torch.bool)),
        keypoints=torch.ones(1, 1, 3),
        crowd=torch.tensor([False]),
        areas=torch.tensor([56.0]),
        semantic=torch.zeros(40, 50).long(),
        size=(40, 50),
        id=7,
        path="a.png",
    )
    _, moved = CategoryTransform(CategoryAugment(), PREPROCESS)(Example(image(), target), pytest.fail)
    assert moved == Target(label=target.label, size=(24, 32), id=7, path="a.png")
    assert target.size == (40, 50)


def test_policies_are_alternatives():
    with pytest.raises(VertebraError, match=r"augment.randaugment and augment.augmix are alternatives: choose one"):
        CategoryAugment(randaugment=9, augmix=3)


def test_augmentation_that_rises_from_stage_to_stage():
    """The magnitude from 5, mixup from 0, by equal steps; what is off stays so."""
    full = CategoryAugment(randaugment=15, mixup=0.2, erase=0.25)
    steps = [eased(full, share) for share in (0, 0.5, 1)]
    assert [step.randaugment for step in steps] == [5, 10, 15]
    assert [step.mixup for step in steps] == pytest.approx([0, 0.1, 0.2])
    assert {step.erase for step in steps} == {0.25}
    assert eased(CategoryAugment(), 0) == CategoryAugment()
    assert eased(CategoryAugment(randaugment=3), 0).randaugment == 3


@pytest.mark.parametrize(("option", "axis"), [("flip", 2), ("flip_vertical", 1)])
def test_flips(option, axis):
    square = Preprocess(size=(24, 24))
    whole = prepare(image()[..., :40], square)
    result = augmented(CategoryTransform(CategoryAugment(**{**OFF, option: 1.0}), square), image()[..., :40])
    assert torch.allclose(result, whole.flip(axis), atol=0.05)
    assert not torch.allclose(result, whole, atol=0.05)


@pytest.mark.parametrize(
    "option",
    [
        *({"crop": 0.35}, {"rotate": 30.0}, {"colour": 0.4}, {"erase": 1.0}, {"flip": 0.5}),
        *({"randaugment": 9}, {"trivialaugment": True}, {"augmix": 3}),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_option_changes_the_image_and_keeps_its_shape(option, channels):
    preprocess = PREPROCESS if channels == 3 else Preprocess(size=(24, 32), mean=(0.4,), std=(0.2,))
    transform = CategoryTransform(CategoryAugment(**{**OFF, **option}), preprocess)
    source = image()[:channels]
    plain = prepare(source, preprocess)
    results = []
    for seed in range(6):
        torch.manual_seed(seed)
        results.append(augmented(transform, source))
        assert results[-1].shape == (channels, 24, 32)
        assert results[-1].dtype == torch.float32
    assert any(not torch.equal(result, plain) for result in results)
    torch.manual_seed(5)
    assert torch.equal(augmented(transform, source), results[-1])  # torch's generator decides alone


def test_no_mixing():
    assert batch_transform(CategoryAugment(), 3) is None


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}], ids=str)
def test_mixed_labels_sum_to_one(options):
    mix = batch_transform(CategoryAugment(**options), 5)
    targets = [Target(label=torch.tensor(label), path=str(label)) for label in range(4)]
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)  # each image shows its label
    torch.manual_seed(0)
    soft = 0
    for _ in range(10):
        mixed, mixed_targets = mix(images, targets)
        assert [target.path for target in mixed_targets] == ["0", "1", "2", "3"]
        shares = torch.stack([target.label for target in mixed_targets])
        assert shares.shape == (4, 5)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert (shares >= 0).all()
        assert (shares[:, 4] == 0).all()
        # Both blend linearly, over values or over area, so the mean is the labels' mean.
        assert torch.allclose(mixed.mean((1, 2, 3)), shares @ torch.arange(5.0), atol=1e-5)
        soft += int((shares.max(1).values < 1).any())
    assert soft > 0
