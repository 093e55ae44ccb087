"""The head of Sparse R-CNN: boxes and losses worked by hand."""

import math
import warnings

import pytest
import torch

from vertebra.heads import dynamic
from vertebra.heads.dynamic import DynamicHead
from vertebra.structures import Target

SCALE = torch.tensor([[100.0, 50, 100, 50]])
PREDICTIONS = [(torch.zeros(1, 2, 1), torch.tensor([[[0.0, 0, 20, 20], [50, 0, 70, 20]]]))]
"""Two proposals of probability 0.5."""


def head(**options):
    torch.manual_seed(0)
    return DynamicHead(16, 1, **{"num_proposals": 2, "num_stages": 2, "feedforward": 16, "hidden": 4, **options})


def target(*boxes, crowd=None):
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    crowd = None if crowd is None else torch.tensor(crowd)
    return Target(boxes=torch.tensor(boxes).view(-1, 4), labels=labels, crowd=crowd, size=(50, 100))


def losses(one, model=None):
    terms = (model or head()).loss(PREDICTIONS, [one], SCALE)
    return [float(terms[f"{name}1"]) for name in ("classification", "box", "giou")]


def test_the_first_boxes_are_the_whole_image():
    model, pooled = head(), []
    for stage in model.stages:
        torch.nn.init.zeros_(stage.deltas.weight)
        torch.nn.init.zeros_(stage.deltas.bias)

    def pool(boxes):
        pooled.append(boxes)
        return torch.zeros(2, 16, 7, 7)

    predictions = model(pool, SCALE)
    assert len(predictions) == len(pooled) == 2
    for boxes in (*pooled, *(boxes for _, boxes in predictions)):
        assert boxes.tolist() == [[[0, 0, 100, 50]] * 2]
    assert not any(boxes.requires_grad for boxes in pooled)
    assert predictions[0][1].requires_grad  # of the first stage alone the learned boxes have a gradient
    (gradient,) = torch.autograd.grad(predictions[1][1].sum(), model.proposal_boxes, allow_unused=True)
    assert gradient is None


def test_initial_scores_are_0_01():
    for stage in head().stages:
        assert stage.classify.bias.sigmoid().tolist() == pytest.approx([0.01])


def test_boxes_are_moved_in_units_of_their_sides():
    """dx = 2 / 2 sides; twice as wide; the height is clamped to half."""
    deltas = torch.tensor([[[2.0, 0, math.log(2), -100], [0.0, 0, 100, 0]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0.0, 0, 10, 10]]])
    refined = head(scale_clamp=math.log(2)).refined(boxes, deltas)
    assert refined[0].flatten().tolist() == pytest.approx([5, 2.5, 25, 7.5, -5, 0, 15, 10])


def test_the_loss_of_one_object():
    """Focal 0.25 * 0.25 * log 2 for the first proposal, 0.75 * 0.25 * log 2 for the other; L1 10 / 100; IoU 0.5 in an
    enclosing box that is the union."""
    expected = [2 * 0.25 * math.log(2), 5 * 0.1, 2 * 0.5]
    assert losses(target([0.0, 0, 10, 20])) == pytest.approx(expected, rel=1e-5)


def test_every_stage_is_matched_by_itself():
    logits, boxes = PREDICTIONS[0]
    terms = head().loss([*PREDICTIONS, (logits, boxes.flip(1))], [target([0.0, 0, 10, 20])], SCALE)
    assert set(terms) == {f"{name}{stage}" for name in ("classification", "box", "giou") for stage in (1, 2)}
    assert terms["box2"] == terms["box1"]


def test_proposals_in_crowd_regions_are_ignored_unless_they_are_matched():
    crowd = [45.0, 0, 80, 30]
    classification, *_ = losses(target([0.0, 0, 10, 20], crowd, crowd=[False, True]))
    assert classification == pytest.approx(2 * 0.0625 * math.log(2), rel=1e-5)
    everywhere = [0.0, 0, 100, 50]
    assert losses(target([0.0, 0, 10, 20], everywhere, crowd=[False, True]))[0] == pytest.approx(classification)


def test_no_objects_are_all_background():
    assert losses(target()) == pytest.approx([2 * 2 * 0.1875 * math.log(2), 0, 0], rel=1e-5)


def test_more_objects_than_proposals():
    """The two that fit are learned; the others are counted, and one warning says so."""
    model = head()
    boxes = [[0.0, 0, 20, 20], [50.0, 0, 70, 20], [0.0, 30, 100, 50]]
    with pytest.warns(UserWarning, match="An image has 3 objects, but there are 2 proposals: .* Raise num_proposals"):
        terms = losses(target(*boxes), model=model)
    assert terms == pytest.approx([2 * 0.0625 * math.log(2), 0, 0], abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses(target(*boxes), model=model)
    assert model.surplus == 2


def test_the_number_of_objects_is_a_mean_over_processes(monkeypatch):
    one = losses(target([0.0, 0, 10, 20]))
    monkeypatch.setattr(dynamic, "mean_over_processes", lambda count: (count + 3) / 2)  # the other process has three
    assert losses(target([0.0, 0, 10, 20])) == pytest.approx([term / 2 for term in one])
