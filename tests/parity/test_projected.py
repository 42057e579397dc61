"""Adaptive projected guidance beside diffusers' own."""

import pytest
import torch

import langevin as lv
from langevin import oracles, schedules
from langevin.guidance import APG

peer = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")


@pytest.mark.parametrize(("w", "parallel", "longest"), [(3.0, 0.0, 0.4), (7.5, 0.5, 15.0), (2.0, 1.0, 0.1)])
def test_means_are_those_of_diffusers(w, parallel, longest):
    means = lv.Noise.of(0, 3).normal((2, 4, 4), torch.float64)
    exact = oracles.mixture(lv.Gaussian(schedules.cosine()), means, 0.5, label=torch.tensor([0, 1, 1]))
    z, label = lv.Noise.of(1, 5).normal((2, 4, 4), torch.float64), torch.tensor([0, 1, 0, 1, 0])
    conditional, null = exact(z, 0.6, {"label": label}).mean, exact(z, 0.6).mean
    theirs = peer.normalized_guidance(conditional, null, w - 1, None, parallel, longest, use_original_formulation=True)
    assert torch.allclose(APG(w, parallel, longest)(exact)(z, 0.6, {"label": label}).mean, theirs, atol=1e-10)
