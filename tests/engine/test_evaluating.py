"""Evaluating any task."""

import pytest
import torch
from torch import nn

import vertebra
from vertebra import kinds
from vertebra.data.catalogue import Sample
from vertebra.engine.evaluate import evaluate
from vertebra.errors import VertebraError
from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.evaluation import SHOWN
from vertebra.structures import Frame, KeypointSchema, Masks, Prediction, Preprocess, Target
from vertebra.tasks import Task
from vertebra.viz import report

SCHEMA = KeypointSchema(("one",), sigmas=(0.1,))


class Squares(Task):
    """Detects a square in an image that is darker than 100, with the darkness as its score."""

    kind, monitor = "masks", "box_ap"
    keypoints = SCHEMA

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__(None, ("square",), preprocess)
        self.weight = nn.Parameter(torch.zeros(1))

    def score(self, image: torch.Tensor) -> float:
        return 1 - float(image[0, 5, 5])

    def infer(self, images, frames):
        predictions = []
        for image, frame in zip(images, frames, strict=True):
            score = self.score(image)
            count = int(score > 0.6)
            predictions.append(
                Prediction(
                    boxes=torch.tensor([[0.0, 0, 10, 10]] * count).reshape(-1, 4),
                    labels=torch.zeros(count).long(),
                    scores=torch.tensor([score] * count),
                    masks=Masks(frame.original, [(0, 0)] * count, [torch.ones(10, 10).bool()] * count),
                )
            )
        return predictions

    def metrics(self, **options):
        return CocoMetrics(1, ("box", "mask"), SCHEMA, **options)


class Means(Squares):
    """The same by the mean of the whole input, so that padding would change the scores."""

    def score(self, image: torch.Tensor) -> float:
        return 1 - float(image.mean())


def squares(resize: str = "fit") -> Squares:
    return Squares(Preprocess(size=(32, 32), resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3))


def samples(count: int) -> list[Sample]:
    """Ever brighter images, with a square each."""
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:10, :10] = True
    return [
        Sample(
            torch.full((3, 32, 32), i * 255 // count, dtype=torch.uint8),
            Target(boxes=torch.tensor([[0.0, 0, 10, 10]]), labels=torch.tensor([0]), id=i + 1, size=(32, 32)),
            (mask,),
        )
        for i in range(count)
    ]


def test_a_task_that_detects_objects(tmp_path):
    images = samples(50)  # 20 are dark enough to be detected
    evaluation = evaluate(squares(), images, batch_size=7, workers=0)
    assert evaluation.metrics["box_ap"] == evaluation.metrics["mask_ap"] == pytest.approx(41 / 101)  # recall 0.4
    assert [row["error"] for row in evaluation.rows] == [0.0] * 20 + [1.0] * 30
    assert [row["index"] for row in evaluation.rows] == list(range(50))
    assert evaluation.classes == ("square",)
    assert evaluation.keypoints is SCHEMA
    assert list(evaluation.numbers)[:3] == ["box AP", "box AP50", "box AP75"]
    assert sorted(evaluation.predictions) == list(range(20, 20 + SHOWN))  # and no others
    report.save(tmp_path, title="squares", kind=kinds.find("masks"), evaluation=evaluation, samples=images)
    assert (tmp_path / "report.html").read_text().count('class="pair"') == SHOWN


def test_the_rows_are_at_the_threshold_of_the_checkpoint():
    about = {"metrics": {"threshold": 0.9}}
    options = kinds.find("masks").metric_options(about, None)
    evaluation = evaluate(squares(), samples(50), batch_size=50, workers=0, metric_options=options)
    # as dark as 25 or less, of 255: i * 255 // 50 < 25.5
    assert sum(row["true_positives"] for row in evaluation.rows) == 6
    assert {row["threshold"] for row in evaluation.rows} == {0.9}
    assert evaluation.metrics["threshold"] < 0.62  # the best one here


@pytest.mark.parametrize("batch_size", [2, 5, None])
def test_the_batch_size_changes_no_number(batch_size):
    """Images of mixed sizes, which a batch of both would pad."""
    sizes = [(32, 32), (16, 32), (32, 20)]
    images = []
    for i in range(12):
        height, width = sizes[i % 3]
        image = torch.full((3, height, width), 60 + 10 * i, dtype=torch.uint8)
        target = Target(
            boxes=torch.tensor([[0.0, 0, 10 + i, 10]]), labels=torch.tensor([0]), id=i + 1, size=(height, width)
        )
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[:10, : 10 + i] = True
        images.append(Sample(image, target, (mask,)))
    task = Means(Preprocess((32, 64), resize="shortest", mean=(0.0,) * 3, std=(1.0,) * 3))
    alone = evaluate(task, images, batch_size=1, workers=0)
    together = evaluate(task, images, batch_size=batch_size, workers=0)
    assert 0 < alone.metrics["box_ap"] < 1
    assert together.metrics == alone.metrics
    assert together.rows == alone.rows


def test_predictions_one_by_one(tmp_path):
    """Of a function in place of the task; images that cannot be read are listed."""
    task, images = squares(), samples(50)
    frame = Frame((32, 32), (32, 32))
    damaged = Sample(tmp_path / "gone.png", Target(path="gone.png", **dict.fromkeys(("boxes", "labels"))))
    evaluation = evaluate(task, [*images, damaged], predict=lambda image, _: task.infer(image[None] / 255, [frame])[0])
    assert evaluation.rows == evaluate(task, images, workers=0).rows
    assert len(evaluation.unreadable) == 1
    assert "gone.png" in evaluation.unreadable[0]


def test_views_need_a_checkpoint():
    with pytest.raises(VertebraError, match=r"tta and tile need a checkpoint or what `vertebra\.load` returned"):
        vertebra.evaluate(squares(), tta=True)


def test_the_mode_of_the_task_stays():
    task = squares().train()
    evaluate(task, samples(2), workers=0)
    assert task.training


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("workers", -1)])
def test_values_out_of_range(option, value):
    with pytest.raises(VertebraError, match=f"data.{option} is {value}"):
        evaluate(squares(), samples(2), **{option: value})


# -- the data of an evaluation


def test_the_data_of_the_training_is_the_default(tmp_path, photos, brightness):
    """Split as in training; other data is evaluated whole."""
    flat = photos / "train"  # without splits of its own
    quick = {"epochs": 1, "image_size": 8, "workers": 0, "device": "cpu", "output": tmp_path / "run"}
    run = vertebra.train(brightness, data=flat, val_share=0.25, seed=3, **quick)
    assert len(vertebra.evaluate(run, workers=0).rows) == 10
    assert vertebra.evaluate(run, batch_size=8, workers=0).metrics == run.metrics
    assert len(vertebra.evaluate(run, data=photos / "val", workers=0).rows) == 12
    assert len(vertebra.evaluate(run, data=photos / "val", val_share=0.5, workers=0).rows) == 6
    with pytest.raises(VertebraError, match="val_share has no effect"):
        vertebra.evaluate(run, data=photos, val_share=0.5)
    with pytest.raises(VertebraError, match="seed has no effect"):
        vertebra.evaluate(run, data=photos / "val", seed=1)
