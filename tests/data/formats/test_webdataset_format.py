"""Tar shards: images are read from their places, and what a shard claims is checked."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vertebra.cli import main
from vertebra.data.formats import webdataset
from vertebra.data.reading import open_data, read
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, read_image


def encoded(value: int, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), (value, 0, 0)).save(stream, format)
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes | str], more: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return path


def numbered(*classes: int | str, first: int = 0) -> dict[str, bytes | str]:
    members: dict[str, bytes | str] = {}
    for number, name in enumerate(classes, first):
        members[f"{number:06}.png"] = encoded(number)
        members[f"{number:06}.cls"] = str(name)
    return members


def test_shards_are_read_in_any_order_by_their_numbers(tmp_path: Path) -> None:
    shard(tmp_path / "set-train-000.tar", numbered(10, 2, 10))
    shard(tmp_path / "set-train-001.tar", numbered(2, 0, first=3))
    shard(tmp_path / "set-val-000.tar", numbered(0, first=5))
    catalogue = read(tmp_path)
    assert catalogue.format == "webdataset"
    assert catalogue.classes == ("0", "2", "10")
    train = catalogue.splits["train"]
    assert [sample.label for sample in train] == [2, 1, 2, 1, 0]
    for number in (4, 0, 3):
        assert int(read_image(train[number].image)[0, 0, 0]) == number
    assert train[1].size == (8, 12)
    assert train[4].target.path == str(tmp_path / "set-train-001.tar" / "000004.png")
    pattern = read(tmp_path / "set-train-{000..001}.tar")
    assert [sample.target.path for sample in pattern.splits["train"]] == [sample.target.path for sample in train]
    assert len(read(f"{tmp_path}/set-{{train,val}}-000.tar").splits["val"]) == 1
    (tmp_path / "classes.json").write_text(json.dumps([f"class {i}" for i in range(11)]))
    assert len(read(tmp_path).classes) == 11
    assert open_data(tmp_path).splits["val"][0].label == 0


def test_the_index_is_kept_and_made_anew_for_another_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shard(tmp_path / "0.tar", numbered("cat", "dog"))
    read(file)
    index = tmp_path / ".0.tar.index.json"
    assert index.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "_indexed", None)
        assert read(file).classes == ("cat", "dog")
    index.write_text(index.read_text()[:-20])
    assert read(file).classes == ("cat", "dog")
    shard(file, numbered("cat", "dog", "elk"))
    assert read(file).classes == ("cat", "dog", "elk")

    def full(*_: object) -> None:
        raise VertebraError("no space")

    index.unlink()
    monkeypatch.setattr(webdataset, "_keep", full)
    assert "could not be kept" in read(file).notes[0]


def test_objects_and_names_come_from_json_and_text(tmp_path: Path) -> None:
    objects = {"objects": {"bbox": [[1, 2, 4, 3], [0, 0, -2, 2]], "category": ["cat", "dog"]}}
    file = shard(tmp_path / "a.tar", {"x/1.jpg": encoded(9, "JPEG"), "x/1.json": json.dumps(objects)})
    catalogue = read(file, fields={"boxes"})
    (sample,) = catalogue.splits["train"]
    assert sample.target.boxes is not None
    assert sample.target.boxes.tolist() == [[1, 2, 5, 5]]
    assert "object 2 is skipped" in catalogue.problems[0]
    assert main(["data", "convert", str(file), "--to=coco", f"--save={tmp_path / 'coco'}"]) == 0
    assert [path.read_bytes() for path in tmp_path.glob("coco/**/1.jpg")] == [encoded(9, "JPEG")]
    assert main(["data", str(file), f"--save={tmp_path / 'sheet.png'}"]) == 0
    assert (tmp_path / "sheet.png").is_file()
    file = shard(
        tmp_path / "b.tar",
        {"1.png": encoded(1), "1.txt": "cat\n", "2.png": encoded(2), "2.json": '{"label": "dog"}', "3.png": encoded(3)},
    )
    catalogue = read(file)
    assert [catalogue.classes[sample.label] for sample in catalogue.splits["train"]] == ["cat", "dog"]
    assert catalogue.problems == [f"{file}, 3.png is skipped: it has no .cls, .json, .txt of its key."]


def test_links_and_names_that_lead_out_are_skipped_and_counted(tmp_path: Path) -> None:
    link = tarfile.TarInfo("7.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members = numbered(0, 1) | {"../8.png": encoded(8), "/9.png": encoded(9), "a/../../9.cls": "1"}
    catalogue = read(shard(tmp_path / "0.tar", members, (link,)))
    assert len(catalogue.splits["train"]) == 2
    assert len(catalogue.problems) == 1
    assert "4 members are skipped, '../8.png' for one: links" in catalogue.problems[0]


@pytest.mark.parametrize("end", ["inside", "boundary", "overwritten"])
def test_damaged_shards_say_so_and_keep_what_is_whole(tmp_path: Path, end: str) -> None:
    file = shard(tmp_path / "0.tar", numbered(0, 1, 0, 1))
    content = bytearray(file.read_bytes())
    place = content.index(b"000003.png")
    if end == "overwritten":
        content[place : place + 512] = b"x" * 512
    else:
        del content[place if end == "boundary" else place + 600 :]
    file.write_bytes(content)
    catalogue = read(file)
    assert len(catalogue.splits["train"]) == 3
    assert "what comes before is used" in catalogue.problems[0]
    assert all("000003.png" in sentence for sentence in catalogue.problems[1:])  # whose class is lost


def test_claims_of_headers_are_bounded(tmp_path: Path) -> None:
    file = shard(tmp_path / "0.tar", numbered(0, 1))
    long = tarfile.TarInfo("long")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    file.write_bytes(
        file.read_bytes().rstrip(b"\0").ljust(4 * 512 * 2, b"\0") + long.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    )
    catalogue = read(file)
    assert "states 1,099,511,627,776 bytes" in catalogue.problems[0]
    sample = catalogue.splits["train"][0]
    file.write_bytes(file.read_bytes()[:520])
    with pytest.raises(UnreadableImage, match=r"0.tar/000000.png: cut off"):
        read_image(sample.image)


def test_what_is_no_shard_is_refused_in_words(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", numbered(0, 1))
    with pytest.raises(VertebraError, match=r"2 of its 3 shards are not there, the first is .*/1.tar\.$"):
        read(tmp_path / "{0..2}.tar")
    with pytest.raises(VertebraError, match="stands for"):
        read(tmp_path / "{0..9999999}{0..9999999}.tar")
    with pytest.raises(VertebraError, match=r"photos.tar is an archive, but no shard"):
        read(shard(tmp_path / "photos.tar", {"cat/1.png": encoded(1)}))
    packed = tmp_path / "packed{0}.tar"
    packed.with_name("packed0.tar").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    with pytest.raises(VertebraError, match="no tar that can be read in any order"):
        read(packed)


def test_tags_come_from_json(tmp_path: Path) -> None:
    tags: dict[str, list[str | int]] = {"a": ["sea", "sun"], "b": [], "c": ["sky", "sea", "sea"]}
    members = {f"{key}.png": encoded(1) for key in tags}
    members |= {f"{key}.json": json.dumps({"tags": names}) for key, names in tags.items()}
    members |= {"d.png": encoded(1), "d.json": '{"tags": "sea"}', "e.png": encoded(1), "e.json": '{"tags": [0.5]}'}
    shard(tmp_path / "train.tar", members)
    catalogue = read(tmp_path / "train.tar", fields=frozenset({"tags"}))
    assert catalogue.classes == ("sea", "sky", "sun")
    train = catalogue.splits["train"]
    assert [sample.target.tags.tolist() for sample in train[:3]] == [[0, 2], [], [0, 1]]
    assert "images without a tag: 1 of 3, kept as images that have none" in catalogue.notes
    assert len(catalogue.problems) == 2


def test_numbers_of_tags_are_those_of_the_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["sea", "sky", "sun"]')
    shard(tmp_path / "train.tar", {"a.png": encoded(1), "a.json": '{"labels": [2, 0]}'})
    catalogue = read(tmp_path, fields=frozenset({"tags"}))
    assert catalogue.classes == ("sea", "sky", "sun")
    assert catalogue.splits["train"][0].target.tags.tolist() == [0, 2]
