"""langevin likelihood: how likely data is under the model of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Likelihood:
    run: Positional[Path]
    """Run directory, or the folder of a published model that draws pixels from noise alone."""
    data: Positional[Path | None] = None
    """Samples as the run's own: a .npy file; of a table a .csv; of pictures a folder of them; of texts a .txt, or a folder of
    such; of molecules SMILES, of other graphs a .json. Held-out ones by default."""
    pictures: Path | None = None
    """Of a published model: a folder of pictures, in place of held-out ones."""
    count: int | None = None
    """How many samples, from the first; 500 at most by default. Fewer take less time."""
    bound: bool = False
    """The evidence lower bound in place of the flow, as for processes that have no flow."""
    solver: str = "adaptive"
    """Of the flow: adaptive, or midpoint, heun, heun3, rk4 of --steps."""
    steps: int = 50
    """Of a solver that is not adaptive."""
    tolerance: float = 1e-4
    """Of the adaptive solver."""
    probes: int | None = None
    """Rademacher vectors for the divergence; 0 for the exact trace, which is the default up to 32 elements."""
    draws: int | None = None
    """Levels for each sample of the bound, 16 by default; of strangeness draws at each of its levels, 4 by default."""
    strangeness: bool = False
    """In place of a likelihood an anomaly score, which ranks better what is unlike the training data: how badly the model
    denoises a sample. The strangest are told."""
    given: bool = False
    """The likelihood given each sample's own condition; without, no condition is told."""
    each: Path | None = None
    """Write the nats, or the strangeness, of each sample to a .npy file."""
    weights: Path | None = None
    """In place of the run's own average: a safetensors file, as langevin ema writes; another of its averages by name; or last."""
    seed: int = 0
    """Of the probes, of the noise that spreads grey values over their cells, and of the draws of a bound."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    json: bool = False
    """Print JSON."""


_OF_LIKELIHOODS = ("bound", "solver", "steps", "tolerance", "probes")


def likelihood(args: Sequence[str]) -> None:
    """Log-likelihoods of data under a run."""
    asked = parse(_Likelihood, args, "langevin likelihood")
    if asked.each is not None and asked.each.suffix != ".npy":
        raise Refusal(f"each is {asked.each}; write a .npy.")
    if asked.count is not None and asked.count < 1:
        raise Refusal(f"count is {asked.count}; ask for at least 1.")
    if asked.data is not None and asked.pictures is not None:
        raise Refusal(f"pictures is {asked.pictures}, and {asked.data} is what is judged; give one of them.")
    if asked.strangeness:
        for field in fields(asked):
            if field.name in _OF_LIKELIHOODS and (value := getattr(asked, field.name)) != field.default:
                raise Refusal(f"{field.name} is {value}, of a likelihood, and --strangeness is none; leave one of them out.")
    import json

    from langevin.data.progress import watched
    from langevin.recipes.likelihood import likelihood as measure
    from langevin.recipes.likelihood import strange, write
    from langevin.recipes.loaded import open_either

    data = None if asked.data is None else str(asked.data)
    run = open_either(asked.run, "likelihood", asked.pictures, data, asked.device, weights=asked.weights)
    drawn = {} if asked.draws is None else {"draws": asked.draws}
    with watched():
        if asked.strangeness:
            found = strange(run, asked.data, count=asked.count, given=asked.given, seed=asked.seed, **drawn)
        else:
            found = measure(
                run, asked.data, count=asked.count, bound=asked.bound, solver=asked.solver, steps=asked.steps,
                tolerance=asked.tolerance, probes=asked.probes, given=asked.given, seed=asked.seed, **drawn,
            )  # fmt: skip
    print(json.dumps(found.said()) if asked.json else found, flush=True)
    if asked.each is not None:  # after what it took long to find was said
        write(getattr(found, "scores" if asked.strangeness else "nats"), asked.each)
