"""Two folders of pictures compared: numbers with the protocol card that made them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from langevin.data import Pictures
from langevin.devices import device_of
from langevin.evaluate import METRICS, PCA, Evaluation, FeatureNet, Split, card_of, extract, load_features, measure
from langevin.evaluate.measure import enough, known, ready
from langevin.recipes.evaluation import card, refused


def evaluate_folders(folder: Path, against: Path, features: str | Path, *, metrics: Sequence[str] | None = None,
                     size: int | None = None, small: bool = False, device: str = "cpu", seed: int = 0) -> Evaluation:  # fmt: skip
    """Metrics of the pictures in one folder against those in another.

    Args:
        features: the path of a safetensors file with InceptionTF or DINOv2, or of a folder with a CLIP, or "pca" (of `against`).
        metrics: names from `langevin.evaluate.METRICS`; fd by default.
        size: side to which pictures are cropped and resized first; by default that of the first picture in each folder,
            which must agree.

    Raises:
        ValueError: as `evaluate`, or if the sizes differ.
    """
    wanted = list(metrics) if metrics else ["fd"]
    known(wanted, list(METRICS))
    if str(features) in ("auto", "classifier"):
        raise ValueError(f"features is {str(features)!r}; two folders are compared by the path of a feature network, or 'pca'.")
    place = device_of(device)
    side = size or _common_side(folder, against)
    ours, real = (Pictures(f, side, split="all") for f in (folder, against))
    enough(wanted, len(ours), len(real))
    if str(features) == "pca":
        net: FeatureNet = PCA(real.batch(torch.arange(len(real))).x)  # pyright: ignore[reportArgumentType]
    else:
        net = load_features(features, place)
    held = extract(net, real)
    ready(net, held, wanted)
    few = refused(wanted, len(ours), len(real), held.shape[1], small)
    found = measure(net, extract(net, ours), held, wanted, seed)
    made = card(
        {"samples": len(ours), "device": str(place), "seeds": (seed,)}, small=few, weights=f"pictures, {ours.digest()}",
        real=Split(name=against.name, size=len(real), hash=real.digest()),
        pixels=f"8 bits as in the files, cropped to a square and resized to {side} by Lanczos where they differ",
        features=card_of(net, held), metrics={name: METRICS[name] for name in wanted},
    )  # fmt: skip
    return Evaluation(
        metrics={name: value for name, (value, _) in found.items()},
        spread={name: deviation for name, (_, deviation) in found.items() if deviation is not None},
        protocol=made,
    )


def _common_side(*folders: Path) -> int:
    sides = {}
    for folder in folders:
        first = Pictures(folder, 1, split="all").paths[0]
        with Image.open(first) as picture:
            sides[str(folder)] = min(picture.size)
    if len(set(sides.values())) > 1:
        raise ValueError(f"the first pictures have sides {sides}; say with size (--size) what to resize both to.")
    return next(iter(sides.values()))
