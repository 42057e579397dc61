"""LoRA files of others: merged weights compute what the peer's do, no alpha is lost, and files can be written again."""

import importlib
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from langevin import adapters
from langevin.tensors import load, metadata, save
from langevin.zoo.family import published
from langevin.zoo.keys import STACK, KeyMap, stack
from langevin.zoo.lora import Target, load_lora, save_lora, set_strengths, target
from tests.parity.goldens import Case, Goldens

FILES = {
    "peft": "peft/pytorch_lora_weights.safetensors",
    "old": "old/pytorch_lora_weights.safetensors",
    "kohya": "kohya/lora.safetensors",
}
UNET_CALLS = ["attention_scale_1", "attention_scale_0.6", "kohya_scale_1", "kohya_scale_0.6", "old_scale_1"]
TEXT_CALLS = ["text_peft", "text_kohya"]
families = importlib.import_module("langevin.zoo.families")
MODULES = [importlib.import_module(f"{families.__name__}.{found.name}") for found in pkgutil.iter_modules(families.__path__)]
PARTS = {part.name: part for module in MODULES for part in module.COMPONENTS}
UNET, TEXT = PARTS["UNet2DConditionModel"], PARTS["CLIPTextModel"]


def _targets(case: Case, *components: str) -> dict[str, Target]:
    """Networks of ours."""
    made = {}
    for component in components or ("unet", "text_encoder"):
        part, file = (TEXT, "model.safetensors") if component == "text_encoder" else (UNET, "diffusion_pytorch_model.safetensors")
        net, config = case.network(component, part, file), case.config(component)
        made[component] = target(net, part.keys(config, net), config)
    return made


def _weights(case: Case, where: Target) -> dict[str, Tensor]:
    """By published names."""
    return {n: v.clone() for n, v in published(where.net, UNET.keys(case.config("unet"), where.net)).items()}


def _answer(case: Case, where: Target, call: str) -> Tensor:
    given, dtype = case.arguments(call), next(where.net.parameters()).dtype
    z, level, tokens = (given[n].to(dtype) for n in ("sample", "timestep", "encoder_hidden_states"))
    with torch.no_grad():
        return where.net(z, level, {"tokens": tokens})


def _exactly(ours: Tensor, other: Tensor) -> None:
    """In float64: the peer's float32 is off by more than 1e-5 of the largest value in some of these calls."""
    torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)


def _peers(case: Case, call: str) -> Tensor:
    """What the peer says in float64 with W + strength (alpha / rank) up down in its weights; without kohya alpha is the rank."""
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DConditionModel(**{k: v for k, v in case.config("unet").items() if not k.startswith("_")}).eval()
    net.load_state_dict(load(case.dir / "unet/diffusion_pytorch_model.safetensors"))
    net.double()
    said = case.entry["calls"][call]["lora"]
    stored = {n: v.double() for n, v in load(case.dir / said["files"][0]).items()}
    # (layer, its name in a file) of the three layouts: kohya's, peft's, old processors'
    stems = {"kohya": "lora_unet_{}.lora_{}.weight", "peft": "unet.{}.lora_{}.weight", "old": "unet.{}_lora.{}.weight"}
    layout = said["files"][0].split("/")[0]
    used = 0
    for name, layer in net.named_modules():
        stem = name.replace(".", "_") if layout == "kohya" else name
        if layout == "old" and ".to_" in name:
            before, after = name.split(".to_")
            stem = f"{before}.processor.to_{after.removesuffix('.0')}"
        ends = ("A", "B") if layout == "peft" else ("down", "up")
        down, up = (stored.get(stems[layout].format(stem, end)) for end in ends)
        if down is None or up is None or not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        alpha = float(stored.get(f"lora_unet_{stem}.alpha", len(down)))
        delta = said["scale"] * alpha / len(down) * up.flatten(1) @ down.flatten(1)
        layer.weight.data += delta.reshape(layer.weight.shape)
        used += 2
    assert used == sum("unet" in n and not n.endswith(".alpha") for n in stored)
    given = {n: v.double() if v.is_floating_point() else v for n, v in case.arguments(call).items()}
    with torch.no_grad():
        return net(**given).sample


@pytest.mark.parametrize("call", UNET_CALLS)
def test_a_network_with_adapters_is_the_peers(goldens: Goldens, call: str) -> None:
    case = goldens.case("lora", "sd1")
    said, exact = case.entry["calls"][call]["lora"], _peers(case, call)
    for dtype in (torch.float32, torch.float64):
        targets = _targets(case, "unet")
        net = targets["unet"].net.to(dtype)
        load_lora(targets, case.dir / said["files"][0], said["scale"], only=("unet",))
        beside = _answer(case, targets["unet"], call)
        adapters.merge(net)
        merged = _answer(case, targets["unet"], call)
        if dtype == torch.float64:
            _exactly(beside, exact)
            _exactly(merged, exact)
            continue
        case.agrees(call, "sample", beside, exact)
        # the manifest does not say how far off the peer is in float32, which other drawings of weights amplify
        case.agrees(call, "sample", merged, None if goldens.heldout is None else exact)


@pytest.mark.parametrize("kind", ["ours", "merged"])
@pytest.mark.parametrize("call", TEXT_CALLS)
def test_a_text_encoder_with_adapters_is_the_peers(goldens: Goldens, call: str, kind: str) -> None:
    case = goldens.case("lora", "sd1")
    said = case.entry["calls"][call]["lora"]
    where = _targets(case, "text_encoder")["text_encoder"]
    load_lora({"text_encoder": where}, case.dir / said["files"][0], said["scale"], only=("text_encoder",))
    if kind == "merged":
        adapters.merge(where.net)
    ids = case.argument(call, "input_ids")
    with torch.no_grad():
        out = where.net(ids)
    case.agrees(call, "last_hidden_state", out.last)
    case.agrees(call, "pooler_output", out.pooled)


def test_every_layer_has_the_alpha_of_its_file(goldens: Goldens) -> None:
    """Merged weights are W + strength (alpha / rank) up down for each published layer, and W where the file has none."""
    case = goldens.case("lora", "sd1")
    targets = _targets(case, "unet")
    stored, before = load(case.dir / FILES["kohya"]), _weights(case, targets["unet"])
    load_lora(targets, case.dir / FILES["kohya"], 0.6, only=("unet",))
    held = adapters.adapted(targets["unet"].net)
    assert any(adapter.scales is not None for adapter in held.values())  # alphas that differ within one layer of ours
    adapters.merge(targets["unet"].net)
    used = 0
    for name, after in _weights(case, targets["unet"]).items():
        stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        expected = before[name].double()
        if f"{stem}.alpha" in stored:
            down, up = (stored[f"{stem}.lora_{part}.weight"].double().flatten(1) for part in ("down", "up"))
            delta = 0.6 * float(stored[f"{stem}.alpha"]) / len(down) * up @ down
            expected, used = expected + delta.reshape(expected.shape), used + 3
            torch.testing.assert_close(after.double(), expected, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(after, before[name]), name
    assert used == sum(name.startswith("lora_unet_") for name in stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("file", ["peft", "kohya"])
def test_files_are_written_again_to_the_byte(goldens: Goldens, tmp_path: Path, file: str, dtype: torch.dtype) -> None:
    case = goldens.case("lora", "sd1")
    targets = _targets(case)
    theirs = {name: value.to(dtype) for name, value in load(case.dir / FILES[file]).items()}
    path = save(tmp_path / "first.safetensors", theirs)
    load_lora(targets, path, 0.3, name="style")
    ours = load(save_lora(targets, tmp_path / "again.safetensors", file, "style", dtype))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape and torch.equal(ours[name], value), name


def test_alphas_survive_the_way_through_peft(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("lora", "sd1")
    targets = _targets(case)
    load_lora(targets, case.dir / FILES["kohya"])
    path = save_lora(targets, tmp_path / "peft.safetensors", "peft")
    said = json.loads(metadata(path)["lora_adapter_metadata"])
    assert len(set(said["unet.alpha_pattern"].values())) > 1
    again = _targets(case)
    load_lora(again, path)
    ours, theirs = load(save_lora(again, tmp_path / "kohya.safetensors", "kohya")), load(case.dir / FILES["kohya"])
    assert set(ours) == set(theirs) and all(torch.equal(ours[n], v) for n, v in theirs.items())


def test_peft_reads_what_is_written(goldens: Goldens, tmp_path: Path) -> None:
    """Weights, ranks and alphas of every layer, by the peer itself."""
    diffusers = pytest.importorskip("diffusers")
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import BaseTunerLayer

    case = goldens.case("lora", "sd1")
    targets = _targets(case, "unet")
    load_lora(targets, case.dir / FILES["kohya"], only=("unet",))
    path = save_lora(targets, tmp_path / "pytorch_lora_weights.safetensors", "peft")
    said = json.loads(metadata(path)["lora_adapter_metadata"])
    net = diffusers.UNet2DConditionModel(**{k: v for k, v in case.config("unet").items() if not k.startswith("_")}).eval()
    net.load_state_dict(load(case.dir / "unet/diffusion_pytorch_model.safetensors"))
    peft.inject_adapter_in_model(peft.LoraConfig(**{k.removeprefix("unet."): v for k, v in said.items()}), net)
    peft.set_peft_model_state_dict(net, {k.removeprefix("unet."): v for k, v in load(path).items()})
    adapters.merge(targets["unet"].net)
    ours = _weights(case, targets["unet"])
    for name, layer in net.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            torch.testing.assert_close(layer.get_base_layer().weight, ours[f"{name}.weight"], rtol=1e-6, atol=1e-6)


def test_several_files_with_weights_and_unmerging(goldens: Goldens) -> None:
    case, call = goldens.case("lora", "sd1"), "kohya_scale_1"
    alone = {}
    for name, file in (("a", FILES["kohya"]), ("b", FILES["old"])):
        for strength in (1.0, 0.6):
            targets = _targets(case, "unet")
            targets["unet"].net.double()
            load_lora(targets, case.dir / file, strength, name, only=("unet",))
            alone[name, strength] = _answer(case, targets["unet"], call)
    targets = _targets(case)
    net = targets["unet"].net.double()
    plain = _answer(case, targets["unet"], call)
    load_lora(targets, case.dir / FILES["kohya"], 0.0, "a")
    load_lora(targets, case.dir / FILES["old"], 1.0, "b")
    for (name, strength), answer in alone.items():
        set_strengths(targets, {"a": 0.0, "b": 0.0} | {name: strength})
        _exactly(_answer(case, targets["unet"], call), answer)
    set_strengths(targets, {"a": 0.3, "b": -0.5})
    both = _answer(case, targets["unet"], call)
    removed = adapters.merge(net, "a")
    _exactly(_answer(case, targets["unet"], call), both)
    adapters.unmerge(net, removed, "a")
    set_strengths(targets, {"a": 0.0, "b": 0.0})
    _exactly(_answer(case, targets["unet"], call), plain)
    with pytest.raises(ValueError, match="no adapters named 'c'"):
        set_strengths(targets, {"c": 1.0})


def test_a_trained_adapter_of_ours_is_published_and_comes_back(goldens: Goldens, tmp_path: Path) -> None:
    """Adapters made here have no blocks in them: every published part has the whole rank."""
    case = goldens.case("lora", "sd1")
    targets = _targets(case, "unet")
    adapters.lora(targets["unet"].net, 3, 6.0, "*attention.blocks.*")
    generator = torch.Generator().manual_seed(5)
    for adapter in adapters.adapted(targets["unet"].net).values():
        nn.init.normal_(adapter.up.weight, std=0.3, generator=generator)
    ours = _answer(case, targets["unet"], "kohya_scale_1")
    for layout in ("peft", "kohya"):
        path = save_lora(targets, tmp_path / f"{layout}.safetensors", layout)
        again = _targets(case, "unet")
        load_lora(again, path)
        torch.testing.assert_close(_answer(case, again["unet"], "kohya_scale_1"), ours, rtol=1e-5, atol=1e-5)


def twice_adapted() -> tuple[nn.Module, Tensor]:
    """A network with adapters "a" and "b" that add something, and what it reads."""
    net = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))
    adapters.lora(net, 2, 4.0, name="a")
    adapters.lora(net, 3, 1.0, name="b", seed=1)
    for adapter in (*adapters.adapted(net, "a").values(), *adapters.adapted(net, "b").values()):
        nn.init.normal_(adapter.up.weight, generator=torch.Generator().manual_seed(2))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    return net, x


def test_other_strengths_compile_nothing_again() -> None:
    torch.compiler.reset()
    net, x = twice_adapted()
    made = torch.compile(net, backend="eager", fullgraph=True)
    first = made(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        for a, b in ((0.5, 0.25), (0.0, 1.0), (-2.0, 0.0)):
            adapters.set_strengths(net, {"a": a, "b": b})
            torch.testing.assert_close(made(x), net(x))
            assert not torch.equal(made(x), first)


# Names of original files


class _Flux(nn.Module):
    """Two layers as a network of ours might hold FLUX's: keys and values joined."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key_value = nn.Linear(6, 6), nn.Linear(6, 12)
        self.one = nn.Linear(6, 18 + 24)


FLUX = KeyMap(
    renames=(
        (r"^query", "transformer_blocks.0.attn.to_q"),
        (r"^key_value", "transformer_blocks.0.attn.key_value"),
        (r"^one", "single_transformer_blocks.0.one"),
    ),
    joins=(
        (r"(.*)\.key_value\.(\w+)", (r"\1.to_k.\2", r"\1.to_v.\2"), STACK),
        (
            r"(.*)\.one\.(\w+)",
            tuple(rf"\1.{p}.\2" for p in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
            stack(6, 6, 6, 24),
        ),
    ),
)
FLUX_CONFIG = {"_class_name": "FluxTransformer2DModel", "attention_head_dim": 3, "num_attention_heads": 2}


def _flux_file(prefix: str, dot: str, down: str, up: str, alpha: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    made = {}
    for layer, out, rank in (("double_blocks.0.img_attn.qkv", 18, 3), ("single_blocks.0.linear1", 42, 5)):
        stem = prefix + layer.replace(".", dot)
        made[f"{stem}.{down}.weight"] = torch.randn(rank, 6, generator=generator)
        made[f"{stem}.{up}.weight"] = torch.randn(out, rank, generator=generator)
        if alpha:
            made[f"{stem}.alpha"] = torch.tensor(2.0)
    return made


@pytest.mark.parametrize("kohya", [True, False])
def test_layers_fused_in_the_original_are_split(tmp_path: Path, kohya: bool) -> None:
    names = ("lora_unet_", "_", "lora_down", "lora_up", True) if kohya else ("diffusion_model.", ".", "lora_A", "lora_B", False)
    file = _flux_file(*names)
    path = save(tmp_path / "flux.safetensors", file)
    net = _Flux()
    before = {n: p.detach().clone() for n, p in net.state_dict().items()}
    targets = {"transformer": target(net, FLUX, FLUX_CONFIG)}
    load_lora(targets, path, 0.5)
    if kohya:
        again = load(save_lora(targets, tmp_path / "again.safetensors", "kohya"))
        assert set(again) == set(file) and all(torch.equal(again[n], v) for n, v in file.items())
    assert adapters.adapted(net)["key_value"].rank == 3  # the parts share one matrix, which stands there once
    adapters.merge(net)
    values = list(file.values())
    (down, up), (down2, up2) = (values[0], values[1]), (values[3], values[4]) if kohya else (values[2], values[3])
    scale, scale2 = (0.5 * 2 / 3, 0.5 * 2 / 5) if kohya else (0.5, 0.5)
    delta = scale * up @ down
    torch.testing.assert_close(net.query.weight, before["query.weight"] + delta[:6])
    torch.testing.assert_close(net.key_value.weight, before["key_value.weight"] + delta[6:])
    torch.testing.assert_close(net.one.weight, before["one.weight"] + scale2 * up2 @ down2)


def test_sdxl_goes_by_the_names_of_its_original() -> None:
    published = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    net = nn.Module()
    at = net
    *path, last = published.split(".")
    for part in path:
        at.add_module(part, nn.Module())
        at = at.get_submodule(part)
    at.add_module(last, nn.Linear(4, 4))
    config = {
        "_class_name": "UNet2DConditionModel", "block_out_channels": [4, 8, 8], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "addition_embed_type": "text_time",
    }  # fmt: skip
    made = target(net, KeyMap(), config)
    assert made.names["input_blocks_4_1_transformer_blocks_0_attn2_to_q"] is made.originals[0]
    assert made.originals[0].theirs == (f"{published}.weight",)


ORIGINALS = [("flux", "dev", "transformer"), ("sd3", "sd35", "transformer"), ("sdxl", "unet", "unet")]


@pytest.mark.parametrize(("family", "name", "component"), ORIGINALS, ids=[f for f, *_ in ORIGINALS])
def test_every_layer_by_its_original_name(goldens: Goldens, tmp_path: Path, family: str, name: str, component: str) -> None:
    """A pair of another alpha on every layer of the original: merged weights, and kohya's file again to the byte."""
    case = goldens.case(family, name)
    config = case.config(component)
    part = PARTS[config["_class_name"]]
    net = case.network(component, part)
    keys = part.keys(config, net)
    where = target(net, keys, config)
    before = {n: v.double() for n, v in published(net, keys).items()}
    generator, file, deltas = torch.Generator().manual_seed(6), {}, {}
    for i, row in enumerate(where.originals):
        whole = row.move.load([before[n] for n in row.theirs])
        rank, alpha, ends = 1 + i % 3, float(1 + i % 5), [1] * (whole.ndim - 2)
        stem = "lora_unet_" + row.ours.removesuffix(".weight").replace(".", "_")
        down = torch.randn(rank, *whole.shape[1:], generator=generator)
        up = torch.randn(len(whole), rank, *ends, generator=generator)
        file |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
        delta = 0.7 * alpha / rank * up.double().flatten(1) @ down.double().flatten(1)
        deltas[row.ours] = whole + delta.reshape(whole.shape)
    assert sum(len(row.theirs) > 1 for row in where.originals) or family == "sdxl"
    load_lora({component: where}, save(tmp_path / "first.safetensors", file), 0.7)
    again = load(save_lora({component: where}, tmp_path / "again.safetensors", "kohya"))
    assert set(again) == set(file) and all(torch.equal(again[n], v) for n, v in file.items())
    adapters.merge(net)
    after = published(net, keys)
    for row in where.originals:
        whole = row.move.load([after[n].double() for n in row.theirs])
        torch.testing.assert_close(whole, deltas[row.ours], rtol=1e-5, atol=1e-5)


# What is refused


def test_what_fits_nothing_is_refused_by_name(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("lora", "sd1")
    targets = _targets(case, "unet")
    stored = load(case.dir / FILES["kohya"])
    with pytest.raises(ValueError, match=r"adapts the text_encoder .*; leave it out by only=\('unet',\)"):
        load_lora(targets, case.dir / FILES["kohya"])
    unet = {n: v for n, v in stored.items() if n.startswith("lora_unet")}
    stem = next(n for n in unet if "attn1_to_q" in n).split(".")[0]

    def refused(change: Mapping[str, Tensor | None], message: str) -> None:
        file = {n: v for n, v in {**unet, **change}.items() if v is not None}
        path = save(tmp_path / "odd.safetensors", file)
        with pytest.raises(ValueError, match=message):
            load_lora(targets, path)
        assert not adapters.adapted(targets["unet"].net)

    wrong = stem.replace("to_q", "to_qq")
    refused(
        {f"{wrong}.lora_down.weight": torch.ones(2, 3), f"{wrong}.lora_up.weight": torch.ones(3, 2)},
        rf"does not have; the nearest is '{stem.removeprefix('lora_unet_')}'",
    )
    refused({f"{stem}.lora_up.weight": None}, "lacks the matrix that goes up")
    refused({f"{stem}.lora_down.weight": torch.ones(9, 3)}, "which make no product")
    refused({f"{stem}.lora_down.weight": torch.ones(len(unet[f"{stem}.lora_down.weight"]), 7)}, "the layer takes")
    refused({f"{stem}.hada_w1_a": torch.ones(2, 3)}, "LoHa")
    refused({f"{stem}.dora_scale": torch.ones(3)}, "DoRA")
    refused({f"{stem}.alpha": torch.tensor(float("nan"))}, "alpha")
    refused({"something.else": torch.ones(3)}, "no layout of adapters")
