"""Explanations: against captum and by hand, for every kind of answer, and from the command line."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vertebra
from vertebra import tasks
from vertebra.attention.window import from_windows, to_windows
from vertebra.backbones import Backbone
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.images import frame_of, placement, prepare
from vertebra.predict.explain import techniques
from vertebra.predict.explain.features import feature_gradients, to_pixels
from vertebra.predict.explain.techniques import (
    grad_cam,
    grad_cam_plus_plus,
    last_attention,
    occlusion,
)
from vertebra.structures import Answer, KeypointSchema, Level, Preprocess

NARROW = {"widths": (8, 8, 16, 16, 32, 32), "depths": (1, 1, 1, 2, 1, 1)}
"""Options of a small DLA-34."""
GRADIENTS = ["grad_cam", "grad_cam_plus_plus", "occlusion"]


def classifier(backbone="dla34", **options):
    torch.manual_seed(0)
    return vertebra.create(
        "classification",
        backbone=backbone,
        backbone_options=options,
        classes=("cat", "dog", "emu"),
        preprocess=Preprocess(size=(64, 64)),
    ).eval()


@pytest.fixture(scope="module")
def dla():
    return classifier(**NARROW)


@pytest.fixture(scope="module")
def vit():
    return classifier("vit_tiny_16", depth=3, width=24, heads=3)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def logit(task, label=1):
    return lambda images: task(images)[0][:, label]


# -- against captum


def relative(maps):
    """As `normalised` does, of any maps [B, 1, H, W]."""
    positive = maps[:, 0].relu()
    return positive / positive.amax((1, 2), keepdim=True).clamp(min=1e-30)


@pytest.mark.parametrize("stage", [5, 3])
def test_grad_cam_is_captums(dla, images, stage):
    captum = pytest.importorskip("captum.attr")
    attribute = captum.LayerGradCam(lambda x: dla(x)[0], dla.backbone.stages[stage]).attribute
    level = None if stage == 5 else 2  # the first stage makes no map
    important = []
    for label in range(3):
        theirs = attribute(images, label, relu_attributions=True).detach()
        theirs = relative(captum.LayerAttribution.interpolate(theirs, (64, 64), "bilinear"))
        torch.testing.assert_close(grad_cam.explain(dla, images, logit(dla, label), level=level), theirs)
        important.append(theirs.any())
    assert any(important)


def test_grad_cam_of_a_class_token_is_captums_before_the_last_block(vit, images):
    """The classifier reads the class token alone, so no other cell of the last map has a gradient."""
    captum = pytest.importorskip("captum.attr")
    features, gradients = feature_gradients(vit, images, logit(vit), None)
    assert features.shape == (2, 24, 4, 4)
    theirs = captum.LayerGradientXActivation(lambda x: vit(x)[0], vit.backbone.blocks[1]).attribute(images, 1)
    torch.testing.assert_close((features * gradients).flatten(2), theirs[:, 1:].transpose(1, 2).detach())


@pytest.mark.parametrize("window", [16, 24])
def test_occlusion_is_captums(dla, images, window):
    captum = pytest.importorskip("captum.attr")
    theirs = captum.Occlusion(lambda x: dla(x)[0]).attribute(
        images, (3, window, window), target=1, strides=(3, window // 2, window // 2), perturbations_per_eval=8
    )
    ours = occlusion.explain(dla, images, logit(dla), window=window)
    torch.testing.assert_close(ours, relative(theirs[:, :1].float()), atol=1e-4, rtol=1e-4)


# -- by hand


class Linear(tasks.Task):
    """Two maps, the red and the green channel of images in cells of two pixels; score = 3 sum(red) - sum(green)."""

    def __init__(self):
        super().__init__(None, ("only",), Preprocess(size=(4, 4)))
        self.backbone = Cells()

    def forward(self, images, sizes=None):
        return (self.backbone(images)[0].mul(torch.tensor([3.0, -1.0])[:, None, None]).sum((1, 2, 3)),)


class Cells(Backbone):
    levels = (Level(2, 2),)

    def __init__(self):
        super().__init__(None)
        self.cells = nn.AvgPool2d(2)

    def forward_features(self, images, on_level):
        x = self.cells(images[:, :2])
        on_level(x)
        return x

    def layers(self):
        return [self.cells]


@pytest.fixture
def linear():
    """The model, an image of cells [[1, 0], [2, 0]] in red and [[0, 4], [5, 0]] in green, and the score."""
    cells = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 4.0], [5.0, 0.0]], [[9.0] * 2] * 2])
    image = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)[None]
    task = Linear()
    return task, image, lambda images: task(images)[0]


def grown(cells):
    """[[a, b], [c, d]] at the size of the image, 1 at most."""
    cells = torch.tensor([cells])
    return to_pixels(cells, (4, 4), Cells())


def test_grad_cam_by_hand(linear):
    # The weights are 3 and -1: 3 red - green = [[3, -4], [1, 0]], of which the negative cell is 0.
    torch.testing.assert_close(grad_cam.explain(*linear), grown([[3.0, 0.0], [1.0, 0.0]]))


def test_grad_cam_plus_plus_by_hand(linear):
    # Red sums to 3, so a = 1 / (2 + 3 * 3) and its weight 4 * 3 / 11; the gradient of green is negative: 0.
    torch.testing.assert_close(grad_cam_plus_plus.explain(*linear), grown([[1.0, 0.0], [2.0, 0.0]]))
    _, image, _ = linear
    image[:, 0, 0, 3] = 40.0  # a bright pixel of the red cell [0, 1], which becomes 10: that weighs most
    weights = grad_cam_plus_plus.explain(*linear)
    assert weights[0, 0, 3] == 1 == weights.max()


def test_occlusion_by_hand(linear):
    # A square of a cell takes 3 red - green of it away from the score; those that are half a cell off share the rest.
    task, image, score = linear
    weights = occlusion.explain(task, image, score, window=2)
    drop = 3 * image[:, 0] - image[:, 1]
    sums = torch.zeros(1, 4, 4)
    count = torch.zeros(4, 4)
    for top in range(3):
        for left in range(3):
            sums[:, top : top + 2, left : left + 2] += drop[:, top : top + 2, left : left + 2].sum((1, 2)) / 4
            count[top : top + 2, left : left + 2] += 1
    expected = (sums / count).clamp(min=0)
    torch.testing.assert_close(weights, expected / expected.max())


def test_a_score_that_falls_everywhere_has_no_important_pixel(linear):
    task, image, score = linear
    image[:, 0] = 0
    assert not grad_cam.explain(task, image, score).any()
    assert not occlusion.explain(task, image, score, window=2).any()


def test_rollout_is_the_product_of_the_layers(vit, images):
    weights = [layer.mean(1) for layer in vertebra.attention.maps(vit.backbone, images).values()]
    product = torch.eye(17)
    for layer in weights:
        product = (0.5 * layer + 0.5 * torch.eye(17)) @ product
    torch.testing.assert_close(vit.backbone.rollout(weights, (64, 64)), product[:, 0, 1:].unflatten(1, (4, 4)))
    torch.testing.assert_close(
        last_attention.explain(vit, images, logit(vit)),
        to_pixels(weights[-1][:, 0, 1:].unflatten(1, (4, 4)), (64, 64), vit.backbone),
    )


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return vertebra.backbone("swin_tiny", width=24, depths=(2, 2, 2, 2), window=4, embedding=True).eval()


def mean_weights(backbone, side):
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return list(vertebra.attention.maps(backbone, image, mean=True).values())


def test_rollout_through_windows_loses_nothing(swin):
    weights = mean_weights(swin, 128)  # at which no window is padded
    share = swin.rollout(weights, (128, 128))
    assert share.shape == (1, 32, 32)
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    assert share.std() > 0
    still = [torch.eye(16).expand_as(layer) for layer in weights]  # every cell attends to itself
    torch.testing.assert_close(swin.rollout(still, (128, 128)), torch.full((1, 32, 32), 1 / 1024))


def test_rollout_through_shifted_windows_is_the_gradient_of_their_attention(swin):
    """Attention with given weights is linear; the share of a cell in the output is the gradient with respect to it."""
    block = list(swin.stages[0].children())[1]
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(16, 16, 16, generator=generator).softmax(-1)
    share = torch.rand(1, 14, 13, generator=generator)  # no multiples of the window
    window, shifts = block.geometry((14, 13))
    assert shifts == [2, 2]
    x = torch.zeros(1, 14, 13, 1, requires_grad=True)
    attended = weights[None] @ to_windows(x, window, shifts)
    (gradient,) = torch.autograd.grad((from_windows(attended, window, shifts, (14, 13))[..., 0] * share).sum(), x)
    torch.testing.assert_close(block.rollout(share, weights), gradient[..., 0])


def test_the_last_attention_of_windows(swin):
    """The last map of 2 x 2 cells lies in one window of 4 x 4, whose other cells are padding."""
    weights = mean_weights(swin, 64)[-1:]
    rows = [0, 1, 4, 5]
    expected = weights[0][0][rows][:, rows].mean(0)
    torch.testing.assert_close(swin.rollout(weights, (64, 64), residual=0.0), expected.reshape(1, 2, 2))


# -- what every technique keeps


@pytest.mark.parametrize("name", techniques())
def test_with_random_weights_the_maps_change(vit, images, name):
    """Sanity Checks for Saliency Maps, arXiv:1810.03292: a map that stays shows the image, not the model."""
    other = classifier("vit_tiny_16", depth=3, width=24, heads=3)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in other.parameters():
            nn.init.normal_(parameter, std=0.1)
    before = techniques()[name].explain(vit, images, logit(vit))
    after = techniques()[name].explain(other, images, logit(other))
    assert before.shape == after.shape == (2, 64, 64)
    assert before.min() >= 0
    assert before.amax((1, 2)).tolist() == [1.0, 1.0]
    correlation = torch.corrcoef(torch.stack((before.flatten(), after.flatten())))[0, 1]
    assert correlation < 0.9


def test_gradients_and_modes_of_the_model_stay(dla, images):
    dla.train()
    try:
        vertebra.explain(dla, (images[0].sigmoid() * 255).byte(), techniques=GRADIENTS, window=64)
        assert all(module.training for module in dla.modules())
        assert all(parameter.grad is None for parameter in dla.parameters())
        assert "forward_features" not in vars(dla.backbone)
    finally:
        dla.eval()


def test_frozen_models_are_explained_too(dla, images):
    expected = grad_cam.explain(dla, images, logit(dla))
    try:
        dla.requires_grad_(False)
        torch.testing.assert_close(grad_cam.explain(dla, images, logit(dla)), expected)
    finally:
        dla.requires_grad_()


# -- where the map lies in the image


@pytest.mark.parametrize("resize", ["crop", "squash", "shortest", "fit", "box"])
def test_a_bright_spot_is_placed_where_it_is(resize):
    preprocess = Preprocess((64, 96), crop=0.8, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = torch.zeros(3, 90, 150, dtype=torch.uint8)
    image[:, 40:50, 60:72] = 255
    frame = frame_of((90, 150), preprocess)
    seen = prepare(image, preprocess)[0]
    rows, columns = torch.nonzero(seen > 0.5, as_tuple=True)
    centre = torch.stack((columns, rows), 1).float().mean(0) + 0.5
    answer = Answer("spot", points=torch.tensor([[66.0, 45.0]]), box=(60.0, 40.0, 72.0, 50.0))
    moved = answer.moved(*placement(frame, preprocess))
    torch.testing.assert_close(moved.points[0], centre, atol=0.8, rtol=0)
    x1, y1, x2, y2 = moved.box
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx(moved.points[0].tolist(), abs=1e-3)

    from vertebra.predict.explain.explainer import _in_image

    back = _in_image(seen, frame, preprocess)
    assert back.shape == (90, 150)
    rows, columns = torch.nonzero(back > 0.5, as_tuple=True)
    assert columns.float().mean() + 0.5 == pytest.approx(66, abs=1.5)
    assert rows.float().mean() + 0.5 == pytest.approx(45, abs=1.5)
    if resize == "crop":
        assert not back[:, 0].any()  # which the model does not see


# -- every kind of answer


@pytest.fixture(scope="module")
def tiny():
    """A function that makes the smallest model of a task."""

    def make(task, method=None, **chosen):
        from vertebra import options

        module = tasks.find(task, method)
        known = options.names(module.Config)
        small = {
            "channels": 16,
            "neck.channels": 16,
            "box_width": 16,
            "rpn_post_nms_top_n_test": 10,
            "num_proposals": 8,
            "num_stages": 1,
            "feedforward_channels": 16,
            "dynamic_channels": 4,
            "keypoint_width": 8,
            "keypoint_num_convs": 1,
            "score_threshold": 0.0,
            "max_detections": 8,
            "keypoints": KeypointSchema(("left", "right"), ((0, 1),), (1, 0)),
        }
        torch.manual_seed(0)
        chosen = {key: value for key, value in small.items() if key in known} | chosen
        trunk = {"backbone": "dla34", "backbone_options": NARROW}
        model = vertebra.create(task, method=method, classes=("a", "b"), **trunk, **chosen)
        size = (64, 96) if model.preprocess.resize == "shortest" else (64, 64)
        model.preprocess = dataclasses.replace(model.preprocess, size=size)
        return model.eval()

    return make


@pytest.mark.parametrize(
    ("task", "method", "asked"),
    [
        ("classification", None, {"top": 2}),
        ("multilabel", None, {"classes": ["a", "b"]}),
        ("detection", "faster_rcnn_c4", {}),
        ("detection", "retinanet", {"classes": ["b"]}),
        ("detection", "atss", {"neck.channels": 64}),
        ("detection", "sparse_rcnn", {"point": (30, 30)}),
        ("instance", None, {}),
        ("keypoints", None, {"keypoint": "right"}),
        ("pose", None, {"keypoint": "left"}),
        ("semantic", "fcn", {"point": (5, 60)}),
        ("semantic", "fcn", {"classes": ["a", "b"]}),
        ("saliency", "fcn", {}),
    ],
)
def test_every_kind_of_answer(tiny, task, method, asked):
    options = {key: asked.pop(key) for key in list(asked) if "." in key}
    model = tiny(task, method, **options)
    image = torch.randint(256, (3, 70, 90), generator=torch.Generator().manual_seed(3)).byte()
    explained = vertebra.explain(model, image, techniques=["grad_cam", "occlusion"], window=64, **asked)
    assert [e.technique for e in explained] == ["grad_cam", "occlusion"] * (len(explained) // 2)
    assert len(explained) == 2 * max(asked.get("top", 1), len(asked.get("classes", ())))
    for explanation in explained:
        assert explanation.map.shape == (70, 90)
        assert 0 <= explanation.map.min() <= explanation.map.max() <= 1
        assert explanation.plot().size == (270, 210)
    assert any(explanation.map.any() for explanation in explained)
    if "keypoint" in asked:
        assert explained[0].answer.name.startswith(asked["keypoint"])
    if "classes" in asked:
        assert {e.answer.label for e in explained} == {model.classes.index(name) for name in asked["classes"]}


def test_the_score_of_an_object_is_its_own(tiny):
    """Of an object that is predicted it is the score of the prediction, and less if its box is elsewhere."""
    model = tiny("detection", "retinanet")
    with torch.no_grad():
        model.dense.classify.bias.fill_(0.0)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    raw = model(images)
    (prediction,) = model.decode(raw, [frame_of((64, 64), Preprocess((64, 64), resize="squash"))])
    box, label = tuple(prediction.boxes[0].tolist()), int(prediction.labels[0])
    score = model.answer_score(raw, Answer("", label, box), (64, 64))
    torch.testing.assert_close(score.detach(), prediction.scores[:1])
    x1, y1, x2, y2 = box
    half = model.answer_score(raw, Answer("", label, (x1, y1, x2, (y1 + y2) / 2)), (64, 64))
    assert half.item() < score.item()


def test_boxes_end_at_the_border_as_those_of_predictions_do(tiny):
    model = tiny("detection", "sparse_rcnn")
    raw = torch.tensor([[[0.5, 2.0]]]), torch.tensor([[[-20.0, 8.0, 30.0, 90.0]]])
    score = model.answer_score(raw, Answer("", 1, (0.0, 8.0, 30.0, 48.0)), (48, 64))
    torch.testing.assert_close(score, torch.tensor([2.0]).sigmoid())


def test_an_object_that_is_gone_has_no_score(tiny):
    model = tiny("keypoints")
    nothing = (
        torch.zeros(1, 2, 4),
        torch.zeros(1, 2),
        torch.zeros(1, 2, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1, 2, 2, 4, 4),
    )
    assert model.answer_score(nothing, Answer("", 0, (0.0, 0.0, 9.0, 9.0)), (64, 64)).item() == 0
    assert model.answer_score(nothing, Answer("", 0, (0.0, 0.0, 9.0, 9.0), keypoint=1), (64, 64)).item() == 0


def test_the_score_of_pixels_is_their_mean_logit(tiny):
    model = tiny("semantic", "fcn")
    logits = torch.arange(32.0).reshape(1, 2, 4, 4)
    points = torch.tensor([[1.5, 0.5], [2.5, 3.5], [99.0, 0.5]])  # the last one lies in the last column
    assert model.answer_score((logits,), Answer("", 1, points=points), (4, 4)).item() == (17 + 30 + 19) / 3
    assert model.answer_score((logits,), Answer("", 0), (4, 4)).item() == 7.5
    saliency = tiny("saliency", "fcn")
    assert saliency.answer_score((logits[:, :1],), Answer("", 0), (4, 4)).item() == -7.5


# -- mistakes


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"techniques": ["grad_cum"]}, r"techniques is 'grad_cum'; .* Did you mean 'grad_cam'\?"),
        ({"techniques": "grad_cam"}, "it is a list of"),
        (
            {"techniques": ["occlusion"], "level": 1},
            "level is an option of grad_cam and grad_cam_plus_plus, not of occl",
        ),
        ({"window": 8}, "window is an option of occlusion, not of grad_cam"),
        ({"techniques": ["occlusion"], "window": 65}, "window is 65; it must be 2 pixels at least and at most 64"),
        ({"level": 9}, r"level is 9; the backbone has 5 maps, 0 \(the finest\) to 4"),
        ({"techniques": ["attention_rollout"]}, "no attention maps; ViT, DeiT and Swin have"),
        ({"classes": ["cot"]}, "the model has no class 'cot'. Did you mean 'cat'?"),
        ({"point": (1, 1)}, "point is for models that predict"),
        ({"keypoint": "nose"}, "keypoint is for models that predict"),
        ({"top": 0}, "top is 0; it must be 1 or more"),
    ],
)
def test_mistakes_are_named(dla, asked, sentence):
    with pytest.raises(VertebraError, match=sentence):
        vertebra.explain(dla, torch.zeros(3, 40, 40, dtype=torch.uint8), **asked)


def test_a_point_lies_in_the_image_and_a_keypoint_exists(tiny):
    with pytest.raises(VertebraError, match="point is 90, 3; the image has 90 x 70 pixels"):
        vertebra.explain(tiny("semantic", "fcn"), torch.zeros(3, 70, 90, dtype=torch.uint8), point=(90, 3))
    with pytest.raises(VertebraError, match="keypoint is 'nose'; there are left, right"):
        vertebra.explain(tiny("pose"), torch.zeros(3, 70, 90, dtype=torch.uint8), keypoint="nose")


def test_what_cannot_be_explained(tmp_path, dla, tiny):
    path = tmp_path / "best.safetensors"
    checkpoint.save(dla, path)
    with pytest.raises(VertebraError, match="a Predictor cannot be explained: give the path of its checkpoint"):
        vertebra.explain(vertebra.load(path, device="cpu"), torch.zeros(3, 40, 40, dtype=torch.uint8))
    with pytest.raises(VertebraError, match="do not say how sure they are"):
        tasks.Task.answer_score(dla, (), Answer(""), (40, 40))
    nothing = tiny("detection", "retinanet", score_threshold=1.0)
    assert vertebra.explain(nothing, torch.zeros(3, 64, 64, dtype=torch.uint8)) == []


# -- the command


def test_the_command(tmp_path, dla, capsys):
    from vertebra.cli import main

    checkpoint.save(dla, tmp_path / "best.safetensors")
    random = np.random.default_rng(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(random.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / folder / "one & two.png")
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    words = [str(tmp_path / name) for name in ("best.safetensors", "a", "b")]
    status = main(
        ["explain", *words, f"--save={tmp_path / 'out'}", "--techniques=grad_cam,occlusion", "--top=2", "--device=cpu"]
    )
    out = capsys.readouterr().out
    assert status == 0
    assert "1 of 3 images could not be read and were skipped" in out
    assert re.search(r"one & two\.png  (cat|dog|emu) \d+\.\d%, (cat|dog|emu) \d+\.\d%", out)
    assert "2 images and explanations.html in" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "one & two.png",
        "one & two-2.png",
        "explanations.html",
    }
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert 'src="one%20%26%20two.png"' in page
    assert "one &amp; two.png</h2>" in page
    with Image.open(tmp_path / "out" / "one & two.png") as sheet:
        assert sheet.width > 3 * 256  # the image, and a map of each technique
        assert sheet.height > 2 * 170  # two answers
    assert main(["explain", *words[:2], f"--save={tmp_path / 'a'}", "--device=cpu"]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert main(["explain", words[0], words[1]]) == 2
    assert "needs --save" in capsys.readouterr().err


def test_the_report_shows_the_worst_beside_their_explanations(dla, tmp_path, capsys, monkeypatch):
    from vertebra.cli import main

    checkpoint.save(dla, tmp_path / "best.safetensors")
    for name in dla.classes:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (9, 90, 40)).save(tmp_path / "data" / name / "one.png")
    words = ["evaluate", str(tmp_path / "best.safetensors"), f"--data.path={tmp_path / 'data'}", "--explain"]
    assert main([*words, f"--save={tmp_path / 'out'}", "--data.workers=0", "--device=cpu"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    section = page[page.index("What the most wrong predictions depend on") :]
    assert section.count('alt="Grad-CAM: one.png"') == section.count('alt="image: one.png"') == 2  # of three images
    assert main(words) == 2
    assert "--explain is for the report" in capsys.readouterr().err
    assert main([words[0], str(tmp_path / "model.onnx"), *words[2:], f"--save={tmp_path / 'out'}"]) == 2


def test_an_exported_file_has_no_gradients():
    with pytest.raises(VertebraError, match=r"model\.onnx is exported, without gradients: give the checkpoint"):
        vertebra.explain("model.onnx", "photo.jpg")


@pytest.mark.parametrize("name", techniques())
def test_techniques_say_whether_they_apply(dla, vit, images, name):
    for task in (dla, vit):
        technique = techniques()[name]
        if technique.applies(task):
            assert technique.explain(task, images, logit(task)).shape == (2, 64, 64)
        else:
            with pytest.raises(VertebraError, match="no attention maps"):
                technique.explain(task, images, logit(task))
