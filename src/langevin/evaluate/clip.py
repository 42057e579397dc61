"""CLIP (2103.00020) as a judge: embeddings of pictures beside those of texts, from a folder as transformers publishes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.evaluate.features import colour
from langevin.networks.text import PictureEncoder, TextEncoder
from langevin.tensors import digest
from langevin.text.tokens import Tokenizer
from langevin.zoo.families.clip import COMPONENTS
from langevin.zoo.family import built, fill
from langevin.zoo.hub import read_object
from langevin.zoo.store import Weights, open_weights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that the published networks were trained on."""
BEYOND = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Tensors of a file that no embedding depends on."""
_PARTS = {part.name: part for part in COMPONENTS}


class CLIP(nn.Module):
    """Pictures (B, 1 or 3, H, W) in [-1, 1], and texts, -> embeddings (B, D), which are compared by their angle.

    Args:
        pictures, texts: with projections to the same D.
        tokenizer: of the texts.
        mean, std: by channel, of what `pictures` sees.
    """

    name, batch = "CLIP", 100

    def __init__(
        self,
        pictures: PictureEncoder,
        texts: TextEncoder,
        tokenizer: Callable[[Sequence[str], int], tuple[Tensor, Tensor]],
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.pictures, self.texts, self.tokenizer = pictures, texts, tokenizer
        self.mean, self.std = tuple(mean), tuple(std)
        self.resize = f"short side bicubic to {pictures.side}, antialiased, and the middle"
        self.hash = digest(self.state_dict())[:16]

    def digest(self) -> str:
        return self.hash

    def features(self, x: Tensor) -> Tensor:
        x, side = colour(x), self.pictures.side
        height, width = x.shape[2:]
        if min(height, width) != side:
            tall, wide = (side * n // min(height, width) for n in (height, width))
            for size in ((height, wide), (tall, wide)):  # 8 bits after each direction, as programs that make pictures do
                x = F.interpolate(x, size, mode="bicubic", antialias=True).round().clamp(0, 255)
        top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
        x = x[:, :, top : top + side, left : left + side] / 255
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return self.pictures((x - mean) / std).pooled

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of texts, on the CPU; what is beyond the limit of the network is left unread."""
        device = next(self.parameters()).device
        parts = []
        for first in range(0, len(texts), self.batch):
            ids, _ = self.tokenizer(texts[first : first + self.batch], self.texts.length)
            parts.append(self.texts(ids.to(device)).pooled.cpu())
        return torch.cat(parts)

    def probabilities(self, features: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class _Piece:
    """Some tensors of a file."""

    weights: Weights
    begins: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [name for name in self.weights.names if name.startswith(self.begins) and name not in BEYOND]

    def read(self, name: str) -> Tensor:
        return self.weights.read(name)


def load_clip(folder: str | Path, device: torch.device | str = "cpu") -> CLIP:
    """The CLIP that a folder holds: config.json of a CLIPModel, its weights in safetensors, and its tokenizer; how pictures are
    brought to it is in preprocessor_config.json, or as published first. Nothing is ever downloaded.

    Raises:
        ImportError: without the library tokenizers (pip install 'langevin[text]').
        ValueError: if the folder holds anything else, in one sentence that names the file or the tensor.
    """
    folder = Path(folder)
    config = read_object(folder / "config.json")
    if config.get("model_type") != "clip":
        raise ValueError(
            f"{folder / 'config.json'} is of {str(config.get('model_type'))[:40]!r}; give the folder of a CLIPModel."
        )
    weights = open_weights(folder)
    ends = {"projection_dim": config.get("projection_dim", 512)}
    nets = []
    for side, name, begins in (
        ("vision_config", "CLIPVisionModelWithProjection", ("vision_model.", "visual_projection.")),
        ("text_config", "CLIPTextModelWithProjection", ("text_model.", "text_projection.")),
    ):
        said: Mapping[str, Any] = {**_object(config, side), **_object(config, f"{side}_dict"), **ends}
        part, what = _PARTS[name], f"{folder}, {side}"
        net = fill(part, built(part, said, what), said, _Piece(weights, begins), what, torch.float32)
        nets.append(net.eval().requires_grad_(False))
    odd = [n for n in weights.names if n not in BEYOND and not n.startswith(("vision_model.", "visual_", "text_"))]
    if odd:
        raise ValueError(f"{folder} has the tensor {odd[0]!r}, which no CLIP has; it is another network.")
    mean, std = _brought(folder, nets[0].side)
    return CLIP(nets[0], nets[1], Tokenizer(folder), mean, std).eval().to(device)


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _brought(folder: Path, side: int) -> tuple[Sequence[float], Sequence[float]]:
    """(mean, std) of what the picture network sees, from the file beside it.

    Raises:
        ValueError: for a file that brings pictures to it in another way than `CLIP.features`.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return MEAN, STD
    said = read_object(file)
    sizes = [v for key in ("size", "crop_size") for v in _sides(said.get(key, side))]
    if any(v != side for v in sizes) or said.get("resample", 3) != 3:
        raise ValueError(
            f"{file} brings pictures to {sizes} by resample {said.get('resample', 3)}; here it is {side}, bicubic (3)."
        )
    found = [said.get("image_mean", MEAN), said.get("image_std", STD)]
    if not all(isinstance(v, (list, tuple)) and len(v) == 3 and all(isinstance(n, (int, float)) for n in v) for v in found):
        raise ValueError(f"{file} has image_mean and image_std {str(found)[:80]}; they are three numbers each.")
    return found[0], found[1]


def _sides(size: Any) -> list[Any]:
    return list(size.values()) if isinstance(size, dict) else [size]
