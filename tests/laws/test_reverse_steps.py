"""One step back of categories, by enumeration of data, states and paths: nothing of the library but the kernel's definition.

Two positions of three categories, T = 4 levels. The forward chain is made of one-step matrices as papers write them, so that
p(x, z_s, z_t) is a table, and what a model with the right belief draws at one position given all of z_t is a ratio of sums.
"""

import itertools

import pytest
import torch

from langevin import schedules
from langevin.core.categorical import Categorical, LowRank
from langevin.core.denoiser import Denoiser
from langevin.kernels import Chain, discretised_gaussian, nearest_neighbour_rates, ordinal_rates
from tests.rows import CATEGORICAL, PLACES, SKEW

T = 4
TABLE = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
PROCESSES = {
    **CATEGORICAL,
    "gaussian": Categorical(3, schedules.keep_linear(), kernel=discretised_gaussian(3, T, 0.1, 0.6)),
    "betas of the information": Categorical(3, schedules.keep_betas("mutual_information", T), "mask"),
}
RATES = {
    PROCESSES["ordinal"]: ordinal_rates(3, 0.4), PROCESSES["skew"]: SKEW,
    PROCESSES["neighbours"]: nearest_neighbour_rates(torch.tensor(PLACES), 1),
}  # fmt: skip


def one_step(process: Categorical, s: float, t: float) -> torch.Tensor:
    """Q_{t|s} (S, S), from the kernel's definition."""
    alpha_s, alpha_t = (process.schedule.alpha(torch.tensor(u, dtype=torch.float64)) for u in (s, t))
    kernel, eye = process.kernel, torch.eye(process.states, dtype=torch.float64)
    if isinstance(kernel, Chain):
        made, product = (round(len(kernel.steps) * u) for u in (s, t)), eye
        for k in range(*made):
            product = product @ kernel.steps[k]
        return product
    keep = alpha_t / alpha_s
    if isinstance(kernel, LowRank):
        return keep * eye + (1 - keep) * kernel.limit.expand_as(eye)
    return torch.linalg.matrix_exp(-keep.clamp(min=1e-80).log() * RATES[process])


class Tables:
    """p(x_1, x_2, a_1, a_2, b_1, b_2) of data x, states a at level s and b at level t."""

    def __init__(self, process: Categorical, s: float, t: float) -> None:
        before = torch.eye(process.states, dtype=torch.float64)
        for k in range(round(s * T)):
            before = before @ one_step(process, k / T, (k + 1) / T)
        before, step = before[: process.categories], one_step(process, s, t)
        self.joint = torch.einsum("xy,xa,yc,ab,cd->xyacbd", TABLE, before, before, step, step)
        self.evidence = before @ step  # q(z_t | x) of one position
        states = range(process.states)
        self.z = torch.tensor(list(itertools.product(states, states)))
        self.reached = self.joint.sum((0, 1, 2, 3)).flatten() > 0

    def back(self) -> torch.Tensor:
        """p(z_s at a position | z_t), (S^2, 2, S)."""
        total = self.joint.sum((0, 1, 2, 3))
        parts = [(self.joint.sum((0, 1, 3)) / total).permute(1, 2, 0), (self.joint.sum((0, 1, 2)) / total).permute(1, 2, 0)]
        return torch.stack([part.flatten(0, 1) for part in parts], 1)

    def belief(self) -> torch.Tensor:
        """p(x at a position | z_t), (S^2, 2, K)."""
        total = self.joint.sum((0, 1, 2, 3))
        parts = [(self.joint.sum((1, 2, 3)) / total).permute(1, 2, 0), (self.joint.sum((0, 2, 3)) / total).permute(1, 2, 0)]
        return torch.stack([part.flatten(0, 1) for part in parts], 1)

    def others(self) -> torch.Tensor:
        """p(x at a position | z_t at the other), (S^2, 2, K)."""
        b = len(self.evidence.T)
        one = torch.einsum("xy,yd->dx", TABLE, self.evidence)  # of the first position, given the second's state
        two = torch.einsum("xy,xb->by", TABLE, self.evidence)
        one, two = one / one.sum(1, keepdim=True), two / two.sum(1, keepdim=True)
        return torch.stack([one[None].expand(b, -1, -1).flatten(0, 1), two[:, None].expand(-1, b, -1).flatten(0, 1)], 1)


class Says(torch.nn.Module):
    """A network that says logs of given probabilities, a row for each state of `Tables`."""

    def __init__(self, probs: torch.Tensor) -> None:
        super().__init__()
        self.probs = probs.nan_to_num(1 / 3)

    def forward(self, z, level, cond=None, mask=None):
        return self.probs.log()


LEVELS = [(k / T, (k + 1) / T) for k in range(T)] + [(1 / T, 3 / T), (0.0, 1.0)]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", ["posterior", "logits"])
def test_a_step_back_is_the_forward_chain_turned_round(name, prediction):
    process = PROCESSES[name]
    for s, t in LEVELS:
        made = Tables(process, s, t)
        net = Says(made.belief() if prediction == "posterior" else made.others())
        belief = Denoiser(net, process, prediction, shape=(2,))(made.z, t)
        ours = process.bridge_probs(made.z, belief.probs, t, s)
        assert float((ours - made.back())[made.reached].abs().max()) < 1e-12


@pytest.mark.parametrize("name", PROCESSES)
def test_the_papers_weights_are_those_of_a_belief_that_leaves_its_own_state_out(name):
    # D3PM, eq. 4: p(z_s | z_t) prop. to sum_x q(z_s, z_t | x) p~(x | z_t). It is the step back where p~ is told by the other
    # positions alone; of p(x | z_t) it counts the position's own state twice, which of a mask changes nothing
    process, (s, t) = PROCESSES[name], (1 / T, 3 / T)
    made, k = Tables(process, s, t), process.categories
    before = torch.eye(process.states, dtype=torch.float64)
    for j in range(round(s * T)):
        before = before @ one_step(process, j / T, (j + 1) / T)
    pairs = before[:k, :, None] * one_step(process, s, t)[None]  # q(z_s, z_t | x), (K, S, S)
    wrong = {}
    for what, said in (("others", made.others()), ("all", made.belief())):
        weighed = torch.einsum("nix,xani->nia", said, pairs[:, :, made.z])
        away = weighed / weighed.sum(-1, keepdim=True) - made.back()
        wrong[what] = float(away[made.reached].abs().max())
    assert wrong["others"] < 1e-12
    assert wrong["all"] < 1e-12 if process.masked else wrong["all"] > 0.01


@pytest.mark.parametrize("name", PROCESSES)
def test_steps_back_of_one_position_end_in_its_data(name):
    # nothing is lost by drawing positions apart where there is one: from the law at level 1 the chain ends in the data, exactly
    process, p = PROCESSES[name], TABLE.sum(1)
    marginals = [torch.eye(process.states, dtype=torch.float64)]
    for k in range(T):
        marginals.append(marginals[-1] @ one_step(process, k / T, (k + 1) / T))
    law = p @ marginals[-1][: process.categories]
    z = torch.arange(process.states)[:, None]
    for k in range(T, 0, -1):
        joint = p[:, None] * marginals[k][: process.categories]  # (K, S)
        belief = (joint / joint.sum(0)).T[:, None]
        said = Denoiser(Says(belief), process, "posterior", shape=(1,))(z, k / T)
        law = law @ process.bridge_probs(z, said.probs, k / T, (k - 1) / T)[:, 0]
        assert torch.allclose(law, p @ marginals[k - 1][: process.categories], rtol=0, atol=1e-12)
    assert torch.allclose(law[: process.categories], p, rtol=0, atol=1e-12)
