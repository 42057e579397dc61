"""Digits of 8 x 8 pixels drawn from 4 x 4, beside ridge regression; what noise in generated small pictures is good for.

    langevin train digits-4to8 && langevin train digits
    python bench/upscale.py runs/digits-4to8 --first runs/digits --out bench/results/upscale.csv --page docs/images/upscaled.png

PSNR is of pictures in [-1, 1] (peak 2); FD-PCA is Frechet's distance to held-out digits in 20 components of the training pixels;
"kept" is the root mean square of averages of 2 x 2 samples less the small pictures; rows of these are left out where --out has
them. With --first: small copies of samples of a
run (averaged, as real ones are) are drawn large again, with noise of each level; FD-PCA of what comes out.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import parsed, replace

import langevin as lv
from langevin import pictures
from langevin.core.tree import leaves
from langevin.evaluate import PCA, extract, frechet
from langevin.recipes.drawing import draw
from langevin.recipes.sampling import chosen
from langevin.tasks import upscale

FIELDS = ("method", "noise", "psnr", "fd", "kept", "note")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--first", type=Path, help="a run whose samples are made small and drawn large again")
    parser.add_argument("--out", type=Path, required=True, help="rows are added to it, or replaced")
    parser.add_argument("--page", type=Path, help="with --first: a picture of samples, small copies, and what each level draws")
    parser.add_argument("--plan", help="the recipe's by default")
    parser.add_argument("--levels", type=float, nargs="*", default=[0.0, 0.1, 0.2, 0.3])
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    factor, plan = run.facts.factor, chosen(run, asked.plan)
    (x, low), (truth, small) = ((leaves(b.x)[""], b.cond["low"])
                                for b in (s.batch(torch.arange(len(s))) for s in (run.train, run.test)))  # fmt: skip
    features = PCA(x)
    real = extract(features, truth)
    rows: list[dict[str, Any]] = []

    def row(method: str, made: torch.Tensor, noise: float | str = "", of: torch.Tensor | None = None, note: str = "") -> None:
        said: dict[str, Any] = {"method": method, "noise": noise, "note": note}
        if of is not None:
            said["kept"] = f"{float((F.avg_pool2d(made, factor) - of).square().mean().sqrt()):.4f}"
        if len(made) == len(truth) and of is small:
            said["psnr"] = f"{10 * math.log10(4 / float((made - truth).square().mean())):.2f}"
        said["fd"] = f"{frechet(extract(features, made.clamp(-1, 1)), real):.3f}"
        rows.append(said)
        print(said, flush=True)

    if not asked.out.exists():
        row("training digits", x, note="as near as real pictures come")
        a = torch.cat([low.flatten(1), torch.ones(len(low), 1)], 1).double()
        best = min(
            (
                torch.linalg.solve(a.T @ a + p * torch.eye(a.shape[1]), a.T @ x.flatten(1).double())
                for p in (0.01, 0.1, 1.0, 10.0)
            ),
            key=lambda w: float((a @ w - x.flatten(1)).square().mean()),
        )
        told = torch.cat([small.flatten(1), torch.ones(len(small), 1)], 1).double()
        row("ridge regression", (told @ best).float().reshape(truth.shape), of=small)
        with torch.no_grad():
            made = [upscale(run.denoiser, plan, small, factor, seed=k) for k in range(16)]
            row("one sample", made[0], 0, small)
            row("mean of 16 samples", torch.stack(made).mean(0), 0, small)
    if asked.first:
        with torch.no_grad():
            first: Any = lv.open_run(asked.first)
            drawn = draw(first, 1000, seed=3)
            row(f"{asked.first.name} itself", drawn, note="8 x 8 samples")
            lowered = F.avg_pool2d(drawn, factor)
            shown = [drawn, F.interpolate(lowered, scale_factor=factor)]
            for level in asked.levels:
                shown.append(upscale(run.denoiser, plan, lowered, factor, noise=level))
                row("of generated small pictures", shown[-1], level, lowered)
        if asked.page:
            pictures.save_images(torch.cat([x[:12] for x in shown]).clamp(-1, 1), asked.page, columns=12)
    replace(asked.out, FIELDS, rows, ("method", "noise"))


if __name__ == "__main__":
    main()
