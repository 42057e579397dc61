"""Models that take less memory than their weights: layers that visit the device, autoencoders in tiles, weights in int8."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from langevin.tasks.generate import Generator

Place = Callable[[Tensor], Tensor]


class Turns:
    """The blocks of a network wait where they are, and visit a device while they are called; everything else lives there, and so
    does the block with the first weight, by which a network's place is told.

    Outputs are those of the network on the device, to the bit. A network in turns serves one request at a time.

    Args:
        net: with its weights where they wait. device: where it computes.
        place: puts a tensor there; for those who want to watch.

    Attributes:
        blocks: that take turns.
    """

    def __init__(self, net: nn.Module, device: torch.device | str, place: Place | None = None) -> None:
        self.place: Place = place or (lambda value: value.to(device, non_blocking=True))
        from langevin.training.activations import blocks  # brings all of training, which few requests need

        first = next(net.parameters())
        self.blocks = [b for b in blocks(net) if not any(p is first for p in b.parameters())]
        taken = {id(p) for block in self.blocks for p in block.parameters()}
        self._waiting: dict[int, list[tuple[nn.Parameter, Tensor]]] = {}
        for block in self.blocks:
            pinned = torch.device(device).type == "cuda"
            held = [(p, p.data.pin_memory() if pinned and type(p.data) is Tensor else p.data) for p in block.parameters()]
            self._waiting[id(block)] = held
            for value in block.buffers():
                value.data = value.data.to(device)
            block.register_forward_pre_hook(self._arrive)
            block.register_forward_hook(self._leave, always_call=True)
        for value in (*net.parameters(), *net.buffers()):
            if id(value) not in taken:
                value.data = value.data.to(device)

    def _arrive(self, block: nn.Module, args: Any) -> None:
        for parameter, waiting in self._waiting[id(block)]:
            parameter.data = self.place(waiting)

    def _leave(self, block: nn.Module, args: Any, out: Any) -> None:
        for parameter, waiting in self._waiting[id(block)]:
            parameter.data = waiting


def in_turns(model: Generator, device: torch.device | str) -> Generator:
    """The same generator, the blocks of all its networks visiting the device one by one."""
    for net in networks(model):
        Turns(net, device)
    return model


def arranged(model: Generator) -> str | None:
    """Why nothing can be added to the networks of a generator any more, in words; None if it can.

    What takes turns is listed as the turns are arranged: weights that come later would stay where they are made. To weights in
    int8 nothing can be added without rounding them again.
    """
    for net in networks(model):
        hooks = (hook for module in net.modules() for hook in module._forward_pre_hooks.values())
        if any(isinstance(getattr(hook, "__self__", None), Turns) for hook in hooks):
            return "its layers visit the device in turn"
        if any(type(p.data) is not Tensor for p in net.parameters()):
            return "its weights are in int8"
    return None


def networks(model: Generator) -> list[nn.Module]:
    """The networks of a generator, each once."""
    found = [net for net, _ in model.parts.values()]
    return found or [part for part in (model.denoiser, model.codec, model.conditioner) if isinstance(part, nn.Module)]


def tiled(model: Generator, tile: int) -> Generator:
    """A generator whose autoencoder codes tiles of so many latents on a side, one picture at a time."""
    codec: Any = model.codec
    if codec is None or not hasattr(codec, "tile"):
        return model
    return model.but(codec=type(codec)(codec.net, codec.scale, tile, slices=1))


def in_int8(model: Generator) -> Generator:
    """The same generator with the weights of linear layers in int8, each row with a scale of its own (torchao).

    What is added to weights, adapters, is to be merged before.

    Raises:
        ImportError: naming the extra.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("int8 weights need torchao; pip install 'langevin[quant]', or give a larger budget.") from None
        for net in networks(model):
            quantize_(net, Int8WeightOnlyConfig())
    return model
