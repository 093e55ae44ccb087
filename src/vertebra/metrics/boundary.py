"""Boundary F: how well the boundaries of two masks agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vertebra.structures import Masks

TOLERANCE = 1
"""Pixels between boundaries that agree: the strictest of those that Polygon-RNN++ (arXiv:1803.09693) and SegFix
(arXiv:2007.04269) report. DAVIS has 0.008 of the diagonal, at which coarse masks are perfect already."""


def boundary_pixels(mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """The pixels of a mask that share a side with a pixel of the image outside of the mask.

    The border of the image itself is no boundary.

    Args:
        mask: [h, w] bool, inside the image.
        corner: (x, y) of its top left pixel in the image.
        size: (height, width) of the image in pixels.

    Returns:
        [P, 2] x, y in the image.
    """
    inside = mask.numpy()
    (x, y), (height, width) = corner, inside.shape
    padded = np.pad(inside, 1)
    padded[0] |= y == 0
    padded[-1] |= y + height == size[0]
    padded[:, 0] |= x == 0
    padded[:, -1] |= x + width == size[1]
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(inside & ~surrounded)
    return np.stack([columns + x, rows + y], 1)


def boundary_f(masks: Masks, index: int, others: Masks, other: int) -> float:
    """F measure of the boundaries of two masks, in 0..1, at a distance of TOLERANCE.

    The harmonic mean of precision and recall: the fraction of one mask's boundary pixels that have one of the other
    mask's within that (Euclidean) distance, and the reverse. 1 if neither mask has a boundary, 0 if one has none.

    Args:
        masks: of an image.
        index: the first mask among them.
        others: of the same image, such as its ground truth.
        other: the second mask among these.

    Source: DAVIS, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), section
    3.2, "Contour Accuracy".
    """
    from scipy.spatial import KDTree

    first, second = (
        boundary_pixels(chosen.crops[i], chosen.corners[i], chosen.size)
        for chosen, i in ((masks, index), (others, other))
    )
    if not len(first) or not len(second):
        return float(len(first) == len(second))
    precision, recall = (
        float((KDTree(target).query(points, distance_upper_bound=TOLERANCE + 0.5)[0] <= TOLERANCE).mean())
        for points, target in ((first, second), (second, first))
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
