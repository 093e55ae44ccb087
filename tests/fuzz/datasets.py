"""Datasets in every format that is read, one file of each changed."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import struct
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow
import pyarrow.ipc
from PIL import Image
from tests.fuzz import mutate
from tests.fuzz.sweep import Case

HEIGHT, WIDTH = 24, 32
NAMES = ("1.png", "2.png", "3.png")
BOX = (2, 3, 12, 11)  # x1, y1, x2, y2 of the object of each image
CLASSES = ("cat", "dog")


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_images(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        write_image(folder / name, number)


def write_photos(folder: Path) -> None:
    """An image folder."""
    for number in range(8):
        write_image(folder / CLASSES[number % 2] / f"{number}.png", number)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_content() -> dict[str, Any]:
    x1, y1, x2, y2 = BOX
    images = [{"id": i + 1, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(NAMES)]
    polygon = [float(x) for x in (x1, y1, x2, y1, x2, y2, x1, y2)]
    annotations = [
        {
            "id": i + 1,
            "image_id": i + 1,
            "category_id": 1 + i % 2,
            "iscrowd": 0,
            "area": 80.0,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "segmentation": [polygon],
            "keypoints": [4.0, 5.0, 2, 6.0, 7.0, 1],
            "num_keypoints": 2,
        }
        for i in range(len(NAMES))
    ]
    annotations[2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [50, 6, 18, 6, 688]}
    parts = {"keypoints": ["a", "b"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.2], "flip_indices": [1, 0]}
    categories = [{"id": 1 + i, "name": name, "supercategory": "animal", **parts} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path) -> None:
    write_images(folder / "train")
    write_json(folder / "train" / "_annotations.coco.json", coco_content())


def write_yolo(folder: Path) -> None:
    write_images(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        line = f"{i % 2} 0.2 0.3 0.3 0.3 0.2 0.3 2 0.25 0.35 1\n"
        (folder / "labels" / "train" / name.replace(".png", ".txt")).write_text(line)
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images/train\nnames: {0: cat, 1: dog}\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    )


def write_yolo_segments(folder: Path) -> None:
    write_images(folder / "train" / "images")
    (folder / "train" / "labels").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        line = f"{i % 2} 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n1 0.5 0.5 0.2 0.2\n"
        (folder / "train" / "labels" / name.replace(".png", ".txt")).write_text(line)
    (folder / "data.yaml").write_text("train: train/images\nnc: 2\nnames: [cat, dog]\n")


def write_voc(folder: Path) -> None:
    write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    x1, y1, x2, y2 = BOX
    for i, name in enumerate(NAMES):
        (folder / "Annotations" / name.replace(".png", ".xml")).write_text(
            f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size><object><name>{CLASSES[i % 2]}</name><difficult>0</difficult><bndbox><xmin>{x1}"
            f"</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("1\n2\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("3\n")


def write_rows(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_csv(folder: Path) -> None:
    write_images(folder)
    rows = [[name, CLASSES[i % 2], "train"] for i, name in enumerate(NAMES)]
    write_rows(folder / "labels.csv", [["path", "label", "split"], *rows])


def write_folder(folder: Path) -> None:
    write_photos(folder / "train")


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, pixels in (("train", bytes(range(256))), ("t10k", bytes(range(255, -1, -1)))):
        images = struct.pack(">IIII", 2051, 4, 8, 8) + pixels
        labels = struct.pack(">II", 2049, 4) + bytes((0, 1, 0, 1))
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    write_json(folder / "classes.json", list(CLASSES))


def write_masks(folder: Path) -> None:
    write_images(folder / "images")
    (folder / "masks").mkdir()
    for name in NAMES:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[3:11, 2:12] = 1
        Image.fromarray(mask).save(folder / "masks" / name)
    write_json(folder / "classes.json", list(CLASSES))


def write_label_maps(folder: Path) -> None:
    write_images(folder / "images")
    (folder / "labels").mkdir()
    for path in (folder / "images").iterdir():
        labels = np.zeros(np.asarray(Image.open(path)).shape[:2], np.uint8)
        labels[2:5, 3:9] = 1
        Image.fromarray(labels).save(folder / "labels" / f"{path.stem}.png")
    write_json(folder / "classes.json", {"names": ["road", "sky", "void"], "ignore_index": 2})


def write_coco_panoptic(folder: Path) -> None:
    write_images(folder / "train2017")
    x1, y1, x2, y2 = BOX
    content = coco_content()
    content["annotations"] = []
    for i, name in enumerate(NAMES):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[y1:y2, x1:x2] = (3, 2, 1)
        pixels[y2:] = (7, 0, 0)
        path = folder / "annotations" / "panoptic_train2017" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        segments = [
            {"id": 66_051, "category_id": 1 + i % 2, "iscrowd": 0, "area": 80, "bbox": [x1, y1, x2 - x1, y2 - y1]},
            {"id": 7, "category_id": 1, "iscrowd": int(i == 2), "area": 416, "bbox": [0, y2, WIDTH, HEIGHT - y2]},
        ]
        content["annotations"].append({"image_id": i + 1, "file_name": name, "segments_info": segments})
    write_json(folder / "annotations" / "panoptic_train2017.json", content)


def write_labelme(folder: Path) -> None:
    write_images(folder)
    x1, y1, x2, y2 = BOX
    for i, name in enumerate(NAMES):
        shapes = [
            {
                "label": CLASSES[i % 2],
                "points": [[x1, y1], [20, y1], [20, y2]],
                "shape_type": "polygon",
                "group_id": None,
            },
            {"label": "dog", "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "group_id": None, "flags": {}},
            {
                "label": "dog",
                "points": [[9.0, 9.0], [9.0, 12.0]],
                "shape_type": "circle",
                "group_id": None,
                "flags": {},
            },
        ]
        pixels = base64.b64encode((folder / name).read_bytes()).decode() if i == 0 else None
        content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": pixels}
        write_json(folder / name.replace(".png", ".json"), {**content, "imageHeight": HEIGHT, "imageWidth": WIDTH})


def write_cvat(folder: Path) -> None:
    write_images(folder / "images")
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for i, name in enumerate(NAMES):
        image = ElementTree.SubElement(root, "image", id=str(i), name=name, width=str(WIDTH), height=str(HEIGHT))
        common = {"label": CLASSES[i % 2], "occluded": "0", "source": "manual", "z_order": "0"}
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, BOX), strict=True))
        ElementTree.SubElement(image, "box", {**common, **corners})
        ElementTree.SubElement(image, "polygon", {**common, "points": "2.0,3.0;20.0,3.0;20.0,11.0"})
        ElementTree.SubElement(
            image, "mask", {**common, "rle": "4, 6, 90", "left": "2", "top": "3", "width": "10", "height": "10"}
        )
    (folder / "annotations.xml").write_text(ElementTree.tostring(root, encoding="unicode"))


def write_via(folder: Path) -> None:
    write_images(folder)
    content = {}
    for i, name in enumerate(NAMES):
        attributes = {"class": CLASSES[i % 2]}
        regions = [
            {
                "shape_attributes": {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 8},
                "region_attributes": attributes,
            },
            {
                "shape_attributes": {"name": "polygon", "all_points_x": [2, 20, 20], "all_points_y": [3, 3, 11]},
                "region_attributes": attributes,
            },
            {"shape_attributes": {"name": "circle", "cx": 9, "cy": 9, "r": 3}, "region_attributes": attributes},
        ]
        content[f"{name}100"] = {"filename": name, "size": 100, "regions": regions, "file_attributes": {}}
    write_json(folder / "via_region_data.json", content)


def write_createml(folder: Path) -> None:
    write_images(folder)
    content = [
        {
            "image": name,
            "annotations": [
                {"label": CLASSES[i % 2], "coordinates": {"x": 7.0, "y": 7.0, "width": 10.0, "height": 8.0}}
            ],
        }
        for i, name in enumerate(NAMES)
    ]
    write_json(folder / "_annotations.createml.json", content)


def write_label_studio(folder: Path) -> None:
    write_images(folder / "images")
    tasks = []
    for i, name in enumerate(NAMES):
        common = {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "from_name": "label",
            "to_name": "image",
        }
        box = {"x": 10.0, "y": 10.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": [CLASSES[i % 2]]}
        polygon = {"points": [[10.0, 10.0], [60.0, 10.0], [60.0, 50.0]], "closed": True, "polygonlabels": ["dog"]}
        result = [
            {**common, "id": "a", "type": "rectanglelabels", "value": box},
            {**common, "id": "b", "type": "polygonlabels", "value": polygon},
        ]
        tasks.append({"id": i, "data": {"image": f"images/{name}"}, "annotations": [{"id": i, "result": result}]})
    write_json(folder / "project.json", tasks)


def write_hugging_face(folder: Path) -> None:
    write_images(folder / "train")
    rows = [
        {"file_name": name, "objects": {"bbox": [[2.0, 3.0, 10.0, 8.0]], "categories": [CLASSES[i % 2]]}}
        for i, name in enumerate(NAMES)
    ]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_webdataset(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-000.tar", "w") as archive:
        for number, name in enumerate(NAMES):
            write_image(folder / name, number)
            (folder / "cls").write_text(CLASSES[number % 2])
            archive.add(folder / name, name)
            archive.add(folder / "cls", f"{number + 1}.cls")
            (folder / name).unlink()
    (folder / "cls").unlink()


def write_webdataset_maps(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-000.tar", "w") as archive:
        for number, name in enumerate(NAMES):
            write_image(folder / name, number)
            with Image.open(folder / name) as image:
                labels = np.zeros((image.height, image.width), np.uint8)
            labels[:, : 1 + number] = 1
            Image.fromarray(labels).save(folder / "map.png")
            archive.add(folder / name, name)
            archive.add(folder / "map.png", f"{Path(name).stem}.seg.png")
            (folder / name).unlink()
    (folder / "map.png").unlink()
    write_json(folder / "classes.json", list(CLASSES))


def write_hugging_face_tables(folder: Path) -> None:
    write_images(folder)
    images = [{"bytes": (folder / name).read_bytes(), "path": name} for name in NAMES]
    table = pyarrow.table({"image": images, "label": [i % 2 for i in range(len(NAMES))]})
    with pyarrow.ipc.new_stream(folder / "data-0.arrow", table.schema) as stream:
        stream.write_table(table)
    write_json(folder / "state.json", {"_data_files": [{"filename": "data-0.arrow"}]})
    for name in NAMES:
        (folder / name).unlink()


def write_csv_boxes(folder: Path, form: str) -> None:
    write_images(folder / "train")
    if form == "retinanet":
        rows = [[name, *BOX, CLASSES[i % 2]] for i, name in enumerate(NAMES)]
    else:
        header = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
        rows = [header, *([name, WIDTH, HEIGHT, CLASSES[i % 2], *BOX] for i, name in enumerate(NAMES))]
    write_rows(folder / "train" / "_annotations.csv", rows)


def write_datumaro(folder: Path) -> None:
    write_images(folder / "images" / "default")
    labels = [{"name": name, "parent": "", "attributes": []} for name in CLASSES]
    items = []
    for i, name in enumerate(NAMES):
        common = {"id": 0, "attributes": {"occluded": False}, "group": 0, "label_id": i % 2, "z_order": 0}
        annotations = [
            {**common, "type": "bbox", "bbox": [2.0, 3.0, 10.0, 8.0]},
            {**common, "type": "polygon", "points": [2.0, 3.0, 20.0, 3.0, 20.0, 11.0]},
            {**common, "type": "mask", "rle": {"counts": [50, 6, 18, 6, 688], "size": [HEIGHT, WIDTH]}},
        ]
        image = {"path": name, "size": [HEIGHT, WIDTH]}
        items.append(
            {"id": name.removesuffix(".png"), "annotations": annotations, "attr": {"frame": i}, "image": image}
        )
    content = {"info": {}, "categories": {"label": {"labels": labels, "attributes": []}}, "items": items}
    write_json(folder / "annotations" / "default.json", content)


def write_deeplabcut(folder: Path) -> None:
    video = folder / "labeled-data" / "video"
    write_images(video)
    rows = [
        ["scorer", "ann", "ann", "ann", "ann", "ann", "ann"],
        ["individuals", "one", "one", "one", "one", "two", "two"],
        ["bodyparts", "nose", "nose", "tail", "tail", "nose", "nose"],
        ["coords", "x", "y", "x", "y", "x", "y"],
        *([f"labeled-data/video/{name}", 2.5, 3.5, 12.5, 11.5, 20.5, 5.5] for name in NAMES),
    ]
    write_rows(video / "CollectedData_ann.csv", rows)
    (folder / "config.yaml").write_text("Task: mice\nscorer: ann\nskeleton:\n- [nose, tail]\n")


def write_pts(folder: Path) -> None:
    write_images(folder / "trainset")
    for name in NAMES:
        points = "2.5 3.5\n12.5 11.5\n7.5 9.5\n"
        (folder / "trainset" / name.replace(".png", ".pts")).write_text(f"version: 1\nn_points:  3\n{{\n{points}}}\n")


def write_wflw(folder: Path) -> None:
    write_images(folder / "WFLW_images")
    points = [value for i in range(98) for value in (2 + i % 10, 3 + i % 8)]
    rows = [" ".join(map(str, [*points, *BOX, 0, 0, 0, 0, 0, 0, name])) for name in NAMES]
    (folder / "list_98pt_rect_attr_train.txt").write_text("\n".join(rows) + "\n")


def write_csv_landmarks(folder: Path) -> None:
    write_images(folder / "images")
    header = ["image_name", "scale", "box_size", "center_w", "center_h", "p0_x", "p0_y", "p1_x", "p1_y"]
    rows = [header, *([name, 0.1, 12.5, 8.5, 9.5, 2.5, 3.5, 12.5, 11.5] for name in NAMES)]
    write_rows(folder / "faces_train.csv", rows)


def write_csv_classes(folder: Path) -> None:
    write_images(folder / "train")
    rows = [[name, int(i % 2 == 0), int(i % 2 == 1)] for i, name in enumerate(NAMES)]
    write_rows(folder / "train" / "_classes.csv", [["filename", *CLASSES], *rows])


def write_csv_tags(folder: Path) -> None:
    write_images(folder / "train-jpg")
    rows = [[name.removesuffix(".png"), " ".join(CLASSES[: i % 3])] for i, name in enumerate(NAMES)]
    write_rows(folder / "tags.csv", [["image_name", "tags"], *rows])


def write_json_lines_tags(folder: Path) -> None:
    write_images(folder / "images")
    lines = [json.dumps({"path": name, "tags": CLASSES[: i % 3]}) for i, name in enumerate(NAMES)]
    (folder / "tags.jsonl").write_text("\n".join(lines) + "\n")


def write_celeba(folder: Path) -> None:
    write_images(folder / "img_align_celeba")
    rows = [f"{name}  {1 - 2 * (i % 2)} {2 * (i % 2) - 1}" for i, name in enumerate(NAMES)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(NAMES)), " ".join(CLASSES), *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(NAMES)))


def write_pairs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        lines = [f"sentence {i} of {split}\tSatz {i} von {split}" for i in range(6)]
        (folder / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")


def write_captions(folder: Path) -> None:
    write_images(folder)
    write_rows(
        folder / "captions.csv",
        [["image", "caption"], *([name, f"a {CLASSES[i % 2]}"] for i, name in enumerate(NAMES))],
    )


def write_coco_captions(folder: Path) -> None:
    write_images(folder / "train")
    images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
    captions = [{"id": i, "image_id": i // 2, "caption": f"caption {i}"} for i in range(2 * len(NAMES))]
    write_json(folder / "annotations" / "captions_train.json", {"images": images, "annotations": captions})


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [[f"The day was fine. It rained {i} times.", "Where?", CLASSES[i % 2], "train"] for i in range(6)]
    write_rows(folder / "texts.csv", [["text", "question", "label", "split"], *rows])


def write_coco_file(folder: Path) -> None:
    write_images(folder)
    write_json(folder / "labels.json", coco_content())


FORMATS: dict[str, Callable[[Path], None]] = {
    "pairs": write_pairs,
    "texts": write_texts,
    "captions": write_captions,
    "coco_captions": write_coco_captions,
    "coco": write_coco,
    "yolo": write_yolo,
    "yolo_segments": write_yolo_segments,
    "voc": write_voc,
    "csv": write_csv,
    "folder": write_folder,
    "idx": write_idx,
    "masks": write_masks,
    "label_maps": write_label_maps,
    "coco_panoptic": write_coco_panoptic,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "via": write_via,
    "createml": write_createml,
    "label_studio": write_label_studio,
    "hugging_face": write_hugging_face,
    "webdataset": write_webdataset,
    "webdataset_maps": write_webdataset_maps,
    "hugging_face_tables": write_hugging_face_tables,
    "datumaro": write_datumaro,
    "deeplabcut": write_deeplabcut,
    "pts": write_pts,
    "wflw": write_wflw,
    "csv_landmarks": write_csv_landmarks,
    "csv_classes": write_csv_classes,
    "csv_tags": write_csv_tags,
    "json_lines_tags": write_json_lines_tags,
    "celeba": write_celeba,
    "coco_file": write_coco_file,
    "retinanet_csv": partial(write_csv_boxes, form="retinanet"),
    "tensorflow_csv": partial(write_csv_boxes, form="tensorflow"),
}
NUMBERS = {
    "coco": r"annotations\.\d\.(bbox|keypoints|segmentation\.\d)\.\d|categories\.\d\.(sigmas\.\d|skeleton\.\d\.\d)",
    "datumaro": r"items\.\d\.annotations\.\d\.(bbox|points)\.\d",
    "labelme": r"shapes\.\d\.points\.\d\.\d",
    "via": r"[^.]*\.[^.]*\.regions\.\d\.shape_attributes\.(x|y|width|height|cx|cy|r|all_points_[xy]\.\d)",
    "voc": r"bndbox\.\w+",
    "cvat": r"box\.(xtl|ytl|xbr|ybr)",
    "yolo": r"0\.\d+",
    "yolo_segments": r"\d\.\d",
    "retinanet_csv": r"\d\.[1-4]",
    "tensorflow_csv": r"[123]\.[4-7]",
    "createml": r"\d\.annotations\.\d\.coordinates\.\w+",
    "label_studio": r"\d\.annotations\.\d\.result\.\d\.value\.(x|y|width|height|points\.\d\.\d)",
    "hugging_face": r"objects\.bbox\.\d\.\d",
    "deeplabcut": r"[4-6]\.[1-6]",
    "csv_landmarks": r"[123]\.[2-8]",
}
"""Places of coordinates in the files of a format."""
PLACES = {"csv": "labels.csv"}
"""What is given to the command, if it is not the folder."""
MAIN = (".json", ".jsonl", ".yaml", ".xml", ".txt", ".csv", ".gz", ".tar", ".arrow")


def dataset(rng: Random, folder: Path, format: str) -> Case:
    FORMATS[format](folder / "data")
    files = sorted(path for path in (folder / "data").rglob("*") if path.is_file())
    main = [path for path in files if path.suffix in MAIN]
    path = rng.choice(main if main and rng.random() < 0.9 else files)
    nonsense = ""
    if rng.random() < 0.05:
        mutate.change_place(rng, path)
    else:
        numbers = NUMBERS.get(format.removesuffix("_file"), "-")
        change = mutate.change_file(rng, path, numbers)
        if change is not None and change.is_no_number(numbers):
            nonsense = f"{change.path} is {str(change.value)[:20]}"
    usual = folder / "data" / PLACES.get(format, "")
    place = rng.choice((usual, usual, path))
    if rng.random() < 0.25:
        target = rng.choice(("coco", "yolo", "voc", "masks"))
        return Case(["data", "convert", place, f"--to={target}", f"--save={folder / 'converted'}"], nonsense)
    return Case(["data", place], nonsense)


SURFACES = {format: partial(dataset, format=format) for format in FORMATS}
