"""Ways between held-out pictures, through their codes, as a page."""

from pathlib import Path

import torch

from langevin import pictures
from langevin.core.tree import leaves
from langevin.recipes.build import Run
from langevin.recipes.latents import decoded, encoded
from langevin.recipes.sampling import check_tolerance, of_pictures
from langevin.tasks import gallery


def interpolation(run: Run, out: Path, rows: int = 6, count: int = 8, tolerance: float = 1e-4) -> float:
    """A row for each pair of held-out pictures, from the first to the second. Returns how far the ends are from the pictures
    (or from their latents), as the root mean square over elements.

    Raises:
        ValueError: for a run that is not of pictures, or says where its flow ends and not which way it goes.
    """
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
