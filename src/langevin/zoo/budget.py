"""A plan of memory before anything is loaded: one ladder, of which as few steps are taken as a budget asks for.

    1. the weights as their files have them (those in 8 bits as bfloat16, in which they are computed)
    2. half precision, with the islands in float32 that each family needs
    3. the autoencoder in tiles, one picture at a time
    4. layers wait in the machine's memory and visit the device in turn (no help where the device is the CPU)
    5. linear weights in int8, by torchao (extra `quant`)

Steps 2 and 3 change pictures a little, 4 not at all but costs time, 5 more than 2. Told by names and headers; imports no torch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from langevin.header import Entry
from langevin.zoo.detect import Found, Part, amount

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
TILE = 512
"""Pixels of a tile's side."""
STEPS = ("as it is", "half precision", "tiles", "layers in turn", "int8")
_TABLES = re.compile(r"token_embedding|position_embedding|embed_tokens|shared\.weight|embedding_table|pos_embed")
_BLOCK = re.compile(r"(.*?(?:(?:down|up)_blocks\.\d+\.(?:resnets|attentions)\.\d+|(?:in|out)put_blocks\.\d+\.\d+|\.\d+|^\d+))\.")


def parsed(budget: str | int) -> int:
    """ "8GB", "7.5 GiB" or a number of bytes -> bytes.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(budget))
    if found is None or found[2].lower() not in UNITS or not float(found[1]):
        raise ValueError(f"budget is {budget!r}; give an amount of memory such as 8GB or 7.5GiB.")
    return int(float(found[1]) * UNITS[found[2].lower()])


@dataclass(frozen=True)
class Ladder:
    """What a model takes at each step, and how many steps are taken.

    Attributes:
        budget: bytes. needs: by step, about how many bytes at once; None where the step is no help. taken: the last step.
        half: the dtype of half precision. factor: pixels of a latent on each side.
        size: (width, height) of the picture that it is planned for; None where that cannot be told, and weights alone count.
    """

    budget: int
    needs: tuple[int | None, ...]
    taken: int
    half: str
    factor: int
    size: tuple[int, int] | None

    @property
    def dtype(self) -> str | None:
        """Of the weights; None for that of the files."""
        return self.half if self.taken >= 1 else None

    @property
    def tile(self) -> int | None:
        """Side of the autoencoder's tiles, in latents."""
        return max(TILE // self.factor, 4) if self.taken >= 2 else None

    @property
    def offload(self) -> bool:
        return self.taken >= 3 and self.needs[3] is not None

    @property
    def int8(self) -> bool:
        return self.taken >= 4

    def __str__(self) -> str:
        picture = "weights alone" if self.size is None else f"with one picture of {self.size[0]} x {self.size[1]}"
        lines = [f"budget {amount(self.budget)}, {picture}:"]
        for k, (name, need) in enumerate(zip(STEPS, self.needs, strict=True)):
            name = self.half if k == 1 else name
            said = "no help on this device" if need is None else f"about {amount(need)}"
            mark = "->" if k == self.taken else "  "
            lines.append(f"{mark} {k + 1}. {name:16} {said}")
        return "\n".join(lines)


def fit(
    found: Found, budget: str | int, device: str = "cpu", size: tuple[int, int] | None = None, half: str = "bfloat16",
    beside: Iterable[Part] = (),
) -> Ladder:  # fmt: skip
    """The fewest steps with which a model fits.

    Args:
        found: the model, see `detect`. beside: parts that are loaded from elsewhere.
        device: its kind: cpu, cuda, ...
        size: of the picture in pixels; that of the model by default.

    Raises:
        ValueError: if it does not fit with all of them, saying what it takes then.
    """
    limit = parsed(budget)
    parts = [part for part in (*found.parts, *beside) if part.entries]
    picture = found.picture
    network = decoder = tiled = 0
    if picture is not None:
        size = size or picture.size
        share = size[0] * size[1] / (picture.size[0] * picture.size[1])
        network, decoder = int(picture.network * share), int(picture.decoder * share)
        tiled = min(decoder, int(picture.decoder * TILE**2 / (picture.size[0] * picture.size[1])))
    entries = [e for part in parts for e in part.entries]
    own, count = sum(_bytes(e, 2) if e.dtype.startswith("F8_") else e.size for e in entries), sum(e.count for e in entries)
    halved, eighth = sum(_bytes(e, 2) for e in entries), sum(_bytes(e, 1 if _linear(e) else 2) for e in entries)
    turns, small = _in_turn(parts, lambda e: _bytes(e, 2)), _in_turn(parts, lambda e: _bytes(e, 1 if _linear(e) else 2))
    away = device != "cpu"
    needs = (
        own + int(max(network, decoder) * min(own / max(4 * count, 1), 1)),  # in the dtype of the files
        halved + max(network, decoder) // 2,
        halved + max(network, tiled) // 2,
        turns + max(network, tiled) // 2 if away else None,
        (small if away else eighth) + max(network, tiled) // 2,
    )
    taken = next((k for k, need in enumerate(needs) if need is not None and need <= limit), None)
    if taken is None:
        least = min(need for need in needs if need is not None)
        raise ValueError(
            f"budget is {amount(limit)}, and {found.path.name} takes about {amount(least)} with every step of the ladder; give "
            "more, or a smaller size."
        )
    return Ladder(limit, needs, taken, half, 8 if picture is None else picture.factor, size if picture is not None else None)


def _bytes(entry: Entry, width: int) -> int:
    """Of a tensor whose numbers have `width` bytes each; int8 has scales besides."""
    return int(entry.count * width * (1.02 if width == 1 else 1))


def _linear(entry: Entry) -> bool:
    """Whether it is the weight of a linear layer, which int8 makes smaller."""
    return len(entry.shape) == 2 and entry.name.endswith("weight") and _TABLES.search(entry.name) is None


def _in_turn(parts: Iterable[Part], size: Any) -> int:
    """Bytes on the device when each block visits it alone: the largest block, and what stands in no block."""
    rest, largest = 0, 0
    for part in parts:
        blocks: dict[str, int] = {}
        for e in part.entries:
            found = _BLOCK.match(e.name)
            if found is None:
                rest += size(e)
            else:
                blocks[found[1]] = blocks.get(found[1], 0) + size(e)
        largest = max([largest, *blocks.values()])
    return rest + largest
