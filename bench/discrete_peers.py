"""mdlm's and flow_matching's own losses and samplers, from checkouts of theirs, around a network of ours.

Both are read where they lie and nothing of them is kept here. mdlm's module asks for frameworks that its losses do not use; they
are stood in for by empty modules.
"""

import functools
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import langevin as lv
from langevin.objectives import Loss, Objective


class Theirs:
    """What mdlm's `Diffusion` needs of itself to compute losses and draw samples."""

    def __init__(self, folder: Path, net: nn.Module, categories: int, length: int) -> None:
        for name in ("hydra", "hydra.utils", "lightning", "torchmetrics", "torchmetrics.aggregation", "dataloader", "models",
                     "utils", "transformers"):  # fmt: skip
            sys.modules.setdefault(name, types.ModuleType(name))
        for name in ("lightning", "torchmetrics", "transformers"):
            for wanted in ("LightningModule", "PreTrainedTokenizer"):
                setattr(sys.modules[name], wanted, type(wanted, (), {}))
        sys.modules["torchmetrics"].aggregation = types.SimpleNamespace(MeanMetric=type("MeanMetric", (), {}))  # pyright: ignore
        sys.modules["utils"].print_nans = lambda *_: None  # pyright: ignore
        sys.path.insert(0, str(folder))
        import diffusion  # pyright: ignore[reportMissingImports]
        import noise_schedule  # pyright: ignore[reportMissingImports]

        self._methods, self.net = diffusion.Diffusion, net
        self.noise, self.mask_index, self.neg_infinity = noise_schedule.LogLinearNoise(), categories, -1000000.0
        self.parameterization, self.time_conditioning, self.T = "subs", False, 0
        self.change_of_variables = self.importance_sampling = self.subs_masking = False
        self.antithetic_sampling, self.sampling_eps, self.dtype, self.device = True, 1e-3, torch.float32, torch.device("cpu")
        self.sampler = "ddpm_cache"
        space = types.SimpleNamespace
        self.config = space(noise=space(type="loglinear"), loader=space(eval_batch_size=1), model=space(length=length),
                            sampling=space(noise_removal=True, steps=128), training=space(sampling_eps=1e-3))  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return functools.partial(getattr(self._methods, name), self)

    def backbone(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Their networks answer with one logit more, of the mask."""
        return nn.functional.pad(self.net(x, sigma), (0, 1))


class MDLM(Objective):
    """mdlm's continuous-time loss, levels and all, as an objective of ours: nats per token."""

    def __init__(self, folder: Path, net: nn.Module, categories: int, length: int) -> None:
        super().__init__()
        self.theirs = Theirs(folder, net, categories, length)

    def forward(self, model: lv.Denoiser, batch: Any, noise: lv.Noise) -> Loss:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.ids[0]))
            loss = self.theirs._forward_pass_diffusion(batch.x).mean()
        return Loss(loss, {"loss": loss.detach()})

    def sample(self, count: int, steps: int, seed: int) -> Tensor:
        self.theirs.config.loader.eval_batch_size = count
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return self.theirs._sample(num_steps=steps)


class FlowMatching(Objective):
    """flow_matching's generalised KL on its mixture path with the linear scheduler, t = 1 being data: nats per token."""

    def __init__(self, folder: Path, net: nn.Module, categories: int, masked: bool) -> None:
        super().__init__()
        sys.path.insert(0, str(folder))
        stand_in = types.ModuleType("torchdiffeq")  # of their continuous solvers
        stand_in.odeint = None  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules.setdefault("torchdiffeq", stand_in)
        from flow_matching.loss import MixturePathGeneralizedKL  # pyright: ignore[reportMissingImports]
        from flow_matching.path import MixtureDiscreteProbPath  # pyright: ignore[reportMissingImports]
        from flow_matching.path.scheduler import PolynomialConvexScheduler  # pyright: ignore[reportMissingImports]

        self.path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
        self.loss, self.categories, self.masked = MixturePathGeneralizedKL(self.path), categories, masked
        self.answer = lambda x, t: net(x, 1000 * (1 - t))

    @property
    def size(self) -> int:
        return self.categories + self.masked

    def source(self, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, self.categories) if self.masked else torch.randint(self.categories, shape)

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        said = self.answer(x, t)
        return nn.functional.pad(said, (0, 1), value=-1e9) if self.masked else said

    def forward(self, model: lv.Denoiser, batch: Any, noise: lv.Noise) -> Loss:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.ids[0]))
            t = torch.rand(len(batch.x)) * (1 - 1e-3)
            x = self.path.sample(x_0=self.source(tuple(batch.x.shape)), x_1=batch.x, t=t).x_t
        loss = self.loss(self.logits(x, t), batch.x, x, t)
        return Loss(loss, {"loss": loss.detach()})

    def sample(self, count: int, length: int, steps: int, corrector: float, seed: int) -> Tensor:
        from flow_matching.solver import MixtureDiscreteEulerSolver  # pyright: ignore[reportMissingImports]

        def model(x: Tensor, t: Tensor) -> Tensor:
            """What is seen stays: a network that did not learn by their loss says nothing of letters that it sees."""
            said = torch.softmax(self.logits(x, t), -1)
            seen = (x != self.categories)[..., None] if self.masked else torch.zeros_like(x, dtype=torch.bool)[..., None]
            return torch.where(seen, nn.functional.one_hot(x, self.size).to(said), said)

        law = torch.zeros(self.size)
        law[self.categories :] = 1
        law = law if self.masked else torch.full((self.size,), 1 / self.size)
        solver = MixtureDiscreteEulerSolver(model, self.path, self.size, law)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            begin = self.source((count, length))
            return solver.sample(begin, step_size=1 / steps, div_free=corrector, time_grid=torch.tensor([0.0, 1.0 - 1e-3]))
