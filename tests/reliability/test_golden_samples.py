"""What every release must draw: the same seed under every plan, to the last printed digit (diffusers#7785, #9896: an upgrade that
changes pictures, and nobody said so)."""

import json
from pathlib import Path

import pytest
import torch

import langevin as lv
from langevin import oracles, plans, schedules
from langevin.guidance import Measurement, Observed, Replaced, operators

GOLDEN = Path(__file__).with_name("golden_samples.json")
MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
TABLE = torch.softmax(2 * torch.sin(torch.arange(27, dtype=torch.float64) ** 2), 0).reshape(3, 3, 3)
ON = {"edm": schedules.edm(), "sd3": schedules.flow()}
OF_A_MASK = ("confidence", "first_hitting", "remask")
OF_CATEGORIES = (*OF_A_MASK, "defog", "flow_jumps", "tau_leaping", "tilted")
FEW = {"annealed_langevin": {"per_level": 3}}


def measured(name: str, k: int, count: int = 1) -> Measurement | None:
    """What plans that read a measurement are told: the first number of `count` samples from k on."""
    known = {"operator": operators.inpaint(torch.tensor([True, False])), "y": torch.tensor([[0.4, 0.0]], dtype=torch.float64)}
    if name == "repaint":
        return Replaced(**known, noise=lv.Noise.of(7, count, k))
    return Observed(**known) if name in ("ddnm", "ddrm") else None


def drawn(name: str) -> list[str]:
    """Samples 0 and 5 of seed 7 under a plan with its defaults, in float64."""
    make, ids = plans.PLANS[name], (0, 5)
    if name in OF_CATEGORIES:
        limit = "mask" if name in OF_A_MASK else "uniform"
        exact = oracles.enumerated(lv.Categorical(3, schedules.keep_cosine(), limit), TABLE)
        each = [lv.sample(exact, make(3), 8, seed=7, first_id=k) for k in ids]
        return ["".join(map(str, row)) for x in each for row in x.tolist()]
    exact = oracles.mixture(lv.Gaussian(ON.get(name, schedules.betas("scaled_linear"))), MEANS, 0.2)
    plan = make(**FEW.get(name, {})) if name in ("adaptive", "dpm_adaptive") else make(5, **FEW.get(name, {}))
    sigma = exact.process.leaves()[""].schedule.sigma(torch.ones((), dtype=torch.float64))
    starts = {k: sigma * lv.Noise.of(8, 1, k).normal((2,), torch.float64) for k in ids}
    each = [lv.sample(exact, plan, 1, seed=7, first_id=k, start=starts[k], guidance=measured(name, k)) for k in ids]
    return [f"{v:.7g}" for x in each for v in x.flatten().tolist()]


@pytest.mark.parametrize("name", plans.PLANS)
def test_golden_samples(name):
    # where one changes for a reason, say in CHANGELOG.md which pictures change, and write them anew:
    # python -m tests.reliability.test_golden_samples
    assert drawn(name) == json.loads(GOLDEN.read_text())[name]


def test_every_golden_sample_is_of_a_plan_and_tells_plans_apart():
    golden = json.loads(GOLDEN.read_text())
    assert list(golden) == list(plans.PLANS)
    said = [tuple(values) for name, values in golden.items() if name not in OF_CATEGORIES]
    assert len(set(said)) > 0.8 * len(said)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: drawn(name) for name in plans.PLANS}, indent=1) + "\n")
