"""What a trainer refuses before its first update: a model, data or settings that cannot be trained, and a torn checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from langevin.condition_use import check_signature
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.data import Source, Stream
from langevin.data.mapped import remedy
from langevin.objectives import Objective
from langevin.training.checkpoint import Checkpoint, Parts
from langevin.training.distributed import Group, asked_world
from langevin.training.model import Model


def refuse_untrainable(
    denoiser: Denoiser | Model,
    data: Source | Stream,
    objective: Objective,
    config: TrainConfig,
    out: str | Path | None,
    valid: Source | None,
    group: Group | None,
) -> None:
    """Refuse what `Trainer` was given where it cannot become a run, for a reason that can be seen before anything is made.

    Raises:
        ValueError: with the argument or setting, its value and what to do.
    """
    if config.batch % config.accumulate:
        raise ValueError(f"batch is {config.batch} in {config.accumulate} passes; make accumulate divide batch.")
    if out == "":
        raise ValueError("out is ''; name a run directory, or give None, which keeps nothing.")
    for field, value, kind in (("denoiser", denoiser, (Denoiser, Model)), ("objective", objective, Objective)):
        if not isinstance(value, kind):
            needed = kind[0] if isinstance(kind, tuple) else kind
            said = repr(value) if value is None or isinstance(value, (str, type)) else f"a {type(value).__name__}"
            raise ValueError(f"{field} is {said}; pass a langevin {needed.__name__}.")
    if not hasattr(data, "batch") and not isinstance(data, Stream):
        raise ValueError(f"data is a {type(data).__name__}; {remedy(data)}.")
    if not any(p.requires_grad for p in denoiser.parameters()):
        raise ValueError(
            "the denoiser has no weights that require gradients, so there is nothing to train; those of an opened run are "
            "frozen, and denoiser.requires_grad_() frees them."
        )
    if isinstance(denoiser, Denoiser):
        check_signature(denoiser.net)
    if config.valid_every and valid is None:
        raise ValueError(f"valid_every is {config.valid_every}, and there is no held-out data; give valid=, or leave it out.")
    if config.resolutions and getattr(data, "groups", None) is not None:
        raise ValueError("resolutions makes pictures squares, but the data has aspect buckets; leave one of them out.")
    if group is None and asked_world() > 1:
        raise ValueError(
            f"WORLD_SIZE is {asked_world()}, and without a group each process would train a model of its own; pass "
            "group=Group.join(device), group=Group(device) if that is meant, or start one process."
        )
    if isinstance(denoiser, Model) and group is not None and group.shard:
        raise ValueError("an autoencoder's halves are called by themselves, which sharded weights are not; leave --shard out.")
    if group is not None and group.shard and config.optimiser == "adafactor":  # whose state is rows and columns of whole matrices
        raise ValueError("optimiser is 'adafactor', and weights are sharded; use adamw or muon, or leave --shard out.")


def refuse_torn(found: Checkpoint, parts: Sequence[str]) -> None:
    """Refuse a checkpoint in which something is missing of what a run goes on from: a network whose optimiser begins anew, as
    if nothing were wrong, is another run."""
    if missing := [part for part in parts if part not in found.tensors]:
        raise ValueError(
            f"the checkpoint of step {found.step} has no part {missing[0]!r}, but {', '.join(sorted(found.tensors))}; resume "
            "from one that is whole."
        )
    said, held = found.state.get("optimised"), len(optimised(found.tensors))
    if said is not None and said != held:
        raise ValueError(
            f"the checkpoint of step {found.step} was written with the optimiser's state of {said} parameters, and has that "
            f"of {held}; resume from one that is whole."
        )


def optimised(tensors: Parts) -> set[str]:
    """The parameters whose optimiser's state a checkpoint holds; those that no gradient has reached yet have none."""
    return {name.rpartition(".")[0] for name in tensors["optimiser"]}


def listed(samples: Sequence[int | str], most: int = 16) -> str:
    """Samples in words, so many of them at most."""
    rest = f" and {len(samples) - most} more" if len(samples) > most else ""
    return ", ".join(map(str, samples[:most])) + rest
