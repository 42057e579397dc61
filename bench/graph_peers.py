"""Graphs beside DiGress (2209.14734): the authors' loss, likelihood and sampler, from a checkout, around the same network.

    python bench/graph_peers.py --digress CHECKOUT --data data/community_small.json --out bench/results/discrete.csv \\
        [--minutes 20]

Rows are added as they are known and not made again; training is resumed in --work. Three models are trained on the recipe
`community`'s graphs by its optimiser for the same minutes of one core: by our loss; the same network by theirs; and their own
network (its features, its loss) of the same widths. Of each: the bound in nats for a held-out graph, under one process, with the
number of nodes given; what their validation counts for the same model and graphs; samples by both samplers. Then both samplers
again from the first model alone, with few steps: the MMD ratio, the share in one piece, edges, seconds for a graph. Beside the
minutes of training it takes about 25 of one core.

Their module is read where it lies, and empty modules stand for the frameworks that it asks for and these parts do not use. What
differs between the two codes:

- noise: theirs has T + 1 betas, so that their step k is our level (k + 1) / (T + 1) of `keep_cosine(0.008, 2)`, which all models
  here learn on; their chain ends at its step 0, one small step of noise short of data, and ours at data. Their levels are drawn
  one by one from all T + 1, ours in continuous time and spread evenly over the batch.
- loss: theirs is the mean over all edges of a batch, so that large graphs count more; ours is the mean of each graph's mean.
  Theirs weighs edges 5 times, beside nodes: there is one type of node here, and it is 1.
- answer: their network says the logits of the belief; ours says what other elements tell, and what the state itself tells is
  added by Bayes' rule (`prediction="logits"`).
- their likelihood weighs beliefs as a sampler would that is not theirs (the posterior times q(z_s, z_t | x) in place of
  q(z_s | z_t, x)), and counts each edge twice, as two entries of a matrix; both stay as they are.
- network: theirs pools over padding, drops 10 % out, takes eigenvectors as the solver gives them, and counts cycles of five
  wrongly where there are triangles; ours adds walks, and has none of these. Theirs has more weights: the feed-forward of its
  global features is 2,048 wide whatever its settings say.
"""

import argparse
import contextlib
import io
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from discrete import Table, trained, updates_in
from rows import parsed
from torch import Tensor, nn

import langevin as lv
from langevin.data.graphs import unpadded
from langevin.graphs import metrics
from langevin.objectives import Loss, Objective
from langevin.recipes.build import Run, build
from langevin.recipes.domains.graphs import adjacency
from langevin.tasks.elbo import variational_bound

space = types.SimpleNamespace


class Metric(nn.Module):
    """What their losses need of torchmetrics: the value of one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, Tensor] = {}

    def add_state(self, name: str, default: Tensor, dist_reduce_fx: str) -> None:
        self.begun[name] = default

    def forward(self, *given: Any) -> Any:
        for name, value in self.begun.items():
            setattr(self, name, value.clone())
        self.update(*given)  # pyright: ignore[reportCallIssue]
        return self.compute()  # pyright: ignore[reportCallIssue]


class Module:
    """What their module needs of Lightning."""

    training, device = True, torch.device("cpu")

    def save_hyperparameters(self, ignore: Any) -> None: ...


def stand_in(name: str, **told: Any) -> None:
    module = types.ModuleType(name)
    for key, value in told.items():
        setattr(module, key, value)
    sys.modules.setdefault(name, module)


def diffusion(folder: Path, steps: int, share: Tensor, largest: int, model: Any = None) -> Any:
    """Their `DiscreteDenoisingDiffusion`, by their own constructor: around `model`, or with a network and features of theirs."""
    stand_in("pytorch_lightning", LightningModule=Module)
    stand_in("torchmetrics", Metric=Metric, MeanSquaredError=Metric, MetricCollection=Metric)
    stand_in("wandb", run=None)
    stand_in("omegaconf", OmegaConf=None, open_dict=None)
    stand_in("torch_geometric")
    stand_in("torch_geometric.utils", to_dense_adj=None, to_dense_batch=None)
    sys.modules["torch_geometric"].utils = sys.modules["torch_geometric.utils"]  # pyright: ignore[reportAttributeAccessIssue]
    for path in (folder, folder / "src"):
        if str(path) not in sys.path:
            sys.path.append(str(path))
    from diffusion.extra_features import DummyExtraFeatures, ExtraFeatures  # pyright: ignore[reportMissingImports]
    from diffusion_model_discrete import DiscreteDenoisingDiffusion  # pyright: ignore[reportMissingImports]

    own = model is None
    widths = {"dx": 64, "de": 32, "dy": 64, "n_head": 8, "dim_ffX": 128, "dim_ffE": 64, "dim_ffy": 128}
    kind = space(diffusion_steps=steps, n_layers=4, hidden_mlp_dims={"X": 64, "E": 32, "y": 64}, hidden_dims=widths,
                 lambda_train=[1, 0], diffusion_noise_schedule="cosine", transition="marginal")  # fmt: skip
    settings = space(general=space(name="", log_every_steps=0, number_chain_steps=1), model=kind)
    enter = {"X": 1 + 6 * own, "E": 2, "y": 1 + 11 * own}  # their features: 6 of nodes, 11 of the whole graph, and the level
    sizes = space(log_prob=lambda count: torch.zeros(len(count)))  # the number of nodes is given
    known = space(input_dims=enter, output_dims={"X": 1, "E": 2, "y": 0}, nodes_dist=sizes, node_types=torch.ones(1),
                  edge_types=share, max_n_nodes=largest)  # fmt: skip
    nothing = DummyExtraFeatures()
    features = ExtraFeatures("all", known) if own else nothing
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):  # it tells its marginals, and has layers of no width
        warnings.simplefilter("ignore")
        made = DiscreteDenoisingDiffusion(settings, known, None, None, None, features, nothing)
    if not own:
        made.model = model
    return made


def noisy(z: Tensor, mask: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Edges (B, N, N) as their network's state."""
    pairs = mask[:, :, None] & mask[:, None] & ~torch.eye(z.shape[1], dtype=torch.bool)
    e = F.one_hot(z, 2).float() * pairs[..., None]
    return {"X_t": mask[..., None].float(), "E_t": e, "y_t": e.new_zeros(len(z), 0), "t": t, "node_mask": mask}


class Network(nn.Module):
    """Their graph transformer with their features, as a network of ours."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs, self.inner = theirs, theirs.model

    def forward(self, z: Any, level: Any, cond: Any = None, mask: Tensor | None = None) -> dict[str, Tensor]:
        edges, steps = z["edges"], self.theirs.T
        assert mask is not None
        t = level["edges"].reshape(-1, 1).float().expand(len(edges), 1)
        t = ((t / 1000 * (steps + 1) - 1) / steps).clamp(min=0)  # levels come times 1000
        state = noisy(edges, mask, t)
        self.theirs.model = self.inner  # of this copy
        return {"edges": self.theirs.forward(state, self.theirs.compute_extra_data(state), mask).E}


class DiGress(Objective):
    """Their training loss, levels and all, and their likelihood and sampler, of a denoiser of ours: its beliefs are what their
    network would say."""

    def __init__(self, folder: Path, steps: int, share: Tensor, largest: int) -> None:
        super().__init__()
        self.theirs = diffusion(folder, steps, share, largest, self._said)
        self.asked: list[lv.Denoiser] = []

    def _said(self, x: Tensor, e: Tensor, y: Tensor, mask: Tensor) -> Any:
        level = (y.double() * self.theirs.T + 1)[..., None] / (self.theirs.T + 1)
        belief = self.asked[-1]({"edges": e.argmax(-1)}, {"edges": level}, None, mask)["edges"]
        pairs = (mask[:, :, None] & mask[:, None])[..., None]
        return space(X=torch.zeros_like(x), E=torch.where(pairs, belief.log_probs.float(), 0.0), y=y[:, :0])

    def _noised(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        state = noisy(batch.x["edges"], batch.mask, torch.zeros(0))
        drawn = self.theirs.apply_noise(state["X_t"], state["E_t"], state["y_t"], batch.mask)
        return state, drawn, self.theirs.forward(drawn, self.theirs.compute_extra_data(drawn), batch.mask)

    def forward(self, model: lv.Denoiser, batch: Any, noise: lv.Noise) -> Loss:
        self.asked, self.theirs.training = [model], True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.ids[0]))
            clean, _, said = self._noised(batch)
        loss = self.theirs.train_loss(said.X, said.E, said.y, clean["X_t"], clean["E_t"], clean["y_t"], log=False)
        return Loss(loss, {"loss": loss.detach()})

    @torch.no_grad()
    def nats(self, model: lv.Denoiser, batch: Any, draws: int) -> Tensor:
        """(draws,) their validation likelihood, mean over the batch."""
        self.asked, self.theirs.training = [model], False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = []
            for _ in range(draws):
                clean, drawn, said = self._noised(batch)
                args = (clean["X_t"], clean["E_t"], clean["y_t"], batch.mask)
                found.append(self.theirs.compute_val_loss(said, drawn, *args).mean())
        return torch.stack(found)

    def sample(self, model: lv.Denoiser, mask: Tensor, seed: int) -> list[Tensor]:
        """Adjacencies."""
        self.asked, self.theirs.training = [model], False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [edges for _, edges in self.theirs.sample_batch(0, len(mask), 0, 1, 0, mask.sum(1))]


class Bench:
    def __init__(self, asked: argparse.Namespace) -> None:
        made = lv.recipe("community")
        data, process = {"path": str(asked.data)}, {"schedule": "keep_cosine:offset=0.008,power=2"}
        self.recipe = made.model_copy(update={"data": made.data.model_copy(update=data),
                                              "process": made.process.model_copy(update=process)})  # fmt: skip
        self.asked, self.table = asked, Table(asked.out)
        first = build(self.recipe)
        self.train, self.test, self.process, self.usual = first.train, first.test, first.denoiser.process, first.objective
        self.every = [[adjacency(s[k]) for k in range(len(s))] for s in (self.train, self.test)]

    def theirs(self, steps: int) -> DiGress:
        return DiGress(self.asked.digress, steps, self.train.marginals()["edges"].float(), self.train.size)

    def models(self) -> dict[str, tuple[Callable[[], lv.Denoiser], Any]]:
        def fresh() -> Run:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return build(self.recipe)

        def believing(net: nn.Module) -> lv.Denoiser:
            return lv.Denoiser(net, self.process, "posterior", shape=self.train.shape)

        def own() -> lv.Denoiser:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                share = self.train.marginals()["edges"].float()
                return believing(Network(diffusion(self.asked.digress, self.asked.steps, share, self.train.size)))

        loss = self.theirs(self.asked.steps)
        return {"our network and loss": (lambda: fresh().denoiser, self.usual),
                "our network, DiGress's loss": (lambda: believing(fresh().denoiser.net), loss),
                "DiGress's network and loss": (own, loss)}  # fmt: skip

    def trained(self, name: str, make: Callable[[], lv.Denoiser], objective: Any) -> tuple[lv.Denoiser, dict[str, object]]:
        asked, model, train = self.asked, make(), self.recipe.train
        settings = {"batch": train.batch, "lr": train.lr, "ema": train.ema, "warmup": train.warmup}
        out = asked.work / name.replace(", ", "-").replace(" ", "-").replace("'", "")
        note = out.with_suffix(".updates")
        if not note.exists():
            asked.work.mkdir(parents=True, exist_ok=True)
            note.write_text(str(updates_in(asked.minutes, make(), self.train, objective, **settings)))
        steps = int(note.read_text())
        spent = trained(model, self.train, objective, out, steps=steps, **settings)
        size = sum(p.numel() for p in model.parameters())
        return model, {"parameters": size, "updates": steps, "seconds": f"{spent:.0f}"}

    def bounds(self, model: lv.Denoiser) -> Tensor:
        batch = self.test.batch(torch.arange(len(self.test)))
        return -variational_bound(model, batch, draws=self.asked.draws)[0].nats

    def judged(self, name: str, draw: Callable[[Tensor, int], list[Tensor]], note: str) -> None:
        """Samples in sets as large as the training set, of numbers of nodes that both samplers are given."""
        if self.table.has("community", name, "MMD ratio", "share in one piece", "edges of a graph"):
            return
        ratios, whole, edges, spent = [], [], [], 0.0
        for k in range(self.asked.sets):
            mask = self.train.draw_mask(lv.Noise.of(100 + k, len(self.train)))
            begun = time.process_time()
            graphs = draw(mask, 100 + k)
            spent += time.process_time() - begun
            ratios.append(metrics.mean_ratio(metrics.compare(graphs, self.every[1], self.every[0])))
            whole += [float(metrics.connected(g)) for g in graphs]
            edges += [float(g.sum()) / 2 for g in graphs]
        note = f"{note}; {len(whole)} graphs, {spent / len(whole):.3g} s of one core each"
        for what, found in (("MMD ratio", ratios), ("share in one piece", whole), ("edges of a graph", edges)):
            values = torch.tensor(found, dtype=torch.float64)
            error = f"{float(values.std()) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
            self.table.add("community", name, what, float(values.mean()), error=error, seconds=f"{spent:.1f}", note=note)

    def samplers(self, model: lv.Denoiser, steps: int, name: str) -> None:
        def ours(mask: Tensor, seed: int) -> list[Tensor]:
            x = lv.sample(model, lv.plans.ddpm(steps), len(mask), mask=mask, seed=seed)
            return [adjacency(g) for g in unpadded(x, mask)]

        self.judged(f"{name}, by ddpm({steps})", ours, "our sampler")
        theirs = self.theirs(steps)
        self.judged(f"{name}, by sample_batch({steps})", lambda m, s: theirs.sample(model, m, s), "DiGress's sampler")

    def run(self) -> None:
        first: Tensor | None = None
        for name, (make, objective) in self.models().items():
            model, told = self.trained(name, make, objective)
            if first is None or not self.table.has("community", name, "nats/graph"):
                nats = self.bounds(model)
                first = nats if first is None else first
                for what, found in (("nats/graph", nats), ("nats/graph beyond our loss's", nats - first)):
                    if not self.table.has("community", name, what):
                        error = f"{float(found.std()) / len(found) ** 0.5:.4f}"
                        self.table.add("community", name, what, float(found.mean()), error=error, **told)
            what = "nats/graph, as DiGress counts them"
            if not self.table.has("community", name, what):
                batch = self.test.batch(torch.arange(len(self.test)))
                found = self.theirs(self.asked.steps).nats(model, batch, self.asked.draws)
                error = f"{float(found.std()) / len(found) ** 0.5:.4f}"
                self.table.add("community", name, what, float(found.mean()), error=error, note="each edge twice; error of draws")
            for steps in (self.asked.steps, *((50,) if objective is self.usual and self.asked.steps > 50 else ())):
                self.samplers(model, steps, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digress", type=Path, required=True, help="a checkout, whose src/ is read")
    parser.add_argument("--data", type=Path, default=Path("data/community_small.json"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-graph-peers"))
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU, for each of three models")
    parser.add_argument("--steps", type=int, default=200, help="T of their chain, and of samplers")
    parser.add_argument("--draws", type=int, default=100, help="of a bound, for each graph")
    parser.add_argument("--sets", type=int, default=4, help="of samples, each as large as the training set")
    Bench(parsed(parser)).run()


if __name__ == "__main__":
    main()
