"""Detections in tiles are those in the whole image."""

import pytest
import torch

from vertebra.kinds import tiles
from vertebra.kinds.tiles import Tile
from vertebra.structures import Masks, Prediction

SIDE = 64


def drawing(*boxes, size=(150, 200)):
    """Rectangles (x1, y1, x2, y2, red) on a black image."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2, red in boxes:
        image[0, y1:y2, x1:x2] = red
    return image


def equal(prediction, expected):
    """Whether both hold the same detections; equal scores may be in any order."""

    def rows(prediction):
        masks = prediction.masks.dense() if prediction.masks is not None else [None] * len(prediction.boxes)
        keypoints = prediction.keypoints if prediction.keypoints is not None else [None] * len(prediction.boxes)
        entries = []
        for box, label, score, mask, points in zip(
            prediction.boxes.tolist(),
            prediction.labels.tolist(),
            prediction.scores.tolist(),
            masks,
            keypoints,
            strict=True,
        ):
            pixels = None if mask is None else mask.nonzero().tolist()
            entries.append((score, label, box, pixels, None if points is None else points[:, :2].tolist()))
        return sorted(entries, key=str)

    return rows(prediction) == rows(expected)


DRAWINGS = {
    "inside one tile": [(5, 5, 20, 20, 200)],
    "nothing": [],
    "across a border": [(50, 10, 80, 30, 200)],
    "across a corner": [(40, 40, 75, 75, 200)],
    "larger than a tile": [(10, 10, 190, 140, 200)],
    "a long thin one": [(0, 40, 200, 43, 200)],
    "touching, of one class": [(40, 40, 60, 60, 200), (60, 40, 80, 60, 202)],
    "touching, of two classes": [(40, 40, 60, 60, 200), (60, 40, 80, 60, 201)],
    "one inside another": [(20, 20, 120, 120, 200), (60, 55, 70, 65, 202)],
    "at the borders of the image": [(0, 0, 10, 10, 200), (190, 140, 200, 150, 202), (0, 90, 70, 150, 201)],
    "equal ones in a row": [(x, 50, x + 8, 58, 200) for x in range(2, 190, 12)],
    "one pixel": [(x, x // 2, x + 1, x // 2 + 1, 200) for x in range(40, 80)][::5],
}


# The detector's keypoints lie half way down what it sees: right for objects that some tile sees to full height.
HIGH = {
    "across a corner",
    "larger than a tile",
    "a long thin one",
    "at the borders of the image",
    "one inside another",
}
CASES = [
    (kind, name)
    for kind in ("boxes", "masks", "keypoints")
    for name in DRAWINGS
    if kind != "keypoints" or name not in HIGH
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_tiles_detect_what_the_whole_image_has(make_detector, kind, name):
    from vertebra.tasks.blobs.regions import regions

    detector = make_detector(kind)
    image = drawing(*DRAWINGS[name])
    (prediction,) = detector.predict(image, tile=SIDE)
    assert prediction.size == (150, 200)
    expected = regions(image[0].int(), kind=kind)
    assert len(expected.boxes) == len(DRAWINGS[name])
    assert equal(prediction, expected)
    assert prediction.scores.tolist() == sorted(prediction.scores.tolist(), reverse=True)


@pytest.mark.parametrize("overlap", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_many_at_random_places(make_detector, seed, overlap):
    from vertebra.tasks.blobs.regions import regions

    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, 170, 230, dtype=torch.uint8)
    for red in range(130, 190):  # later ones cover parts of earlier ones, so that shapes of every kind arise
        x, y = (int(torch.randint(0, limit, (), generator=random)) for limit in (220, 160))
        width, height = torch.randint(2, 60, (2,), generator=random).tolist()
        image[0, y : y + height, x : x + width] = red
    (prediction,) = make_detector().predict(image, tile=SIDE, overlap=overlap)
    expected = regions(image[0].int())
    assert len(expected.boxes) > 50
    assert equal(prediction, expected)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (10, 300), (64, 65), (100, 129), (500, 333)])
@pytest.mark.parametrize("overlap", [0.01, 0.2, 0.5])
def test_the_grid_covers_the_image_and_neighbours_overlap(size, overlap):
    cells = tiles.grid(size, 64, overlap)
    covered = torch.zeros(size, dtype=torch.bool)
    for tile in cells:
        x1, y1, x2, y2 = tile.box
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        assert (y2 - y1, x2 - x1) == (min(64, size[0]), min(64, size[1]))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    for axis, key in ((0, "column"), (1, "row")):
        starts = {getattr(tile, key): tile.box[axis] for tile in cells}
        for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False):
            assert starts[a] + 64 - starts[b] >= round(64 * overlap)


def test_the_number_of_tiles_grows_with_the_pixels():
    assert len(tiles.grid((1024, 1024), 128)) * 4 == pytest.approx(len(tiles.grid((2048, 2048), 128)), rel=0.1)


LEFT, RIGHT = Tile(0, 0, (0, 0, 100, 100)), Tile(0, 1, (80, 0, 180, 100))


def detections(*objects, keypoints=None):
    """A tile's prediction of (x1, y1, x2, y2, score), all of class 0."""
    return Prediction(
        boxes=torch.tensor([values[:4] for values in objects], dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(objects), dtype=torch.int64),
        scores=torch.tensor([values[4] for values in objects]),
        keypoints=keypoints,
        size=(100, 100),
    )


def test_a_whole_detection_wins_over_a_cut_one():
    """The left tile sees only a piece, with a higher score."""
    merged = tiles.merge(
        [detections((85, 10, 100, 30, 0.9)), detections((6, 11, 35, 31, 0.7))], [LEFT, RIGHT], (100, 180)
    )
    assert merged.boxes.tolist() == [[86, 11, 115, 31]]
    assert merged.scores.tolist() == pytest.approx([0.7])


def test_two_pieces_make_a_whole_with_the_higher_score():
    merged = tiles.merge(
        [detections((50, 10, 100, 30, 0.6)), detections((0, 12, 60, 30, 0.8))], [LEFT, RIGHT], (100, 180)
    )
    assert merged.boxes.tolist() == [[50, 10, 140, 30]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_a_piece_that_is_taken_for_a_whole_is_joined_all_the_same():
    """The left tile's box ends 4 pixels before the border, as a detector's may."""
    merged = tiles.merge(
        [detections((50, 10, 96, 30, 0.6)), detections((0, 10, 60, 30, 0.8))], [LEFT, RIGHT], (100, 180)
    )
    assert merged.boxes.tolist() == [[50, 10, 140, 30]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_the_top_scoring_of_two_whole_detections_is_kept():
    merged = tiles.merge(
        [detections((84, 10, 96, 30, 0.6)), detections((5, 10, 17, 31, 0.8))], [LEFT, RIGHT], (100, 180)
    )
    assert merged.boxes.tolist() == [[85, 10, 97, 31]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_two_whole_detections_that_differ_are_not_joined():
    merged = tiles.merge(
        [detections((84, 10, 96, 30, 0.9)), detections((7, 10, 19, 30, 0.8))], [LEFT, RIGHT], (100, 180)
    )
    assert merged.boxes.tolist() == [[84, 10, 96, 30]]


def test_two_objects_of_a_tile_never_match_the_same_one_of_another():
    other = detections((4, 8, 16, 28, 0.8), (4, 14, 16, 34, 0.7))
    merged = tiles.merge([detections((84, 10, 96, 30, 0.9)), other], [LEFT, RIGHT], (100, 180))
    assert merged.boxes.tolist() == [[84, 10, 96, 30], [84, 14, 96, 34]]


@pytest.mark.parametrize(
    "last", [Tile(0, 2, (80, 0, 180, 100)), Tile(1, 1, (80, 80, 180, 180)), Tile(2, 2, (80, 80, 180, 180))]
)
def test_tiles_that_are_no_neighbours_may_overlap_too(last):
    """The tile between them misses the object."""
    x, y, *_ = last.box
    there = detections((84 - x, 84 - y, 96 - x, 96 - y, 0.8))
    merged = tiles.merge([detections((84, 84, 96, 96, 0.9)), there], [LEFT, last], (180, 180))
    assert merged.boxes.tolist() == [[84, 84, 96, 96]]


def test_each_keypoint_is_the_top_scoring_one():
    left = detections((50, 10, 100, 30, 0.6), keypoints=torch.tensor([[[50.0, 20.0, 0.9], [99.0, 20.0, 0.2]]]))
    right = detections((0, 10, 60, 30, 0.8), keypoints=torch.tensor([[[1.0, 20.0, 0.3], [60.0, 20.0, 0.7]]]))
    merged = tiles.merge([left, right], [LEFT, RIGHT], (100, 180))
    assert torch.allclose(merged.keypoints, torch.tensor([[[50.0, 20.0, 0.9], [140.0, 20.0, 0.7]]]))


def test_objects_of_other_classes_stay_apart():
    first, second = detections((84, 10, 96, 30, 0.6)), detections((4, 10, 16, 30, 0.8))
    second.labels += 1
    assert len(tiles.merge([first, second], [LEFT, RIGHT], (100, 180)).boxes) == 2


def test_nothing_is_as_large_as_the_image():
    """A hundred thousand pixels a side: a mask of the whole would not fit into memory."""
    side = 100_000
    first = detections((50, 10, 100, 30, 0.6))
    first.masks = Masks((100, 100), [(50, 10)], [torch.ones(20, 50, dtype=torch.bool)])
    second = detections((0, 10, 60, 30, 0.8))
    second.masks = Masks((100, 100), [(0, 10)], [torch.ones(20, 60, dtype=torch.bool)])
    merged = tiles.merge([first, second], [LEFT, RIGHT], (side, side))
    assert merged.masks.size == (side, side)
    assert merged.masks.corners == [(50, 10)]
    assert merged.masks.crops[0].shape == (20, 90)
    assert merged.masks.crops[0].all()


def test_an_image_of_one_tile_is_not_cut(make_detector):
    detector = make_detector()
    detector.predict(drawing((5, 5, 20, 20, 200), size=(64, 50)), tile=SIDE)
    assert len(detector.task.batches) == 1
    assert detector.task.batches[0][0] == 1
