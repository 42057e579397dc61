"""Options of diffusers' scheduler_config.json, read as a checkpoint's is, beside the class that they configure."""

import pytest

from langevin.core.prediction import Prediction
from langevin.zoo import schedulers
from tests.parity.test_samplers import SD, TOLERANCE, Watched, compare, run_diffusers

CASES = {
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
    start, end = run_diffusers(scheduler, steps, network)
    assert compare(found.process.schedule, found.plan(steps, reference=True), start, network, end) < TOLERANCE
