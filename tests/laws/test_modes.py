"""What evaluates a model leaves the mode of each of its parts as it was, also where the network fails."""

import pytest
import torch
from torch import nn

import langevin as lv
from langevin import schedules
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.tasks.anomaly import strangeness
from langevin.tasks.elbo import elbo, variational_bound
from langevin.tasks.likelihood import encode, log_likelihood
from langevin.tasks.nulls import invert_through

X = torch.zeros(2, 3)
NULL = {"text": torch.zeros(2, 3)}


class Partly(nn.Module):
    """Trained, but for a part that is frozen; it tells whether it was asked with dropout on, and fails when it is to."""

    def __init__(self) -> None:
        super().__init__()
        self.learned, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3)
        self.fails, self.dropped = False, False

    def forward(self, z, level, cond=None, mask=None):
        self.dropped |= self.training or self.learned.training
        if self.fails:
            raise RuntimeError("out of memory")
        return self.frozen(self.learned(z)) + (0 if cond is None else cond["text"] * cond.get("drop", torch.ones(1)).any())


CALLS = {
    "sample": lambda m: lv.sample(m, lv.plans.ddim(2), 2),
    "elbo": lambda m: elbo(m, X, draws=2),
    "bound": lambda m: variational_bound(m, Batch(X), draws=2),
    "strangeness": lambda m: strangeness(m, X, lams=(1.0,), draws=1),
    "log_likelihood": lambda m: log_likelihood(m, X, steps=2),
    "encode": lambda m: encode(m, X, solver="heun", steps=2),
    "invert_through": lambda m: invert_through(m, X, NULL, NULL, 2.0, steps=2, iterations=1, exact=False),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_modes_are_put_back(call, fails):
    model = Denoiser(Partly(), Gaussian(schedules.cosine()), "v", (3,)).train()
    model.net.frozen.eval()
    model.net.fails = fails
    before = {name: part.training for name, part in model.named_modules()}
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            call(model)
    else:
        call(model)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert not model.net.dropped
