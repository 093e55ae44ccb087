"""Vocabularies of words, characters or byte pairs, learned from sentences and stored as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vertebra.errors import VertebraError, first_line, one_of

PAD, UNKNOWN, BEGIN, END = range(4)
"""Ids of the special tokens: padding, a token that is not in the vocabulary, and the borders of a sentence."""
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
UNITS = ("word", "character", "bpe")
"""What the tokens of a vocabulary can be."""
MAX_SIZE = 100_000
"""Tokens of a vocabulary."""
SMALLEST = {"word": len(SPECIAL) + 1, "character": len(SPECIAL) + 1, "bpe": len(SPECIAL) + 256}
"""Least size of a vocabulary of each unit; one of byte pairs begins with the bytes."""
MAX_ROW = 100
"""Tokens of a sentence of a text; a longer one is cut into several."""
SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s)|$)", re.MULTILINE)
"""A sentence of a text: it ends with its line, or with a mark before a space."""


def library() -> ModuleType:
    """The package `tokenizers`.

    Raises:
        VertebraError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise VertebraError("sentences need the package tokenizers: pip install 'vertebra[text]'") from error
    return tokenizers


class Vocabulary:
    """Sentences to token ids and back.

    Args:
        content: the JSON that `learn` returned in `content`.

    Raises:
        VertebraError: if it is none.
    """

    def __init__(self, content: str) -> None:
        self.content = content
        try:
            self._tokenizer = library().Tokenizer.from_str(content)
        except VertebraError:
            raise
        except Exception as error:  # the package raises nothing narrower
            raise VertebraError(f"the vocabulary cannot be read ({first_line(error)}).") from error
        if [self._tokenizer.token_to_id(token) for token in SPECIAL] != list(range(len(SPECIAL))):
            raise VertebraError(f"the vocabulary does not begin with {', '.join(SPECIAL)}.")
        self._tokenizer.encode_special_tokens = True  # [PAD] in a text is five characters

    @staticmethod
    def learn(sentences: Iterable[str], unit: str, size: int) -> Vocabulary:
        """The vocabulary of the `size` most frequent tokens at most, the special ones among them.

        Args:
            sentences: may be read once only.
            unit: `word` (punctuation marks are words), `character`, or `bpe`: byte pairs that are merged by their
                frequency (arXiv:1508.07909), which leave no token unknown.
            size: of bpe, at least that of the 256 bytes and the special tokens.
        """
        one_of("unit", unit, UNITS)
        package = library()
        models, before, decoders, trainers = (
            package.models,
            package.pre_tokenizers,
            package.decoders,
            package.trainers,
        )
        trainer: Any
        if unit == "bpe":
            tokenizer = package.Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
            tokenizer.pre_tokenizer = before.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=size,
                special_tokens=list(SPECIAL),
                initial_alphabet=before.ByteLevel.alphabet(),
                show_progress=False,
            )
        else:
            tokenizer = package.Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
            if unit == "word":
                tokenizer.pre_tokenizer = before.Whitespace()
            else:
                tokenizer.pre_tokenizer = before.Split(package.Regex(r"(?m:.)"), "isolated")
                tokenizer.decoder = decoders.Fuse()
            trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
        tokenizer.train_from_iterator(sentences, trainer)
        return Vocabulary(tokenizer.to_str())

    @staticmethod
    def bytes() -> Vocabulary:
        """The 256 bytes of UTF-8, which leave no token unknown."""
        return Vocabulary.learn((), "bpe", len(SPECIAL) + 256)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @cached_property
    def _names(self) -> list[str]:
        """The text of each token by itself."""
        return [self._tokenizer.id_to_token(i) for i in range(len(self))]

    def encode(self, sentence: str) -> Tensor:
        """Ids of the tokens, without those of the borders: [N] int64."""
        return torch.tensor(self.ids(sentence), dtype=torch.int64)

    def ids(self, sentence: str) -> list[int]:
        """As `encode`."""
        return list(self._tokenizer.encode(sentence, add_special_tokens=False).ids)

    def encode_ended(self, sentence: str) -> Tensor:
        """As `encode`, with END at the end: [N + 1] int64."""
        ids = self.encode(sentence)
        return torch.cat((ids, ids.new_tensor([END])))

    def encode_text(self, text: str) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """Ids of the tokens of each sentence of a text, at most MAX_ROW each, and where in the text each token stands:
        its first character, and the one after its last."""
        rows: list[list[int]] = []
        places: list[tuple[int, int]] = []
        for sentence in SENTENCE.finditer(text):
            encoding = self._tokenizer.encode(sentence.group(), add_special_tokens=False)
            rows += [encoding.ids[i : i + MAX_ROW] for i in range(0, len(encoding.ids), MAX_ROW)]
            places += [(sentence.start() + first, sentence.start() + end) for first, end in encoding.offsets]
        return rows, places

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The sentence of token ids [N]; special tokens are left out, but unknown ones."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        kept = [i for i in numbers if i not in (PAD, BEGIN, END)]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def tokens(self, ids: Tensor | Sequence[int]) -> tuple[str, ...]:
        """The text of each token, as it is shown beside its row of an alignment."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        names = [self._names[i] for i in numbers]
        if self._tokenizer.decoder is None or "ByteLevel" not in type(self._tokenizer.decoder).__name__:
            return tuple(names)
        return tuple(
            name if name in SPECIAL else self._tokenizer.decode([i]) for i, name in zip(numbers, names, strict=True)
        )


def pad_texts(texts: Sequence[Tensor]) -> Tensor:
    """Texts of token ids, [sentences, tokens] int64 each, as one tensor [B, R, W], filled with PAD."""
    batch = torch.full((len(texts), max(len(t) for t in texts), max(t.shape[1] for t in texts)), PAD)
    for row, text in zip(batch, texts, strict=True):
        row[: text.shape[0], : text.shape[1]] = text
    return batch
