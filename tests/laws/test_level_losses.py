"""Losses by level: what is drawn more often is divided by it, and what is written down is what was met."""

import json

import pytest
import torch

from langevin import pictures, schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.process import Product
from langevin.objectives import ELBO, Denoising
from langevin.objectives.levels import LevelBins, LevelDensity, LossAware, Uniform

SCHEDULE = schedules.cosine()
PROCESS = Gaussian(SCHEDULE)
X = Noise.of(7, 64).normal((2, 3))


class Zero(torch.nn.Module):
    """Says 0 for every leaf."""

    def __init__(self, states: int = 4) -> None:
        super().__init__()
        self.w, self.states = torch.nn.Parameter(torch.zeros(())), states

    def one(self, z):
        return z * self.w if z.is_floating_point() else self.w.expand(*z.shape, self.states)

    def forward(self, z, level, cond=None, mask=None):
        return {n: self.one(v) for n, v in z.items()} if isinstance(z, dict) else self.one(z)


class At(LevelDensity):
    """All levels at one place, with a density that is made up."""

    def __init__(self, t: float, p: float, wants: bool) -> None:
        super().__init__()
        self.t, self.p, self.wants_losses = t, p, wants

    def quantile(self, u, schedule):
        return torch.full_like(u, self.t)

    def density(self, t, schedule):
        return torch.full_like(t, self.p)


@pytest.mark.parametrize("weight", ["simple", "min_snr", "sigmoid", "elbo", "edm"])
def test_the_estimate_is_unbiased_under_any_density_that_follows_the_loss(weight):
    # E_p[loss / p] is the same sum over cells whatever p is: here exactly, by visiting every cell at its middle
    model, cells = Denoiser(Zero(), PROCESS, "v"), 5
    density = LossAware(cells, history=1)
    middles = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells

    def expected(p: torch.Tensor) -> float:
        out = 0.0
        for t, share in zip(middles.tolist(), p.tolist(), strict=True):
            loss = Denoising(weight, At(t, share * cells, True))(model, Batch(X), Noise.of(0, len(X)))
            out += share * float(loss.total.detach())
        return out

    plain = expected(density.get_buffer("mass"))
    for t in middles.tolist():
        one = Denoising(weight, At(t, 1.0, True))(model, Batch(X), Noise.of(0, len(X)))
        density.observe(one.levels[""][:1], one.each[""].mean()[None])
    skewed = density.get_buffer("mass")
    # "v" errors under "simple" are alike at all levels, those of the others are not
    assert weight == "simple" or float(skewed.max() / skewed.min()) > 1.2
    assert expected(skewed) == pytest.approx(plain, rel=1e-5)


def test_what_is_observed_is_not_divided_by_the_density():
    model = Denoiser(Zero(), PROCESS, "v")
    for weight in ("simple", "min_snr"):
        one, three = (Denoising(weight, At(0.3, p, True))(model, Batch(X), Noise.of(0, 64)) for p in (1.0, 3.0))
        assert float(three.total.detach()) == pytest.approx(float(one.total.detach()) / 3, rel=1e-6)
        assert torch.allclose(three.each[""], one.each[""], rtol=1e-6)
        assert torch.equal(one.levels[""], torch.full((64,), 0.3, dtype=torch.float64)) and not one.each[""].requires_grad


def test_rings_keep_the_last_losses_whatever_the_batches():
    g = torch.Generator().manual_seed(0)
    t, loss = torch.rand(400, generator=g, dtype=torch.float64), torch.rand(400, generator=g, dtype=torch.float64)
    t[::17] = 0.0  # given data
    whole, parts, plain = LossAware(4, 6), LossAware(4, 6), [[] for _ in range(4)]
    whole.observe(t, loss)
    for i in range(0, 400, 23):
        parts.observe(t[i : i + 23], loss[i : i + 23])
    for at, value in zip(t.tolist(), loss.tolist(), strict=True):
        if at > 0:
            plain[int(at * 4)].append(value)
    for cell in range(4):
        want = sorted(plain[cell][-6:])
        for density in (whole, parts):
            assert density.get_buffer("losses")[cell].sort().values.tolist() == want
            assert int(density.get_buffer("seen")[cell]) == len(plain[cell])
    root = torch.tensor([sum(v**2 for v in p[-6:]) / 6 for p in plain], dtype=torch.float64).sqrt()
    assert torch.allclose(whole.get_buffer("mass"), 0.999 * root / root.sum() + 0.001 / 4, rtol=1e-12)
    assert torch.equal(whole.get_buffer("mass"), parts.get_buffer("mass"))


def test_the_history_is_checkpointed_with_the_objective_and_goes_on_to_the_bit():
    model = Denoiser(Zero(), PROCESS, "v")

    def steps(objective: Denoising, ks: range) -> list[float]:
        out = []
        for k in ks:
            loss = objective(model, Batch(X), Noise.of(0, 64, first=64 * k))
            objective.observe(loss.levels, loss.each)
            out.append(float(loss.total.detach()))
        return out

    whole, first, second = (Denoising("min_snr", LossAware(8, 4)) for _ in range(3))
    wanted = steps(whole, range(10))
    begun = steps(first, range(5))
    second.load_state_dict({n: v.clone() for n, v in first.state_dict().items()})
    assert begun + steps(second, range(5, 10)) == wanted
    assert not torch.allclose(second.levels.get_buffer("mass"), torch.full((8,), 1 / 8, dtype=torch.float64))


def test_levels_of_elements_are_told_apart():
    model = Denoiser(Zero(), PROCESS, "v")
    loss = Denoising("min_snr", spread="elements")(model, Batch(X), Noise.of(0, 64))
    assert loss.levels[""].shape == loss.each[""].shape == (64 * 6,)
    assert float(loss.each[""].mean()) == pytest.approx(float(loss.total.detach()), rel=1e-5)
    density = LossAware(4, 3)
    follows = Denoising("min_snr", density, spread="elements")
    loss = follows(model, Batch(X), Noise.of(0, 64))
    assert follows.wants_losses and not density.get_buffer("seen").any()  # before the update is made
    follows.observe(loss.levels, loss.each)
    assert (density.get_buffer("seen") > 60).all() and int(density.get_buffer("seen").sum()) == 64 * 6


def test_given_leaves_are_no_losses():
    product = Product({"a": PROCESS, "b": Categorical(4, schedules.keep_linear(), "mask")})
    model = Denoiser(Zero(), product, {"a": "v", "b": "logits"})
    x = {"a": X, "b": torch.zeros(64, dtype=torch.int64)}
    loss = Denoising(spread="independent", clean=0.9)(model, Batch(x), Noise.of(0, 64))
    given = sum(int((t == 0).sum()) for t in loss.levels.values())
    assert 40 < given <= 64
    bins = LevelBins(1)
    bins.add(loss.levels, loss.each)
    logs = bins.logs()
    for name in ("a", "b"):
        met = loss.levels[name] > 0
        assert logs[f"levels/{name}/0-1"] == pytest.approx(float(loss.each[name][met].double().mean()), rel=1e-9)


def test_bins_are_means_over_what_was_met():
    bins, t = LevelBins(4), torch.tensor([0.0, 0.1, 0.2, 0.3, 1.0, 0.30])
    for k in range(3):
        bins.add({"": t}, {"": torch.tensor([9.0, 1.0, 2.0, 4.0, 7.0, 5.0]) + k})
    assert bins.logs() == {"levels/0-0.25": 2.5, "levels/0.25-0.5": 5.5, "levels/0.75-1": 8.0}
    assert bins.logs() == {}
    # the weighted mean over bins is the loss itself
    model = Denoiser(Zero(), PROCESS, "v")
    loss = Denoising("min_snr", Uniform())(model, Batch(X), Noise.of(0, 64))
    bins.add(loss.levels, loss.each)
    sums, counts = bins.tensors
    assert float(sums.sum() / counts.sum()) == pytest.approx(float(loss.total.detach()), rel=1e-5) and int(counts.sum()) == 64


def test_bins_go_on_to_the_bit_and_begin_at_nothing_in_all_processes_but_one():
    t, loss = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, one, first, second = LevelBins(3), LevelBins(3), LevelBins(3), LevelBins(3)
    for part in (slice(0, 20), slice(20, 50)):
        whole.add({"": t[part]}, {"": loss[part]})
    one.add({"": t[:20]}, {"": loss[:20]})
    kept = json.loads(json.dumps(one.state()))
    first.load(kept)
    second.load(kept, mine=False)
    assert [float(v.abs().sum()) for v in second.tensors] == [0.0, 0.0]
    first.add({"": t[20:]}, {"": loss[20:]})
    assert first.logs() == whole.logs()


def test_the_bound_reports_its_steps():
    loss = ELBO(steps=10)(Denoiser(Zero(), PROCESS, "v"), Batch(X), Noise.of(0, 64))
    assert float(loss.each[""].mean()) == pytest.approx(float(loss.total.detach()), rel=1e-5)
    assert set((loss.levels[""] > 0).tolist()) == {True} and loss.levels[""].shape == (64,)


def test_a_log_becomes_a_picture_with_one_curve_per_bin(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        {
            "step": s,
            "loss": 1.0,
            **{f"levels/{leaf}/{a}-{b}": (1 + a) / s for leaf in ("x", "y") for a, b in ((0, 0.5), (0.5, 1))},
        }
        for s in (10, 20)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": 2.0}, *lines]))
    drawn = []
    plt = pictures.pyplot()
    close, plt.close = plt.close, drawn.append
    try:
        path = pictures.plot_levels(log, tmp_path / "levels.png")
    finally:
        plt.close = close
    assert path.stat().st_size > 0
    panels = drawn[0].axes
    assert [p.get_title() for p in panels] == ["x", "y"]
    found = [(c.get_label(), [float(v) for v in c.get_xdata()], list(c.get_ydata())) for c in panels[0].lines]
    assert found == [("0-0.5", [10, 20], [0.1, 0.05]), ("0.5-1", [10, 20], [0.15, 0.075])]
    close(drawn[0])
    log.write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(ValueError, match="no losses by level"):
        pictures.plot_levels(log, tmp_path / "levels.png")


@pytest.mark.parametrize(("call", "message"), [(lambda: LossAware(floor=0.0), "floor"), (lambda: LossAware(history=0), "history"),
                                               (lambda: LevelBins(0), "bins")])  # fmt: skip
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
