"""The check of what a loss is given: one sentence that names image, object and expected form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vertebra.errors import VertebraError, shown
from vertebra.structures import IGNORED, Frame, Masks, Target

if TYPE_CHECKING:
    from vertebra.tasks.base import Task

Loss = Callable[..., dict[str, Tensor]]

FORMS: dict[str, tuple[torch.dtype, tuple[str, ...], str]] = {
    "tags": (torch.int64, ("T",), "torch.tensor([0, 2])"),
    "boxes": (torch.float32, ("N", "4"), "torch.tensor([[8.0, 8.0, 40.0, 24.0]])"),
    "labels": (torch.int64, ("N",), "torch.tensor([0])"),
    "keypoints": (torch.float32, ("N", "K", "3"), "torch.tensor([[[8.0, 8.0, 2.0]]])"),
    "crowd": (torch.bool, ("N",), "torch.tensor([False])"),
    "areas": (torch.float32, ("N",), "torch.tensor([512.0])"),
    "semantic": (torch.uint8, ("H", "W"), "torch.zeros(64, 96, dtype=torch.uint8)"),
    "tokens": (torch.int64, ("T",), "torch.tensor([5, 3])"),
}
"""Of fields of Target: dtype, sides by name, and an example.

T is the number of tags or of tokens, N that of objects, K that of their keypoints; H and W are the input's."""


def checked(loss: Loss) -> Loss:
    """A task's `loss` that checks its arguments first; an exported or compiled program holds no check."""

    @functools.wraps(loss)
    def checking(task: Task, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        if not torch.compiler.is_compiling():
            check(task, images, targets)
        return loss(task, images, targets)

    return checking


def check(task: Task, images: Tensor, targets: Sequence[Target]) -> None:
    """Raises VertebraError if a loss cannot be computed from these images and targets.

    The fields in `task.target_fields` must be there. Where a task names none, the fields that are given are checked.
    """
    task.check_input(images)
    if not bool(torch.isfinite(images).all()):
        index = int(torch.isfinite(images).flatten(1).all(1).logical_not().nonzero()[0])
        raise VertebraError(f"image {index} has values that are infinite or not a number.")
    if not isinstance(targets, list | tuple):
        raise VertebraError(f"targets are {_kind(targets)}; they must be a list with a Target for each image.")
    if len(targets) != len(images):
        raise VertebraError(f"there are {len(targets)} targets for {len(images)} images; there must be one for each.")
    for i, target in enumerate(targets):
        if not isinstance(target, Target):
            raise VertebraError(
                f"target {i} is {_kind(target)}; it must be a Target of vertebra.structures, such as "
                f"Target({_example(task.target_fields)})."
            )
    fields = task.target_fields or tuple(
        name for name in ("label", "masks", *FORMS) if any(getattr(target, name) is not None for target in targets)
    )
    sizes = [_size(i, target, images) for i, target in enumerate(targets)]
    for i, target in enumerate(targets):
        _check_forms(task, i, target, images, fields)
        if "masks" in fields and target.masks is not None:
            _check_masks(i, target, sizes[i])
    if "boxes" in fields:
        _check_boxes(targets, sizes, positive=bool(task.target_fields))
    for name in ("label", "tags", "labels", "semantic"):
        if name in fields:
            _check_classes(task, targets, name)
    if "keypoints" in fields:
        _check_finite(targets, "keypoints")


def check_images(task: Task, images: Any) -> None:
    """Raises VertebraError if `images` is not a batch of normalised images on the model's device."""
    channels, parameter = task.preprocess.channels, next(task.parameters())
    expected = f"a normalised batch [B, {channels}, H, W] float32, such as torch.randn(2, {channels}, 64, 96)"
    if not isinstance(images, Tensor):
        raise VertebraError(f"images are {_kind(images)}; they must be {expected}.")
    if images.ndim != 4 or images.shape[1] != channels or not images.numel() or not images.is_floating_point():
        raise VertebraError(f"images are {form(images)}; they must be {expected}.")
    if images.device != task.device:
        raise VertebraError(
            f"images are on {images.device}, the model is on {task.device}: move them with .to({str(task.device)!r})."
        )
    if images.dtype != parameter.dtype and not torch.is_autocast_enabled(images.device.type):
        raise VertebraError(f"images are {form(images)}, the model is {_name(parameter.dtype)}: convert one of them.")


def check_frames(images: Tensor, frames: Any) -> None:
    """Raises VertebraError if there is not a Frame for each image."""
    if not isinstance(frames, list | tuple) or not all(isinstance(frame, Frame) for frame in frames):
        raise VertebraError(
            f"frames are {shown(frames)}; they must be a list of Frame, such as "
            f"[Frame(original=(480, 640), resized=({images.shape[-2]}, {images.shape[-1]}))]."
        )
    if len(frames) != len(images):
        raise VertebraError(f"there are {len(frames)} frames for {len(images)} images; there must be one for each.")


def _size(i: int, target: Target, images: Tensor) -> tuple[int, int]:
    """(height, width) in the input of the image that a target is of."""
    height, width = images.shape[-2], images.shape[-1]
    if target.size is None:
        return height, width
    try:
        rows, columns = target.size
        inside = 0 < rows <= height and 0 < columns <= width
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise VertebraError(
            f"target {i}: size is {shown(target.size)}; it must be the (height, width) of the image without its "
            f"padding, at most ({height}, {width})."
        )
    return rows, columns


def _check_forms(task: Task, i: int, target: Target, images: Tensor, fields: Sequence[str]) -> None:
    """Type, shape, dtype and device of the fields of one target."""
    optional = ("crowd", "areas") if "boxes" in fields else ()
    for name in dict.fromkeys((*fields, *optional)):
        value = getattr(target, name)
        if value is None and name in task.target_fields:
            hint = " An image without objects has torch.zeros(0, 4)." if name == "boxes" else ""
            raise VertebraError(f"target {i} has no {name}, such as {name}={_example_of(name)}.{hint}")
        if value is None or name == "masks":
            continue
        if name == "label":
            dtype, shape = torch.int64, []
            if isinstance(value, Tensor) and value.ndim:  # a soft label
                dtype, shape = torch.float32, [len(task.classes)]
        elif name == "tags" and isinstance(value, Tensor) and value.is_floating_point():  # soft tags
            dtype, shape = torch.float32, [len(task.classes)]
        else:
            dtype, sides, _ = FORMS[name]
            sizes: dict[str, Any] = {"4": 4, "3": 3, "H": images.shape[-2], "W": images.shape[-1]}
            if target.boxes is not None and name != "boxes":
                sizes["N"] = len(target.boxes)
            if task.keypoints is not None:
                sizes["K"] = len(task.keypoints.names)
            shape = [sizes.get(side, side) for side in sides]
        fits = isinstance(value, Tensor) and value.dtype == dtype and value.ndim == len(shape)
        if not fits or any(isinstance(b, int) and a != b for a, b in zip(value.shape, shape, strict=True)):
            expected = f"[{', '.join(map(str, shape))}] {_name(dtype)}"
            raise VertebraError(
                f"target {i}: {name} is {form(value)}; it must be {expected}, such as {_example_of(name)}."
            )
        if value.device != images.device:
            raise VertebraError(f"target {i}: {name} is on {value.device}, the images are on {images.device}.")


def _check_masks(i: int, target: Target, size: tuple[int, int]) -> None:
    masks: Any = target.masks
    if not isinstance(masks, Masks):
        raise VertebraError(
            f"target {i}: masks are {_kind(masks)}; they must be Masks of vertebra.structures, such as "
            f"{_example_of('masks')}."
        )
    if tuple(masks.size) != size:
        raise VertebraError(
            f"target {i}: masks are for {masks.size[0]} x {masks.size[1]} pixels, the image has {size[0]} x {size[1]}."
        )
    if target.boxes is not None and len(masks) != len(target.boxes):
        raise VertebraError(
            f"target {i} has {len(masks)} masks and {len(target.boxes)} boxes; there must be one for each."
        )
    for j, ((x, y), crop) in enumerate(zip(masks.corners, masks.crops, strict=True)):
        if crop.ndim != 2 or crop.dtype != torch.bool or crop.device.type != "cpu":
            raise VertebraError(
                f"target {i}: mask {j} is {form(crop)} on {crop.device}; it must be [h, w] bool on the CPU."
            )
        if min(x, y) < 0 or y + crop.shape[0] > size[0] or x + crop.shape[1] > size[1]:
            raise VertebraError(
                f"target {i}: mask {j} is {form(crop)} at x = {x}, y = {y}, which lies outside of the image, "
                f"{size[0]} x {size[1]}."
            )


def _check_boxes(targets: Sequence[Target], sizes: Sequence[tuple[int, int]], *, positive: bool) -> None:
    """Raises if a box is not finite, has x1 > x2 or y1 > y2, or, if `positive`, no area in its image."""
    boxes = torch.cat([target.boxes for target in targets if target.boxes is not None])  # [M, 4]
    sides = boxes[:, 2:] - boxes[:, :2]
    good = torch.isfinite(boxes).all(1) & ((sides > 0) if positive else (sides >= 0)).all(1)
    if positive:
        counts = torch.tensor([0 if target.boxes is None else len(target.boxes) for target in targets])
        limits = torch.tensor([(width, height) for height, width in sizes]).repeat_interleave(counts, 0)
        good &= ((boxes[:, :2] < limits.to(boxes.device)) & (boxes[:, 2:] > 0)).all(1)
    if bool(good.all()):
        return
    i, j = _first(targets, "boxes", good)
    box, (height, width) = _rows(targets[i], "boxes")[j].tolist(), sizes[i]
    reason = f"it lies outside of the image, {height} x {width} pixels (height x width)"
    if not bool(torch.isfinite(torch.tensor(box)).all()):
        reason = "it is infinite or not a number"
    elif not (box[0] < box[2] and box[1] < box[3]):
        reason = "x1 < x2 and y1 < y2 must hold"
    raise VertebraError(
        f"target {i}: box {j} is {[round(side, 2) for side in box]}; {reason}. Boxes are x1, y1, x2, y2 in pixels of "
        "the input."
    )


def _check_classes(task: Task, targets: Sequence[Target], name: str) -> None:
    """Raises if a class is none of the task's, or a soft label is not finite."""
    if name == "label" and len({target.label.ndim for target in targets if target.label is not None}) > 1:
        raise VertebraError("the targets have classes and soft labels, label of [] and of [num_classes]; choose one.")
    if name == "tags" and len({target.tags.dtype for target in targets if target.tags is not None}) > 1:
        raise VertebraError("the targets have tags of int64 and soft tags, of float32; choose one.")
    values = torch.cat([_rows(target, name).reshape(-1) for target in targets])
    if values.is_floating_point():
        _check_finite(targets, name)
        return
    good = (values >= 0) & (values < len(task.classes))
    if name == "semantic":
        good |= values == IGNORED
    if bool(good.all()):
        return
    i, j = _first(targets, name, good)
    value = int(_rows(targets[i], name).reshape(-1)[j])
    where = f"{name}[{j}]" if name in ("labels", "tags") else name
    raise VertebraError(
        f"target {i}: {where} is {value}; the {len(task.classes)} classes are 0 to {len(task.classes) - 1}."
    )


def _check_finite(targets: Sequence[Target], name: str) -> None:
    values = torch.cat([_rows(target, name).reshape(-1) for target in targets])
    if not bool(torch.isfinite(values).all()):
        i, _ = _first(targets, name, torch.isfinite(values))
        raise VertebraError(f"target {i}: {name} has values that are infinite or not a number.")


def _rows(target: Target, name: str) -> Tensor:
    """A field of a target; of no rows where it is None."""
    value = getattr(target, name)
    return torch.zeros(0) if value is None else value


def _first(targets: Sequence[Target], name: str, good: Tensor) -> tuple[int, int]:
    """Of the first entry that is not `good`: its target, and which of that target's it is."""
    index, width = int(good.logical_not().nonzero()[0]), 4 if name == "boxes" else 1
    for i, target in enumerate(targets):
        count = _rows(target, name).numel() // width
        if index < count:
            return i, index
        index -= count
    raise AssertionError(name)


def _example(fields: Sequence[str]) -> str:
    return ", ".join(f"{name}={_example_of(name)}" for name in fields or ("label",))


def _example_of(name: str) -> str:
    others = {"label": "torch.tensor(0)", "masks": "Masks.from_dense(torch.zeros(1, 64, 96, dtype=torch.bool))"}
    return others.get(name) or FORMS[name][2]


def form(value: Any) -> str:
    """Shape and dtype of a tensor, or the type of something else."""
    return f"{list(value.shape)} {_name(value.dtype)}" if isinstance(value, Tensor) else _kind(value)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    """The type of a value with its article."""
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeio" else f"a {name}"
