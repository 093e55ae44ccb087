"""Several views of one picture make one answer, in the picture's own pixels."""

import pytest
import torch
from test_tiles import alike, scene

from vertebra.predict import views
from vertebra.structures import Masks, Points, Prediction, Preprocess

PLACES = [(4, 8, 20, 24, 200), (20, 8, 40, 32, 202), (60, 40, 96, 64, 201)]


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_every_view_leads_back_to_the_same_pixels(make_finder, kind):
    finder = make_finder(kind)
    picture = scene(*PLACES, size=(64, 96))
    (plain,) = finder.predict(picture)
    assert len(plain.boxes) == 3
    finder.task.batches.clear()
    (found,) = finder.predict(picture, tta=True)
    shapes = [batch[2:] for batch in finder.task.batches]
    assert shapes == [(48, 72)] * 2 + [(64, 96)] * 2 + [(80, 120)] * 2
    found.boxes = found.boxes.round(decimals=3)  # a weighted mean of equal numbers
    assert alike(found, plain)


def test_a_backbone_of_one_size_has_the_mirror_alone(make_finder):
    finder = make_finder()
    finder.task.backbone.any_size = False
    finder.predict(scene(*PLACES, size=(64, 96)), tta=True)
    assert [batch[2:] for batch in finder.task.batches] == [(64, 96)] * 2


def test_views_and_tiles_together(make_finder):
    picture = scene(*PLACES, (52, 100, 88, 140, 204), size=(152, 152))  # whose tiles begin at multiples of 4
    finder = make_finder()
    (found,) = finder.predict(picture, tile=64, tta=True)
    (want,) = finder.predict(picture, tile=64)
    assert len(want.boxes) == 4
    assert len(found.boxes) == 4
    assert torch.equal(found.masks.dense(), want.masks.dense())


def test_a_mirrored_person_has_its_left_on_the_other_side():
    points = Points(("nose", "left", "right"), flip=(0, 2, 1))
    one = Prediction(
        boxes=torch.tensor([[10.0, 5.0, 30.0, 25.0]]),
        masks=Masks((40, 100), [(10, 5)], [torch.tensor([[True, False, False]])]),
        keypoints=torch.tensor([[[20.0, 6.0, 0.9], [12.0, 8.0, 0.8], [28.0, 8.0, 0.7]]]),
    )
    found = views.mirrored(one, 100, points)
    assert found.boxes.tolist() == [[70, 5, 90, 25]]
    want = torch.tensor(
        [[[79.0, 6.0, 0.9], [71.0, 8.0, 0.7], [87.0, 8.0, 0.8]]]
    )  # pixel 20 of 100 is the 80th from the right
    assert torch.equal(found.keypoints, want)
    assert torch.equal(found.masks[0], one.masks[0].flip(1))
    again = views.mirrored(found, 100, points)
    assert torch.equal(again.keypoints, one.keypoints)
    assert torch.equal(again.boxes, one.boxes)


def view(*objects):
    return Prediction(
        boxes=torch.tensor([one[:4] for one in objects], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([one[4] for one in objects]),
        labels=torch.tensor([one[5] for one in objects], dtype=torch.int64),
    )


def test_boxes_vote_by_score_within_their_class():
    one = view((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.5, 1))
    other = view((0, 0, 13, 10, 0.45, 0), (0, 0, 10, 10, 0.3, 1))
    found = views.merge([one, other])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert found.labels.tolist() == [0, 1, 1]
    assert found.boxes[0].tolist() == pytest.approx([0, 0, 11, 10])  # (2 * 10 + 1 * 13) / 3
    assert found.boxes[1:].tolist() == [[50, 50, 60, 60], [0, 0, 10, 10]]


def test_nothing_in_any_view():
    assert views.merge([view(), view()]).boxes.shape == (0, 4)


def test_a_score_of_nought_keeps_its_box():
    assert views.merge([view((1, 2, 3, 4, 0.0, 0))]).boxes.tolist() == [[1, 2, 3, 4]]


def test_sizes():
    shortest = Preprocess((800, 1333), resize="shortest")
    assert views.scaled(shortest, 0.75).size == (600, 1000)
    assert views.scaled(Preprocess((512, 512), resize="fit"), 1.25).size == (640, 640)
    assert views.scaled(Preprocess((100, 224), resize="squash"), 0.75).size == (64, 160)  # multiples of 32
    assert views.scaled(shortest, 1.0) is shortest
