"""langevin write: texts by a run that learned some, or by a published masked language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Write:
    run: Positional[Path]
    """Run directory, of a recipe of texts or of sentences; or the folder of a published masked language model."""
    prefix: str = ""
    """What texts begin with."""
    infill: str | None = None
    """A text with blanks to be filled, such as "To be, ________ to be": each sign --blank is one token."""
    blank: str | None = None
    """With infill: the sign for a token that is to be written, _ by default; of a published model its mask as well."""
    length: int | None = None
    """Tokens of a text, with the prefix; those that the model learned by default, and as many as one likes. Of a published model
    64 more than the prefix by default."""
    count: int = 1
    """How many texts."""
    plan: str | None = None
    """Plan as NAME:STEPS, such as ddpm:128, first_hitting:256, or confidence:64:order=entropy; the recipe's by default. Of a
    published model confidence:TOKENS:temperature=0,block=32, as LLaDA writes."""
    temperature: float = 1.0
    """Below 1 texts are surer and less diverse."""
    top: float = 1.0
    """Tokens are drawn from the likeliest of so much probability."""
    contains: tuple[str, ...] = ()
    """Words that are to stand in the text; for runs of sentences (Diffusion-LM)."""
    tokens: int | None = None
    """Tokens that the text is to have; for runs of sentences."""
    attributes: tuple[str, ...] = ()
    """Attributes that the text is to have, such as "area : riverside", which --classifier tells; for runs of sentences."""
    classifier: Path | None = None
    """What langevin classify made for this run."""
    clamp: float | None = None
    """Level below which beliefs are taken to the nearest word; for runs of sentences."""
    best_of: int = 1
    """Of so many texts each, the one that the others are most like."""
    seed: int = 0
    """Any integer; text k is the same whatever the count."""
    weights: Path | None = None
    """In place of the run's own average: a safetensors file, as langevin ema writes; another of its averages by name; or last."""
    out: Path | None = None
    """A .txt to write; texts are printed by default."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def write(args: Sequence[str]) -> None:
    """Go on from a beginning, or fill blanks, in any order."""
    asked = parse(_Write, args, "langevin write")
    if asked.count < 1:
        raise Refusal(f"count is {asked.count}; ask for at least 1.")
    if asked.infill is not None and (asked.prefix or asked.length is not None):
        raise Refusal("infill is a whole text with blanks; leave out prefix and length.")
    blank = "_" if asked.blank is None else asked.blank
    if asked.infill is None and asked.blank is not None:
        raise Refusal(f"blank is {blank!r}, a sign in the text that --infill gives; say --infill, or leave it out.")
    if asked.out is not None and asked.out.suffix != ".txt":
        raise Refusal(f"out is {asked.out}; write a .txt.")
    if (asked.run / "config.json").exists() and not (asked.run / "recipe.json").exists():
        _print(asked, _published(asked))
        return
    if len(blank) != 1:
        raise Refusal(f"blank is {blank!r}; give one sign, which stands for one token.")
    if asked.infill is not None and blank not in asked.infill:
        raise Refusal(f"infill has no blank {blank!r}; let each such sign stand for a token to be written.")
    from langevin.recipes.opening import open_run
    from langevin.recipes.written import written

    texts = written(
        open_run(asked.run, asked.weights, device=asked.device), count=asked.count, prefix=asked.prefix, infill=asked.infill,
        blank=blank, length=asked.length, plan=asked.plan, temperature=asked.temperature, top=asked.top,
        words=asked.contains, tokens=asked.tokens, clamp=asked.clamp, best_of=asked.best_of, seed=asked.seed,
        attributes=asked.attributes, classifier=asked.classifier,
    )  # fmt: skip
    _print(asked, texts)


def _published(asked: _Write) -> list[str]:
    names = ("contains", "tokens", "attributes", "classifier", "clamp", "weights")
    further = {name: getattr(asked, name) for name in names}
    for name, value in further.items():
        if value not in ((), None):
            raise Refusal(f"{name} is for runs, and {asked.run} is a published model; leave it out.")
    if asked.best_of != 1:
        raise Refusal(f"best_of is {asked.best_of}, which is for runs, and {asked.run} is a published model; leave it out.")
    from langevin.recipes.written import published

    return published(
        asked.run, count=asked.count, prefix=asked.prefix, infill=asked.infill, blank=asked.blank, length=asked.length,
        plan=asked.plan, temperature=asked.temperature, top=asked.top, seed=asked.seed, device=asked.device,
    )  # fmt: skip


def _print(asked: _Write, texts: Sequence[str]) -> None:
    from langevin.files import write as save

    page = "\n----\n".join(texts) + "\n"
    if asked.out is None:
        print(page, end="")
        return
    try:
        print(save(asked.out, page))
    except OSError:  # what it took long to write is not lost for want of a place
        print(page, end="", flush=True)
        raise
