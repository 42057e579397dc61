"""A generator that is compiled for declared sizes compiles nothing over mixed requests of them, and draws what it drew before."""

import copy
import random
import threading
import warnings

import pytest
import torch
from torch import nn

from langevin import adapters
from langevin.core.denoiser import Denoiser
from langevin.strengths import strengths
from langevin.tasks import memory
from langevin.tasks.declared import Declared, declared, is_declared
from tests.laws.test_generate import PICTURE, make

SIZES = [(16, 12), (12, 16), (24, 12)]


class Net(nn.Module):
    """Two convolutions, told a prompt and a level; both have adapters of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, z, level, cond=None, mask=None):
        told = 0.0 if not cond else cond["tokens"].mean((1, 2))[:, None, None, None]
        for block in self.blocks:
            z = torch.tanh(block(z) + told)
        return z * (1 + level[:, None, None, None] / 1000)


def model():
    torch.manual_seed(0)
    net = Net()
    for k, name in enumerate(("style", "lines")):
        adapters.lora(net, 2, name=name, seed=k)
        for adapter in adapters.adapted(net, name).values():
            nn.init.normal_(adapter.up.weight)
    denoiser = Denoiser(net.requires_grad_(False), make().denoiser.process, "velocity").eval()  # pyright: ignore
    return make(denoiser=denoiser)


def graphs():
    import torch._dynamo.utils as dynamo

    return dynamo.counters["stats"]["unique_graphs"]


def asked(rng, size, count, guidance):
    made = {"prompt": rng.choice(["a cat", "dogs", ""]), "size": size, "count": count, "seed": rng.randrange(99)}
    made |= rng.choice(
        [{"plan": "dpmpp:3"}, {"steps": 3}, {"plan": "heun:2"}, {"plan": "ddpm:4"}, {"steps": 5, "negative": "grey"}]
    )
    if guidance == 1:  # which leads away from nothing
        made.pop("negative", None)
    made |= rng.choice([{}, {"batch": 1}, {"first_id": 7}])
    return made | ({} if guidance is None else {"guidance": guidance})


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_mixed_requests_of_declared_sizes_compile_nothing():
    rng, made = random.Random(0), model()
    every = [asked(rng, size, count, w) for size in SIZES for count in (1, 2, 4) for w in (None, 1.0, 4.5, 0.3)]
    every += [{"prompt": "a cat", "image": PICTURE, "strength": s, "size": (16, 12), "steps": 4} for s in (0.3, 0.8)]
    rng.shuffle(every)
    counted = [{"style": rng.random(), "lines": rng.choice([0.0, 1.0, -2.0])} if k % 2 else {} for k in range(len(every))]
    plain = []
    for request, adapted in zip(every, counted, strict=True):
        with strengths(adapted):
            plain.append(made.run(**request).tensor)
    assert not is_declared(made) and declared(made, SIZES, batches=(1, 2, 4), backend="eager") is made and is_declared(made)
    before, net = graphs(), made.denoiser.net
    # guidance doubles a batch: 1, 2, 4 and 8 at once for each size
    assert net._compiled_call_impl.shapes == 4 * len(SIZES) and before >= 4 * len(SIZES)
    with torch.compiler.set_stance("fail_on_recompile"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for request, adapted, wanted in zip(every, counted, plain, strict=True):
            with strengths(adapted):
                torch.testing.assert_close(made.run(**request).tensor, wanted, rtol=0, atol=1e-5)
        adapters.set_strengths(net, {"style": 0.1})
        standing = made.run(**every[0]).tensor
        found = {}
        threads = [threading.Thread(target=lambda k=k: found.update({k: made.run(**every[k]).tensor})) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.equal(found[0], standing)
    assert graphs() == before


@pytest.mark.parametrize("other", [{"size": (8, 8)}, {"size": (16, 12), "count": 3}], ids=["size", "batch"])
def test_what_was_not_declared_runs_as_before_and_is_said(other):
    made = model()
    plain = made.run("a cat", **other).tensor
    declared(made, [(16, 12)], backend="eager")
    before = graphs()
    with torch.compiler.set_stance("fail_on_recompile"), pytest.warns(UserWarning, match="not declared, and runs uncompiled"):
        ours = made.run("a cat", **other).tensor
    assert torch.equal(ours, plain) and graphs() == before
    copied = copy.deepcopy(made.denoiser)  # a copy is not compiled
    assert not isinstance(getattr(copied.net, "_compiled_call_impl", None), Declared)


def test_more_shapes_than_a_compiler_bears_by_itself():
    made = model()
    sizes = [(2 * k, 12) for k in range(4, 20)]  # beyond torch._dynamo.config.recompile_limit
    declared(made, sizes, backend="eager", guidance=(None,))
    before = graphs()
    assert before >= len(sizes) > torch._dynamo.config.recompile_limit
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in sizes:
            made.run("a cat", size=size)
    assert graphs() == before


def test_what_cannot_be_declared_is_refused():
    made = model()
    with pytest.raises(ValueError, match="declare at least one size"):
        declared(made, [])
    with pytest.raises(ValueError, match="size is"):
        declared(made, [(13, 12)], backend="eager")
    assert not is_declared(made)  # it is as it was
    declared(made, [(16, 12)], backend="eager")
    with pytest.raises(ValueError, match="compiled already; load it anew"):
        declared(made, [(16, 12)], backend="eager")
    made = model()
    memory.Turns(made.denoiser, "cpu")
    with pytest.raises(ValueError, match="its layers visit the device in turn, and no graph holds that"):
        declared(made, [(16, 12)])
