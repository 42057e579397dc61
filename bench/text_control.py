"""Diffusion-LM on restaurant descriptions (E2E): rounding, and control by gradient beside sampling without it, in one run.

    python bench/text_control.py shared/data --train 2400 --out bench/results/text_control.csv

One model of words as points (pieces of words by byte pairs, 16 numbers each), trained without any condition; then samples with
and without control: a word that must be there, a number of tokens, an attribute asked of a classifier of noisy states that is
trained here on the attributes that come with each text, and the middle of a text given its ends. Texts of one set of attributes
are all on one side of the split. Success is read off the text itself: the word is in it; the tokens are so many; "river" is in
the text for area riverside.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import langevin as lv
from langevin.embedded import Embedded
from langevin.guidance import Clamp, Control
from langevin.networks import JointTransformer, VectorPort
from langevin.tasks import bleu, least_risk

FIELDS = ("measure", "controlled", "uncontrolled", "count", "note")
LENGTH, WIDTH, STD = 48, 16, 0.1565


def model(categories: int) -> lv.Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = JointTransformer({"": VectorPort(128, WIDTH, LENGTH)}, 128, 4, 4)
    table = lv.Noise.of(0, categories).normal((WIDTH,))
    return lv.Denoiser(net, Embedded(table, lv.schedules.sqrt(), STD, learned=True), "x0", shape=(LENGTH, WIDTH))


class Classifier(nn.Module):
    """Whether the area is the riverside, told from noisy states."""

    def __init__(self) -> None:
        super().__init__()
        self.net = JointTransformer({"": VectorPort(64, WIDTH, LENGTH, 8)}, 64, 2, 4)
        self.last = nn.Linear(8, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.last(self.net(z, 1000 * t).amax(1))[:, 0]


def trained_classifier(process: Embedded, data: lv.data.Documents, updates: int) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = Classifier()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    label = torch.tensor(["area : riverside" in name for name in data.names])
    for step in range(updates):
        noise = lv.Noise.of(5, 64, 64 * step)
        rows = (noise.at("rows").uniform(()) * len(data)).long()
        with torch.no_grad():
            t = noise.at("t").uniform((1, 1))
            z = process.mix(process.start(data.batch(rows).x, noise), noise.at("e").normal((LENGTH, WIDTH)), t)  # pyright: ignore
        loss = nn.functional.binary_cross_entropy_with_logits(net(z, t[:, 0, 0].float()), label[rows].float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.requires_grad_(False).eval()


def sampled(denoiser: lv.Denoiser, process: Embedded, count: int, guidance: Control | None = None, **options: object) -> Tensor:
    def both(d: object) -> object:
        return d if guidance is None else guidance(d)  # pyright: ignore

    plan = lv.plans.controlled(200)
    parts = [lv.sample(denoiser, plan, min(50, count - first), seed=3, first_id=first, guidance=both, **options)  # pyright: ignore
             for first in range(0, count, 50)]  # fmt: skip
    return process.round(torch.cat(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train", type=int, default=2400)
    parser.add_argument("--run", type=Path, default=Path("runs/text_control"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-train", action="store_true")
    asked = parser.parse_args()
    files = [asked.data / f"e2e_{half}.txt" for half in "ab"]
    train = lv.data.Documents(files, key="||", length=LENGTH, vocabulary=512)
    test = train.part("test")
    denoiser = model(train.categories)
    process = denoiser.process
    assert isinstance(process, Embedded)
    begun = time.process_time()
    lv.fit(
        denoiser, train, objective=lv.objectives.Embedding(), out=asked.run, resume=(asked.run / "checkpoints").exists(),
        steps=asked.train, batch=64, lr=2e-3, warmup=6400, ema=0.995, progress=True,
    )  # fmt: skip
    spent = time.process_time() - begun
    if asked.only_train:
        return
    denoiser.requires_grad_(False)
    rows: list[dict[str, object]] = []

    def row(measure: str, controlled: object, uncontrolled: object = "", note: str = "", count: int = asked.count) -> None:
        rows.append({"measure": measure, "controlled": controlled, "uncontrolled": uncontrolled, "count": count, "note": note})
        print(rows[-1], flush=True)

    row("CPU seconds of training", f"{spent:.0f}", note=f"{asked.train} updates of 64 texts of {LENGTH} tokens")
    held = test.batch(torch.arange(min(len(test), 400))).x
    assert isinstance(held, Tensor)
    for at in (0.05, 0.25, 0.5):
        noise = lv.Noise.of(9, len(held))
        z = process.marginal(held, at, noise)
        with torch.no_grad():
            found = process.round(denoiser(z, at).mean)
        real = held != test.end
        row(f"token accuracy of x^ at t = {at:g}", f"{float((found == held)[real].float().mean()):.3f}", note="held out, no ends",
            count=len(held))  # fmt: skip

    z = torch.cat([lv.sample(denoiser, lv.plans.ddpm(200), 50, seed=3, first_id=k) for k in range(0, asked.count, 50)])
    plain = process.round(z)
    agreed = float((plain == process.nearest(z)).float().mean())
    sure = float((process.log_probs(z).exp().amax(-1) > 0.5).float().mean())
    row("rounding: argmax p(w | x) is the nearest point", f"{agreed:.4f}", note=f"{sure:.4f} of tokens with p above 0.5")
    parts = [
        lv.sample(denoiser, lv.plans.ddpm(200), 50, seed=3, first_id=k, guidance=Clamp(0.5)) for k in range(0, asked.count, 50)
    ]
    clamped = process.round(torch.cat(parts))
    words = {w for i in range(len(train)) for w in train.text(torch.from_numpy(train.tokens[i].astype("int64"))).split()}

    def known(ids: Tensor) -> float:
        said = [w for row in ids for w in test.text(row).split()]
        return sum(w in words for w in said) / max(len(said), 1)

    row("words of samples that training texts have", f"{known(clamped):.3f}", f"{known(plain):.3f}", "clamped below 0.5 | not")
    for ids in (plain, clamped):
        print(*[f"  {test.text(r)}" for r in ids[:4]], sep="\n")

    def with_word(word: str, ids: Tensor) -> float:
        return sum(word in test.text(r) for r in ids) / len(ids)

    for word in ("pub", "Italian", "river"):
        piece = torch.from_numpy(train.alphabet.ids(f" {word}")).long()
        token = int(piece[0])
        if len(piece) != 1 and word != "river":
            print(f"{word} is {len(piece)} pieces; its first is asked for")

        def there(x: Tensor, t: Tensor, cond: object, token: int = token) -> Tensor:
            p = process.log_probs(x)[..., token].exp().clamp(max=1 - 1e-6)
            return torch.log(-torch.expm1(torch.log1p(-p).sum(1)) + 1e-9)

        ids = sampled(denoiser, process, asked.count, Control(there, rate=0.1, pull=0.001, of="belief"))
        row(f"content: the word {word}", f"{with_word(word, ids):.2f}", f"{with_word(word, plain):.2f}",
            f"{known(ids):.3f} of words known")  # fmt: skip
        print(*[f"  {test.text(r)}" for r in ids[:3]], sep="\n")

    def tokens(ids: Tensor) -> Tensor:
        return (ids == test.end).int().argmax(1).where((ids == test.end).any(1), torch.tensor(LENGTH))

    wanted = 20

    def short(x: Tensor, t: Tensor, cond: object) -> Tensor:
        ends = process.log_probs(x)[..., test.end]
        others = torch.log1p(-ends.exp().clamp(max=1 - 1e-6))
        return ends[:, wanted:].sum(1) + others[:, :wanted].sum(1)

    ids = sampled(denoiser, process, asked.count, Control(short, rate=0.1, pull=0.001, of="belief"))
    within = [float(((tokens(s) - wanted).abs() <= 1).float().mean()) for s in (ids, plain)]
    row(f"length: {wanted} tokens, within 1", f"{within[0]:.2f}", f"{within[1]:.2f}", f"{known(ids):.3f} of words known")
    print(*[f"  {test.text(r)}" for r in ids[:3]], sep="\n")

    classifier = trained_classifier(process, train, 600)

    def riverside(z: Tensor, t: Tensor, cond: object) -> Tensor:
        return 3 * nn.functional.logsigmoid(classifier(z, t.float().expand(len(z))))

    ids = sampled(denoiser, process, asked.count, Control(riverside, rate=0.1, pull=0.001))
    row("attribute: riverside, by a classifier of states", f"{with_word('river', ids):.2f}", f"{with_word('river', plain):.2f}",
        f"{known(ids):.3f} of words known")  # fmt: skip
    print(*[f"  {test.text(r)}" for r in ids[:3]], sep="\n")

    some = held[(tokens(held) > 24)][:20]
    mark = torch.ones(LENGTH, dtype=torch.bool)
    mark[8:16] = False
    best, mean = 0.0, 0.0
    for k, text in enumerate(some):
        given = process.embed(text).expand(8, LENGTH, WIDTH)
        z = lv.sample(denoiser, lv.plans.ddpm(200), 8, seed=k, given=given, known=mark[None, :, None].expand(8, LENGTH, WIDTH))
        filled = [r[8:16].tolist() for r in process.round(z)]
        likeness = [bleu(f, text[8:16].tolist(), 1) for f in filled]
        best, mean = best + likeness[least_risk(filled)] / len(some), mean + sum(likeness) / 8 / len(some)
    guess = [bleu(plain[k % len(plain), 8:16].tolist(), text[8:16].tolist(), 1) for k, text in enumerate(some)]
    row("infilling of 8 tokens: unigram BLEU, least risk of 8", f"{best:.3f}", f"{sum(guess) / len(guess):.3f}",
        f"mean of single samples {mean:.3f}; uncontrolled are unconditional samples", len(some))  # fmt: skip
    if asked.out:
        with asked.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
