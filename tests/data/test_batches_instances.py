"""Batches to learn objects from: the same for any number of workers, targets in pixels of the image, little padding."""

import pickle
from collections import Counter
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data.batches import Batch, Batches, loader
from vertebra.data.catalogue import Sample
from vertebra.data.transforms import InstanceAugment
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Points, Preprocess, Target

SHORTEST = Preprocess(size=(32, 64), resize="shortest")
FIT = Preprocess(size=(48, 48), resize="fit")
WILD = InstanceAugment(jitter=(0.3, 2.0), crop=0.5, flip=0.5, rotate90=0.5, copy_paste=0.5, mosaic=0.5)


def samples(count: int = 8, folder: Path | None = None, *, known: bool = True) -> list[Sample]:
    """Pictures in turn 20 x 30 and 30 x 20 with two objects, of which the second is a crowd."""
    random = np.random.default_rng(0)
    found = []
    for i in range(count):
        height, width = (20, 30) if i % 2 == 0 else (30, 20)
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        picture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if folder is not None:
            Image.fromarray(pixels).save(picture := folder / f"{i}.png")
        target = Target(
            boxes=torch.tensor([[2.0, 3, 12, 15], [10, 5, 18, 19]]),
            labels=torch.tensor([i, 0]),
            crowd=torch.tensor([False, True]),
            areas=torch.tensor([120.0, 112]),
            keypoints=torch.tensor([[[3.0, 4, 2], [11, 14, 1]], [[0, 0, 0], [0, 0, 0]]]),
            size=(height, width) if known else None,
            id=i,
            path=f"{i}.png" if folder is None else str(picture),
        )
        polygons = ([[2.0, 3, 12, 3, 12, 15, 2, 15]], [[10.0, 5, 18, 5, 18, 19, 10, 19]])
        found.append(Sample(picture, target, polygons))
    return found


def training(data: list[Sample], preprocess: Preprocess = SHORTEST, **options):
    options = {"truth": "masks", "batch_size": 2, "workers": 0, "augment": InstanceAugment(), **options}
    return loader(data, preprocess, classes=len(data), **options)


def evaluation(data: list[Sample], preprocess: Preprocess = SHORTEST, **options):
    return list(loader(data, preprocess, **{"truth": "masks", "classes": 9, "batch_size": 2, "workers": 0, **options}))


def same(first: list[Batch], second: list[Batch]) -> bool:
    def equal(a: Target, b: Target) -> bool:
        pairs = [(getattr(a, f), getattr(b, f)) for f in ("boxes", "labels", "masks", "keypoints", "crowd", "areas")]
        return (a.id, a.size) == (b.id, b.size) and all(
            (x is None and y is None) or torch.equal(x, y) for x, y in pairs
        )

    return all(
        torch.equal(a.images, b.images)
        and a.frames == b.frames
        and all(equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
        for a, b in zip(first, second, strict=True)
    )


def ids(batches: list[Batch]) -> list[list[int]]:
    return [[target.id for target in batch.targets] for batch in batches]


# -- training


@pytest.mark.parametrize("preprocess", [SHORTEST, FIT], ids=lambda p: p.resize)
def test_the_workers_change_nothing(preprocess):
    alone, together = (training(samples(), preprocess, augment=WILD, workers=workers) for workers in (0, 2))
    for _ in range(2):
        assert same(list(alone), list(together))


def test_a_resumed_epoch_is_the_one_that_would_have_come():
    going_on = training(samples(), augment=WILD)
    epochs = [list(going_on) for _ in range(3)]
    resumed = training(samples(), augment=WILD)
    resumed.set_epoch(2)
    assert same(list(resumed), epochs[2])
    assert not same(epochs[1], epochs[2])
    assert not same(list(training(samples(), augment=WILD, seed=1)), epochs[0])


@pytest.mark.parametrize("truth", ["boxes", "masks", "keypoints"])
def test_targets_are_in_pixels_of_the_image(truth):
    augment = InstanceAugment(scales=(0, 0), flip=1.0, colour=0)
    batches = list(training(samples(), truth=truth, augment=augment, points=Points(("a", "b"), flip=(1, 0))))
    for batch in batches:
        height, width = batch.images.shape[-2:]
        assert (height % 32, width % 32) == (0, 0)
        for target, frame, image in zip(batch.targets, batch.frames, batch.images, strict=True):
            wide = target.id % 2 == 0
            assert target.size == ((32, 48) if wide else (48, 32))
            assert frame == Frame(target.size, target.size)
            assert (image[:, target.size[0] :] == 0).all()
            assert (image[:, :, target.size[1] :] == 0).all()
            side = 30 if wide else 20
            box = [1.6 * (side - 12), 4.8, 1.6 * (side - 2), 24]
            assert target.boxes[0].tolist() == pytest.approx(box)
            assert target.crowd.tolist() == [False, True]
            assert (target.masks is None) == (truth != "masks")
            assert (target.keypoints is None) == (truth != "keypoints")
            if truth == "masks":
                assert target.masks.shape == (2, *target.size)
            if truth == "keypoints":
                mirrored = [[1.6 * (side - 12), 22.4, 1], [1.6 * (side - 4), 6.4, 2]]
                assert torch.allclose(target.keypoints[0], torch.tensor(mirrored))


def test_fit_fills_its_size():
    for batch in training(samples(), FIT, augment=WILD):
        assert batch.images.shape[-2:] == (48, 48)


def test_like_orientations_go_together(tmp_path):
    batches = training(samples(16), batch_size=4)
    for _ in range(3):
        found = ids(list(batches))
        assert sorted(index for batch in found for index in batch) == list(range(16))
        assert all(len({index % 2 for index in batch}) == 1 for batch in found)
    files = samples(16, tmp_path, known=False)  # whose sizes their headers tell
    found = ids(list(training(files, batch_size=4)))
    assert all(len({index % 2 for index in batch}) == 1 for batch in found)
    files[3].picture.write_bytes(b"no picture")
    batches = list(training(files, batch_size=4))
    assert sum("3.png" in sentence for batch in batches for sentence in batch.broken) == 1
    mixed = ids(list(training(samples(16), FIT, batch_size=4)))  # all images are alike, so nothing is to be gained
    assert any(len({index % 2 for index in batch}) == 2 for batch in mixed)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11, 22, 23])
def test_every_picture_once_in_an_epoch_of_groups(count):
    groups = [int(i % 3 == 0) for i in range(count)]
    batches = Batches(count, 4, seed=0, training=True, groups=groups)
    endless, left_out = iter(batches), Counter()
    for _ in range(6):
        found = [[index for index, _ in next(endless)] for _ in range(len(batches))]
        whole = [index for batch in found for index in batch]
        assert len(whole) == len(set(whole)) == (count // 4 * 4 or count)
        left_out.update(set(range(count)) - set(whole))
        assert sum(len({groups[i] for i in batch}) > 1 for batch in found) <= 1
    again = iter(Batches(count, 4, seed=0, training=True, groups=groups))
    assert [next(again) for _ in range(9)] == [
        batch for batch, _ in zip(iter(Batches(count, 4, seed=0, training=True, groups=groups)), range(9), strict=False)
    ]


def test_processes_share_the_groups(monkeypatch):
    options = {"seed": 0, "training": True, "groups": [i % 2 for i in range(20)]}
    endless = iter(Batches(20, 4, **options))
    whole = [next(endless) for _ in range(5)]
    parts = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "is_initialized", lambda: True)
            patch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            mine = iter(Batches(20, 4, **options))
            parts.append([next(mine) for _ in range(5)])
    for want, first, second in zip(whole, *parts, strict=True):
        assert sorted(first + second) == sorted(want)


def test_broken_pictures_and_donors_are_replaced(tmp_path):
    data = samples(6, tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    augment = InstanceAugment(mosaic=1.0, copy_paste=1.0)
    for batch in training(data, augment=augment, batch_size=3):
        assert len(batch.targets) == 3
        assert 2 not in [target.id for target in batch.targets]
        assert set(batch.broken) <= {f"{tmp_path / '2.png'}: the file is empty (0 bytes)."}
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"")
    (batch,) = training(data, augment=augment, batch_size=6)
    assert (batch.targets, len(set(batch.broken))) == ([], 6)


def test_the_loader_can_be_sent_to_a_started_process():
    made = training(samples(), augment=WILD).loader
    assert len(pickle.loads(pickle.dumps((made.dataset, made.collate_fn)))[0]) == 8


def test_batches_are_sent_between_processes():
    masks = torch.zeros(3, 500, 700, dtype=torch.bool)
    masks[0, 3:9, 690:] = True
    masks[1, 499, 0] = masks[1, 490, 5] = True  # the last is empty
    frame = Frame((500, 700), (500, 700))
    none = Target(boxes=torch.zeros(0, 4), masks=torch.zeros(0, 20, 30, dtype=torch.bool))
    batch = Batch(torch.zeros(0), [Target(masks=masks, id=3), none, Target()], ["a.png: no."], [frame] * 3)
    found = ForkingPickler.loads(ForkingPickler.dumps(batch))
    assert torch.equal(found.targets[0].masks, masks)
    assert found.targets[1].masks.shape == (0, 20, 30)
    assert found.targets[2].masks is None
    assert (found.targets[0].id, found.broken, found.frames) == (3, ["a.png: no."], [frame] * 3)
    assert batch.targets[0].masks is masks  # what is sent is not changed


# -- evaluation


@pytest.mark.parametrize(
    ("preprocess", "scaled", "shape"),
    [
        (SHORTEST, [(32, 48), (48, 32)], (64, 64)),
        (FIT, [(32, 48), (48, 32)], (48, 48)),
        (Preprocess(size=(24, 40), resize="squash"), [(24, 40), (24, 40)], (24, 40)),
    ],
    ids=["shortest", "fit", "squash"],
)
def test_evaluation_keeps_targets_in_their_own_pixels(preprocess, scaled, shape):
    data = samples(4)
    batches = evaluation(data, preprocess)
    assert ids(batches) == [[0, 1], [2, 3]]
    for batch in batches:
        assert batch.images.shape[-2:] == shape
        assert [frame.scaled for frame in batch.frames] == scaled
        for target, frame in zip(batch.targets, batch.frames, strict=True):
            own = data[target.id].target
            assert target.size == frame.picture == own.size
            assert torch.equal(target.boxes, own.boxes)
            assert (target.masks.size, len(target.masks)) == (own.size, 2)
            assert int(target.masks[0].sum()) == 120
            assert int(target.masks.crops[0].sum()) == 120


def test_masks_of_evaluation_come_from_workers_as_they_are():
    alone, together = (evaluation(samples(), Preprocess((64, 96), resize="shortest"), workers=n) for n in (0, 2))
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one.targets, other.targets, strict=True):
            assert mine.masks.corners == theirs.masks.corners
            assert all(torch.equal(a, b) for a, b in zip(mine.masks.crops, theirs.masks.crops, strict=True))


def test_masks_are_decoded_only_if_they_are_wanted():
    data = [replace(sample, segments=("nonsense", "nonsense")) for sample in samples(2)]
    (batch,) = evaluation(data, truth="boxes")
    assert [target.masks for target in batch.targets] == [None, None]
    assert batch.broken == []


@pytest.mark.parametrize("wrong", [{"size": [20, 31], "counts": [620]}, {"size": [20, 30], "counts": "~~"}])
def test_a_mask_that_cannot_be_decoded_is_one_sentence(wrong):
    data = samples(3)
    data[0] = replace(data[0], segments=(wrong, wrong))
    first, second = evaluation(data)
    assert ids([first, second]) == [[1], [2]]
    (sentence,) = first.broken
    assert sentence.startswith("0.png, object 1: a mask")
    (batch,) = training(data, batch_size=3)
    assert len(batch.targets) == 3
    assert [sentence.startswith("0.png, object 1: a mask") for sentence in batch.broken] == [True]


def test_a_picture_without_objects():
    empty = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), size=(20, 30))
    data = [Sample(torch.zeros(3, 20, 30, dtype=torch.uint8), empty)]
    for (batch,) in (evaluation(data), training(data, augment=WILD)):
        (target,) = batch.targets
        assert target.boxes.shape == (0, 4)
        assert target.masks.shape == (0, *target.size)


# -- what does not go together


def test_a_centre_crop_would_cut_objects_off():
    with pytest.raises(VertebraError, match="resize is 'crop', which would cut objects off"):
        evaluation(samples(), Preprocess())


def test_copy_paste_needs_masks():
    with pytest.raises(VertebraError, match=r"augment\.copy_paste is 0\.5, but it cuts objects out by their masks"):
        training(samples(), truth="boxes", augment=WILD)
    list(training(samples(), truth="boxes", augment=replace(WILD, copy_paste=0)))


# -- real pictures


def test_real_cells(data_folder):
    """Boxes of augmented nuclei bound their masks."""
    import json

    folder = data_folder / "nuclei"
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    data = []
    for image in content["images"][:6]:
        of = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in of])
        boxes[:, 2:] += boxes[:, :2]
        path = next(folder.rglob(image["file_name"]))
        size = (image["height"], image["width"])
        target = Target(boxes=boxes.float(), labels=torch.zeros(len(of)).long(), size=size, path=str(path))
        data.append(Sample(path, target, tuple(a["segmentation"] for a in of)))
    augment = InstanceAugment(flip=0.5, rotate90=0.75, crop=0.7, copy_paste=0.5)
    off = []
    for batch in training(data, Preprocess(size=(128, 256), resize="shortest"), augment=augment):
        for target in batch.targets:
            for mask, box in zip(target.masks, target.boxes, strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                off.append(float((edges - box).abs().max()))
    assert len(off) > 100
    assert np.quantile(off, 0.95) < 1.01  # the rest have a thread of a pixel that scaling loses
