"""Pictures drawn from small copies of themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langevin import pictures
from langevin.core.process import Process
from langevin.core.tree import leaves
from langevin.data.lowered import Lowered
from langevin.networks.upscaling import Upscaling
from langevin.recipes import config as c
from langevin.recipes.build import Run, data
from langevin.recipes.domains.pictures import PictureDomain, network
from langevin.recipes.drawing import draw
from langevin.recipes.facts import Facts


class UpscalingDomain(PictureDomain):
    """Judged as pictures are; samples are drawn from the small copies of held-out pictures, in turn."""

    metrics: ClassVar[Mapping[str, str]] = {n: v for n, v in PictureDomain.metrics.items() if n not in ("labels", "clip")}

    def read(self, cfg: c.UpscaleData, scan: Path | None = None) -> tuple[Any, Any]:
        train, test = data(cfg.of, scan)
        return Lowered(train, cfg.factor), Lowered(test, cfg.factor)

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        return Facts(shape=train.shape, classes=None, factor=train.factor)

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        if not isinstance(cfg, c.UNetConfig) or tokens is not None:
            raise ValueError(f"network is {cfg.kind!r}, and upscalers read small pictures beside the state; use 'unet', no text.")
        if cfg.transformer:
            raise ValueError(f"network.transformer is {cfg.transformer}, and upscalers read no captions; set it to 0.")
        assert isinstance(facts.shape, tuple)
        return Upscaling(network(cfg, facts, process, (*scalars, "augment"), None, further=facts.shape[0]))

    def options(self, run: Run, count: int, seed: int, first: int) -> dict[str, Any]:
        device = next(run.denoiser.parameters()).device
        low = small(run, count, first).to(device)
        return {"cond": {"low": low, "augment": torch.zeros(count, device=device)}}

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """Row by row: the small pictures, what was drawn from them, the truth."""
        columns = min(rows, len(run.test))
        x = draw(run, columns, seed=seed, **options).cpu()
        grown = small(run, columns).repeat_interleave(run.facts.factor or 1, -1).repeat_interleave(run.facts.factor or 1, -2)
        truth = leaves(run.test.batch(torch.arange(columns)).x)[""]
        return pictures.save_images(torch.cat([grown, x, truth]), stem.with_suffix(".png"), columns)


DOMAIN = UpscalingDomain()


def small(run: Run, count: int, first: int = 0) -> Tensor:
    """The small copies of held-out pictures first, first + 1, ..., from the beginning again at their end."""
    return run.test.batch(torch.arange(first, first + count) % len(run.test)).cond["low"]
