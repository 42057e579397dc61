"""What is done with published files: langevin inspect and convert."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Convert:
    source: Positional[str]
    """A file of torch.save (.ckpt, .pt, .pth, .bin), or a published folder with such files; or a published folder, single file or
    id whose files are safe already, to be written in another form."""
    target: Positional[Path]
    """The .safetensors to write, or the folder to make."""
    layout: str | None = None
    """Of safe sources: the layout of the single file, such as stable-diffusion-1 or flux; that of the source or its family
    otherwise."""
    lora: tuple[str, ...] = ()
    """Of safe sources: adapters as FILE or FILE:STRENGTH, merged into the weights."""
    dtype: str | None = None
    """Of safe sources: float32, bfloat16 or float16; as they are otherwise."""
    beside: str | None = None
    """Of a single file: a published folder, or its id, with what the file lacks, such as tokenizers; the folder that is made is
    then a whole model."""
    configs: str | None = None
    """Of a single file that is of no published size: a published folder with its configurations."""
    part: str | None = None
    """What to take of a training program's file, such as ema, model or state_dict; all for everything."""
    ignore: tuple[str, ...] = ()
    """Names in the file, as the refusal tells them, that are passed over. They are not run either way."""


def convert(args: Sequence[str]) -> None:
    """Write the weights of an old file as safetensors, of which nothing is run; or a model that is safe in another form."""
    asked = parse(_Convert, args, "langevin convert")
    from langevin.zoo.convert import convert_file, convert_folder
    from langevin.zoo.hub import resolve
    from langevin.zoo.store import OLD

    source = resolve(asked.source).path
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
    safe = any(file.suffix == ".safetensors" for file in files)
    if safe and not any(file.suffix.lower() in OLD for file in files):
        _again(asked)
        return
    again = {name: getattr(asked, name) for name in ("layout", "lora", "dtype", "beside", "configs") if getattr(asked, name)}
    if again:
        name, value = next(iter(again.items()))
        raise Refusal(f"{name} is {value}, and {source} has files of torch.save; convert those first, and the result then.")
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


def _again(asked: _Convert) -> None:
    """Load a model, and save it."""
    import torch

    from langevin.cli.weights import strengths
    from langevin.zoo.load import load
    from langevin.zoo.saving import save

    dtypes = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked.dtype not in dtypes:
        raise Refusal(f"dtype is {asked.dtype!r}; there are {', '.join(d for d in dtypes if d)}.")
    for name in ("part", "ignore"):
        if getattr(asked, name):
            raise Refusal(f"{name} is of files of torch.save, and {asked.source} is safe already; leave it out.")
    model = load(asked.source, beside=asked.beside, configs=asked.configs, lora=strengths(asked.lora))
    layout = asked.layout
    if isinstance(model, dict) and asked.target.suffix == ".safetensors":
        from langevin.zoo.detect import detect
        from langevin.zoo.hub import resolve

        layout = layout or detect(resolve(asked.source).path).name
    made = save(model, asked.target, layout=layout, dtype=dtypes[asked.dtype])
    if isinstance(model, dict):
        print(f"{made}: {', '.join(model)}; say --beside FOLDER, with tokenizers and what else is lacking, for a whole model")
    else:
        print(made)


@dataclass(frozen=True)
class _Inspect:
    path: Positional[str]
    """A run directory, what lv.fit left, a checkpoint, a published folder or file, the id of a repository that was fetched, or a
    picture (.png) that was drawn here."""
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
        if asked.variant is not None:
            raise Refusal(f"variant is {asked.variant!r}, of published folders, and {path} is of langevin; leave it out.")
        print(describe(path, asked.verify))
        return
    if asked.verify:
        raise Refusal(f"verify is set, and {path} is no run or checkpoint of langevin; others come without hashes to compare.")
    found = detect(resolve(asked.path, fetch=False).path, asked.variant)
    if asked.variant is not None and found.path.is_file():
        raise Refusal(f"variant is {asked.variant!r}, of published folders, and {found.path} is a file; leave it out.")
    print(found if found.path.suffix != ".safetensors" else f"{found}\n{describe(found.path)}")
