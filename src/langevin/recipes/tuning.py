"""Fine-tuning of published models, by the one trainer: all weights, adapters, DreamBooth, textual inversion.

What comes out is what others read: a published folder, a LoRA file in peft's layout, an embedding under its word.
"""

import copy
import fnmatch
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin import adapters
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.schedule import Table
from langevin.data import Pictures
from langevin.devices import device_of
from langevin.files import best_effort, drawn_as, outside, parse_json, read_plain, writable, write
from langevin.objectives import Denoising, Objective
from langevin.objectives.consistency import Consistency
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.levels import LevelDensity, LogitNormal, Steps
from langevin.objectives.preserving import Preserving
from langevin.pictures import plot_loss, save_images, save_png
from langevin.recipes.config.tuning import FEW_STEPS, Tuning
from langevin.recipes.latents import keep as keep_latents
from langevin.tasks.generate import Generator
from langevin.text.words import Told
from langevin.training.lock import refuse_taken
from langevin.training.trainer import Trainer
from langevin.zoo import adapting, lora
from langevin.zoo.embeddings import ENCODERS, write_embedding
from langevin.zoo.load import load
from langevin.zoo.lora import Target
from langevin.zoo.pipelines import TRUNKS
from langevin.zoo.saving import save

FILE, NAME = "tuning.json", "tuned"
LEVELS, FEW = 50, "lcm:4"
"""Of methods of few steps: the grid that they learn on, which is that of the plan `lcm`, and how they are shown."""
READINGS = (
    "{}", "a photo of {}", "a picture of {}", "a close-up of {}", "{} in the middle of the picture", "one {}",
    "a good photo of {}", "the look of {}",
)  # fmt: skip
"""What a picture of a new word may be called."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """A model that is being fine-tuned.

    Args:
        model: with the weights that training moves. denoiser: of it, told captions by number.
        trunk: the published name of its network. words: the learned words' vectors by text encoder.
        texts: the captions. source: what training reads. objective: what it minimises.
    """

    cfg: Tuning
    model: Generator
    denoiser: Denoiser
    trunk: str
    words: dict[str, nn.Parameter]
    texts: list[str]
    source: Any
    objective: Objective


class Pairs:
    """Latents with each of their captions, and beside every one some of what the model drew itself, by number.

    Args:
        source: of latents. captions: (N, K) int64, K for each picture.
        prior: latents of the model's own pictures, whose caption is `kind`.
    """

    def __init__(self, source: Any, captions: Tensor, prior: Any = None, kind: int = -1) -> None:
        self.source, self.captions, self.prior, self.kind = source, captions, prior, kind
        self.shape = source.shape

    def __len__(self) -> int:
        return self.captions.numel() * (1 if self.prior is None else len(self.prior))

    def batch(self, index: Tensor) -> Batch:
        count, each = self.captions.shape
        picture, rest = index % count, index // count
        cond = {"caption": self.captions[picture, rest % each]}
        if self.prior is not None:
            drawn = self.prior.batch(rest // each).x
            cond |= {"prior": drawn, "prior_caption": torch.full((len(index),), self.kind)}
        return Batch(self.source.batch(picture).x, cond)


def begin(cfg: Tuning, out: Path, device: str = "cpu", say: Callable[[str], None] = print) -> Tuned:
    """Load the model, make what is trained, and turn the pictures into latents, which are kept in `out`.

    Raises:
        ValueError: for a model that draws no pictures of texts, or that has its guidance within, a pattern that matches
            no layer, or pictures that cannot be read.
    """
    device = str(device_of(device))
    model = load(cfg.origin, beside=cfg.beside, variant=cfg.variant, device=device)
    if not isinstance(model, Generator) or model.conditioner is None or model.codec is None:
        raise ValueError(f"origin is {cfg.origin}, which draws no pictures of texts; give a text-to-image model.")
    if model.takes:
        raise ValueError(f"origin is {cfg.origin}, whose network reads further channels; give the model it was made from.")
    if cfg.method in FEW_STEPS and model.defaults.told:
        raise ValueError(f"origin is {cfg.origin}, whose network has its guidance within; give the model it was distilled from.")
    size = cfg.size or model.defaults.size[0]
    if size % model.defaults.multiple:
        raise ValueError(f"size is {size}; give a multiple of {model.defaults.multiple} pixels.")
    trunk = next(part for part in TRUNKS if part in model.parts)
    pictures = Pictures(cfg.data, size, split="all", captions=cfg.captions)
    prior = None if cfg.method != "dreambooth" else _prior(cfg, model, size, out, say)
    texts, captions = _captions(cfg, pictures)
    codec: Any = model.codec
    latents = keep_latents(pictures, codec, out / "latents", batch=4)
    kept = None if prior is None else keep_latents(prior, codec, out / "prior-latents", batch=4)
    if cfg.prior is not None:
        texts = [*texts, cfg.prior]
    own: Any = model.denoiser
    before = copy.deepcopy(own.net) if cfg.method in FEW_STEPS else None
    words = _trained(cfg, model, trunk)
    learns = any(p.requires_grad for p in model.conditioner.parameters())
    net = Told(own.net, model.conditioner, texts, (size, size), learns)
    source = Pairs(latents, captions, kept, len(texts) - 1)
    denoiser = Denoiser(net, own.process, own.predictions[""], source.shape)
    options: dict[str, Any] = {"levels": _levels(own), "drop": cfg.drop}
    objective = Denoising(**options) if kept is None else Preserving(cfg.prior_weight, **options)
    if before is not None:
        before = before.float() if cfg.train.precision == "float32" else before
        told = Told(before, model.conditioner, texts, (size, size), False)
        teacher = Denoiser(told, own.process, own.predictions[""], source.shape)
        w = model.defaults.guidance if cfg.guidance is None else cfg.guidance
        # the student itself, without gradient, leaps on: a slow copy would be a third network
        if cfg.method == "lcm":
            objective = LatentConsistency(teacher, w, LEVELS, decay=None, drop=cfg.drop)
        else:
            same: dict[str, Any] = {"grid": "uniform", "distance": "huber", "drop": cfg.drop}
            objective = Consistency(teacher, LEVELS, None, order=2, guidance=w, **same)
    return Tuned(cfg, model, denoiser, trunk, words, texts, source, objective)


def _levels(denoiser: Denoiser) -> LevelDensity:
    """The levels that a published model was trained at: those of its table, or Stable Diffusion 3's."""
    schedule = denoiser.process.leaves()[""].schedule
    return Steps(schedule.size) if isinstance(schedule, Table) else LogitNormal()


def _captions(cfg: Tuning, pictures: Pictures) -> tuple[list[str], Tensor]:
    """The captions there are, and the numbers of each picture's."""
    if cfg.method == "textual-inversion":
        readings = READINGS if cfg.prompt is None else (cfg.prompt,)
        texts = [reading.replace("{}", cfg.word) for reading in readings]
        return texts, torch.arange(len(texts)).expand(len(pictures), -1)
    told = pictures.captions or [cfg.prompt or ""] * len(pictures)
    texts = list(dict.fromkeys(told))
    return texts, torch.tensor([[texts.index(text)] for text in told])


def _prior(cfg: Tuning, model: Generator, size: int, out: Path, say: Callable[[str], None]) -> Pictures:
    """Pictures of the kind by the model as it is; those that are there already are not drawn again."""
    folder = out / "prior"
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"prior": cfg.prior, "origin": cfg.origin, "count": cfg.prior_count, "steps": cfg.prior_steps, "size": size,
             "seed": cfg.seed, "variant": cfg.variant}  # fmt: skip
    drawn_as(folder / "asked.json", asked)
    todo = [k for k in range(cfg.prior_count) if not (folder / f"{k:05d}.png").exists()]
    if todo:
        say(f"drawing {len(todo)} pictures of {cfg.prior!r} first, to be preserved, in {folder}")
    for k in todo:
        made = model.run(cfg.prior, size=(size, size), seed=cfg.seed, first_id=k, steps=cfg.prior_steps)
        save_png(made.images[0], folder / f"{k:05d}.png", made.info[0])
    return Pictures(folder, size, split="all", progress=False)


def _trained(cfg: Tuning, model: Generator, trunk: str) -> dict[str, nn.Parameter]:
    """Make what is trained, and that alone, want gradients; the vectors of a learned word by text encoder."""
    own: Any = model.denoiser
    for net, _ in model.parts.values():
        net.requires_grad_(False)
    if cfg.train.precision == "float32":
        own.net.float()  # no autocast brings the states to the half precision of the files
    if cfg.method == "textual-inversion":
        words = {}
        for part, side in adapting.sides(model).items():
            if part in ENCODERS:
                first = side.vectors(cfg.begin)
                words[part] = side.learn(cfg.word, first.mean(0, keepdim=True).repeat(cfg.vectors, 1)).learned.requires_grad_(
                    True
                )
        return words
    if not cfg.rank or cfg.method == "full":
        # an update is smaller than the steps between numbers of half precision
        own.net.float().requires_grad_(True)
        return {}
    for part, where in adapting.targets(model).items():
        if part == trunk or cfg.text:
            named = "|".join(_layers(where, cfg.targets if part == trunk else TEXT_TARGETS))
            adapters.lora(where.net, cfg.rank, cfg.alpha, named, name=NAME, seed=cfg.seed)
    return {}


TEXT_TARGETS = "*.self_attn.*|*.SelfAttention.*"


def _layers(where: Target, patterns: str) -> list[str]:
    """Our layers that hold published ones of these names.

    Raises:
        ValueError: if there are none.
    """
    known = {name.removesuffix(".weight"): row.ours.removesuffix(".weight") for row in where.rows for name in row.theirs}
    found = dict.fromkeys(known[n] for n in known if any(fnmatch.fnmatchcase(n, p) for p in patterns.split("|")))
    if not found:
        shown = ", ".join(list(known)[:4])
        raise ValueError(f"targets is {patterns!r}, which matches no layer; they are called {shown} and so on.")
    return list(found)


def tune(
    cfg: Tuning,
    out: Path,
    resume: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    progress: bool = True,
    other_data: bool = False,
) -> Path | None:
    """Fine-tune a published model in a run directory; the file or folder that comes out, None if it was stopped before.

    Raises:
        ValueError: as `begin`, or if `out` holds another run.
    """
    if cfg.train.valid_every:
        raise ValueError(f"train.valid_every is {cfg.train.valid_every}, and fine-tuning holds no pictures out; leave it out.")
    writable(out, "out")
    outside(out, cfg.data, "out")
    refuse_taken(out)
    _agree(cfg, out, resume)
    tuned = begin(cfg, out, device, say)
    trainer = Trainer(tuned.denoiser, tuned.source, tuned.objective, cfg.train, out, resume, other_data=other_data)
    with closing(trainer):
        assert trainer.folder is not None
        trainer.folder.open()  # first: another at work there keeps its settings
        write(out / FILE, cfg.model_dump_json(indent=1))
        before = out / "before.png"
        if not before.exists():
            _show(tuned, before)
        trainer.hooks.append((cfg.train.preview_every, lambda model, step: _preview(tuned, out, step)))
        trainer.run(progress)
    if not trainer.finished:
        return None
    made = keep(tuned, out)
    with best_effort(out):  # a full disk takes the pages, not what was trained
        say(f"{_show(tuned, out / 'after.png')}: beside before.png, the same prompts and seeds")
        plot_loss(out / "log.jsonl", out / "loss.png")
    return made


def _agree(cfg: Tuning, out: Path, resume: bool) -> None:
    """Refuse to continue another fine-tuning. The trainer itself compares `train`."""
    file = out / FILE
    if not file.exists() or not resume:
        return
    raw = read_plain(file, 2**20)
    parse_json(raw, file)
    was, now = Tuning.model_validate_json(raw).model_dump(), cfg.model_dump()
    differing = [k for k in now if k != "train" and was[k] != now[k]]
    if differing:
        k = differing[0]
        raise ValueError(
            f"{k} is {now[k]} but the run in {out} was begun with {was[k]}; resume with the same settings, or choose another "
            "directory."
        )


def _preview(tuned: Tuned, out: Path, step: int) -> None:
    (out / "previews").mkdir(exist_ok=True)
    _show(tuned, out / "previews" / f"step-{step:08d}.png")


def _show(tuned: Tuned, path: Path, count: int = 4) -> Path:
    """Some captions as the model draws them now."""
    told: Any = tuned.denoiser.net
    size, seed = told.size, tuned.cfg.seed
    prompts = [tuned.texts[k % len(tuned.texts)] for k in range(count)]
    if tuned.cfg.prior is not None:
        prompts = [tuned.texts[0]] * (count // 2) + [tuned.cfg.prior] * (count - count // 2)
    training = tuned.denoiser.training
    tuned.model.denoiser.eval()
    few: dict[str, Any] = {"plan": FEW, "guidance": 1.0} if tuned.cfg.method in FEW_STEPS else {"steps": tuned.cfg.prior_steps}
    made = tuned.model.run(prompts, size=size, seed=seed, **few)
    tuned.denoiser.train(training)
    return save_images(made.tensor, path, columns=count)


# What comes out


def keep(tuned: Tuned, out: Path) -> Path:
    """Write what was trained as others read it: lora.safetensors, WORD.safetensors, or a published folder `model`.

    Raises:
        OSError: if the disk is full.
    """
    cfg, model = tuned.cfg, tuned.model
    if tuned.words:
        name = "".join(letter for letter in cfg.word if letter.isalnum() or letter in "-_") or "word"
        return write_embedding(out / f"{name}.safetensors", cfg.word, tuned.words)
    if cfg.rank and cfg.method != "full":
        held = {p: t for p, t in adapting.targets(model).items() if adapters.adapted(t.net, NAME)}
        return lora.save_lora(held, out / "lora.safetensors", "peft", NAME)
    shutil.rmtree(out / "model", ignore_errors=True)  # of an earlier end of the same run
    return save(model, out / "model")
