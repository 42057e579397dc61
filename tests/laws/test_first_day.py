"""What stops somebody on the first day: mistakes that train, sample or resume without a word are said, in one sentence."""

import copy
import json
import warnings
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.core.schedule import Formula
from langevin.core.space import SymmetricEdges
from langevin.data.fingerprint import agree
from langevin.training.scale import warn_of_scale

FLOW = lv.Gaussian(lv.schedules.flow())
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
DATA = lv.data.Arrays(X, {"label": torch.arange(64) % 2})
DATA_ONLY = lv.data.Arrays(X)


class Labelled(torch.nn.Module):
    """A network of two classes; `hears` how it learns that they are dropped, "" for not at all."""

    def __init__(self, hears=""):
        super().__init__()
        self.hears, self.embedding, self.layer = hears, torch.nn.Embedding(3, 2), torch.nn.Linear(3, 2)

    def forward(self, z, level, cond=None, mask=None):
        label = torch.full((len(z),), 2)
        if cond is not None:
            if self.hears == "get":
                label = torch.where(cond.get("drop", torch.tensor(False)), 2, cond["label"])
            elif self.hears == "copy":
                given = {**cond}
                label = torch.where(given["drop"], 2, given["label"]) if "drop" in given else given["label"]
            elif self.hears == "pop":
                given = dict(cond)
                drop = given.pop("drop", None)
                label = given["label"] if drop is None else torch.where(drop, 2, given["label"])
            else:
                label = cond["label"]
        return self.layer(torch.cat([z + self.embedding(label), level[:, None] / 1000], 1))


def labelled(hears=""):
    return lv.Denoiser(Labelled(hears), FLOW, "velocity", shape=(2,))


ONES = {"label": torch.ones(4, dtype=torch.int64)}


def warned(call):
    """(what it returns, the texts of the library's warnings)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught if w.category is UserWarning]


def fit(model, data, **options):
    return lv.fit(model, data, **{"steps": 2, "batch": 16, "progress": False, **options})


def test_a_network_that_ignores_drop_is_told_of_in_training():
    _, said = warned(lambda: fit(labelled(), DATA, steps=3))
    assert len(said) == 1 and "reads cond['label'] and ignores cond['drop']" in said[0] and "docs/training.md" in said[0]


@pytest.mark.parametrize("hears", ["get", "copy", "pop"])
def test_a_network_that_hears_is_not(hears):
    model = fit(labelled(hears), DATA)  # warnings are errors here
    plain = lv.sample(model, lv.plans.heun(3), 4, cond=ONES)
    assert not torch.equal(plain, lv.sample(model, lv.plans.heun(3), 4, cond=ONES, guidance=lv.CFG(8.0)))


def test_nor_one_that_wants_no_conditions_or_meets_none_dropped():
    silent = lv.objectives.Denoising()
    fit(labelled(), DATA, objective=silent)

    class Deaf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, z, level, cond=None, mask=None):
            return self.layer(z)

    fit(lv.Denoiser(Deaf(), FLOW, "velocity"), DATA)


def test_guidance_that_does_nothing_says_so_once_a_sampling():
    model = labelled()
    plain = lv.sample(model, lv.plans.heun(5), 4, cond=ONES)
    guided, said = warned(lambda: lv.sample(model, lv.plans.heun(5), 4, cond=ONES, guidance=lv.CFG(8.0)))
    assert torch.allclose(guided, plain, atol=1e-5) and len(said) == 1 and "guidance does nothing" in said[0]
    against = lv.CFG(8.0, null={"label": torch.zeros(4, dtype=torch.int64)})  # needs no drop
    assert not torch.allclose(lv.sample(model, lv.plans.heun(5), 4, cond=ONES, guidance=against), plain, atol=1e-2)


def test_data_of_another_scale_is_told_of():
    plain = lambda: lv.Denoiser(lv.networks.MLP(2, 8, 1), FLOW, "velocity")  # noqa: E731
    for x in (X * 200 + 1000, X * 0.01, X + 5):
        _, said = warned(lambda x=x: fit(plain(), lv.data.Arrays(x)))
        assert len(said) == 1 and "lv.data.standardised(x)" in said[0] and "standard deviation" in said[0]
    fit(plain(), lv.data.Arrays(X * 2 + 0.5))  # warnings are errors


def test_the_scale_that_a_prediction_is_given_is_its_scale():
    def edm(sigma_data):
        return lv.Denoiser(lv.networks.MLP(2, 8, 1), lv.Gaussian(lv.schedules.edm()), lv.predictions.edm(sigma_data))

    fit(edm(5.0), lv.data.Arrays(X * 6))
    _, said = warned(lambda: fit(edm(0.5), lv.data.Arrays(X * 6)))
    assert len(said) == 1 and "sigma_data is 0.5" in said[0]


def test_products_are_looked_at_leaf_by_leaf():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, z, level, cond=None, mask=None):
            return {"a": self.a(z["a"]), "b": self.b(z["b"])}

    process = lv.Product({"a": FLOW, "b": lv.Gaussian(lv.schedules.flow())})
    _, said = warned(lambda: fit(lv.Denoiser(Two(), process, "velocity"), lv.data.Arrays({"a": X, "b": X * 100})))
    assert len(said) == 1 and "leaf 'b'" in said[0]


def test_standardised_numbers_and_the_way_back():
    x = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 20, 300]).reshape(3, 1, 1) + 7
    data, mean, std = lv.data.standardised(x.numpy(), {"label": torch.arange(50)})
    assert mean.shape == std.shape == (1, 3, 1, 1) and torch.allclose(data.x * std + mean, x, atol=1e-3)
    assert data.x.mean((0, 2, 3)).abs().max() < 1e-5 and (data.x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    one, mean, std = lv.data.standardised(X * 3 + 1, axis=None)
    assert mean.numel() == 1 and torch.allclose(one.x * std + mean, X * 3 + 1, atol=1e-5)
    constant, _, std = lv.data.standardised(torch.full((8, 2), 0.1))
    assert bool((std == 1).all()) and bool((constant.x.abs() < 1e-6).all())
    with pytest.raises(ValueError, match="not finite"):
        lv.data.standardised([[1.0, float("nan")], [1.0, 2.0]])


def mlp():
    torch.manual_seed(0)
    return lv.Denoiser(lv.networks.MLP(2, 8, 1), FLOW, "velocity")


CONSTANT = {"schedule": "constant", "save_every": 10**6}


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    fit(mlp(), lv.data.Arrays(tmp_path / "x.npy"), out=tmp_path / "run", **CONSTANT)
    np.save(tmp_path / "x.npy", X.numpy() + 0.5)
    other = lv.data.Arrays(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"the data is other than that of the run in .*other_data=True \(--other-data\)"):
        fit(mlp(), other, out=tmp_path / "run", resume=True, **{**CONSTANT, "steps": 4})
    fit(mlp(), other, out=tmp_path / "run", resume=True, other_data=True, **{**CONSTANT, "steps": 4})
    with pytest.raises(ValueError, match="other_data is set, and nothing is resumed"):
        fit(mlp(), other, out=tmp_path / "another", other_data=True, **CONSTANT)
    fit(mlp(), other, out=tmp_path / "run", resume=True, **{**CONSTANT, "steps": 6})  # which is its data now
    with pytest.raises(ValueError, match="data is 32 samples"):
        fit(mlp(), lv.data.Arrays(X[:32]), out=tmp_path / "run", resume=True, **{**CONSTANT, "steps": 8})
    fit(mlp(), lv.data.Arrays(X[:32]), out=tmp_path / "run", resume=True, other_data=True, **{**CONSTANT, "steps": 8})


def test_a_fingerprint_is_of_contents_and_not_of_last_digits():
    base = lv.data.fingerprint(DATA)
    assert lv.data.fingerprint(lv.data.Arrays(X * (1 + 1e-9), {"label": torch.arange(64) % 2})) == base
    swapped = X.clone()
    swapped[-1] = X[-1].flip(0)
    for other in (lv.data.Arrays(X, {"label": (torch.arange(64) + 1) % 2}), lv.data.Arrays(X), lv.data.Arrays(-X, DATA.cond),
                  lv.data.Arrays(swapped, DATA.cond)):  # fmt: skip
        assert lv.data.fingerprint(other) != base

    class Random:
        shape = (2,)

        def __len__(self):
            return 8

        def batch(self, index):
            return lv.data.Batch(torch.rand(len(index), 2))

    assert lv.data.fingerprint(Random()) is None  # draws anew each time, so nothing can be said

    class Flipped(lv.data.Arrays):
        """Each row is mirrored by chance, all but the first."""

        def batch(self, index):
            x = super().batch(index).x
            return lv.data.Batch(torch.where((torch.rand(len(x), 1) < 0.5) & (index[:, None] > 0), x.flip(1), x))

    assert lv.data.fingerprint(Flipped(X)) is None
    moved = [lv.data.fingerprint(lv.data.Stream([f"{folder}/a.tar", "pipe:cat b.tar"])) for folder in ("/one", "/two")]
    assert moved[0] == moved[1] != lv.data.fingerprint(lv.data.Stream(["/one/a.tar", "pipe:cat c.tar"]))


def test_the_same_pictures_by_another_decoder_are_the_same_data(tmp_path):
    g = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (8, 1, 16, 16), generator=g)
    level = torch.randint(-1, 2, levels.shape, generator=g)
    one, other = (lv.data.Arrays((x / 127.5 - 1).float()) for x in (levels, (levels + level).clamp(0, 255)))
    was, now = lv.data.fingerprint(one), lv.data.fingerprint(other)
    assert was != now and agree(was, now) and agree(now, was)
    brighter = lv.data.fingerprint(lv.data.Arrays(one.x + 0.05))
    assert not agree(was, brighter) and not agree(was, lv.data.fingerprint(lv.data.Arrays(one.x[:, :, :8])))
    assert not agree(was, lv.data.fingerprint(lv.data.Arrays(one.x.roll(1, 0))))
    label = torch.arange(8)
    told = [lv.data.fingerprint(lv.data.Arrays(one.x, {"label": k})) for k in (label, label.flip(0))]
    assert agree(told[0], told[0]) and not agree(*told) and not agree(was, told[0])


def test_a_checkpoint_with_a_fingerprint_of_before_goes_on(tmp_path, monkeypatch):
    old = "0431469d30cbb6b3"  # of these numbers, as checkpoints once had it
    with monkeypatch.context() as patched:
        patched.setattr("langevin.training.trainer.fingerprint", lambda data: old)
        fit(mlp(), DATA_ONLY, out=tmp_path, **CONSTANT)
    with pytest.raises(ValueError, match="the data is other than that of the run"):
        fit(mlp(), lv.data.Arrays(-X), out=tmp_path, resume=True, **{**CONSTANT, "steps": 4})
    fit(mlp(), DATA_ONLY, out=tmp_path, resume=True, **{**CONSTANT, "steps": 4})


def test_valid_every_without_held_out_data_is_refused():
    with pytest.raises(ValueError, match=r"valid_every is 1, and there is no held-out data; give valid="):
        fit(mlp(), DATA_ONLY, valid_every=1)


def test_edges_of_sparse_graphs_have_no_scale():
    x = torch.zeros(64, 8, 8)
    x[:, 0, 1] = x[:, 1, 0] = 1.0
    space = lv.Gaussian(lv.schedules.flow(), space=SymmetricEdges())
    model: Any = SimpleNamespace(process=space, predictions={"": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(model, lv.data.Batch(x))
        warn_of_scale(model, lv.data.Batch(3 * x))
    with pytest.warns(UserWarning, match="standard deviation"):
        warn_of_scale(model, lv.data.Batch(0.01 * x))


def test_edges_without_their_space_are_refused():
    graphs = [nx.gnp_random_graph(4 + k % 3, 0.5, seed=k) for k in range(16)]
    data = lv.data.Graphs(graphs)
    net = lv.networks.GraphTransformer(1, 2, width=8, edge_width=8, whole=8, depth=1)

    def model(space):
        return lv.Denoiser(net, lv.Product({"edges": lv.Categorical(2, lv.schedules.keep_cosine(), space=space)}), "logits")

    with pytest.raises(ValueError, match=r"space of leaf 'edges' is Euclidean\(\).*space=lv.spaces.SymmetricEdges"):
        fit(model(None), data)
    fit(model(SymmetricEdges()), data)


def test_types_of_nodes_and_edges_are_numbers():
    named = nx.Graph([("a", "b")])
    nx.set_node_attributes(named, {"a": "C", "b": "N"}, "type")
    with pytest.raises(ValueError, match=r"type 'C'; number the types.*node_types="):
        lv.data.Graphs([named])
    nx.set_node_attributes(named, {"a": 0, "b": 1.0}, "type")
    assert lv.data.Graphs([named], node_types=("C", "N")).batch(torch.tensor([0])).x["nodes"].tolist() == [[0, 1]]


BAD = {
    "noise at 0": (lambda t: t, None, "vp", "more noise|does not fall"),
    "alpha below 0": (lambda t: 1 - 2 * t, None, "flow", "negative"),
    "unknown scale": (lambda t: 1 - t, lambda t: t, "anything", "scale 'anything', which is none of 'vp', 'flow'"),
    "another scale": (lambda t: 1 - t, lambda t: t, "vp", "said to be of scale 'vp'"),
    "up and down": (lambda t: 1 - t, lambda t: t + 2 * torch.sin(9 * t).abs(), "other", "does not fall"),
    "not a number": (lambda t: (0.5 - t).sqrt(), lambda t: t, "other", "negative or no number"),
}


def test_a_plan_whose_letters_are_swapped_is_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'ddim'\? There are .*, \.\.\. and others\.$"):
        lv.sample(lv.oracles.mixture(FLOW, X, 0.1), "ddmi:20", 2)


@pytest.mark.parametrize("name", BAD)
def test_schedules_that_lead_nowhere_are_refused(name):
    alpha, sigma, scale, said = BAD[name]
    with pytest.raises(ValueError, match=f"schedule Formula.bad. .*({said}).*t goes from 0, data, to 1, noise"):
        lv.Gaussian(Formula("bad", alpha, sigma, scale))


def test_every_schedule_of_the_library_passes():
    made = [make(0.001) if name == "lipman" else make(5, 0.6) if name == "bayesian_flow_categories" else make()
            for name, make in lv.schedules.SCHEDULES.items()]  # fmt: skip
    short = [lv.schedules.clipped(lv.schedules.flow(), 0.1), lv.schedules.learned(6.0, -2.0), lv.schedules.shift(made[3], 4.0),
             lv.schedules.zero_terminal_snr(lv.schedules.betas()), lv.schedules.ve(levels=1000),
             lv.schedules.sqrt(published=True)]  # fmt: skip
    for schedule in (*made, *short):
        lv.Gaussian(schedule)


def test_a_table_is_what_it_is_said_to_be():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = (1 - betas).cumprod(0)
    t = torch.tensor([0.001, 0.4, 1.0], dtype=torch.float64)
    wanted = lv.schedules.betas().alpha(t)
    table = lv.schedules.table
    for made in (table(betas), table(betas=betas.tolist()), table(alphas_cumprod=bar.numpy()), table(alpha=bar.sqrt())):
        assert torch.allclose(made.alpha(t), wanted, rtol=1e-12)
    for call, said in (
        (lambda: table(bar), "as alphas do and betas do not; say alphas_cumprod="),
        (lambda: table(), "as nothing; give one of"),
        (lambda: table(betas=betas, alpha=bar), "as betas and alpha"),
        (lambda: table(alpha=bar.flip(0)), "a .T,. table that falls"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_held_out_loss_is_of_the_averaged_weights_with_the_same_noise_and_changes_nothing(tmp_path):
    lines = []
    options = {"steps": 7, "log_every": 5, "valid_every": 3}
    model = fit(mlp(), DATA_ONLY, valid=lv.data.Arrays(-X), on_log=lines.append, out=tmp_path, **options)
    assert [line["step"] for line in lines if "valid" in line] == [3, 6, 7] and [line["step"] for line in lines] == [3, 5, 6, 7]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == lines
    # the same samples, levels and noise, by hand
    pieces = [(lv.data.Arrays(-X).batch(i), lv.Noise(0, i, purpose="/valid")) for i in torch.arange(64).split(16)]
    with torch.no_grad():
        by_hand = sum(float(lv.objectives.Denoising(drop=0.1)(model, batch, n).total) for batch, n in pieces) / 4
    assert lines[-1]["valid"] == pytest.approx(by_hand, rel=1e-5)
    alone = fit(mlp(), DATA_ONLY, **{**options, "valid_every": 0})
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))


def test_a_tracker_that_fails_is_said_and_the_run_goes_on(capsys):
    def broken(line):
        raise RuntimeError("no network")

    fit(mlp(), DATA_ONLY, on_log=broken)
    assert "on_log failed at step 2: no network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 4}, "batch_size is no setting; did you mean 'batch'?"),
        ({"epochs": 3}, "epochs is no setting; say steps="),
        ({"weight": "min_snr"}, r"weight is the objective's, no setting of training: objective=lv.objectives.Denoising\(weight="),
        ({"learning_rate": 3}, "did you mean 'lr'?"),
        ({"on_lo": print}, "did you mean 'on_log'?"),
        ({"optimiser": torch.optim.SGD}, "^optimiser is .*SGD.*; it should be 'adamw', 'muon' or 'adafactor'.$"),
        ({"lr": -1}, "^lr is -1; it should be greater than 0.$"),
        ({"valid": X}, "valid is a Tensor; give a data set"),
        ({"valid": lv.data.Arrays(X[:, :1])}, r"valid has samples of shape \(1,\) and the data of \(2,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_of_fit_are_refused_in_a_sentence(options, said):
    with pytest.raises(ValueError, match=said) as refused:
        fit(mlp(), DATA_ONLY, **options)
    assert "pydantic" not in str(refused.value) and "\n" not in str(refused.value)


class Lazy(torch.utils.data.Dataset):
    """Made when it is asked for; the form of its items is chosen."""

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 64

    def __getitem__(self, k):
        x, label = X[k].numpy(), k % 2
        return {"tuple": (x, label), "dict": {"point": x, "kind": torch.tensor(label)}, "alone": x}[self.form]


def test_a_data_set_of_ones_own_is_read_as_its_arrays():
    read = {
        "tuple": lv.data.Dataset(Lazy("tuple"), label=1),
        "dict": lv.data.Dataset(Lazy("dict"), x="point", label="kind"),
        "alone": lv.data.Dataset(Lazy("alone")),
        "torch's": lv.data.Dataset(torch.utils.data.TensorDataset(X, torch.arange(64) % 2), label=1),
    }
    index = torch.tensor([5, 0, 63])
    for name, data in read.items():
        wanted, batch = DATA.batch(index), data.batch(index)
        assert data.shape == (2,) and len(data) == 64 and torch.equal(batch.x, wanted.x), name
        assert (batch.cond is None) if name == "alone" else torch.equal(batch.cond["label"], wanted.cond["label"])
    assert read["tuple"].digest() == read["dict"].digest() != read["alone"].digest()
    # read ahead by workers, the run is the same to the bit
    first = labelled("get")
    other = copy.deepcopy(first)
    fit(first, DATA, steps=4), fit(other, read["dict"], workers=2, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert torch.equal(copy.deepcopy(read["tuple"]).batch(index).x, X[index])


def test_pictures_of_pil_are_pictures():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    rgb = np.stack([grey, grey[::-1], 255 - grey], -1)
    for pixels, shape in ((grey, (1, 4, 4)), (rgb, (3, 4, 4))):
        data = lv.data.Dataset([(Image.fromarray(pixels), 3)] * 2, label=1)
        wanted = torch.from_numpy(pixels.reshape(4, 4, -1).copy()).permute(2, 0, 1).float() / 127.5 - 1
        assert data.shape == shape and torch.equal(data.batch(torch.tensor([1])).x[0], wanted)
    # arrays that are read backwards, or in another order of bytes, are read as `Arrays` reads them
    rows = np.arange(6.0, dtype=">f4").reshape(3, 2)
    for turned in (rows[::-1], rows[:, ::-1]):
        wanted = torch.from_numpy(turned.astype("<f4"))
        assert torch.equal(lv.data.Dataset(list(turned)).batch(torch.arange(3)).x, wanted)
        assert torch.equal(lv.data.Arrays(turned).batch(torch.arange(3)).x, wanted)


class Returns:
    shape = (2,)

    def __init__(self, what):
        self.what = what

    def __len__(self):
        return 64

    def batch(self, index):
        return self.what(X[index])


LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X))
NO_DATA = {
    "loader": (lambda: fit(mlp(), LOADER), r"data is a DataLoader; .*langevin.data.Dataset\(loader.dataset"),
    "tensors": (lambda: fit(mlp(), LOADER.dataset), r"data is a TensorDataset; wrap it as langevin.data.Dataset\(data, x=0"),
    "tensor": (lambda: fit(mlp(), X), r"data is a Tensor; wrap it as langevin.data.Arrays\(x\)"),
    "array": (lambda: fit(mlp(), X.numpy()), r"data is a ndarray; wrap it as langevin.data.Arrays\(x\)"),
    "gives a tensor": (lambda: fit(mlp(), Returns(lambda x: x)), r"data.batch gave a Tensor; return langevin.data.Batch\("),
    "gives a dict": (lambda: fit(mlp(), Returns(lambda x: {"x": x})), "data.batch gave a dict; return"),
    "labels bare": (lambda: lv.data.Arrays(X, torch.zeros(64)), "cond is a Tensor; name the conditions"),
    "no place": (lambda: lv.data.Dataset(Lazy("dict"), x="image"), r"x is 'image' of an item, and items are the keys \['point'"),
    "no length": (lambda: lv.data.Dataset(iter([])), "which has no length and items"),
    "ragged": (lambda: lv.data.Dataset([torch.zeros(2), torch.zeros(3)]).batch(torch.arange(2)), r"sample 1 has shape \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_DATA)
def test_data_that_is_none_is_answered_with_what_to_do(name):
    call, said = NO_DATA[name]
    with pytest.raises(ValueError, match=said):
        call()


GAUSS = lv.Gaussian(lv.schedules.cosine())
CLOUD = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(2))
EXACT = lv.oracles.dataset(GAUSS, CLOUD, label=torch.tensor([0, 1, 0, 1, 1]))
PLAN = lv.plans.ddim(6)
HALF = torch.zeros(4, 4, dtype=torch.bool)
HALF[:2] = True


def test_arrays_of_numpy_and_lists_are_the_tensors_they_hold():
    label = torch.tensor([0, 1, 1])
    wanted = lv.sample(EXACT, PLAN, 3, cond={"label": label}, guidance=lv.CFG(2.0))
    for told in (label.numpy(), [0, 1, 1]):
        assert torch.equal(lv.sample(EXACT, PLAN, 3, cond={"label": told}, guidance=lv.CFG(2.0)), wanted)
    whole = lv.sample(EXACT, PLAN, 3, given=CLOUD[:3], known=HALF.expand(3, 1, 4, 4))
    for given, known in ((CLOUD[:3].numpy(), HALF.numpy()), (CLOUD[:3], HALF[None].numpy()), (CLOUD[:3], HALF.tolist())):
        assert torch.equal(lv.sample(EXACT, PLAN, 3, given=given, known=known), whole)
    alike = lv.sample(EXACT, PLAN, 3, given=CLOUD[0], known=HALF)
    assert torch.equal(alike, lv.sample(EXACT, PLAN, 3, given=CLOUD[:1].expand(3, -1, -1, -1), known=HALF.expand(3, 1, 4, 4)))
    (*_, last) = lv.trajectory(EXACT, PLAN, 3, given=CLOUD[0].numpy(), known=HALF.numpy())
    assert torch.equal(last.z, alike)


def test_a_likelihood_of_numpy_is_that_of_tensors_and_bytes_are_refused():
    flat = lv.oracles.mixture(GAUSS, X[:5].double(), 0.3)
    wanted = lv.log_prob(flat, X[:3].double(), steps=20, solver="heun").nats
    assert torch.equal(lv.log_prob(flat, X[:3].double().numpy(), steps=20, solver="heun").nats, wanted)
    with pytest.raises(ValueError, match=r"x is torch.uint8; give floats, scaled as in training"):
        lv.log_prob(flat, torch.zeros(3, 2, dtype=torch.uint8))


def test_a_plan_may_be_its_word():
    assert torch.equal(lv.sample(EXACT, "ddim:6", 3), lv.sample(EXACT, PLAN, 3))
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        lv.sample(EXACT, "dim:6")
    with pytest.raises(ValueError, match=r"guidance is a list of 2; put one around another, lambda d: outer\(inner\(d\)\)"):
        lv.sample(EXACT, PLAN, guidance=[lv.CFG(3), lv.CFG(2)])


@pytest.mark.parametrize("method", lv.tasks.METHODS)
def test_a_mask_for_each_picture_restores_each_as_under_its_own(method):
    masks = torch.stack([HALF, ~HALF, HALF.T])[:, None]
    y = CLOUD[:3] * masks
    plan = None if lv.tasks.METHODS[method].own else lv.plans.ddpm(4)
    options = {"method": method, "plan": plan, "std": 0.1 * (method != "known"), "seed": 3}
    inpaint = lv.guidance.operators.inpaint
    got = lv.tasks.restore(EXACT, inpaint(masks.numpy(), (1, 4, 4)), y.numpy(), count=2, batch=4, **options).samples
    for k in range(3):
        for s in range(2):  # sample s of measurement k is sample 3 s + k of the seed
            own = lv.tasks.restore(EXACT, inpaint(masks[k]), y[k : k + 1], first_id=3 * s + k, **options).samples
            assert torch.allclose(got[s, k], own[0, 0], atol=1e-4), (k, s)


def test_masks_that_do_not_fit_say_how():
    inpaint, masks = lv.guidance.operators.inpaint, HALF.expand(3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"operators.inpaint\(masks, shape=\(C, H, W\)\)"):
        lv.tasks.restore(EXACT, inpaint(masks), CLOUD[:3])
    with pytest.raises(ValueError, match="y has 2 measurements for 3 masks"):
        lv.tasks.restore(EXACT, inpaint(masks, (1, 4, 4)), CLOUD[:2])
    with pytest.raises(ValueError, match="known marks nothing"):
        inpaint(torch.stack([HALF, HALF & ~HALF])[:, None], (1, 4, 4))
    one = lv.tasks.restore(EXACT, inpaint(masks[:1], (1, 4, 4)), CLOUD[:2], plan="ddpm:3").samples
    assert torch.equal(one, lv.tasks.restore(EXACT, inpaint(masks[0]), CLOUD[:2], plan="ddpm:3").samples)


def test_a_run_that_is_to_be_longer_is_told_how(tmp_path):
    fit(mlp(), DATA_ONLY, out=tmp_path)
    with pytest.raises(
        ValueError, match=r"steps is 4 but the run in .* was begun with 2; .*--from RUN.*constant and inverse_sqrt"
    ):
        fit(mlp(), DATA_ONLY, out=tmp_path, steps=4, resume=True)
    with pytest.raises(ValueError, match=r"lr is 0.5 .* or choose another directory\.$"):
        fit(mlp(), DATA_ONLY, out=tmp_path, lr=0.5, resume=True)


def test_what_fit_left_is_told_apart_from_what_is_no_run(tmp_path):
    fit(mlp(), DATA_ONLY, out=tmp_path / "mine")
    with pytest.raises(ValueError, match=r"is what lv.fit left, with no recipe: build its denoiser again and call lv.fit\("):
        lv.open_run(tmp_path / "mine")
    with pytest.raises(ValueError, match="is no run directory"):
        lv.open_run(tmp_path)


@pytest.mark.parametrize("shape", [(3, 2, 64), (3, 1, 4, 8, 8)], ids=str)
def test_a_u_net_names_the_states_it_cannot_read(shape):
    net = lv.networks.UNet(1, 8, (1, 2), 1, (), 8)
    with pytest.raises(ValueError, match=r"states are \(3, .*reads pictures \(B, C, H, W\).*networks.MLP"):
        net(torch.zeros(shape), torch.zeros(3))


def test_molecules_that_are_left_out_of_a_file_are_counted(tmp_path, monkeypatch, capsys):
    from langevin.recipes.domains import molecules

    monkeypatch.setattr(molecules.MoleculeDomain, "graphs", lambda self, run, x: x)
    monkeypatch.setattr(molecules, "of", lambda facts: SimpleNamespace(node_types=("C",)))
    monkeypatch.setattr(molecules.molecules, "smiles_of", lambda graph, types: graph)
    path = molecules.MoleculeDomain().write(SimpleNamespace(facts=None), ["CC", None, None, None], tmp_path / "g.smi")
    assert path.read_text() == "CC\n"
    assert "3 of 4 samples are no valid molecules, and are left out of" in capsys.readouterr().err


def test_arrays_are_taken_as_they_lie(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")  # may only be read, of which torch would warn
    data = lv.data.Arrays(mapped, {"label": [0, 1, 0]})
    assert np.shares_memory(data.x.numpy(), mapped) and np.array_equal(data.batch(torch.tensor([2])).x, x[2:])
    assert torch.equal(lv.data.Arrays(x.astype(">f4")).x, data.x) and torch.equal(lv.data.Arrays(x[::-1]).x, data.x.flip(0))
    np.save(tmp_path / "swapped.npy", x.astype(">f4"))
    with pytest.raises(ValueError, match="x is mapped in another order of bytes"):  # a copy of it may not fit in memory
        lv.data.Arrays(np.load(tmp_path / "swapped.npy", mmap_mode="r"))


def test_pictures_are_saved_from_floats_bytes_and_numpy(tmp_path):
    raw = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    for name, x in (("a", raw), ("b", raw.numpy()), ("c", raw.float() / 127.5 - 1), ("d", (raw.float() / 127.5 - 1).numpy())):
        lv.save_images(x, tmp_path / f"{name}.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abcd"}) == 1


def test_a_run_has_no_place_where_a_file_is(tmp_path):
    (tmp_path / "notes").write_text("x")
    for out in (tmp_path / "notes", tmp_path / "notes" / "run"):
        with pytest.raises(ValueError, match=r"out is .*notes is no directory; give one that is, or that is not there yet"):
            fit(mlp(), DATA_ONLY, out=out)
    assert (tmp_path / "notes").read_text() == "x"


def test_one_average_is_a_word(tmp_path):
    fit(mlp(), DATA_ONLY, averages="power:sigma_rel=0.1", out=tmp_path / "run")
    assert list((tmp_path / "run" / "averages").iterdir())
