"""How rounds of design go, in Python and on the command line alike."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How rounds of design go. See `langevin.recipes.design`."""

    rounds: int = 5
    """How often to generate; nothing guides the first."""
    count: int = 200
    """Molecules a round."""
    parents: int = 20
    """How many of the best the next round is made from."""
    level: float = 0.2
    """Noise that they are raised to: near 0 keeps them, 1 forgets them."""
    fresh: float = 0.25
    """Share of a round that is drawn anew."""
    rules: bool = True
    """Keep only what follows all of Lipinski's rules."""
    guidance: float | None = None
    """Strength of a run's conditions; 1 is unguided, the recipe's by default."""
    steer: Path | None = None
    """Regressor that langevin regress made for this run: from the second round on samples are steered to those of the properties
    that it knows."""
    strength: float = 10.0
    """With steer: log p = -strength (value - asked)^2, in units of the property's deviation."""
    plan: str | None = None
    """Plan as NAME:STEPS; the recipe's by default."""
    seed: int = 0
    """Any integer."""
