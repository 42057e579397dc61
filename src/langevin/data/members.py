"""What the members of a sample in a tar shard mean."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langevin.data import tar
from langevin.data.decode import SUFFIXES, Unreadable, decode, measure, read_npy, read_text

_PICTURES = {s.removeprefix(".") for s in SUFFIXES}
FACTS = {"cls", "txt", "json"}


def is_data(extension: str) -> bool:
    """Whether members of this extension are x."""
    return extension in _PICTURES or extension == "npy"


def extension_of(members: Iterable[str]) -> str:
    """The extension of x.

    Raises:
        Unreadable: if there is none, or more than one.
    """
    found = sorted(filter(is_data, members))
    if len(found) != 1:
        raise Unreadable(f"it has {' and '.join(found) or 'neither picture nor npy'}; there must be one")
    return found[0]


def looked_at(data: Mapping[str, bytes]) -> tuple[int, ...]:
    """Read the whole of a sample and forget it: (height, width) of its picture, or the shape of its array.

    Raises:
        Unreadable: if any part of it cannot be read.
    """
    extension = extension_of(data)
    arrays(data)
    return tuple(_numbers(data["npy"]).shape) if extension == "npy" else measure(io.BytesIO(data[extension]))


def arrays(data: Mapping[str, bytes]) -> dict[str, Tensor]:
    """What NAME.npy hold, by name."""
    return {e.removesuffix(".npy"): _numbers(d) for e, d in data.items() if e.endswith(".npy")}


@dataclass(frozen=True)
class Reader:
    """From the members of a sample to tensors.

    By extension: one of png, jpg, jpeg, webp, bmp, gif, npy is x; cls is cond["label"], an integer; NAME.npy is cond[NAME],
    such as an embedding; txt, or json with "caption" or "text", is the caption; json may have "label" too. All else is left
    alone.
    """

    size: int
    channels: int
    labels: bool = field(default=True, repr=False)
    """False leaves labels unread."""

    def x(self, data: Mapping[str, bytes]) -> Tensor:
        """(C, H, W) uint8, or the array."""
        found = extension_of(data)
        if found == "npy":
            return _numbers(data[found])
        return decode(io.BytesIO(data[found]), (self.size, self.size), self.channels)

    def cond(self, data: Mapping[str, bytes]) -> dict[str, Tensor]:
        """Conditions by name."""
        label = facts(data)[0] if self.labels else None
        return ({} if label is None else {"label": torch.tensor(label)}) | arrays(data)


def join(rows: Sequence[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """(name, tensors) of each sample to tensors (B, ...).

    Raises:
        ValueError: naming a sample that does not fit the first.
    """
    first, like = rows[0]
    for name, tensors in rows:
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in like.items()}:
            raise ValueError(
                f"{name} has {_shapes(tensors)} where {first} has {_shapes(like)}; give all samples the same shapes."
            )
    return {n: torch.stack([t[n] for _, t in rows]) for n in like}


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{n} {tuple(t.shape)}" for n, t in sorted(tensors.items())) or "nothing"


def _numbers(data: bytes) -> Tensor:
    try:
        return torch.from_numpy(read_npy(data).copy())
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable("its npy holds a type that torch lacks") from None


def facts(data: Mapping[str, bytes]) -> tuple[int | None, str | None]:
    """(label, caption) of a sample.

    Raises:
        Unreadable: if they are not what their extensions say.
    """
    said: dict[str, object] = {}
    if "json" in data:
        try:
            said = dict(json.loads(data["json"]))
        except (ValueError, TypeError, RecursionError):
            raise Unreadable("its json is no object") from None
    label, text = said.get("label"), said.get("caption", said.get("text"))
    if "cls" in data:
        try:
            label = int(data["cls"][:32])
        except ValueError:
            raise Unreadable("its cls is no integer") from None
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        raise Unreadable(f"its label is {str(label)[:40]!r}; labels are integers from 0")
    if "txt" in data:
        text = read_text(data["txt"])
    if text is not None and not isinstance(text, str):
        raise Unreadable("its caption is no text")
    return label, text


def packed(sample: tar.Sample) -> dict[str, bytes]:
    """The bytes that were read with the headers, by extension."""
    return {e: m.data for e, m in sample.members.items() if m.data is not None}


@contextmanager
def naming(sample: tar.Sample) -> Iterator[None]:
    """Says which sample cannot be read."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"{sample} cannot be read: {error}.") from None
