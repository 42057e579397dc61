"""Optimisers continue to the bit and do what their papers say; rates are their closed forms."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

import langevin as lv
from langevin.training.optimisers import load_state_tensors, matrices, optimiser, orthogonal, state_tensors
from langevin.training.rates import rate

KINDS = ("adamw", "muon", "adafactor")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lv.networks.UNet(channels=1, width=8, multipliers=(1, 2), blocks=1, head_width=8, classes=3)


def gradients(model: nn.Module, k: int) -> None:
    """Gradients of a smooth loss that depends on the weights and on k; the network itself would cost more and show no more."""
    g = torch.Generator().manual_seed(k)
    for p in model.parameters():
        p.grad = p.detach() * 0.1 + torch.randn(p.shape, generator=g)


def trained(kind: str, steps: range, model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for k in steps:
        gradients(model, k)
        for group in opt.param_groups:
            group["lr"] = 1e-3 / (1 + k)
        opt.step()


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_are_five_saved_and_five_more(kind):
    whole = network()
    trained(kind, range(10), whole, optimiser(whole, kind))
    first = network()
    opt = optimiser(first, kind)
    trained(kind, range(5), first, opt)
    weights, state = load(save(first.state_dict())), load(save(state_tensors(opt, first)))

    second = network(1)  # other initial weights, and parameters of the optimiser in no particular order
    second.load_state_dict(weights)
    again = optimiser(second, kind)
    load_state_tensors(again, second, dict(reversed(state.items())))
    trained(kind, range(5, 10), second, again)
    for (name, a), b in zip(whole.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert set(state_tensors(again, second)) == set(state)
    # torch's own way of saving sees one optimiser as well
    third = copy.deepcopy(first)
    other = optimiser(third, kind)
    other.load_state_dict(opt.state_dict())
    trained(kind, range(5, 10), third, other)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_or_torn_state_is_refused_and_changes_nothing(kind):
    model = network()
    opt = optimiser(model, kind)
    trained(kind, range(2), model, opt)
    state = state_tensors(opt, model)
    before = {n: v.clone() for n, v in state.items()}
    name = next(n for n in state if n.startswith("enter.weight."))
    for wrong, message in (
        ({**state, "nowhere.weight.exp_avg": state[name]}, "nowhere.weight"),
        ({**state, name + "_more": state[name]}, "enter.weight"),
        ({**state, name: torch.zeros(3, 2)}, "enter.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            load_state_tensors(opt, model, wrong)
    after = state_tensors(opt, model)
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)


def test_adamw_is_that_of_the_trainer():
    def steps(make):
        model = network()
        opt = make(model)
        for k in range(3):
            gradients(model, k)
            opt.step()
        return list(model.parameters())

    def theirs(model, fused):
        groups = [[p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]]
        decays = [{"params": some, "weight_decay": decay} for some, decay in zip(groups, (0.1, 0.0), strict=True)]
        return torch.optim.AdamW(decays, lr=1e-3, betas=(0.9, 0.99), fused=fused)

    ours = steps(lambda m: optimiser(m, "adamw", 1e-3, 0.1))
    assert all(torch.equal(a, b) for a, b in zip(ours, steps(lambda m: theirs(m, True)), strict=True))
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(ours, steps(lambda m: theirs(m, False)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_decay_leaves_vectors_alone(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
            p.grad = torch.zeros_like(p)
    optimiser(model, kind, lr=0.1, weight_decay=0.5).step()
    for name, p in model.named_parameters():
        wanted = 1.0 if p.ndim == 1 else 1 - 0.1 * 0.5
        assert torch.allclose(p, torch.full_like(p, wanted)), name


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_newton_schulz_is_its_polynomial_on_the_singular_values(shape):
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert torch.allclose(orthogonal(x), u @ torch.diag_embed(s) @ v, atol=1e-9)
    assert float(s.max()) < 1.3 and float(s.min()) > 0.4


def test_muon_agrees_with_torch_and_treats_a_kernel_as_a_matrix():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 8, bias=False), nn.Linear(8, 20, bias=False))
    theirs, kernels = copy.deepcopy(ours), nn.Sequential(nn.Conv2d(3, 8, 2, bias=False), nn.Conv2d(8, 20, 1, bias=False))
    with torch.no_grad():
        for a, b in zip(kernels.parameters(), ours.parameters(), strict=True):
            a.copy_(b.reshape(a.shape))
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9}
    reference = torch.optim.Muon(theirs.parameters(), adjust_lr_fn="match_rms_adamw", **settings)
    start = [p.detach().clone() for p in ours.parameters()]
    for k in range(3):
        for model, o in ((ours, None), (theirs, reference), (kernels, None)):
            g = torch.Generator().manual_seed(k)
            for p in model.parameters():
                p.grad = torch.randn(p.numel(), generator=g).reshape(p.shape)
            if o is None:
                o = model.__dict__.setdefault("_opt", optimiser(model, "muon", **settings))
            o.step()
    for a, b, c, s in zip(ours.parameters(), theirs.parameters(), kernels.parameters(), start, strict=True):
        assert torch.equal(a, c.reshape(a.shape))
        assert float((a - b).detach().norm() / (b - s).detach().norm()) < 0.03  # theirs works in bfloat16


def test_muon_steps_are_as_large_as_those_of_adamw():
    model = nn.Linear(64, 256, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(0))
    optimiser(model, "muon", lr=1.0, weight_decay=0.0).step()
    size = float((model.weight - before).detach().square().mean().sqrt())
    assert size == pytest.approx(0.2, rel=0.25)  # AdamW's is 0.2 to 0.4 (2502.16982); the iteration is a rough one


def test_muon_takes_hidden_matrices_alone():
    unet, dit = matrices(network()), matrices(lv.networks.DiT(channels=1, size=8, width=16, depth=1, heads=2, classes=3))
    for name in ("enter.weight", "leave.weight", "level.first.weight", "conditions.label.weight"):
        assert name not in unet
    assert "down.stages.0.weight" not in unet and any(n.endswith("block.conv1.weight") for n in unet)
    assert not any("project" in n or "final" in n or "kind" in n or "label" in n for n in dit)
    assert {"joint.trunk.0.attention.query.weight", "joint.trunk.0.feed.0.weight"} <= set(dit)
    tied = nn.ModuleDict({"words": nn.Embedding(5, 4), "out": nn.Linear(4, 5, bias=False), "in": nn.Linear(4, 4)})
    tied["out"].weight = tied["words"].weight
    assert matrices(tied) == ["in.weight"]
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable"):
        optimiser(frozen)
    with pytest.raises(ValueError, match="finds no hidden"):
        optimiser(nn.Embedding(3, 2), "muon")
    with pytest.raises(ValueError, match="'sgd'"):
        optimiser(network(), "sgd")  # pyright: ignore


@pytest.mark.parametrize("kind", KINDS)
def test_optimisers_solve_a_regression(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 3, padding=1))
    x = torch.randn(16, 2, 6, 6)
    y = x.roll(1, -1)
    opt = optimiser(model, kind, lr=0.02 if kind != "adafactor" else 0.2, weight_decay=0.0)
    for _ in range(150):
        opt.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        opt.step()
    assert float(loss.detach()) < 0.15  # guessing 0 costs 1


# Rates


def test_rates_are_their_closed_forms():
    at = {"batch": 64, "lr": 2.0}
    assert rate(10**9, schedule="constant", **at) == 2.0
    assert rate(0, schedule="constant", warmup=6400, **at) == 2.0 * 64 / 6400  # the first update is not lost
    assert rate(6400 - 64, schedule="constant", warmup=6400, **at) == 2.0
    assert rate(25_000, schedule="cosine", total=100_000, **at) == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(99_968, schedule="cosine", total=100_000, **at) > 0  # nor is the last
    assert rate(400, schedule="inverse_sqrt", hold=100, **at) == pytest.approx(1.0)
    assert rate(99, schedule="inverse_sqrt", hold=100, **at) == 2.0
    wsd = {"schedule": "wsd", "total": 1000, "decay": 200}
    assert rate(800, **wsd, **at) == 2.0 and rate(1000, **wsd, **at) == 0.0  # pyright: ignore
    assert rate(850, **wsd, **at) == pytest.approx(2 * (1 - math.sqrt(0.25)))  # pyright: ignore
    assert rate(850, **wsd, shape="linear", **at) == pytest.approx(2 * 0.75)  # pyright: ignore


def test_the_default_rate_is_that_of_the_trainer():
    steps, batch, lr, warmup = 2000, 64, 1e-3, 100
    for step in range(steps):
        rise = min(1.0, (step + 1) / warmup)
        old = lr * rise * (0.5 * (1 + math.cos(math.pi * step / steps)))
        assert rate(step * batch, batch, lr, total=steps * batch, warmup=warmup * batch) == old


def test_the_rate_depends_on_samples_and_not_on_how_they_are_split():
    # 1 x 8, 2 x 4 and 8 x 1 accumulated: devices x samples a pass x passes
    def rates(devices: int, share: int, passes: int) -> dict[int, float]:
        seen, out = 0, {}
        while seen < 800:
            out[seen] = rate(seen, devices * share * passes, 1.0, "wsd", total=800, warmup=80)
            seen += sum(share for _ in range(devices) for _ in range(passes))
        return out

    assert rates(1, 8, 1) == rates(2, 4, 1) == rates(1, 1, 8) == rates(2, 2, 2)
    # another batch meets the same rate at the same sample once the warm-up, read at an update's end, is over
    small, large = rates(1, 4, 1), rates(1, 8, 1)
    assert all(small[s] == r for s, r in large.items() if s >= 80)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine"}, "total"),
        ({"schedule": "wsd", "total": 10, "decay": 11}, "decay"),
        ({"schedule": "wsd", "total": 10, "shape": "cube"}, "shape"),
        ({"schedule": "inverse_sqrt"}, "hold"),
        ({"schedule": "step"}, "schedule"),
    ],
)
def test_rates_refuse_what_is_missing(settings, message):
    with pytest.raises(ValueError, match=message):
        rate(5, 1, 1.0, **settings)
