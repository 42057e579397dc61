"""Tensors of which each process holds a part (FSDP2's DTensor): whole, and divided as another is."""

from torch import Tensor


def is_sharded(value: Tensor) -> bool:
    """Whether each process holds a part of the tensor."""
    return hasattr(value, "full_tensor")


def own(value: Tensor) -> Tensor:
    """The part that this process holds. Nothing is sent."""
    return value.to_local() if is_sharded(value) else value  # pyright: ignore


def full(value: Tensor) -> Tensor:
    """A tensor that may be sharded, whole. To be called by all."""
    return value.full_tensor() if is_sharded(value) else value  # pyright: ignore


def divided_as(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, as this one holds `like`: its own part, if that is sharded. Nothing is sent."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # pyright: ignore
