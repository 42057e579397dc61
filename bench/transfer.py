"""Digits turned into others by a flow between the two sets: 3 to 8, and 8 to 3.

    python bench/transfer.py --out bench/results/transfer.json

The recipe digits-transfer and its mirror image: two sets of pictures, no pairs, no noise, minibatch optimal transport.
Held-out pictures are moved. A classifier of all ten digits, trained on the real training split, says what it sees;
slant (the shear of the ink about its centre) and thickness (the mean of the ink) of a picture are correlated with those of what
became of it, beside the same correlations under another pairing of the same pictures. The page goes to docs/images/transfer.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rows import parsed
from torch import Tensor

import langevin as lv
from langevin.config import TrainConfig
from langevin.evaluate.classifier import train_classifier
from langevin.recipes import recipe
from langevin.recipes.config import DigitsData, TransferData
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start
from langevin.tasks.transport import transport

ROOT = Path(__file__).parents[1]


def slant(x: Tensor) -> Tensor:
    """(B, 1, H, W) in [-1, 1] -> (B,): the covariance of the ink's columns with its rows, over the variance of the rows."""
    ink = (x[:, 0] + 1).clamp(0, 2).double()
    ink = ink / ink.sum((1, 2), keepdim=True)
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in ink.shape[1:])
    down, right = (ink.sum(2) * rows).sum(1), (ink.sum(1) * columns).sum(1)
    dy, dx = rows - down[:, None], columns - right[:, None]
    return torch.einsum("bhw,bh,bw->b", ink, dy, dx) / torch.einsum("bhw,bh->b", ink, dy**2)


def thickness(x: Tensor) -> Tensor:
    return (x[:, 0] + 1).double().mean((1, 2))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def moved(source: int, target: int, runs: Path, steps: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    made = recipe("digits-transfer")
    ends = TransferData(target=DigitsData(only=target), source=DigitsData(only=source))
    made = made.model_copy(update={"data": ends, "train": TrainConfig(**{**made.train.model_dump(), "steps": steps})})
    run, trainer = start(made, runs / f"{source}-to-{target}", resume=True)
    trainer.run()
    trainer.close()
    last = json.loads((runs / f"{source}-to-{target}" / "log.jsonl").read_text().splitlines()[-1])
    run = open_run(runs / f"{source}-to-{target}")
    held = run.test.source
    flown = transport(run.denoiser, lv.plans.parse(made.sample.plan), held)
    train = lv.data.digits("train")
    real = train.batch(torch.arange(len(train)))
    assert isinstance(real.x, Tensor) and real.cond is not None
    judge = train_classifier(real.x, real.cond["label"], 10)
    seen = judge.label(flown.ends)
    mixed = flown.ends[torch.arange(len(held)).roll(1)]
    row = {
        "from": source, "to": target, "held_out": len(held), "seen_as_target": float((seen == target).float().mean()),
        "slant": correlation(slant(flown.begins), slant(flown.ends)),
        "slant_random": correlation(slant(flown.begins), slant(mixed)),
        "thickness": correlation(thickness(flown.begins), thickness(flown.ends)),
        "thickness_random": correlation(thickness(flown.begins), thickness(mixed)),
        "straightness": flown.straightness, "cost": flown.cost,
        "training_seconds": steps * made.train.batch / last["samples_per_second"], "updates": steps,
    }  # fmt: skip
    return row, flown.begins, flown.ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "transfer.json")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="where the two flows are trained")
    parser.add_argument("--steps", type=int, default=1200)
    asked = parsed(parser)
    rows, pictures = [], []
    for source, target in ((3, 8), (8, 3)):
        row, begins, ends = moved(source, target, asked.runs, asked.steps)
        print(row, flush=True)
        rows.append(row)
        pictures += [begins[:16], ends[:16]]
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(lv.save_images(torch.cat(pictures), ROOT / "docs" / "images" / "transfer.png", columns=16))


if __name__ == "__main__":
    main()
