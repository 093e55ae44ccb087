"""Explanations: which pixels of an image an answer of a model depends on."""

from vertebra.predict.explain.explainer import Explainer, Explanation
from vertebra.predict.explain.techniques import techniques

__all__ = ["Explainer", "Explanation", "techniques"]
