"""langevin lora and langevin ema, and how adapters are written in words."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.files import writable


def strengths(words: Sequence[str]) -> dict[Path, float]:
    """("a.safetensors", "b.safetensors:0.5", "folder", "owner/name:0.3") -> strengths by file, folder or id, 1 by default."""
    found: dict[Path, float] = {}
    for word in words:
        bare = word.endswith(".safetensors") or ":" not in word or Path(word).exists()
        file, _, strength = (word, "", "1") if bare else word.rpartition(":")
        try:
            found[Path(file)] = float(strength)
        except ValueError:
            raise Refusal(f"lora is {word!r}; give FILE.safetensors, a folder or an id, or one with :STRENGTH.") from None
        if not math.isfinite(found[Path(file)]):
            raise Refusal(f"lora is {word!r}; give a finite strength, 1 as it was trained.")
    return found


@dataclass(frozen=True)
class _LoRA:
    run: Positional[Path]
    """Run directory."""
    out: Path
    """File to write (.safetensors)."""


def lora(args: Sequence[str]) -> None:
    """Write the adapters that a run has trained, to be used with --lora."""
    asked = parse(_LoRA, args, "langevin lora")
    target(asked.out)
    from langevin.recipes.opening import open_run
    from langevin.recipes.weights import save_adapters

    run = open_run(asked.run)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{save_adapters(run.denoiser, asked.run, asked.out)}: use it as --lora {shlex.quote(str(asked.out))}")


@dataclass(frozen=True)
class _EMA:
    run: Positional[Path]
    """Run directory; its training stored power-function averages."""
    sigma_rel: float
    """Relative width wanted, such as 0.05."""
    out: Path | None = None
    """File to write (.safetensors); weights/sigma_rel-WIDTH.safetensors in the run by default."""
    at: int | None = None
    """Samples seen; all by default."""


def ema(args: Sequence[str]) -> None:
    """Make the average of another width from those that a run stored, to be used with --weights."""
    asked = parse(_EMA, args, "langevin ema")
    when = "" if asked.at is None else f"-at-{asked.at}"
    out = asked.out or asked.run / "weights" / f"sigma_rel-{asked.sigma_rel:g}{when}.safetensors"
    target(out)
    writable(out, "out")
    from langevin.recipes.opening import open_run
    from langevin.recipes.weights import write_average

    _, record = write_average(open_run(asked.run).denoiser, asked.run, asked.sigma_rel, out, asked.at)
    print(f"from {len(record['snapshots'])} stored averages up to {record['samples']} samples, misfit {record['misfit']:.2g}")
    print(f"{out}: use it as --weights {shlex.quote(str(out))}")


def target(out: Path) -> None:
    """Refuse a name that hides what the file is."""
    if out.suffix != ".safetensors":
        raise Refusal(f"out is {out}; write a .safetensors.")


@dataclass(frozen=True)
class _Publish:
    run: Positional[Path]
    """Run directory; of pictures, by a U-Net with a published layout: the recipe emoji's, or one of --network.style ddpm, on a
    table of levels; or of an autoencoder."""
    out: Path
    """Folder to make."""


def publish(args: Sequence[str]) -> None:
    """Write a run in the layout of diffusers, for others to use."""
    asked = parse(_Publish, args, "langevin publish")
    from langevin.recipes.opening import open_run
    from langevin.recipes.publishing import publish as written

    run = open_run(asked.run)
    made = written(run, asked.out)
    coder = run.recipe.process.kind == "none"  # an autoencoder, which draws nothing by itself
    named = shlex.quote(str(made))
    print(f"{made}: use it as --codec.origin {named}" if coder else f"{made}: draw with langevin generate {named}")
