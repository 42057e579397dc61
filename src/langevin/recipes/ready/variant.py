"""Recipes derived from others."""

from typing import Any

from langevin.recipes.config import Recipe


def but(base: Recipe, **changes: Any) -> Recipe:
    """A variant of a recipe; checked like any other."""
    return Recipe.model_validate({**dict(base), **changes})
