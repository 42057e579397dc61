"""The tensors of a component's folder: one safetensors file, or several with an index."""

import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from langevin.header import read_header
from langevin.tensors import load

STEMS = ("diffusion_pytorch_model", "model")


def open_weights(folder: Path) -> tuple[list[str], Callable[[str], Tensor]]:
    """(names, read) of a folder.

    Raises:
        ValueError: if it holds none that are safe to read.
    """
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").is_file():
            files = [folder / f"{stem}.safetensors"]
            break
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            named = json.loads(index.read_text())["weight_map"].values()
            if any(Path(name).name != name for name in named):
                raise ValueError(f"{index} names a file outside its folder.")
            files = [folder / name for name in sorted(set(named))]
            break
    else:
        raise ValueError(f"{folder} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors; convert older files first.")
    place = {entry.name: file for file in files for entry in read_header(file).entries}
    read: dict[Path, dict[str, Tensor]] = {}

    def one(name: str) -> Tensor:
        file = place[name]
        if file not in read:
            read[file] = load(file)
        return read[file][name]

    return list(place), one
