"""Adapters are W + strength alpha / rank B A, whatever carries them."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import langevin as lv
from langevin.adapters import (
    LoRA,
    adapted,
    attach,
    freeze,
    load_adapters,
    lora,
    merge,
    save_adapters,
    set_strengths,
    trainable,
    unmerge,
)
from langevin.networks.blocks.resample import Grow, Shrink
from langevin.training.ema import Ema, exponent

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LEVEL = torch.tensor([10.0, 700.0])


class Scaled(nn.Linear):
    """A layer whose forward is its own."""

    def forward(self, x):
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


def unet() -> nn.Module:
    torch.manual_seed(0)
    model = lv.networks.UNet(channels=1, width=8, multipliers=(1, 2), blocks=1, head_width=8, classes=3)
    with torch.no_grad():
        for p in model.parameters():  # zero-initialised layers would hide what comes before them
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def dit() -> nn.Module:
    torch.manual_seed(0)
    model = lv.networks.DiT(channels=1, size=8, patch=2, width=16, depth=2, heads=2, classes=3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def moved(model: nn.Module, seed: int = 2) -> nn.Module:
    """The model with adapters that do something."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".up." in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
    return model


@pytest.mark.parametrize("build", [unet, dit])
def test_a_model_with_new_adapters_is_the_model(build):
    model = build()
    before, names = model(X, LEVEL), set(model.state_dict())
    layers = lora(model, rank=4)
    assert torch.equal(model(X, LEVEL), before)
    assert names <= set(model.state_dict())  # the weights keep their names
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learned == {n for n in model.state_dict() if ".lora.default." in n} and len(learned) == 2 * len(layers)
    assert len(layers) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in build().modules())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(3, 5, 1),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 3, stride=2, padding=2, dilation=2, padding_mode="circular"),
    ],
    ids=["linear", "1x1", "3x3", "circular"],
)
def test_adapters_are_their_closed_form_and_merge_and_come_off(layer):
    model = nn.Sequential(copy.deepcopy(layer).double())
    lora(model, rank=2, alpha=6.0)
    moved(model)
    set_strengths(model, {"default": 0.5})
    x = torch.randn(4, 6, dtype=torch.float64) if isinstance(layer, nn.Linear) else torch.randn(4, 3, 8, 8, dtype=torch.float64)
    adapter = model[0].lora["default"]  # pyright: ignore
    a, b = adapter.down.weight.detach(), adapter.up.weight.detach()
    plain = copy.deepcopy(layer).double()
    with torch.no_grad():
        plain.weight += 0.5 * 6.0 / 2 * (b.flatten(1) @ a.flatten(1)).reshape(plain.weight.shape)
    assert torch.allclose(model(x), plain(x), atol=1e-12)
    old = model[0].weight.detach().clone()
    removed = merge(model)
    assert torch.allclose(model[0].weight, plain.weight, atol=1e-15) and torch.allclose(model(x), plain(x), atol=1e-12)
    assert set(model.state_dict()) == {"0.weight", "0.bias"} and not model[0]._forward_hooks
    unmerge(model, removed)
    assert torch.allclose(model[0].weight, old, atol=1e-15) and torch.allclose(model(x), plain(x), atol=1e-12)


def test_several_adapters_add_up_each_with_its_strength():
    model = nn.Sequential(nn.Linear(4, 4))
    x, base = torch.randn(3, 4), copy.deepcopy(model)
    lora(model, 2, name="a")
    lora(model, 3, alpha=1.0, name="b", seed=1)
    assert all((".b." in n) == p.requires_grad for n, p in model.named_parameters())  # the newest is the one that is trained
    moved(model)
    deltas = {}
    for name in ("a", "b"):
        set_strengths(model, {"a": 0.0, "b": 0.0, name: 1.0})
        deltas[name] = model(x) - base(x)
        assert deltas[name].abs().max() > 0.01
    set_strengths(model, {"a": 0.3, "b": -2.0})
    assert torch.allclose(model(x), base(x) + 0.3 * deltas["a"] - 2.0 * deltas["b"], atol=1e-6)
    merge(model, "a")
    assert torch.allclose(model(x), base(x) + 0.3 * deltas["a"] - 2.0 * deltas["b"], atol=1e-6)
    set_strengths(model, {"b": 0.0})
    assert torch.allclose(model(x), base(x) + 0.3 * deltas["a"], atol=1e-6)
    with pytest.raises(ValueError, match="no adapters named 'a'; it has b"):
        set_strengths(model, {"a": 1.0})


def test_layers_with_a_forward_of_their_own_are_adapted_and_not_merged():
    model = nn.Sequential(Scaled(4, 3))
    x = torch.randn(2, 4)
    before = model(x)
    lora(model, 2)
    assert torch.equal(model(x), before) and type(model[0]) is Scaled
    moved(model)
    adapter = model[0].lora["default"]  # pyright: ignore
    assert torch.allclose(model(x), before + F.linear(x, adapter.delta()), atol=1e-6)
    with pytest.raises(ValueError, match="forward of its own"):
        merge(model)


def test_copies_averages_and_strict_states():
    model = moved(unet())
    lora(model, 4, targets="*.query|*.conv1")
    moved(model)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(X, LEVEL), model(X, LEVEL))
    with torch.no_grad():
        for n, p in copied.named_parameters():
            if ".up." in n:
                p.zero_()
    assert not torch.equal(copied(X, LEVEL), model(X, LEVEL))  # the copy's hooks read the copy's adapters
    merge(copied)
    assert not any(m._forward_hooks for m in copied.modules()) and any(m._forward_hooks for m in model.modules())

    ema = Ema(model, 0.5)
    assert all(".lora." in n for n in ema.tensors())
    ema.update(model)
    assert torch.allclose(ema.model(X, LEVEL), model(X, LEVEL), atol=1e-6)
    assert next(ema.model.parameters()) is next(model.parameters())  # the base is shared

    other = unet()
    lora(other, 4, targets="*.query|*.conv1", seed=5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X, LEVEL), model(X, LEVEL))


def test_adapters_compile_in_one_graph():
    model = lv.networks.DiT(channels=1, size=8, patch=4, width=8, depth=1, heads=1).eval()
    lora(model, 2)
    moved(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(X, LEVEL), model(X, LEVEL), atol=1e-5)
    set_strengths(model, {"default": 0.25})
    assert torch.allclose(compiled(X, LEVEL), model(X, LEVEL), atol=1e-5)


def test_training_moves_the_adapters_alone_and_dropout_is_theirs():
    model = dit()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    lora(model, 2, targets="*.feed.*", dropout=0.5)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    first = last = 0.0
    for k in range(30):
        loss = F.mse_loss(model(X, LEVEL), X)
        opt.zero_grad()
        loss.backward()
        opt.step()
        first, last = (float(loss.detach()), last) if k == 0 else (first, float(loss.detach()))
    assert last < first and all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    assert not torch.equal(model(X, LEVEL), model(X, LEVEL))
    model.eval()
    assert torch.equal(model(X, LEVEL), model(X, LEVEL))


def test_half_precision_layers_have_adapters_in_float32():
    model = nn.Sequential(nn.Linear(4, 4)).bfloat16()
    x = torch.randn(3, 4).bfloat16()
    before = model(x)
    lora(model, 2)
    assert torch.equal(model(x), before) and model(x).dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_files_keep_adapters(tmp_path):
    model = unet()
    layers = lora(model, 3, alpha=5.0, targets="*.query|*.conv2", name="style")
    moved(model)
    wanted = model(X, LEVEL)
    path = save_adapters(model, tmp_path / "style.safetensors", "style")
    other = unet()
    plain = other(X, LEVEL)
    assert load_adapters(other, path, name="again") == layers
    assert not any(".lora." in n and p.requires_grad for n, p in other.named_parameters())
    trainable(other, "*.lora.again.*")  # torch's kernels differ in rounding with what requires a gradient
    assert torch.equal(other(X, LEVEL), wanted)
    set_strengths(other, {"again": 0.0})
    assert torch.allclose(other(X, LEVEL), plain, atol=1e-6)
    # half the strength is half of alpha
    half = unet()
    load_adapters(half, path, scale=0.5)
    merge(half)
    set_strengths(other, {"again": 0.5})
    assert torch.allclose(half(X, LEVEL), other(X, LEVEL), atol=1e-5)
    with pytest.raises(ValueError, match="already"):
        load_adapters(other, path, name="again")
    with torch.no_grad():
        changed = unet()
        changed.get_submodule(layers[0]).weight.add_(1.0)  # pyright: ignore
    with pytest.warns(UserWarning, match="other weights"):
        load_adapters(changed, path)


def test_files_that_fit_badly_are_refused_and_add_nothing(tmp_path):
    model = unet()
    layers = lora(model, 3, targets="*.query|*.conv2")
    path = save_adapters(model, tmp_path / "a.safetensors")
    tensors = load_file(path)
    said = {"format": "langevin-lora-1", "base": "", "layers": json.dumps({n: {"rank": 3, "alpha": 8.0} for n in layers})}
    renamed = {k.replace(layers[0], layers[0] + "x"): v for k, v in tensors.items()}
    first = f"{layers[0]}.lora_A.weight"
    cases = {
        "nearest layers are": (renamed, {**said, "layers": said["layers"].replace(f'"{layers[0]}"', f'"{layers[0]}x"')}),
        "disagree on": (renamed, said),  # one key renamed
        "not whole": ({k: v for k, v in tensors.items() if k != first}, said),
        "empty": ({}, {**said, "layers": "{}"}),
        "another network": ({**tensors, first: torch.zeros(3, 2)}, said),
        "damaged metadata": (tensors, {**said, "layers": "[1, 2]"}),
        "not finite": (tensors, {**said, "layers": said["layers"].replace("8.0", "NaN")}),
        "or above": (tensors, {**said, "layers": said["layers"].replace("8.0", "1e300")}),
        "no metadata": (tensors, None),
    }
    for message, (content, metadata) in cases.items():
        save_file(content, tmp_path / "b.safetensors", metadata)
        plain = unet()
        with pytest.raises(ValueError, match=message):
            load_adapters(plain, tmp_path / "b.safetensors")
        assert set(plain.state_dict()) == set(unet().state_dict()), message
    (tmp_path / "b.safetensors").write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"b\.safetensors"):
        load_adapters(unet(), tmp_path / "b.safetensors")


def test_patterns_that_match_nothing_are_refused():
    model = unet()
    for call in (lambda p: lora(model, 2, targets=p), lambda p: freeze(model, p), lambda p: trainable(model, p)):
        with pytest.raises(ValueError, match=r"'\*\.qury' matches no .*query"):
            call("*.conv1*|*.qury")
    assert all(p.requires_grad for p in model.parameters())
    names = freeze(model, "enter.*|down.*")
    assert names and {n for n, p in model.named_parameters() if not p.requires_grad} == set(names)
    assert trainable(model, "leave.*") == ["leave.weight", "leave.bias"]
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["leave.weight", "leave.bias"]


def test_what_has_no_adapter_is_refused():
    with pytest.raises(ValueError, match="2 groups"):
        lora(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)))
    with pytest.raises(ValueError, match="matches no"):  # torch's attention never calls its output layer
        lora(nn.MultiheadAttention(4, 2), targets="out_proj")
    model = nn.Sequential(nn.Linear(2, 2))
    lora(model, 1)
    with pytest.raises(ValueError, match="already"):
        lora(model, 1)
    with pytest.raises(ValueError, match="without dots"):
        lora(model, 1, name="a.b")
    with pytest.raises(ValueError, match="rank is 0"):
        lora(model, 0, name="b")


@pytest.mark.parametrize("page", ["finetuning.md", "ema.md"])
def test_the_pages_run_as_written(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    space: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(code, page, "exec"), space)
    if page == "ema.md":  # a ramp has its average in closed form
        steps = torch.arange(1, 321, dtype=torch.float64)
        g = exponent(0.07) + 1
        share = (steps**g - (steps - 1) ** g) / 320**g
        found = space["tensors"]["weight"] - (space["model"].weight - 3.2)  # pyright: ignore
        assert torch.allclose(found, 0.01 * (share * steps).sum().float(), rtol=1e-3)
    else:
        other, denoiser = space["other"], space["denoiser"]
        assert isinstance(other, nn.Module) and isinstance(denoiser, nn.Module)
        for name, value in denoiser.state_dict().items():
            assert torch.allclose(other.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize("convolution", [Shrink(4, end=True), Grow(4), Grow(4, folds=False)], ids=["padded", "folded", "grown"])
def test_adapters_of_a_convolution_that_does_something_first_see_what_it_sees(convolution: nn.Module):
    layer = nn.Sequential(copy.deepcopy(convolution)).double()
    lora(layer, 2, 3.0)
    (adapter,) = adapted(layer).values()
    nn.init.normal_(adapter.up.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    apart = layer(x)
    merge(layer)
    torch.testing.assert_close(layer(x), apart)


def test_ranks_of_different_scales_are_saved_and_cast(tmp_path: Path):
    """Products that were scaled differently stand in one adapter; half precision leaves the strength as it was said."""
    layer = nn.Sequential(nn.Linear(5, 7))
    adapter = LoRA(layer[0], 3, 3.0, scales=torch.tensor([0.1, 2.0, 0.7]))
    for part in (adapter.down, adapter.up):
        nn.init.normal_(part.weight, generator=torch.Generator().manual_seed(2))
    attach(layer, {"0": adapter}, "style")
    set_strengths(layer, {"style": 0.3})
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        up, down = adapter.up.weight, adapter.down.weight
        torch.testing.assert_close(
            layer(x) - x @ layer[0].weight.t() - layer[0].bias, 0.3 * (x @ down.t() * adapter.scales) @ up.t()
        )
    said = layer(x)
    path = save_adapters(layer, tmp_path / "style.safetensors", "style")
    plain = nn.Sequential(nn.Linear(5, 7))
    plain.load_state_dict({n: v for n, v in layer.state_dict().items() if "lora" not in n})
    load_adapters(plain, path, 0.3)
    assert torch.equal(plain(x), said)
    assert layer.bfloat16() is layer and adapter.strength == 0.3 and adapter.factor == torch.tensor(0.3)
