"""Evaluation: numbers that carry the protocol they were measured by."""

from langevin.evaluate.classifier import Classifier, train_classifier
from langevin.evaluate.metrics import energy_distance, frechet, nearest, pca_features

__all__ = ["Classifier", "energy_distance", "frechet", "nearest", "pca_features", "train_classifier"]
