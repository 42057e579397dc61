"""One of several processes: worker.py DIR STEPS [shard] [loss_aware] [checkpointing] [graph] [muon] [averages] [bad=SAMPLE]
[torn=SAMPLE] [stop] [accumulate=N] [die=S] [fail=RANK] [slow] [lonely].

Every process draws previews, as divided weights ask for. `fail` names one whose first preview fails before it draws; with `slow`
the first process takes longer for one than a launcher's group waits; `lonely` ones are of the first process alone.
"""

import math
import os
import signal
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist

import langevin as lv
from langevin.config import TrainConfig
from langevin.training import Trainer
from langevin.training.distributed import Group
from tests.reliability.poison import Poisoned, Torn


def pictures() -> tuple[lv.Denoiser, lv.data.Source]:
    net = lv.networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.0, classes=10)
    return lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v"), lv.data.digits()


def graphs() -> tuple[lv.Denoiser, lv.data.Source]:
    """A network of which some weights reach no output, as in recipe community."""
    made = [{"n": 5, "edges": [[i, j] for i in range(5) for j in range(i) if (i * j + k) % 3 == 0]} for k in range(48)]
    edges = lv.Categorical(2, lv.schedules.keep_linear(), space=lv.spaces.SymmetricEdges())
    net = lv.networks.GraphTransformer(1, 2, 16, 8, 8, 2, heads=2)
    return lv.Denoiser(net, lv.Product({"edges": edges}), "logits"), lv.data.Graphs(made)


def main(out: str, steps: int, *options: str) -> None:
    torch.set_num_threads(1)
    given = dict(o.split("=") for o in options if "=" in o)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser, data = graphs() if "graph" in options else pictures()
    if "slow" in options:
        dist.init_process_group("gloo")
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=5))
    group = Group.join(torch.device("cpu"), "shard" in options)
    config = TrainConfig(
        steps=steps,
        schedule="constant",
        batch=16,
        accumulate=int(given.get("accumulate", 1)),
        save_every=10,
        preview_every=6,
        log_every=1,
        lr=1e-3,
        optimiser="muon" if "muon" in options else "adamw",
        averages=("power:sigma_rel=0.1", "half_life:samples=200") if "averages" in options else (),
        activation_checkpointing="checkpointing" in options,
        nonfinite="rollback" if "bad" in given and "stop" not in options else "stop",
    )
    density = "loss_aware:cells=4,history=4" if "loss_aware" in options else "uniform"
    weight = "simple" if "graph" in options else "min_snr"
    objective = lv.objectives.Denoising(weight, density, drop=0.1)
    if "bad" in given:
        data = Poisoned(data, int(given["bad"]), math.nan)
    if "torn" in given:
        data = Torn(data, int(given["torn"]))

    def preview(model: lv.Denoiser, step: int) -> None:
        if given.get("fail") == str(group.rank) and step == config.preview_every:
            raise OSError("no space for a picture")
        if "slow" in options and group.first and step == config.preview_every:
            time.sleep(8)
        lv.sample(model, lv.plans.ddpm(2), 2)

    shown = None if "lonely" in options and not group.first else preview
    trainer = Trainer(denoiser, data, objective, config, out, resume=True, preview=shown, group=group)
    if "die" in given and group.rank == group.world - 1:
        threading.Timer(float(given["die"]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    trainer.run(progress=False)
    group.leave()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
