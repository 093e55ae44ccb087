"""The built-in images: the same for everyone, and the fields of their targets agree with each other."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data import open_data
from vertebra.data.formats import shapes
from vertebra.data.geometry import Example, flip_horizontal, flip_vertical
from vertebra.data.reading import read
from vertebra.ops import rle

SEVERAL = [shapes.draw(seed=5, index=i, size=64, objects=(1, 6)) for i in range(12)]
SINGLE = [shapes.draw(seed=2, index=i) for i in range(60)]


@pytest.fixture
def few_shapes(monkeypatch):
    """A small built-in set."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 8, "val": 4})


def same(a, b) -> bool:
    """Whether two images and their targets are equal."""
    fields = ("label", "boxes", "labels", "keypoints", "crowd", "areas", "semantic")
    equal = all(torch.equal(getattr(a[1], field), getattr(b[1], field)) for field in fields)
    return equal and torch.equal(a[1].masks.dense(), b[1].masks.dense()) and torch.equal(a[0], b[0])


def pixels(image: torch.Tensor) -> np.ndarray:
    """[3, H, W] -> [H, W, 3]."""
    return image.permute(1, 2, 0).numpy()


def test_an_image_depends_on_its_seed_and_index_alone():
    for i, drawn in enumerate(SEVERAL[:3]):
        assert same(shapes.draw(seed=5, index=i, size=64, objects=(1, 6)), drawn)
        assert not torch.equal(shapes.draw(seed=6, index=i, size=64, objects=(1, 6))[0], drawn[0])
    assert not torch.equal(SEVERAL[0][0], SEVERAL[1][0])


def test_the_images_never_change():
    """Checkpoints and tutorials were made with these pixels."""
    image, target = shapes.draw(0, 0, 128, (1, 6))
    green = torch.tensor([[83, 88, 95, 117], [83, 78, 52, 130], [94, 93, 207, 126], [103, 228, 132, 133]])
    assert (image[1, ::32, ::32].long() - green).abs().max() <= 1
    assert target.areas.tolist() == [1355.0, 1493.0, 1478.0, 995.0]


def test_drawing_leaves_other_random_numbers_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    shapes.draw(0, 0)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("size", [32, 64])
def test_types_and_sizes(size):
    for i in range(8):
        image, target = shapes.draw(0, i, size)
        objects = 1
        assert image.shape == (3, size, size)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert target.label.shape == ()
        assert target.label.dtype == torch.int64
        assert target.boxes.shape == (objects, 4)
        assert target.boxes.dtype == torch.float32
        assert target.labels.shape == (objects,)
        assert target.labels.dtype == torch.int64
        assert target.masks.dense().shape == (objects, size, size)
        assert target.masks.dense().dtype == torch.bool
        assert target.keypoints.shape == (objects, 4, 3)
        assert target.semantic.shape == (size, size)
        assert target.semantic.dtype == torch.uint8
        assert target.crowd.tolist() == [False]
        assert target.size == (size, size)


def test_every_number_of_objects_occurs():
    targets = [shapes.draw(1, i, 64, (1, 3))[1] for i in range(30)]
    assert {len(target.boxes) for target in targets} == {1, 2, 3}
    assert {int(label) for target in targets for label in target.labels} == set(range(len(shapes.CLASSES)))


@pytest.mark.parametrize("index", range(len(SEVERAL)))
def test_the_fields_agree(index):
    _, target = SEVERAL[index]
    masks = target.masks.dense()
    for box, label, area, mask in zip(target.boxes, target.labels, target.areas, masks, strict=True):
        rows, columns = torch.where(mask)
        bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # the end is exclusive
        assert box.tolist() == [int(v) for v in bounds]
        assert area == mask.sum()
        assert (target.semantic[mask] == label + 1).all()
    assert int(masks.sum(0).max()) <= 1  # no pixel shows two objects
    assert torch.equal(masks.any(0), target.semantic > 0)


def test_the_label_is_the_largest_objects():
    _, target = SINGLE[0]
    assert int(target.label) == int(target.labels[0])


def test_the_mask_is_where_the_object_was_drawn():
    """Pixels of the object's colour are its mask, but for the line, the smoothed rim, and ground of that colour."""
    shares, shifts = [], []
    for image, target in SINGLE[:30]:
        mask, values = target.masks[0].numpy(), pixels(image).astype(float)
        inside, outside = (np.median(values[part], axis=0) for part in (mask, ~mask))
        coloured = np.abs(values - inside).sum(-1) < np.abs(values - outside).sum(-1)
        shares.append((coloured & mask).sum() / (coloured | mask).sum())
        shifts.append(np.subtract(*(np.mean(np.nonzero(m), axis=1) for m in (coloured, mask))))
    assert np.median(shares) > 0.85
    assert np.abs(np.median(shifts, axis=0)).max() < 0.2


@pytest.mark.parametrize("change", [lambda example: example, flip_horizontal, flip_vertical])
def test_the_mask_is_centred_on_its_object(change):
    """A regular outline's centre of mass is the centre of its keypoints, in the mirror image too."""
    shifts = []
    for image, drawn in SINGLE:
        if shapes.CLASSES[int(drawn.label)] != "triangle":
            target = change(Example(image, drawn)).target
            rows, columns = torch.where(target.masks[0])
            mass = torch.stack([columns, rows], 1).float().mean(0)
            shifts.append(mass - target.keypoints[0, :, :2].mean(0))
    assert torch.stack(shifts).mean(0).abs().max() < 0.1


def test_keypoints_stand_around_the_centre():
    """At one distance, ahead and behind opposite, right and left opposite, right a quarter turn clockwise of ahead."""
    for _, target in SEVERAL:
        for points in target.keypoints[..., :2].double():
            ahead, right, behind, left = points
            centre = points.mean(0)
            assert torch.allclose(ahead + behind, right + left, atol=1e-3)
            radius = (points - centre).norm(dim=1)
            assert torch.allclose(radius, radius[0].expand(4), atol=1e-3)
            x, y = ahead - centre
            assert torch.allclose(right - centre, torch.stack([-y, x]), atol=1e-3)  # y points down


def test_an_object_lies_within_its_keypoints_circle():
    for _, target in SEVERAL:
        for points, mask in zip(target.keypoints[..., :2], target.masks.dense(), strict=True):
            centre, radius = points.mean(0), (points[0] - points.mean(0)).norm()
            rows, columns = torch.where(mask)
            places = torch.stack([columns, rows], 1)
            assert (places - centre).norm(dim=1).max() <= radius + 1


def test_a_dark_line_points_ahead():
    right = 0
    for i in range(20):
        image, target = shapes.draw(3, i)
        points = target.keypoints[0, :, :2]
        centre = points.mean(0)
        brightness = []
        for point in points:
            x, y = (0.5 * (point + centre)).floor().long().tolist()
            brightness.append(image[:, y, x].float().mean())
        right += int(np.argmin(brightness)) == 0
    assert right >= 15  # the ground may be darker beside an arm of a cross or star


def test_visibility():
    visibility = torch.cat([target.keypoints[..., 2].flatten() for _, target in SEVERAL])
    assert set(visibility.tolist()) <= {0.0, 1.0, 2.0}
    assert (visibility == 1).any()
    for _, target in SEVERAL:
        for i, points in enumerate(target.keypoints):
            for x, y, visible in points.tolist():
                if visible == 1:  # another object lies there
                    assert not target.masks[i][round(y), round(x)]
                    assert target.semantic[round(y), round(x)] > 0


def test_keypoints_that_could_only_be_guessed_are_not_labelled():
    """Where the dark line is covered, or half of the object."""
    seen = set()
    for i in range(60):
        _, target = shapes.draw(seed=6, index=i, size=64, objects=(1, 6))
        for points, label, mask in zip(target.keypoints, target.labels, target.masks.dense(), strict=True):
            centre, ahead = points[:, :2].mean(0), points[0, :2]
            x, y = (centre + torch.linspace(0, 0.8, 50)[:, None] * (ahead - centre)).round().long().T
            line = float(mask[y, x].float().mean())
            across, down = shapes.outline(shapes.CLASSES[label]).T
            area = abs(across @ np.roll(down, 1) - down @ np.roll(across, 1)) / 2  # of radius 1
            share = float(mask.sum() / (area * (ahead - centre).square().sum()))
            if abs(line - 0.2) > 0.07 and abs(share - 0.5) > 0.04:
                assert points[:, 2].any() == (line > 0.2 and share > 0.5)
                seen.add((line > 0.2, share > 0.5))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_the_splits_share_no_image(few_shapes):
    train, val = ({pixels(image).tobytes() for image, _ in shapes.draw_split(split)} for split in ("train", "val"))
    assert len(train) == 8
    assert len(val) == 4
    assert not train & val


def test_catalogue(few_shapes):
    catalogue = open_data("shapes", fields={"label"}, seed=3)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("shapes", shapes.CLASSES, {"label"})
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 8, "val": 4}
    sample = catalogue.split("train")[2]
    image, target = shapes.draw(3, 2)
    assert torch.equal(sample.image, image)
    assert sample.label == int(target.label)
    assert sample.target.boxes is sample.target.semantic is sample.target.masks is None


OBJECTS = ("boxes", "masks", "keypoints", "semantic")


def test_label_maps_have_a_class_for_the_background(few_shapes):
    catalogue = open_data("shapes", fields={"semantic"}, seed=3)
    assert (catalogue.classes, catalogue.has) == (("background", *shapes.CLASSES), {"semantic"})
    sample = catalogue.split("val")[0]
    _, drawn = shapes.draw(3, 8, 128, (1, 6))
    assert torch.equal(sample.load_target((128, 128)).semantic, drawn.semantic)


@pytest.mark.parametrize("fields", [None, *({field} for field in OBJECTS[:3]), {"label", "boxes"}])
def test_several_objects(few_shapes, fields):
    catalogue = open_data("shapes", fields=fields, seed=3)
    labelled = fields is not None and "label" in fields
    # Without fields, the label maps do not count, as their classes have the background too.
    expected = OBJECTS[:3] if fields is None else OBJECTS
    assert catalogue.has == {*expected, *(["label"] if labelled else [])}
    assert catalogue.keypoints == shapes.KEYPOINTS
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 8, "val": 4}
    chosen = set(OBJECTS) if fields is None else fields
    for number, sample in enumerate(catalogue.split("val")):
        image, drawn = shapes.draw(3, 8 + number, 128, (1, 6))  # as write_coco numbers them
        assert torch.equal(sample.image, image)
        target = sample.load_target((128, 128))
        assert (target.size, target.id) == ((128, 128), number + 1)
        assert (target.label is not None) == labelled
        assert (target.boxes is not None) == (chosen != {"semantic"})
        if target.boxes is not None:
            assert torch.equal(target.boxes, drawn.boxes)
            assert torch.equal(target.labels, drawn.labels)
            assert torch.equal(target.areas, drawn.masks.dense().sum((1, 2)).float())
            assert not target.crowd.any()
        for field in ("masks", "keypoints", "semantic"):
            assert (getattr(target, field) is not None) == (field in chosen)
        if target.masks is not None:
            assert torch.equal(target.masks.dense(), drawn.masks.dense())
        if target.keypoints is not None:
            assert torch.equal(target.keypoints, drawn.keypoints)
        if target.semantic is not None:
            assert torch.equal(target.semantic, drawn.semantic)


def test_keypoints_in_the_mirror():
    """Names are of the object as seen: in the mirror, what was on the right of the way ahead is on its left."""
    _, target = shapes.draw(0, 0)
    points = target.keypoints[0, :, :2].clone()
    points[:, 0] = shapes.SIZE - points[:, 0]
    ahead, right, behind, _ = points[list(shapes.KEYPOINTS.flip_indices)]
    x, y = ahead - behind
    assert torch.allclose(right - points.mean(0), torch.stack([-y, x]) / 2, atol=1e-3)


def test_write_folder(tmp_path, few_shapes):
    shapes.write_folder(tmp_path / "out")
    catalogue = open_data(tmp_path / "out")
    assert set(catalogue.classes) <= set(shapes.CLASSES)
    for split, samples in catalogue.splits.items():
        drawn = list(shapes.draw_split(split))
        assert len(samples) == len(drawn)
        for sample in samples:
            image, target = drawn[int(sample.image.stem)]
            assert np.array_equal(np.asarray(Image.open(sample.image)), pixels(image))
            assert catalogue.classes[sample.label] == shapes.CLASSES[int(target.label)]


def test_write_coco(tmp_path, few_shapes):
    shapes.write_coco(tmp_path, seed=1, size=48)
    for split, count in (("train", 8), ("val", 4)):
        content = json.loads((tmp_path / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == list(shapes.CLASSES)
        assert [c["id"] for c in content["categories"]] == list(range(1, 7))
        assert len(content["images"]) == count
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids)
        for entry, (image, target) in zip(content["images"], shapes.draw_split(split, 1, 48, (1, 6)), strict=True):
            file = Image.open(tmp_path / "images" / split / entry["file_name"])
            assert file.size == (entry["width"], entry["height"]) == (48, 48)
            assert np.array_equal(np.asarray(file), pixels(image))
            semantic = np.asarray(Image.open(tmp_path / "semantic" / split / entry["file_name"]))
            assert np.array_equal(semantic, target.semantic)
            annotations = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
            assert len(annotations) == len(target.boxes)
            for i, annotation in enumerate(annotations):
                x, y, crop = rle.decode(annotation["segmentation"], (48, 48))
                mask = np.zeros((48, 48), bool)
                mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
                assert np.array_equal(mask, target.masks[i])
                assert annotation["area"] == mask.sum()
                x, y, width, height = annotation["bbox"]
                assert [x, y, x + width, y + height] == target.boxes[i].tolist()
                assert annotation["category_id"] == int(target.labels[i]) + 1
                points = np.array(annotation["keypoints"]).reshape(4, 3)
                assert np.allclose(points, target.keypoints[i], atol=0.006)
                assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
    assert read(tmp_path).keypoints == shapes.KEYPOINTS


def test_pycocotools_reads_it(tmp_path, few_shapes):
    coco = pytest.importorskip("pycocotools.coco")
    shapes.write_coco(tmp_path, size=48)
    dataset = coco.COCO(str(tmp_path / "annotations" / "instances_val.json"))
    assert len(dataset.getImgIds()) == 4
    for image, (_, target) in zip(dataset.getImgIds(), shapes.draw_split("val", 0, 48, (1, 6)), strict=True):
        annotations = dataset.loadAnns(dataset.getAnnIds(image))
        assert len(annotations) == len(target.masks)
        for i, annotation in enumerate(annotations):
            assert np.array_equal(dataset.annToMask(annotation).astype(bool), target.masks[i])


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_outlines_fill_the_unit_circle(name):
    radius = np.linalg.norm(shapes.outline(name), axis=1)
    assert radius.max() == pytest.approx(1)
    assert len(np.unique(shapes.outline(name).round(6), axis=0)) == len(radius)
