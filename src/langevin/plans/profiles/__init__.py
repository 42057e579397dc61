"""Profiles: the samplers of other libraries as tables, number for number, `tests/parity` holds them side by side.

A peer differs from the plans here in two things. Its grid: the values of sigma/alpha that it steps with. And what it tells
the network: an integer timestep i of T, which is our level (i + 1) / T, near the state's own level or not; rows have it as
`shown`. The methods are those of `langevin.plans`, unless a peer's own arithmetic is different, as its docstring then says.

Peers begin with other factors of standard noise than sigma(1); pass theirs as `start=`, divided by sqrt(1 + sigma^2) for
those that carry z / alpha (Euler, Heun, LMS, DPM2). All were read in diffusers 0.42.1 and k-diffusion 0.1.1.
"""

from collections.abc import Callable
from typing import Any

from langevin.core.plan import Draft
from langevin.plans.profiles.flows import flow_solver, sd3
from langevin.plans.profiles.leaps import consistency_models, lcm, tcd
from langevin.plans.profiles.methods import SIGMA
from langevin.plans.profiles.sigmas import edm, k_diffusion
from langevin.plans.profiles.tabled import diffusers
from langevin.plans.profiles.tables import known

PEERS: dict[str, Callable[..., Draft]] = {"diffusers": diffusers, "k_diffusion": k_diffusion, "edm": edm, "sd3": sd3}


def profile(peer: str, sampler: str, steps: int, **options: Any) -> Draft:
    """A peer's sampler as a plan: `profile("diffusers", "unipc", 20, sigmas="karras")`. The options are those of the peer's
    function here.
    """
    return PEERS[known(peer, list(PEERS), "peer")](steps, sampler=sampler, **options)


__all__ = [
    "PEERS", "SIGMA", "consistency_models", "diffusers", "edm", "flow_solver", "k_diffusion", "lcm", "profile",
    "sd3", "tcd",
]  # fmt: skip
