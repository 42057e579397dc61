"""The typed schema of a run: one closed tree, saved whole in the run's directory. Imports no torch.

Schedules, predictions, weights, levels and plans are words with options, such as "flow:shift=3"; see `langevin.spec`.
"""

from typing import Annotated, Literal

from pydantic import Field

from langevin.config import Closed, TrainConfig
from langevin.recipes.config.belief import BeliefConfig
from langevin.recipes.config.collections import HuggingFaceData, ShardsData, StreamData
from langevin.recipes.config.embedding import EmbeddedConfig, SentencesData, VectorsConfig
from langevin.recipes.config.graphs import (
    GraphConfig,
    GraphScoresConfig,
    GraphsData,
    GraphTransformerConfig,
    MoleculesData,
)
from langevin.recipes.config.latents import AutoencoderConfig, CodecConfig, UntouchedConfig
from langevin.recipes.config.places import Placed
from langevin.recipes.config.text import SequenceConfig, TextData
from langevin.recipes.objectives import ObjectiveConfig


class DigitsData(Closed):
    """The library's own digits, 8 x 8."""

    kind: Literal["digits"] = "digits"
    form: Literal["image", "categories", "joint"] = "image"
    """"image": floats in [-1, 1] with the label as condition; "categories": grey levels as categories; "joint": a
    product of image and label."""
    levels: int = Field(default=16, ge=2, le=17)
    """Grey levels, for form "categories"."""
    only: int | None = Field(default=None, ge=0, le=9)
    """One digit alone, whose label is then no condition."""
    without: int | None = Field(default=None, ge=0, le=9)
    """One digit that training never sees, and held-out data has."""
    labels: bool = True
    """False leaves labels out, so that they are no condition."""
    spread: int = Field(default=0, ge=0, le=1000)
    """Copies of the training split, the grey values of each spread anew over their cells, so that the data has a density; 0
    leaves values on their grid."""


class MnistData(Closed):
    """MNIST or its like, from idx files."""

    kind: Literal["mnist"] = "mnist"
    folder: str = "data/mnist"
    """Folder with the idx files."""
    test: int = Field(default=1000, ge=1)
    """Pictures held out, the last of the set."""
    only: int | None = Field(default=None, ge=0)
    """One class alone, whose label is then no condition."""
    without: int | None = Field(default=None, ge=0)
    """One class that training never sees, and held-out data has."""
    labels: bool = True
    """Without, labels are left unread, and the model knows no classes."""


class ImagesData(Placed):
    """Any folder of pictures. See `langevin.data.Pictures`."""

    places = ("folder",)

    kind: Literal["images"] = "images"
    folder: str = "data/images"
    """Folder of pictures; subfolders are classes."""
    size: int = Field(default=32, ge=4, le=20_000)
    """Side in pixels; with aspect, of the square with as many pixels."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    broken: Literal["fail", "skip"] = "fail"
    """What to do about pictures that cannot be read."""
    max_skipped: float = Field(default=0.01, ge=0, le=1)
    """Largest share of pictures that "skip" may leave out."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of pictures kept for testing; 2 at least."""
    aspect: bool = False
    """Train on pictures in their own shapes, in batches of one shape each; testing is on squares."""
    bucket_step: int = Field(default=8, ge=1)
    """With aspect, heights and widths are multiples of this."""
    flip: bool = False
    """Training sees half of the pictures mirrored."""
    captions: str | None = None
    """"txt" for picture.txt beside picture.png, or a JSONL file in the folder with "file" and "text"; none is broken."""
    labels: bool = True
    """Without, subfolders are no classes, and the model knows none."""


class ArraysData(Placed):
    """Arrays in .npy files, read row by row as they are: rows (N, D) are points, all else is pictures. See
    `langevin.data.Arrays`."""

    places = ("x",)

    kind: Literal["arrays"] = "arrays"
    x: str = "data/x.npy"
    """Samples (N, ...): floats, int64 for categories, or uint8 for pictures (N, C, H, W)."""
    label: str | None = None
    """Class numbers (N,), int64."""
    test: int = Field(default=1000, ge=1)
    """Rows held out, the last of the file."""


class TableData(Placed):
    """A table of numbers, each column brought to mean 0 and deviation 1. See `langevin.data.table`."""

    places = ("path",)

    kind: Literal["table"] = "table"
    path: str = "data/table.csv"
    """A .csv whose first line has the names of its columns, or a .npy (N, D) of numbers."""
    label: str | None = None
    """The column of a .csv with the classes, which may be words; beside a .npy, a .npy of class numbers (N,)."""
    columns: tuple[str, ...] = ()
    """Columns of a .csv to learn; all but the label by default."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of rows kept for testing; 2 at least."""


class MoonsData(Closed):
    """Two moons in the plane."""

    kind: Literal["moons"] = "moons"
    count: int = Field(default=10_000, ge=100)
    """Points for training; a tenth as many again for testing."""
    std: float = Field(default=0.05, ge=0)
    """Noise around the two arcs."""


Side = Annotated[
    DigitsData | MnistData | ImagesData | ArraysData | ShardsData | HuggingFaceData | MoonsData | SentencesData | TextData
    | GraphsData | MoleculesData,
    Field(discriminator="kind"),
]  # fmt: skip
"""One of two sets of samples. Not a table: each would be standardised by itself, and samples have the units of one alone; rows
for a flow between them are data "arrays"."""


class TransferData(Closed):
    """Two sets of samples of one shape, for a flow from one to the other. See `langevin.data.Unpaired`."""

    kind: Literal["transfer"] = "transfer"
    target: Side = DigitsData(only=8)
    """Where the flow leads; its labels are conditions."""
    source: Side = DigitsData(only=3)
    """What it begins at."""
    paired: bool = False
    """A sample of one belongs to one of the other, as a sketch to its picture: of two folders of pictures those of one name, else
    sample k to sample k; with objective.coupling paired."""


class UpscaleData(Closed):
    """Pictures beside small copies of themselves, from which they are to be drawn. See `langevin.data.Lowered`."""

    kind: Literal["upscale"] = "upscale"
    of: DigitsData | MnistData | ImagesData | ArraysData | ShardsData | HuggingFaceData = Field(
        default=DigitsData(), discriminator="kind"
    )
    """The pictures; their labels and captions are left out."""
    factor: int = Field(default=2, ge=2)
    """By how much copies are smaller."""


DataConfig = Annotated[
    DigitsData | MnistData | ImagesData | ArraysData | ShardsData | HuggingFaceData | StreamData | TableData | MoonsData
    | SentencesData | TextData | GraphsData | MoleculesData | TransferData | UpscaleData,
    Field(discriminator="kind"),
]  # fmt: skip


class GaussianConfig(Closed):
    """z = alpha x + sigma e."""

    kind: Literal["gaussian"] = "gaussian"
    schedule: str = "cosine"
    prediction: str = "v"


class InterpolantConfig(Closed):
    """z = alpha x + sigma y + gamma e, from data y of another kind. See `langevin.interpolants.Interpolant`."""

    kind: Literal["interpolant"] = "interpolant"
    schedule: str = "flow"
    """Of the weights: flow, trigonometric, or learned_path."""
    prediction: str = "velocity"
    noise: float = Field(default=0.0, ge=0)
    """Factor of gamma."""
    shape: Literal["bridge", "sine", "constant"] = "bridge"
    """Of gamma."""


class CategoricalConfig(Closed):
    """Categories that are kept with probability alpha."""

    kind: Literal["categorical"] = "categorical"
    categories: int = Field(default=16, ge=2)
    """Of texts those of their alphabet, whatever is said here."""
    schedule: str = "keep_linear"
    """Of the probability that a category is kept: keep_linear, keep_cosine, keep_power, keep_betas; or mutual_information, by
    the shares of categories in the data, so that what is still known of it falls evenly."""
    limit: Literal["uniform", "mask", "marginal"] = "mask"
    """Where noise ends; marginal is the share of each category in training data."""
    kernel: str | None = None
    """In place of a limit: gaussian:steps=100,start=0.01,end=0.2 (D3PM) or ordinal:width=0.05 for categories in order;
    neighbours:count=4 for jumps to near values, or to near rows of a .npy file, embeddings=FILE, read whenever the run is opened.
    With squared=true the last two take large numbers of categories, by repeated squaring."""
    prediction: str = "logits"
    """logits, posterior, subs (masks), residual, ratio (no kernel), or logistic (categories in order, no mask); see
    `langevin.heads`."""


class ProductConfig(Closed):
    """An image and its label as one thing, each at its own level."""

    kind: Literal["product"] = "product"
    image: GaussianConfig = GaussianConfig()
    label: CategoricalConfig = CategoricalConfig(categories=10)


ProcessConfig = Annotated[
    GaussianConfig | InterpolantConfig | CategoricalConfig | BeliefConfig | EmbeddedConfig | GraphConfig | GraphScoresConfig
    | ProductConfig | UntouchedConfig,
    Field(discriminator="kind"),
]  # fmt: skip


class UNetConfig(Closed):
    """See `langevin.networks.UNet`."""

    kind: Literal["unet"] = "unet"
    width: int = Field(default=32, ge=8)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2), min_length=1)
    blocks: int = Field(default=2, ge=1)
    attention: tuple[int, ...] = (1,)
    head_width: int = Field(default=32, ge=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    time: Literal["scale_shift", "add"] = "scale_shift"
    style: Literal["plain", "ncsnpp", "ddpmpp", "ddpm"] = "plain"
    """"ddpm": norms of one number of groups whatever their width, as in networks that are published (`langevin publish`).
    "ncsnpp": filtered changes of resolution, pyramids of pictures, Fourier features of ln(level), sums over sqrt(2)
    (2011.13456, app. H); show it sigma. "ddpmpp": the same blocks and sums without filters, pyramids and Fourier features, for VP
    and sub-VP processes; show it 1000t."""
    patch: int = Field(default=1, ge=1)
    """Side of the patches in which pictures are read and answered."""
    transformer: int = Field(default=0, ge=0)
    """With text: transformer blocks at each resolution that attends, as in Stable Diffusion, whose layout the network then has
    (`langevin publish`); 0 for plain attention."""


class DiTConfig(Closed):
    """See `langevin.networks.DiT`; on a product, the joint transformer with one port per leaf."""

    kind: Literal["dit"] = "dit"
    patch: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    stem: int = Field(default=0, ge=0)
    """Channels of a convolutional stem (see `langevin.networks.PicturePort`); 0 for none."""


class MLPConfig(Closed):
    """See `langevin.networks.MLP`."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=4, ge=1)


NetworkConfig = Annotated[
    UNetConfig | DiTConfig | MLPConfig | VectorsConfig | SequenceConfig | GraphTransformerConfig | AutoencoderConfig,
    Field(discriminator="kind"),
]  # fmt: skip


class TextConfig(Closed):
    """An encoder of captions, trained with the network. See `langevin.networks.TextEncoder`."""

    width: int = Field(default=192, ge=8)
    depth: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    vocabulary: int = Field(default=2048, ge=514)
    """Most tokens that are learned from the captions."""
    length: int = Field(default=24, ge=3)
    """Tokens that are read of a caption."""


class LoRAConfig(Closed):
    """Low-rank adapters, which alone are trained then. See `langevin.adapters.lora`."""

    rank: int = Field(default=0, ge=0)
    """Of each product; 0 for no adapters."""
    alpha: float = Field(default=8.0, gt=0)
    """Each product is scaled by alpha / rank."""
    targets: str = "*"
    """Layers, by shell patterns over their names joined by "|", such as "*.query|*.key_value"."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the inputs of the adapters."""


class FinetuneConfig(Closed):
    """What a run begins with, and which part of it is trained."""

    origin: str | None = None
    """A run directory, whose averaged weights are taken, or a safetensors file of weights; None begins anew."""
    lora: LoRAConfig = LoRAConfig()
    freeze: str | None = None
    """Parameters that are left alone, by shell patterns over their names joined by "|", such as "net.enter.*"."""


class TeacherConfig(Closed):
    """What a student learns from: enough to make the teacher again, whose weights are in the student's own checkpoints."""

    origin: str
    """A run directory."""
    name: str
    """Of the recipe that it was trained by."""
    process: ProcessConfig
    network: NetworkConfig
    objective: ObjectiveConfig


class SampleConfig(Closed):
    """How samples are drawn when nothing else is said."""

    plan: str = "dpmpp:20"
    guidance: float = 1.0


class EvaluationConfig(Closed):
    """How the averaged model is measured as it trains (see `langevin.recipes.in_loop`), and how largely at the end."""

    at_end: int = Field(default=1000, ge=0)
    """Samples for the evaluation at the end; 0 leaves it out."""

    every: int = Field(default=0, ge=0)
    """Updates between measurements; 0 for none."""
    count: int = Field(default=1000, ge=2)
    """Samples each time."""
    features: str = "auto"
    """A safetensors file with InceptionTF or DINOv2, or a folder with a CLIP; classifier or pca; auto is the classifier where
    there are labels."""
    metrics: tuple[str, ...] = ("fd",)
    """Of fd, fd_infinity, kid, is, cmmd, prdc, labels, clip, memory."""
    plan: str | None = None
    """Plan of the samples; that of `sample` by default."""
    guidance: float = 1.0
    """Classifier-free w, where there is a condition."""
    seed: int = 1
    """Of the samples, the same at every step."""


class Recipe(Closed):
    """A whole run."""

    name: str
    """What it is called."""
    about: str
    """What it trains, in a line."""
    expects: str
    """The result it should reach, and what that took."""
    data: DataConfig
    codec: CodecConfig = CodecConfig()
    """The autoencoder whose latents are learned; without an origin there is none."""
    process: ProcessConfig
    network: NetworkConfig
    text: TextConfig | None = None
    """How captions become conditions, where the data has them; None leaves them unread."""
    objective: ObjectiveConfig
    train: TrainConfig
    finetune: FinetuneConfig = FinetuneConfig()
    teacher: TeacherConfig | None = None
    """Whom it learns from, where the objective has a teacher; `langevin distill` fills it in."""
    sample: SampleConfig = SampleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def drawn(self) -> Side | TableData | StreamData:
        """What samples are to look like."""
        if isinstance(self.data, UpscaleData):
            return self.data.of
        return self.data.target if isinstance(self.data, TransferData) else self.data
