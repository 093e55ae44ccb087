"""A prediction that can be looked at: its repr, its objects, drawings, and the forms of other tools."""

import copy
import json
import pickle
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra import kinds
from vertebra.errors import VertebraError
from vertebra.predict import ImageResult
from vertebra.predict.sources import ImageSource
from vertebra.structures import Masks, Prediction, Preprocess

CLASSES = ("person", "dog")
BOXES = [[10.0, 10.0, 50.0, 60.0], [60.0, 20.0, 90.0, 40.0], [0.0, 0.0, 20.0, 20.0]]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "street.png"
    Image.new("RGB", (100, 80), (30, 30, 30)).save(path)
    return path


@pytest.fixture
def result(photo):
    masks = Masks((80, 100))
    for x1, y1, x2, y2 in BOXES:
        masks.append(int(x1), int(y1), torch.ones(int(y2 - y1), int(x2 - x1), dtype=torch.bool))
    return ImageResult(
        boxes=torch.tensor(BOXES),
        labels=torch.tensor([0, 0, 1]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        masks=masks,
        size=(80, 100),
        path=str(photo),
        classes=CLASSES,
        kind=kinds.find("masks"),
        source=ImageSource(str(photo), photo),
    )


@pytest.fixture
def classified(photo):
    task = vertebra.create(
        "classification", backbone="resnet18", classes=("cat", "dog", "<emu>"), preprocess=Preprocess(size=(32, 32))
    )
    with torch.no_grad():
        task.head.weight.zero_()
        task.head.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    return task.predict(photo)[0]


def test_one_line(result, classified):
    assert repr(result) == "Prediction(street.png, 100x80: 2 person, 1 dog)"
    assert repr(result[:0]) == "Prediction(street.png, 100x80: nothing)"
    assert repr(classified) == "Prediction(street.png, 100x80: <emu> 0.844)"
    assert repr(result.masks) == "Masks(100x80: 3)"
    assert repr(next(iter(result))) == "Instance(person, 0.900, box 10.0, 10.0, 50.0, 60.0, mask)"
    many = Prediction(boxes=torch.zeros(500, 4), labels=torch.arange(500), path="a\nb.png", classes=("a\udce9",))
    assert repr(many).startswith(r"Prediction(a\nb.png: 1 a\udce9, 1 class 1, ")
    assert repr(many).endswith("494 of 494 other classes)")
    assert len(repr(many)) < 200


def test_objects(result):
    assert len(result) == 3
    first, second, third = result
    assert (first.label, first.name, first.box) == (0, "person", (10.0, 10.0, 50.0, 60.0))
    assert all(type(value) is float for value in (*first.box, first.score))
    assert second.score == pytest.approx(0.8)
    assert third.name == "dog"
    assert third.mask.shape == (80, 100)
    assert int(third.mask.sum()) == 400
    assert third.keypoints is None


@pytest.mark.parametrize(
    ("index", "boxes"),
    [
        (0, [0]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([False, True, False]), [1]),
        (torch.tensor([], dtype=torch.int64), []),
    ],
)
def test_indices_take_objects(result, index, boxes):
    taken = result[index]
    assert isinstance(taken, ImageResult)
    assert taken.boxes.tolist() == [BOXES[i] for i in boxes]
    assert len(taken.masks) == len(taken.scores) == len(taken) == len(boxes)


def test_an_index_out_of_range(result):
    with pytest.raises(IndexError):
        result[3]


def test_a_class_of_the_whole_image_is_one_instance(classified):
    (top,) = classified
    assert (top.label, top.name, top.box, top.mask) == (2, "<emu>", None, None)
    assert top.score == pytest.approx(classified.top(1)[0][1])
    assert classified[0].top(3) == classified.top(3)


def test_it_is_drawn_on_its_image(result, classified, photo, tmp_path):
    drawn = result.plot()
    assert drawn.size == (300, 240)
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 5
    assert np.array_equal(np.asarray(result.plot(threshold=0.95)), np.full((240, 300, 3), 30))
    assert classified.plot(top=1).height < classified.plot(top=2).height
    assert Image.open(result.save(tmp_path / "drawn.jpg")).format == "JPEG"
    with pytest.raises(VertebraError, match=r"drawn\.xyz has no ending of an image file"):
        result.save(tmp_path / "drawn.xyz")
    other = result.plot(image=np.full((80, 100, 3), 200, np.uint8))
    assert np.asarray(other).max() > 190
    with pytest.raises(VertebraError, match="the image has 10 x 10 pixels, the prediction is for 100 x 80"):
        result.plot(image=np.zeros((10, 10, 3), np.uint8))
    photo.unlink()
    with pytest.raises(VertebraError, match=r"street\.png: there is no such file"):
        result.plot()


def test_a_file_is_not_kept_in_memory_and_pixels_are(make_detector, photo):
    detector = make_detector()
    pixels = np.zeros((64, 96, 3), np.uint8)
    from_file, from_pixels = detector.predict([photo, pixels])
    assert from_file.source.image == photo
    assert from_pixels.source.image is pixels
    assert from_pixels.plot().size == (288, 192)
    assert from_pixels.path == ""


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_every_kind_of_objects(make_detector, kind):
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 200
    (prediction,) = make_detector(kind).predict(image)
    assert repr(prediction) == "Prediction(96x64: 1 even)"
    assert (prediction.plot().size, len(list(prediction.crops()))) == ((288, 192), 1)
    (entry,) = prediction.to_coco(image_id=3, category_ids=(7, 9))
    assert (entry["image_id"], entry["category_id"], entry["bbox"]) == (3, 7, [20, 10, 30, 20])
    (record,) = prediction.to_dict()["objects"]
    assert (record["class"], record["box"]) == ("even", [20, 10, 50, 30])
    assert ("mask" in record, "keypoints" in record) == (kind == "masks", kind == "keypoints")
    (instance,) = prediction
    assert (instance.keypoints is None) == (kind != "keypoints")


def test_in_the_forms_of_other_tools(result, classified):
    pandas = pytest.importorskip("pandas")
    assert json.loads(result.to_json())["objects"][2]["class"] == "dog"
    assert "\n" not in result.to_json()
    assert [entry["category_id"] for entry in result.to_coco()] == [1, 1, 2]
    table = result.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == ["class", "label", "score", "x1", "y1", "x2", "y2", "area"]
    assert table["area"].tolist() == [2000, 600, 400]
    assert classified.to_pandas()["class"].tolist()[0] == "<emu>"
    assert [entry["class"] for entry in classified.to_dict(top=2)["classes"]] == ["<emu>", "dog"]
    with pytest.raises(VertebraError, match="COCO results are of objects; this model predicts classes of whole images"):
        classified.to_coco()


def test_as_detections_of_supervision(result, classified):
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == BOXES
    assert detections.mask.shape == (3, 80, 100)
    assert detections.data["class_name"].tolist() == ["person", "person", "dog"]
    assert len(result[:0].to_supervision()) == 0
    assert classified.to_supervision().class_id[0] == 2


@pytest.mark.parametrize("library", ["pandas", "supervision"])
def test_without_the_libraries(result, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(VertebraError, match=rf"to_{library} needs {library}, .*: pip install {library}$"):
        getattr(result, f"to_{library}")()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


def test_in_a_notebook(result, classified, photo):
    page = Tags(classified._repr_html_())
    assert "emu" not in page.names
    assert "<emu>" in page.text
    assert page.names.count("img") == 1
    hostile = ImageResult(**{**vars(result), "classes": ("<script>\udce9", "b"), "path": "<b>.png"})
    page = Tags(hostile._repr_html_())
    assert "script" not in page.names
    assert "b" not in page.names
    assert r"<script>\udce9" in page.text
    assert page.names.count("tr") == 4
    photo.unlink()
    assert "there is no such file" in Tags(result._repr_html_()).text


def test_copies(result):
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert repr(other) == repr(result)
        assert other.plot().size == (300, 240)


def test_models_of_create_predict_what_can_be_drawn(classified, photo):
    assert isinstance(classified, ImageResult)
    assert classified.path == str(photo)
    assert copy.deepcopy(vertebra.create("classification", backbone="resnet18", classes=2)).to_result is not None
