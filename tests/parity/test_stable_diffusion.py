"""U-Nets that read text, and ControlNets, beside the peer's."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin.networks import UNet
from langevin.networks.controlnet import Controlled, ControlNet
from langevin.networks.unet import Control
from langevin.zoo.families.stable_diffusion import COMPONENTS
from tests.parity.goldens import Case, Goldens

PARTS = {part.name: part for part in COMPONENTS}
UNETS = ["sd1", "sd2", "sdxl", "sd_upscaler", "lcm"]
PIPELINES = [
    ("sd1", "txt2img_pndm"), ("sd1", "txt2img_sampler"), ("sd1", "img2img"), ("sd2", "txt2img"), ("sdxl", "txt2img"),
    ("sd_upscaler", "upscale"), ("sd_inpaint", "inpaint"), ("lcm", "lcm_pipeline"),
]  # fmt: skip


def told(given: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor], Control | None]:
    """The peer's arguments as ours."""
    z = given["sample"]
    cond = {"tokens": given["encoder_hidden_states"]}
    if (mask := given.get("encoder_attention_mask")) is not None:
        cond["tokens_mask"] = mask.bool()
    if (labels := given.get("class_labels")) is not None:
        cond["label"] = labels
    if (added := given.get("added_cond_kwargs")) is not None:
        cond |= {"pooled": added["text_embeds"], "size": added["time_ids"]}
    if (strength := given.get("timestep_cond")) is not None:
        cond["guidance"] = strength
    control = None
    if (down := given.get("down_block_additional_residuals")) is not None:
        control = Control(list(down), given["mid_block_additional_residual"])
    return z, given["timestep"].expand(len(z)).float(), cond, control


@pytest.mark.parametrize("family", UNETS)
def test_every_call_is_the_peers(goldens: Goldens, family: str):
    case = goldens.case(family, "unet")
    net = case.network("unet", PARTS["UNet2DConditionModel"])
    assert isinstance(net, UNet)
    for call in case.entry["calls"]:
        z, level, cond, control = told(case.arguments(call))
        with torch.no_grad():
            case.agrees(call, "sample", net.answer(z, level, cond, control))
    case.goes_back("unet", PARTS["UNet2DConditionModel"], net)


@pytest.mark.parametrize("family", UNETS)
def test_what_is_published_builds_the_same_network(goldens: Goldens, family: str):
    case = goldens.case(family, "unet")
    part = PARTS["UNet2DConditionModel"]
    net = case.network("unet", part)
    assert part.config is not None
    config = json.loads(json.dumps(part.config(net)))
    again = part.build(config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}
    again.load_state_dict(net.state_dict())
    z, level, cond, _ = told(case.arguments("forward"))
    with torch.no_grad():
        assert torch.equal(again(z, level, cond), net(z, level, cond))


def first_call(case: Case) -> tuple[dict[str, Any], Tensor]:
    """The first call of a recorded pipeline's U-Net, and what it said."""
    given, said = case.first_call()
    for name in ("down_block_additional_residuals",):
        if name in given:
            given[name] = [given[name][k] for k in sorted(given[name], key=int)]
    return given, said


@pytest.mark.parametrize("family, name", [*PIPELINES, ("controlnet", "pipeline")])
def test_pipelines_first_calls_are_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("pipeline/unet", PARTS["UNet2DConditionModel"])
    given, theirs = first_call(case)
    z, level, cond, control = told(given)
    assert isinstance(net, UNet)
    if net.enter.in_channels > 4:  # inpainting's mask and picture, or the low-resolution picture, are conditions
        cond["concat"], z = z[:, 4:], z[:, :4]
    with torch.no_grad():
        ours = net.answer(z, level, cond, control)
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_control_is_the_peers(goldens: Goldens):
    case = goldens.case("controlnet", "controlnet")
    net = case.network("controlnet", PARTS["ControlNetModel"])
    assert isinstance(net, ControlNet)
    for call, options in (("forward", {}), ("scaled", {"scale": 0.7}), ("guess", {"guess": True})):
        z, level, cond, _ = told(case.arguments(call))
        with torch.no_grad():
            said = net(z, level, cond, case.argument(call, "controlnet_cond"), **options)
        for i, kept in enumerate(said.kept):
            case.agrees(call, f"down/{i}", kept)
        case.agrees(call, "mid", said.middle)
    case.goes_back("controlnet", PARTS["ControlNetModel"], net)


def test_several_controls_add_up_and_a_strength_of_nothing_is_the_u_net(goldens: Goldens):
    case = goldens.case("controlnet", "pipeline")
    net, part = case.network("pipeline/unet", PARTS["UNet2DConditionModel"]), PARTS["ControlNetModel"]
    control = case.network("pipeline/controlnet", part)
    assert isinstance(net, UNet) and isinstance(control, ControlNet)
    given, _ = first_call(case)
    z, level, cond, recorded = told(given)
    g = torch.Generator().manual_seed(3)
    one, other = (torch.rand(len(z), 3, 8 * z.shape[2], 8 * z.shape[3], generator=g) for _ in range(2))
    with torch.no_grad():
        a, b = control(z, level, cond, one, 0.5), control(z, level, cond, other, 1.0)
        total = Control([x + y for x, y in zip(a.kept, b.kept, strict=True)], a.middle + b.middle)
        both = Controlled(net, [control, control], [0.5, 1.0])
        told_both = {**cond, "hint": one, "hint1": other}
        expected = net.answer(z, level, cond, total)
        assert torch.allclose(both(z, level, told_both), expected, atol=1e-5)
        own = torch.tensor([1.0, 0.0])[: len(z)]
        mixed = both(z, level, {**told_both, "control": own})
        assert torch.allclose(mixed[0], expected[0], atol=1e-5)
        assert torch.allclose(mixed[1:], net(z, level, cond)[1:], atol=1e-5)
    with pytest.raises(ValueError, match="'hint1', which is missing"):
        both(z, level, {**cond, "hint": one})
    with pytest.raises(ValueError, match="the hint is"):
        both(z, level, {**cond, "hint": one[..., :-8], "hint1": other})
    assert recorded is not None


def broken(config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        PARTS["UNet2DConditionModel"].build({**config, **changes})
    return str(caught.value)


def test_what_no_network_here_computes_is_refused_by_name(goldens: Goldens):
    config = goldens.case("sd1", "unet").config("unet")
    assert "act_fn is 'mish'" in broken(config, act_fn="mish")
    assert "'layer_per_block'; did it mean 'layers_per_block'" in broken(config, layer_per_block=2)
    assert "layers_per_block is 'two'" in broken(config, layers_per_block="two")
    assert "'AttnDownBlock2D'" in broken(config, down_block_types=["AttnDownBlock2D"] * 3)
    assert "transformer_layers_per_block is (0, [2, 2]" in broken(config, transformer_layers_per_block=[0, [2, 2], [4, 4]])
    assert "attention_head_dim is 0" in broken(config, attention_head_dim=0)
    assert "attention_head_dim is (2, 4)" in broken(config, attention_head_dim=[2, 4])
    assert "layers_per_block is (1, 2" in broken(config, layers_per_block=[1, 2, 1, 2][: len(config["block_out_channels"])])
    assert "no multiple of norm_num_groups" in broken(config, norm_num_groups=7)
    assert "projection_class_embeddings_input_dim is None" in broken(config, addition_embed_type="text_time")


def test_missing_and_misshapen_tensors_are_named(goldens: Goldens):
    case = goldens.case("formats", "variants")
    part = PARTS["UNet2DConditionModel"]
    whole = case.network("safetensors", part)
    assert isinstance(whole, nn.Module)
    for folder, said in (("missing_key", "lacks"), ("wrong_shape", "has the shape")):
        with pytest.raises(ValueError, match=said) as caught:
            case.network("safetensors", part, f"../{folder}/diffusion_pytorch_model.safetensors")
        assert "." in str(caught.value) and "\n" not in str(caught.value)
