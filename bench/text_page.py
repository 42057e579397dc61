"""Texts by the models of `bench/discrete.py --only shakespeare`, one page of them.

    python bench/text_page.py --work runs/bench-discrete --shakespeare data/tinyshakespeare.txt --out docs/text_samples.md

Nothing is chosen: every text is of the one seed, and the held-out windows are spread evenly over the held-out tenth.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from discrete import FORMS, HOLE, LENGTH, ready
from rows import parsed, read
from torch import Tensor

import langevin as lv
from langevin.guidance import Sharpened
from langevin.tasks.writing import infill, write

PREFIX, LONG = "ROMEO:\n", 400
STEPS = {"shakespeare-blocks": 16, "shakespeare-autoregressive": 1}
SAID = {
    "shakespeare": "Masked, in any order",
    "shakespeare-blocks": "In blocks of 16, from left to right",
    "shakespeare-uniform": "Letters replaced rather than masked",
    "shakespeare-autoregressive": "One after the other, for comparison",
}


HEAD = """# What small models of text write

Written by `bench/text_page.py`, nothing chosen. Networks of 1.8 million weights, each trained for as many minutes of one CPU core
on nine tenths of Shakespeare's letters (`bench/discrete.py --only shakespeare`), far from their end: what can be seen is how each
kind writes, not how well it could. Every text begins with `ROMEO:` and a new line, but for that of replaced letters.

| model | bits per character, held out | minutes of one core |
|---|---|---|"""


def fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


def orders(model: Any, data: Any, steps: int = 64) -> str:
    """One text of a masked model on its way: what is not said yet is a dot."""
    plan, k = lv.plans.ddpm(steps), model.process.categories
    shown = []
    walk = [step.z.clone() for step in lv.trajectory(model, plan, 1, seed=2)]  # pyright: ignore[reportAttributeAccessIssue]
    for share in (0.25, 0.5, 0.75, 1.0):
        z = walk[round(share * (len(walk) - 1))][0]
        letters = [data.text(z[i : i + 1]).replace("\n", "↵") if int(z[i]) < k else "·" for i in range(len(z))]
        shown.append(f"After {share:.0%} of {steps} steps:\n\n{fenced(''.join(letters))}")
    return "\n".join(shown)


def holes(model: Any, test: Any, count: int = 3) -> str:
    """Held-out windows whose middle half is filled, beside what was there."""
    index = torch.linspace(0, len(test) - 1, count + 2).long()[1:-1]
    x: Tensor = test.batch(index).x
    made = []
    for row in x:
        found = infill(model, lv.plans.confidence(32, temperature=0.0), row, HOLE, seed=1)[0]
        parts = [test.text(found[a:b]) for a, b in ((0, LENGTH // 4), (LENGTH // 4, 3 * LENGTH // 4), (3 * LENGTH // 4, LENGTH))]
        was = test.text(row[HOLE])
        made.append(f"{fenced(f'{parts[0]}⟦{parts[1]}⟧{parts[2]}')}\nThere stood:\n\n{fenced(was)}")
    return "\n".join(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-discrete"))
    parser.add_argument("--shakespeare", type=Path, default=Path("data/tinyshakespeare.txt"))
    parser.add_argument("--table", type=Path, default=Path("bench/results/discrete.csv"))
    parser.add_argument("--out", type=Path, default=Path("docs/text_samples.md"))
    asked = parsed(parser)
    if not asked.table.exists():
        parser.error(f"--table is {asked.table}, which is not there; make it by bench/discrete.py")
    rows = {r["model"]: r for r in read(asked.table) if r["part"] == "shakespeare" and r["measure"] == "bits/character"}
    asked.minutes = 0.0  # nothing is trained here
    parts = [HEAD]
    for name in FORMS:
        row, bound = rows[name], "" if name.endswith("autoregressive") else "at most "
        bits, minutes = f"{float(row['value']):.3f} ± {float(row['error']):.3f}", float(row["seconds"]) / 60
        parts[-1] += f"\n| `{name}` | {bound}{bits} | {minutes:.0f} |"
    row = rows["counted patterns of 5"]
    parts[-1] += f"\n| counted patterns of 5 letters (Witten-Bell) | {float(row['value']):.3f} | - |\n"
    made: dict[str, Any] = {}
    for name in FORMS:
        if not (asked.work / name / "checkpoints").exists():
            raise SystemExit(f"{asked.work / name} holds no model; run bench/discrete.py --only shakespeare first.")
        model, _, test, _, _ = ready(name, asked)
        made[name] = (model, test)
        prefix = torch.as_tensor(test.alphabet.ids(PREFIX)).long()
        plan = lv.plans.ddpm(STEPS.get(name, LENGTH))
        if name == "shakespeare-uniform":
            text = lv.sample(model, plan, 1, seed=1, guidance=Sharpened(0.8))
        else:
            text = write(model, plan, 1, LONG, prefix=prefix, seed=1, guidance=Sharpened(0.8))
        parts += [f"## {SAID[name]}\n", fenced(test.text(text[0]))]
    masked, test = made["shakespeare"]
    parts += ["## The order of a masked model\n", orders(masked, test)]
    about = "The surest letters first, 2 at a time; in ⟦ ⟧ what the model wrote.\n"
    parts += ["## Blanks with a view of both sides\n", about, holes(masked, test)]
    asked.out.write_text("\n".join(parts).rstrip() + "\n")
    print(asked.out)


if __name__ == "__main__":
    main()
