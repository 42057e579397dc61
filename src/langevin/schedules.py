"""The schedules of the field, by name. Each returns a `Schedule`; see `langevin.core.schedule` for what one is."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.categorical import Kernel
from langevin.core.levels import Level
from langevin.core.schedule import Formula, Schedule, Table

__all__ = [
    "Schedule", "bayesian_flow", "bayesian_flow_categories", "betas", "cosine", "edm", "flow", "keep_cosine", "keep_linear",
    "learned", "learned_path", "lipman", "mutual_information", "scaled_linear", "shift", "sigmoid", "sqrt", "sub_vp", "table",
    "trigonometric", "ve", "vp_linear", "zero_terminal_snr",
]  # fmt: skip


def from_lam(lam: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at log-SNR `lam` under a scale; exact at lam = -inf and +inf."""
    if scale == "vp":
        return torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()
    if scale == "flow":
        return torch.sigmoid(lam / 2), torch.sigmoid(-lam / 2)
    if scale == "ve":
        return torch.ones_like(lam), torch.exp(-lam / 2)
    raise ValueError(f"scale is {scale!r}; a schedule can be rebuilt from lam under 'vp', 'flow' or 've' only.")


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Continuous DDPM: alpha = exp(-B/2), B = beta_min t + (beta_max - beta_min) t^2 / 2 (2011.13456, eq. 33)."""
    return _betas(f"vp_linear({beta_min:g}, {beta_max:g})", _linear_integral(beta_min, beta_max))


def scaled_linear(beta_min: float = 0.85, beta_max: float = 12.0) -> Schedule:
    """Continuous Stable Diffusion: sqrt(beta) is linear; the published table is `betas("scaled_linear")`."""
    low, slope = math.sqrt(beta_min), math.sqrt(beta_max) - math.sqrt(beta_min)
    return _betas(
        f"scaled_linear({beta_min:g}, {beta_max:g})",
        lambda t: low**2 * t + low * slope * t**2 + slope**2 * t**3 / 3,
    )


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Sub-VP SDE: alpha = exp(-B/2), sigma = 1 - exp(-B) = 1 - alpha^2, the deviation itself (2011.13456, eq. 29)."""
    integral = _linear_integral(beta_min, beta_max)
    return Formula(
        f"sub_vp({beta_min:g}, {beta_max:g})",
        lambda t: torch.exp(-integral(t) / 2),
        lambda t: -torch.expm1(-integral(t)),
        "other",
    )


def cosine(offset: float = 0.008) -> Schedule:
    """alpha = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)): IDDPM without its clip (2102.09672, eq. 17)."""
    start = math.cos(math.pi / 2 * offset / (1 + offset))
    # written as a sine of the distance to the end, so that alpha(1) is 0 and not 6e-17
    return Formula(
        f"cosine({offset:g})",
        lambda t: (torch.sin(math.pi / 2 * (1 - t) / (1 + offset)) / start).clamp(max=1),
        None,
        "vp",
    )


def trigonometric() -> Schedule:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (stochastic interpolants; TrigFlow, 2410.11081)."""
    return Formula("trigonometric", lambda t: torch.sin(math.pi / 2 * (1 - t)), lambda t: torch.sin(math.pi / 2 * t), "vp")


def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha^2 falls along a sigmoid from `start` to `end` (2212.11972, algorithm 1, without its clip)."""
    if not end > start:
        raise ValueError(f"start is {start} and end {end}; the sigmoid runs from start up to end.")
    low, high = 1 / (1 + math.exp(-start / tau)), 1 / (1 + math.exp(-end / tau))

    def alpha(t: Tensor) -> Tensor:
        square = (high - torch.sigmoid((start + (end - start) * t) / tau)) / (high - low)
        return torch.where(t >= 1, 0.0, torch.where(t <= 0, 1.0, square.clamp(1e-300, 1))).sqrt()

    return Formula(f"sigmoid({start:g}, {end:g}, {tau:g})", alpha, None, "vp")


def flow(shift: float = 1.0) -> Schedule:
    """Flow matching and rectified flow: alpha = 1 - t, sigma = t; `shift` as in SD3 and FLUX.

    Read by a categorical process, this is the linear keep-probability of masked diffusion (MDLM's log-linear).
    """
    base = Formula("flow", lambda t: 1 - t, lambda t: t.double() * 1, "flow")
    return base if shift == 1 else Shifted(base, shift)


def lipman(sigma_min: float = 1e-4) -> Schedule:
    """The conditional path of flow matching, alpha = 1 - t, sigma = 1 - (1 - sigma_min) (1 - t): straight, and ending in a
    little noise, sigma(0) = sigma_min (2210.02747, eq. 20, with time reversed)."""
    if not 0 <= sigma_min < 1:
        raise ValueError(f"sigma_min is {sigma_min}; it is the noise left at the data, at least 0 and below 1.")
    return Formula(f"lipman({sigma_min:g})", lambda t: 1 - t, lambda t: sigma_min + (1 - sigma_min) * t, "other")


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, levels: int | None = None) -> Schedule:
    """Variance exploding. The kernel of the SDE is sigma^2 = sigma_min^2 ((sigma_max/sigma_min)^(2t) - 1).

    The score_sde code leaves out the -1, so that its data end keeps sigma_min; `levels=N` gives the published
    discrete table, sigma_i = sigma_min (sigma_max/sigma_min)^(i/(N-1)) at t = (i+1)/N, i = 0..N-1 (2011.13456, app. C).
    """
    ratio = math.log(sigma_max / sigma_min)
    if levels is not None:
        powers = torch.arange(levels, dtype=torch.float64) / max(levels - 1, 1)
        return Table(f"ve({sigma_min:g}, {sigma_max:g})", sigma_min * torch.exp(ratio * powers), "ve")
    floor = math.log1p(1.0) / (2 * ratio)  # where sigma = sigma_min
    return Formula(
        f"ve({sigma_min:g}, {sigma_max:g})",
        lambda t: torch.ones_like(t, dtype=torch.float64),
        lambda t: sigma_min * torch.expm1(2 * ratio * t.double()).sqrt(),
        "ve",
        floor,
    )


def edm(sigma_max: float = 80.0, sigma_min: float = 0.002) -> Schedule:
    """EDM: alpha = 1 and sigma = sigma_max t, so that time is sigma; grids go down to sigma_min (2206.00364)."""
    return Formula(
        f"edm({sigma_max:g}, {sigma_min:g})",
        lambda t: torch.ones_like(t, dtype=torch.float64),
        lambda t: sigma_max * t.double(),
        "ve",
        sigma_min / sigma_max,
    )


def sqrt(steps: int = 2000, offset: float = 1e-4, published: bool = False) -> Table:
    """alpha^2 = 1 - sqrt(i / T + offset) at level i of T, cut at 0: noise comes fast where words are still told apart
    (Diffusion-LM, 2205.14217, appendix A).

    Args:
        steps: T.
        offset: its root is the standard deviation of the noise that the formula has at level 0.
        published: the table of the published code, made of ratios of neighbouring levels. It loses the first factor, that of the
            noise at level 0 (for T = 2000 alpha_1^2 is 0.9854 where the formula says 0.9755), and cuts the last beta at 0.999.
    """
    if steps < 1 or not 0 <= offset < 1:
        raise ValueError(f"steps is {steps} and offset {offset}; give at least 1 step, and an offset of at least 0 and below 1.")
    bar = 1 - (torch.arange(steps + 1, dtype=torch.float64) / steps + offset).sqrt()
    if published:
        return table((1 - bar[1:] / bar[:-1]).clamp(max=0.999), "sqrt(published)")
    return Table("sqrt", bar[1:].clamp(min=0).sqrt(), "vp")


def bayesian_flow(sigma_1: float = 0.001) -> Schedule:
    """Bayesian flow networks on real numbers (2308.07037, sec. 4): sigma = sigma_1^(1 - t), alpha^2 = 1 - sigma^2.

    Their belief about a number, N(mu, 1 / rho) with rho = sigma_1^(-2 (1 - t)), has mu ~ N(g x, g (1 - g)), g = 1 - 1 / rho
    (their time is 1 - t). So z = mu / sqrt(g) is a state of this process, and a Bayesian update its bridge at eta = 1. Level 0
    keeps noise of deviation sigma_1: samples end with what is believed there (`plans.bayesian_flow`).
    """
    if not 0 < sigma_1 < 1:
        raise ValueError(f"sigma_1 is {sigma_1}; it is the deviation of the noise left at level 0, above 0 and below 1.")
    rate = math.log(sigma_1)
    return Formula(
        f"bayesian_flow({sigma_1:g})",
        lambda t: (-torch.expm1(2 * rate * (1 - t))).sqrt(),
        lambda t: torch.exp(rate * (1 - t)),
        "vp",
        0.0,
    )


def bayesian_flow_categories(categories: int, beta_1: float) -> Schedule:
    """Bayesian flow networks on categories (2308.07037, sec. 6): alpha^2 / sigma^2 = K beta_1 (1 - t)^2, alpha^2 + sigma^2 = 1.

    Their logits y ~ N(beta (K e_x - 1), beta K I), beta = beta_1 (1 - t)^2, are K beta (x' + noise / sqrt(K beta)) with
    x' = e_x - 1 / K: a Gaussian process of this signal-to-noise ratio on centred one-hot vectors (`langevin.bayesian_flow`).
    Level 0 keeps noise.
    """
    if categories < 2 or not beta_1 > 0:
        raise ValueError(f"categories is {categories} and beta_1 {beta_1}; give at least 2 categories and a number above 0.")
    most = categories * beta_1
    return Formula(
        f"bayesian_flow_categories({categories}, {beta_1:g})",
        lambda t: most**0.5 * (1 - t) / (1 + most * (1 - t) ** 2).sqrt(),
        lambda t: 1 / (1 + most * (1 - t) ** 2).sqrt(),
        "vp",
        0.0,
    )


def betas(kind: str = "linear", steps: int = 1000, start: float | None = None, end: float | None = None) -> Table:
    """A published discrete table: level i = 0..T-1 of the paper is t = (i + 1) / T.

    Args:
        kind: "linear" (DDPM: 1e-4 .. 0.02), "scaled_linear" (Stable Diffusion: 0.00085 .. 0.012), "cosine" (IDDPM,
            betas clipped at 0.999).
        steps: T.
        start, end: first and last beta, for the linear kinds.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; a published table has at least 1.")
    ends = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (0.0, 0.0)}
    if kind not in ends:
        raise ValueError(f"kind is {kind!r}; the published tables are {', '.join(ends)}.")
    first, last = (ends[kind][i] if given is None else given for i, given in enumerate((start, end)))
    if kind == "cosine":
        bar = torch.cos((torch.arange(steps + 1).double() / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        values = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    elif kind == "scaled_linear":
        values = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    else:
        values = torch.linspace(first, last, steps, dtype=torch.float64)
    return table(values, f"betas({kind})")


def table(values: Any = None, name: str = "", *, betas: Any = None, alphas_cumprod: Any = None, alpha: Any = None) -> Table:
    """The schedule of any published table (T,), whose levels are at t = 1/T, ..., 1. Say which numbers they are:

    Args:
        values, betas: in (0, 1]; alpha^2 is the cumulative product of 1 - beta. A table without a word is one of betas.
        alphas_cumprod: alpha^2 itself, falling, in [0, 1]. alpha: its root, falling, in [0, 1].
        name: for messages.

    Raises:
        ValueError: for none or several of them, and for numbers that are not such a table.
    """
    given = {"betas": values if betas is None else betas, "alphas_cumprod": alphas_cumprod, "alpha": alpha}
    kinds = [kind for kind, held in given.items() if held is not None]
    if len(kinds) != 1 or (values is not None and betas is not None):
        raise ValueError(
            f"the table is given as {' and '.join(kinds) or 'nothing'}; give one of betas=, alphas_cumprod=, alpha=."
        )
    (kind,) = kinds
    held = torch.as_tensor(given[kind], dtype=torch.float64)
    rows = held.ndim == 1 and len(held) > 0
    if kind == "betas":
        if not rows or not bool(((held > 0) & (held <= 1)).all()):
            raise ValueError(f"betas have shape {tuple(held.shape)}; give a (T,) table with each value in (0, 1].")
        if values is not None and len(held) > 1 and float(held[0]) > 0.5 > float(held[-1]):
            raise ValueError(
                f"the table falls from {float(held[0]):g} to {float(held[-1]):g}, as alphas do and betas do not; say "
                "alphas_cumprod= or alpha= (or betas=, if they are)."
            )
        nodes = torch.log1p(-held).cumsum(0).mul(0.5).exp()
    else:
        if not rows or not bool(((held >= 0) & (held <= 1)).all() and (held.diff() < 0).all()):
            raise ValueError(f"{kind} has shape {tuple(held.shape)}; give a (T,) table that falls, with each value in [0, 1].")
        nodes = held.sqrt() if kind == "alphas_cumprod" else held
    return Table(name or kind, nodes, "vp")


def zero_terminal_snr(base: Table) -> Table:
    """Shift and scale alpha so that the last level is pure noise and the first keeps its place (2305.08891, alg. 1)."""
    if not isinstance(base, Table) or base.scale != "vp":
        raise ValueError(f"{base} is no variance-preserving table; rescale one made by betas() or table().")
    alpha = base.alpha(torch.arange(1, base.size + 1, dtype=torch.float64) / base.size)
    return Table(f"zero_terminal({base.name})", (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]), "vp")


def shift(base: Schedule, by: float) -> Schedule:
    """`base` with sigma/alpha multiplied by `by` (see `Shifted`)."""
    return Shifted(base, by)


def learned(lam_max: float = 13.3, lam_min: float = -5.0, scale: str = "vp") -> "Learned":
    """A monotone network, trained with the model (see `Learned`)."""
    return Learned(lam_max, lam_min, scale=scale)


def learned_path(base: str = "flow", modes: int = 4) -> "LearnedPath":
    """A path that bends, trained by the interpolant objective (see `LearnedPath`)."""
    return LearnedPath(base, modes)


def keep_linear() -> Schedule:
    """Keep-probability 1 - t. The same object as `flow()`: a category is kept with probability alpha."""
    return flow()


def keep_cosine(offset: float = 0.0, power: float = 1.0) -> Schedule:
    """Keep-probability cos(pi/2 (t + s) / (1 + s))^p, 1 at t = 0. With p = 1 it is Hoogeboom's convention (2102.05379), which
    D3PM uses with s = 0.008; the published code of DiGress (2209.14734) squares it, `keep_cosine(0.008, 2)`."""
    if not power > 0:
        raise ValueError(f"power is {power}; give a number above 0.")
    start = math.cos(math.pi / 2 * offset / (1 + offset))
    said = f"{offset:g}, {power:g}" if power != 1 else f"{offset:g}" if offset else ""
    name = f"keep_cosine({said})" if said else "keep_cosine"

    def alpha(t: Tensor) -> Tensor:
        kept = (torch.sin(math.pi / 2 * (1 - t) / (1 + offset)) / start).clamp(max=1)
        return kept if power == 1 else kept.clamp(min=0) ** power

    return Formula(name, alpha, None, "flow")


def keep_power(power: float = 2.0) -> Schedule:
    """Keep-probability (1 - t)^power: the polynomial schedulers of discrete flow matching, kappa = tau^n (2402.04997)."""
    if not power > 0:
        raise ValueError(f"power is {power}; give a number above 0.")
    return Formula(f"keep_power({power:g})", lambda t: (1 - t.double()) ** power, None, "flow")


def keep_betas(kind: str = "linear", steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Keep-probability prod (1 - b_i) of a table at t = i / T, a straight line between (D3PM, 2107.03006, sec. 3.3).

    Args:
        kind: "linear" (betas from `start` to `end`), "cosine" (the cosine with offset 0.008, not squared, betas at most 0.999),
            or "mutual_information" (b_i = 1 / (T - i + 1), right for a mask whatever the data: `keep_linear()` at the nodes).
        steps: T.
    """
    place = torch.arange(steps + 1, dtype=torch.float64)
    if kind == "linear":
        values = torch.linspace(start, end, steps, dtype=torch.float64)
    elif kind == "cosine":
        bar = torch.cos((place / steps + 0.008) / 1.008 * math.pi / 2)
        values = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    elif kind == "mutual_information":
        values = 1 / (steps - place[1:] + 1)
    else:
        raise ValueError(f"kind is {kind!r}; the tables are linear, cosine and mutual_information.")
    kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - values).cumprod(0)])

    def alpha(t: Tensor) -> Tensor:
        at, nodes = t.double().clamp(0, 1) * steps, kept.to(t.device)
        # a level i/T must meet node i although i/T*T may miss i by one ulp
        at = torch.where((at - at.round()).abs() < 1e-9, at.round() + (at - at.detach()), at)
        left = at.detach().floor().clamp(max=steps - 1).long()
        return nodes[left] + (at - left) * (nodes[left + 1] - nodes[left])

    return Formula(f"keep_betas({kind}, {steps})", alpha, None, "flow")


def clipped(base: Schedule, eps: float = 1e-4) -> Schedule:
    """alpha = (1 - 2 eps) alpha_base + eps, as masked diffusion clips it (MD4, 2406.04329, app. D). Neither end is reached, so
    that a bound has two more terms, which `langevin.tasks.elbo.variational_bound` has."""
    if not 0 <= eps < 0.5:
        raise ValueError(f"eps is {eps}; it is cut off at both ends, at least 0 and below 0.5.")
    return Formula(f"clipped({base.extra_repr()}, {eps:g})", lambda t: (1 - 2 * eps) * base.alpha(t) + eps, None, "flow")


def mutual_information(
    probabilities: Tensor, limit: Tensor | None = None, nodes: int = 1024, kernel: Kernel | None = None
) -> Schedule:
    """Keep-probability with 1 - I(z_t; x) / H(x) = t (D3PM, 2107.03006, appendix A.7).

    Args:
        probabilities: (K,) the marginal of x.
        limit: (K,) the limit pi of the kernel alpha I + (1 - alpha) 1 pi^T; None is uniform. For a mask the answer
            is 1 - t whatever the marginal: use `keep_linear()`.
        nodes: size of the table that inverts alpha -> I, denser towards both ends.
        kernel: instead of a limit, any kernel made of rates.
    """
    p = torch.as_tensor(probabilities, dtype=torch.float64)
    pi = torch.full_like(p, 1 / len(p)) if limit is None else torch.as_tensor(limit, dtype=torch.float64)
    entropy = -torch.special.xlogy(p, p).sum()
    if p.ndim != 1 or pi.shape != p.shape or not entropy > 0:
        raise ValueError(f"probabilities have shape {tuple(p.shape)}; give (K,) with at least two above 0.")
    keep = torch.sin(math.pi / 2 * torch.linspace(0, 1, nodes, dtype=torch.float64)) ** 2  # ascending 0 .. 1
    eye = torch.eye(len(p), dtype=torch.float64)
    if kernel is None:
        forward = keep[:, None, None] * eye + (1 - keep)[:, None, None] * pi
    else:  # rates may be slow or fast, so the exponents are spread over nine decades
        inner = torch.exp(-torch.logspace(5, -4, nodes - 2, dtype=torch.float64))
        keep = torch.cat([torch.zeros(1, dtype=torch.float64), inner, torch.ones(1, dtype=torch.float64)])
        forward = torch.stack([kernel.push(eye, k[None]) for k in keep])
    joint = p[:, None] * forward
    marginal = joint.sum(1, keepdim=True)
    information = (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, p[:, None] * marginal)).sum((1, 2))
    times = (1 - information / entropy).flip(0)  # ascending 0 .. 1 as keep falls
    times[0], times[-1] = 0.0, 1.0
    # where rounding rules the information stands still: keep one node of those
    rising = torch.cat([torch.ones(1, dtype=torch.bool), times[1:] > times.cummax(0).values[:-1]]) & (times < 1)
    rising[-1] = True
    times, values = times[rising], keep.flip(0)[rising]

    def alpha(t: Tensor) -> Tensor:
        at, kept = times.to(t.device), values.to(t.device)
        right = torch.searchsorted(at, t.double().detach().contiguous()).clamp(1, len(at) - 1)
        left = right - 1
        part = (t.double() - at[left]) / (at[right] - at[left])
        return (kept[left] + part * (kept[right] - kept[left])).clamp(0, 1)

    return Formula("mutual_information", alpha, None, "flow")


def _linear_integral(low: float, high: float) -> Callable[[Tensor], Tensor]:
    return lambda t: low * t + (high - low) * t**2 / 2


def _betas(name: str, integral: Callable[[Tensor], Tensor]) -> Schedule:
    """Variance preserving with the integral B of beta: alpha = exp(-B/2), sigma^2 = -expm1(-B)."""
    return Formula(name, lambda t: torch.exp(-integral(t) / 2), lambda t: (-torch.expm1(-integral(t))).sqrt(), "vp")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "bayesian_flow": bayesian_flow, "bayesian_flow_categories": bayesian_flow_categories, "betas": betas, "cosine": cosine,
    "edm": edm, "flow": flow, "keep_betas": keep_betas, "keep_cosine": keep_cosine, "keep_linear": keep_linear,
    "keep_power": keep_power, "learned": learned, "learned_path": learned_path, "lipman": lipman,
    "scaled_linear": scaled_linear, "sigmoid": sigmoid, "sqrt": sqrt, "sub_vp": sub_vp, "trigonometric": trigonometric,
    "ve": ve, "vp_linear": vp_linear,
}  # fmt: skip


class Shifted(Schedule):
    """Another schedule with its noise multiplied: sigma/alpha -> shift * sigma/alpha, at the same scale.

    Higher resolution needs more noise for the same destruction (simple diffusion, 2301.11093; SD3, 2403.03206,
    section 5.3.2: for the flow schedule this is t -> shift t / (1 + (shift - 1) t)).
    """

    def __init__(self, base: Schedule, shift: float) -> None:
        super().__init__()
        if not shift > 0:
            raise ValueError(f"shift is {shift}; it multiplies sigma/alpha, so give a number above 0.")
        if base.scale == "other":
            raise ValueError(f"{base} has no scale to keep; shift a 'vp', 'flow' or 've' schedule.")
        self.base, self.shift, self.scale, self.floor = base, float(shift), base.scale, base.floor

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.scale == "vp":
            return (alpha**2 + sigma**2).sqrt()
        return alpha + sigma if self.scale == "flow" else torch.ones_like(alpha)

    def alpha(self, t: Tensor) -> Tensor:
        alpha, sigma = self.base.alpha(t), self.shift * self.base.sigma(t)
        return alpha / self._norm(alpha, sigma)

    def sigma(self, t: Tensor) -> Tensor:
        alpha, sigma = self.base.alpha(t), self.shift * self.base.sigma(t)
        return sigma / self._norm(alpha, sigma)

    def extra_repr(self) -> str:
        return f"shift={self.shift:g}"


class Learned(Schedule):
    """A monotone network for lam(t) between fixed ends (VDM, 2107.00630, appendix H), trained with the ELBO.

    lam(t) = lam_max + (lam_min - lam_max) m(t), m(0) = 0, m(1) = 1, m increasing: a positive linear map plus a
    positive-weight two-layer network. The data end is not noiseless: sigma(0) is exp(-lam_max / 2), not 0.
    """

    def __init__(self, lam_max: float = 13.3, lam_min: float = -5.0, width: int = 256, scale: str = "vp") -> None:
        super().__init__()
        if not lam_max > lam_min:
            raise ValueError(f"lam_max is {lam_max} and lam_min {lam_min}; the log-SNR falls, so lam_max is larger.")
        self.scale = scale
        # the bound depends on the ends only through terms a denoising loss leaves out, so learning them would be flight
        self.register_buffer("ends", torch.tensor([lam_max, lam_min], dtype=torch.float64))
        slope = torch.linspace(-4, 4, width, dtype=torch.float64)
        self.linear = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.inner = nn.Parameter(torch.full((width,), 1.0, dtype=torch.float64))
        self.bias = nn.Parameter(-slope)
        self.outer = nn.Parameter(torch.full((width,), -math.log(width) - 2, dtype=torch.float64))

    def _rise(self, t: Tensor) -> Tensor:
        hidden = torch.sigmoid(t[..., None] * 8 * self.inner.exp() / math.e + self.bias)
        return self.linear.exp() * t + (hidden * self.outer.exp()).sum(-1)

    def lam(self, t: Level) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        at = t.to(self.bias.device)
        low, high = self._rise(torch.zeros_like(at)), self._rise(torch.ones_like(at))
        top, bottom = self.get_buffer("ends")
        return (top + (bottom - top) * (self._rise(at) - low) / (high - low)).to(t.device)

    def alpha(self, t: Tensor) -> Tensor:
        return from_lam(self.lam(t), self.scale)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return from_lam(self.lam(t), self.scale)[1]


class LearnedPath(Schedule):
    """A path with fixed ends and learned bends: alpha and sigma of a base plus sum_m c_m sin(pi m t) / (pi m), m = 1, ..., modes
    (2209.15571; over pi m, so that c of one size costs every mode the same speed). It begins as its base.

    The best path is that of least energy, a max-min problem (see `langevin.objectives.interpolant`).

    Args:
        base: "flow" (linear) or "trigonometric".
        modes: sines in each of alpha and sigma.
    """

    def __init__(self, base: str = "flow", modes: int = 4) -> None:
        super().__init__()
        bases = {"flow": flow, "trigonometric": trigonometric}
        if base not in bases or modes < 1:
            raise ValueError(f"the path has base {base!r} and {modes} modes; bend {' or '.join(bases)} by at least 1.")
        self.name, self.base, self.modes = base, bases[base](), modes
        self.alpha_modes, self.sigma_modes = (nn.Parameter(torch.zeros(modes, dtype=torch.float64)) for _ in range(2))

    def _bent(self, straight: Tensor, t: Tensor, modes: Tensor) -> Tensor:
        order = torch.arange(1, self.modes + 1, dtype=torch.float64, device=modes.device)
        at = t.double().to(modes.device)
        # sin(pi m t) is 0 at t = 1 only up to rounding, and the ends are fixed
        inside = torch.where((at > 0) & (at < 1), 1.0, 0.0)[..., None]
        waves = inside * torch.sin(math.pi * order * at[..., None]) / (math.pi * order)
        return straight + (waves * modes).sum(-1).to(straight.device)

    def alpha(self, t: Tensor) -> Tensor:
        return self._bent(self.base.alpha(t), t, self.alpha_modes)

    def sigma(self, t: Tensor) -> Tensor:
        return self._bent(self.base.sigma(t), t, self.sigma_modes)

    def extra_repr(self) -> str:
        return f"{self.name}, modes={self.modes}"
