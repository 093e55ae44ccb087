"""Masks as data sets write them: polygons, COCO's run lengths, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from vertebra import pictures
from vertebra.errors import VertebraError

if TYPE_CHECKING:
    from vertebra.data.catalogue import Segment


def decode(segment: Segment, size: tuple[int, int], where: str) -> Tensor:
    """One mask, [H, W] bool, for a picture of (height, width) `size`; `where` names it in errors.

    Raises:
        VertebraError: if it is of another size, or cannot be decoded.
    """
    if isinstance(segment, Path):
        mask = pictures.read(segment, 1)[0] > 0
    elif isinstance(segment, Tensor):
        mask = segment
    else:
        try:
            encoded = rle.frPyObjects(segment, *size) if not _compressed(segment) else segment
            encoded = rle.merge(encoded) if isinstance(encoded, list) else encoded
            mask = torch.from_numpy(rle.decode(encoded).astype(np.bool_))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise VertebraError(f"{where}: a mask cannot be decoded ({error}).") from error
    if tuple(mask.shape) != tuple(size):
        raise VertebraError(
            f"{where}: a mask of {mask.shape[0]} x {mask.shape[1]} pixels lies on a picture of {size[0]} x {size[1]} "
            "(height x width)."
        )
    return mask


def _compressed(segment: Segment) -> bool:
    return isinstance(segment, dict) and isinstance(segment.get("counts"), str | bytes)
