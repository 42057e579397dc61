"""What a PNG says of how it was made, read without torch."""

import json
from pathlib import Path
from typing import Any

RECORD = "langevin"
"""The name of the text in a PNG that says how it was made."""
LONGEST = 2**16


def printable(text: str) -> str:
    """A text of a file as it may be shown on a terminal, which obeys some characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_record(path: str | Path) -> dict[str, Any]:
    """How a PNG was made, as `pictures.save_png` wrote it; empty if it does not say.

    Raises:
        ValueError: if it is no PNG, or what it says is no record.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:  # its first chunks alone; no pixel is decoded
            text = image.info.get(RECORD)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; give a PNG.") from None
    except Exception:  # Pillow's errors are of many kinds, and their words are not ours
        raise ValueError(f"{path} is no PNG that can be read; give one as it was written here.") from None
    if text is None:
        return {}
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"the record of {path} is longer than {LONGEST} characters; it was not written here.")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"the record of {path} is no object; it was not written here.")
    return record
