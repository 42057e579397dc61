"""Averages are their closed forms; those of any width follow from a few that were stored."""

import copy
import json

import pytest
import torch
from torch import nn

import langevin as lv
from langevin.training.ema import Average, Constant, Ema, HalfLife, Power, exponent, named
from langevin.training.snapshots import Snapshot, Snapshots, average_run, fit, reconstruct


class Weight(nn.Module):
    """One weight, and a buffer that counts."""

    def __init__(self, value: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((2,), value, dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def set(self, k: int, value: float) -> None:
        with torch.no_grad():
            self.w.fill_(value)
            self.get_buffer("count").fill_(k)
            self.get_buffer("scratch").fill_(k)


def ramp(average: Average, steps: int, batch: int = 1) -> float:
    """Weight k after update k."""
    model = Weight()
    for k in range(1, steps + 1):
        model.set(k, float(k))
        average.update(model, batch)
    return float(average.tensors()["w"].detach()[0])


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_power_profiles_have_their_width_and_their_average(sigma_rel):
    g = exponent(sigma_rel)
    assert (g + 1) / ((g + 2) ** 2 * (g + 3)) == pytest.approx(sigma_rel**2, rel=1e-9)
    k = torch.arange(1, 301, dtype=torch.float64)
    share = (k ** (g + 1) - (k - 1) ** (g + 1)) / 300 ** (g + 1)  # the profile's mass between k - 1 and k
    wanted = float((share * k).sum())
    assert ramp(Average(Weight(), Power(sigma_rel)), 300) == pytest.approx(wanted, rel=1e-9)
    assert ramp(Ema(Weight(), Power(sigma_rel)), 300, batch=64) == pytest.approx(wanted, rel=1e-9)


def test_constant_decays_have_their_average():
    decay = 0.9
    wanted, d = 0.0, 0.0
    for k in range(1, 301):
        d = min(decay, (1 + k) / (10 + k))
        wanted = d * wanted + (1 - d) * k
    assert ramp(Ema(Weight(), decay), 300) == pytest.approx(wanted, rel=1e-9)
    assert ramp(Average(Weight(), decay), 3000) == pytest.approx(3000 - decay / (1 - decay), rel=1e-9)  # far from the start


def test_half_lives_are_counted_in_samples():
    average, one = Average(Weight(), HalfLife(1000, ramp=100.0)), Weight()
    average.update(one, 1000)
    one.set(1, 1.0)
    for _ in range(10):
        average.update(one, 100)
    assert float(average.tensors()["w"].detach()[0]) == pytest.approx(0.5, rel=1e-9)
    # the same in one update of ten times the batch
    other = Average(Weight(), HalfLife(1000, ramp=100.0))
    other.update(Weight(), 1000)
    other.update(one, 1000)
    assert float(other.tensors()["w"].detach()[0]) == pytest.approx(0.5, rel=1e-9)
    # while few samples have been seen the half-life is a share of them
    assert HalfLife(10**9, ramp=0.05).keep(2, 2000, 2100) == pytest.approx(0.5)


def test_the_default_is_what_it_was_to_the_bit():
    torch.manual_seed(0)
    model = lv.networks.MLP(2, width=16, depth=2)
    old, ema, tensors = copy.deepcopy(model), Ema(model, 0.999), Average(model, "constant:decay=0.999")
    for k in range(1, 30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
            decay = min(0.999, (1 + k) / (10 + k))
            for a, p in zip(old.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        ema.update(model)
        tensors.update(model, 64)
    for (name, a), b in zip(old.named_parameters(), ema.model.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, tensors.tensors()[name])


def test_buffers_are_copied():
    for kind in (Average, Ema):
        average = kind(Weight(), 0.9)
        ramp(average, 7)
        assert int(average.tensors()["count"]) == 7 and "scratch" not in average.tensors()
        assert average.buffers == {"count"}
    assert isinstance(average, Ema) and float(average.model.get_buffer("scratch")) == 7  # what the model computes with


def test_half_precision_is_averaged_in_float32():
    model = Weight(0.0, torch.bfloat16)
    average, ema = Average(model, Constant(0.9999)), Ema(model, Constant(0.9999))
    for a in (average, ema):
        a.updates = 10**6  # past the ramp
    model.set(1, 1.0)
    for _ in range(1000):
        average.update(model)
        ema.update(model)
    for a in (average, ema):
        value = a.tensors()["w"]
        assert value.dtype == torch.float32
        assert float(value.detach()[0]) == pytest.approx(1 - 0.9999**1000, rel=1e-3)  # in bfloat16 it would have stopped moving
    assert next(ema.model.parameters()).dtype == torch.float32


def test_only_what_is_trained_is_averaged_and_the_rest_is_shared():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    ema, average = Ema(model, 0.5), Average(model, 0.5)
    assert ema.model[0].weight is model[0].weight and ema.model[1].weight is not model[1].weight  # pyright: ignore
    assert set(average.tensors()) == set(ema.tensors()) == {"1.weight", "1.bias"}


@pytest.mark.parametrize("kind", [Average, Ema])
def test_a_loaded_average_goes_on_to_the_bit(kind):
    whole, first = kind(Weight(), Power(0.1)), kind(Weight(), Power(0.1))
    model = Weight()
    for k in range(1, 21):
        model.set(k, float(k) ** 0.5)
        whole.update(model, 3)
        if k <= 8:
            first.update(model, 3)
    second = kind(Weight(), Power(0.1))
    second.load(first.tensors(), first.updates, first.samples)
    for k in range(9, 21):
        model.set(k, float(k) ** 0.5)
        second.update(model, 3)
    assert all(torch.equal(v, second.tensors()[n]) for n, v in whole.tensors().items())
    with pytest.raises(ValueError, match="misses 'w'"):
        second.load({"count": torch.zeros(())}, 1, 1)
    with pytest.raises(ValueError, match="shape"):
        second.load({**first.tensors(), "w": torch.zeros(3)}, 1, 1)


def test_swapped_weights_come_back():
    model, average = Weight(), Average(Weight(), 0.9)
    ramp(average, 5)
    model.set(9, 9.0)
    with pytest.raises(RuntimeError), average.swapped(model):
        assert torch.equal(model.w, average.tensors()["w"])
        raise RuntimeError
    assert float(model.w.detach()[0]) == 9.0


def test_sharded_parameters_are_averaged_shard_by_shard():
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh, model = init_device_mesh("cpu", (1,)), Weight()
        model.w = nn.Parameter(distribute_tensor(torch.zeros(2, dtype=torch.float64), mesh, [Shard(0)]))
        average = Average(model, 0.9)
        for k in range(1, 20):
            with torch.no_grad():
                model.w.to_local().fill_(k)  # pyright: ignore
            average.update(model)
        value = average.tensors()["w"]
        assert isinstance(value, DTensor) and value.placements == (Shard(0),)
        assert float(value.to_local().detach()[0]) == pytest.approx(ramp(Average(Weight(), 0.9), 19), rel=1e-12)
    finally:
        dist.destroy_process_group()


# After training


def run(widths: tuple[float, ...], wanted: tuple[float, ...], every: int, steps: int = 1600):
    """A toy run by stochastic gradients: snapshots of `widths`, and the averages that are wanted, kept directly."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    target = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    stored = {s: Average(model, Power(s)) for s in widths}
    direct = {s: Average(model, Power(s)) for s in wanted}
    snapshots = []
    for k in range(1, steps + 1):
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
        loss = (model(x) - x @ target.T).square().mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p.add_(g, alpha=-0.01 / (1 + k / 400))
        for average in (*stored.values(), *direct.values()):
            average.update(model, 8)
        if k % every == 0:
            for s, average in stored.items():
                held = {n: v.detach().float() for n, v in average.tensors().items()}  # as they are stored
                snapshots.append(Snapshot(average.samples, s, held, step=k))
    return snapshots, {s: a.tensors() for s, a in direct.items()}


def test_averages_of_any_width_follow_from_two_that_were_stored():
    wanted = (0.04, 0.05, 0.07, 0.1, 0.13, 0.2)  # between those stored, outside them, and they themselves
    snapshots, direct = run((0.05, 0.1), wanted, every=50)
    for sigma_rel, tensors in direct.items():
        found = reconstruct(snapshots, sigma_rel)
        error = sum(float((found[n] - v).square().sum()) for n, v in tensors.items())
        size = sum(float(v.square().sum()) for v in tensors.values())
        assert (error / size) ** 0.5 < 1e-3, sigma_rel


def test_an_average_of_an_earlier_time_uses_nothing_later():
    snapshots, _ = run((0.05, 0.1), (), every=100, steps=800)
    early = [s for s in snapshots if s.samples <= 3200]
    a, b = reconstruct(snapshots, 0.07, at=3200), reconstruct(early, 0.07)
    assert all(torch.equal(a[n], b[n]) for n in a)
    with pytest.raises(ValueError, match="no snapshots up to 10 samples"):
        reconstruct(snapshots, 0.07, at=10)


def test_the_fit_is_the_least_squares_of_the_profiles():
    times, widths, sigma = [400, 400, 700, 1000, 1000], [0.05, 0.1, 0.05, 0.05, 0.1], 0.08
    found = fit(times, widths, sigma, 1000)
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000  # numerically, on a fine grid of time

    def profile(t: float, s: float) -> torch.Tensor:
        g = exponent(s)
        return torch.where(tau < t, (g + 1) * tau**g / t ** (g + 1), 0.0)

    columns = torch.stack([profile(t / 1000, s) for t, s in zip(times, widths, strict=True)], 1)
    want, c = profile(1.0, sigma), torch.tensor(found.coefficients, dtype=torch.float64)
    left = columns @ c - want
    assert float(c.sum()) == pytest.approx(1, abs=1e-9)
    assert float(left.norm() / want.norm()) == pytest.approx(found.misfit, rel=1e-3)
    slope = columns.T @ left / len(tau)
    assert float((slope - slope.mean()).abs().max()) < 1e-4  # no direction with sum 0 goes further down
    assert fit(times, widths, 0.1, 1000).coefficients == pytest.approx([0, 0, 0, 0, 1], abs=1e-8)


def test_a_run_of_snapshots_in_files(tmp_path):
    model, stored = Weight(), [Average(Weight(), Power(s)) for s in (0.05, 0.1)]
    direct, snapshots = Average(Weight(), Power(0.07)), Snapshots(tmp_path / "averages")
    for k in range(1, 401):
        model.set(k, float(k) ** 0.5)
        for average in (*stored, direct):
            average.update(model, 16)
        if k % 20 == 0:
            for average in stored:
                snapshots.save(average, k)
    tensors, record = average_run(tmp_path, 0.07)
    assert torch.allclose(tensors["w"], direct.tensors()["w"], rtol=1e-3) and int(tensors["count"]) == 400
    assert record["samples"] == 6400 and record["step"] == 400 and record["misfit"] < 5e-3 and len(record["snapshots"]) == 40
    json.dumps(record)
    assert not list((tmp_path / "averages").glob("*.partial"))
    early, record = average_run(tmp_path, 0.05, at=1600)
    assert torch.allclose(early["w"], snapshots.read()[8].tensors["w"]) and int(early["count"]) == 100 == record["step"]
    with pytest.raises(ValueError, match="only Power"):
        snapshots.save(Average(Weight(), 0.9), 1)

    path = sorted((tmp_path / "averages").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # one bit of one value
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        average_run(tmp_path, 0.07)
    path.write_bytes(bytes(data[:-3]))
    with pytest.raises(ValueError, match=path.name):
        average_run(tmp_path, 0.07)


@pytest.mark.parametrize(
    ("text", "message"),
    [("power:sigma_rel=0.4", "0.288"), ("power:sigma_rel=0", "above 0"), ("constant:decay=1.0", "decay"), ("pwer", "power"),
     ("half_life:samples=0", "half-life")],
)  # fmt: skip
def test_wrong_profiles_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        named(text)
