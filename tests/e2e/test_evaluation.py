"""Evaluation as a user meets it: runs, folders of pictures, and models in training."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import langevin as lv
from langevin import plans, schedules
from langevin.cli import main
from langevin.core.tree import leaves
from langevin.evaluate import DINOv2, Evaluation, classifier, extract, frechet, kid, neighbours, prdc
from langevin.recipes import drawing, recipe, sampling
from langevin.recipes.build import build
from langevin.recipes.config import Recipe
from langevin.recipes.domains import judging
from langevin.recipes.domains import pictures as domain
from langevin.recipes.domains.judging import _draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.folders import evaluate_folders
from langevin.recipes.in_loop import evaluator
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small DINOv2 of random weights, in a file."""
    torch.manual_seed(0)
    made = DINOv2(width=64, depth=1, hidden=64, patch=56, places=16)
    for p in made.parameters():
        p.detach().normal_(std=0.3)
    path = tmp_path_factory.mktemp("nets") / "tiny.safetensors"
    save_file(made.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    small = Recipe.model_validate(
        {
            **recipe("digits").model_dump(),
            "train": {"steps": 2, "batch": 4},
            "network": {"kind": "unet", "width": 8, "head_width": 8},
        }
    )
    _, trainer = start(small, out)
    trainer.run(progress=False)
    return out


@pytest.fixture
def folders(tmp_path):
    """Real digits in colour and moved, as files: the second half of them, and the first."""
    x = lv.data.digits("test").x
    for name, part in (("real", x[:60]), ("made", x[60:120] * 0.8)):  # pyright: ignore
        (tmp_path / name).mkdir()
        for k, picture in enumerate(((part + 1) * 127.5).round().byte().numpy()):
            Image.fromarray(np.kron(picture[0], np.ones((2, 2), np.uint8))).save(tmp_path / name / f"{k:03}.png")
    return tmp_path / "made", tmp_path / "real"


def test_a_run_by_features_of_a_file(run, net, capsys):
    asked = ["--small", "--count", "40", "--plan", "ddim:2", "--guidance", "1", "--features", str(net), "--device", "cpu"]
    main(["evaluate", str(run), *asked, "--metrics", "fd", "kid", "prdc", "memory", "--json"])
    found = Evaluation.model_validate_json(capsys.readouterr().out)
    again = evaluate(open_run(run), count=40, plan="ddim:2", guidance=1.0, features=net, metrics=["fd", "kid", "prdc", "memory"],
                     small=True)  # fmt: skip
    assert again == found  # same card, same numbers
    card = found.protocol
    assert card.small and card.features is not None and card.features.width == 64 and "bicubic to 224" in card.features.resize
    assert card.guidance == (1.0,) and card.nfe == 2 and card.real.size == 297 and card.plan == "ddim:2"
    assert found["w=1.kid"].spread is not None and found["w=1.fd"].spread is None
    assert {"w=1.precision", "w=1.coverage", "w=1.nearest_share", "fd_real"} <= set(found.names())
    with Image.open(run / "closest.png") as pairs:
        assert pairs.size[0] > pairs.size[1]  # ten samples, each above its neighbour
    assert not list(run.glob("classifier*"))  # none was needed
    main(["evaluate", str(run), *asked, "--metrics", "fd"])
    assert "small n" in capsys.readouterr().out


def test_a_perfect_model_is_at_the_floor_of_its_size(run, monkeypatch):
    opened, train = open_run(run), leaves(lv.data.digits("train").x)[""]

    def measured(x, seed=1):
        monkeypatch.setattr(judging, "_draw", lambda run, count, **options: x)
        options = {"features": "pca", "metrics": ["fd"], "guidance": 1.0, "plan": "ddim:1", "small": True}
        return evaluate(opened, count=len(x), seed=seed, against=against, **options)

    against = opened.domain.reference(opened, "pca", None, "cpu")
    orders = [torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    for size in (100, 400):
        ratios = [measured(train[order[:size]], seed)["w=1.fd_ratio"].value for seed, order in enumerate(orders)]
        assert np.mean(ratios) == pytest.approx(1, abs=0.1)  # against all 1,500 training pictures it is 3 for 100 samples
    # more samples than training pictures: as many make the ratio, all of them the distance
    found = measured(torch.cat([train, -train]))
    assert found["w=1.fd_ratio"].value == 1 and found["w=1.fd"].value > 2 * found["fd_real"].value
    assert found.protocol.metrics["fd_real"] == "fd of 1500 training pictures, drawn by the seed"


def test_an_adaptive_plan_says_the_evaluations_that_it_took(run, tmp_path, monkeypatch, capsys):
    opened, calls = replace(open_run(run), folder=None), []
    opened.denoiser.net.register_forward_hook(lambda *_: calls.append(1))
    adaptive = "adaptive:rtol=0.1,atol=0.1"
    asked: dict[str, Any] = {"count": 12, "plan": adaptive, "guidance": 1.0, "features": "pca", "metrics": ["fd"], "small": True}
    card = evaluate(opened, **asked).protocol
    assert card.nfe == len(calls) and 6 < len(calls) < 1000 and f"{adaptive}, {len(calls)} evaluations" in str(card)
    calls.clear()
    monkeypatch.setattr(drawing, "BATCH", 6)  # of two batches, the one with the hardest sample
    with drawing.used() as batches:
        drawing.draw(opened, 12, plan=adaptive, seed=1, guidance=1.0, label=torch.arange(12) % 10)
    assert len(batches) == 2 and sum(batches) == len(calls) and max(batches) == card.nfe
    with drawing.used() as fixed:
        drawing.draw(opened, 12, plan="ddim:2", guidance=1.0)
    assert fixed == []
    monkeypatch.undo()
    out = str(tmp_path / "some.png")
    main(["sample", str(run), "--count", "12", "--seed", "1", "--plan", adaptive, "--out", out, "--device", "cpu"])
    assert capsys.readouterr().out.splitlines() == [out, f"{card.nfe} evaluations"]
    main(["plan", "show", adaptive])
    assert ": at most 1000 evaluations" in capsys.readouterr().out


def test_every_strength_is_drawn_by_the_plan_that_its_card_names(run, monkeypatch):
    opened, drawn, found = open_run(run), {}, _draw
    schedule: Any = opened.denoiser.process.schedule
    kept = {1.0: plans.ddim(3).on(schedule), 1.5: plans.dpmpp(3).on(schedule)}
    monkeypatch.setattr(sampling.plans, "auto", lambda *a, **told: SimpleNamespace(plan=kept[_strength(told["guidance"])]))

    def draw(run, count, plan, guidance, **options):
        drawn[guidance] = plan
        return found(run, count, plan=plan, guidance=guidance, **options)

    monkeypatch.setattr(judging, "_draw", draw)
    card = evaluate(replace(opened, folder=None), count=10, plan="auto:3", features="pca", metrics=["fd"], small=True,
                    device="auto").protocol  # fmt: skip
    assert drawn == kept and card.nfe == 3 and card.guidance == (1.0, 1.5)
    for part, (w, plan) in zip((card.plan or "").split("; "), kept.items(), strict=True):
        assert re.fullmatch(rf"w={w:g}: auto:3 \({re.escape(plan.name)}, [0-9a-f]{{16}}\)", part)
    assert card.device == ("cuda" if torch.cuda.is_available() else "cpu")  # not "auto"


def test_a_folder_that_cannot_be_written_costs_no_numbers(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda x, y, classes: train(x, y, classes, steps=3))
    no = tmp_path / "file" / "run"  # which nobody can write, root neither
    monkeypatch.setattr(sampling.plans, "auto", lambda *a, **told: SimpleNamespace(plan=plans.ddim(1).on(schedules.cosine())))
    found = evaluate(replace(open_run(run), folder=no), count=10, small=True, guidance=1.0, folder=no, plan="auto:1")
    assert {"w=1.fd", "w=1.nearest_ratio", "w=1.intended_label"} <= set(found.names())
    said = capsys.readouterr().err
    for name in ("plans/auto-1-w1", "classifier-", "closest.png"):
        assert re.search(rf"{no}/{name}\S* cannot be written", said)


def _strength(guidance):
    return 1.0 if guidance is None else guidance.w


def test_pages_show_ten_classes_of_a_thousand(run, tmp_path, monkeypatch):
    opened, asked = open_run(run), []

    def draw(run, count, label, frames=False, **options):
        asked.append((count, label.tolist()))
        x = torch.zeros(count, 1, 8, 8)
        return [x, x] if frames else x

    monkeypatch.setattr(domain, "draw", draw)
    for classes, columns in ((1000, [*range(0, 1000, 111)]), (10, [*range(10)]), (3, [0, 1, 2])):
        many = replace(opened, facts=opened.facts.model_copy(update={"classes": classes}))
        many.domain.overview(many, tmp_path / "page", rows=4)
        many.domain.animation(many, tmp_path / "way.gif")
        assert asked == [(rows * len(columns), columns * rows) for rows in (4, 2)]
        asked.clear()


def test_a_way_is_drawn_in_batches_that_do_not_change_it(run, monkeypatch):
    opened = open_run(run)
    whole = drawing.draw(opened, 7, plan="ddim:3", frames=True)
    monkeypatch.setattr(drawing, "BATCH", 3)
    parts = drawing.draw(opened, 7, plan="ddim:3", frames=True)
    assert len(parts) == len(whole) and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(parts, whole, strict=True))


def test_large_samples_are_drawn_few_at_a_time_and_fewer_where_memory_is_short(run, monkeypatch):
    opened, sizes, room = open_run(run), [], [9]
    loop = opened.domain.sample
    whole = drawing.draw(opened, 7, plan="ddim:3")

    def sample(model, plan, count, **options):
        sizes.append(count)
        if count > room[0]:
            raise torch.OutOfMemoryError
        return loop(model, plan, count=count, **options)

    monkeypatch.setattr(opened.domain, "sample", sample)
    for room[0], most, asked in ((9, 5 * 64, [5, 2]), (2, 5 * 64, [5, 2, 2, 2, 1]), (9, 10, [1] * 7)):
        monkeypatch.setattr(drawing, "VALUES", most)
        assert torch.allclose(drawing.draw(opened, 7, plan="ddim:3"), whole, atol=1e-5) and sizes == asked
        sizes.clear()
    room[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        drawing.draw(opened, 7, plan="ddim:3")


def test_the_training_set_is_read_a_part_at_a_time(run, net, monkeypatch):
    opened, asked = open_run(run), {"count": 10, "plan": "ddim:1", "guidance": 1.0, "metrics": ["fd", "memory"], "small": True}
    whole = evaluate(opened, features=net, **asked)
    read, sizes = opened.train.batch, []
    monkeypatch.setattr(opened.train, "batch", lambda index: sizes.append(len(index)) or read(index))
    monkeypatch.setattr(neighbours, "VALUES", 64 * 100)
    parts = evaluate(opened, features=net, **asked)
    assert max(sizes) == 100 and sum(sizes) >= 2 * len(opened.train)
    for name in whole.names():
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-5)


def test_two_folders(folders, net, capsys):
    made, real = folders
    asked = ["--against", str(real), "--features", str(net), "--metrics", "fd", "kid", "prdc"]
    with pytest.raises(SystemExit):
        main(["evaluate", str(made), *asked])
    assert "there are 60 samples" in capsys.readouterr().err
    main(["evaluate", str(made), *asked, "--small", "--json"])
    found = Evaluation.model_validate_json(capsys.readouterr().out)
    features = lv.evaluate.load_features(net)
    a, b = (extract(features, lv.data.Pictures(f, 16, split="all")) for f in folders)
    assert found.metrics == {"fd": frechet(a, b), "kid": kid(a, b, seed=1)[0], **prdc(a, b)._asdict()}
    assert found.protocol.real.size == 60 and found.protocol.plan is None and found.protocol.seeds == (1,)
    same = evaluate_folders(real, real, "pca", small=True)
    assert same["fd"].value == pytest.approx(0, abs=1e-4)


def test_the_page_can_be_followed(run, folders, net, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda x, y, classes: train(x, y, classes, steps=3))
    code = re.findall(r"```python\n(.*?)```", page, re.S)[0].replace("runs/digits", str(run)).replace("count=1000", "count=20")
    space = {"lv": lv, "evaluate": lambda run, **options: evaluate(run, plan="ddim:1", **options)}
    exec(compile(code, "evaluation.md", "exec"), space)
    (command,) = re.findall(r"`langevin (evaluate samples --against [^`]*)`", page)
    of: dict[str, str] = {"samples": str(folders[0]), "photos": str(folders[1]), "inception.safetensors": str(net)}
    words: list[str] = command.split()
    main([*(of.get(word, word) for word in words), "--small"])  # of fewer pictures than the page's
    assert capsys.readouterr().out.startswith("fd ")


def test_folders_of_different_sizes_are_refused(folders, net):
    made, real = folders
    for k in range(3):
        Image.new("RGB", (8, 8), (k, k, k)).save(made / f"{k:03}.png")
    with pytest.raises(ValueError, match="sides"):
        evaluate_folders(made, real, net, small=True)
    assert evaluate_folders(made, real, net, size=8, small=True).protocol.samples == 60
    with pytest.raises(ValueError, match="path of a feature network"):
        evaluate_folders(made, real, "auto", small=True)


def test_a_model_is_measured_as_it_trains(tmp_path):
    small = Recipe.model_validate(
        {**recipe("digits").model_dump(), "train": {"steps": 7, "batch": 4},
         "network": {"kind": "unet", "width": 8, "head_width": 8}, "sample": {"plan": "ddim:2"}}
    )  # fmt: skip
    run, trainer = start(small, tmp_path)
    trainer.hooks.append((3, evaluator(run, count=20, out=tmp_path, features="pca")))
    log = tmp_path / "evaluation.jsonl"
    # as left by a run that was killed after step 90 and is begun again from less
    log.write_text('{"step": 90, "fd": 1.0}\n{"step": 93, "f')
    trainer.run(progress=False)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6] and all(line["fd"] > 0 for line in lines)
    assert set(lines[0]) == {"step", "fd", "fd_ratio", "fd_real"}
    # the hook changes nothing in training
    _, alone = start(small, tmp_path / "alone")
    alone.run(progress=False)
    for one, other in zip(trainer.denoiser.parameters(), alone.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_measured_is_refused_before_the_first_step(tmp_path, net):
    made = {"plan": "ddim:1", "count": 200, "features": "pca", "metrics": ("fd",)}

    def refusal(data, **changes):
        unlabelled = Recipe.model_validate({**recipe("digits").model_dump(), "data": data})
        with pytest.raises(ValueError) as error:
            evaluator(build(unlabelled), out=tmp_path, **{**made, **changes})
        return str(error.value)

    digits, few = {"kind": "digits"}, {"kind": "digits", "labels": False}
    assert "'is' needs class probabilities" in refusal(digits, metrics=("is",))
    assert "'is' needs class probabilities" in refusal(digits, metrics=("is",), features=net)
    assert "'labels' needs labels" in refusal(few, metrics=("labels",))
    assert "'fd_infinity' takes 150 samples, and there are 149" in refusal(digits, metrics=("fd", "fd_infinity"), count=149)
    assert "'prdc' takes 6 samples" in refusal(digits, metrics=("prdc",), count=5)
    assert "'is' takes 10 samples" in refusal(digits, metrics=("is",), features="classifier", count=9)
    assert "did you mean 'ddim'" in refusal(digits, plan="ddimm:1")
    assert not [*tmp_path.iterdir()]  # no classifier was trained for it


def test_a_recipe_is_measured_as_it_trains_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    asked = ["train", "two-moons", "--train.batch", "4", "--train.schedule", "constant", "--data.count", "200", "--samples", "20",
             "--out", str(out)]  # fmt: skip
    main([*asked, "--train.steps", "5", "--evaluation.every", "2", "--evaluation.count", "30", "--evaluation.plan", "ddim:2"])
    lines = [json.loads(line) for line in (out / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and set(lines[0]) == {"step", "energy_distance", "energy_distance_real"}
    assert json.loads((out / "recipe.json").read_text())["evaluation"]["every"] == 2
    # how often a run is looked at is free to change
    main([*asked, "--resume", "--train.steps", "7", "--evaluation.every", "3"])
    steps = [json.loads(line)["step"] for line in (out / "evaluation.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    capsys.readouterr()
    for flags, message in {
        ("--evaluation.metrics", "fdd"): "did you mean 'fd'",
        ("--evaluation.features", "none.safetensors"): "none.safetensors",
    }.items():
        with pytest.raises(SystemExit) as end:  # before any step
            main(["train", "digits", "--out", str(tmp_path / "no"), "--evaluation.every", "1", *flags])
        assert end.value.code == 2 and message in capsys.readouterr().err
        assert (tmp_path / "no" / "log.jsonl").read_text() == "" and not [*(tmp_path / "no").glob("checkpoints/step-*")]
