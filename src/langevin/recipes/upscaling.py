"""Runs one after the other: small pictures, or samples of a first run, drawn larger by each."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from langevin import pictures
from langevin.core.tree import leaves
from langevin.data import Arrays
from langevin.data.decode import decode, measure, named, to_unit
from langevin.guidance import Tiles
from langevin.recipes.build import Run
from langevin.recipes.domains.pictures import PictureDomain, as_pictures, write_numbers
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.sampling import chosen
from langevin.tasks import Stage, cascade

BEYOND = 2.0
"""How large values of pictures may be: those that a model drew go a little beyond 1."""


def upscaled(
    runs: Sequence[Path], source: Path, out: Path, *, count: int | None = None, noise: float | None = None,
    plan: str | None = None, tile: int | None = None, overlap: int | None = None, keep: bool = False, seed: int = 0,
    device: str = "cpu",
) -> list[tuple[int, ...]]:  # fmt: skip
    """Pictures of `source` (a picture, a .npy file, or a run that draws them) through all runs, to `out`, .png or .npy. Returns
    their shape at first and after each run.

    Args:
        count: how many, 16 of a run by default; of given pictures the first so many, all by default.
        noise: level given to what each run sees; by default none for given pictures, 0.1 for drawn ones.
        tile, overlap: sides in pixels. By default pictures larger than a run was trained on are seen in tiles of that size, which
            overlap by half.
        keep: averages of what each run draws are what it was given.

    Raises:
        ValueError: for a run that is no upscaler, pictures of other channels than it knows, or more of them than are given.
    """
    opened = [open_run(path, device=device) for path in runs]
    for path, run in zip(runs, opened, strict=True):
        if run.facts.factor is None:
            raise ValueError(f"{path} was not trained to upscale; train one on data 'upscale', or put a first model last, as IN.")
    low, real = _read(source, opened[0], count, seed, device)
    stages, shape = [], tuple(low.shape[1:])
    for path, run in zip(runs, opened, strict=True):
        trained, factor = run.facts.shape, run.facts.factor
        assert isinstance(trained, tuple) and factor is not None
        if shape[0] != trained[0]:
            raise ValueError(f"pictures have {shape[0]} channels and {path} draws {trained[0]}; convert them first.")
        shape = (shape[0], factor * shape[1], factor * shape[2])
        stages.append(Stage(run.denoiser, chosen(run, plan), factor, _tiles(trained, shape, factor, tile, overlap)))
    made = cascade(stages, low, noise=noise, real=real, keep=keep, seed=seed)
    if out.suffix == ".npy":
        write_numbers(made[-1], out)
    else:
        pictures.save_images(made[-1].cpu(), out, columns=min(8, len(low)))
    return [tuple(x.shape) for x in (low, *made)]


def _tiles(trained: tuple[int, ...], shape: tuple[int, ...], factor: int, tile: int | None, overlap: int | None) -> Tiles | None:
    side = min(trained[1:])
    if tile is not None and tile < 1:
        raise ValueError(f"tile is {tile}; give the side of a tile in pixels, or leave it out.")
    if tile is None:
        if overlap is not None:
            raise ValueError(f"overlap is {overlap}, and there are no tiles that could; give tile as well.")
        if max(shape[1:]) <= side:
            return None
        return Tiles(side, side // 2 // factor * factor)
    return Tiles(tile, tile // 2 // factor * factor if overlap is None else overlap)


def _read(source: Path, run: Run, count: int | None, seed: int, device: str) -> tuple[Tensor, bool]:
    """Pictures (B, C, h, w) in [-1, 1], and whether they are real."""
    if source.is_dir():
        first = open_run(source, device=device)
        if first.facts.factor is not None:
            raise ValueError(f"{source} is an upscaler and comes last, as IN; give pictures, or a run that draws from noise.")
        if not isinstance(first.domain, PictureDomain):
            raise ValueError(f"{source} comes last, as IN, and is a run of {first.recipe.data.kind}; give one of pictures.")
        return as_pictures(first, draw(first, 16 if count is None else count, seed=seed)), False
    if source.suffix == ".npy":
        read = Arrays(source)
        x = leaves(read.batch(torch.arange(len(read))).x)[""].float()
        if x.ndim != 4:
            raise ValueError(f"{source} holds arrays of shape {tuple(x.shape[1:])}; give pictures (N, C, h, w).")
        if not float(x.abs().max()) <= BEYOND:  # not so either of NaN
            raise ValueError(f"{source} holds values from {float(x.min()):g} to {float(x.max()):g}, and pictures span [-1, 1]; "
                             "scale them, or save bytes (uint8).")  # fmt: skip
    else:
        shape = run.facts.shape
        assert isinstance(shape, tuple)
        with named(source):
            x = to_unit(decode(source, measure(source), shape[0]))[None]
    if count is not None and count > len(x):
        raise ValueError(f"count is {count}, and {source} holds {len(x)}; ask for at most as many, or leave it out.")
    return x[:count].to(next(run.denoiser.parameters()).device), True
