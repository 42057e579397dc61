"""One of several processes: worker.py DIR STEPS [shard] [loss_aware] [checkpointing] [bad=SAMPLE] [accumulate=N] [die=S]."""

import math
import os
import signal
import sys
import threading

import torch

import langevin as lv
from langevin.config import TrainConfig
from langevin.training import Trainer
from langevin.training.distributed import Group
from tests.reliability.poison import Poisoned


def main(out: str, steps: int, *options: str) -> None:
    torch.set_num_threads(1)
    given = dict(o.split("=") for o in options if "=" in o)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = lv.networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.0, classes=10)
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    group = Group.join(torch.device("cpu"), "shard" in options)
    config = TrainConfig(
        steps=steps,
        schedule="constant",
        batch=16,
        accumulate=int(given.get("accumulate", 1)),
        save_every=10,
        log_every=1,
        lr=1e-3,
        activation_checkpointing="checkpointing" in options,
        nonfinite="rollback" if "bad" in given else "stop",
    )
    density = "loss_aware:cells=4,history=4" if "loss_aware" in options else "uniform"
    objective = lv.objectives.Denoising("min_snr", density, drop=0.1)
    data: lv.data.Source = lv.data.digits()
    if "bad" in given:
        data = Poisoned(data, int(given["bad"]), math.nan)
    trainer = Trainer(denoiser, data, objective, config, out, resume=True, group=group)
    if "die" in given and group.rank == group.world - 1:
        threading.Timer(float(given["die"]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    trainer.run(progress=False)
    group.leave()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
