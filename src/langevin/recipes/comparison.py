"""Teacher and student side by side: one picture from the same noise, and one table of steps, quality, diversity and time."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langevin import pictures, plans
from langevin.core.messages import one_line
from langevin.core.sample import plans_for
from langevin.data.pairs import Prior, Starts
from langevin.data.progress import watched
from langevin.evaluate.measure import NEIGHBOURS
from langevin.files import best_effort, writable, write
from langevin.guidance import CFG
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.recipes.build import Run
from langevin.recipes.domains.pictures import as_pictures, shown
from langevin.recipes.drawing import begins, draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.facts import RECIPE_FILE
from langevin.recipes.opening import open_run
from langevin.recipes.sampling import chosen, in_turn, of_weights, tune_into
from langevin.recipes.teaching import on
from langevin.tasks.transport import transport


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
    one with `tune`), and the student, at the `strengths` of guidance; write comparison.png and comparison.json into `out`.

    Args:
        count: samples of each.
        tune: the learned plan is kept with the teacher, or in `out` where that cannot be written; one that cannot be learned
            costs its row alone.

    Returns:
        Rows with "who", "plan", "guidance", "evaluations", "milliseconds" a sample, and the metrics of `evaluate`. Teachers are
        guided as strongly as the student was taught, once more as their own recipe says. Of reflowed runs also what `paths` says.
    """
    from langevin.recipes.domains.points import PointDomain

    student.denoiser.to(device)
    between = isinstance(student.recipe.process, c.InterpolantConfig)
    own = student.recipe.sample.plan
    steps = max(p.nfe for p in plans_for(student.denoiser.process, chosen(student, own, 1.0)).values())
    told = strengths(student)
    rows: list[tuple[str, Run, str, float]] = []
    if (teacher / RECIPE_FILE).exists():
        codec = (
            None if student.facts.codec is None else student.facts.codec.origin
        )  # which may have moved since the teacher's days
        taught = open_run(teacher, device=device, codec=codec)._sharing(student.__dict__)
        few = f"euler:{steps}:grid=uniform" if between else f"default:{steps}"
        usual, own_w = taught.recipe.sample.plan, taught.recipe.sample.guidance
        if own_w not in told and taught.facts.conditional:
            rows.append(("teacher", taught, usual, own_w))  # as it is sampled where nothing is said
        for w in told:
            rows += [("teacher", taught, usual, w), ("teacher", taught, few, w)]
            if tune and not between:
                learned = _learned(taught, steps, w, (teacher, out), say)
                rows += [] if learned is None else [("teacher, learned plan", taught, str(learned), w)]
    else:
        say(f"{teacher} is no run directory any more, so the student stands alone in the table")
    # a student that learned from a guided teacher and is told no strength is guided by nature
    rows += [("student", student, own, w if _is_told(student) else 1.0) for w in told]
    straight = isinstance(student.recipe.objective, o.ReflowConfig)
    points = isinstance(student.domain, PointDomain)
    against = student.domain.reference(student, "auto", out, device)
    made = []
    for who, run, plan, strength in rows:
        say(f"measuring {count} samples of the {who} by {plan}")
        made.append({"who": who, **_row(run, plan, strength, count, against, device)})
    if straight:
        say(f"following {FOLLOWED} paths, for their cost and straightness")
        for row, (_, run, _, strength) in zip(made, rows, strict=True):
            row |= paths(run, student, strength)
    with best_effort(out):  # a full disk takes the files, not the numbers
        say(str(write(out / "comparison.json", json.dumps(made, indent=1))))
        if not points:
            say(str(_picture(rows, out / "comparison.png")))
    _show(made)
    return made


def _learned(teacher: Run, steps: int, w: float, folders: tuple[Path, ...], say: Callable[[str], None]) -> Path | None:
    """The learned plan of a teacher, in the first of some folders that holds it, or else that can be written; None where none
    could be learned: the student is trained by now, and all else of the table is to be had."""
    files = [folder / "plans" / f"tuned-{steps}-w{w:g}-{of_weights(teacher)}.json" for folder in folders]
    if (known := next((file for file in files if file.exists()), None)) is not None:
        return known
    try:
        file = next((file for file in files if _writable(file)), files[-1])
        tune_into(file, teacher, steps, guidance=w)
    except Exception as error:  # of many kinds: of the disk, the device, the numbers
        why = f"{type(error).__name__}: {one_line(error, 200)}"
        say(f"no plan of {steps} evaluations was learned for the teacher ({why}); its row is left out")
        return None
    return file


def _writable(file: Path) -> bool:
    try:
        writable(file, "plan")
    except (OSError, ValueError):
        return False
    return True


def _is_told(run: Run) -> bool:
    return "guidance" in run.recipe.objective.scalars


def strengths(student: Run) -> tuple[float, ...]:
    """Strengths of guidance at which a student stands beside its teacher: none and the middle of those it is told, or that which
    it learned."""
    objective = student.recipe.objective
    if not _is_told(student):
        return (objective.strength,)
    low, high = getattr(objective, "w", None) or (1.0, 1.0)
    return tuple(dict.fromkeys((max(low, 1.0), (low + high) / 2)))


def measures(run: Run) -> tuple[str, ...]:
    """What pictures are compared by: neighbours only where enough are held out to have any."""
    near = ("prdc",) if len(run.test) > NEIGHBOURS else ()
    return ("fd", *near) if run.facts.classes is None else ("fd", *near, "labels")


def _row(run: Run, plan: str, w: float, count: int, against: Any, device: str) -> dict[str, Any]:
    few = min(count, 100)
    draw(run, few, plan=plan, guidance=w)
    began = time.perf_counter()
    draw(run, few, plan=plan, guidance=w)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    spent = 1000 * (time.perf_counter() - began) / few
    row = {"plan": plan, "guidance": w, "milliseconds": spent}
    with watched():
        judged = () if against is None else measures(run)
        result = evaluate(run, count=count, plan=plan, guidance=w, metrics=judged, small=True, device=device, against=against)
    if against is None:
        return {**row, "evaluations": result.protocol.nfe, **result.metrics}
    group = result.metrics.get(f"w={w:g}", result.metrics)
    assert isinstance(group, dict)
    return {**row, "evaluations": result.protocol.nfe, **{k: v for k, v in group.items() if isinstance(v, float)}}


FOLLOWED, FLOW = 100, "heun:50:grid=uniform"


def paths(run: Run, student: Run, w: float = 1.0) -> dict[str, float]:
    """{"cost", "straightness"} of a run's flow between the ends of the student's process, from held-out starts (see
    `langevin.tasks.transport`): the samples that a run between two data sets never saw, or noise that no pair was made of.

    One that was distilled into a few Euler steps has no flow in between: its cost alone.
    """
    process, objective = student.denoiser.process, run.recipe.objective
    steps = objective.steps if isinstance(objective, o.ReflowConfig) else None
    told = in_turn(run, FOLLOWED)
    if isinstance(student.recipe.process, c.InterpolantConfig):
        starts: Any = Starts(student.test.source, FOLLOWED, told)
    else:
        shape: Any = student.denoiser.shape
        starts = Prior(process.leaves()[""], shape, FOLLOWED, -1, told)
    # with noise on the way a process has no other schedule, and its flow is followed on its own
    flow = run.denoiser if getattr(run.denoiser.process, "added", 0) else on(process, run.denoiser)
    plan = plans.parse(FLOW if steps is None else f"euler:{steps}:grid=uniform")
    found = transport(flow, plan, starts, guidance=CFG(w) if w != 1 else None)
    return {"cost": found.cost} if steps is not None else {"cost": found.cost, "straightness": found.straightness}


def _picture(rows: list[tuple[str, Run, str, float]], path: Path) -> Path:
    """Each row of the table as one row of pictures, all from the same noise."""
    label = shown(rows[0][1])
    columns = 10 if label is None else len(label)
    start = begins(rows[0][1], columns, None)
    x = [] if start is None else [as_pictures(rows[0][1], start).cpu()]
    x += [as_pictures(run, draw(run, columns, plan=plan, seed=0, label=label, guidance=w)).cpu() for _, run, plan, w in rows]
    return pictures.save_images(torch.cat(x), path, columns=columns)


NAMES = {"intended_label": "intended label", "fd_ratio": "FD / floor", "recall": "recall", "energy_distance": "energy distance",
         "cost": "cost", "straightness": "straightness"}  # fmt: skip
"""What the table shows of the metrics."""
READ = {"intended_label": "higher is better", "fd_ratio": "lower is nearer to the data, 1 as near as training pictures",
        "recall": "higher is more varied", "energy_distance": "lower is nearer to the data", "cost": "lower is a shorter way",
        "straightness": "0 is straight"}  # fmt: skip
"""Which way they are read."""


def _show(rows: list[dict[str, Any]]) -> None:
    """A table, or where the terminal is too narrow for it a paragraph for each row: no word is cut."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    shown = [name for name in NAMES if name in rows[0]]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("", "w", "NFE", *(NAMES[name] for name in shown), "ms a sample"):
        table.add_column(title.replace(" ", "\n", 1) if len(title) > len("FD / floor") else title)
    told = []
    for row in rows:
        numbers = {n: f"{row[n]:.1%}" if n == "intended_label" else f"{row[n]:.4g}" for n in shown if n in row}
        who, plan, w, ms = row["who"], Path(row["plan"]).name, f"{row['guidance']:g}", f"{row['milliseconds']:.2f}"
        table.add_row(f"{who}\n{plan}", w, str(row["evaluations"]), *(numbers.get(n, "") for n in shown), ms)
        said = ", ".join(f"{NAMES[n]} {number}" for n, number in numbers.items())
        told.append(f"{who}, {plan}, w {w}: {said}, NFE {row['evaluations']}, {ms} ms a sample")
    console = Console()
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
    else:
        for text in told:
            console.print(text, highlight=False, soft_wrap=False)
    console.print("; ".join([f"{NAMES[n]}: {READ[n]}" for n in shown] + ["NFE: evaluations of the network"]), highlight=False)
