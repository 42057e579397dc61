"""langevin distill: every kind of student, from the command line, with its teacher in its own checkpoints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import plans
from langevin.cli import distilling, main
from langevin.cli.training import of_kinds
from langevin.core.flow_map import FlowMap
from langevin.core.sample import sample
from langevin.data import Prior, digits
from langevin.data.pairs import Starts
from langevin.objectives.coupling import OptimalTransport
from langevin.objectives.rescheduled import Rescheduled
from langevin.recipes import Recipe, comparison, recipe
from langevin.recipes.build import build
from langevin.recipes.comparison import paths
from langevin.recipes.distillation import STUDENTS, student
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run, read_recipe
from langevin.recipes.sampling import chosen
from langevin.recipes.starting import start
from langevin.tasks.transport import transport
from langevin.training import load_latest

SMALL = ["--train.batch", "4", "--train.warmup", "0", "--train.save-every", "2", "--samples", "100"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    asked = Recipe.model_validate(
        {**recipe("digits").model_dump(), "train": {"steps": 30, "batch": 8, "warmup": 0, "lr": 0.01},
         "network": {"kind": "unet", "width": 8, "head_width": 8}, "sample": {"plan": "ddim:2"}}
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "teacher"
    start(asked, out)[1].run(progress=False)
    return out


def quick(made: Recipe, steps: int) -> Recipe:
    changed = made.model_dump()
    changed["train"] |= {"steps": steps, "batch": 4, "warmup": 0, "save_every": 2}
    if made.objective.kind == "reflow":
        changed["objective"]["pairs"] = 30
    return Recipe.model_validate(changed)


@pytest.mark.parametrize("to", STUDENTS)
def test_every_student_is_taught_by_the_run_and_can_be_opened(teacher, tmp_path, to):
    made = quick(student(read_recipe(teacher), teacher, to, 1), 3)
    run, trainer = start(made, tmp_path)
    averaged = open_run(teacher).denoiser.state_dict()
    assert run.teacher is not None and all(torch.equal(v, averaged[n]) for n, v in run.teacher.state_dict().items())
    if made.finetune.origin is not None:  # it begins as its teacher, whatever it is told besides
        own = run.denoiser.state_dict()
        assert all(torch.equal(v, own[n]) for n, v in averaged.items())
    trainer.run(progress=False)
    opened = open_run(tmp_path)
    assert isinstance(opened.denoiser, FlowMap) == (made.objective.learns == "map")
    assert all(torch.equal(v, trainer.denoiser.state_dict()[n]) for n, v in opened.denoiser.state_dict().items())
    main(["sample", str(tmp_path), "--count", "3", "--out", str(tmp_path / "x.npy")])
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 8, 8)


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def captioned(folder: Path, words: list[str] = NUMBERS) -> Path:
    """Digits as files, each with its caption beside it."""
    batch = digits("test").batch(torch.arange(40))
    folder.mkdir()
    for k, (x, label) in enumerate(zip(batch.x, batch.cond["label"].tolist(), strict=True)):  # pyright: ignore
        Image.fromarray(((x[0] + 1) * 127.5).round().byte().numpy()).convert("RGB").save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text(f"the digit {words[label]}")
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """A teacher that reads captions."""
    made = recipe("emoji").model_dump()
    folder = captioned(tmp_path_factory.mktemp("data") / "captioned")
    made["data"] |= {"folder": str(folder), "size": 8, "captions": "txt", "held_out": 0.2}
    made["codec"] |= {"origin": None}
    made["network"] = {"kind": "unet", "width": 8, "head_width": 8, "transformer": 0}
    made["text"] = {"width": 16, "depth": 1, "heads": 2}
    made["train"] = {"steps": 40, "batch": 16, "warmup": 0, "lr": 0.02}
    made["sample"] = {"plan": "ddim:2"}
    out = tmp_path_factory.mktemp("runs") / "reader"
    start(Recipe.model_validate(made), out)[1].run(progress=False)
    return out


@pytest.mark.parametrize("to", STUDENTS)
def test_students_of_what_reads_captions_read_them(reader, tmp_path, to):
    made = quick(student(read_recipe(reader), reader, to, 1), 2)
    run, trainer = start(made, tmp_path)
    words = open_run(reader).facts.vocabulary
    assert words is not None and run.facts.vocabulary == words and run.teacher is not None
    averaged = open_run(reader).denoiser.state_dict()
    assert any(".encoder." in f".{name}" for name in averaged)
    assert all(torch.equal(v, averaged[n]) for n, v in run.teacher.state_dict().items())
    trainer.run(progress=False)
    one, other = (draw(open_run(tmp_path), 2, prompts=[f"the digit {n}"]) for n in ("one", "seven"))
    if made.finetune.origin is not None:  # it began as what heeds them
        assert float((one - other).abs().max()) > 1e-5
    if to == "reflow":  # its pairs are of training captions in turn, and the ends those of the teacher's flow under them
        captions = run.reading.captions
        batch = trainer.data.batch(torch.arange(30))
        assert torch.equal(batch.cond["ids"], words.ids([captions[k % len(captions)] for k in range(30)]))
        plan = plans.parse(made.objective.plan)
        ends = sample(run.teacher, plan, 30, start=batch.source, cond={"ids": batch.cond["ids"]}, shape=(3, 8, 8))
        torch.testing.assert_close(batch.x, ends, atol=1e-4, rtol=1e-4)


def test_a_reader_and_its_student_side_by_side_and_captions_that_mean_other_words(reader, tmp_path, capsys):
    out = tmp_path / "student"
    main(["distill", str(reader), "--to", "consistency", *SMALL[:4], "--train.steps", "2", "--samples", "8", "--out", str(out)])
    rows = json.loads((out / "comparison.json").read_text())
    assert {row["who"] for row in rows} == {"teacher", "student"} and (out / "comparison.png").exists()
    made = student(read_recipe(reader), reader, "dmd").model_dump()
    german = [f"{word}zig" for word in NUMBERS]
    made["data"]["folder"] = str(captioned(tmp_path / "other", german))
    with pytest.raises(ValueError, match="learned its words from other captions than these"):
        start(Recipe.model_validate(made), tmp_path / "never")
    made = student(read_recipe(reader), reader, "lcm").model_dump()
    made["network"] |= {"transformer": 1}
    with pytest.raises(ValueError, match="this objective tells it guidance"):
        build(Recipe.model_validate(made))


@pytest.fixture(scope="module")
def exploding(tmp_path_factory) -> Path:
    """A teacher whose noise ends at 30 times the data's size."""
    asked = Recipe.model_validate(
        {**recipe("digits").model_dump(), "train": {"steps": 2, "batch": 4, "warmup": 0}, "sample": {"plan": "ddim:2"},
         "network": {"kind": "unet", "width": 8, "head_width": 8},
         "process": {"kind": "gaussian", "schedule": "ve:sigma_max=30", "prediction": "edm"}}
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "exploding"
    start(asked, out)[1].run(progress=False)
    return out


def test_reflow_has_no_held_out_loss(teacher, tmp_path):
    own = read_recipe(teacher)
    watched = own.model_copy(update={"train": own.train.model_copy(update={"valid_every": 5})})
    assert student(watched, teacher, "consistency").train.valid_every == 5
    made = student(watched, teacher, "reflow")
    assert made.train.valid_every == 0
    asked = made.model_copy(update={"train": watched.train})
    with pytest.raises(ValueError, match=r"train.valid_every is 5, and reflow learns pairs .* none are held out; leave it out"):
        start(asked, tmp_path / "student")


@pytest.mark.parametrize("to", ["continuous", "mean-flow", "shortcut", "reflow"])
def test_a_teacher_on_another_schedule_is_asked_on_its_students(exploding, tmp_path, to):
    made = quick(student(read_recipe(exploding), exploding, to, 1), 2)
    run, trainer = start(made, tmp_path)
    teacher, process = open_run(exploding).denoiser, run.denoiser.process
    asked = Rescheduled(teacher.float(), process)
    if to == "reflow":
        # pairs begin at the student's noise and end where the teacher's flow leads from there
        table = plans.parse(made.objective.plan)
        starts = Prior(process, (1, 8, 8), 30, 0, {"label": torch.arange(30) % 10}).batch(torch.arange(5))
        held = trainer.data.batch(torch.arange(5))
        assert torch.equal(held.source, starts.x) and 0.5 < float(starts.x.std()) < 2
        ends = sample(asked.eval(), table, 5, start=starts.x, shape=(1, 8, 8), cond=starts.cond)
        torch.testing.assert_close(held.x, ends, atol=1e-4, rtol=1e-4)
        trainer.close()
        return
    z, cond = torch.linspace(-2, 2, 256).reshape(4, 1, 8, 8), {"label": torch.arange(4)}
    inside = run.objective.nets["teacher"]
    assert torch.equal(inside(z, 0.4, cond).mean, asked(z, 0.4, cond).mean)
    trainer.update()
    trainer.save()
    trainer.close()
    # it goes on without its teacher, whose weights are in its checkpoints
    away = exploding.rename(exploding.with_name("away"))
    try:
        again, trainer = start(made, tmp_path, resume=True)
    finally:
        away.rename(exploding)
    trainer.run(progress=False)
    assert torch.equal(again.objective.nets["teacher"](z, 0.4, cond).mean, asked(z, 0.4, cond).mean)


def test_the_table_has_the_strengths_that_students_are_told_and_teachers_are_sampled_at(teacher, tmp_path, monkeypatch, capsys):
    def row(run, plan, w, count, against, device):
        return {"plan": plan, "guidance": w, "evaluations": 1, "milliseconds": 1.0}

    monkeypatch.setattr(comparison, "_row", row)
    monkeypatch.setattr(comparison, "_picture", lambda rows, path: path)
    taught = read_recipe(teacher)
    guided = tmp_path / "guided"
    shutil.copytree(teacher, guided)
    own = taught.model_copy(update={"sample": taught.sample.model_copy(update={"guidance": 1.5})})
    (guided / "recipe.json").write_text(own.model_dump_json())

    def table(path, to, **objective):
        made = student(read_recipe(path), path, to)
        made = made.model_copy(update={"objective": made.objective.model_copy(update=objective)})
        rows = comparison.compare(replace(build(made), folder=tmp_path), path, tmp_path, 10, say=lambda text: None)
        return [(r["who"], r["guidance"]) for r in rows]

    assert table(teacher, "lcm", w=(1.0, 4.0)) == [
        ("teacher", 1.0), ("teacher", 1.0), ("teacher", 2.5), ("teacher", 2.5), ("student", 1.0), ("student", 2.5),
    ]  # fmt: skip
    assert " 2.5 " in capsys.readouterr().out  # and says so
    # first as it is sampled where nothing is said
    taught_at_2 = [("teacher", 1.0), ("teacher", 2.0), ("teacher", 2.0), ("student", 1.0)]
    assert table(teacher, "dmd", guidance=2.0) == table(teacher, "mean-flow", omega=2.0) == taught_at_2
    assert table(guided, "dmd") == [("teacher", 1.5), ("teacher", 1.0), ("teacher", 1.0), ("student", 1.0)]
    assert table(guided, "dmd", guidance=1.5) == [("teacher", 1.5), ("teacher", 1.5), ("student", 1.0)]


def test_a_teachers_plan_is_learned_where_there_are_a_few_steps_unless_told_not_to(teacher, tmp_path):
    def tune(*args, steps=None):
        return distilling._asked(["--out", str(tmp_path), *args], "", teacher, "lcm", steps, tmp_path).tune

    assert [tune(steps=n) for n in (None, 1, 2, 8, 9)] == [False, False, True, True, False]
    assert tune("--tune") and not tune("--no-tune", steps=4)


def test_a_mean_flow_is_told_its_strength(teacher, tmp_path):
    made = quick(student(read_recipe(teacher), teacher, "mean-flow"), 2)
    made = made.model_copy(update={"objective": made.objective.model_copy(update={"w": (1.0, 4.0)})})
    made = Recipe.model_validate_json(made.model_dump_json())
    start(made, tmp_path)[1].run(progress=False)
    run = open_run(tmp_path)
    with torch.no_grad():  # two updates have hardly moved what the strength enters by
        for p in run.denoiser.parameters():
            p.add_(0.05 * torch.linspace(-1, 1, p.numel()).sin().reshape(p.shape))
    weak, strong = (draw(run, 3, guidance=w) for w in (1.0, 3.0))
    assert float((weak - strong).abs().max()) > 1e-4


def test_students_meet_noise_as_their_teachers_did(teacher):
    taught = read_recipe(teacher)
    taught = taught.model_copy(update={"objective": taught.objective.model_copy(update={"coupling": "ot"})})
    for to in ("consistency", "lcm", "progressive", "trajectory", "continuous", "mean-flow", "shortcut"):
        made = student(taught, teacher, to)
        run = build(made)
        assert isinstance(run.objective.coupling, OptimalTransport), to


# Between two data sets


@pytest.fixture(scope="module")
def between(tmp_path_factory) -> Path:
    asked = Recipe.model_validate(
        {**recipe("digits-transfer").model_dump(), "train": {"steps": 20, "batch": 8, "warmup": 0, "lr": 0.01},
         "network": {"kind": "unet", "width": 8, "head_width": 8}, "sample": {"plan": "heun:4:grid=uniform"}}
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "between"
    start(asked, out)[1].run(progress=False)
    return out


def test_pairs_of_a_run_between_two_data_sets_begin_at_its_source_to_the_bit(between, tmp_path):
    made = quick(student(read_recipe(between), between, "reflow"), 2)
    assert made.objective.steps is None and made.objective.plan == "heun:4:grid=uniform"
    run, trainer = start(made, tmp_path)
    index, source = torch.arange(30), run.reading.source
    held = trainer.data.batch(index)
    assert len(trainer.data) == 30 and torch.equal(held.source, source.batch(index).x)
    teacher = open_run(between)
    ends = sample(teacher.denoiser, plans.parse(made.objective.plan), 30, start=held.source, shape=(1, 8, 8), cond=held.cond)
    assert torch.equal(held.x, ends)
    trainer.run(progress=False)
    # all of the source and no more, where more pairs are asked for
    more = made.model_copy(update={"objective": made.objective.model_copy(update={"pairs": 10_000})})
    trainer = start(more, tmp_path / "more")[1]
    assert len(trainer.data) == len(source)
    trainer.close()


def test_a_reflowed_transfer_is_compared_by_what_its_flow_costs(between, tmp_path):
    out = tmp_path / "student"
    command = ["distill", str(between), "--to", "reflow", "--rounds", "2", "--steps", "1", "--out", str(out)]
    main([*command, "--objective.pairs", "40", "--train.steps", "4", *SMALL])
    rows = json.loads((out / "comparison.json").read_text())
    assert [r["who"] for r in rows] == ["teacher", "teacher", "student"] and rows[1]["plan"] == "euler:1:grid=uniform"
    first, last = read_recipe(out / "rounds" / "1"), read_recipe(out)
    assert first.objective.steps is None and last.objective.steps == 1
    assert last.teacher.origin == str(out / "rounds" / "1") and first.teacher.origin == str(between)
    # the flow of each, from held-out starts
    for path, row in ((between, rows[0]), (between, rows[1]), (out, rows[2])):
        run = open_run(path)
        held = run.test.source
        plan = "euler:1:grid=uniform" if path == out else "heun:50:grid=uniform"
        count = min(100, len(held))
        label = {"label": torch.arange(count) % run.facts.classes} if run.facts.classes else None
        found = transport(run.denoiser, plans.parse(plan), Starts(held, count, label))
        assert row["cost"] == found.cost and row.get("straightness", found.straightness) == found.straightness
        assert ("straightness" in row) == (path == between)
    assert (out / "comparison.png").exists()
    # resumed, all rounds are done already
    main([*command, "--resume", "--samples", "100"])
    assert [r["cost"] for r in json.loads((out / "comparison.json").read_text())] == [r["cost"] for r in rows]


@pytest.mark.parametrize("to", ["consistency", "progressive"])
def test_leaps_between_two_data_sets(between, tmp_path, to, capsys):
    made = quick(student(read_recipe(between), between, to), 3)
    assert made.objective.coupling == "ot"  # as the teacher's: what it knows are the states between partners
    start(made, tmp_path)[1].run(progress=False)
    main(["sample", str(tmp_path), "--count", "3", "--out", str(tmp_path / "x.npy")])
    x, run = torch.from_numpy(np.load(tmp_path / "x.npy")), open_run(tmp_path)
    y = run.test.source.batch(torch.arange(3)).x
    label = {"label": torch.arange(3) % run.facts.classes} if run.facts.classes else None
    with torch.no_grad():
        assert torch.allclose(x, run.denoiser(y, 1.0, label).mean, atol=1e-5)


def test_what_a_run_between_two_data_sets_cannot_become_is_refused(between, tmp_path, capsys):
    assert "begins at data of another kind, and dmd at noise" in refused(capsys, "distill", str(between), "--to", "dmd")
    said = refused(capsys, "distill", str(between), "--to", "consistency", "--steps", "2")
    assert "use 1, or progressive" in said
    noisy = recipe("digits-transfer")
    noisy = noisy.model_copy(update={"process": noisy.process.model_copy(update={"noise": 0.5})})
    with pytest.raises(ValueError, match="adds noise on the way"):
        student(noisy, between, "progressive")
    made = student(noisy, between, "reflow")
    assert made.process.noise == 0 and made.finetune.origin == str(between)
    assert "with --to reflow" in refused(capsys, "distill", str(between), "--to", "progressive", "--rounds", "2")


def test_a_teachers_straightness_is_that_of_its_flow_on_the_students_schedule(teacher, tmp_path):
    made = quick(student(read_recipe(teacher), teacher, "reflow"), 2)
    start(made, tmp_path)[1].run(progress=False)
    run, taught = open_run(tmp_path), open_run(teacher)
    starts = Prior(run.denoiser.process, (1, 8, 8), 100, -1, {"label": torch.arange(100) % 10})
    flow = Rescheduled(taught.denoiser, run.denoiser.process)
    found = transport(flow, plans.parse("heun:50:grid=uniform"), starts)
    assert paths(taught, run) == {"cost": found.cost, "straightness": found.straightness}


def test_the_command_leaves_a_table_and_a_picture_and_goes_on_without_its_teacher(teacher, tmp_path, capsys):
    moved = teacher.rename(teacher.with_name("elsewhere"))
    try:
        command = ["distill", str(moved), "--to", "dmd", "--out", str(tmp_path / "student"), *SMALL]
        main([*command, "--train.steps", "4", "--train.schedule", "constant"])
        rows = json.loads((tmp_path / "student" / "comparison.json").read_text())
        assert [(r["who"], r["evaluations"]) for r in rows] == [("teacher", 2), ("teacher", 1), ("student", 1)]
        assert all({"intended_label", "fd_ratio", "recall", "milliseconds"} <= r.keys() for r in rows)
        assert (tmp_path / "student" / "comparison.png").exists() and "intended" in capsys.readouterr().out
        asked = read_recipe(tmp_path / "student")
        longer = asked.model_copy(update={"train": asked.train.model_copy(update={"steps": 6})})
        gone = moved.rename(moved.with_name("gone"))
        _, trainer = start(longer, tmp_path / "student", resume=True)  # the teacher is in the checkpoint
        trainer.run(progress=False)
        gone.rename(moved)
        found = load_latest(tmp_path / "student" / "checkpoints")
        assert found is not None and found.step == 6
        averaged = open_run(moved).denoiser.state_dict()
        kept = {
            n.removeprefix("nets.teacher."): v for n, v in found.tensors["objective"].items() if n.startswith("nets.teacher.")
        }
        assert kept.keys() == averaged.keys() and all(torch.equal(v, averaged[n]) for n, v in kept.items())
    finally:
        moved.rename(teacher)


def refused(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_what_cannot_be_distilled_is_refused_in_a_sentence(teacher, tmp_path, capsys):
    assert "did you mean 'dmd'" in refused(capsys, "distill", str(teacher), "--to", "dmd2")
    assert "to is missing" in refused(capsys, "distill", str(teacher))
    assert "steps is 'x'" in refused(capsys, "distill", str(teacher), "--to", "dmd", "--steps", "x")
    assert "at least 1" in refused(capsys, "distill", str(teacher), "--to", "dmd", "--steps", "0")
    assert "no run directory" in refused(capsys, "distill", str(tmp_path), "--to", "dmd")
    with pytest.raises(ValueError, match="has no flow"):
        student(recipe("digits-discrete"), teacher, "consistency")
    with pytest.raises(ValueError, match="says where its flow ends"):
        student(recipe("digits-consistency"), teacher, "reflow")
    other = student(read_recipe(teacher), teacher, "dmd")
    other = other.model_copy(update={"process": other.process.model_copy(update={"schedule": "flow"})})
    with pytest.raises(ValueError, match="whose network 'dmd' reads"):
        start(other, tmp_path / "never")
    # what never learned without its condition cannot be guided, whoever asks for it
    taught = read_recipe(teacher)
    always = taught.model_copy(update={"objective": taught.objective.model_copy(update={"drop": 0.0})})
    build(student(always, teacher, "consistency"))
    for to, guided in (("consistency", {"guidance": 2.0}), ("mean-flow", {"w": (1.0, 3.0)}), ("reflow", {"guidance": 0.0})):
        made = student(always, teacher, to)
        with pytest.raises(ValueError, match=rf"objective '{to}' .* guidance.*never learned without its condition"):
            build(made.model_copy(update={"objective": made.objective.model_copy(update=guided)}))
    plain = student(read_recipe(teacher), teacher, "lcm").model_copy(update={"teacher": None})
    with pytest.raises(ValueError, match="learns from a teacher"):
        start(plain, tmp_path / "never")


@pytest.mark.filterwarnings("ignore:.*trained on other weights")  # as is meant here
def test_adapters_of_a_student_are_used_on_another_fine_tune_of_its_teacher(teacher, tmp_path):
    # LCM-LoRA (2311.05556): what distillation changes is a low-rank delta of the weights, and is added to others'
    def trained(made: Recipe, out: Path, **finetune) -> Path:
        changed = quick(made, 4).model_dump()
        changed["train"] |= {"lr": 0.05, "ema": 0.5}
        changed["finetune"] |= {"origin": str(teacher), **finetune}
        start(Recipe.model_validate(changed), out)[1].run(progress=False)
        return out

    taught = read_recipe(teacher)
    fast = trained(student(taught, teacher, "consistency"), tmp_path / "fast", lora={"rank": 2, "alpha": 2.0})
    tuned, file = trained(taught, tmp_path / "tuned"), tmp_path / "fast.safetensors"
    main(["lora", str(fast), "--out", str(file)])

    def weights(run: Path, **options) -> dict[str, torch.Tensor]:
        return dict(open_run(run, **options).denoiser.state_dict())

    base, alone, other, both = (weights(run, adapters=a) for run in (teacher, tuned) for a in ({}, {file: 1.0}))
    moved = 0
    for name, value in both.items():
        delta = alone[name] - base[name]
        moved += bool(delta.abs().max() > 1e-5)
        torch.testing.assert_close(value, other[name] + delta, atol=1e-6, rtol=1e-5)
    assert moved > 5 and any(float((other[n] - base[n]).abs().max()) > 1e-5 for n in base)
    # on the teacher itself they make the student
    z, cond = torch.linspace(-2, 2, 256).reshape(4, 1, 8, 8), {"label": torch.arange(4)}
    with torch.no_grad():
        made, own = (m.denoiser.eval()(z, 0.7, cond).mean for m in (open_run(teacher, adapters={file: 1.0}), open_run(fast)))
        bare = open_run(teacher).denoiser(z, 0.7, cond).mean
    torch.testing.assert_close(made, own, atol=1e-4, rtol=1e-4)
    assert float((made - bare).abs().max()) > 1e-3
    main(["sample", str(tuned), "--lora", str(file), "--plan", "consistency:1", "--count", "3", "--out", str(tmp_path / "x.npy")])


def test_what_says_where_the_flow_ends_is_not_sampled_by_following_it(tmp_path, capsys):
    # a perfect consistency function under dpmpp:20 has twice the variance of the data
    made, _ = of_kinds(recipe("digits"), ["--objective.kind", "consistency"])
    assert made.sample.plan.startswith("consistency:2")
    run, trainer = start(quick(made, 2), tmp_path)
    trainer.run(progress=False)
    for plan in ("consistency:4", "lcm:2", "ddim:1"):
        assert chosen(run, plan) is not None
    for plan in ("dpmpp:20", "ddim:2", "heun:4", "predictor_corrector:4"):
        with pytest.raises(ValueError, match="says where it ends; leap there by consistency:1"):
            chosen(run, plan)
    assert "which follows the flow" in refused(
        capsys, "sample", str(tmp_path), "--plan", "dpmpp:20", "--out", str(tmp_path / "x.npy")
    )
    with pytest.raises(ValueError, match="which follows the flow"):
        build(made.model_copy(update={"sample": made.sample.model_copy(update={"plan": "dpmpp:20"})}))
