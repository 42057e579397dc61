"""Teacher and student side by side: one picture from the same noise, and one table of steps, quality, diversity and time."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langevin import pictures
from langevin.core.sample import plans_for
from langevin.files import write
from langevin.recipes import config as c
from langevin.recipes.build import Run, open_run
from langevin.recipes.evaluation import Reference, evaluate
from langevin.recipes.report import as_pictures, draw
from langevin.recipes.sampling import chosen, save
from langevin.recipes.sampling import tune as learn


def compare(
    student: Run,
    teacher: Path,
    out: Path,
    steps: int = 1,
    count: int = 1000,
    say: Callable[[str], None] = print,
    *,
    tune: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Judge the teacher as it samples, the teacher at the student's number of evaluations (by the default plan, and by a learned
    one with `tune`), and the student; write comparison.png and comparison.json into `out`.

    Args:
        steps: the student's evaluations.
        count: samples of each.

    Returns:
        Rows with "who", "plan", "evaluations", "milliseconds" a sample, and the metrics of `evaluate` at w = 1.
    """
    taught = open_run(teacher, device=device)
    if "_splits" in student.__dict__:
        taught.__dict__["_splits"] = student._splits
    student.denoiser.to(device)
    rows = [("teacher", taught, taught.recipe.sample.plan), ("teacher", taught, f"default:{steps}")]
    if tune:
        file = teacher / "plans" / f"tuned-{steps}.json"
        if not file.exists():
            found, _ = learn(taught, steps, checkpoint=file.with_suffix(".tuning.safetensors"), show=True)
            save(found.plan, file)
        rows.append(("teacher, learned plan", taught, str(file)))
    rows.append(("student", student, student.recipe.sample.plan))
    points = isinstance(student.recipe.data, c.MoonsData)
    against = None if points else Reference(student, "auto", out, device)
    made = []
    for who, run, plan in rows:
        say(f"measuring {count} samples of the {who} by {plan}")
        made.append({"who": who, **_row(run, plan, count, against, device)})
    write(out / "comparison.json", json.dumps(made, indent=1))
    if not points:
        say(str(_picture(rows, out / "comparison.png")))
    _show(made)
    return made


def _row(run: Run, plan: str, count: int, against: Reference | None, device: str) -> dict[str, Any]:
    table = chosen(run, plan, 1.0)
    nfe = max(p.nfe for p in plans_for(run.denoiser.process, table).values())
    few = min(count, 100)
    draw(run, few, plan=plan, guidance=1.0)
    began = time.perf_counter()
    draw(run, few, plan=plan, guidance=1.0)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    row = {"plan": plan, "evaluations": nfe, "milliseconds": 1000 * (time.perf_counter() - began) / few}
    if against is None:
        return row | evaluate(run, count=count, plan=plan, small=True, device=device).metrics
    names = ["fd", "prdc"] if run.facts.classes is None else ["fd", "prdc", "labels"]
    found = evaluate(run, count=count, plan=plan, guidance=1.0, metrics=names, small=True, device=device, against=against).metrics
    group = found.get("w=1", found)
    assert isinstance(group, dict)
    return row | {k: v for k, v in group.items() if isinstance(v, float)}


def _picture(rows: list[tuple[str, Run, str]], path: Path) -> Path:
    """Each row of the table as one row of pictures, all from the same noise."""
    shown = rows[0][1].facts.classes or 10
    x = [as_pictures(run, draw(run, shown, plan=plan, seed=0, guidance=1.0)).cpu() for _, run, plan in rows]
    return pictures.save_images(torch.cat(x), path, columns=shown)


NAMES = {"intended_label": "intended label", "fd_ratio": "FD / floor", "recall": "recall", "energy_distance": "energy distance"}
"""What the table shows of the metrics."""


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    shown = [name for name in NAMES if name in rows[0]]
    for title in ("", "plan", "evaluations", *(NAMES[name] for name in shown), "ms a sample"):
        table.add_column(title)
    for row in rows:
        numbers = [f"{row[n]:.1%}" if n == "intended_label" else f"{row[n]:.4g}" for n in shown]
        table.add_row(row["who"], Path(row["plan"]).name, str(row["evaluations"]), *numbers, f"{row['milliseconds']:.2f}")
    Console().print(table)
