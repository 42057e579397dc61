"""A training run that is killed from within at a random moment: python victim.py DIR SECONDS [WORKERS] (0 s for never).

It has averages, loss-aware levels, three passes an update, and checkpoints that are written while it goes on.
"""

import os
import signal
import sys
import threading

import torch

import langevin as lv
from langevin.config import TrainConfig
from langevin.training import Trainer

STEPS = 300


def main(out: str, seconds: float, workers: int = 0) -> None:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = lv.networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.2, classes=10)
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    objective = lv.objectives.Denoising("min_snr", "loss_aware", drop=0.1)
    config = TrainConfig(
        steps=STEPS,
        batch=12,
        accumulate=3,
        save_every=7,
        log_every=1,
        lr=1e-3,
        workers=workers,
        averages=("power:sigma_rel=0.1",),
    )
    trainer = Trainer(denoiser, lv.data.digits(), objective, config, out, resume=True)
    if seconds:
        # SIGKILL: no handler, no cleanup, wherever the loop stands
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    trainer.run(progress=False)
    print("finished", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:]))
