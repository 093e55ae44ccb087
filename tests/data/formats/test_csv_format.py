"""CSV lists of images to catalogues, and every sentence about what is wrong with them."""

from operator import attrgetter
from pathlib import Path

import pytest

from vertebra.data import open_data
from vertebra.data.catalogue import Sample
from vertebra.errors import VertebraError

LABEL = attrgetter("label")


def fill(folder: Path, *names: str) -> Path:
    """Empty files; formats look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(samples: list[Sample], folder: Path) -> list[tuple[str, int]]:
    return [(str(sample.image.relative_to(folder)), sample.label) for sample in samples]


def csv_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    fill(folder, "in/1.png", "in/2.png", "in/3.png")
    (folder / "list.csv").write_text(text, encoding=encoding)
    return folder / "list.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path, encoding):
    text = " Path,label,Split,remark\nin/2.png,zebra,train,x\nin/1.png,ölf,VALID ,\nin/3.png,ölf,,\n"
    catalogue = open_data(csv_file(tmp_path, text, encoding))
    assert (catalogue.format, catalogue.classes) == ("csv", ("zebra", "ölf"))
    assert named(catalogue.split("train"), tmp_path) == [("in/2.png", 0), ("in/3.png", 1)]
    assert named(catalogue.split("val"), tmp_path) == [("in/1.png", 1)]


def test_csv_without_splits_is_divided(tmp_path):
    rows = "".join(f"in/{1 + i % 3}.png,{'ab'[i % 2]}\n" for i in range(20))
    catalogue = open_data(csv_file(tmp_path, f"path,label\n{rows}"))
    assert catalogue.counts("train", LABEL) == [8, 8]
    assert catalogue.counts("val", LABEL) == [2, 2]


def test_csv_paths_may_be_absolute(tmp_path):
    path = csv_file(tmp_path, "")
    path.write_text(f"path,label,split\n{tmp_path}/in/1.png,a,train\n{tmp_path}/in/2.png,b,val\n")
    assert named(open_data(path).split("val"), tmp_path) == [("in/2.png", 1)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"list\.csv, line 1: a list of images has the columns path, label and maybe split; this one has none"),
        ("path;label\n", r"line 1: .* this one has path;label"),
        ("path,label\n", r"list\.csv lists no images"),
        ("path,label\nin/1.png,a\nin/9.png,b\n", r"list\.csv, line 3: .*in/9\.png is not there"),
        ("path,label\nin/1.png,a\nin/2.png,\n", r"line 3: path or label is empty"),
        ("path,label\nin/1.png\n", r"line 2: path or label is empty"),
        ("path,label,split\nin/1.png,a,tarin\n", r"line 2: split is 'tarin', not one of train, training, val"),
        ("path,label\nin/1.png,cat, striped\n", r"line 2: it has 3 values, but there are 2 columns; a value with a"),
        ('path,label\nin/1.png,"cat\nin/2.png,dog\n', r"line \d: cannot be read as CSV \(unexpected end of data"),
        ("path,label,Label\nin/1.png,a,b\n", r"line 1: there are two columns called label"),
        ("path,label\nin/1.png,  \n", r"line 2: path or label is empty"),
        (f"path,label\n{'x' * 5000},a\n", r"line 2: .* is not there"),
        ("path,label\nin/\0.png,a\n", r"line 2: .*in/\\x00\.png is not there"),
        (f"path,label\n{'x' * 200_000},a\n", r"line 2: cannot be read as CSV \(field larger"),
    ],
)
def test_an_invalid_csv_is_explained(tmp_path, text, sentence):
    with pytest.raises(VertebraError, match=sentence):
        open_data(csv_file(tmp_path, text))


@pytest.mark.parametrize("text", ["path,label,Größe\n", "path,label\nin/1.png,Größe\n"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_csv_in_another_encoding_is_explained(tmp_path, text, encoding):
    with pytest.raises(VertebraError, match=r"list\.csv is not a text file in UTF-8"):
        open_data(csv_file(tmp_path, text, encoding))


def test_csv_labels_lose_the_white_space_around_them(tmp_path):
    catalogue = open_data(csv_file(tmp_path, "path, label\nin/1.png, cat\nin/2.png,cat \nin/3.png,dog\n"))
    assert catalogue.classes == ("cat", "dog")
