"""langevin design."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Design:
    run: Positional[Path]
    """Run directory, of molecules."""
    out: Path
    """Directory for best.smi, best.png, designs.json and rounds.jsonl; one that has some is gone on with."""
    goal: tuple[str, ...] = ("qed", "sa")
    """What is wanted: qed, sa (1 is easy to make), lipinski, or a property in a range, such as logp=1..3."""
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
    property: tuple[str, ...] = ()
    """Conditions of a run that has such, as in logp=2."""
    guidance: float | None = None
    """Strength of these; 1 is unguided."""
    plan: str | None = None
    """Plan as NAME:STEPS; the recipe's by default."""
    seed: int = 0
    """Any integer."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def properties_of(words: Sequence[str]) -> dict[str, float] | None:
    """{"logp": 2.0} from "logp=2"; None for no words.

    Raises:
        Refusal: for what is no property and number.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise Refusal(f"property is {word!r}; give a name and a number, as in logp=2.") from None
    return found or None


def design(args: Sequence[str]) -> None:
    """Generate, score, filter, guide, and again."""
    asked = parse(_Design, args, "langevin design")
    from langevin.recipes.build import open_run
    from langevin.recipes.design import Asked, goals_of
    from langevin.recipes.design import design as rounds

    given = {name: getattr(asked, name) for name in ("rounds", "count", "parents", "level", "fresh", "rules", "guidance", "plan")}
    how = Asked(goals_of(asked.goal), properties=properties_of(asked.property), seed=asked.seed, **given)
    rounds(open_run(asked.run, device=asked.device), how, asked.out)
    print(asked.out / "best.png")
