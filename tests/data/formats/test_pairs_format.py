"""Pairs of sentences in files, and the built-in dates."""

import pytest

from vertebra.data import open_data
from vertebra.data.formats import ReadOptions, dates
from vertebra.data.reading import read
from vertebra.errors import VertebraError


def pairs(catalogue, split="train"):
    return [(sample.source, sample.target.text) for sample in catalogue.splits[split]]


def test_tab_separated_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("one\teins\tnoted\n\ntwo\tzwei\r\n", encoding="utf-8-sig")
    catalogue = read(tmp_path / "a.tsv")
    assert pairs(catalogue) == [("one", "eins"), ("two", "zwei")]
    assert catalogue.splits["train"][1].target.path == f"{tmp_path / 'a.tsv'}, line 3"
    assert catalogue.has == {"text"}


def test_what_is_wrong_with_a_line_is_named(tmp_path):
    lines = [b"one\teins", b"two", b"\tdrei", b"four\t ", b"f\xffve\tf\xc3\xbcnf", b"six\t" + b"sechs " * 20]
    (tmp_path / "a.tsv").write_bytes(b"\n".join(lines))
    catalogue = read(tmp_path / "a.tsv")
    assert pairs(catalogue) == [("one", "eins")]
    assert [problem.removeprefix(f"{tmp_path / 'a.tsv'}, line ") for problem in catalogue.problems] == [
        "2: there is no tab between source and target.",
        "3: the source is empty.",
        "4: the target is empty.",
        "5: the source is not UTF-8.",
        "6: source and target have 3 and 119 characters, which is no translation.",
    ]


def test_utf16_is_named(tmp_path):
    (tmp_path / "pairs.tsv").write_bytes("eins\tone\nzwei\ttwo\n".encode("utf-16"))
    with pytest.raises(VertebraError, match=r"line 1: the source is not UTF-8"):
        read(tmp_path / "pairs.tsv")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_of_a_spreadsheet(tmp_path, separator):
    (tmp_path / "a.csv").write_text("\ufeff" + separator.join(["Target", '"source"']) + f'\nb, c{separator}"a;\td"\n')
    (sample,) = read(tmp_path / "a.csv").split("train")
    assert (sample.source, sample.target.text) == ("a;\td", "b, c")


def test_csv_with_a_header(tmp_path):
    text = 'target,source,split\neins,one,train\n"zwei, ja","two, yes",validation\n'
    (tmp_path / "a.csv").write_text(text)
    catalogue = read(tmp_path / "a.csv")
    assert pairs(catalogue) == [("one", "eins")]
    assert pairs(catalogue, "val") == [("two, yes", "zwei, ja")]
    (tmp_path / "a.csv").write_text("source,target,split\na,b,tost\n")
    with pytest.raises(VertebraError, match=r"a.csv, line 2: split is 'tost', not one of train"):
        read(tmp_path / "a.csv")


def test_parallel_files(tmp_path):
    for name, text in (
        ("train.de", "eins\nzwei\n"),
        ("train.en", "one\ntwo\n"),
        ("val.de", "drei"),
        ("val.en", "three"),
    ):
        (tmp_path / name).write_text(text)
    catalogue = read(tmp_path)
    assert pairs(catalogue) == [("eins", "one"), ("zwei", "two")]
    assert pairs(catalogue, "val") == [("drei", "three")]
    (tmp_path / "val.en").write_text("three\nfour\n")
    with pytest.raises(VertebraError, match=r"val.de has 1 lines and val.en 2; line by line they must be translations"):
        read(tmp_path)


@pytest.mark.parametrize(
    "names", [("europarl.de_DE", "europarl.en_US"), ("source.txt", "target.txt"), ("test.de", "test.en")]
)
def test_two_files_alone(tmp_path, names):
    for name, text in zip(names, ("eins\nzwei\n", "one\ntwo\n"), strict=True):
        (tmp_path / name).write_text(text)
    assert pairs(read(tmp_path), "test" if "test.de" in names else "train") == [("eins", "one"), ("zwei", "two")]


def test_a_parallel_file_that_is_missing(tmp_path):
    for name in ("train.de", "train.en", "val.de"):
        (tmp_path / name).write_text("a\n")
    with pytest.raises(VertebraError, match=r"has parallel files, but not val\.en\."):
        read(tmp_path, fields={"text"})


def test_a_folder_of_tables(tmp_path):
    (tmp_path / "train.tsv").write_text("one\teins\n")
    (tmp_path / "test.tsv").write_text("two\tzwei\n")
    catalogue = open_data(tmp_path)
    assert pairs(catalogue, "val") == [("two", "zwei")]
    assert catalogue.notes == ["no val split: the test split is used as val"]


def test_no_pair(tmp_path):
    (tmp_path / "a.tsv").write_text("one\n")
    with pytest.raises(VertebraError, match=r"a.tsv has no pair of sentences: .*line 1: there is no tab"):
        read(tmp_path / "a.tsv")


def test_a_task_of_images_names_the_one_that_fits(tmp_path):
    from vertebra import kinds

    (tmp_path / "a.tsv").write_text("one\teins\ntwo\tzwei\n")
    with pytest.raises(VertebraError, match=r"has pairs of sentences but no boxes: train translation on it"):
        kinds.find("boxes").open(tmp_path / "a.tsv")


@pytest.fixture(scope="module")
def drawn():
    pytest.importorskip("babel")
    before, dates.COUNTS = dates.COUNTS, {"train": 300, "val": 60}
    yield dates.read("dates", ReadOptions(seed=0))
    dates.COUNTS = before


def test_dates_are_the_same_for_a_seed_and_not_in_both_splits(drawn):
    assert {split: len(samples) for split, samples in drawn.splits.items()} == {"train": 300, "val": 60}
    assert not {s for s, _ in pairs(drawn)} & {s for s, _ in pairs(drawn, "val")}
    again = dates.read("dates", ReadOptions(seed=0))
    assert pairs(again) == pairs(drawn)
    assert pairs(dates.read("dates", ReadOptions(seed=1))) != pairs(drawn)


def test_every_source_can_be_read_in_one_way(drawn):
    targets = {}
    for split in drawn.splits:
        for source, text in pairs(drawn, split):
            assert targets.setdefault(source, text) == text


def test_alignments_of_dates(drawn):
    """Digits that stand in the source as they are stand for themselves; a name of a month for both its digits."""
    for sample in drawn.splits["train"]:
        source, text, alignment = sample.source, sample.target.text, sample.target.alignment
        assert alignment.shape == (len(text), len(source))
        said = ["".join(source[j] for j in row.nonzero().flatten()) for row in alignment]
        if "-" not in text:
            assert [s for s, t in zip(said, text, strict=True) if t != "."] == [t for t in text if t != "."]
            assert said[-3] in ".,"
            continue
        assert said[4] == said[7] == ""
        assert said[2:4] == list(text[2:4])
        assert said[0] == said[1]
        assert said[0] in (text[:2], text[2:4])
        assert said[8] == said[9] == str(int(text[8:])).zfill(len(said[8]))
        assert said[5] == said[6] != ""
        if said[5].isdigit():
            assert int(said[5]) == int(text[5:7])
