"""A split by name: samples may come and go, and none changes sides."""

import hashlib

SPLITS = ("train", "test", "all")


def check_split(split: str, held_out: float) -> None:
    """Raises ValueError for what is no split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}.")
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is {held_out}; give the share kept for testing, from 0 to below 1.")


def empty(split: str, held_out: float, count: int, what: str) -> str:
    """What to say where no sample is in the split.

    Args:
        count: samples of all splits, which are `what` in words, such as "pictures".
    """
    return (f"the {split} split of {count:,} {what} is empty: held_out is {held_out:g}; hold out another share "
            "(--data.held-out), or add some.")  # fmt: skip


def in_split(name: str, held_out: float, split: str) -> bool:
    """Whether the sample of this name belongs to the split: by the hash of its name."""
    share = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") / 2**32
    return split == "all" or (share < held_out) == (split == "test")
