"""`fit`: training in one call, in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from langevin.config import settings as train_settings
from langevin.core.denoiser import Denoiser, home
from langevin.data import Source
from langevin.objectives import Denoising, Objective
from langevin.training.distributed import Group, asked_world
from langevin.training.trainer import Trainer


def fit(
    denoiser: Denoiser,
    data: Source,
    *,
    objective: Objective | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    other_data: bool = False,
    valid: Source | None = None,
    on_log: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Denoiser:
    """Train `denoiser` in place on `data`: in all processes together, replicated, if a launcher such as torchrun started several.

    Args:
        denoiser: what to train. It ends up holding the averaged weights, in eval mode, in every process. On a GPU, each of
            several processes moves it to its own.
        data: e.g. `langevin.data.digits()`.
        objective: `Denoising(drop=0.1)` by default.
        out: run directory, for checkpoints and the log; None keeps nothing.
        resume: continue the run in `out`, which must have been begun on this data, unless `other_data` allows others.
        valid: held-out data, whose loss under the averaged weights and always the same noise is "valid" in the log, every
            `valid_every` steps.
        on_log: called with each line of the log, such as {"step": 10, "loss": 0.9, ...}, for a tracker.
        settings: fields of `TrainConfig`, such as steps, batch, lr.

    Returns:
        The denoiser.

    Raises:
        ValueError: for a setting that does not exist or is out of range, and as `Trainer`.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written (if there is an `out`). When `hours` are over
            it returns, and resume=True goes on.
    """
    config = train_settings(settings, ("objective", "out", "resume", "other_data", "valid", "on_log", "progress"))
    group = None
    if asked_world() > 1:
        group = Group.join(home(denoiser)[0])
        denoiser.to(group.device)
    trainer = Trainer(
        denoiser, data, objective or Denoising(drop=0.1), config, out, resume, None, group, other_data, valid, on_log
    )
    averaged = trainer.run(progress)
    if group is not None:  # which stays for what a script does next: torch does not start a second one in its place
        group.wait()
    if trainer.stopped:
        raise KeyboardInterrupt(f"stopped at step {trainer.step} of {config.steps}")
    return averaged
