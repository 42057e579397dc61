"""Averages of any width, after training, from a few that were stored on the way (post-hoc EMA; EDM2, 2312.02696, app. C).

A power-function average of width sigma_i stored at time t_i is the mean of the weights under the density

    p_i(tau) = (g_i + 1) tau^g_i / t_i^(g_i + 1),   0 < tau < t_i.

The density of the wanted average is fitted by sum_i c_i p_i in least squares, with sum_i c_i = 1 so that weights that did
not move come back as they are; the same combination of the stored averages is the answer. Averages kept by `Power` are
these integrals exactly, update by update, so that the only error is that of the fit.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from langevin.tensors import save
from langevin.training.ema import Average, Power, exponent

FORMAT = "langevin-average-1"


@dataclass(frozen=True)
class Snapshot:
    """A power-function average as it was at one time.

    Args:
        samples: seen until then.
        sigma_rel: its relative width.
        tensors: by name; a mapping may read each one when it is asked for.
        buffers: names of what was copied rather than averaged.
        step: number of updates until then.
        path: the file it came from.
    """

    samples: int
    sigma_rel: float
    tensors: Mapping[str, Tensor]
    buffers: frozenset[str] = frozenset()
    step: int | None = None
    path: Path | None = None


class Snapshots:
    """The snapshots in a folder, one safetensors file each, `power-<sigma_rel>-<samples>.safetensors`.

    Args:
        folder: usually `averages/` of a run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(
        self, average: Average, step: int, dtype: torch.dtype | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> Path:
        """Store an average. Each tensor has a checksum in the metadata.

        Args:
            average: of a `Power` profile.
            step: number of updates so far.
            dtype: of the averaged tensors in the file; as they are by default.
            tensors: the average's, put together where they are divided between processes; its own by default.

        Raises:
            ValueError: if the profile is another.
            OSError: if the disk is full; earlier snapshots are untouched.
        """
        if not isinstance(average.profile, Power):
            raise ValueError(f"the average has profile {average.profile}; only Power(sigma_rel) can be combined later.")
        tensors = {
            name: value.detach().to(None if name in average.buffers else dtype).cpu().contiguous()
            for name, value in (average.tensors() if tensors is None else tensors).items()
        }
        said = {
            "format": FORMAT, "sigma_rel": repr(average.profile.sigma_rel), "samples": str(average.samples), "step": str(step),
            "buffers": json.dumps(sorted(average.buffers)), "crc32": json.dumps({n: _crc(v) for n, v in tensors.items()}),
        }  # fmt: skip
        name = f"power-{average.profile.sigma_rel:g}-{average.samples:012d}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        return save(self.folder / name, tensors, said)

    def set_aside(self, samples: int) -> None:
        """Move snapshots that are later than so many samples into earlier/: they are of another run, or will be made again."""
        for path in sorted(self.folder.glob("power-*-*.safetensors")):
            if path.stem.rpartition("-")[2].isdecimal() and int(path.stem.rpartition("-")[2]) > samples:
                (self.folder / "earlier").mkdir(exist_ok=True)
                path.replace(self.folder / "earlier" / path.name)

    def read(self) -> list[Snapshot]:
        """All snapshots, oldest first; their tensors are read one by one when asked for, each against its checksum.

        Raises:
            ValueError: naming a file that is damaged.
        """
        found = [_open(path) for path in sorted(self.folder.glob("power-*-*.safetensors"))]
        return sorted(found, key=lambda s: (s.samples, s.sigma_rel))


def _crc(value: Tensor) -> int:
    return zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data)


class _File(Mapping[str, Tensor]):
    """The tensors of a file, each read and checked when asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, safe_open(path, "pt")
        self.said: dict[str, str] = self._file.metadata() or {}
        self.crc = json.loads(self.said.get("crc32", "{}"))
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        value = self._file.get_tensor(name)
        if self.crc.get(name) != _crc(value):
            raise ValueError(f"{name} in {self.path} does not match its checksum; the file is damaged, remove it.")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _open(path: Path) -> Snapshot:
    try:
        file = _File(path)
        if file.said["format"] != FORMAT:
            raise ValueError("another format")
        numbers = int(file.said["samples"]), float(file.said["sigma_rel"])
        buffers, step = frozenset(json.loads(file.said["buffers"])), int(file.said["step"])
        exponent(numbers[1])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no snapshot of an average, or is damaged ({error}); remove it.") from None
    return Snapshot(*numbers, file, buffers, step, path)


def product(t: Tensor, g: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """Inner product of two profiles, with exponents g and h at times t and u (2312.02696, app. C); float64, broadcast."""
    ratio = torch.where(t < u, (t / u) ** h, (u / t) ** g)
    return (g + 1) * (h + 1) * ratio / ((g + h + 1) * torch.maximum(t, u))


@dataclass(frozen=True)
class Fit:
    """Coefficients of the snapshots, and what is left of the profile: |fitted - wanted| / |wanted| in the L2 norm."""

    coefficients: tuple[float, ...]
    misfit: float


def fit(times: Sequence[int], widths: Sequence[float], sigma_rel: float, at: int) -> Fit:
    """The combination of profiles (times, widths) that is nearest to that of width sigma_rel at time `at`."""
    t = torch.tensor(times, dtype=torch.float64) / at
    g = torch.tensor([exponent(s) for s in widths], dtype=torch.float64)
    one, h = torch.ones((), dtype=torch.float64), torch.tensor(exponent(sigma_rel), dtype=torch.float64)
    gram, wanted = product(t[:, None], g[:, None], t, g), product(t, g, one, h)
    square = product(one, h, one, h)
    # stationary under the constraint, in units in which every profile has norm 1
    size = gram.diagonal().sqrt()
    n = len(times)
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = gram / (size[:, None] * size)
    system[:n, n] = system[n, :n] = 1 / size
    right = torch.cat([wanted / size, one[None]])
    # profiles stored close together are nearly dependent: directions lost to rounding are left out
    c = torch.linalg.lstsq(system, right[:, None], rcond=1e-12, driver="gelsd").solution[:n, 0] / size
    left = (c @ gram @ c - 2 * c @ wanted + square).clamp(min=0) / square
    return Fit(tuple(c.tolist()), float(left.sqrt()))


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, at: int | None = None) -> dict[str, Tensor]:
    """The average of width sigma_rel at time `at`, one tensor in memory at a time besides the result.

    Args:
        snapshots: of one run, of any widths; two widths stored often enough serve for all.
        sigma_rel: relative width wanted.
        at: samples seen; those of the newest snapshot by default. Later snapshots are not used.

    Returns:
        Tensors by name, in the dtype they are stored in; buffers as in the newest snapshot used.

    Raises:
        ValueError: if there is no snapshot in time, or they do not hold the same tensors.
    """
    used, at = _until(snapshots, at)
    newest = used[-1]
    coefficients = fit([s.samples for s in used], [s.sigma_rel for s in used], sigma_rel, at).coefficients
    for s in used:
        if set(s.tensors) != set(newest.tensors):
            name = next(iter(set(s.tensors) ^ set(newest.tensors)))
            raise ValueError(f"{name!r} is not in every snapshot; combine those of one run and one network.")
    out = {}
    for name in newest.tensors:
        if name in newest.buffers:
            out[name] = newest.tensors[name].clone()
            continue
        total = None
        for c, s in zip(coefficients, used, strict=True):
            value = s.tensors[name]
            total = value.new_zeros(value.shape, dtype=torch.float64) if total is None else total
            if value.shape != total.shape:
                raise ValueError(
                    f"{name} has shapes {tuple(total.shape)} and {tuple(value.shape)}; combine those of one network."
                )
            total.add_(value, alpha=c)
        assert total is not None
        out[name] = total.to(newest.tensors[name].dtype)
    return out


def _until(snapshots: Sequence[Snapshot], at: int | None) -> tuple[list[Snapshot], int]:
    at = max((s.samples for s in snapshots), default=0) if at is None else at
    used = sorted((s for s in snapshots if 0 < s.samples <= at), key=lambda s: (s.samples, s.sigma_rel))
    if not used:
        raise ValueError(f"there are no snapshots up to {at} samples; store averages while training, or choose a later time.")
    return used, at


def average_run(folder: str | Path, sigma_rel: float, at: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The average of width sigma_rel of a run, from the snapshots in `folder/averages`, and where it comes from.

    Returns:
        Tensors by name, those of the trainable parameters and the buffers; and a record for JSON: sigma_rel, samples, step of
        the newest snapshot, the files used with their coefficients, and the misfit of the profile.

    Raises:
        ValueError: as `reconstruct`, or if a file is damaged.
    """
    snapshots = Snapshots(Path(folder) / "averages")
    used, at = _until(snapshots.read(), at)
    found = fit([s.samples for s in used], [s.sigma_rel for s in used], sigma_rel, at)
    files = {s.path.name: c for s, c in zip(used, found.coefficients, strict=True) if s.path is not None}
    record = {"sigma_rel": sigma_rel, "samples": at, "step": used[-1].step, "misfit": found.misfit, "snapshots": files}
    return reconstruct(used, sigma_rel, at), record
