"""The settings of Bayesian flow networks. Imports no torch."""

from typing import Literal

from pydantic import Field

from langevin.config import Closed


class BeliefConfig(Closed):
    """Beliefs that messages about the data sharpen. See `langevin.bayesian_flow`."""

    kind: Literal["belief"] = "belief"
    form: Literal["continuous", "discretised", "discrete"] = "discretised"
    """Of the data: "continuous" numbers; "discretised", grey levels in order, of which the network says a mean and a deviation;
    "discrete", categories without order, of which it says logits."""
    categories: int = Field(default=16, ge=2)
    """Of the data: bins of form discretised, categories of form discrete."""
    sigma_1: float | None = Field(default=None, gt=0, lt=1)
    """Of forms continuous and discretised: deviation of the noise that is left at the end; by default 0.001, and sqrt(0.001) for
    fewer than 256 bins."""
    beta_1: float | None = Field(default=None, gt=0)
    """Of form discrete, which needs it: accuracy at the end; 9 was published for binary pictures, and 3 suits 17 grey levels."""
    bound: float | None = Field(default=1.0, gt=0)
    """Of form continuous: beliefs are clipped to [-bound, bound]; None leaves them."""
