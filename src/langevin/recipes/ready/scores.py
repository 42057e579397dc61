"""Densities, scores and upscalers of pictures."""

from collections.abc import Callable

from langevin.config import TrainConfig
from langevin.recipes.config import DigitsData, GaussianConfig, ImagesData, Recipe, SampleConfig, UNetConfig, UpscaleData
from langevin.recipes.objectives import DenoisingConfig
from langevin.recipes.ready.pictures import digits
from langevin.recipes.ready.variant import but


def digits_likelihood() -> Recipe:
    """A density of the digits."""
    return but(
        digits(),
        name="digits-likelihood",
        about="a density of the digits, grey values spread over their cells: for likelihoods, codes and outliers",
        expects="1.841 +- 0.024 bits per dimension by its flow (at most 2.2), a bound of 1.901, on 100 held-out digits; a normal "
        "density has 2.94; FD-PCA 1.46 of the floor of all training data; about 6 minutes on one core",
        data=DigitsData(labels=False, spread=32),
        process=GaussianConfig(schedule="vp_linear", prediction="v:level=250log_sigma"),
        network=UNetConfig(dropout=0.05),
        objective=DenoisingConfig(levels="uniform_log_snr", drop=0.0),
        train=TrainConfig(steps=2000, batch=64, lr=1e-3),
    )


def digits_ve() -> Recipe:
    """The digits by a score whose variance explodes."""
    return but(
        digits(),
        name="digits-ve",
        about="the digits by a variance-exploding score SDE: a small NCSN++, predictor and corrector",
        expects="intended label 98.5 % of 1,000 at w = 1, FD 1.05 of the floor of as many real digits; 7 minutes on one core",
        process=GaussianConfig(schedule="ve:sigma_min=0.01,sigma_max=20", prediction="edm:sigma_data=0.75,level=sigma"),
        network=UNetConfig(style="ncsnpp", blocks=1, dropout=0.05),
        objective=DenoisingConfig(),
        train=TrainConfig(steps=2400, batch=64, lr=2e-3),
        sample=SampleConfig(plan="predictor_corrector:50"),
    )


def digits_4to8() -> Recipe:
    """Digits of 8 x 8 pixels from 4 x 4."""
    return but(
        digits(),
        name="digits-4to8",
        about="digits of 8 x 8 pixels drawn from averages of 2 x 2: an upscaler with noise augmentation",
        expects="of held-out digits PSNR 15.7 for a sample and 18.9 for the mean of 16 (ridge regression 16.4), FD-PCA 0.20 "
        "(real pictures 0.34, regression 1.86); 6 minutes on one core",
        data=UpscaleData(),
        objective=DenoisingConfig(drop=0.0, augment=1.0),
        train=TrainConfig(steps=2000, batch=64, lr=1.5e-3),
    )


def emoji_16to64() -> Recipe:
    """Emoji of 64 x 64 pixels from 16 x 16."""
    return but(
        digits_4to8(),
        name="emoji-16to64",
        about="emoji of 64 x 64 pixels drawn from 16 x 16 (langevin data emoji): an upscaler with noise augmentation",
        expects="not trained to its end yet",
        data=UpscaleData(of=ImagesData(folder="data/emoji", size=64, held_out=0.02), factor=4),
        network=UNetConfig(width=48, multipliers=(1, 2, 3), blocks=1, attention=(2,), dropout=0.0, patch=2),
        train=TrainConfig(steps=6000, batch=32, lr=1e-3, precision="bfloat16"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits-likelihood": digits_likelihood,
    "digits-ve": digits_ve,
    "digits-4to8": digits_4to8,
    "emoji-16to64": emoji_16to64,
}
