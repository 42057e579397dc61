"""Texts of a run, from letters to letters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import plans
from langevin.core.sample import sample
from langevin.devices import device_of
from langevin.embedded import Embedded
from langevin.guidance import Clamp, Control, Sharpened
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.classifying import AttributeClassifier, open_classifier
from langevin.recipes.domains.text import said
from langevin.recipes.sampling import chosen
from langevin.tasks.risk import least_risk
from langevin.tasks.wording import contains, of_length
from langevin.tasks.writing import blanks_of, write
from langevin.tasks.writing import infill as fill
from langevin.zoo.masked_language import masked_language


def written(
    run: Run, *, count: int = 1, prefix: str = "", infill: str | None = None, blank: str = "_", length: int | None = None,
    plan: str | None = None, temperature: float = 1.0, top: float = 1.0, words: Sequence[str] = (), tokens: int | None = None,
    clamp: float | None = None, best_of: int = 1, seed: int = 0, attributes: Sequence[str] = (),
    classifier: str | Path | None = None,
) -> list[str]:  # fmt: skip
    """Texts that begin with `prefix`, or `infill` with its blanks filled; see `langevin.tasks.writing`.

    Args:
        length, temperature, top: for runs of categories.
        words: that are to stand in the text; tokens: that it is to have; clamp: the level below which beliefs are taken to the
            nearest point. For runs of points of words (Diffusion-LM), which are steered by gradients.
        attributes: that the text is to have, by the classifier that `classify` left in the folder `classifier`; likewise.
        best_of: of so many texts each, the one that the others are most like (`langevin.tasks.least_risk`).

    Raises:
        ValueError: for a run of something else, a letter that it does not know, or a text that it does not see at once.
    """
    if best_of < 1:
        raise ValueError(f"best_of is {best_of}; choose among at least 1 text.")
    if best_of > 1:
        told: dict[str, Any] = {
            "prefix": prefix, "infill": infill, "blank": blank, "length": length, "plan": plan, "temperature": temperature,
            "top": top, "words": words, "tokens": tokens, "clamp": clamp, "seed": seed, "attributes": attributes,
            "classifier": classifier,
        }  # fmt: skip
        every = written(run, count=count * best_of, **told)
        groups = [every[k : k + best_of] for k in range(0, len(every), best_of)]
        return [group[least_risk([text.split() for text in group])] for group in groups]
    if isinstance(run.recipe.data, c.SentencesData):
        if length is not None or (temperature, top) != (1.0, 1.0):
            raise ValueError(
                "length, temperature and top are for runs of data 'text', and this one is of sentences; leave them out."
            )
        if bool(attributes) != (classifier is not None):
            raise ValueError("attributes are what a text is to have, and a classifier tells of them; give both, or neither.")
        reads = None if classifier is None else open_classifier(classifier, run)
        return _sentences(run, count, prefix, infill, blank, plan, words, tokens, clamp, seed, reads, attributes)
    if not isinstance(run.recipe.data, c.TextData):
        raise ValueError(f"this run is of {run.recipe.data.kind}, and texts are written by runs of data 'text' or 'sentences'.")
    if words or attributes or classifier is not None or (tokens, clamp) != (None, None):
        raise ValueError(
            "words (--contains), tokens, attributes with their classifier, and clamp steer points of words, and this run is of "
            "data 'text'; use one of 'sentences'."
        )
    alphabet: Any = run.facts.alphabet
    end = alphabet.size if run.facts.ended else None
    table, sharp = chosen(run, plan), None
    if temperature != 1 or top != 1:
        sharp = Sharpened(temperature, top)

    def ids(text: str) -> Tensor:
        return torch.as_tensor(alphabet.ids(text)).long()

    if infill is not None:
        text, hole = blanks_of(infill, blank, ids)
        if end is not None:  # what is given is a whole text
            text, hole = torch.cat([text, torch.tensor([end])]), torch.cat([hole, torch.tensor([False])])
        found = fill(run.denoiser, table, text, hole, count, seed=seed, guidance=sharp)
    else:
        found = write(run.denoiser, table, count, length, prefix=ids(prefix), end=end, seed=seed, guidance=sharp)
    return [said(run.facts, row) for row in found]


def published(
    folder: Path, *, count: int = 1, prefix: str = "", infill: str | None = None, blank: str | None = None,
    length: int | None = None, plan: str | None = None, temperature: float = 1.0, top: float = 1.0, seed: int = 0,
    device: str = "cpu",
) -> list[str]:  # fmt: skip
    """The same by a published masked language model (`langevin.zoo.masked_language`).

    Args:
        blank: of infill; by default the tokenizer's own mask where that stands in the text, and else _.
        length: tokens with the prefix, which need not be written to their end; 64 more than the prefix by default.
        plan: by default one token an evaluation, the surest first and the likeliest of each, in blocks of 32, as LLaDA writes.

    Raises:
        ValueError: as `masked_language` does, for a text without blanks, and for several texts under the default plan, which has
            but one.
    """
    writer = masked_language(folder, device=device_of(device))
    if plan is None and (count > 1 or (temperature, top) != (1.0, 1.0)):
        raise ValueError(
            f"count is {count}, temperature {temperature:g} and top {top:g}, and the default plan takes the likeliest tokens; "
            "give a plan that draws, such as ddpm:64."
        )
    guidance = Sharpened(temperature, top) if (temperature, top) != (1.0, 1.0) else None
    told: dict[str, Any] = {"count": count, "seed": seed, "guidance": guidance}

    def planned(tokens: int) -> Any:
        return plans.confidence(tokens, temperature=0.0, block=32) if plan is None else plans.parse(plan)

    if infill is not None:
        sign = blank or (writer.tokenizer.mask_token if writer.tokenizer.mask_token in infill else "_")
        if not (blanks := infill.count(sign)):
            raise ValueError(f"infill has no blank {sign!r}; let each such sign stand for a token to be written.")
        return writer.fill(infill, planned(blanks), blank=sign, **told)
    begun = len(writer.tokenizer.encode(prefix, add_special_tokens=False))
    more = 64 if length is None else length - begun
    if more < 1:
        raise ValueError(f"length is {length} and the prefix has {begun} tokens; let the text be longer.")
    return writer.go_on(prefix, planned(more), more, whole=True, **told)


def _sentences(
    run: Run, count: int, prefix: str, infill: str | None, blank: str, plan: str | None, words: Sequence[str],
    tokens: int | None, clamp: float | None, seed: int, classifier: AttributeClassifier | None, attributes: Sequence[str],
) -> list[str]:  # fmt: skip
    """By points of words: what is known stays on its points, and what is asked for is asked of beliefs (2205.14217, sec. 4.3)."""
    process, alphabet, end = run.denoiser.process, run.test.alphabet, run.test.end
    assert isinstance(process, Embedded)
    shape = run.facts.shape
    assert isinstance(shape, tuple)
    size = int(shape[0])

    def ids(text: str) -> Tensor:
        return torch.as_tensor(alphabet.ids(text)).long()

    text, hole = (ids(prefix), None) if infill is None else blanks_of(infill, blank, ids)
    if len(text) >= size:
        raise ValueError(f"the text has {len(text)} tokens, and the model says at most {size - 1} and an end; give less.")
    line, known = torch.full((size,), end), torch.zeros(size, dtype=torch.bool)
    line[: len(text)], known[: len(text)] = text, True
    if hole is not None:
        known[:] = True  # a whole text, whose end is known as well
        known[: len(text)] = ~hole
    given: dict[str, Any] = {}
    if bool(known.any()):
        place = process.table.device
        points = process.embed(line.to(place)).expand(count, *shape)
        given = {"given": points, "known": known.to(place)[None, :, None].expand_as(points)}
    asked = [contains(process, _word(alphabet, word)) for word in words]
    if tokens is not None:
        if not 0 < tokens < size:
            raise ValueError(f"tokens is {tokens}; a text of this model has 1 to {size - 1}.")
        asked.append(of_length(process, end, tokens))
    of = "belief" if asked else "state"
    if classifier is not None:
        told = classifier.log_prob(attributes)  # of a belief, which is data
        asked.append(told if of == "state" else lambda x, t, cond: told(x, 0.0, cond))
    guidance: Any = None if clamp is None else Clamp(below=clamp)
    table: Any = chosen(run, plan)
    if asked:
        if clamp is not None:
            raise ValueError(
                f"clamp is {clamp:g}, and clamped beliefs have no gradient for words and tokens to steer by; leave it out."
            )
        if plan is not None and not plan.startswith("controlled"):
            raise ValueError(f"plan is {plan!r}, and what is asked of a text moves the steps of 'controlled:N' alone; use that.")
        if plan is None:  # the recipe's way to step, with a place for control in each
            steps = table.on(process.schedule).nfe
            table = plans.controlled(steps, fresh=run.recipe.sample.plan.startswith("consistency"))
        guidance = Control(lambda x, t, cond: torch.stack([said(x, t, cond) for said in asked]).sum(0), of=of, rate=0.1,
                           pull=0.001)  # fmt: skip
    drawn = sample(run.denoiser, table, count, seed=seed, guidance=guidance, **given)
    found = process.round(drawn).cpu()
    found = torch.where(known, line, found)
    return [run.test.text(row) for row in found]


def _word(alphabet: Any, word: str) -> list[int]:
    """The tokens of a word within a text: of pieces, those that begin with the space before it."""
    ids = [int(k) for k in alphabet.ids(f" {word}")]
    alone = [int(k) for k in alphabet.ids(word)]
    return alone if ids[1:] == alone else ids  # letters, whose space is a token of its own
