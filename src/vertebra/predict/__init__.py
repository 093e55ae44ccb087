"""Prediction: a checkpoint and images to Predictions, and the files that hold them."""

from vertebra.predict.multi import MultiPredictor
from vertebra.predict.predictor import Predictor
from vertebra.predict.result import ImageResult

__all__ = ["ImageResult", "MultiPredictor", "Predictor"]
