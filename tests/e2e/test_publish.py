"""What is trained here is used elsewhere: a run in diffusers' layout gives the same picture there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.networks.autoencoder import Scale
from langevin.networks.latents import LatentCodec
from langevin.recipes import config as c
from langevin.recipes.build import build
from langevin.recipes.facts import Facts
from langevin.recipes.opening import open_run

FLAGS = [
    "--data.size", "16", "--data.held-out", "0.2", "--network.width", "16", "--network.head-width", "8", "--text.width", "16",
    "--text.vocabulary", "540", "--train.steps", "2", "--train.batch", "4", "--train.precision", "float32", "--samples", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    rows = []
    for k in range(40):
        noise = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
        rows.append(json.dumps({"file": f"{k}.png", "text": f"a {['red', 'blue'][k % 2]} square number {k}"}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "emoji"
    main(["train", "emoji", "--codec.origin", "None", "--data.folder", str(folder), *FLAGS, "--out", str(out)])
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


def _stirred(ours):
    with torch.no_grad():  # two updates from zero leave nothing to compare
        for p in ours.denoiser.parameters():
            p.add_(0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p))
    return ours


def _close(ours, theirs):
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_what_is_published_is_loaded_and_draws_what_the_run_does(run, tmp_path):
    from langevin.plans.profiles import diffusers as profile
    from langevin.recipes.publishing import publish

    ours = _stirred(open_run(run))
    model = lv.load(publish(ours, tmp_path / "published"))
    texts = ["a red square", "a blue square"]
    start = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = profile(5, "ddim", "leading", offset=1)
    cond = {"ids": ours.facts.vocabulary.ids(texts)}
    theirs = lv.sample(ours.denoiser, plan, 2, start=start, cond=cond, guidance=lv.CFG(3.0))
    assert model.defaults.size == (16, 16)
    _close(model.run(texts, steps=5, guidance=3.0, start=start).latents, theirs)
    # and it is saved again as any model
    again = lv.load(lv.save(model, tmp_path / "again"))
    assert torch.equal(again.run(texts, steps=1).tensor, model.run(texts, steps=1).tensor)


@pytest.mark.parametrize("channels", [False, True])
def test_a_run_of_latents_is_a_pipeline_of_diffusers_that_draws_the_same_picture(folder, tmp_path, channels):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    coder, out, data = tmp_path / "coder", tmp_path / "run", ["--data.folder", str(folder)]
    main(["train", "emoji-autoencoder", *FLAGS[:4], "--network.width", "8", *FLAGS[12:], *data, "--out", str(coder)])
    main(["train", "emoji", "--codec.origin", str(coder), *FLAGS, *data, "--out", str(out)])
    ours = _stirred(open_run(out))
    codec = ours.codec
    assert codec is not None and codec.scale.shift
    if channels:
        codec.scale = Scale(1.3, mean=(0.1, -0.2, 0.3, 0.0), std=(0.5, 2.0, 1.0, 0.7))
    from langevin.plans.profiles import diffusers as profile
    from langevin.recipes.publishing import publish

    published = publish(ours, tmp_path / "published")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(published))
    texts, start = ["a red square", "a blue square"], torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = theirs(texts, num_inference_steps=5, guidance_scale=3.0, latents=start, output_type="pt").images
    cond = {"ids": ours.facts.vocabulary.ids(texts)}
    plan = profile(5, "ddim", "leading", offset=1)
    mine = codec.decode(lv.sample(ours.denoiser, plan, 2, start=start, cond=cond, guidance=lv.CFG(3.0)))
    assert float((mine - (2 * drawn - 1)).clamp(-1, 1)[mine.abs() < 1].abs().max()) < 1e-4
    assert float((drawn[0] - drawn[1]).abs().max()) > 1e-2 and float(mine.abs().min()) < 1
    # here as well, and the encoder's latents are those that the run learned
    model = lv.load(published)
    assert model.defaults.size == (16, 16)
    assert float((model.run(texts, steps=5, guidance=3.0, start=start).tensor - (2 * drawn - 1)).abs().max()) < 1e-4
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    read = LatentCodec(ours.codec.net, codec.scale).encode(x)
    with torch.no_grad():
        told = theirs.vae.encode(x).latent_dist.mean * theirs.vae.config.scaling_factor
        spread = theirs.vae.encode(x).latent_dist.std * theirs.vae.config.scaling_factor
        noise = torch.ones_like(read)
    assert float((read - told).abs().max()) < 1e-4
    assert float((codec.encode(x, noise) - told - spread).abs().max()) < 1e-4


def _digits(process, network):
    """A run of digits that is not trained."""
    changed = {"process": c.GaussianConfig(**process), "network": c.UNetConfig(width=16, head_width=8, **network)}
    return build(lv.recipe("digits").model_copy(update=changed), Facts(shape=(1, 8, 8), classes=10))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_network_of_classes_is_published_with_its_null(tmp_path, prediction):
    from langevin.plans.profiles import diffusers as profile
    from langevin.recipes.publishing import publish

    ours = _stirred(_digits({"schedule": "betas:kind=linear", "prediction": f"{prediction}:level=index"}, {"style": "ddpm"}))
    ours.denoiser.eval()
    folder = publish(ours, tmp_path / "published")
    model = lv.load(folder)
    assert model.defaults.classes == 10 and model.defaults.size == (8, 8)
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plan, labels = profile(5, "ddim", "leading", offset=1), [3, 7]
    for w in (1.0, 2.5):
        guided = None if w == 1 else lv.CFG(w)
        theirs = lv.sample(ours.denoiser, plan, 2, start=start, cond={"label": torch.tensor(labels)}, guidance=guided)
        _close(model.run(label=labels, steps=5, guidance=w, start=start).latents, theirs)
    net = lv.load(lv.save(ours.denoiser.net, tmp_path / "unet"))  # a network alone keeps its null as well
    state = net.state_dict()
    assert net.conditions.learned_null and all(torch.equal(v, state[n]) for n, v in ours.denoiser.net.state_dict().items())

    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel.from_pretrained(str(folder / "unet")).eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(str(folder / "scheduler"))
    scheduler.set_timesteps(5)
    x = start.clone()
    with torch.no_grad():
        for t in scheduler.timesteps:
            none, told = (unet(x, t, class_labels=torch.tensor(said)).sample for said in ([10, 10], labels))
            x = scheduler.step(none + 2.5 * (told - none), t, x).prev_sample
    assert float((theirs - x).abs().max()) < 1e-4 * float(x.abs().max())


def test_what_could_be_published_is_told(tmp_path):
    from langevin.recipes.publishing import publish

    table = {"schedule": "betas:kind=linear", "prediction": "eps:level=index"}
    for process, network, said in (
        (table, {}, "several numbers of groups.*train one with --network.style ddpm"),
        ({"schedule": "cosine", "prediction": "v"}, {"style": "ddpm"}, "stands on a table of betas"),
    ):
        with pytest.raises(ValueError, match=said):
            publish(_digits(process, network), tmp_path / "published")
        assert not (tmp_path / "published").exists()


def test_only_what_has_a_layout_is_published(run, tmp_path, capsys):
    main(["publish", str(run), "--out", str(tmp_path / "one")])
    with pytest.raises(SystemExit):
        main(["publish", str(run), "--out", str(tmp_path / "one")])
    assert "holds something already" in capsys.readouterr().err
