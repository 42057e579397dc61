"""Many processes: the same run replicated (DDP) or sharded (FSDP2) under torchrun, on gloo or nccl; one process without.

Nothing random or ordered depends on how many there are: each process takes its part of every batch, and gradients are summed.
Whole tensors are put together only where they are written, one at a time.
"""

import gc
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.objectives import Loss, Objective
from langevin.training.activations import blocks
from langevin.training.sharding import divided_as, full, is_sharded

_LONGEST = 1000  # bytes of an error that is passed on
LONGEST_WAIT = timedelta(hours=24)
"""How long a process waits where another may be at work alone: at a preview, an evaluation, a checkpoint on a slow disk. torch
gives up after 10 minutes (nccl) or 30 (gloo), which stays so for gradients. A process that dies is not waited for: its launcher
ends the others, and so does its closed connection."""


@dataclass(frozen=True)
class Group:
    """This process among its peers.

    Args:
        device: where this process computes. rank, world: which of how many. shard: divide weights between them (FSDP2) instead
            of holding them in each (DDP). host: where tensors on the CPU meet and processes wait; the default group if None.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    shard: bool = False
    host: Any = None

    @staticmethod
    def join(device: torch.device, shard: bool = False) -> "Group":
        """What torchrun has set up, as its environment variables say; alone without it.

        Raises:
            ValueError: if weights are to be sharded and there is nobody to share them with.
        """
        world = asked_world()
        if world == 1:
            if shard:
                raise ValueError("shard is set, but there is one process; start several with --processes N or torchrun.")
            return Group(device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        host = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        return Group(device, dist.get_rank(), world, shard, host)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value, group=self._of(value))
        return value

    def gather(self, value: Tensor) -> Tensor:
        """The rows of all processes, (N, ...) of any N each, one process after the other."""
        if self.world == 1:
            return value
        rows = torch.tensor([len(value)], device=value.device)
        counts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(counts, rows, group=self._of(rows))
        most = max(int(c) for c in counts)
        padded = torch.cat([value, value.new_zeros(most - len(value), *value.shape[1:])])
        everyone = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(everyone, padded, group=self._of(padded))
        return torch.cat([each[: int(count)] for each, count in zip(everyone, counts, strict=True)])

    def _of(self, value: Tensor) -> Any:
        return self.host if value.device.type == "cpu" else None

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            dist.barrier(group=self.host)

    def leave(self) -> None:
        """The group is done, and nothing that meets in it may be used any more. To be called by all."""
        if self.world > 1 and dist.is_initialized():
            self.wait()  # none may go while another still talks to it
            gc.collect()
            dist.destroy_process_group()

    def agree(self, error: Exception | None) -> None:
        """Raise in all processes what one of them met, so that none waits for the others forever: an OSError, or a ValueError
        for anything else."""
        if self.world > 1:
            said = torch.zeros(_LONGEST, dtype=torch.uint8)
            kind = b"O" if isinstance(error, OSError) else b"V"
            text = b"" if error is None else (kind + (str(error) or type(error).__name__).encode())[:_LONGEST]
            said[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else 0
            everyone = [torch.empty_like(said) for _ in range(self.world)]
            dist.all_gather(everyone, said, group=self._of(said))
            met = next((bytes(s.tolist()).rstrip(b"\0").decode(errors="replace") for s in everyone if s.any()), None)
            if error is None and met:
                raise (OSError if met[0] == "O" else ValueError)(met[1:])
        if error is not None:
            raise error

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Around what may fail in one process: a refusal, or a disk. It is then raised in all. To be entered by all."""
        error = None
        try:
            yield
        except (ValueError, OSError) as met:
            error = met
        self.agree(error)

    @contextmanager
    def together(self, net: nn.Module) -> Iterator[None]:
        """Around what calls a network in all processes and may fail in one of them: a preview. To be entered by all.

        Where weights are divided, the others fail at their next call of the network, rather than wait in it for the one that is
        gone; all leave together, and none holds the whole weights any more.
        """
        if not self.shard:
            yield
            return

        def others_gone(left: bool) -> int:
            return int(self.sum(torch.tensor(int(left))))

        def meet(*_: Any) -> None:
            if others_gone(False):
                raise RuntimeError("another process could not go on")

        first: Any = torch.compiler.disable(meet)
        hook = net.register_forward_pre_hook(first, prepend=True)  # before that of FSDP2, which gathers the weights
        try:
            yield
        finally:
            hook.remove()
            while others_gone(True) < self.world:
                pass
            reshard(net)

    def check_alike(self, intervals: Sequence[int]) -> None:
        """Refuse hooks of some processes alone where weights are divided: they would wait in the network for the others. To be
        called by all.

        Raises:
            ValueError: in all processes.
        """
        if self.shard:
            mine = torch.tensor([len(intervals), sum(intervals), sum(n * n for n in intervals)])
            alike = torch.equal(self.sum(mine.clone()), self.world * mine)
            error = ValueError("hooks differ between the processes, and divided weights (shard) are whole only where all call "
                               "the network; give each process the same hooks, and write in the first alone.")  # fmt: skip
            self.agree(None if alike else error)

    # Tensors

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as one process would hold them, put together one by one; on the CPU where they were sharded. Empty where
        this process does not write. To be called by all."""
        if self.world == 1:
            return dict(tensors)
        out = {}
        for name, value in tensors.items():
            if (joined := full(value)) is not value:
                joined = joined.cpu() if self.first else joined
            if self.first:
                out[name] = joined
        return out

    def divided(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors as this process holds those of `like`: its own part of what is sharded."""
        if not self.shard:
            return dict(tensors)
        out = {}
        for name, value in tensors.items():
            own = like.get(name)
            fits = own is not None and is_sharded(own) and value.shape == own.shape
            out[name] = divided_as(value.to(self.device), own) if fits else value  # pyright: ignore[reportArgumentType]
        return out

    # Models

    def ready(self, denoiser: Denoiser, objective: Objective) -> "Pass":
        """The forward pass of a training step on this process, which makes the processes' gradients meet."""
        if self.shard:
            _fully_shard(denoiser.net, self.device)
        return Pass(self, denoiser, objective)


class _Losses(nn.Module):
    """Objective and denoiser as one module: DDP wants to see the whole forward pass, however often it calls the network."""

    def __init__(self, denoiser: Denoiser, objective: Objective) -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, objective
        # DDP that looks for weights without a gradient warns where it finds none; this one never has any
        self.spare = nn.Parameter(torch.zeros(1, device=next(denoiser.parameters()).device))

    def forward(self, batch: Batch, noise: Noise) -> Loss:
        loss = self.objective(self.denoiser, batch, noise)
        # DDP takes for used whatever an output depends on, and waits for its gradient: only the total will bring one
        return replace(loss, logs={name: value.detach() for name, value in loss.logs.items()})


class Pass:
    """Calls the objective; `backward` of its loss leaves the mean gradient over processes in every parameter."""

    def __init__(self, group: Group, denoiser: Denoiser, objective: Objective) -> None:
        self.group, self.losses = group, _Losses(denoiser, objective)
        trained = [p for p in denoiser.parameters() if p.requires_grad]
        self.alone = [p for p in trained if group.shard and not is_sharded(p)]
        self.call: Any = self.losses
        if group.world > 1 and not group.shard:
            from torch.nn.parallel import DistributedDataParallel

            device = [group.device] if group.device.type == "cuda" else None
            # always: a network may have weights that no output depends on (the last block of a graph transformer), or use some
            # in some batches alone. Without it DDP would leave gradients as each process has them, and fail or wait for ever at
            # the next update. The search is a walk over the graph in C++: within the noise for 300 small weights on two CPUs
            self.call = DistributedDataParallel(
                self.losses, device_ids=device, gradient_as_bucket_view=True, find_unused_parameters=True
            )

    def __call__(self, batch: Batch, noise: Noise) -> Loss:
        return self.call(batch, noise)

    def end(self) -> None:
        """Let go of what holds the group: a reducer that outlives its group may wait for ever when the process ends."""
        self.call = self.losses

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Around one of several passes of an update: gradients meet in the last alone."""
        if self.group.world > 1 and not self.group.shard and not last:
            with self.call.no_sync():
                yield
            return
        if self.group.shard:
            self.losses.denoiser.net.set_requires_gradient_sync(last)  # pyright: ignore
        yield
        if last:
            for p in self.alone:  # what is not sharded, such as a learned schedule
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                self.group.sum(p.grad).div_(self.group.world)


def gradient_norm(parameters: Sequence[nn.Parameter], clip: float) -> float:
    """The norm of the whole gradient, which is then scaled down to at most `clip`; 0 where there is none. A norm that is not
    finite scales nothing, so that one can still see which gradient it comes from."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    groups = [[g for g in grads if is_sharded(g)], [g for g in grads if not is_sharded(g)]]
    norms = [full(nn.utils.get_total_norm(group)) for group in groups if group]
    total = norms[0] if len(norms) == 1 else torch.stack([n.to(norms[0].device) for n in norms]).norm()
    norm = float(total)
    if math.isfinite(norm):
        nn.utils.clip_grads_with_norm_(list(parameters), clip, total)
    return norm


def reshard(net: nn.Module) -> None:
    """Let go of whole weights: FSDP2 keeps those of the root after a forward pass that no backward pass follows, and would go
    on with them however the shards change meanwhile."""
    from torch.distributed.fsdp import FSDPModule

    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def asked_world() -> int:
    """How many processes a launcher has started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _fully_shard(net: nn.Module, device: torch.device) -> None:
    """FSDP2 on every block of every list of blocks, then on what is left (torch.distributed.fsdp.fully_shard)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
