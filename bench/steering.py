"""Steering by a regressor: how far samples follow what they are asked for, and what it costs them, strength by strength.

    langevin train nci-graph --out runs/nci-graph
    python bench/steering.py runs/nci-graph --property logp --asked -1 3 --out bench/results/steering.csv

The run knows no property. `langevin regress` learns one from its noisy graphs (--regressor DIR, trained there if it is not yet),
and samples are drawn as `langevin sample --steer` draws them, under every plan and strength from the same seed, so that sample
number k begins at the same noise in each set, the unsteered one among them (strength 0). Of each set a row tells

    mean, mae           of the property over the valid samples, and of its distance from what was asked, with standard errors
    valid, connected, unique, novel     as `langevin evaluate` has them (connected of molecules alone: graphs are valid that are)

and the plot shows it, with the mean of real data for comparison. A row that is there for these weights, plan, strength, count and
seed is not made again; --train RECIPE trains a run that is missing, for --steps updates.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from graphs import trained
from rows import has, parsed, read, write
from torch import Tensor

from langevin import pictures
from langevin.config import TrainConfig
from langevin.recipes.build import Run
from langevin.recipes.config.regressing import TRAIN
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.regressing import Regressor, open_regressor, regress
from langevin.recipes.sampling import of_weights

HEAD = ("run", "weights", "updates", "regressor_updates", "property", "plan", "asked", "strength", "count", "seed")
SHARES = ("valid", "connected", "unique", "novel")
FIELDS = (*HEAD, "mean", "mean_error", "mae", "mae_error", *SHARES, "seconds_per_100")


def reader(run: Run, name: str, folder: Path, steps: int) -> Regressor:
    """A regressor of the property: the one that is there, or one trained there, whose average forgets over a tenth of the run."""
    if (folder / "errors.json").exists():  # it is whole
        return open_regressor(folder, run)
    train = TrainConfig.model_validate({**TRAIN.model_dump(), "steps": steps, "ema": min(TRAIN.ema, 1 - 10 / max(steps, 20))})
    return regress(run, (name,), folder, train=train, resume=(folder / "checkpoints").exists())


def mean_of(values: Tensor) -> tuple[float, float]:
    """The mean of those that are numbers, and its standard error."""
    known = values[values.isfinite()]
    if len(known) < 2:
        return math.nan, math.nan
    return float(known.mean()), float(known.std()) / len(known) ** 0.5


def judged(run: Run, graphs: Any, name: str, asked: float) -> dict[str, float]:
    """A row's measures of samples that were asked for one value."""
    values = run.domain.scored(run, graphs, (name,))[:, 0]  # pyright: ignore
    shares = run.domain.judge(run, graphs)  # pyright: ignore
    (mean, mean_error), (mae, mae_error) = mean_of(values), mean_of((values - asked).abs())
    told = {"mean": mean, "mean_error": mean_error, "mae": mae, "mae_error": mae_error}
    return {**told, **{what: shares[what] for what in SHARES if what in shares}}


def real(run: Run, name: str) -> dict[str, float]:
    """Mean and deviation of the property over training data."""
    values = run.domain.scored(run, [run.train[k] for k in range(len(run.train))], (name,))[:, 0]  # pyright: ignore
    known = values[values.isfinite()]
    return {"mean": float(known.mean()), "deviation": float(known.std())}


def plot(rows: list[dict[str, str]], data: dict[str, float], path: Path) -> None:
    """Above the mean of the property, below the shares, by strength; a column for each plan."""
    plt = pictures.pyplot()
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    figure, axes = plt.subplots(2, len(plans), figsize=(4.5 * len(plans), 6), dpi=110, squeeze=False, sharex=True, sharey="row")
    name = rows[0]["property"]
    for column, plan in enumerate(plans):
        above, below = axes[0][column], axes[1][column]
        above.axhline(data["mean"], color="black", linewidth=0.8, label="real data")
        for k, asked in enumerate(sorted({float(row["asked"]) for row in rows})):
            some = sorted(
                (r for r in rows if r["plan"] == plan and float(r["asked"]) == asked), key=lambda r: float(r["strength"])
            )
            strengths = [float(r["strength"]) for r in some]
            above.axhline(asked, color=f"C{k}", linestyle=":")
            above.errorbar(strengths, [float(r["mean"]) for r in some], [float(r["mean_error"]) for r in some], color=f"C{k}",
                           marker="o", label=f"asked for {asked:g}")  # fmt: skip
            for what, line in (("valid", "-"), ("unique", "--")):
                below.plot(strengths, [100 * float(r[what]) for r in some], line, color=f"C{k}", marker="o",
                           label=f"{what}, asked for {asked:g}")  # fmt: skip
        above.set(title=plan, ylabel=f"mean {name} of valid samples" if not column else "")
        below.set(xlabel="strength", ylabel="%" if not column else "", xscale="symlog", ylim=(0, 102))
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--property", default="logp")
    parser.add_argument("--asked", type=float, nargs="+", default=(-1.0, 3.0), help="in the property's own units")
    parser.add_argument("--strengths", type=float, nargs="+", default=(1.0, 3.0, 10.0, 30.0), help="besides 0")
    parser.add_argument("--plans", nargs="+", default=("ddpm:50", "tilted:100"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--regressor", type=Path, help="its directory; RUN-PROPERTY by default")
    parser.add_argument("--regressor-steps", type=int, default=TRAIN.steps)
    parser.add_argument("--train", help="the recipe of a run that is not there")
    parser.add_argument("--data", help="its data")
    parser.add_argument("--steps", type=int, help="its updates")
    parser.add_argument("--out", type=Path, default=Path("bench/results/steering.csv"))
    asked = parsed(parser)
    torch.set_num_threads(1)
    if asked.train is not None:
        trained(asked.train, asked.run, asked.data, asked.steps)
    run, name = open_run(asked.run), asked.property
    folder = asked.regressor or asked.run.with_name(f"{asked.run.name}-{name}")
    regressor = reader(run, name, folder, asked.regressor_steps)
    rows = read(asked.out)
    always = {
        "run": run.recipe.name, "weights": of_weights(run), "regressor_updates": regressor.kept.train.steps, "property": name,
        "updates": max(int(p.name.removeprefix("step-")) for p in (asked.run / "checkpoints").glob("step-*")),
        "count": asked.count, "seed": asked.seed,
    }  # fmt: skip
    for plan in asked.plans:
        of, free = "state" if plan.partition(":")[0] == "tilted" else "belief", None
        for goal in asked.asked:
            for strength in (0.0, *asked.strengths):
                head = {**always, "plan": plan, "asked": f"{goal:g}", "strength": f"{strength:g}"}
                if has(rows, head):
                    continue
                steer = regressor.towards(run, {name: goal}, strength, of) if strength else None
                began = time.process_time()
                if steer is not None or free is None:  # the unsteered set is one, whatever is asked for
                    graphs = run.domain.graphs(run, draw(run, asked.count, plan=plan, seed=asked.seed, steer=steer))  # pyright: ignore
                    seconds = (time.process_time() - began) / asked.count * 100
                    free = (graphs, seconds) if steer is None else free
                else:
                    graphs, seconds = free
                found = {k: f"{v:.4g}" for k, v in judged(run, graphs, name, goal).items()}
                rows.append({k: str(v) for k, v in {**head, **found, "seconds_per_100": f"{seconds:.3g}"}.items()})
                write(asked.out, FIELDS, rows)
                print(plan, f"{name}={goal:g}", f"strength {strength:g}", json.dumps(found), sep="  ", flush=True)
    shown = [row for row in rows if row["weights"] == always["weights"] and row["property"] == name]
    plot(shown, real(run, name), asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
