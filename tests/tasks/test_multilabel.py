"""The task of several classes per image: losses, predictions, and checkpoints from and to classifiers."""

import math

import pytest
import torch

import vertebra
from vertebra import tasks
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess, Target

SMALL = Preprocess(size=(32, 32), resize="squash")
SHALLOW = {"depths": (1, 1, 1, 1)}
IMAGES = torch.zeros(2, 3, 32, 32)
TARGETS = [Target(tags=torch.tensor([1])), Target(tags=torch.zeros(0, dtype=torch.int64))]


def make(task="multilabel", **options):
    given = {"classes": 2, "preprocess": SMALL, "backbone": "resnet18", "backbone_options": SHALLOW}
    return tasks.create(task, **given | options)


def with_logits(task, logits):
    task.forward = lambda images, sizes=None: (torch.tensor(logits),)
    return task


LOGITS = [[0.0, math.log(3)], [0.0, 0.0]]


def test_binary_cross_entropy_by_hand():
    task = with_logits(make(), LOGITS)
    expected = (-math.log(0.5) - math.log(0.75) - 2 * math.log(0.5)) / 2  # summed over classes, mean over images
    assert float(task.loss(IMAGES, TARGETS)["tags"]) == pytest.approx(expected)
    weighted = with_logits(make(class_weights=(0.0, 2.0)), LOGITS)
    assert float(weighted.loss(IMAGES, TARGETS)["tags"]) == pytest.approx(-math.log(0.75) - math.log(0.5))


def test_the_other_losses_by_hand():
    softmax = with_logits(make(loss="softmax"), LOGITS)
    assert float(softmax.loss(IMAGES, TARGETS)["tags"]) == pytest.approx(-math.log(0.75))
    focused = with_logits(make(loss="asymmetric", gamma_negative=1.0, margin=0.0), LOGITS)
    expected = (-0.5 * math.log(0.5) - math.log(0.75) - 2 * 0.5 * math.log(0.5)) / 2
    assert float(focused.loss(IMAGES, TARGETS)["tags"]) == pytest.approx(expected)


def test_label_smoothing_by_hand():
    task = with_logits(make(label_smoothing=0.2), LOGITS)  # targets 0.1 and 0.9, then 0.1 twice
    second = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert float(task.loss(IMAGES, TARGETS)["tags"]) == pytest.approx((3 * math.log(2) + second) / 2)
    softmax = with_logits(make(loss="softmax", label_smoothing=0.2), LOGITS)
    expected = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert float(softmax.loss(IMAGES, TARGETS)["tags"]) == pytest.approx(expected)


def test_soft_tags():
    task = with_logits(make(), LOGITS)
    soft = [Target(tags=torch.tensor([0.0, 1.0])), Target(tags=torch.tensor([0.0, 0.0]))]
    assert task.loss(IMAGES, soft)["tags"] == task.loss(IMAGES, TARGETS)["tags"]
    with pytest.raises(VertebraError, match="the targets have tags of int64 and soft tags, of float32; choose one"):
        task.loss(IMAGES, [soft[0], TARGETS[1]])


def test_predictions_reach_their_thresholds():
    frames = [Frame((32, 32), (32, 32))] * 2
    first, second = with_logits(make(), [[0.0, 1.0], [-1.0, -2.0]]).infer(IMAGES, frames)
    assert first.labels.tolist() == [1, 0]  # 0.5 is reached
    assert first.scores.tolist() == pytest.approx([0.731, 0.5], abs=1e-3)
    assert (len(second), repr(second)) == (0, "Prediction(nothing)")
    assert [instance.label for instance in first] == [1, 0]
    (shared, _) = with_logits(make(loss="softmax"), LOGITS).infer(IMAGES, frames)
    assert shared.tags.tolist() == pytest.approx([0.25, 0.75])


def test_at_first_every_class_is_improbable():
    model = make(classes=5).eval()
    with torch.inference_mode():
        (logits,) = model(torch.randn(2, 3, 32, 32))
    assert logits.sigmoid().mean() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (Target(), r"target 1 has no tags, such as tags=torch.tensor\(\[0, 2\]\)"),
        (Target(tags=torch.tensor([2])), r"target 1: tags\[0\] is 2; the 2 classes are 0 to 1"),
        (Target(tags=torch.tensor([True, False])), r"target 1: tags is \[2\] bool; it must be \[T\] int64"),
        (Target(tags=torch.tensor([0.5])), r"target 1: tags is \[1\] float32; it must be \[2\] float32"),
        (Target(tags=torch.tensor([0.5, math.nan])), "choose one"),
    ],
)
def test_wrong_targets_are_explained(target, sentence):
    with pytest.raises(VertebraError, match=sentence):
        make().loss(IMAGES, [TARGETS[0], target])


def test_wrong_options_are_explained():
    with pytest.raises(VertebraError, match="loss is 'softmax', which tells classes apart; there is one class only"):
        make(classes=1, loss="softmax")
    with pytest.raises(VertebraError, match="3 class weights for 2 classes"):
        make(class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(VertebraError, match=r"loss is 'focal'; there are bce, asymmetric"):
        make(loss="focal")
    with pytest.raises(VertebraError, match=r"margin is 2; it must lie between 0 and 1"):
        make(margin=2.0)
    with pytest.raises(VertebraError, match="gamma_negative is for loss asymmetric, and loss is bce: leave it out"):
        make(gamma_negative=2.0)


@pytest.mark.parametrize(("first", "second"), [("classification", "multilabel"), ("multilabel", "classification")])
def test_the_trunk_is_taken_over_and_the_head_is_not(tmp_path, first, second):
    """Even where the classes are equally many: logits of the two tasks mean something else."""
    source = make(first)
    with torch.no_grad():
        for parameter in source.head.parameters():
            parameter.fill_(7.0)
    checkpoint.save(source, tmp_path / "a.safetensors")
    model = vertebra.create(second, weights=tmp_path / "a.safetensors", classes=2, preprocess=SMALL)
    trunk = source.backbone.state_dict()
    assert all(torch.equal(trunk[name], tensor) for name, tensor in model.backbone.state_dict().items())
    assert all(name.startswith("head.") for name in (*model.report.new, *model.report.left_out))
    assert len(model.report.new) == len(model.report.left_out) == 2
    assert not any((parameter == 7).any() for parameter in model.head.parameters())


def test_the_loss_of_a_checkpoint_is_kept_unless_another_is_chosen(tmp_path):
    checkpoint.save(make(loss="softmax", dropout=0.5), tmp_path / "a.safetensors")
    config = make(weights=tmp_path / "a.safetensors").config
    assert (config.loss, config.dropout) == ("softmax", 0.0)
    assert make(weights=tmp_path / "a.safetensors", loss="bce").config.loss == "bce"


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ([0.5], r"metrics\.thresholds has 1 numbers for 2 classes"),
        ([0.5, 1.5], r"metrics\.thresholds is 1\.5; it must lie between 0 and 1"),
        ("half", r"metrics\.thresholds is 'half'; it must be a list of numbers or null"),
    ],
)
def test_wrong_thresholds_of_a_checkpoint(tmp_path, thresholds, sentence, capsys):
    checkpoint.save(make(), tmp_path / "a.safetensors", metrics={"thresholds": thresholds})
    with pytest.raises(VertebraError, match=sentence):
        vertebra.load(tmp_path / "a.safetensors")
    assert main(["evaluate", str(tmp_path / "a.safetensors"), "--data.path=shapes"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
