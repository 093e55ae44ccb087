"""What is found in tiles is what is in the picture."""

import pytest
import torch

from vertebra.predict import tiles
from vertebra.predict.tiles import Tile
from vertebra.structures import Masks, Prediction

SIDE = 64


def scene(*boxes, size=(150, 200)):
    """Rectangles (x1, y1, x2, y2, red) on a black picture."""
    picture = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2, red in boxes:
        picture[0, y1:y2, x1:x2] = red
    return picture


def alike(found, want):
    """Whether both hold the same objects; equal scores may stand in any order."""

    def rows(prediction):
        masks = prediction.masks.dense() if prediction.masks is not None else [None] * len(prediction.boxes)
        points = prediction.keypoints if prediction.keypoints is not None else [None] * len(prediction.boxes)
        entries = []
        for box, label, score, mask, point in zip(
            prediction.boxes.tolist(),
            prediction.labels.tolist(),
            prediction.scores.tolist(),
            masks,
            points,
            strict=True,
        ):
            where = None if mask is None else mask.nonzero().tolist()
            entries.append((score, label, box, where, None if point is None else point[:, :2].tolist()))
        return sorted(entries, key=str)

    return rows(found) == rows(want)


SCENES = {
    "inside one tile": [(5, 5, 20, 20, 200)],
    "nothing": [],
    "across a border": [(50, 10, 80, 30, 200)],
    "across a corner": [(40, 40, 75, 75, 200)],
    "larger than a tile": [(10, 10, 190, 140, 200)],
    "a long thin one": [(0, 40, 200, 43, 200)],
    "touching, of one class": [(40, 40, 60, 60, 200), (60, 40, 80, 60, 202)],
    "touching, of two classes": [(40, 40, 60, 60, 200), (60, 40, 80, 60, 201)],
    "one inside another": [(20, 20, 120, 120, 200), (60, 55, 70, 65, 202)],
    "at the picture's own borders": [(0, 0, 10, 10, 200), (190, 140, 200, 150, 202), (0, 90, 70, 150, 201)],
    "of like look in a row": [(x, 50, x + 8, 58, 200) for x in range(2, 190, 12)],
    "one pixel": [(x, x // 2, x + 1, x // 2 + 1, 200) for x in range(40, 80)][::5],
}


# The finder's keypoints lie half way down what it sees, so they tell of objects that some tile sees to full height.
HIGH = {
    "across a corner",
    "larger than a tile",
    "a long thin one",
    "at the picture's own borders",
    "one inside another",
}
CASES = [
    (kind, name)
    for kind in ("boxes", "masks", "keypoints")
    for name in SCENES
    if kind != "keypoints" or name not in HIGH
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_tiles_find_what_the_whole_has(make_finder, kind, name):
    from vertebra.tasks.blobs import blobs

    finder = make_finder(kind)
    picture = scene(*SCENES[name])
    (found,) = finder.predict(picture, tile=SIDE)
    assert found.size == (150, 200)
    want = blobs(picture[0].int(), kind=kind)
    assert len(want.boxes) == len(SCENES[name])
    assert alike(found, want)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("overlap", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_many_at_random_places(make_finder, seed, overlap):
    from vertebra.tasks.blobs import blobs

    random = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, 170, 230, dtype=torch.uint8)
    for red in range(130, 190):  # later ones lie on earlier ones, so that shapes of every kind come about
        x, y = (int(torch.randint(0, limit, (), generator=random)) for limit in (220, 160))
        width, height = torch.randint(2, 60, (2,), generator=random).tolist()
        picture[0, y : y + height, x : x + width] = red
    (found,) = make_finder().predict(picture, tile=SIDE, overlap=overlap)
    want = blobs(picture[0].int())
    assert len(want.boxes) > 50
    assert alike(found, want)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (10, 300), (64, 65), (100, 129), (500, 333)])
@pytest.mark.parametrize("overlap", [0.01, 0.2, 0.5])
def test_the_grid_covers_the_picture_and_neighbours_overlap(size, overlap):
    places = tiles.grid(size, 64, overlap)
    covered = torch.zeros(size, dtype=torch.bool)
    for place in places:
        x1, y1, x2, y2 = place.box
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        assert (y2 - y1, x2 - x1) == (min(64, size[0]), min(64, size[1]))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    for axis, key in ((0, "column"), (1, "row")):
        starts = {getattr(place, key): place.box[axis] for place in places}
        for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False):
            assert starts[a] + 64 - starts[b] >= round(64 * overlap)


def test_the_number_of_tiles_grows_with_the_pixels():
    assert len(tiles.grid((1024, 1024), 128)) * 4 == pytest.approx(len(tiles.grid((2048, 2048), 128)), rel=0.1)


LEFT, RIGHT = Tile(0, 0, (0, 0, 100, 100)), Tile(0, 1, (80, 0, 180, 100))


def said(*objects, keypoints=None):
    """A tile's prediction of (x1, y1, x2, y2, score), all of class 0."""
    return Prediction(
        boxes=torch.tensor([one[:4] for one in objects], dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(objects), dtype=torch.int64),
        scores=torch.tensor([one[4] for one in objects]),
        keypoints=keypoints,
        size=(100, 100),
    )


def test_a_whole_view_stands_against_a_cut_one():
    """The left tile sees a piece only, and is surer of it."""
    found = tiles.merge([said((85, 10, 100, 30, 0.9)), said((6, 11, 35, 31, 0.7))], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[86, 11, 115, 31]]
    assert found.scores.tolist() == pytest.approx([0.7])


def test_two_pieces_make_a_whole_with_the_better_score():
    found = tiles.merge([said((50, 10, 100, 30, 0.6)), said((0, 12, 60, 30, 0.8))], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[50, 10, 140, 30]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_a_piece_that_is_taken_for_a_whole_is_joined_all_the_same():
    """The left tile's box ends 4 pixels before the border, as a detector's may."""
    found = tiles.merge([said((50, 10, 96, 30, 0.6)), said((0, 10, 60, 30, 0.8))], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[50, 10, 140, 30]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_the_surer_of_two_whole_views_stands():
    found = tiles.merge([said((84, 10, 96, 30, 0.6)), said((5, 10, 17, 31, 0.8))], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[85, 10, 97, 31]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_two_whole_views_that_differ_are_not_joined():
    found = tiles.merge([said((84, 10, 96, 30, 0.9)), said((7, 10, 19, 30, 0.8))], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[84, 10, 96, 30]]


def test_two_objects_of_a_tile_are_never_both_one_of_another():
    other = said((4, 8, 16, 28, 0.8), (4, 14, 16, 34, 0.7))
    found = tiles.merge([said((84, 10, 96, 30, 0.9)), other], [LEFT, RIGHT], (100, 180))
    assert found.boxes.tolist() == [[84, 10, 96, 30], [84, 14, 96, 34]]


@pytest.mark.parametrize(
    "last", [Tile(0, 2, (80, 0, 180, 100)), Tile(1, 1, (80, 80, 180, 180)), Tile(2, 2, (80, 80, 180, 180))]
)
def test_tiles_that_are_no_neighbours_may_overlap_too(last):
    """The tile between them misses the object."""
    x, y, *_ = last.box
    there = said((84 - x, 84 - y, 96 - x, 96 - y, 0.8))
    found = tiles.merge([said((84, 84, 96, 96, 0.9)), there], [LEFT, last], (180, 180))
    assert found.boxes.tolist() == [[84, 84, 96, 96]]


def test_of_each_keypoint_the_surest():
    left = said((50, 10, 100, 30, 0.6), keypoints=torch.tensor([[[50.0, 20.0, 0.9], [99.0, 20.0, 0.2]]]))
    right = said((0, 10, 60, 30, 0.8), keypoints=torch.tensor([[[1.0, 20.0, 0.3], [60.0, 20.0, 0.7]]]))
    found = tiles.merge([left, right], [LEFT, RIGHT], (100, 180))
    assert torch.allclose(found.keypoints, torch.tensor([[[50.0, 20.0, 0.9], [140.0, 20.0, 0.7]]]))


def test_objects_of_other_classes_stay_apart():
    one, other = said((84, 10, 96, 30, 0.6)), said((4, 10, 16, 30, 0.8))
    other.labels += 1
    assert len(tiles.merge([one, other], [LEFT, RIGHT], (100, 180)).boxes) == 2


def test_nothing_is_as_large_as_the_picture():
    """A hundred thousand pixels a side: a mask of the whole would not fit into memory."""
    side = 100_000
    one = said((50, 10, 100, 30, 0.6))
    one.masks = Masks((100, 100), [(50, 10)], [torch.ones(20, 50, dtype=torch.bool)])
    other = said((0, 10, 60, 30, 0.8))
    other.masks = Masks((100, 100), [(0, 10)], [torch.ones(20, 60, dtype=torch.bool)])
    found = tiles.merge([one, other], [LEFT, RIGHT], (side, side))
    assert found.masks.size == (side, side)
    assert found.masks.corners == [(50, 10)]
    assert found.masks.crops[0].shape == (20, 90)
    assert found.masks.crops[0].all()


def test_a_picture_of_one_tile_is_not_cut(make_finder):
    finder = make_finder()
    finder.predict(scene((5, 5, 20, 20, 200), size=(64, 50)), tile=SIDE)
    assert len(finder.task.batches) == 1
    assert finder.task.batches[0][0] == 1
