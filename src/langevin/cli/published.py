"""What is done with published files: langevin inspect and convert."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Convert:
    source: Positional[Path]
    """A file of torch.save (.ckpt, .pt, .pth, .bin), or a published folder with such files."""
    target: Positional[Path]
    """The .safetensors to write; of a folder, the folder to make."""
    part: str | None = None
    """What to take of a training program's file, such as ema, model or state_dict; all for everything."""
    ignore: tuple[str, ...] = ()
    """Names in the file, as the refusal tells them, that are passed over. They are not run either way."""


def convert(args: Sequence[str]) -> None:
    """Write the weights of an old file as safetensors; nothing in it is run."""
    asked = parse(_Convert, args, "langevin convert")
    from langevin.zoo.convert import convert_file, convert_folder
    from langevin.zoo.hub import resolve

    source = resolve(asked.source).path
    if source.is_dir():
        if asked.part is not None:
            raise Refusal(f"part is {asked.part}, and {source} is a folder; convert one of its files to choose a part.")
        if asked.target.suffix == ".safetensors":
            raise Refusal(f"target is {asked.target}, and {source} is a folder; name a folder to make.")
        print("\n".join(convert_folder(source, asked.target, asked.ignore)))
        return
    if asked.target.suffix != ".safetensors":
        raise Refusal(f"target is {asked.target}; write a .safetensors.")
    asked.target.parent.mkdir(parents=True, exist_ok=True)
    print(convert_file(source, asked.target, asked.part, asked.ignore))


@dataclass(frozen=True)
class _Inspect:
    path: Positional[str]
    """A run directory, a checkpoint, a published folder or file, the id of a repository that was fetched before, or a picture
    (.png) that was drawn here."""
    verify: bool = False
    """Read every file of its checkpoints and compare the hashes."""
    variant: str | None = None
    """Of a published folder, the variant of its weights to tell, such as fp16."""


def inspect(args: Sequence[str]) -> None:
    """Say what a path is and what it needs. Reads names and headers only, unless asked to verify; imports no torch."""
    asked = parse(_Inspect, args, "langevin inspect")
    from langevin.inspection import describe, is_ours, is_picture
    from langevin.zoo.detect import detect
    from langevin.zoo.hub import resolve

    path = Path(asked.path)
    if is_ours(path) or (is_picture(path) and not asked.verify):
        print(describe(path, asked.verify))
        return
    if asked.verify:
        raise Refusal(f"verify is set, and {path} is no run or checkpoint of langevin; others come without hashes to compare.")
    found = detect(resolve(asked.path, fetch=False).path, asked.variant)
    print(found if found.path.suffix != ".safetensors" else f"{found}\n{describe(found.path)}")
