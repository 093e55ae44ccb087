"""What methods of top-down pose estimation share: targets, loss, decoding, and the objects of an image together.

Each input shows one object, cut out by its box.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, check_choices, in_range, nearest
from vertebra.images import input_matrix, shown_box
from vertebra.ops.crops import inverse, moved, surroundings
from vertebra.ops.heatmaps import dark_refined, gaussians, maxima, quarter_refined
from vertebra.ops.keypoints import oks_nms
from vertebra.options import adjustable, training_only
from vertebra.structures import (
    COCO_PERSON,
    Answer,
    Frame,
    KeypointSchema,
    Level,
    Prediction,
    Preprocess,
    Region,
    Target,
)
from vertebra.tasks.base import Size
from vertebra.tasks.trunk import TrunkConfig, TrunkTask

if TYPE_CHECKING:
    from vertebra.metrics.pose import PoseMetrics

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "base_batch_size": 128,
    "weight_decay": 0.0,
    "epochs": 210,
    "warmup": 1.0,
    "data.batch_size": 32,
}
"""Training settings, where they differ from those of classification: those of HRNet's authors but for the schedule."""


@dataclass(frozen=True)
class TopDownConfig(TrunkConfig):
    """Options of every method of pose estimation."""

    norm: Literal["auto", "batch", "frozen", "sync", "group"] = "batch"
    """Norm that replaces the backbone's batch norm: batch norm itself, frozen, synchronised over processes, or group
    norm. `auto` freezes it when training starts from a checkpoint."""
    keypoints: KeypointSchema = field(default=COCO_PERSON, metadata={"training": True})
    """Names, skeleton, mirror indices and OKS sigmas of the keypoints. Training takes them from the data."""
    input_size: tuple[int, int] = (256, 192)
    """(height, width) of the input in pixels; `data.image_size` keeps their ratio."""
    margin: float = 1.25
    """Factor on the sides of a box, by which the input shows its surroundings."""
    udp: bool = False
    """Unbiased data processing: the centres of the corner cells of image, input and heatmap coincide, and Gaussians are
    centred on the keypoints."""
    sigma: float = training_only(2.0)
    """Standard deviation of the target Gaussians in cells of the heatmap."""
    unbiased: bool = training_only(False)
    """Unbiased encoding: Gaussians are centred on the keypoints, not on the nearest cells."""
    ohkm: int = training_only(0)
    """Online hard keypoint mining: number of keypoints of each object with the highest losses that are learned; 0
    learns all."""
    decoding: Literal["none", "quarter", "dark"] = adjustable("quarter")
    """How the highest cell is refined: `none`, by a `quarter` of a cell towards the higher neighbour, or to the maximum
    of a Gaussian with the heatmap's derivatives (`dark`)."""
    cell_offset: float = 0.0
    """Cells added to the decoded coordinates: 0.5 where a target's cell is the floor of the keypoint's coordinates, not
    the nearest one, as in the landmarks of HRNet's authors."""
    dark_kernel: int = adjustable(11)
    """Cells over which `dark` smoothes the heatmap: 11 for a sigma of 2, 17 for one of 3; odd."""
    min_keypoint_score: float = adjustable(0.2)
    """An object's score is that of its box times the mean score of the keypoints with a higher score than this."""
    oks_threshold: float = adjustable(0.9)
    """OKS above which the object with the lower score is removed."""
    error_pair: tuple[str, ...] = ()
    """Names of the two keypoints whose distance normalises errors, such as the outer corners of the eyes. Without, that
    of the published point set of as many keypoints, or the square root of the box's area."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        for side in self.input_size:
            in_range("input_size", side, 16, 4096)
        in_range("margin", self.margin, 0.1, 10)
        in_range("sigma", self.sigma, 0.1, 100)
        in_range("ohkm", self.ohkm, 0, len(self.keypoints.names))
        in_range("cell_offset", self.cell_offset, 0, 1)
        in_range("dark_kernel", self.dark_kernel, 3, 99)
        if self.dark_kernel % 2 == 0:
            raise VertebraError(f"dark_kernel is {self.dark_kernel}; it must be odd, such as {self.dark_kernel + 1}.")
        in_range("min_keypoint_score", self.min_keypoint_score, 0, 1)
        in_range("oks_threshold", self.oks_threshold, 0, 1)
        if len(self.error_pair) not in (0, 2):
            raise VertebraError(f"error_pair has {len(self.error_pair)} names; it must have two, or none.")
        for name in self.error_pair:
            if name not in self.keypoints.names:
                raise VertebraError(
                    f"error_pair names {name!r}, which is no keypoint.{nearest(name, self.keypoints.names)}"
                )


class TopDown(TrunkTask):
    """An object cut out by its box [B, C, H, W] -> a heatmap of each of its keypoints [B, K, h, w].

    A method writes `make_head`, and may override `make_levels` and `features`.
    """

    kind = "pose"
    monitor = "keypoint_ap"
    usual_classes = ("person",)
    target_fields = ("keypoints",)
    unused_parameters = True  # such as the norms of maps that the head does not read

    def __init__(
        self, config: Any, classes: Sequence[str], preprocess: Preprocess, backbone: Backbone | None = None
    ) -> None:
        """`backbone` is one that exists already, to be shared; without it `config` says which to build."""
        super().__init__(replace(config, input_size=preprocess.size), classes, preprocess)  # `data.image_size` decides
        self.backbone = self.make_backbone(backbone, **self.backbone_defaults())
        self.stride = 4.0
        """Input pixels per cell of the heatmap."""
        self.decoder = self.make_head(self.backbone.levels, len(config.keypoints.names))

    def backbone_defaults(self) -> dict[str, Any]:
        """Options of the backbone, where the user chooses no others."""
        return {}

    def make_head(self, levels: Sequence[Level], num_keypoints: int) -> nn.Module:
        """The head over the map that `features` returns; sets `stride` if it is not 4."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Any:
        """What the head reads: the coarsest map."""
        return self.backbone(images)[-1]

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[Tensor, ...]:
        """Heatmaps [B, K, h, w]."""
        return (self.heatmaps(images),)

    def heatmaps(self, images: Tensor) -> Tensor:
        """[B, K, h, w], without the cells beyond the input that a side brings which is no multiple of the backbone's
        stride: a mirror image would move them."""
        maps: Tensor = self.decoder(self.features(images))
        pixels, cells = float(self.stride).as_integer_ratio()  # torch.export traces no math.ceil
        rows, columns = (-(-side * cells // pixels) for side in images.shape[2:])
        return maps[:, :, :rows, :columns]

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term `heatmap`: half the mean squared error of the heatmaps of labelled keypoints.

        The first object of each target is the one that the input shows.
        """
        heatmaps = self.heatmaps(images).float()
        keypoints = torch.stack([target.keypoints[0] for target in targets if target.keypoints is not None])
        size = (heatmaps.shape[2], heatmaps.shape[3])
        cells = torch.cat((keypoints[..., :2] / self.cell_sides(size).to(keypoints), keypoints[..., 2:]), 2)
        config = self.config
        rounded = not (config.unbiased or config.udp)
        expected, valid = gaussians(cells, size, config.sigma, rounded=rounded, cut=not config.unbiased)
        errors = 0.5 * ((heatmaps - expected) ** 2).mean((2, 3)) * valid  # [B, K]
        return {"heatmap": (errors.topk(config.ohkm).values if config.ohkm else errors).mean()}

    def cell_sides(self, size: Size) -> Tensor:
        """[2] input pixels per cell of heatmaps of (height, width) `size`, on the x and the y axis."""
        if not self.preprocess.udp:
            return torch.tensor([self.stride, self.stride])
        height, width = self.preprocess.size
        return torch.tensor([(width - 1) / max(1, size[1] - 1), (height - 1) / max(1, size[0] - 1)])

    def infer(self, images: Tensor, frames: Sequence[Frame], *, merging: bool = False) -> list[Prediction]:
        """With `merging`, from the mean of the heatmaps of the input and of its mirror image."""
        if not merging:
            return super().infer(images, frames)
        return self.decode(
            (0.5 * (self.outputs(images)[0] + self.flip_back(self.outputs(images.flip(-1))[0])),), frames
        )

    def flip_back(self, heatmaps: Tensor) -> Tensor:
        """Heatmaps of the mirror image as those of the image.

        Without UDP, the corners of the inputs coincide, not the centres of their cells, so that the maps are off by
        almost one cell.
        """
        order = self.config.keypoints.flip_indices
        flipped = heatmaps.flip(-1)[:, list(order)] if order else heatmaps.flip(-1)
        return flipped if self.preprocess.udp else torch.cat((flipped[..., :1], flipped[..., :-1]), 3)

    def decode(self, raw: tuple[Tensor, ...], frames: Sequence[Frame]) -> list[Prediction]:
        heatmaps = raw[0].float()
        config = self.config
        cells, scores = maxima(heatmaps)
        if config.decoding == "quarter":
            cells = quarter_refined(heatmaps, cells)
        elif config.decoding == "dark":
            cells = dark_refined(heatmaps, cells, config.dark_kernel, udp=self.preprocess.udp)
        points = (cells + config.cell_offset) * self.cell_sides((heatmaps.shape[2], heatmaps.shape[3])).to(cells)
        counted = scores > config.min_keypoint_score
        means = (scores * counted).sum(1) / counted.sum(1).clamp(min=1)
        predictions = []
        for located, values, mean, frame in zip(points.cpu(), scores.cpu(), means.tolist(), frames, strict=True):
            region = frame.region or Region(shown_box(frame))
            if not region.score:
                predictions.append(replace(self.no_objects(), size=frame.original))
                continue
            located = moved(located, inverse(input_matrix(frame, self.preprocess)))
            predictions.append(
                Prediction(
                    boxes=torch.tensor([region.box]),
                    labels=torch.tensor([region.label]),
                    scores=torch.tensor([min(1.0, max(0.0, region.score * mean))]),
                    keypoints=torch.cat((located, values[:, None]), 1)[None],
                    size=frame.original,
                )
            )
        return predictions

    def answer_score(self, raw: tuple[Tensor, ...], answer: Answer, size: Size) -> Tensor:
        """The maximum of the keypoint's heatmap; the mean over all keypoints where the answer is the object."""
        maximum = raw[0].float().amax((2, 3))
        return maximum.mean(1) if answer.keypoint is None else maximum[:, answer.keypoint]

    def merge_objects(self, predictions: Sequence[Prediction], size: Size) -> Prediction:
        """The prediction for an image of (height, width) `size` from those of its objects, by descending score, without
        objects whose keypoints are those of another with a higher score (OKS-NMS).

        Source: Towards Accurate Multi-person Pose Estimation in the Wild, arXiv:1701.01779, section 2.1.
        """
        parts = [self.no_objects(), *predictions]
        rows: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("boxes", "labels", "scores", "keypoints")
        }
        joined = Prediction(**rows, size=size)
        assert joined.boxes is not None
        assert joined.scores is not None
        assert joined.keypoints is not None
        preprocess = self.preprocess
        shown_parts = [surroundings(box, preprocess.size, preprocess.margin) for box in joined.boxes.tolist()]
        areas = torch.tensor([width * height for _, _, width, height in shown_parts])
        kept = oks_nms(joined.keypoints, joined.scores, areas, self.sigmas, self.config.oks_threshold)
        return joined.take(kept.tolist())

    def no_objects(self) -> Prediction:
        return Prediction(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            scores=torch.zeros(0),
            keypoints=torch.zeros(0, len(self.config.keypoints.names), 3),
        )

    @functools.cached_property
    def sigmas(self) -> Tensor:
        """[K] deviations of the annotations of the keypoints."""
        return torch.tensor(self.config.keypoints.deviations)

    def metrics(self, **options: Any) -> PoseMetrics:
        from vertebra.metrics.pose import PoseMetrics

        return PoseMetrics(self, **options)

    @classmethod
    def default_preprocess(cls, known: Preprocess | None, config: Any) -> Preprocess:
        """Objects cut out by their boxes, at the size of the checkpoint's position table if it has one."""
        usual = super().default_preprocess(known, config)
        size = usual.size if usual.resize == "box" else config.input_size
        size = tuple(config.backbone_options.get("image_size", size))
        if not backbones.takes_any_size(config.backbone) and usual.resize != "box":
            size = super().default_preprocess(None, config).size
        return replace(usual, size=size, crop=1.0, resize="box", margin=config.margin, udp=config.udp)


def keypoint_options(count: int | None) -> dict[str, Any]:
    """The schema of a file's keypoints, numbered unless they are the 17 of COCO."""
    if count in (None, len(COCO_PERSON.names)):
        return {}
    return {"keypoints": KeypointSchema(tuple(str(i) for i in range(count or 0)))}
