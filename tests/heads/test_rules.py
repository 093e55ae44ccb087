"""Files of other libraries' detectors, fabricated with their names and shapes: every tensor is used."""

import json
import pickle

import pytest
import torch

import vertebra
from vertebra import backbones, options, tasks, weights
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state
from vertebra.ops.anchors import anchor_grid
from vertebra.structures import Preprocess
from vertebra.tasks.sources import read_model

pytestmark = pytest.mark.usefixtures("no_initialisation")

SMALL = {"depths": (1, 1, 1, 1)}  # of the ResNets here
PREPROCESS = Preprocess((64, 96), resize="shortest")
# With its name, so that the file is not compared with every backbone.
RESNET = {"backbone": "resnet50", "backbone_options": SMALL, "preprocess": PREPROCESS}
C, W, K = 16, 24, 5  # channels of the pyramid, width of the box head, classes
WIDTHS = (256, 512, 1024, 2048)
NORM = ("weight", "bias", "running_mean", "running_var")


def conv(name, outputs, inputs, kernel=3, bias=True):
    return [(f"{name}.weight", (outputs, inputs, kernel, kernel)), *([(f"{name}.bias", (outputs,))] if bias else [])]


def linear(name, outputs, inputs):
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def norm(name, channels, parts=NORM):
    return [(f"{name}.{part}", (channels,)) for part in parts]


# -- names and shapes, as the libraries write them


def detectron2_resnet(stem, stages, groups=1, parts=NORM):
    """`stages` maps the stage's number, from 2, to what stands before its name."""
    rows = conv(f"{stem}.conv1", 64, 3, 7, False) + norm(f"{stem}.conv1.norm", 64, parts)
    for number, prefix in stages.items():
        block, out = f"{prefix}res{number}.0", WIDTHS[number - 2]
        inputs, inside = (64 if number == 2 else out // 2), out // 4 * (1 if groups == 1 else 2)
        for name, o, i, k in (
            ("shortcut", out, inputs, 1),
            ("conv1", inside, inputs, 1),
            ("conv2", inside, inside // groups, 3),
            ("conv3", out, inside, 1),
        ):
            rows += conv(f"{block}.{name}", o, i, k, False) + norm(f"{block}.{name}.norm", o, parts)
    return rows


def detectron2_fpn(levels, convolved=False):
    rows = []
    for level in levels:
        rows += conv(f"backbone.fpn_lateral{level}", C, WIDTHS[level - 2], 1)
        rows += conv(f"backbone.fpn_output{level}", C, C)
    if convolved:
        rows += conv("backbone.top_block.p6", C, 2048) + conv("backbone.top_block.p7", C, C)
    return rows


def detectron2_rpn(channels, anchors):
    head = "proposal_generator.rpn_head"
    rows = conv(f"{head}.conv", channels, channels)
    rows += conv(f"{head}.objectness_logits", anchors, channels, 1)
    rows += conv(f"{head}.anchor_deltas", 4 * anchors, channels, 1)
    return [*rows, ("proposal_generator.anchor_generator.cell_anchors.0", (anchors, 4))]


def detectron2_masks():
    rows = [row for i in range(1, 5) for row in conv(f"roi_heads.mask_head.mask_fcn{i}", C, C)]
    rows += [("roi_heads.mask_head.deconv.weight", (C, C, 2, 2)), ("roi_heads.mask_head.deconv.bias", (C,))]
    return rows + conv("roi_heads.mask_head.predictor", K, C, 1)


def detectron2(kind):
    bottom = detectron2_resnet("backbone.bottom_up.stem", dict.fromkeys(range(2, 6), "backbone.bottom_up."))
    if kind == "c4":
        stages = {2: "backbone.", 3: "backbone.", 4: "backbone.", 5: "roi_heads."}
        rows = detectron2_resnet("backbone.stem", stages) + detectron2_rpn(1024, 15)
        rows += linear("roi_heads.box_predictor.cls_score", K + 1, 2048)
        rows += linear("roi_heads.box_predictor.bbox_pred", 4 * K, 2048)
        rows += [("roi_heads.mask_head.deconv.weight", (2048, C, 2, 2)), ("roi_heads.mask_head.deconv.bias", (C,))]
        return rows + conv("roi_heads.mask_head.predictor", K, C, 1)
    if kind == "retinanet":
        rows = bottom + detectron2_fpn((3, 4, 5), convolved=True)
        for net in ("cls_subnet", "bbox_subnet"):
            rows += [row for i in range(4) for row in conv(f"head.{net}.{2 * i}", C, C)]
        rows += conv("head.cls_score", 9 * K, C) + conv("head.bbox_pred", 36, C)
        return [*rows, ("anchor_generator.cell_anchors.0", (9, 4))]
    rows = bottom + detectron2_fpn((2, 3, 4, 5)) + detectron2_rpn(C, 3)
    stages = ["0.", "1.", "2."] if kind == "cascade" else [""]
    for i in stages:
        rows += linear(f"roi_heads.box_head.{i}fc1", W, C * 49) + linear(f"roi_heads.box_head.{i}fc2", W, W)
        rows += linear(f"roi_heads.box_predictor.{i}cls_score", K + 1, W)
        rows += linear(f"roi_heads.box_predictor.{i}bbox_pred", 4 if kind == "cascade" else 4 * K, W)
    if kind == "keypoints":
        rows = [row for row in rows if "predictor" not in row[0]]
        rows += linear("roi_heads.box_predictor.cls_score", 2, W) + linear("roi_heads.box_predictor.bbox_pred", 4, W)
        for i in range(1, 9):
            rows += conv(f"roi_heads.keypoint_head.conv_fcn{i}", 32, C if i == 1 else 32)
        weight = ("roi_heads.keypoint_head.score_lowres.weight", (32, 17, 4, 4))
        return [*rows, weight, ("roi_heads.keypoint_head.score_lowres.bias", (17,))]
    return rows + detectron2_masks()


def mmdet_resnet(prefix="backbone.", stages=range(1, 5), last=None):
    rows = conv(f"{prefix}conv1", 64, 3, 7, False) + norm(f"{prefix}bn1", 64)
    for number in stages:
        block, out = f"{last if last and number == 4 else prefix}layer{number}.0", WIDTHS[number - 1]
        inputs, inside = (64 if number == 1 else out // 2), out // 4
        for i, (o, n, k) in enumerate(((inside, inputs, 1), (inside, inside, 3), (out, inside, 1)), 1):
            rows += conv(f"{block}.conv{i}", o, n, k, False) + norm(f"{block}.bn{i}", o)
        rows += conv(f"{block}.downsample.0", out, inputs, 1, False) + norm(f"{block}.downsample.1", out)
    return rows


def mmdet_head(stage, classes=K, agnostic=False, prefix="roi_head.bbox_head."):
    rows = linear(f"{prefix}{stage}shared_fcs.0", W, C * 49) + linear(f"{prefix}{stage}shared_fcs.1", W, W)
    rows += linear(f"{prefix}{stage}fc_cls", classes + 1, W)
    return rows + linear(f"{prefix}{stage}fc_reg", 4 if agnostic else 4 * classes, W)


def mmdet_masks(stage):
    head = f"roi_head.mask_head.{stage}"
    rows = [row for i in range(4) for row in conv(f"{head}convs.{i}.conv", C, C)]
    rows += [(f"{head}upsample.weight", (C, C, 2, 2)), (f"{head}upsample.bias", (C,))]
    return rows + conv(f"{head}conv_logits", K, C, 1)


def mmdet_rpn(channels=C, anchors=3):
    rows = conv("rpn_head.rpn_conv", channels, channels)
    return rows + conv("rpn_head.rpn_cls", anchors, channels, 1) + conv("rpn_head.rpn_reg", 4 * anchors, channels, 1)


def mmdet(kind):
    if kind == "c4":
        rows = mmdet_resnet(last="roi_head.shared_head.") + mmdet_rpn(1024, 15)
        return (
            rows + linear("roi_head.bbox_head.fc_cls", K + 1, 2048) + linear("roi_head.bbox_head.fc_reg", 4 * K, 2048)
        )
    if kind == "hrnet":
        rows = [(f"backbone.{name}", shape) for name, shape in hrnet_rows()]
        rows += conv("neck.reduction_conv.conv", C, 18 * 15, 1)
        rows += [row for i in range(5) for row in conv(f"neck.fpn_convs.{i}.conv", C, C)]
        return rows + mmdet_rpn() + mmdet_head("")
    levels = (1, 2, 3) if kind == "retinanet" else (0, 1, 2, 3)
    rows = mmdet_resnet()
    for i, level in enumerate(levels):
        rows += conv(f"neck.lateral_convs.{i}.conv", C, WIDTHS[level], 1) + conv(f"neck.fpn_convs.{i}.conv", C, C)
    if kind == "retinanet":
        rows += conv("neck.fpn_convs.3.conv", C, 2048) + conv("neck.fpn_convs.4.conv", C, C)
        for net in ("cls_convs", "reg_convs"):
            rows += [row for i in range(4) for row in conv(f"bbox_head.{net}.{i}.conv", C, C)]
        return rows + conv("bbox_head.retina_cls", 9 * K, C) + conv("bbox_head.retina_reg", 36, C)
    rows += mmdet_rpn()
    if kind == "cascade":
        return rows + [row for i in "012" for row in mmdet_head(f"{i}.", agnostic=True) + mmdet_masks(f"{i}.")]
    return rows + mmdet_head("") + mmdet_masks("")


def hrnet_rows():
    """The names of HRNet's own repository, which MMDetection kept: there is a test of them elsewhere."""

    from vertebra.ledger import FOLDER

    rows = json.loads((FOLDER / "timm_hrnet_w18.json").read_text())["state"]
    without = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    return [(name, tuple(shape)) for name, shape, *_ in rows if not name.startswith(without) and "tracked" not in name]


def write(rows, folder, kind=".pth"):
    """A file with these rows, and its tensors."""
    state = fabricate_state(rows)
    path = folder / f"model{kind}"
    if kind == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    else:
        torch.save({"state_dict": state, "meta": {"epoch": 12}}, path)
    return path


def create_from(task, rows, folder, kind=".pth", **chosen):
    """A model of ours from a file with these rows, every tensor of which is used; a model that exists takes it too."""
    path = write(rows, folder, kind)
    model = vertebra.create(task, weights=path, **(RESNET | chosen))
    assert all("cell_anchors" in name for name in model.report.left_out), model.report
    assert all(name.endswith("num_batches_tracked") for name in model.report.new), model.report
    with torch.device("meta"):  # of the same options
        again = type(model)(model.config, model.classes, model.preprocess)
    again.to_empty(device="cpu").load(path)  # strict
    tensors = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor) or name.endswith("num_batches_tracked"), name
    assert model.predict(torch.zeros(3, 64, 96))[0].boxes.shape[1] == 4
    return model


def flat(model):
    """Its method, and its options by dotted path."""
    return {"method": model.method, **options.flatten(type(model.config), vars(model.config))}


def first_strides(model):
    """Strides of the first convolution of the first block of every stage of a ResNet."""
    stages = [*model.backbone.stages, *([model.stage] if hasattr(model, "stage") else [])]
    return [stage[0].conv1.conv.stride[0] for stage in stages]


# -- Detectron2


@pytest.mark.parametrize(
    ("kind", "task", "expected"),
    [
        (
            "fpn",
            "instance",
            {
                "method": "mask_rcnn",
                "neck.channels": C,
                "rpn_post_nms_top_n_train": 1000,
                "roi_align.sampling_ratio": 0,
            },
        ),
        (
            "c4",
            "instance",
            {
                "method": "mask_rcnn_c4",
                "mask_head.channels": C,
                "rpn_post_nms_top_n_train": 2000,
                "rpn_post_nms_top_n_test": 1000,
                "roi_batch_size": 512,
            },
        ),
        (
            "cascade",
            "instance",
            {"method": "cascade_mask_rcnn", "neck.channels": C, "mask_stages": 1, "average": "probabilities"},
        ),
        (
            "keypoints",
            "keypoints",
            {
                "method": "keypoint_rcnn",
                "neck.channels": C,
                "keypoint_width": 32,
                "rpn_post_nms_top_n_train": 1500,
                "box_loss.beta": 0.5,
            },
        ),
        (
            "retinanet",
            "detection",
            {
                "method": "retinanet",
                "neck.channels": C,
                "extra_levels.source": "backbone",
                "box_loss.beta": 0.0,
                "clip_after_nms": True,
            },
        ),
    ],
)
def test_detectron2(kind, task, expected, tmp_path):
    model = create_from(task, detectron2(kind), tmp_path, ".pkl")
    expected = {"anchors.offset": 0.0, "min_box_size": 1e-6, "norm": "frozen", **expected}
    assert {name: flat(model)[name] for name in expected} == expected
    assert len(model.classes) == (1 if kind == "keypoints" else K)
    assert first_strides(model) == [1, 2, 2, 2]  # in the first convolution of a block


def test_detectron2_resnext_has_its_stride_and_scale_as_others(tmp_path):
    options = {"backbone": "resnext50_32x4d", "backbone_options": SMALL, "preprocess": PREPROCESS}
    rows = detectron2_resnet("stem", dict.fromkeys(range(2, 6), ""), groups=32)
    state = fabricate_state(rows)
    rest = fabricate_state([row for row in detectron2("fpn") if "bottom_up" not in row[0]])
    torch.save({"model": {f"backbone.bottom_up.{k}": t for k, t in state.items()} | rest}, tmp_path / "x.pth")
    model = vertebra.create("instance", weights=tmp_path / "x.pth", **options)
    assert torch.equal(model.backbone.stem[0].conv.weight, state["stem.conv1.weight"].flip(1))
    assert model.backbone.stages[1][0].conv2.conv.stride == (2, 2)


@pytest.mark.parametrize(("mean", "rgb"), [((103.53, 116.28, 123.675), False), ((123.675, 116.28, 103.53), True)])
def test_detectron2_colours(mean, rgb, tmp_path):
    """Its ResNet sees BGR less a mean in 0..255; trained from torchvision's weights, what torchvision's does."""
    state = fabricate_state(detectron2("fpn"))
    state["pixel_mean"], state["pixel_std"] = torch.tensor(mean)[:, None, None], torch.ones(3, 1, 1)
    torch.save(state, tmp_path / "model.pth")
    model = vertebra.create("instance", weights=tmp_path / "model.pth", **RESNET).eval()
    assert model.backbone.config.stride_first is not rgb
    assert "pixel_mean" in model.report.left_out
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalised = (image - torch.tensor(Preprocess.mean)[:, None, None]) / torch.tensor(Preprocess.std)[:, None, None]
    theirs = normalised if rgb else 255 * image.flip(1) - torch.tensor(mean)[:, None, None]
    expected = torch.nn.functional.conv2d(theirs, state["backbone.bottom_up.stem.conv1.weight"], None, 2, 3)
    assert torch.allclose(model.backbone.stem[0].conv(normalised), expected, rtol=1e-4, atol=1e-3)


def test_detectron2_and_torchvision_agree(tmp_path):
    """The same weights, under both names: the same maps, proposals' answers, classes and masks."""
    theirs = torchvision_from_detectron2(fabricate_state(detectron2("fpn")))
    torch.save(theirs, tmp_path / "torchvision.pth")
    torch.save(fabricate_state(detectron2("fpn")), tmp_path / "detectron2.pth")
    # Both compute as Detectron2 does.
    chosen = {**RESNET, "norm_eps": 1e-5, "norm": "frozen", "roi_align.sampling_ratio": 0}
    chosen["roi_align.aligned"] = True
    inner = {"detectron2": SMALL, "torchvision": {**SMALL, "stride_first": True}}
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    boxes, results = [torch.tensor([[3.0, 4.0, 40.0, 60.0], [1.0, 2.0, 90.0, 63.0]])], []
    for library, backbone_options in inner.items():
        path = tmp_path / f"{library}.pth"
        model = vertebra.create("instance", weights=path, **(chosen | {"backbone_options": backbone_options})).eval()
        with torch.no_grad():
            maps = model.features(images)
            raw = (x for pair in model.rpn.raw(maps) for x in pair)
            pooled = model.box(model.roi_features(maps, boxes, 7))
            results.append([*maps, *raw, *pooled, model.mask(model.roi_features(maps, boxes, 14))])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.std()))


def torchvision_from_detectron2(state):
    """By hand: no rule of ours is used."""
    mean_scale = 255 * torch.tensor(Preprocess.std)[:, None, None]
    converted = {}
    parts = {"conv1": ("conv1", "bn1"), "conv2": ("conv2", "bn2"), "conv3": ("conv3", "bn3")}
    parts["shortcut"] = ("downsample.0", "downsample.1")
    for name, tensor in state.items():
        words = name.split(".")
        kind = words[-1]
        if name.startswith("backbone.bottom_up.stem"):
            if words[4] == "weight":
                converted["backbone.body.conv1.weight"] = tensor[:, [2, 1, 0]] * mean_scale
            else:
                converted[f"backbone.body.bn1.{kind}"] = tensor
        elif name.startswith("backbone.bottom_up."):
            layer = f"backbone.body.layer{int(words[2][3]) - 1}.{words[3]}"
            converted[f"{layer}.{parts[words[4]]['norm' in words]}.{kind}"] = tensor
        elif "fpn_" in name:
            part = "inner_blocks" if "lateral" in name else "layer_blocks"
            converted[f"backbone.fpn.{part}.{int(words[1][-1]) - 2}.0.{kind}"] = tensor
        elif name.startswith("proposal_generator.rpn_head."):
            part = {"conv": "conv.0.0", "objectness_logits": "cls_logits", "anchor_deltas": "bbox_pred"}[words[2]]
            converted[f"rpn.head.{part}.{kind}"] = tensor
        elif ".box_head." in name:
            converted[f"roi_heads.box_head.fc{int(words[2][2]) + 5}.{kind}"] = tensor
        elif ".cls_score." in name:
            converted[f"roi_heads.box_predictor.cls_score.{kind}"] = torch.cat((tensor[-1:], tensor[:-1]))
        elif ".bbox_pred." in name:
            converted[f"roi_heads.box_predictor.bbox_pred.{kind}"] = torch.cat((torch.zeros_like(tensor[:4]), tensor))
        elif ".mask_fcn" in name:
            converted[f"roi_heads.mask_head.{words[2]}.{kind}"] = tensor  # as before torchvision 0.13
        elif ".deconv." in name:
            converted[f"roi_heads.mask_predictor.conv5_mask.{kind}"] = tensor
        elif ".predictor." in name:
            converted[f"roi_heads.mask_predictor.mask_fcn_logits.{kind}"] = torch.cat((tensor[:1], tensor))
    return converted


def test_detectron2_orders_anchors_by_side(tmp_path):
    """Its anchors are ordered by side, then by ratio; each keeps its logit and deltas."""
    state = fabricate_state(detectron2("c4"))
    head = "proposal_generator.rpn_head"
    state[f"{head}.objectness_logits.bias"] = torch.arange(15.0)
    state[f"{head}.anchor_deltas.bias"] = torch.arange(60.0)
    torch.save(state, tmp_path / "model.pth")
    model = vertebra.create("instance", weights=tmp_path / "model.pth", **RESNET)
    theirs = [(side * ratio**-0.5, side * ratio**0.5) for side in (32, 64, 128, 256, 512) for ratio in (0.5, 1.0, 2.0)]
    ours = anchor_grid((1, 1), 16, model.rpn.sides[0])
    for box, logit, deltas in zip(ours, model.rpn.objectness.bias, model.rpn.deltas.bias.view(15, 4), strict=True):
        width, height = theirs[int(logit)]
        assert (box[2:] - box[:2]).tolist() == pytest.approx([width, height], rel=1e-5)
        assert deltas.tolist() == [4 * float(logit) + i for i in range(4)]


def file_of(library, rows, task="detection", method="faster_rcnn"):
    """What is read from a file with these rows."""
    return read_model(library, tasks.find(task, method).SOURCES[library], fabricate_state(rows))


def test_detectron2_group_norm_is_recognised():
    rows = detectron2_resnet("backbone.bottom_up.stem", {2: "backbone.bottom_up."}, parts=("weight", "bias"))
    assert file_of("detectron2", rows + detectron2_fpn((2,))).shapes["norm"] == "group"


# -- MMDetection


@pytest.mark.parametrize(
    ("kind", "task", "expected"),
    [
        ("mask", "instance", {"method": "mask_rcnn", "rpn_beta": 0.0, "box_loss.beta": 0.0}),
        (
            "cascade",
            "instance",
            {
                "method": "cascade_mask_rcnn",
                "mask_stages": 3,
                "average": "logits",
                "rpn_beta": 1 / 9,
                "box_loss.beta": 1.0,
                "rpn_inside_only": True,
            },
        ),
        (
            "retinanet",
            "detection",
            {"method": "retinanet", "extra_levels.relu": False, "extra_levels.source": "backbone"},
        ),
        ("c4", "detection", {"method": "faster_rcnn_c4", "rpn_post_nms_top_n_test": 1000}),
    ],
)
def test_mmdet(kind, task, expected, tmp_path):
    model = create_from(task, mmdet(kind), tmp_path)
    expected = {"anchors.offset": 0.0, **({} if kind == "retinanet" else {"rpn_low_quality_iou": 0.3}), **expected}
    assert {name: flat(model)[name] for name in expected} == expected
    assert len(model.classes) == K
    if kind == "cascade":  # deviations 0.033 and 0.067
        assert [head.weights[0] for head in model.box] == pytest.approx([10, 20, 30.30303])
        assert model.box[2].weights[3] == pytest.approx(14.92537)


def test_mmdet_hrnet(tmp_path):
    model = create_from("detection", mmdet("hrnet"), tmp_path, backbone="hrnet_w18", backbone_options={})
    assert model.config.neck.name == "hrfpn"
    assert [tuple(x.shape[2:]) for x in model.features(torch.zeros(1, 3, 64, 128))] == [
        (16, 32), (8, 16), (4, 8), (2, 4), (1, 2),
    ]  # fmt: skip


def test_mmdet_deep_stem():
    """Its ResNet-D and Res2Net have a Sequential for a stem."""
    plain = fabricate_state(mmdet_resnet(""))
    rows = [(name, shape) for name, shape in mmdet_resnet("") if not name.startswith(("conv1", "bn1"))]
    rows = [
        (name.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"), s) for name, s in rows
    ]
    for i, (outputs, inputs) in enumerate(((32, 3), (32, 32), (64, 32))):
        rows += conv(f"stem.{3 * i}", outputs, inputs, 3, False) + norm(f"stem.{3 * i + 1}", outputs)
    for name, state in (("resnet50", plain), ("resnet50_d", fabricate_state(rows))):
        fit = backbones.fit_state(name, state, source="mmdet", path="", **SMALL)
        assert not fit.report.left_out
        weights.load(backbones.create(name, **SMALL), fit.state, fit.report)  # strict


def test_mmdets_caffe_style_is_chosen_by_its_source(tmp_path):
    plain = create_from("detection", mmdet("c4"), tmp_path)
    assert first_strides(plain) == [1, 1, 1, 1]
    model = vertebra.create("detection", weights=tmp_path / "model.pth", source="mmdet/caffe", **RESNET)
    scale = 255 * torch.tensor(Preprocess.std)[:, None, None]
    assert torch.allclose(model.backbone.stem[0].conv.weight, plain.backbone.stem[0].conv.weight.flip(1) * scale)
    assert first_strides(model) == [1, 2, 2, 2]
    with pytest.raises(VertebraError, match=r"computes with backbone_options=.*stride_first.*True"):
        plain.load(tmp_path / "model.pth", source="mmdet/caffe")


def test_no_relu_between_mmdets_coarsest_levels(tmp_path):
    model = create_from("detection", mmdet("retinanet"), tmp_path)
    with torch.no_grad():
        p6, p7 = model.features(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))[-2:]
        assert torch.allclose(p7, model.extra.convs[1](p6), atol=1e-5)
        assert not torch.allclose(p7, model.extra.convs[1](p6.relu()), atol=1e-3)


# -- errors, and options that the user sets


def test_another_structure_is_explained(tmp_path):
    path = write(mmdet("mask"), tmp_path)
    model = vertebra.create("instance", classes=K, rpn_num_convs=2, **RESNET)
    sentence = r"model.pth: .* computes with .*neck.channels=16.*rpn_num_convs=1.*box_width=24.*weights=.* find them"
    with pytest.raises(VertebraError, match=sentence):
        model.load(path)
    with pytest.raises(VertebraError, match=r"model.pth: .*names of mmdet, not of torchvision; leave source out"):
        model.load(path, source="torchvision")


def test_a_new_head_for_other_classes(tmp_path):
    chosen = {"backbone_options": SMALL, "preprocess": PREPROCESS, "weights": write(mmdet("mask"), tmp_path)}
    model = vertebra.create("detection", classes=["cat", "dog"], **chosen)
    assert model.config.box_width == W
    assert set(model.report.new) >= {"box.classify.weight", "box.deltas.bias"}
    assert model.report.left_out["box.classify.bias"] == f"its shape is [{K + 1}], the model's [3]"
    assert model.report.left_out["mask.logits.weight"] == "this model predicts no masks"


def test_what_the_user_sets_stays(tmp_path):
    chosen = {**RESNET, "weights": write(mmdet("mask"), tmp_path)}
    model = vertebra.create("instance", roi_align={"sampling_ratio": 3}, norm="batch", **chosen)
    expected = {"roi_align.sampling_ratio": 3, "norm": "batch", "anchors.offset": 0.0}
    assert {name: flat(model)[name] for name in expected} == expected
    assert "roi_align.sampling_ratio" not in model.report.adapted
    assert model.report.adapted["anchors.offset"] == "0.0, as mmdet has it"


def test_a_backbone_fills_the_stage_that_runs_on_rois(tmp_path):
    state = fabricate_state(mmdet_resnet(""))
    torch.save(state, tmp_path / "resnet.pth")
    chosen = {**RESNET, "weights": tmp_path / "resnet.pth"}
    model = vertebra.create("detection", classes=2, method="faster_rcnn_c4", **chosen)
    assert torch.equal(model.stage[0].conv1.conv.weight, state["layer4.0.conv1.weight"])
    assert not [name for name in model.report.left_out if "layer4" in name]


def test_torchvisions_names_before_0_13():
    old = {
        "backbone.body.conv1.weight": "x",
        "backbone.fpn.inner_blocks.0.weight": "neck.lateral.0.conv.weight",
        "backbone.fpn.layer_blocks.0.bias": "neck.output.0.conv.bias",
        "rpn.head.conv.weight": "rpn.convs.0.conv.weight",
        "head.classification_head.conv.6.bias": "dense.cls_tower.3.conv.bias",
        "head.regression_head.conv.2.weight": "dense.box_tower.1.conv.weight",
    }
    names = set()
    for method in ("faster_rcnn", "retinanet"):
        rows = [(name, (1,)) for name in old]
        names |= set(file_of("torchvision", rows, method=method).head_state)
    assert set(old.values()) - {"x"} <= names


@pytest.mark.parametrize(
    ("task", "rows"),
    [("instance", detectron2("c4")), ("instance", mmdet("cascade")), ("detection", mmdet("retinanet"))],
)
def test_the_librarys_options_are_saved(task, rows, tmp_path):
    """In the file that training writes, and read again from it."""
    model = create_from(task, rows, tmp_path).eval()
    checkpoint.save(model, tmp_path / "best.safetensors")
    again, _ = checkpoint.load(tmp_path / "best.safetensors", device="cpu")
    assert json.dumps(again.describe()) == json.dumps(model.describe())
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    one, two = model.predict(image)[0], again.predict(image)[0]
    assert len(one.boxes)
    assert torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.scores, two.scores)
