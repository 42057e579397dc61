"""LoRA files of others: merged weights compute what the peer's do, no alpha is lost, and files can be written again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin import adapters
from langevin.tensors import load, metadata, save
from langevin.zoo.family import load_into, published
from langevin.zoo.keys import SQUEEZE, STACK, KeyMap, stack
from langevin.zoo.lora import Target, load_lora, save_lora, set_strengths, target, text_target
from tests.parity.goldens import Case, Goldens

FILES = {
    "peft": "peft/pytorch_lora_weights.safetensors",
    "old": "old/pytorch_lora_weights.safetensors",
    "kohya": "kohya/lora.safetensors",
}
UNET_CALLS = ["attention_scale_1", "attention_scale_0.6", "kohya_scale_1", "kohya_scale_0.6", "old_scale_1"]
# as networks of ours are: keys and values in one layer, projections of size 1 as linear layers
JOINED = KeyMap(
    joins=(
        (r"(.*)\.key_value\.(weight|bias)", (r"\1.to_k.\2", r"\1.to_v.\2"), STACK),
        (r"(.*attentions\.\d+\.proj_(?:in|out)\.weight)", (r"\1",), SQUEEZE),
    )
)


def _tree(tensors: Mapping[str, Tensor], squeeze: bool) -> nn.Module:
    """Layers of any names: a network that only holds weights."""
    made = nn.Module()
    for name, value in tensors.items():
        layer, leaf = name.rsplit(".", 1)
        if leaf != "weight" or value.ndim == 1:
            continue
        at = made
        *path, last = layer.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        bias = f"{layer}.bias" in tensors
        if value.ndim == 2:
            new: nn.Module = nn.Linear(value.shape[1], value.shape[0], bias)
        else:
            new = nn.Conv2d(value.shape[1], value.shape[0], value.shape[2:], bias=bias)  # pyright: ignore[reportArgumentType]
        at.add_module(last, new)
    return made


def _ours(case: Case) -> tuple[nn.Module, KeyMap, dict[str, Tensor]]:
    """The U-Net's weights in layers as ours are, and all published tensors."""
    theirs = load(case.dir / "unet/diffusion_pytorch_model.safetensors")
    linear = case.config("unet")["use_linear_projection"]
    keys = KeyMap(joins=JOINED.joins[:1]) if linear else JOINED
    shown: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if name.endswith("to_k.weight"):
            other = theirs[name.replace("to_k", "to_v")]
            shown[name.replace("to_k", "key_value")] = torch.cat([value, other])
        elif ".proj_" in name and value.ndim == 4:
            shown[name] = value.flatten(1)
        elif "to_v" not in name:
            shown[name] = value
    net = _tree(shown, not linear)
    wanted = {n for row in keys.rows(dict(net.state_dict())) for n in row.theirs}
    load_into(net, keys, sorted(wanted), lambda name: theirs[name].clone(), "the case")  # merging writes into them
    return net, keys, theirs


def _targets(case: Case, encoder: nn.Module | None = None) -> tuple[dict[str, Target], KeyMap, dict[str, Tensor]]:
    net, keys, theirs = _ours(case)
    made = {"unet": target(net, keys, case.config("unet"))}
    return made | ({"text_encoder": text_target(encoder)} if encoder is not None else {}), keys, theirs


def _encoder(case: Case) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTextModel.from_pretrained(case.dir / "text_encoder").eval()


def _said(case: Case, call: str) -> dict[str, Any]:
    return case.entry["calls"][call]["lora"]


def _peer(case: Case, tensors: Mapping[str, Tensor], call: str) -> Tensor:
    diffusers = pytest.importorskip("diffusers")
    config = {k: v for k, v in case.config("unet").items() if not k.startswith("_")}
    net = diffusers.UNet2DConditionModel(**config).eval()
    net.load_state_dict(tensors)
    with torch.no_grad():
        return net(**case.arguments(call)).sample


@pytest.mark.parametrize("call", UNET_CALLS)
def test_merged_weights_are_the_peers(goldens: Goldens, call: str) -> None:
    case = goldens.case("lora", "sd1")
    said = _said(case, call)
    for file in said["files"]:
        targets, keys, theirs = _targets(case, _encoder(case))
        load_lora(targets, case.dir / file, said["scale"])
        net = targets["unet"].net
        adapters.merge(net)
        tensors = {**theirs, **published(net, keys)}
        changed = {n for n in theirs if not torch.equal(theirs[n], tensors[n])}
        assert {n.removesuffix(".weight") for n in changed} == {
            layer for layer in _named(case, file) if layer in {n.removesuffix(".weight") for n in theirs}
        }
        case.agrees(call, "sample", _peer(case, tensors, call))


def _named(case: Case, file: str) -> set[str]:
    """Published layers of the U-Net that a file adapts, by the test's own reading of it."""
    underscored = {n.removesuffix(".weight").replace(".", "_"): n.removesuffix(".weight")
                   for n in load(case.dir / "unet/diffusion_pytorch_model.safetensors") if n.endswith(".weight")}  # fmt: skip
    made = set()
    for name in load(case.dir / file):
        stem = name.split(".lora_")[0].removeprefix("unet.").removeprefix("lora_unet_")
        stem = stem.replace("processor.to_out_lora.", "to_out.0_lora.").replace("processor.", "").split("_lora.")[0]
        made.add(underscored.get(stem.replace(".", "_"), stem))
    return made


@pytest.mark.parametrize("call", ["text_peft", "text_kohya"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_text_encoder_with_adapters_is_the_peers(goldens: Goldens, call: str, merged: bool) -> None:
    case = goldens.case("lora", "sd1")
    said = _said(case, call)
    encoder = _encoder(case)
    targets, *_ = _targets(case, encoder)
    load_lora(targets, case.dir / said["files"][0], said["scale"])
    if merged:
        adapters.merge(encoder)
    with torch.no_grad():
        out = encoder(**case.arguments(call), output_hidden_states=True)
    case.agrees(call, "last_hidden_state", out.last_hidden_state)
    case.agrees(call, "pooler_output", out.pooler_output)


def test_joined_layers_compute_the_sum_of_their_parts(goldens: Goldens) -> None:
    """Unmerged, layer by layer, in float64: W x + strength (alpha / rank) up down x of every published part."""
    case = goldens.case("lora", "sd1")
    targets, _, theirs = _targets(case)
    net = targets["unet"].net.double()
    stored = load(case.dir / FILES["kohya"])
    load_lora(targets, case.dir / FILES["kohya"], 0.6, only=("unet",))
    generator = torch.Generator().manual_seed(0)
    odd = 0
    for row in targets["unet"].rows:
        layer = net.get_submodule(row.ours.removesuffix(".weight"))
        stems = ["lora_unet_" + n.removesuffix(".weight").replace(".", "_") for n in row.theirs]
        if not isinstance(layer, nn.Linear) or f"{stems[0]}.alpha" not in stored:
            continue
        x = torch.randn(5, layer.in_features, dtype=torch.float64, generator=generator)
        parts, alphas = [], set()
        for stem, name in zip(stems, row.theirs, strict=True):
            down, up = (stored[f"{stem}.lora_{part}.weight"].double().flatten(1) for part in ("down", "up"))
            scale = float(stored[f"{stem}.alpha"]) / len(down)
            alphas.add(scale)
            parts.append(x @ (theirs[name].double().flatten(1) + 0.6 * scale * up @ down).t())
        odd += len(alphas) > 1
        bias = layer.bias if layer.bias is not None else 0
        torch.testing.assert_close(layer(x), torch.cat(parts, -1) + bias, rtol=1e-6, atol=1e-6)
    assert odd  # some parts of one layer of ours have different alphas


@pytest.mark.parametrize("file", ["peft", "kohya"])
def test_files_are_written_again_to_the_byte(goldens: Goldens, tmp_path: Path, file: str) -> None:
    case = goldens.case("lora", "sd1")
    targets, *_ = _targets(case, _encoder(case))
    load_lora(targets, case.dir / FILES[file], 0.3, name="style")
    path = save_lora(targets, tmp_path / "again.safetensors", file, "style")
    ours, theirs = load(path), load(case.dir / FILES[file])
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape and torch.equal(ours[name], value), name


def test_alphas_survive_the_way_through_peft(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("lora", "sd1")
    targets, *_ = _targets(case, _encoder(case))
    load_lora(targets, case.dir / FILES["kohya"])
    path = save_lora(targets, tmp_path / "peft.safetensors", "peft")
    said = json.loads(metadata(path)["lora_adapter_metadata"])
    assert len(set(said["unet.alpha_pattern"].values())) > 1
    again, *_ = _targets(case, _encoder(case))
    load_lora(again, path)
    back = save_lora(again, tmp_path / "kohya.safetensors", "kohya")
    ours, theirs = load(back), load(case.dir / FILES["kohya"])
    assert set(ours) == set(theirs) and all(torch.equal(ours[n], v) for n, v in theirs.items())


def test_peft_reads_what_is_written(goldens: Goldens, tmp_path: Path) -> None:
    """Weights, ranks and alphas of every layer, by the peer's own loader."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    case = goldens.case("lora", "sd1")
    targets, keys, _ = _targets(case)
    load_lora(targets, case.dir / FILES["kohya"], only=("unet",))
    path = save_lora(targets, tmp_path / "pytorch_lora_weights.safetensors", "peft")
    said = json.loads(metadata(path)["lora_adapter_metadata"])
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = {k: v for k, v in case.config("unet").items() if not k.startswith("_")}
    net = diffusers.UNet2DConditionModel(**config).eval()
    net.load_state_dict(load(case.dir / "unet/diffusion_pytorch_model.safetensors"))
    mine = LoraConfig(**{k.removeprefix("unet."): v for k, v in said.items() if k.startswith("unet.")})
    inject_adapter_in_model(mine, net)
    state = {k.removeprefix("unet."): v for k, v in load(path).items() if k.startswith("unet.")}
    set_peft_model_state_dict(net, state)
    adapters.merge(targets["unet"].net)
    ours = published(targets["unet"].net, keys)
    for name, layer in net.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            torch.testing.assert_close(layer.get_base_layer().weight, ours[f"{name}.weight"], rtol=1e-6, atol=1e-6)


def test_several_files_with_weights_and_unmerging(goldens: Goldens) -> None:
    case = goldens.case("lora", "sd1")
    targets, keys, theirs = _targets(case, _encoder(case))
    net = targets["unet"].net
    load_lora(targets, case.dir / FILES["kohya"], 0.0, "a")
    load_lora(targets, case.dir / FILES["old"], 1.0, "b")
    set_strengths(targets, {"a": 0.6, "b": 0.0})
    adapters.merge(net, "a")
    removed = adapters.merge(net, "b")
    case.agrees("kohya_scale_0.6", "sample", _peer(case, {**theirs, **published(net, keys)}, "kohya_scale_0.6"))
    adapters.unmerge(net, removed, "b")
    with pytest.raises(ValueError, match="no adapters named 'c'"):
        set_strengths(targets, {"c": 1.0})


def test_other_strengths_compile_nothing_again() -> None:
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))
    adapters.lora(net, 2, 4.0, name="a")
    adapters.lora(net, 3, 1.0, name="b", seed=1)
    for adapter in (*adapters.adapted(net, "a").values(), *adapters.adapted(net, "b").values()):
        nn.init.normal_(adapter.up.weight, generator=torch.Generator().manual_seed(2))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
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
    net = _tree({f"{published}.weight": torch.zeros(4, 4)}, False)
    config = {
        "_class_name": "UNet2DConditionModel", "block_out_channels": [4, 8, 8], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "addition_embed_type": "text_time",
    }  # fmt: skip
    made = target(net, KeyMap(), config)
    assert made.names["input_blocks_4_1_transformer_blocks_0_attn2_to_q"] is made.originals[0]
    assert made.originals[0].theirs == (f"{published}.weight",)


# What is refused


def test_what_fits_nothing_is_refused_by_name(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("lora", "sd1")
    targets, *_ = _targets(case)
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
