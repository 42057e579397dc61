"""Recipes: functions that return a whole typed run. Variants derive from one another; each states its expected result.

Imports no torch: `langevin.recipes.build` turns a recipe into objects.
"""

from collections.abc import Callable

from langevin.recipes.config import Recipe
from langevin.recipes.ready import bayesian, coded, graphs, pictures, points, scores, texts
from langevin.spec import nearest

__all__ = ["RECIPES", "Recipe", "recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    **pictures.RECIPES, **bayesian.RECIPES, **coded.RECIPES, **scores.RECIPES, **points.RECIPES, **texts.RECIPES,
    **graphs.RECIPES,
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ValueError: naming the nearest.
    """
    if name not in RECIPES:
        raise ValueError(
            f"recipe is {name!r}; did you mean {nearest(name, RECIPES)!r}? `langevin recipes` lists all {len(RECIPES)}."
        )
    return RECIPES[name]()
