"""U-Nets that read no text, beside the peer's: DDPM, ADM, consistency models, NCSN++, latent diffusion."""

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin.networks import UNet
from langevin.networks.blocks import fixed_groups
from langevin.networks.unet import Attending
from langevin.tensors import load
from langevin.zoo.families.unconditional import COMPONENTS
from langevin.zoo.family import load_into, published, unset
from tests.parity.goldens import Goldens

(PART,) = COMPONENTS
CALLS = [
    ("ddpm", "cifar10"), ("ddpm", "class_variants"), ("adm", "class_conditional"), ("ncsnpp", "ve_small"),
    ("ncsnpp", "ve_attention"),
]  # fmt: skip
PIPELINES = [
    ("ddpm", "ddpm_pipeline"), ("ddpm", "ddim_pipeline"), ("adm", "consistency_pipeline"), ("ncsnpp", "sde_ve_pipeline"),
    ("vq", "ldm_pipeline"),
]  # fmt: skip


def told(given: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The peer's arguments as ours."""
    z = given["sample"]
    labels = given.get("class_labels")
    return z, given["timestep"].expand(len(z)).float(), {} if labels is None else {"label": labels}


@pytest.mark.parametrize("family, name", CALLS)
def test_every_call_is_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    for component in case.entry["components"]:
        net = case.network(component, PART)
        for call, recorded in case.entry["calls"].items():
            if recorded["component"] == component:
                with torch.no_grad():
                    case.agrees(call, "sample", net(*told(case.arguments(call))))
        case.goes_back(component, PART, net)


@pytest.mark.parametrize("family, name", PIPELINES)
def test_pipelines_first_calls_are_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("pipeline/unet", PART)
    given, theirs = case.first_call()
    with torch.no_grad():
        ours = net(*told(given))
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())
    case.goes_back("pipeline/unet", PART, net)


def networks(goldens: Goldens) -> list[tuple[nn.Module, dict[str, Any]]]:
    """All of them, with arguments."""
    made = []
    for family, name in CALLS:
        case = goldens.case(family, name)
        for call, recorded in case.entry["calls"].items():
            made.append((case.network(recorded["component"], PART), case.arguments(call)))
    for family, name in PIPELINES:
        case = goldens.case(family, name)
        made.append((case.network("pipeline/unet", PART), case.first_call()[0]))
    return made


def test_what_is_published_builds_the_same_network(goldens: Goldens):
    assert PART.config is not None
    for net, given in networks(goldens):
        again = PART.build(json.loads(json.dumps(PART.config(net)))).eval()
        again.load_state_dict(net.state_dict())
        with torch.no_grad():
            assert torch.equal(again(*told(given)), net(*told(given)))


def test_the_peer_runs_what_we_train(goldens: Goldens):
    diffusers = pytest.importorskip("diffusers")
    assert PART.config is not None
    norm = fixed_groups(4, 1e-6)
    for time, null in (("scale_shift", True), ("add", False)):
        net = UNet(
            3, 16, (1, 2), 1, (1,), 8, time=time, classes=5, null=null, norm=norm, attending=Attending(norm, True, norm)
        ).eval()
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn(p.shape, generator=g) * 0.1)
        config = PART.config(net)
        theirs = diffusers.UNet2DModel(**{k: v for k, v in config.items() if k != "_class_name"}).eval()
        theirs.load_state_dict(published(net, PART.keys(config, net)))
        z, level, label = torch.randn(2, 3, 8, 12, generator=g), torch.tensor([3.0, 700.0]), torch.tensor([0, 4])
        with torch.no_grad():
            assert torch.allclose(net(z, level, {"label": label}), theirs(z, level, label).sample, atol=1e-5)
            if null:  # the last class of theirs is the null condition of ours
                assert torch.allclose(net(z, level), theirs(z, level, torch.full((2,), 5)).sample, atol=1e-5)


@pytest.mark.parametrize("family, name", [("ddpm", "cifar10"), ("ncsnpp", "ve_attention")])
def test_older_names_of_the_same_tensors(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    tensors = load(case.dir / "unet" / "diffusion_pytorch_model.safetensors")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {re.sub(r"to_q|to_k|to_v|to_out\.0", lambda m: older[m[0]], n): v for n, v in tensors.items()}
    assert set(renamed) != set(tensors)
    if "time_proj.weight" in renamed:  # published files hold one or the other, or both
        renamed["time_proj.W"] = renamed["time_proj.weight"]
    config = case.config("unet")
    with unset():
        net = PART.build(config)
    load_into(net, PART.keys(config, net), list(renamed), renamed.__getitem__, "older")
    saved = published(net, PART.keys(config, net))  # under the newer names
    assert set(saved) == set(tensors) and all(torch.equal(value, tensors[n]) for n, value in saved.items())


def refused(config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        PART.build({**config, **changes})
    return str(caught.value)


def test_what_no_network_here_computes_is_refused_by_name():
    plain = {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 64],
    }  # fmt: skip
    assert "act_fn is 'mish'" in refused(plain, act_fn="mish")
    assert "'norm_groups'; did it mean 'norm_num_groups'" in refused(plain, norm_groups=4)
    assert "norm_num_groups is None" in refused(plain, norm_num_groups=None)
    assert "down_block_types has 'KDownBlock2D'" in refused(plain, down_block_types=["KDownBlock2D"] * 2)
    assert "attends at other resolutions" in refused(plain, up_block_types=["UpBlock2D"] * 2)
    assert "has 3 blocks for 2 block_out_channels" in refused(plain, down_block_types=["DownBlock2D"] * 3)
    assert "skip blocks beside others" in refused(plain, down_block_types=["SkipDownBlock2D", "AttnDownBlock2D"])
    assert "time_embedding_type is 'learned'" in refused(plain, time_embedding_type="learned", num_train_timesteps=10)
    assert "class_embed_type is 'identity'" in refused(plain, class_embed_type="identity")
    assert "mid_block_type is None" in refused(plain, mid_block_type=None)
    assert "attention_head_dim is 7" in refused(plain, attention_head_dim=7)
    assert "downsample_padding is 2" in refused(plain, downsample_padding=2)
    skip = {
        "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"], "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
        "block_out_channels": [32, 128], "norm_num_groups": None, "attention_head_dim": None,
    }  # fmt: skip
    PART.build(skip)
    assert "has 64 where skip blocks attend" in refused(skip, block_out_channels=[32, 64])
    assert "norm_num_groups is 32" in refused(skip, norm_num_groups=32)
    assert "in_channels is 1" in refused(skip, in_channels=1) and "out_channels is 1" in refused(skip, out_channels=1)


def test_conditions_without_a_null_must_be_given(goldens: Goldens):
    case = goldens.case("adm", "class_conditional")
    net = case.network("unet", PART)
    z, level, cond = told(case.arguments("forward"))
    for given in (None, {**cond, "drop": torch.tensor([True, False])}):
        with pytest.raises(ValueError, match="learned no null condition"):
            net(z, level, given)
