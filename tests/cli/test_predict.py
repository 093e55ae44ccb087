"""`vertebra predict` where objects are found, and of films."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra.predict import video


@pytest.fixture
def finder(make_finder, tmp_path):
    """The folder of a model that finds regions of one brightness; their score is brightness / 256."""
    make_finder()
    return tmp_path / "finder"


def save(path, *boxes, size=(64, 96)):
    """A picture with rectangles x1, y1, x2, y2, brightness."""
    pixels = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2, value in boxes:
        pixels[y1:y2, x1:x2] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def scenes(tmp_path):
    folder = tmp_path / "scenes"
    save(folder / "a.png", (4, 4, 20, 20, 200), (30, 10, 40, 60, 202), (50, 10, 60, 60, 201))
    save(folder / "b.png", (4, 4, 20, 20, 100))
    save(folder / "sub" / "a.png", (0, 0, 96, 64, 151))
    return folder


def film(path, count=6, size=(64, 96)):
    """A square that moves; the first frame has none."""
    from fractions import Fraction

    pytest.importorskip("av")
    with video.Writer(path, Fraction(10)) as writer:
        for i in range(count):
            pixels = np.zeros((*size, 3), np.uint8)
            if i:
                pixels[16:48, 8 * i : 8 * i + 32] = 200
            writer.add(Image.fromarray(pixels))
    return path


# -- objects


def test_a_line_counts_the_objects_of_each_class(finder, scenes, run_vertebra):
    lines = run_vertebra("predict", finder, scenes).splitlines()
    assert lines == [
        f"{scenes / 'a.png'}  2 even, 1 odd",
        f"{scenes / 'b.png'}  nothing",
        f"{scenes / 'sub' / 'a.png'}  1 odd",
    ]
    assert run_vertebra("predict", finder, scenes / "b.png", "--threshold=0.3").endswith("  1 even\n")
    assert run_vertebra("predict", finder, scenes / "a.png", "--threshold", "0.787").endswith("  1 even\n")


def test_what_is_saved(finder, scenes, run_vertebra, tmp_path):
    out = tmp_path / "out"
    printed = run_vertebra("predict", finder, scenes, f"--save={out}")
    assert printed.splitlines()[-1] == f"3 pictures, predictions.csv, images.json and predictions.json in {out}"
    assert {p.name for p in out.iterdir()} == {
        *("a.png", "b.png", "a-2.png", "predictions.json", "predictions.csv", "images.json")
    }
    found = json.loads((out / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in found] == [
        (1, 1, [30, 10, 10, 50]),
        (1, 2, [50, 10, 10, 50]),
        (1, 1, [4, 4, 16, 16]),
        (3, 2, [0, 0, 96, 64]),
    ]
    images = json.loads((out / "images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in images["images"]] == [
        (1, str(scenes / "a.png")),
        (2, str(scenes / "b.png")),
        (3, str(scenes / "sub" / "a.png")),
    ]
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0] == {
        "path": str(scenes / "a.png"),
        "class": "even",
        "score": "0.789062",
        "x1": "30.0",
        "y1": "10.0",
        "x2": "40.0",
        "y2": "60.0",
    }
    drawn = np.asarray(Image.open(out / "b.png"))
    assert drawn.shape == (192, 288, 3)
    assert np.array_equal(np.unique(drawn), [0, 100])
    assert len(np.unique(np.asarray(Image.open(out / "a.png")).reshape(-1, 3), axis=0)) > 4


def test_the_numbers_of_a_data_set(finder, scenes, run_vertebra, complaint, tmp_path):
    content = {
        "images": [{"id": 70, "file_name": "sub/a.png"}, {"id": 80, "file_name": "a.png"}],
        "categories": [{"id": 5, "name": "odd"}, {"id": 9, "name": "even"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    words = ["predict", finder, scenes / "a.png", scenes / "sub", f"--annotations={tmp_path / 'truth.json'}"]
    run_vertebra(*words, f"--save={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in found] == [(80, 9), (80, 5), (80, 9), (70, 5)]
    sentence = complaint(*words[:2], scenes / "b.png", *words[2:], f"--save={tmp_path / 'other'}")
    assert f"{scenes / 'b.png'} is not among the 2 pictures of {tmp_path / 'truth.json'}." in sentence
    assert not (tmp_path / "other").exists()
    assert "--annotations needs --save=FOLDER to write to" in complaint(*words)


def test_a_picture_named_twice_is_asked_about_once(finder, scenes, run_vertebra, tmp_path):
    images = [{"id": 70, "file_name": "a.png"}, {"id": 80, "file_name": "b.png"}]
    categories = [{"id": 5, "name": "odd"}, {"id": 9, "name": "even"}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "categories": categories}))
    words = [scenes / "a.png", scenes / "a.png", f"{scenes}/[ab].png", f"--annotations={tmp_path / 'truth.json'}"]
    run_vertebra("predict", finder, *words, f"--save={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in found} <= {70, 80}
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 2


def test_a_link_has_its_own_name(finder, scenes, run_vertebra, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "1.png").symlink_to(scenes / "a.png")
    content = {"images": [{"id": 70, "file_name": "1.png"}], "categories": [{"id": 5, "name": "odd"}]}
    content["categories"].append({"id": 9, "name": "even"})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    words = ["predict", finder, tmp_path / "linked", f"--annotations={tmp_path / 'truth.json'}"]
    run_vertebra(*words, f"--save={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in found} == {70}


def test_annotations_are_not_overwritten(finder, scenes, complaint, tmp_path):
    (tmp_path / "images.json").write_text("{}")
    words = ["predict", finder, scenes, f"--annotations={tmp_path / 'images.json'}", f"--save={tmp_path}"]
    assert f"{tmp_path / 'images.json'} would be overwritten" in complaint(*words)


def test_a_pattern_takes_folders_too(finder, scenes, run_vertebra, tmp_path):
    out = run_vertebra("predict", finder, f"{scenes}/s*")
    assert str(scenes / "sub" / "a.png") in out


def test_tiles_from_the_command_line(finder, tmp_path, run_vertebra):
    path = save(tmp_path / "large.png", (50, 10, 80, 30, 200), (100, 100, 140, 110, 201), size=(150, 200))
    out = tmp_path / "out"
    words = ["predict", finder, path, "--tile=64", "--overlap=0.3", "--tta", f"--save={out}"]
    assert run_vertebra(*words).startswith(f"{path}  1 even, 1 odd\n")


def test_keypoints_and_boxes_are_saved(make_finder, scenes, run_vertebra, tmp_path):
    for kind, keys in (("keypoints", {"keypoints"}), ("boxes", set())):
        make_finder(kind)
        run_vertebra("predict", tmp_path / "finder", scenes / "a.png", f"--save={tmp_path / kind}")
        found = json.loads((tmp_path / kind / "predictions.json").read_text())
        assert all(entry.keys() == {"image_id", "category_id", "bbox", "score", *keys} for entry in found)
        assert len(found) == 3


def test_broken_pictures_keep_their_number(finder, scenes, run_vertebra, complaint, tmp_path):
    (scenes / "b.png").write_bytes(b"")
    out = run_vertebra("predict", finder, scenes, f"--save={tmp_path / 'out'}")
    assert f"left out: {scenes / 'b.png'}: the file is empty (0 bytes)." in out
    assert "1 of 3 pictures could not be read and were left out" in out
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in found} == {1, 3}
    sentence = complaint("predict", finder, scenes, "--strict", f"--save={tmp_path / 'strict'}")
    assert "b.png: the file is empty" in sentence
    assert [path.name for path in (tmp_path / "strict").iterdir()] == ["a.png"]  # no tables of half the pictures


def test_pictures_are_not_overwritten(finder, scenes, complaint):
    before = (scenes / "a.png").read_bytes()
    sentence = complaint("predict", finder, scenes, f"--save={scenes}")
    assert f"{scenes / 'a.png'} would be overwritten: choose another folder to save to." in sentence
    assert (scenes / "a.png").read_bytes() == before


# -- films


def test_a_film(finder, tmp_path, run_vertebra):
    path = film(tmp_path / "film.mp4")
    out = tmp_path / "out"
    printed = run_vertebra("predict", finder, path, f"--save={out}")
    assert printed.splitlines()[0].startswith(f"{path}  6 frames: ")
    assert printed.splitlines()[1] == f"1 film, predictions.csv, images.json and predictions.json in {out}"
    seen = video.look(out / "film.mp4")
    assert (seen.rate, seen.frames) == (10, 6)
    assert next(video.frames(seen))[1].shape == (3, 192, 288)
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(i + 1, f"{path}#{i}") for i in range(6)]
    boxes: dict[int, list] = {}
    for entry in json.loads((out / "predictions.json").read_text()):
        boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
    assert boxes.keys() == {2, 3, 4, 5, 6}
    for number, found in boxes.items():  # compressing blurs the edges, which the finder takes for objects of their own
        largest = max(found, key=lambda box: box[2] * box[3])
        assert largest == pytest.approx([8 * (number - 1), 16, 32, 32], abs=4)


def test_every_third_frame_and_other_files_after_it(finder, tmp_path, scenes, run_vertebra):
    path = film(tmp_path / "film.mp4")
    out = tmp_path / "out"
    printed = run_vertebra("predict", finder, path, scenes / "a.png", "--every=3", f"--save={out}")
    assert f"{path}  2 frames: " in printed
    assert printed.splitlines()[-1].startswith("1 pictures, 1 film, ")
    assert video.look(out / "film.mp4").frames == 2
    assert float(video.look(out / "film.mp4").rate) == pytest.approx(10 / 3)
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(image["id"], Path(image["file_name"]).name) for image in images] == [
        (1, "film.mp4#0"),
        (2, "film.mp4#3"),
        (3, "a.png"),
    ]


def test_a_film_without_an_encoder_becomes_pictures(finder, tmp_path, run_vertebra, monkeypatch):
    path = film(tmp_path / "film.mp4")
    monkeypatch.setattr(video, "encoder", lambda: "")
    run_vertebra("predict", finder, path, f"--save={tmp_path / 'out'}")
    assert [p.name for p in sorted((tmp_path / "out" / "film").iterdir())] == [f"{i:06}.png" for i in range(6)]


def test_a_film_is_classified(trained, tmp_path, run_vertebra):
    path = film(tmp_path / "film.mp4")
    printed = run_vertebra("predict", trained, path, f"--save={tmp_path / 'out'}")
    assert printed.startswith(f"{path}  6 frames: ")
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["path"] for row in rows] == [f"{path}#{i}" for i in range(6)]
    assert video.look(tmp_path / "out" / "film.mp4").frames == 6


def test_a_folder_with_a_film(finder, scenes, run_vertebra):
    film(scenes / "c.mp4")
    lines = run_vertebra("predict", finder, scenes).splitlines()
    assert [Path(line.split()[0]).name for line in lines] == ["a.png", "b.png", "c.mp4", "a.png"]


def test_broken_films(finder, tmp_path, scenes, run_vertebra, complaint):
    path = film(tmp_path / "film.mp4")
    (tmp_path / "letter.mp4").write_bytes(b"Dear reader," * 50)
    sentence = f"{tmp_path / 'letter.mp4'}: cannot be opened as a film"
    assert sentence in complaint("predict", finder, tmp_path / "letter.mp4", path, "--strict")
    assert "none of the files could be read" in complaint("predict", finder, tmp_path / "letter.mp4")
    printed = run_vertebra("predict", finder, tmp_path / "letter.mp4", scenes / "a.png", f"--save={tmp_path / 'out'}")
    assert f"left out: {sentence}" in printed
    assert "1 of 2 files could not be read and were left out" in printed
    assert not (tmp_path / "out" / "letter.mp4").exists()


def test_of_a_damaged_film_the_good_frames_count(finder, tmp_path, run_vertebra, monkeypatch):
    from vertebra.pictures import BrokenPicture

    path = film(tmp_path / "film.mp4")
    whole = video.frames

    def damaged(seen, every=1):
        for number, frame in whole(seen, every):
            if number == 4:
                raise BrokenPicture(f"{path}: cannot be decoded after 4 frames.")
            yield number, frame

    monkeypatch.setattr(video, "frames", damaged)
    printed = run_vertebra("predict", finder, path, "--batch_size=3", f"--save={tmp_path / 'out'}")
    assert f"{path}  4 frames: " in printed
    assert f"incomplete: {path}: cannot be decoded after 4 frames." in printed
    assert "left out" not in printed
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 4
    assert len(list(whole(video.look(tmp_path / "out" / "film.mp4")))) == 4


def test_films_need_the_library(finder, tmp_path, complaint, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"film")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'vertebra[video]'" in complaint("predict", finder, tmp_path / "film.mp4")


# -- options that do not fit


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--top=2", "--top is for models that classify; this one is for blobs."),
        ("--embeddings --save=out", "--embeddings is for models that classify; this one is for blobs."),
        ("--threshold=2", "threshold is 2; it must lie between 0 and 1."),
        ("--tile=5", "tile is 5; it must be 16 pixels or more, or 0 for whole pictures."),
        ("--tile=64 --overlap=0.9", "overlap is 0.9; it must be above 0 and 0.5 at most."),
        ("--overlap=0.3", "--overlap is of tiles: it needs --tile=PIXELS."),
        ("--every=2", "--every is for films (.mp4, .mov, "),
        ("--batch_size=0", "--batch_size is 0; it must be 1 or more."),
    ],
)
def test_options_that_do_not_fit_objects(finder, scenes, complaint, monkeypatch, tmp_path, flag, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint("predict", finder, scenes, *flag.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--threshold=0.5", "--threshold is for models that find objects; this one is for classification."),
        ("--threshold=0", "--threshold is for models that find objects; this one is for classification."),
        ("--tile=64", "--tile is for models that find objects; this one is for classification."),
        ("--tile=64 --overlap=0.3", "--tile is for models that find objects; this one is for classification."),
        ("--annotations=a.json --save=out", "--annotations is for models that find objects"),
        ("--annotations=a.json", "--annotations needs --save=FOLDER to write to."),
        ("--embeddings", "--embeddings needs --save=FOLDER to write to."),
        ("--every=0", "--every is 0; it must be 1 or more."),
    ],
)
def test_options_that_do_not_fit_classification(trained, photos, complaint, monkeypatch, tmp_path, flag, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint("predict", trained, photos, *flag.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["embeddings", "annotations=a.json"])
def test_options_that_are_for_pictures(trained, tmp_path, complaint, flag):
    (tmp_path / "film.mp4").write_bytes(b"film")
    words = ["predict", trained, tmp_path / "film.mp4", f"--{flag}", f"--save={tmp_path / 'out'}"]
    assert f"--{flag.split('=')[0]} is for pictures, and {tmp_path / 'film.mp4'} is a film." in complaint(*words)
