"""Graphs and molecules: what samples of runs are like, plan by plan, beside the floor of real data, in one run.

    langevin train qm9-graph --data.path data/qm9.csv
    python bench/graphs.py runs/qm9-graph runs/nci-graph runs/community --out bench/results/graphs.csv

Molecules: shares that are valid, valid and in one piece, unique and novel, without any correction, and the Frechet distance of
descriptors to held-out molecules beside that of as many training molecules. Graphs: squared MMD of degrees, clustering, orbits
and spectra, as many samples as training graphs, each beside that of training graphs, their mean ratio, and the shares. Every plan
draws from the same weights: `defog` with few steps from what was trained by cross-entropy for `ddpm` with many. A row that is
there for these weights, plan, count and seed is not made again; --train RECIPE trains a run that is missing. --pictures DIR
draws the first ten held-out graphs and the first ten samples by each run's first plan, nothing chosen.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rows import has, parsed, read, write

from langevin.pictures import save_png
from langevin.recipes import config as c
from langevin.recipes import recipe
from langevin.recipes.build import Run
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.ready.variant import but
from langevin.recipes.sampling import of_weights
from langevin.recipes.starting import start

FIELDS = ("run", "weights", "step", "plan", "count", "seed", "measure", "value", "floor", "seconds_per_100")
OTHERS = {
    "graph": ("ddpm:50", "defog:50", "defog:50:omega=0.05", "defog:50:eta=5"),
    "graph-scores": ("predictor_corrector:250:snr=0.1",),
}


def trained(name: str, folder: Path, data: str | None, steps: int | None) -> None:
    """A run from its recipe, if it is not there."""
    made = recipe(name)
    if data is not None:
        made = but(made, data=made.data.model_copy(update={"path": data}))
    if steps is not None:
        made = but(made, train=made.train.model_copy(update={"steps": steps}))
    _, trainer = start(made, folder, resume=True)
    trainer.run()
    trainer.close()


def measures(run: Run, plan: str, count: int, seed: int, picture: Path | None) -> dict[str, tuple[float, float | None]]:
    """{measure: (value, floor or None)} and the processor's seconds for 100 samples."""
    began = time.process_time()
    x = draw(run, count, plan=plan, seed=seed)
    spent = (time.process_time() - began) / count * 100
    graphs = run.domain.graphs(run, x)  # pyright: ignore
    if picture is not None:
        beside(run, graphs, plan, picture)
    found: dict[str, Any] = run.domain.judge(run, graphs)  # pyright: ignore
    floors = {name.removesuffix("_floor"): value for name, value in found.items() if name.endswith("_floor")}
    told = {name: (value, floors.get(name)) for name, value in found.items() if not name.endswith("_floor")}
    return {**told, "seconds": (spent, None)}


def beside(run: Run, graphs: Any, plan: str, path: Path, count: int = 10) -> None:
    """Held-out graphs above, samples below."""
    real = [run.test[k] for k in range(min(count, len(run.test)))]
    parts = [("held-out graphs", real), (f"samples by {plan}", graphs[:count])]
    drawn = [(words, run.domain.picture(run, some, 5)) for words, some in parts]  # pyright: ignore
    head = 24
    sheet = Image.new("RGB", (max(d.width for _, d in drawn), sum(d.height + head for _, d in drawn)), "white")
    top = 0
    for words, one in drawn:
        ImageDraw.Draw(sheet).text((8, top + 4), f"{run.recipe.name}: {words}", fill="black", font=ImageFont.load_default(16))
        sheet.paste(one, (0, top + head))
        top += one.height + head
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(sheet, path)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", type=Path, nargs="+")
    asked.add_argument("--plans", nargs="*", help="by default the recipe's, and those that its process is compared by")
    asked.add_argument("--count", type=int, help="samples; 1,000 molecules, or five times the held-out graphs")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--train", help="the recipe of runs that are not there")
    asked.add_argument("--data", help="their data")
    asked.add_argument("--steps", type=int, help="their updates")
    asked.add_argument("--out", type=Path, default=Path("bench/results/graphs.csv"))
    asked.add_argument("--pictures", type=Path, help="folder for a page of each run")
    args = parsed(asked)
    rows = read(args.out)
    for folder in args.runs:
        if args.train is not None:
            trained(args.train, folder, args.data, args.steps)
        run = open_run(folder)
        last = max(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*"))
        molecular = isinstance(run.recipe.data, c.MoleculesData)
        count = args.count or (1000 if molecular else 5 * len(run.test))
        plans = args.plans or list(dict.fromkeys([run.recipe.sample.plan, *OTHERS[run.recipe.process.kind]]))
        for plan in plans:
            head = {
                "run": run.recipe.name,
                "weights": of_weights(run),
                "step": last,
                "plan": plan,
                "count": count,
                "seed": args.seed,
            }
            if has(rows, head):
                continue
            shown = args.pictures / f"graphs_{run.recipe.name}.png" if args.pictures and plan == plans[0] else None
            found = measures(run, plan, count, args.seed, shown)
            seconds, _ = found.pop("seconds")
            for name, (value, floor) in found.items():
                line = {
                    **head, "measure": name, "value": f"{value:.5g}", "floor": "" if floor is None else f"{floor:.5g}",
                    "seconds_per_100": f"{seconds:.3g}",
                }  # fmt: skip
                rows.append({name: str(v) for name, v in line.items()})
            write(args.out, FIELDS, rows)
            said = [f"{n} {v:.3f}" + (f" (floor {f:.3f})" if f is not None else "") for n, (v, f) in found.items()]
            print(run.recipe.name, plan, *said, f"{seconds:.2f} s per 100", sep="  ", flush=True)


if __name__ == "__main__":
    main()
