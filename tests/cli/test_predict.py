"""`vertebra predict` with a detector, and on videos."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vertebra.predict import video


@pytest.fixture
def detector(make_detector, tmp_path):
    """The folder of a model that detects regions of one brightness; their score is brightness / 256."""
    make_detector()
    return tmp_path / "detector"


def save(path, *boxes, size=(64, 96)):
    """An image with rectangles x1, y1, x2, y2, brightness."""
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


def write_video(path, count=6, size=(64, 96)):
    """A square that moves; the first frame has none."""
    from fractions import Fraction

    pytest.importorskip("av")
    with video.VideoWriter(path, Fraction(10)) as writer:
        for i in range(count):
            pixels = np.zeros((*size, 3), np.uint8)
            if i:
                pixels[16:48, 8 * i : 8 * i + 32] = 200
            writer.add(Image.fromarray(pixels))
    return path


# -- objects


def test_a_line_counts_the_detections_of_each_class(detector, scenes, run_vertebra):
    lines = run_vertebra("predict", detector, scenes).splitlines()
    assert lines == [
        f"{scenes / 'a.png'}  2 even, 1 odd",
        f"{scenes / 'b.png'}  nothing",
        f"{scenes / 'sub' / 'a.png'}  1 odd",
        "score threshold 0.5 (default): 1 detection below it",
    ]
    assert run_vertebra("predict", detector, scenes / "b.png", "--threshold=0.3").splitlines() == [
        f"{scenes / 'b.png'}  1 even",
        "score threshold 0.3 (--threshold): 0 detections below it",
    ]
    assert run_vertebra("predict", detector, scenes / "a.png", "--threshold", "0.787").splitlines() == [
        f"{scenes / 'a.png'}  1 even",
        "score threshold 0.787 (--threshold): 2 detections below it",
    ]


def test_a_stored_threshold_that_hides_everything_is_printed(make_detector, scenes, run_vertebra, tmp_path):
    make_detector(metrics={"threshold": 0.947})
    lines = run_vertebra("predict", tmp_path / "detector", scenes / "a.png").splitlines()
    assert lines == [
        f"{scenes / 'a.png'}  nothing",
        "score threshold 0.947 (best F1 of the checkpoint's evaluation): 3 detections below it",
    ]


def test_detections_below_the_threshold_are_counted_over_images_and_videos(detector, scenes, run_vertebra, tmp_path):
    path = write_video(tmp_path / "video.mp4", count=3)
    words = ["predict", detector, scenes / "b.png", path, scenes / "a.png", "--threshold=0.999"]
    *_, line = run_vertebra(*words).splitlines()
    alone = [int(run_vertebra(*words[:2], file, words[-1]).split()[-4]) for file in words[2:-1]]
    assert (alone[0], alone[2]) == (1, 3)
    assert alone[1] >= 2  # the square of two frames
    assert line == f"score threshold 0.999 (--threshold): {sum(alone)} detections below it"


def test_what_is_saved(detector, scenes, run_vertebra, tmp_path):
    out = tmp_path / "out"
    printed = run_vertebra("predict", detector, scenes, f"--save={out}")
    assert printed.splitlines()[-1] == f"3 images, predictions.csv, images.json and predictions.json in {out}"
    assert {p.name for p in out.iterdir()} == {
        *("a.png", "b.png", "a-2.png", "predictions.json", "predictions.csv", "images.json")
    }
    entries = json.loads((out / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in entries] == [
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


def test_the_numbers_of_a_data_set(detector, scenes, run_vertebra, complaint, tmp_path):
    content = {
        "images": [{"id": 70, "file_name": "sub/a.png"}, {"id": 80, "file_name": "a.png"}],
        "categories": [{"id": 5, "name": "odd"}, {"id": 9, "name": "even"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    words = ["predict", detector, scenes / "a.png", scenes / "sub", f"--annotations={tmp_path / 'annotations.json'}"]
    run_vertebra(*words, f"--save={tmp_path / 'out'}")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(80, 9), (80, 5), (80, 9), (70, 5)]
    sentence = complaint(*words[:2], scenes / "b.png", *words[2:], f"--save={tmp_path / 'other'}")
    assert f"{scenes / 'b.png'} is not among the 2 images of {tmp_path / 'annotations.json'}." in sentence
    assert not (tmp_path / "other").exists()
    assert "--annotations needs --save=FOLDER to write to" in complaint(*words)


def test_an_image_named_twice_is_predicted_once(detector, scenes, run_vertebra, tmp_path):
    images = [{"id": 70, "file_name": "a.png"}, {"id": 80, "file_name": "b.png"}]
    categories = [{"id": 5, "name": "odd"}, {"id": 9, "name": "even"}]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "categories": categories}))
    words = [scenes / "a.png", scenes / "a.png", f"{scenes}/[ab].png", f"--annotations={tmp_path / 'annotations.json'}"]
    run_vertebra("predict", detector, *words, f"--save={tmp_path / 'out'}")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} <= {70, 80}
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 2


def test_a_link_has_its_own_name(detector, scenes, run_vertebra, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "1.png").symlink_to(scenes / "a.png")
    content = {"images": [{"id": 70, "file_name": "1.png"}], "categories": [{"id": 5, "name": "odd"}]}
    content["categories"].append({"id": 9, "name": "even"})
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    words = ["predict", detector, tmp_path / "linked", f"--annotations={tmp_path / 'annotations.json'}"]
    run_vertebra(*words, f"--save={tmp_path / 'out'}")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} == {70}


def test_annotations_are_not_overwritten(detector, scenes, complaint, tmp_path):
    (tmp_path / "images.json").write_text("{}")
    words = ["predict", detector, scenes, f"--annotations={tmp_path / 'images.json'}", f"--save={tmp_path}"]
    assert f"{tmp_path / 'images.json'} would be overwritten" in complaint(*words)


def test_a_pattern_takes_folders_too(detector, scenes, run_vertebra, tmp_path):
    out = run_vertebra("predict", detector, f"{scenes}/s*")
    assert str(scenes / "sub" / "a.png") in out


def test_tiles_from_the_command_line(detector, tmp_path, run_vertebra):
    path = save(tmp_path / "large.png", (50, 10, 80, 30, 200), (100, 100, 140, 110, 201), size=(150, 200))
    out = tmp_path / "out"
    words = ["predict", detector, path, "--tile=64", "--overlap=0.3", "--tta", f"--save={out}"]
    assert run_vertebra(*words).startswith(f"{path}  1 even, 1 odd\n")


def test_keypoints_and_boxes_are_saved(make_detector, scenes, run_vertebra, tmp_path):
    for kind, keys in (("keypoints", {"keypoints"}), ("boxes", set())):
        make_detector(kind)
        run_vertebra("predict", tmp_path / "detector", scenes / "a.png", f"--save={tmp_path / kind}")
        entries = json.loads((tmp_path / kind / "predictions.json").read_text())
        assert all(entry.keys() == {"image_id", "category_id", "bbox", "score", *keys} for entry in entries)
        assert len(entries) == 3


def test_skipped_images_keep_their_number(detector, scenes, run_vertebra, complaint, tmp_path):
    (scenes / "b.png").write_bytes(b"")
    out = run_vertebra("predict", detector, scenes, f"--save={tmp_path / 'out'}")
    assert f"skipped: {scenes / 'b.png'}: the file is empty (0 bytes)." in out
    assert "1 of 3 images could not be read and were skipped" in out
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} == {1, 3}
    sentence = complaint("predict", detector, scenes, "--strict", f"--save={tmp_path / 'strict'}")
    assert "b.png: the file is empty" in sentence
    assert [path.name for path in (tmp_path / "strict").iterdir()] == ["a.png"]  # no tables of half the images


def test_images_are_not_overwritten(detector, scenes, complaint):
    before = (scenes / "a.png").read_bytes()
    sentence = complaint("predict", detector, scenes, f"--save={scenes}")
    assert f"{scenes / 'a.png'} would be overwritten: choose another folder to save to." in sentence
    assert (scenes / "a.png").read_bytes() == before


# -- videos


def test_a_video(detector, tmp_path, run_vertebra):
    path = write_video(tmp_path / "video.mp4")
    out = tmp_path / "out"
    printed = run_vertebra("predict", detector, path, f"--save={out}")
    assert printed.splitlines()[0].startswith(f"{path}  6 frames: ")
    assert printed.splitlines()[1].startswith("score threshold 0.5 (default): ")
    assert printed.splitlines()[2] == f"1 video, predictions.csv, images.json and predictions.json in {out}"
    with video.open_video(out / "video.mp4") as written:
        assert (written.rate, written.frames) == (10, 6)
        assert next(written.read())[1].shape == (3, 192, 288)
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(i + 1, f"{path}#{i}") for i in range(6)]
    boxes: dict[int, list] = {}
    for entry in json.loads((out / "predictions.json").read_text()):
        boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
    assert boxes.keys() == {2, 3, 4, 5, 6}
    for number, candidates in boxes.items():  # compression blurs the edges, which become detections too
        largest = max(candidates, key=lambda box: box[2] * box[3])
        assert largest == pytest.approx([8 * (number - 1), 16, 32, 32], abs=4)


def test_every_third_frame_and_other_files_after_it(detector, tmp_path, scenes, run_vertebra):
    path = write_video(tmp_path / "video.mp4")
    out = tmp_path / "out"
    printed = run_vertebra("predict", detector, path, scenes / "a.png", "--every=3", f"--save={out}")
    assert f"{path}  2 frames: " in printed
    assert printed.splitlines()[-1].startswith("1 image, 1 video, ")
    with video.open_video(out / "video.mp4") as written:
        assert written.frames == 2
        assert float(written.rate) == pytest.approx(10 / 3)
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(image["id"], Path(image["file_name"]).name) for image in images] == [
        (1, "video.mp4#0"),
        (2, "video.mp4#3"),
        (3, "a.png"),
    ]


def test_a_video_without_an_encoder_becomes_images(detector, tmp_path, run_vertebra, monkeypatch):
    path = write_video(tmp_path / "video.mp4")
    monkeypatch.setattr(video, "encoder", lambda: "")
    run_vertebra("predict", detector, path, f"--save={tmp_path / 'out'}")
    assert [p.name for p in sorted((tmp_path / "out" / "video").iterdir())] == [f"{i:06}.png" for i in range(6)]


def test_a_video_is_classified(trained, tmp_path, run_vertebra):
    path = write_video(tmp_path / "video.mp4")
    printed = run_vertebra("predict", trained, path, f"--save={tmp_path / 'out'}")
    assert printed.startswith(f"{path}  6 frames: ")
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["path"] for row in rows] == [f"{path}#{i}" for i in range(6)]
    with video.open_video(tmp_path / "out" / "video.mp4") as written:
        assert written.frames == 6


def test_a_folder_with_a_video(detector, scenes, run_vertebra):
    write_video(scenes / "c.mp4")
    *lines, _ = run_vertebra("predict", detector, scenes).splitlines()
    assert [Path(line.split()[0]).name for line in lines] == ["a.png", "b.png", "c.mp4", "a.png"]


def test_unreadable_videos(detector, tmp_path, scenes, run_vertebra, complaint):
    path = write_video(tmp_path / "video.mp4")
    (tmp_path / "letter.mp4").write_bytes(b"Dear reader," * 50)
    sentence = f"{tmp_path / 'letter.mp4'}: cannot be opened as a video"
    assert sentence in complaint("predict", detector, tmp_path / "letter.mp4", path, "--strict")
    assert "none of the files could be read" in complaint("predict", detector, tmp_path / "letter.mp4")
    printed = run_vertebra("predict", detector, tmp_path / "letter.mp4", scenes / "a.png", f"--save={tmp_path / 'out'}")
    assert f"skipped: {sentence}" in printed
    assert "1 of 2 files could not be read and were skipped" in printed
    assert not (tmp_path / "out" / "letter.mp4").exists()


def test_of_a_damaged_video_the_good_frames_count(detector, tmp_path, run_vertebra, monkeypatch):
    from vertebra.images import UnreadableImage

    path = write_video(tmp_path / "video.mp4")
    whole = video.Video.read

    def damaged(source, every=1):
        for number, frame in whole(source, every):
            if number == 4:
                raise UnreadableImage(f"{path}: cannot be decoded after 4 frames.")
            yield number, frame

    monkeypatch.setattr(video.Video, "read", damaged)
    printed = run_vertebra("predict", detector, path, "--batch_size=3", f"--save={tmp_path / 'out'}")
    assert f"{path}  4 frames: " in printed
    assert f"incomplete: {path}: cannot be decoded after 4 frames." in printed
    assert "skipped" not in printed
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 4
    with video.open_video(tmp_path / "out" / "video.mp4") as written:
        assert len(list(whole(written))) == 4


def test_films_need_the_library(detector, tmp_path, complaint, monkeypatch):
    (tmp_path / "video.mp4").write_bytes(b"video")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'vertebra[video]'" in complaint("predict", detector, tmp_path / "video.mp4")


# -- further outputs and sources


def yolo_rows(path):
    return [[float(value) for value in line.split()] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("boxes", [1, 0.5, 0.5, 1, 1]),
        ("masks", [1, 0, 0, 0, 1, 1, 0, 1, 1]),
        ("keypoints", [1, 0.5, 0.5, 1, 1, 0, 0, 0, 0, 0, 0]),  # unsure of both, as the image cuts them off
    ],
)
def test_label_files(make_detector, scenes, run_vertebra, tmp_path, kind, expected):
    make_detector(kind, classes=("even", "odd: \udce9"))
    write_video(scenes / "c.mp4", count=2)
    words = ["predict", tmp_path / "detector", scenes, "--format=yolo"]
    printed = run_vertebra(*words, f"--save={tmp_path / 'out'}")
    assert printed.splitlines()[-1] == f"3 images, 1 video, images/, labels/ and data.yaml in {tmp_path / 'out'}"
    labels = tmp_path / "out" / "labels"
    assert sorted(path.stem for path in labels.iterdir()) == ["a", "a-2", "b", "c_0", "c_1"]
    (row,) = yolo_rows(labels / "a-2.txt")
    if kind == "masks":  # the outline may start at any corner
        row[1:] = [value for corner in sorted(zip(row[1::2], row[2::2], strict=True)) for value in corner]
    assert row == expected
    assert (labels / "b.txt").read_text() == ""
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert content["names"] == {0: "even", 1: r"odd: \udce9"}
    assert content.get("kpt_shape") == ([2, 3] if kind == "keypoints" else None)
    run_vertebra(*words, "--scores", f"--save={tmp_path / 'scored'}")
    (scored,) = yolo_rows(tmp_path / "scored" / "labels" / "a-2.txt")
    assert len(scored) == len(row) + 1
    assert scored[-1] == pytest.approx(151 / 256, abs=1e-5)


def test_crops(make_detector, scenes, run_vertebra, tmp_path):
    make_detector(classes=("even", "../odd"))
    write_video(tmp_path / "video.mp4", count=2)
    out = tmp_path / "out"
    words = ["predict", tmp_path / "detector", scenes, tmp_path / "video.mp4", "--threshold=0.7", "--crops"]
    assert "crops, predictions.csv" in run_vertebra(*words, f"--save={out}")
    crops = {path.relative_to(out / "crops").as_posix(): Image.open(path).size for path in (out / "crops").rglob("*.*")}
    assert crops.pop("even/a-1.png") == (10, 50)
    assert crops.pop("_odd/a-2.png") == (10, 50)
    assert crops.pop("even/a-3.png") == (16, 16)
    assert all(name.partition("/")[2].startswith("video_1-") for name in crops)
    assert not (tmp_path / "odd").exists()


def test_results_are_streamed(detector, scenes, run_vertebra, capsys, tmp_path):
    (scenes / "b.png").write_bytes(b"")
    video_file = write_video(tmp_path / "video.mp4", count=2)
    lines = run_vertebra("predict", detector, scenes, video_file, "--stream").splitlines()
    results = [json.loads(line) for line in lines]  # nothing else is on standard output
    paths = [scenes / "a.png", scenes / "b.png", scenes / "sub" / "a.png", f"{video_file}#0", f"{video_file}#1"]
    assert [result["path"] for result in results] == [str(path) for path in paths]
    assert [entry["class"] for entry in results[0]["objects"]] == ["even", "odd", "even"]
    assert results[1]["error"] == f"{scenes / 'b.png'}: the file is empty (0 bytes)."
    out = tmp_path / "out"
    printed = run_vertebra("predict", detector, scenes, video_file, "--stream", f"--save={out}")
    assert printed.startswith(f"{scenes / 'a.png'}  2 even, 1 odd\n")
    assert (out / "predictions.jsonl").read_text().splitlines() == lines


def test_a_line_is_there_before_the_next_image_is_read(detector, scenes, run_vertebra, tmp_path, monkeypatch):
    from vertebra.predict.folder import PredictionFolder

    out, seen, add = tmp_path / "out", [], PredictionFolder.add

    def watched(self, index, result):
        seen.append(len((out / "predictions.jsonl").read_text().splitlines()))
        add(self, index, result)

    monkeypatch.setattr(PredictionFolder, "add", watched)
    run_vertebra("predict", detector, scenes, "--stream", f"--save={out}")
    assert seen == [1, 2, 3]


def interrupted_after(monkeypatch, count):
    """Ctrl-C is pressed when so many results are there."""
    import signal

    from vertebra.predict.predictor import Predictor

    predict = Predictor._predictions

    def pressed(self, waiting, options):
        nonlocal count
        for result in predict(self, waiting, options):
            count -= 1
            if count == 0:
                signal.raise_signal(signal.SIGINT)
            yield result

    monkeypatch.setattr(Predictor, "_predictions", pressed)


def test_ctrl_c_leaves_whole_files(detector, tmp_path, scenes, capsys, monkeypatch):
    from vertebra.cli import main

    path, out = write_video(tmp_path / "video.mp4"), tmp_path / "out"
    interrupted_after(monkeypatch, 4)
    words = ["predict", detector, scenes / "a.png", path, scenes / "b.png", "--stream", f"--save={out}"]
    assert main([str(word) for word in words]) == 130
    printed, error = capsys.readouterr()
    assert f"{path}  3 frames: " in printed
    assert error == "vertebra: stopped.\n"
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 4
    assert len(json.loads((out / "images.json").read_text())["images"]) == 4
    assert json.loads((out / "predictions.json").read_text())
    with video.open_video(out / "video.mp4") as written:
        assert len(list(written.read())) == 3
    assert {p.name for p in out.iterdir()} == {
        *("a.png", "video.mp4", "predictions.jsonl", "predictions.json", "predictions.csv", "images.json")
    }


def test_a_camera_ends_with_ctrl_c(detector, tmp_path, run_vertebra, monkeypatch):
    from vertebra.predict.sources import cameras

    pytest.importorskip("av")
    monkeypatch.setattr(cameras, "DEVICES", {sys.platform: ("lavfi", "testsrc=size=64x48:rate=25")})
    interrupted_after(monkeypatch, 3)
    lines = run_vertebra("predict", detector, "0", "--threshold=0.999", f"--save={tmp_path / 'out'}").splitlines()
    assert [line.rpartition("#")[0] for line in lines[:3]] == ["camera-0"] * 3
    assert lines[3].startswith("score threshold 0.999")
    assert lines[4].startswith("1 video, ")
    with video.open_video(tmp_path / "out" / "camera-0.mp4") as written:
        assert len(list(written.read())) == 3


def test_a_list_and_standard_input(detector, scenes, run_vertebra, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text(f"{scenes / 'a.png'}\n{scenes / 'gone.png'}\n{scenes / 'b.png'}\n")
    printed = run_vertebra("predict", detector, tmp_path / "list.txt")
    assert f"{scenes / 'a.png'}  2 even, 1 odd" in printed
    assert f"skipped: {scenes / 'gone.png'}: there is no such file." in printed
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((scenes / "a.png").read_bytes())))
    assert run_vertebra("predict", detector, "-", f"--save={tmp_path / 'out'}").startswith("stdin  2 even, 1 odd\n")
    assert (tmp_path / "out" / "stdin.png").exists()


def test_names_that_are_not_text(make_detector, scenes, run_vertebra, tmp_path):
    """A class or a file whose name is not UTF-8 is shown with the number of the byte."""
    make_detector(classes=("caf\udce9", "=odd"))
    (scenes / "a.png").rename(scenes / "a\udce9.png")
    out = tmp_path / "out"
    printed = run_vertebra("predict", tmp_path / "detector", scenes, "--stream", f"--save={out}")
    assert r"a\udce9.png  2 caf\udce9, 1 =odd" in printed
    text = (out / "predictions.csv").read_text()
    assert r"a\udce9.png,caf\udce9,0.789062" in text
    assert "'=odd" in text
    first = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert first["objects"][0]["class"] == "caf\udce9"


def test_a_large_image_is_drawn_smaller(detector, scenes, run_vertebra, tmp_path, monkeypatch):
    from vertebra.viz import draw

    monkeypatch.setattr(draw, "MAX_PIXELS", 3000)
    out = tmp_path / "out"
    printed = run_vertebra("predict", detector, scenes / "a.png", f"--save={out}")
    assert printed.splitlines()[-1].endswith(f" in {out} (1 drawn smaller than it is)")
    assert Image.open(out / "a.png").size == (67, 45)


# -- options that do not fit


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        (
            "--top=2",
            "--top is for models that predict classes of whole images or classes of texts; this one is for blobs.",
        ),
        (
            "--embeddings --save=out",
            "--embeddings is for models that predict classes of whole images or tags; this one is for blobs.",
        ),
        ("--threshold=2", "threshold is 2; it must lie between 0 and 1."),
        ("--tile=5", "tile is 5; it must be 16 pixels or more, or 0 for whole images."),
        ("--tile=64 --overlap=0.9", "overlap is 0.9; it must be above 0 and 0.5 at most."),
        ("--overlap=0.3", "--overlap is for tiles: it needs --tile=PIXELS."),
        ("--every=2", "--every is for videos (.mp4, .mov, "),
        ("--batch_size=0", "--batch_size is 0; it must be 1 or more."),
        ("--crops", "--crops needs --save=FOLDER to write to."),
        ("--format=yolo", "--format needs --save=FOLDER to write to."),
        ("--format=xyz --save=out", "format is 'xyz'; there are coco, "),
        ("--scores --save=out", "--scores is for label files: it needs --format=yolo"),
    ],
)
def test_options_that_do_not_fit_objects(detector, scenes, complaint, monkeypatch, tmp_path, flag, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint("predict", detector, scenes, *flag.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--threshold=0.5", "--threshold is for models that predict boxes"),
        ("--threshold=0", "--threshold is for models that predict boxes"),
        ("--tile=64", "--tile is for models that predict boxes"),
        ("--tile=64 --overlap=0.3", "--tile is for models that predict boxes"),
        ("--annotations=a.json --save=out", "--annotations is for models that predict boxes"),
        ("--annotations=a.json", "--annotations needs --save=FOLDER to write to."),
        ("--embeddings", "--embeddings needs --save=FOLDER to write to."),
        ("--crops --save=out", "--crops is for models that predict boxes"),
        ("--format=yolo --save=out", "format is 'yolo'; there are cvat, labelme."),
        ("--every=0", "--every is 0; it must be 1 or more."),
    ],
)
def test_options_that_do_not_fit_classification(trained, photos, complaint, monkeypatch, tmp_path, flag, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint("predict", trained, photos, *flag.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["embeddings", "annotations=a.json"])
def test_options_that_are_for_images(trained, tmp_path, complaint, flag):
    (tmp_path / "video.mp4").write_bytes(b"video")
    words = ["predict", trained, tmp_path / "video.mp4", f"--{flag}", f"--save={tmp_path / 'out'}"]
    assert f"--{flag.split('=')[0]} is for images, and {tmp_path / 'video.mp4'} is a video." in complaint(*words)
