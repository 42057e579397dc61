"""A chemist's own table: what was measured is a condition like what is computed, and how near samples come is told."""

import json
from dataclasses import replace

import pytest
import torch

from langevin.cli import main
from langevin.data import Graph
from langevin.data.molecules import read_molecules, scores
from langevin.recipes import recipe
from langevin.recipes.build import build
from langevin.recipes.config import MoleculesData
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start
from tests.graphs.test_design import Told
from tests.graphs.test_digress import trained  # noqa: F401

pytest.importorskip("rdkit")


def _assay(file, shift=0.0):
    words = ["C" * k + end for k in range(2, 7) for end in ("N", "O", "C(C)N")]
    lines = [f"{k};{word};{5 + 0.2 * k + shift:.1f}" for k, word in enumerate(words)]
    file.write_text("\n".join(["name;canonical_smiles;pIC50", *lines, "x;CCCl;", "y;CC.O;5"]))
    return words


def _of(file, **data):
    base = recipe("nci-graph").model_dump()
    base["data"].update({"path": str(file), "held_out": 0.5, "properties": ("logp,pIC50",), **data})
    base["network"].update(width=16, edge_width=8, whole=8, depth=1)
    base["train"].update(steps=2, batch=8, save_every=2, preview_every=1000, warmup=8)
    base["sample"]["plan"] = "ddpm:4"
    return type(recipe("nci-graph")).model_validate(base)


def _train(made, out, **options):
    _, trainer = start(made, out, **options)
    trainer.run()
    trainer.close()


@pytest.fixture(scope="module")
def assay(tmp_path_factory):
    """(table, run directory) of a few steps with logP and a measured column."""
    root = tmp_path_factory.mktemp("assay")
    _assay(root / "assay.csv")
    _train(_of(root / "assay.csv"), root / "run")
    return root / "assay.csv", root / "run"


def test_a_run_knows_the_units_of_its_columns_without_the_table(assay):
    file, out = assay
    run = open_run(out)
    read = read_molecules(file, least=3, largest=9, elements=("C", "N", "O", "F"), properties=("pIC50",))
    mean, deviation = read.measured["pIC50"]
    told = run.domain.conditions(run, {"pIC50": mean + 2 * deviation, "logp": 3.0}, 2)
    assert told["pIC50"].tolist() == pytest.approx([2.0, 2.0]) and told["logp"].tolist() == [1.5, 1.5]
    asked = {"pIC50": 7.0, "logp": 1.0}
    plain = draw(run, 4, seed=5)
    assert torch.equal(draw(run, 4, seed=5, properties=asked, guidance=0.0)["edges"], plain["edges"])
    assert "_splits" not in run.__dict__


def test_samples_are_asked_for_a_measured_column_on_the_command_line(assay, tmp_path, capsys):
    _, out = assay
    asked = ["sample", str(out), "--count", "3", "--guidance", "2", "--out", str(tmp_path / "some.json")]
    main([*asked, "--property", "pIC50=7", "logp=1"])
    assert len(json.loads((tmp_path / "some.json").read_text())) == 3
    with pytest.raises(SystemExit):
        main([*asked, "--property", "ki=7"])
    assert "property is 'ki'; this run has logp, pIC50" in capsys.readouterr().err


def test_a_column_in_other_units_is_not_gone_on_with(assay, tmp_path):
    file, _ = assay
    own = tmp_path / "own.csv"
    words = _assay(own)
    made = _of(own)
    _train(made, tmp_path / "run")
    own.write_text(own.read_text() + "\nbroken;C(C;9\nsalt;CC.Cl;8")  # what is left out is nothing that was learned
    _train(made, tmp_path / "run", resume=True)
    assert _assay(own, shift=1.0) == words
    with pytest.raises(ValueError, match=r"graph\.measured is now .*pIC50"):
        _train(made, tmp_path / "run", resume=True)
    assert file.exists()


def test_but_it_is_where_other_data_is_meant_in_the_units_of_before(tmp_path):
    own, out = tmp_path / "own.csv", tmp_path / "run"
    words = _assay(own)
    made = _of(own)
    _train(made, out)
    before = open_run(out)
    was = before.facts.graph
    units = {name: (mean, deviation) for name, mean, deviation in was.measured}
    _assay(own, shift=1.0)
    own.write_text("\n".join(line for line in own.read_text().splitlines() if f";{words[-1]};" not in line))  # the largest
    _train(made, out, resume=True, other_data=True)
    run = open_run(out)
    assert run.facts.graph == was and run.facts.replaced and run.train.size == len(was.sizes) - 1
    mean, deviation = units["pIC50"]
    told = {k: 5 + 0.2 * i + 1 for i, k in enumerate(read_molecules(own, least=3, largest=9).keys)}
    for half in (run.train, run.test):
        for key, value in zip(half.keys, half.cond["pIC50"].tolist(), strict=True):
            if key in told:
                assert value * deviation + mean == pytest.approx(told[key], abs=1e-3)
    _train(made, out, resume=True)  # it is its data now
    _train(made, tmp_path / "small")
    _assay(own)
    with pytest.raises(ValueError, match=r"largest graph has 9 nodes, and the run was begun with graphs of up to 8"):
        _train(made, tmp_path / "small", resume=True, other_data=True)


def test_what_became_of_the_rows_is_said_where_data_is_read(assay, tmp_path, capsys, monkeypatch):
    file, _ = assay
    run = build(_of(file, elements=("C", "N"), properties=()))
    said = capsys.readouterr()
    assert said.err == f"{run.train.rows}\n" and not said.out
    assert run.train.rows.left_out == {"of other elements": 6, "in several pieces": 1}
    monkeypatch.setenv("RANK", "1")
    build(_of(file))
    assert not capsys.readouterr().err  # one process of several says it


@pytest.mark.parametrize("name", ["label", "log.P", "values"])
def test_a_column_of_a_name_that_no_condition_can_have_is_refused(name, tmp_path):
    file = tmp_path / "assay.csv"
    _assay(file)
    file.write_text(file.read_text().replace("pIC50", name))
    with pytest.raises(ValueError, match=f"properties has '{name}', which no condition can be called"):
        build(_of(file, properties=(name,)))


def test_settings_take_names_apart_by_commas_and_another_heading(assay, tmp_path):
    assert MoleculesData(properties=("logp, pIC50",)).properties == MoleculesData(properties=("logp", "pIC50,logp")).properties
    file, _ = assay
    own = tmp_path / "own.csv"
    own.write_text(file.read_text().replace("canonical_smiles", "structure"))
    assert build(_of(own, column="structure")).train.keys == build(_of(file)).train.keys


class Loose(Told):
    """Sure beside that no two atoms are bound: a sample is a number of methanes where logp=1 is told, and else of others."""

    def forward(self, z, t, cond, mask):
        belief = super().forward(z, t, cond, mask)
        logits = torch.zeros_like(belief["edges"].logits)
        logits[..., 0] = 100.0
        return {**belief, "edges": belief["edges"].with_params(logits)}


def test_nearness_to_what_is_asked_for_is_told_beside_samples_that_are_asked_for_nothing(trained):  # noqa: F811
    run = trained.holding(Loose(trained.denoiser))
    found = evaluate(run, count=40, small=True, properties={"logp": 1.0}, guidance=1.0)
    types, (of_carbon, of_others) = run.facts.graph.node_types, properties_of_atoms(run)
    sizes = (draw(run, 40, seed=1)["nodes"] >= 0).sum(1).double()  # the same in both, as the noise is
    assert types[0] == "C" and found["valid"].value == 1  # Crippen's logP is a sum over atoms
    assert found["logp_mae"].value == pytest.approx(float((sizes * of_carbon - 1).abs().mean()), rel=1e-6)
    assert found["logp_mae_unconditional"].value == pytest.approx(float((sizes * of_others - 1).abs().mean()), rel=1e-6)
    assert "asked for logp=1;" in found.protocol.metrics["logp_mae"] and found.protocol.guidance == (1.0,)
    plain = evaluate(run, count=40, small=True)
    assert not any("mae" in name for name in plain.names()) and not plain.protocol.guidance


def properties_of_atoms(run):
    """logP of methane, and of a hydride of the second type."""
    bare = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    alone = [Graph(torch.tensor([k]), *bare) for k in (0, 1)]
    return scores(alone, run.facts.graph.node_types, ("logp",))[:, 0].tolist()


def test_what_was_measured_cannot_be_computed_of_samples(assay, capsys):
    _, out = assay
    run = open_run(out)
    found = evaluate(run, count=8, small=True, properties={"pIC50": 7.0, "logp": 1.0})
    assert "pIC50 was measured, and cannot be computed of samples" in capsys.readouterr().err
    assert not any("pIC50" in name for name in found.names())
    assert run.facts.graph is not None
    graph = run.facts.graph.model_copy(update={"properties": ("pIC50",)})
    alone = replace(run, facts=run.facts.model_copy(update={"graph": graph}))
    with pytest.raises(ValueError, match="property is 'pIC50': pIC50 was measured"):
        evaluate(alone, count=8, small=True, properties={"pIC50": 7.0})
    with pytest.raises(ValueError, match="'logp' is not given"):
        evaluate(run, count=8, small=True, properties={"pIC50": 7.0})


def test_nearness_on_the_command_line(trained, tmp_path, capsys):  # noqa: F811
    main(["evaluate", str(trained.folder), "--small", "--count", "60", "--property", "logp=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["logp_mae"] > 0 and found["metrics"]["logp_mae_unconditional"] > 0
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path), "--against", str(tmp_path), "--property", "logp=1"])
    assert "property is ('logp=1',), but two folders" in capsys.readouterr().err
