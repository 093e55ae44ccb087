"""Batches: the same on every run, for any number of workers, and despite unreadable images."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds
from vertebra.data.augment.category import CategoryAugment, batch_transform
from vertebra.data.catalogue import Sample
from vertebra.data.inputs import ImageInputs
from vertebra.data.loader import Batch, BatchSampler, Collate, ImageDataset, Item, counted_seed, loader
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess, Target

PREPROCESS = Preprocess(size=(16, 16))
KIND = kinds.find("category")


def samples(count: int = 10) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    return [
        Sample(
            torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=generator), Target(label=torch.tensor(i))
        )
        for i in range(count)
    ]


def on_disk(folder: Path, count: int, unreadable: tuple[int, ...] = ()) -> list[Sample]:
    """Samples of files, the label is the number; the unreadable ones are empty."""
    random = np.random.default_rng(0)
    result = []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
        if i in unreadable:
            path.write_bytes(b"")
        result.append(Sample(path, Target(label=torch.tensor(i), path=str(path))))
    return result


def training(data: list[Sample], **options):
    options = {"batch_size": 4, "workers": 0, "augment": CategoryAugment(), **options}
    return loader(data, PREPROCESS, KIND, num_classes=len(data), **options)


def epoch(batches) -> list[Batch]:
    return list(batches)


def labels(batches: list[Batch]) -> list[int]:
    return [int(target.label) for batch in batches for target in batch.targets]


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return labels(first) == labels(second) and all(torch.equal(a.images, b.images) for a, b in pairs)


# -- training


def test_the_workers_change_nothing():
    alone, together = training(samples()), training(samples(), workers=2)
    for _ in range(3):
        assert same(epoch(alone), epoch(together))


def test_mixing_does_not_depend_on_the_workers():
    augment = CategoryAugment(mixup=0.2, cutmix=1.0)
    alone, together = (training(samples(), workers=workers, augment=augment) for workers in (0, 1))
    for a, b in zip(epoch(alone), epoch(together), strict=True):
        assert torch.equal(a.images, b.images)
        for x, y in zip(a.targets, b.targets, strict=True):
            assert torch.equal(x.label, y.label)
            assert float(x.label.sum()) == pytest.approx(1)


def test_a_run_is_repeated_by_its_seed():
    assert same(epoch(training(samples())), epoch(training(samples())))
    assert not same(epoch(training(samples())), epoch(training(samples(), seed=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_end_when_closed(workers):
    batches = training(samples(), workers=workers)
    first = epoch(batches)
    iterator = batches.loader._iterator
    processes = iterator._workers if workers else []
    assert all(process.is_alive() for process in processes)
    batches.close()
    assert not any(process.is_alive() for process in processes)
    batches.set_epoch(0)
    assert same(epoch(batches), first)  # it can be opened again


def test_workers_end_at_once_with_the_loader():
    """A cycle of references would leave them to the garbage collector, which keeps them for seconds."""
    batches = training(samples(), workers=1)
    epoch(batches)
    (process,) = batches.loader._iterator._workers
    gc.disable()
    try:
        del batches
        assert not process.is_alive()
    finally:
        gc.enable()


def test_epochs_differ():
    batches = training(samples(), batch_size=10)
    first, second = epoch(batches), epoch(batches)
    assert labels(first) != labels(second)
    assert sorted(labels(first)) == sorted(labels(second)) == list(range(10))
    a, b = (batches[0].images[labels(batches).index(3)] for batches in (first, second))
    assert not torch.equal(a, b)  # the same image, augmented anew


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_is_the_one_that_would_have_come(workers):
    going_on = training(samples(), workers=workers)
    epochs = [epoch(going_on) for _ in range(3)]
    resumed = training(samples(), workers=workers)
    resumed.sampler.set_epoch(2)
    assert same(epoch(resumed), epochs[2])
    again = training(samples(), workers=workers)
    again.set_epoch(1)
    assert same(epoch(again), epochs[1])
    assert same(epoch(again), epochs[2])  # and on from there


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_was_broken_off_begins_again(workers):
    going_on = training(samples(), workers=workers)
    first, second = epoch(going_on), epoch(going_on)
    batches = training(samples(), workers=workers)
    for expected in (first, second):
        part = iter(batches)
        next(part)
        part.close()
        assert same(epoch(batches), expected)


def test_a_last_batch_that_is_not_full_is_left_out():
    assert [len(batch.targets) for batch in epoch(training(samples(10)))] == [4, 4]
    assert len(training(samples(10))) == 2
    assert [len(batch.targets) for batch in epoch(training(samples(3)))] == [3]  # unless there is no other


def test_an_unreadable_image_is_replaced_in_training(tmp_path):
    data = on_disk(tmp_path, 8, unreadable=(2, 3))
    batches = epoch(training(data))
    assert [len(batch.targets) for batch in batches] == [4, 4]
    assert sorted(labels(batches)) == [0, 1, 4, 4, 4, 5, 6, 7]  # the next readable one
    sentences = {sentence for batch in batches for sentence in batch.unreadable}
    assert sentences == {f"{tmp_path / f'{i}.png'}: the file is empty (0 bytes)." for i in (2, 3)}


def test_the_last_image_is_replaced_by_the_first(tmp_path):
    assert sorted(labels(epoch(training(on_disk(tmp_path, 4, unreadable=(3,)))))) == [0, 0, 1, 2]


def test_an_image_that_vanishes_is_replaced_in_training(tmp_path):
    data = on_disk(tmp_path, 4)
    (tmp_path / "1.png").unlink()
    (batch,) = epoch(training(data, workers=1))
    assert len(batch.targets) == 4
    assert batch.unreadable == [f"{tmp_path / '1.png'}: there is no such file."]


def test_nothing_but_unreadable_images(tmp_path):
    (batch,) = epoch(training(on_disk(tmp_path, 4, unreadable=(0, 1, 2, 3))))
    assert batch.targets == []
    assert len(set(batch.unreadable)) == 4


# -- evaluation


def test_evaluation_goes_through_all_in_order():
    batches = loader(samples(10), PREPROCESS, KIND, num_classes=10, batch_size=4, workers=0)
    assert len(batches) == 3
    for _ in range(2):
        passed = epoch(batches)
        assert labels(passed) == list(range(10))
        assert [batch.indices for batch in passed] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [len(batch.images) for batch in passed] == [4, 4, 2]


def test_evaluation_does_not_depend_on_the_workers():
    alone, together = (
        epoch(loader(samples(10), PREPROCESS, KIND, num_classes=10, batch_size=4, workers=workers))
        for workers in (0, 2)
    )
    assert same(alone, together)


def test_an_unreadable_image_is_left_out_in_evaluation(tmp_path):
    data = on_disk(tmp_path, 8, unreadable=(1, 4, 5, 6, 7))
    first, second = epoch(loader(data, PREPROCESS, KIND, num_classes=8, batch_size=4, workers=0))
    assert labels([first]) == first.indices == [0, 2, 3]
    assert first.images.shape == (3, 3, 16, 16)
    assert len(first.unreadable) == 1
    assert second.targets == []
    assert len(second.unreadable) == 4
    assert all(sentence.startswith(str(tmp_path)) for sentence in first.unreadable + second.unreadable)


# -- parts


@pytest.mark.parametrize("train", [True, False])
def test_processes_share_every_batch(monkeypatch, train):
    whole = list(BatchSampler(10, 4, seed=0, training=False)) if not train else None
    if train:
        endless = iter(BatchSampler(10, 4, seed=0, training=True))
        whole = [next(endless) for _ in range(2)]
    parts = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "is_initialized", lambda: True)
            patch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            batches = iter(BatchSampler(10, 4, seed=0, training=train))
            parts.append([next(batches) for _ in range(len(whole))])
    for complete, first, second in zip(whole, *parts, strict=True):
        assert sorted(first + second) == sorted(complete)
        assert abs(len(first) - len(second)) <= 1


def test_repeated_augmentation_shows_fewer_images_more_often():
    """Each three times in a row, with three seeds, the first of which is that without repetitions."""
    sampler = BatchSampler(10, 6, seed=0, training=True, repeats=3)
    batches, once = iter(sampler), iter(BatchSampler(10, 6, seed=0, training=True))
    batch, plain = next(batches), next(once)
    assert len(sampler) == 1
    assert [index for index, _ in batch] == [plain[0][0], plain[1][0]] * 3
    assert len({seed for _, seed in batch}) == 6
    assert batch[:2] == plain[:2]
    assert [len(batch) for batch in BatchSampler(10, 6, seed=0, training=False, repeats=3)] == [6, 4]
    in_groups = next(iter(BatchSampler(4, 4, seed=0, training=True, groups=[0, 1, 0, 1], repeats=2)))
    assert len({index % 2 for index, _ in in_groups}) == 1


def test_counted_seed():
    assert counted_seed(1, 2, 3) == counted_seed(1, 2, 3)
    assert len({counted_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert all(0 <= counted_seed(i) < 2**63 for i in range(50))


def test_reading_leaves_other_random_numbers_alone():
    """Augmentation and mixing have seeds of their own."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = training(samples(2), augment=CategoryAugment(mixup=0.2)).loader
    batches.collate_fn([batches.dataset[i, i] for i in range(2)])
    assert torch.equal(torch.get_rng_state(), before)


def test_images_by_key():
    def transform(example, another):
        return example.image + torch.randint(0, 9, ()), example.target

    data = ImageDataset(samples(3), ImageInputs(PREPROCESS, {"label"}), transform)
    assert len(data) == 3
    item = data[1, 7]
    assert (item.index, item.frame) == (1, Frame((20, 20), (20, 20)))
    assert torch.equal(item.image, data[1, 7].image)
    assert (int(item.target.label), item.unreadable, item.seed) == (1, [], 7)


def test_collate_keeps_paths_when_it_mixes():
    frame = Frame((4, 4), (4, 4))
    targets = [Target(label=torch.tensor(i), path=str(i)) for i in (0, 1)]
    items = [Item(i, torch.full((3, 4, 4), float(i)), target, frame, [], i) for i, target in enumerate(targets)]
    batch = Collate(ImageInputs(PREPROCESS, {"label"}), mix=batch_transform(CategoryAugment(mixup=1.0), 2))(items)
    assert [target.path for target in batch.targets] == ["0", "1"]
    assert torch.stack([target.label for target in batch.targets]).sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("resize", "resized", "shape"),
    [("crop", (16, 16), (16, 16)), ("squash", (16, 16), (16, 16)), ("fit", (16, 8), (16, 16))],
)
def test_frames_are_how_each_image_lies_in_its_input(resize, resized, shape):
    data = [Sample(torch.zeros(3, 40, 20, dtype=torch.uint8), Target(label=torch.tensor(0)))]
    preprocess = Preprocess(size=(16, 16), resize=resize)
    (batch,) = loader(data, preprocess, KIND, num_classes=1, batch_size=1, workers=0)
    assert batch.frames == [Frame((40, 20), resized)]
    assert batch.images.shape == (1, 3, *shape)
    (batch,) = loader(data, PREPROCESS, KIND, num_classes=1, batch_size=1, workers=0, augment=CategoryAugment())
    assert batch.frames == [Frame((16, 16), (16, 16))]  # in training the input is all there is


def test_a_batch_of_none():
    with pytest.raises(VertebraError, match="batch_size is 0; it must be 1 or more"):
        training(samples(), batch_size=0)
