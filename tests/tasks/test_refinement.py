"""The refinement network: its input, its options, and checkpoints of images."""

from dataclasses import replace

import pytest
import torch
import torchvision

import vertebra
from vertebra import options, tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess, Target
from vertebra.tasks.refinement.bpr import Config
from vertebra.weights import Checkpoint

TINY = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}, "channels": 16}


def test_the_input_has_a_channel_for_the_coarse_mask():
    preprocess = tasks.plan("refinement").preprocess
    assert (preprocess.size, preprocess.resize) == ((128, 128), "squash")
    assert preprocess.mean == (*Preprocess.mean, 0.5)
    assert preprocess.std == (*Preprocess.std, 0.5)
    assert tasks.plan("refinement", backbone="hrnet_w48").preprocess.size == (256, 256)
    assert tasks.plan("refinement", backbone="mixer_s32").preprocess.size == (224, 224)


def test_foreground_of_the_mask_is_above_zero():
    task = tasks.create("refinement", **TINY).eval()
    images = torch.randn(2, 4, 64, 64)
    given = []
    task.backbone.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        task(images)
    assert torch.equal(given[0][:, :3], images[:, :3])
    assert torch.equal(given[0][:, 3], torch.where(images[:, 3] > 0, 1.0, -1.0))


def test_the_loss_is_that_of_the_label_map():
    task = tasks.create("refinement", **TINY, dropout=0.0).eval()
    images, labels = torch.randn(2, 4, 64, 64), torch.randint(2, (2, 64, 64), dtype=torch.uint8)
    labels[0, :8] = 255
    terms = task.loss(images, [Target(semantic=x) for x in labels])
    expected = torch.nn.functional.cross_entropy(task(images)[0], labels.long(), ignore_index=255)
    torch.testing.assert_close(terms["cross_entropy"], expected)
    assert list(terms) == ["cross_entropy"]
    with pytest.raises(VertebraError, match=r"images are \[2, 3, 64, 64\] float32; .* \[B, 4, H, W\]"):
        task.loss(images[:, :3], [Target(semantic=x) for x in labels])


def test_predictions_have_the_size_of_the_patch():
    task = tasks.create("refinement", **TINY).eval()
    (prediction,) = task.infer(torch.randn(1, 4, 64, 64), [Frame((48, 48), (64, 64))])
    assert prediction.semantic.shape == (48, 48)
    assert set(prediction.semantic.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"patch_size": 63}, "patch_size is 63; it must be even, such as 64."),
        ({"patch_size": 2}, "patch_size is 2; it must lie"),
        ({"padding": -1}, "padding is -1; it must lie"),
        ({"nms_threshold": 1.5}, "nms_threshold is 1.5; it must lie"),
    ],
)
def test_options_out_of_their_range(wrong, sentence):
    with pytest.raises(VertebraError, match=sentence.replace(".", r"\.")):
        options.build(Config, wrong)


def test_other_classes_and_inputs_without_a_mask_are_refused():
    with pytest.raises(VertebraError, match="refinement has two classes, background and foreground; 7 are given"):
        tasks.create("refinement", classes=7, **TINY)
    with pytest.raises(VertebraError, match="preprocess has 1 channel; refinement needs those of the image and one"):
        tasks.create("refinement", preprocess=Preprocess((64, 64), resize="squash", mean=(0.5,), std=(0.5,)), **TINY)


def test_images_alone_are_refused():
    model = vertebra.create("refinement", backbone="resnet18")
    with pytest.raises(VertebraError, match=r"an image and a coarse mask, .* give the model to `vertebra refine`"):
        model.predict("photo.jpg")


def test_a_checkpoint_keeps_how_patches_are_cut(tmp_path):
    task = tasks.create("refinement", patch_size=32, padding=4, nms_threshold=0.5, **TINY)
    checkpoint.save(task, tmp_path / "best.safetensors")
    loaded, _ = checkpoint.load(tmp_path / "best.safetensors", device="cpu")
    assert loaded.config == task.config
    assert loaded.preprocess == task.preprocess
    again = tasks.create("refinement", weights=tmp_path / "best.safetensors")
    assert again.preprocess == task.preprocess
    assert (again.config.patch_size, again.config.nms_threshold) == (32, 0.5)
    with pytest.raises(
        VertebraError,
        match=r"a model for refinement refines masks and predicts none: use `vertebra refine RESULTS --model=\.\.\.`",
    ):
        vertebra.load(tmp_path / "best.safetensors", device="cpu").predict("street.jpg")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_backbone_of_images_keeps_its_weights(tmp_path, channels):
    """Those for the coarse mask keep their initial values."""
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    preprocess = tasks.plan("refinement", backbone="resnet18").preprocess
    if channels == 1:
        preprocess = replace(preprocess, mean=(0.4, 0.5), std=(0.2, 0.5))

    def created(**weights):
        torch.manual_seed(3)
        task = tasks.create("refinement", backbone="resnet18", preprocess=preprocess, **weights)
        return task, task.backbone.state_dict()[task.backbone.first_conv]

    _, initial = created()
    task, loaded = created(weights=Checkpoint(tmp_path / "x.pth", theirs))
    image = theirs["conv1.weight"] if channels == 3 else theirs["conv1.weight"].sum(1, keepdim=True)
    assert torch.equal(loaded[:, :-1], image)
    assert torch.equal(loaded[:, -1:], initial[:, -1:])
    assert "newly initialised" in task.report.adapted[f"backbone.{task.backbone.first_conv}"]
