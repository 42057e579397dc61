"""Several metrics of the same features at once, by name."""

from collections.abc import Callable, Sequence

from torch import Tensor

from langevin.evaluate.features import FeatureNet
from langevin.evaluate.metrics import cmmd, frechet, frechet_infinity, inception_score, kid
from langevin.evaluate.neighbours import prdc
from langevin.spec import nearest

POINTS, SPLITS, NEIGHBOURS = 15, 10, 5
"""Of fd_infinity, is and prdc."""

METRICS = {
    "fd": "Frechet distance of the features, to the real ones",
    "fd_infinity": f"Frechet distance extrapolated to endless samples, over {POINTS} sizes",
    "kid": "unbiased cubic-kernel distance of the features, 100 subsets of 1000 (or all, if fewer)",
    "is": f"Inception score of the class probabilities, {SPLITS} splits",
    "cmmd": "1000 times the squared maximum mean discrepancy of CLIP embeddings, Gaussian kernel of width 10",
    "prdc": f"precision, recall, density and coverage, {NEIGHBOURS} nearest neighbours",
}
BIASED = ("fd", "fd_infinity", "kid", "is")
"""Those that published practice takes 10,000 samples or more for."""

Found = dict[str, tuple[float, float | None]]


def known(metrics: Sequence[str], table: Sequence[str]) -> None:
    """Refuse names that are not in the table.

    Raises:
        ValueError: naming the nearest.
    """
    for name in metrics:
        if name not in table:
            raise ValueError(f"metrics has {name!r}; did you mean {nearest(name, list(table))!r}? There are {', '.join(table)}.")


def enough(metrics: Sequence[str], samples: int, real: int) -> None:
    """Refuse metrics that cannot be had of so few samples, or real ones.

    Raises:
        ValueError: naming how many it takes.
    """
    needs = {
        "fd": (2, 2),
        "fd_infinity": (10 * POINTS, 2),
        "kid": (2, 2),
        "is": (SPLITS, 0),
        "cmmd": (2, 2),
        "prdc": (NEIGHBOURS + 1,) * 2,
    }
    for name in metrics:
        for what, n, least in zip(("samples", "real samples"), (samples, real), needs.get(name, (0, 0)), strict=True):
            if n < least:
                raise ValueError(f"metric {name!r} takes {least} {what}, and there are {n}; take more, or leave it out.")


def ready(net: FeatureNet, real: Tensor, metrics: Sequence[str]) -> None:
    """Refuse metrics that these features cannot have: before samples are drawn, which takes long.

    Raises:
        ValueError: for an unknown name, "is" of features that know no classes, or "cmmd" of others than CLIP's.
    """
    known(metrics, list(METRICS))
    if "is" in metrics and net.probabilities(real[:1]) is None:
        raise ValueError(f"metric 'is' needs class probabilities, which {net.name} does not give; leave it out.")
    if "cmmd" in metrics and net.name != "CLIP":
        raise ValueError(f"metric 'cmmd' is of CLIP's embeddings, and features are {net.name}; give the folder of a CLIP.")


def measure(net: FeatureNet, samples: Tensor, real: Tensor, metrics: Sequence[str] = ("fd",), seed: int = 0) -> Found:
    """Metrics between features of samples (N, D) and of real data (M, D), each as (value, spread or None).

    Args:
        net: what made the features; it gives the class probabilities that "is" needs.
        metrics: names from `METRICS`; "prdc" gives four.
        seed: of random subsets.

    Raises:
        ValueError: as `ready` and `enough`.
    """
    ready(net, real, metrics)
    enough(metrics, len(samples), len(real))

    def score() -> tuple[float, float]:
        p = net.probabilities(samples)
        assert p is not None
        return inception_score(p, SPLITS)

    each: dict[str, Callable[[], tuple[float, float | None]]] = {
        "fd": lambda: (frechet(samples, real), None),
        "fd_infinity": lambda: (frechet_infinity(samples, real, POINTS, seed), None),
        "kid": lambda: kid(samples, real, seed=seed),
        "is": score,
        "cmmd": lambda: (cmmd(samples, real), None),
    }
    found: Found = {}
    for name in metrics:
        if name == "prdc":
            found |= {part: (value, None) for part, value in prdc(samples, real, NEIGHBOURS)._asdict().items()}
        else:
            found[name] = each[name]()
    return found
