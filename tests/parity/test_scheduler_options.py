"""Options of diffusers' scheduler_config.json, read as a checkpoint's is, beside the class that they configure."""

import pytest

from langevin import schedules
from langevin.core.prediction import Prediction
from langevin.plans.profiles import diffusers
from langevin.zoo import schedulers
from tests.parity.test_samplers import SD, TOLERANCE, Watched, compare, fresh, run_diffusers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers'

RAMPS = {kind: {f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
SPACED = {"trailing": {"timestep_spacing": "trailing"}, "leading": LEADING, "linspace": {"timestep_spacing": "linspace"}}
DISCRETE = ("EulerDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")
SOLVERS = ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
GRIDS = {
    **{f"{kind} {option}": (kind, c) for kind in (*DISCRETE, *SOLVERS) for option, c in {**RAMPS, **SPACED}.items()},
    **{f"DPMSolverSinglestep {option}": ("DPMSolverSinglestep", c) for option, c in RAMPS.items()},
    **{
        f"{kind} to sigma_min, {option}": (kind, {"final_sigmas_type": "sigma_min", **c})
        for kind in ("EulerDiscrete", *SOLVERS[:2])
        for option, c in {**RAMPS, **SPACED}.items()
    },
    **{
        f"3M to sigma_min, {option}": ("DPMSolverMultistep", {"final_sigmas_type": "sigma_min", "solver_order": 3, **c})
        for option, c in (("karras", RAMPS["karras"]), ("linspace", {}))
    },
    "SDE 2M to sigma_min": ("DPMSolverMultistep", {"final_sigmas_type": "sigma_min", "algorithm_type": "sde-dpmsolver++"}),
    "UniPC 3 to sigma_min": ("UniPCMultistep", {"final_sigmas_type": "sigma_min", "solver_order": 3, **RAMPS["karras"]}),
}
CASES = {
    **GRIDS,
    "SA-Solver": ("SASolver", {}),
    "SA-Solver of order 3 and 4": ("SASolver", {"predictor_order": 3, "corrector_order": 4}),
    "SA-Solver of order 1 and 1": ("SASolver", {"predictor_order": 1, "corrector_order": 1}),
    "SA-Solver on noise": ("SASolver", {"algorithm_type": "noise_prediction"}),
    "SA-Solver, karras": ("SASolver", {"use_karras_sigmas": True}),
    "SA-Solver on noise, karras": ("SASolver", {"algorithm_type": "noise_prediction", "use_karras_sigmas": True}),
    "SA-Solver, exponential": ("SASolver", {"use_exponential_sigmas": True}),
    "SA-Solver, trailing": ("SASolver", {"timestep_spacing": "trailing"}),
    "PNDM with Runge-Kutta steps": ("PNDM", {"steps_offset": 1}),
    "PNDM with Runge-Kutta steps, trailing": ("PNDM", {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
}


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize("name", CASES)
def test_a_configuration_is_its_class(name, steps):
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kind, settings = CASES[name]
    scheduler = getattr(peer, f"{kind}Scheduler")(**SD, **settings)
    found = schedulers.read({"_class_name": type(scheduler).__name__, **scheduler.config})
    assert isinstance(found.prediction, Prediction)
    network = Watched(found.process.schedule)
    plan = found.plan(steps, reference=True).on(found.process.schedule)
    # every step of the peer draws once, a last one of size zero too; ours in the row that leaves the anchor
    rows = [*(i for i, row in enumerate(plan.rows) if not row.anchored), len(plan.rows)]
    start, end = run_diffusers(scheduler, steps, network, lambda call: fresh(rows[call]))
    if found.carries == "z/alpha":
        end = end * float(found.process.schedule(plan.rows[-1].stop)[0])
    if len(network.asked) == plan.nfe + 1:
        network.asked.pop()  # the evaluation for its step of size zero
    assert compare(found.process.schedule, plan, start, network, end) < TOLERANCE


def test_tau_is_any_function_of_the_timestep():
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    schedule = schedules.betas("scaled_linear")
    network, plan = Watched(schedule), diffusers(11, "sa_solver", tau=lambda i: 0.3 + 0.6 * float(i) / 1000).on(schedule)
    rows = [i for i, row in enumerate(plan.rows) if not row.anchored]
    scheduler = peer.SASolverScheduler(**SD, tau_func=lambda i: 0.3 + 0.6 * float(i) / 1000)
    start, end = run_diffusers(scheduler, 11, network, lambda call: fresh(rows[call]))
    assert compare(schedule, plan, start, network, end) < TOLERANCE
