"""Settings that nothing reads in a run, such as the share of a decay that the rate does not have. They are refused before
training: a run in which one was ignored is taken for a run in which it made no difference."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langevin.config import READ, Closed
from langevin.recipes import RECIPES
from langevin.recipes import config as c
from langevin.recipes import objectives as o


@dataclass(frozen=True)
class _Case:
    """When settings are read.

    Args:
        of: the class that they are settings of.
        names: of the settings.
        read: whether they are, of an object of that class in a recipe.
        said: the case, in words.
    """

    of: type
    names: tuple[str, ...]
    read: Callable[[c.Recipe, Any], bool]
    said: str


def _teacher(recipe: c.Recipe, part: Any) -> bool:
    return recipe.teacher is not None


_SKIPS = (c.ImagesData, c.ShardsData, c.StreamData, c.HuggingFaceData)
_TOKENS = (c.TextData, c.SentencesData)
_CASES: tuple[_Case, ...] = (
    _Case(c.DigitsData, ("levels",), lambda _, d: d.form == "categories", "with form categories"),
    _Case(c.ImagesData, ("bucket_step",), lambda _, d: d.aspect, "with aspect"),
    *(_Case(of, ("max_skipped",), lambda _, d: d.broken == "skip", "with broken skip") for of in _SKIPS),
    *(_Case(of, ("vocabulary",), lambda _, d: d.alphabet == "pieces", "with alphabet pieces") for of in _TOKENS),
    _Case(c.TextData, ("key",), lambda _, d: d.lines, "of lines"),
    _Case(c.InterpolantConfig, ("shape",), lambda _, p: p.noise > 0, "where noise is above 0"),
    _Case(c.UNetConfig, ("time", "style"), lambda _, n: not n.transformer, "without transformer"),
    _Case(c.UNetConfig, ("attention",), lambda _, n: all(0 <= i < len(n.multipliers) for i in n.attention),
          "of resolutions that there are, one for each of multipliers, from 0"),
    _Case(c.GraphTransformerConfig, ("published",), lambda _, n: bool({"cycles", "valencies"} & {*n.features}),
          "where features has cycles or valencies"),
    _Case(c.LoRAConfig, ("alpha", "targets", "dropout"), lambda _, a: a.rank > 0, "where rank is above 0"),
    _Case(c.CodecConfig, ("scale", "dtype"), lambda _, k: k.origin is not None, "with an origin"),
    _Case(c.EvaluationConfig, ("count", "features", "metrics", "plan", "guidance", "seed"), lambda _, e: e.every > 0,
          "where every is above 0"),
    _Case(o.ConsistencyConfig, ("schedule", "as_published_code", "decay", "order", "guidance"), lambda _, p: not p.improved,
          "without improved"),
    _Case(o.ConsistencyConfig, ("mean", "std"), lambda _, p: p.improved, "with improved"),
    _Case(o.ConsistencyConfig, ("order",), _teacher, "with a teacher"),
    _Case(o.MeanFlowConfig, ("improved",), lambda r, p: r.teacher is None, "without a teacher"),
    _Case(o.DistributionMatchingConfig, ("r1", "at", "width"), lambda _, p: p.adversarial > 0, "where adversarial is above 0"),
    _Case(o.AutoencodingConfig, ("after", "width", "rate"), lambda _, p: p.adversarial > 0, "where adversarial is above 0"),
    *(_Case(c.TrainConfig, (name,), lambda _, t, by=by, value=value: getattr(t, by) == value, f"with {by} {value}")
      for name, (by, value) in READ.items()),
)  # fmt: skip


def check(recipe: c.Recipe) -> None:
    """Refuse settings that nothing would read, other than those that the named recipe brings itself.

    Raises:
        ValueError: naming the first, its value, and when it is read.
    """
    base = dict(_parts(RECIPES[recipe.name]())) if recipe.name in RECIPES else {}
    for path, part in _parts(recipe):
        own = base.get(path)
        for case in (case for case in _CASES if type(part) is case.of and not case.read(recipe, part)):
            for name in case.names:
                value = getattr(part, name)
                usual = [type(part).model_fields[name].default, *([getattr(own, name)] if type(own) is type(part) else [])]
                if value not in usual:
                    raise ValueError(f"{path}.{name} is {_word(value)}, which is read only {case.said}; leave it out.")


def _parts(recipe: c.Recipe) -> Iterator[tuple[str, Any]]:
    """(path, settings) of all that a recipe is made of, from the outside in."""
    waiting: list[tuple[str, Any]] = [("", recipe)]
    while waiting:
        path, part = waiting.pop(0)
        yield path, part
        for name in type(part).model_fields:
            if name != "teacher" and isinstance(inner := getattr(part, name), Closed):
                waiting.append((f"{path}.{name}".removeprefix("."), inner))


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"
