"""Computes references of detectors with Detectron2 and MMDetection themselves, for tests/parity/test_originals.py.

    python tools/make_detector_references.py detectron2|mmdet [NAME ...]

Needed beside Vertebra, neither of them compiled: the sources of Detectron2 0.5 on PYTHONPATH, with fvcore, iopath,
omegaconf, yacs, cloudpickle, tabulate and termcolor; mmdet 3.3.0, mmengine and mmcv-lite 2.1.0, with addict, scipy,
shapely, opencv-python-headless, terminaltables and yapf. torchvision replaces their compiled parts.

Weights are made from their names (vertebra.ledger.fabricate), so a reference holds only numbers: the names and shapes
of the tensors, the losses for one image with its targets, and the final detections.
"""

from __future__ import annotations

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
    kept = {k: t for k, t in model.state_dict().items() if "cell_anchors" in k or k.startswith("pixel_")}
    rows = [[k, list(t.shape)] for k, t in model.state_dict().items() if k not in kept]
    model.load_state_dict(fabricate_state(rows, gains) | kept)
    return rows + [[k, list(t.shape), t.flatten().tolist()] for k, t in kept.items() if k.startswith("pixel_")]


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
    "cascade_mask_rcnn": ("instance", "resnet18", "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", BASIC),
    "resnext": (
        "detection",
        "resnext50_32x4d",
        "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        [*SMALL, "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 4],
    ),
}


def detectron2(name: str) -> None:
    import PIL.Image

    PIL.Image.LINEAR = PIL.Image.BILINEAR  # type: ignore[attr-defined]  # gone since it was written
    import detectron2 as package

    stub = types.ModuleType("detectron2._C")
    stub.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.modules["detectron2._C"] = package._C = stub
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
    from detectron2.utils.events import EventStorage

    task, backbone, file, changes = DETECTRON2[name]
    config = get_cfg()
    config.merge_from_file(str(Path(package.__file__).parent / "model_zoo" / "configs" / file))
    heads = config.MODEL.ROI_HEADS
    heads.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = 1 if task == "keypoints" else NUM_CLASSES
    config.MODEL.DEVICE, config.MODEL.WEIGHTS, config.TEST.DETECTIONS_PER_IMAGE = "cpu", "", 20
    config.INPUT.MASK_FORMAT = "bitmask"
    config.merge_from_list(changes)
    model = build_model(config).eval()
    gains = {"": 1.0, "proposal_generator.rpn_head.anchor_deltas": 0.1, "head.bbox_pred": 0.1, "head.cls_score": 0.3}
    gains |= {"backbone.bottom_up.stem.conv1": 0.02, "backbone.stem.conv1": 0.02}
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
    terms = {renamed[key]: float(value) for key, value in losses.items()}
    if task == "instance" and "cascade" in name:  # later stages are trained on other RoIs than ours and count otherwise
        terms = {key: value for key, value in terms.items() if not key.endswith(("2", "3")) and key != "mask"}
    source = "detectron2/rgb" if name.endswith("rgb") else None
    about = {"task": task, "backbone": backbone, "source": source, "gain": gains, "losses": terms, "state": rows}
    write(f"detectron2-{name}", "Detectron2 0.5", detections, **about)


# MMDetection: task, backbone, source, config, changes to the model.
_HEADS = {"in_channels": 32, "feat_channels": 32}
_FPN = {"neck": {"out_channels": 32}, "rpn_head": _HEADS}
_EXTRACT = {"out_channels": 32}
_BOX = {"in_channels": 32, "fc_out_channels": 64, "num_classes": NUM_CLASSES}
_MASK = {"in_channels": 32, "conv_out_channels": 32, "num_classes": NUM_CLASSES}
_BOXES = {"bbox_roi_extractor": _EXTRACT, "bbox_head": _BOX}
_MASKS = {**_BOXES, "mask_roi_extractor": _EXTRACT, "mask_head": _MASK}
_R18 = {"backbone": {"depth": 18}, "neck": {"in_channels": [64, 128, 256, 512], "out_channels": 32}}
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
    model = MODELS.build(config).eval()
    gains = {"": 1.0, "rpn_head.rpn_reg": 0.1, "bbox_head.retina_reg": 0.1, "neck.": 0.02 if "hrnet" in name else 1.0}
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
    detections = {"boxes": instances.bboxes, "scores": instances.scores, "labels": instances.labels}
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
        renamed |= {"loss_bbox": "box", "loss_mask": "mask"}
        if short in renamed:
            number = str(int(stage[1:]) + 1) if stage and short != "loss_mask" else ""
            total = float(sum(value)) if isinstance(value, list) else float(value)
            terms[renamed[short] + number] = terms.get(renamed[short] + number, 0) + total
    about = {"task": task, "backbone": backbone, "source": source, "gain": gains, "losses": terms, "state": rows}
    write(f"mmdet-{name}", "MMDetection 3.3.0", detections, **about)


def merged(config: Any, changes: dict[str, Any]) -> None:
    """Changes a nested config in place; a change of one applies to every entry of a list."""
    for key, value in changes.items():
        if isinstance(value, dict):
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

    known = {"nms": nms, "batched_nms": batched_nms, "RoIAlign": RoIAlign, "roi_align": roi_align}
    for name in ("", ".carafe", ".merge_cells", ".modulated_deform_conv", ".nms", ".roi_align"):
        module = types.ModuleType(f"mmcv.ops{name}")
        module.__dict__.update(known | {"__getattr__": empty, "__path__": []})
        sys.modules[module.__name__] = module
    import mmcv
    import mmcv.cnn.bricks.transformer

    mmcv.ops = sys.modules["mmcv.ops"]
    mmcv.cnn.bricks.transformer.MultiScaleDeformableAttention = empty("MultiScaleDeformableAttention")


if __name__ == "__main__":
    library, *chosen = sys.argv[1:]
    table, function = {"detectron2": (DETECTRON2, detectron2), "mmdet": (MMDET, mmdet)}[library]
    for name in chosen or table:
        function(name)  # type: ignore[operator]
