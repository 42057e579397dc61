"""Further readings of a network's output on categories, beside the predictions of the core.

residual()   logits to which the state itself is added                    (D3PM's softmax head, 2107.03006, app. B.2)
logistic()   two numbers a position: a truncated logistic over ordered values      (the same, app. B.3)
ratio()      log q(y) / q(z) of each other category: the score of SEDD             (2310.16834)
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.categorical import Categorical, LowRank
from langevin.core.levels import broadcastable
from langevin.core.posterior import CategoricalPosterior
from langevin.core.prediction import CategoricalPrediction, Prediction
from langevin.core.process import LeafProcess

_NEVER = -1e4


class Residual(CategoricalPrediction):
    """Logits h + one_hot(z), which leave their own position out."""

    def __init__(self, level: str = "1000t") -> None:
        super().__init__("residual", evidence=True, level=level)

    def posterior(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> CategoricalPosterior:
        here = F.one_hot(z, process.states)[..., : process.categories]  # a mask adds nothing
        return CategoricalPosterior(output + here.to(output.dtype), process.evidence(z, t))


class Logistic(CategoricalPrediction):
    """A logistic density, cut into the K bins of [-1, 1] and renormalised, which is the truncation.

    The network gives (m, l) a position, (*shape, 2): the location is tanh(m + z scaled to [-1, 1]), the inverse scale exp(2 - l).
    """

    def __init__(self, level: str = "1000t") -> None:
        super().__init__("logistic", evidence=True, level=level)

    def check(self, process: LeafProcess, leaf: str) -> None:
        super().check(process, leaf)
        if isinstance(process, Categorical) and process.masked:
            raise ValueError("prediction 'logistic' starts from the state's value, and a mask has none; use 'logits'.")

    def check_output(self, process: Categorical, output: Tensor, z: Tensor) -> None:
        if output.shape != (*z.shape, 2):
            raise ValueError(
                f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return location and scale, "
                f"{(*z.shape, 2)}."
            )

    def outputs(self, categories: int) -> int:
        """Of the network at each position, whatever the number of categories."""
        return 2

    def log_masses(self, process: Categorical, output: Tensor, z: Tensor) -> Tensor:
        """Log-mass of each bin before renormalisation, (B, *shape, K) float64."""
        shift, scale = output.double().unbind(-1)
        last = process.categories - 1
        location = torch.tanh(shift + 2 * z / last - 1)[..., None]
        inverse = torch.exp(2 - scale)[..., None]
        centres = torch.linspace(-1, 1, last + 1, dtype=torch.float64, device=z.device)
        # the mass is even in the distance: on the lower side the difference of two sigmoids keeps its digits
        below = -(centres - location).abs()
        high, low = F.logsigmoid(inverse * (below + 1 / last)), F.logsigmoid(inverse * (below - 1 / last))
        return high + torch.log(-torch.expm1((low - high).clamp(max=-1e-30)))

    def posterior(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> CategoricalPosterior:
        return CategoricalPosterior(self.log_masses(process, output, z).to(output.dtype), process.evidence(z, t))


class Ratio(CategoricalPrediction):
    """log s(y) = log q_t(z with y at this position) / q_t(z), for each of the K categories y: the concrete score of SEDD.

    Low-rank kernels only, where the belief follows from it: s / sum s = alpha h + (1 - alpha) pi, and h is what other positions
    say of this one. (A network that is not yet trained may leave h negative; it is then cut at 0, as SEDD's sampler does.) On a
    mask s is p alpha / (1 - alpha), and the network is asked for log p, which need not be normalised.
    """

    def __init__(self, level: str = "1000t") -> None:
        super().__init__("ratio", evidence=True, level=level)

    def check(self, process: LeafProcess, leaf: str) -> None:
        super().check(process, leaf)
        if isinstance(process, Categorical) and not isinstance(process.kernel, LowRank):
            raise ValueError("prediction 'ratio' gives a belief on low-rank kernels alone; use 'logits'.")

    def log_ratio(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """log s, (B, *shape, K) float64; 0 for the state itself."""
        out = output.double()
        if process.masked:
            alpha = process.schedule.alpha(broadcastable(t, z)).to(z.device)[..., None].clamp(min=1e-300)
            out = out + alpha.log() - (1 - alpha).clamp(min=1e-300).log()
        return torch.where(F.one_hot(z, process.states)[..., : process.categories].bool(), 0.0, out)

    def posterior(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> CategoricalPosterior:
        evidence = process.evidence(z, t)
        if process.masked:
            return CategoricalPosterior(output, evidence)
        alpha = process.schedule.alpha(broadcastable(t, z)).to(z.device)[..., None]
        share = torch.softmax(self.log_ratio(process, output, z, t), -1)
        others = (share - (1 - alpha) * process.kernel.limit.to(z.device)) / alpha.clamp(min=1e-12)
        known = torch.where(alpha > 1e-12, others, share).clamp(min=1e-30)
        return CategoricalPosterior(known.log().clamp(min=_NEVER).to(output.dtype), evidence)


def outputs(predictions: "Prediction | str | Mapping[str, Prediction | str] | None", leaf: Categorical, name: str = "") -> int:
    """How many numbers a network says at each position of a categorical leaf: one for each category, or as many as its
    prediction reads, if it has `outputs(categories)`.

    Args:
        predictions: of the leaf, or of all leaves by name.
    """
    own = predictions.get(name) if isinstance(predictions, Mapping) else predictions
    asked = getattr(own, "outputs", None)
    return leaf.categories if asked is None else asked(leaf.categories)


def residual(level: str = "1000t") -> Residual:
    """See `Residual`."""
    return Residual(level)


def logistic(level: str = "1000t") -> Logistic:
    """See `Logistic`."""
    return Logistic(level)


def ratio(level: str = "1000t") -> Ratio:
    """See `Ratio`."""
    return Ratio(level)


HEADS: dict[str, Callable[..., CategoricalPrediction]] = {"residual": residual, "logistic": logistic, "ratio": ratio}
