"""Samples as pictures: grids, animations and plots."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from langevin.files import staged
from langevin.record import LONGEST, RECORD, read_record

__all__ = [
    "LONGEST", "RECORD", "grid", "plot_levels", "plot_loss", "plot_plan", "plot_points", "pyplot", "read_record",
    "save_captioned", "save_gif", "save_images", "save_png", "to_uint8",
]  # fmt: skip


def to_uint8(x: Any) -> np.ndarray:
    """(N, C, H, W) in [-1, 1], or uint8 as it is -> (N, H, W, C) uint8.

    Args:
        x: a tensor or an array; PIL images, or one; or a list of tensors (C, H, W).

    Raises:
        ValueError: if there are none, they differ in size, or a value is not finite, which would be a black pixel without a word.
    """
    x = torch.as_tensor(_stacked(x))
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.numel():
        raise ValueError(f"pictures have shape {tuple(x.shape)}; give (N, 1 or 3, H, W), at least one.")
    if x.dtype == torch.uint8:
        return x.permute(0, 2, 3, 1).cpu().numpy()
    if not x.is_floating_point():
        raise ValueError(f"pictures are {x.dtype}; give floats in [-1, 1], or uint8.")
    if not bool(x.isfinite().all()):
        raise ValueError("the pictures hold values that are not finite; the model or the plan diverged.")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _stacked(x: Any) -> Any:
    """Pictures of a list as one array; what is one is left as it is."""
    pictures = [x] if isinstance(x, Image.Image) else x
    if not isinstance(pictures, (list, tuple)) or not pictures:
        return x
    of_pil = all(isinstance(one, Image.Image) for one in pictures)
    if of_pil:
        mode = "L" if all(one.mode in ("1", "L") for one in pictures) else "RGB"
        arrays = [np.atleast_3d(np.asarray(one.convert(mode))).transpose(2, 0, 1) for one in pictures]
    elif all(isinstance(one, (Tensor, np.ndarray)) for one in pictures):
        arrays = [torch.as_tensor(one) for one in pictures]
    else:
        return x
    if len(shapes := {tuple(one.shape) for one in arrays}) > 1:
        first, other = sorted(shapes)[:2]
        raise ValueError(f"the pictures differ in shape, such as {first} and {other}; bring them to one, or save each by itself.")
    return np.stack(arrays) if of_pil else torch.stack(arrays)  # pyright: ignore[reportArgumentType, reportCallIssue]


def grid(x: Any, columns: int = 10, scale: int | None = None, gap: int = 1) -> Image.Image:
    """Pictures, in any form of `to_uint8`, as one, row by row, small ones enlarged without smoothing."""
    pictures = to_uint8(x)
    if columns < 1:
        raise ValueError(f"columns is {columns}; give at least 1.")
    n, height, width, channels = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    scale = scale or max(1, 48 // max(height, width))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_images(x: Any, path: str | Path, columns: int = 10, record: Mapping[str, Any] | None = None) -> Path:
    """Write a grid of pictures (N, C, H, W) in [-1, 1]; returns the path.

    Args:
        x: as they are, or bytes; a list of them (C, H, W); or PIL images, as `lv.load(...)` draws them.
        record: how they were made, in plain values, which a .png tells (`read_record`, `langevin inspect`).

    Raises:
        ValueError: for a record in a file of another kind, and as `to_uint8` and `save_png`.
    """
    return _written(grid(x, columns), path, record)


def _written(image: Image.Image, path: str | Path, record: Mapping[str, Any] | None) -> Path:
    """A picture in a file of the kind that its name says."""
    path = Path(path)
    if record is not None:
        if path.suffix.lower() != ".png":
            raise ValueError(f"record is given, and {path.name} is of a kind that keeps none; write a .png, or leave record out.")
        return save_png(image, path, record)
    with staged(path) as beside:
        image.save(beside)
    return path


def save_captioned(
    x: Any, texts: Sequence[str], path: str | Path, columns: int = 10, record: Mapping[str, Any] | None = None
) -> Path:
    """Write a grid of pictures (N, C, H, W) in [-1, 1], each above its caption; returns the path. `record`: see `save_images`."""
    small = to_uint8(x)
    n, height, width, _ = small.shape
    scale = max(1, 96 // max(height, width))
    font, line, lines = ImageFont.load_default(11), 13, 3
    wide, high, columns = width * scale + 8, height * scale + lines * line + 8, min(columns, n)
    sheet = Image.new("RGB", (columns * wide, -(-n // columns) * high), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(small, texts, strict=True)):
        left, top = i % columns * wide + 4, i // columns * high + 4
        shown = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
        sheet.paste(shown.resize((width * scale, height * scale), Image.Resampling.NEAREST), (left, top))
        rows = textwrap.wrap(text, max(4, wide // 6))[:lines]
        pen.text((left, top + height * scale + 1), "\n".join(rows), fill="black", font=font, spacing=1)
    return _written(sheet, path, record)


def save_png(image: Image.Image, path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Write a PNG that says how it was made; `read_record` reads it back.

    Args:
        record: plain values, of at most 64 KiB as JSON.

    Raises:
        ValueError: if the record is longer, or not plain.
    """
    info = PngInfo()
    if record is not None:
        info.add_text(RECORD, _text(record))
    path = Path(path)
    with staged(path) as beside:
        image.save(beside, format="PNG", pnginfo=info)
    return path


def _text(record: Mapping[str, Any]) -> str:
    """A record as a PNG keeps it. Raises ValueError as `save_png`."""
    text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    if len(text) > LONGEST:
        raise ValueError(f"the record has {len(text)} characters, and a PNG takes {LONGEST} here; leave some of it out.")
    return text


def save_gif(frames: Sequence[Any], path: str | Path, columns: int = 10, ms: int = 80, hold: int = 1500) -> Path:
    """Write an animation of grids, in any form of `save_images`; the last frame stays for `hold` ms. Raises ValueError where
    there is no frame."""
    if not frames:
        raise ValueError("there are no frames; give at least one grid of pictures (N, C, H, W).")
    pictures = [grid(frame, columns) for frame in frames]
    durations = [ms] * (len(pictures) - 1) + [hold]
    with staged(path) as beside:
        pictures[0].save(beside, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return Path(path)


def pyplot():  # noqa: ANN201  # matplotlib is an extra, so its types cannot stand in a signature
    """matplotlib without a screen.

    Raises:
        ImportError: naming the extra.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("plots need matplotlib; install the extra: pip install 'langevin[plot]'.") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _finished(figure: Any, path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    figure.tight_layout()
    with staged(path) as beside:
        figure.savefig(beside, metadata=None if record is None else {RECORD: _text(record)})
    pyplot().close(figure)
    return Path(path)


def _log(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def plot_loss(log: str | Path, path: str | Path) -> Path:
    """Loss against steps from a run's log, on a logarithmic scale, with a running mean."""
    plt = pyplot()
    lines = _log(log)
    steps, loss = [line["step"] for line in lines], np.array([line["loss"] for line in lines])
    figure, axes = plt.subplots(figsize=(7, 4), dpi=110)
    axes.plot(steps, loss, alpha=0.3, linewidth=0.8, label="batch")
    window = max(len(loss) // 40, 1)
    if len(loss) > window:
        mean = np.convolve(loss, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], mean, label=f"mean of {window}")
    if held := [(line["step"], line["valid"]) for line in lines if "valid" in line]:
        axes.plot(*zip(*held, strict=True), marker=".", label="held out")
    axes.set(xlabel="step", ylabel="loss", yscale="log" if (loss > 0).all() else "linear")
    axes.legend()
    axes.grid(alpha=0.3)
    return _finished(figure, path)


def plot_levels(log: str | Path, path: str | Path) -> Path:
    """Loss by bin of level against steps, from the entries "levels/0.1-0.2" or "levels/<leaf>/0.1-0.2" of a run's log; one
    panel per leaf.

    Raises:
        ValueError: if the log has none.
    """
    lines = _log(log)
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("levels/"):
                *leaf, where = key.split("/")[1:]
                curves.setdefault("/".join(leaf), {}).setdefault(where, []).append((line["step"], value))
    if not curves:
        raise ValueError(f"{log} has no losses by level; train with an objective that reports them.")
    plt = pyplot()
    figure, panels = plt.subplots(1, len(curves), figsize=(1 + 6 * len(curves), 4), dpi=110, squeeze=False)
    for axes, (leaf, bins) in zip(panels[0], curves.items(), strict=True):
        for where in sorted(bins, key=lambda w: float(w.split("-")[0])):
            steps, loss = zip(*bins[where], strict=True)
            axes.plot(steps, loss, linewidth=0.9, color=plt.get_cmap("viridis")(float(where.split("-")[0])), label=where)
        positive = all(loss > 0 for curve in bins.values() for _, loss in curve)
        axes.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear", title=leaf)
        axes.legend(title="level (0 data)", fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        axes.grid(alpha=0.3)
    return _finished(figure, path)


def plot_points(points: Sequence[tuple[str, Tensor]], path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Point sets (N, 2) side by side, each with its title; `record` as of `save_png`."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(points), figsize=(4 * len(points), 4), dpi=110, squeeze=False, sharex=True, sharey=True)
    for ax, (title, xy) in zip(axes[0], points, strict=True):
        ax.scatter(*xy.cpu().numpy().T, s=3, alpha=0.4, linewidths=0)
        ax.set(title=title, aspect="equal")
    return _finished(figure, path, record)


def plot_plan(plan: Any, path: str | Path) -> Path:
    """A sampler's table as a picture: the way down in levels, evaluation by evaluation, and the weights of each row."""
    plt = pyplot()
    figure, (way, table) = plt.subplots(1, 2, figsize=(11, 4), dpi=110)
    at = [row.level for row in plan.rows if row.level is not None] + [plan.rows[-1].stop]
    way.step(range(1, len(at) + 1), at, where="post", marker="o", markersize=3)
    way.set(xlabel="evaluation (the last point is the sample)", ylabel="level t (0 data, 1 noise)", title=plan.name)
    way.set_ylim(-0.02, 1.02)
    way.grid(alpha=0.3)
    depth = max(len(row.mix) for row in plan.rows)
    weights = np.full((len(plan.rows), depth), np.nan)
    for i, row in enumerate(plan.rows):
        weights[i, : len(row.mix)] = row.mix
    limit = float(np.nanmax(np.abs(weights))) or 1.0
    shown = table.imshow(weights, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit)
    table.set(xlabel="evaluation, newest first", ylabel="row", title=f"weights, basis {plan.basis}")
    table.set_xticks(range(depth))
    figure.colorbar(shown, ax=table)
    return _finished(figure, path)
