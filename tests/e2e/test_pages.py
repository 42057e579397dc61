"""What the pages show is run: their commands on a folder of pictures, and their examples."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
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


def normal(process, mean, covariance):
    return lv.oracles.gaussian(process, mean, covariance)


def test_networks_of_other_libraries_are_brought_along():
    mean, covariance = torch.tensor([1.0, -0.5]), torch.tensor([[1.0, 0.4], [0.4, 0.6]])
    asked: dict[str, list[Any]] = {"sigma": [], "flow": [], "score": [], "timestep": []}

    def exact(x, alpha, sigma):  # E[data | x] of normal data, as each library's network would have learned it
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (alpha, sigma))
        seen = alpha**2 * covariance.double() + sigma**2 * torch.eye(2).double()
        off = (x.double() - alpha[:, 0] * mean)[..., None]
        return (mean + (alpha * covariance.double() @ torch.linalg.solve(seen, off))[..., 0]).to(x.dtype)

    class Karras(torch.nn.Module):
        def forward(self, x, sigma):
            asked["sigma"].append(sigma)
            return exact(x, torch.ones_like(sigma), sigma)

    class Flow(torch.nn.Module):
        def forward(self, x, t):  # x_t = t data + (1 - t) noise; u = data - noise
            asked["flow"].append(t)
            t = t.clamp(max=1 - 1e-6)
            data = exact(x, t, 1 - t)
            return data - (x - t[:, None] * data) / (1 - t[:, None])

    class Score(torch.nn.Module):
        def forward(self, x, t):
            asked["score"].append(t)
            alpha, sigma = (v.float() for v in lv.schedules.vp_linear()(t.double()))
            return -(x - alpha[:, None] * exact(x, alpha, sigma)) / sigma[:, None] ** 2

    class Published(torch.nn.Module):
        def forward(self, x, timestep):
            asked["timestep"].append(timestep)
            alpha, sigma = (v.float() for v in lv.schedules.betas("linear")((timestep.double() + 1) / 1000))
            return SimpleNamespace(sample=(x - alpha[:, None] * exact(x, alpha, sigma)) / sigma[:, None])

    space: dict[str, Any] = {"karras_net": Karras(), "flow_net": Flow(), "score_net": Score(), "unet": Published()}
    exec(compile("\n".join(blocks("coming_from.md")), "coming_from.md", "exec"), space)
    assert 79 < float(asked["sigma"][0][0]) < 81 and float(asked["flow"][0][0]) == 0 and float(asked["score"][0][0]) == 1
    assert float(asked["timestep"][0][0]) == 999
    wrapped = [space[name] for name in ("by_sigma", "by_flow", "by_score", "by_timestep")]
    for denoiser, x in zip(wrapped, space["samples"], strict=True):
        oracle = normal(denoiser.process, mean, covariance)
        z = denoiser.process.marginal(x[:20], 0.6, lv.Noise.of(0, 20))
        assert torch.allclose(denoiser(z, 0.6).mean, oracle(z, 0.6).mean, atol=2e-3), denoiser
        assert torch.allclose(x.double().mean(0), mean.double(), atol=0.15)
        assert torch.allclose(x.double().T.cov(), covariance.double(), atol=0.2)
    assert torch.allclose(space["x"], lv.sample(space["by_flow"], "dpmpp:20", 4, seed=7), atol=1e-5)
    assert 0 < space["loss"].total.item() < 3


def test_seeds_of_ones_own_and_a_plan_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(compile("\n".join(block for block in blocks("plans.md") if "lv.captured" not in block), "plans.md", "exec"), space)
    exact, schedule = space["exact"], space["exact"].process.schedule
    assert torch.allclose(space["many"][7], space["last"][0], atol=1e-6)
    for k, seed in enumerate((3, 12)):
        assert torch.allclose(space["both"][k], lv.sample(exact, "dpmpp:20", 1, seed=seed)[0], atol=1e-6)
    assert lv.plans.parse("mine.json") == space["mine"]
    fine = lv.sample(exact, "dpmpp:400:order=3", 200)
    own, first = (lv.sample(exact, plan, 200) for plan in (space["extrapolated"](20), lv.plans.ddim(20, grid="log_snr")))
    assert (own - fine).norm(dim=1).median() < 0.5 * (first - fine).norm(dim=1).median()
    assert space["extrapolated"](20).on(schedule).nfe == 20


def test_a_loop_of_ones_own_is_that_of_sample():
    space: dict[str, Any] = {}
    code = "\n".join(block for block in blocks("plans.md") if "exact =" in block or "alpha_s" in block)
    exec(compile(code, "plans.md", "exec"), space)  # asserts that DDIM by hand is lv.sample's
    exact, process, noise, levels = (space[name] for name in ("exact", "process", "noise", "levels"))
    for eta in (0.0, 0.5, 1.0):  # and by the bridge, with fresh noise as well
        z = process.prior((2,), noise.at("prior").at(""))
        for i, (t, s) in enumerate(zip(levels, levels[1:], strict=False)):
            z = process.bridge(z, exact(z, t), t, s, noise.at("bridge", step=i).at(""), eta=eta)
        assert torch.allclose(z, lv.sample(exact, lv.plans.ddim(20, eta), 8, seed=0), atol=1e-5)
        assert not torch.allclose(z, lv.sample(exact, lv.plans.ddim(20, eta), 8, seed=1), atol=1e-2)


def test_a_denoiser_of_ones_own_has_a_student():
    space: dict[str, Any] = {}
    code = next(block for block in blocks("few_steps.md") if "teacher" in block)
    exec(compile(code, "few_steps.md", "exec"), space)
    assert space["x"].shape == (8, 2) and not any(p.requires_grad for p in space["teacher"].parameters())
    pairs = zip(space["student"].parameters(), space["teacher"].parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)


def test_samples_of_ones_own_are_judged_beside_a_reference(capsys):
    code = next(block for block in blocks("evaluation.md") if "lv.evaluate.PCA" in block)
    space: dict[str, Any] = {}
    exec(compile(code, "evaluation.md", "exec"), space)
    far, near = (float(v) for v in re.findall(r"^([\d.]+) where .* have ([\d.]+)$", capsys.readouterr().out, re.M)[0])
    assert far > 20 * near


def test_two_evaluations_are_compared_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "two-moons", "--train.steps", "1", "--samples", "50", "--out", "runs"])
    told = lv.evaluate.Evaluation.model_validate_json((tmp_path / "runs" / "metrics.json").read_text())
    capsys.readouterr()
    main(["evaluate", "runs", "--small", "--count", "50", "--plan", "heun:1", "--json"])
    (tmp_path / "fast.json").write_text(capsys.readouterr().out)
    (tmp_path / "digits.json").write_text(told.model_dump_json())
    code = next(block for block in blocks("evaluation.md") if "beside" in block)
    exec(compile(code, "evaluation.md", "exec"), {})
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {*told.names()}


def test_an_outlier_ranks_first():
    space: dict[str, Any] = {}
    exec(compile(next(block for block in blocks("likelihood.md") if "strangest" in block), "likelihood.md", "exec"), space)
    assert int(space["least"][0]) == int(space["strangest"][0]) == 20


def test_conditions_of_any_name_and_settings_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    doses = torch.linspace(0, 1000, 64)
    points = torch.stack([doses / 500 - 1, torch.zeros(64)], 1)
    space: dict[str, Any] = {"torch": torch, "lv": lv, "points": points, "doses": doses}
    code = next(block for block in blocks("training.md") if "dose" in block).replace("steps=200", "steps=2, batch=16")
    exec(compile(code, "training.md", "exec"), space)
    assert space["x"].shape == (100, 2)
    again = lv.sample(space["dosed"], "heun:10", 100, cond={"dose": torch.full((100,), 750.0)}, guidance=lv.CFG(1.5))
    assert torch.equal(space["x"], again)
    data, held_out = lv.data.two_moons(64).split(48)
    space = {"lv": lv, "data": data, "held_out": held_out, "denoiser": lv.Denoiser(
        lv.networks.MLP(2, width=8, depth=1, classes=2), lv.Gaussian(lv.schedules.flow()), "velocity")}  # fmt: skip
    code = next(block for block in blocks("training.md") if "settings" in block)
    exec(compile(code.replace("200", "2").replace("valid_every=100", "valid_every=1"), "training.md", "exec"), space)
    assert "'valid'" in capsys.readouterr().out and (tmp_path / "runs" / "mine" / "checkpoints").is_dir()
    lv.fit(space["denoiser"], data, valid=held_out, valid_every=1, out="runs/mine", resume=True, **space["settings"])


def test_a_guidance_of_ones_own_is_what_the_page_says():
    space: dict[str, Any] = {}
    exec(compile("\n".join(blocks("guidance.md")), "guidance.md", "exec"), space)
    lv, denoiser, cond = space["lv"], space["denoiser"], {"label": torch.ones(4, dtype=torch.long)}
    z = lv.Noise.of(3, 4).normal((2,))
    for t in (0.2, 0.9):  # strength 1 + 2 t
        faded = lv.guidance.Guided(denoiser, space["stronger_at_first"](denoiser))(z, t, cond)
        torch.testing.assert_close(faded.mean, lv.CFG(1 + 2 * t)(denoiser)(z, t, cond).mean, rtol=1e-5, atol=1e-6)
    a, b = (denoiser(z, 0.9, c).mean.clamp(-1.5, 1.5) for c in (cond, None))
    torch.testing.assert_close(lv.CFG(2.0)(space["in_range"](denoiser))(z, 0.9, cond).mean, b + 2 * (a - b))


def test_graphs_of_networkx_are_learned_and_drawn_as_graphs():
    space: dict[str, Any] = {}
    exec(compile(blocks("graphs.md")[0], "graphs.md", "exec"), space)
    data, drawn, mask = space["data"], space["drawn"], space["mask"]
    assert [g.number_of_nodes() for g in drawn] == mask.sum(1).tolist()
    assert {g.number_of_nodes() for g in drawn} <= {*data.sizes.tolist()}
    for graph, edges, real in zip(drawn, space["x"]["edges"], mask, strict=True):  # every edge is told both ways, none of padding
        assert int(edges.sum()) == 2 * graph.number_of_edges() == int(edges[real][:, real].sum())
    again = lv.data.Graphs(drawn, size=data.size).batch(torch.arange(20))
    assert torch.equal(again.x["edges"], space["x"]["edges"]) and torch.equal(again.mask, mask)
    few = lv.sample(space["denoiser"], "ddpm:20", 5, seed=0, mask=mask[:5])
    assert torch.equal(few["edges"], space["x"]["edges"][:5])
