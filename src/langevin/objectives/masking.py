"""The bound of masked diffusion by counting masks, of whole texts, of blocks, and of single tokens, which is autoregression.

In continuous time the bound does not depend on the schedule (MDLM, 2406.07524; MD4, 2406.04329). Of n tokens k are masked at a
level m = 1 - alpha with probability C(n, k) m^k (1 - m)^(n - k), and the integral over m of that over m is 1 / k. So

    -log p(x) <= sum_{k = 1..n} 1/k E over sets of k masks of the cross-entropy at these k,

and k can be drawn evenly where papers draw a level, and then as many masks as chance will have: the same bound, with a variance
that the weight 1/t and the number of masks add nothing to. Of blocks the bounds add up, each given the text before it (BD3-LM,
2503.09573, eq. 8); blocks of one token have k = 1, and the bound is -log p(x) itself.

The bound asks nothing of tokens that are seen, which the model keeps whatever its network says of them. A network that is asked
for them as well learns sooner what tokens are, `Masking(seen=...)`: as BERT's is (1810.04805), and as that of discrete flow
matching is by its generalised KL (2412.03487), which charges a sampler that may replace what is seen. The bound stays what it is.
"""

from dataclasses import replace

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Cond, Denoiser
from langevin.core.noise import Noise
from langevin.core.space import Euclidean
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Objective, drop_conditions
from langevin.objectives.levels import stratified
from langevin.plans.tokens import where_blank


class Masking(Objective):
    """The bound above in nats per token, unbiased, for one masked process, and beside it the tokens that are seen.

    A network with blocks (`net.block`) is given the clean text as cond["text"], of which each block sees those before it.

    Args:
        drop: probability that a sample's conditions are dropped.
        seen: weight of the cross-entropy of seen tokens under what the network says of them, their sum over the number of all
            tokens; 0 is the bound alone. "nats" among the logs, and what is told of levels, are the bound without it.

    Raises:
        ValueError: for a probability or a weight that is none; when first called, for another process than a masked one, or
            padding.
    """

    def __init__(self, drop: float = 0.0, seen: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}; it is a probability below 1.")
        if not 0 <= seen < float("inf"):
            raise ValueError(f"seen is {seen}; it is the weight of the tokens that are seen, 0 or more.")
        self.drop, self.seen = drop, seen

    def extra_repr(self) -> str:
        return f"drop={self.drop:g}, seen={self.seen:g}"

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        x, leaf = leaves(batch.x).get(""), model.process.leaves().get("")
        free = isinstance(leaf, Categorical) and leaf.masked and isinstance(leaf.space, Euclidean)
        if not isinstance(leaf, Categorical) or not free or x is None or batch.mask is not None:
            raise ValueError("this bound counts the masks of one process, without padding; use Denoising(weight='elbo').")
        leaf.check_data(x)
        size = block_of(model, x[0].numel())
        count = x[0].numel() // size
        # within a text its blocks have shares spread evenly, and so has the batch
        order = noise.at("blocks").uniform((count,)).argsort(1)
        share = (stratified(noise.at("levels"))[:, None] + order / count) % 1
        k = (share * size).floor().clamp(max=size - 1).long() + 1
        each, known, level = charged(model, leaf, batch, k, noise, drop_conditions(batch.cond, noise, self.drop))
        nats, asked = each.mean(), known.mean()
        total = nats + self.seen * asked if self.seen else nats
        logs = {"loss": total.detach(), "nats": nats.detach(), "seen": asked.detach()}
        return Loss(total, logs, {"": level.reshape(-1)}, {"": each.detach().reshape(-1)})


def block_of(model: object, length: int) -> int:
    """Tokens of a block of the model's network; all of them where it has no blocks.

    Raises:
        ValueError: for a text that is no whole number of blocks.
    """
    size = getattr(getattr(model, "net", None), "block", None) or length
    if length % size:
        raise ValueError(f"the text has {length} tokens and the network blocks of {size}; make it a whole number of blocks.")
    return size


def counted(
    model: Denoiser, leaf: Categorical, batch: Batch, k: Tensor, noise: Noise, cond: Cond = None
) -> tuple[Tensor, Tensor]:
    """The bound's terms with k (B, blocks) masks in each block, (B, blocks) nats per token, and the levels that were shown.

    The mean over k = 1, ..., n is the bound. Every token has a level of its own at which it is masked; that of the k-th is where
    a state of k masks is met, and what a network that is told levels is told.
    """
    each, _, level = charged(model, leaf, batch, k, noise, cond)
    return each, level


def charged(
    model: Denoiser, leaf: Categorical, batch: Batch, k: Tensor, noise: Noise, cond: Cond = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What `counted` says, and between the two the cross-entropy of the tokens that are seen under what the network says of them,
    (B, blocks): their sum over the tokens of a block."""
    x = leaves(batch.x)[""]
    size = x[0].numel() // k.shape[1]
    own = noise.at("masks").uniform((k.shape[1], size)).to(x.device)
    rank = own.argsort(2).argsort(2)
    chosen = (rank < k[..., None].to(x.device)).reshape(x.shape)
    blank = own.sort(2).values.gather(2, k[..., None].to(x.device) - 1)[..., 0]  # (B, blocks)
    level = where_blank(leaf.schedule, (1 - leaf.schedule.alpha(torch.ones((), dtype=torch.float64))) * blank)
    t = level.reshape(-1, *[1] * (x.ndim - 1)) if k.shape[1] == 1 else level.repeat_interleave(size, 1)
    z = torch.where(chosen, leaf.categories, x)
    if k.shape[1] > 1:
        cond = {**(cond or {}), "text": x}
    out = model.outputs({"": z}, {"": t}, cond, None)
    # at its level a mask says nothing of its token
    belief = replace(model.predictions[""].posterior(leaf, out[""], z, t), evidence=None)
    surprise = -belief.log_probs.gather(-1, x[..., None])[..., 0]
    masked = torch.where(chosen, surprise, 0.0).reshape(*k.shape, size).sum(2) / k.to(surprise)
    seen = torch.where(chosen, 0.0, surprise).reshape(*k.shape, size).sum(2) / size
    return masked, seen, level
