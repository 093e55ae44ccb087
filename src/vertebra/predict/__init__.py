"""Prediction: a checkpoint and images to Predictions, and the files that hold them."""

from vertebra.predict.predictor import Predictor

__all__ = ["Predictor"]
