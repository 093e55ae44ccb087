"""The classification task, by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra import backbones, tasks
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Prediction, Preprocess, Target
from vertebra.tasks.classification.linear import Config, LinearClassifier

SMALL = Preprocess(size=(32, 32))


def make(**options):
    return tasks.create("classification", backbone="resnet18", **({"classes": 4, "preprocess": SMALL} | options))


def with_logits(task, logits):
    task.forward = lambda images, sizes=None: (torch.tensor(logits),)
    return task


def test_hard_and_soft_labels_by_hand():
    task = with_logits(make(classes=2), [[0.0, math.log(3)], [0.0, 0.0]])
    images = torch.zeros(2, 3, 32, 32)
    hard = [Target(label=torch.tensor(1)), Target(label=torch.tensor(0))]
    assert float(task.loss(images, hard)["classification"]) == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)
    soft = [Target(label=torch.tensor([0.5, 0.5])), Target(label=torch.tensor([1.0, 0.0]))]
    expected = (-(math.log(0.25) + math.log(0.75)) / 2 - math.log(0.5)) / 2
    assert float(task.loss(images, soft)["classification"]) == pytest.approx(expected)


def test_label_smoothing_and_class_weights_by_hand():
    images, target = torch.zeros(1, 3, 32, 32), [Target(label=torch.tensor(1))]
    smooth = with_logits(make(classes=2, label_smoothing=0.2), [[0.0, math.log(3)]])
    expected = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert float(smooth.loss(images, target)["classification"]) == pytest.approx(expected)
    weighted = with_logits(make(classes=2, class_weights=(1.0, 3.0)), [[0.0, math.log(3)], [0.0, 0.0]])
    both = [*target, Target(label=torch.tensor(0))]
    expected = (3 * -math.log(0.75) - math.log(0.5)) / 4
    assert float(weighted.loss(torch.zeros(2, 3, 32, 32), both)["classification"]) == pytest.approx(expected)


def test_binary_cross_entropy_by_hand():
    """Of sigmoids of 0.5 and 0.75; the sum over the classes. After mixup both classes are there."""
    logits, images = [[0.0, math.log(3)]], torch.zeros(1, 3, 32, 32)
    task = with_logits(make(classes=2, loss="bce"), logits)
    hard, mixed = [Target(label=torch.tensor(1))], [Target(label=torch.tensor([0.9, 0.1]))]
    assert float(task.loss(images, hard)["classification"]) == pytest.approx(-math.log(0.5) - math.log(0.75))
    assert float(task.loss(images, mixed)["classification"]) == pytest.approx(-math.log(0.5) - math.log(0.75))
    other = [Target(label=torch.tensor(0))]
    assert float(task.loss(images, other)["classification"]) == pytest.approx(-math.log(0.5) - math.log(0.25))
    smooth = with_logits(make(classes=2, loss="bce", label_smoothing=0.2), logits)
    expected = -math.log(0.5) - 0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert float(smooth.loss(images, hard)["classification"]) == pytest.approx(expected)
    weighted = with_logits(make(classes=2, loss="bce", class_weights=(1.0, 3.0)), logits)
    assert float(weighted.loss(images, hard)["classification"]) == pytest.approx(-math.log(0.5) - 3 * math.log(0.75))
    assert make(classes=5, loss="bce").head.bias.tolist() == pytest.approx([-math.log(4)] * 5)  # sigmoid 1 / 5


def test_predictions_are_probabilities():
    task = with_logits(make(classes=2), [[0.0, math.log(3)]])
    (prediction,) = task.infer(torch.zeros(1, 3, 32, 32), [Frame((32, 32), (32, 32))])
    assert prediction.probabilities.tolist() == pytest.approx([0.25, 0.75])
    (first, second) = prediction.top()
    assert first == (1, pytest.approx(0.75))
    assert second == (0, pytest.approx(0.25))


def test_predict_takes_images_of_every_type(tmp_path):
    task = make()
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    images = [path, str(path), Image.fromarray(array), array, tensor, tensor / 255]
    single = [task.predict(image)[0].probabilities for image in images]
    many = [p.probabilities for p in task.predict(images)]
    batch = task.predict(tensor[None].repeat(3, 1, 1, 1))
    assert len(batch) == 3
    for probabilities in single + many:
        torch.testing.assert_close(probabilities, batch[0].probabilities, rtol=1e-4, atol=1e-5)
    assert task.predict([]) == []
    assert task.training


def test_embeddings():
    task = make().eval()
    images = torch.randn(2, 3, 32, 32)
    embeddings = task.embed(images)
    assert list(embeddings.shape) == [2, 512]
    assert torch.equal(task.head(embeddings), task(images)[0])


def test_forward_is_the_logits_alone():
    (logits,) = make()(torch.randn(2, 3, 32, 32))
    assert list(logits.shape) == [2, 4]


def test_a_backbone_that_exists_is_shared():
    trunk = backbones.create("resnet18", embedding=True)
    task = LinearClassifier(Config(backbone="resnet18"), ["a", "b"], SMALL, backbone=trunk)
    assert task.backbone is trunk


def test_mistakes_are_explained():
    with pytest.raises(VertebraError, match=r"task is 'clasification'; there are .*Did you mean 'classification'"):
        vertebra.create("clasification")
    with pytest.raises(VertebraError, match=r"no option 'droput'.*Did you mean 'dropout'"):
        make(droput=0.1)
    with pytest.raises(VertebraError, match="3 class weights for 4 classes"):
        make(class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(VertebraError, match="all class_weights are 0: nothing would be learned"):
        make(class_weights=(0, 0, 0, 0))
    assert make(class_weights=(1, 2, 3, 4)).class_weights.dtype == torch.float32
    with pytest.raises(VertebraError, match="classes is empty"):
        make(classes=[])
    with pytest.raises(VertebraError, match=r"dropout is 2; it must lie between 0 and 1"):
        make(dropout=2.0)
    with pytest.raises(VertebraError, match=r"classification has no method 'liner'.*Did you mean 'linear'"):
        make(method="liner")


def test_predictions_need_probabilities_for_a_top():
    with pytest.raises(AssertionError):
        Prediction().top()
