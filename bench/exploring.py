"""Out of the data's distribution (MOOD, 2206.07632): what less of the score, and the pull of a property, do to samples of a run.

    langevin train community-gdss --data.path data/community_small.json
    python bench/exploring.py runs/community-gdss --out bench/results/exploring.csv

The run is one of scores (process graph-scores). Each set is drawn from the same seed under the run's own plan with 1 - sqrt(lam)
of the score, and with a pull of w times the score's size up the gradient of the density, the share of pairs of nodes that are
joined, which is a function of the adjacency itself and needs no network. Of each a row tells

    valid, unique, novel, ratio     as `langevin evaluate` has them
    density, deviation              mean and standard deviation of the densities of samples
    beyond                          share of samples that are denser than every training graph

and, beside it, the same of held-out graphs. The law that lam obeys, covariance C / (1 - sqrt(lam)) of Langevin steps on a normal,
is held by tests/graphs/test_scores.py; here is what it does where the data is no normal. A row that is there for these weights,
plan, count and seed is not made again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rows import has, parsed, read, write
from torch import Tensor

from langevin.graphs.properties import properties_of
from langevin.guidance import Exploration
from langevin.recipes.domains.graphs import adjacency
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.sampling import of_weights

FIELDS = ("run", "weights", "plan", "count", "seed", "lam", "w", "measure", "value", "held_out")
SETS = ((0.0, 0.0), (0.04, 0.0), (0.25, 0.0), (0.5, 0.0), (0.0, 0.5), (0.04, 0.5))
"""(lam, w); MOOD's own are 0.04 and 0.5."""


def density(z: Any, t: Any, cond: Any, mask: Tensor | None) -> Tensor:
    """The share of pairs that are joined, (B,), of noisy adjacencies (B, N, N); its scale does not matter."""
    edges = z["edges"]
    n = torch.full((len(edges),), edges.shape[1], device=edges.device) if mask is None else mask.sum(1)
    return edges.sum((1, 2)) / (n * (n - 1)).clamp(min=1)


def measures(run: Any, graphs: Any, most: float) -> dict[str, float]:
    shares = run.domain.judge(run, graphs)
    found = properties_of([adjacency(g) for g in graphs], ["density"])[:, 0]
    told = {name: shares[name] for name in ("valid", "unique", "novel", "ratio") if name in shares}
    told |= {"density": float(found.mean()), "deviation": float(found.std())}
    return {**told, "beyond": float((found > most).double().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--plan", help="the recipe's by default")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/exploring.csv"))
    asked = parsed(parser)
    torch.set_num_threads(1)
    run, rows = open_run(asked.run), read(asked.out)
    plan = asked.plan or run.recipe.sample.plan
    train, test = ([s[k] for k in range(len(s))] for s in (run.train, run.test))
    most = float(properties_of([adjacency(g) for g in train], ["density"]).max())
    real = measures(run, test, most)
    always = {"run": run.recipe.name, "weights": of_weights(run), "plan": plan, "count": asked.count, "seed": asked.seed}
    for lam, w in SETS:
        head = {name: str(value) for name, value in {**always, "lam": f"{lam:g}", "w": f"{w:g}"}.items()}
        if has(rows, head):
            continue
        steer = Exploration(lam, density if w else None, w) if lam or w else None
        graphs = run.domain.graphs(run, draw(run, asked.count, plan=plan, seed=asked.seed, steer=steer))  # pyright: ignore
        found = measures(run, graphs, most)
        rows += [{**head, "measure": name, "value": f"{v:.4g}", "held_out": f"{real[name]:.4g}"} for name, v in found.items()]
        write(asked.out, FIELDS, rows)
        print(f"lam {lam:g}  w {w:g}", *[f"{name} {value:.3f}" for name, value in found.items()], sep="  ", flush=True)


if __name__ == "__main__":
    main()
