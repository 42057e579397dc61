"""Published scheduler configurations in our notation: what destroyed the data, what the network means, and how it is sampled.

A scheduler_config.json says three things at once: the noise levels that a network was trained with, what its output means, and
which method its publisher samples with. Here they are a process, a prediction, and a function that makes plans.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from langevin import schedules, spec
from langevin.core import prediction as predictions
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row
from langevin.core.prediction import Prediction
from langevin.core.schedule import Formula, Schedule, Table
from langevin.plans import profiles
from langevin.plans.first_order import ddpm
from langevin.plans.grids import given
from langevin.plans.moves import Clipped, LearnedVariance
from langevin.plans.profiles.tables import table_of
from langevin.plans.score_sde import score_sde
from langevin.variances import WithVariance
from langevin.zoo.solvers import final_of, least_lambda, solver_of

Config = Mapping[str, Any]
PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}


@dataclass(frozen=True)
class Scheduler:
    """A published scheduler.

    Args:
        name: its class.
        process, prediction: for a `Denoiser`.
        make: what `plan` calls.
        carries: "z" where the publisher's own states are ours, or "z/alpha".
        first: the factor of standard noise that the publisher begins with, in our scale, by the number of steps.
        config: the configuration, with its defaults filled in.
    """

    name: str
    process: Gaussian
    prediction: Prediction
    make: Callable[..., Draft]
    carries: str = "z"
    first: Callable[[int], float] = field(default=lambda steps: 1.0)
    config: Config = field(default_factory=dict)

    def plan(self, steps: int, start: float = 1.0, tokens: int | None = None, reference: bool = False, **options: Any) -> Draft:
        """The publisher's sampler.

        Args:
            steps: evaluations of first-order methods; see the profile of each for others.
            start: level to begin at, for data noised to it.
            tokens: of the picture, where the grid depends on them (FLUX).
            reference: with the known slips of the implementation most people have, number for number.
            options: of the profile.
        """
        if not 0 < start <= 1:
            raise ValueError(f"start is {start}; it is the level to begin at, above 0 and at most 1.")
        return self.make(steps, start=start, tokens=tokens, reference=reference, **options)


# Configurations

_TABLE = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
          "prediction_type": "epsilon"}  # fmt: skip
_ZERO_SNR = {**_TABLE, "rescale_betas_zero_snr": False}
_LATENT = {**_TABLE, "beta_start": 0.00085, "beta_end": 0.012}
_RANGE = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0, **_RANGE}
_SPACED = {"timestep_spacing": "linspace", "steps_offset": 0}
_RAMPS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential"}
_SOLVER = {**_RANGE, **_SPACED, **_RAMPS, **_FLOW, "solver_order": 2, "lower_order_final": True}
_DPM = {**_RANGE, **_RAMPS, **_FLOW, "solver_order": 2, "lower_order_final": True, "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint", "final_sigmas_type": "zero", "lambda_min_clipped": -math.inf,
        "variance_type": None}  # fmt: skip
_COGVIDEOX = {**_ZERO_SNR, **_LATENT, "beta_schedule": "scaled_linear", "clip_sample": True, "set_alpha_to_one": True,
              "steps_offset": 0, "clip_sample_range": 1.0, "sample_max_value": 1.0, "timestep_spacing": "leading",
              "snr_shift_scale": 3.0}  # fmt: skip
_EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "rho": 7.0, "final_sigmas_type": "zero"}  # fmt: skip

DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {**_ZERO_SNR, **_CLIP, "set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading"},
    "DDPMScheduler": {**_ZERO_SNR, **_CLIP, "variance_type": "fixed_small", "steps_offset": 0, "timestep_spacing": "leading"},
    "CogVideoXDDIMScheduler": _COGVIDEOX,
    "CogVideoXDPMScheduler": _COGVIDEOX,
    "PNDMScheduler": {**_TABLE, "skip_prk_steps": False, "set_alpha_to_one": False, "steps_offset": 0,
                      "timestep_spacing": "leading"},
    "EulerDiscreteScheduler": {**_ZERO_SNR, **_SPACED, **_RAMPS, "interpolation_type": "linear", "timestep_type": "discrete",
                               "sigma_min": None, "sigma_max": None, "final_sigmas_type": "zero"},
    "EulerAncestralDiscreteScheduler": {**_ZERO_SNR, **_SPACED},
    "HeunDiscreteScheduler": {**_LATENT, **_SPACED, **_RAMPS, "clip_sample": False, "clip_sample_range": 1.0},
    "LMSDiscreteScheduler": {**_TABLE, **_SPACED, **_RAMPS},
    "KDPM2DiscreteScheduler": {**_LATENT, **_SPACED, **_RAMPS},
    "KDPM2AncestralDiscreteScheduler": {**_LATENT, **_SPACED, **_RAMPS},
    "DPMSolverMultistepScheduler": {**_ZERO_SNR, **_SPACED, **_DPM, "euler_at_final": False, "use_lu_lambdas": False},
    "DPMSolverSinglestepScheduler": {**_TABLE, **_DPM, "lower_order_final": False},
    "DEISMultistepScheduler": {**_TABLE, **_SOLVER, "algorithm_type": "deis", "solver_type": "logrho"},
    "UniPCMultistepScheduler": {**_ZERO_SNR, **_SOLVER, "solver_type": "bh2", "predict_x0": True, "disable_corrector": [],
                                "solver_p": None, "final_sigmas_type": "zero", "shift_terminal": None, "sigma_min": None,
                                "sigma_max": None},
    "SASolverScheduler": {**_TABLE, **_RANGE, **_SPACED, **_RAMPS, "use_flow_sigmas": False, "flow_shift": 1.0,
                          "lower_order_final": True, "predictor_order": 2, "corrector_order": 2,
                          "algorithm_type": "data_prediction", "lambda_min_clipped": -math.inf, "variance_type": None,
                          "tau_func": None},
    "LCMScheduler": {**_ZERO_SNR, **_LATENT, **_CLIP, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0,
                     "timestep_spacing": "leading", "original_inference_steps": 50, "timestep_scaling": 10.0,
                     "beta_schedule": "scaled_linear"},
    "TCDScheduler": {**_ZERO_SNR, **_LATENT, **_CLIP, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0,
                     "timestep_spacing": "leading", "original_inference_steps": 50, "timestep_scaling": 10.0,
                     "beta_schedule": "scaled_linear"},
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": {**_EDM, **_RANGE, "solver_order": 2, "algorithm_type": "dpmsolver++",
                                       "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False},
    "FlowMatchEulerDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False,
                                        "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
                                        "max_image_seq_len": 4096, "invert_sigmas": False, "shift_terminal": None, **_RAMPS,
                                        "time_shift_type": "exponential", "stochastic_sampling": False},
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0},
    "CMStochasticIterativeScheduler": {"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
                                       "s_noise": 1.0, "rho": 7.0, "clip_denoised": True},
    "ScoreSdeVeScheduler": {"num_train_timesteps": 2000, "snr": 0.15, "sigma_min": 0.01, "sigma_max": 1348.0,
                            "sampling_eps": 1e-5, "correct_steps": 1},
    "ScoreSdeVpScheduler": {"num_train_timesteps": 2000, "beta_min": 0.1, "beta_max": 20.0, "sampling_eps": 1e-3, "sde": "vp",
                            "predictor": "euler_maruyama", "correct_steps": 0, "snr": 0.16},
}  # fmt: skip
"""What each class takes a missing key for."""

# the one value that is computed here, of keys whose others are not
_LEVELS = 100_000
_ONLY: dict[str, Any] = {"tau_func": None, "interpolation_type": "linear", "solver_p": None, "invert_sigmas": False}
# what older files hold of what no sampler reads
_PASSED_OVER = ("skip_prk_steps", "trained_betas", "clip_sample", "predict_epsilon", "tensor_format", "variance_type")


def filled(config: Config) -> dict[str, Any]:
    """A configuration with its class's defaults.

    Raises:
        ValueError: naming a class, key or value that is not known here.
    """
    name = config.get("_class_name")
    if name not in DEFAULTS:
        near = spec.nearest(str(name), list(DEFAULTS))
        raise ValueError(f"the scheduler is {name!r}; did you mean {near!r}? There are {', '.join(DEFAULTS)}.")
    known = DEFAULTS[name]
    for key in config:
        if key not in known and not key.startswith("_") and key not in _PASSED_OVER:
            if key in set().union(*DEFAULTS.values()):
                continue  # repositories keep what was another scheduler's
            raise ValueError(f"{name} has no {key!r}; did you mean {spec.nearest(key, list(known))!r}?")
    full = {**known, **{k: v for k, v in config.items() if k in known}, "_class_name": name}
    levels = full.get("num_train_timesteps", 1)
    if type(levels) is not int or not 0 < levels <= _LEVELS:
        raise ValueError(f"{name} has num_train_timesteps = {str(levels)[:40]}; there are 1 to {_LEVELS}.")
    if name == "DDPMScheduler" and full["variance_type"] not in _VARIANCES:
        raise ValueError(f"{name} has variance_type {full['variance_type']!r}; there are {', '.join(map(repr, _VARIANCES))}: "
                         "edit scheduler_config.json.")  # fmt: skip
    for key, only in _ONLY.items():
        value = full.get(key, only)
        if (value or only) and value != only:
            raise ValueError(f"{name} has {key} = {value!r}; only {only!r} is computed here: edit scheduler_config.json.")
    return full


def read(config: Config, family: str = "") -> Scheduler:
    """The scheduler of a scheduler_config.json.

    Args:
        family: "flux" for pipelines whose grid of flow levels ends at 1/steps before its shift (FLUX, Lumina, LTX) and not at
            1/T (Stable Diffusion 3).
    """
    full = filled(config)
    name = full["_class_name"]
    if name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        return _flow_matching(name, full, family)
    if name == "CMStochasticIterativeScheduler":
        return _consistency(name, full)
    if name == "ScoreSdeVeScheduler":
        return _score_sde(name, full)
    if name == "ScoreSdeVpScheduler":
        return _score_sde_vp(name, full)
    if name.startswith("EDM"):
        return _edm(name, full)
    if full.get("use_flow_sigmas"):
        return _flow_solver(name, full)
    if name == "EulerDiscreteScheduler" and full["timestep_type"] == "continuous":
        return _continuous(name, full)
    return _tabled(name, full)


def process_of(config: Config) -> Gaussian:
    """The process of a table of betas, whatever samples from it."""
    return Gaussian(table(filled(config)))


def table(full: Config) -> Table:
    """The noise levels of a table of betas."""
    kind, size = full["beta_schedule"], full["num_train_timesteps"]
    kinds = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    if full["trained_betas"] is not None:
        made = schedules.table(torch.tensor(full["trained_betas"], dtype=torch.float64), "trained_betas")
    elif kind not in kinds:
        raise ValueError(f"beta_schedule is {kind!r}; there are {', '.join(kinds)}.")
    else:
        made = schedules.betas(kinds[kind], size, full["beta_start"], full["beta_end"])
    if (by := full.get("snr_shift_scale", 1.0)) != 1:
        made = _shifted(made, by)
    return schedules.zero_terminal_snr(made) if full.get("rescale_betas_zero_snr") else made


def _shifted(base: Table, by: Any) -> Table:
    """The table with alpha^2 / sigma^2 divided by `by`, at the same scale (CogVideoX, 2408.06072, sec. 3.2)."""
    if isinstance(by, bool) or not isinstance(by, (int, float)) or not 0 < by < math.inf:
        raise ValueError(
            f"snr_shift_scale is {str(by)[:40]}; it divides the SNR, so give a number above 0 in scheduler_config.json."
        )
    bar = base.alpha(torch.arange(1, base.size + 1, dtype=torch.float64) / base.size).square()
    return schedules.table(alphas_cumprod=bar / (by + (1 - by) * bar), name=f"{base.name}, SNR / {by:g}")


def _meaning(full: Config, level: str) -> Prediction:
    kind = full["prediction_type"]
    if kind not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {kind!r}; there are {', '.join(PREDICTION_TYPES)}.")
    said = predictions.PREDICTIONS[PREDICTION_TYPES[kind]](level=level)
    if full["_class_name"] == "DDPMScheduler" and full["variance_type"] == "learned_range":
        return WithVariance(said)
    return said


def without_variance(scheduler: Scheduler) -> Scheduler:
    """The same scheduler for a network whose variance is left out: steps have the bridge's."""
    if not isinstance(scheduler.prediction, WithVariance):
        return scheduler
    return read({**scheduler.config, "variance_type": "fixed_small"})


def turbo(scheduler: Scheduler) -> bool:
    """Whether a scheduler of a table of betas is that of a turbo model (2311.17042), by what these alone are published with:
    Euler ancestral with timesteps "trailing" (SDXL turbo), or Euler with these on noise predictions and a table that ends in a
    little signal (Stable Diffusion turbo), where models of zero terminal SNR predict v.
    """
    full = scheduler.config
    if full.get("timestep_spacing") != "trailing" or full.get("prediction_type") != "epsilon":
        return False
    plain = not full.get("rescale_betas_zero_snr") and _ramp(full) == "trailing"
    return scheduler.name == "EulerAncestralDiscreteScheduler" or (scheduler.name == "EulerDiscreteScheduler" and plain)


_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range", None)


# Tables of betas

_SAMPLERS = {
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "PNDMScheduler": "pndm", "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral", "HeunDiscreteScheduler": "heun", "LMSDiscreteScheduler": "lms",
    "KDPM2DiscreteScheduler": "dpm_2", "KDPM2AncestralDiscreteScheduler": "dpm_2_ancestral", "SASolverScheduler": "sa_solver",
    "CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "cogvideox_dpm",
}  # fmt: skip


def _ramp(full: Config) -> Any:
    keys = [("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas"), ("beta", "use_beta_sigmas"),
            ("lu", "use_lu_lambdas")]  # fmt: skip
    ramps = [kind for kind, key in keys if full.get(key)]
    if len(ramps) > 1:
        raise ValueError(f"the scheduler asks for the grids {' and '.join(ramps)} at once; leave one in scheduler_config.json.")
    return ramps[0] if ramps else full.get("timestep_spacing", "linspace")


def _tabled(name: str, full: Config) -> Scheduler:
    schedule, size = table(full), full["num_train_timesteps"]
    # these have the keys, and do not read them
    clip = None if name == "TCDScheduler" or name.startswith("CogVideoX") else _clip(full)
    if name in ("LCMScheduler", "TCDScheduler"):
        original = full["original_inference_steps"]

        def few(steps: int, start: float, tokens: int | None, reference: bool, gamma: float = 0.3, **options: Any) -> Draft:
            many = options.pop("original", original)
            if name == "TCDScheduler":
                made = profiles.tcd(steps, gamma, many, size, start)
            else:
                made = profiles.lcm(steps, many, size, full["timestep_scaling"], start=start)
            return _clipped(made, clip, True)

        return Scheduler(name, Gaussian(schedule), _meaning(full, "timestep"), few, config=full)
    sampler, settings = (_SAMPLERS[name], {}) if name in _SAMPLERS else solver_of(name, full)
    kind, final, least = _ramp(full), final_of(name, full), least_lambda(name, full)
    if sampler in ("ddim", "pndm", "cogvideox_dpm"):
        settings["set_alpha_to_one"] = full["set_alpha_to_one"]
    if sampler == "pndm":
        settings["prk"] = not full["skip_prk_steps"]
    if sampler == "sa_solver":
        settings |= {key: full[key] for key in ("predictor_order", "corrector_order", "lower_order_final")}
        settings["algorithm"] = full["algorithm_type"]
    if kind in ("karras", "exponential", "beta"):
        settings |= {key: full.get(key) for key in ("sigma_min", "sigma_max")}

    def make(
        steps: int, start: float, tokens: int | None, reference: bool, consistent: bool | None = None, **options: Any
    ) -> Draft:
        made = profiles.diffusers(
            steps, sampler, kind, size, full.get("steps_offset", 0), final=final, start=start, reference=reference,
            lambda_min=least, **{**settings, **options},
        )  # fmt: skip
        if sampler == "ddpm":
            made = _with_variance(made, full["variance_type"])
        return _clipped(made, clip, (sampler != "ddim" or not reference) if consistent is None else consistent)

    scaled = sampler in profiles.SIGMA

    def first(steps: int) -> float:
        # times sqrt(1 + sigma^2) under "leading", and sigma otherwise; ours are divided by sqrt(1 + sigma^2)
        if not scaled or full.get("timestep_spacing") == "leading":
            return 1.0
        level = make(steps, 1.0, None, True).on(schedule).rows[0].start
        return float(schedule.sigma(torch.tensor(level, dtype=torch.float64)))

    process = Gaussian(schedule)
    if sampler not in ("ddim", "ddpm", "pndm"):  # whose rows undo noise where it was told
        process.reads = {"v_prediction": "v", "sample": "x0"}.get(full["prediction_type"], "eps")
    return Scheduler(name, process, _meaning(full, "timestep"), make, "z/alpha" if scaled else "z", first, full)


def _from_noise(name: str, start: float) -> None:
    if start < 1:
        raise ValueError(f"start is {start:g}; {name} leaps from pure noise: give another plan to begin at a picture.")


def _with_variance(draft: Draft, variance: str | None) -> Draft:
    """DDPM with another variance than the bridge's."""
    if variance in ("fixed_small", "fixed_small_log", None):
        return draft
    kinds = {"fixed_large": "large", "fixed_large_log": "large", "learned_range": "belief"}

    def fill(schedule: Schedule) -> Plan:
        plan = draft.fill(schedule)
        return ddpm(len(plan.rows), kinds[variance], given(plan.levels)).on(schedule)

    return Draft(draft.name, fill)


def _clip(full: Config) -> dict[str, Any] | None:
    if full.get("thresholding"):
        return {"bound": full["sample_max_value"], "quantile": full["dynamic_thresholding_ratio"]}
    return {"bound": full["clip_sample_range"]} if full.get("clip_sample") else None


def _clipped(draft: Draft, clip: dict[str, Any] | None, consistent: bool) -> Draft:
    """The plan with beliefs clipped to the range of data.

    Args:
        consistent: whether the noise that a step keeps is that of the clipped belief, or the one predicted.
    """
    if clip is None:
        return draft

    def fill(schedule: Schedule) -> Plan:
        plan, rows = draft.fill(schedule), []
        for row, number in zip(plan.rows, Gaussian(schedule).numbers(plan), strict=True):
            if isinstance(row, Row) and number is not None:
                if plan.basis != "x0" or len(row.mix) > 1 or row.anchored:
                    key = "thresholding" if "quantile" in clip else "clip_sample"
                    raise ValueError(f"{plan.name} mixes beliefs, which are clipped one by one here; set {key} to false in "
                                     "scheduler_config.json, or choose another plan.")  # fmt: skip
                told = row.start if row.shown is None else row.shown
                # u = x_part x^ + z_part z and z_s = a z + w u + c noise, spelled out
                w, a = number.w[0] * number.x_part, number.a + number.w[0] * number.z_part
                alpha_at, alpha_to = float(schedule(told)[0]), float(schedule(row.stop)[0])
                kept = 0.0 if consistent else w - alpha_to
                if not consistent and alpha_at == 0:
                    kept = 0.0
                row = Clipped(start=row.start, stop=row.stop, a=a, w=w - kept, u=kept, c=number.c, shown=row.shown, **clip)
            elif isinstance(row, LearnedVariance):
                row = replace(row, **clip)
            rows.append(row)
        return replace(plan, rows=tuple(rows))

    return Draft(draft.name, fill)


# Levels in sigma


def vp_of_sigma(sigma_max: float, sigma_min: float) -> Schedule:
    """Variance preserving with sigma/alpha = sigma_max t."""
    return Formula(
        f"vp_of_sigma({sigma_max:g}, {sigma_min:g})",
        lambda t: (1 + (sigma_max * t) ** 2).rsqrt(),
        lambda t: sigma_max * t * (1 + (sigma_max * t) ** 2).rsqrt(),
        "vp",
        sigma_min / sigma_max,
    )


def _continuous(name: str, full: Config) -> Scheduler:
    """Stable Video Diffusion: levels in sigma from sigma_max down, the network shown log(sigma) / 4."""
    low, high = full["sigma_min"], full["sigma_max"]
    if full["prediction_type"] != "v_prediction" or not full["use_karras_sigmas"] or low is None or high is None:
        raise ValueError(f"{name} with timestep_type 'continuous' is computed here for v_prediction on Karras sigmas between a "
                         "sigma_min and a sigma_max; give these in scheduler_config.json.")  # fmt: skip
    schedule = vp_of_sigma(high, low)

    def make(steps: int, start: float, tokens: int | None, reference: bool) -> Draft:
        _from_noise(name, start)
        return profiles.k_diffusion(steps, "euler", low, high)

    first = 1.0 if full["timestep_spacing"] == "leading" else float(schedule.sigma(torch.tensor(1.0)))
    return Scheduler(name, Gaussian(schedule), predictions.v("log_sigma/4"), make, "z/alpha", lambda steps: first, full)


def _edm(name: str, full: Config) -> Scheduler:
    kind, data = full["prediction_type"], full["sigma_data"]
    if kind not in ("epsilon", "v_prediction") or (kind == "v_prediction" and data != 1):
        raise ValueError(f"{name} has prediction_type {kind!r} and sigma_data {data}; computed here are 'epsilon', and "
                         "'v_prediction' with sigma_data 1: edit scheduler_config.json.")  # fmt: skip
    sampler, settings = ("euler", {}) if name == "EDMEulerScheduler" else solver_of(name, full)
    if settings.get("algorithm") == "noise_prediction":
        raise ValueError(f"{name} has algorithm_type {full['algorithm_type']!r}; computed here are 'dpmsolver++' and "
                         "'sde-dpmsolver++': edit scheduler_config.json.")  # fmt: skip
    low, high, final, clip = full["sigma_min"], full["sigma_max"], final_of(name, full), _clip(full)

    def make(steps: int, start: float, tokens: int | None, reference: bool) -> Draft:
        top = _highest(high, start, low, name)
        made = profiles.edm(steps, sampler, low, top, full["rho"], full["sigma_schedule"], final, reference, **settings)
        return _clipped(made, clip, True)

    if kind == "v_prediction":  # of z / sqrt(1 + sigma^2), which preserves variance (CosXL)
        return Scheduler(name, Gaussian(vp_of_sigma(high, low)), predictions.v("log_sigma/4"), make, "z/alpha", config=full)
    first = math.sqrt(high**2 + 1)
    return Scheduler(name, Gaussian(schedules.edm(high, low)), predictions.edm(data), make, "z", lambda steps: first, full)


def _highest(high: float, start: float, low: float, name: str) -> float:
    """The sigma to begin at, of which all steps are below: time is sigma in EDM's schedule."""
    if start * high <= low:
        raise ValueError(f"start is {start:g}; {name} begins above its lowest level, {low / high:g}.")
    return start * high


def _consistency(name: str, full: Config) -> Scheduler:
    low, high = full["sigma_min"], full["sigma_max"]
    prediction = predictions.Preconditioned(full["sigma_data"], "250log_sigma", low)

    def make(steps: int, start: float, tokens: int | None, reference: bool, nodes: list[int] | None = None) -> Draft:
        top = _highest(high, start, low, name)
        made = profiles.consistency_models(steps, nodes, full["num_train_timesteps"], low, top, full["rho"], full["s_noise"])
        return _clipped(made, {"bound": 1.0} if full["clip_denoised"] else None, True)

    return Scheduler(name, Gaussian(schedules.edm(high, low)), prediction, make, "z", lambda steps: high, full)


def _score_sde(name: str, full: Config) -> Scheduler:
    low, high = full["sigma_min"], full["sigma_max"]

    def make(steps: int, start: float, tokens: int | None, reference: bool) -> Draft:
        _from_noise(name, start)
        lowest = full["sampling_eps"] if reference else 0.0  # which else is the smallest sigma
        return score_sde(steps, full["snr"], full["correct_steps"], lowest, (low, high), reference)

    return Scheduler(name, Gaussian(schedules.edm(high, low)), predictions.score("sigma"), make, "z", lambda steps: high, full)


def _score_sde_vp(name: str, full: Config) -> Scheduler:
    """Of VP and, with `sde` "sub_vp", of sub-VP processes: the network says the noise, and is told 999 t."""
    kinds = {"vp": schedules.vp_linear, "sub_vp": schedules.sub_vp}
    if full["sde"] not in kinds:
        raise ValueError(
            f"{name} has sde = {full['sde']!r}; there are {', '.join(map(repr, kinds))}: edit scheduler_config.json."
        )

    def make(steps: int, start: float, tokens: int | None, reference: bool) -> Draft:
        _from_noise(name, start)
        return score_sde(steps, full["snr"], full["correct_steps"], full["sampling_eps"], None, reference, full["predictor"])

    process = Gaussian(kinds[full["sde"]](full["beta_min"], full["beta_max"]))
    return Scheduler(name, process, predictions.eps("999t"), make, config=full)


# Flows


def _shift(full: Config, tokens: int | None) -> float:
    if not full.get("use_dynamic_shifting"):
        return full.get("flow_shift", full.get("shift", 1.0))
    small, large = full.get("base_image_seq_len", 256), full.get("max_image_seq_len", 4096)
    slope = (full.get("max_shift", 1.15) - full.get("base_shift", 0.5)) / (large - small)
    if tokens is None:
        tokens = large
    mu = full.get("base_shift", 0.5) + slope * (tokens - small)
    return mu if full["time_shift_type"] == "linear" else math.exp(mu)


def _flow_matching(name: str, full: Config, family: str) -> Scheduler:
    sampler = "heun" if name == "FlowMatchHeunDiscreteScheduler" else "euler"
    size, kind = full["num_train_timesteps"], _ramp({**full, "timestep_spacing": None})

    def make(steps: int, start: float, tokens: int | None, reference: bool, shift: float | None = None) -> Draft:
        moving = full.get("use_dynamic_shifting", False)
        lowest = 1 / steps if family == "flux" else 1 / size if moving else None
        return profiles.sd3(
            steps, shift if shift is not None else _shift(full, tokens), reference, sampler, size, lowest,
            full.get("shift_terminal"), start, kind, bool(full.get("stochastic_sampling")),
        )  # fmt: skip

    return Scheduler(name, Gaussian(schedules.flow()), predictions.velocity("1000t"), make, config=full)


def _flow_solver(name: str, full: Config) -> Scheduler:
    kind, unipc = _ramp({**full, "timestep_spacing": None}), name == "UniPCMultistepScheduler"
    if full["prediction_type"] != "flow_prediction" or name in ("SASolverScheduler", "DEISMultistepScheduler"):
        raise ValueError(f"{name} has use_flow_sigmas with prediction_type {full['prediction_type']!r}; computed here is "
                         "'flow_prediction' of DPM-Solver++ and UniPC: edit scheduler_config.json.")  # fmt: skip
    if kind not in ((None, "karras") if unipc else (None,)):
        raise ValueError(f"{name} has use_flow_sigmas with {kind} sigmas, of which some are above 1, where no flow is; set one "
                         "to false in scheduler_config.json.")  # fmt: skip
    sampler, settings = solver_of(name, full)
    if settings["algorithm"] == "noise_prediction":
        raise ValueError(f"{name} has use_flow_sigmas and extrapolates noise (algorithm_type, predict_x0), which its own code "
                         "refuses for flows: edit scheduler_config.json.")  # fmt: skip
    final, clip, size = final_of(name, full), _clip(full), full["num_train_timesteps"]
    if unipc:
        settings["terminal"] = full["shift_terminal"]
    # the peer takes sigma/alpha of a table of betas for the level of a flow
    ratios = table_of(table(full), size)
    end = float(ratios[0]) if final == "sigma_min" else 0.0
    if kind == "karras":
        settings["between"] = full["sigma_min"] or float(ratios[0]), full["sigma_max"] or float(ratios[-1])

    def make(steps: int, start: float, tokens: int | None, reference: bool, shift: float | None = None) -> Draft:
        shift = shift if shift is not None else _shift(full, tokens)
        return _clipped(profiles.flow_solver(steps, sampler, shift, reference, size, start, end, **settings), clip, True)

    return Scheduler(name, Gaussian(schedules.flow()), predictions.velocity("1000t"), make, config=full)
