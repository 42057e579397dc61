"""Latents in place of pixels: which autoencoder, the scale of its latents, what is kept of them, and the way back to pictures."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from langevin.core.tree import leaves
from langevin.data.cache import Cached, Stale, cached, encoder_hash
from langevin.networks.autoencoder import Autoencoder, Scale
from langevin.networks.latents import LatentCodec
from langevin.recipes import config as c
from langevin.recipes.facts import FACTS_FILE, RECIPE_FILE, CodecFacts, Facts

if TYPE_CHECKING:
    from langevin.recipes.build import Run

MEASURED = 1000
"""Pictures, at most, whose latents say what the scale is."""
PIXELS = 64 * 3 * 256 * 256
"""Numbers of pictures that are coded at once, at most."""


def keep(source: Any, codec: LatentCodec, folder: Path, dtype: str = "float32", batch: int | None = None) -> Cached:
    """The means of an encoder, as they are diffused, made once and kept: see `langevin.data.cached`.

    Those of other data than `folder` holds are kept beside them, in a folder by the data's digest: whether a run may go on on
    other data is for its trainer to say.

    Args:
        batch: pictures per call; by default as many as `PIXELS` allows.
    """
    device = next(codec.net.parameters()).device
    key = encoder_hash(codec.net)
    if codec.scale != codec.net.scale:  # another scale makes other latents
        key = f"{key}-{hashlib.sha256(repr(codec.scale).encode()).hexdigest()[:8]}"

    def kept(where: Path) -> Cached:
        return cached(source, lambda x: codec.encode(x.to(device)).float(), where, key, dtype, batch or _together(source.shape))

    try:
        return kept(folder)
    except Stale as stale:
        if stale.field != "source":
            raise
        return kept(folder / stale.wanted)


def _together(shape: Any) -> int:
    return max(1, min(64, PIXELS // max(1, torch.Size(shape).numel())))


def check(recipe: c.Recipe) -> None:
    """Refuse a codec that the rest of a recipe has no place for.

    Raises:
        ValueError: naming the field and the remedy.
    """
    origin, data = recipe.codec.origin, recipe.data
    if origin is None:
        return
    said = f"codec.origin is {origin}, whose latents are numbers in place of pictures"
    if not isinstance(data, (c.DigitsData, c.MnistData, c.ImagesData, c.ArraysData, c.ShardsData, c.HuggingFaceData)):
        raise ValueError(f"{said}, and data {data.kind!r} has no such pictures; leave it out, or use data 'images'.")
    if isinstance(data, c.DigitsData) and data.form != "image":
        raise ValueError(f"{said}, and data.form is {data.form!r}; use form 'image'.")
    if not isinstance(recipe.process, c.GaussianConfig):
        raise ValueError(f"{said}, and process is {recipe.process.kind!r}; use process 'gaussian'.")
    if getattr(data, "flip", False):
        raise ValueError(f"{said}, kept as the pictures are, and data.flip is True; set it to False.")


def begin(recipe: c.Recipe, facts: Facts, train: Any) -> tuple[LatentCodec, Facts]:
    """The codec that a recipe names, and what is known of its latents.

    Args:
        facts: of the pictures.
        train: training pictures.

    Raises:
        ValueError: if there is no such autoencoder, or it does not fit the pictures.
    """
    origin, shape = str(recipe.codec.origin), facts.shape
    codec = opened(origin)
    net: Autoencoder = codec.net
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise ValueError(
            f"codec.origin is {origin}, and samples have the shape {shape}; an autoencoder reads pictures (C, H, W)."
        )
    if net.channels != (shape[0], shape[0]):
        raise ValueError(
            f"codec.origin is {origin}, which turns pictures of {net.channels[0]} channels into ones of {net.channels[1]}, and "
            f"the data has {shape[0]}; set data.channels where there is such a field, or take another autoencoder."
        )
    if shape[1] % codec.factor or shape[2] % codec.factor:
        raise ValueError(
            f"codec.origin is {origin}, whose latents are {codec.factor} pixels wide, and pictures are {shape[1]} x {shape[2]}; "
            "make the sides multiples of it."
        )
    key = encoder_hash(net)
    if (learned := _learned(recipe, key)) is not None:
        where, theirs = learned
        own: Scale = codec.net.scale
        if recipe.codec.scale != "auto" and (recipe.codec.scale == "own") != (replace(theirs, upcast=own.upcast) == own):
            raise ValueError(
                f"codec.scale is {recipe.codec.scale!r}, and the weights in {where} learned latents on another scale (factor "
                f"{theirs.factor:g}, shift {theirs.shift:g}); leave it at 'auto', which takes theirs."
            )
        codec.scale = replace(theirs, upcast=own.upcast)
    elif recipe.codec.scale == "measured" or (recipe.codec.scale == "auto" and is_run(origin)):
        codec.scale = measured(codec, train)
    with torch.no_grad():
        made = tuple(codec.encode(torch.zeros(1, *shape)).shape[1:])
    s = codec.scale
    known = CodecFacts(origin=_place(origin), hash=key, pictures=shape, factor=s.factor, shift=s.shift, mean=s.mean, std=s.std)
    return codec, facts.model_copy(update={"shape": made, "codec": known})


def _learned(recipe: c.Recipe, key: str) -> tuple[str, Scale] | None:
    """The run whose weights a run begins with or learns from, and the scale on which they know this autoencoder's latents."""
    from langevin.recipes.opening import read_facts

    for of in (recipe.teacher, recipe.finetune):
        if of is None or of.origin is None or not (Path(of.origin) / FACTS_FILE).exists():
            continue
        known = read_facts(of.origin).codec
        if known is not None and known.hash == key:
            return str(of.origin), _scale(known)
    return None


@torch.no_grad()
def measured(codec: LatentCodec, source: Any, most: int = MEASURED) -> Scale:
    """The scale under which the latents of some pictures have mean 0 and variance 1, over all elements (2112.10752, app. G, where
    the mean stays)."""
    index = torch.linspace(0, len(source) - 1, min(most, len(source)), dtype=torch.float64).round().long()
    if (groups := getattr(source, "groups", None)) is not None:  # one shape to a batch
        index = index[groups[index] == groups[index].mode().values]
    plain = LatentCodec(codec.net, Scale(upcast=codec.net.scale.upcast))
    parts = [plain.encode(leaves(source.batch(i).x)[""]).double() for i in index.split(_together(source.shape))]
    z = torch.cat([part.flatten() for part in parts])
    spread = float(z.std(correction=0))
    if not spread > 0:
        raise ValueError(
            "the autoencoder's latents are the same for all pictures, so they have no scale; train it, or take another."
        )
    return Scale(1 / spread, float(z.mean()), upcast=codec.net.scale.upcast)


def again(known: CodecFacts) -> LatentCodec:
    """The codec of a run, which must be the one that it was trained with.

    Raises:
        ValueError: if it is no longer there, or another.
    """
    moved = "say --codec FOLDER if it has moved"
    if Path(known.origin).is_absolute() and not Path(known.origin).exists():
        raise ValueError(f"the run's autoencoder is no longer in {known.origin}; {moved}.")
    codec = opened(known.origin)
    if (now := encoder_hash(codec.net)) != known.hash:
        raise ValueError(
            f"{known.origin} holds the autoencoder {now}, and the run learned the latents of {known.hash}, whose pictures would "
            f"be others; put that one back, or {moved}."
        )
    return scaled(codec, known)


def scaled(codec: LatentCodec, known: CodecFacts) -> LatentCodec:
    """The codec with the scale of a run."""
    codec.scale = replace(_scale(known), upcast=codec.net.scale.upcast)
    return codec


def _scale(known: CodecFacts) -> Scale:
    return Scale(known.factor, known.shift, known.mean, known.std)


def alike(was: CodecFacts | None, now: CodecFacts | None, out: Path) -> None:
    """Refuse to go on with the latents of another autoencoder.

    Raises:
        ValueError: saying which.
    """
    if was is not None and now is not None and was.hash != now.hash:
        raise ValueError(
            f"codec.origin is {now.origin}, the autoencoder {now.hash}, and the run in {out} was begun with {was.hash}; say "
            "where that one is, or choose another directory."
        )


def moved(facts: Facts, codec: str | Path | None) -> Facts:
    """What is known of a run, with its autoencoder in another place.

    Raises:
        ValueError: if the run has none.
    """
    if codec is None:
        return facts
    if facts.codec is None:
        raise ValueError(f"codec is {codec}, and this run draws pixels; leave it out.")
    return facts.model_copy(update={"codec": facts.codec.model_copy(update={"origin": _place(str(codec))})})


def _place(origin: str) -> str:
    """Where an autoencoder is, wherever it is asked from; an id stays one."""
    return str(Path(origin).resolve()) if Path(origin).exists() else origin


def is_run(origin: str) -> bool:
    """Whether an autoencoder is a run of ours, and not a published one."""
    return (Path(origin) / RECIPE_FILE).exists()


def opened(origin: str) -> LatentCodec:
    """An autoencoder as it is published, or of a run, as a codec in float32, on the CPU.

    Raises:
        ValueError: for what is no autoencoder, or a run that is not made yet.
    """
    from langevin.zoo.codecs import codec as codec_of

    if is_run(origin):
        from langevin.recipes.opening import open_run

        run = open_run(origin)
        net: nn.Module = run.denoiser.net
        if not isinstance(net, Autoencoder):
            raise ValueError(f"codec.origin is {origin}, a run of {run.recipe.name}, which is no autoencoder; give one of those.")
    else:
        from langevin.recipes import RECIPES
        from langevin.zoo.load import load

        if (name := Path(origin).name) in RECIPES and not Path(origin).exists():  # and not the id of a repository
            raise ValueError(f"codec.origin is {origin}, which is not there; make it with langevin train {name} --out {origin}.")
        inside = Path(origin) / "vae"
        net = load(inside if inside.is_dir() else origin, dtype=torch.float32)
        if isinstance(net, LatentCodec):
            net = net.net
        if not isinstance(net, Autoencoder):
            raise ValueError(f"codec.origin is {origin}, which is no autoencoder; give the folder of one, such as MODEL/vae.")
    return codec_of(net.eval().requires_grad_(False), {})


@torch.no_grad()
def decoded(run: "Run", x: Any) -> Any:
    """Samples of a run (N, ...) as pictures, where they are latents; a few at a time."""
    if run.codec is None:
        return x
    codec = run.codec.to(x.device)
    shape = run.facts.codec.pictures if run.facts.codec is not None else x.shape[1:]
    return torch.cat([codec.decode(part) for part in x.split(_together(shape))])


@torch.no_grad()
def encoded(run: "Run", x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as the latents that a run knows, where it knows such."""
    return x if run.codec is None else run.codec.to(x.device).encode(x)
