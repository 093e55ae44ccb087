"""What the tasks that read texts share: prediction from texts instead of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vertebra.errors import VertebraError
from vertebra.structures import Frame, Prediction, Target
from vertebra.tasks.base import Task
from vertebra.text import BEGIN, PAD, Vocabulary


class TextTask(Task):
    """A task whose input is token ids; it writes `text_ids` and `stack` besides what every task does."""

    def text_ids(self, text: str, name: str) -> Tensor:
        """Ids of the tokens of a text as the network reads them, int64.

        Raises:
            VertebraError: if it is empty, too long, or lacks what the task needs; `name` says which it is.
        """
        raise NotImplementedError

    def stack(self, texts: Sequence[Tensor]) -> Tensor:
        """A batch of what `text_ids` returns, filled with PAD."""
        raise NotImplementedError

    def predict(self, images: Any) -> list[Prediction]:
        """Predictions for one text or a sequence of them, in eval mode and without gradients.

        Raises:
            VertebraError: as `text_ids`.
        """
        texts = [images] if isinstance(images, str) else list(images)
        return list(self.predict_texts(texts, batch_size=max(1, len(texts))))

    def predict_texts(self, texts: Iterable[str], *, batch_size: int = 32) -> Iterable[Prediction]:
        """As `predict`, of any number of texts, in batches."""
        batch: list[Tensor] = []
        for number, text in enumerate(texts, 1):
            batch.append(self.text_ids(text, f"sentence {number}"))
            if len(batch) == batch_size:
                yield from self._predicted(batch)
                batch = []
        if batch:
            yield from self._predicted(batch)

    def _predicted(self, batch: Sequence[Tensor]) -> list[Prediction]:
        sizes = [(1, *text.shape)[-2:] for text in batch]
        predictions: list[Prediction] = self.evaluated(
            self.infer, self.stack(batch), [Frame(size, size) for size in sizes]
        )
        return predictions


def padded_tokens(targets: Sequence[Target], size: int) -> Tensor:
    """The token ids of the targets, below `size`: [B, T] int64, filled with PAD."""
    tokens = []
    for i, target in enumerate(targets):
        assert target.tokens is not None, "checked"
        if not len(target.tokens) or int(target.tokens.max()) >= size or int(target.tokens.min()) < 0:
            raise VertebraError(f"target {i}: tokens must be ids below {size}, at least that of the end.")
        tokens.append(target.tokens)
    return pad_sequence(tokens, batch_first=True, padding_value=PAD)


def shifted(tokens: Tensor) -> Tensor:
    """What a decoder is given to predict `tokens` [B, T]: BEGIN, and all but the last."""
    return torch.cat((tokens.new_full((len(tokens), 1), BEGIN), tokens[:, :-1]), 1)


def vocabulary_of(content: str) -> Vocabulary:
    """The vocabulary of an option; that of bytes if it is empty."""
    return Vocabulary(content) if content else Vocabulary.bytes()
