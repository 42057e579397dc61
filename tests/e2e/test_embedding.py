"""The recipe of words as points, from lines of text to pages of samples."""

import json

import pytest
import torch

from langevin import tasks
from langevin.cli import main
from langevin.core.noise import Noise
from langevin.core.sample import sample, trajectory
from langevin.embedded import Embedded
from langevin.guidance import Control
from langevin.plans import controlled
from langevin.recipes.classifying import attributes_of, open_classifier
from langevin.recipes.opening import open_run
from langevin.recipes.written import written

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


def test_sentences_are_written_given_what_is_known_and_asked_for(tmp_path, capsys):
    run_of(tmp_path, "--train.lr", "0.01", "--objective.spread", "elements")
    run, marked = str(tmp_path / "run"), "A Thai ___ is by the river ."

    def said(*more):
        capsys.readouterr()
        main(["write", run, "--count", "12", "--seed", "3", *more])
        texts = capsys.readouterr().out[:-1].split("\n----\n")
        assert len(texts) == 12
        return texts

    assert all(text.startswith("A Greek") for text in said("--prefix", "A Greek"))
    filled = said("--infill", marked)
    assert all(text[:7] == marked[:7] and text[-17:] == marked[-17:] for text in filled if len(text) == len(marked))
    assert any(len(text) == len(marked) for text in filled) and len(set(filled)) > 1
    for more, error in (
        (("--temperature", "0.5"), "this one is of sentences"),
        (("--contains", "k", "--plan", "ddim:5"), "moves the steps of 'controlled:N' alone"),
        (("--tokens", "40"), "has 1 to 39"),
        (("--best-of", "0"), "best_of is 0"),
        (("--contains", "k", "--clamp", "0.5"), "leave it out"),
    ):
        with pytest.raises(SystemExit):
            main(["write", run, *more])
        assert error in capsys.readouterr().err


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_asked_of_a_sentence_is_what_its_steps_are_moved_by(tmp_path, monkeypatch, fresh):
    run = run_of(tmp_path, *(("--sample.plan", "consistency:5") if fresh else ()))
    seen = {}

    def watched(model, plan, count, **options):
        seen.update(options, plan=plan)
        return sample(model, plan, count, **options)

    monkeypatch.setattr("langevin.recipes.written.sample", watched)
    written(run, count=2, words=["pub", "mill"], tokens=7)
    process, alphabet = points_of(run), run.test.alphabet
    assert seen["plan"].name == controlled(5, fresh=fresh).name
    assert isinstance(seen["guidance"], Control)
    x = Noise.of(0, 3).normal((40, 16))
    wanted = tasks.of_length(process, run.test.end, 7)(x, 0.5, None)
    for word in ("pub", "mill"):
        wanted = wanted + tasks.contains(process, [int(k) for k in alphabet.ids(word)])(x, 0.5, None)
    assert torch.allclose(seen["guidance"].log_prob(x, 0.5, None), wanted)


def named(folder):
    texts = [f"name : {k} | food : {a} | area : {b}||{a} by the {b} ." for k in range(12) for a in FOOD for b in PLACE]
    (folder / "named.txt").write_text("\n".join(texts) + "\n")
    return ["--data.path", str(folder / "named.txt"), "--data.length", "24"]


def test_a_classifier_of_attributes_is_learned_and_controls_what_is_written(tmp_path, capsys, monkeypatch):
    run = run_of(tmp_path, *named(tmp_path), "--samples", "0")
    folder, wanted = str(tmp_path / "attributes"), ("food : Thai", "area : park")
    classified = ["classify", str(tmp_path / "run"), "--attributes", *wanted, "--out", folder, "--network.width", "32",
                  "--train.lr", "0.01", "--train.schedule", "constant", "--train.warmup", "64", "--train.ema", "0.9"]  # fmt: skip
    main([*classified, "--train.steps", "20"])
    main([*classified, "--train.steps", "120", "--resume"])
    told = capsys.readouterr().out
    assert "food : Thai: " in told and "area under the ROC curve" in told
    table = json.loads((tmp_path / "attributes" / "auroc.json").read_text())
    held = [set(attributes_of(name)) for name in run.test.names]
    for name in wanted:
        assert table[name]["share"] == pytest.approx(sum(name in has for has in held) / len(held))
        assert table[name]["0.1"] > 0.95 and table[name]["0.9"] <= table[name]["0.1"]
    classifier = open_classifier(folder, run)
    seen = {}

    def watched(model, plan, count, **options):
        seen.update(options, plan=plan, z=sample(model, plan, count, **options))
        return seen["z"]

    monkeypatch.setattr("langevin.recipes.written.sample", watched)
    main(["write", str(tmp_path / "run"), "--classifier", folder, "--attributes", *wanted, "--count", "20"])
    control, x = seen["guidance"], Noise.of(0, 3).normal((24, 16))
    assert control.of == "state" and seen["plan"].name == controlled(5).name
    expected = 3 * torch.nn.functional.logsigmoid(classifier.net(x, torch.full((3,), 400.0))).sum(1)
    assert torch.allclose(control.log_prob(x, torch.tensor(0.4), None), expected, atol=1e-5)
    # on the way down states are more of what is asked for; a network of four updates makes nothing of them at its end
    ways = [list(trajectory(run.denoiser, controlled(5), 20, guidance=g)) for g in (None, classifier.towards(run, wanted))]
    plain, moved = (classifier.asked(way[2].z, way[2].level).mean(0) for way in ways)
    assert bool((moved > plain + 1).all())
    # with words, of which beliefs are asked, the classifier is told that they are data
    written(run, count=1, words=["by"], attributes=wanted[:1], classifier=folder)
    control = seen["guidance"]
    word = tasks.contains(points_of(run), [int(k) for k in run.test.alphabet.ids("by")])(x, 0.4, None)
    of_data = 3 * torch.nn.functional.logsigmoid(classifier.net(x, torch.zeros(3))[:, 0])
    assert control.of == "belief" and torch.allclose(control.log_prob(x, torch.tensor(0.4), None), word + of_data, atol=1e-5)
    assert torch.allclose(classifier.towards(run, wanted).log_prob(x, torch.tensor(0.4), None), expected, atol=1e-5)
    for more, error in (
        (["write", "--classifier", folder], "give both, or neither"),
        (["write", "--classifier", folder, "--attributes", "area : mars"], "this classifier knows food : Thai, area : park"),
        (["write", "--classifier", str(tmp_path), "--attributes", "area : park"], "no classifier.json"),
        (["classify", "--attributes", "area : mars", "--out", str(tmp_path / "no")], "which 0 of"),
    ):
        with pytest.raises(SystemExit):
            main([more[0], str(tmp_path / "run"), *more[1:]])
        assert error in capsys.readouterr().err
    points_of(run).table.data.add_(0.1)
    with pytest.raises(ValueError, match="this one has others"):
        open_classifier(folder, run)


def test_the_best_of_several_is_the_one_the_others_are_most_like(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    made = iter([["a b c", "x y z", "a b d", "q q q", "r s t", "r s u"]])
    monkeypatch.setattr(type(run.test), "text", lambda self, row: next(texts))
    texts = iter(next(made))
    assert written(run, count=2, best_of=3) == ["a b c", "r s t"]


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
