"""The trainer: one loop, resumable to the bit, on one process or many.

Everything random in step k is a function of (seed, k) and of the samples' places in the endless reading of the data, so the
state of a run is its weights, its optimiser, its averages and the number k. A step whose gradient is not finite never happened.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin.condition_use import compiled, watching_drop
from langevin.config import TrainConfig
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.messages import one_line
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.data import InOrder, Order, Slice, Source, Stream, fingerprint, loader
from langevin.devices import seeded
from langevin.embedded import state_shape
from langevin.files import make_folder
from langevin.objectives import Objective
from langevin.objectives.levels import LevelBins
from langevin.training import optimisers
from langevin.training.activations import recompute
from langevin.training.blame import blame
from langevin.training.checkpoint import Checkpoint, Parts
from langevin.training.distributed import Group, gradient_norm
from langevin.training.ema import Average, Power
from langevin.training.folder import RunFolder
from langevin.training.held_out import checked, held_out_loss
from langevin.training.model import Model
from langevin.training.precision import PRECISIONS, autocast_type, named, one_order
from langevin.training.rates import rate
from langevin.training.readied import Readied
from langevin.training.refusals import listed, optimised, refuse_torn, refuse_untrainable
from langevin.training.room import refuse_large, refuse_unholdable
from langevin.training.scale import refuse_untied, warn_of_scale
from langevin.training.sharding import own
from langevin.training.terminal import progress as bar
from langevin.training.terminal import signals

Preview = Callable[[Denoiser, int], None]
Met = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Levels and losses by leaf, as `Loss.levels` and `Loss.each`."""

LEAST_SCALE = 2.0**-10
"""Below this loss scale float16 is not the reason for gradients that are not finite."""
PATIENCE = 10
"""Refused updates in a row after which a run stops, whatever the policy."""


class Trainer:
    """Trains a denoiser, or a `Model` that is none.

    Args:
        denoiser: what to train; its shape is filled in from the data if it has none. Weights that do not require gradients are
            left alone.
        data: where batches come from.
        objective: what to minimise.
        config: how.
        out: run directory; None keeps nothing.
        resume: continue from the newest whole checkpoint in `out`.
        preview: called with the averaged denoiser and the step, every `config.preview_every` steps, in every process; what it
            writes, the first process alone should write. What it raises is said, and training goes on. Others go into `hooks`.
        group: this process among its peers (see `Group.join`); alone by default, where a launcher started one.
        other_data: a resumed run may go on on other data than it was begun with.
        valid: held-out data; every `config.valid_every` steps the averaged weights' loss on it is "valid" in the line of the log.
        on_log: called with each line of the log, in the first process; what it raises is said, and training goes on.

    Attributes:
        hooks: (every so many steps, what is called as `preview` is). Where weights are divided between processes all need the
            same hooks, for they call the network together; a hook that fails in one process is given up in all.
        total: samples of the whole run, which schedules are counted in.
        step, samples: updates and samples so far, those left out among them.
        refused: steps whose batches never reached the weights.

    Raises:
        ValueError: if `out` holds a run and resume is False, or its settings or data differ; if a launcher started
            several processes and none was told of the others.
    """

    def __init__(
        self,
        denoiser: Denoiser | Model,
        data: Source | Stream,
        objective: Objective,
        config: TrainConfig,
        out: str | Path | None = None,
        resume: bool = False,
        preview: Preview | None = None,
        group: Group | None = None,
        other_data: bool = False,
        valid: Source | None = None,
        on_log: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        refuse_untrainable(denoiser, data, objective, config, out, valid, group)
        if other_data and not resume:
            raise ValueError("other_data is set, and nothing is resumed, which alone could have begun on others; leave it out.")
        denoiser.spread = getattr(objective, "spread", None)
        if denoiser.shape is None:
            denoiser.shape = state_shape(denoiser.process, data.shape)  # pyright: ignore[reportAttributeAccessIssue]
        # from here on a model is called by its objective alone, which knows what it is
        self.denoiser: Denoiser = denoiser  # pyright: ignore[reportAttributeAccessIssue]
        self.data, self.objective, self.config = data, objective, config
        self.valid = None if valid is None else checked(valid, data.shape)
        self.on_log, self._valid_every = on_log, config.valid_every or config.preview_every
        self.hooks: list[tuple[int, Preview]] = [] if preview is None else [(config.preview_every, preview)]
        weight = next(p for p in denoiser.parameters() if p.requires_grad)
        self.device, self.dtype = weight.device, weight.dtype
        self.group = group or Group(self.device)
        each = sum(math.prod(shape) for shape in leaves(data.shape).values())
        refuse_large(config.batch, config.batch // config.accumulate // self.group.world, each, self.device)
        objective.prepare(self.denoiser)
        objective.to(self.device)
        self._facts, self._settings = self._what(), json.loads(config.model_dump_json())
        if config.activation_checkpointing:
            recompute(denoiser.net)
        self._readied = Readied(self.denoiser, config.resolutions, self.device, self.dtype)
        self.losses = self.group.ready(self.denoiser, objective)
        self._trained = [p for p in denoiser.parameters() if p.requires_grad]
        self._beside = [p for p in objective.parameters() if p.requires_grad]
        self._players = nn.Module()  # what the optimiser works on, the denoiser's parts under their own names
        for name, part in (*denoiser.named_children(), ("objective", objective)):
            self._players.add_module(name, part)
        self.optimiser = optimisers.optimiser(
            denoiser, config.optimiser, config.lr, config.weight_decay, config.betas,
            beside=self._beside, beside_rate=objective.own_rate,
        )  # fmt: skip
        self.ema, *self.averages = [Average(denoiser, profile) for profile in (config.ema, *config.averages)]
        if self.group.shard and next(objective.parameters(), None) is not None:
            raise ValueError("the objective brings networks of its own, which are not sharded; leave --shard out.")
        self.precision = autocast_type(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        if isinstance(data, Stream):
            self.order = InOrder(config.seed, config.batch)
        else:
            self.order = Order(config.seed, len(data), config.batch, getattr(data, "groups", None))
        whole = self.order.place(config.steps)  # batches of buckets may be short
        self.total = whole if config.samples is None else min(whole, config.samples)
        self.step = self.samples = 0
        self.refused: list[int] = []
        self.bins = LevelBins()
        self._reading: Generator[list[Slice], None, None] | None = None
        self._stop = self._ran = self._looked = self._moving = False
        self._began, self._unread = 0, None  # the step at which `run` began; what kept a process from reading
        self._in_a_row = 0
        self.folder: RunFolder | None = None
        if out is not None:
            self.folder = self._open(Path(out), resume, other_data)
        if config.compile:
            denoiser.net.compile()

    @property
    def out(self) -> Path | None:
        """The run directory."""
        return None if self.folder is None else self.folder.path

    # The state of a run

    def _open(self, out: Path, resume: bool, other_data: bool) -> RunFolder:
        if (contents := fingerprint(self.data)) is not None:
            self._facts["contents"] = contents
        with self.group.agreed():
            make_folder(out, "out")
            folder = RunFolder(out, resume, self._settings, self._facts, self.objective, self.config.keep, other_data)
        if folder.found is not None:
            self._restore(folder.found)
        return folder

    def _restore(self, found: Checkpoint) -> None:
        refuse_torn(found, ["model", "optimiser", "objective", *self._averages()])
        self.step, self.samples = found.step, found.state["samples"]
        self.refused = sorted({*self.refused, *found.state.get("refused", [])})
        if self.config.precision == "auto":  # chosen by the machine that began the run
            self.precision = PRECISIONS[found.state.get("precision", named(self.precision))]
        divided = self.group.divided
        model = self.denoiser.state_dict()
        self.denoiser.load_state_dict(divided(found.tensors["model"], model))
        for part, average in self._averages().items():
            updates, samples = found.state["averages"][part]
            own = average.tensors()
            average.load(divided({n: found.tensors[part][n] for n in own}, own), updates, samples)
        odd = sorted(set(self.objective.state_dict()) ^ set(found.tensors["objective"]))
        if odd:
            raise ValueError(f"checkpoint and objective disagree on {listed(odd, 3)}; resume with the same objective.")
        self.objective.load_state_dict(dict(found.tensors["objective"]))
        state, weights = found.tensors["optimiser"], dict(self._players.named_parameters())
        like = {name: weights[owner] for name in state if (owner := name.rpartition(".")[0]) in weights}
        optimisers.load_state_tensors(self.optimiser, self._players, divided(state, like))
        self.bins.load(found.state.get("levels", {}), mine=self.group.first)
        if found.state.get("scaler"):
            self.scaler.load_state_dict(found.state["scaler"])
        self._stop_reading()
        self._pass_over_refused()

    def _averages(self) -> dict[str, Average]:
        """By their part of a checkpoint."""
        return {"ema": self.ema, **{f"ema.{k}": average for k, average in enumerate(self.averages, 1)}}

    def _what(self) -> dict[str, str]:
        """What is trained on what, in words: a checkpoint of another model, process or data set must not be continued."""
        size = "a stream" if isinstance(self.data, Stream) else len(self.data)
        weights = hashlib.sha256(str([(n, tuple(p.shape)) for n, p in self.denoiser.named_parameters()]).encode())
        return {
            "process": one_line(self.denoiser.process),
            "prediction": str(self.denoiser.predictions),
            "objective": one_line(self.objective),
            "network": weights.hexdigest()[:16],
            "data": one_line(f"{size} samples of {self.data.shape}"),
        }

    # The loop

    def _ready(self, batch: Batch) -> Batch:
        return self._readied(batch, self.samples / self.total)

    def _gradients(self, pieces: list[Slice]) -> tuple[dict[str, float], list[Met]]:
        """Leave the whole batch's gradient in the parameters; the logs, summed over all processes, and the losses by level that
        this one met."""
        precision, sums, met = self.precision, {}, []
        among = torch.arange(self.order.place(self.step), self.order.place(self.step + 1), device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        with seeded(self.config.seed * 1_000_003 + self.step + 7919 * self.group.rank, self.device):
            for k, piece in enumerate(pieces):
                batch = self._ready(piece.batch)
                count = len(next(iter(leaves(batch.x).values())))
                ids = torch.arange(piece.place, piece.place + count, device=self.device)
                noise = Noise(self.config.seed, ids, purpose="/train", among=among)
                with self.losses.part(k == len(pieces) - 1):
                    # no cache: before torch 2.11 weights that were cast under no_grad stayed in it, without gradient
                    with torch.autocast(self.device.type, precision, enabled=precision != torch.float32, cache_enabled=False):
                        loss = self.losses(batch, noise)
                    self.scaler.scale(loss.total * (piece.share * self.group.world)).backward()
                # a sample that was read only so that there is one is no loss: level 0
                met.append(({n: t * (piece.share > 0) for n, t in loss.levels.items()}, loss.each))
                for name, value in {"loss": loss.total.detach(), **loss.logs}.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().double() * piece.share
        logs = self.group.sum(torch.stack([torch.as_tensor(v, dtype=torch.float64).cpu() for v in sums.values()]))
        return dict(zip(sums, logs.tolist(), strict=True)), met

    def update(self) -> dict[str, float]:
        """One optimiser update. Returns its line of the log.

        Raises:
            FloatingPointError: if loss or gradient is not finite, or the gradient larger than `largest_gradient`, and the policy
                says so; the weights are as they were before the update.
        """
        try:
            with one_order(self.config.deterministic):
                return self._update()
        except BaseException:
            self._stop_reading()  # what was read belongs to this step, which did not happen
            raise

    def _update(self) -> dict[str, float]:
        c, scale = self.config, self.scaler.get_scale()
        self.denoiser.train()
        self.objective.begin(self.denoiser, self.step, self.samples / self.total)
        pieces = self._read_by_all()
        while True:
            buffers = [(b, b.clone()) for b in self.denoiser.net.buffers()]  # such as the statistics of batch norms
            try:
                with self._first_look(pieces):
                    logs, met = self._gradients(pieces)
            except Exception:
                for buffer, before in buffers:
                    buffer.copy_(before)
                raise
            self.scaler.unscale_(self.optimiser)
            norm = gradient_norm(self._trained, c.clip)
            beside = gradient_norm(self._beside, c.clip)
            finite = math.isfinite(norm) and math.isfinite(beside) and math.isfinite(logs["loss"])
            if finite and not (c.largest_gradient and norm > c.largest_gradient):
                break
            for buffer, before in buffers:
                buffer.copy_(before)
            overflowed = self.scaler.is_enabled() and math.isfinite(logs["loss"]) and not math.isfinite(norm + beside)
            smaller = self.scaler.get_scale() / 2
            if not overflowed or smaller < LEAST_SCALE:
                self.scaler.update(scale)
                return self._refuse(logs["loss"], norm, self._blame(pieces, met))
            self.scaler.update(smaller)  # float16: the same step again, more carefully
        fall = int(c.decay * self.total)
        lr = rate(self.samples, c.batch, c.lr, c.schedule, total=self.total, warmup=c.warmup, hold=c.hold, decay=fall)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group.get("rate", 1.0)
        self._moving = True
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.objective.end(self.denoiser)
        before = self.samples
        self._advance()
        for average in (self.ema, *self.averages):
            average.update(self.denoiser, self.samples - before)
        self._observe(met)
        self._moving = False
        self._in_a_row = 0
        return {"step": self.step, **logs, "gradient": norm, "lr": lr}

    def _first_look(self, pieces: list[Slice]) -> AbstractContextManager[None]:
        """At the first update of this process: say what would be trained for nothing."""
        first, self._looked = not self._looked and self.group.first, True
        if first:
            refuse_untied(self.denoiser, pieces[0].batch)
            warn_of_scale(self.denoiser, pieces[0].batch)
            self._ask_room(pieces[0])
        if not first or self.group.shard or compiled(self.denoiser.net):
            return nullcontext()
        return watching_drop(self.denoiser.net, "conditions are dropped in training for nothing and guidance will do nothing")

    def _ask_room(self, piece: Slice) -> None:
        count = len(next(iter(leaves(piece.batch.x).values())))

        def loss(some: Batch) -> Tensor:
            noise = Noise(self.config.seed, torch.arange(len(next(iter(leaves(some.x).values()))), device=self.device))
            return self.objective(self.denoiser, self._ready(some), noise).total

        if not self.group.shard and not compiled(self.denoiser.net):
            with seeded(self.config.seed, self.device):
                refuse_unholdable(self.config.batch, count, piece.batch, self.denoiser, loss, self.device)

    def _observe(self, met: list[Met]) -> None:
        """Losses by level of an update that was made, for the log and for an objective that follows them."""
        for levels, each in met:
            self.bins.add(levels, each)
        if self.objective.wants_losses:
            levels, each = ({n: self.group.gather(torch.cat([m[i][n] for m in met])) for n in met[0][i]} for i in (0, 1))
            self.objective.observe(levels, each)

    def _join_bins(self) -> None:
        """Losses by level of all processes go to the first. To be called by all."""
        for value in self.bins.tensors:
            self.group.sum(value)
            if not self.group.first:
                value.zero_()

    def _read(self) -> list[Slice]:
        if self._reading is None:
            c, p = self.config, self.group
            self._reading = loader(self.data, self.order, self.step, c.accumulate, p.rank, p.world, c.workers)
        return next(self._reading)

    def _read_by_all(self) -> list[Slice]:
        """The passes of this step. What keeps one process from reading is raised in all, which can then save what they have."""
        pieces, error = [], None
        try:
            pieces = self._read()
        except Exception as met:
            error = met
        try:
            if self.group.sum(torch.tensor(float(error is not None))):
                self.group.agree(error)
        except Exception as met:
            self._unread = met
            raise
        return pieces

    def _stop_reading(self) -> None:
        """End what reads ahead now: the collector of garbage may come to a queue before it comes to who is told by it to stop."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()

    def _advance(self) -> None:
        self._count()
        self._pass_over_refused()

    def _count(self) -> None:
        self.step += 1
        self.samples = self.order.place(self.step)

    def _pass_over_refused(self) -> None:
        """Read over the batches that were refused, so that the next step is one that counts."""
        while self.step in self.refused:
            self._read_by_all()
            self._count()

    def _blame(self, pieces: list[Slice], met: list[Met]) -> str:
        """What of the batch that this process read, of the weights, or of their gradients is at fault."""
        place, index = self.order.batch(self.step)
        read = []
        for piece, (_, each) in zip(pieces, met, strict=True):
            if piece.share:
                count, begin = len(next(iter(leaves(piece.batch.x).values()))), piece.place - place
                read.append((piece.batch, index[begin : begin + count], each))
        return blame([r[:2] for r in read], [r[2] for r in read], self._players.named_parameters())

    def _refuse(self, loss: float, norm: float, why: str) -> dict[str, float]:
        """What the policy says about a batch that must not reach the weights."""
        _, index = self.order.batch(self.step)
        said = (
            f"step {self.step} has loss {loss:g} and gradient norm {norm:g}, from samples {listed(index.tolist())}; the weights "
            f"are untouched{'; ' if why else ''}{why}"
        )
        self.optimiser.zero_grad(set_to_none=True)
        policy, self._in_a_row = self.config.nonfinite, self._in_a_row + 1
        if policy == "stop" or self._in_a_row > PATIENCE:
            raise FloatingPointError(f"{said}: look there, lower lr, or set nonfinite to skip or rollback.")
        refused = self.step
        self.refused = sorted({*self.refused, refused})
        found = self._latest(self.folder) if policy == "rollback" and self.folder is not None else None
        if found is not None:
            self._restore(found)
        else:
            self._advance()
        if self.group.first:
            print(f"{said}; going on from step {self.step} without it.", file=sys.stderr)
        return {"step": self.step, "loss": loss, "gradient": norm, "refused": refused}

    def _latest(self, folder: RunFolder) -> Checkpoint | None:
        """The newest whole checkpoint, the same for all processes: what the first is writing is waited for."""
        with self.group.agreed():
            folder.settle()
        return folder.checkpoints.latest()

    def run(self, progress: bool = True) -> Denoiser:
        """Train to the last step, or until time is up, Ctrl-C or SIGTERM, after which the run can be resumed.

        Returns:
            The denoiser, in eval mode, holding the averaged weights.

        Raises:
            ValueError: if it ran before, for the weights are averaged ones now.
            OSError: if the last checkpoint could not be written, or several in a row, or a line of the log.
            FloatingPointError: as `update`.
            Exception: whatever the data or the network raise.

        After any of these what was trained until then is saved, if the disk lets it be; of several processes, if all meet the
        error: what cannot be read or is refused, and not what the network of one raises.
        """
        if self._ran:
            raise ValueError("this trainer has run; make a new one with resume=True to go on.")
        self._ran, self._began = True, self.step
        c, began, before = self.config, time.monotonic(), self.samples
        last = began + 3600 * c.hours if c.hours else math.inf
        self.group.check_alike([every for every, _ in self.hooks])
        with self.group.agreed():
            if self.folder is not None and self.group.first:
                self.folder.open()
        with signals(self._ask_to_stop, self.group.first), bar(c.steps, self.step, progress and self.group.first) as show:
            try:
                while not self.finished and not self._told_to_stop(time.monotonic() > last):
                    with self._rescued(Exception, self._met_by_all):
                        line = self.update()
                    due = self.step % c.log_every == 0 or self.finished
                    line |= self._held_out()
                    with self._rescued(OSError):
                        if due or "refused" in line or "valid" in line:
                            if due:
                                self._join_bins()
                                line |= self.bins.logs()
                            speed = (self.samples - before) / (time.monotonic() - began)
                            self._write({**line, "samples_per_second": round(speed, 1)})
                        if self.step % c.save_every == 0 and not self.finished:
                            self.save(wait=c.wait)
                    show(self.step, line["loss"])
                    if not self.finished:
                        self._show([hook for every, hook in self.hooks if self.step % every == 0])
                self.save(last=True)
            finally:
                self.close()
        self.ema.apply(self.denoiser)
        return self.denoiser.eval()

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended it."""
        return self._stop and not self.finished

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps or self.samples >= self.total

    def _write(self, line: dict[str, Any]) -> None:
        with self.group.agreed():
            if self.folder is not None and self.group.first:
                self.folder.write(line)
        if self.on_log is not None and self.group.first:
            try:
                self.on_log(dict(line))
            except Exception as error:  # nor is a chart
                print(f"on_log failed at step {self.step}: {error}", file=sys.stderr)

    def _held_out(self) -> dict[str, float]:
        """The entry "valid" of a line, at steps that have one. Where weights are divided all processes compute it together."""
        due = self.valid is not None and (self.step % self._valid_every == 0 or self.finished)
        if not due or not (self.group.first or self.group.shard):
            return {}
        c, precision = self.config, self.precision
        with self.ema.swapped(self.denoiser), torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            try:
                with self.group.together(self.denoiser.net):
                    model = self.denoiser.eval()
                    return {"valid": held_out_loss(model, self.objective, self.valid, c.batch, c.seed, self._ready)}
            except Exception as error:  # a number is not worth a run either
                print(f"no held-out loss at step {self.step}: {error}", file=sys.stderr)
                return {}

    @contextmanager
    def _rescued(self, error: type[Exception], by_all: Callable[[Exception], bool] = lambda met: True) -> Iterator[None]:
        """Around what may end the run with an error although the weights are good: then its state is written once more. After an
        OSError, what failed may have been a moment's, or of another file; after a batch that is refused, or cannot be read, the
        weights are those of the step before, which may be long after the last checkpoint. To be entered by all.

        Args:
            by_all: whether all processes meet the error, so that they can save together.
        """
        try:
            yield
        except error as met:
            with suppress(OSError, RuntimeError, MemoryError):  # none takes the place of what ended the run
                if self.step > self._began and not self._moving and by_all(met) and self._finite():
                    self.save(last=True)
                    if self.group.first and self.folder is not None:
                        print(f"the run ends, and can be resumed: step {self.step} was saved after all.", file=sys.stderr)
            raise

    def _met_by_all(self, met: Exception) -> bool:
        return self.group.world == 1 or isinstance(met, FloatingPointError) or met is self._unread

    def _finite(self) -> bool:
        """Whether all weights are finite, those of other processes too."""
        odd = any(not bool(own(p.detach()).isfinite().all()) for p in self._players.parameters())
        return not bool(self.group.sum(torch.tensor(float(odd))))

    def save(self, wait: bool = True, last: bool = False) -> None:
        """Write a checkpoint now. To be called by all processes.

        Args:
            wait: False writes while training goes on.
            last: nothing comes after it, so that a full disk is an error at once.

        Raises:
            OSError: in all processes, if it could not be written and is the `last`, or several in a row could not.
        """
        if self.folder is None:
            return
        self._join_bins()
        whole = self.group.whole
        tensors = {
            "model": whole(self.denoiser.state_dict()),
            **{part: whole(average.tensors()) for part, average in self._averages().items()},
            "optimiser": whole(optimisers.state_tensors(self.optimiser, self._players)),
            "objective": whole(self.objective.state_dict()),
        }
        with self.group.agreed():
            if self.group.first:
                self._save(tensors, wait, last)

    def _save(self, tensors: Parts, wait: bool, last: bool) -> None:
        assert self.folder is not None
        state = {
            "config": self._settings,
            "what": self._facts,
            "samples": self.samples,
            "averages": {part: [average.updates, average.samples] for part, average in self._averages().items()},
            "refused": self.refused,
            "optimised": len(optimised(tensors)),
            "levels": self.bins.state(),
            "scaler": self.scaler.state_dict(),
            "precision": named(self.precision),
            "processes": self.group.world,
        }
        for part, average in self._averages().items():
            if isinstance(average.profile, Power):
                self.folder.keep(average, self.step, tensors[part])
        self.folder.save(self.step, tensors, state, wait, last)

    def close(self) -> None:
        """End what reads ahead, and let others into the run directory once what is being written is there; `run` does so by
        itself."""
        self._stop_reading()
        self.losses.end()
        if self.folder is not None:
            self.folder.close()

    def _show(self, hooks: list[Preview]) -> None:
        if not hooks:
            return
        with self.ema.swapped(self.denoiser):
            for hook in hooks:
                try:
                    with self.group.together(self.denoiser.net):  # shards must be alone again before their weights change back
                        hook(self.denoiser.eval(), self.step)
                except Exception as error:  # a picture is not worth a run
                    print(f"no preview at step {self.step}: {error}", file=sys.stderr)

    def _ask_to_stop(self) -> None:
        self._stop = True

    def _told_to_stop(self, late: bool) -> bool:
        """Whether any process was; they stop together."""
        if self.group.world == 1:
            return self._stop or late
        return bool(self.group.sum(torch.tensor(float(self._stop or late))))
