"""Evaluating any task."""

import pytest
import torch
from torch import nn

from vertebra.data.catalogue import Sample
from vertebra.engine.evaluate import evaluate
from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.evaluation import SHOWN
from vertebra.structures import Masks, Points, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import report

POINTS = Points(("one",), sigmas=(0.1,))


class Shy(Task):
    """Finds a square where the picture is darker than 100, and says where by its score how dark it is."""

    name, best, truth = "shy", "box_ap", "masks"

    def __init__(self) -> None:
        super().__init__(None, ("square",), Preprocess(size=(32, 32), resize="fit", mean=(0.0,) * 3, std=(1.0,) * 3))
        self.weight = nn.Parameter(torch.zeros(1))

    def infer(self, images, frames):
        found = []
        for image, frame in zip(images, frames, strict=True):
            darkness = 1 - float(image[0, 5, 5])
            count = int(darkness > 0.6)
            height, width = frame.picture
            found.append(
                Prediction(
                    boxes=torch.tensor([[0.0, 0, 10, 10]] * count).reshape(-1, 4),
                    labels=torch.zeros(count).long(),
                    scores=torch.tensor([darkness] * count),
                    masks=Masks((height, width), [(0, 0)] * count, [torch.ones(10, 10).bool()] * count),
                )
            )
        return found

    def metrics(self):
        return CocoMetrics(1, ("box", "mask"), POINTS)


def samples(count: int) -> list[Sample]:
    """Pictures ever brighter, with a square each."""
    made = []
    for i in range(count):
        picture = torch.full((3, 32, 32), i * 255 // count, dtype=torch.uint8)
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[:10, :10] = True
        target = Target(boxes=torch.tensor([[0.0, 0, 10, 10]]), labels=torch.tensor([0]), id=i + 1, size=(32, 32))
        made.append(Sample(picture, target, (mask,)))
    return made


def test_a_task_that_finds_objects(tmp_path):
    pictures = samples(50)  # 20 are dark enough to be found
    found = evaluate(Shy(), pictures, batch_size=7, workers=0)
    assert found.metrics["box_ap"] == found.metrics["mask_ap"] == pytest.approx(41 / 101)  # recall 0.4
    assert [row["error"] for row in found.rows] == [0.0] * 20 + [1.0] * 30
    assert [row["index"] for row in found.rows] == list(range(50))
    assert found.classes == ("square",)
    assert found.points is POINTS
    assert list(found.numbers)[:3] == ["box AP", "box AP50", "box AP75"]
    assert sorted(found.predictions) == list(range(20, 20 + SHOWN))  # and no others
    report.save(tmp_path, title="squares", evaluation=found, samples=pictures)
    assert (tmp_path / "report.html").read_text().count('class="pair"') == SHOWN
