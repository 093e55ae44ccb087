"""The built-in pictures: the same for everyone, and their truths agree with each other."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data import open_data, shapes

CROWD = [shapes.draw(seed=5, index=i, size=64, objects=(1, 6)) for i in range(12)]


@pytest.fixture
def few_shapes(monkeypatch):
    """A small built-in set."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 8, "val": 4})
    shapes.scenes.cache_clear()
    yield
    shapes.scenes.cache_clear()


def same(a: shapes.Scene, b: shapes.Scene) -> bool:
    fields = ("label", "boxes", "labels", "masks", "keypoints", "semantic")
    equal = all(torch.equal(getattr(a.target, field), getattr(b.target, field)) for field in fields)
    return equal and np.array_equal(a.picture, b.picture)


def decoded(counts: list[int], size: list[int]) -> np.ndarray:
    """A mask from COCO's uncompressed run lengths, by the format's definition."""
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(size[1], size[0]).T.astype(bool)


def test_a_picture_depends_on_its_seed_and_number_alone():
    for i, scene in enumerate(CROWD[:3]):
        assert same(shapes.draw(seed=5, index=i, size=64, objects=(1, 6)), scene)
        assert not np.array_equal(shapes.draw(seed=6, index=i, size=64, objects=(1, 6)).picture, scene.picture)
    assert not np.array_equal(CROWD[0].picture, CROWD[1].picture)


def test_drawing_leaves_other_random_numbers_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    shapes.draw(0, 0)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("size", [32, 64])
def test_kinds_and_sizes(size):
    for i in range(8):
        scene = shapes.draw(0, i, size)
        target, objects = scene.target, 1
        assert scene.picture.shape == (size, size, 3)
        assert scene.picture.dtype == np.uint8
        assert target.label.shape == ()
        assert target.label.dtype == torch.int64
        assert target.boxes.shape == (objects, 4)
        assert target.boxes.dtype == torch.float32
        assert target.labels.shape == (objects,)
        assert target.labels.dtype == torch.int64
        assert target.masks.shape == (objects, size, size)
        assert target.masks.dtype == torch.bool
        assert target.keypoints.shape == (objects, 4, 3)
        assert target.semantic.shape == (size, size)
        assert target.semantic.dtype == torch.int64


def test_every_number_of_objects_occurs():
    scenes = [shapes.draw(1, i, 64, (1, 3)) for i in range(30)]
    assert {len(scene.target.boxes) for scene in scenes} == {1, 2, 3}
    assert {int(label) for scene in scenes for label in scene.target.labels} == set(range(len(shapes.CLASSES)))


@pytest.mark.parametrize("index", range(len(CROWD)))
def test_the_truths_agree(index):
    target = CROWD[index].target
    for box, label, mask in zip(target.boxes, target.labels, target.masks, strict=True):
        rows, columns = torch.where(mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # the end is exclusive
        assert box.tolist() == [int(v) for v in tight]
        assert (target.semantic[mask] == label + 1).all()
    assert int(target.masks.sum(0).max()) <= 1  # what hides is not hidden itself
    assert torch.equal(target.masks.any(0), target.semantic > 0)


def test_the_label_is_the_largest_objects():
    scene = shapes.draw(0, 0)
    assert int(scene.target.label) == int(scene.target.labels[0])


def test_the_mask_is_where_the_object_was_drawn():
    """Pixels of the object's colour are its mask, but for the hand, the smoothed rim, and ground of that colour."""
    shares, shifts = [], []
    for i in range(30):
        scene = shapes.draw(2, i)
        mask, picture = scene.target.masks[0].numpy(), scene.picture.astype(float)
        own, ground = (np.median(picture[part], axis=0) for part in (mask, ~mask))
        found = np.abs(picture - own).sum(-1) < np.abs(picture - ground).sum(-1)
        shares.append((found & mask).sum() / (found | mask).sum())
        shifts.append(np.subtract(*(np.mean(np.nonzero(m), axis=1) for m in (found, mask))))
    assert np.median(shares) > 0.85
    assert np.abs(np.median(shifts, axis=0)).max() < 0.2


def test_the_mask_is_centred_on_its_object():
    """A regular outline's centre of mass is the centre of its keypoints; none leans towards a corner."""
    shifts = []
    for i in range(60):
        target = shapes.draw(4, i).target
        if shapes.CLASSES[int(target.label)] != "triangle":
            rows, columns = torch.where(target.masks[0])
            mass = torch.stack([columns, rows], 1).float().mean(0) + 0.5  # a pixel's centre lies at .5
            shifts.append(mass - target.keypoints[0, :, :2].mean(0))
    assert torch.stack(shifts).mean(0).abs().max() < 0.1


def test_keypoints_stand_around_the_centre():
    """At one distance, ahead and behind opposite, right and left opposite, right a quarter turn clockwise of ahead."""
    for scene in CROWD:
        for points in scene.target.keypoints[..., :2].double():
            ahead, right, behind, left = points
            centre = points.mean(0)
            assert torch.allclose(ahead + behind, right + left, atol=1e-3)
            radius = (points - centre).norm(dim=1)
            assert torch.allclose(radius, radius[0].expand(4), atol=1e-3)
            x, y = ahead - centre
            assert torch.allclose(right - centre, torch.stack([-y, x]), atol=1e-3)  # y points down


def test_an_object_lies_within_its_keypoints_circle():
    for scene in CROWD:
        for points, mask in zip(scene.target.keypoints[..., :2], scene.target.masks, strict=True):
            centre, radius = points.mean(0), (points[0] - points.mean(0)).norm()
            rows, columns = torch.where(mask)
            pixels = torch.stack([columns, rows], 1) + 0.5
            assert (pixels - centre).norm(dim=1).max() <= radius + 1


def test_a_dark_hand_points_ahead():
    right = 0
    for i in range(20):
        scene = shapes.draw(3, i)
        points = scene.target.keypoints[0, :, :2]
        centre = points.mean(0)
        brightness = []
        for point in points:
            x, y = (0.5 * (point + centre)).floor().long().tolist()
            brightness.append(scene.picture[y, x].astype(float).mean())
        right += int(np.argmin(brightness)) == 0
    assert right >= 15  # the ground may be darker beside an arm of a cross or star


def test_visibility():
    seen = torch.cat([scene.target.keypoints[..., 2].flatten() for scene in CROWD])
    assert set(seen.tolist()) <= {0.0, 1.0, 2.0}
    assert (seen == 1).any()
    for scene in CROWD:
        for i, points in enumerate(scene.target.keypoints):
            for x, y, visible in points.tolist():
                if visible == 1:  # another object lies there
                    assert not scene.target.masks[i, int(y), int(x)]
                    assert scene.target.semantic[int(y), int(x)] > 0


def test_the_splits_share_no_picture(few_shapes):
    train, val = ({scene.picture.tobytes() for scene in shapes.scenes(split)} for split in ("train", "val"))
    assert len(train) == 8
    assert len(val) == 4
    assert not train & val


def test_catalogue(few_shapes):
    found = open_data("shapes", seed=3)
    assert found.classes == shapes.CLASSES
    assert {name: len(samples) for name, samples in found.splits.items()} == {"train": 8, "val": 4}
    sample = found.split("train")[2]
    assert np.array_equal(sample.picture.permute(1, 2, 0), shapes.draw(3, 2).picture)
    assert sample.label == int(shapes.draw(3, 2).target.label)


@pytest.mark.parametrize("want", ["boxes", "masks", "keypoints"])
def test_several_objects(few_shapes, want):
    found = open_data("shapes", want=want, seed=3)
    assert found.has == {"boxes", "masks", "keypoints"}
    assert found.points == shapes.POINTS
    assert {name: len(samples) for name, samples in found.splits.items()} == {"train": 8, "val": 4}
    for number, sample in enumerate(found.split("val")):
        scene = shapes.draw(3, 8 + number, 128, (1, 6))  # as write_coco numbers them
        assert np.array_equal(sample.picture.permute(1, 2, 0), scene.picture)
        truth = sample.truth((128, 128))
        assert torch.equal(truth.boxes, scene.target.boxes)
        assert torch.equal(truth.labels, scene.target.labels)
        assert torch.equal(truth.areas, scene.target.masks.sum((1, 2)).float())
        assert (truth.label, truth.size, truth.id) == (None, (128, 128), number + 1)
        assert not truth.crowd.any()
        assert (truth.masks is not None) == (want == "masks")
        assert (truth.keypoints is not None) == (want == "keypoints")
        if want == "masks":
            assert torch.equal(truth.masks, scene.target.masks)
        if want == "keypoints":
            assert torch.equal(truth.keypoints, scene.target.keypoints)


def test_keypoints_in_the_mirror():
    """The names say what is seen: in the mirror, what was on the right of the way ahead is on its left."""
    target = shapes.draw(0, 0).target
    points = target.keypoints[0, :, :2].clone()
    points[:, 0] = shapes.SIZE - points[:, 0]
    ahead, right, behind, _ = points[list(shapes.POINTS.flip)]
    x, y = ahead - behind
    assert torch.allclose(right - points.mean(0), torch.stack([-y, x]) / 2, atol=1e-3)


def test_write_folder(tmp_path, few_shapes):
    shapes.write_folder(tmp_path / "out")
    found = open_data(tmp_path / "out")
    assert set(found.classes) <= set(shapes.CLASSES)
    for split, samples in found.splits.items():
        scenes = shapes.scenes(split)
        assert len(samples) == len(scenes)
        for sample in samples:
            scene = scenes[int(sample.picture.stem)]
            assert np.array_equal(np.asarray(Image.open(sample.picture)), scene.picture)
            assert found.classes[sample.label] == shapes.CLASSES[int(scene.target.label)]


def test_write_coco(tmp_path, few_shapes):
    shapes.write_coco(tmp_path, seed=1, size=48)
    for split, count in (("train", 8), ("val", 4)):
        scenes = shapes.scenes(split, 1, 48, (1, 6))
        content = json.loads((tmp_path / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == list(shapes.CLASSES)
        assert [c["id"] for c in content["categories"]] == list(range(1, 7))
        assert len(content["images"]) == count
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids)
        for image, scene in zip(content["images"], scenes, strict=True):
            picture = Image.open(tmp_path / "images" / split / image["file_name"])
            assert picture.size == (image["width"], image["height"]) == (48, 48)
            assert np.array_equal(np.asarray(picture), scene.picture)
            semantic = np.asarray(Image.open(tmp_path / "semantic" / split / image["file_name"]))
            assert np.array_equal(semantic, scene.target.semantic)
            own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            assert len(own) == len(scene.target.boxes)
            for i, annotation in enumerate(own):
                mask = decoded(annotation["segmentation"]["counts"], annotation["segmentation"]["size"])
                assert np.array_equal(mask, scene.target.masks[i])
                assert annotation["area"] == mask.sum()
                x, y, width, height = annotation["bbox"]
                assert [x, y, x + width, y + height] == scene.target.boxes[i].tolist()
                assert annotation["category_id"] == int(scene.target.labels[i]) + 1
                points = np.array(annotation["keypoints"]).reshape(4, 3)
                assert np.allclose(points, scene.target.keypoints[i], atol=0.006)
                assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()


def test_pycocotools_reads_it(tmp_path, few_shapes):
    coco = pytest.importorskip("pycocotools.coco")
    shapes.write_coco(tmp_path, size=48)
    found = coco.COCO(str(tmp_path / "annotations" / "instances_val.json"))
    assert len(found.getImgIds()) == 4
    for image, scene in zip(found.getImgIds(), shapes.scenes("val", 0, 48, (1, 6)), strict=True):
        for i, annotation in enumerate(found.loadAnns(found.getAnnIds(image))):
            assert np.array_equal(found.annToMask(annotation).astype(bool), scene.target.masks[i])


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [0, 0]], [2, 1, 1]),  # column by column
        ([[1, 0, 1], [1, 0, 0]], [0, 2, 2, 1, 1]),
    ],
)
def test_run_lengths(mask, counts):
    assert shapes.run_lengths(np.array(mask, bool)) == counts
    assert np.array_equal(decoded(counts, list(np.shape(mask))), np.array(mask, bool))


@pytest.mark.parametrize("kind", shapes.CLASSES)
def test_outlines_fill_the_unit_circle(kind):
    radius = np.linalg.norm(shapes.outline(kind), axis=1)
    assert radius.max() == pytest.approx(1)
    assert len(np.unique(shapes.outline(kind).round(6), axis=0)) == len(radius)
