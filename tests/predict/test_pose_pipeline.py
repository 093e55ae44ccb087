"""From a detector's boxes to keypoints in the image: the Predictor, and the commands that use it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra.cli import main
from vertebra.engine import checkpoint, evaluate
from vertebra.errors import VertebraError
from vertebra.ops.crops import surroundings
from vertebra.structures import Frame, KeypointSchema, Preprocess

RECTANGLES = ((4, 4, 40, 30, 200), (50, 10, 90, 60, 202), (60, 70, 80, 90, 201))
SCHEMA = KeypointSchema(("left", "right"), ((0, 1),), (1, 0), (0.1, 0.1))
SIZE = (64, 48)


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """The checkpoint of a pose model that locates every keypoint at the top left corner of its input."""
    task = vertebra.create(
        "pose",
        backbone="resnet18",
        classes=("even", "odd"),
        keypoints=SCHEMA,
        preprocess=Preprocess(SIZE, resize="box", mean=(0.0,) * 3, std=(1.0,) * 3),
    )
    torch.nn.init.zeros_(task.decoder.final.weight)
    torch.nn.init.constant_(task.decoder.final.bias, 0.5)
    path = tmp_path_factory.mktemp("corner") / "best.safetensors"
    checkpoint.save(task, path)
    return path


@pytest.fixture
def photo(tmp_path):
    pixels = np.zeros((100, 100, 3), np.uint8)
    for x1, y1, x2, y2, value in RECTANGLES:
        pixels[y1:y2, x1:x2] = value
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def corner_of(box):
    """The top left corner of the part of the image that the input shows."""
    x, y, width, height = surroundings(box, SIZE, 1.25)
    return [x - width / 2, y - height / 2]


def test_every_detection_gets_its_keypoints(make_detector, corner, photo, tmp_path):
    detector = make_detector(kind="boxes", size=100)
    boxes = detector.predict(photo)[0]
    model = vertebra.load(corner, device="cpu", detector=tmp_path / "detector")
    (prediction,) = model.predict(photo, threshold=0.0)
    assert len(boxes) == len(prediction) == 3
    assert sorted(prediction.boxes.tolist()) == sorted(boxes.boxes.tolist())
    assert prediction.scores.tolist() == pytest.approx([0.5 * score for score in boxes.scores.tolist()])
    for box, keypoints in zip(prediction.boxes.tolist(), prediction.keypoints, strict=True):
        assert keypoints[:, :2].tolist() == [pytest.approx(corner_of(box), abs=1e-3)] * 2
        assert keypoints[:, 2].tolist() == pytest.approx([0.5, 0.5])


def test_crops_of_several_images_share_batches(make_detector, corner, photo, tmp_path):
    make_detector(kind="boxes", size=100)
    model = vertebra.load(corner, device="cpu", detector=tmp_path / "detector")
    sizes = []
    model.task.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    predictions = model.predict([photo, np.zeros((50, 60, 3), np.uint8), photo], batch_size=4, threshold=0.0)
    assert sizes == [4, 2]
    assert [len(prediction) for prediction in predictions] == [3, 0, 3]
    assert torch.equal(predictions[0].keypoints, predictions[2].keypoints)
    assert predictions[1].keypoints.shape == (0, 2, 3)


def test_detections_of_other_classes_are_left_out(make_detector, corner, photo, tmp_path):
    detector = make_detector(kind="boxes", size=100, classes=("odd", "thing"))
    found = detector.predict(photo)[0]
    expected = sum(found.name_of(label) == "odd" for label in found.labels.tolist())
    (prediction,) = vertebra.load(corner, device="cpu", detector=detector).predict(photo, threshold=0.0)
    assert 0 < expected < 3
    assert [prediction.name_of(label) for label in prediction.labels.tolist()] == ["odd"] * expected


def test_without_a_detector_the_image_is_one_object(corner, photo, capsys):
    (prediction,) = vertebra.load(corner, device="cpu").predict(photo, threshold=0.0)
    assert prediction.boxes.tolist() == [[0, 0, 100, 100]]
    assert prediction.keypoints[0, 0, :2].tolist() == pytest.approx(corner_of((0, 0, 100, 100)), abs=1e-3)
    assert main(["predict", str(corner), str(photo), "--threshold=0"]) == 0
    assert "without --detector, every image was taken for one object" in capsys.readouterr().out


def test_a_side_that_is_no_multiple_of_the_stride_has_no_cells_beyond_the_input():
    model = vertebra.create(
        "pose", backbone="resnet18", keypoints=SCHEMA, preprocess=Preprocess(SIZE, resize="box")
    ).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, *SIZE))[0].shape == (1, 2, 16, 12)


def test_detectors_that_do_not_fit(make_detector, corner, tmp_path):
    other = make_detector(kind="boxes", size=100, classes=("cat", "dog"))
    with pytest.raises(VertebraError, match="no class 'even' or 'odd'; it has cat, dog"):
        vertebra.load(corner, device="cpu", detector=other)
    with pytest.raises(VertebraError, match="predicts poses; one that predicts boxes is needed"):
        vertebra.load(corner, device="cpu", detector=corner)
    with pytest.raises(VertebraError, match="detector is for models that predict poses"):
        vertebra.load(tmp_path / "detector", device="cpu", detector=corner)


@pytest.fixture
def data(tmp_path, photo):
    """COCO annotations of two images: of three objects, and of one."""
    (tmp_path / "plain.png").write_bytes(photo.read_bytes())
    images = [
        {"id": 7 + i, "file_name": name, "width": 100, "height": 100}
        for i, name in enumerate(("photo.png", "plain.png"))
    ]
    annotations = []
    for i, (x1, y1, x2, y2, _) in enumerate((*RECTANGLES, RECTANGLES[0]), 1):
        x, y = corner_of((x1, y1, x2, y2))
        annotations.append(
            {
                "id": i,
                "image_id": 7 if i < 4 else 8,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                # Outside of the image they would not be labelled.
                "keypoints": [max(0.0, x) + 3, max(0.0, y) + 4, 2, max(0.0, x) + 3, max(0.0, y) + 4, 1],
                "num_keypoints": 2,
            }
        )
    category = {"id": 1, "name": "odd", "keypoints": ["left", "right"], "skeleton": [[1, 2]]}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path / "annotations.json"


def results(tmp_path, image_ids):
    rows = [
        {"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for image in image_ids
        for x1, y1, x2, y2, _ in RECTANGLES[: 3 if image == 7 else 1]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    return tmp_path / "boxes.json"


def test_boxes_of_annotations_and_of_results(corner, data, tmp_path):
    annotated = vertebra.evaluate(corner, data=data, split="train", workers=0, device="cpu")
    assert len(annotated.rows) == 4
    errors = [
        ((max(0.0, x) + 3 - x) ** 2 + (max(0.0, y) + 4 - y) ** 2) ** 0.5
        for x, y in map(corner_of, (rectangle[:4] for rectangle in (*RECTANGLES, RECTANGLES[0])))
    ]
    assert annotated.metrics["pixel_error"] == pytest.approx(sum(errors) / 4, rel=1e-4)
    both = vertebra.evaluate(corner, data=data, boxes=str(results(tmp_path, (7, 8))), workers=0, device="cpu")
    assert both.metrics["keypoint_ap50"] == pytest.approx(annotated.metrics["keypoint_ap50"])
    missing = vertebra.evaluate(corner, data=data, boxes=str(results(tmp_path, (8,))), workers=0, device="cpu")
    assert len(missing.rows) == 2  # the image without boxes is there, so that its objects are missed
    assert missing.metrics["keypoint_ar50"] < both.metrics["keypoint_ar50"]
    with pytest.raises(VertebraError, match=r"no image of the train split .* has image_id 9"):
        vertebra.evaluate(corner, data=data, boxes=str(results(tmp_path, (7, 9))), workers=0, device="cpu")


def test_boxes_of_results_that_are_left_out_are_counted(corner, data, tmp_path):
    path = results(tmp_path, (7, 8))
    first, *others = json.loads(path.read_text())
    wrong = [{"bbox": [10, 10, 0, 50]}, {"score": -1.0}, {"bbox": [1000, 10, 20, 20]}]
    path.write_text(json.dumps([first, *others, *({**first, **change} for change in wrong)]))
    model = vertebra.load(corner, device="cpu").task
    selection = evaluate.select(model, {}, data, split="train", boxes=str(path))
    note = (
        "train: 4 boxes of boxes.json; left out: 1 without an area, 1 outside their image, 1 without a positive score"
    )
    assert note in selection.catalogue.notes
    path.write_text("[]")
    nothing = vertebra.evaluate(corner, data=data, boxes=str(path), workers=0, device="cpu").metrics
    assert "nme" not in nothing
    assert nothing["keypoint_ar"] == 0
    with pytest.raises(VertebraError, match=r"nowhere\.json is not there: boxes are read from a \.json"):
        vertebra.evaluate(corner, data=data, boxes="nowhere.json", workers=0, device="cpu")


@pytest.mark.parametrize(("boxes", "elsewhere"), [("image", "image"), ("detections.json", "annotations")])
def test_boxes_of_training_on_other_images(corner, data, tmp_path, boxes, elsewhere):
    """A file of boxes is for the validation images of training alone."""
    model = vertebra.load(corner, device="cpu").task
    about = {"data": {"path": "other/", "boxes": boxes}}
    one = evaluate.select(model, about, data, split="train").samples
    other = evaluate.select(model, {}, data, split="train", boxes=elsewhere).samples
    assert [sample.region for sample in one] == [sample.region for sample in other]


def test_cells_may_be_off_by_half(corner):
    """Of HRNet's authors for faces: a target's cell is the floor of the keypoint's coordinates."""
    task = vertebra.load(corner, device="cpu").task
    heatmaps = torch.zeros(1, 2, 16, 12)
    heatmaps[0, :, 5, 7] = 1
    frame = Frame(task.preprocess.size, task.preprocess.size)
    expected = task.decode((heatmaps,), [frame])[0].keypoints[0, 0, :2]
    task.config = replace(task.config, cell_offset=0.5)
    assert (task.decode((heatmaps,), [frame])[0].keypoints[0, 0, :2] - expected).tolist() == pytest.approx(
        [2.5, 2.5]
    )  # by the margin


def test_evaluation_with_a_detector(make_detector, corner, data, tmp_path, capsys):
    make_detector(kind="boxes", size=100)
    words = [corner, f"--data.path={data}", f"--detector={tmp_path / 'detector'}", f"--save={tmp_path / 'report'}"]
    assert main(["evaluate", *map(str, words)]) == 0
    rows = json.loads((tmp_path / "report" / "evaluation.json").read_text())["images"]
    assert len(rows) == 2
    assert main(["evaluate", *map(str, words), "--boxes=image"]) == 2
    assert "--detector finds the boxes that --boxes gives" in capsys.readouterr().err


def test_boxes_are_for_poses(make_detector, data, tmp_path, capsys):
    make_detector(kind="boxes", size=100)
    assert main(["evaluate", str(tmp_path / "detector"), f"--data.path={data}", "--boxes=image"]) == 2
    assert "boxes is for models that predict poses" in capsys.readouterr().err


def test_the_checkpoint_says_the_size_of_its_input(corner):
    """Not that of the method, where another was chosen."""
    assert vertebra.load(corner, device="cpu").task.config.input_size == SIZE
