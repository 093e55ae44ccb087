"""Vocabularies: sentences to tokens and back."""

import pytest

from vertebra.errors import VertebraError
from vertebra.text import END, SPECIAL, UNITS, UNKNOWN, Vocabulary

SENTENCES = ["Hello, wörld!", "hello there", "Hello again"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_sentence_comes_back(unit):
    vocabulary = Vocabulary.learn(iter(SENTENCES), unit, 300)
    again = Vocabulary(vocabulary.content)
    ids = again.encode(SENTENCES[0])
    text = again.decode([*ids.tolist(), END])
    assert text == ("Hello , wörld !" if unit == "word" else SENTENCES[0])
    assert len(again.tokens(ids)) == len(ids)
    assert "".join(again.tokens(ids)).replace(" ", "") == "Hello,wörld!"
    assert Vocabulary.learn(SENTENCES, unit, 300).content == vocabulary.content  # whatever the order of a set


def test_only_byte_pairs_know_every_character():
    counts = {unit: int((Vocabulary.learn(SENTENCES, unit, 300).encode("Ж") == UNKNOWN).sum()) for unit in UNITS}
    assert counts == {"word": 1, "character": 1, "bpe": 0}
    assert Vocabulary.bytes().decode(Vocabulary.bytes().encode("Ж ok")) == "Ж ok"
    assert len(Vocabulary.bytes()) == 256 + len(SPECIAL)


def test_the_most_frequent_characters_are_kept():
    vocabulary = Vocabulary.learn(["aaab"], "character", len(SPECIAL) + 1)
    assert vocabulary.tokens(vocabulary.encode("ab")) == ("a", SPECIAL[UNKNOWN])


@pytest.mark.parametrize("unit", UNITS)
def test_names_of_special_tokens_in_a_text_are_text(unit):
    ids = Vocabulary.learn(["[PAD] a", "[EOS]"], unit, 300).encode("a [PAD] [EOS]")
    assert len(ids) > 3
    assert int(ids.min()) >= len(SPECIAL)


def test_what_is_no_vocabulary():
    with pytest.raises(VertebraError, match="the vocabulary cannot be read"):
        Vocabulary("{}")
    content = Vocabulary.learn(SENTENCES, "word", 50).content.replace("[EOS]", "[END]")
    with pytest.raises(VertebraError, match=r"does not begin with \[PAD\], \[UNK\], \[BOS\], \[EOS\]"):
        Vocabulary(content)
