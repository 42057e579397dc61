"""Digits turned into others by a flow between the two sets: 3 to 8, and 8 to 3.

    python bench/transfer.py --out bench/results/transfer.json

The recipe digits-transfer and its mirror image: two sets of pictures, no pairs, no noise, minibatch optimal transport.
Held-out pictures are moved, and those of training, which are more. A classifier of all ten digits, trained on the real training
split, says what it sees; slant (the shear of the ink about its centre) and thickness (the mean of the ink) of a picture are
correlated with those of what became of it, with 95 % intervals (Fisher's z), beside the same correlations under another pairing
of the same pictures. The page goes to docs/images/transfer.png.
"""

import argparse
import json
import math
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
from langevin.tasks.transport import Transport, transport

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


def interval(r: float, count: int) -> list[float]:
    """95 % of a correlation of so many pairs, by Fisher's z."""
    return [math.tanh(math.atanh(r) + side * 1.96 / math.sqrt(count - 3)) for side in (-1, 1)]


def kept(flown: Transport) -> dict[str, Any]:
    """How far slant and thickness of what was moved are those of what came of it, and of what came of another."""
    mixed, count, row = flown.ends.roll(1, 0), len(flown.begins), {}
    for name, of in (("slant", slant), ("thickness", thickness)):
        r = correlation(of(flown.begins), of(flown.ends))
        row |= {name: r, f"{name}_interval": interval(r, count), f"{name}_random": correlation(of(flown.begins), of(mixed))}
    return row


def moved(source: int, target: int, runs: Path, steps: int) -> tuple[list[dict[str, Any]], Transport]:
    """A row for each split, and what became of the held-out pictures."""
    made = recipe("digits-transfer")
    ends = TransferData(target=DigitsData(only=target), source=DigitsData(only=source))
    made = made.model_copy(update={"data": ends, "train": TrainConfig(**{**made.train.model_dump(), "steps": steps})})
    run, trainer = start(made, runs / f"{source}-to-{target}", resume=True)
    trainer.run()
    trainer.close()
    last = json.loads((runs / f"{source}-to-{target}" / "log.jsonl").read_text().splitlines()[-1])
    run = open_run(runs / f"{source}-to-{target}")
    train = lv.data.digits("train")
    real = train.batch(torch.arange(len(train)))
    assert isinstance(real.x, Tensor) and real.cond is not None
    judge = train_classifier(real.x, real.cond["label"], 10)
    seconds = steps * made.train.batch / last["samples_per_second"]
    splits = {"held out": run.test.source, "training": run.train.source}
    flown = {split: transport(run.denoiser, lv.plans.parse(made.sample.plan), starts) for split, starts in splits.items()}
    rows = [
        {
            "from": source, "to": target, "split": split, "pictures": len(one.begins),
            "seen_as_target": float((judge.label(one.ends) == target).float().mean()), **kept(one),
            "straightness": one.straightness, "cost": one.cost, "training_seconds": seconds, "updates": steps,
        }
        for split, one in flown.items()
    ]  # fmt: skip
    return rows, flown["held out"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "transfer.json")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="where the two flows are trained")
    parser.add_argument("--steps", type=int, default=1200)
    asked = parsed(parser)
    rows, pictures = [], []
    for source, target in ((3, 8), (8, 3)):
        found, flown = moved(source, target, asked.runs, asked.steps)
        print(found, flush=True)
        rows += found
        pictures += [flown.begins[:16], flown.ends[:16]]
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(lv.save_images(torch.cat(pictures), ROOT / "docs" / "images" / "transfer.png", columns=16))


if __name__ == "__main__":
    main()
