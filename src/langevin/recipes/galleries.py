"""Ways between held-out pictures, through their codes, and between samples, through their noise, as pages."""

from pathlib import Path

import torch

from langevin import pictures
from langevin.core.denoiser import home
from langevin.core.tree import leaves
from langevin.recipes.build import Run
from langevin.recipes.latents import decoded, encoded
from langevin.recipes.sampling import check_tolerance, chosen, guided, of_pictures
from langevin.tasks import gallery, interpolate


def interpolation(run: Run, out: Path, rows: int = 6, count: int = 8, tolerance: float = 1e-4) -> float:
    """A row for each pair of held-out pictures, from the first to the second. Returns how far the ends are from the pictures
    (or from their latents), as the root mean square over elements.

    Raises:
        ValueError: for a run that is not of pictures, or says where its flow ends and not which way it goes.
    """
    if run.recipe.objective.ends:
        kind = run.recipe.objective.kind
        raise ValueError(f"this run, of kind {kind}, says where its flow ends and finds no codes; go between its own --samples, "
                         "or ask its teacher.")  # fmt: skip
    of_pictures(run, "interpolate", latents=True)
    if not 1 <= rows <= len(run.test) // 2:
        raise ValueError(f"rows is {rows}, and there are {len(run.test) // 2} pairs of held-out pictures; give 1 to as many.")
    if count < 2:
        raise ValueError(f"count is {count}; a way has two ends, so ask for at least 2 pictures on each.")
    check_tolerance(tolerance)
    device = next(run.denoiser.parameters()).device
    x = encoded(run, leaves(run.test.batch(torch.arange(2 * rows)).x)[""].to(device))
    made = gallery(run.denoiser, x[0::2], x[1::2], count, rtol=tolerance, atol=tolerance)
    pictures.save_images(decoded(run, made.flatten(0, 1)).clamp(-1, 1), out, columns=count)
    ends = torch.cat([made[:, 0] - x[0::2], made[:, -1] - x[1::2]])
    return float(ends.square().mean().sqrt())


def ways(run: Run, out: Path, rows: int = 6, count: int = 8, plan: str | None = None, seed: int = 0) -> None:
    """A row for each of some pairs of samples, from one to the other; both of one class where there are classes, those in turn.
    Also of runs that leap to the end of their flow, and have no codes.

    Args:
        plan: one that draws no noise of its own; the recipe's by default, of a run that leaps to the end one evaluation.
        seed: row k goes from the first sample of seed + 2 k to that of seed + 2 k + 1.

    Raises:
        ValueError: for a run that is not of pictures, or a plan that draws noise.
    """
    of_pictures(run, "interpolate", latents=True, leaps=True)
    if rows < 1:
        raise ValueError(f"rows is {rows}; ask for at least 1.")
    table = chosen(run, "consistency:1" if plan is None and run.recipe.objective.ends else plan)
    w, classes, device = run.recipe.sample.guidance, run.facts.classes, home(run.denoiser)[0]
    made = []
    for k in range(rows):
        cond = None if classes is None else {"label": torch.full((count,), k % classes, device=device)}
        told, between = guided(run, cond, count, w), (seed + 2 * k, seed + 2 * k + 1)
        shape = tuple(leaves(run.facts.shape)[""])
        made.append(interpolate(run.denoiser, table, count, between, shape=shape, **told))
    pictures.save_images(decoded(run, torch.cat(made)).clamp(-1, 1), out, columns=count)
