"""Quality against steps and training cost of every method that needs few of them, beside the peers' losses, in one run.

    python bench/few_steps.py moons --reference ../consistency_models     # a checkout of openai/consistency_models
    python bench/few_steps.py digits --teacher runs/digits                # students, one after the other
    python bench/few_steps.py digits --teacher runs/digits --only lcm     # one of them, by its name in DIGITS
    python bench/few_steps.py mnist --teacher runs/mnist                  # the same on MNIST, 40 to 90 minutes each
    python bench/few_steps.py plot

Two moons: one multilayer perceptron, one optimiser, one average and one number of updates for all, ours and theirs; what differs
is the loss (and its own schedule of levels). Measured is the exact 2-Wasserstein distance of 2,000 samples to 2,000 points of the
data, beside that of 2,000 other points (the floor); of progressive distillation that of each stage, of adversarial distillation
the share of the smaller moon as well. Peers: torchcfm (pip install --no-deps torchcfm pot) for flow matching with
and without minibatch optimal transport; the losses of openai/consistency_models for consistency distillation and training, whose
file is read from a checkout, with empty modules in place of what it imports and does not need here.

Digits, MNIST: class-conditional pictures judged as `langevin evaluate` does at w = 1, every row a run directory of its own
that a second start continues. Rows are appended to the csv as they are measured; what it holds already is not measured again.
A run is trained here by one process; one that several have trained before, of the same recipe, is judged as it is found:

    langevin train digits-shortcut --processes 2 --samples 0 --out runs/few_steps/shortcut

Rows of MNIST are of the recipe's teacher and under one classifier; students of another teacher are named with it.

Minutes of training on one core that is not shared. Measured, digits: consistency 9, lcm 10, improved consistency training 11,
shortcut 12, dmd 13, improved MeanFlow 14. Reckoned from the CPU time of a few updates beside that of consistency: guidance 5,
progressive 9, reflow and "reflow in 1" 9 each (3 of them for 20,000 pairs), trajectory 12, adversarial 13, continuous 14, "dmd in
2" 13, "lcm to 3" 3. "guided teacher" and "teacher in 50" train nothing. On MNIST by the clock of a shared core: lcm 40, improved
consistency training 83, shortcut 89. Judging takes some minutes more.

To see that a row runs: --updates 3 --samples 100 --results /tmp/check --runs /tmp/check/runs, which leaves the csv as it is.
"""

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import append
from rows import read as read_rows
from torch import Tensor

import langevin as lv
from langevin import manifest
from langevin.data import Prior
from langevin.objectives import Consistency, Denoising, MeanFlow, Objective, Shortcut
from langevin.objectives.adversarial import Adversarial
from langevin.objectives.consistency import growing, improved, slowing
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.coupling import OptimalTransport, Paired
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.progressive import Progressive
from langevin.objectives.trajectory import Trajectory
from langevin.tasks.reflow import pairs
from langevin.tasks.transport import transport

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "few_steps.csv"
COUNT, BATCH, RATE = 2000, 256, 2e-3
LONGER, GAME = 2, {"batch": 1024, "lr": 1e-3, "betas": (0.0, 0.99)}
"""Of a student with a critic, on two moons: times as many updates, larger batches, and optimisers without a first moment. Its
shares of the moons follow what a batch happens to have more of."""
FIELDS = (
    "problem", "who", "method", "plan", "evaluations", "quality", "measure", "recall", "training_seconds", "updates", "processes",
)  # fmt: skip
"""The last: by how many processes, of one core each, it was trained."""


# Two moons


def w2(a: Tensor, b: Tensor) -> float:
    """The exact 2-Wasserstein distance of two clouds of as many points."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(a.double(), b.double()).square()
    return float(cost[linear_sum_assignment(cost.numpy())].mean().sqrt())


def net(scalars: Sequence[str] = ()) -> torch.nn.Module:
    torch.manual_seed(0)
    return lv.networks.MLP(2, 128, 4, scalars=scalars)


def cloud(seed: int) -> tuple[Tensor, Tensor]:
    """Points of both moons, (COUNT, 2), and which of them each is of, (COUNT,)."""
    points = lv.data.two_moons(COUNT, 0.05, seed).batch(torch.arange(COUNT))
    assert isinstance(points.x, Tensor) and points.cond is not None
    return points.x, points.cond["label"]


class Moons:
    """The data without its labels, and one way to train whatever on it."""

    def __init__(self, updates: int) -> None:
        from langevin.data import Arrays

        points = lv.data.two_moons(20_000, 0.05, 0)
        self.data = Arrays(points.batch(torch.arange(len(points))).x)
        (self.real, self.label), (other, _) = (cloud(seed) for seed in (7, 8))
        self.floor, self.usual = w2(other, self.real), updates
        self.paired: Any = None
        self.folder = Path(tempfile.mkdtemp())

    def train(self, model: Any, objective: Objective, paired: bool = False) -> float:
        began, data = time.process_time(), self.paired if paired else self.data
        settings = {"steps": self.updates(objective), "batch": BATCH, "lr": RATE}
        if isinstance(objective, Adversarial):
            settings |= GAME
        lv.fit(model, data, objective=objective, progress=False, **settings)
        return time.process_time() - began

    def updates(self, objective: Objective) -> int:
        return self.usual * (LONGER if isinstance(objective, Adversarial) else 1)

    def judge(self, model: Any, plan: str) -> float:
        return w2(self.drawn(model, plan), self.real)

    def drawn(self, model: Any, plan: str) -> Tensor:
        return lv.sample(model, lv.plans.parse(plan), COUNT, seed=3)

    def smaller_moon(self, model: Any, plan: str) -> float:
        """The share of samples whose nearest point of the data is of the moon that has fewer of them: at most a half."""
        upper = float((self.label[torch.cdist(self.drawn(model, plan), self.real).argmin(1)] == 0).double().mean())
        return min(upper, 1 - upper)


class Theirs(Objective):
    """A peer's own loss, called by our loop: same network, optimiser, average and batches."""

    def __init__(self, loss: Callable[[Any, Tensor, float], Tensor], decay: Callable[[float], float] | None = None) -> None:
        super().__init__()
        self.loss, self.decay, self.done = loss, decay, 0.0

    def prepare(self, model: Any) -> None:
        from langevin.objectives.base import Networks

        self.nets = Networks({"slow": copy.deepcopy(model).requires_grad_(False)})

    def begin(self, model: Any, step: int, done: float) -> None:
        self.done = done

    def end(self, model: Any) -> None:
        from langevin.objectives.leaps import trail

        if self.decay is not None:
            trail(self.nets["slow"], model, self.decay(self.done))

    def forward(self, model: Any, batch: Any, noise: Any) -> Any:
        from langevin.objectives import Loss

        with torch.random.fork_rng():  # they draw from torch's own generator
            torch.manual_seed(int(noise.ids[0]))
            total = self.loss(self, model, batch.x)  # pyright: ignore
        return Loss(total, {"loss": total.detach()})


def flow_matching(transport: bool) -> Callable[..., Tensor]:
    """torchcfm's targets; its time runs from noise 0 to data 1."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher

    matcher = (ExactOptimalTransportConditionalFlowMatcher if transport else ConditionalFlowMatcher)(sigma=0.0)

    def loss(self: Any, model: Any, x: Tensor) -> Tensor:
        t, z, u = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)[:3]
        out = model.outputs({"": z}, {"": (1 - t).double()[:, None]}, None, None)[""]
        return (out + u).square().mean()  # our velocity points from data to noise

    return loss


def reference(checkout: Path, teacher: Any, distilled: bool) -> tuple[Callable[..., Tensor], Any]:
    """(openai/consistency_models' loss, the share its slow copy keeps): paper settings for a small image, "l2" distance."""
    for name in ("piq", "torchvision", "torchvision.transforms", "cm", "cm.dist_util"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["piq"].LPIPS = sys.modules["torchvision.transforms"].RandomCrop = object  # pyright: ignore
    sys.modules["cm"].__path__ = [str(checkout / "cm")]  # pyright: ignore
    sys.modules["cm"].dist_util = sys.modules["cm.dist_util"]  # pyright: ignore
    spec = importlib.util.spec_from_file_location("cm.karras_diffusion", checkout / "cm" / "karras_diffusion.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    student = module.KarrasDenoiser(sigma_data=SIGMA_DATA, distillation=True, weight_schedule="uniform", loss_norm="l2")
    plain = module.KarrasDenoiser(sigma_data=SIGMA_DATA, distillation=False, loss_norm="l2")

    def called(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, label: model.net(x, label)

    def loss(self: Any, model: Any, x: Tensor) -> Tensor:
        scales = 18 if distilled else growing(self.done)
        terms = student.consistency_losses(
            called(model), x, scales, target_model=called(self.nets["slow"]),
            teacher_model=called(teacher) if distilled else None, teacher_diffusion=plain,
        )  # fmt: skip
        return terms["loss"].mean()

    return loss, (lambda done: 0.95) if distilled else (lambda done: slowing(done, as_published_code=True))


SIGMA_DATA = 0.7


def edm_model() -> Any:
    """A denoiser under EDM's process, whose network is shown 250 log(sigma) as the reference's is."""
    return lv.Denoiser(net(), lv.Gaussian(lv.schedules.edm()), lv.predictions.edm(SIGMA_DATA, level="250log_sigma"))


class Stages(Progressive):
    """Keeps the student of each stage, and the teacher, under the plan of as many steps as it was trained for.

    A student of a stage is what the next one learns from: the weights as they are then, not their average.
    """

    def __init__(self, teacher: Any, steps: int) -> None:
        super().__init__(teacher, steps)
        self.plans = [f"ddim:{2 * steps >> k}:grid=uniform" for k in range(self.stages + 1)]
        self.students: dict[str, Any] = {self.plans[0]: teacher}

    def begin(self, model: Any, step: int, done: float) -> None:
        before = int(self.stage)
        super().begin(model, step, done)
        if int(self.stage) > before:
            self.students[self.plans[before + 1]] = copy.deepcopy(self.nets["last"])


def moons(updates: int, reference_at: Path | None, only: Sequence[str]) -> None:
    """Every method on two moons."""
    table = Moons(updates)
    flow = lv.Gaussian(lv.schedules.flow())
    taught: dict[str, Any] = {}
    uniform = ("euler:1", "euler:2:grid=uniform", "euler:4:grid=uniform", "euler:100:grid=uniform")
    leaps = ("ddim:1", "ddim:2:grid=uniform", "ddim:4:grid=uniform", "ddim:100:grid=uniform")
    karras = ("consistency:1:grid=karras", "consistency:2:grid=karras")

    def denoiser() -> Any:
        return lv.Denoiser(net(), flow, "velocity")

    def flow_map(level: str = "t") -> Any:
        return lv.FlowMap(net(("span",)), flow, lv.predictions.velocity(level))

    def angle() -> Any:
        return lv.Denoiser(net(), lv.Gaussian(lv.schedules.trigonometric()), lv.predictions.v(level="t"))

    def learned(name: str) -> Any:
        """A teacher, trained once."""
        if name not in taught:
            made = {"flow": denoiser, "edm": edm_model, "angle": angle}[name]
            taught[name] = made()
            table.train(taught[name], Denoising("edm", "lognormal_sigma") if name == "edm" else Denoising())
        return copy.deepcopy(taught[name]).requires_grad_(True)

    def teacher(name: str = "flow") -> Any:
        return learned(name).requires_grad_(False)

    # (who, method): model, objective, plans
    rows: dict[tuple[str, str], Callable[[], tuple[Any, Objective, Sequence[str]]]] = {
        ("ours", "flow matching"): lambda: (denoiser(), Denoising(), uniform),
        ("torchcfm", "flow matching"): lambda: (denoiser(), Theirs(flow_matching(False)), uniform),
        ("ours", "OT flow matching"): lambda: (denoiser(), Denoising(coupling=OptimalTransport()), uniform),
        ("torchcfm", "OT flow matching"): lambda: (denoiser(), Theirs(flow_matching(True)), uniform),
        ("ours", "EDM teacher"): lambda: (
            edm_model(),
            Denoising("edm", "lognormal_sigma"),
            ("heun:18:grid=karras", "heun:1:grid=karras"),
        ),
        ("ours", "consistency distillation"): lambda: (learned("edm"), Consistency(teacher("edm")), karras),
        ("ours", "consistency training"): lambda: (edm_model(), Consistency(None, growing, slowing), karras),
        ("ours", "improved consistency training"): lambda: (edm_model(), improved(last=160), karras),
        ("ours", "shortcut"): lambda: (flow_map("1000t"), Shortcut(decay=0.95), leaps),
        ("ours", "improved MeanFlow"): lambda: (flow_map(), MeanFlow(power=0.0), leaps),
        ("ours", "MeanFlow"): lambda: (flow_map(), MeanFlow(improved=False), leaps),
    }

    def latent() -> tuple[Any, Objective, Sequence[str]]:
        return (
            learned("flow"),
            LatentConsistency(teacher(), 1.0, original=20, distance="squared"),
            ("consistency:1", "consistency:2:grid=uniform"),
        )

    def progressive() -> tuple[Any, Objective, Sequence[str]]:
        halved = Stages(teacher(), 16)
        return learned("flow"), halved, halved.plans

    def matching() -> tuple[Any, Objective, Sequence[str]]:
        return learned("flow"), DistributionMatching(teacher(), every=2, rate=2.0), ("consistency:1",)

    def adversarial() -> tuple[Any, Objective, Sequence[str]]:
        judged = Adversarial(teacher(), (1.0,), distill=0.25, weighting="sds", r1=1.0, rate=4.0)
        return learned("flow"), judged, ("consistency:1",)

    def trajectory() -> tuple[Any, Objective, Sequence[str]]:
        leaper = lv.FlowMap(net(("span",)), edm_model().process, lv.predictions.edm(SIGMA_DATA))
        beside = Denoising("edm", "lognormal_sigma")
        plans = ("trajectory:1", "trajectory:2:grid=karras", "trajectory:4:grid=karras", "trajectory:4:gamma=1,grid=karras")
        return leaper, Trajectory(teacher("edm"), decay=0.95, denoising=beside), plans

    def reflow() -> tuple[Any, Objective, Sequence[str]]:
        starts = Prior(flow, (2,), 20_000, 5)
        table.paired = pairs(learned("flow").eval(), lv.plans.parse("heun:50:grid=uniform"), starts, table.folder / "pairs")
        return learned("flow"), Denoising(coupling=Paired()), uniform

    rows |= {
        ("ours", "latent consistency"): latent,
        ("ours", "progressive distillation"): progressive,
        ("ours", "distribution matching"): matching,
        ("ours", "adversarial distillation"): adversarial,
        ("ours", "continuous consistency"): lambda: (
            learned("angle"),
            ContinuousConsistency(teacher("angle")),
            ("consistency:1", "consistency:2:grid=uniform"),
        ),
        ("ours", "consistency trajectory"): trajectory,
        ("ours", "reflow"): reflow,
    }
    if reference_at is not None:
        for method, distilled in (("consistency distillation", True), ("consistency training", False)):

            def theirs(distilled: bool = distilled) -> tuple[Any, Objective, Sequence[str]]:
                model = learned("edm") if distilled else edm_model()
                return (
                    model,
                    Theirs(*reference(reference_at, teacher("edm") if distilled else None, distilled)),
                    karras,
                )

            rows["openai", method] = theirs
    write({"problem": "moons", "who": "data", "method": "floor", "quality": table.floor, "measure": "W2"})
    for (who, method), make in rows.items():
        if (only and method not in only) or written("moons", who, method):
            continue
        model, objective, plans = make()
        seconds = table.train(model, objective, method == "reflow")
        if isinstance(model.process, lv.Gaussian) and plans[0].startswith("euler"):
            flown = transport(model, lv.plans.parse("euler:100:grid=uniform"), Prior(flow, (2,), COUNT, 3))
            write({"problem": "moons", "who": who, "method": method, "plan": "100 steps", "measure": "straightness",
                   "quality": flown.straightness})  # fmt: skip
        students = getattr(objective, "students", {})
        for plan in plans:
            drawer, nfe = students.get(plan, model), lv.plans.parse(plan).on(model.process.schedule).nfe
            shared = {
                "problem": "moons", "who": who, "method": method, "plan": plan, "evaluations": nfe,
                "training_seconds": seconds, "updates": table.updates(objective), "processes": 1,
            }  # fmt: skip
            write({**shared, "quality": table.judge(drawer, plan), "measure": "W2"})
            if isinstance(objective, Adversarial):
                write({**shared, "quality": table.smaller_moon(drawer, plan), "measure": "share of the smaller moon"})


# Pictures

TWO, FOUR = "consistency:2:grid=uniform", "consistency:4:grid=uniform"
LEAPS = ("ddim:1", "ddim:2:grid=uniform", "ddim:4:grid=uniform")
STRAIGHT = ("euler:1", "euler:2:grid=uniform", "euler:4:grid=uniform")
GUIDED = 1.5
"""Strength at which a student that was taught guidance stands beside its teacher, which needs two evaluations for one."""
# method: (a recipe, the kind of student, or "teacher"), what is changed in its recipe, plans; those that are guided end in @ and
# the strength, GUIDED where none is said
DIGITS: dict[str, tuple[str, dict[str, Any], Sequence[str]]] = {
    "dmd in 2": ("to:dmd:2", {"train.steps": 2400, "train.ema": 0.995}, (TWO,)),
    "dmd": ("to:dmd", {"train.steps": 2400, "train.ema": 0.995}, ("consistency:1",)),
    "lcm": ("to:lcm", {"train.steps": 1800, "objective.w": (1.0, 2.0)}, ("consistency:1", TWO, FOUR)),
    # LCM's own w is one less than ours: 0 and 2
    "lcm to 3": ("to:lcm", {"train.steps": 500, "objective.w": (1.0, 3.0)}, ("consistency:1", FOUR, f"{FOUR}@3")),
    "teacher in 50": ("teacher", {}, ("ddim:50", "ddim:50@3")),
    "consistency": ("to:consistency", {"train.steps": 1800}, ("consistency:1", TWO, FOUR)),
    "improved MeanFlow": ("digits-mean-flow", {}, LEAPS),
    "shortcut": ("digits-shortcut", {}, LEAPS),
    "improved consistency training": (
        "digits-consistency", {}, ("consistency:1:grid=karras", "consistency:2:grid=karras", "consistency:4:grid=karras"),
    ),
    # 16 steps, halved at each fifth of the run
    "progressive": ("to:progressive", {"train.steps": 2000}, ("ddim:1",)),
    "adversarial": ("to:adversarial", {"train.steps": 1200, "train.ema": 0.995}, ("consistency:1",)),
    # what is known of short leaps reaches long ones through the slow copy, for which 0.999 is too slow in so short a run
    "trajectory": (
        "to:trajectory", {"train.steps": 1200, "objective.decay": 0.95}, ("ddim:1", "ddim:2:grid=angle", "ddim:4:grid=angle"),
    ),
    "continuous": ("to:continuous", {"train.steps": 2000}, ("consistency:1", TWO, FOUR)),
    "guided teacher": ("teacher", {}, ("dpmpp:20@", "default:4@")),
    "guidance": ("to:guidance", {"train.steps": 1200, "objective.w": (1.0, 2.0)}, ("dpmpp:20@", "default:4@")),
    "reflow": ("to:reflow", {"train.steps": 2000}, STRAIGHT),
    "reflow in 1": ("to:reflow:1", {"train.steps": 2000}, ("euler:1",)),
}  # fmt: skip

MNIST: dict[str, tuple[str, dict[str, Any], Sequence[str]]] = {
    "lcm": ("to:lcm", {"train.steps": 2400, "objective.w": (1.0, 1.5)}, ("consistency:1", TWO, FOUR)),
    # fewer halvings and a larger share: each batch has eight of the longest leap, where finest=6 and a quarter gave it three
    "shortcut": (
        "to:shortcut",
        {
            "train.steps": 5000,
            "train.optimiser": "muon",
            "objective.finest": 4,
            "objective.share": 0.5,
            "network.dropout": 0.0,
        },
        LEAPS,
    ),
    # on Karras's grid the second level is so low that 2 steps are no better than 1, and 4 are behind 2 on these
    "improved consistency training": (
        "mnist-consistency",
        {},
        (
            "consistency:1:grid=karras",
            "consistency:2:grid=angle;center=0.7",
            "consistency:3:grid=angle",
            "consistency:4:grid=angle",
        ),
    ),
}
PICTURES = {"digits": DIGITS, "mnist": MNIST}
TAUGHT = ("dpmpp:20", "default:4", "default:2", "ddim:1")
"""Plans of the teacher: the first is what students are measured by, whatever plan its recipe has."""


def strength(said: str) -> tuple[str, float, str]:
    """The plan, w, and what the table says of both, of a plan in DIGITS or MNIST."""
    plan, at, w = said.partition("@")
    w = float(w or GUIDED) if at else 1.0
    return plan, w, plan if w == 1 else f"{plan} at w={w:g}"


def recipe_of(base: str, changes: dict[str, Any], teacher: Path) -> Any:
    from langevin.recipes import Recipe, recipe
    from langevin.recipes.distillation import student
    from langevin.recipes.opening import read_recipe

    to, _, steps = base.removeprefix("to:").partition(":")
    taught = read_recipe(teacher)
    if base.startswith("to:"):
        made = student(taught, teacher, to, int(steps) if steps else None).model_dump()
    else:
        made = recipe(base).model_dump() | {"data": taught.data.model_dump()}
    for name, value in changes.items():
        *path, last = name.split(".")
        node = made
        for part in path:
            node = node[part]
        node[last] = value
    return Recipe.model_validate(made)


def pictures(problem: str, teacher: Path, runs: Path, only: Sequence[str], count: int, updates: int | None = None) -> None:
    """The teacher's run, then every method as a run of its own.

    Args:
        updates: of each, in place of its own number.
    """
    from langevin.recipes.domains.judging import Reference
    from langevin.recipes.evaluation import evaluate
    from langevin.recipes.opening import open_run
    from langevin.recipes.starting import start

    taught = open_run(teacher)
    against = Reference(taught, "auto", teacher)

    def judge(run: Any, method: str, plans: Sequence[str], **trained: Any) -> None:
        for said in plans:
            plan, w, shown = strength(said)
            found = evaluate(
                run, count=count, plan=plan, guidance=w, metrics=("fd", "prdc", "labels"), small=True, against=against
            )
            group: Any = found.metrics[f"w={w:g}"]
            twice = w != 1 and "guidance" not in run.recipe.objective.scalars
            shared = {
                "problem": problem, "who": "ours", "method": method, "plan": shown,
                "evaluations": (1 + twice) * (found.protocol.nfe or 0),
                "recall": group["recall"], **trained,
            }  # fmt: skip
            write({**shared, "quality": group["intended_label"], "measure": "intended label"})
            write({**shared, "quality": group["fd_ratio"], "measure": "FD / floor"})

    if not written(problem, "ours", "teacher"):
        judge(taught, "teacher", TAUGHT)
    for method, (base, changes, plans) in PICTURES[problem].items():
        if (only and method not in only) or written(problem, "ours", method):
            continue
        if base == "teacher":
            judge(taught, method, plans)
            continue
        out = runs / method.replace(" ", "-")
        if updates is not None:
            changes = {**changes, "train.steps": updates, **({"objective.pairs": 500} if "reflow" in base else {})}
        began, pairs_took = time.perf_counter(), out / "pairs-seconds"
        run, trainer = start(recipe_of(base, changes, teacher), out, resume=True)
        if (out / "pairs").exists() and not pairs_took.exists():  # what makes pairs is a part of training
            pairs_took.write_text(f"{time.perf_counter() - began:.1f}")
        if not trainer.finished:
            trainer.run()
        trainer.close()
        if not trainer.finished:
            raise SystemExit(f"{method} was stopped at update {trainer.step}; the same command goes on.")
        last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        seconds = last["step"] * run.recipe.train.batch / last["samples_per_second"]
        seconds += float(pairs_took.read_text()) if pairs_took.exists() else 0.0
        by = manifest.read_manifest(manifest.steps(out / "checkpoints")[-1]).state["processes"]
        trained = {"training_seconds": seconds, "updates": last["step"], "processes": by}
        judge(run.holding(open_run(out).denoiser), method, plans, **trained)


def page(problem: str, teacher: Path, runs: Path) -> Path:
    """One row of pictures for the teacher and for each student in one step, all of the same classes."""
    from langevin.recipes.drawing import draw
    from langevin.recipes.opening import open_run

    taught = open_run(teacher)
    rows = [draw(taught, 20, plan=plan, seed=2) for plan in (TAUGHT[0], "ddim:1")]
    for method, (_, _, plans) in PICTURES[problem].items():
        if (out := runs / method.replace(" ", "-")).is_dir():
            rows.append(draw(open_run(out), 20, plan=strength(plans[0])[0], seed=2))
    return lv.save_images(torch.cat(rows), _page_at(f"few_steps_{problem}.png"), columns=20)


def _page_at(name: str) -> Path:
    """Beside other results where these are elsewhere, else in the docs."""
    return TABLE.parent / name if TABLE.parent != RESULTS else RESULTS.parents[1] / "docs" / "images" / name


def cost(row: dict[str, str]) -> float | None:
    """Seconds of one core that training took, whatever the number of processes; None of what was not trained here."""
    return float(row["training_seconds"]) * int(row["processes"]) if row["training_seconds"] else None


def plot() -> Path:
    """Quality against evaluations, and below it against the cost of training; one column for each problem and measure."""
    from langevin.pictures import pyplot

    rows = [r for r in read() if r["evaluations"] and r["measure"] in ("W2", "intended label", "FD / floor")]
    panels = sorted({(r["problem"], r["measure"]) for r in rows})
    plt = pyplot()
    of: dict[str, list[str]] = {}
    for problem, measure in panels:
        of.setdefault(problem, []).append(measure)
    widths = [5 * len(measures) + 2 for measures in of.values()]
    figure = plt.figure(figsize=(sum(widths), 9), layout="constrained")
    columns = []
    for part, measures in zip(figure.subfigures(1, len(of), width_ratios=widths, squeeze=False)[0], of.values(), strict=True):
        columns += list(part.subplots(2, len(measures), squeeze=False).T)
    for (above, below), panel in zip(columns, panels, strict=True):
        here = [r for r in rows if (r["problem"], r["measure"]) == panel]
        for axis, across in ((above, lambda r: float(r["evaluations"])), (below, cost)):
            axis.set_prop_cycle(color=plt.get_cmap("tab20").colors)
            for who, method in dict.fromkeys((r["who"], r["method"]) for r in here):
                ours = sorted((r for r in here if (r["who"], r["method"]) == (who, method)), key=lambda r: int(r["evaluations"]))
                label = method if who == "ours" else f"{method} ({who})"
                points = [(x, float(r["quality"])) for r in ours if (x := across(r)) is not None]
                style = {"label": label, "linestyle": "-" if who == "ours" else "--"}
                if points:  # below, the fewest evaluations are the filled point
                    axis.plot(*zip(*points, strict=True), marker="o", fillstyle="full" if axis is above else "none", **style)
                else:  # takes its colour, so that a method has one in both
                    axis.plot([], [])
                if points and axis is below:
                    axis.plot(*points[0], marker="o", color=axis.lines[-1].get_color())
            axis.set(xscale="log", ylabel=panel[1], title=panel[0])
            if panel[1] != "intended label":
                axis.set(yscale="log")
        if (
            panel[1] == of[panel[0]][-1]
        ):  # beside the last panel of a problem, for all of its panels: methods have one colour in each
            above.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
        above.set(xlabel="evaluations")
        below.set(xlabel="seconds of training; filled: fewest evaluations")
        for axis in (above, below):
            low, high = axis.get_xlim()
            if high > 10 * low:  # powers of ten are enough, and what stands between them has no room
                axis.xaxis.set_minor_formatter("")
    path = _page_at("few_steps.png")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def read() -> list[dict[str, str]]:
    return read_rows(TABLE)


def written(problem: str, who: str, method: str) -> bool:
    return any((r["problem"], r["who"], r["method"]) == (problem, who, method) for r in read())


def write(row: dict[str, Any]) -> None:
    if "plan" not in row and written(row["problem"], row["who"], row["method"]):
        return
    append(TABLE, FIELDS, [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}])
    print({k: v for k, v in row.items() if k != "problem"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("moons", *PICTURES, "plot"))
    parser.add_argument("--teacher", type=Path, help="a run of the recipe digits, or mnist; runs/PROBLEM by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/few_steps"), help="where students are trained")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--reference", type=Path, help="a checkout of openai/consistency_models")
    parser.add_argument("--only", nargs="*", default=(), help="methods")
    parser.add_argument("--updates", type=int, help="of each; 3000 by default on moons, elsewhere the method's own number")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the csv")
    asked = parser.parse_args()
    global TABLE
    asked.results.mkdir(parents=True, exist_ok=True)
    TABLE = asked.results / "few_steps.csv"
    asked.teacher = asked.teacher or Path("runs") / asked.problem
    if asked.problem == "moons":
        moons(asked.updates or 3000, asked.reference, asked.only)
    elif asked.problem in PICTURES:
        unknown = sorted(set(asked.only) - set(PICTURES[asked.problem]))
        if unknown:
            parser.error(f"only is {unknown[0]!r}; there are {', '.join(PICTURES[asked.problem])}")
        pictures(asked.problem, asked.teacher, asked.runs, asked.only, asked.samples, asked.updates)
        print(page(asked.problem, asked.teacher, asked.runs))
    else:
        print(plot())


if __name__ == "__main__":
    main()
