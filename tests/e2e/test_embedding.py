"""The recipe of words as points, from lines of text to pages of samples."""

import torch

from langevin import tasks
from langevin.cli import main
from langevin.core.noise import Noise
from langevin.core.sample import sample
from langevin.embedded import Embedded
from langevin.guidance import Control
from langevin.plans import controlled
from langevin.recipes.build import open_run

FOOD, PLACE = ("Thai", "Greek", "Cuban", "Irish"), ("river", "park", "mill")


def lines(folder):
    texts = [f"name : {a}{b}{k}||A {a} pub is by the {b} ." for k in range(12) for a in FOOD for b in PLACE]
    path = folder / "e2e.txt"
    path.write_text("\n".join(texts) + "\n")
    return path


def points_of(run):
    assert isinstance(run.denoiser.process, Embedded)
    return run.denoiser.process


def run_of(tmp_path, *more):
    main(["train", "e2e-embedding", "--out", str(tmp_path / "run"), "--data.path", str(lines(tmp_path)), "--data.length", "40",
          "--data.alphabet", "characters", "--network.width", "16", "--network.depth", "1", "--network.heads", "2",
          "--train.batch", "8", "--train.schedule", "constant", "--sample.plan", "ddpm:5",
          "--train.steps", "4", *more])  # fmt: skip
    return open_run(tmp_path / "run")


def test_a_run_of_sentences_is_trained_resumed_sampled_and_judged(tmp_path, capsys):
    run = run_of(tmp_path)
    table = points_of(run).table.detach().clone()
    assert (tmp_path / "run" / "samples.txt").read_text().count("\n") == 10
    again = run_of(tmp_path, "--train.steps", "6", "--resume")
    assert not torch.equal(points_of(again).table, table)
    main(["sample", str(tmp_path / "run"), "--count", "3", "--out", str(tmp_path / "said.txt")])
    first = (tmp_path / "said.txt").read_text().split("\n")[:-1]
    assert len(first) == 3
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run"), "--small", "--count", "20"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("rounding", "words", "pairs", "unique", "copies"))


def test_wordings_are_probabilities_of_what_they_say(tmp_path):
    run = run_of(tmp_path)
    process = points_of(run)
    x = Noise.of(0, 2).normal((6, 16))
    p = process.log_probs(x).exp()
    one = tasks.contains(process, 3)(x, 0.5, None)
    assert torch.allclose(one.exp(), 1 - (1 - p[..., 3]).prod(1), atol=1e-5)
    two = tasks.contains(process, [3, 4])(x, 0.5, None)
    assert torch.allclose(two.exp(), 1 - (1 - p[:, :-1, 3] * p[:, 1:, 4]).prod(1), atol=1e-5)
    end = run.test.end
    long = tasks.of_length(process, end, 4)(x, 0.5, None)
    assert torch.allclose(long.exp(), (1 - p[:, :4, end]).prod(1) * p[:, 4:, end].prod(1), atol=1e-6)
    # and a control asks for them
    word = [int(k) for k in run.test.alphabet.ids("u")]
    plain, asked = (
        process.round(sample(run.denoiser, controlled(20), 20, guidance=g))
        for g in (None, Control(tasks.contains(process, word), rate=0.3, pull=0.0, above=0.0))
    )
    assert (asked == word[0]).any(1).float().mean() > max(0.9, (plain == word[0]).any(1).float().mean())
