"""Solvers of a scheduler_config.json: their names and settings here, or a sentence that names what is not computed."""

import math
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_MULTISTEP = ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler")
_TYPES = {  # class: (algorithm types, solver types), the first of each standing for those that other classes have
    **dict.fromkeys(_MULTISTEP, (("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"), ("midpoint", "heun"))),
    "DPMSolverSinglestepScheduler": (("dpmsolver++", "dpmsolver", "sde-dpmsolver++"), ("midpoint", "heun")),
    "DEISMultistepScheduler": (("deis",), ("logrho",)),
    "UniPCMultistepScheduler": ((), ("bh2", "bh1")),
}
_FOREIGN = ("deis", "dpmsolver", "dpmsolver++", "midpoint", "heun", "logrho", "bh1", "bh2")
"""What repositories keep from another class's file, and each class takes its own for."""


def solver_of(name: str, full: Config) -> tuple[str, dict[str, Any]]:
    """The sampler of `plans.profiles.diffusers` that a class is, and its settings there.

    Raises:
        ValueError: naming the setting that is not computed.
    """
    algorithms, types = _TYPES[name]
    algorithm = _one_of(name, full, "algorithm_type", algorithms) if algorithms else ""
    settings: dict[str, Any] = {"solver_type": _one_of(name, full, "solver_type", types)}
    order = full["solver_order"]
    most = 2 if algorithm == "sde-dpmsolver" else 6 if name == "UniPCMultistepScheduler" else 3
    if type(order) is not int or not 1 <= order <= most:
        raise _not_computed(name, "solver_order", order, f"1 to {most}{' with sde-dpmsolver' if most == 2 else ''}")
    settings |= {"order": order, "lower_order_final": bool(full["lower_order_final"])}
    noise = not full["predict_x0"] if name == "UniPCMultistepScheduler" else algorithm in ("dpmsolver", "sde-dpmsolver", "deis")
    settings["algorithm"] = "noise_prediction" if noise else "data_prediction"
    if name == "UniPCMultistepScheduler":
        listed = full["disable_corrector"]
        if not isinstance(listed, (list, tuple)) or not all(type(i) is int for i in listed):
            raise _not_computed(name, "disable_corrector", listed, "a list of steps")
        return "unipc", {**settings, "disable_corrector": tuple(listed)}
    if name == "DEISMultistepScheduler":
        return "deis", settings
    if name == "DPMSolverSinglestepScheduler":
        return "sde_dpmpp_2s" if algorithm.startswith("sde-") else "dpmpp_2s", settings
    settings["euler_at_final"] = bool(full["euler_at_final"])
    if algorithm.startswith("sde-"):
        return "sde_dpmpp_2m", settings
    return "dpmpp_3m" if order == 3 else "dpmpp_2m", settings


def final_of(name: str, full: Config) -> str:
    """`final_sigmas_type`."""
    final = full.get("final_sigmas_type", "zero")
    if final not in ("zero", "sigma_min"):
        raise _not_computed(name, "final_sigmas_type", final, "'zero' and 'sigma_min'")
    return final


def least_lambda(name: str, full: Config) -> float:
    """`lambda_min_clipped`, as a number; files hold it as a word too."""
    said = full.get("lambda_min_clipped", -math.inf)
    try:
        least = float(said)
    except (TypeError, ValueError):
        least = math.nan
    if not least < math.inf:
        raise _not_computed(name, "lambda_min_clipped", said, "a finite number and -inf")
    return least


def _one_of(name: str, full: Config, key: str, legal: tuple[str, ...]) -> str:
    value = full[key]
    if value in legal:
        return value
    if value in _FOREIGN:
        return legal[0]
    raise _not_computed(name, key, value, ", ".join(map(repr, legal)))


def _not_computed(name: str, key: str, value: Any, legal: str) -> ValueError:
    return ValueError(f"{name} has {key} = {str(value)[:60]!r}; computed here: {legal}. Edit scheduler_config.json.")
