"""Scores: how well a query and a key match, `score(query, key)`: [..., Q, D] and [..., K, D'] -> [..., Q, K]."""

from vertebra.attention.scores.additive import Additive
from vertebra.attention.scores.bilinear import Bilinear
from vertebra.attention.scores.concat import Concat
from vertebra.attention.scores.cosine import Cosine, sharpen
from vertebra.attention.scores.dot import Dot
from vertebra.attention.scores.gaussian import Gaussian
from vertebra.attention.scores.location import Location
from vertebra.attention.scores.scaled_dot import ScaledDot

__all__ = ["Additive", "Bilinear", "Concat", "Cosine", "Dot", "Gaussian", "Location", "ScaledDot", "sharpen"]
