"""Results refined image by image and judged before and after, with a refiner whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data.reading import read_images
from vertebra.errors import VertebraError
from vertebra.kinds.refined import Judge, refine_results
from vertebra.kinds.results import read_masks
from vertebra.ops import rle
from vertebra.structures import Masks, Prediction, Target

SIZE = (40, 60)


class Moves:
    """In place of a network: moves every mask that has a pixel to the right, as far as the image goes."""

    channels = 3

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.seen: list[str] = []
        self.counts = SimpleNamespace(patches=0)

    def __call__(self, image: torch.Tensor, prediction: Prediction) -> Prediction:
        assert image.shape == (3, *prediction.size)
        self.seen.append(Path(prediction.path).name)
        self.counts.patches += 4 * len(prediction)
        masks = Masks(prediction.size)
        for (x, y), crop in zip(prediction.masks.corners, prediction.masks.crops, strict=True):
            moved = min(x + self.pixels, prediction.size[1] - crop.shape[1])
            masks.append(moved, y, crop)
        return replace(prediction, masks=masks)


def square(x: int, y: int = 5, width: int = 20, height: int = 20) -> dict:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y : y + height, x : x + width] = True
    return rle.encode(Masks.from_dense(mask[None]))[0]


def entry(segmentation: dict, image: int = 1, score: float = 0.5) -> dict:
    return {"image_id": image, "category_id": 1, "score": score, "segmentation": segmentation}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images, of which the first two have an object at x = 10."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    generator = np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n}.png", "width": SIZE[1], "height": SIZE[0]} for n in (1, 2, 3)]
    for image in images:
        Image.fromarray(generator.integers(0, 255, (*SIZE, 3), np.uint8)).save(root / "images" / image["file_name"])
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 5, 20, 20], "segmentation": square(10), "area": 400}
        for n in (1, 2)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "<thing>"}]}
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def refine(folder, tmp_path):
    def run(entries: list[dict], refiner: Moves, **options):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(entries))
        data = read_images(folder)
        (tmp_path / "out").mkdir(exist_ok=True)
        results = read_masks(path, data, "val")
        return refine_results(results, data, "val", refiner, tmp_path / "out", title="<title>", **options)

    return run


def test_what_is_refined_and_what_stays(refine, tmp_path):
    """Entries in any order are written in theirs; empty and full masks are counted; the last image has no masks."""
    entries = [
        entry(square(6), 2, 0.25),
        entry(square(7), 1),
        entry(square(0, width=0)),
        entry(square(0, 0, 60, 40)),
        entry(square(40), 2),  # at the right border already
    ]
    refiner = Moves(3)
    done = refine(entries, refiner)
    assert refiner.seen == ["1.png", "2.png"]
    assert (done.images, done.masks, done.changed, done.patches) == (2, 5, 2, 20)
    assert done.unchanged == {"empty": 1, "full": 1, "same": 1}
    assert done.summary().startswith("2 of 5 masks changed in 2 images, 3 as they were (1 empty, 1 full); 20 patches, ")
    written = json.loads((tmp_path / "out/results.json").read_text())
    moved = [square(9), square(10), *(e["segmentation"] for e in entries[2:])]
    assert written == [{**e, "segmentation": mask} for e, mask in zip(entries, moved, strict=True)]


def test_judged_before_and_after(refine, tmp_path):
    """A mask 3 pixels off covers 17 / 23 of the union: a hit for IoU 0.5 to 0.7, five of ten thresholds. The other
    object is missed, so precision is 1 up to recall 0.5: 51 of 101 points."""
    done = refine([entry(square(7))], Moves(3))
    assert done.before["mask AP"] == pytest.approx(51 / 101 * 5 / 10)
    assert done.after["mask AP"] == done.after["boundary AP"] == pytest.approx(51 / 101)
    assert done.before["boundary AP"] < done.before["mask AP"]
    # Of 76 boundary pixels 38 have one of the other's beside them: 17 of the upper side are in common and one is next
    # to those, as on the lower side; and two of the side that lies inside the other square are next to its corners.
    assert done.before["boundary F"] == pytest.approx(38 / 76)
    assert done.after["boundary F"] == 1
    names = ["mask AP", "mask AP50", "mask AP75", "boundary AP", "boundary AP50", "boundary AP75", "boundary F"]
    assert list(done.before)[:7] == list(done.after)[:7] == names
    saved = json.loads((tmp_path / "out/refinement.json").read_text())
    assert saved["before"] == done.before
    assert saved["changed"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "<h1>&lt;title&gt;</h1>" in page
    assert "Largest gains" in page
    assert "Largest losses" not in page
    assert "1.png, mask 1: boundary F 0.500 before, 1.000 after" in page


def test_losses_are_shown_too(refine, tmp_path):
    done = refine([entry(square(10)), entry(square(40), score=0.9)], Moves(3))
    assert done.after["boundary F"] < done.before["boundary F"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "Largest losses" in page
    assert page.count("<img") == 1  # the other instance has no object


def test_without_ground_truth(refine, tmp_path, folder):
    for file in ("annotations/instances_val.json", "annotations"):
        (folder / file).unlink() if file.endswith("json") else (folder / file).rmdir()
    done = refine([entry(square(10)), entry(square(10), 3)], Moves(3))
    assert done.before == done.after == {}
    assert done.changed == 2
    assert not (tmp_path / "out/refinement.json").exists()
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<img") == 2
    assert "metric" not in page


def test_results_without_classes_are_judged_as_one(refine):
    entries = [{"image_id": 1, "segmentation": square(10)}]
    assert refine(entries, Moves(0)).before["mask AP"] == pytest.approx(51 / 101)


def test_images_that_cannot_be_read(refine, folder, tmp_path):
    """They are listed, their masks stay and are judged."""
    (folder / "images/1.png").write_bytes((folder / "images/1.png").read_bytes()[:200])
    refiner = Moves(3)
    done = refine([entry(square(7)), entry(square(7), 2)], refiner)
    assert refiner.seen == ["2.png"]
    assert done.unchanged == {"in unreadable images": 1}
    assert len(done.unreadable) == 1
    assert "1.png: " in done.unreadable[0]
    assert done.after["boundary F"] == pytest.approx((38 / 76 + 1) / 2)
    assert "Images that cannot be read" in (tmp_path / "out/report.html").read_text()
    with pytest.raises(VertebraError, match=r"1.png: .* \(without --strict its masks stay as they are\)"):
        refine([entry(square(7))], refiner, strict=True)


def test_an_image_of_another_size_than_its_annotations(refine, folder):
    Image.new("RGB", (60, 41)).save(folder / "images/1.png")
    with pytest.raises(
        VertebraError, match=r"1.png: the image is 41 x 60 pixels, its masks are for 40 x 60 \(height x"
    ):
        refine([entry(square(7))], Moves(3))


def test_nothing_to_refine(refine, tmp_path):
    done = refine([], Moves(3))
    assert done.masks == done.images == 0
    assert done.before["mask AP"] == 0
    assert done.before["boundary F"] is done.before["mask AP large"] is None
    assert json.loads((tmp_path / "out/results.json").read_text()) == []


def test_pairs_are_those_of_the_coarse_masks():
    """By COCO's rules: the higher score chooses first, crowds are not counted; pairs are by the place in the file."""
    masks = Masks(SIZE)
    for x in (10, 12, 40):
        masks.append(x, 5, torch.ones(20, 20, dtype=torch.bool))
    objects = Masks(SIZE)
    for x in (10, 40):
        objects.append(x, 5, torch.ones(20, 20, dtype=torch.bool))
    labels = torch.zeros(3, dtype=torch.int64)
    coarse = Prediction(labels=labels, scores=torch.tensor([0.1, 0.9, 0.5]), masks=masks, size=SIZE)
    target = Target(labels=labels[:2], masks=objects, crowd=torch.tensor([False, True]), size=SIZE)
    judge = Judge(1)
    pairs = judge.add(coarse, replace(coarse, masks=masks.take([0, 0, 2])), target, [1])
    assert {i: pair.index for i, pair in pairs.items()} == {1: 0}
    assert pairs[1].before < pairs[1].after == 1
    before, after = judge.compute()
    assert before["boundary F"] == pytest.approx(pairs[1].before)
    assert after["boundary F"] == 1
