"""Low-rank adapters (LoRA, 2106.09685) on the linear and convolutional layers of any network, and freezing by name.

A layer W gets  W x + strength (alpha / rank) B A x  with A (rank x in) drawn at random and B (out x rank) zero at first. A
convolution's A is a convolution of its own shape with `rank` outputs, and B one of size 1 x 1. The layer itself is not
replaced: it keeps its class, its place and the names of its weights; the adapter is a submodule `lora` and a forward hook.

Patterns are shell globs over dotted names, joined by "|", as in "*.query|*.key_value"; one that matches nothing is an error.
"""

import difflib
import fnmatch
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from langevin.networks.convolution import Conv2d
from langevin.networks.linear import Linear
from langevin.strengths import factor
from langevin.tensors import digest, load, metadata, save

LARGEST = 2.0**30
"""Alpha: a larger one is none that was trained, and soon none that float32 holds."""
FORMAT = "langevin-lora-1"
Layer = nn.Linear | nn.Conv2d


class LoRA(nn.Module):
    """The product B A for one layer. Computes in float32 (float64 where the layer does), whatever the layer's dtype.

    Args:
        layer: what it is added to. rank: of the product. alpha: the product is scaled by alpha / rank.
        dropout: on the input of A. generator: draws A; without one A is zero, to be filled in.
        scales: (rank,), a factor for each row of A, where products that were scaled differently stand in one.
    """

    factor: Tensor
    scales: Tensor | None

    def __init__(
        self,
        layer: Layer,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        scales: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self._strength = rank, alpha, 1.0
        self.dropout = nn.Dropout(dropout)
        dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
        # a tensor, so that a compiled model need not be compiled again for another strength
        self.register_buffer("factor", torch.ones((), dtype=dtype), persistent=False)
        self.down: Layer
        self.up: Layer
        made: dict[str, Any] = {"bias": False, "dtype": dtype, "device": "meta"}  # no drawing from the global generator
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, **made)
            self.up = nn.Linear(rank, layer.out_features, **made)
        else:
            like = {n: getattr(layer, n) for n in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
            self.down = nn.Conv2d(layer.in_channels, rank, **like, **made)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, **made)
        self.to_empty(device="cpu")
        if generator is None:
            nn.init.zeros_(self.down.weight)
        else:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.up.weight)
        self.register_buffer("scales", None if scales is None else scales.to(dtype), persistent=False)
        self.to(layer.weight.device)

    @property
    def strength(self) -> float:
        """How much it counts."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = value
        self.factor.fill_(value * (self.alpha / self.rank))

    def _apply(self, fn: Any, recurse: bool = True) -> "LoRA":
        wide = self.factor.dtype
        super()._apply(fn, recurse)
        self.factor = self.factor.to(wide)  # one number, which needs no half precision
        self.strength = self._strength
        return self

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, strength={self.strength:g}"

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """What is added to the layer's output; `factor` () in place of that of its own strength."""
        x = self.dropout(x.to(self.down.weight.dtype))
        x = self.down(x)
        if self.scales is not None:
            x = x * (self.scales if isinstance(self.down, nn.Linear) else self.scales[:, None, None])
        return self.up(x) * (self.factor if factor is None else factor)

    def delta(self) -> Tensor:
        """What is added to the layer's weight, (out, in) or (out, in, h, w)."""
        down = self.down.weight.flatten(1)
        product = self.up.weight.flatten(1) @ (down if self.scales is None else down * self.scales[:, None])
        return product.reshape(len(product), *self.down.weight.shape[1:]) * self.factor


class Adapters(nn.ModuleDict):
    """The adapters of one layer, by name; what they say is added to its output."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.handle = layer.register_forward_hook(_add, with_kwargs=True)


def _add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
    x = args[0] if args else kwargs["input"]
    if callable(prepared := getattr(layer, "prepared", None)):
        x = prepared(*args, **kwargs)
    for name, adapter in _adapters(layer).items():
        out = out + adapter(x, factor(adapter.factor, name, adapter.alpha / adapter.rank)).to(out.dtype)
    return out


def _layers(model: nn.Module) -> dict[str, Layer]:
    """Layers that can be adapted, by name."""
    ours = {id(part) for module in model.modules() if isinstance(module, LoRA) for part in module.modules()}
    # attention of torch's own reads the weight and never calls the layer, so that a hook would be passed over
    passed = NonDynamicallyQuantizableLinear
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not isinstance(module, passed) and id(module) not in ours
    }


def _adapters(layer: nn.Module) -> Mapping[str, LoRA]:
    """The adapters of a layer, by name."""
    held = getattr(layer, "lora", None)
    return {n: a for n, a in held.items() if isinstance(a, LoRA)} if isinstance(held, Adapters) else {}


def _adapted(model: nn.Module, name: str) -> dict[str, Layer]:
    """Layers that have adapters called `name`."""
    layers = _layers(model)
    found = {n: layer for n, layer in layers.items() if name in _adapters(layer)}
    if not found:
        there = sorted({key for layer in layers.values() for key in _adapters(layer)})
        raise ValueError(f"the model has no adapters named {name!r}; it has {', '.join(there) or 'none'}.")
    return found


def _match(patterns: str, names: list[str], what: str) -> list[str]:
    """The names that one of the patterns matches, in order."""
    for pattern in patterns.split("|"):
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern.replace("*", ""), names, 3, 0)
            raise ValueError(f"{pattern!r} matches no {what}; the nearest are {', '.join(near) or 'none at all'}.")
    return [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns.split("|"))]


def freeze(model: nn.Module, patterns: str) -> list[str]:
    """Stop training the parameters that match; their names.

    Raises:
        ValueError: if a pattern matches none.
    """
    parameters = dict(model.named_parameters())
    names = _match(patterns, list(parameters), "parameter")
    for name in names:
        parameters[name].requires_grad_(False)
    return names


def trainable(model: nn.Module, patterns: str) -> list[str]:
    """Train the parameters that match and no others; their names. Raises as `freeze`."""
    parameters = dict(model.named_parameters())
    names = _match(patterns, list(parameters), "parameter")
    model.requires_grad_(False)
    for name in names:
        parameters[name].requires_grad_(True)
    return names


def lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 8.0,
    targets: str = "*",
    dropout: float = 0.0,
    name: str = "default",
    seed: int = 0,
) -> list[str]:
    """Add adapters and freeze everything else. The model computes what it did until they are trained.

    Add them before the optimiser, the average and `torch.compile`.

    Args:
        rank: of each product.
        alpha: each product is scaled by alpha / rank.
        targets: patterns of module names; only linear layers and 2-d convolutions among them count.
        dropout: on the inputs of the adapters.
        name: of this set of adapters; several can be there at once.
        seed: draws A.

    Returns:
        Names of the layers.

    Raises:
        ValueError: if a pattern matches no layer, a layer is a grouped convolution, or the name is taken.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"rank is {rank} and dropout {dropout}; give a rank of at least 1 and a share below 1.")
    layers = _layers(model)
    names = _match(targets, list(layers), "linear or convolutional layer")
    for n in names:
        _check(n, layers[n], name)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for n in names:
        _attach(layers[n], name, LoRA(layers[n], rank, alpha, dropout, generator))
    return names


def _check(layer_name: str, layer: Layer, name: str) -> None:
    if not name or "." in name:
        raise ValueError(f"the adapters are named {name!r}; choose a name without dots.")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ValueError(
            f"{layer_name} is a convolution in {layer.groups} groups, which has no low-rank form here; leave it out of targets."
        )
    if hasattr(layer, "lora") and not isinstance(layer.lora, Adapters):
        raise ValueError(f"{layer_name} has something else called lora; rename that.")
    if name in _adapters(layer):
        raise ValueError(f"{layer_name} has adapters named {name!r} already; choose another name.")


def _attach(layer: Layer, name: str, adapter: LoRA) -> None:
    if not hasattr(layer, "lora"):
        layer.lora = Adapters(layer)
    assert isinstance(layer.lora, Adapters)
    layer.lora[name] = adapter.train(layer.training)


def _detach(layer: Layer, name: str) -> LoRA:
    assert isinstance(layer.lora, Adapters)
    adapter = layer.lora.pop(name)
    if not len(layer.lora):
        layer.lora.handle.remove()
        del layer.lora
    assert isinstance(adapter, LoRA)
    return adapter


def layers(model: nn.Module) -> dict[str, Layer]:
    """Layers that can be adapted, by name: linear ones and 2-d convolutions."""
    return _layers(model)


def attach(model: nn.Module, adapters: Mapping[str, LoRA], name: str = "default") -> None:
    """Add adapters, by layer: all of them or, where one cannot be, none.

    Raises:
        ValueError: if the model has no such layer, or the name is taken.
    """
    found = _layers(model)
    for n in adapters:
        if n not in found:
            raise ValueError(f"the model has no layer {n!r} that can be adapted.")
        _check(n, found[n], name)
    for n, adapter in adapters.items():
        _attach(found[n], name, adapter)


def adapted(model: nn.Module, name: str = "default") -> dict[str, LoRA]:
    """The adapters of a name, by layer; empty if there are none."""
    return {n: held[name] for n, layer in _layers(model).items() if name in (held := _adapters(layer))}


def set_strengths(model: nn.Module, strengths: Mapping[str, float]) -> None:
    """How much each set of adapters counts, by name; 0 switches it off. Others stay as they are.

    Raises:
        ValueError: if the model has no adapters of a name.
    """
    found = {name: _adapted(model, name) for name in strengths}
    for name, layers in found.items():
        for layer in layers.values():
            _adapters(layer)[name].strength = float(strengths[name])


@torch.no_grad()
def merge(model: nn.Module, name: str = "default") -> dict[str, LoRA]:
    """Add adapters into the weights, at their strength, and take them off: the model is a plain one again.

    Returns:
        The adapters by layer, for `unmerge`.

    Raises:
        ValueError: if there are none of this name, or a layer computes something else of its weight than torch's own.
    """
    layers = _adapted(model, name)
    for n, layer in layers.items():
        plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward, Linear.forward, Conv2d.forward)
        if not plain and not hasattr(layer, "prepared"):
            raise ValueError(f"{n} is a {type(layer).__name__} with a forward of its own; its weight cannot take the adapter in.")
    removed = {n: _detach(layer, name) for n, layer in layers.items()}
    _shift(layers, removed, 1)
    return removed


@torch.no_grad()
def unmerge(model: nn.Module, adapters: Mapping[str, LoRA], name: str = "default") -> None:
    """Undo `merge`, up to the rounding of the weights."""
    layers = _layers(model)
    for n in adapters:
        if n not in layers:
            raise ValueError(f"the model has no layer {n!r}; unmerge from the model that was merged.")
        _check(n, layers[n], name)
    _shift(layers, adapters, -1)
    for n, adapter in adapters.items():
        _attach(layers[n], name, adapter)


def _shift(layers: Mapping[str, Layer], adapters: Mapping[str, LoRA], sign: int) -> None:
    for n, adapter in adapters.items():
        weight, delta = layers[n].weight, adapter.delta()
        weight.copy_(weight.to(delta.dtype) + sign * delta)  # rounded once, where weights are of half precision


# Files


def _fingerprint(layers: Mapping[str, Layer]) -> str:
    """SHA-256 of the weights that are adapted."""
    return digest({name: layer.weight for name, layer in layers.items()})


def save_adapters(model: nn.Module, path: str | Path, name: str = "default") -> Path:
    """Write one set of adapters as a safetensors file: `<layer>.lora_A.weight`, `<layer>.lora_B.weight`; rank, alpha and
    a fingerprint of the weights that are adapted in the metadata.

    Raises:
        ValueError: if there are none of this name.
        OSError: if the disk is full.
    """
    layers = _adapted(model, name)
    tensors, said = {}, {}
    for n, layer in layers.items():
        adapter = _adapters(layer)[name]
        tensors[f"{n}.lora_A.weight"], tensors[f"{n}.lora_B.weight"] = adapter.down.weight, adapter.up.weight
        said[n] = {"rank": adapter.rank, "alpha": adapter.alpha}
        if adapter.scales is not None:
            said[n]["scales"] = adapter.scales.tolist()
    return save(path, tensors, {"format": FORMAT, "layers": json.dumps(said), "base": _fingerprint(layers)})


def load_adapters(model: nn.Module, path: str | Path, scale: float = 1.0, name: str = "default") -> list[str]:
    """Add the adapters of a file that `save_adapters` wrote. They are frozen; `trainable(model, "*.lora.<name>.*")` trains them.

    Args:
        scale: their strength.
        name: under which they are kept here.

    Returns:
        Names of the layers.

    Raises:
        ValueError: if the file is damaged, or any of its tensors fits no layer of the model; nothing is added then.

    Warns:
        UserWarning: if they were trained on other weights than those of the model.
    """
    alphas, scales, tensors, base = _read(Path(path))
    layers, made = _layers(model), {}
    for n, alpha in alphas.items():
        if n not in layers:
            near = ", ".join(difflib.get_close_matches(n, list(layers), 20, 0.3)) or "none"
            raise ValueError(f"{path} adapts {n!r}, which the model does not have; the nearest layers are {near}.")
        _check(n, layers[n], name)
        down, up = tensors[f"{n}.lora_A.weight"], tensors[f"{n}.lora_B.weight"]
        given = scales.get(n)
        if given is not None and len(given) != len(down):
            raise ValueError(f"{path} gives {len(given)} scales for {n}, whose rank is {len(down)}.")
        adapter = LoRA(layers[n], len(down), alpha, scales=given)
        for part, value in ((adapter.down, down), (adapter.up, up)):
            if part.weight.shape != value.shape:
                shapes = f"{tuple(value.shape)} for {n}, which takes {tuple(part.weight.shape)}"
                raise ValueError(f"{path} holds {shapes}; it is of another network.")
            part.weight.data.copy_(value)
        adapter.strength = float(scale)
        made[n] = adapter.requires_grad_(False)
    if base != _fingerprint({n: layers[n] for n in made}):
        warnings.warn(f"{path} was trained on other weights than those of this model, or in another dtype.", stacklevel=2)
    for n, adapter in made.items():
        _attach(layers[n], name, adapter)
    return list(made)


def _read(path: Path) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Tensor], str]:
    """alpha and, where there are any, scales by layer; the tensors; and the fingerprint."""
    said, tensors = metadata(path), load(path)
    if said.get("format") != FORMAT:
        raise ValueError(f"{path} has no metadata of format {FORMAT}; give a file that save_adapters wrote.")
    try:
        layers = json.loads(said["layers"])
        alphas = {str(n): float(v["alpha"]) for n, v in layers.items()}
        scales = {str(n): torch.tensor([float(s) for s in v["scales"]]) for n, v in layers.items() if "scales" in v}
        base = said["base"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(f"{path} has damaged metadata.") from None
    expected = {f"{n}.lora_{part}.weight" for n in alphas for part in "AB"}
    if not alphas or expected != set(tensors):
        odd = sorted(expected ^ set(tensors))[:20]
        raise ValueError(f"{path} is not whole: tensors and metadata disagree on {', '.join(odd) or 'everything, it is empty'}.")
    finite = all(abs(a) <= LARGEST for a in alphas.values()) and all(bool(s.isfinite().all()) for s in scales.values())
    if not finite or any(t.ndim not in (2, 4) or not len(t) for t in tensors.values()):
        raise ValueError(f"{path} has an alpha that is not finite or above {LARGEST:g}, or tensors that are no matrices.")
    return alphas, scales, tensors, base
