"""Evaluation while a model trains."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from langevin.core.denoiser import Denoiser
from langevin.files import lines_up_to, write
from langevin.recipes import config as c
from langevin.recipes.build import Run, check_plan
from langevin.recipes.domains import Asked
from langevin.recipes.evaluation import SMALL, evaluate
from langevin.recipes.sampling import check_strength


def evaluator(run: Run, *, out: Path, count: int = SMALL, seed: int = 1, plan: str | None = None, guidance: float = 1.0,
              features: str | Path = "auto", metrics: Sequence[str] = ("fd",), device: str = "cpu",
              ) -> Callable[[Denoiser, int], None]:  # fmt: skip
    """A hook for `Trainer.hooks` that measures the averaged model as it trains.

    Each time it adds a line {"step": ..., "fd": ...} to evaluation.jsonl in `out`. Lines of later steps, left by a run that was
    killed and resumed from an earlier checkpoint, are dropped first. Numbers are of small n: they are for comparing steps of
    one run.

    Args:
        run: whose data and settings are used; the model comes with each call.
        count, seed, plan, guidance, features, metrics: as in `evaluate`; seeds are the same at every step.
        device: of the networks that judge.

    Raises:
        ValueError: for an unknown metric or plan, features that are no such network, or what `evaluate` would refuse of them all
            before it draws; now rather than hours later.
    """
    path = out / "evaluation.jsonl"
    check_strength(run, guidance, "evaluation.guidance")
    strength = None if not run.facts.conditional or isinstance(run.recipe.process, c.ProductConfig) else guidance
    run.domain.check_way(plan, guidance)
    measured = run.domain.in_loop(metrics)
    against = run.domain.reference(run, features, out, device)
    run.domain.check(run, Asked(count, metrics=measured, small=True, against=against))
    if plan is not None:
        check_plan(run.recipe, run.denoiser.process, plan)

    def hook(model: Denoiser, step: int) -> None:
        kept = lines_up_to(step - 1, path.read_text().splitlines() if path.exists() else [])
        where = str(next(model.parameters()).device)
        found = evaluate(
            run.holding(model), count=count, seed=seed, plan=plan, guidance=strength, metrics=measured,
            small=True, device=where, against=against,
        )  # fmt: skip
        group = f"{'' if strength is None else f'w={strength:g}'}."
        line = {"step": step, **{name.removeprefix(group): found[name].value for name in found.names()}}
        write(path, "".join(f"{one}\n" for one in [*kept, json.dumps(line)]))

    return hook
