"""Autoencoders beside the peer's."""

import json
from typing import Any

import pytest
import torch

from langevin.networks.autoencoder import Autoencoder
from langevin.networks.latents import LatentCodec
from langevin.zoo.families.autoencoders import COMPONENTS
from langevin.zoo.family import load_into, published
from tests.parity.goldens import Case, Goldens

PARTS = {part.name: part for part in COMPONENTS}
CASES = [
    ("vae", "sd", "vae"), ("vae", "flux", "vae"), ("vae", "upscaler", "vae"), ("vq", "vqmodel", "vqvae"),
    ("vq", "ldm_pipeline", "pipeline/vqvae"), ("taesd", "taesd", "vae"), ("taesd", "taef1", "vae"), ("sana", "dc_ae", "vae"),
]  # fmt: skip


def loaded(case: Case, component: str) -> Autoencoder:
    net = case.network(component, PARTS[case.entry["components"][component.removesuffix("_old_names")]["class"]])
    assert isinstance(net, Autoencoder)
    return net


@pytest.mark.parametrize("family, name, component", CASES)
def test_every_call_is_the_peers(goldens: Goldens, family: str, name: str, component: str):
    case = goldens.case(family, name)
    net = loaded(case, component)
    for call in case.entry["calls"]:
        given = case.arguments(call)
        with torch.no_grad():
            if call.startswith("encode"):
                code = net.encode(given["x"])
                if code.logvar is None:
                    (output,) = case.entry["calls"][call]["outputs"]
                    case.agrees(call, output, code.mode)
                else:
                    case.agrees(call, "mean", code.mean)
                    case.agrees(call, "logvar", code.logvar)
            elif call == "quantize":
                said = net.quantise(given["h"])
                case.agrees(call, "z_q", said.latents)
                case.agrees(call, "indices", said.indices.flatten())
            else:
                (z,) = (given[key] for key in ("z", "x", "h") if key in given)
                case.agrees(call, "sample", net.decode(z, not given.get("force_not_quantize", False)))
    case.goes_back(component, PARTS[case.entry["components"][component]["class"]], net)


def test_old_names_of_attention_are_the_same_network(goldens: Goldens):
    case = goldens.case("vae", "sd")
    new, old = loaded(case, "vae"), loaded(case, "vae_old_names")
    assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))


@pytest.mark.parametrize("family, name, component", CASES)
def test_what_is_published_builds_the_same_network(goldens: Goldens, family: str, name: str, component: str):
    case = goldens.case(family, name)
    net = loaded(case, component)
    part = PARTS[case.entry["components"][component]["class"]]
    assert part.config is not None
    published = part.config(net)
    stored = case.config(component)
    kept = {"sample_size", "latent_magnitude", "latent_shift", "upsample_fn", "upsampling_scaling_factor", "_diffusers_version",
            "lookup_from_codebook", "norm_type"}  # fmt: skip
    if part.name != "AutoencoderTiny":
        kept -= {"upsample_fn"}
    again = part.build(json.loads(json.dumps(published)))
    again.load_state_dict(net.state_dict())
    assert isinstance(again, Autoencoder) and again.scale == net.scale and again.shapes == net.shapes
    for key, value in stored.items():
        if key not in kept and key in published and not isinstance(value, str):
            assert published[key] == value or (key == "vq_embed_dim" and value is None), key
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(net.eval()(x), again.eval()(x))


@pytest.mark.parametrize(
    "scale", [{"scaling_factor": 0.3611, "shift_factor": 0.1159},
              {"scaling_factor": 0.5, "latents_mean": [-1.0, 0.5, 2.0, 0.0], "latents_std": [1.0, 2.0, 0.5, 3.0]}],
)  # fmt: skip
def test_latents_are_scaled_as_pipelines_scale_them(goldens: Goldens, scale: dict[str, Any]):
    case = goldens.case("vae", "sd")
    part = PARTS["AutoencoderKL"]
    torch.manual_seed(0)
    net = part.build({**case.config("vae"), **scale}).eval()
    assert isinstance(net, Autoencoder)
    codec = LatentCodec(net)
    x = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        raw, noise = net.encode(x), torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(3))
        if "latents_mean" in scale:
            mean, std = (torch.tensor(scale[k])[:, None, None] for k in ("latents_mean", "latents_std"))
        else:
            mean, std = torch.tensor(scale["shift_factor"]), torch.tensor(1.0)
        assert raw.logvar is not None
        drawn = raw.mean + (raw.logvar / 2).exp() * noise
        for given, latents in ((None, raw.mean), (noise, drawn)):
            z = codec.encode(x, given)
            torch.testing.assert_close(z, (latents - mean) * scale["scaling_factor"] / std)
            torch.testing.assert_close(codec.decode(z), net.decode(z * std / scale["scaling_factor"] + mean))


def test_old_codebooks_are_not_scaled(goldens: Goldens):
    config = {k: v for k, v in goldens.case("vq", "vqmodel").config("vqvae").items() if k != "scaling_factor"}
    net = PARTS["VQModel"].build(config)
    assert isinstance(net, Autoencoder) and net.scale.factor == 1.0


DEEP = {
    "latent_channels": 4, "attention_head_dim": 8, "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"], "encoder_block_out_channels": [8, 8, 16],
    "decoder_block_out_channels": [8, 8, 16], "encoder_layers_per_block": [0, 1, 2], "decoder_layers_per_block": [0, 2, 1],
    "encoder_qkv_multiscales": [[], [], [5, 3]], "decoder_qkv_multiscales": [[], [], []],
    "decoder_act_fns": ["relu", "relu", "silu"],
    "decoder_norm_types": ["batch_norm", "batch_norm", "rms_norm"], "scaling_factor": 0.3189,
}  # fmt: skip


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_deep_autoencoders_with_no_blocks_at_full_resolution_are_the_peers(strided: bool, shortcut: bool):
    # as those that were trained on ImageNet are published (dc-ae-f32c32-in-1.0)
    diffusers = pytest.importorskip("diffusers", reason="the peer is not installed")
    config = {
        **DEEP, "downsample_block_type": "conv" if strided else "pixel_unshuffle", "encoder_out_shortcut": shortcut,
        "upsample_block_type": "interpolate" if strided else "pixel_shuffle", "decoder_in_shortcut": shortcut,
    }  # fmt: skip
    torch.manual_seed(0)
    peer = diffusers.AutoencoderDC(**config).eval()
    for name, value in peer.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    part, theirs = PARTS["AutoencoderDC"], dict(peer.state_dict())
    net = part.build(config)
    load_into(net, part.keys(config, net), list(theirs), theirs.__getitem__, "the peer").eval()
    assert isinstance(net, Autoencoder) and net.factor == 4
    x, z = torch.randn(2, 3, 16, 24), torch.randn(2, 4, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(net.encode(x).mode, peer.encode(x).latent, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(net.decode(z), peer.decode(z).sample, rtol=1e-5, atol=1e-5)
    made = published(net, part.keys(config, net))
    assert made.keys() == theirs.keys() and all(torch.equal(made[n], theirs[n]) for n in made)
    assert part.config is not None
    said = part.config(net)
    again = diffusers.AutoencoderDC.from_config(json.loads(json.dumps(said)))
    again.load_state_dict(made)


def refused(name: str, config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        PARTS[name].build({**config, **changes})
    return str(caught.value)


def test_what_no_network_here_computes_is_refused_by_name(goldens: Goldens):
    kl, vq = goldens.case("vae", "sd").config("vae"), goldens.case("vq", "vqmodel").config("vqvae")
    tiny, dc = goldens.case("taesd", "taesd").config("vae"), goldens.case("sana", "dc_ae").config("vae")
    assert "act_fn is 'mish'" in refused("AutoencoderKL", kl, act_fn="mish")
    assert "'scale_factor'; did it mean 'scaling_factor'" in refused("AutoencoderKL", kl, scale_factor=1.0)
    assert "AttnDownEncoderBlock2D" in refused("AutoencoderKL", kl, down_block_types=["AttnDownEncoderBlock2D"] * 4)
    assert "norm_type is 'spatial'" in refused("VQModel", vq, norm_type="spatial")
    assert "upsample_fn is 'bilinear'" in refused("AutoencoderTiny", tiny, upsample_fn="bilinear")
    assert "one width" in refused(
        "AutoencoderTiny", tiny, encoder_block_out_channels=[8, 16, 8][: len(tiny["num_encoder_blocks"])]
    )
    assert "decoder_norm_types is 'layer_norm'" in refused("AutoencoderDC", dc, decoder_norm_types="layer_norm")
    assert "blocks everywhere" in refused("AutoencoderDC", dc, encoder_layers_per_block=[1, 0, 1])
