"""Image transformers of one stream beside the peer's: DiT, PixArt-alpha and -Sigma, Sana."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin.networks import DiT
from langevin.zoo.families import dit, pixart, sana
from langevin.zoo.family import Component
from tests.parity import test_mmdit as mmdit
from tests.parity.goldens import Goldens

PARTS: dict[str, Component] = {"dit": dit.COMPONENTS[0], "pixart": pixart.COMPONENTS[0], "sana": sana.COMPONENTS[0]}
DIFFUSERS = Component("DiTTransformer2DModel", partial(dit.build, reference="diffusers"), dit.keys, dit.config)
CASES = [("dit", "transformer"), ("pixart", "alpha"), ("pixart", "sigma"), ("sana", "sana"), ("sana", "sprint_like")]
PIPELINES = [("dit", "pipeline"), ("pixart", "alpha_pipeline"), ("pixart", "sigma_pipeline")]


def told(net: DiT, given: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The peer's arguments as ours."""
    z, cond = given["hidden_states"], {}
    if (label := given.get("class_labels")) is not None:
        classes = getattr(net.joint.conditions, "classes", 0)  # the last row of the peer's table is the null
        cond = {"label": label.clamp(max=classes - 1), "drop": label == classes}
    if (tokens := given.get("encoder_hidden_states")) is not None:
        cond["tokens"] = tokens
    if (mask := given.get("encoder_attention_mask")) is not None:
        cond["tokens_mask"] = mask.bool()
    if (added := given.get("added_cond_kwargs") or {}).get("resolution") is not None:
        cond |= {"size": added["resolution"], "aspect": added["aspect_ratio"]}
    if (guidance := given.get("guidance")) is not None:
        cond["guidance"] = guidance / getattr(net.joint.conditions, "scale", 1.0)
    return z, given["timestep"].expand(len(z)).float(), cond


def part(family: str, call: str = "") -> Component:
    return DIFFUSERS if family == "dit" and call != "original_frequencies" else PARTS[family]


@pytest.mark.parametrize("family, name", CASES)
def test_every_call_is_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    for call in case.entry["calls"]:
        net = case.network("transformer", part(family, call))
        assert isinstance(net, DiT)
        with torch.no_grad():
            case.agrees(call, "sample", net(*told(net, case.arguments(call))))
        case.goes_back("transformer", part(family, call), net)
    learned = case.network("transformer", PARTS[family])
    assert isinstance(learned, DiT)
    fused = learned(*told(learned, case.arguments(list(case.entry["calls"])[-1])))  # with gradients, as in training
    case.agrees(list(case.entry["calls"])[-1], "sample", fused.detach())


def test_a_dit_is_the_authors_unless_asked_for_the_peers(goldens: Goldens):
    case = goldens.case("dit", "transformer")
    original, peers = (case.network("transformer", p) for p in (PARTS["dit"], DIFFUSERS))
    assert isinstance(original, DiT)
    given = told(original, case.arguments("forward"))
    with torch.no_grad():
        assert float((original(*given) - peers(*given)).abs().max()) > 1e-3 * float(peers(*given).abs().max())
    with pytest.raises(ValueError, match="'original' or of 'diffusers'"):
        dit.build({}, reference="meta")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family, name", PIPELINES)
def test_pipelines_first_calls_are_the_peers(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("pipeline/transformer", part(family))
    assert isinstance(net, DiT)
    given, theirs = case.first_call()
    with torch.no_grad():
        ours = net(*told(net, given))
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())
    case.goes_back("pipeline/transformer", part(family), net)


@pytest.mark.parametrize("family, name", CASES)
def test_what_is_published_builds_the_same_network(goldens: Goldens, family: str, name: str):
    case, piece = goldens.case(family, name), PARTS[family]
    net = case.network("transformer", piece)
    assert isinstance(net, DiT) and piece.config is not None
    again = piece.build(json.loads(json.dumps(piece.config(net))))
    again.load_state_dict(net.state_dict())
    given = told(net, case.arguments("forward"))
    with torch.no_grad():
        assert torch.equal(again(*given), net(*given))


@pytest.mark.parametrize("family, name", CASES)
def test_hidden_text_is_as_if_it_were_not_there(goldens: Goldens, family: str, name: str):
    if family == "dit":
        pytest.skip("reads no text")
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    assert isinstance(net, DiT)
    z, level, cond = told(net, case.arguments("forward"))
    cond.pop("tokens_mask", None)
    tokens = cond.pop("tokens")
    padding = 30 * torch.randn(len(tokens), 3, tokens.shape[2], generator=torch.Generator().manual_seed(1))
    mask = torch.ones(len(tokens), tokens.shape[1] + 3, dtype=torch.bool)
    mask[:, -3:] = False
    with torch.no_grad():
        plain = net(z, level, {**cond, "tokens": tokens})
        hidden = net(z, level, {**cond, "tokens": torch.cat([tokens, padding], 1), "tokens_mask": mask})
    assert float((hidden - plain).abs().max()) <= 1e-5 * float(plain.abs().max())


EVERY = [
    *((PARTS, lambda family, net, given: told(net, given), *case) for case in CASES),
    *((mmdit.PARTS, lambda family, net, given: mmdit.told(family, given), *case) for case in mmdit.CASES),
]


@pytest.mark.parametrize("parts, told_as, family, name", EVERY, ids=["-".join(row[2:]) for row in EVERY])
def test_each_patch_may_have_its_level(goldens: Goldens, parts: Any, told_as: Any, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", parts[family])
    z, level, cond = told_as(family, net, case.arguments("forward"))
    spread = level[:, None, None, None].expand(-1, 1, *z.shape[2:])
    with torch.no_grad():
        one, each = net(z, level, cond), net(z, spread, cond)
        assert float((one - each).abs().max()) <= 2e-5 * float(one.abs().max())
        assert torch.equal(net(z, level[:, None, None, None], cond), one)
        other = spread.clone()
        other[..., :2, :2] = 3.0
        changed = (net(z, other, cond) - each).abs()
    assert float(changed[..., :2, :2].max()) > 1e-2 * float(one.abs().max())


@pytest.mark.parametrize("family, name", CASES)
def test_all_that_is_learned_has_a_gradient(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    assert isinstance(net, DiT)
    given = told(net, case.arguments("forward"))
    with torch.inference_mode():
        before = net(*given)
    out = net(*given)  # tables kept from inference serve training
    assert torch.allclose(out, before, rtol=1e-4, atol=1e-5)
    out.square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("family, name", CASES)
def test_a_compiler_finds_one_graph_and_half_precision_the_same_picture(goldens: Goldens, family: str, name: str):
    case = goldens.case(family, name)
    net = case.network("transformer", PARTS[family])
    assert isinstance(net, DiT)
    given = told(net, case.arguments("forward"))
    with torch.no_grad():
        whole = net(*given)
        compiled = torch.compile(net, backend="eager", fullgraph=True)(*given)
        z, level, cond = given
        half = net.bfloat16()(z.bfloat16(), level, cond)  # conditions as they come
    assert float((compiled - whole).abs().max()) <= 1e-5 * float(whole.abs().max())
    assert half.dtype == torch.bfloat16
    assert float((half - whole).square().mean().sqrt()) <= 0.05 * float(whole.square().mean().sqrt())


def broken(family: str, config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        PARTS[family].build({**config, **changes})
    return str(caught.value)


def test_what_no_network_here_computes_is_refused_by_name(goldens: Goldens):
    config = goldens.case("dit", "transformer").config("transformer")
    assert "norm_type is 'ada_norm'" in broken("dit", config, norm_type="ada_norm")
    assert "num_embeds_ada_norm is None" in broken("dit", config, num_embeds_ada_norm=None)
    assert "did it mean 'num_layers'" in broken("dit", config, number_layers=2)
    config = goldens.case("pixart", "alpha").config("transformer")
    assert "cross_attention_dim is 7" in broken("pixart", config, cross_attention_dim=7)
    assert "caption_channels is None" in broken("pixart", config, caption_channels=None)
    assert "attention_type is 'gated'" in broken("pixart", config, attention_type="gated")
    config = goldens.case("sana", "sana").config("transformer")
    assert "qk_norm is 'layer_norm'" in broken("sana", config, qk_norm="layer_norm")
    assert "cross_attention_head_dim is 14" in broken("sana", config, cross_attention_head_dim=7, num_cross_attention_heads=2)


def test_inputs_that_do_not_fit_are_refused(goldens: Goldens):
    case = goldens.case("pixart", "alpha")
    net = case.network("transformer", PARTS["pixart"])
    assert isinstance(net, DiT)
    z, level, cond = told(net, case.arguments("forward"))
    for change, said in (
        ({"z": torch.zeros(2, 4, 7, 12)}, "7 x 12 for patches of 2"),
        ({"tokens": None}, "'tokens', which is missing"),
        ({"tokens": torch.zeros(2, 5, 3)}, "tokens have 3 features"),
        ({"labels": torch.zeros(2)}, "no condition 'labels'"),
    ):
        given = {name: value for name, value in {**cond, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=said):
            net(given.pop("z", z), level, given)


def test_what_differs_from_the_published_layout_is_not_published():
    with pytest.raises(ValueError, match="differs in kinds and places"):
        dit.config(DiT(4, 8, 2, 16, 1, 2, classes=3))
