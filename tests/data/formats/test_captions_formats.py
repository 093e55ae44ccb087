"""Captions: COCO's JSON, CSV lists and JSON lines, tar shards and tables."""

import json
import tarfile

import pytest
from PIL import Image

import vertebra
from vertebra import kinds
from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.metrics.translation import TranslationMetrics
from vertebra.structures import Prediction, Target


def captions(catalogue, split="train"):
    """All captions of each image, by its name."""
    return {
        sample.target.path.rpartition("/")[2]: [sample.target.text, *sample.target.references]
        for sample in catalogue.splits[split]
    }


def opened(path):
    """As the task reads it."""
    catalogue = kinds.find("captions").open(path, val_share=0.5)
    assert (catalogue.has, catalogue.classes) == ({"text"}, ("caption",))
    return catalogue


# -- COCO

CONTENT = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 10}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "A dog.\n"},
        {"id": 2, "image_id": 7, "caption": "Two cats sit."},
        {"id": 3, "image_id": 9, "caption": "A brown dog"},
    ],
}


@pytest.fixture
def coco(tmp_path, save_image):
    def write(content=CONTENT, file="annotations/captions_train2017.json", folder="train2017"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(content))
        for name in "ab":
            save_image(f"{folder}/{name}.jpg")
        return tmp_path

    return write


def test_coco(coco):
    path = coco()
    coco(file="annotations/captions_val2017.json", folder="val2017")
    catalogue = opened(path)
    assert catalogue.format == "coco_captions"
    expected = {"a.jpg": ["Two cats sit."], "b.jpg": ["A dog.", "A brown dog"]}
    assert captions(catalogue) == captions(catalogue, "val") == expected
    assert [sample.target.id for sample in catalogue.splits["val"]] == [7, 9]
    assert captions(read(path / "annotations/captions_val2017.json"), "val") == expected


def test_captions_beside_objects(coco):
    """The task says which of COCO's files are read."""
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 4, 4]}
    coco(
        CONTENT | {"annotations": [box], "categories": [{"id": 1, "name": "cat"}]},
        "annotations/instances_train2017.json",
    )
    path = coco()
    assert opened(path).format == "coco_captions"
    assert read(path).format == "coco"


def test_a_coco_file_of_another_name(coco):
    path = coco(file="mine/my_captions.json", folder="mine")
    assert read(path / "mine").format == "coco_captions"
    (path / "mine/my_captions.json").rename(path / "mine/train.json")
    assert captions(read(path / "mine/train.json"))["a.jpg"] == ["Two cats sit."]


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ({"image_id": 8, "caption": "x"}, r"annotations\[1\]: its image is 8, but there is none in the file"),
        ({"caption": "x"}, r"annotations\[1\]: its image is None"),
    ],
)
def test_what_is_wrong_with_a_coco_file(coco, annotation, sentence):
    path = coco({**CONTENT, "annotations": [CONTENT["annotations"][0], annotation]})
    with pytest.raises(VertebraError, match=sentence):
        opened(path)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (5, "its caption is 5, text is expected"),
        (" ", "its caption is ' ', text is expected"),
        ("", "it has no caption"),
        ("x" * 10_001, "its caption has 10,001 characters, more than 10,000"),
    ],
)
def test_captions_that_are_none(coco, caption, reason):
    path = coco({**CONTENT, "annotations": [*CONTENT["annotations"], {"image_id": 7, "caption": caption}]})
    (problem,) = opened(path).problems
    assert problem.endswith(f"captions_train2017.json, annotations[3] is skipped: {reason}.")


def test_images_without_a_caption_or_a_file(coco):
    path = coco({**CONTENT, "annotations": CONTENT["annotations"][1:2]})
    assert [problem.rpartition("image ")[2] for problem in read(path).problems] == ["9 is skipped: it has no caption."]
    (path / "train2017/a.jpg").unlink()
    with pytest.raises(VertebraError, match=r"has no image with a caption\. .*a\.jpg is not there"):
        read(path)


# -- lists


@pytest.fixture
def listed(tmp_path, save_image):
    def write(name, *lines, images=("a.jpg", "b.jpg")):
        for image in images:
            save_image(image)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("captions.txt", ["image,caption", "a.jpg,A dog .", 'a.jpg,"Dog, brown"', "b.jpg,Two cats ."]),
        (
            "results.csv",
            [
                "image_name| comment_number| comment",
                "a.jpg| 0| A dog .",
                "a.jpg| 1| Dog, brown",
                "b.jpg| 0| Two cats .",
            ],
        ),
        ("list.csv", ["Path,Text,extra", 'a.jpg,"A dog .",1', 'a.jpg,"Dog, brown",1', "b.jpg,Two cats .,1"]),
    ],
)
def test_csv(listed, name, lines):
    path = listed(name, *lines, images=("Images/a.jpg", "Images/b.jpg"))
    catalogue = read(path)
    assert (catalogue.format, catalogue.problems) == ("captions", [])
    assert captions(catalogue) == {"a.jpg": ["A dog .", "Dog, brown"], "b.jpg": ["Two cats ."]}


def test_json_lines(listed):
    rows = [
        {"file_name": "train/a.jpg", "text": "a dog"},
        {"file_name": "valid/a.jpg", "captions": ["a cat", "cats"]},
        {"file_name": "b.jpg", "text": "two", "split": "test"},
    ]
    path = listed("metadata.jsonl", *map(json.dumps, rows), images=("train/a.jpg", "valid/a.jpg", "b.jpg"))
    catalogue = read(path)
    assert catalogue.format == "captions"
    assert {split: captions(catalogue, split) for split in catalogue.splits} == {
        "train": {"a.jpg": ["a dog"]},
        "val": {"a.jpg": ["a cat", "cats"]},
        "test": {"b.jpg": ["two"]},
    }


def test_lines_that_are_wrong(listed):
    path = listed("list.csv", "image,caption,split", "a.jpg,x,", "a.jpg", "b.jpg,,", "b.jpg,y,tran", ",z,", "c.jpg,z,")
    assert [problem.removeprefix(f"{path}/list.csv, line ") for problem in read(path).problems] == [
        "3 is skipped: it has 1 values, the header 3.",
        "4 is skipped: it has no caption.",
        "5 is skipped: its split is 'tran', not one of train, training, val, valid, validation, test, testing.",
        "6 is skipped: it has no image.",
        f"7 is skipped: {path}/c.jpg is not there.",
    ]
    (path / "list.csv").unlink()
    path = listed("list.jsonl", '{"image": "a.jpg", "caption": "x"}', "{", "[]")
    assert [problem.partition(": ")[2] for problem in read(path).problems] == [
        "it is no JSON (line, line 1: not valid JSON (Expecting property name enclosed in double quotes at character 1 "
        "of 1)).",
        "its line is [], a JSON object is expected.",
    ]


def test_lists_of_classes_stay_what_they_are(listed):
    path = listed("metadata.csv", "file_name,text,label", "a.jpg,x,cat", "b.jpg,y,dog")
    assert read(path).has == {"label"}
    assert captions(opened(path), "train") | captions(opened(path), "val") == {"a.jpg": ["x"], "b.jpg": ["y"]}


# -- large files


def test_tar_shards(tmp_path, save_image):
    """As img2dataset writes them; `.txt` is the class only where classes are asked for."""
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0.tar", "w") as shard:
        for key, name in (("0", "cat"), ("1", "dog")):
            (tmp_path / f"{key}.txt").write_text(name)
            for file in (save_image(f"{key}.jpg"), tmp_path / f"{key}.txt"):
                shard.add(file, file.name)
    assert {sample.target.text for sample in read(tmp_path / "shards", fields=["text"]).splits["train"]} == {
        "cat",
        "dog",
    }
    assert read(tmp_path / "shards").classes == ("cat", "dog")


def test_tables(tmp_path, save_image):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    image = {"bytes": save_image("a.jpg").read_bytes(), "path": "a.jpg"}
    table = pyarrow.table({"image": [image, image], "caption": [["one", "1"], ["two"]]})
    (tmp_path / "table").mkdir()
    parquet.write_table(table, tmp_path / "table/train.parquet")
    samples = read(tmp_path / "table").splits["train"]
    assert [(sample.target.text, sample.target.references) for sample in samples] == [("one", ("1",)), ("two", ())]


# -- what becomes of them


def test_training_takes_each_caption_and_evaluation_all(coco):
    kind, catalogue = kinds.find("captions"), read(coco())
    options = kind.model_options(catalogue)
    model = vertebra.create("captioning", backbone="resnet18", width=8, **options)
    samples = kind.samples(catalogue, "train", model, training=True)
    assert [sample.target.text for sample in samples] == ["Two cats sit.", "A dog.", "A brown dog"]
    assert not any(sample.target.references for sample in samples)
    assert [model.vocabulary.decode(sample.target.tokens) for sample in samples][2] == "A brown dog"
    first, second = kind.samples(catalogue, "train", model)
    assert (first.target.references, second.target.references) == ((), ("A brown dog",))


def test_metrics_take_the_best_reference():
    metrics = TranslationMetrics()
    target = Target(text="a big black cat sleeps", references=("a small dog runs fast",))
    metrics.update([Prediction(text="a small dog runs fast")], [target])
    values = metrics.compute()
    assert (values["exact"], values["bleu"], values["chrf"]) == pytest.approx((1, 1, 1))
    assert metrics.row(Prediction(text="a small dog runs fast"), target)["error"] == 0
    assert metrics.row(Prediction(text="a small dog runs slowly"), target)["error"] < 0.5


def test_data_shows_them(coco, capsys):
    assert main(["data", str(coco())]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the same pixels, but other captions, 'Two cats sit.' and 'A dog.', in both" in out


def test_images_of_captions_are_trained_on(listed, capsys, tmp_path):
    path = listed(
        "captions.csv", "image,caption", *(f"{n}.jpg,{n}" for n in "abcd"), images=[f"{n}.jpg" for n in "abcd"]
    )
    Image.new("RGB", (20, 10), "red").save(path / "a.jpg")
    arguments = ["--model.backbone=resnet18", "--data.image_size=32", "--model.width=8", "--data.workers=0"]
    command = ["train", "captioning", f"--data.path={path}", "--epochs=1", f"--output={tmp_path / 'run'}", *arguments]
    assert main(command) == 0
    assert "best: bleu" in capsys.readouterr().out
