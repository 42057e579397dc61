"""Pictures are saved in whatever form they come."""

import pytest
import torch
from PIL import Image

import langevin as lv


def test_pictures_of_pil_and_lists_are_saved(tmp_path):
    raw = torch.arange(2 * 3 * 64, dtype=torch.uint8).reshape(2, 3, 8, 8)
    pil = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in raw]
    floats = [one.float() / 127.5 - 1 for one in raw]
    for name, x in (("a", raw), ("b", pil), ("c", list(raw)), ("d", floats), ("e", tuple(one.numpy() for one in raw))):
        lv.save_images(x, tmp_path / f"{name}.png")
        lv.save_gif([x, x], tmp_path / f"{name}.gif")
    for kind in ("png", "gif"):
        assert len({(tmp_path / f"{name}.{kind}").read_bytes() for name in "abcde"}) == 1
    lv.save_images(pil[0], tmp_path / "one.png")
    lv.save_images(raw[:1], tmp_path / "same.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    grey = [one.convert("L") for one in pil]
    lv.save_images(grey, tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as page:
        assert page.mode == "L"
    with pytest.raises(ValueError, match=r"differ in shape, such as \(3, 4, 4\) and \(3, 8, 8\); bring them to one"):
        lv.save_images([pil[0], pil[1].resize((4, 4))], tmp_path / "x.png")
