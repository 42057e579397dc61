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
from langevin.recipes.build import RECIPE_FILE, Run, open_run
from langevin.recipes.domains.pictures import as_pictures, shown
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.sampling import chosen, of_weights, tune_into


def compare(
    student: Run,
    teacher: Path,
    out: Path,
    count: int = 1000,
    say: Callable[[str], None] = print,
    *,
    tune: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Judge the teacher as it samples, the teacher at the student's number of evaluations (by the default plan, and by a learned
    one with `tune`), and the student; write comparison.png and comparison.json into `out`.

    Args:
        count: samples of each.

    Returns:
        Rows with "who", "plan", "guidance", "evaluations", "milliseconds" a sample, and the metrics of `evaluate`. Teachers are
        guided as strongly as the student was taught.
    """
    student.denoiser.to(device)
    own = student.recipe.sample.plan
    steps = max(p.nfe for p in plans_for(student.denoiser.process, chosen(student, own, 1.0)).values())
    # a student that learned from a guided teacher is guided by nature
    w = float(getattr(student.recipe.objective, "guidance", 1.0))
    rows: list[tuple[str, Run, str, float]] = []
    if (teacher / RECIPE_FILE).exists():
        taught = open_run(teacher, device=device)
        if "_splits" in student.__dict__:
            taught.__dict__["_splits"] = student._splits
        rows = [("teacher", taught, taught.recipe.sample.plan, w), ("teacher", taught, f"default:{steps}", w)]
        if tune:
            file = teacher / "plans" / f"tuned-{steps}-w{w:g}-{of_weights(taught)}.json"
            if not file.exists():
                tune_into(file, taught, steps, guidance=w)
            rows.append(("teacher, learned plan", taught, str(file), w))
    else:
        say(f"{teacher} is no run directory any more, so the student stands alone in the table")
    rows.append(("student", student, own, 1.0))
    points = isinstance(student.recipe.drawn, c.MoonsData)
    against = student.domain.reference(student, "auto", out, device)
    made = []
    for who, run, plan, strength in rows:
        say(f"measuring {count} samples of the {who} by {plan}")
        made.append({"who": who, **_row(run, plan, strength, count, against, device)})
    write(out / "comparison.json", json.dumps(made, indent=1))
    if not points:
        say(str(_picture(rows, out / "comparison.png")))
    _show(made)
    return made


def measures(run: Run) -> tuple[str, ...]:
    """What pictures are compared by."""
    return ("fd", "prdc") if run.facts.classes is None else ("fd", "prdc", "labels")


def _row(run: Run, plan: str, w: float, count: int, against: Any, device: str) -> dict[str, Any]:
    few = min(count, 100)
    draw(run, few, plan=plan, guidance=w)
    began = time.perf_counter()
    draw(run, few, plan=plan, guidance=w)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    spent = 1000 * (time.perf_counter() - began) / few
    row = {"plan": plan, "guidance": w, "milliseconds": spent}
    if against is None:
        result = evaluate(run, count=count, plan=plan, small=True, device=device)
        return {**row, "evaluations": result.protocol.nfe, **result.metrics}
    result = evaluate(run, count=count, plan=plan, guidance=w, metrics=measures(run), small=True, device=device, against=against)
    group = result.metrics.get(f"w={w:g}", result.metrics)
    assert isinstance(group, dict)
    return {**row, "evaluations": result.protocol.nfe, **{k: v for k, v in group.items() if isinstance(v, float)}}


def _picture(rows: list[tuple[str, Run, str, float]], path: Path) -> Path:
    """Each row of the table as one row of pictures, all from the same noise."""
    label = shown(rows[0][1])
    columns = 10 if label is None else len(label)
    x = [as_pictures(run, draw(run, columns, plan=plan, seed=0, label=label, guidance=w)).cpu() for _, run, plan, w in rows]
    return pictures.save_images(torch.cat(x), path, columns=columns)


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
