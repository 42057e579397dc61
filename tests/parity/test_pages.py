"""The page on published models runs as written, on a small model."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from langevin.cli import main
from tests.parity.goldens import Goldens

PAGE = (Path(__file__).parents[2] / "docs" / "published.md").read_text()


def _section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)^## ", PAGE, re.S | re.M)
    assert found is not None, title
    return found[1]


def _blocks(title: str, language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", _section(title), re.S))


@pytest.fixture
def space(goldens: Goldens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where the page is run: a model, a photo and a mask lie here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(goldens.case("sd1", "txt2img_sampler").dir / "pipeline")
    colours = (torch.sin(torch.arange(3 * 32 * 48.0)).reshape(32, 48, 3) + 1) * 127
    Image.fromarray(colours.byte().numpy()).save("photo.png")
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[8:24, 16:32] = 255
    Image.fromarray(mask.numpy()).save("mask.png")
    return {}


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3).int()


def test_pictures_to_begin_at(space: dict[str, Any]) -> None:
    exec(compile(_blocks("Beginning at a picture", "python"), "published.md", "exec"), space)
    photo, hole = _pixels(space["photo"]), torch.zeros(32, 48, 1, dtype=torch.bool)
    hole[8:24, 16:32] = True
    for name in ("painted", "mended"):
        off = (_pixels(space[name]) - photo).abs()
        assert int((off * ~hole).max()) == 0 and int(off.max()) > 5, name
    assert not torch.equal(_pixels(space["painted"]), _pixels(space["mended"]))
    commands = _blocks("Beginning at a picture", "bash").strip().splitlines()
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        assert program == "langevin"
        main([*words, "--device", "cpu"])
    for name in ("changed", "painted", "mended", "other"):
        with Image.open(f"{name}.png") as drawn:
            assert torch.equal(_pixels(drawn), _pixels(space[name])), name
    assert len(commands) == 4


def test_a_server(space: dict[str, Any]) -> None:
    code = _blocks("A server", "python").replace("steps=20", "steps=3")
    exec(compile("import langevin as lv\n" + code, "published.md", "exec"), space)
    model, answers = space["model"], space["answers"]
    for (prompt, seed, number), (image, record) in zip(space["requests"], answers, strict=True):
        alone = model(prompt, seed=seed, first_id=number, steps=3)[0]
        assert torch.equal(_pixels(image), _pixels(alone)), prompt
        again = model(record["prompt"], seed=record["seed"], first_id=record["id"], steps=record["steps"])[0]
        assert torch.equal(_pixels(image), _pixels(again))
    first, second = answers[0][0], answers[1][0]
    for ours, theirs in ((space["batch"][0], first), (space["four"][0], first), (space["four"][1], second)):
        assert int((_pixels(ours) - _pixels(theirs)).abs().max()) <= 1  # batches round differently
    for (image, _), ours in zip(answers, space["mixed"], strict=True):
        assert int((_pixels(image) - _pixels(ours)).abs().max()) <= 1
    assert int((_pixels(first) - _pixels(second)).abs().max()) > 20
