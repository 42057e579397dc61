"""Pictures: networks for them, grids of samples, Frechet distances."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from langevin import pictures
from langevin.core.categorical import Categorical
from langevin.core.noise import Noise
from langevin.core.process import LeafProcess, Process, Product
from langevin.core.tree import leaves
from langevin.data import Arrays, HFDataset, Pairs, Pictures, Shards, Stream, Unpaired, digits, mnist
from langevin.embedded import Embedded
from langevin.evaluate import METRICS, Evaluation
from langevin.files import new_folder, staged, write
from langevin.heads import outputs
from langevin.networks import MLP, CategoryPort, DiT, JointTransformer, PicturePort, PixelBeliefs, PixelCategories, UNet
from langevin.networks.blocks import Fourier, Sinusoid, fixed_groups, four_channels
from langevin.networks.unet import Attending, Reading, Resampling
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.captions import Vocabulary, learn
from langevin.recipes.domains import Asked, Domain
from langevin.recipes.domains.given import FROM_PICTURES, of_folder
from langevin.recipes.drawing import asked_prompts, begins, draw
from langevin.recipes.facts import Facts
from langevin.recipes.recorded import record_of, record_of_one
from langevin.tasks.likelihood import dequantised

OF_RUNS = {
    **METRICS,
    "labels": "share of samples that show the intended label, by a classifier trained on the real training split",
    "clip": "100 max(cos, 0) of the CLIP embeddings of each sample and its caption, those of held-out pictures in turn",
    "memory": "Euclidean distance of pixels to the nearest training picture; share nearer than the nearest 5 % of held-out ones",
}

_FEATURES = 16
"""Of a category, as a picture network reads it."""
COLUMNS = 10
"""Of a page of samples, at most; more classes than that would cost as much as training."""


class PictureDomain(Domain):
    """Pictures with or without labels and captions."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".gif", ".npy", "")
    least: ClassVar[int] = 2
    metrics: ClassVar[Mapping[str, str]] = OF_RUNS

    def read(self, cfg: Any, scan: Path | None = None) -> tuple[Any, Any]:
        return read(cfg, scan)

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        words = None if recipe.text is None else _vocabulary((train, test), recipe.text)
        names = getattr(train, "classes", None)  # a source joined with another tells its own
        named = tuple(names) if isinstance(names, list) else None
        return Facts(shape=train.shape, classes=classes_of(train, recipe), class_names=named, vocabulary=words)

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        return network(cfg, facts, process, scalars, tokens, predictions=predictions)

    def rows(self, run: Run, path: Path, given: bool = False) -> Any:
        of_files = path.is_dir() and isinstance(run.recipe.drawn, FROM_PICTURES)
        return of_folder(run, path, given) if of_files else super().rows(run, path)

    def finish(self, run: Run, x: Any, options: Mapping[str, Any]) -> Any:
        """Categories of samples that are points of them."""
        leaf = run.denoiser.process
        return leaf.round(x) if isinstance(leaf, Embedded) else x

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """A grid with one column per class where there are classes, of at most 10 of them, spread evenly."""
        return picture_of_samples(run, stem.with_suffix(".png"), rows, seed, label, **options)

    def write(self, run: Run, x: Any, path: Path, **options: Any) -> Path:
        """A picture (.png), numbers (.npy), or a folder of pictures; a product's labels go to .json beside it. Pictures say
        how they were drawn."""
        count = len(next(iter(leaves(x).values())))
        if not path.suffix:
            record = record_of(run, count, **options)
            with new_folder(path) as beside:
                for k, one in enumerate(as_pictures(run, x)):
                    sheet = pictures.grid(one[None], 1, scale=1, gap=0)
                    pictures.save_png(sheet, beside / f"{k:06d}.png", record_of_one(record, k))
        elif path.suffix == ".npy":
            write_numbers(x["image"] if isinstance(x, dict) else x, path)
        else:
            texts = asked_prompts(run, count, options.get("prompts", ()))
            record = record_of(run, count, **options)
            first = begins(run, count, options.get("source"))
            if (image := options.get("image")) is not None:
                first = image[torch.arange(count) % len(image)]
            _page(as_pictures(run, x), first, path, texts=texts, record=record)
        if isinstance(x, dict):
            write(path.with_suffix(".json"), json.dumps({"label": x["label"].tolist()}))
        return path

    def animation(self, run: Run, path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
        columns = min(run.facts.classes or COLUMNS, COLUMNS)
        if count is None and options.get("label") is None and not isinstance(run.recipe.process, c.ProductConfig):
            options["label"] = shown(run, 2)
        frames = draw(run, count or 2 * columns, seed=seed, frames=True, **options)
        return pictures.save_gif([as_pictures(run, z) for z in frames], path, columns)

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        from langevin.recipes.domains.judging import judge

        return judge(run, asked, sampled)

    def strengths(self, run: Run, guidance: float | None) -> tuple[float, ...]:
        if guidance is not None or run.facts.classes is None or isinstance(run.recipe.process, c.ProductConfig):
            return super().strengths(run, guidance)
        # a model that never learned without its condition has nothing to be guided away from
        able = getattr(run.recipe.objective, "drop", 0) or "guidance" in run.recipe.objective.scalars
        return (1.0, 1.5) if able else (1.0,)

    def afford(self, run: Run, asked: Asked) -> None:
        from langevin.recipes.domains.judging import affordable

        affordable(run, asked)

    def check(self, run: Run, asked: Asked) -> None:
        from langevin.recipes.domains.judging import checked

        checked(run, asked)

    def reference(self, run: Run, features: str | Path, folder: Path | None, device: str) -> Any:
        from langevin.recipes.domains.judging import Reference

        return Reference(run, features, folder, device)


DOMAIN = PictureDomain()


def read(
    cfg: c.DigitsData | c.MnistData | c.ImagesData | c.ArraysData | c.ShardsData | c.HuggingFaceData | c.StreamData,
    scan: Path | None = None,
) -> tuple[Any, Any]:
    """(training data, held-out data)."""
    if isinstance(cfg, c.MnistData):
        train, test = (mnist(cfg.folder, split, cfg.test) for split in ("train", "test"))
        return _picked(train, test, cfg)
    if isinstance(cfg, c.ImagesData):
        train = Pictures(**cfg.model_dump(exclude={"kind"}), scan_file=scan)
        return train, train.part("test", aspect=False)
    if isinstance(cfg, c.ArraysData):
        return of_arrays(cfg)
    if isinstance(cfg, c.ShardsData):
        train = Shards(paths=cfg.folder, scan_file=scan, **cfg.model_dump(exclude={"kind", "folder"}))
        return train, train.part("test")
    if isinstance(cfg, c.HuggingFaceData):
        train = HFDataset(cfg.folder, split="train", scan_file=scan, **cfg.model_dump(exclude={"kind", "folder"}))
        return train, train.part("test")
    if isinstance(cfg, c.StreamData):
        return _streamed(cfg, scan)
    if cfg.form == "joint" and cfg.only is not None:
        raise ValueError(f"data.form is 'joint', and data.only {cfg.only} leaves one label, of which nothing is drawn; use form "
                         "'image'.")  # fmt: skip
    if cfg.form != "image" and (cfg.spread or not cfg.labels):
        raise ValueError(f"data.form is {cfg.form!r}; spread grey values, or leave labels out, with form 'image'.")
    train, test = (digits(s, cfg.levels if cfg.form == "categories" else None) for s in ("train", "test"))
    train, test = _picked(train, test, cfg)
    if cfg.form == "joint":
        return tuple(Arrays({"image": s.x, "label": s.cond["label"]}) for s in (train, test))  # pyright: ignore
    return (_spread(train, cfg.spread) if cfg.spread else train), test


def of_arrays(cfg: c.ArraysData) -> tuple[Arrays, Arrays]:
    """The rows of files, the last of them held out."""
    every = Arrays(cfg.x, None if cfg.label is None else {"label": cfg.label})
    if cfg.test >= len(every):
        raise ValueError(f"data.test is {cfg.test} of {len(every)} rows; hold out fewer.")
    return every.split(len(every) - cfg.test)


def _streamed(cfg: c.StreamData, scan: Path | None) -> tuple[Stream, Shards]:
    """A stream, and what is held out of it."""
    shared: dict[str, Any] = cfg.model_dump(include={"size", "channels", "broken", "max_skipped"}) | {
        "labels": cfg.classes is not None
    }
    test = Shards(cfg.test, split="all", scan_file=scan, **shared)
    train = Stream(cfg.urls, cfg.seed, buffer=cfg.buffer, samples=cfg.samples, flip=cfg.flip, **shared)
    if train.shape != test.shape:
        raise ValueError(f"data.urls has samples of shape {train.shape}, and data.test of {test.shape}; make them agree.")
    if cfg.classes is not None and (test.labels is None or int(test.labels.max()) >= cfg.classes):
        said = "no labels" if test.labels is None else f"the label {int(test.labels.max())}"
        raise ValueError(f"data.classes is {cfg.classes}, and data.test has {said}; give as many as there are, or none.")
    return train, test


def _picked(train: Arrays, test: Arrays, cfg: c.DigitsData | c.MnistData) -> tuple[Arrays, Arrays]:
    """Both splits as the settings of classes have them."""
    if cfg.only is not None and cfg.without is not None:
        raise ValueError(f"data.only is {cfg.only} and data.without {cfg.without}; give one of them.")
    return _classes(train, cfg.only, cfg.without, cfg.labels), _classes(test, cfg.only, None, cfg.labels)


def _classes(every: Arrays, only: int | None, without: int | None, labels: bool) -> Arrays:
    """The samples of one class, or of all but one; labels stay where there are several and they are asked for."""
    label = (every.cond or {})["label"]
    rows = torch.ones(len(label), dtype=torch.bool)
    for name, asked in (("only", only), ("without", without)):
        if asked is not None:
            found = label == asked
            if not bool(found.any()):
                raise ValueError(f"data.{name} is {asked}, and there is no sample of that class; choose one that there is.")
            rows &= found if name == "only" else ~found
    x = leaves(every.x)[""]
    if bool(rows.all()):
        return every if labels else Arrays(x)
    return Arrays(x[rows], {"label": label[rows]} if labels and only is None else None)


def _spread(grey: Arrays, copies: int) -> Arrays:
    """So many copies of the digits, each with grey values spread anew over their cells, of width 1/8."""
    x, cond = leaves(grey.x)[""].repeat(copies, 1, 1, 1), {n: v.repeat(copies) for n, v in (grey.cond or {}).items()}
    return Arrays(dequantised(x, 1 / 8, Noise.of(0, len(x))), cond or None)


def classes_of(source: Any, recipe: c.Recipe) -> int | None:
    """How many classes its labels tell apart; None for none."""
    if isinstance(recipe.process, c.ProductConfig):
        return recipe.process.label.categories
    if isinstance(source, (Pairs, Unpaired)):
        return classes_of(source.data, recipe)
    if isinstance(source, Pictures):
        return None if source.classes is None else len(source.classes)
    if isinstance(source, Stream):
        return recipe.data.classes if isinstance(recipe.data, c.StreamData) else None
    labels = source.labels if isinstance(source, (Shards, HFDataset)) else (source.cond or {}).get("label")
    return None if labels is None else int(labels.max()) + 1


def _vocabulary(splits: tuple[Any, Any], text: c.TextConfig) -> Vocabulary:
    """What the captions of the training split are made of, and the first of the others."""
    train, test = (split.texts(10_000) if isinstance(split, Stream) else getattr(split, "captions", None) for split in splits)
    if train is None or test is None:
        raise ValueError("text is given, but this data has no captions; say --data.captions FILE, or leave text out.")
    return learn(train, text.vocabulary, text.length, test[:20])


def network(
    cfg: c.NetworkConfig,
    facts: Facts,
    process: Process,
    scalars: Sequence[str] = (),
    tokens: int | None = None,
    further: int = 0,
    predictions: Any = None,
) -> nn.Module:
    """A network that fits the data and the process, with conditions `scalars`, and tokens of so many features, besides those of
    the data; a U-Net may read `further` channels in cond["concat"]. On categories it says as much as `predictions` read.
    """
    shape, classes = facts.shape, facts.classes
    if isinstance(process, Product):
        return _of_product(cfg, shape, process, scalars, predictions)
    leaf = process.leaves()[""]
    if not isinstance(shape, tuple):
        raise ValueError("this data is a picture and its label as one, which process 'product' destroys together; use it.")
    if isinstance(cfg, c.AutoencoderConfig):
        raise ValueError(
            "network is 'autoencoder', which denoises nothing; use it with process 'none', as digits-autoencoder does."
        )
    if isinstance(cfg, c.VectorsConfig):
        raise ValueError("network is 'vectors', which reads points of words; use it with data 'sentences'.")
    if isinstance(cfg, c.SequenceConfig):
        raise ValueError("network is 'sequence', which reads tokens; use it with data 'text'.")
    if isinstance(cfg, c.GraphTransformerConfig):
        raise ValueError("network is 'graph', which reads graphs; use it with data 'graphs' or 'molecules'.")
    if tokens is not None and isinstance(cfg, c.MLPConfig):
        raise ValueError("text is given, and network 'mlp' reads none; use 'unet' or 'dit'.")
    if isinstance(cfg, c.MLPConfig):
        if len(shape) != 1:
            raise ValueError(f"network is 'mlp' for samples of shape {shape}; use 'unet' or 'dit' for pictures.")
        if isinstance(leaf, Categorical):
            raise ValueError(
                "network is 'mlp', which reads numbers, and the process is of categories; use 'sequence', without labels."
            )
        return MLP(shape[0], cfg.width, cfg.depth, classes, scalars)
    if len(shape) != 3:
        raise ValueError(f"network is {cfg.kind!r} for samples of shape {shape}; use 'mlp' for vectors.")
    channels, out = (each * shape[0] for each in _widths(leaf, predictions))
    if isinstance(cfg, c.UNetConfig) and cfg.transformer:
        net: nn.Module = _reading(cfg, channels, out, classes, tokens, scalars)
    elif isinstance(cfg, c.UNetConfig):
        net = UNet(channels + further, cfg.width, cfg.multipliers, cfg.blocks, cfg.attention, cfg.head_width, cfg.dropout,
                              classes, tokens, cfg.time, out, cfg.patch, scalars, **_style(cfg))  # fmt: skip
        if any(side % net.factor for side in shape[1:]):  # training would find it out at the first step
            raise ValueError(
                f"pictures are {shape[1]} x {shape[2]}, and network.multipliers {cfg.multipliers} shrink them {net.factor}-fold; "
                "make data.size a multiple of that, or give other multipliers."
            )
    else:
        net = DiT(channels, shape[1:], cfg.patch, cfg.width, cfg.depth, cfg.heads, cfg.dropout, classes, tokens, out, cfg.stem,
                  scalars)  # fmt: skip
    if isinstance(leaf, Categorical):
        return PixelCategories(net, leaf.states, outputs(predictions, leaf), shape, _FEATURES)
    return PixelBeliefs(net, leaf.categories, shape) if isinstance(leaf, Embedded) and leaf.vectors else net


def _of_product(
    cfg: c.NetworkConfig, shape: Any, process: Product, scalars: Sequence[str], predictions: Any
) -> JointTransformer:  # fmt: skip
    """A network of a picture and its label, each with a port. Raises ValueError for another network, or other data."""
    if not isinstance(cfg, c.DiTConfig):
        raise ValueError(f"network is {cfg.kind!r}, but a product needs one with a port per leaf; use kind 'dit'.")
    if not isinstance(shape, dict):
        raise ValueError("process is 'product', of a picture and its label, and this data is no such pair; use data "
                         "'digits' of form joint.")  # fmt: skip
    label = process.leaves()["label"]
    assert isinstance(label, Categorical)
    channels, height, width = shape["image"]
    ports = {
        "image": PicturePort(cfg.width, channels, (height, width), cfg.patch, stem=cfg.stem),
        "label": CategoryPort(cfg.width, label.states, outputs(predictions, label, "label")),
    }
    return JointTransformer(ports, cfg.width, cfg.depth, cfg.heads, cfg.dropout, scalars=scalars)


def _reading(
    cfg: c.UNetConfig, channels: int, out: int, classes: int | None, tokens: int | None, scalars: Sequence[str]
) -> UNet:  # fmt: skip
    """A U-Net whose transformers read captions. Raises ValueError without these, or with more to be told."""
    if tokens is None or classes is not None or scalars:
        if scalars and tokens is not None and classes is None:
            told = " and ".join(scalars)
            raise ValueError(f"network.transformer reads captions and nothing else, and this objective tells it {told}; set "
                             "it to 0, or use one such as consistency.")  # fmt: skip
        raise ValueError("network.transformer reads captions and nothing else; give text and no labels, or set it to 0.")
    widths = [m * cfg.width for m in cfg.multipliers]
    groups = math.gcd(32, cfg.width)
    depth = [cfg.transformer if i in cfg.attention else 0 for i in range(len(widths))]
    reading = Reading(tokens, depth, [max(w // cfg.head_width, 1) for w in widths], groups=groups)
    return UNet(channels, blocks=cfg.blocks, dropout=cfg.dropout, time="add", out_channels=out, patch=cfg.patch,
                widths=widths, norm=fixed_groups(groups, 1e-5), reading=reading)  # fmt: skip


def _widths(leaf: LeafProcess, predictions: Any) -> tuple[int, int]:
    """What a picture network reads and says of each channel."""
    if isinstance(leaf, Categorical):
        return _FEATURES, outputs(predictions, leaf)
    if isinstance(leaf, Embedded):  # probabilities and logits, or a number and the mean and deviation of `Bins`
        return (leaf.categories, leaf.categories) if leaf.vectors else (1, 2)
    return 1, 1


def _style(cfg: c.UNetConfig) -> dict[str, Any]:
    """What is not as in our other U-Nets."""
    if cfg.style == "plain":
        return {}
    if cfg.style == "ddpm":
        norm = fixed_groups(math.gcd(32, max(cfg.width // 4, 1)), 1e-6)
        return {"norm": norm, "attending": Attending(norm, middle_norm=norm)}
    norm, root = four_channels(1e-6), math.sqrt(2)
    of_both = {"norm": norm, "attending": Attending(norm, middle_norm=norm, once=True), "scales": (root, root)}
    if cfg.style == "ddpmpp":
        return {**of_both, "resampling": Resampling("projected", "projected"), "waves": Sinusoid(cfg.width, 1.0, True)}
    return {**of_both, "resampling": Resampling("filtered", "filtered", pyramid=True), "waves": Fourier(2 * cfg.width)}


def as_pictures(run: Run, x: Any) -> Tensor:
    """Samples as (N, C, H, W) floats in [-1, 1]."""
    if isinstance(x, dict):
        x = x["image"]
    process = run.recipe.process
    if isinstance(process, (c.CategoricalConfig, c.BeliefConfig)) and not x.is_floating_point():
        # a mask that is not revealed yet shows as mid-grey
        grey = x.float() * 2 / (process.categories - 1) - 1
        return torch.where(x >= process.categories, 0.0, grey)
    return x


def quantised(run: Run, x: Tensor) -> Tensor:
    """Pictures at the data's own grey levels: 17 (or fewer) for the digits, 256 else."""
    data = run.recipe.drawn
    steps = 255
    if isinstance(data, c.DigitsData):
        steps = data.levels - 1 if data.form == "categories" else 16
    return (((x.clamp(-1, 1) + 1) / 2 * steps).round() / steps) * 2 - 1


def shown(run: Run, rows: int = 1) -> Tensor | None:
    """Labels of so many rows whose columns are classes: all, or 10 that are spread evenly over more; None without classes."""
    classes = run.facts.classes
    if classes is None:
        return None
    return torch.linspace(0, classes - 1, min(classes, COLUMNS), dtype=torch.float64).round().long().repeat(rows)


def picture_of_samples(run: Run, path: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
    """A grid with one column per class where there are classes, of at most 10 of them."""
    labels = shown(run, rows) if label is None else None
    columns = rows if labels is None else len(labels) // rows
    options["label"] = labels if label is None else label  # of a product as well, so that columns are classes
    x = as_pictures(run, draw(run, rows * columns, seed=seed, **options))
    return _page(x, begins(run, len(x), None), path, columns, asked_prompts(run, len(x), options.get("prompts", ())))


def _page(
    x: Tensor, begins: Tensor | None, path: Path, columns: int = 10, texts: Sequence[str] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Pictures (N, C, H, W), every row of them below the row of what it began at, where that is given, or each above its
    caption."""
    if texts is not None:
        return pictures.save_captioned(x, texts, path, columns, record)
    if begins is not None:
        columns = min(columns, len(x))
        x = torch.cat([torch.cat(both) for both in zip(begins.cpu().split(columns), x.cpu().split(columns), strict=True)])
    return pictures.save_images(x, path, columns, record)


def write_numbers(x: Tensor, path: Path) -> Path:
    """A .npy file, whole or not at all."""
    with staged(path) as beside:
        np.save(beside, x.cpu().numpy(), allow_pickle=False)
    return path
