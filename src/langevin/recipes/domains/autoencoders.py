"""Autoencoders of pictures: nothing is drawn, so pictures are shown, and judged, beside what is left of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langevin import pictures
from langevin.core.denoiser import home
from langevin.core.process import Process
from langevin.core.tree import leaves
from langevin.data.progress import shown
from langevin.evaluate import Evaluation, card_of, extract, frechet, psnr, ssim
from langevin.evaluate.measure import enough, known
from langevin.networks.autoencoder import Autoencoder, Half, Plain
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.domains.judging import Reference
from langevin.recipes.domains.pictures import PictureDomain, quantised
from langevin.recipes.evaluation import card, refused
from langevin.recipes.facts import Facts
from langevin.recipes.objectives import AutoencodingConfig
from langevin.recipes.sampling import NO_SAMPLES
from langevin.training.model import Untouched

METRICS = {
    "psnr": "peak signal to noise ratio in dB, mean over held-out pictures",
    "ssim": "structural similarity, mean over held-out pictures",
    "rfd": "Frechet distance of the features of what is left of held-out pictures, to those of the pictures themselves",
}
BATCH = 100


class AutoencoderDomain(PictureDomain):
    """Judged on held-out pictures, in their order; seeds, plans and guidance mean nothing here."""

    metrics: ClassVar[Any] = METRICS

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        found = super().facts(train, test, recipe)
        if (
            not isinstance(found.shape, tuple)
            or len(found.shape) != 3
            or isinstance(recipe.data, (c.TransferData, c.UpscaleData))
        ):
            raise ValueError(f"process is 'none', of autoencoders, which read pictures; data {recipe.data.kind!r} has no such.")
        if not isinstance(recipe.objective, AutoencodingConfig):
            raise ValueError(f"objective is {recipe.objective.kind!r}, and process is 'none'; use objective 'autoencoding'.")
        return found

    def process(self, cfg: c.ProcessConfig, facts: Facts) -> tuple[Process, Any]:
        return Untouched(), {}

    def network(
        self, cfg: c.NetworkConfig, facts: Facts, process: Process, scalars: Sequence[str] = (), tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:  # fmt: skip
        if not isinstance(cfg, c.AutoencoderConfig):
            raise ValueError(f"network is {cfg.kind!r}, and process is 'none', of autoencoders; use network 'autoencoder'.")
        assert isinstance(facts.shape, tuple)
        channels, height, width = facts.shape
        style, widths = Plain(math.gcd(32, cfg.width), cfg.attention), [m * cfg.width for m in cfg.multipliers]
        factor = 2 ** (len(widths) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"network.multipliers are {cfg.multipliers}, by which a latent is {factor} pixels wide, and pictures are "
                f"{height} x {width}; make the sides multiples of it."
            )
        one, two = (Half(style, widths, [n] * len(widths)) for n in (cfg.blocks, cfg.blocks + 1))
        return Autoencoder(one, two, cfg.latents, channels, gaussian=True, project=(True, True))

    def sample(self, model: Any, plan: Any, **options: Any) -> Any:
        raise ValueError(NO_SAMPLES)

    def animation(self, run: Run, path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
        if count is not None:
            raise ValueError(NO_SAMPLES)
        return None

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """Held-out pictures, each row of them above what is left of it."""
        columns = min(10, len(run.test))
        x = leaves(run.test.batch(torch.arange(min(columns * max(1, rows // 2), len(run.test)))).x)[""]
        both = zip(x.split(columns), restored(run, x).split(columns), strict=True)
        return pictures.save_images(torch.cat([torch.cat(pair) for pair in both]), stem.with_suffix(".png"), columns)

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        wanted, against = _checked(run, asked)
        count = min(asked.count, len(run.test))
        values: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
        made = []
        for index in shown(torch.arange(count).split(BATCH), -(-count // BATCH), "reconstructing"):
            x = quantised(run, leaves(run.test.batch(index).x)[""])
            left = quantised(run, restored(run, x))
            values["psnr"].append(psnr(x, left))
            values["ssim"].append(ssim(x, left))
            made.append(left)
        found = {name: float(torch.cat(values[name]).mean()) for name in wanted if name in values}
        seen, few = None, False
        if "rfd" in wanted:
            with torch.no_grad():
                real = against.test_features
                found["rfd"] = frechet(extract(against.net, torch.cat(made)), real[:count])
            seen = card_of(against.net, real)
            few = refused(["fd"], count, count, seen.width, asked.small)
        said = card(
            {**sampled, "samples": count, "plan": None, "nfe": None}, small=few, features=seen, guidance=(),
            pixels="clipped to [-1, 1] and rounded to the data's own grey levels", metrics={n: METRICS[n] for n in wanted},
        )  # fmt: skip
        return Evaluation(metrics=found, protocol=said)  # pyright: ignore[reportArgumentType]

    def strengths(self, run: Run, guidance: float | None) -> tuple[float, ...]:
        return (1.0,)

    def check_way(self, plan: Any, guidance: float | None) -> None:
        for name, value, usual in (("plan", plan, (None,)), ("guidance", guidance, (None, 1))):
            if value not in usual:
                raise ValueError(f"{name} is {value}, and an autoencoder draws nothing that it could steer; leave it out.")

    def check(self, run: Run, asked: Asked) -> None:
        _checked(run, asked)

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        return ("rfd", "psnr", "ssim") if tuple(metrics) == ("fd",) else tuple(metrics)


DOMAIN = AutoencoderDomain()


def _checked(run: Run, asked: Asked) -> tuple[list[str], Reference]:
    wanted = list(asked.metrics) or list(METRICS)
    known(wanted, list(METRICS))
    if "rfd" in wanted:
        refused(["fd"], asked.count, len(run.test), 0, asked.small)
        enough(["fd"], min(asked.count, len(run.test)), len(run.test))
    return wanted, asked.against or Reference(run, asked.features, asked.folder, asked.device)


@torch.no_grad()
def restored(run: Run, x: Tensor) -> Tensor:
    """What is left of pictures (N, C, H, W), by the modes of their codes."""
    device = home(run.denoiser)[0]
    return torch.cat([run.denoiser.net(part.to(device)).cpu() for part in x.split(BATCH)])
