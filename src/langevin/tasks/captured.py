"""A whole sampling as one CUDA graph, replayed for other samples, conditions and starts.

At small batches a GPU waits for Python: each evaluation is hundreds of kernels, and each is launched by itself. A graph launches
all of a sampling's at once. It holds addresses, so what differs between calls lies in buffers that are copied into; noise is a
function of the ids in one of them.
"""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Denoiser, check_conditions, evaluating, home
from langevin.core.messages import one_line
from langevin.core.plan import DrivingRow
from langevin.core.sample import Loop, Options
from langevin.core.tree import leaves, tree, tree_map
from langevin.sampling import Planned, arrays, conditions, named, planned, told


class Captured:
    """What `captured` returns: call it for samples."""

    def __init__(self, run: Loop, denoiser: BaseDenoiser, cond: dict[str, Tensor] | None, warmup: int) -> None:
        self._run, self._denoiser, self._cond = run, denoiser, cond
        self._graph: torch.cuda.CUDAGraph | None = None
        self._end: dict[str, Tensor] = {}
        if run.noise.ids.is_cuda:
            self._capture(warmup)
        # labels that the loop kept, whose addresses the graph knows
        self._kept = [dict(part._labels) for part in denoiser.modules() if isinstance(part, Denoiser)]

    def _walk(self) -> dict[str, Tensor]:
        with torch.no_grad(), evaluating(self._denoiser):
            self._run.begin()
            for i in range(len(self._run.rows)):
                self._run.step(i)
        return self._run.z

    def _capture(self, warmup: int) -> None:
        device = self._run.noise.ids.device
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # what is made once, such as workspaces and kept labels, is made now
                for _ in range(warmup):
                    self._walk()
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self._graph):
                    self._end = self._walk()
            except RuntimeError as error:
                raise ValueError(
                    f"plan {next(iter(self._run.plans.values())).name} on this network is no CUDA graph "
                    f"({one_line(error, 200)}); draw with lv.sample."
                ) from error

    @torch.no_grad()
    def __call__(self, first_id: Any = 0, cond: Mapping[str, Any] | None = None, start: Any = None) -> Any:
        """Samples first_id, ..., first_id + count - 1 of the seed, in new tensors, as `sample` draws them.

        Args:
            first_id: or a list, the id of each sample.
            cond, start: in place of those that it was made with, of the same names and shapes, tensors, numpy arrays or lists; by
                default those of the last call.

        Raises:
            ValueError: for other names or shapes, or a start for what was made without one.
        """
        cond = conditions(cond, len(self._run.noise.ids))
        check_conditions(self._denoiser, cond)  # on the host still, where numbers can be looked at
        ids = self._run.noise.ids
        ids.copy_(named(self._run.noise.seed, first_id, len(ids)).ids)
        _copy(self._cond or {}, cond or {}, "cond")
        _copy(self._run.begun, {} if start is None else leaves(arrays(start, "start")), "start")
        if self._graph is None:
            end = self._walk()
        else:
            self._graph.replay()
            end = self._end
        return tree_map(torch.clone, tree(end))


def captured(
    denoiser: BaseDenoiser,
    plan: Planned | Mapping[str, Planned],
    count: int = 1,
    *,
    warmup: int = 2,
    **options: Unpack[Options],
) -> Captured:
    """A sampling of `count` samples as one CUDA graph: `again = captured(denoiser, plan, 16, guidance=CFG(2.0), cond=cond)`, and
    then `again(first_id, cond, start)` equals `sample(denoiser, plan, 16, first_id=first_id, cond=cond, start=start, ...)`.

    On a CPU, which has no such graphs, each call walks the same loop. Weights are read where they are: they may change in place
    between calls, and their mode, dtype and device may not.

    Args:
        denoiser, plan, count, options: as of `langevin.sample`, in whatever form it takes them. cond and start give names and
            shapes, and the values of a first call that says none.
        warmup: samplings before the capture, for what networks make once.

    Raises:
        ValueError: as `sample`; for plans that look at the state to know how far to go (adaptive steps); and where the network or
            the plan does what a graph cannot hold, such as waiting for the device.
    """
    if warmup < 1:
        raise ValueError(f"warmup is {warmup}; what is made once must be made before the capture, so give at least 1.")
    if isinstance(options.get("seed", 0), (list, tuple, Tensor)):
        raise ValueError(
            "seed is a list, and a capture has one seed, whose samples each call names; give first_id= a list there."
        )
    place, dtype = home(denoiser)
    device = torch.device(options.get("device") or place)

    def buffer(value: Any) -> Any:
        return value.detach().to(device, dtype if value.is_floating_point() else None, copy=True)

    way = planned(plan, denoiser, count, options)
    options = Options(**told(denoiser, count, options))
    cond, start = options.get("cond"), options.get("start")
    kept = None if cond is None else tree_map(buffer, dict(cond))
    begun = None if start is None else tree_map(buffer, start)
    with torch.no_grad(), evaluating(denoiser):
        run = Loop(denoiser, way, count, Options(**{**options, "cond": kept, "start": begun}))
    if any(isinstance(row, DrivingRow) for row in run.rows):
        raise ValueError(
            f"plan {next(iter(run.plans.values())).name} takes as many evaluations as the states need, which no graph can hold; "
            "use a plan such as trig, or draw with lv.sample."
        )
    return Captured(run, denoiser, kept, warmup)


def _copy(into: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    for name, value in values.items():
        shape = tuple(into[name].shape) if name in into else None
        if tuple(value.shape) != shape:
            made = "none of that name" if shape is None else f"shape {shape}"
            raise ValueError(f"{what}[{name!r}] has shape {tuple(value.shape)}, and what was captured has {made}; capture anew.")
        into[name].copy_(value)
