"""Captioned pictures from a font."""

import json
from pathlib import Path

import pytest
import torch

from langevin.cli import main
from langevin.data import Pictures
from langevin.data.emoji import FONT, LISTING, listed

LINES = """\
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # 😀 E1.0 grinning face
263A                                       ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
# subgroup: hand-fingers-open
1F44B                                      ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB                                ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
1F1E8 1F1ED                                ; fully-qualified     # 🇨🇭 E2.0 flag: Switzerland
"""


@pytest.fixture
def listing(tmp_path):
    (tmp_path / "emoji-test.txt").write_text(LINES, encoding="utf-8")
    return tmp_path / "emoji-test.txt"


def test_the_list_is_read(listing):
    found = listed(listing)
    assert [e.name for e in found] == ["grinning face", "waving hand", "flag: Switzerland"]
    assert found[0].group == "Smileys & Emotion" and found[1].subgroup == "hand-fingers-open"
    assert found[2].file == "1f1e8-1f1ed.png"
    assert [e.name for e in listed(listing, tones=True)][2] == "waving hand: light skin tone"


def test_a_missing_list_or_font_is_one_sentence(listing, tmp_path, capsys):
    for flags, said in ((["--listing", "nowhere.txt"], "listing is nowhere.txt"), (["--font", str(listing)], "font is")):
        with pytest.raises(SystemExit):
            main(["data", "emoji", "--out", str(tmp_path / "out"), "--listing", str(listing), *flags])
        assert said in capsys.readouterr().err


@pytest.mark.skipif(not Path(FONT).exists() or not Path(LISTING).exists(), reason="Noto Color Emoji is not installed")
def test_pictures_and_captions_are_read_as_data(listing, tmp_path):
    out = tmp_path / "emoji"
    main(["data", "emoji", "--out", str(out), "--size", "16", "--listing", str(listing)])
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["grinning face", "waving hand", "flag: Switzerland"]
    pictures = Pictures(out, 16, captions="captions.jsonl", split="all", held_out=0.5)
    by_caption = dict(zip(pictures.captions or [], pictures.batch(torch.arange(3)).x, strict=True))
    face = by_caption["grinning face"]
    assert face[0, 8, 8] > 0.5 > face[2, 8, 8] and bool((face[:, 0, 0] > 0.95).all())  # yellow, on white
    # a flag of two regional letters is one picture: red around a white cross
    flag = by_caption["flag: Switzerland"]
    assert flag[0, 8, 4] > 0.5 and flag[1, 8, 4] < 0 and bool((flag[:, 8, 8] > 0.95).all())
