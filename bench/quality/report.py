"""Tables and plots of what was measured: error against evaluations, ours beside the best that any peer does.

"Best peer" is chosen anew for each target, schedule and number of evaluations, knowing the answers: no one solver does all of
it. "Best ready-made" is chosen in the same way among our plans without settings found for the model. "default", "auto" and
"tuned" are each one plan, chosen without the answers.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from quality.table import Row

OURS = "langevin"
CHOSEN = {"default": "tab:blue", "auto": "tab:green", "tuned": "tab:red"}
READY = "best ready-made"


class Score(NamedTuple):
    """An error, and the solver that made it."""

    value: float
    solver: str


Curve = dict[int, Score]  # by evaluations


def curves(rows: Iterable[Row], metric: str) -> dict[tuple[str, str], Curve]:
    """(peer, solver) -> error at each budget; an adaptive solver counts with its best run within the budgets of the others."""
    out: dict[tuple[str, str], Curve] = {}
    rows = list(rows)
    fixed = sorted({int(row["budget"]) for row in rows if row.get("adaptive") != "1"})
    for row in rows:
        value = float(row[metric] or "nan")
        if not math.isfinite(value):
            continue
        curve = out.setdefault((row["peer"], row["solver"]), {})
        budgets = [n for n in fixed if int(row["nfe"]) <= n] if row.get("adaptive") == "1" else [int(row["budget"])]
        for n in budgets:
            if n not in curve or value < curve[n].value:
                curve[n] = Score(value, row["solver"] if row["peer"] == OURS else f"{row['peer']} {row['solver']}")
    return out


def lowest(every: Iterable[Curve]) -> Curve:
    """The least error at each budget, and whose it is."""
    out: Curve = {}
    for curve in every:
        for n, score in curve.items():
            if n not in out or score < out[n]:
                out[n] = score
    return dict(sorted(out.items()))


def compared(rows: Iterable[Row], metric: str) -> dict[str, Curve]:
    """The curves that are compared: "best peer", "best ready-made", and each chosen plan of ours that was measured."""
    every = curves(rows, metric)
    out = {
        "best peer": lowest(c for (peer, _), c in every.items() if peer not in (OURS, "exact samples")),
        READY: lowest(c for (peer, solver), c in every.items() if peer == OURS and solver not in CHOSEN),
    }
    return out | {name: dict(sorted(every[OURS, name].items())) for name in CHOSEN if (OURS, name) in every}


def places(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by (target, schedule)."""
    out: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        out.setdefault((row["target"], row["schedule"]), []).append(row)
    return dict(sorted(out.items()))


def markdown(endpoint: list[Row], law: list[Row]) -> str:
    """All tables."""
    lines = ["# Error of samplers by network evaluations", "", *_introduction(endpoint, law), ""]
    for metric, said in {"rms": "RMS over starts", "median": "median over starts"}.items():
        lines += [f"## Ours over the best peer, {said}", "", *_overall(endpoint, metric)]
    lines += _noisy_overall(law)
    for (target, schedule), rows in places(endpoint).items():
        lines += [f"## {target}, {schedule}", "", *_table(compared(rows, "rms")), ""]
    for (target, schedule), rows in places(law).items():
        floor = next((row for row in rows if row["peer"] == "exact samples"), None)
        said = "" if floor is None else f" (exact samples: {float(floor['energy']):.1e}; {floor['error']})"
        lines += [f"## {target}, {schedule}: law", "", f"Squared energy distance to exact samples{said}.", ""]
        lines += [*_table(compared(rows, "energy")), ""]
        found = {f"{name}, {what}": c for what, cs in noisy(rows).items() for name, c in cs.items()}
        lines += ["With fresh noise alone: energy distance, and within-mode spread less 1, by size.", "", *_table(found), ""]
    return "\n".join(lines).rstrip() + "\n"


MEASURES = {"energy": "energy", "spread": "spread"}
"""Of samples as a law, by the column of their rows; see `noisy`."""


def noisy(rows: Iterable[Row]) -> dict[str, dict[str, Curve]]:
    """The curves of samplers with fresh noise alone, by measure: "energy", the squared energy distance; and "spread", how far the
    RMS distance to the nearest mode is from the modes' own standard deviation, in units of it (0 where modes have the right
    width). Each measure has its own best sampler."""
    drawn = [{**row, "spread": str(abs(float(row["resid"] or "nan") - 1))} for row in rows if row["stochastic"] == "1"]
    return {what: compared(drawn, column) for what, column in MEASURES.items()}


def _noisy_overall(law: list[Row]) -> list[str]:
    return [
        "## Fresh noise: ours and the best peer", "",
        "Cells (target and schedule) in which our best plan with fresh noise is at most the best peer's, or within the spread of",
        "five draws of exact samples of it (energy), or within 0.01 of it (spread). The best of many peers' energies often lies",
        "below that of exact samples, by the draw: the third column also counts energies no more than exact samples'.", "",
        *noisy_summary(law), "",
    ]  # fmt: skip


def noisy_summary(law: list[Row]) -> list[str]:
    """How often our best ready-made plan with fresh noise is at most the best peer's, by budget."""
    lines = ["| evaluations | energy | energy, or at most exact samples' | within-mode spread |", "|---|---|---|---|"]
    wins: dict[int, dict[str, list[bool]]] = {}
    for rows in places(law).values():
        floor = next((row for row in rows if row["peer"] == "exact samples"), None)
        slack = {"energy": float(floor["error"].split("energy std ")[1].split(";")[0]) if floor else 0.0, "spread": 0.01}
        for what, found in noisy(rows).items():
            for n, score in found[READY].items():
                if n in found["best peer"]:
                    most = found["best peer"][n].value
                    wins.setdefault(n, {}).setdefault(what, []).append(score.value <= most + slack[what])
                    if what == "energy":
                        least = max(most, float(floor["energy"])) if floor else most
                        wins[n].setdefault("exact", []).append(score.value <= least + slack[what])
    for n, by_measure in sorted(wins.items()):
        cells = [f"{sum(won)} of {len(won)}" if (won := by_measure.get(what)) else "-" for what in ("energy", "exact", "spread")]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return lines


def summary(endpoint: list[Row], targets: tuple[str, ...] = ("gmm2d", "digits", "digits_cfg3")) -> str:
    """For the page on plans: error over the best peer's, RMS / median, geometric mean over schedules (worst of them)."""
    cells: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for metric in ("rms", "median"):
        for (target, _), rows in places(r for r in endpoint if r["target"] in targets).items():
            found = compared(rows, metric)
            peer = found.pop("best peer")
            for name, curve in found.items():
                for n in set(curve) & set(peer):
                    cells.setdefault((target, name, n), {}).setdefault(metric, []).append(curve[n].value / peer[n].value)
    budgets = [n for n in (5, 8, 10, 15, 20, 30, 50) if any(key[2] == n for key in cells)]
    lines = ["| target | plan | " + " | ".join(map(str, budgets)) + " |", "|" + "---|" * (len(budgets) + 2)]
    for target in targets:
        for name in (READY, *CHOSEN):
            row = []
            for n in budgets:
                both = cells.get((target, name, n), {})
                row.append(" / ".join(f"{_mean(r)} ({max(r):.2f})" for r in both.values()) or "-")
            lines.append(f"| {target} | {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _introduction(endpoint: list[Row], law: list[Row]) -> list[str]:
    sources: dict[tuple[str, str], int] = {}
    for row in (*endpoint, *law):
        whose = ("ours" if row["peer"] == OURS else "peers", f"{row['target']}, {row['source']}")
        sources[whose] = sources.get(whose, 0) + 1
    said = "; ".join(f"{whose} on {what} ({count} rows)" for (whose, what), count in sorted(sources.items()))
    return [
        "Written by `bench/sampler_report.py`. Exact denoisers, so that the solver's error is the only one: RMS per coordinate",
        "to where the probability flow ends, over 512 starts. The best peer is chosen anew in each row, knowing the answers;",
        "so is our best ready-made plan. Default, auto and tuned are each one plan, chosen without them; the evaluations that",
        "auto and tuned spend before sampling are in the CSV (`setup_nfe`). Energy distances near that of exact samples are",
        "ties. One start of 512 that ends in another mode can make an RMS ten times larger: read it beside the median.",
        "",
        f"Sources: {said}.",
    ]


def _overall(endpoint: list[Row], metric: str) -> list[str]:
    """Geometric means over schedules of the ratio to the best peer, by target and budget; and how often it is below 1."""
    cells: dict[str, dict[tuple[str, int], list[float]]] = {}
    for (target, _), rows in places(endpoint).items():
        found = compared(rows, metric)
        peer = found.pop("best peer")
        for name, curve in found.items():
            for n, score in curve.items():
                if n in peer and peer[n].value > 0:
                    cells.setdefault(name, {}).setdefault((target, n), []).append(score.value / peer[n].value)
    lines = []
    for name, ratios in cells.items():
        targets, budgets = sorted({t for t, _ in ratios}), sorted({n for _, n in ratios})
        every = [r for rs in ratios.values() for r in rs]
        won = sum(r < 1 for r in every)
        lines += [
            f"**{name}**: below the best peer in {won} of {len(every)} cells. Geometric mean over schedules of the ratio:",
            "",
        ]
        lines += ["| target | " + " | ".join(str(n) for n in budgets) + " |", "|" + "---|" * (len(budgets) + 1)]
        for target in targets:
            row = [_mean(ratios.get((target, n), [])) for n in budgets]
            lines.append(f"| {target} | " + " | ".join(row) + " |")
        lines.append("")
    return lines or ["Nothing of ours is measured yet.", ""]


def _mean(ratios: list[float]) -> str:
    return f"{math.exp(sum(math.log(max(r, 1e-12)) for r in ratios) / len(ratios)):.2f}" if ratios else "-"


def _table(found: dict[str, Curve]) -> list[str]:
    budgets = sorted({n for curve in found.values() for n in curve})
    lines = ["| evaluations | " + " | ".join(found) + " |", "|" + "---|" * (len(found) + 1)]
    for n in budgets:
        cells = [_cell(name, curve.get(n)) for name, curve in found.items()]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return lines


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return "-"
    value = f"{score.value:.2e}"
    return value if name in CHOSEN else f"{value} {score.solver}"


def plot(endpoint: list[Row], folder: Path, stem: str) -> list[Path]:
    """One picture per target, one panel per schedule: peers grey, the best of them black, ours in colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    written = []
    by_target: dict[str, dict[str, list[Row]]] = {}
    for (target, schedule), rows in places(endpoint).items():
        by_target.setdefault(target, {})[schedule] = rows
    for target, schedules in by_target.items():
        figure, axes = plt.subplots(1, len(schedules), figsize=(3.6 * len(schedules), 3.6), sharey=True, squeeze=False)
        for axis, (schedule, rows) in zip(axes[0], schedules.items(), strict=True):
            _panel(axis, rows)
            axis.set_title(f"{target}, {schedule}", fontsize=10)
            axis.set_xlabel("network evaluations")
        axes[0][0].set_ylabel("RMS error per coordinate")
        handles = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(handles), frameon=False, fontsize=9)
        path = folder / f"{stem}_{target}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
        written.append(path)
    return written


def _panel(axis: Any, rows: list[Row]) -> None:
    for (peer, _), curve in curves(rows, "rms").items():
        if peer != OURS:
            ns = sorted(curve)
            axis.plot(ns, [curve[n].value for n in ns], color="0.8", linewidth=0.7, zorder=1, label="peers")
    for name, curve in compared(rows, "rms").items():
        colour = "black" if name == "best peer" else CHOSEN.get(name, "tab:orange")
        style = {"marker": "o", "markersize": 3, "linewidth": 1.6, "zorder": 3}
        axis.plot(list(curve), [s.value for s in curve.values()], color=colour, label=name, **style)
    axis.set(xscale="log", yscale="log", ylim=(1e-6, 3))
    axis.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axis.minorticks_off()
    axis.grid(True, color="0.92", linewidth=0.6)
