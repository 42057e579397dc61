"""Graphs and molecules."""

from collections.abc import Callable

from langevin.config import TrainConfig
from langevin.recipes.config import (
    GraphConfig,
    GraphScoresConfig,
    GraphsData,
    GraphTransformerConfig,
    MoleculesData,
    Recipe,
    SampleConfig,
)
from langevin.recipes.objectives import DenoisingConfig
from langevin.recipes.ready.variant import but


def qm9_graph() -> Recipe:
    """Small molecules by DiGress."""
    return Recipe(
        name="qm9-graph",
        about="molecules of up to 9 heavy atoms (QM9) as graphs of atoms and bonds, by DiGress",
        expects="of 1,000 samples, none corrected, 97.1 % valid, 96.0 % valid and in one piece, 99.7 % different, 43 % new; with "
        "ddpm:50 97.8, 97.1, 99.7, 40 %, with defog:50 97.1, 96.3, 99.9, 40 %; 75 minutes on one core",
        data=MoleculesData(path="data/qm9.csv"),
        process=GraphConfig(),
        network=GraphTransformerConfig(features=("cycles", "pieces", "spectrum", "walks", "size", "valencies")),
        objective=DenoisingConfig(leaf_weights={"nodes": 1.0, "edges": 5.0}),
        train=TrainConfig(steps=16_000, batch=128, lr=1e-3, ema=0.999, preview_every=4000, save_every=1000),
        sample=SampleConfig(plan="ddpm:500"),
    )


def qm9_graph_logp() -> Recipe:
    """Small molecules of an octanol-water partition that is asked for."""
    return but(
        qm9_graph(),
        name="qm9-graph-logp",
        about="the molecules of qm9-graph with logP for a condition, to be guided by (langevin sample --property logp=2)",
        expects="not trained to its end yet",
        data=MoleculesData(path="data/qm9.csv", properties=("logp",)),
    )


def qm9_gdss() -> Recipe:
    """Small molecules, by coupled scores of atoms and bonds."""
    return but(
        qm9_graph(),
        name="qm9-gdss",
        about="the molecules of qm9-graph by coupled scores of atoms and bonds (GDSS)",
        expects="not trained to its end yet",
        data=MoleculesData(path="data/qm9.csv"),
        process=GraphScoresConfig(nodes="vp_linear", edges="ve:sigma_min=0.1,sigma_max=4", prediction="logits"),
        network=GraphTransformerConfig(),
        objective=DenoisingConfig(),
        sample=SampleConfig(plan="splitting:500:snr=0.2"),
    )


def nci_graph() -> Recipe:
    """Few molecules, by DiGress."""
    return but(
        qm9_graph(),
        name="nci-graph",
        about="the molecules of 3 to 9 heavy atoms among the first of the NCI set, which rdkit brings, by DiGress",
        expects="of 500 samples, none corrected, 92.4 % valid, 86.6 % valid and in one piece, 94.6 % different, 92 % new, from "
        "391 molecules; 14 minutes on one core",
        data=MoleculesData(path="nci", least=3, largest=9, elements=("C", "N", "O", "F"), held_out=0.1),
        train=TrainConfig(steps=4000, batch=64, lr=1e-3, ema=0.995, preview_every=2000, warmup=3200),
        sample=SampleConfig(plan="ddpm:100"),
    )


def community() -> Recipe:
    """Graphs of two communities, by DiGress."""
    return Recipe(
        name="community",
        about="graphs of 12 to 20 nodes in two communities, by DiGress",
        expects="squared MMD of degrees, clustering, orbits and spectra 0.96 of that of training against held-out graphs (100 "
        "samples, 14 held out); 78 % in one piece; 20 minutes on one core",
        data=GraphsData(path="data/community_small.json"),
        process=GraphConfig(),
        network=GraphTransformerConfig(width=64, edge_width=32, depth=4),
        objective=DenoisingConfig(),
        train=TrainConfig(steps=3000, batch=32, lr=1e-3, ema=0.995, preview_every=1500, warmup=1600),
        sample=SampleConfig(plan="ddpm:200"),
    )


def community_density() -> Recipe:
    """Graphs of two communities with as many edges as are asked for."""
    return but(
        community(),
        name="community-density",
        about="the graphs of community with their share of edges for a condition (langevin sample --property density=0.3)",
        expects="not trained to its end yet",
        data=GraphsData(path="data/community_small.json", properties=("density",)),
    )


def community_gdss() -> Recipe:
    """Graphs of two communities, by scores of their adjacency."""
    return but(
        community(),
        name="community-gdss",
        about="the graphs of community by scores of their adjacency (GDSS), learned by cross-entropy, a correction and a step by "
        "one evaluation",
        expects="squared MMD of degrees, clustering, orbits and spectra 1.18 of that of training against held-out graphs (70 "
        "samples, 14 held out), 1.39 with dpmpp:20; 79 % in one piece; 11 minutes on one core",
        data=GraphsData(path="data/community_small.json"),
        process=GraphScoresConfig(edges="ve:sigma_min=0.1,sigma_max=5", prediction="logits"),
        network=GraphTransformerConfig(
            width=64, edge_width=32, depth=4, features=("cycles", "pieces", "spectrum", "walks", "size", "powers")
        ),
        sample=SampleConfig(plan="splitting:250:snr=0.1"),
    )


def community_edp() -> Recipe:
    """Graphs of two communities, by annealed Langevin dynamics."""
    return but(
        community_gdss(),
        name="community-edp",
        about="the graphs of community by annealed Langevin dynamics on their adjacency (EDP-GNN)",
        expects="squared MMD of degrees, clustering, orbits and spectra 2.11 of that of training against held-out graphs (70 "
        "samples, 14 held out); 97 % in one piece; 13 minutes on one core",
        process=GraphScoresConfig(edges="ve:sigma_min=0.1,sigma_max=1.6", prediction="logits"),
        sample=SampleConfig(plan="annealed_langevin:6:per_level=100,size=0.05"),
    )


def ego() -> Recipe:
    """Neighbourhoods of papers in a citation network, by DiGress."""
    return but(
        community(),
        name="ego",
        about="the neighbourhoods of papers in Citeseer, 4 to 17 nodes, by DiGress",
        expects="after 900 of 3,000 updates, 2 minutes on one core, squared MMD of degrees, clustering, orbits and spectra 0.67 "
        "of that of training against held-out graphs (200 samples by ddpm:50), 98 % in one piece",
        data=GraphsData(path="data/ego_small.json"),
    )


def enzymes() -> Recipe:
    """Tertiary structures of proteins, by DiGress."""
    return but(
        community(),
        name="enzymes",
        about="tertiary structures of enzymes (BRENDA), 10 to 125 nodes, by DiGress",
        expects="not trained to its end yet",
        data=GraphsData(path="data/enzymes.json"),
        train=TrainConfig(steps=50_000, batch=16, lr=3e-4, ema=0.999, preview_every=5000),
        sample=SampleConfig(plan="ddpm:500"),
    )


def grid() -> Recipe:
    """Grids, by DiGress."""
    return but(
        enzymes(),
        name="grid",
        about="grids of 110 to 361 nodes, by DiGress; needs a GPU",
        expects="not trained to its end yet",
        data=GraphsData(path="data/grid.json"),
        train=TrainConfig(steps=50_000, batch=8, accumulate=4, lr=3e-4, ema=0.999, preview_every=5000),
    )


def planar() -> Recipe:
    """Triangulations of the plane, by DiGress."""
    return but(
        community(),
        name="planar",
        about="200 triangulations of 64 points of the plane, by DiGress",
        expects="not trained to its end yet",
        data=GraphsData(path="planar", valid="planar"),
        network=GraphTransformerConfig(width=64, edge_width=32, depth=6),
        train=TrainConfig(steps=30_000, batch=32, lr=5e-4, ema=0.999, preview_every=5000),
        sample=SampleConfig(plan="ddpm:500"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "qm9-graph": qm9_graph,
    "qm9-graph-logp": qm9_graph_logp,
    "qm9-gdss": qm9_gdss,
    "nci-graph": nci_graph,
    "community": community,
    "community-density": community_density,
    "community-gdss": community_gdss,
    "community-edp": community_edp,
    "ego": ego,
    "enzymes": enzymes,
    "grid": grid,
    "planar": planar,
}
