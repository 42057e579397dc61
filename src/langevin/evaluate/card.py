"""Protocol cards: everything that a metric depends on besides the model. Same card, same number."""

from pydantic import ConfigDict, Field

from langevin.config import Closed

PUBLISHED = 10_000
"""Fewer samples than this are not compared with published numbers."""


class Split(Closed):
    """A set of real data."""

    name: str
    """Such as "test"."""
    size: int
    """Samples."""
    hash: str
    """Of their content."""


class FeatureCard(Closed):
    """The network, or other map, whose outputs are compared."""

    name: str
    hash: str
    """Of its weights."""
    width: int
    """Features per sample."""
    resize: str
    """How pictures are brought to the size it takes."""


class Card(Closed):
    """How numbers were made."""

    samples: int
    small: bool
    """True where samples or real data are below published practice (10,000, and more than there are features): distances
    are then biased, and comparable only under the same card."""
    real: Split
    """What samples are compared with."""
    train: Split | None = None
    """What the model, and a classifier of our own, were trained on."""
    pixels: str
    """From the model's numbers to pictures."""
    features: FeatureCard | None = None
    metrics: dict[str, str]
    """What each metric is, with its settings."""
    weights: str
    """Of the model, such as "EMA 0.999" and a hash."""
    plan: str | None = None
    nfe: int | None = None
    """Evaluations of the model per sample, the most of any leaf, and of any batch where the plan takes as many as it needs;
    guidance doubles the work, not this number."""
    guidance: tuple[float, ...] = ()
    """The strengths that were tried; names such as "w=1.5.fd" say which is which."""
    seeds: tuple[int, ...] = ()
    """Of the samples and of what metrics draw."""
    device: str
    langevin: str
    torch: str

    def __str__(self) -> str:
        said = [f"{self.samples} samples against {self.real.size} of {self.real.name} ({self.real.hash})"]
        if self.features is not None:
            said.append(f"{self.features.name} ({self.features.hash}), {self.features.width} features")
        said.append(self.weights)
        if self.plan is not None:
            said.append(f"{self.plan}, {self.nfe} evaluations")
        if self.small:
            said.append(f"small n: not comparable with published numbers, which take {PUBLISHED:,} samples or more")
        return "; ".join(said)


class Result(Closed):
    """One number with how it was made; it may be none, of too few samples."""

    model_config = ConfigDict(allow_inf_nan=True)

    value: float
    spread: float | None
    """Its standard deviation over subsets or splits, where the metric has one."""
    card: Card

    def __str__(self) -> str:
        return f"{self.value:.4f}" if self.spread is None else f"{self.value:.4f} +- {self.spread:.4f}"


class Evaluation(Closed):
    """Numbers that share one protocol."""

    metrics: dict[str, float | dict[str, float]]
    """By name, or by group ("w=1.5") and name."""
    spread: dict[str, float] = Field(default_factory=dict)
    """By full name, "w=1.5.kid"."""
    protocol: Card

    def names(self) -> list[str]:
        """Full names, such as "fd_real" and "w=1.5.fd"."""
        return [full for name, value in self.metrics.items()
                for full in ([f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name])]  # fmt: skip

    def __getitem__(self, name: str) -> Result:
        """The result of that full name.

        Raises:
            KeyError: if there is none.
        """
        value = self.metrics.get(name)
        if value is None:
            group, _, last = name.rpartition(".")
            inner = self.metrics.get(group)
            value = inner.get(last) if isinstance(inner, dict) else None
        if not isinstance(value, float):
            raise KeyError(f"there is no metric {name!r}; there are {', '.join(self.names())}.")
        return Result(value=value, spread=self.spread.get(name), card=self.protocol)

    def beside(self, other: "Evaluation") -> "dict[str, tuple[Result, Result]]":
        """(this result, the other's) by full name, of what both measured by one protocol.

        Weights, training data, plan, guidance, seeds, device and versions are told by each card, and may differ.

        Raises:
            ValueError: where real data, numbers of samples, pixels, features or a metric's settings differ, or nothing is shared.
        """
        mine, theirs = self.protocol, other.protocol
        apart = {name: (getattr(mine, name), getattr(theirs, name)) for name in ("samples", "real", "pixels", "features")}
        apart |= {name: (said, theirs.metrics.get(name, said)) for name, said in mine.metrics.items()}
        for name, (one, two) in apart.items():
            if one != two:
                raise ValueError(
                    f"{name} is {one} in one protocol and {two} in the other; evaluate both under one, then compare."
                )
        both = [name for name in self.names() if name in other.names()]
        if not both:
            raise ValueError(f"no metric is in both ({', '.join(self.names())}; {', '.join(other.names())}); ask both for one.")
        return {name: (self[name], other[name]) for name in both}

    def __str__(self) -> str:
        return "\n".join([*(f"{name:40} {self[name]}" for name in self.names()), str(self.protocol)])


def refuse_small(samples: int, real: int, width: int, small: bool) -> bool:
    """Whether a Frechet or kernel distance, or an Inception score, of so few samples is below published practice.

    Raises:
        ValueError: if it is, unless `small` says that this is known.
    """
    least = max(PUBLISHED, width + 1)
    for what, n in (("samples", samples), ("real samples", real)):
        if n < least and not small:
            raise ValueError(
                f"there are {n} {what}, and numbers that are to be compared need at least {least}; take more, or accept a small "
                "n, which the card will say, with small=True (--small)."
            )
    return min(samples, real) < least
