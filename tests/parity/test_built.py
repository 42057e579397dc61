"""Pipelines that the peer has no recording of: tiny ones with random weights, made, saved and run here beside ours."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin as lv
from langevin.zoo import schedulers
from langevin.zoo.hub import read_object
from tests.parity.goldens import Goldens

TOLERANCE = 1e-4


@contextmanager
def drawn(peer: Any, seed: int = 0) -> Iterator[list[Tensor]]:
    """The noise that the peer's pipeline and scheduler draw, in order; ours may be fed with it."""
    modules = [inspect.getmodule(type(peer)), inspect.getmodule(type(peer.scheduler))]
    made: list[Tensor] = []
    g = torch.Generator().manual_seed(seed)

    def fresh(shape: Any, **options: Any) -> Tensor:
        made.append(torch.randn(shape, generator=g, dtype=options.get("dtype")))
        return made[-1]

    held = [(m, m.randn_tensor) for m in modules if hasattr(m, "randn_tensor")]
    for module, _ in held:
        module.randn_tensor = fresh
    try:
        yield made
    finally:
        for module, own in held:
            module.randn_tensor = own


def away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


@pytest.mark.parametrize("clip", [True, False])
def test_a_variance_that_is_learned_is_sampled_with(tmp_path: Path, clip: bool):
    peer = pytest.importorskip("diffusers", reason="the peer is not installed")
    torch.manual_seed(0)
    unet = peer.UNet2DModel(
        sample_size=16, out_channels=6, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    theirs = peer.DDPMPipeline(unet, peer.DDPMScheduler(variance_type="learned_range", clip_sample=clip))
    theirs.save_pretrained(tmp_path / "ddpm")
    theirs.set_progress_bar_config(disable=True)
    with drawn(theirs) as noise:
        expected = theirs(batch_size=2, num_inference_steps=7, output_type="np").images
    model = lv.load(tmp_path / "ddpm")
    fed = list(noise)
    start = fed.pop(0)
    model.denoiser.process.noise = lambda like, source, mask=None: fed.pop(0).to(like)
    ours = model.run(count=2, steps=7, start=start)
    assert not fed
    assert away((ours.tensor + 1) / 2, torch.from_numpy(expected).permute(0, 3, 1, 2)) <= TOLERANCE
    # and it matters: with the bridge's own the picture is another
    fed.extend(noise[1:])
    other = model.run(count=2, start=start, plan=schedulers.without_variance(_scheduler(tmp_path / "ddpm")).plan(7))
    assert away(other.tensor, ours.tensor) > 1e-2


def _scheduler(folder: Path) -> schedulers.Scheduler:
    return schedulers.read(read_object(folder / "scheduler" / "scheduler_config.json"))


def test_a_variance_of_another_kind_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match="variance_type 'learned'; there are"):
        schedulers.read({"_class_name": "DDPMScheduler", "variance_type": "learned"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_half_precision_would_spoil_stays_wide(goldens: Goldens, dtype: torch.dtype):
    """Of T5 the layer that leaves float16's range, of NCSN++ the frequencies, of an autoencoder that says so, everything."""
    t5 = lv.load(goldens.case("sd3", "sd3_pipeline").dir / "pipeline" / "text_encoder_3", dtype=dtype)
    wide = {n for n, p in t5.named_parameters() if p.dtype == torch.float32}
    assert wide == {n for n, _ in t5.named_parameters() if n.endswith("shrink.weight")} and wide
    score = goldens.case("ncsnpp", "ve_small").dir / "unet"
    whole, half = lv.load(score), lv.load(score, dtype=dtype)
    assert torch.equal(half.level.waves.frequencies, whole.level.waves.frequencies)
    assert {p.dtype for p in half.parameters()} == {dtype}
    level = torch.tensor([3.0, 700.0])
    expected = whole.level.waves(level)
    assert torch.equal(half.level.waves(level), expected)
    half.level.waves.frequencies.copy_(half.level.waves.frequencies.to(dtype))
    assert float((half.level.waves(level) - expected).abs().max()) > 0.005
    vae = goldens.case("sdxl", "txt2img").dir / "pipeline" / "vae"
    loaded, exact = lv.load(vae, dtype=dtype), lv.load(vae)
    assert exact.scale.upcast
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, exact.state_dict()[name].to(torch.float32 if dtype == torch.float16 else dtype)), name
