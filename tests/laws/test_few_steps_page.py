"""The numbers of docs/few_steps.md are those of bench/results/few_steps.csv, and the bench has a row for every student."""

import copy
import csv
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import langevin as lv
from langevin import plans
from langevin.recipes import recipe
from langevin.recipes.build import build, fits
from langevin.recipes.distillation import STUDENTS
from tests.benches import bench

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "few_steps.md").read_text()
with (ROOT / "bench" / "results" / "few_steps.csv").open(newline="") as lines:
    ROWS = list(csv.DictReader(lines))

# the page's names: (who, method) of the csv
DIGITS = {
    "teacher, dpmpp:20": ("ours", "teacher"), "teacher, best ready-made plans": ("ours", "teacher"),
    "consistency distillation": ("ours", "consistency"), "distribution matching": ("ours", "dmd"),
    "distribution matching in two steps": ("ours", "dmd in 2"),
    "latent consistency, w up to 3, 500 updates": ("ours", "lcm to 3"), "teacher, DDIM in 50": ("ours", "teacher in 50"),
    "latent consistency": ("ours", "lcm"), "improved MeanFlow, no teacher": ("ours", "improved MeanFlow"),
    "shortcut model, no teacher": ("ours", "shortcut"),
    "improved consistency training, no teacher": ("ours", "improved consistency training"),
    "progressive distillation": ("ours", "progressive"), "adversarial distillation": ("ours", "adversarial"),
    "consistency trajectories": ("ours", "trajectory"), "consistency in continuous time": ("ours", "continuous"),
    "teacher, guided": ("ours", "guided teacher"),
    "guidance distillation": ("ours", "guidance"), "one reflow": ("ours", "reflow"),
    "reflow, distilled to one step": ("ours", "reflow in 1"),
}  # fmt: skip
MNIST = {**DIGITS, "teacher, default plan": ("ours", "teacher")}
MOONS = {
    "flow matching, by Euler steps": ("ours", "flow matching"), "flow matching, torchcfm's loss": ("torchcfm", "flow matching"),
    "flow matching by optimal transport": ("ours", "OT flow matching"),
    "flow matching by optimal transport, torchcfm's loss": ("torchcfm", "OT flow matching"),
    "one reflow of flow matching": ("ours", "reflow"), "EDM, the teacher of the next two": ("ours", "EDM teacher"),
    "consistency distillation": ("ours", "consistency distillation"),
    "consistency distillation, the reference's loss": ("openai", "consistency distillation"),
    "consistency training": ("ours", "consistency training"),
    "consistency training, the reference's loss": ("openai", "consistency training"),
    "improved consistency training": ("ours", "improved consistency training"),
    "latent consistency": ("ours", "latent consistency"), "consistency in continuous time": ("ours", "continuous consistency"),
    "consistency trajectories": ("ours", "consistency trajectory"), "distribution matching": ("ours", "distribution matching"),
    "adversarial distillation": ("ours", "adversarial distillation"),
    "progressive distillation, each stage as it is trained; 32 steps are its teacher's": ("ours", "progressive distillation"),
    "improved MeanFlow": ("ours", "improved MeanFlow"),
    "MeanFlow, as first published": ("ours", "MeanFlow"), "shortcut model": ("ours", "shortcut"),
}  # fmt: skip


def close(said: str, value: float) -> bool:
    """Whether a number that is written out is a value of four digits, rounded to as many places."""
    places = len(said.partition(".")[2])
    return abs(float(said) - value) <= 0.5 * 10**-places * (1 + 1e-9) + 1e-12


def tables() -> list[list[list[str]]]:
    """Cells of the tables of results, by table and row, without their heads."""
    part = PAGE[PAGE.index("## What they reach") : PAGE.index("## One idea under most of them")]
    found = re.findall(r"((?:^\|.*\n)+)", part, re.M)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]] for table in found]


def numbers(cell: str) -> list[str]:
    return re.findall(r"\d*\.\d+|\d+", cell)


@pytest.mark.parametrize("at, problem, names", [(0, "digits", DIGITS), (1, "mnist", MNIST), (2, "moons", MOONS)])
def test_each_row_is_measured(at, problem, names):
    for name, steps, *cells in tables()[at]:
        who, method = names[name]
        rows = [r for r in ROWS if (r["problem"], r["who"], r["method"]) == (problem, who, method)]
        measures = ("W2",) if problem == "moons" else ("intended label", "FD / floor")
        for k, count in enumerate(numbers(steps)):
            for measure, cell in zip(measures, cells, strict=False):
                here = [r for r in rows if r["evaluations"] == count and r["measure"] == measure]
                scale = 100 if measure == "intended label" else 1
                # one of the plans of so many evaluations, the first where there are several
                assert here and close(numbers(cell)[k], scale * float(here[0]["quality"])), (name, count, measure, cell)
                assert len(numbers(cell)) == len(numbers(steps))
            if problem != "moons":
                assert close(numbers(cells[2])[k], float(here[0]["recall"])), (name, count, "recall")
        (seconds,) = {r["training_seconds"] for r in rows if r["evaluations"]}
        if said := numbers(cells[-1]):
            per = 1 if problem == "moons" else 60
            assert close(said[0], float(seconds) / per), (name, seconds)
        else:
            assert not seconds


def test_every_row_of_the_moons_is_on_the_page():
    shown = {MOONS[name] for name, *_ in tables()[2]}
    assert shown == {(r["who"], r["method"]) for r in ROWS if r["problem"] == "moons" and r["who"] != "data"}
    for problem, at, names in (("digits", 0, DIGITS), ("mnist", 1, MNIST)):
        assert {names[name] for name, *_ in tables()[at]} == {(r["who"], r["method"]) for r in ROWS if r["problem"] == problem}, (
            f"{problem}: a method was measured and is not on the page"
        )


def test_numbers_between_the_tables_are_measured_ones():
    part = PAGE[PAGE.index("## What to pick") : PAGE.index("## One idea under most of them")]
    pick, reach = part.split("## What they reach")
    prose = re.sub(r"^\|.*$", "", reach, flags=re.M) + pick  # the table of what to pick is prose
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose)  # options, links
    values = [float(r["quality"]) * scale for r in ROWS for scale in (1, 100)] + [float(r["recall"]) for r in ROWS if r["recall"]]
    for said in re.findall(r"(?<![\d,])\d*\.\d+", prose):
        assert any(close(said, value) for value in values), f"{said} is in no row of a table"
    for said in re.findall(r"(\d+) min\b", prose):
        assert any(r["training_seconds"] and close(said, float(r["training_seconds"]) / 60) for r in ROWS), said


def test_the_plot_has_quality_against_evaluations_and_against_the_cost_of_training(tmp_path, monkeypatch):
    import matplotlib.figure

    script = bench("few_steps")
    monkeypatch.setattr(script, "TABLE", tmp_path / "few_steps.csv")
    shared = {"problem": "digits", "who": "ours", "measure": "FD / floor"}
    trained = {"method": "dmd", "training_seconds": 400.0, "updates": 9, "processes": 2}
    for row in (
        {"method": "teacher", "plan": "ddim:1", "evaluations": 1, "quality": 4.0},
        {**trained, "plan": "consistency:1", "evaluations": 1, "quality": 0.9},
        {**trained, "plan": "consistency:2", "evaluations": 2, "quality": 0.8},
    ):
        script.write({**shared, **row})
    assert [script.cost(row) for row in script.read()] == [None, 800.0, 800.0]
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    assert script.plot() == tmp_path / "few_steps.png"
    ((above,), (below,)) = [[axis] for axis in drawn[0].axes]

    def lines(axis):
        return {line.get_label(): line.get_xydata().tolist() for line in axis.lines if not line.get_label().startswith("_")}

    assert lines(above) == {"teacher": [[1, 4.0]], "dmd": [[1, 0.9], [2, 0.8]]}
    assert lines(below) == {"dmd": [[800, 0.9], [800, 0.8]]}
    # one colour each in both
    assert {line.get_color() for line in below.lines[1:]} == {above.lines[1].get_color()}


def test_the_bench_has_digits_of_every_student_and_its_plans_fit(tmp_path):
    script = bench("few_steps")
    named = {base.split(":")[1] for base, *_ in script.DIGITS.values() if base.startswith("to:")}
    of_data = {recipe(base).objective.kind for base, *_ in script.DIGITS.values() if base.startswith("digits-")}
    assert named | of_data == set(STUDENTS)
    (tmp_path / "recipe.json").write_text(recipe("digits").model_dump_json())
    for base, changes, ways in script.DIGITS.values():
        if base != "teacher":
            made = script.recipe_of(base, changes, tmp_path)
            run = build(made.model_copy(update={"network": made.network.model_copy(update={"width": 8, "head_width": 8})}))
            for plan in ways:
                fits(made, run.denoiser.process, plans.parse(script.strength(plan)[0]))


def test_each_stage_is_judged_by_the_student_that_the_next_one_learned_from():
    script = bench("few_steps")
    data = lv.data.two_moons(64)
    teacher = lv.Denoiser(lv.networks.MLP(2, 8, 1, classes=2), lv.Gaussian(lv.schedules.flow()), "velocity")
    student = copy.deepcopy(teacher)
    objective = script.Stages(teacher, 4)
    assert objective.plans == [f"ddim:{steps}:grid=uniform" for steps in (8, 4, 2, 1)]
    lv.fit(student, data, objective=objective, steps=6, batch=8, warmup=0, progress=False)
    assert list(objective.students) == objective.plans[:-1]  # the last is the model itself
    weights = [dict(objective.students[plan].named_parameters()) for plan in objective.plans[:-1]]
    assert all(torch.equal(p, dict(teacher.named_parameters())[n]) for n, p in weights[0].items())
    assert all(torch.equal(p, dict(objective.teacher.named_parameters())[n]) for n, p in weights[2].items())
    assert all(any(not torch.equal(a[n], b[n]) for n in a) for a, b in pairwise(weights))


@pytest.mark.parametrize(
    ("name", "method"),
    [("digits-mean-flow", "improved MeanFlow"), ("digits-shortcut", "shortcut"),
     ("digits-consistency", "improved consistency training"), ("mnist-consistency", "improved consistency training")],
)  # fmt: skip
def test_recipes_of_few_steps_expect_what_the_table_says(name, method):
    said, problem = recipe(name).expects, name.split("-")[0]
    of = {(r["method"], r["evaluations"], r["measure"]): r for r in ROWS if r["problem"] == problem and r["who"] == "ours"}
    told = re.findall(r"in (\d+) steps?:? (?:intended label )?([\d.]+) %(?: of 1,000)? and (?:FD )?([\d.]+)", said)
    assert [steps for steps, _, _ in told] == ["1", "2", "4", "20"]
    for steps, label, distance in told:
        whose = "teacher" if steps == "20" else method
        assert float(of[whose, steps, "intended label"]["quality"]) == pytest.approx(float(label) / 100, abs=1e-6)
        assert close(distance, float(of[whose, steps, "FD / floor"]["quality"])), (steps, distance)
    (minutes,) = re.findall(r"(\d+) minutes on 2 cores", said)
    row = of[method, "1", "FD / floor"]
    assert row["processes"] == "2" and close(minutes, float(row["training_seconds"]) / 60)
