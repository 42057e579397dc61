"""Autoencoders, and models of their latents."""

from collections.abc import Callable

from langevin.config import TrainConfig
from langevin.recipes.config import (
    AutoencoderConfig,
    CodecConfig,
    DiTConfig,
    GaussianConfig,
    ImagesData,
    Recipe,
    SampleConfig,
    TextConfig,
    UNetConfig,
    UntouchedConfig,
)
from langevin.recipes.objectives import AutoencodingConfig, DenoisingConfig
from langevin.recipes.ready.pictures import digits, mnist
from langevin.recipes.ready.variant import but


def digits_autoencoder() -> Recipe:
    """The digits in a quarter of their numbers."""
    return but(
        digits(),
        name="digits-autoencoder",
        about="an autoencoder of the 8x8 digits, to 2x2 latents of 4 channels: what digits-latent stands on",
        expects="not trained to its end yet; after 800 updates PSNR 19.3 dB and SSIM 0.65 on held-out digits",
        process=UntouchedConfig(),
        network=AutoencoderConfig(width=32, multipliers=(1, 2, 2)),
        objective=AutoencodingConfig(distance="absolute", kl=1e-6),
        train=TrainConfig(steps=2000, batch=64, lr=2e-3),
    )


def digits_latent() -> Recipe:
    """The digits by way of latents."""
    return but(
        digits(),
        name="digits-latent",
        about="the digits by latent diffusion: 2x2 latents of 4 channels, of the run of digits-autoencoder",
        expects="not trained to its end yet; after 900 updates (EMA 0.99), on an autoencoder of 800, intended label 75 % of 300 "
        "at w = 1 and 89 % at w = 1.5, FD 0.96 of the floor of all training data at w = 1",
        codec=CodecConfig(origin="runs/digits-autoencoder", dtype="float32"),
        network=DiTConfig(patch=1, width=128, depth=6, heads=4),
        objective=DenoisingConfig(weight="simple"),
        train=TrainConfig(steps=3000, batch=64, lr=1e-3),
    )


def mnist_autoencoder() -> Recipe:
    """MNIST in a quarter of its numbers."""
    return but(
        mnist(),
        name="mnist-autoencoder",
        about="an autoencoder of 28x28 MNIST, to 7x7 latents of 4 channels: what mnist-latent stands on",
        expects="not trained to its end yet",
        process=UntouchedConfig(),
        network=AutoencoderConfig(width=24, multipliers=(1, 2, 2)),
        objective=AutoencodingConfig(distance="absolute", kl=1e-6),
        train=TrainConfig(steps=2000, batch=32, lr=1e-3),
    )


def mnist_latent() -> Recipe:
    """MNIST by way of latents."""
    return but(
        mnist(),
        name="mnist-latent",
        about="MNIST by latent diffusion: 7x7 latents of 4 channels, of the run of mnist-autoencoder",
        expects="not trained to its end yet",
        codec=CodecConfig(origin="runs/mnist-autoencoder"),
        process=GaussianConfig(schedule="cosine", prediction="v"),
        network=UNetConfig(width=64, multipliers=(1,), blocks=2, attention=(0,), dropout=0.05),
        objective=DenoisingConfig(weight="simple"),
        train=TrainConfig(steps=6000, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="dpmpp:20"),
    )


def emoji_autoencoder() -> Recipe:
    """Emoji in a third of their numbers."""
    return Recipe(
        name="emoji-autoencoder",
        about="an autoencoder of 32x32 emoji (langevin data emoji), to 16x16 latents of 4 channels: what emoji stands on",
        expects="SSIM 0.95 on held-out emoji; 14 minutes of one core with units for bfloat16",
        data=ImagesData(folder="data/emoji", size=32, held_out=0.02),
        process=UntouchedConfig(),
        network=AutoencoderConfig(width=32, multipliers=(1, 2)),
        objective=AutoencodingConfig(distance="absolute", kl=1e-6),
        train=TrainConfig(steps=2000, batch=32, lr=2e-3, precision="bfloat16"),
    )


def emoji() -> Recipe:
    """Emoji by caption: text-to-image from nothing."""
    return Recipe(
        name="emoji",
        about="text-to-image: 32x32 emoji by their names (langevin data emoji), by 16x16 latents of the run of "
        "emoji-autoencoder, with a text encoder trained along",
        expects="the nearest real emoji is of the caption's group (Unicode's nine) for 62 % of pictures by training captions and "
        "39 % by held-out ones (8 % by chance): smileys, hearts, flags and people are seen, single things seldom; 100 minutes of "
        "one core with units for bfloat16",
        data=ImagesData(folder="data/emoji", size=32, captions="captions.jsonl", held_out=0.02),
        codec=CodecConfig(origin="runs/emoji-autoencoder"),
        process=GaussianConfig(schedule="betas:kind=scaled_linear", prediction="v:level=index"),
        network=UNetConfig(width=64, multipliers=(1, 2), blocks=1, attention=(1,), transformer=1, dropout=0.0),
        text=TextConfig(),
        objective=DenoisingConfig(weight="min_snr"),
        train=TrainConfig(steps=5000, batch=64, lr=1e-3, precision="bfloat16"),
        sample=SampleConfig(plan="dpmpp:20", guidance=3.0),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits-autoencoder": digits_autoencoder,
    "digits-latent": digits_latent,
    "mnist-autoencoder": mnist_autoencoder,
    "mnist-latent": mnist_latent,
    "emoji-autoencoder": emoji_autoencoder,
    "emoji": emoji,
}
