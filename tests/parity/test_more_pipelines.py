"""Pipelines that the recorded set does not hold, beside the peer's own in one process: the same noise, the same picture."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin as lv
from langevin.guidance import CFG
from langevin.zoo.adapting import add_redux
from tests.parity.goldens import Goldens

pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = 2e-4


def _tokenizer() -> Any:
    """Letters, behind a token that begins a text, padded on the right: what matters of Gemma's."""
    import tokenizers
    import transformers

    alphabet = ["<pad>", "<bos>", "<unk>", *map(chr, range(32, 127))]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.post_processor = tokenizers.processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=1024,
    )


def _gemma(width: int) -> Any:
    import transformers

    torch.manual_seed(3)
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=98, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=4, max_position_embeddings=2048, sliding_window=1024,
        )
    ).eval()  # fmt: skip


def _stirred(net: Any, scale: float = 0.1) -> Any:
    """With weights that leave nothing at zero."""
    g = torch.Generator().manual_seed(7)
    for p in net.parameters():
        p.data.add_(torch.randn(p.shape, generator=g) * scale)
    return net.eval()


def _close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and float(theirs.std()) > 1e-3
    assert float(((ours + 1) / 2 - theirs).abs().max()) < CLOSE


@pytest.mark.parametrize("negative", [None, "blurred"])
def test_sana(goldens: Goldens, tmp_path: Path, negative: str | None) -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderDC.from_pretrained(goldens.case("sana", "dc_ae").dir / "vae").eval()
    config = json.loads((goldens.case("sana", "sana").dir / "transformer" / "config.json").read_text())
    channels = vae.config.latent_channels
    net = _stirred(diffusers.SanaTransformer2DModel.from_config({**config, "in_channels": channels, "out_channels": channels}))
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++", solver_order=2
    )
    pipe = diffusers.SanaPipeline(_tokenizer(), _gemma(config["caption_channels"]), vae, net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    model = lv.load(tmp_path, reference=True)
    factor = model.codec.factor
    side = 32
    assert model.defaults.size == (config["sample_size"] * factor,) * 2
    latents = torch.randn(1, channels, side // factor, side // factor, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = pipe(
            "A Red cat ", negative_prompt=negative or "", height=side, width=side, num_inference_steps=4, guidance_scale=3.0,
            latents=latents, output_type="pt", use_resolution_binning=False,
        ).images  # fmt: skip
    ours = model.run("A Red cat ", negative=negative, size=(side, side), steps=4, guidance=3.0, start=latents)
    _close(ours.tensor, theirs)


def test_lumina_2(goldens: Goldens, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL.from_pretrained(goldens.case("vae", "flux").dir / "vae").eval()
    config = json.loads((goldens.case("lumina", "lumina2").dir / "transformer" / "config.json").read_text())
    channels = vae.config.latent_channels
    made = {**config, "in_channels": channels, "out_channels": channels, "axes_lens": [512, 64, 64]}
    net = _stirred(diffusers.Lumina2Transformer2DModel.from_config(made))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    pipe = diffusers.Lumina2Pipeline(net, scheduler, vae, _gemma(config["cap_feat_dim"]), _tokenizer())
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    model = lv.load(tmp_path, reference=True)
    side = 8 * model.codec.factor
    latents = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = pipe(
            "a red cat", negative_prompt="blurred", height=side, width=side, num_inference_steps=3, guidance_scale=3.0,
            latents=latents, output_type="pt",
        ).images  # fmt: skip
    ours = model.run("a red cat", negative="blurred", size=(side, side), steps=3, guidance=3.0, start=latents)
    _close(ours.tensor, theirs)
    # the authors shorten a guided output that is longer than the conditional's, and leave others
    assert lv.load(tmp_path).defaults.norm == "sample"


def _flux(goldens: Goldens, tmp_path: Path, more: Any, pipeline: str) -> tuple[Any, Any]:
    import diffusers

    folder = goldens.case("flux", "dev_pipeline").dir / "pipeline"
    parts = diffusers.FluxPipeline.from_pretrained(str(folder))
    config = dict(parts.transformer.config)
    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    extra = 4 * more(config["in_channels"] // 4, factor)
    net = diffusers.FluxTransformer2DModel.from_config(
        {**config, "in_channels": config["in_channels"] + extra, "out_channels": config["in_channels"]}
    )
    held = {k: v for k, v in parts.components.items() if k not in ("image_encoder", "feature_extractor")}
    pipe = getattr(diffusers, pipeline)(**{**held, "transformer": _stirred(net)})
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    return pipe, lv.load(tmp_path, reference=True)


def _packed(z: Tensor) -> Tensor:
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), c * 4)


def _drawn(model: Any, side: int, names: list[str]) -> tuple[Tensor, Any]:
    """The first noise; and a codec whose draws are fixed, as the peer's are told to be."""
    factor, channels = model.codec.factor, model.codec.channels
    latents = torch.randn(1, channels, side // factor, side // factor, generator=torch.Generator().manual_seed(2))
    inner = model.codec

    class Mean:
        factor, channels, decode = inner.factor, inner.channels, staticmethod(inner.decode)
        encode = staticmethod(lambda x, noise=None: inner.encode(x))

    return latents, model.but(codec=Mean())


class _Mode:
    """The peer's encoder without its draw."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def __enter__(self) -> None:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as D

        self.kept, D.sample = D.sample, lambda self, generator=None: self.mode()

    def __exit__(self, *args: Any) -> None:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as D

        D.sample = self.kept


def test_flux_fill(goldens: Goldens, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pipe, model = _flux(goldens, tmp_path, lambda c, f: c + f * f, "FluxFillPipeline")
    side = 8 * model.codec.factor
    latents, model = _drawn(model, side, [])
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4)) * 2 - 1
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2, 3:] = 1.0
    with torch.no_grad(), _Mode(pipe.vae):
        theirs = pipe(
            prompt="a red cat", image=image, mask_image=mask, height=side, width=side, num_inference_steps=2, guidance_scale=4.0,
            latents=_packed(latents), output_type="pt",
        ).images  # fmt: skip
    ours = model.run("a red cat", image=image, mask=mask[0], size=(side, side), steps=2, guidance=4.0, start=latents, paste=False)
    _close(ours.tensor, theirs)
    with pytest.raises(ValueError, match="paints what a mask marks"):
        model.run("a red cat", steps=1)


def test_flux_depth_and_canny(goldens: Goldens, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pipe, model = _flux(goldens, tmp_path, lambda c, f: c, "FluxControlPipeline")
    side = 8 * model.codec.factor
    latents, model = _drawn(model, side, [])
    hint = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), _Mode(pipe.vae):
        theirs = pipe(
            prompt="a red cat", control_image=hint * 2 - 1, height=side, width=side, num_inference_steps=2, guidance_scale=4.0,
            latents=_packed(latents), output_type="pt",
        ).images  # fmt: skip
    ours = model.run("a red cat", control=hint * 2 - 1, size=(side, side), steps=2, guidance=4.0, start=latents)
    _close(ours.tensor, theirs)
    with pytest.raises(ValueError, match="give one picture, control="):
        model.run("a red cat", steps=1)


def test_lengths_of_guided_outputs() -> None:
    """The output under `norm` is what its definition says, computed from the outputs of both halves."""
    torch.manual_seed(0)
    net = lv.networks.UNet(channels=2, width=8, multipliers=(1, 2), blocks=1, head_width=8, classes=3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    process = lv.Gaussian(lv.schedules.flow())
    denoiser = lv.Denoiser(net, process, "velocity", (2, 8, 8)).eval()
    z, t = torch.randn(3, 2, 8, 8), 0.6
    cond = {"label": torch.tensor([0, 1, 2])}
    prediction = denoiser.predictions[""]

    def output(guidance: Any) -> Tensor:
        with torch.no_grad():
            mean = (guidance(denoiser) if guidance else denoiser)(z, t, cond).mean
        return prediction.output(process, mean, z, torch.full((3, 1, 1, 1), t, dtype=torch.float64))

    plain, guided = output(None), output(CFG(4.0))
    rows = guided * plain.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(output(CFG(4.0, norm="rows")), rows, rtol=1e-4, atol=1e-5)
    shorter = output(CFG(4.0, norm="sample"))
    limit = plain.flatten(1).norm(dim=1)
    torch.testing.assert_close(shorter.flatten(1).norm(dim=1), torch.minimum(limit, guided.flatten(1).norm(dim=1)))
    torch.testing.assert_close(
        shorter / shorter.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1), guided / guided.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    )
    with pytest.raises(ValueError, match="norm is 'columns'"):
        CFG(2.0, norm="columns")


@pytest.mark.parametrize("prompt", ["", "a red cat"])
def test_flux_redux(goldens: Goldens, tmp_path: Path, prompt: str) -> None:
    """The peer's two pipelines, one after the other, and ours."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    folder = goldens.case("flux", "dev_pipeline").dir / "pipeline"
    pipe = diffusers.FluxPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    width = pipe.transformer.config.joint_attention_dim
    torch.manual_seed(5)
    eye = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
        )
    ).eval()
    seer = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    text = {} if not prompt else {n: getattr(pipe, n) for n in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    prior = diffusers.FluxPriorReduxPipeline(eye, seer, ReduxImageEncoder(16, width).eval(), **text)
    prior.save_pretrained(tmp_path)
    picture = Image.fromarray(
        torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    )
    model = add_redux(lv.load(folder, reference=True), tmp_path)
    side = 8 * model.codec.factor
    latents = torch.randn(1, model.codec.channels, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        # without text encoders the peer makes its zeros 4096 and 768 wide, whatever the model
        made = prior(picture, prompt=prompt) if prompt else prior.encode_image(picture, "cpu", 1)
        if prompt:
            said = {"prompt_embeds": made.prompt_embeds, "pooled_prompt_embeds": made.pooled_prompt_embeds}
        else:
            tokens = prior.image_embedder(made).image_embeds
            pooled = torch.zeros(1, pipe.transformer.config.pooled_projection_dim)
            said = {"prompt_embeds": torch.cat([torch.zeros(1, 512, width), tokens], 1), "pooled_prompt_embeds": pooled}
        theirs = pipe(
            **said, height=side, width=side, num_inference_steps=2, guidance_scale=2.5, latents=_packed(latents), output_type="pt"
        ).images
    ours = model.run(prompt, like=picture, size=(side, side), steps=2, guidance=2.5, start=latents)
    _close(ours.tensor, theirs)
    assert not torch.equal(ours.tensor, model.run(prompt, size=(side, side), steps=2, guidance=2.5, start=latents).tensor)
    with pytest.raises(ValueError, match="has no image_encoder"):
        add_redux(model, folder)
