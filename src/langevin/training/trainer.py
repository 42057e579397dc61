"""The trainer: one loop, resumable to the bit.

Everything random in step k is a function of (seed, k) and of the samples' places in the endless reading of the data, so
the state of a run is its weights, its optimiser, its average and the number k.
"""

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin.config import TrainConfig
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.core.tree import tree_map
from langevin.data.arrays import Source, order
from langevin.files import telling, write
from langevin.objectives import Denoising, Loss, Objective
from langevin.training.ema import Ema
from langevin.training.lock import Lock
from langevin.training.saving import Checkpoints

Preview = Callable[[Denoiser, int], None]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generator, which only dropout and initialisation use, set for a while and put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


class Trainer:
    """Trains a denoiser.

    Args:
        denoiser: what to train; its shape is filled in from the data if it has none.
        data: where batches come from.
        objective: what to minimise.
        config: how.
        out: run directory; None keeps nothing.
        resume: continue from the newest whole checkpoint in `out`.
        preview: called with the averaged denoiser and the step, every `config.preview_every` steps.

    Raises:
        ValueError: if `out` holds a run and resume is False, or its settings differ from `config`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        data: Source,
        objective: Objective,
        config: TrainConfig,
        out: str | Path | None = None,
        resume: bool = False,
        preview: Preview | None = None,
    ) -> None:
        if config.batch % config.accumulate:
            raise ValueError(f"batch is {config.batch} in {config.accumulate} passes; make accumulate divide batch.")
        for field, value, kind in (("denoiser", denoiser, Denoiser), ("objective", objective, Objective)):
            if not isinstance(value, kind):
                raise ValueError(f"{field} is {value!r}; pass a langevin {kind.__name__}.")
        if not hasattr(data, "batch"):
            raise ValueError(f"data is a {type(data).__name__}; wrap tensors in langevin.data.Arrays(x, cond).")
        if not any(True for _ in denoiser.parameters()):
            raise ValueError("the network has no parameters, so there is nothing to train.")
        denoiser.spread = getattr(objective, "spread", None)
        if denoiser.shape is None:
            denoiser.shape = data.shape  # pyright: ignore[reportAttributeAccessIssue]
        self.denoiser, self.data, self.objective, self.config = denoiser, data, objective, config
        self.out, self.preview = None if out is None else Path(out), preview
        weight = next(denoiser.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        objective.to(self.device)
        decayed = [p for p in denoiser.parameters() if p.ndim >= 2]
        others = [p for p in denoiser.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr, betas=config.betas,
        )  # fmt: skip
        self.ema = Ema(denoiser, config.ema)
        self.step = 0
        self._stop = False
        self.checkpoints = None if self.out is None else Checkpoints(self.out / "checkpoints", config.keep)
        if self.out is not None:
            self._open(resume)

    # The run directory

    def _open(self, resume: bool) -> None:
        assert self.out is not None and self.checkpoints is not None
        self.out.mkdir(parents=True, exist_ok=True)
        found = self.checkpoints.latest()
        if found is None:
            self._trim_log()
            return
        if not resume:
            raise ValueError(f"{self.out} already holds a run at step {found.step}; resume it, or choose another directory.")
        was = {**found.state["config"], **found.state["what"]}
        now = {**json.loads(self.config.model_dump_json()), **self._what()}
        differing = [k for k in now if was.get(k) != now[k]]
        if differing:
            k = differing[0]
            raise ValueError(f"{k} is {now[k]} but the run in {self.out} was begun with {was.get(k)}; "
                             "resume with the same settings, or choose another directory.")  # fmt: skip
        self.step = found.step
        self.denoiser.load_state_dict(dict(found.tensors["model"]))
        self.ema.model.load_state_dict(dict(found.tensors["ema"]))
        self.ema.updates = found.state["ema_updates"]
        self.objective.load_state_dict(dict(found.tensors["objective"]))
        self._load_optimiser(found.tensors["optimiser"])
        self._trim_log()

    def _what(self) -> dict[str, str]:
        """What is trained on what, in words: a checkpoint of another model, process or data set must not be continued."""
        weights = hashlib.sha256(str([(n, tuple(p.shape)) for n, p in self.denoiser.named_parameters()]).encode())
        return {
            "process": " ".join(str(self.denoiser.process).split()),
            "prediction": str(self.denoiser.predictions),
            "objective": " ".join(str(self.objective).split()),
            "network": weights.hexdigest()[:16],
            "data": f"{len(self.data)} samples of {self.data.shape}",
        }

    def _trim_log(self) -> None:
        """Lines written after the checkpoint are written again, so they go; a line cut short goes as well."""
        assert self.out is not None
        path = self.out / "log.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        if lines and '"step"' not in lines[0]:
            raise ValueError(f"{path} is no log of ours and would be overwritten; choose another directory.")
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] > self.step:
                    break
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            kept.append(line)
        write(path, "".join(f"{line}\n" for line in kept))

    def _optimiser_tensors(self) -> dict[str, Tensor]:
        state = self.optimiser.state_dict()["state"]
        return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}

    def _load_optimiser(self, tensors: Any) -> None:
        whole = self.optimiser.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})

    def save(self) -> None:
        """Write a checkpoint now."""
        if self.checkpoints is None:
            return
        tensors = {
            "model": self.denoiser.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimiser": self._optimiser_tensors(),
            "objective": self.objective.state_dict(),
        }
        state = {
            "config": json.loads(self.config.model_dump_json()),
            "what": self._what(),
            "ema_updates": self.ema.updates,
            "samples": self.step * self.config.batch,
        }
        self.checkpoints.save(self.step, tensors, state)

    # The loop

    def rate(self, step: int) -> float:
        """Learning rate of update `step`, 0-based."""
        c = self.config
        rise = min(1.0, (step + 1) / max(c.warmup, 1))
        return c.lr * rise * (0.5 * (1 + math.cos(math.pi * step / c.steps)) if c.schedule == "cosine" else 1.0)

    def _pass(self, place: int, count: int) -> Loss:
        index = order(self.config.seed, len(self.data), place, count)
        batch = self.data.batch(index)
        cond = None if batch.cond is None else {n: c.to(self.device) for n, c in batch.cond.items()}
        mask = None if batch.mask is None else batch.mask.to(self.device)
        x = tree_map(lambda v: v.to(self.device, self.dtype if v.is_floating_point() else None), batch.x)
        batch = Batch(x, cond, mask)
        noise = Noise.of(self.config.seed, count, place, self.device).at("train")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.objective(self.denoiser, batch, noise)

    def update(self) -> dict[str, float]:
        """One optimiser update. Returns its line of the log.

        Raises:
            FloatingPointError: if loss or gradient is not finite; the weights are as they were before the update.
        """
        c = self.config
        self.denoiser.train()
        self.optimiser.zero_grad(set_to_none=True)
        share = c.batch // c.accumulate
        logs: dict[str, float] = {}
        with seeded(c.seed * 1_000_003 + self.step, self.device):
            for part in range(c.accumulate):
                loss = self._pass(self.step * c.batch + part * share, share)
                (loss.total / c.accumulate).backward()
                for name, value in {"loss": loss.total.detach(), **loss.logs}.items():
                    logs[name] = logs.get(name, 0.0) + float(value) / c.accumulate
        norm = float(nn.utils.clip_grad_norm_(self.denoiser.parameters(), c.clip))
        if not math.isfinite(norm) or not math.isfinite(logs["loss"]):
            places = f"{self.step * c.batch} .. {(self.step + 1) * c.batch - 1}"
            raise FloatingPointError(
                f"step {self.step} has loss {logs['loss']:g} and gradient norm {norm:g}, from samples at "
                f"places {places} of the reading; the weights are untouched: look there, or lower lr."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimiser.step()
        self.ema.update(self.denoiser)
        self.step += 1
        return {"step": self.step, **logs, "gradient": norm, "lr": self.rate(self.step - 1)}

    def run(self, progress: bool = True) -> Denoiser:
        """Train to the last step, or until Ctrl-C or SIGTERM, after which the run can be resumed.

        Returns:
            The averaged denoiser, in eval mode.
        """
        c, began, before = self.config, time.monotonic(), self.step
        held = nullcontext() if self.out is None else Lock(self.out)
        with held, _signals(self._ask_to_stop), _progress(c.steps, self.step, progress) as show, _log(self.out) as log:
            if self.checkpoints is not None:
                self.checkpoints.clean()
            while self.step < c.steps and not self._stop:
                line = self.update()
                if self.step % c.log_every == 0 or self.step == c.steps:
                    speed = (self.step - before) * c.batch / (time.monotonic() - began)
                    log({**line, "samples_per_second": round(speed, 1)})
                show(self.step, line["loss"])
                if self.step % c.save_every == 0 or self.step == c.steps:
                    self.save()
                if self.step % c.preview_every == 0 and self.step < c.steps:
                    self._preview()
            if self._stop and self.step < c.steps:
                self.save()
        return self.ema.model  # pyright: ignore[reportReturnType]

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps

    def _preview(self) -> None:
        if self.preview is not None:
            try:
                self.preview(self.ema.model, self.step)  # pyright: ignore[reportArgumentType]
            except Exception as error:  # a picture is not worth a run
                print(f"no preview at step {self.step}: {error}", file=sys.stderr)

    def _ask_to_stop(self) -> None:
        self._stop = True


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C is Python's own."""

    def asked(number: int, frame: object) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        old = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _progress(total: int, done: int, wanted: bool) -> Iterator[Callable[[int, float], None]]:
    if not wanted:
        yield lambda step, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done, loss="")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.4f}")


@contextmanager
def _log(out: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    if out is None:
        yield lambda line: None
        return
    path = out / "log.jsonl"
    with telling(path), path.open("a", buffering=1) as file:
        yield lambda line: print(json.dumps(line), file=file)


def fit(
    denoiser: Denoiser,
    data: Source,
    *,
    objective: Objective | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Denoiser:
    """Train `denoiser` in place on `data`.

    Args:
        denoiser: what to train. It ends up holding the averaged weights, in eval mode.
        data: e.g. `langevin.data.digits()`.
        objective: `Denoising(drop=0.1)` by default.
        out: run directory, for checkpoints and the log; None keeps nothing.
        resume: continue the run in `out`.
        settings: fields of `TrainConfig`, such as steps, batch, lr.

    Returns:
        The denoiser.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written (if there is an `out`).
    """
    config = TrainConfig(**settings)
    trainer = Trainer(denoiser, data, objective or Denoising(drop=0.1), config, out, resume)
    averaged = trainer.run(progress)
    if not trainer.finished:
        raise KeyboardInterrupt(f"stopped at step {trainer.step} of {config.steps}")
    denoiser.load_state_dict(averaged.state_dict())
    return denoiser.eval()
