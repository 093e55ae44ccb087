"""`vertebra refine`: results of other tools, with a network of random weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.ops import rle
from vertebra.structures import Masks, Preprocess

SIZE = (48, 64)


def save_network(path: Path, channels: int = 4, task: str = "refinement") -> Path:
    torch.manual_seed(0)
    values = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    preprocess = Preprocess(size=(32, 32), resize="squash", **values)
    checkpoint.save(tasks.create(task, backbone="resnet18", preprocess=preprocess, classes=2), path)
    return path


@pytest.fixture
def network(once) -> Path:
    return once("refiner", lambda folder: save_network(folder / "best.safetensors")) / "best.safetensors"


@pytest.fixture
def data(tmp_path) -> Path:
    """Two images of one object; the second is smaller than a patch."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number, (height, width) in ((1, SIZE), (2, (9, 12))):
        name = f"{number}.png"
        Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        box = [2, 2, 6, 5]
        segmentation = [[2, 2, 8, 2, 8, 7, 2, 7]]
        annotations.append({"id": number, "image_id": number, "category_id": 3, "bbox": box, "area": 30})
        annotations[-1]["segmentation"] = segmentation
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "a"}]}
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


def encoded(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> dict:
    """One mask of rectangles x1, y1, x2, y2."""
    mask = torch.zeros(size, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return rle.encode(Masks.from_dense(mask[None]))[0]


def entry(segmentation, image: int = 1, **more) -> dict:
    return {"image_id": image, "category_id": 3, "score": 0.5, "segmentation": segmentation, **more}


@pytest.fixture
def words(data, network, tmp_path):
    def of(content, *more) -> list:
        path = tmp_path / "results.json"
        path.write_text(json.dumps(content))
        given = {word.partition("=")[0] for word in more}
        flags = {"--data.path": data, "--model": network, "--save": tmp_path / "out", "--device": "cpu"}
        return ["refine", path, *(f"{flag}={value}" for flag, value in flags.items() if flag not in given), *more]

    return of


def test_masks_of_every_shape(words, run_vertebra, tmp_path):
    """Empty and full masks, single pixels, masks along every border, an image smaller than a patch: all are written,
    and those without a boundary are counted. The border of the image is one, as in the original."""
    unchanged = [entry(encoded((0, 0, 0, 0))), entry([]), entry([], 2)]
    others = [
        entry(encoded((0, 0, 64, 48))),
        entry(encoded((0, 0, 64, 1), (0, 0, 1, 48), (63, 0, 64, 48), (0, 47, 64, 48))),
        entry(encoded((0, 0, 30, 48))),
        entry(encoded((20, 20, 40, 40)), stability_score=0.9),
        entry(encoded((5, 5, 6, 6))),
        entry(encoded((63, 47, 64, 48))),
        entry(encoded((0, 0, 12, 5), size=(9, 12)), 2),
        entry(encoded((11, 8, 12, 9), size=(9, 12)), 2),
    ]
    content = [*unchanged, *others]
    out = run_vertebra(*words(content, "--batch_size=2"))
    summary = re.search(r"(\d+) of 11 masks changed in 2 images, (\d+) as they were \(([^)]+)\); (\d+) patches, ", out)
    assert summary
    assert int(summary[1]) + int(summary[2]) == 11
    assert summary[3].startswith("3 empty")
    assert int(summary[4]) >= len(others)
    assert re.search(r"mask AP +0\.\d{4} +0\.\d{4} +[+-]0\.\d{4}", out)
    assert re.search(r"boundary F +– +– +–", out)  # no mask has an object
    written = json.loads((tmp_path / "out/results.json").read_text())
    assert written[:3] == unchanged
    assert [{**e, "segmentation": 0} for e in written] == [{**e, "segmentation": 0} for e in content]
    assert [e["segmentation"]["size"] for e in written[3:]] == [list(SIZE)] * 6 + [[9, 12]] * 2
    assert int(summary[1]) == sum(a != b for a, b in zip(content, written, strict=True))
    assert int(summary[1]) > 0
    assert (tmp_path / "out/report.html").is_file()
    again = json.loads((tmp_path / "out/refinement.json").read_text())
    assert again["patches"] == int(summary[4])


def test_the_options_reach_the_refiner(words, run_vertebra, monkeypatch):
    from vertebra import refine

    given = {}

    class Spy(refine.Refiner):
        def __init__(self, task, **options):
            given.update(options)
            super().__init__(task, **options)

    monkeypatch.setattr(refine, "Refiner", Spy)
    options = {"patch_size": 16, "nms_threshold": 0.5, "padding": 2, "uncertain": 0.125, "passes": 2, "batch_size": 3}
    flags = [f"--{name}={value}" for name, value in options.items()]
    run_vertebra(*words([entry(encoded((20, 20, 40, 40)))], *flags, "--cover"))
    assert given == {**options, "cover": True, "relative": 0.0}


def test_mask_files_and_a_folder_of_images(words, run_vertebra, tmp_path, data):
    """Without ground truth nothing is judged."""
    for number, (height, width) in ((1, SIZE), (2, (9, 12))):
        (tmp_path / f"masks/{number}").mkdir(parents=True)
        pixels = np.zeros((height, width), np.uint8)
        pixels[2:7, 2:8] = 255
        Image.fromarray(pixels).save(tmp_path / f"masks/{number}/x.png")
    _, _, *flags = words([], f"--data.path={data / 'images'}")
    out = run_vertebra("refine", tmp_path / "masks", *flags)
    assert "is a folder of 2 images without ground truth" in out
    assert "mask AP" not in out
    for number in (1, 2):
        assert set(np.unique(Image.open(tmp_path / f"out/masks/{number}/x.png"))) <= {0, 255}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            [entry(encoded((1, 1, 3, 3), size=(4, 4)))],
            "entry 0 (counted from 0): its mask is of size [4, 4], the image",
        ),
        ([entry({"size": list(SIZE), "counts": "?#"})], "its run lengths are not in COCO's compressed form"),
        ([entry([], category_id=4)], "has no category_id 4; there are 3."),
        ([entry([], 9)], "has image_id 9; there are 1, 2."),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "has no segmentation: there is no mask to refine."),
    ],
)
def test_wrong_results(words, complaint, tmp_path, content, sentence):
    error = complaint(*words(content))
    assert sentence in error
    assert "results.json" in error
    assert not (tmp_path / "out").exists()


def test_networks_that_do_not_refine(words, complaint, tmp_path):
    semantic = save_network(tmp_path / "semantic.safetensors", 3, "semantic")
    assert "a model for semantic does not refine masks; take one of `vertebra train refinement`." in complaint(
        *words([], f"--model={semantic}")
    )
    other = save_network(tmp_path / "other.safetensors", 6)
    assert "an image file gives 1 or 3 channels, not 5" in complaint(
        *words([entry(encoded((20, 20, 40, 40)))], f"--model={other}")
    )


def test_a_network_for_grey_images(words, run_vertebra, tmp_path):
    grey = save_network(tmp_path / "grey.safetensors", 2)
    run_vertebra(*words([entry(encoded((20, 20, 40, 40)))], f"--model={grey}"))


def test_places_to_write_to(words, complaint, tmp_path):
    assert f"{tmp_path / 'results.json'} would be overwritten" in complaint(*words([], f"--save={tmp_path}"))
    assert "x.json is a file; name a folder" in complaint(*words([], f"--save={tmp_path / 'x.json'}"))
    (tmp_path / "taken").write_text("")
    assert "taken is a file; name a folder" in complaint(*words([], f"--save={tmp_path / 'taken'}"))


def test_what_must_be_given(words, complaint, tmp_path):
    command, results, path, model, save, device = words([])
    assert "needs --model" in complaint(command, results, path, save)
    assert "needs --save" in complaint(command, results, path, model)
    assert "results.json does not say which images it is of: give --data.path." in complaint(
        command, results, model, save
    )
    assert "gone.json is not there" in complaint(command, tmp_path / "gone.json", path, model, save, device)
    assert "max_detections is 0" in complaint(*words([], "--max_detections=0"))
