"""A linear layer whose float32 products run on oneDNN where that is the faster library of the two that torch brings.

Torch sends float32 matrix products on a CPU to MKL, which takes its AVX2 kernels on AMD processors even where there is AVX-512;
its convolutions run on oneDNN, which does not. The products are the same to rounding. Which library is used is a function of
the processor, of the shapes and of LANGEVIN_LINEAR alone, never of a timing, so that a resumed run repeats its bits.
"""

import os
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

# below this many multiply-adds the call itself costs more than the product gains
LEAST_WORK = 2**24


@lru_cache
def library() -> str:
    """ "onednn" or "native": what multiplies float32 matrices on this CPU.

    The environment variable LANGEVIN_LINEAR decides, else oneDNN is taken on AMD processors with AVX-512.

    Raises:
        ValueError: if LANGEVIN_LINEAR is neither, or asks for oneDNN where this build of torch cannot run it.
    """
    asked = os.environ.get("LANGEVIN_LINEAR", "")
    if asked not in ("", "native", "onednn"):
        raise ValueError(f"LANGEVIN_LINEAR is {asked!r}; set it to 'native' or 'onednn', or leave it out.")
    if asked == "native" or (not asked and not (_amd() and torch.backends.cpu.get_cpu_capability() == "AVX512")):
        return "native"
    if _works():
        return "onednn"
    if asked:
        raise ValueError("LANGEVIN_LINEAR is 'onednn', which this build of torch cannot run; set it to 'native'.")
    return "native"


def _amd() -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and "AuthenticAMD" in path.read_text()


def _works() -> bool:
    """The operator is internal to torch: it may be missing, take other arguments, or come to mean something else."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.no_grad():
        # small integers: exact in float32, in whatever order they are added up
        x, w, b = (torch.arange(n).remainder(7).float().reshape(s) for n, s in ((15, (3, 5)), (20, (4, 5)), (4, (4,))))
        try:
            strided = torch.equal(_multiply(x.t(), x.t(), None), x.t() @ x)
            return strided and torch.equal(_multiply(x, w, b), F.linear(x, w, b))
        except (AttributeError, RuntimeError, TypeError):
            return False


def _multiply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x (M, K) times w (N, K) transposed, plus b (N,), by oneDNN. Any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")


class _Product(torch.autograd.Function):
    """x (M, K), weight (N, K), bias (N,) -> (M, N)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        again = torch.is_grad_enabled()  # these products will be differentiated in turn
        to_x = to_weight = None
        if wants_x:
            to_x = g @ weight if again else _multiply(g, weight.t(), None)
        if wants_weight:
            if again:
                to_weight = g.t() @ x
            elif g.shape[1] <= x.shape[1]:  # the first factor is copied, so it is the smaller one
                to_weight = _multiply(g.t(), x.t(), None)
            else:
                to_weight = _multiply(x.t(), g.t(), None).t()
        return to_x, to_weight, g.sum(0) if wants_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (N, K), bias (N,) -> (..., N), as `torch.nn.functional.linear`."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    return _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias).unflatten(0, x.shape[:-1])  # pyright: ignore[reportFunctionMemberAccess]


def transformed() -> bool:
    """Whether a transformation of torch.func, or forward differentiation, is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether to leave torch's own way: plain float32 tensors on a CPU, large enough, outside of every transformation."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() * len(weight) >= LEAST_WORK
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
        and library() == "onednn"
    )


class Linear(nn.Linear):
    """`nn.Linear` by `linear`: the same parameters, names and initial values."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


UNSAVED = "a packed network holds no weights to save; save the network before it is packed."


def _check(x: Tensor, weight: Tensor) -> None:
    """What a packed layer is given."""
    if x.dtype != weight.dtype or x.device.type != "cpu":
        raise ValueError(f"x is {x.dtype} on {x.device}, this layer is packed for {weight.dtype} on a CPU; pack it so.")
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError("a packed network is for inference and knows no gradients; use the network before it is packed.")


class Packed(nn.Module):
    """A linear layer for inference on a CPU, whose weight oneDNN has laid out once in the order it reads it in.

    Args:
        layer: that it is made from, float32 or bfloat16.
        gelu: "tanh" or "none", the form of a GELU that follows and is done while the products are at hand; None for no GELU.
    """

    def __init__(self, layer: nn.Linear, gelu: str | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.gelu = layer.in_features, layer.out_features, gelu
        weight, bias = layer.weight.detach(), layer.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = None if bias is None else bias.detach()
        # for those who ask for its shape or dtype; there are no numbers in it
        self.weight = torch.empty_like(weight, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features).

        Raises:
            ValueError: where gradients are asked for, and for another dtype or device than the weight's.
        """
        _check(x, self.weight)
        post = ("none", [], "") if self.gelu is None else ("gelu", [], self.gelu)
        out = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, self.in_features), self.packed, self.bias, *post)
        return out.unflatten(0, x.shape[:-1])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ValueError(UNSAVED)


class PackedConvolution(nn.Module):
    """A convolution of pictures for inference on a CPU, whose weight oneDNN has laid out once in the order it reads it in. As
    torch has it, that is done again at every call, which at 8 x 8 pixels takes as long as the products.

    Args:
        layer: that it is made from, float32 or bfloat16, padded with zeros.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = layer.in_channels, layer.out_channels, layer.kernel_size
        weight, bias, padding = layer.weight.detach(), layer.bias, layer.padding
        assert not isinstance(padding, str)
        self.how = [list(padding), list(layer.stride), list(layer.dilation), layer.groups]
        # the order may follow the picture's size, and what is laid out for another one is laid out anew
        shape = [2, layer.in_channels, 32, 32]
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.how, shape)
        self.bias = None if bias is None else bias.detach()
        self.weight = torch.empty_like(weight, device="meta")  # as in `Packed`

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H', W'), with channels side by side in memory.

        Raises:
            ValueError: where gradients are asked for, and for another dtype or device than the weight's.
        """
        _check(x, self.weight)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.how, "none", [], "")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ValueError(UNSAVED)


def _packable(module: nn.Module) -> bool:
    """Whether it is a convolution whose call is torch's alone, without groups, and padded with zeros."""
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def pack(net: nn.Module) -> nn.Module:
    """The network, changed into one for inference on a CPU alone: its linear layers become `Packed`, a GELU that follows one in
    an `nn.Sequential` is done along with it, its convolutions become `PackedConvolution`, and the weights as they were are let
    go, so that it takes no more memory than before. What it gains depends on the processor (`bench/linear.py`).

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
                setattr(module, name, PackedConvolution(cast(nn.Conv2d, child)))
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
