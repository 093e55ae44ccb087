"""Prediction: a checkpoint and pictures in, Predictions out, and files that hold them."""

from vertebra.predict.predictor import Predictor

__all__ = ["Predictor"]
