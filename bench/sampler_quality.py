"""Error of samplers for each network evaluation they may spend, where the exact answer is known; ours beside the peers.

    python bench/sampler_quality.py                                   # everything not yet in the table: hours
    python bench/sampler_quality.py --peers langevin --again          # ours, measured again
    python bench/sampler_quality.py --peers langevin diffusers --targets moons --nfe 10 --only dpmpp
    python bench/sampler_report.py                                    # tables and plots of what there is

Deterministic solvers: RMS per coordinate between where they end and where the probability flow does, from the same starts
(the CSV of --out). Stochastic ones, and some deterministic ones for scale: energy distance and sliced Wasserstein-2 to exact
samples (the CSV beside it, `..._law`). Starts are drawn from the exact marginal at the schedule's largest noise, so that the
solver's is the only error. Numbers are deterministic up to the rounding of the machine; one evaluation is one batched call.
"""

import argparse
import datetime
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
from quality import metrics, noise, peers, reference, table, targets
from quality.peers.base import Peer, Solver
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rows import parsed
from torch import Tensor

NFE = (5, 8, 10, 15, 20, 30, 50, 100)
TOLERANCES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)  # of adaptive solvers, until one spends more than MOST
MOST = 400
STARTS = 512
EXACT = Solver(noise.ALL)  # exact samples, scored as if a solver had made them
LAW_COUNT = {"gmm2d": 4096, "digits": 1024, "moons": 2048, "wide": 2048, "tight": 2048}  # guided targets have no known law


def starts(target: targets.Mixture, own: noise.Noise, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """(B, D) states of the exact marginal at the largest noise, float64, and the classes of a guided target."""
    generator = torch.Generator().manual_seed(seed)
    classes = None if target.guidance is None else torch.randint(0, 10, (count,), generator=generator)
    x = target.draw(count, generator, classes)
    return own.alpha * x + own.sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64), classes


@dataclass(frozen=True)
class Case:
    """One solver at one budget on one target and schedule; `part` is "endpoint" or "law"."""

    part: str
    peer: str
    solver: str
    target: str
    schedule: str
    budget: float

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """What it shares with its solver's other budgets."""
        return self.part, self.target, self.schedule, self.peer, self.solver

    @property
    def row(self) -> table.Row:
        """The key of its row."""
        return {name: str(getattr(self, name)) for name in table.KEY}


@dataclass
class Problem:
    """A target on a schedule: starts and exact answers, made when they are first asked for."""

    target: targets.Mixture
    noise: noise.Noise

    @cached_property
    def endpoint(self) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        start, classes = starts(self.target, self.noise, STARTS, 0)
        return start, classes, reference.endpoints(self.target, self.noise, start, classes)

    @cached_property
    def law(self) -> tuple[Tensor, metrics.Law]:
        count = LAW_COUNT[self.target.name]
        return starts(self.target, self.noise, count, 1)[0], metrics.Law(self._draw(0))

    def _draw(self, i: int) -> Tensor:
        return self.target.draw(LAW_COUNT[self.target.name], torch.Generator().manual_seed(100 + i))

    def floor(self, case: Case) -> table.Row:
        """What exact samples score, the mean of five draws."""
        _, law = self.law
        draws = [self._draw(i) for i in range(1, 6)]
        energy, sliced = torch.tensor([law.energy(x) for x in draws]), torch.tensor([law.sliced_w2(x) for x in draws])
        said = f"noise floor, 5 draws: energy std {energy.std():.1e}; sliced W2 std {sliced.std():.1e}"
        scores = {"energy": f"{energy.mean():.4e}", "sliced_w2": f"{sliced.mean():.4e}", "resid": "1.0000"}
        return case.row | {"stochastic": "", "nfe": "0", **scores, "error": said}

    def measure(self, case: Case, peer: Peer) -> table.Row:
        """The case's row; a solver that fails says why in the column `error`."""
        solver = peer.SOLVERS[case.solver]
        kind = {"adaptive": solver.adaptive} if case.part == "endpoint" else {"stochastic": solver.stochastic}
        row = case.row | {name: str(int(value)) for name, value in kind.items()}
        try:
            scores = self._endpoint_scores(case, peer) if case.part == "endpoint" else self._law_scores(case, peer)
            return row | scores
        except Exception as error:  # whatever a peer raises is its result
            lines = str(error).splitlines()
            return row | {"error": f"{type(error).__name__}: {lines[0][:120] if lines else ''}"}

    def _endpoint_scores(self, case: Case, peer: Peer) -> table.Row:
        start, classes, ends = self.endpoint
        x, spent = self._run(case, peer, start, classes)
        errors = metrics.endpoint_errors(x, ends)
        own = min(errors, key=lambda end: errors[end][0])
        return spent | {
            "rms": f"{errors['zero'][0]:.4e}",
            "median": f"{errors['zero'][1]:.4e}",
            "endpoint": own,
            "rms_own_endpoint": f"{errors[own][0]:.4e}",
            "median_own_endpoint": f"{errors[own][1]:.4e}",
            "flipped": f"{metrics.flipped(self.target, x, ends['zero']):.4f}",
            "resid": f"{metrics.spread(self.target, x):.4f}",
        }

    def _law_scores(self, case: Case, peer: Peer) -> table.Row:
        start, law = self.law
        x, spent = self._run(case, peer, start, None)
        return spent | {
            "energy": f"{law.energy(x):.4e}",
            "sliced_w2": f"{law.sliced_w2(x):.4e}",
            "resid": f"{metrics.spread(self.target, x):.4f}",
        }

    def _run(self, case: Case, peer: Peer, start: Tensor, classes: Tensor | None) -> tuple[Tensor, table.Row]:
        network = targets.Network(self.target, classes)
        torch.manual_seed(1234)  # peers draw from the global generator
        x = peer.sample(case.schedule, network, start.view(-1, *self.target.shape), case.budget, case.solver)
        if not peer.SOLVERS[case.solver].adaptive and network.nfe > case.budget:
            raise RuntimeError(f"used {network.nfe} evaluations of {case.budget}")
        return x.reshape(len(start), -1).double(), {"nfe": str(network.nfe), "setup_nfe": str(network.setup_nfe)}


def cases(args: argparse.Namespace, loaded: dict[str, Peer]) -> Iterator[Case]:
    """All that was asked for, those of one target and schedule together."""

    def chosen(solver: Solver, part: str, schedule: str, target: str) -> bool:
        fits = not solver.stochastic if part == "endpoint" else target in LAW_COUNT and (solver.stochastic or solver.law)
        return fits and schedule in solver.schedules

    for part in args.parts:
        for target in args.targets:
            for schedule in args.schedules:
                if part == "law" and target in LAW_COUNT:
                    yield Case(part, "exact samples", "exact samples", target, schedule, 0)
                for name, peer in loaded.items():
                    for solver, what in peer.SOLVERS.items():
                        if chosen(what, part, schedule, target) and any(part_of in solver for part_of in args.only):
                            for budget in TOLERANCES if what.adaptive else args.nfe:
                                yield Case(part, name, solver, target, schedule, budget)


def load(names: list[str]) -> dict[str, Peer]:
    """The peers that are installed."""
    loaded = {}
    for name in names:
        try:
            loaded[name] = peers.load(name)
        except ImportError as error:
            print(f"left out {name}: {error}")
    if "langevin" in loaded:
        for name, why in importlib.import_module(peers.PEERS["langevin"]).MISSING.items():
            print(f"left out langevin {name}: {why}")
    return loaded


def spent_enough(row: table.Row, solver: Solver) -> bool:
    """An adaptive solver is not asked for less error than it has bought for more than MOST evaluations."""
    return solver.adaptive and row.get("nfe", "") != "" and int(row["nfe"]) > MOST


def run(args: argparse.Namespace) -> None:
    paths = {"endpoint": args.out, "law": table.law_path(args.out)}
    columns = {"endpoint": table.ENDPOINT, "law": table.LAW}
    done = {part: {} if args.again else table.read(path) for part, path in paths.items()}
    loaded = load(args.peers)
    problems: dict[tuple[str, str], Problem] = {}
    source = f"measured {datetime.date.today().isoformat()}"
    bars = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*bars) as progress:
        every = list(cases(args, loaded))
        task = progress.add_task("samplers", total=len(every))
        for (part, target, schedule, peer, solver), group in groupby(every, key=lambda case: case.group):
            progress.update(task, description=f"{target} {schedule} {peer} {solver}")
            what = loaded[peer].SOLVERS[solver] if peer in loaded else EXACT
            fresh, enough = [], False
            for case in group:
                row = done[part].get(table.key(case.row))
                if row is None and not enough:
                    if (target, schedule) not in problems:  # the last one is let go
                        problems = {(target, schedule): Problem(targets.get(target), noise.get(schedule))}
                    problem = problems[target, schedule]
                    row = problem.measure(case, loaded[peer]) if peer in loaded else problem.floor(case)
                    fresh.append(row | {"source": source})
                enough = enough or (row is not None and spent_enough(row, what))
                progress.advance(task)
            if fresh:
                table.add(paths[part], fresh, columns[part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(peers.PEERS), choices=list(peers.PEERS))
    parser.add_argument("--targets", nargs="+", default=list(targets.TARGETS), choices=list(targets.TARGETS))
    parser.add_argument("--schedules", nargs="+", default=list(noise.NOISES), choices=list(noise.NOISES))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE), help="budgets of evaluations")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of solvers' names")
    parser.add_argument("--parts", nargs="+", default=["endpoint", "law"], choices=["endpoint", "law"])
    parser.add_argument("--again", action="store_true", help="measure what is in the table already")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/sampler_quality.csv"))
    args = parsed(parser)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")  # of the peers
    run(args)


if __name__ == "__main__":
    main()
