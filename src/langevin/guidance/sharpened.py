"""Beliefs made surer: temperature and the nucleus. Samples are then no longer of the model's law, and less diverse."""

import math

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.posterior import Belief, CategoricalPosterior
from langevin.core.tree import leaves, tree_map
from langevin.embedded import Embedded
from langevin.guidance.wrapped import Wrapped


class Sharpened:
    """A guidance for categories: logits over a temperature, and then no category beyond the likeliest ones of mass `top`
    (nucleus sampling, 1904.09751), under the belief, in which the state has its say. Report the entropy of samples beside
    whatever it improves.

    Args:
        temperature: above 0; 1 changes nothing.
        top: in (0, 1]; 1 keeps all.
    """

    def __init__(self, temperature: float = 1.0, top: float = 1.0) -> None:
        if not 0 < temperature < math.inf or not 0 < top <= 1:
            raise ValueError(f"temperature is {temperature} and top {top}; give a number above 0, and a share in (0, 1].")
        self.temperature, self.top = temperature, top

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: for a process without categories; when first asked, for beliefs that are none of these.
        """
        if not any(isinstance(leaf, (Categorical, Embedded)) for leaf in denoiser.process.leaves().values()):
            raise ValueError(f"temperature and top are of categories, and this is {denoiser.process}; leave them out.")
        return _Sharp(denoiser, self.temperature, self.top)


class _Sharp(Wrapped):
    def __init__(self, denoiser: BaseDenoiser, temperature: float, top: float) -> None:
        super().__init__(denoiser)
        self.temperature, self.top = temperature, top

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        belief = self.denoiser.believe(z, t, cond, mask)
        if not any(isinstance(one, CategoricalPosterior) for one in leaves(belief).values()):
            raise ValueError("temperature and top are of probabilities, and this network says points alone; use Clamp.")
        return tree_map(self._sharp, belief)

    def _sharp(self, belief: Belief) -> Belief:
        if not isinstance(belief, CategoricalPosterior):
            return belief
        belief = belief.with_params(belief.logits / self.temperature)
        if self.top < 1:
            probs, order = torch.softmax(belief.log_probs, -1).sort(dim=-1, descending=True)
            beyond = probs.cumsum(-1) - probs >= self.top  # the likeliest is always kept
            far = torch.zeros_like(beyond).scatter(-1, order, beyond)
            belief = belief.with_params(belief.logits.masked_fill(far, -1e4))
        return belief
