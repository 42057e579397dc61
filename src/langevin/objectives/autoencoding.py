"""Training of autoencoders: pictures to few numbers and back (Kingma & Welling, 1312.6114; Rombach et al., 2112.10752, sec. 3.1).

    L = d(x, x^) + perceptual d_p(x, x^) + kl / D  KL(q(z | x) || N(0, I)) - adversarial E C(x^),   x^ = decode(mean + std e),

for x of D numbers, with d a mean over them and the KL a sum over latents, in nats. With d the squared difference, kl = 2 s^2
makes L the negative evidence lower bound of a decoder of variance s^2, times 2 s^2 / D and up to a constant. Latent diffusion
takes the absolute difference and kl = 1e-6, which only keeps the latents' scale.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Networks, Objective
from langevin.objectives.critics import hinge
from langevin.objectives.distances import Distance, named


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)) in nats (1312.6114, app. B), summed over all but the samples: (B, ...) -> (B,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class Autoencoding(Objective):
    """The loss above. `model.net` is an autoencoder: encode(x) says `mean` and `logvar` (None for points, which have no KL and
    no noise), decode(z) pictures.

    Args:
        distance: d, a name ("squared", "absolute", "huber", "pseudo_huber") or any d(a, b) -> (B,).
        kl: weight of the divergence.
        perceptual: weight of d_p, a distance of pictures such as `langevin.evaluate.lpips`.
        distance_of_features: d_p.
        adversarial: weight of the critic's opinion; it is trained by the hinge loss beside the autoencoder.
        critic: pictures (B, C, H, W) -> scores (B, P), such as `langevin.networks.PatchCritic`.
        after: share of the run after which the critic counts, and learns.
        rate: learning rate of the critic, relative to the autoencoder's.

    Raises:
        ValueError: for weights below 0, or a weight without what it weighs; before training for a network with a codebook.
    """

    def __init__(
        self,
        distance: str | Distance = "absolute",
        kl: float = 1e-6,
        perceptual: float = 0.0,
        distance_of_features: str | Distance | None = None,
        adversarial: float = 0.0,
        critic: nn.Module | None = None,
        after: float = 0.5,
        rate: float = 1.0,
    ) -> None:
        super().__init__()
        if min(kl, perceptual, adversarial) < 0 or not 0 <= after < 1 or not rate > 0:
            raise ValueError(
                f"kl is {kl}, perceptual {perceptual}, adversarial {adversarial}, after {after}, rate {rate}; none is negative, "
                "after below 1, rate above 0."
            )
        for name, weight, part in (("perceptual", perceptual, distance_of_features), ("adversarial", adversarial, critic)):
            if bool(weight) != (part is not None):
                raise ValueError(f"{name} is {weight:g}, which weighs {'nothing' if weight else 'what is given'}; give both.")
        self.named = distance if isinstance(distance, str) else type(distance).__name__
        self.distance = named(distance)
        self.kl, self.perceptual, self.adversarial, self.after, self.own_rate = kl, perceptual, adversarial, after, rate
        self.distance_of_features = None if distance_of_features is None else named(distance_of_features)
        self.nets = Networks({} if critic is None else {"critic": critic})
        self.paced = critic is not None
        self._judged = False

    def extra_repr(self) -> str:
        said = f"distance={self.named}, kl={self.kl:g}"
        if self.perceptual:
            said += f", perceptual={self.perceptual:g}"
        return f"{said}, adversarial={self.adversarial:g}, after={self.after:g}" if self.adversarial else said

    def prepare(self, model: Any) -> None:
        if getattr(model.net, "codebook", None) is not None:
            raise ValueError("the autoencoder has a codebook, whose training is not written; use one that is gaussian, or plain.")

    def begin(self, model: Any, step: int, done: float) -> None:
        self._judged = self.adversarial > 0 and done >= self.after

    def forward(self, model: Any, batch: Batch, noise: Noise) -> Loss:
        x = leaves(batch.x)[""]
        code = model.net.encode(x)
        z = code.mean
        terms: dict[str, Tensor] = {}
        if code.logvar is not None:
            e = noise.at("code").normal(tuple(z.shape[1:]), z.dtype).to(z.device)
            z = z + torch.exp(0.5 * code.logvar) * e
            wide = torch.promote_types(z.dtype, torch.float32)  # variances span many orders
            terms["kl"] = divergence(code.mean.to(wide), code.logvar.to(wide))
        again = model.net.decode(z)
        terms["reconstruction"] = self.distance(x, again.to(x.dtype))
        total = terms["reconstruction"]
        if "kl" in terms:
            total = total + self.kl / x[0].numel() * terms["kl"]
        if self.distance_of_features is not None:
            terms["perceptual"] = self.distance_of_features(x, again.to(x.dtype))
            total = total + self.perceptual * terms["perceptual"]
        if self._judged:
            terms |= self._opinions(x, again)
            total = total + self.adversarial * terms["generator"] + terms["critic"]
        return Loss(total.mean(), {f"loss/{name}": value.detach().mean() for name, value in terms.items()})

    def _opinions(self, x: Tensor, again: Tensor) -> dict[str, Tensor]:
        """The critic's of what was made, whose gradient is the autoencoder's alone, and its own loss, a gradient for itself."""
        critic = self.nets["critic"]
        still: Mapping[str, Tensor] = {name: p.detach() for name, p in critic.named_parameters()}
        judged: Tensor = torch.func.functional_call(critic, dict(still), (again,))
        both: Sequence[Tensor] = critic(torch.cat([x, again.detach().to(x.dtype)])).chunk(2)
        return {"generator": -judged.mean(1), "critic": hinge([both[0]], [both[1]])}
