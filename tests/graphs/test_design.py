"""Design: goals are met to the share that is said, parents come back from little noise, and rounds go on where they stopped."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from langevin import plans
from langevin.config import TrainConfig
from langevin.core.denoiser import BaseDenoiser
from langevin.data import molecules
from langevin.recipes.config import GraphTransformerConfig
from langevin.recipes.design import Asked, _best, _children, _round, design, goals_of, score
from langevin.recipes.drawing import draw
from langevin.recipes.regressing import aimed, regress
from tests.graphs.test_digress import trained  # noqa: F401

pytest.importorskip("rdkit")


def test_goals_are_met_within_a_range_and_less_and_less_outside():
    goals = goals_of(["qed", "logp=1..3"])
    values = torch.tensor([[0.5, 2.0], [0.5, 5.0], [0.9, 1.0], [0.1, math.nan]], dtype=torch.float64)
    expected = [(0.5 + 1) / 2, (0.5 + math.exp(-2 / 2)) / 2, (0.9 + 1) / 2]
    assert score(values, goals)[:3].tolist() == pytest.approx(expected)
    assert math.isnan(float(score(values, goals)[3]))
    for word in ("logp", "qde", "logp=a..b", "logp=3..1", "logp=1..inf", "logp=nan"):
        with pytest.raises(ValueError, match="goal is"):
            goals_of([word])


def test_children_of_little_noise_are_their_parents(trained):  # noqa: F811
    types = trained.facts.graph.node_types
    graphs = [molecules.graph_of_molecule(molecules.molecule_of(s), types) for s in ("CC=O", "C1CC1", "CCO")]
    parents = [molecules.smiles_of(g, types) for g in graphs]
    made = _children(trained, parents, 30, plans.ddpm(3), 0.01, seed=0)
    same = [molecules.smiles_of(g, types) == parents[k % 3] for k, g in enumerate(made)]
    assert sum(same) > 27  # alpha is 0.9999 there
    far = _children(trained, parents, 30, plans.ddpm(3), 1.0, seed=0)
    assert sum(molecules.smiles_of(g, types) == parents[k % 3] for k, g in enumerate(far)) < 10


def test_rounds_go_on_where_they_stopped(trained, tmp_path):  # noqa: F811
    asked = Asked(goals_of(["qed", "sa"]), rounds=3, count=12, parents=4, level=0.3, properties={"logp": 1.0}, guidance=2.0)
    whole = design(trained, asked, tmp_path / "whole", say=lambda line: None)
    design(trained, replace(asked, rounds=1), tmp_path / "parts", say=lambda line: None)
    parts = design(trained, asked, tmp_path / "parts", say=lambda line: None)
    assert json.dumps(parts) == json.dumps(whole) and [r["round"] for r in whole] == [0, 1, 2]
    bests = [r["best"] for r in whole if not math.isnan(r["best"])]
    assert bests == sorted(bests)  # what was found is not lost
    for line in (tmp_path / "whole" / "best.smi").read_text().splitlines():
        mol = molecules.molecule_of(line.split("\t")[0])
        values = torch.tensor([molecules.properties_of(mol, ["qed", "sa"])], dtype=torch.float64)
        assert float(line.split("\t")[1]) == pytest.approx(float(score(values, asked.goals)), abs=2e-4)
    with pytest.raises(ValueError, match=r"is .* but the designs in .* were asked for otherwise, with"):
        design(trained, replace(asked, level=0.4), tmp_path / "parts")


def test_properties_are_conditions_in_their_own_units(trained):  # noqa: F811
    assert trained.domain.conditions(trained, {"logp": 3.0}, 2)["logp"].tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="property is 'qed'"):
        draw(trained, 2, properties={"qed": 0.5})
    # w = 1 is the conditional model, w = 0 the model that is told nothing
    plain = draw(trained, 4, seed=5)
    assert torch.equal(draw(trained, 4, seed=5, properties={"logp": 3.0}, guidance=0.0)["edges"], plain["edges"])


class Told(BaseDenoiser):
    """Sure that all atoms are of the first type where a property is told, and of the second where none is."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.process, self.shape = denoiser, denoiser.process, denoiser.shape

    def forward(self, z, t, cond, mask):
        belief = self.denoiser.believe(z, t, None, mask)
        told = torch.zeros(len(z["edges"]), dtype=torch.bool) if not cond else cond["logp"] == 0.5
        told = told & ~cond["drop"] if cond and "drop" in cond else told
        logits = torch.zeros_like(belief["nodes"].logits)
        logits[..., 0], logits[..., 1] = 100.0 * told[:, None], 100.0 * ~told[:, None]
        return {**belief, "nodes": belief["nodes"].with_params(logits)}


def test_children_are_asked_for_properties_too(trained):  # noqa: F811
    run = trained.holding(Told(trained.denoiser))
    for properties, w, kind in ((None, None, 1), ({"logp": 1.0}, 1.0, 0), ({"logp": 1.0}, 0.0, 1), ({"logp": 2.0}, 1.0, 1)):
        made = _children(run, ["CCO", "CC"], 8, plans.ddpm(3), 1.0, 0, properties, w)
        assert torch.cat([g.nodes for g in made]).tolist() == [kind] * (4 * 3 + 4 * 2)


def test_what_does_not_fit_is_refused_before_the_first_round(trained, tmp_path):  # noqa: F811
    asked = Asked(goals_of(["qed"]), rounds=1, count=4, properties={"qed": 0.5})
    with pytest.raises(ValueError, match="property is 'qed'"):
        design(trained, asked, tmp_path / "none")
    # found once by the second round, after the first was drawn
    with pytest.raises(ValueError, match="guidance is 2, of properties, and none is asked for; say --property, or leave it out"):
        design(trained, Asked(goals_of(["qed"]), rounds=2, count=4, guidance=2.0), tmp_path / "none")
    with pytest.raises(ValueError, match="strength is 3, of what designs are steered by, which steer names; leave it out"):
        Asked(goals_of(["qed"]), strength=3.0)
    assert not (tmp_path / "none").exists()
    graph = trained.facts.graph.model_copy(update={"properties": ("logp", "qed")})
    both = replace(trained, facts=trained.facts.model_copy(update={"graph": graph}))
    with pytest.raises(ValueError, match="property 'logp' is not given"):
        draw(both, 2, properties={"qed": 0.5})
    assert set(both.domain.conditions(both, {"qed": 0.5, "logp": 1.0}, 2)) == {"logp", "qed"}


def test_designs_of_other_weights_are_not_gone_on_from(trained, tmp_path):  # noqa: F811
    asked = Asked(goals_of(["qed"]), rounds=1, count=4)
    first = design(trained, asked, tmp_path, say=lambda line: None)
    other = trained.holding(copy.deepcopy(trained.denoiser))
    assert json.dumps(design(other, asked, tmp_path)) == json.dumps(first)  # the same weights are the same run
    with torch.no_grad():
        next(other.denoiser.parameters())[0] += 1e-3
    with pytest.raises(ValueError, match="of other weights"):
        design(other, replace(asked, rounds=2), tmp_path)


def test_designs_with_atoms_of_no_type_are_passed_over(trained):  # noqa: F811
    assert "Xe" not in trained.facts.graph.node_types
    best = _best(trained, {"F[Xe]F": 1.0, "CCO": 0.9, "CC": 0.8, "CN": 0.7}, 2)
    types = trained.facts.graph.node_types
    assert [(s, molecules.smiles_of(g, types)) for s, g in best.items()] == [("CCO", "CCO"), ("CC", "CC")]


def test_a_regressor_steers_rounds_but_the_first(trained, tmp_path, monkeypatch):  # noqa: F811
    small, few = GraphTransformerConfig(width=16, edge_width=8, whole=8, depth=1, features=()), TrainConfig(steps=2, batch=8)
    regress(trained, ("weight",), tmp_path / "reads", network=small, train=few, say=lambda line: None)
    plain = Asked(goals_of(["qed"]), rounds=2, count=8, parents=4, level=0.5)
    asked = replace(plain, properties={"weight": 900.0}, steer=tmp_path / "reads", strength=1e3)
    seen: dict[str, list[str]] = {}

    def drawn(how, name):
        def told(run, asked, graphs, pool, number):
            seen.setdefault(name, []).append(str(graphs))
            return _round(run, asked, graphs, pool, number)

        monkeypatch.setattr("langevin.recipes.design._round", told)
        design(trained, how, tmp_path / name, say=lambda line: None)
        return seen[name]

    free, still, led = drawn(plain, "free"), drawn(replace(asked, strength=0.0), "still"), drawn(asked, "led")
    assert free == still and led[0] == free[0] and led[1] != free[1]
    with pytest.raises(ValueError, match="nothing is asked for; name one of weight"):
        drawn(replace(asked, properties={"logp": 1.0}), "other")
    with pytest.raises(ValueError, match=r"is .* but the designs in .* were asked for otherwise, with"):
        drawn(asked, "still")
    # and what is made of others, by the next state as well
    for table in (plans.ddpm(3), plans.tilted(3)):
        guide, _ = aimed(trained, tmp_path / "reads", {"weight": 900.0}, 1e3, table.name.replace("(", ":"))
        children = [str(_children(trained, ["CCO"], 8, table, 0.9, 0, steer=steer)) for steer in (None, guide)]
        assert children[0] != children[1]
