"""Arrow and Parquet files as the library `datasets` writes them; images are read from their places."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from PIL import Image

from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, read_image

NAMES = ["cat", "dog", "elk"]


def encoded(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def table(first: int = 0, count: int = 5, **columns: list[Any]) -> Any:
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(first, first + count)]
    label = {"names": NAMES, "_type": "ClassLabel"}
    objects = {"feature": {"category": label, "bbox": {"feature": {}, "_type": "Sequence"}}, "_type": "Sequence"}
    features = {"image": {"_type": "Image"}, "label": label, "objects": objects}
    built = pyarrow.table({"image": images, **(columns or {"label": [i % 2 for i in range(count)]})})
    return built.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_arrow(folder: Path, *tables: Any, **options: Any) -> None:
    folder.mkdir(parents=True)
    files = [f"data-{i:05}-of-{len(tables):05}.arrow" for i in range(len(tables))]
    for name, content in zip(files, tables, strict=True):
        with pyarrow.ipc.new_stream(folder / name, content.schema, **options) as stream:
            stream.write_table(content, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    (folder / "cache-1.arrow").write_bytes(b"of map")


def test_arrow_folders(tmp_path: Path) -> None:
    write_arrow(tmp_path / "data" / "train", table(0), table(5))
    write_arrow(tmp_path / "data" / "validation", table(10, 1))
    catalogue = read(tmp_path / "data")
    assert catalogue.format == "hugging_face_tables"
    assert catalogue.classes == tuple(NAMES)
    train = catalogue.splits["train"]
    assert [sample.label for sample in train] == [0, 1, 0, 1, 0] * 2
    for number in (7, 0, 3):
        assert int(read_image(train[number].image)[0, 0, 0]) == number
    assert int(read_image(catalogue.splits["val"][0].image)[0, 0, 0]) == 10
    assert train[9].size == (8, 12)


def test_parquet_files_and_objects(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    objects = [{"bbox": [[1.0, 2.0, 4.0, 3.0]], "category": [2]}] * 5
    pyarrow.parquet.write_table(table(objects=objects), tmp_path / "data" / "train-00000-of-00001.parquet", 2)
    pyarrow.parquet.write_table(table(5, 1, objects=objects[:1]), tmp_path / "data" / "test-0.parquet")
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.classes == tuple(NAMES)
    sample = catalogue.splits["train"][3]
    assert sample.target.labels is not None
    assert sample.target.boxes is not None
    assert sample.target.labels.tolist() == [2]
    assert sample.target.boxes.tolist() == [[1, 2, 5, 5]]
    for number in (4, 0, 3):
        assert int(read_image(catalogue.splits["train"][number].image)[0, 0, 0]) == number
    (tmp_path / "data" / "test-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadableImage, match=r"test-0.parquet/row 1: cannot be read"):
        read_image(catalogue.splits["test"][0].image)


def test_labels_without_names_and_wrong_rows(tmp_path: Path) -> None:
    file = tmp_path / "images.parquet"
    images = [{"bytes": encoded(1), "path": None}] * 3
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [10, 2, None]}), file)
    catalogue = read(file)
    assert catalogue.classes == ("2", "10")
    assert catalogue.problems == [f"{file}, row 3 is skipped: it has no class."]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "tags": [[10], [2, 10], []]}), file)
    assert read(file).classes == ("2", "10")
    write_arrow(tmp_path / "wrong", table(label=[0, 1, 7, -1, 1]))
    problems = read(tmp_path / "wrong").problems
    assert "row 3 is skipped: its label is 7, 0 to 2 is expected." in problems[0]
    assert "row 4 is skipped: it has no class." in problems[1]


def test_what_cannot_be_read_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrow(tmp_path / "packed", table(), options=pyarrow.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(VertebraError, match="is compressed, so its images have no place in it"):
        read(tmp_path / "packed")
    write_arrow(tmp_path / "cut", table())
    file = tmp_path / "cut" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(VertebraError, match="is damaged or cannot be read"):
        read(tmp_path / "cut")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(VertebraError, match=r"has no column of images .*'text'"):
        read(tmp_path / "text.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(VertebraError, match=r"pip install vertebra\[arrow\]"):
        read(tmp_path / "text.parquet")


def test_several_labels_per_row(tmp_path: Path) -> None:
    features = {"labels": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}}
    built = table(0, 3, labels=[[2, 0], [], [1]])
    built = built.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(built, tmp_path / "train.parquet")
    catalogue = read(tmp_path, fields=frozenset({"tags"}))
    assert catalogue.classes == tuple(NAMES)
    assert [sample.target.tags.tolist() for sample in catalogue.splits["train"]] == [[0, 2], [], [1]]


def test_objects_are_read_beside_tags(tmp_path: Path) -> None:
    objects = [{"bbox": [[1.0, 1.0, 4.0, 4.0]], "category": [1]}]
    pyarrow.parquet.write_table(table(0, 1, objects=objects, tags=[["wide"]]), tmp_path / "train.parquet")
    boxes = read(tmp_path, fields=frozenset({"boxes", "labels"}))
    assert boxes.splits["train"][0].target.boxes.tolist() == [[1, 1, 5, 5]]
    assert read(tmp_path, fields=frozenset({"tags"})).classes == ("wide",)


def test_a_class_is_read_beside_tags(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(table(0, 2, label=[1, 0], tags=[["wide"], []]), tmp_path / "train.parquet")
    catalogue = read(tmp_path, fields={"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]
    assert catalogue.classes == tuple(NAMES)
    pyarrow.parquet.write_table(table(0, 1, label=[1], tags=[[{"id": 1}]]), tmp_path / "train.parquet")
    assert len(read(tmp_path, fields={"label"}).splits["train"]) == 1  # whatever the tags are
