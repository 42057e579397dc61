"""Tables: rows keep their units, and likelihoods count them."""

import csv
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import langevin as lv
from langevin import oracles
from langevin.cli import main
from langevin.data.table import read_rows, table
from langevin.evaluate import energy_distance
from langevin.recipes import comparison
from langevin.recipes.build import build
from langevin.recipes.config import TransferData
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.likelihood import likelihood
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start

SHORT = ["--train.steps", "3", "--train.batch", "8", "--samples", "50", "--network.width", "16", "--network.depth", "1"]
MEAN = torch.tensor([20.0, -300.0, 0.004], dtype=torch.float64)
ROOT = torch.tensor([[5.0, 0, 0], [40.0, 30.0, 0], [0.0005, 0, 0.001]], dtype=torch.float64)


def rows(count=400, seed=0):
    """Rows of a correlated normal, in units far from one another, (N, 3)."""
    return MEAN + torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3))) @ ROOT.T


@pytest.fixture
def file(tmp_path):
    lines = [["heat", "kind", "depth", "share"], *([a, "sea" if k % 4 else "lake, small", b, s]
                                                   for k, (a, b, s) in enumerate(sorted(rows().tolist())))]  # fmt: skip
    with (tmp_path / "t.csv").open("w", newline="") as out:
        csv.writer(out).writerows(lines)
    return tmp_path / "t.csv"


def test_columns_are_standardised_by_the_training_split(file, tmp_path):
    train, test = table(file, "kind", held_out=0.2)
    assert len(train) + len(test) == 400 and 50 < len(test) < 110 and train.columns == ("heat", "depth", "share")
    assert torch.allclose(train.x.mean(0), torch.zeros(3), atol=1e-5)  # pyright: ignore
    assert torch.allclose(train.x.std(0, correction=0), torch.ones(3), atol=1e-5)  # pyright: ignore
    both = torch.cat([s.x.double() * train.scale + train.mean for s in (train, test)])  # pyright: ignore
    assert torch.allclose(both.sort(0).values, rows().sort(0).values, rtol=1e-5)
    assert train.classes == ("lake, small", "sea") and torch.cat([train.cond["label"], test.cond["label"]]).sum() == 300  # pyright: ignore
    np.save(tmp_path / "t.npy", rows()[rows()[:, 0].argsort()].numpy())
    again, _ = table(tmp_path / "t.npy", held_out=0.2)
    assert torch.equal(again.x, train.x) and again.columns == ("x0", "x1", "x2")  # pyright: ignore
    some = read_rows(file, columns=("share", "heat"))
    assert torch.equal(some.x, rows()[rows()[:, 0].argsort()][:, [2, 0]]) and some.labels is None


def test_the_likelihood_of_rows_is_that_of_whitened_ones_and_the_volume(file):
    base = lv.recipe("table")
    run = build(
        base.model_copy(update={"data": base.data.model_copy(update={"path": str(file), "columns": ("heat", "depth", "share")})})
    )
    told = run.facts.table
    assert told is not None
    mean, scale = torch.tensor(told.mean).double(), torch.tensor(told.scale).double()
    covariance = (ROOT / scale[:, None]) @ (ROOT / scale[:, None]).T
    exact = oracles.gaussian(run.denoiser.process, (MEAN - mean) / scale, covariance)  # pyright: ignore
    exact.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    found = likelihood(run.holding(exact), count=30, tolerance=1e-6)  # pyright: ignore
    raw = run.test.x[:30].double() * scale + mean
    truth = torch.distributions.MultivariateNormal(MEAN, scale_tril=ROOT).log_prob(raw)
    assert float((found.nats.double() - truth).abs().max()) < 0.02
    assert abs(float(scale.log().sum())) > 1 and "in the table's own units" in found.how


def test_a_table_is_trained_sampled_and_judged_in_its_own_units(file, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "table", *SHORT, "--data.path", str(file), "--data.label", "kind", "--out", str(out)])
    assert "classes: 0 lake, small, 1 sea" in capsys.readouterr().err
    main(["inspect", str(out)])
    assert "classes 0 lake, small, 1 sea" in capsys.readouterr().out
    judged = json.loads((out / "metrics.json").read_text())
    assert judged["metrics"]["energy_distance_real"] < 0.3 and "mean 0 and deviation 1" in judged["protocol"]["pixels"]
    for end in ("csv", "npy", "png"):
        main(["sample", str(out), "--count", "200", "--out", str(tmp_path / f"a.{end}")])
    with (tmp_path / "a.csv").open(newline="") as made:
        header, *lines = csv.reader(made)
    assert header == ["heat", "depth", "share", "kind"] and {line[3] for line in lines} == {"lake, small", "sea"}
    x = np.array([[float(v) for v in line[:3]] for line in lines])
    assert np.allclose(x, np.load(tmp_path / "a.npy"), rtol=1e-6)
    # three updates have taught it little, but where columns are and how wide is not learned
    assert np.all(np.abs(x.mean(0) - MEAN.numpy()) < 2 * ROOT.norm(dim=1).numpy())
    assert np.all(np.abs(np.log(x.std(0) / ROOT.norm(dim=1).numpy())) < 1)
    capsys.readouterr()
    main(["likelihood", str(out), "--json"])
    held = json.loads(capsys.readouterr().out)
    run = open_run(out)
    told = run.facts.table
    assert told is not None
    raw = run.test.x.double() * torch.tensor(told.scale).double() + torch.tensor(told.mean).double()
    np.save(tmp_path / "held.npy", raw.numpy())
    with (tmp_path / "held.csv").open("w", newline="") as written:  # columns in another order
        csv.writer(written).writerows([["share", "depth", "kind", "heat"], *([s, d, "sea", h] for h, d, s in raw.tolist())])
    for name in ("held.npy", "held.csv"):
        main(["likelihood", str(out), str(tmp_path / name), "--json"])
        assert json.loads(capsys.readouterr().out)["nats_per_element"] == pytest.approx(held["nats_per_element"], abs=1e-4)
    main(["sample", str(out), "--count", "3", "--label", "1", "--out", str(tmp_path / "sea.csv")])
    assert (tmp_path / "sea.csv").read_text().count(",sea\n") == 3


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run of labelled rows, which two updates at a high rate have taught something of the labels."""
    out = tmp_path_factory.mktemp("labelled")
    lines = [f"{a},{b},{k % 2}" for k, (a, b) in enumerate(np.random.default_rng(0).standard_normal((200, 2)).tolist())]
    (out / "t.csv").write_text("\n".join(["a,b,kind", *lines]))
    kind = ["--data.path", str(out / "t.csv"), "--data.label", "kind", "--train.lr", "0.05", "--train.warmup", "0"]
    main(["train", "table", *SHORT, *kind, "--out", str(out / "run")])
    return out / "run"


def test_rows_are_judged_under_guidance(labelled):
    run = open_run(labelled)
    label = run.test.cond["label"][torch.arange(60) % len(run.test)]
    found = []
    for w in (1.0, 3.0):
        judged = evaluate(run, count=60, guidance=w, small=True)
        expected = energy_distance(draw(run, 60, seed=1, label=label, guidance=w), run.test.x)
        assert judged.metrics["energy_distance"] == expected and judged.protocol.guidance == (w,)
        found.append(expected)
    assert found[0] != found[1]


def test_rows_without_a_condition_are_not_guided(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32))
    base = lv.recipe("table")
    run = build(base.model_copy(update={"data": base.data.model_copy(update={"path": str(tmp_path / "x.npy")})}))
    with pytest.raises(ValueError, match=r"guidance is 3, but this run has no condition to strengthen; use 1\."):
        evaluate(run, count=20, guidance=3.0)
    assert evaluate(run, count=20, plan="ddim:2").protocol.guidance == ()


def test_a_student_of_rows_stands_beside_its_teacher(labelled, tmp_path, capsys, monkeypatch):
    """A learned plan lies with the student where its teacher's folder cannot be written, and one that fails costs its row."""
    plan = ["--sample.plan", "consistency:2:grid=uniform", "--objective.guidance", "3", "--train.batch", "8", "--samples", "50"]
    command = ["distill", str(labelled), "--to", "consistency", "--steps", "2", *plan, "--train.steps", "2"]
    learned, where = comparison.tune_into, []

    def quick(file, run, steps, **options):
        where.append(file.parent)
        return learned(file, run, steps, iterations=1, batch=8, count=8, held_out=8, **options)

    (labelled / "plans").write_text("no folder")  # stands for what cannot be written, also by root
    monkeypatch.setattr(comparison, "tune_into", quick)
    main([*command, "--out", str(tmp_path / "a")])
    rows = json.loads((tmp_path / "a" / "comparison.json").read_text())
    assert [(r["who"], r["guidance"]) for r in rows] == [
        ("teacher", 1.0), ("teacher", 3.0), ("teacher", 3.0), ("teacher, learned plan", 3.0), ("student", 1.0),
    ]  # fmt: skip
    assert len({r["energy_distance"] for r in rows}) == 5 and where == [tmp_path / "a" / "plans"]
    assert "energy" in capsys.readouterr().out

    def failing(*args, **options):
        raise RuntimeError("numbers are no numbers")

    monkeypatch.setattr(comparison, "tune_into", failing)
    main([*command, "--out", str(tmp_path / "b")])
    again = json.loads((tmp_path / "b" / "comparison.json").read_text())
    assert [r["who"] for r in again] == ["teacher", "teacher", "teacher", "student"]
    said = capsys.readouterr().out
    assert "no plan of 2 evaluations was learned for the teacher (RuntimeError: numbers are no numbers)" in said


def test_no_flow_leads_from_a_table_to_a_table():
    table = {"kind": "table", "path": "t.csv"}
    with pytest.raises(ValidationError, match="'table' found using 'kind' does not match any of the expected tags"):
        TransferData.model_validate({"target": table, "source": table})


def test_rows_of_arrays_are_points(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((500, 13)).astype(np.float32))
    out = tmp_path / "run"
    kind = ["--data.kind", "arrays", "--data.x", str(tmp_path / "x.npy"), "--data.test", "100"]
    main(["train", "two-moons", *SHORT, *kind, "--out", str(out)])
    assert {"samples.png", "metrics.json"} <= {p.name for p in out.iterdir()}
    for end in ("csv", "npy", "png"):
        main(["sample", str(out), "--count", "4", "--out", str(tmp_path / f"a.{end}")])
    assert np.load(tmp_path / "a.npy").shape == (4, 13)
    main(["evaluate", str(out), "--count", "50"])
    main(["likelihood", str(out), "--count", "4", "--solver", "heun", "--steps", "4"])
    (tmp_path / "x.npy").unlink()  # samples are drawn without it
    main(["sample", str(out), "--count", "4", "--out", str(tmp_path / "b.npy")])
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_table_that_changed_is_refused(file, tmp_path):
    base = lv.recipe("table")
    train = base.train.model_copy(update={"steps": 1, "batch": 4})
    asked = base.model_copy(update={"data": base.data.model_copy(update={"path": str(file), "label": "kind"}), "train": train})
    _, trainer = start(asked, tmp_path / "run")
    trainer.run(progress=False)
    file.write_text(file.read_text().replace("heat", "warmth"))
    with pytest.raises(ValueError, match=r"the data's table.columns is now \('warmth', .* was begun with \('heat'"):
        start(asked, tmp_path / "run", resume=True)


def test_a_run_that_goes_on_on_other_rows_keeps_its_units(file, tmp_path):
    base, out = lv.recipe("table"), tmp_path / "run"
    train = base.train.model_copy(update={"steps": 1, "batch": 4, "schedule": "constant"})
    asked = base.model_copy(update={"data": base.data.model_copy(update={"path": str(file), "label": "kind"}), "train": train})

    def go_on(steps, **options):
        longer = asked.model_copy(update={"train": train.model_copy(update={"steps": steps})})
        run, trainer = start(longer, out, resume=True, **options)
        trainer.run(progress=False)
        trainer.close()
        return run

    before = go_on(1).facts.table
    lines = file.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    file.write_text("\n".join([lines[0], *(",".join([str(float(first) + 3), *rest]) for first, *rest in cells)]) + "\n")
    with pytest.raises(ValueError, match=r"table.mean is now .*say --other-data if it is meant"):
        go_on(2)
    run = go_on(2, other_data=True)
    assert run.facts.table == before and run.facts.replaced
    # new rows in the units of the old ones: a shift of 3 is one of 3 / scale
    moved = run.train.x[:, 0].mean() * before.scale[0]  # pyright: ignore
    assert float(moved) == pytest.approx(3, abs=1e-3)
    assert torch.equal(open_run(out).train.x, run.train.x)  # and so they are judged
    assert go_on(3).facts.table == before  # these are its data now
    file.write_text(file.read_text().replace("heat", "warmth"))
    with pytest.raises(ValueError, match=r"table.columns is now .*put the data back"):
        go_on(4, other_data=True)


@pytest.mark.parametrize(("text", "options", "said"), [
    ("a,b\n1,2\n3,x\n", {}, r"line 3 has 'x' in column 'b', which is no finite number; mend it, or leave the column out"),
    ("a,b\n1,2\n3,nan\n", {}, r"line 3 has 'nan' in column 'b'"),
    ("a,b\n1,2\n3\n", {}, r"line 3 has 1 cells for 2 columns"),
    ("1,2\n3,4\n", {}, r"has to begin with a line of names"),
    ("a,a\n1,2\n", {}, r"has to begin with a line of names, all different"),
    ("a,b\n", {}, r"and to have rows below"),
    ("", {}, r"has to begin with a line of names"),
    ("a,b\n1,2\n3,4\n", {"label": "c"}, r"has no column 'c'; it has a, b"),
    ("a,b\n" + "1,2\n" * 40, {}, r"column 'a' of .* has one value alone, which has no density; leave it out by data.columns"),
])  # fmt: skip
def test_tables_that_cannot_be_learned(text, options, said, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        table(tmp_path / "t.csv", **options)
