"""A run killed at random points and resumed ends bit-identical to the uninterrupted one."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.victim import STEPS
from tests.soaking import Soak

VICTIM = Path(__file__).with_name("victim.py")


def train(out: Path, seconds: float, workers: int = 0, kind: str = "denoising") -> bool:
    """Whether it finished."""
    command = [sys.executable, str(VICTIM), str(out), str(seconds), str(workers), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stderr
    return "finished" in done.stdout


def final(out: Path, kind: str = "denoising") -> dict[str, str]:
    folder = out / "checkpoints" / f"step-{STEPS[kind]:08d}"
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def log(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def killed_runs_agree(
    tmp_path: Path, kills: int, seed: int, workers: int = 0, kind: str = "denoising", soak: Soak | None = None
) -> None:
    assert train(tmp_path / "whole", 0, 0, kind)
    rng, died = random.Random(seed), 0
    # moments are short next to the run, so that it is still going when the last one comes
    while died < kills:
        if train(tmp_path / "killed", rng.uniform(0.005, 0.3), workers, kind):
            break
        died += 1
        if soak is not None:
            soak.done()
    assert died == kills, f"the run finished after {died} kills; make it longer"
    assert train(tmp_path / "killed", 0, 0, kind)
    assert final(tmp_path / "killed", kind) == final(tmp_path / "whole", kind)
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob("*.partial"))


def test_twenty_kills(tmp_path):
    killed_runs_agree(tmp_path, 20, seed=0)


def test_a_distillation_is_killed_five_times(tmp_path):
    # R15: teacher, student, fake denoiser and critic, in one checkpoint
    killed_runs_agree(tmp_path, 5, seed=7, kind="dmd")


def test_a_run_that_is_measured_by_a_classifier_is_killed_three_times(tmp_path):
    killed_runs_agree(tmp_path, 3, seed=3, kind="classifier")


@pytest.mark.soak
def test_a_hundred_kills(tmp_path, capsys):
    soak = Soak(capsys, "R1", 100, "SIGKILLs of 5 runs of 300 steps, with and without workers that read ahead")
    for seed in range(1, 6):
        killed_runs_agree(tmp_path / str(seed), 20, seed, workers=2 * (seed % 2), soak=soak)
    soak.over("each run ends at the bytes of the one that was left alone")
