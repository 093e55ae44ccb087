"""Refinement of predictions after the fact: Prediction -> Prediction."""

from vertebra.refine.refiner import Refiner

__all__ = ["Refiner"]
