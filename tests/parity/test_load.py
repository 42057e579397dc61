"""`langevin.load` on single files in the layout of their authors."""

import pytest
import torch

import langevin as lv
from tests.parity.goldens import Goldens


@pytest.mark.parametrize(
    "family, name, file, parts",
    [
        ("sd1", "txt2img_pndm", "original/v1.safetensors", ("unet", "vae", "text_encoder")),
        ("flux", "dev", "original/flux.safetensors", ("transformer",)),
        ("sd3", "sd35", "original/sd3.safetensors", ("transformer",)),
    ],
)
def test_a_single_file_gives_the_networks_of_the_folder(
    goldens: Goldens, family: str, name: str, file: str, parts: tuple[str, ...]
):
    case = goldens.case(family, name)
    inside = "pipeline/" if case.entry["pipeline"] else ""
    folders = {part: case.dir / f"{inside}{part}" for part in parts}
    configs = {part: case.config(f"{inside}{part}") for part in parts}
    found = lv.load(case.dir / file, configs=configs)
    assert set(found) == set(parts)
    for part, net in found.items():
        theirs = lv.load(folders[part]).state_dict()
        assert set(theirs) == set(net.state_dict())
        for key, value in net.state_dict().items():
            assert torch.equal(value, theirs[key]), key


def test_what_is_neither_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for path, said in ((tmp_path, "neither model_index.json nor config.json"), (tmp_path / "absent", "does not exist")):
        with pytest.raises(ValueError, match=said) as caught:
            lv.load(path)
        assert "\n" not in str(caught.value)
