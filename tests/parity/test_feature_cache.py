"""Blocks that are left out: nothing changes where nothing is, errors shrink with what is asked for, runs share nothing."""

import math
from typing import Any

import pytest
import torch

import langevin as lv
from langevin.cli import main
from langevin.tasks.feature_cache import FirstBlock, Memory, Taylor, measured
from tests.parity.goldens import Goldens

ASKED: dict[str, Any] = {"prompt": "a red cat", "steps": 12, "seed": 5, "size": (32, 32)}
CASES = ["pixart/sigma_pipeline", "sd3/sd35_pipeline", "flux/dev_pipeline"]


def _load(goldens: Goldens, case: str) -> Any:
    family, name = case.split("/")
    return lv.load(goldens.case(family, name).dir / "pipeline")


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_and_what_it_costs(goldens: Goldens, case: str) -> None:
    model = _load(goldens, case)
    plain = model.run(**ASKED)
    layers = goldens.case(*case.split("/")).config("pipeline/transformer")
    if layers["num_layers"] + layers.get("num_single_layers", 0) < 2:  # as other seeds draw it
        with pytest.raises(ValueError, match="the network has 1 blocks; there is nothing to leave out"):
            model.run(**ASKED, cache=Taylor(2))
        return
    for cache in (FirstBlock(0.0), Taylor(every=1)):  # what changes at all is computed
        ours = model.run(**ASKED, cache=cache)
        assert torch.equal(ours.tensor, plain.tensor) and ours.memory.left == 0
    wide = [FirstBlock(threshold, most=3) for threshold in (0.1, 9.0)]  # random weights move much from step to step
    for caches in (wide, [Taylor(2), Taylor(4)]):
        one, two = (measured(model, cache, **ASKED) for cache in caches)
        assert one.memory.left <= two.memory.left and two.memory.left > 0
        assert one.memory.left + one.memory.computed == two.memory.left + two.memory.computed >= 12
        assert one.error <= two.error
    assert torch.equal(model.run(**ASKED).tensor, plain.tensor)  # what a run remembers is its own


def test_taylor_beats_repeating_and_is_exact_where_the_sum_is_a_polynomial() -> None:
    def at(t: float, order: int) -> torch.Tensor:
        return torch.tensor([[1.0 + 2 * t - 3 * t**2 + (t**3 if order > 2 else 0.0)]])

    for order in (0, 1, 2):
        cache = Taylor(3, order)
        levels = [0.9, 0.7, 0.6][-cache.kept :]
        memory = Memory(0.45, levels, [at(t, order) for t in levels])
        error = float((cache.predicted(memory) - at(0.45, order)).abs())
        assert error < 1e-5 if order == 2 else error > 1e-3
    # the remainder of Lagrange's formula, for a cubic
    levels = [0.9, 0.7, 0.6]
    memory = Memory(0.45, levels, [at(t, 3) for t in levels])
    off = math.prod(0.45 - t for t in levels)
    torch.testing.assert_close(at(0.45, 3) - Taylor(3, 2).predicted(memory), torch.tensor([[off]]), rtol=1e-3, atol=1e-5)


def test_what_has_no_trunk_is_refused(goldens: Goldens, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    unet = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    with pytest.raises(ValueError, match="UNet has no trunk"):
        lv.load(unet).run("a cat", steps=1, size=(32, 32), cache=FirstBlock())
    with pytest.raises(ValueError, match="give at least 1, 0 and 1"):
        Taylor(0)
    folder = goldens.case("flux", "dev_pipeline").dir / "pipeline"
    command = ["generate", str(folder), "a cat", "--steps", "6", "--size", "32x32", "--out", str(tmp_path / "cat.png")]
    main([*command, "--cache", "taylor:every=3", "--measure"])
    said = capsys.readouterr().out
    assert "were left out in" in said and "of their deviation" in said
    with pytest.raises(SystemExit):
        main([*command, "--cache", "tailor"])
    assert "did you mean 'taylor'" in capsys.readouterr().err


def test_the_sample_that_changes_most_decides() -> None:
    """A batch is one decision, so that no sample is left with what another would not have had."""
    before, still = torch.ones(2, 3, 4), torch.ones(2, 3, 4) * torch.tensor([1.02, 1.15])[:, None, None]
    memory = Memory()
    memory.first = before
    assert not FirstBlock(0.1).known(memory, still)
    memory.first = before[:1]
    assert FirstBlock(0.1).known(memory, still[:1])
