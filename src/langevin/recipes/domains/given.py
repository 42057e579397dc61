"""Pictures that are given to a trained run, read as its own are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from langevin.data import Pictures
from langevin.recipes import config as c
from langevin.recipes.captions import Captioned

if TYPE_CHECKING:
    from langevin.recipes.build import Run

FROM_PICTURES = (c.MnistData, c.ImagesData, c.ShardsData, c.StreamData, c.HuggingFaceData)
"""Data whose samples are pictures of 256 grey levels a channel, as files of pictures have them."""


def of_folder(run: "Run", folder: Path, given: bool) -> Any:
    """All pictures below a folder, for a run of `FROM_PICTURES`, cropped and resized to the run's size.

    Args:
        given: with the conditions that the run knows: the classes by the names of subfolders, whatever their order, and captions.

    Raises:
        ValueError: for a run whose pictures are not square, and for classes that it does not know.
    """
    cfg, shape = run.recipe.drawn, run.facts.shape
    assert isinstance(cfg, FROM_PICTURES) and isinstance(shape, tuple)
    channels, height, width = shape
    if height != width:
        raise ValueError(f"pictures of a folder are cut to squares, and this run draws {width} x {height}; give a .npy instead.")
    words = run.facts.vocabulary if given else None
    read = Pictures(
        folder, width, channels, getattr(cfg, "broken", "fail"), split="all", labels=given and run.facts.classes is not None,
        captions=None if words is None else getattr(cfg, "captions", None) or "txt", max_skipped=getattr(cfg, "max_skipped", 0.0),
    )  # fmt: skip
    if read.classes is not None and read.labels is not None:
        numbers = torch.tensor([run.facts.label(name) for name in read.classes])
        if int(numbers.max()) >= (run.facts.classes or 0):
            raise ValueError(f"{folder} has the class {int(numbers.max())}; this run's run to {(run.facts.classes or 0) - 1}.")
        read.labels = numbers[read.labels]
    return read if words is None else Captioned(read, words)
