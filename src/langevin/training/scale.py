"""Data that its process was not made for trains to garbage without a word; so the first batch is looked at."""

import warnings

from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.messages import leaf_name
from langevin.core.prediction import Preconditioned
from langevin.core.space import Euclidean, Space, SymmetricEdges
from langevin.core.tree import leaves

LEAST = 32
"""Numbers below which a deviation says nothing."""


def warn_of_scale(denoiser: Denoiser, batch: Batch) -> None:
    """Warn, in one sentence, of a Gaussian leaf whose numbers have a mean or deviation far from what it was made for.

    That is mean 0 and deviation 1, or the `sigma_data` of a preconditioned prediction; five times off is far, or a mean
    beyond 1 (and beyond three times sigma_data). Data that meets a source of its own, ids of categories, and types that are held
    as numbers, such as the edges of sparse graphs, have no such scale.
    """
    if batch.source is not None:
        return
    x = leaves(batch.x)
    for name, leaf in denoiser.process.leaves().items():
        if not isinstance(leaf, Gaussian) or not x[name].is_floating_point():
            continue
        values = _real(x[name], leaf.space.real(x[name], batch.mask))
        if values.numel() < LEAST:
            continue
        if _types(values, leaf.space):
            continue
        mean, std = float(values.mean()), float(values.std())
        prediction = denoiser.predictions[name]
        preconditioned = isinstance(prediction, Preconditioned)
        wanted = prediction.sigma_data if preconditioned else 1.0
        if wanted / 5 <= std <= wanted * 5 and abs(mean) <= max(1.0, 3 * wanted if preconditioned else 0.0):
            continue
        of = f"leaf {name!r}" if name else "the data"
        known = f"the prediction's sigma_data is {wanted:g}" if preconditioned else "its process is made for about 0 and 1"
        also = ", or give predictions.edm(sigma_data=) its deviation and the schedule a sigma_max far above it"
        warnings.warn(
            f"{of} has mean {mean:.3g} and standard deviation {std:.3g} in the first batch where {known}, so it will hardly be "
            f"learned; standardise it, as lv.data.standardised(x) does{also if preconditioned else ''}.",
            stacklevel=5,
        )


def refuse_untied(denoiser: Denoiser, batch: Batch) -> None:
    """Refuse edges of undirected graphs, (B, N, N, ...) beside a mask (B, N), under a process that would noise i to j and j to i
    each for itself.

    Raises:
        ValueError: naming the leaf and its space.
    """
    if batch.mask is None:
        return
    nodes = batch.mask.shape[1]
    for name, leaf in denoiser.process.leaves().items():
        x = leaves(batch.x)[name]
        if type(leaf.space) is Euclidean and x.shape[1:3] == (nodes, nodes) and bool((x == x.transpose(1, 2)).all()):
            raise ValueError(
                f"the space of {leaf_name(name)} is {leaf.space}, and its data are symmetric, edges of undirected graphs, which "
                "would be noised each way for itself; make its process with space=lv.spaces.SymmetricEdges()."
            )


def _types(values: Tensor, space: Space) -> bool:
    """Whether numbers are types: whole ones on edges, whose first is "no edge", and columns of zeros and ones anywhere."""
    if isinstance(space, SymmetricEdges) and bool((values == values.round()).all()):
        return True
    return bool(((values == 0) | (values == 1)).all())


def _real(x: Tensor, real: Tensor | None) -> Tensor:
    """The numbers that are no padding, in float64."""
    return (x if real is None else x[real.expand(x.shape)]).double()
