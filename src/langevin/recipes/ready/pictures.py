"""Pictures: digits, MNIST, drawings, folders."""

from collections.abc import Callable

from langevin.config import TrainConfig
from langevin.recipes.config import (
    CategoricalConfig,
    DigitsData,
    DiTConfig,
    GaussianConfig,
    ImagesData,
    InterpolantConfig,
    MnistData,
    ProductConfig,
    Recipe,
    SampleConfig,
    TransferData,
    UNetConfig,
)
from langevin.recipes.objectives import ConsistencyConfig, DenoisingConfig, MeanFlowConfig, ShortcutConfig
from langevin.recipes.ready.variant import but


def digits() -> Recipe:
    """Class-conditional handwritten digits: the demo."""
    return Recipe(
        name="digits",
        about="class-conditional 8x8 handwritten digits, a 1.1M U-Net, v-prediction",
        expects="intended label 98.5 % of 1,000 at w = 1 and 99.9 % at w = 1.5 (at least 98 and 99.5), FD 0.82 of "
        "the floor of all training data at w = 1, nearest-neighbour ratio 1.05; 3 to 6 minutes in all on 2 cores",
        data=DigitsData(),
        process=GaussianConfig(schedule="cosine", prediction="v"),
        network=UNetConfig(dropout=0.05),
        objective=DenoisingConfig(weight="min_snr"),
        train=TrainConfig(steps=2400, batch=64, lr=2e-3),
        sample=SampleConfig(plan="dpmpp:20"),
    )


def digits_discrete() -> Recipe:
    """The digits as 16 grey levels, unmasked pixel by pixel."""
    return but(
        digits(),
        name="digits-discrete",
        about="the digits as strings of 16 grey levels: masked discrete diffusion on pixels",
        expects="intended label 98.5 % of 1,000 at w = 1 and 99.8 % at w = 1.5, FD 0.91 of the floor of all "
        "training data at w = 1; 5 minutes on 2 cores",
        data=DigitsData(form="categories", levels=16),
        process=CategoricalConfig(categories=16, limit="mask", prediction="subs"),
        objective=DenoisingConfig(weight="elbo"),
        sample=SampleConfig(plan="ddpm:64"),
    )


def digits_product() -> Recipe:
    """Image and label as one product, generated jointly or each given the other."""
    return but(
        digits(),
        name="digits-product",
        about="image and label as one product: jointly, image given label, label given image",
        expects="label and image agree in 94.9 % of joint samples; 95.9 % given the label; labels given images 98.7 % right; "
        "FD 1.11 of the floor of all training data; 10 minutes on 2 cores",
        data=DigitsData(form="joint"),
        process=ProductConfig(),
        network=DiTConfig(patch=2, width=128, depth=6, heads=4, stem=32),
        objective=DenoisingConfig(spread="independent", clean=0.3, drop=0.0),
        train=TrainConfig(steps=6000, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="dpmpp:30:sde=true"),
    )


def mnist() -> Recipe:
    """Class-conditional MNIST."""
    return but(
        digits(),
        name="mnist",
        about="class-conditional 28x28 MNIST from idx files, a U-Net with three resolutions",
        expects="intended label 98.4 % of 2,000 at w = 1 and 99.8 % at w = 1.5, FD 1.19 of the floor of as many training "
        "pictures at w = 1, nearest-neighbour ratio 1.00, with 9,000 pictures; 33 minutes on 2 cores with --processes 2",
        data=MnistData(),
        network=UNetConfig(width=48, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.05, patch=2),
        # under min-SNR the levels at which the digit is decided, near pure noise, hardly count
        objective=DenoisingConfig(weight="simple"),
        # with Muon a label is heeded after 700 updates in 71 % of samples, with AdamW in 43 %
        train=TrainConfig(steps=5000, batch=64, lr=1.5e-3, optimiser="muon", precision="auto"),
        # 20 steps are as near to the data (FD 1.25), and show the intended digit in 96.3 %
        sample=SampleConfig(plan="dpmpp:6"),
    )


def mnist_unlabelled() -> Recipe:
    """MNIST without its labels, small: what pictures are augmented by."""
    return but(
        mnist(),
        name="mnist-unlabelled",
        about="28x28 MNIST whose labels are left unread, half as wide: the model behind langevin augment",
        expects="FD-PCA 0.94 of the train-against-test floor (1,000 samples), nearest-neighbour ratio 1.09; 33 minutes of one "
        "core in float32",
        data=MnistData(labels=False),
        network=UNetConfig(width=32, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.05, patch=2),
        train=TrainConfig(steps=6000, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="dpmpp:20"),
    )


def drawings() -> Recipe:
    """Molecules as drawn by hand."""
    return Recipe(
        name="drawings",
        about="64x64 molecules as drawn by hand (langevin data drawings), grey: what drawings are augmented by",
        expects="FD-PCA 0.94 of the train-against-test floor (1,000 samples against 170), nearest-neighbour ratio 0.96; 40 "
        "minutes of one core in float32",
        data=ImagesData(folder="data/drawings", size=64, channels=1, captions="captions.jsonl"),
        process=GaussianConfig(schedule="cosine", prediction="v"),
        network=UNetConfig(width=48, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.05, patch=4),
        objective=DenoisingConfig(weight="min_snr"),
        train=TrainConfig(steps=6000, batch=32, lr=1.5e-3),
    )


def _in_few_steps(
    one: str, single: float, two: str, double: float, four: str, fourfold: float, minutes: int,
    beside: str = "digits in 20 steps: 98.6 % and 0.80",
) -> str:  # fmt: skip
    """Labels as intended and Frechet distances, as in bench/results/few_steps.csv."""
    return (
        f"in 1 step intended label {one} of 1,000 and FD {single:.2f} of that of as many training pictures; in 2 steps {two} and "
        f"{double:.2f}; in 4 steps {four} and {fourfold:.2f} ({beside}); {minutes} minutes on 2 cores with --processes 2"
    )


def digits_mean_flow() -> Recipe:
    """The digits in one step, trained from scratch."""
    return but(
        digits(),
        name="digits-mean-flow",
        about="the digits in one step, trained from scratch by improved MeanFlow",
        expects=_in_few_steps("97.0 %", 0.97, "99.2 %", 0.96, "99.3 %", 0.99, 9),
        process=GaussianConfig(schedule="flow", prediction="velocity:level=t"),
        objective=MeanFlowConfig(),
        train=TrainConfig(steps=2000, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="ddim:1"),
    )


def digits_shortcut() -> Recipe:
    """The digits in any number of steps from one, trained from scratch."""
    return but(
        digits(),
        name="digits-shortcut",
        about="the digits in 1, 2, 4, ... steps, trained from scratch as a shortcut model",
        expects=_in_few_steps("99.2 %", 0.96, "98.8 %", 0.88, "98.8 %", 0.83, 7),
        process=GaussianConfig(schedule="flow", prediction="velocity"),
        # each doubling is learned from the slow copy of the one before: a slower one would need a longer run
        objective=ShortcutConfig(finest=6, decay=0.95),
        train=TrainConfig(steps=2600, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="ddim:1"),
    )


def digits_consistency() -> Recipe:
    """The digits in one or two steps, trained from scratch."""
    return but(
        digits(),
        name="digits-consistency",
        about="the digits in one or two steps, trained from scratch by improved consistency training",
        expects=_in_few_steps("98.2 %", 0.97, "98.2 %", 0.97, "98.3 %", 0.90, 7),
        process=GaussianConfig(schedule="edm", prediction="edm:sigma_data=0.75,level=250log_sigma"),
        objective=ConsistencyConfig(improved=True, steps=160, distance="pseudo_huber", mean=-0.5),
        train=TrainConfig(steps=3000, batch=64, lr=1.5e-3),
        sample=SampleConfig(plan="consistency:1:grid=karras"),
    )


def mnist_consistency() -> Recipe:
    """MNIST in one to four steps, trained from scratch."""
    return but(
        mnist(),
        name="mnist-consistency",
        about="class-conditional MNIST in one to four steps, trained from scratch by improved consistency training",
        expects=_in_few_steps("97.7 %", 2.09, "96.9 %", 1.20, "96.7 %", 1.14, 39, "mnist in 20 steps: 96.3 % and 1.05")
        + ", with 9,000 pictures",
        process=GaussianConfig(schedule="edm", prediction="edm:sigma_data=0.6,level=250log_sigma"),
        # what decides on a digit lies at higher levels than in 8x8: half of the levels are above sigma = 1
        network=UNetConfig(width=48, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.0, patch=2),
        objective=ConsistencyConfig(improved=True, steps=160, distance="pseudo_huber", mean=0.0),
        train=TrainConfig(steps=5000, batch=64, lr=1.5e-3, optimiser="muon", precision="auto"),
        sample=SampleConfig(plan="consistency:3:grid=angle"),
    )


def digits_transfer() -> Recipe:
    """Threes that become eights."""
    return but(
        digits(),
        name="digits-transfer",
        about="digits of one kind turned into another, from two sets without pairs: 3 to 8",
        expects="a classifier sees an 8 in all 22 held-out threes (a 3 in 21 of 22 eights the other way), which keep thickness "
        "(correlation 0.74; 0.79) and slant (0.43; 0.67); 3.4 minutes on one core",
        data=TransferData(),
        process=InterpolantConfig(),
        objective=DenoisingConfig(coupling="ot", drop=0.0),
        train=TrainConfig(steps=1200, batch=64, lr=1e-3),
        sample=SampleConfig(plan="heun:20:grid=uniform"),
    )


def transfer() -> Recipe:
    """Pictures of one folder turned into those of another."""
    return but(
        images(),
        name="transfer",
        about="pictures of one folder turned into those of another, such as sketches into paintings",
        expects="depends on the pictures; FD-PCA is printed beside the train-against-test floor",
        data=TransferData(target=ImagesData(folder="data/target"), source=ImagesData(folder="data/source")),
        process=InterpolantConfig(),
        objective=DenoisingConfig(coupling="ot", drop=0.0),
        sample=SampleConfig(plan="heun:20:grid=uniform"),
    )


def images() -> Recipe:
    """Any folder of pictures; subfolders are classes."""
    return but(
        digits(),
        name="images",
        about="any folder of pictures, resized to squares; subfolders are classes",
        expects="depends on the pictures; FD-PCA is printed beside the train-against-test floor",
        data=ImagesData(),
        network=UNetConfig(width=64, multipliers=(1, 2, 2), attention=(1, 2)),
        objective=DenoisingConfig(weight="min_snr"),
        train=TrainConfig(steps=20_000, batch=64, lr=5e-4),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits,
    "digits-discrete": digits_discrete,
    "digits-product": digits_product,
    "mnist": mnist,
    "mnist-unlabelled": mnist_unlabelled,
    "digits-mean-flow": digits_mean_flow,
    "digits-shortcut": digits_shortcut,
    "digits-consistency": digits_consistency,
    "mnist-consistency": mnist_consistency,
    "digits-transfer": digits_transfer,
    "drawings": drawings,
    "transfer": transfer,
    "images": images,
}
