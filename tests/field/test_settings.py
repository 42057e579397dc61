"""diffusers#7626 and sd-scripts#1958: a setting that is accepted and changes nothing. Each setting of training, and each option
of each plan, is given another value here, and what it is for is another; a new one joins by its row, or fails."""

import functools
import inspect
import json
import math
import multiprocessing

import pytest
import torch

import langevin as lv
from langevin import oracles, plans, schedules
from langevin.config import TrainConfig
from langevin.training import Trainer
from tests.reliability.test_golden_samples import MEANS, OF_A_MASK, OF_CATEGORIES, ON, TABLE, measured

# Training


class Watched(Trainer):
    """A trainer that keeps what can be seen of a run."""

    passes, sides, ordered, processes = 0, (), False, 0

    def _gradients(self, pieces):
        self.passes += len(pieces)
        self.ordered = torch.are_deterministic_algorithms_enabled()
        self.processes = len(multiprocessing.active_children())
        return super()._gradients(pieces)

    def _ready(self, batch):
        made = super()._ready(batch)
        self.sides = (*self.sides, made.x.shape[-1])
        return made


def seen(out, **settings):
    """A short run, and what it leaves."""
    settings = {"steps": 8, "batch": 6, "accumulate": 2, "save_every": 3, "log_every": 2, "warmup": 12, **settings}
    torch.manual_seed(0)
    net = lv.networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.0, classes=10)
    model = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    data = lv.data.Arrays(*(lambda d: (d.x[:48], {"label": d.cond["label"][:48]}))(lv.data.digits()))
    shown, found, saves = [], {}, []
    net.compile = lambda: found.update(compiled=True)
    run = Watched(model, data, lv.objectives.Denoising(drop=0.1), TrainConfig(**settings), out, valid=data,
                  preview=lambda model, step: shown.append(step))  # fmt: skip
    save = run.save
    run.save = lambda wait=True, last=False: (saves.append((run.step, wait)), save(wait, last))[1]
    try:
        run.run(progress=False)
    except FloatingPointError:
        found["refused"] = run.step
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return found | {
        "weights": torch.cat([v.flatten() for v in last(run, "model")]).tolist() if "refused" not in found else None,
        "average": torch.cat([v.flatten() for v in last(run, "ema")]).tolist() if "refused" not in found else None,
        "kept": sorted(p.name for p in (out / "checkpoints").glob("step-*")), "parts": sorted(p.stem for p in out.rglob("ema*")),
        "step": run.step, "passes": run.passes, "lines": [line["step"] for line in lines],
        "valid": [line["step"] for line in lines if "valid" in line], "shown": shown, "sides": run.sides, "ordered": run.ordered,
        "processes": run.processes, "saves": saves,
        "recomputed": any(isinstance(vars(m).get("forward"), functools.partial) for m in net.modules()),
    }  # fmt: skip


def last(run, part):
    found = lv.training.load_latest(run.folder.path / "checkpoints")
    return [v for _, v in sorted(found.tensors[part].items()) if v.is_floating_point()]


# setting -> (other settings beside it, its other value, what is another then)
TRAINING = {
    "steps": ({}, 7, "step"), "samples": ({}, 30, "step"), "hours": ({}, 1e-9, "step"), "batch": ({}, 4, "weights"),
    "accumulate": ({}, 3, "passes"), "optimiser": ({}, "muon", "weights"), "lr": ({}, 2e-3, "weights"),
    "warmup": ({}, 6, "weights"), "schedule": ({}, "constant", "weights"), "hold": ({"schedule": "inverse_sqrt"}, 18, "weights"),
    "decay": ({"schedule": "wsd"}, 0.9, "weights"), "weight_decay": ({}, 0.5, "weights"), "betas": ({}, (0.5, 0.9), "weights"),
    "clip": ({}, 1e-3, "weights"), "largest_gradient": ({}, 1e-9, "refused"),
    "nonfinite": ({"largest_gradient": 1e-9}, "skip", "step"), "ema": ({}, 0.05, "average"),
    "averages": ({}, ("power:sigma_rel=0.1",), "parts"), "precision": ({}, "bfloat16", "weights"),
    "compile": ({}, True, "compiled"), "deterministic": ({}, True, "ordered"),
    "activation_checkpointing": ({}, True, "recomputed"),
    "resolutions": ({}, ((0.5, 4),), "sides"), "seed": ({}, 1, "weights"), "workers": ({}, 1, "processes"),
    "save_every": ({}, 5, "kept"), "wait": ({}, True, "saves"), "keep": ({}, 3, "kept"), "preview_every": ({}, 3, "shown"),
    "log_every": ({}, 1, "lines"), "valid_every": ({}, 4, "valid"),
}  # fmt: skip
LATER = {"hold": 10**6}
"""What a setting is before, where its default cannot stand."""
BEFORE: dict[str, dict] = {}


def test_every_setting_of_training_is_here():
    assert set(TRAINING) == set(TrainConfig.model_fields)


@pytest.mark.parametrize("name", TRAINING)
def test_another_value_is_another_run(tmp_path, name):
    beside, value, what = TRAINING[name]
    before = beside | ({name: LATER[name]} if name in LATER else {})
    key = json.dumps(before)
    if key not in BEFORE:
        BEFORE[key] = seen(tmp_path / "one", **before)
    one, other = BEFORE[key], seen(tmp_path / "other", **{**beside, name: value})
    assert one.get(what) != other.get(what), what


# Plans

# (plan, option) -> (options beside it, its other value), where neither a switch nor another number says it
OPTIONS = {
    "grid": ({}, "sigma"), "distortion": ({}, "cosine"), "variance": ({}, "large"),
    "basis": ({}, "velocity"), "method": ({}, "euler"), "sigma_min": ({}, 0.05), "sigma_max": ({}, 5.0),
    "predictor": ({}, "euler_maruyama"), "corrector": ({}, "ald"),
    "intervals": ({}, ((0.1, 0.6, 3, 2),)),
    "final": ({"grid": "log_snr;stop=0.05"}, 2), ("multistep", "basis"): ({}, "eps"), ("sa_solver", "basis"): ({}, "eps"),
    ("bayesian_flow", "sampler"): ({}, "redraw"), ("confidence", "order"): ({}, "random"),
    ("confidence", "block"): ({}, 1), ("deis", "variable"): ({}, "sigma"), ("multistep", "variable"): ({}, "sigma"),
    ("dpm_adaptive", "order"): ({}, 2), ("edm_stochastic", "churn"): ({}, 2.0), ("edm_stochastic", "low"): ({}, 1.0),
    ("edm_stochastic", "high"): ({}, 1.0), ("edm_stochastic", "noise"): ({}, 1.1),
    ("multistep", "data_std"): ({"basis": "v"}, 0.6),
    ("multistep", "limit"): ({}, lambda i: 1), ("multistep", "corrector_order"): ({"corrector": True}, 1),
    ("multistep", "closing"): ({"corrector": True, "grid": "log_snr;stop=0.05"}, True),
    ("multistep", "uncorrected"): ({"corrector": True}, (3,)),
    ("plms", "order"): ({}, 3), ("sa_solver", "corrector_order"): ({}, 1), ("unipc", "variant"): ({}, "bh1"),
    ("multistep", "corrector"): ({}, True), ("sa_solver", "corrector"): ({}, False), ("trig", "corrector"): ({}, False),
    ("score_sde", "sigmas"): ({"schedule": schedules.ve()}, (0.05, 5.0)), ("score_sde", "corrector"): ({}, "ald"),
    ("score_sde", "reference"): ({"steps": 14}, True), ("score_sde", "denoise"): ({"steps": 14, "reference": True}, False),
    ("flow_jumps", "corrector"): ({}, 0.5),
    ("confidence", "grid"): ({}, "uniform;stop=0.4"), ("confidence", "threshold"): ({}, 0.05), ("confidence", "bound"): ({}, 9.0),
    **{(name, "basis"): ({}, "velocity") for name in ("heun", "heun3", "midpoint", "rk4")},
}  # fmt: skip
BESIDE = {
    ("multistep", "name"): "of the table", ("first_hitting", "length"): "the number of its rows",
    ("bayesian_flow", "drawn"): "tests/laws/test_bayesian_flow.py", ("bayesian_flow", "end"): "tests/laws/test_bayesian_flow.py",
    ("ddpm", "end"): "tests/laws/test_jumps.py", ("adaptive", "most"): "tests/laws/test_moves.py",
    ("dpm_adaptive", "most"): "tests/parity/test_dpm_adaptive.py",
}  # fmt: skip
"""Options that change no sample of points, and what they are, or what tests them."""
PROFILES = ("diffusers", "edm", "k_diffusion", "sd3")
"""Whose settings are those of peers: tests/parity/test_solver_options.py."""


def other_value(name, option, default):
    """(options beside it, another value)."""
    if (name, option) in OPTIONS:
        return OPTIONS[name, option]
    if option in OPTIONS:
        return OPTIONS[option]
    if isinstance(default, bool):
        return {}, not default
    if isinstance(default, int):
        return {}, default + 1
    if isinstance(default, float):
        return {}, 0.5 if default in (0.0, math.inf) else 0.6 * default
    raise AssertionError(f"say in OPTIONS what {name}({option}=...) may be besides {default!r}")


def samples(name, **options):
    if name in OF_CATEGORIES:
        exact = oracles.enumerated(lv.Categorical(3, schedules.keep_cosine(), "mask" if name in OF_A_MASK else "uniform"), TABLE)
        return lv.sample(exact, plans.PLANS[name](3, **options), 200, seed=7)
    schedule = options.pop("schedule", ON.get(name, schedules.betas("scaled_linear")))
    exact = oracles.mixture(lv.Gaussian(schedule), MEANS, 0.2)
    start = lv.Noise.of(8, 2).normal((2,), torch.float64) * schedule.sigma(torch.ones(()).double())
    steps = () if name in ("adaptive", "dpm_adaptive") else (options.pop("steps", 12),)
    return lv.sample(exact, plans.PLANS[name](*steps, **options), 2, seed=7, start=start, guidance=measured(name, 0, 2))


EVERY = [(name, option, p.default) for name, make in plans.PLANS.items() if name not in PROFILES
         for option, p in inspect.signature(make).parameters.items() if option != "steps"]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "default"), [e for e in EVERY if e[:2] not in BESIDE],
                         ids=[f"{n}-{o}" for n, o, _ in EVERY if (n, o) not in BESIDE])  # fmt: skip
def test_every_option_of_a_plan_changes_its_samples(name, option, default):
    beside, value = other_value(name, option, default)
    assert not torch.equal(samples(name, **beside), samples(name, **{**beside, option: value}))
