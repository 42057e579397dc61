"""Captioned pictures for text-to-image: the emoji of a colour font, with the names that Unicode gives them."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from langevin.data.progress import shown
from langevin.files import drawn_as, staged, write

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LISTING = "/usr/share/unicode/emoji/emoji-test.txt"
CAPTIONS = "captions.jsonl"
STRIKE = 109
"""The one size at which the bitmaps of Noto Color Emoji can be had; they are 136 x 128 pixels."""
_CANVAS = (136, 128)
_LINE = re.compile(r"([0-9A-F ]+?)\s*;\s*fully-qualified\s*#\s*\S+\s+E[\d.]+\s+(.*)")
_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, its name, and where Unicode files it."""

    text: str
    name: str
    group: str
    subgroup: str

    @property
    def file(self) -> str:
        return "-".join(f"{ord(c):x}" for c in self.text) + ".png"


def listed(listing: str | Path = LISTING, tones: bool = False) -> list[Emoji]:
    """The fully qualified emoji of Unicode's emoji-test.txt, in its order.

    Args:
        tones: with those that differ from others in the tone of the skin alone, which are half of all.

    Raises:
        ValueError: if the file is not there, or lists none.
    """
    path = Path(listing)
    if not path.is_file():
        raise ValueError(f"listing is {path}, which is no file; give Unicode's emoji-test.txt (Debian has it in unicode-data).")
    found = list(_read(path.read_text(encoding="utf-8"), tones))
    if not found:
        raise ValueError(f"{path} lists no emoji; give Unicode's emoji-test.txt.")
    return found


def _read(text: str, tones: bool) -> Iterator[Emoji]:
    group = subgroup = ""
    for line in text.splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.partition(":")[2].strip()
        elif found := _LINE.fullmatch(line.strip()):
            characters = "".join(chr(int(code, 16)) for code in found[1].split())
            if tones or not any(ord(c) in _TONES for c in characters):
                yield Emoji(characters, found[2].strip(), group, subgroup)


def emoji(out: str | Path, size: int = 32, font: str | Path = FONT, listing: str | Path = LISTING, tones: bool = False) -> Path:
    """Draw every emoji of the list that the font has, on white, into a folder that `Pictures(out, captions="captions.jsonl")`
    reads; the folder is returned. What is drawn already is left as it is; the captions are written last. drawn.json says how
    they are drawn.

    Args:
        size: side of the pictures in pixels.
        font: Noto Color Emoji (Debian has it in fonts-noto-color-emoji), under the Open Font License.
        listing, tones: as for `listed`.

    Raises:
        ValueError: if the font is not there or is another, Pillow cannot join characters into one picture, or the folder was
            drawn of another size or font.
    """
    if not 8 <= size <= 4096:
        raise ValueError(f"size is {size}; take 8 pixels a side, in which something can just be seen, to 4096.")
    if not features.check("raqm"):
        raise ValueError("this Pillow has no raqm, without which emoji of several characters fall apart; install its wheel.")
    every = listed(listing, tones)
    try:
        face = ImageFont.truetype(str(font), STRIKE)
    except OSError:
        raise ValueError(
            f"font is {font}, which cannot be read at size {STRIKE}; install Noto Color Emoji or name its file."
        ) from None
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    drawn_as(folder / "drawn.json", {"size": size, "font": hashlib.sha256(Path(font).read_bytes()).hexdigest()[:8]})
    lines = []
    for one in shown(iter(every), len(every), "drawing emoji", True):
        path = folder / one.file
        if not path.exists():
            picture = _drawn(one.text, face, size)
            if picture is None:
                continue
            with staged(path) as beside:
                picture.save(beside)
        lines.append(json.dumps({"file": one.file, "text": one.name, "group": one.group, "subgroup": one.subgroup}))
    if not lines:
        raise ValueError(f"{font} has none of the emoji of {listing}; give Noto Color Emoji.")
    write(folder / CAPTIONS, "\n".join(lines) + "\n")
    return folder


def _drawn(text: str, face: ImageFont.FreeTypeFont, size: int) -> Image.Image | None:
    """One emoji on a white square; None if the font makes more than one picture of it, or none."""
    if not 0 < face.getlength(text) <= _CANVAS[0] + 2:
        return None
    layer = Image.new("RGBA", _CANVAS)
    ImageDraw.Draw(layer).text((0, 0), text, font=face, embedded_color=True)
    box = layer.getbbox()
    if box is None:
        return None
    side = max(_CANVAS)
    square = Image.new("RGBA", (side, side), "white")
    place = ((side - (box[2] - box[0])) // 2, (side - (box[3] - box[1])) // 2)
    square.alpha_composite(layer.crop(box), place)
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
