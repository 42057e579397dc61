"""How messages name things: one sentence, on one line."""


def one_line(said: object, most: int | None = None) -> str:
    """What something says of itself, in one line of at most so many characters: a module's own form has many lines, and the error
    of another's code may quote a whole file."""
    return " ".join(str(said).split())[:most]


def leaf_name(leaf: str) -> str:
    """A leaf of a product by its name; the one leaf of a single process has none."""
    return f"leaf {leaf!r}" if leaf else "the process"
