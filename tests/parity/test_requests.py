"""Requests to loaded models: what they read, classes, pictures in batches, defaults, hints, and records that draw again."""

import pytest
import torch

import langevin as lv
from langevin.text.conditioning import Request
from tests.parity.goldens import Goldens


def test_flux_reads_weights_and_its_pooled_state_does_not_see_them(goldens: Goldens) -> None:
    read = lv.load(goldens.case("flux", "dev_pipeline").dir / "pipeline").conditioner
    plain, _ = read(Request(["a red cat"], length=16))
    ones, _ = read(Request(["(a red cat:1.0)"], length=16, weighted=True))
    assert all(torch.equal(plain[name], ones[name]) for name in ("tokens", "pooled"))
    weighed, _ = read(Request(["a (red:1.5) cat"], length=16, weighted=True))
    assert torch.equal(weighed["pooled"], plain["pooled"])
    assert not torch.allclose(weighed["tokens"], plain["tokens"], atol=1e-3)
    literal, _ = read(Request(["a (red:1.5) cat"], length=16))
    assert not torch.allclose(literal["pooled"], plain["pooled"], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "name", "asked"),
    [
        ("sd1", "txt2img_pndm", {"length": 7}),
        ("flux", "dev_pipeline", {"long": True}),
        ("flux", "dev_pipeline", {"clip_skip": 2}),
        ("pixart", "alpha_pipeline", {"long": True}),
        ("pixart", "alpha_pipeline", {"clip_skip": 2}),
        ("sd3", "sd3_pipeline", {"long": True}),
    ],
)
def test_what_a_published_family_does_not_read_is_refused(goldens: Goldens, family: str, name: str, asked: dict) -> None:
    model = lv.load(goldens.case(family, name).dir / "pipeline")
    with pytest.raises(ValueError, match=rf"{min(asked)} is .*, which this model does not read; the nearest that it reads is"):
        model.run("a cat", **asked)
