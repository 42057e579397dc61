"""Every reading of a network's output on categories is trained by a recipe that names it."""

import json

import pytest
import torch

from langevin.core.noise import Noise
from langevin.heads import HEADS
from langevin.recipes import recipe
from langevin.recipes.build import build
from langevin.recipes.drawing import draw

LIMITS = ("uniform", "mask")


def trained(name, **changed):
    """One update of what the recipe makes, and two samples from it."""
    base = recipe(name).model_dump()
    for part, settings in changed.items():
        base[part].update(settings)
    run = build(type(recipe(name)).model_validate(base))
    optimiser = torch.optim.SGD(run.denoiser.parameters(), 0.1)
    before = [p.detach().clone() for p in run.denoiser.parameters()]
    loss = run.objective(run.denoiser, run.reading.batch(torch.arange(4)), Noise.of(0, 4)).total
    loss.backward()
    optimiser.step()
    assert any(not torch.equal(p, q) for p, q in zip(before, run.denoiser.parameters(), strict=True))
    assert bool(loss.isfinite()) and all(bool(p.isfinite().all()) for p in run.denoiser.parameters())
    draw(run, 2, plan="ddpm:2")


def refused(head, limit):
    return head == "logistic" and limit == "mask"  # a mask has no value


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("head", HEADS)
def test_pictures(head, limit):
    process = {"limit": limit, "prediction": head}
    small = {"width": 8, "blocks": 1, "head_width": 8, "attention": ()}
    if refused(head, limit):
        with pytest.raises(ValueError, match="a mask has none"):
            trained("digits-discrete", process=process, network=small)
        return
    trained("digits-discrete", process=process, network=small)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("head", [head for head in HEADS if head != "logistic"])
def test_texts_and_graphs(head, limit, tmp_path):
    (tmp_path / "a.txt").write_text("abc cab bca " * 200)
    trained("shakespeare-uniform", data={"path": (str(tmp_path / "a.txt"),), "length": 8},
            process={"limit": limit, "prediction": head}, network={"width": 16, "heads": 2, "depth": 1})  # fmt: skip
    graphs = [{"n": n, "edges": [[k, (k + 1) % n] for k in range(n)]} for n in (3, 4, 5, 6)]
    graphs += [{"n": n, "edges": [[j, k] for k in range(1, n) for j in range(0, k, m)]} for n in (3, 4, 5, 6) for m in (1, 2, 9)]
    (tmp_path / "g.json").write_text(json.dumps(graphs))
    trained("community", data={"path": str(tmp_path / "g.json"), "held_out": 0.3},
            process={"limit": limit, "prediction": head},
            network={"width": 16, "edge_width": 8, "whole": 8, "depth": 1})  # fmt: skip


def test_labels_of_a_product_and_letters_in_order(tmp_path):
    small = {"width": 16, "depth": 1, "heads": 2, "stem": 8}
    process = recipe("digits-product").process.model_dump()
    process["label"].update(limit="uniform", prediction="logistic")
    trained("digits-product", process=process, network=small)
    (tmp_path / "a.txt").write_text("abc cab bca " * 200)
    trained("shakespeare-uniform", data={"path": (str(tmp_path / "a.txt"),), "length": 8},
            process={"prediction": "logistic"}, network={"width": 16, "heads": 2, "depth": 1})  # fmt: skip


def test_kernels_and_a_schedule_made_from_the_data(tmp_path):
    small = {"width": 8, "blocks": 1, "head_width": 8, "attention": ()}
    process = {"limit": "uniform", "prediction": "logits", "schedule": "mutual_information",
               "kernel": "neighbours:count=4,squared=true"}  # fmt: skip
    trained("digits-discrete", process=process, objective={"weight": "simple"}, network=small)
    graphs = [{"n": n, "edges": [[k, (k + 1) % n] for k in range(n - cut)]} for n in (4, 5, 6, 7, 8) for cut in (0, 1)]
    (tmp_path / "g.json").write_text(json.dumps(graphs))
    trained("community", data={"path": str(tmp_path / "g.json"), "held_out": 0.3}, process={"schedule": "mutual_information"},
            network={"width": 16, "edge_width": 8, "whole": 8, "depth": 1})  # fmt: skip


def test_score_entropy_on_a_mask():
    # SEDD's absorbing loss: ratios read from a network that says log p
    trained("digits-discrete", process={"limit": "mask", "prediction": "ratio"},
            objective={"kind": "denoising", "weight": "elbo"},
            network={"width": 8, "blocks": 1, "head_width": 8, "attention": ()})  # fmt: skip
