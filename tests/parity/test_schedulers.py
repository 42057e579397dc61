"""Published scheduler configurations, and the trajectories that their publishers' code takes with one analytic network."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from langevin.core.denoiser import Denoiser
from langevin.core.sample import sample
from langevin.zoo import schedulers

CASES = [
    "ddim_thresholding", "ddpm_cifar", "ddpm_cosine", "deis", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2m_v",
    "dpmpp_2s", "dpmpp_3m", "edm_dpmpp", "edm_euler", "euler_a", "euler_karras", "euler_trailing_turbo", "flow_euler_flux_dev",
    "flow_euler_sd3", "flow_heun", "heun", "kdpm2", "kdpm2_a", "lcm", "lms", "sana_dpm_flow", "sd15_ddim", "sd15_pndm",
    "sd21_ddim_v", "sdxl_euler", "svd_euler_v", "tcd", "unipc", "unipc_bh1_3", "wan_unipc_flow", "zsnr_trailing_v",
]  # fmt: skip
TOLERANCE = 1e-5


class Analytic(nn.Module):
    """The peer's test network; it keeps what it is asked."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.asked = weight, []

    def forward(self, z: Tensor, level: Tensor, cond=None, mask=None) -> Tensor:
        self.asked.append((float(level[0]), z))
        return 0.5 * torch.tanh(torch.einsum("oc,bchw->bohw", self.weight, z)) + 0.1 * torch.sin(level[0] / 100)


def feed(process, tensors: dict[str, Tensor]) -> list[int]:
    """Noise that the peer drew, instead of ours, in its order; the list counts."""
    drawn = []

    def noise(like: Tensor, source, mask=None) -> Tensor:
        drawn.append(len(drawn))
        return tensors[f"noise/{drawn[-1]}"].to(like)

    process.noise = noise
    return drawn


def away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_a_published_configuration_takes_the_recorded_steps(goldens, name):
    case = goldens.case("schedulers", name)
    tensors, entry = case.tensors, case.entry["scheduler"]
    config = json.loads((case.dir / "scheduler" / "scheduler_config.json").read_text())
    found = schedulers.read(config)
    feed(found.process, tensors)
    options = {"shift": math.exp(entry["set_timesteps"]["mu"])} if "mu" in entry["set_timesteps"] else {}
    plan = found.plan(entry["steps"], reference=True, **options).on(found.process.schedule)
    net = Analytic(tensors["weight"])
    denoiser = Denoiser(net, found.process, found.prediction, shape=(3, 4, 5))
    x = tensors["x"]
    first = plan.rows[0].start
    alpha = float(found.process.schedule(first)[0]) if found.carries == "z/alpha" else 1.0
    z = sample(denoiser, plan, len(x), start=x * alpha)
    told = tensors["timesteps"]
    ends = 0
    while f"step/{ends}/model_input" in tensors:
        ends += 1
    asked = net.asked
    # the peer's DEIS asks once more, for a step of size zero
    assert len(asked) in (ends, ends - 1)
    errors = [away(ours, tensors[f"step/{i}/model_input"]) for i, (_, ours) in enumerate(asked)]
    last = plan.rows[-1].stop
    end = z / (float(found.process.schedule(last)[0]) if found.carries == "z/alpha" else 1.0)
    errors.append(away(end, tensors[f"step/{ends - 1}/prev_sample"]))
    levels = [abs(ours - float(theirs)) for (ours, _), theirs in zip(asked, told, strict=False)]
    assert max(levels) < 2e-3 * max(1.0, float(told.abs().max()) / 1000), list(
        zip([a for a, _ in asked], told.tolist(), strict=False)
    )
    assert max(errors) <= TOLERANCE, errors
    # and from the factor that the publisher begins with
    unit = x * alpha / found.first(entry["steps"])
    assert 0.5 < float(unit.std()) < 1.5


def test_all_cases_are_covered(goldens):
    assert set(goldens.cases("schedulers")) == set(CASES)
