"""Handwritten digits, 8 x 8 pixels with 17 grey levels: the data the library carries with it.

1,797 pictures from the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998; CC BY 4.0), in
the order in which scikit-learn gives them.
"""

from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from langevin.data.arrays import Arrays

LEVELS = 17


def _picture(name: str) -> np.ndarray:
    with files("langevin.data").joinpath(name).open("rb") as file:
        return np.array(Image.open(file))


def digits(split: str = "train", categories: int | None = None) -> Arrays:
    """The digits, x (N, 1, 8, 8), with cond["label"] (N,).

    Args:
        split: "train" (1,500), "test" (297), or "all". The split is fixed: a permutation of numpy's default_rng(0).
        categories: None for floats in [-1, 1]; else int64 grey levels 0 .. categories - 1 (17 keeps the data as it is).
    """
    grey = torch.from_numpy(_picture("digits.png").reshape(-1, 1, 8, 8).astype(np.int64))
    label = torch.from_numpy(_picture("digits_labels.png").reshape(-1).astype(np.int64))
    place = torch.from_numpy(np.random.default_rng(0).permutation(len(grey)))
    x = grey.float() / 8 - 1 if categories is None else torch.round(grey * (categories - 1) / (LEVELS - 1)).long()
    every = Arrays(x[place], {"label": label[place]})
    train, test = every.split(1500)
    return pick(split, {"train": train, "test": test, "all": every})


def pick(split: str, splits: dict[str, Arrays]) -> Arrays:
    """The split of that name."""
    if split not in splits:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(splits)}.")
    return splits[split]
