"""CSV lists of boxes and of one-hot classes to samples: RetinaNet's, TensorFlow's, Open Images' and Roboflow's."""

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax"


@pytest.fixture
def write(tmp_path, save_image):
    """Writes lines to a file and saves images, and returns the folder of all."""

    def write_lines(*lines, file="_annotations.csv", images=("a.jpg",)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n".join(lines) + "\n")
        for name in images:
            save_image(name)
        return tmp_path

    return write_lines


def test_tensorflow(write, read_one):
    path = write(TENSORFLOW, "a.jpg,20,10,dog,2,3,6,8", "a.jpg,20,10,cat,1,1,3,3")
    catalogue, sample = read_one(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("csv_boxes", ("cat", "dog"), {"boxes"})
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8], [1, 1, 3, 3]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [20, 4]
    assert sample.target.size == (10, 20)
    assert read(path / "_annotations.csv").format == "csv_boxes"


def test_retinanet(write):
    path = write("a.jpg,2,3,6,8,dog", "a.jpg,1,1,3,3,cat", "b.jpg,,,,,", images=("a.jpg", "b.jpg"))
    (path / "_classes.csv").write_text("dog,0\nant,1\ncat,2\n")
    catalogue = read(path)
    assert catalogue.classes == ("dog", "ant", "cat")  # by their numbers, those without an object too
    a, b = catalogue.splits["train"]
    assert a.target.boxes.tolist() == [[2, 3, 6, 8], [1, 1, 3, 3]]
    assert a.target.labels.tolist() == [0, 2]
    assert len(b.target.boxes) == 0


@pytest.mark.parametrize("lines", [[TENSORFLOW, "a.jpg,20,10,dog,2,3,6,8"], ["a.jpg,2,3,6,8,dog"]])
@pytest.mark.parametrize(
    ("names", "splits"), [(("train", "valid", "test"), {"train", "val", "test"}), (("test",), {"test"})]
)
def test_splits(write, lines, names, splits):
    for name in names:
        path = write(*lines, file=f"{name}/_annotations.csv", images=(f"{name}/a.jpg",))
    assert set(read(path).splits) == splits


def test_a_column_of_splits_and_other_names(write):
    path = write(
        "image_path,x_min,y_min,x_max,y_max,label,split",
        "images/a.jpg,2,3,6,8,cat,train",
        "images/b.jpg,1,1,3,3,cat,val",
        images=("images/a.jpg", "images/b.jpg"),
        file="labels.csv",
    )
    assert {split: s[0].target.boxes.tolist() for split, s in read(path / "labels.csv").splits.items()} == {
        "train": [[2, 3, 6, 8]],
        "val": [[1, 1, 3, 3]],
    }


def test_open_images(write):
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    path = write(
        header,
        "000a,xclick,/m/0cat,1,0.1,0.3,0.3,0.8,0,0,0,0,0",
        "000a,xclick,/m/0dog,1,0,1,0,1,0,0,1,0,0",
        file="train-annotations-bbox.csv",
        images=("train/000a.jpg",),
    )
    (path / "class-descriptions-boxable.csv").write_text("/m/0cat,Cat\n/m/0dog,Dog\n")
    (sample,) = read(path / "train-annotations-bbox.csv").splits["train"]
    assert read(path).classes == ("Cat", "Dog")
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8], [0, 0, 20, 10]]
    assert sample.target.crowd.tolist() == [False, True]


def test_shares_of_the_image(write, read_one):
    catalogue, sample = read_one(write(TENSORFLOW, "a.jpg,20,10,dog,0.1,0.3,0.3,0.8"))
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8]]
    assert "_annotations.csv: its numbers are all in 0..1, and are read as shares of the image" in catalogue.notes


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a.jpg,20,10,dog,x,3,6,8", "its x1 is 'x', a number is expected"),
        ("a.jpg,20,10,dog,,3,6,8", "it has no x1"),
        ("a.jpg,20,10,,2,3,6,8", "it has no class"),
        (",20,10,dog,2,3,6,8", "it has no image"),
        ("a.jpg,20,10,dog,2,3,6", "it has 7 values, the header 8"),
        ("a.jpg,20,10,dog, striped,2,3,6,8", "it has 9 values, the header 8"),
        ("b.jpg,20,x,dog,2,3,6,8", "its height is 'x', a number is expected"),
        ("a.jpg,20,10,dog,6,3,2,8", "its box is -4 x 5 pixels (width x height)"),
        ("a.jpg,20,10,dog,2,3,nan,8", "its x2 is nan, a number up to 1e+09 is expected"),
    ],
)
def test_lines_that_are_invalid_are_skipped(write, line, fault):
    path = write(TENSORFLOW, "a.jpg,20,10,dog,2,3,6,8", line)
    assert read(path).problems == [f"{path / '_annotations.csv'}, line 3 is skipped: {fault}."]


def test_images_that_are_not_there(write):
    path = write(TENSORFLOW, "a.jpg,20,10,dog,2,3,6,8", "b.jpg,20,10,dog,2,3,6,8")
    file = path / "_annotations.csv"
    assert read(path).problems == [
        f"{file}, image 'b.jpg' is skipped with its 1 annotations: {path / 'b.jpg'} is not there."
    ]


def test_conversion(write, tmp_path, capsys):
    path = (
        write(TENSORFLOW, "a.jpg,20,10,dog,2,3,6,8", file="x/train/_annotations.csv", images=("x/train/a.jpg",)) / "x"
    )
    main(["data", str(path)])
    assert "csv_boxes" in capsys.readouterr().out
    main(["data", "convert", str(path), "--to=voc", f"--save={tmp_path / 'voc'}"])
    (sample,) = read(tmp_path / "voc").splits["train"]
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8]]


# -- one-hot


def test_one_hot(write):
    for split in ("train", "valid"):
        path = write(
            "filename, cat, dog",
            "a.jpg, 0, 1",
            "b.jpg, 1, 0",
            file=f"{split}/_classes.csv",
            images=(f"{split}/a.jpg", f"{split}/b.jpg"),
        )
    catalogue = read(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("csv_classes", ("cat", "dog"), {"label"})
    assert {split: [s.label for s in samples] for split, samples in catalogue.splits.items()} == {
        "train": [1, 0],
        "val": [1, 0],
    }


def test_images_without_one_class(write):
    lines = ["image_id,cat,dog", "a,0,1", "b,1,1", "c,0,0", "d,1,x", "e,1", "f,1,0"]
    path = write(*lines, file="train.csv", images=[f"images/{name}.jpg" for name in "abcde"])
    catalogue = read(path / "train.csv")
    file = path / "train.csv"
    assert catalogue.problems == [
        f"{file}, line 3 is skipped: it has 2 classes ('cat, dog'), one is expected.",
        f"{file}, line 4 is skipped: it has 0 classes (''), one is expected.",
        f"{file}, line 5 is skipped: one of its values is 'x', 0 or 1 is expected.",
        f"{file}, line 6 is skipped: it has 2 values, the header 3.",
        f"{file}, line 7 is skipped: {path / 'images' / 'f'} is not there.",
    ]
    assert [sample.image.name for sample in catalogue.splits["train"]] == ["a.jpg"]


def test_predictions_are_no_dataset(write):
    """Their images are drawings."""
    path = write("path,class,score,x1,y1,x2,y2", "a.jpg,cat,0.9,1,1,5,5", file="predictions.csv")
    assert read(path).classes == ("cat",)  # a list of one's own may have any name
    for name in ("predictions.json", "images.json"):
        (path / name).write_text("[]")
    with pytest.raises(VertebraError, match=r"holds predictions and drawings of them: .* yolo, voc, labelme or cvat"):
        read(path, fields={"boxes"})
