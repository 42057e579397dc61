"""Evaluation: numbers that carry the protocol they were measured by."""

from langevin.evaluate.card import Card, Evaluation, FeatureCard, Result, Split, refuse_small
from langevin.evaluate.classifier import Classifier, kept_classifier, train_classifier
from langevin.evaluate.clip import CLIP
from langevin.evaluate.dinov2 import DINOv2
from langevin.evaluate.features import PCA, FeatureNet, card_of, extract
from langevin.evaluate.fidelity import psnr, ssim
from langevin.evaluate.inception import InceptionTF
from langevin.evaluate.measure import METRICS, measure
from langevin.evaluate.metrics import clip_score, cmmd, energy_distance, frechet, frechet_infinity, inception_score, kid
from langevin.evaluate.neighbours import PRDC, Memorisation, memorisation, nearest, prdc
from langevin.evaluate.perceptual import LPIPS, lpips
from langevin.evaluate.weights import load_features

__all__ = [
    "CLIP", "LPIPS", "METRICS", "PCA", "PRDC", "Card", "Classifier", "DINOv2", "Evaluation", "FeatureCard", "FeatureNet",
    "InceptionTF", "Memorisation", "Result", "Split", "card_of", "clip_score", "cmmd", "energy_distance", "extract", "frechet",
    "frechet_infinity", "inception_score", "kept_classifier", "kid", "load_features", "lpips", "measure", "memorisation",
    "nearest", "prdc", "psnr", "refuse_small", "ssim", "train_classifier",
]  # fmt: skip
