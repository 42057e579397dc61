"""Digits in coloured ink, whose grey values alone are known: are the colours those the digit may have, and as often?

    python bench/colouring.py --make data/inks
    langevin train digits --data.kind arrays --data.x data/inks/x.npy --data.test 297 --out runs/inks
    python bench/colouring.py runs/inks --out bench/results/colouring.csv --pages docs/images

The ink of class k has a hue of 36 k degrees, normal about it with 10; all inks have the same grey value, so what a picture in
grey tells of its colour it tells by its shape. The model knows no classes. Given the digit, the hue is known exactly: a normal
law, which the hues of the samples (of all ink together) should follow. "hue of its digit": within 18 degrees of the true
class's, which a classifier of the grey pictures bounds. "spread": root mean square of those samples' hues about their class's.
Coverage: how many 90 % intervals of 19 samples hold the truth, over pixels and channels that vary in training data, and over
the true hue.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin import pictures, tasks
from langevin.core.tree import leaves
from langevin.evaluate import train_classifier
from langevin.guidance.known import LUMA
from langevin.recipes.restoring import operator_of, page

FIELDS = ("measure", "value", "error", "note")
SPREAD, CHROMA, TEST = 10.0, 0.4, 297


def plane() -> Tensor:
    """(2, 3): an orthonormal basis of the changes of colour that leave the grey value as it is."""
    return torch.linalg.svd(torch.tensor([LUMA], dtype=torch.float64)).Vh[1:].float()


def inked(grey: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) in [-1, 1] from grey (N, 1, H, W) in [-1, 1], and their hues (N,) in degrees."""
    hue = 36.0 * label + SPREAD * lv.Noise.of(0, len(label)).at("hue").normal(())
    angle = hue * math.pi / 180
    ink = 0.5 + CHROMA * torch.stack([angle.cos(), angle.sin()], 1) @ plane()
    return (grey + 1) * ink[:, :, None, None] - 1, hue


def hues(x: Tensor) -> Tensor:
    """Degrees of all ink of pictures (..., 3, H, W) together."""
    luma = torch.tensor(LUMA).to(x)
    grey = torch.einsum("c,...chw->...hw", luma, x + 1)[..., None, :, :] / luma.sum()
    u, v = torch.einsum("pc,...chw->p...", plane().to(x), x + 1 - grey)
    return torch.atan2(v, u) * 180 / math.pi


def apart(a: Tensor, b: Tensor) -> Tensor:
    """a - b in degrees, the short way."""
    return (a - b + 180) % 360 - 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--make", type=Path, help="write the pictures into this folder, and stop")
    parser.add_argument("--out", type=Path, default=Path("bench/results/colouring.csv"), help="rows are added to it, or replaced")
    parser.add_argument("--pages", type=Path, default=Path("docs/images"))
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--count", type=int, default=19)
    parser.add_argument("--method", default="mmps")
    parser.add_argument("--plan", default="default:20")
    parser.add_argument("--noise", type=float, default=0.02)
    asked = parsed(parser)
    every = lv.data.digits("all").batch(torch.arange(1797))
    grey, label = leaves(every.x)[""], (every.cond or {})["label"]
    x, hue = inked(grey, label)
    if asked.make:
        asked.make.mkdir(parents=True, exist_ok=True)
        np.save(asked.make / "x.npy", x.numpy())
        return
    run: Any = lv.open_run(asked.run)
    held = slice(len(x) - TEST, len(x) - TEST + asked.pictures)
    truth, of, true = x[held], label[held], hue[held]
    op = operator_of("colourise", run.facts.shape)
    y = op(truth) + asked.noise * lv.Noise.of(0, len(truth)).at("measurement").normal(op.measured)
    with torch.no_grad():
        made = tasks.restore(run.denoiser, op, y, asked.noise, method=asked.method, plan=lv.plans.parse(asked.plan),
                             count=asked.count, batch=100)  # fmt: skip
    rows: list[dict[str, Any]] = []

    def row(measure: str, values: Tensor | float, note: str = "") -> None:
        value = torch.as_tensor(values, dtype=torch.float64)
        error = f"{float(value.std() / len(value) ** 0.5):.4f}" if value.ndim else ""
        rows.append({"measure": measure, "value": f"{float(value.mean()):.4f}", "error": error, "note": note})
        print(rows[-1], flush=True)

    judge = train_classifier(grey[:-TEST], label[:-TEST], 10, 1000, 64, 0)
    row("digit recognised in grey", judge.label(grey[held]) == of)
    off = apart(hues(made.samples), 36.0 * of)  # (count, pictures)
    right = off.abs() < 18
    note = f"{asked.pictures} pictures, {asked.count} samples, {asked.method}, {asked.plan}, noise {asked.noise:g}"
    row("hue of its digit, samples", right.double().mean(0), note)
    assert apart(hues(truth), true).abs().max() < 0.01
    row("hue of its digit, truth", apart(true, 36.0 * of).abs() < 18)
    row("spread of hues, samples", float(off[right].square().mean().sqrt()), "degrees, of those within 18")
    law = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * SPREAD
    row("spread of hues, the law", float(law[law.abs() < 18].square().mean().sqrt()), "degrees, of those within 18")
    gap = apart(hues(made.samples), true)
    low, high = gap.min(0).values, gap.max(0).values  # 19 samples: the truth is outside as often as 2 in 20
    row("coverage of 90 % intervals, hue", (low <= 0) & (high >= 0))
    vary = (x[:-TEST].std(0) > 0.1)[None]
    row("coverage of 90 % intervals, pixels", tasks.coverage(truth, made, 0.9, vary))
    row("coverage of 90 % intervals, pixels, ties at random", tasks.coverage(truth, made, 0.9, vary, levels=256))
    row("grey kept, rmse", float((op(made.samples.flatten(0, 1)) - y.repeat(asked.count, 1, 1, 1)).square().mean().sqrt()))
    row("rmse of a sample", float((made.samples - truth).square().mean().sqrt()))
    asked.pages.mkdir(parents=True, exist_ok=True)
    short = tasks.Restored(made.samples[:, :6], made.y[:6])
    pictures.save_images(page(truth[:6], op, short), asked.pages / "restored_colourise.png", columns=10)
    replace(asked.out, FIELDS, rows, ("measure",))


if __name__ == "__main__":
    main()
