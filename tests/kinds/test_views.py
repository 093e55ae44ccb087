"""Several views of one image make one prediction, in the image's pixels."""

import pytest
import torch
from test_tiles import drawing, equal

from vertebra.kinds import views
from vertebra.structures import KeypointSchema, Masks, Prediction

PLACES = [(4, 8, 20, 24, 200), (20, 8, 40, 32, 202), (60, 40, 96, 64, 201)]


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_every_view_leads_back_to_the_same_pixels(make_detector, kind):
    detector = make_detector(kind)
    image = drawing(*PLACES, size=(64, 96))
    (plain,) = detector.predict(image)
    assert len(plain.boxes) == 3
    detector.task.batches.clear()
    (merged,) = detector.predict(image, tta=True)
    shapes = [batch[2:] for batch in detector.task.batches]
    assert shapes == [(48, 72)] * 2 + [(64, 96)] * 2 + [(80, 120)] * 2
    merged.boxes = merged.boxes.round(decimals=3)  # a weighted mean of equal numbers
    assert equal(merged, plain)


def test_a_model_of_one_size_sees_the_mirror_image_alone(make_detector):
    detector = make_detector()
    detector.task.any_size = False
    detector.predict(drawing(*PLACES, size=(64, 96)), tta=True)
    assert [batch[2:] for batch in detector.task.batches] == [(64, 96)] * 2


@pytest.mark.parametrize("resize", ["fit", "squash"])
def test_fixed_sizes_are_scaled_to_multiples_of_the_divisor(make_detector, resize):
    detector = make_detector(size=50, resize=resize)  # 50 x 200, divisor 4
    detector.predict(drawing(*PLACES, size=(64, 96)), tta=True)
    assert [batch[2:] for batch in detector.task.batches][::2] == [(36, 152), (50, 200), (64, 248)]


def test_views_and_tiles_together(make_detector):
    image = drawing(*PLACES, (52, 100, 88, 140, 204), size=(152, 152))  # whose tiles begin at multiples of 4
    detector = make_detector()
    (merged,) = detector.predict(image, tile=64, tta=True)
    (expected,) = detector.predict(image, tile=64)
    assert len(expected.boxes) == 4
    assert len(merged.boxes) == 4
    assert torch.equal(merged.masks.dense(), expected.masks.dense())


def test_left_and_right_keypoints_swap_in_the_mirror_image():
    schema = KeypointSchema(("nose", "left", "right"), flip_indices=(0, 2, 1))
    person = Prediction(
        boxes=torch.tensor([[10.0, 5.0, 30.0, 25.0]]),
        masks=Masks((40, 100), [(10, 5)], [torch.tensor([[True, False, False]])]),
        keypoints=torch.tensor([[[20.0, 6.0, 0.9], [12.0, 8.0, 0.8], [28.0, 8.0, 0.7]]]),
    )
    flipped = views.flip(person, 100, schema)
    assert flipped.boxes.tolist() == [[70, 5, 90, 25]]
    expected = torch.tensor(
        [[[79.0, 6.0, 0.9], [71.0, 8.0, 0.7], [87.0, 8.0, 0.8]]]
    )  # pixel 20 of 100, counted from 0, is the 80th from the right
    assert torch.equal(flipped.keypoints, expected)
    assert torch.equal(flipped.masks[0], person.masks[0].flip(1))
    again = views.flip(flipped, 100, schema)
    assert torch.equal(again.keypoints, person.keypoints)
    assert torch.equal(again.boxes, person.boxes)


def view(*objects):
    return Prediction(
        boxes=torch.tensor([values[:4] for values in objects], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([values[4] for values in objects]),
        labels=torch.tensor([values[5] for values in objects], dtype=torch.int64),
    )


def test_boxes_vote_by_score_within_their_class():
    first = view((0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.5, 1))
    second = view((0, 0, 13, 10, 0.45, 0), (0, 0, 10, 10, 0.3, 1))
    merged = views.merge([first, second])
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert merged.labels.tolist() == [0, 1, 1]
    assert merged.boxes[0].tolist() == pytest.approx([0, 0, 11, 10])  # (2 * 10 + 1 * 13) / 3
    assert merged.boxes[1:].tolist() == [[50, 50, 60, 60], [0, 0, 10, 10]]


def test_no_detections_in_any_view():
    assert views.merge([view(), view()]).boxes.shape == (0, 4)


def test_a_score_of_zero_keeps_its_box():
    assert views.merge([view((1, 2, 3, 4, 0.0, 0))]).boxes.tolist() == [[1, 2, 3, 4]]
