"""Stories of where people are and what they hold, whose questions need one fact, or two."""

from __future__ import annotations

import torch
from torch import Tensor

VOCABULARY = 13
"""0 is padding, 1 to 4 are people, 5 to 8 objects, 9 to 12 places."""


def stories(count: int, facts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stories [count, 8, 2], questions [count, 1] and answers [count].

    A story says of four people, in any order, what they hold and where they are: "person object", "person place". The
    question is a person if one fact answers it, and an object, whose holder must be looked up first, for two facts.
    The answer is the place.
    """
    people, objects, places = (torch.rand(count, 4).argsort(1) + first for first in (1, 5, 9))
    story = torch.cat([torch.stack([people, objects], 2), torch.stack([people, places], 2)], 1)
    story = story.take_along_dim(torch.rand(count, 8).argsort(1)[..., None], 1)
    return story, (people if facts == 1 else objects)[:, :1], places[:, 0]


def both(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """`count` stories with one fact, followed by as many with two."""
    story, question, answer = (torch.cat(parts) for parts in zip(stories(count, 1), stories(count, 2), strict=True))
    return story, question, answer
