"""Settings of diffusers' solvers, as a scheduler_config.json has them, beside the class that they configure."""

import inspect
import math

import pytest
import torch
from torch import nn

from langevin import plans, schedules
from langevin.core.denoiser import Denoiser
from langevin.core.plan import Plan
from langevin.core.sample import sample
from langevin.plans import FreshNoise, Renoise
from langevin.plans.profiles import diffusers, flow_solver
from langevin.zoo import schedulers
from tests.parity.test_samplers import COUNT, SD, TOLERANCE, Watched, X, compare, drawing, fresh, run_diffusers
from tests.parity.test_scheduler_options import RAMPS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the peers'

MULTI, SINGLE, UNIPC, DEIS, SA = "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver"
MIN = {"final_sigmas_type": "sigma_min"}
WHOLE = {"lower_order_final": False}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
NOISE = {"algorithm_type": "dpmsolver", **MIN}
SDE = {"algorithm_type": "sde-dpmsolver++"}
CASES = {
    **{f"{kind} {option}, last steps whole": (kind, {**WHOLE, **c})
       for kind, option, c in (
           (MULTI, "of order 3", {"solver_order": 3}), (MULTI, "to sigma_min", MIN),
           (MULTI, "of order 3 to sigma_min", {"solver_order": 3, **MIN}),
           (MULTI, "on karras to sigma_min", {**RAMPS["karras"], **MIN}), (MULTI, "flow of order 3", {**FLOW, "solver_order": 3}),
           (UNIPC, "to sigma_min", MIN), (UNIPC, "of order 3 to sigma_min", {"solver_order": 3, **MIN}),
           (UNIPC, "on karras to sigma_min", {**RAMPS["karras"], **MIN}), (DEIS, "", {}), (DEIS, "on karras", RAMPS["karras"]),
           (DEIS, "of order 3", {"solver_order": 3}), (SA, "", {}), (SA, "on karras", RAMPS["karras"]),
           (SA, "of order 2 and 3", {"predictor_order": 2, "corrector_order": 3}), (SINGLE, "to sigma_min", MIN))},
    "2M heun": (MULTI, {"solver_type": "heun"}),
    "2M heun to sigma_min": (MULTI, {"solver_type": "heun", **MIN}),
    "1M": (MULTI, {"solver_order": 1}),
    "2M with the names of others": (MULTI, {"solver_type": "logrho"}),
    "2M on noise": (MULTI, NOISE),
    "2M on noise, heun": (MULTI, {**NOISE, "solver_type": "heun"}),
    "3M on noise": (MULTI, {**NOISE, "solver_order": 3}),
    "2M on noise, karras": (MULTI, {**NOISE, **RAMPS["karras"]}),
    "SDE 1M": (MULTI, {**SDE, "solver_order": 1}),
    "SDE 2M heun": (MULTI, {**SDE, "solver_type": "heun"}),
    "SDE 3M": (MULTI, {**SDE, "solver_order": 3}),
    "SDE 2M on noise": (MULTI, {"algorithm_type": "sde-dpmsolver", **MIN}),
    "SDE 2M on noise, heun": (MULTI, {"algorithm_type": "sde-dpmsolver", "solver_type": "heun", **MIN}),
    "2M, Euler at the end": (MULTI, {"euler_at_final": True, **MIN}),
    "3M, Euler at the end": (MULTI, {"euler_at_final": True, "solver_order": 3, **WHOLE, **MIN}),
    **{f"2M from a log-SNR, {spacing}": (MULTI, {"lambda_min_clipped": -1.5, "timestep_spacing": spacing})
       for spacing in ("linspace", "trailing", "leading")},
    "2M of zero SNR": (MULTI, ZERO),
    "UniPC of zero SNR": (UNIPC, ZERO),
    "Euler of zero SNR": ("EulerDiscrete", ZERO),
    "Euler ancestral of zero SNR": ("EulerAncestralDiscrete", ZERO),
    "DDIM of zero SNR": ("DDIM", {**ZERO, "clip_sample": False}),
    **{f"{kind} of {said}, {ramp}": (kind, {"prediction_type": said, **RAMPS[ramp]})
       for kind in (MULTI, UNIPC, SINGLE) for said, ramp in (("v_prediction", "karras"), ("sample", "exponential"))},
    **{f"1S to 3S: {option}": (SINGLE, c)
       for option, c in (
           ("1", {"solver_order": 1}), ("2 heun", {"solver_type": "heun"}), ("3", {"solver_order": 3}),
           ("3 heun", {"solver_order": 3, "solver_type": "heun"}), ("3, lower", {"solver_order": 3, "lower_order_final": True}),
           ("to sigma_min", MIN), ("3 to sigma_min", {"solver_order": 3, **MIN}), ("2 on noise", NOISE),
           ("3 on noise", {"solver_order": 3, **NOISE}), ("flow", FLOW), ("karras to sigma_min", {**RAMPS["karras"], **MIN}),
           ("3 on noise, heun", {"solver_order": 3, "solver_type": "heun", **NOISE}))},
    **{f"SDE 1S to 3S: {option}": (SINGLE, {**SDE, **c})
       for option, c in (
           ("1", {"solver_order": 1}), ("2", {}), ("2 heun", {"solver_type": "heun"}), ("3", {"solver_order": 3}),
           ("3 heun", {"solver_order": 3, "solver_type": "heun"}), ("to sigma_min", MIN),
           ("3 heun to sigma_min", {"solver_order": 3, "solver_type": "heun", **MIN}), ("flow", FLOW),
           ("karras", RAMPS["karras"]))},
    "CogVideoX DDIM": ("CogVideoXDDIM", {}),
    "CogVideoX DDIM of the published files": ("CogVideoXDDIM", ZERO),
    "CogVideoX DDIM on linspace to timestep 0": ("CogVideoXDDIM", {"timestep_spacing": "linspace", "set_alpha_to_one": False}),
    "CogVideoX DDIM, another shift": ("CogVideoXDDIM", {"snr_shift_scale": 1.0, "steps_offset": 1}),
    "DEIS 1": (DEIS, {"solver_order": 1}),
    "DEIS 3": (DEIS, {"solver_order": 3}),
    "DEIS with the names of others": (DEIS, {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}),
    **{f"UniPC {option}": (UNIPC, c)
       for option, c in (
           ("1", {"solver_order": 1}), ("4", {"solver_order": 4}),
           ("bh1 of order 4", {"solver_order": 4, "solver_type": "bh1", **MIN}),
           ("corrected late", {"disable_corrector": [0, 1, 2]}), ("never corrected", {"disable_corrector": list(range(30))}),
           ("on noise", {"predict_x0": False, **MIN}), ("on noise, bh1", {"predict_x0": False, "solver_type": "bh1", **MIN}),
           ("on noise of order 3", {"predict_x0": False, "solver_order": 3, **MIN}), ("heun by name", {"solver_type": "heun"}),
           ("between sigmas", {**RAMPS["karras"], "sigma_min": 0.1, "sigma_max": 10.0}),
           ("between sigmas, to the lowest", {**RAMPS["exponential"], "sigma_min": 0.1, "sigma_max": 10.0, **MIN}),
           ("flow, karras", {**FLOW, **RAMPS["karras"]}), ("flow to sigma_min", {**FLOW, **MIN}),
           ("flow with a terminal", {**FLOW, "shift_terminal": 0.1373}))},
    "2M flow to sigma_min": (MULTI, {**FLOW, **MIN}),
    "2M flow heun": (MULTI, {**FLOW, "solver_type": "heun"}),
    "Euler between sigmas": ("EulerDiscrete", {**RAMPS["karras"], "sigma_min": 0.1, "sigma_max": 10.0}),
    "Euler between sigmas, to sigma_min": ("EulerDiscrete", {**RAMPS["beta"], "sigma_min": 0.1, "sigma_max": 10.0, **MIN}),
    "LCM": ("LCM", {}),
    "LCM, clipped": ("LCM", {"clip_sample": True}),
    "LCM of another distillation": ("LCM", {"original_inference_steps": 100, "timestep_scaling": 5.0, "steps_offset": 1}),
    "TCD": ("TCD", {}),
    "TCD, which reads no bounds": ("TCD", {"clip_sample": True, "thresholding": True}),
    "DDIM to timestep 0": ("DDIM", {"set_alpha_to_one": False, "clip_sample": False}),
    "PNDM as it comes": ("PNDM", {}),
    "PNDM skipping, as it comes": ("PNDM", {"skip_prk_steps": True}),
}  # fmt: skip
# the peer's own coefficients, in float32, are less exact than the tolerance: its numbers in float64 are compared
ROUNDED = 5e-5  # from 4096 times the noise, the first step of a few rounds in the peer's float32
FINE = ("DEIS 3", "DEISMultistep of order 3")


def asks(network: Watched, kind: str) -> None:
    """What `network.eps` says: noise, velocity or v, at the level that is told."""
    if kind == "flow_prediction":  # a flow's level is the timestep over 1000, that of a table one more
        network.eps = lambda z, level: network.velocity(z, level - 1 / 1000)  # pyright: ignore
    elif kind == "v_prediction":

        def v(z: torch.Tensor, level: float) -> torch.Tensor:
            alpha, sigma = (float(u) for u in network.process.schedule(level))  # pyright: ignore
            alpha = alpha or 2.0**-12  # the peers' at zero SNR
            mean = network.exact(z.double(), level).mean  # pyright: ignore
            network.asked.append((level, z))
            return ((alpha * z.double() - mean) / sigma).float()

        network.eps = v  # pyright: ignore
    elif kind == "sample":

        def x0(z: torch.Tensor, level: float) -> torch.Tensor:
            network.asked.append((level, z))
            return network.exact(z.double(), level).mean.float()  # pyright: ignore

        network.eps = x0  # pyright: ignore


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize("name", CASES)
def test_settings_are_those_of_the_class(name, steps):
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kind, settings = CASES[name]
    scheduler = getattr(peer, f"{kind}Scheduler")(**SD, **settings)
    found = schedulers.read({"_class_name": f"{kind}Scheduler", **SD, **settings})
    schedule = found.process.schedule
    network = Watched(schedule)
    plan = found.plan(steps, reference=True).on(schedule)
    few = kind in ("LCM", "TCD")  # which draw between their leaps

    def draws(row) -> bool:
        return isinstance(row, Renoise) if few else isinstance(row, FreshNoise) or not row.anchored

    rows = [*(i for i, row in enumerate(plan.rows) if draws(row)), len(plan.rows)]
    asks(network, scheduler.config.prediction_type)
    dtype = torch.float64 if name.split(", last")[0] in FINE else torch.float32
    start, end = run_diffusers(scheduler, steps, network, lambda call: fresh(rows[call]), dtype)
    assert torch.isfinite(end).all()
    if found.carries == "z/alpha":
        end = end * float(schedule(plan.rows[-1].stop)[0])
    if len(network.asked) > plan.nfe:
        network.asked.pop()  # the evaluation for its step of size zero
    most = ROUNDED if "zero SNR" in name and steps == 6 else TOLERANCE
    assert compare(schedule, plan, start, network, end, found.process.reads) < most


COG = {
    "as it comes": {},
    "to timestep 0": {"set_alpha_to_one": False},
    "published": {**ZERO, "snr_shift_scale": 1.0},
    "from an offset": {"steps_offset": 1, "snr_shift_scale": 2.0},
    "of data": {"prediction_type": "sample"},
}


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", COG)
def test_cogvideox_with_noise_is_that_of_the_class(name, steps):
    # the loop of its pipelines; a step that looks back draws twice, and the first draw is let go
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = peer.CogVideoXDPMScheduler(**SD, **COG[name])
    found = schedulers.read({"_class_name": "CogVideoXDPMScheduler", **SD, **COG[name]})
    schedule = found.process.schedule
    plan = found.plan(steps, reference=True).on(schedule)
    scheduler.set_timesteps(steps)
    network, x, old, calls = Watched(schedule), X, None, []
    asks(network, scheduler.config.prediction_type)
    stride = 1000 // steps
    for row, t in enumerate(scheduler.timesteps):
        calls += [row] * (1 if row == 0 or int(t) < stride else 2)
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    with drawing(module, "randn_tensor", lambda call: fresh(calls[call])):
        back = None
        for t in scheduler.timesteps:
            said = network.eps(x, (float(t) + 1) / 1000)
            x, old = scheduler.step(said, old, int(t), back, x, return_dict=False)
            x, old, back = x.float(), old.float(), int(t)
    if len(network.asked) > plan.nfe:
        network.asked.pop()  # from timestep 0 to itself
    most = ROUNDED if "published" in name else TOLERANCE
    assert compare(schedule, plan, X, network, x, found.process.reads) < most


# EDM's and flows' schedulers, whose loops are others


EDM = {
    "exponential": ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential"}),
    "Euler, exponential": ("EDMEuler", {"sigma_schedule": "exponential"}),
    "to sigma_min": ("EDMDPMSolverMultistep", {"solver_order": 3, **MIN}),
    "to sigma_min, last steps whole": ("EDMDPMSolverMultistep", {"solver_order": 3, **WHOLE, **MIN}),
    "last steps whole": ("EDMDPMSolverMultistep", {"solver_order": 3, **WHOLE}),
    "Euler to sigma_min": ("EDMEuler", MIN),
    "Euler at the end": ("EDMDPMSolverMultistep", {"solver_order": 3, "euler_at_final": True, **MIN}),
    "heun": ("EDMDPMSolverMultistep", {"solver_type": "heun"}),
    "order 1": ("EDMDPMSolverMultistep", {"solver_order": 1}),
    "SDE": ("EDMDPMSolverMultistep", SDE),
    "SDE heun": ("EDMDPMSolverMultistep", {**SDE, "solver_type": "heun"}),
    "CosXL": ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential", "prediction_type": "v_prediction", "sigma_data": 1.0}),
    "CosXL, Euler": ("EDMEuler", {"sigma_schedule": "exponential", "prediction_type": "v_prediction", "sigma_data": 1.0}),
}


class Said(nn.Module):
    """A network that shows what it is asked."""

    def forward(self, z: torch.Tensor, level: torch.Tensor, cond=None, mask=None) -> torch.Tensor:
        return torch.tanh(z) + level[:, None]


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize("name", EDM)
def test_settings_of_edm_are_those_of_the_class(name, steps):
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kind, settings = EDM[name]
    scheduler = getattr(peer, f"{kind}Scheduler")(**settings)
    scheduler.set_timesteps(steps)
    found = schedulers.read({"_class_name": f"{kind}Scheduler", **settings})
    schedule = found.process.schedule
    network, x, data = Watched(schedule), X * 80.0, scheduler.config.sigma_data
    plan = found.plan(steps, reference=True).on(schedule)

    def ours(x: torch.Tensor, sigma: float) -> torch.Tensor:  # their state is z / alpha
        return x if found.carries == "z" else x / (1 + sigma**2) ** 0.5

    with drawing(__import__(type(scheduler).__module__, fromlist=["x"]), "randn_tensor", fresh):
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            sigma = float((4 * t.double()).exp())
            level = min(sigma / 80, 1.0)
            network.asked.append((level, ours(x, sigma)))
            mean = network.exact(ours(x.double(), sigma), level).mean
            c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
            output = ((mean - c_skip * x.double()) / c_out).float()
            x = scheduler.step(-output if data == 1 else output, t, x).prev_sample
    if len(network.asked) > plan.nfe:
        network.asked.pop()
    start, last = ours(X * 80.0, 80.0), 0.0 if settings.get("final_sigmas_type") is None else 0.002
    assert compare(schedule, plan, start, network, ours(x, last)) < TOLERANCE
    # and what the network is asked and means is the peer's
    z, sigma = ours(X * 3.0, 3.0), 3.0
    t = torch.full((COUNT,), sigma / 80, dtype=torch.float64)
    c_in = 1 / (sigma**2 + data**2) ** 0.5
    belief = Denoiser(Said(), found.process, found.prediction, shape=(2,))(z, t).mean
    theirs = scheduler.precondition_outputs(X * 3.0, torch.tanh(X * 3.0 * c_in) + 0.25 * math.log(sigma), torch.tensor(sigma))
    assert torch.allclose(belief, theirs, atol=1e-5)


FLOWS = {
    **{f"{kind}": {"shift": 3.0, **c} for kind, c in RAMPS.items()},
    "stochastic": {"shift": 3.0, "stochastic_sampling": True},
    "stochastic to a terminal": {"stochastic_sampling": True, "shift_terminal": 0.1},
    "karras to a terminal": {"shift_terminal": 0.1, **RAMPS["karras"]},
}


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize("name", FLOWS)
def test_settings_of_flow_matching_are_those_of_the_class(name, steps):
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = peer.FlowMatchEulerDiscreteScheduler(**FLOWS[name])
    scheduler.set_timesteps(steps)
    found = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler", **FLOWS[name]})
    schedule = found.process.schedule
    network, x = Watched(schedule), X
    plan = found.plan(steps, reference=True).on(schedule)
    rows = [*(i for i, row in enumerate(plan.rows) if isinstance(row, Renoise)), len(plan.rows)]
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    with drawing(module, "randn_tensor", lambda call: fresh(rows[call])):
        for t in scheduler.timesteps:
            x = scheduler.step(network.velocity(x, float(t) / 1000), t, x).prev_sample
    assert compare(schedule, plan, X, network, x) < TOLERANCE


def test_defaults_are_those_of_the_classes():
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    for name, known in schedulers.DEFAULTS.items():
        if hasattr(peer, name):
            asked = inspect.signature(getattr(peer, name).__init__).parameters.values()
            theirs = {p.name: p.default for p in asked if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            assert known == theirs, name


# What needs no peer


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        (MULTI, {"solver_order": 4}, "solver_order = '4'; computed here: 1 to 3"),
        (MULTI, {"solver_order": "2"}, "solver_order"),
        (MULTI, {"algorithm_type": "sde-dpmsolver", "solver_order": 3}, "solver_order = '3'; computed here: 1 to 2 with sde"),
        (MULTI, {"algorithm_type": "euler"}, "algorithm_type = 'euler'"),
        (MULTI, {"solver_type": "bh3"}, "solver_type = 'bh3'"),
        (MULTI, {"final_sigmas_type": "one"}, "final_sigmas_type = 'one'"),
        (MULTI, {"lambda_min_clipped": "low"}, "lambda_min_clipped = 'low'"),
        (MULTI, {**FLOW, **RAMPS["karras"]}, "use_flow_sigmas with karras sigmas"),
        (MULTI, {**FLOW, **NOISE}, "use_flow_sigmas and extrapolates noise"),
        (UNIPC, {**FLOW, **RAMPS["exponential"]}, "use_flow_sigmas with exponential sigmas"),
        (UNIPC, {"disable_corrector": ["a"]}, "disable_corrector"),
        (UNIPC, {"solver_p": 1}, "solver_p"),
        (SINGLE, {"algorithm_type": "sde-dpmsolver"}, "algorithm_type = 'sde-dpmsolver'"),
        ("CogVideoXDDIM", {"snr_shift_scale": 0}, "snr_shift_scale is 0; it divides the SNR"),
        (DEIS, FLOW, "use_flow_sigmas"),
        (SA, FLOW, "use_flow_sigmas"),
        ("EDMEuler", {"prediction_type": "v_prediction"}, "sigma_data 0.5"),
        ("EDMDPMSolverMultistep", NOISE, "algorithm_type 'dpmsolver'"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(name, settings, said):
    with pytest.raises(ValueError, match=said):
        schedulers.read({"_class_name": f"{name}Scheduler", **settings})


@pytest.mark.parametrize("name", [MULTI, SINGLE, UNIPC, DEIS, SA, "EDMDPMSolverMultistep"])
def test_thresholds_of_mixed_beliefs_are_refused_by_their_name(name):
    found = schedulers.read({"_class_name": f"{name}Scheduler", "thresholding": True})
    with pytest.raises(ValueError, match="set thresholding to false"):
        found.plan(6).on(found.process.schedule)


def test_cogvideox_mixes_beliefs_at_its_own_timesteps_alone():
    found = schedulers.read({"_class_name": "CogVideoXDPMScheduler", "timestep_spacing": "trailing"})
    with pytest.raises(ValueError, match="steps by 166 timesteps, which are not those that it tells"):
        found.plan(6).on(found.process.schedule)
    assert found.plan(20).on(found.process.schedule).nfe == 20


def test_stages_draw_noise_of_their_own():
    schedule = schedules.betas("scaled_linear")
    plan = diffusers(6, "sde_dpmpp_2s", lower_order_final=True).on(schedule)
    assert Plan.from_json(plan.to_json()) == plan and plan.nfe == 6
    at = [i for i, row in enumerate(plan.rows) if isinstance(row, FreshNoise)]
    # the whole step has the noise of the ancestral one, whatever its middle drew
    network = Watched(schedule)
    ends = []
    for c in (plan.rows[at[0]].c, 0.0):
        row = FreshNoise(start=plan.rows[at[0]].start, stop=plan.rows[at[0]].stop, c=c)
        cut = Plan(name="cut", basis=plan.basis, order=1, rows=(*plan.rows[: at[0]], row))
        ends.append(sample(network, cut, COUNT, start=X, seed=0))
    noise = network.process.bridge_numbers(row.start, row.stop, 1.0)[2]
    assert torch.allclose(ends[0] - ends[1], noise * fresh(at[0]), atol=1e-6)
    with pytest.raises(ValueError, match="singlestep on eps has no fresh noise"):
        diffusers(6, "sde_dpmpp_2s", algorithm="noise_prediction")


def test_settings_that_a_sampler_does_not_have_are_refused():
    with pytest.raises(ValueError, match="solver_type is 'heun'; unipc has 'bh1' and 'bh2'"):
        diffusers(6, "unipc", solver_type="heun")
    with pytest.raises(ValueError, match="sampler 'euler' has no order"):
        diffusers(6, "euler", order=2)
    with pytest.raises(ValueError, match="leave sigma_min and sigma_max out"):
        diffusers(6, "unipc", sigma_min=0.1)
    with pytest.raises(ValueError, match="neither terminal nor between"):
        flow_solver(6, "dpmpp_2m", terminal=0.1)


def test_last_steps_of_lower_order_are_a_setting():
    schedule = schedules.betas("scaled_linear")
    for steps, lowered in ((14, True), (15, False)):
        said = [diffusers(steps, "deis", order=3, lower_order_final=low).on(schedule).rows for low in (True, False)]
        assert [len(row.mix) for row in said[0]][-2:] == ([2, 1] if lowered else [3, 3])
        assert [len(row.mix) for row in said[1]][-2:] == [3, 3]


def test_settings_are_words_too():
    schedule = schedules.betas("scaled_linear")
    said = plans.parse("diffusers:6:sampler=deis,order=3,lower_order_final=false").on(schedule)
    assert said == diffusers(6, "deis", order=3, lower_order_final=False).on(schedule)
    assert said != plans.parse("diffusers:6:sampler=deis,order=3").on(schedule)
    late = plans.parse("diffusers:6:sampler=unipc,disable_corrector=0 1").on(schedule)
    assert late == diffusers(6, "unipc", disable_corrector=[0, 1]).on(schedule)
    assert sum(row.anchored for row in late.rows) == 3
    with pytest.raises(ValueError, match="such as '0 1 2'"):
        plans.parse("diffusers:6:sampler=unipc,disable_corrector=first")


def test_what_a_class_does_not_read_changes_nothing():
    plain = {"_class_name": "DPMSolverSinglestepScheduler"}
    kept = {**plain, "timestep_spacing": "leading", "steps_offset": 1, "rescale_betas_zero_snr": True}  # another class's
    one, other = (schedulers.read(config) for config in (plain, kept))
    assert one.plan(6).on(one.process.schedule) == other.plan(6).on(other.process.schedule)
    clipping = {"_class_name": "TCDScheduler", "clip_sample": True}
    assert schedulers.read(clipping).plan(4).on(schedules.betas()) == schedulers.read({**clipping, "clip_sample": False}).plan(
        4
    ).on(schedules.betas())
