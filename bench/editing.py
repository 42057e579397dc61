"""A page of edits by a model of few steps, without training: what is hidden painted in, small pictures enlarged, strokes and
noise turned into pictures, and the way from one sample to another.

    python bench/editing.py runs/few_steps/improved-consistency-training --out docs/images/few_steps_editing.png

RUN is a class-conditional run of digits or of MNIST, told the true class of each held-out picture. Rows: the pictures; their
lower halves hidden, and painted in; averages of squares, and pictures of those averages; strokes of one width along the lines of
bench/sketches.py, and what noise up to a level and down again makes of them; pictures under noise, and without it in one
evaluation; from one sample of a class to another, one evaluation each. It prints how far each row is from the pictures, in grey
levels of [0, 1] a pixel.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from rows import parsed
from sketches import thinned
from torch import Tensor

import langevin as lv
from langevin import tasks
from langevin.core.tree import leaves


def edits(run: Any, x: Tensor, label: Tensor, plan: str, strength: float, sigma: float) -> dict[str, Tensor]:
    """Rows (N, 1, H, W) by name, for pictures x and their classes (N,).

    Args:
        plan: of what is painted in and enlarged. strength: the level to which strokes are raised. sigma: of the noise.
    """
    model, cond, count, side = run.denoiser, {"label": label}, len(x), x.shape[-1]
    known = torch.zeros_like(x, dtype=torch.bool)
    known[..., : side // 2, :] = True
    factor = 2 if side < 16 else 4
    small = torch.nn.functional.avg_pool2d(x, factor)
    strokes = torch.from_numpy(thinned((x[:, 0] > 0).numpy())).to(x)[:, None] * 2 - 1
    strokes = strokes if side < 16 else torch.nn.functional.max_pool2d(strokes, 3, 1, 1)
    schedule = model.process.leaves()[""].schedule
    level = float(schedule.invert(torch.tensor(-2 * math.log(sigma), dtype=torch.float64)))
    noisy = model.process.marginal(x, level, lv.Noise.of(3, count))
    same = {"label": label[:1].expand(count)}
    return {
        "pictures": x,
        "half hidden": torch.where(known, x, 0.0),
        "painted in": tasks.inpaint(model, plan, x, known, cond=cond, seed=1),
        "averages": small.repeat_interleave(factor, 2).repeat_interleave(factor, 3),
        "enlarged": tasks.super_resolve(model, plan, small, factor, cond=cond, seed=1),
        "strokes": strokes,
        "of strokes": tasks.image_to_image(model, "consistency:2:grid=angle", strokes, strength, cond=cond, seed=1),
        "under noise": noisy,
        "without noise": tasks.denoise(model, noisy, level, cond=cond),
        "from one to another": tasks.interpolate(model, "consistency:1:grid=karras", count, (5, 8), cond=same),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/few_steps_editing.png"))
    parser.add_argument("--plan", default="consistency:8:grid=angle")
    parser.add_argument("--strength", type=float, default=0.05, help="level to which strokes are raised, of 1")
    parser.add_argument("--sigma", type=float, default=0.6, help="deviation of the noise")
    parser.add_argument("--count", type=int, default=16)
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    held = run.test.batch(torch.arange(asked.count))
    x, label = leaves(held.x)[""], (held.cond or {})["label"]
    with torch.no_grad():
        rows = edits(run, x, label, asked.plan, asked.strength, asked.sigma)
    for name, row in rows.items():
        print(f"{name}: {float((row.clamp(-1, 1) - x).abs().mean() / 2):.4f}")
    print(lv.save_images(torch.cat(list(rows.values())), asked.out, columns=asked.count))


if __name__ == "__main__":
    main()
