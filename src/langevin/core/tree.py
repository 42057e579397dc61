"""One helper for products: a value is a tensor, or a dict of them by leaf name.

A single process is a product with one unnamed leaf, `""`. Whatever is written over leaves is written once.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Tree: TypeAlias = Tensor | Mapping[str, Tensor]


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name; a bare value is the single leaf `""`."""
    return dict(tree) if isinstance(tree, Mapping) else {"": tree}


def tree(leaves: Mapping[str, Any]) -> Any:
    """The inverse of `leaves`."""
    return leaves[""] if set(leaves) == {""} else dict(leaves)


def spread(value: Any, names: Mapping[str, Any] | list[str], field: str) -> dict[str, Any]:
    """`value` once for every leaf: a dict must name exactly the leaves, anything else is shared by all."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    if set(value) != set(names):
        raise ValueError(f"{field} names the leaves {sorted(value)}, the process has {sorted(names)}; name each once.")
    return {name: value[name] for name in names}


def tree_map(f: Callable[..., Any], *trees: Any) -> Any:
    """f applied leaf by leaf; all trees have the same leaves."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: tree_map(f, *(t[name] for t in trees)) for name in first}
    return f(*trees)
