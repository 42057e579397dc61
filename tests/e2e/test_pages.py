"""What the pages show is run: their commands on a folder of pictures, and their examples."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main

DOCS = Path(__file__).parents[2] / "docs"
SHORT = {  # so that a page takes seconds
    "train": ["--network.width", "8", "--data.size", "8", "--sample.plan", "ddim:2", "--train.batch", "4", "--samples", "0"],
    "distill": ["--train.steps", "2", "--samples", "0", "--no-tune"],
    "evaluate": ["--count", "8", "--plan", "ddim:2", "--features", "pca", "--metrics", "fd"],
}


def blocks(page: str, kind: str = "python") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_a_folder_of_your_own_pictures_goes_the_whole_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (8, 8), (90 * k, 2 * i, 255 - i)).save(tmp_path / "photos" / name / f"{i:03d}.jpg")
    lines = [line for block in blocks("own_pictures.md", "bash") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines]
    assert [words[0] for words in commands] == [
        "train", "train", "sample", "inspect", "sample", "evaluate", "distill", "sample",
    ]  # fmt: skip
    begun = False
    for words in commands:
        short = SHORT.get(words[0], [])
        if words[0] == "train" and not begun:  # stopped as Ctrl-C would
            with pytest.raises(SystemExit) as end:
                main([*words, *short, "--train.steps", "3", "--train.hours", "1e-9"])
            assert end.value.code == 130 and "--resume" in capsys.readouterr().err
            begun = True
        elif words[0] == "train":
            main([*words, "--train.hours", "None", "--samples", "0"])
        else:
            main([*words, *short])
    assert "`langevin sample RUN --count=16 --seed=0 --plan=ddim:2 --label=1 --guidance=1.5" in capsys.readouterr().out
    assert {"dogs.png", "fast.png", "samples"} <= {p.name for p in tmp_path.iterdir()}
    assert len(list((tmp_path / "samples").iterdir())) == 20


def test_a_network_written_elsewhere_is_told_whole_timesteps_and_its_null_class():
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Net(torch.nn.Module):
        def forward(self, x, t, y):
            seen.append((t, y))
            return x * torch.cos(y.float())[:, None, None, None]

    code = next(block for block in blocks("training.md") if "class Wrapped" in block)
    space: dict[str, Any] = {"torch": torch, "lv": lv, "net": Net()}
    exec(compile(code, "training.md", "exec"), space)
    assert all(t.dtype == torch.int64 for t, _ in seen)
    assert [int(t[0]) for t, _ in seen][:2] == [999, 979] and len(seen) == 50
    labels = torch.arange(16) % 10
    assert all(sorted(y.tolist()) == sorted([*labels.tolist(), *[10] * 16]) for _, y in seen)
    # what it says is eps, at the level of its own timestep
    z, t = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 500 / 1000
    alpha, sigma = space["process"].schedule(t)
    said = space["denoiser"](z, t, {"label": torch.full((4,), 2)}).mean
    assert int(seen[-1][0][0]) == 499
    assert torch.allclose(said, ((z - sigma * z * torch.cos(torch.tensor(2.0))) / alpha).float(), atol=1e-4)


def test_a_schedule_of_your_own_samples_the_right_law():
    space: dict[str, Any] = {}
    exec(compile(blocks("processes.md")[0], "processes.md", "exec"), space)
    x, mean, covariance = space["x"].double(), space["mean"].double(), space["covariance"].double()
    assert torch.allclose(x.mean(0), mean, atol=0.1) and torch.allclose(x.T.cov(), covariance, atol=0.12)
    assert float(space["alpha"]) == pytest.approx(float(torch.cos(torch.linspace(0.03, 1.53, 1000)[499])), rel=1e-5)


def test_a_half_is_painted_as_its_class():
    space: dict[str, Any] = {}
    code = blocks("inverse.md")
    exec(compile("\n".join([code[0], next(block for block in code if "threes" in block)]), "inverse.md", "exec"), space)
    x, label = space["batch"].x.double(), space["batch"].cond["label"]
    any_class = lv.tasks.restore(space["classes"], space["op"], space["y"], 0.1, plan=lv.plans.ddim(20), count=4)

    def share_of_threes(made):
        lower = made[..., 4:, :].reshape(-1, 32).double()
        threes, others = (torch.cdist(lower, x[at][:, :, 4:].flatten(1)).min(1).values for at in (label == 3, label != 3))
        return float((threes < others).double().mean())

    painted = space["painted"].samples
    assert painted.shape == (4, 4, 1, 8, 8)
    assert float((painted[..., :4, :] - x[:4, :, :4]).abs().mean()) < 0.25  # what is known stays, up to the noise of y
    assert share_of_threes(painted) > 0.7 and share_of_threes(any_class.samples) < 0.3
