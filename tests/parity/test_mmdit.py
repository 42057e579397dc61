"""Image transformers of several streams beside the peer's: Stable Diffusion 3 and 3.5, FLUX.1, Lumina-Image 2.0."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.mmdit import MMDiT
from langevin.zoo.families import flux, lumina, stable_diffusion_3
from langevin.zoo.family import Component, load_into, unset
from tests.parity.goldens import Goldens

PARTS: dict[str, Component] = {
    "sd3": stable_diffusion_3.COMPONENTS[0],
    "flux": flux.COMPONENTS[0],
    "lumina": lumina.COMPONENTS[0],
}
CASES = [("sd3", "sd3"), ("sd3", "sd35"), ("flux", "dev"), ("flux", "schnell"), ("lumina", "lumina2")]
PIPELINES = [("sd3", "sd3_pipeline"), ("sd3", "sd35_pipeline"), ("flux", "dev_pipeline"), ("flux", "schnell_pipeline")]


def unpacked(tokens: Tensor, ids: Tensor) -> Tensor:
    """The peer's packed tokens (B, L, 4 C) at places ids (L, 3) -> latents (B, C, H, W)."""
    rows, columns = (int(n) + 1 for n in ids[-1, 1:])
    assert torch.equal(ids[:, 1] * columns + ids[:, 2], torch.arange(rows * columns, dtype=ids.dtype))
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def packed(latents: Tensor) -> Tensor:
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def told(family: str, given: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The peer's arguments as ours."""
    z, level, cond = given["hidden_states"], given["timestep"], {"tokens": given["encoder_hidden_states"]}
    if (pooled := given.get("pooled_projections")) is not None:
        cond["pooled"] = pooled
    if (guidance := given.get("guidance")) is not None:
        cond["guidance"] = guidance
    if (mask := given.get("encoder_attention_mask")) is not None:
        cond["tokens_mask"] = mask.bool()
    if family == "flux":
        z, level = unpacked(z, given["img_ids"]), 1000 * level
        assert not given["txt_ids"].any()
    if family == "lumina":
        level = 1000 * (1 - level.double())
    return z, level.float(), cond


def answered(family: str, said: Tensor) -> Tensor:
    """Our answer as the peer's."""
    return {"sd3": said, "flux": said, "lumina": -said}[family] if family != "flux" else packed(said)


@pytest.mark.parametrize("family, name", CASES)
def test_every_call_is_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    for call in case.entry["calls"]:
        with torch.no_grad():
            case.agrees(call, "sample", answered(family, net(*told(family, case.arguments(call)))))
    case.goes_back("transformer", PARTS[family], net)


@pytest.mark.parametrize("family, name", PIPELINES)
def test_pipelines_first_calls_are_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("pipeline/transformer", PARTS[family])
    start = "denoiser/first/in/"
    given = {n.removeprefix(start): t for n, t in case.tensors.items() if n.startswith(start)}
    theirs = case.tensors["denoiser/first/out"]
    with torch.no_grad():
        ours = answered(family, net(*told(family, given)))
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())
    case.goes_back("pipeline/transformer", PARTS[family], net)


@pytest.mark.parametrize("family, name", CASES)
def test_what_is_published_builds_the_same_network(goldens: Goldens, family: str, name: str):
    case, part = goldens.case(family, name), PARTS[family]
    net = case.network("transformer", part)
    assert part.config is not None
    again = part.build(json.loads(json.dumps(part.config(net))))
    again.load_state_dict(net.state_dict())
    arguments = told(family, case.arguments("forward"))
    with torch.no_grad():
        assert torch.equal(again(*arguments), net(*arguments))


@pytest.mark.parametrize("extra", [16, 80], ids=["depth or edges", "fill"])
def test_more_channels_enter_packed_as_the_peers(goldens: Goldens, extra: int):
    peer = pytest.importorskip("diffusers", reason="the peer is not installed").FluxTransformer2DModel
    config = {**goldens.case("flux", "dev").config("transformer"), "in_channels": 64 + 4 * extra, "out_channels": 64}
    theirs, g = peer(**{k: v for k, v in config.items() if k[0] != "_"}).eval(), torch.Generator().manual_seed(extra)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2, generator=g)
    part, state = PARTS["flux"], theirs.state_dict()
    with unset():
        net = part.build(config)
    load_into(net, part.keys(config, net), list(state), state.__getitem__, "the peer's")
    z, masked, mask = (torch.randn(2, n, 6, 10, generator=g) for n in (16, 16, extra - 16))
    cond = {
        "tokens": torch.randn(2, 7, config["joint_attention_dim"], generator=g),
        "pooled": torch.randn(2, config["pooled_projection_dim"], generator=g),
        "guidance": torch.tensor([30.0, 3.5]),
    }
    level = torch.tensor([17.25, 961.5])
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(5.0))
    entering = torch.cat([packed(part) for part in (z, masked, mask) if part.shape[1]], -1)
    with torch.no_grad():
        said = theirs(
            entering, cond["tokens"], cond["pooled"], level / 1000, ids, torch.zeros(7, 3), cond["guidance"], return_dict=False
        )[0]
        ours = packed(net(z, level, {**cond, "concat": torch.cat([masked, mask], 1)}))
    assert float((ours - said).abs().max()) <= 1e-5 * float(said.abs().max())


@pytest.mark.parametrize("family, name", CASES)
def test_hidden_text_is_as_if_it_were_not_there(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    z, level, cond = told(family, case.arguments("forward"))
    cond.pop("tokens_mask", None)
    tokens = cond.pop("tokens")
    g = torch.Generator().manual_seed(1)
    padding = 30 * torch.randn(len(tokens), 3, tokens.shape[2], generator=g)
    there, hidden = torch.ones(tokens.shape[:2], dtype=torch.bool), torch.zeros(len(tokens), 3, dtype=torch.bool)
    with torch.no_grad():
        plain = net(z, level, {**cond, "tokens": tokens})
        for order in (slice(None), slice(None, None, -1)):  # padding behind the text, and before it
            padded = torch.cat([tokens, padding][order], 1)
            mask = torch.cat([there, hidden][order], 1)
            out = net(z, level, {**cond, "tokens": padded, "tokens_mask": mask})
            assert float((out - plain).abs().max()) <= 1e-5 * float(plain.abs().max())


@pytest.mark.parametrize("family, name", CASES)
def test_tables_kept_from_inference_serve_training(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    z, level, cond = told(family, case.arguments("forward"))
    with torch.inference_mode():
        before = net(z, level, cond)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    out = net(z, level, cond)
    assert torch.allclose(out, before, rtol=1e-4, atol=1e-5)
    out.square().mean().backward()
    inert = case.entry["components"]["transformer"]["inert"] or []
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert bool(dead) <= bool(inert)  # only where the peer has such too: what asks in the last block's text


def test_the_default_table_is_the_peers(goldens: Goldens):
    peer = pytest.importorskip("diffusers", reason="the peer is not installed").SD3Transformer2DModel
    config = goldens.case("sd3", "sd3").config("transformer")
    theirs = peer(**{k: v for k, v in config.items() if k[0] != "_"}).pos_embed.pos_embed
    net = PARTS["sd3"].build(config)
    assert torch.allclose(net.get_buffer("positions"), theirs, atol=1e-6)


def broken(part: Component, config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        part.build({**config, **changes})
    return str(caught.value)


def test_what_no_network_here_computes_is_refused_by_name(goldens: Goldens):
    config = goldens.case("sd3", "sd3").config("transformer")
    assert "qk_norm is 'layer_norm'" in broken(PARTS["sd3"], config, qk_norm="layer_norm")
    assert "caption_projection_dim is 7" in broken(PARTS["sd3"], config, caption_projection_dim=7)
    assert "pos_embed_max_size is None" in broken(PARTS["sd3"], config, pos_embed_max_size=None)
    assert "did it mean 'num_layers'" in broken(PARTS["sd3"], config, number_layers=2)
    config = goldens.case("flux", "dev").config("transformer")
    assert "patch_size is 2" in broken(PARTS["flux"], config, patch_size=2)
    assert "axes is (2, 2, 2)" in broken(PARTS["flux"], config, axes_dims_rope=[2, 2, 2])
    assert "in_channels is 63" in broken(PARTS["flux"], config, in_channels=63)
    assert "out_channels is 128" in broken(PARTS["flux"], config, out_channels=128)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"z": torch.zeros(2, 16, 7, 12)}, "7 x 12 for patches of 2"),
        ({"z": torch.zeros(2, 16, 8, 64)}, "table of positions"),
        ({"tokens": None}, "'tokens', which is missing"),
        ({"pooled": None}, "'pooled', which is missing"),
        ({"tokens": torch.zeros(2, 5, 3)}, "tokens have 3 features"),
        ({"poled": torch.zeros(2, 3)}, "did you mean 'pooled'"),
        ({"mask": torch.ones(2, 3)}, "tokens_mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_that_do_not_fit_are_refused(goldens: Goldens, change: dict[str, Any], said: str):
    case = goldens.case("sd3", "sd3")
    net: nn.Module = case.network("transformer", PARTS["sd3"])
    z, level, cond = told("sd3", case.arguments("forward"))
    z, mask = change.pop("z", z), change.pop("mask", None)
    cond = {name: value for name, value in {**cond, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        net(z, level, cond, mask)


def test_networks_that_make_no_sense_are_refused():
    for wrong, said in (
        ({"kind": "serial"}, "'parallel' or 'sandwich'"),
        ({"towards": "dta"}, "'noise' or 'data'"),
        ({"axes": (2, 2, 2)}, "add up to a head's 4"),
        ({"unread": True, "single": 1}, "leave it out"),
        ({"heads": 3}, "make each a multiple"),
    ):
        with pytest.raises(ValueError, match=said):
            MMDiT(**{"width": 8, "heads": 2, "tokens": 4, "joint": 1, **wrong})


@pytest.mark.parametrize("options", [
    {"joint": 1, "single": 1, "axes": (2, 2, 4), "pooled": 5, "guidance": True},
    {"joint": 2, "unread": True, "alone": (0,), "table": 9, "pooled": 5},
    {"joint": 0, "single": 1, "refiners": 1, "kind": "sandwich", "axes": (2, 2, 4), "towards": "data"},
], ids=["flux", "sd3", "lumina"])  # fmt: skip
def test_one_graph_serves_all_sizes(options: dict[str, Any]):
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    net, g = MMDiT(channels=4, width=16, heads=2, tokens=6, **options).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3, generator=g)
        compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
        for batch, height, width, text in ((2, 8, 12, 7), (3, 4, 10, 5), (2, 12, 6, 9)):
            cond = {"tokens": torch.randn(batch, text, 6, generator=g), "pooled": torch.randn(batch, 5, generator=g)}
            cond |= {"guidance": 5 * torch.rand(batch, generator=g)}
            cond = {name: cond[name] for name in net.names}
            cond["tokens_mask"] = torch.arange(text) < torch.arange(batch)[:, None] + 3
            z, level = torch.randn(batch, 4, height, width, generator=g), 1000 * torch.rand(batch, generator=g)
            assert torch.allclose(compiled(z, level, cond), net(z, level, cond), rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1
