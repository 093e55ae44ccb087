"""Computes references of detectors with Detectron2 and MMDetection themselves, for tests/parity/test_originals.py.

    python tools/make_detector_references.py detectron2|mmdet|reppoints_v2 [NAME ...]

Needed beside Vertebra, neither of them compiled: the sources of Detectron2 0.5 on PYTHONPATH, with fvcore, iopath,
omegaconf, yacs, cloudpickle, tabulate and termcolor, or for `detectron2 sparse_rcnn` those of Sparse R-CNN's authors,
which hold a Detectron2; mmdet 3.3.0, mmengine and mmcv-lite 2.1.0, with addict, scipy, shapely, opencv-python-headless,
terminaltables and yapf; for `reppoints_v2` the sources of its authors, RepPointsV2, on PYTHONPATH, with mmcv 1.7.2.
torchvision replaces their compiled parts.

Weights are made from their names (vertebra.ledger.fabricate), so a reference holds only numbers: the names and shapes
of the tensors, the losses for one image with its targets, and the final detections.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vertebra.ledger.fabricate import fabricate_state, fabricated_input

FOLDER = Path(__file__).parents[1] / "tests" / "parity" / "originals"
SIZE = (96, 128)
BOXES = [[8.0, 6.0, 70.0, 80.0], [50.0, 20.0, 120.0, 90.0], [90.0, 4.0, 110.0, 24.0]]
LABELS = [2, 0, 1]
NUM_CLASSES, NUM_KEYPOINTS = 3, 17
"""The data of these tests: an image of 96 x 128 pixels with three objects."""


def image() -> Tensor:
    """[3, 96, 128] uint8 RGB."""
    return (127 + 56 * fabricated_input((3, *SIZE), 0)).round().clamp(0, 255).to(torch.uint8)


def masks() -> Tensor:
    """[3, 96, 128] bool: ellipses in their boxes."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    left, top, right, bottom = (torch.tensor(BOXES)[:, i, None, None] for i in range(4))
    across, down = (right - left) / 2, (bottom - top) / 2
    return ((x - left - across) / across) ** 2 + ((y - top - down) / down) ** 2 <= 1


def keypoints() -> Tensor:
    """[3, 17, 3]: at random in their boxes; every third not labelled."""
    boxes = torch.tensor(BOXES)[:, None]
    position = torch.rand(len(BOXES), NUM_KEYPOINTS, 2, generator=torch.Generator().manual_seed(0))
    visibility = torch.arange(len(BOXES) * NUM_KEYPOINTS).remainder(3).view(len(BOXES), NUM_KEYPOINTS, 1).float()
    return torch.cat((boxes[..., :2] + position * (boxes[..., 2:] - boxes[..., :2]), visibility), 2)


def fill(model: nn.Module, gains: dict[str, float]) -> list[list[Any]]:
    """Fills a model, and returns the names and shapes of its tensors."""
    for key, tensor in model.state_dict().items():
        if PROPOSALS in key:
            tensor.copy_(proposals(len(tensor)))
    kept = {k: t for k, t in model.state_dict().items() if "cell_anchors" in k or k.startswith("pixel_")}
    kept |= {k: t for k, t in model.state_dict().items() if PROPOSALS in k}
    rows = [[k, list(t.shape)] for k, t in model.state_dict().items() if k not in kept]
    model.load_state_dict(fabricate_state(rows, gains) | kept)
    stored = {k: t for k, t in kept.items() if "cell_anchors" not in k}
    return rows + [[k, list(t.shape), t.flatten().tolist()] for k, t in stored.items()]


PROPOSALS = "init_proposal_b"
"""In the name of Sparse R-CNN's proposals."""


def proposals(count: int) -> Tensor:
    """[count, 4]: centres in the image, and sides of 0.1 to 6 times the image's, so that every level is pooled from."""
    random = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    sides = 0.1 * 60 ** torch.linspace(0, 1, count)[:, None]
    return torch.cat((0.2 + 0.6 * random[:, :2], sides, sides * (0.5 + random[:, 2:])), 1)


def write(name: str, made_by: str, detections: dict[str, Any], **about: Any) -> None:
    values = {k: [float(f"{v:.7g}") for v in t.flatten().tolist()] for k, t in detections.items() if k != "masks"}
    if "masks" in detections:
        values["masks"] = detections["masks"].flatten(1).sum(1).tolist()
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (about | values).items() if key != "state"]
    rows = ",\n".join(json.dumps(row) for row in about["state"])
    FOLDER.mkdir(exist_ok=True)
    text = ",\n".join([f'"made_by": {json.dumps(made_by)}', *lines, f'"state": [\n{rows}\n]'])
    (FOLDER / f"{name}.json").write_text("{\n" + text + "\n}\n")
    print(name, len(detections["boxes"]), "detections", {k: round(v, 4) for k, v in about["losses"].items()})


# Detectron2: task, config, changes to it.
SMALL = ["MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32]
BASIC = [*SMALL, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
RGB = ["MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375], "INPUT.FORMAT", "RGB"]
RGB += ["MODEL.RESNETS.STRIDE_IN_1X1", False]
# On one map its anchors are in another order: all 647 that are not ignored are sampled.
C4 = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 647, "MODEL.RPN.POST_NMS_TOPK_TEST", 60, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 60]
SPARSE = ["NUM_PROPOSALS", 20, "HIDDEN_DIM", 32, "DIM_FEEDFORWARD", 64, "DIM_DYNAMIC", 8, "NUM_HEADS", 3]
SPARSE = [f"MODEL.SparseRCNN.{value}" if isinstance(value, str) else value for value in SPARSE]
DEFORM = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]]
DETECTRON2: dict[str, tuple[str, str, str, list[Any]]] = {
    "faster_rcnn": ("detection", "resnet50", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", SMALL),
    "faster_rcnn_rgb": ("detection", "resnet50", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", SMALL + RGB),
    "faster_rcnn_c4": ("detection", "resnet50", "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", C4),
    "mask_rcnn": ("instance", "resnet18", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", BASIC),
    "mask_rcnn_c4": ("instance", "resnet50", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", SMALL + C4),
    "mask_rcnn_gn": (
        "instance",
        "resnet50",
        "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
        [*SMALL, "MODEL.ROI_BOX_HEAD.CONV_DIM", 32],
    ),
    "keypoint_rcnn": (
        "keypoints",
        "resnet18",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
        [*BASIC, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (32, 32)],
    ),
    "retinanet": ("detection", "resnet18", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", BASIC),
    "sparse_rcnn": ("detection", "resnet18", "sparsercnn.res50.100pro.3x.yaml", BASIC + SPARSE),
    "cascade_mask_rcnn": ("instance", "resnet18", "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", BASIC),
    "resnext": (
        "detection",
        "resnext50_32x4d",
        "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        [*SMALL, "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 4],
    ),
    "mask_rcnn_dconv": ("instance", "resnet50", "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml", SMALL),
    "retinanet_mdconv": (
        "detection",
        "resnet50",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        [*SMALL, *DEFORM, "MODEL.RESNETS.DEFORM_MODULATED", True, "MODEL.RESNETS.DEFORM_NUM_GROUPS", 2],
    ),
}


def detectron2(name: str) -> None:
    import PIL.Image

    PIL.Image.LINEAR = PIL.Image.BILINEAR  # type: ignore[attr-defined]  # gone since it was written
    import detectron2 as package

    stub = types.ModuleType("detectron2._C")
    stub.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.modules["detectron2._C"] = package._C = stub
    import detectron2.layers.deform_conv as deform
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
    from detectron2.utils.events import EventStorage

    # Every argument that follows the dilation is given by the shapes.
    deform.deform_conv = lambda x, offset, weight, *geometry: torchvision.ops.deform_conv2d(
        x, offset, weight, None, *geometry[:3]
    )
    deform.modulated_deform_conv = lambda x, offset, mask, *rest: torchvision.ops.deform_conv2d(
        x, offset, *rest[:5], mask
    )
    task, backbone, file, changes = DETECTRON2[name]
    config = get_cfg()
    configs = Path(package.__file__).parent / "model_zoo" / "configs"
    if name == "sparse_rcnn":
        configs = _sparse_rcnn(config)
    config.merge_from_file(str(configs / file))
    heads = config.MODEL.ROI_HEADS
    heads.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = 1 if task == "keypoints" else NUM_CLASSES
    config.MODEL.DEVICE, config.MODEL.WEIGHTS, config.TEST.DETECTIONS_PER_IMAGE = "cpu", "", 20
    config.INPUT.MASK_FORMAT = "bitmask"
    config.merge_from_list(changes)
    model = build_model(config).eval()
    gains = {"": 1.0, "proposal_generator.rpn_head.anchor_deltas": 0.1, "head.bbox_pred": 0.1, "head.cls_score": 0.3}
    gains |= {"backbone.bottom_up.stem.conv1": 0.02, "backbone.stem.conv1": 0.02}
    for stage in range(3):
        gains |= {f"head.head_series.{stage}.bboxes_delta": 0.3, f"head.head_series.{stage}.class_logits": 0.1}
    gains |= {f"roi_heads.box_predictor.{stage}bbox_pred": 0.3 for stage in ("", "0.", "1.", "2.")}
    gains |= {"roi_heads.box_predictor.cls_score": 0.5, "roi_heads.keypoint_head.score_lowres": 0.5}
    rows = fill(model, gains)

    pixels = image() if config.INPUT.FORMAT == "RGB" else image().flip(0)
    entry: dict[str, Any] = {"image": pixels, "height": SIZE[0], "width": SIZE[1]}
    with torch.no_grad():
        instances = model([entry])[0]["instances"]
    detections = {"boxes": instances.pred_boxes.tensor, "scores": instances.scores, "labels": instances.pred_classes}
    target = Instances(SIZE, gt_boxes=Boxes(torch.tensor(BOXES)))
    target.gt_classes = torch.tensor(LABELS if task != "keypoints" else [0] * len(LABELS))
    if task == "instance":
        detections["masks"] = instances.pred_masks
        target.gt_masks = BitMasks(masks())
    if task == "keypoints":
        detections["keypoints"] = instances.pred_keypoints[..., :2]
        target.gt_keypoints = Keypoints(keypoints())
    entry["instances"] = target
    model.train()
    model.loss_normalizer_momentum = 0.0  # RetinaNet's loss by this image's count, not by a running mean
    with in_order(), EventStorage(), torch.no_grad():
        losses = model([entry])
    renamed = {"loss_rpn_cls": "objectness", "loss_rpn_loc": "rpn_box", "loss_cls": "classification"}
    renamed |= {"loss_box_reg": "box", "loss_mask": "mask", "loss_keypoint": "keypoint"}
    for i in range(3):
        renamed |= {f"loss_cls_stage{i}": f"classification{i + 1}", f"loss_box_reg_stage{i}": f"box{i + 1}"}
    for i in range(3) if name == "sparse_rcnn" else ():
        end = f"_{i}" if i < 2 else ""
        renamed |= {f"loss_ce{end}": f"classification{i + 1}", f"loss_bbox{end}": f"box{i + 1}"}
        renamed |= {f"loss_giou{end}": f"giou{i + 1}"}
    terms = {renamed[key]: float(value) for key, value in losses.items()}
    if task == "instance" and "cascade" in name:  # later stages are trained on other RoIs than ours and count otherwise
        terms = {key: value for key, value in terms.items() if not key.endswith(("2", "3")) and key != "mask"}
    source = "detectron2/rgb" if name.endswith("rgb") else None
    about = {"task": task, "backbone": backbone, "source": source, "gain": gains, "losses": terms, "state": rows}
    made_by = "Sparse R-CNN of its authors, commit 0e5028da" if name == "sparse_rcnn" else "Detectron2 0.5"
    write(f"detectron2-{name}", made_by, detections, **about)


def _sparse_rcnn(config: Any) -> Path:
    """Adds its options to a config; returns the folder of its configs."""
    # Gone since it was written.
    torchvision.ops._new_empty_tensor = torchvision.ops.misc._output_size = None
    import sparsercnn

    sparsercnn.add_sparsercnn_config(config)  # with 80 classes
    return Path(sparsercnn.__file__).parents[1] / "configs"


# MMDetection: task, backbone, source, config, changes to the model.
_HEADS = {"in_channels": 32, "feat_channels": 32}
_FPN = {"neck": {"out_channels": 32}, "rpn_head": _HEADS}
_EXTRACT = {"out_channels": 32}
_BOX = {"in_channels": 32, "fc_out_channels": 64, "num_classes": NUM_CLASSES}
_MASK = {"in_channels": 32, "conv_out_channels": 32, "num_classes": NUM_CLASSES}
_BOXES = {"bbox_roi_extractor": _EXTRACT, "bbox_head": _BOX}
_MASKS = {**_BOXES, "mask_roi_extractor": _EXTRACT, "mask_head": _MASK}
_R18 = {"backbone": {"depth": 18}, "neck": {"in_channels": [64, 128, 256, 512], "out_channels": 32}}
_DYNAMIC = {"in_channels": 32, "feat_channels": 8, "out_channels": 32}
_STAGE = {
    "num_classes": NUM_CLASSES,
    "in_channels": 32,
    "feedforward_channels": 64,
    "dynamic_conv_cfg": _DYNAMIC,
}
_SPARSE = {
    "rpn_head": {"num_proposals": 20, "proposal_feature_channel": 32},
    "roi_head": {"proposal_feature_channel": 32, "bbox_roi_extractor": _EXTRACT, "bbox_head": _STAGE},
}
MMDET: dict[str, tuple[str, str, str | None, str, dict[str, Any]]] = {
    "faster_rcnn": (
        "detection", "resnet18", None, "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        {**_FPN, **_R18, "roi_head": _BOXES},
    ),
    "mask_rcnn_caffe": (
        "instance", "resnet50", "mmdet/caffe", "mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py",
        {**_FPN, "roi_head": _MASKS},
    ),
    "faster_rcnn_c4": (
        "detection", "resnet50", "mmdet/caffe", "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        {"roi_head": {"bbox_head": {"num_classes": NUM_CLASSES}}},
    ),
    "mask_rcnn_gn": (
        "instance", "resnet50", "mmdet/caffe", "gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py",
        {**_FPN, "roi_head": {**_MASKS, "bbox_head": {**_BOX, "conv_out_channels": 32}}},
    ),
    "cascade_mask_rcnn": (
        "instance", "resnet18", None, "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
        {**_FPN, **_R18, "roi_head": {**_MASKS, "bbox_head": [_BOX] * 3}},
    ),
    "retinanet": (
        "detection", "resnet18", None, "retinanet/retinanet_r50_fpn_1x_coco.py",
        {**_R18, "bbox_head": {**_HEADS, "num_classes": NUM_CLASSES}},
    ),
    "atss": (
        "detection", "resnet18", None, "atss/atss_r50_fpn_1x_coco.py",
        {"backbone": {"depth": 18}, "neck": {"in_channels": [64, 128, 256, 512], "out_channels": 64},
         "bbox_head": {"in_channels": 64, "feat_channels": 64, "num_classes": NUM_CLASSES}},
    ),
    "atss_plain": (  # without norms in the towers
        "detection", "resnet18", None, "atss/atss_r50_fpn_1x_coco.py",
        {**_R18, "bbox_head": {**_HEADS, "norm_cfg": None, "num_classes": NUM_CLASSES + 2}},
    ),
    "sparse_rcnn": ("detection", "resnet18", None, "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", {**_R18, **_SPARSE}),
    "sparse_rcnn_gn": (
        "detection", "resnet18", None, "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py",
        {**_R18, **_SPARSE, "neck": {**_R18["neck"], "norm_cfg": {"type": "GN", "num_groups": 32}}},
    ),
    "reppoints": (
        "detection", "resnet18", None, "reppoints/reppoints-moment_r50_fpn_1x_coco.py",
        {**_R18, "bbox_head": {**_HEADS, "point_feat_channels": 32, "num_classes": NUM_CLASSES + 1}},
    ),
    "reppoints_gn": (
        "detection", "resnet18", None, "reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py",
        {"backbone": {"depth": 18}, "neck": {"in_channels": [64, 128, 256, 512], "out_channels": 64},
         "bbox_head": {"in_channels": 64, "feat_channels": 64, "point_feat_channels": 64, "num_classes": NUM_CLASSES}},
    ),
    "mask_rcnn_dconv": (
        "instance", "resnet50", None, "dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", {**_FPN, "roi_head": _MASKS},
    ),
    "faster_rcnn_mdconv": (
        "detection", "resnet50", None, "dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py",
        {**_FPN, "roi_head": _BOXES},
    ),
    "cascade_rcnn_dconv": (
        "detection", "resnext50_32x4d", None, "dcn/cascade-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
        {**_FPN, "backbone": {"type": "ResNeXt", "groups": 32, "base_width": 4},
         "roi_head": {**_BOXES, "bbox_head": [_BOX] * 3}},
    ),
    "res2net_mdconv": (
        "detection", "res2net50_v1b", None, "res2net/faster-rcnn_res2net-101_fpn_2x_coco.py",
        {**_FPN, "roi_head": _BOXES,
         "backbone": {
             "depth": 50, "dcn": {"type": "DCNv2", "deform_groups": 1}, "stage_with_dcn": (False, False, True, True),
         }},
    ),
    "hrnet": (
        "detection", "hrnet_w18", None, "hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py", {**_FPN, "roi_head": _BOXES}
    ),
    "res2net": (
        "detection", "res2net50_v1b", None, "res2net/faster-rcnn_res2net-101_fpn_2x_coco.py",
        {**_FPN, "backbone": {"depth": 50}, "roi_head": _BOXES},
    ),
}  # fmt: skip


def mmdet(name: str) -> None:
    _mmcv_ops()
    import mmdet as package
    import mmdet.models
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    task, backbone, source, file, changes = MMDET[name]
    init_default_scope("mmdet")
    config = Config.fromfile(Path(package.__file__).parent / ".mim" / "configs" / file).model
    merged(config, changes)
    untrained(config)
    testing = config.test_cfg.get("rcnn", config.test_cfg)
    testing.max_per_img = 20
    if "rpn_proposal" in config.train_cfg:
        # MMDetection puts the ground-truth boxes first, others last: with few proposals, all of them are sampled.
        config.train_cfg.rpn_proposal.max_per_img = 60
    if name.endswith("c4"):
        config.test_cfg.rpn.max_per_img = 60
    if name.startswith("sparse"):  # three stages instead of six
        config.roi_head.update(num_stages=3, stage_loss_weights=[1] * 3, bbox_head=config.roi_head.bbox_head[:3])
        config.train_cfg.rcnn = config.train_cfg.rcnn[:3]
    model = MODELS.build(config).eval()
    gains = {"": 1.0, "rpn_head.rpn_reg": 0.1, "bbox_head.retina_reg": 0.1, "bbox_head.atss_reg": 0.3}
    gains["neck."] = 0.02 if "hrnet" in name else 1.0
    if source:
        gains["backbone.conv1"] = 0.02
    gains |= {f"roi_head.bbox_head.{stage}fc_reg": 0.3 for stage in ("", "0.", "1.", "2.")}
    rows = fill(model, gains)

    usual = config.data_preprocessor
    pixels = image() if usual.bgr_to_rgb else image().flip(0)
    batch = ((pixels - torch.tensor(usual.mean)[:, None, None]) / torch.tensor(usual.std)[:, None, None])[None].float()
    sample = DetDataSample(metainfo=dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), SIZE))
    sample.set_metainfo({"scale_factor": (1.0, 1.0)})
    with torch.no_grad():
        instances = model.predict(batch, [sample])[0].pred_instances
    boxes = torchvision.ops.clip_boxes_to_image(instances.bboxes, SIZE)  # those of Sparse R-CNN are not clipped
    detections = {"boxes": boxes, "scores": instances.scores, "labels": instances.labels}
    target = InstanceData(bboxes=torch.tensor(BOXES), labels=torch.tensor(LABELS))
    if task == "instance":
        detections["masks"] = instances.masks
        target.masks = BitmapMasks(masks().numpy().astype("uint8"), *SIZE)
    sample.gt_instances = target
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with in_order(), torch.no_grad():
        losses = model.loss(batch, [sample])
    terms = {}
    for key, value in losses.items():
        stage, _, short = key.rpartition(".")
        renamed = {"loss_rpn_cls": "objectness", "loss_rpn_bbox": "rpn_box", "loss_cls": "classification"}
        renamed |= {"loss_bbox": "box", "loss_mask": "mask", "loss_centerness": "centerness", "loss_iou": "giou"}
        renamed |= {"loss_pts_init": "initial_box", "loss_pts_refine": "box"}
        if short in renamed:
            number = str(int(stage[1:]) + 1) if stage and short != "loss_mask" else ""
            total = float(sum(value)) if isinstance(value, list) else float(value)
            terms[renamed[short] + number] = terms.get(renamed[short] + number, 0) + total
    about = {"task": task, "backbone": backbone, "source": source, "gain": gains, "losses": terms, "state": rows}
    write(f"mmdet-{name}", "MMDetection 3.3.0", detections, **about)


# RepPoints v2 by its authors: config, and our options that no file tells.
REPPOINTS_V2 = {"reppoints_v2_giou": ("reppoints_v2_r50_fpn_giou_1x_coco.py", {"box_loss.name": "giou"})}
COMPILED = (
    *("nms.nms_ext", "roi_pool.roi_pool_ext", "roi_align.roi_align_ext", "dcn.deform_pool_ext", "dcn.deform_conv_ext"),
    *("carafe.carafe_ext", "carafe.carafe_naive_ext", "corner_pool.corner_pool_ext", "chamfer_2d.chamfer_2d"),
    *("masked_conv.masked_conv2d_ext", "sigmoid_focal_loss.sigmoid_focal_loss_ext"),
)
"""Compiled modules of the authors' code, below mmdet.ops."""


def reppoints_v2(name: str) -> None:
    """The authors' fork of MMDetection 2, with torchvision in place of its compiled parts."""
    import numpy as np

    file, options = REPPOINTS_V2[name]
    made: dict[str, dict[str, Any]] = {f"ops.{module}": {} for module in COMPILED} | {
        "version": {"__version__": "2", "short_version": "2"},
        "ops.utils.compiling_info": {"get_compiler_version": None, "get_compiling_cuda_version": None},
    }
    for module, content in made.items():
        sys.modules[f"mmdet.{module}"] = types.ModuleType(f"mmdet.{module}")
        sys.modules[f"mmdet.{module}"].__dict__.update(content)
    import mmcv

    register = mmcv.utils.Registry._register_module  # mmcv has layers by now that the authors define themselves
    mmcv.utils.Registry._register_module = lambda *args, **options: register(*args, **{**options, "force": True})
    import mmdet.models
    import mmdet.ops

    root = Path(mmdet.__file__).parent
    for package in ("datasets", "datasets.pipelines"):  # without the datasets themselves
        sys.modules[f"mmdet.{package}"] = types.ModuleType(f"mmdet.{package}")
        sys.modules[f"mmdet.{package}"].__path__ = [str(root / package.replace(".", "/"))]
    sys.modules["mmdet.datasets.builder"] = types.ModuleType("mmdet.datasets.builder")
    sys.modules["mmdet.datasets.builder"].PIPELINES = mmcv.utils.Registry("pipeline")  # type: ignore[attr-defined]
    from mmdet.datasets.pipelines.loading_reppointsv2 import LoadRPDV2Annotations

    def deform_conv(layer: Any, x: Tensor, offset: Tensor) -> Tensor:
        return torchvision.ops.deform_conv2d(x, offset, layer.weight, padding=layer.padding)

    def focal(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
        targets = nn.functional.one_hot(labels, NUM_CLASSES + 1)[:, :NUM_CLASSES].float()
        return torchvision.ops.sigmoid_focal_loss(logits, targets, alpha, gamma)

    def nms(boxes: Tensor, iou: float) -> Tensor:
        return torchvision.ops.nms(boxes[:, :4], boxes[:, 4], iou)

    topk = Tensor.topk

    def at_most(x: Tensor, k: int, dim: int = -1, **options: Any) -> Any:  # they ask for nine points of every level
        return topk(x, min(k, x.shape[dim]), dim, **options)

    points = sys.modules["mmdet.core.anchor.point_generator"].PointGenerator
    points.grid_points.__defaults__, points.valid_flags.__defaults__ = (16, "cpu"), ("cpu",)
    mmdet.ops.DeformConv.forward = deform_conv
    sys.modules["mmdet.models.losses.focal_loss"]._sigmoid_focal_loss = focal  # type: ignore[attr-defined]
    sys.modules["mmdet.ops.nms.nms_ext"].nms = nms  # type: ignore[attr-defined]

    config = mmcv.Config.fromfile(str(root.parent / "configs" / "reppoints_v2" / file))
    config.model.pretrained, config.test_cfg.max_per_img = None, 20
    head = {"in_channels": 64, "feat_channels": 64, "point_feat_channels": 64, "num_classes": NUM_CLASSES}
    neck = {"in_channels": [64, 128, 256, 512], "out_channels": 64}
    merged(config.model, {"backbone": {"depth": 18}, "neck": neck, "bbox_head": head})
    model = mmdet.models.build_detector(config.model, train_cfg=config.train_cfg, test_cfg=config.test_cfg).eval()
    gains = {"": 1.0, "bbox_head.reppoints_pts_init_out": 0.3, "bbox_head.reppoints_pts_refine_out": 0.3}
    gains |= {f"bbox_head.reppoints_hem_{corner}_offset_out": 0.2 for corner in ("tl", "br")}
    rows = fill(model, gains)
    # The first two points are corners: no side of a box is negative, which we remove and the authors keep.
    bias = torch.cat((torch.tensor([-1.5, -1.5, 1.5, 1.5]), torch.linspace(-1, 1, 14)))
    model.bbox_head.reppoints_pts_init_out.bias.data = bias
    rows = [[*row, bias.tolist()] if row[0].endswith("pts_init_out.bias") else row for row in rows]

    usual = config.img_norm_cfg
    batch = ((image() - torch.tensor(usual.mean)[:, None, None]) / torch.tensor(usual.std)[:, None, None])[None].float()
    meta = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (*SIZE, 3)) | {"scale_factor": 1.0, "flip": False}
    target = {"gt_bboxes": np.array(BOXES, np.float32), "gt_labels": np.array(LABELS), "pad_shape": SIZE}
    LoadRPDV2Annotations(NUM_CLASSES)(target)
    foreground = [torch.tensor(target[key])[None] for key in ("gt_sem_map", "gt_sem_weights")]
    with torch.no_grad():
        raw = model.bbox_head(model.extract_feat(batch))
        boxes, labels = model.bbox_head.get_bboxes(*raw, [meta])[0]
        Tensor.topk = at_most  # type: ignore[method-assign]
        losses = model.bbox_head.loss(*raw, [torch.tensor(BOXES)], *foreground, [torch.tensor(LABELS)], [meta])
        Tensor.topk = topk  # type: ignore[method-assign]
    renamed = {"loss_cls": "classification", "loss_pts_init": "initial_box", "loss_pts_refine": "box"}
    renamed |= {"loss_heatmap": "corners", "loss_offset": "corner_offsets", "loss_sem": "foreground"}
    terms = {renamed[key]: float(sum(x)) if isinstance(x, list) else float(x) for key, x in losses.items()}
    detections = {"boxes": boxes[:, :4], "scores": boxes[:, 4], "labels": labels}
    about = {"task": "detection", "backbone": "resnet18", "source": None, "options": options, "gain": gains}
    write(f"mmdet-{name}", "RepPointsV2", detections, **about, losses=terms, state=rows)


def merged(config: Any, changes: dict[str, Any]) -> None:
    """Changes a nested config in place; a change of one applies to every entry of a list."""
    for key, value in changes.items():
        if isinstance(value, dict) and key in config:
            for entry in config[key] if isinstance(config[key], list) else [config[key]]:
                merged(entry, value)
        elif isinstance(value, list) and isinstance(value[0], dict):
            for entry, changed in zip(config[key], value, strict=True):
                merged(entry, changed)
        else:
            config[key] = value


def untrained(config: Any) -> None:
    """Removes from a config what would be downloaded."""
    for value in list(config.values()) if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            untrained(value)
    if isinstance(config, dict):
        config.pop("init_cfg", None)


class in_order:
    """Samplers take the first instead of any."""

    def __enter__(self) -> None:
        self.randperm, torch.randperm = torch.randperm, lambda count, **_: torch.arange(count)

    def __exit__(self, *error: object) -> None:
        torch.randperm = self.randperm


def _mmcv_ops() -> None:
    """mmcv.ops by torchvision, as far as these detectors call it; all else is an empty class."""

    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, **_: Any) -> tuple[Tensor, Tensor]:
        kept = torchvision.ops.nms(boxes, scores, iou_threshold)
        return torch.cat((boxes[kept], scores[kept, None]), 1), kept

    def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, options: Any, *_: Any) -> tuple[Tensor, Tensor]:
        kept = torchvision.ops.batched_nms(boxes, scores, groups, options["iou_threshold"])
        return torch.cat((boxes[kept], scores[kept, None]), 1), kept

    class RoIAlign(nn.Module):
        def __init__(self, output_size: Any, spatial_scale: float, sampling_ratio: int = 0, **_: Any) -> None:
            super().__init__()
            self.output_size = tuple(output_size) if isinstance(output_size, list | tuple) else (output_size,) * 2
            self.spatial_scale, self.sampling_ratio = spatial_scale, sampling_ratio

        def forward(self, x: Tensor, regions: Tensor) -> Tensor:
            aligned = (self.output_size, self.spatial_scale, self.sampling_ratio, True)
            return torchvision.ops.roi_align(x, regions, *aligned)

    def roi_align(x: Tensor, regions: Tensor, size: Any, scale: float, ratio: int, mode: str, aligned: bool) -> Tensor:
        return torchvision.ops.roi_align(x, regions, size, scale, ratio, aligned)

    def empty(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})

    def deform_conv(*args: Any, **options: Any) -> nn.Module:
        return torchvision.ops.DeformConv2d(*args, bias=False, **options)

    known = {"nms": nms, "batched_nms": batched_nms, "RoIAlign": RoIAlign, "roi_align": roi_align}
    known["DeformConv2d"] = deform_conv
    for name in ("", ".carafe", ".merge_cells", ".modulated_deform_conv", ".nms", ".roi_align"):
        module = types.ModuleType(f"mmcv.ops{name}")
        module.__dict__.update(known | {"__getattr__": empty, "__path__": []})
        sys.modules[module.__name__] = module
    import mmcv
    import mmcv.cnn.bricks.transformer

    mmcv.ops = sys.modules["mmcv.ops"]
    _mmcv_deform()
    mmcv.cnn.bricks.transformer.MultiScaleDeformableAttention = empty("MultiScaleDeformableAttention")


@functools.cache
def _mmcv_deform() -> None:
    """mmcv's deformable layers DCN and DCNv2, with torchvision's operator in place of the compiled one."""
    import mmcv.utils.ext_loader

    mmcv.utils.ext_loader.load_ext = lambda *_: None
    for name in ("deform_conv", "modulated_deform_conv"):
        path = Path(mmcv.__file__).parent / "ops" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"mmcv.ops.{name}_", path)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # Every argument that follows the dilation is given by the shapes.
        module.deform_conv2d = lambda x, offset, weight, *geometry: torchvision.ops.deform_conv2d(
            x, offset, weight, None, *geometry[:3]
        )
        module.modulated_deform_conv2d = lambda x, offset, mask, *rest: torchvision.ops.deform_conv2d(
            x, offset, *rest[:5], mask
        )


if __name__ == "__main__":
    library, *chosen = sys.argv[1:]
    libraries: dict[str, tuple[Any, Any]] = {"detectron2": (DETECTRON2, detectron2), "mmdet": (MMDET, mmdet)}
    table, function = (libraries | {"reppoints_v2": (REPPOINTS_V2, reppoints_v2)})[library]
    for name in chosen or table:
        function(name)
