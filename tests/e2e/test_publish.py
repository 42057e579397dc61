"""What is trained here is used elsewhere: a run in diffusers' layout gives the same picture there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.recipes.build import open_run

FLAGS = [
    "--data.size", "16", "--data.held-out", "0.2", "--network.width", "16", "--network.head-width", "8", "--text.width", "16",
    "--text.vocabulary", "540", "--train.steps", "2", "--train.batch", "4", "--train.precision", "float32", "--samples", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    rows = []
    for k in range(40):
        noise = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
        rows.append(json.dumps({"file": f"{k}.png", "text": f"a {['red', 'blue'][k % 2]} square number {k}"}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    out = tmp_path_factory.mktemp("runs") / "emoji"
    main(["train", "emoji", "--data.folder", str(folder), *FLAGS, "--out", str(out)])
    return out


def test_diffusers_draws_the_same_picture(run, tmp_path):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    ours = open_run(run)
    with torch.no_grad():  # two updates from zero leave nothing to compare
        for p in ours.denoiser.parameters():
            p.add_(0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p))
    from langevin.recipes.publishing import publish

    folder = publish(ours, tmp_path / "published")
    texts, steps, w = ["a red square", "a blue square"], 5, 3.0
    words = ours.facts.vocabulary
    g = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 16, 16, generator=g)
    plan = lv.plans.parse(f"ddim:{steps}")
    from langevin.plans.profiles import diffusers as profile

    plan = profile(steps, "ddim", "leading", offset=1)
    mine = lv.sample(ours.denoiser, plan, 2, start=start, cond={"ids": words.ids(texts)}, guidance=lv.CFG(w))

    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    encoder = transformers.CLIPTextModel.from_pretrained(str(folder / "text_encoder"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(str(folder / "unet"))
    scheduler = diffusers.DDIMScheduler.from_pretrained(str(folder / "scheduler"))
    scheduler.set_timesteps(steps)
    x = start.clone()
    with torch.no_grad():
        ids = tokenizer(["", "", *texts], padding="max_length", return_tensors="pt").input_ids
        states = encoder(ids).last_hidden_state
        for t in scheduler.timesteps:
            null, told = unet(torch.cat([x, x]), t, encoder_hidden_states=states).sample.chunk(2)
            x = scheduler.step(null + w * (told - null), t, x).prev_sample
    assert float((mine - x).abs().max()) < 1e-4 * float(x.abs().max())
    assert float((mine[0] - mine[1]).abs().max()) > 1e-2  # captions matter


def test_only_what_has_a_layout_is_published(run, tmp_path, capsys):
    main(["publish", str(run), "--out", str(tmp_path / "one")])
    with pytest.raises(SystemExit):
        main(["publish", str(run), "--out", str(tmp_path / "one")])
    assert "holds something already" in capsys.readouterr().err
