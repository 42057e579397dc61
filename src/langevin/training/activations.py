"""Activation checkpointing: the inside of each block is computed again in the backward pass instead of kept (1604.06174)."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(net: nn.Module, listed: bool = False) -> list[nn.Module]:
    """The outermost modules that stand in lists, are called themselves, and have weights."""
    out = []
    for child in net.children():
        container = type(child).forward is nn.Module.forward or isinstance(child, nn.Sequential)
        if listed and not container and any(True for _ in child.parameters()):
            out.append(child)
        else:
            out += blocks(child, isinstance(child, (nn.ModuleList, nn.Sequential)))
    return out


def recompute(net: nn.Module) -> None:
    """Keep only what enters each of the network's blocks, and compute the rest again when gradients ask for it.

    Gradients are the same, dropout's masks too: the generator is put back to where it was. Parameters keep their names. Blocks
    without modules of their own, such as a single convolution, stay as they are, for there is nothing to save.
    """
    for block in blocks(net):
        if any(True for _ in block.children()) and not isinstance(vars(block).get("forward"), functools.partial):
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
