"""One process or several, replicated or sharded: the same run, saved by one and continued by another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import langevin as lv
from langevin.data import Order
from langevin.training import load_latest
from tests.field.test_complaints import trainer
from tests.soaking import Soak

ROOT = Path(__file__).parents[2]


def train(out, steps, world, *options, fails=False):
    launcher = [] if world == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [sys.executable, *launcher, "-m", "tests.reliability.worker", str(out), str(steps), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
    assert fails == (done.returncode != 0), done.stderr
    found = load_latest(out / "checkpoints")
    assert found is not None
    return found


def furthest(one, other):
    """The largest difference between two checkpoints' weights, averages and moments."""
    assert one.step == other.step
    differences = []
    for part in ("model", "ema", "optimiser"):
        assert one.tensors[part].keys() == other.tensors[part].keys()
        differences += [float((v - other.tensors[part][n]).abs().max()) for n, v in one.tensors[part].items() if v.numel()]
    return max(differences)


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return torch.tensor([[line["loss"], *(v for k, v in line.items() if k.startswith("levels/"))] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, train(out, 50, 1)


@pytest.mark.parametrize(
    "options",
    [(), ("shard",), ("accumulate=2",), ("shard", "checkpointing")],
    ids=["DDP", "FSDP2", "DDP, two passes", "FSDP2, checkpointing"],
)
def test_two_processes_are_one(alone, tmp_path, options):
    found = train(tmp_path, 50, 2, *options)
    assert furthest(found, alone[1]) < 1e-5
    torch.testing.assert_close(losses(tmp_path), losses(alone[0]), atol=1e-6, rtol=1e-5)


def test_muon_and_further_averages_go_with_divided_weights(tmp_path):
    """Saved by two that share the weights and continued by one, and the other way, as by one alone."""
    options = ("muon", "averages")
    one = train(tmp_path / "one", 12, 1, *options)
    train(tmp_path / "two", 6, 2, "shard", *options)
    train(tmp_path / "two", 9, 1, *options)
    two = train(tmp_path / "two", 12, 2, "shard", *options)
    assert furthest(two, one) < 1e-5
    for part in ("ema.1", "ema.2"):
        for name, value in one.tensors[part].items():
            torch.testing.assert_close(two.tensors[part][name], value, atol=1e-5, rtol=0)
    kept, same = (sorted((tmp_path / name / "averages").iterdir()) for name in ("two", "one"))
    assert kept[-1].name == same[-1].name
    last, alike = (load_file(path) for path in (kept[-1], same[-1]))
    assert last.keys() == alike.keys() and all(float((last[n] - v).abs().max()) < 1e-5 for n, v in alike.items())


@pytest.mark.parametrize("options", [("accumulate=2",), ("shard",)], ids=["DDP, two passes", "FSDP2"])
def test_weights_that_reach_no_output_stay_as_they_are_in_all_processes(tmp_path, options):
    one, two = train(tmp_path / "one", 8, 1, "graph"), train(tmp_path / "two", 8, 2, "graph", *options)
    assert furthest(two, one) < 1e-5
    idle = [name for name in one.tensors["model"] if ".trunk.1.own." in name]
    assert idle and not any(name.startswith(tuple(idle)) for name in two.tensors["optimiser"])  # never moved, nor decayed


def test_a_preview_that_fails_before_it_draws_in_one_of_those_that_share_the_weights(alone, tmp_path):
    found = train(tmp_path, 50, 2, "shard", "fail=0")
    assert furthest(found, alone[1]) < 1e-5


def test_hooks_of_one_process_alone_are_refused_where_all_share_the_weights(tmp_path):
    train(tmp_path, 2, 1)
    assert train(tmp_path, 20, 2, "shard", "lonely", fails=True).step == 2


def test_a_slow_preview_is_waited_for_longer_than_a_gradient(tmp_path):
    assert train(tmp_path, 8, 2, "slow").step == 8


FITTING = """
import os, sys, torch
import langevin as lv
torch.manual_seed(0)
net = lv.networks.MLP(2, 16, 2, classes=2)
for k in range(2):
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    lv.fit(denoiser, lv.data.two_moons(100), steps=6, batch=12, out=f"{sys.argv[1]}/{k}", progress=False)
total = sum(float(p.detach().double().abs().sum()) for p in net.parameters())
with open(f"{sys.argv[1]}/sum-{os.environ.get('RANK', 0)}", "w") as file:  # lines of two processes may run into each other
    file.write(str(total))
"""


def test_fit_under_a_launcher_is_one_training_and_another_after_it(tmp_path):
    script = tmp_path / "fitting.py"
    script.write_text(FITTING)
    sums = {}
    for world in (1, 2):
        launcher = [] if world == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        command = [sys.executable, *launcher, str(script), str(tmp_path / str(world))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        sums[world] = [float(file.read_text()) for file in sorted((tmp_path / str(world)).glob("sum-*"))]
    assert len(sums[2]) == 2 and sums[2] == pytest.approx(2 * sums[1], rel=1e-6)
    for k in range(2):
        one, two = (load_latest(tmp_path / str(world) / str(k) / "checkpoints") for world in (1, 2))
        assert one is not None and two is not None and furthest(one, two) < 1e-5 and two.state["processes"] == 2


def test_a_trainer_that_was_not_told_of_the_others_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"WORLD_SIZE is 2, .*each process would train a model of its own; pass group=Group\.join"
    ):
        trainer(None)


def test_levels_that_follow_the_loss_follow_that_of_all_processes(tmp_path):
    one, two, passes = (
        train(tmp_path / name, 12, world, "loss_aware", *options)
        for name, world, options in (("one", 1, ()), ("two", 2, ()), ("passes", 1, ("accumulate=4",)))
    )
    mass = one.tensors["objective"]["levels.mass"]
    assert float(mass.max() / mass.min()) > 1.2  # they do follow
    for other in (two, passes):
        assert furthest(other, one) < 1e-5
        for name, value in one.tensors["objective"].items():
            torch.testing.assert_close(other.tensors["objective"][name], value, atol=1e-6, rtol=1e-4)


def test_a_batch_refused_by_one_is_refused_by_all_and_rolled_back(tmp_path):
    index = Order(0, len(lv.data.digits()), 16).batch(13)[1]
    found = [train(tmp_path / str(n), 20, n, f"bad={index[-1]}") for n in (1, 2)]  # in the second process's half
    assert found[0].state["refused"] == found[1].state["refused"] == [13] and furthest(*found) < 1e-5


@pytest.mark.parametrize(
    "options", [("bad", "stop"), ("bad", "stop", "shard"), ("torn",)], ids=["DDP", "FSDP2", "cannot be read"]
)
def test_a_batch_that_stops_all_of_them_leaves_what_was_trained_before_it(tmp_path, options):
    index = Order(0, len(lv.data.digits()), 16).batch(13)[1]
    how = (f"{options[0]}={index[-1]}", *options[1:])  # which the second process reads
    assert train(tmp_path, 20, 2, *how, fails=True).step == 13  # the one before is of step 10


@pytest.mark.parametrize("options", [(), ("shard",)], ids=["DDP", "FSDP2"])
def test_saved_by_some_and_continued_by_others(alone, tmp_path, options):
    train(tmp_path, 10, 4, *options)
    train(tmp_path, 20, 1)
    train(tmp_path, 30, 2, *options)
    found = train(tmp_path, 50, 1, "accumulate=4")
    assert furthest(found, alone[1]) < 1e-5


def test_one_of_two_is_killed(alone, tmp_path):
    train(tmp_path, 11, 2)
    train(tmp_path, 50_000, 2, "die=1.0", fails=True)  # it never ends by itself
    assert load_latest(tmp_path / "checkpoints").step >= 10  # pyright: ignore


@pytest.mark.soak
@pytest.mark.parametrize("options", [(), ("shard",)], ids=["DDP", "FSDP2"])
def test_four_of_which_one_is_killed_then_eight_then_one(alone, tmp_path, capsys, options):
    soak = Soak(capsys, "R6", 0, "")
    train(tmp_path, 20, 4, *options)
    train(tmp_path, 50_000, 4, "die=0.4", *options, fails=True)
    soak.say("one of 4 processes was killed, and the others ended; 8 go on")
    step = load_latest(tmp_path / "checkpoints").step  # pyright: ignore
    train(tmp_path, max(30, step), 8, *options)
    train(tmp_path, max(40, step), 2, *options)
    found = train(tmp_path, max(50, step), 1)
    whole = alone[1] if step <= 50 else train(tmp_path / "whole", step, 1)
    assert furthest(found, whole) < 1e-5
    off, how = furthest(found, whole), " ".join(options) or "replicated"
    soak.say(f"{how}: 4 processes of which one is killed, then 8, 2, 1: {off:.1e} from one process\n")
