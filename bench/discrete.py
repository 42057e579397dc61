"""Discrete diffusion: bits per dimension and per character, infilling, samples and their time, beside peers on one network.

    python bench/discrete.py --shakespeare data/tinyshakespeare.txt --out bench/results/discrete.csv \\
        --mdlm CHECKOUT --flow-matching CHECKOUT [--only digits licences shakespeare infill samplers peers seen] [--minutes 20]

Every row is added to the file as it is known, and rows that are there are not made again; training is resumed in --work.
Minutes of one core: digits 7, licences 18, shakespeare 4 x --minutes, infill 4, samplers 6, peers 6 x --minutes / 2, seen 4.

digits        8 x 8, 17 levels, 1,500 to train on: each kernel of D3PM, T = 100, one convolutional network, 700 updates
licences      texts of Debian's common licences as a to z and spaces, MPL-2.0 held out, windows of 128
shakespeare   the recipes of that name at equal size and CPU time: masked, blocks of 16, uniform, autoregressive
infill        the middle half of held-out windows of 128: bits per character given both sides, and given what is before
samplers      33 texts of 128 by each: bits under counted patterns of 5, entropy of letters, seconds
peers         mdlm's and flow_matching's losses beside ours: one network, data, optimiser, CPU time; their samplers beside ours
seen          tokens that are seen learned beside the bound, or not: 150 updates from the same weights, batches and masks
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bayesian_flow import Convolutions, log_marginals
from rows import parsed, read, replace
from torch import Tensor, nn

import langevin as lv
from langevin import kernels
from langevin.core.categorical import Categorical, General
from langevin.evaluate.ngrams import NGrams, entropy_bits
from langevin.objectives import ELBO, Batch, Denoising, Masking
from langevin.tasks.elbo import variational_bound
from langevin.tasks.writing import write

PARTS = ("digits", "licences", "shakespeare", "infill", "samplers", "peers", "seen")
FIELDS = ("part", "model", "measure", "value", "error", "parameters", "updates", "seconds", "note")
LENGTH = 128
HOLE = (torch.arange(LENGTH) >= LENGTH // 4) & (torch.arange(LENGTH) < 3 * LENGTH // 4)
"""The middle half of a window."""


class Table:
    """Rows in a file, each written as it is known."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[tuple[str, str, str], Mapping[str, Any]] = {(r["part"], r["model"], r["measure"]): r for r in read(path)}

    def has(self, part: str, model: str, *measures: str) -> bool:
        return all((part, model, m) in self.known for m in measures)

    def add(self, part: str, model: str, measure: str, value: float, **more: object) -> None:
        row = {"part": part, "model": model, "measure": measure, "value": f"{value:.4f}", **more}
        print(row, flush=True)
        self.known[part, model, measure] = row
        if self.path is not None:
            replace(self.path, FIELDS, [row], FIELDS[:3])


def trained(model: lv.Denoiser, data: Any, objective: Any, out: Path, **settings: Any) -> float:
    """Train, or go on with what --work holds; CPU seconds in all, but for what a kill lost."""
    kept, begun = out.with_suffix(".seconds"), time.process_time()
    before = float(kept.read_text()) if kept.exists() else 0.0
    resume = (out / "checkpoints").exists()
    try:
        lv.fit(model, data, objective=objective, out=out, resume=resume, progress=False, **settings)
    finally:
        if not (resume and before and time.process_time() - begun < 5):  # what was whole is only read
            kept.write_text(str(before + time.process_time() - begun))
    return float(kept.read_text())


# digits


class Pixels(nn.Module):
    """Categories of pixels as one-hot vectors for `Convolutions`."""

    def __init__(self, states: int, bias: Tensor) -> None:
        super().__init__()
        self.net, self.states = Convolutions(states, 17, bias), states

    def forward(self, z: Tensor, level: Tensor, cond: object = None, mask: object = None) -> Tensor:
        return self.net(nn.functional.one_hot(z, self.states).float(), level)


def digit_processes(x: Tensor) -> dict[str, Categorical]:
    keep, angle = lv.schedules.keep_linear(), torch.linspace(0, math.pi / 2, 17, dtype=torch.float64)
    near = General(kernels.nearest_neighbour_rates(torch.stack([angle.cos(), angle.sin()], 1), 4))
    share = torch.bincount(x.flatten(), minlength=17).double() / x.numel()
    return {
        "absorbing": Categorical(17, keep, "mask"),
        "uniform": Categorical(17, keep),
        "marginal": Categorical(17, keep, share),
        "gaussian": Categorical(17, keep, kernel=kernels.discretised_gaussian(17, 100)),
        "neighbours": Categorical(17, lv.schedules.mutual_information(share, kernel=near), kernel=near),
        "uniform, by flow matching": Categorical(17, keep),
    }


def digits(table: Table, asked: argparse.Namespace) -> None:
    train, test = (lv.data.digits(s, categories=17) for s in ("train", "test"))
    x, held = (s.batch(torch.arange(len(s))).x for s in (train, test))
    assert isinstance(x, Tensor) and isinstance(held, Tensor)
    if not table.has("digits", "marginals of each pixel", "bits/dim"):
        marginal = -log_marginals(x, 17).gather(-1, held.movedim(0, -1)).mean() / math.log(2)
        table.add("digits", "marginals of each pixel", "bits/dim", float(marginal))
    for name, process in digit_processes(x).items():
        if table.has("digits", name, "bits/dim of 100 steps"):
            continue
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = lv.Denoiser(Pixels(process.states, log_marginals(x, 17)), process, "logits", shape=(1, 8, 8))
        objective: Any = ELBO(100, cross_entropy=0.5)
        if process.masked:
            objective = Masking(seen=0)
        elif name in ("uniform", "marginal", "uniform, by flow matching"):
            objective = Denoising("flow" if "flow" in name else "elbo")
        out, updates = asked.work / f"digits-{name}", round(700 * asked.share)
        spent = trained(model, lv.data.Arrays(x), objective, out, steps=updates, batch=96, lr=2e-3, warmup=4800, ema=0.99)
        size, kind = sum(p.numel() for p in model.parameters()), type(objective).__name__
        head: dict[str, object] = {"parameters": size, "updates": updates, "seconds": f"{spent:.0f}", "note": kind}
        with torch.no_grad():
            rounds = torch.stack([ELBO(100)(model, Batch(held), lv.Noise.of(50 + r, len(held))).total for r in range(40)])
        prior = float(process.prior_kl(held).mean())
        bits = (rounds + prior) / math.log(2)
        table.add("digits", name, "bits/dim of 100 steps", float(bits.mean()), error=f"{float(bits.std()) / 40**0.5:.4f}", **head)
        if name in ("absorbing", "uniform", "marginal"):
            found, how = variational_bound(model, Batch(held), draws=40)
            bits = -found.nats / 64 / math.log(2)
            drawn = float(found.error.square().mean() / len(held)) ** 0.5 / 64 / math.log(2)
            table.add("digits", name, "bits/dim in continuous time", float(bits.mean()), error=f"{drawn:.4f}", note=how)


# licences


class TokenNorm(nn.LayerNorm):
    """Of the features of each token, (B, D, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Dilated(nn.Module):
    """Residual convolutions over text with gaps of 1, 2, 4, ...: they see 127 tokens."""

    def __init__(self, states: int, categories: int, width: int = 96, depth: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(states, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(TokenNorm(width), nn.Conv1d(width, 2 * width, 3, padding=2**k, dilation=2**k), nn.GELU(),
                          nn.Conv1d(2 * width, width, 1)) for k in range(depth))  # fmt: skip
        self.leave = nn.Sequential(TokenNorm(width), nn.Conv1d(width, categories, 1))
        nn.init.zeros_(self.leave[1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, z: Tensor, level: Tensor, cond: object = None, mask: object = None) -> Tensor:
        h = self.embed(z).transpose(1, 2)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h).transpose(1, 2)


def licences(table: Table, asked: argparse.Namespace) -> None:
    files = sorted(f for f in asked.licences.iterdir() if f.is_file() and not f.is_symlink())
    train = lv.data.Text(
        [f for f in files if f.name != "MPL-2.0"], length=LENGTH, split="all", held_out=0.0, stride=1, clean="plain"
    )
    test = lv.data.Text([f for f in files if f.name == "MPL-2.0"], train.alphabet, LENGTH, "all", 0.0, clean="plain")
    k, updates = train.categories, round(2400 * asked.share)
    counted(table, "licences", train, test, 3)
    for name, objective in (("masked, dilated convolutions", Masking(seen=0)), ("masked, by levels", Denoising("elbo"))):
        if table.has("licences", name, "bits/character"):
            continue
        with torch.random.fork_rng():
            torch.manual_seed(0)
            process = Categorical(k, lv.schedules.keep_linear(), "mask")
            model = lv.Denoiser(Dilated(k + 1, k), process, "subs", shape=(LENGTH,))
        out = asked.work / f"licences-{type(objective).__name__}"
        said = {"optimiser": "muon", "lr": 0.02, "schedule": "cosine"}  # AdamW at its best rate learns half as fast here
        spent = trained(model, train, objective, out, steps=updates, batch=32, warmup=3200, ema=0.99, **said)
        note = f"{type(objective).__name__}, Muon"
        per_character(table, asked, "licences", name, model, test, updates=updates, seconds=f"{spent:.0f}", note=note)


def per_character(
    table: Table, asked: argparse.Namespace, part: str, name: str, model: lv.Denoiser, test: Any, **more: object
) -> None:
    """The bound of held-out windows."""
    batch = test.batch(torch.arange(min(len(test), asked.windows)))
    found, _ = variational_bound(model, Batch(batch.x), draws=asked.draws)
    scale = 1 / found.elements / math.log(2)
    error = float(found.nats.std()) * scale / len(found.nats) ** 0.5
    table.add(part, name, "bits/character", -float(found.nats.mean()) * scale, error=f"{error:.4f}",
              parameters=sum(p.numel() for p in model.parameters()), **more)  # fmt: skip


def counted(table: Table, part: str, train: Any, test: Any, order: int) -> NGrams:
    made = NGrams(np.asarray(train.tokens), train.categories, order)
    name = f"counted patterns of {order}"
    if not table.has(part, name, "bits/character"):
        table.add(part, name, "bits/character", made.bits([np.asarray(test.tokens)]), note="Witten-Bell, the whole held-out text")
    return made


# shakespeare

FORMS = ("shakespeare", "shakespeare-blocks", "shakespeare-uniform", "shakespeare-autoregressive")


def shakespeare_recipe(name: str, asked: argparse.Namespace) -> Any:
    made = lv.recipe(name)
    data = made.data.model_copy(update={"path": (str(asked.shakespeare),), "length": LENGTH})
    return made.model_copy(update={"data": data})


def network_of(name: str, asked: argparse.Namespace) -> tuple[lv.Denoiser, Any, Any, Any]:
    from langevin.recipes.build import build

    run = build(shakespeare_recipe(name, asked))
    return run.denoiser, run.train, run.test, run.objective


def updates_in(minutes: float, model: lv.Denoiser, data: Any, objective: Any, **settings: Any) -> int:
    """How many updates take so many minutes of CPU, by 12 of them."""
    copy = {name: value.clone() for name, value in model.state_dict().items()}
    lv.fit(model, data, objective=objective, progress=False, steps=2, **settings)
    begun = time.process_time()
    lv.fit(model, data, objective=objective, progress=False, steps=10, **settings)
    each = (time.process_time() - begun) / 10
    model.load_state_dict(copy)
    model.train().requires_grad_(True)
    return max(20, round(60 * minutes / each))


SETTINGS: dict[str, Any] = {"batch": 32, "optimiser": "muon", "lr": 5e-3, "ema": 0.99, "weight_decay": 0.05, "warmup": 3200,
                            "precision": "bfloat16"}  # fmt: skip


def ready(
    name: str,
    asked: argparse.Namespace,
    minutes: float | None = None,
    objective: Callable[[lv.Denoiser], Any] | None = None,
    form: str | None = None,
) -> tuple[lv.Denoiser, Any, Any, int, float]:
    """A model trained for so many minutes of CPU, the data, its updates and CPU seconds."""
    model, train, test, usual = network_of(form or name, asked)
    learned = usual if objective is None else objective(model)
    out = asked.work / name
    note = out.with_suffix(".updates")
    if not note.exists():
        asked.work.mkdir(parents=True, exist_ok=True)
        note.write_text(str(updates_in(minutes or asked.minutes, model, train, learned, **SETTINGS)))
    steps = int(note.read_text())
    return model, train, test, steps, trained(model, train, learned, out, steps=steps, **SETTINGS)


def shakespeare(table: Table, asked: argparse.Namespace) -> None:
    for name in FORMS:
        if not table.has("shakespeare", name, "bits/character"):
            model, train, test, steps, spent = ready(name, asked)
            counted(table, "shakespeare", train, test, 5)
            note = "the likelihood itself" if name.endswith("autoregressive") else "a bound"
            per_character(table, asked, "shakespeare", name, model, test, updates=steps, seconds=f"{spent:.0f}", note=note)


def bits_of_hole(model: lv.Denoiser, x: Tensor, hole: Tensor, seen: int, draws: int = 16) -> Tensor:
    """Bits per token (B,) of the tokens in `hole` (L,) given all others of the first `seen`, by counting masks among them."""
    leaf, n, out = model.process, int(hole.sum()), []
    assert isinstance(leaf, Categorical)
    for k in range(draws):
        number = int((k + 0.5) / draws * n) + 1
        rank = lv.Noise.of(7 + k, len(x)).uniform((n,)).argsort(1).argsort(1)
        chosen = torch.zeros_like(x, dtype=torch.bool)
        chosen[:, hole] = rank < number
        z = torch.where(chosen, leaf.categories, x)[:, :seen]
        with torch.no_grad():
            said = torch.log_softmax(model.net(z, torch.full((len(z),), 500.0)), -1)
        surprise = -said.gather(-1, x[:, :seen, None])[..., 0]
        out.append((surprise * chosen[:, :seen]).sum(1) / number / math.log(2))
    return torch.stack(out).mean(0)


def infill(table: Table, asked: argparse.Namespace) -> None:
    if table.has("infill", "autoregressive, given what is before", "bits/character"):
        return
    masked, _, test, _, _ = ready("shakespeare", asked)
    after, _, _, _, _ = ready("shakespeare-autoregressive", asked)
    x = test.batch(torch.arange(0, min(len(test), asked.windows))).x
    hole, end = HOLE, 3 * LENGTH // 4
    rows = {
        "masked, given both sides": bits_of_hole(masked, x, hole, LENGTH),
        "masked, given what is before": bits_of_hole(masked, x, hole, end),
    }
    with torch.no_grad():
        said = torch.log_softmax(after.net(x, torch.zeros(len(x))), -1).gather(-1, x[..., None])[..., 0]
    rows["autoregressive, given what is before"] = -said[:, hole].mean(1) / math.log(2)
    guess = torch.bincount(x.flatten(), minlength=masked.process.categories).argmax()  # pyright: ignore
    table.add("infill", "the commonest letter", "share of letters right", float((x[:, hole] == guess).float().mean()))
    for name, model in (("masked, given both sides", masked), ("autoregressive, given what is before", after)):
        text = x[: asked.windows // 4]
        if "both" in name:
            known = ~hole.expand_as(text)
            made = lv.sample(model, lv.plans.confidence(32, temperature=0.0), len(text), given=text, known=known)
        else:
            from langevin.guidance import Sharpened

            made = write(model, lv.plans.ddpm(1), len(text), end, prefix=text[:, : LENGTH // 4], guidance=Sharpened(0.01))
        right = (made[:, :end] == text[:, :end])[:, hole[:end]].float().mean(1)
        spread = float(right.std()) / len(right) ** 0.5
        table.add("infill", name, "share of letters right", float(right.mean()), error=f"{spread:.4f}", note="greedy")
    for name, bits in rows.items():
        table.add("infill", name, "bits/character", float(bits.mean()), error=f"{float(bits.std()) / len(bits) ** 0.5:.4f}")


# samplers and peers


def judged(
    table: Table, part: str, name: str, draw: Callable[[], Tensor], grams: NGrams, categories: int, note: str = ""
) -> None:
    if table.has(part, name, "bits under counted patterns", "entropy of letters"):
        return
    begun = time.process_time()
    x = draw().numpy()
    seconds = f"{time.process_time() - begun:.1f}"
    table.add(part, name, "bits under counted patterns", grams.bits(list(x)), seconds=seconds, note=note)
    table.add(part, name, "entropy of letters", entropy_bits(x, categories), note=f"{x.size} letters")


def samplers(table: Table, asked: argparse.Namespace) -> None:
    masked, train, test, _, _ = ready("shakespeare", asked)
    uniform, *_ = ready("shakespeare-uniform", asked)
    blocks, *_ = ready("shakespeare-blocks", asked)
    after, *_ = ready("shakespeare-autoregressive", asked)
    grams, k, n, plans = counted(table, "shakespeare", train, test, 5), train.categories, asked.windows // 12, lv.plans
    held = test.batch(torch.arange(100)).x
    judged(table, "samplers", "held-out text", lambda: held, grams, k)
    for steps in (16, 128):
        for plan in (plans.ddpm(steps), plans.remask(steps, 0.3), plans.flow_jumps(steps, 0.5), plans.confidence(steps),
                     plans.confidence(steps, "entropy", 0.8)):  # fmt: skip
            judged(table, "samplers", f"masked, {plan.name}", lambda p=plan: lv.sample(masked, p, n, seed=1), grams, k)
        for plan in (plans.ddpm(steps), plans.flow_jumps(steps, 0.5), plans.tau_leaping(steps)):
            judged(table, "samplers", f"uniform, {plan.name}", lambda p=plan: lv.sample(uniform, p, n, seed=1), grams, k)
    judged(
        table, "samplers", "masked, first_hitting", lambda: lv.sample(masked, plans.first_hitting(LENGTH), n, seed=1), grams, k
    )
    for steps in (4, 16):
        judged(table, "samplers", f"blocks of 16, ddpm({steps}) each",
               lambda s=steps: write(blocks, plans.ddpm(s), n, LENGTH, seed=1), grams, k)  # fmt: skip
    judged(table, "samplers", "autoregressive", lambda: write(after, plans.ddpm(1), n, LENGTH, seed=1), grams, k)


@torch.no_grad()
def by_flow(model: lv.Denoiser, batch: Batch, draws: int) -> Tensor:
    """Bits per token (B,) by the generalised KL of discrete flow matching."""
    loss = [Denoising("flow")(model, batch, lv.Noise.of(3, len(batch.x)).at(f"draw {k}")).each[""] for k in range(draws)]
    return torch.stack(loss).double().mean(0) / math.log(2)


def peers(table: Table, asked: argparse.Namespace) -> None:
    from discrete_peers import MDLM, FlowMatching

    _, data, test, _ = network_of("shakespeare", asked)
    half, kept, grams = asked.minutes / 2, {}, counted(table, "shakespeare", data, test, 5)
    k = lv.data.Text(asked.shakespeare, length=LENGTH).categories
    every: dict[str, tuple[str, Callable[[lv.Denoiser], Any]]] = {
        "masked, by counts (ours)": ("shakespeare", lambda m: Masking(seen=0)),
        "masked, by counts, seen as well (ours)": ("shakespeare", lambda m: Masking(seen=1)),
        "masked, by levels (ours)": ("shakespeare", lambda m: Denoising("elbo")),
        "uniform, score entropy (ours)": ("shakespeare-uniform", lambda m: Denoising("elbo")),
    }
    if asked.mdlm:
        every["masked, mdlm"] = ("shakespeare", lambda m: MDLM(asked.mdlm, m.net, k, LENGTH))
    if asked.flow_matching:
        every["masked, flow_matching"] = ("shakespeare", lambda m: FlowMatching(asked.flow_matching, m.net, k, True))
        every["uniform, flow_matching"] = ("shakespeare-uniform", lambda m: FlowMatching(asked.flow_matching, m.net, k, False))
    for name, (form, objective) in every.items():
        model, _, test, steps, spent = ready(f"peer-{name.replace(', ', '-').replace(' ', '-')}", asked, half, objective, form)
        kept[name] = model
        if not table.has("peers", name, "bits/character"):
            more = {"updates": steps, "seconds": f"{spent:.0f}"}
            if name == "uniform, flow_matching":  # its network says the belief, and ours what the others say
                model = lv.Denoiser(model.net, model.process, "posterior", model.shape)
                table.add("peers", name, "bits/character", math.nan, note="a bound of another process: see the next row", **more)
            else:
                per_character(table, asked, "peers", name, model, test, **more)
            if form == "shakespeare-uniform":
                found = by_flow(model, Batch(test.batch(torch.arange(min(len(test), asked.windows))).x), asked.draws)
                spread = f"{float(found.std()) / len(found) ** 0.5:.4f}"
                table.add("peers", name, "bits/character by the bound of flow matching", float(found.mean()), error=spread)
    ours, n = kept["masked, by counts (ours)"], asked.windows // 12
    if not table.has("peers", "one draw by levels", "variance of the loss"):
        held = Batch(test.batch(torch.arange(min(len(test), asked.windows))).x)
        for what, objective in (("counts", Masking(seen=0)), ("levels", Denoising("elbo"))):
            with torch.no_grad():
                each = torch.cat([objective(ours, held, lv.Noise.of(r, len(held.x))).each[""] for r in range(4)])
            table.add(
                "peers", f"one draw by {what}", "variance of the loss", float(each.double().var()), note="of windows, in nats"
            )
    for steps in (16, 128):
        judged(table, "peers", f"ddpm({steps}), ours", lambda s=steps: lv.sample(ours, lv.plans.ddpm(s), n, seed=1), grams, k,
               "the model by counts")  # fmt: skip
        if asked.mdlm:
            theirs = MDLM(asked.mdlm, ours.net, k, LENGTH)
            judged(table, "peers", f"ddpm_cache({steps}), mdlm", lambda s=steps, t=theirs: t.sample(n, s, 1), grams, k,
                   "the same model")  # fmt: skip
        for c in (0.0, 0.5) if asked.flow_matching else ():
            solver = FlowMatching(asked.flow_matching, ours.net, k, True)
            judged(table, "peers", f"flow_jumps({steps}, {c:g}), ours",
                   lambda s=steps, c=c: lv.sample(ours, lv.plans.flow_jumps(s, c), n, seed=1), grams, k,
                   "the same model")  # fmt: skip
            judged(table, "peers", f"Euler({steps}, {c:g}), flow_matching",
                   lambda s=steps, c=c, t=solver: t.sample(n, LENGTH, s, c, 1), grams, k, "the same model")  # fmt: skip


def seen(table: Table, asked: argparse.Namespace) -> None:
    """The same windows are judged under the same masks, so that the error of the difference is that of pairs."""
    kept: list[Tensor] = []
    for weight in (0.0, 1.0):
        model, train, test, _ = network_of("shakespeare", asked)
        lv.fit(model, train, objective=Masking(seen=weight), progress=False, steps=150, **SETTINGS)
        found, _ = variational_bound(model, Batch(test.batch(torch.arange(192)).x), draws=12)
        kept.append(-found.nats / found.elements / math.log(2))
    for name, bits in (("the bound alone", kept[0]), ("seen tokens as well", kept[1]), ("difference", kept[0] - kept[1])):
        spread = float(bits.std()) / len(bits) ** 0.5
        table.add("seen", name, "bits/character", float(bits.mean()), error=f"{spread:.4f}", updates=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-discrete"))
    parser.add_argument("--shakespeare", type=Path, default=Path("data/tinyshakespeare.txt"))
    parser.add_argument("--licences", type=Path, default=Path("/usr/share/common-licenses"))
    parser.add_argument("--mdlm", type=Path)
    parser.add_argument("--flow-matching", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU, for each model of Shakespeare")
    parser.add_argument("--windows", type=int, default=400, help="held out; a twelfth as many samples of each sampler")
    parser.add_argument("--share", type=float, default=1.0, help="of the updates of digits and licences, for a trial")
    parser.add_argument("--draws", type=int, default=32, help="of a bound, for each window")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    asked = parsed(parser)
    table = Table(asked.out)
    for part in asked.only:
        globals()[part](table, asked)


if __name__ == "__main__":
    main()
