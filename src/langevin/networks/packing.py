"""Networks laid out for inference on a CPU: oneDNN's own order of weights, made once and not at every call.

What is gained depends on the processor (`bench/linear.py`). The operators are internal to torch and are tried before use.
"""

from functools import lru_cache
from itertools import zip_longest
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.convolution import APART, Conv2d, allowed, convolve, filters, possible
from langevin.networks.linear import Linear

# channels, in and out, from which on a convolution of any picture is worth its transforms
LEAST_CHANNELS = 2 * APART
UNSAVED = "a packed network holds no weights to save; save the network before it is packed."


def _check(x: Tensor, weight: Tensor) -> None:
    """What a packed layer is given."""
    if x.dtype != weight.dtype or x.device.type != "cpu":
        raise ValueError(f"x is {x.dtype} on {x.device}, this layer is packed for {weight.dtype} on a CPU; pack it so.")
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError("a packed network is for inference and knows no gradients; use the network before it is packed.")


class _LaidOut(nn.Module):
    """What has its weight in an order of its own."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        # for those who ask for its shape or dtype; there are no numbers in it
        self.weight = torch.empty_like(layer.weight, device="meta", requires_grad=False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ValueError(UNSAVED)


class Packed(_LaidOut):
    """A linear layer for inference on a CPU, whose weight oneDNN has laid out once in the order it reads it in.

    Args:
        layer: that it is made from, float32 or bfloat16.
        gelu: "tanh" or "none", the form of a GELU that follows and is done while the products are at hand; None for no GELU.
    """

    def __init__(self, layer: nn.Linear, gelu: str | None = None) -> None:
        super().__init__(layer)
        self.in_features, self.out_features, self.gelu = layer.in_features, layer.out_features, gelu
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features).

        Raises:
            ValueError: where gradients are asked for, and for another dtype or device than the weight's.
        """
        _check(x, self.weight)
        post = ("none", [], "") if self.gelu is None else ("gelu", [], self.gelu)
        out = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, self.in_features), self.packed, self.bias, *post)
        return out.unflatten(0, x.shape[:-1])


class PackedConvolution(_LaidOut):
    """A convolution of pictures for inference on a CPU, whose weight oneDNN has laid out once in the order it reads it in. As
    torch has it, that is done again at every call, which at 8 x 8 pixels takes as long as the products.

    Args:
        layer: that it is made from, float32 or bfloat16, padded with zeros.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.in_channels, self.out_channels, self.kernel_size = layer.in_channels, layer.out_channels, layer.kernel_size
        padding = layer.padding
        assert not isinstance(padding, str)
        self.how = [list(padding), list(layer.stride), list(layer.dilation), layer.groups]
        # the order may follow the picture's size, and what is laid out for another one is laid out anew
        shape = [2, layer.in_channels, 32, 32]
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *self.how, shape)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H', W'), with channels side by side in memory.

        Raises:
            ValueError: where gradients are asked for, and for another dtype or device than the weight's.
        """
        _check(x, self.weight)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.how, "none", [], "")


class PackedWinograd(_LaidOut):
    """A 3 x 3 convolution in float32 for inference on a CPU by `langevin.networks.convolution`, whose filters were transformed
    and laid out once. They take 16 / 9 of the memory of those that it is made from.

    Args:
        layer: that it is made from.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.in_channels, self.out_channels, self.kernel_size = layer.in_channels, layer.out_channels, layer.kernel_size
        self.packed = [torch.ops.mkldnn._reorder_linear_weight(place) for place in filters(layer.weight.detach())]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H, W), in x's order in memory.

        Raises:
            ValueError: where gradients are asked for, and for another dtype or device than the weight's.
        """
        _check(x, self.weight)
        return convolve(x, self.out_channels, self.bias, lambda _: self._multiply)

    def _multiply(self, place: int, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed[place], None, "none", [], "")


def _packable(module: nn.Module) -> bool:
    """Whether it is a convolution whose call is torch's alone, without groups, and padded with zeros."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module) in (nn.Conv2d, Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _wide(layer: nn.Conv2d) -> bool:
    """Whether so few products are worth their transforms at every size of picture."""
    least = min(layer.in_channels, layer.out_channels)
    return possible(layer) and layer.weight.dtype is torch.float32 and least >= LEAST_CHANNELS and allowed()


def pack(net: nn.Module) -> nn.Module:
    """The network, changed into one for inference on a CPU alone: its linear layers become `Packed`, a GELU that follows one in
    an `nn.Sequential` is done along with it, its convolutions become `PackedConvolution`, the wide ones `PackedWinograd` with
    16 / 9 of their memory, and the weights as they were are let go. What it gains depends on the processor (`bench/linear.py`).

    Raises:
        ValueError: for a network that is not on a CPU, of other dtypes than float32 and bfloat16, or where this build of torch
            cannot do it.
    """
    layers = [m for m in net.modules() if type(m) is Linear or _packable(m)]
    for layer in cast("list[Linear]", layers):
        if layer.weight.dtype not in (torch.float32, torch.bfloat16) or layer.weight.device.type != "cpu":
            raise ValueError(
                f"weights are {layer.weight.dtype} on {layer.weight.device}; pack a network in float32 or bfloat16, on a CPU."
            )
    if not _packs():
        raise ValueError("this build of torch cannot pack layers; use the network as it is.")
    for module in list(net.modules()):
        children = list(module.named_children())
        for (name, child), follower in zip_longest(children, children[1:]):
            if _packable(child):
                conv = cast(nn.Conv2d, child)
                setattr(module, name, PackedWinograd(conv) if _wide(conv) else PackedConvolution(conv))
            if type(child) is not Linear:
                continue
            after = follower[1] if follower is not None and type(module) is nn.Sequential else None
            gelu = after.approximate if isinstance(after, nn.GELU) else None
            setattr(module, name, Packed(child, gelu))
            if gelu is not None and follower is not None:
                setattr(module, follower[0], nn.Identity())
    return net


@lru_cache
def _packs() -> bool:
    """The operators are internal to torch, as those of `library`."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.no_grad():
        layer = nn.utils.skip_init(Linear, 5, 4)
        assert isinstance(layer, Linear) and layer.bias is not None
        layer.weight.copy_(torch.arange(20.0).reshape(4, 5).remainder(7))
        layer.bias.copy_(torch.arange(4.0))
        x = torch.arange(15.0).reshape(3, 5).remainder(7)
        try:
            products = torch.equal(Packed(layer)(x), F.linear(x, layer.weight, layer.bias))
            conv = nn.utils.skip_init(nn.Conv2d, 2, 3, 3, padding=1, stride=2)
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.weight.copy_(torch.arange(54.0).reshape(3, 2, 3, 3).remainder(7))
            conv.bias.copy_(torch.arange(3.0))
            picture = torch.arange(60.0).reshape(1, 2, 6, 5).remainder(5)
            products = products and torch.equal(PackedConvolution(conv)(picture), conv(picture))
            return products and torch.allclose(Packed(layer, "tanh")(x), F.gelu(layer(x), approximate="tanh"))
        except (AttributeError, RuntimeError, TypeError):
            return False
