"""Diffusion-LM on restaurant descriptions (E2E): rounding, and control by gradient beside sampling without it, in one run.

    langevin train e2e-embedding --data.path data/e2e_a.txt data/e2e_b.txt
    langevin train e2e-embedding --data.path data/e2e_a.txt data/e2e_b.txt --objective.spread elements --out runs/e2e-elements
    python bench/text_control.py runs/e2e-embedding --elements runs/e2e-elements --out bench/results/text_control.csv

The model of the recipe, trained without any condition; samples with and without control: a word that must be there, a number of
tokens, attributes asked of one classifier of noisy states that is trained here on the attributes that come with each text, and
the middle of a text given its ends, by the second run, which saw clean words beside noisy ones. Texts of one set of attributes
are all on one side of the split. Success is read off the text itself: the word is in it; the tokens are so many; "river" is in
the text for area riverside, beside how many held-out texts with that attribute are read so. Words and pairs of neighbouring words
that training texts have say what control costs. A row replaces that of the same measure.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin import tasks
from langevin.embedded import Embedded
from langevin.guidance import Clamp, Control
from langevin.recipes.classifying import attributes_of, classify
from langevin.recipes.domains.written import share_known, texts_of, word_pairs

PARTS = ("rounding", "content", "length", "attribute", "infilling")
ATTRIBUTES = {"area : riverside": "river", "Type : coffee shop": "coffee shop", "price : cheap": "cheap"}
"""As the data names them, and what a text says that has them."""
FIELDS = ("measure", "controlled", "uncontrolled", "count", "note")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--elements", type=Path, help="a run of --objective.spread elements, for infilling; RUN by default")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="rows are added to it, or replaced")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    denoiser, process, test = run.denoiser.requires_grad_(False), run.denoiser.process, run.test
    assert isinstance(process, Embedded)
    length, end = test.length, test.end
    texts = texts_of(run.train)
    words, pairs = {w for t in texts for w in t.split()}, {p for t in texts for p in word_pairs(t)}

    def row(measure: str, controlled: object, uncontrolled: object = "", note: str = "", count: int = asked.count) -> None:
        found = {"measure": measure, "controlled": controlled, "uncontrolled": uncontrolled, "count": count, "note": note}
        print(found, flush=True)
        if asked.out:
            replace(asked.out, FIELDS, [found], ("measure",))

    def sampled(guidance: Any = None, plan: Any = None, count: int = asked.count) -> Tensor:
        made = plan or lv.plans.controlled(asked.steps, fresh=True)
        at = range(0, count, 50)
        return torch.cat([lv.sample(denoiser, made, min(50, count - k), seed=3, first_id=k, guidance=guidance) for k in at])

    def said(ids: Tensor) -> list[str]:
        return [test.text(r) for r in ids]

    def fluent(ids: Tensor) -> str:
        found = said(ids)
        one = share_known([w for t in found for w in t.split()], words)
        two = share_known([p for t in found for p in word_pairs(t)], pairs)
        return f"{one:.3f} of words, {two:.3f} of pairs known"

    def show(ids: Tensor) -> None:
        print(*[f"    {t}" for t in said(ids)[:4]], sep="\n", flush=True)

    held = test.batch(torch.arange(min(len(test), 400))).x
    if "rounding" in asked.only:
        shared = share_known([p for t in texts_of(test) for p in word_pairs(t)], pairs)
        row("held-out texts", "", note=f"{shared:.3f} of pairs known", count=len(test))
        for at in (0.05, 0.25, 0.5):
            with torch.no_grad():
                found = process.round(denoiser(process.marginal(held, at, lv.Noise.of(9, len(held))), at).mean)
            exact = float((found == held)[held != end].float().mean())
            row(f"token accuracy of x^ at t = {at:g}", f"{exact:.3f}", note="held-out texts, without their ends", count=len(held))

        z = sampled(plan=lv.plans.ddpm(asked.steps))
        plain = process.round(z)
        sure = float((process.log_probs(z).exp().amax(-1) > 0.9).float().mean())
        agreed = float((plain == process.nearest(z)).float().mean())
        row("rounding: argmax p(w | x) is the nearest point", f"{agreed:.4f}", note=f"p above 0.9 at {sure:.4f} of tokens")
        row(f"posterior steps (ddpm:{asked.steps})", "", "", fluent(plain))
        show(plain)
        for name, plan, guide in (("the same, clamped below 0.5", lv.plans.ddpm(asked.steps), Clamp(0.5)),
                                  ("dpmpp:20", lv.plans.dpmpp(20), None),
                                  ("fresh marginals (consistency)", lv.plans.consistency(asked.steps), None)):  # fmt: skip
            plain = process.round(sampled(guide, plan))
            row(name, "", "", fluent(plain))
            show(plain)
        # from here on with fresh marginals, controlled or not

    plain = process.round(sampled(None, lv.plans.consistency(asked.steps)))

    def share(word: str, ids: Tensor) -> float:
        return sum(word in text for text in said(ids)) / len(ids)

    if "content" in asked.only:
        for word in ("pub", "Italian", "river"):
            piece = [int(k) for k in test.alphabet.ids(f" {word}")]
            ids = process.round(sampled(Control(tasks.contains(process, piece), rate=0.1, pull=0.001, of="belief")))
            row(f"content: the word {word}", f"{share(word, ids):.2f}", f"{share(word, plain):.2f}", fluent(ids))
            show(ids)
        pub = Control(tasks.contains(process, [int(k) for k in test.alphabet.ids(" pub")]), rate=0.1, pull=0.001, of="belief")
        ids = process.round(sampled(pub, lv.plans.controlled(asked.steps)))
        row("content: the word pub, posterior steps", f"{share('pub', ids):.2f}", "", fluent(ids))

    def tokens(ids: Tensor) -> Tensor:
        return torch.where((ids == end).any(1), (ids == end).int().argmax(1), torch.tensor(length))

    wanted = 20
    if "length" in asked.only:
        ids = process.round(sampled(Control(tasks.of_length(process, end, wanted), rate=0.1, pull=0.001, of="belief")))
        hit, free = (float(((tokens(s) - wanted).abs() <= 1).float().mean()) for s in (ids, plain))
        row(f"length: {wanted} tokens, within 1", f"{hit:.2f}", f"{free:.2f}", fluent(ids))
        show(ids)

    if "attribute" in asked.only:
        with TemporaryDirectory() as folder:
            classifier = classify(run, tuple(ATTRIBUTES), Path(folder))
        real = texts_of(test)
        for attribute, word in ATTRIBUTES.items():
            ids = process.round(sampled(classifier.towards(run, (attribute,))))
            said_so = [word in text for text, name in zip(real, test.names, strict=True) if attribute in attributes_of(name)]
            note = f"{fluent(ids)}; {sum(said_so) / max(len(said_so), 1):.2f} of held-out texts with it say {word!r}"
            row(
                f"attribute: {attribute}, by a classifier of states", f"{share(word, ids):.2f}", f"{share(word, plain):.2f}", note
            )
            show(ids)

    if "infilling" in asked.only:
        filler: Any = run if asked.elements is None else lv.open_run(asked.elements)
        denoiser, process = filler.denoiser.requires_grad_(False), filler.denoiser.process
        assert filler.test.alphabet == test.alphabet
        some = held[tokens(held) > 24][:20]
        mark = torch.ones(length, dtype=torch.bool)
        mark[8:16] = False
        best = mean = guess = 0.0
        for k, text in enumerate(some):
            given = process.embed(text).expand(8, *run.facts.shape)
            known = mark[None, :, None].expand_as(given)
            filled = process.round(lv.sample(denoiser, lv.plans.consistency(asked.steps), 8, seed=k, given=given, known=known))
            likeness = [tasks.bleu(f[8:16].tolist(), text[8:16].tolist(), 1) for f in filled]
            best += likeness[tasks.least_risk([f[8:16].tolist() for f in filled])] / len(some)
            mean += sum(likeness) / 8 / len(some)
            guess += tasks.bleu(plain[k % len(plain), 8:16].tolist(), text[8:16].tolist(), 1) / len(some)
        row("infilling of 8 tokens: unigram BLEU, least risk of 8", f"{best:.3f}", f"{guess:.3f}",
            f"{mean:.3f} for single samples; uncontrolled: samples given nothing", len(some))  # fmt: skip


if __name__ == "__main__":
    main()
