"""Options of diffusers' scheduler_config.json, read as a checkpoint's is, beside the class that they configure."""

import pytest

from langevin import schedules
from langevin.core.prediction import Prediction
from langevin.plans.profiles import diffusers
from langevin.zoo import schedulers
from tests.parity.test_samplers import SD, TOLERANCE, Watched, compare, fresh, run_diffusers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers'

CASES = {
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


@pytest.mark.parametrize("steps", [6, 23])
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
    assert compare(found.process.schedule, plan, start, network, end) < TOLERANCE


def test_tau_is_any_function_of_the_timestep():
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    schedule = schedules.betas("scaled_linear")
    network, plan = Watched(schedule), diffusers(11, "sa_solver", tau=lambda i: 0.3 + 0.6 * float(i) / 1000).on(schedule)
    rows = [i for i, row in enumerate(plan.rows) if not row.anchored]
    scheduler = peer.SASolverScheduler(**SD, tau_func=lambda i: 0.3 + 0.6 * float(i) / 1000)
    start, end = run_diffusers(scheduler, 11, network, lambda call: fresh(rows[call]))
    assert compare(schedule, plan, start, network, end) < TOLERANCE
