"""An autoencoder as diffusion uses it: pictures to latents of about unit variance, in as little memory as one likes.

Shape suffixes: B batch, C channels, H W height and width of pictures, h w of latents.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langevin.networks.autoencoder import Autoencoder, GaussianCode, Scale


class LatentCodec(nn.Module):
    """Between pictures (B, 3, H, W) in [-1, 1] and latents (B, C, H / factor, W / factor), scaled as they are diffused.

    A tiny autoencoder is one as well, and shows what another's latents will look like.

    Args:
        net: the autoencoder. scale: its own by default.
        tile: side of a tile in latents; larger ones are coded in tiles that overlap, and blended where they do. Norms and
            attention then see a tile and not the picture, so the result differs a little. None for no tiles.
        overlap: of neighbouring tiles, in latents; a quarter of a tile by default.
        slices: how many pictures are coded at once; None for all of a batch.

    Raises:
        ValueError: for tiles that are smaller than three times their overlap.
    """

    def __init__(
        self,
        net: Autoencoder,
        scale: Scale | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        slices: int | None = None,
    ) -> None:
        super().__init__()
        self.net, self.scale = net, net.scale if scale is None else scale
        self.tile, self.slices = tile, slices
        self.overlap = (tile or 0) // 4 if overlap is None else overlap
        if tile is not None and not 0 <= 3 * self.overlap <= tile:
            raise ValueError(f"overlap is {self.overlap} for a tile of {tile}; make it a third of a tile at most.")
        if slices is not None and slices < 1:
            raise ValueError(f"slices is {slices}; code one picture at once at least.")
        self._widen()

    @property
    def factor(self) -> int:
        return self.net.factor

    @property
    def channels(self) -> int:
        return self.net.latents

    def _widen(self) -> None:
        """What overflows in float16 runs in float32."""
        if self.scale.upcast and any(p.dtype == torch.float16 for p in self.net.parameters()):
            self.net.float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        made = super()._apply(fn, recurse)
        self._widen()
        return made

    def code(self, x: Tensor) -> GaussianCode:
        """What the encoder says of pictures x, in the autoencoder's own scale and dtype."""
        self._check(x)
        if self.net.gaussian:
            said = self._pieces(x.to(self._dtype), self._moments, self.factor, down=True)
            mean, logvar = said.chunk(2, dim=1)
            return GaussianCode(mean, logvar)
        return GaussianCode(self._pieces(x.to(self._dtype), lambda part: self.net.encode(part).mean, self.factor, down=True))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x (B, 3, H, W); latents of x's dtype: the mode, or the draw that standard noise (B, C, h, w) makes."""
        code = self.code(x)
        return self.scale.shrunk(code.mode if noise is None else code.sample(noise.to(code.mean.dtype))).to(x.dtype)

    def decode(self, z: Tensor, quantise: bool = True) -> Tensor:
        """z (B, C, h, w) as they are diffused; pictures of z's dtype, in about [-1, 1].

        Args:
            quantise: see `Autoencoder.decode`.
        """
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(f"latents have the shape {tuple(z.shape)}; this autoencoder's are (B, {self.channels}, h, w).")
        latents = self.scale.grown(z.to(self._dtype))
        return self._pieces(latents, lambda part: self.net.decode(part, quantise), self.factor, down=False).to(z.dtype)

    forward = decode

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or min(x.shape[2:]) < self.factor:
            raise ValueError(
                f"pictures have the shape {tuple(x.shape)}; give (B, 3, H, W) with sides of {self.factor} pixels at least."
            )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    def _moments(self, x: Tensor) -> Tensor:
        code = self.net.encode(x)
        assert code.logvar is not None
        return torch.cat([code.mean, code.logvar], dim=1)

    def _pieces(self, x: Tensor, code: Callable[[Tensor], Tensor], factor: int, down: bool) -> Tensor:
        """`code` of x, some pictures and a tile at a time."""
        parts = [x] if self.slices is None else x.split(self.slices)
        made = [self._tiled(part, code, factor, down) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _tiled(self, x: Tensor, code: Callable[[Tensor], Tensor], factor: int, down: bool) -> Tensor:
        height, width = (self.net.side(n) if down else n for n in x.shape[2:])
        if self.tile is None or max(height, width) <= self.tile:
            return code(x)
        read, write = (factor, 1) if down else (1, factor)
        out: Tensor | None = None
        rows, columns = _spans(height, self.tile, self.overlap), _spans(width, self.tile, self.overlap)
        for row in rows:
            for column in columns:
                # the last tile takes pixels that no latent is left for, as the whole picture would
                ends = [None if span.falls is None and down else span.stop * read for span in (row, column)]
                part = code(x[..., row.start * read : ends[0], column.start * read : ends[1]])
                weight = row.weight(write, part)[:, None] * column.weight(write, part)
                if out is None:
                    out = part.new_zeros(*part.shape[:2], height * write, width * write, dtype=torch.float32)
                place = out[..., row.start * write : row.stop * write, column.start * write : column.stop * write]
                place += part * weight
        assert out is not None
        return out.to(x.dtype)


@dataclass(frozen=True)
class _Span:
    """Where a tile lies along one axis, in latents, and where it takes over from the one before and yields to the one after."""

    start: int
    stop: int
    rises: int | None
    falls: int | None
    over: int

    def weight(self, scale: int, like: Tensor) -> Tensor:
        """((stop - start) * scale,) float32; with the weights of the neighbours it is 1."""
        places = torch.arange(self.start * scale, self.stop * scale, device=like.device) + 0.5
        made = torch.ones_like(places)
        for begin, sign in ((self.rises, 1), (self.falls, -1)):
            if begin is not None:
                risen = ((places - begin * scale) / max(self.over * scale, 1e-3)).clamp(0, 1)
                made = made * (risen if sign == 1 else 1 - risen)
        return made


def _spans(length: int, tile: int, overlap: int) -> list[_Span]:
    """Tiles that cover a length, evenly, each blending with the next over `overlap`, in the middle of what both cover."""
    if length <= tile:
        return [_Span(0, length, None, None, overlap)]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    seams = [b + (a + tile - b - overlap) // 2 for a, b in zip(starts, starts[1:], strict=False)]
    return [_Span(s, s + tile, r, f, overlap) for s, r, f in zip(starts, [None, *seams], [*seams, None], strict=True)]
