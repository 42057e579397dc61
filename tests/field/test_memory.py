"""ComfyUI#10475, #9484 and #11301: memory that is never given back. What is alive is counted by object, to the byte."""

import gc
import weakref

import pytest
import torch

import langevin as lv
from langevin import plans
from tests.laws.test_generate import Net, make


class Quiet(Net):
    """A network that remembers nothing of what it was asked."""

    def forward(self, z, level, cond=None, mask=None):
        said = super().forward(z, level, cond, mask)
        self.asked.clear()
        return said


def alive():
    """(bytes of tensors, modules) that are alive."""
    gc.collect()
    held = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    return sum(v.numel() * v.element_size() for v in held), sum(issubclass(type(o), torch.nn.Module) for o in gc.get_objects())


def generator():
    model = make()
    model.denoiser.net = Quiet()
    return model


def test_two_hundred_pictures_leave_nothing():
    model, marks = generator(), []
    for k in range(220):
        model.run("a cat", negative="dog", guidance=2.0, seed=k, steps=2 + k % 3, size=(16, 12 + 2 * (k % 2)))
        if k % 50 == 19:
            marks.append(alive())
    assert len(marks) == 5 and len(set(marks)) == 1, marks


def test_twenty_models_one_after_the_other_leave_the_memory_of_none():
    marks, gone = [], []
    for k in range(20):
        model = generator()
        model.run("a cat", seed=k, guidance=2.0, steps=3)
        gone.append(weakref.ref(model.denoiser.net))
        del model
        marks.append(alive())
    assert len(set(marks)) == 1 and not any(ref() is not None for ref in gone), marks


@pytest.mark.parametrize("plan", [plans.ddim(4), plans.dpmpp(4), plans.heun(3), plans.unipc(4), plans.euler_ancestral(4)])
def test_no_plan_and_no_guidance_holds_a_model(plan):
    net = lv.networks.MLP(2, 8, 1, classes=2)
    model = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v", (2,))
    label = {"label": torch.zeros(3, dtype=torch.int64)}
    for guidance in (None, lv.CFG(2.0), lv.guidance.APG(2.0)):
        lv.sample(model, plan, 3, cond=label, guidance=guidance)
    gone = weakref.ref(net)
    del net, model
    gc.collect()
    assert gone() is None
