"""From a recipe to objects, and from a run's directory back to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from langevin import spec
from langevin.core import prediction, schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process, Product
from langevin.data import Arrays, Pictures, digits, mnist, two_moons
from langevin.networks import MLP, CategoryPort, DiT, JointTransformer, PicturePort, PixelCategories, UNet
from langevin.objectives import ELBO, Denoising, Objective, levels, weights
from langevin.recipes import config as c
from langevin.training import load_latest
from langevin.training.trainer import Trainer, seeded

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True)
class Run:
    """The objects of a recipe. `test` is real data that training never sees."""

    recipe: c.Recipe
    denoiser: Denoiser
    objective: Objective
    train: Arrays | Pictures
    test: Arrays | Pictures


def build(recipe: c.Recipe) -> Run:
    """Make the objects; initial weights are a function of the recipe's seed."""
    train, test = data(recipe.data)
    process, predictions = make_process(recipe.process)
    with seeded(recipe.train.seed, torch.device("cpu")):
        net = network(recipe.network, train, process)
    denoiser = Denoiser(net, process, predictions, shape=train.shape)  # pyright: ignore[reportArgumentType]
    return Run(recipe, denoiser, objective(recipe.objective), train, test)


def data(cfg: c.DataConfig) -> tuple[Any, Any]:
    """(training data, held-out data)."""
    if isinstance(cfg, c.MnistData):
        return mnist(cfg.folder, "train", cfg.test), mnist(cfg.folder, "test", cfg.test)
    if isinstance(cfg, c.ImagesData):
        options = {"size": cfg.size, "channels": cfg.channels, "broken": cfg.broken}
        return Pictures(cfg.folder, split="train", **options), Pictures(cfg.folder, split="test", **options)
    if isinstance(cfg, c.MoonsData):
        return two_moons(cfg.count, cfg.std, 0), two_moons(cfg.count // 10, cfg.std, 1)
    splits = [digits(s, cfg.levels if cfg.form == "categories" else None) for s in ("train", "test")]
    if cfg.form == "joint":
        splits = [Arrays({"image": s.x, "label": s.cond["label"]}) for s in splits]  # pyright: ignore
    return splits[0], splits[1]


def _leaf(cfg: c.GaussianConfig | c.CategoricalConfig) -> tuple[LeafProcess, Prediction]:
    schedule = spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule")
    predicted = spec.parse(cfg.prediction, prediction.PREDICTIONS, "prediction")
    if isinstance(cfg, c.GaussianConfig):
        return Gaussian(schedule), predicted
    return Categorical(cfg.categories, schedule, cfg.limit), predicted


def make_process(cfg: c.ProcessConfig) -> tuple[Process, Any]:
    """(process, prediction); dicts by leaf for a product."""
    if not isinstance(cfg, c.ProductConfig):
        return _leaf(cfg)
    made = {"image": _leaf(cfg.image), "label": _leaf(cfg.label)}
    return Product({n: p for n, (p, _) in made.items()}), {n: q for n, (_, q) in made.items()}


def network(cfg: c.NetworkConfig, source: Any, process: Process) -> nn.Module:
    """A network that fits the data and the process."""
    shape, classes = source.shape, _classes(source)
    parts = process.leaves()
    if isinstance(process, Product):
        if not isinstance(cfg, c.DiTConfig):
            raise ValueError(f"network is {cfg.kind!r}, but a product needs one with a port per leaf; use kind 'dit'.")
        label = parts["label"]
        assert isinstance(label, Categorical)
        channels, height, width = shape["image"]
        ports = {
            "image": PicturePort(cfg.width, channels, (height, width), cfg.patch, stem=cfg.stem),
            "label": CategoryPort(cfg.width, label.states, label.categories),
        }
        return JointTransformer(ports, cfg.width, cfg.depth, cfg.heads, cfg.dropout)
    if isinstance(cfg, c.MLPConfig):
        if len(shape) != 1:
            raise ValueError(f"network is 'mlp' for samples of shape {shape}; use 'unet' or 'dit' for pictures.")
        return MLP(shape[0], cfg.width, cfg.depth, classes)
    if len(shape) != 3:
        raise ValueError(f"network is {cfg.kind!r} for samples of shape {shape}; use 'mlp' for vectors.")
    leaf = parts[""]
    categories = leaf.categories if isinstance(leaf, Categorical) else None
    channels, out = (shape[0], shape[0]) if categories is None else (16 * shape[0], categories * shape[0])
    if isinstance(cfg, c.UNetConfig):
        net: nn.Module = UNet(channels, cfg.width, cfg.multipliers, cfg.blocks, cfg.attention, cfg.head_width,
                              cfg.dropout, classes, time=cfg.time, out_channels=out)  # fmt: skip
    else:
        net = DiT(channels, shape[1:], cfg.patch, cfg.width, cfg.depth, cfg.heads, cfg.dropout, classes, None, out, cfg.stem)
    if isinstance(leaf, Categorical):
        return PixelCategories(net, leaf.states, leaf.categories, shape, 16)
    return net


def _classes(source: Any) -> int | None:
    if isinstance(source, Pictures):
        return None if source.classes is None else len(source.classes)
    return None if source.cond is None else int(source.cond["label"].max()) + 1


def objective(cfg: c.ObjectiveConfig) -> Objective:
    if isinstance(cfg, c.ELBOConfig):
        return ELBO(cfg.steps, cfg.drop)
    return Denoising(
        spec.parse(cfg.weight, weights.WEIGHTS, "weight"), spec.parse(cfg.levels, levels.LEVELS, "levels"),
        cfg.spread, cfg.clean, cfg.drop,
    )  # fmt: skip


def start(
    recipe: c.Recipe, out: str | Path, resume: bool = False, preview: Any = None, device: str = "cpu"
) -> tuple[Run, Trainer]:
    """A trainer in its run directory, which then holds the recipe. device "auto" is a GPU where there is one.

    Raises:
        ValueError: if `out` holds another run.
    """
    out = Path(out)
    saved = out / RECIPE_FILE
    if saved.exists() and resume:
        before = read_recipe(out)
        now, was = flatten(recipe.model_dump(mode="json")), flatten(before.model_dump(mode="json"))
        differing = [k for k in {**was, **now} if now.get(k) != was.get(k) and k not in ("about", "expects")]
        if differing:
            k = differing[0]
            raise ValueError(
                f"{k} is {now.get(k)} but the run in {out} was begun with {was.get(k)}; resume with the same "
                "recipe, or choose another directory."
            )
    run = build(recipe)
    run.denoiser.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    trainer = Trainer(run.denoiser, run.train, run.objective, recipe.train, out, resume, preview)
    partial = saved.with_suffix(".partial")
    partial.write_text(recipe.model_dump_json(indent=1))
    partial.replace(saved)
    return run, trainer


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{name}" if prefix else name).items()}


def read_recipe(path: str | Path) -> c.Recipe:
    """The recipe of a run directory.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    file = Path(path) / RECIPE_FILE
    try:
        return c.Recipe.model_validate_json(file.read_text())
    except OSError:
        raise ValueError(f"{path} is no run directory: it has no {RECIPE_FILE}; give what `langevin train --out` made.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{file} is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def open_run(path: str | Path) -> Run:
    """A trained run, with the averaged weights of its newest whole checkpoint, in eval mode.

    Raises:
        ValueError: if the directory is no run, or has no whole checkpoint.
    """
    run = build(read_recipe(path))
    found = load_latest(Path(path) / "checkpoints")
    if found is None:
        raise ValueError(f"{path} has no whole checkpoint yet; train it, or wait for its first.")
    run.denoiser.load_state_dict(dict(found.tensors["ema"]))
    run.denoiser.eval().requires_grad_(False)
    return run
