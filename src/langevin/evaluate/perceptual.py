"""Perceptual distances d(a, b) between pictures: differences of what a network sees, not of pixels (LPIPS, 1801.03924).

Features of each layer are divided by their length at each pixel, so that

    d(a, b) = sum over layers l, mean over pixels of  sum_c w_lc (a^_lc - b^_lc)^2,   a^ = a / (|a| + 1e-10),

with weights that were fitted to people's judgements (`lpips`), or all of them 1 (`Features`). All are modules with frozen weights
through which gradients flow to the pictures; objectives that take a distance accept them, and keep them out of checkpoints.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.evaluate.classifier import Classifier
from langevin.evaluate.weights import load_strict, read_safetensors

Maps = Callable[[Tensor], Sequence[Tensor]]
"""Pictures (B, C, H, W) in [-1, 1] -> feature maps (B, C_l, H_l, W_l), one per layer."""


def unit(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) divided by their length at each pixel."""
    return x / (_length(x) + 1e-10)


def _length(x: Tensor) -> Tensor:
    # the root has no derivative at 0, where maps often are after ReLU
    square = x.square().sum(1, keepdim=True)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def compare(maps: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """(B,) from each layer's maps (2B, C, H, W), of some pictures and then of others, and its weights (1, C, 1, 1)."""
    total: Any = 0.0
    for m, weight in zip(maps, weights, strict=True):
        one, other = unit(m).chunk(2)
        total = total + ((one - other).square() * weight).sum(1).mean((1, 2))
    return total


class Features(nn.Module):
    """The distance with all weights 1.

    Args:
        maps: any function, or the `Maps64` of one of our own classifiers.
        hash: of its weights, by which a resumed run knows it again.
    """

    def __init__(self, maps: Maps, hash: str = "") -> None:
        super().__init__()
        self.maps = maps.eval().requires_grad_(False) if isinstance(maps, nn.Module) else maps
        self.hash = hash

    def __repr__(self) -> str:
        named = getattr(self.maps, "__name__", type(self.maps).__name__)
        return f"Features({named}{f', {self.hash}' if self.hash else ''})"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1], twice -> (B,)."""
        maps = self.maps(torch.cat([a, b]))  # one call for both
        return compare(maps, [1.0] * len(maps))

    def train(self, mode: bool = True) -> "Features":
        """A distance does not learn: no dropout."""
        return super().train(False)


class Maps64(nn.Module):
    """The maps of a `Classifier` after each of its rectified convolutions."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.body = classifier.body

    def forward(self, x: Tensor) -> list[Tensor]:
        out = []
        for layer in self.body:
            if isinstance(layer, nn.Flatten):
                break
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                out.append(x)
        return out


def features(maps: Maps | Classifier) -> Features:
    """The distance of feature maps, of one of our own classifiers or of any function from pictures to maps."""
    return Features(Maps64(maps), maps.digest()) if isinstance(maps, Classifier) else Features(maps)


def _vgg16() -> tuple[list[nn.Module], list[int]]:
    """VGG16 up to its last rectified convolution (1409.1556, table 1, D), and where maps are taken: relu1_2 ... relu5_3."""
    layers: list[nn.Module] = []
    kept, channels = [], 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, 2)] if layers else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        kept.append(len(layers) - 1)
    return layers, kept


def _alexnet() -> tuple[list[nn.Module], list[int]]:
    """AlexNet's convolutions as torchvision has them (1404.5997), and where maps are taken: after each ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip
    return layers, [1, 4, 7, 9, 11]


MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the pictures that the backbones were trained on, in [-1, 1]."""
BACKBONES = {"vgg16": (_vgg16, (3, 3)), "alexnet": (_alexnet, (11, 11))}
"""Layers, and the size of the first kernel, by which a file is told."""


class LPIPS(nn.Module):
    """LPIPS v0.1 with one of two backbones. Tensors are named features.N, as torchvision has them, and lin0, ..., lin4.

    Args:
        backbone: "vgg16" or "alexnet".
        size: pictures are resized until their shorter side has so many pixels, by linear interpolation; None leaves them. The
            code of consistency models (2303.01469) compares at 224.
    """

    def __init__(self, backbone: str, size: int | None = None) -> None:
        super().__init__()
        layers, self.kept = BACKBONES[backbone][0]()
        self.backbone, self.size, self.hash = backbone, size, ""
        self.features = nn.Sequential(*layers)
        widths = [next(m for m in reversed(layers[: k + 1]) if isinstance(m, nn.Conv2d)).out_channels for k in self.kept]
        for k, width in enumerate(widths):
            self.register_parameter(f"lin{k}", nn.Parameter(torch.ones(1, width, 1, 1)))
        self.requires_grad_(False).eval()

    def __repr__(self) -> str:
        return f"LPIPS({self.backbone}, {self.hash}{'' if self.size is None else f', size={self.size}'})"

    def train(self, mode: bool = True) -> "LPIPS":
        """A distance does not learn: no dropout."""
        return super().train(False)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 1 or 3, H, W) in [-1, 1] -> the five maps.

        Raises:
            ValueError: for other shapes, or pictures too small for the backbone.
        """
        least = 16 if self.backbone == "vgg16" else 31
        if self.size is not None and x.ndim == 4:
            sides = [max(round(self.size * side / min(x.shape[2:])), 1) for side in x.shape[2:]]
            x = F.interpolate(x, sides, mode="bilinear", align_corners=False)
        if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < least:
            raise ValueError(
                f"pictures have shape {tuple(x.shape)}; LPIPS ({self.backbone}) compares (B, 1 or 3, H, W) of at least {least} "
                "pixels a side: resize smaller ones, by size=64."
            )
        mean, deviation = (x.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        x, out = (x.expand(-1, 3, -1, -1) - mean) / deviation, []
        for k, layer in enumerate(self.features):
            x = layer(x)
            if k in self.kept:
                out.append(x)
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, 1 or 3, H, W) in [-1, 1], twice -> (B,)."""
        return compare(self.maps(torch.cat([a, b])), [self.get_parameter(f"lin{k}") for k in range(len(self.kept))])


def lpips(
    path: str | Path, heads: str | Path | None = None, device: torch.device | str = "cpu", size: int | None = None
) -> LPIPS:
    """LPIPS from safetensors files on this machine. Nothing is ever downloaded.

    Args:
        path: the published module with backbone and heads (net.slice1.0.weight, ..., lin0.model.1.weight, ...), or a backbone
            alone as torchvision names it (features.0.weight, ...).
        heads: the published heads (lin0.model.1.weight, ...), where they are a file of their own.
        size: see `LPIPS`.

    Raises:
        ValueError: if `size` is below 1, or a file is damaged, of another layout or backbone, or holds weights below 0 in its
            heads.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}; give the shorter side that pictures are compared at in pixels, such as 64.")
    path, whole = Path(path), hashlib.sha256()
    found: dict[str, Tensor] = {}
    for file in (path, *([] if heads is None else [Path(heads)])):
        tensors, digest = read_safetensors(file)
        whole.update(digest.encode())
        found |= {_name(name): value for name, value in tensors.items()}
    found = {n: v for n, v in found.items() if not n.startswith(("classifier.", "lins.", "scaling_layer."))}
    first = found.get("features.0.weight")
    kind = None if first is None else next((n for n, (_, size) in BACKBONES.items() if tuple(first.shape[2:]) == size), None)
    if kind is None:
        raise ValueError(f"{path} is no LPIPS in its published names, with VGG16 or AlexNet; give its safetensors file.")
    with torch.device("meta"):
        net = LPIPS(kind, size)
    load_strict(net, found, path)
    if any(bool((net.get_parameter(f"lin{k}") < 0).any()) for k in range(len(net.kept))):
        raise ValueError(f"{path} has heads with weights below 0, which is no distance; give published ones.")
    net.hash = whole.hexdigest()[:16]
    return net.eval().requires_grad_(False).to(device)


def _name(published: str) -> str:
    """net.slice2.5.bias -> features.5.bias; lin0.model.1.weight -> lin0."""
    name = re.sub(r"^net\.slice\d\.", "features.", published)
    return re.sub(r"^lin(\d)\.model\.\d\.weight$", r"lin\1", name)
