"""A training run that is killed from within at a random moment: python victim.py DIR SECONDS [WORKERS [KIND]] (0 s for never).

It has averages, loss-aware levels, three passes an update, and checkpoints that are written while it goes on. Of kind "dmd" it is
a distillation: besides the student, which moves at every second update, there are a teacher, a fake denoiser and a critic. Of
kind "classifier" it is a recipe whose distance is that of a classifier, which is trained when the run is begun, and kept in it.
"""

import copy
import os
import signal
import sys
import threading
from functools import partial

import torch

import langevin as lv
from langevin.config import TrainConfig
from langevin.objectives import Objective
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.training import Trainer

STEPS = {"denoising": 300, "dmd": 60, "classifier": 60}


def main(out: str, seconds: float, workers: int = 0, kind: str = "denoising") -> None:
    torch.set_num_threads(1)
    trainer = by_classifier(out) if kind == "classifier" else by_hand(out, workers, kind)
    if seconds:
        # SIGKILL: no handler, no cleanup, wherever the loop stands
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    trainer.run(progress=False)
    print("finished", flush=True)


def by_classifier(out: str) -> Trainer:
    from langevin.evaluate import classifier
    from langevin.recipes import Recipe, recipe
    from langevin.recipes.starting import start

    classifier.train_classifier = partial(classifier.train_classifier, steps=5)
    made = recipe("digits-consistency").model_dump()
    made["network"] = {"kind": "unet", "width": 8, "blocks": 1, "attention": [], "head_width": 8}
    made["objective"] |= {"distance": "classifier"}
    made["train"] |= {"steps": STEPS["classifier"], "batch": 12, "warmup": 0, "save_every": 7, "log_every": 1}
    return start(Recipe.model_validate(made), out, resume=True)[1]


def by_hand(out: str, workers: int, kind: str) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = lv.networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.2, classes=10)
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    objective: Objective = lv.objectives.Denoising("min_snr", "loss_aware", drop=0.1)
    if kind == "dmd":
        teacher = copy.deepcopy(denoiser)
        teacher.shape = (1, 8, 8)
        objective = DistributionMatching(teacher, (1.0, 0.5), every=2, adversarial=0.1, r1=0.1, classes=10, drop=0.1)
    config = TrainConfig(
        steps=STEPS[kind],
        batch=12,
        accumulate=3,
        save_every=7,
        log_every=1,
        lr=1e-3,
        workers=workers,
        averages=("power:sigma_rel=0.1",),
    )
    return Trainer(denoiser, lv.data.digits(), objective, config, out, resume=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:4]), *sys.argv[4:])
