"""Texts with a class in files, and the built-in reviews and stories."""

import pytest

from vertebra import kinds
from vertebra.data import open_data
from vertebra.data.formats import reviews, stories
from vertebra.data.reading import read
from vertebra.errors import VertebraError


def content(catalogue, split="train"):
    return [(sample.source, catalogue.classes[sample.label]) for sample in catalogue.splits[split]]


def test_csv_with_a_header(tmp_path):
    lines = [
        "label,text,split",
        "b,one,train",
        '"a","two, and\nthree",valid',
        ",four,train",
        "b,,train",
        "a,five,train",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    catalogue = read(tmp_path / "a.csv")
    assert catalogue.classes == ("a", "b")
    assert content(catalogue) == [("one", "b"), ("five", "a")]
    assert content(catalogue, "val") == [("two, and\nthree", "a")]
    assert [problem.removeprefix(f"{tmp_path / 'a.csv'}, ") for problem in catalogue.problems] == [
        "line 5: the label is empty.",
        "line 6: the text is empty.",
    ]
    (tmp_path / "a.csv").write_text("text,label,split\na,b,tost\n")
    with pytest.raises(VertebraError, match=r"a.csv, line 2: split is 'tost', not one of train"):
        read(tmp_path / "a.csv")


def test_a_folder_of_tab_separated_files_with_questions(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tquestion\tlabel\nMary is here.\tWhere is Mary?\there\n\nx\t\tthere\n")
    (tmp_path / "test.tsv").write_bytes(b"text\tlabel\nJohn left.\tthere\nf\xff\there\n")
    catalogue = open_data(tmp_path)
    assert content(catalogue) == [("Mary is here.\tWhere is Mary?", "here"), ("x", "there")]
    assert content(catalogue, "val") == [("John left.", "there")]
    assert catalogue.problems == [f"{tmp_path / 'test.tsv'}, line 3: the text is not UTF-8."]


def test_folders_of_text_files(tmp_path):
    for split, name, text in (("train", "bad", "no"), ("train", "good", "yes\n"), ("test", "good", "well")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "1.txt").write_text(text)
    catalogue = read(tmp_path)
    assert content(catalogue) == [("no", "bad"), ("yes", "good")]
    assert content(catalogue, "test") == [("well", "good")]
    assert content(read(tmp_path / "train")) == [("no", "bad"), ("yes", "good")]


def test_texts_and_images_are_not_confused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo,b\n")
    with pytest.raises(VertebraError, match=r"classes of texts but no classes of whole images: train text_class"):
        kinds.find("category").open(tmp_path / "a.csv")
    with pytest.raises(VertebraError, match="has classes of texts but no tags: train text_classification on it"):
        kinds.find("tags").open(tmp_path / "a.csv")
    assert kinds.of(read(tmp_path / "a.csv")).name == "text_category"
    (tmp_path / "b.csv").write_text("text,label\n,a\n")
    with pytest.raises(VertebraError, match=r"has no text with a class: .*line 2: the text is empty"):
        read(tmp_path / "b.csv")


def test_the_built_in_reviews(monkeypatch):
    """The words that decide name the room and judge it as the class does; they are the same for one seed."""
    monkeypatch.setattr(reviews, "COUNTS", {"train": 30, "val": 10})
    catalogue = read("reviews", seed=3)
    assert content(catalogue) == content(read("reviews", seed=3))
    for sample in catalogue.splits["train"]:
        places = sample.target.alignment[0].nonzero().flatten().tolist()
        room, _, word = sample.source[places[0] : places[-1] + 1].split()
        assert room == "room"
        assert word in reviews.WORDS[reviews.CLASSES[sample.label]]


def test_the_built_in_stories(monkeypatch):
    """The deciding sentences of a person's place are one, of a thing's two: who holds it, and where that person is."""
    monkeypatch.setattr(stories, "COUNTS", {"train": 30, "val": 10})
    for sample in read("stories").splits["train"]:
        story, question = sample.source.split("\t")
        facts = sample.target.alignment[0].tolist()
        assert len(facts) == len(story)
        kept = "".join(letter for letter, key in zip(story, facts, strict=True) if key)
        sentences = sorted(kept.rstrip(".").split("."), key=lambda sentence: "has" in sentence)
        place = stories.PLACES[sample.label]
        subject = question.removeprefix("Where is ").removeprefix("the ").rstrip("?")
        holder = sentences[0].split()[0]
        assert sentences[0] == f"{holder} is in the {place}"
        assert sentences[1:] == ([] if subject == holder else [f"{holder} has the {subject}"])
