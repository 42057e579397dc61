"""A plan of memory: the fewest steps that fit, what each leaves of the picture, and layers that take turns."""

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin as lv
from langevin.cli import main
from langevin.tasks import memory
from langevin.tasks.memory import Turns
from langevin.zoo.budget import STEPS, fit, parsed
from langevin.zoo.detect import detect
from langevin.zoo.load import ladder
from tests.parity.goldens import Goldens

ASKED: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 5, "size": (32, 32)}


@pytest.fixture
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


def test_amounts() -> None:
    assert parsed("8GB") == 8 * 10**9 and parsed("1.5 GiB") == 3 * 2**29 and parsed(1000) == 1000
    for odd in ("much", "8 apples", "-1GB", "0GB"):
        with pytest.raises(ValueError, match="give an amount of memory"):
            parsed(odd)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_fewest_steps_that_fit_are_taken(folder: Path, device: str) -> None:
    found = detect(folder)
    needs = fit(found, 10**15, device).needs
    assert len(needs) == len(STEPS) and (needs[3] is None) == (device == "cpu")
    told = [need for need in needs if need is not None]
    assert told == sorted(told, reverse=True) and told[0] > told[-1]
    for k, need in enumerate(needs):
        if need is not None:
            first = next(i for i, n in enumerate(needs) if n is not None and n <= need)
            assert fit(found, need, device).taken == first <= k
    with pytest.raises(ValueError, match=r"takes about .* with every step"):
        fit(found, told[-1] - 1, device)
    # weights: those of the files, and half as many bytes
    weights = sum(p.stat().st_size for p in folder.rglob("*.safetensors"))
    small = fit(found, 10**15, device, size=(8, 8)).needs
    assert abs(small[0] - weights) < 0.1 * weights and small[1] is not None and abs(small[1] - weights / 2) < 0.1 * weights


def test_what_a_picture_takes_is_told_where_the_widths_are_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "sparse")
    file = tmp_path / "sparse" / "unet" / "config.json"
    config = json.loads(file.read_text())
    width = config.pop("block_out_channels")[0]
    file.write_text(json.dumps(config))
    said, sparse = detect(folder).picture, detect(tmp_path / "sparse").picture
    assert said is not None and sparse is not None
    assert sparse.network * width == said.network * 320 and sparse.decoder == said.decoder  # 320 is the default


def test_each_step_keeps_the_picture(folder: Path) -> None:
    pytest.importorskip("torchao")
    plain = lv.load(folder).run(**ASKED).tensor
    needs = ladder(folder, 10**15, size=(32, 32)).needs
    for need in {n for n in needs if n is not None}:
        plan = ladder(folder, need, size=(32, 32))
        ours = lv.load(folder, budget=plan).run(**ASKED).tensor
        error = float((ours - plain).square().mean().sqrt() / plain.std())
        assert error == 0 if plan.taken == 0 else error < 0.1, (str(plan), error)


class _Watch:
    """What is on the device now, and the most there ever was."""

    def __init__(self) -> None:
        self.there: dict[int, int] = {}
        self.most = 0

    def __call__(self, value: Tensor) -> Tensor:
        made = value.clone()
        gc.collect(0)
        self.there[id(made)] = made.numel()
        weakref.finalize(made, self.there.pop, id(made), None)
        self.most = max(self.most, sum(self.there.values()))
        return made


@pytest.mark.parametrize("case", ["sd1/txt2img_sampler", "sd3/sd35_pipeline", "pixart/sigma_pipeline"])
def test_layers_in_turn_compute_the_same(goldens: Goldens, case: str) -> None:
    folder = goldens.root / case / "pipeline"
    goldens.case(*case.split("/"))
    whole, model = lv.load(folder), lv.load(folder)
    for net in (*memory.networks(whole), *memory.networks(model)):
        for p in net.parameters():  # out of the mapped file: last bits of a product follow how its numbers are aligned
            p.data = p.data.clone()
    plain = whole.run(**ASKED)
    turns = [Turns(net, "cpu", _Watch()) for net in memory.networks(model)]
    assert torch.equal(model.run(**ASKED).tensor, plain.tensor)
    for turn in turns:
        sizes = [sum(p.numel() for p in block.parameters()) for block in turn.blocks]
        if turn.place.most:  # pyright: ignore
            assert turn.place.most <= max(sizes) < sum(sizes)  # pyright: ignore
    assert sum(turn.place.most for turn in turns) > 0  # pyright: ignore


def test_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--steps", "1", "--size", "32x32", "--out", str(tmp_path / "cat.png")]
    need = ladder(folder, 10**15, size=(32, 32)).needs[1]
    main(["generate", str(folder), "a cat", "--budget", str(need), *out])
    said = capsys.readouterr().out
    assert "with one picture of 32 x 32" in said and "-> 2. bfloat16" in said
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "a cat", "--budget", "1kB", *out])
    assert "with every step of the ladder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "a cat", "--budget", "8GB", "--dtype", "float32", *out])
    assert "dtype is float32, and the plan of budget 8GB" in capsys.readouterr().err
