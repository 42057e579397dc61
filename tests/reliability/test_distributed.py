"""One process or several, replicated or sharded: the same run, saved by one and continued by another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from langevin.training import load_latest

WORKER = Path(__file__).with_name("worker.py")


def train(out, steps, world, *options, fails=False):
    launcher = [] if world == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(out), str(steps), *options], capture_output=True, text=True, check=False
    )
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
    return torch.tensor([json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()])


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
