"""What is asked of the library, beside what its committed results say: met, missed, or not measured yet.

    python bench/bars.py --out bench/results/bars.md

Runs nothing: it reads the tables of bench/results. A bar is a bound on one number, or on its ratio to another of the same table
or its difference from it.
Exit status 1 if a bar is missed or not measured.
"""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Number:
    """A column of the rows of a table that have these values; the worst of them where several do."""

    file: str
    column: str
    of: Mapping[str, str]

    def read(self, folder: Path, worst: bool) -> float | None:
        """The largest (worst = True) or smallest of the numbers; None where there is none."""
        path = folder / self.file
        if not path.exists():
            return None
        with path.open(newline="") as lines:
            rows = json.load(lines) if path.suffix == ".json" else list(csv.DictReader(lines))
        found = [float(r[self.column]) for r in rows if all(str(r.get(k)) == v for k, v in self.of.items())]
        return (max(found) if worst else min(found)) if found else None


@dataclass(frozen=True)
class Bar:
    """value <= bound, or >= if `least`; the bound times `beside` where that is given, or beside + bound if `more`."""

    area: str
    about: str
    value: Number
    bound: float
    beside: Number | None = None
    least: bool = False
    more: bool = False

    def judge(self, folder: Path) -> tuple[float | None, float | None]:
        """(The value, or its ratio to what it stands beside, if `more` its difference; the slack in the direction that is asked
        for, >= 0 where met)."""
        value = self.value.read(folder, not self.least)
        if self.beside is not None:
            other = self.beside.read(folder, self.least)
            value = None if value is None or other is None else value - other if self.more else value / other
        slack = None if value is None else (value - self.bound if self.least else self.bound - value)
        return value, slack


def _few(problem: str, measure: str, **of: str) -> Number:
    return Number("few_steps.csv", "quality", {"problem": problem, "who": "ours", "measure": measure, **of})


def _moons(method: str, plan: str, measure: str = "W2") -> Number:
    return _few("moons", measure, method=method, plan=plan)


def _bars() -> list[Bar]:
    made: list[Bar] = []
    flows, few, discrete = "flows", "few steps", "categories, text, graphs"
    one, straight = "euler:1", "straightness"
    learned, board = {"what": "path learned with its network"}, {"problem": "checkerboard"}
    reflow, flow = _moons("reflow", one), _moons("flow matching", one)
    made += [
        Bar(flows, "moons: W2 of one Euler step after a reflow, beside before", reflow, 1 / 6, flow),
        Bar(flows, "moons: straightness after a reflow, beside before", _moons("reflow", "100 steps", straight), 1 / 50,
            _moons("flow matching", "100 steps", straight)),
        Bar(flows, "moons: OT-CFM in 2 steps, W2 beside CFM", _moons("OT flow matching", "euler:2:grid=uniform"), 0.5,
            _moons("flow matching", "euler:2:grid=uniform")),
        Bar(flows, "normals: energy of a learned path, beside optimal transport's", Number("paths.csv", "value", learned), 1.01,
            Number("paths.csv", "least", learned)),
        Bar(flows, "checkerboard: nats over the entropy", Number("paths.csv", "value", board), 0.25,
            Number("paths.csv", "least", board), more=True),
        *[Bar(flows, f"{name}: nats over the full-covariance Gaussian, worst split",
              Number("tabular.csv", "difference", {"set": name}), 0.0) for name in ("wine", "breast cancer", "diabetes")],
        *[Bar(flows, f"digits {a} to {b}: seen as the target", Number("transfer.json", "seen_as_target",
              {"from": str(a), "split": "held out"}), 0.9, least=True) for a, b in ((3, 8), (8, 3))],
    ]  # fmt: skip
    teacher = _moons("EDM teacher", "heun:18:grid=karras")
    for method, plan, most in (
        ("consistency distillation", "consistency:1:grid=karras", 1.2),
        ("improved consistency training", "consistency:1:grid=karras", 1.5),
        ("improved MeanFlow", "ddim:1", 2.0),
    ):
        made.append(Bar(few, f"moons: {method} in one step, W2 beside the teacher's 18", _moons(method, plan), most, teacher))
    game, single = "adversarial distillation", "consistency:1"
    learned_one = _moons("consistency distillation", "consistency:1:grid=karras")
    made += [
        Bar(few, f"moons: {game} in one step, W2 over that of consistency distillation", _moons(game, single), 0.02, learned_one,
            more=True),
        Bar(few, f"moons: {game}, share of the smaller moon", _moons(game, single, "share of the smaller moon"), 0.4, least=True),
    ]  # fmt: skip
    halved = [f"ddim:{steps}:grid=uniform" for steps in (32, 16, 8, 4, 2, 1)]
    for before, after in pairwise(halved):
        made.append(Bar(few, f"moons: progressive distillation to {after.split(':')[1]}, W2 beside twice the steps",
                        _moons("progressive distillation", after), 1.25, _moons("progressive distillation", before)))  # fmt: skip
    for w, strength in (("1", ""), ("3", " at w=3")):
        label = _few("digits", "intended label", method="lcm to 3", plan=f"consistency:4:grid=uniform{strength}")
        fifty = _few("digits", "intended label", method="teacher in 50", plan=f"ddim:50{strength}")
        made.append(Bar(few, f"digits: lcm to 3 in 4 steps at w = {w}, label as intended, beside the teacher's 50", label, 0.9,
                        fifty, least=True))  # fmt: skip
    # the plans of one and of several steps
    shown = {
        "digits": {
            "improved MeanFlow": ("ddim:1", "ddim:4:grid=uniform"),
            "improved consistency training": ("consistency:1:grid=karras", "consistency:4:grid=karras"),
            "shortcut": ("ddim:1", "ddim:4:grid=uniform"),
            "lcm": ("consistency:1", "consistency:4:grid=uniform"),
            "consistency": ("consistency:1", "consistency:4:grid=uniform"),
            "dmd": ("consistency:1", None),
            "dmd in 2": (None, "consistency:2:grid=uniform"),
        },
        "mnist": {
            "improved consistency training": ("consistency:1:grid=karras", "consistency:2:grid=angle;center=0.7"),
            "lcm": ("consistency:1", "consistency:4:grid=uniform"),
        },
    }
    within = {"digits": 600.0, "mnist": 2400.0}
    for problem, methods in shown.items():
        taught = _few(problem, "FD / floor", method="teacher", plan="dpmpp:20")
        for method, (single, several) in methods.items():
            if single:
                label = _few(problem, "intended label", method=method, plan=single)
                made.append(Bar(few, f"{problem}: {method} in one step, label as intended", label, 0.96, least=True))
                distance = _few(problem, "FD / floor", method=method, plan=single)
                made.append(Bar(few, f"{problem}: {method} in one step, FD beside the teacher's 20", distance, 2.0, taught))
            if several:
                distance, steps = _few(problem, "FD / floor", method=method, plan=several), several.split(":")[1]
                made.append(Bar(few, f"{problem}: {method} in {steps} steps, FD beside the teacher's 20", distance, 1.3, taught))
            of = {"problem": problem, "who": "ours", "method": method, "plan": single or several, "processes": "2"}
            seconds = Number("few_steps.csv", "training_seconds", of)
            made.append(Bar(few, f"{problem}: {method}, seconds of training by 2 processes on 2 cores", seconds, within[problem]))
    bits = "bits/dim of 100 steps"
    for kernel in ("absorbing", "uniform", "marginal", "gaussian", "neighbours"):
        value = Number("discrete.csv", "value", {"part": "digits", "model": kernel, "measure": bits})
        made.append(Bar(discrete, f"digits, 17 levels, {kernel}: bits/dim", value, 2.0))
    by_flow = Number("discrete.csv", "value", {"part": "digits", "model": "uniform, by flow matching", "measure": bits})
    uniform = Number("discrete.csv", "value", {"part": "digits", "model": "uniform", "measure": bits})
    made.append(Bar(discrete, "digits: discrete flow matching beside D3PM, uniform, bits/dim", by_flow, 1.1, uniform))
    bayes = Number("bayesian_flow.csv", "value", {"data": "digits, binary", "measure": "bits/dim, continuous time"})
    made.append(Bar(discrete, "binary digits by Bayesian flow: bits/dim", bayes, 0.43))
    text = Number(
        "discrete.csv", "value", {"part": "licences", "measure": "bits/character", "model": "masked, dilated convolutions"}
    )
    made.append(Bar(discrete, "text (licences), masked: bits/character", text, 2.0))
    both, before = (
        Number("discrete.csv", "value", {"part": "infill", "measure": "bits/character", "model": f"masked, given {what}"})
        for what in ("both sides", "what is before")
    )
    made.append(Bar(discrete, "Shakespeare, a middle half: bits given both sides beside given what is before", both, 1.0, before))

    def graph(run: str, plan: str, measure: str) -> Number:
        return Number("graphs.csv", "value", {"run": run, "plan": plan, "measure": measure})

    for run, plan, measure, bound in (
        ("nci-graph", "ddpm:100", "valid", 0.88), ("nci-graph", "ddpm:100", "connected", 0.75),
        ("nci-graph", "ddpm:100", "unique", 0.90), ("qm9-graph", "ddpm:500", "valid", 0.90),
        ("qm9-graph", "ddpm:500", "connected", 0.90), ("qm9-graph", "ddpm:500", "unique", 0.95),
    ):  # fmt: skip
        made.append(Bar(discrete, f"{run}, {plan}: {measure}", graph(run, plan, measure), bound, least=True))
    fast, slow = (graph("qm9-graph", plan, "valid") for plan in ("defog:50", "ddpm:500"))
    made.append(Bar(discrete, "qm9-graph: valid by DeFoG in 50 steps beside 500 of DiGress", fast, 0.97, slow, True))
    for run, plan in (("community", "ddpm:200"), ("community-gdss", "splitting:250:snr=0.1"),
                      ("community-edp", "annealed_langevin:6:per_level=100,size=0.05")):  # fmt: skip
        made.append(Bar(discrete, f"{run}: MMD ratio", graph(run, plan, "ratio"), 3.0))
    for what, measure, least in (
        ("tokens rounded to the nearest point", "rounding: argmax p(w | x) is the nearest point", 0.98),
        ("accuracy of tokens at level 0.25", "token accuracy of x^ at t = 0.25", 0.9),
    ):
        value = Number("text_control.csv", "controlled", {"measure": measure})
        made.append(Bar(discrete, f"E2E by Diffusion-LM: {what}", value, least, least=True))
    return made + _edits() + _through_kills()


def _through_kills() -> list[Bar]:
    def mnist(column: str) -> Number:
        return Number("killed.csv", column, {"recipe": "mnist"})

    return [
        Bar("training", "MNIST on two cores through two SIGKILLs: minutes", mnist("minutes"), 40.0),
        Bar("training", "MNIST so trained: intended label at w = 1", mnist("intended_label"), 0.98, least=True),
        Bar("training", "MNIST so trained: FD beside that of training pictures", mnist("fd_ratio"), 1.5),
    ]


def _edits() -> list[Bar]:
    edits = "scores and edits"

    def score(model: str, of: str) -> Number:
        return Number("scores.csv", "value", {"part": "likelihood", "of": model, "method": of})

    def restored(task: str, measure: str) -> Number:
        return Number("restoring.csv", "value", {"task": task, "measure": measure})

    def accuracy(arm: str) -> Number:
        return Number("augment.csv", "value", {"measure": "median accuracy", "arm": arm})

    def read(arm: str) -> Number:
        return Number("drawings.csv", "value", {"measure": "median tanimoto", "arm": arm})

    def fd(arm: str) -> Number:
        return Number("drawings.csv", "value", {"measure": "fd", "arm": arm})

    varying = "coverage of 90 % intervals, hidden pixels that vary"
    covered = (
        ("MNIST, lower half", restored("inpaint", varying)),
        ("MNIST, super-resolution", restored("super-resolution", varying)),
        ("colourisation", Number("colouring.csv", "value", {"measure": "coverage of 90 % intervals, pixels"})),
    )
    names = {"mmps": "MMPS", "pgdm": "PiGDM", "dps": "DPS", "repaint": "RePaint"}

    def worse(method: str, data: str, budget: int) -> Number:
        return Number("inverse_best.csv", "excess", {"method": method, "data": data, "budget": str(budget)})

    shows = restored("inpaint", "digit recognised, what most samples show")
    both = "halves, checked + classical"
    return [
        Bar(edits, "digits: bits/dim by the probability flow", score("digits-likelihood", "flow"), 2.2),
        Bar(edits, "MNIST, lower half: digit most samples show, beside the posterior mean by regression", shows, 1.0,
            restored("inpaint", "digit recognised, regression"), True),
        *[Bar(edits, f"{name}: coverage of 90 % intervals, at most", value, 0.97) for name, value in covered],
        *[Bar(edits, f"{name}: coverage of 90 % intervals, at least", value, 0.80, least=True) for name, value in covered],
        *[Bar(edits, f"{name} on {data} data, {budget} passes: energy distance, ours less azula's, beyond chance",
              worse(method, data, budget), 0.0)
          for method, name in names.items() for data in ("normal", "mixture") for budget in (60, 200)],
        Bar(edits, "200 MNIST labels, augmented, beside none", accuracy("halves, checked by classical"), 1 + 0.015 / 0.891,
            accuracy("none"), True),
        Bar(edits, "200 MNIST labels, augmented too, beside shifts and bends", accuracy(both), 1.0, accuracy("classical"), True),
        Bar(edits, "drawings: Tanimoto, augmented, beside as they are", read("augmented"), 1.0, read("by hand"), True),
        Bar(edits, "drawings: Tanimoto, augmented and bent, beside bent", read("augmented + classical"), 1.0,
            read("classical"), True),
        Bar(edits, "drawings: FD of what is new, beside clean depictions", fd("new"), 1.0, fd("clean depictions")),
    ]  # fmt: skip


BARS = _bars()


def judged(folder: Path = RESULTS, bars: Sequence[Bar] = BARS) -> list[tuple[Bar, str, str, str]]:
    """Each bar with what was found, what is asked, and "met", "missed" or "not measured"."""
    made: list[tuple[Bar, str, str, str]] = []
    for bar in bars:
        value, slack = bar.judge(folder)
        said = "not measured" if slack is None else "met" if slack >= 0 else "missed"
        than = "" if bar.beside is None else " more" if bar.more else " times"
        asked = f"{'at least' if bar.least else 'at most'} {bar.bound:.4g}{than}"
        made.append((bar, "" if value is None else f"{value:.4g}", asked, said))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder of tables")
    parser.add_argument("--out", type=Path, help="writes the table as Markdown")
    parser.add_argument("--measured", action="store_true", help="shows and counts what the folder has measured alone")
    from rows import parsed  # whoever reads this file's bars need not have its folder in the path

    asked = parsed(parser)
    rows = [row for row in judged(asked.results) if not asked.measured or row[-1] != "not measured"]
    table = Table("area", "what", "found", "asked", "")
    for bar, found, wanted, said in rows:
        table.add_row(bar.area, bar.about, found, wanted, said, style={"met": "", "missed": "bold red"}.get(said, "yellow"))
    Console().print(table)
    if asked.out is not None:
        asked.out.write_text(markdown(rows))
    missing = sum(said != "met" for *_, said in rows)
    print(f"{len(rows) - missing} of {len(rows)} bars are met.")
    sys.exit(missing > 0)


def markdown(rows: Sequence[tuple[Bar, str, str, str]]) -> str:
    lines = ["| area | what | found | asked | |", "|---|---|---|---|---|"]
    lines += [f"| {bar.area} | {bar.about} | {found} | {wanted} | {said} |" for bar, found, wanted, said in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
