"""Strengths of adapters that hold for one request, and for no other that runs at the same time."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin as lv
from langevin.cli import main
from langevin.pictures import read_record
from langevin.strengths import strengths
from langevin.tasks.recorded import request_of
from langevin.zoo import adapting
from tests.parity.goldens import Goldens
from tests.parity.test_adapting import _adapters, _off
from tests.parity.test_lora import twice_adapted

ASKED: dict[str, Any] = {"prompt": "a red cat", "plan": "ddim:2", "seed": 5, "size": (32, 32)}


@pytest.fixture
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Any:
    """With adapters "style", of its text encoder as well, and "lines", that stand at 1 and 0.5."""
    made = lv.load(folder)
    adapting.add_lora(made, _adapters(folder, tmp_path / "style.safetensors", 0))
    adapting.add_lora(made, _adapters(folder, tmp_path / "lines.safetensors", 1, "kohya", "*conv1*", text=False), 0.5)
    return made


def _picture(model: Any, **more: Any) -> Tensor:
    return model.run(**{**ASKED, **more}).tensor


def _standing(model: Any, **at: float) -> Tensor:
    """The picture of a model whose adapters stand so, to which no request says anything."""
    before = {"style": 1.0, "lines": 0.5}
    adapting.set_strengths(model, at)
    made = _picture(model)
    adapting.set_strengths(model, before)
    return made


def test_a_request_says_how_much_its_adapters_count(model: Any) -> None:
    plain = _picture(model)
    ours = _picture(model, adapters={"style": 0.3})
    assert torch.equal(ours, _standing(model, style=0.3)) and not torch.allclose(ours, plain, atol=0.01)
    off = _picture(model, adapters={"style": 0, "lines": 0})
    assert torch.equal(off, _standing(model, style=0.0, lines=0.0))
    assert torch.equal(_picture(model), plain)  # and the next one stands as before
    with pytest.raises(ValueError, match=r"no adapters named 'stile'; it has lines, style"):
        _picture(model, adapters={"stile": 0.3})


def test_requests_at_the_same_time_do_not_see_each_others(model: Any) -> None:
    """Each waits, half way, until the other is half way too."""
    asked: list[Any] = [{"style": 0.2}, {"style": -0.5, "lines": 1.0}, None]
    alone = [_picture(model, adapters=one) for one in asked]
    gate = threading.Barrier(len(asked))
    found: dict[int, Tensor] = {}

    def draw(k: int) -> None:
        found[k] = _picture(model, adapters=asked[k], callback=lambda progress: gate.wait(60))

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[k], one) for k, one in enumerate(alone))
    assert not torch.allclose(alone[0], alone[1], atol=0.01) and not torch.allclose(alone[0], alone[2], atol=0.01)


def test_each_picture_of_a_batch_has_its_own(model: Any) -> None:
    asked: list[dict[str, float]] = [{"style": 0.2}, {"style": 0.2}, {"lines": 0.0}]
    calls: list[int] = []
    hook = model.denoiser.register_forward_hook(lambda net, given, out: calls.append(len(out.mean)))
    many = model.run(**ASKED, adapters=asked)
    hook.remove()
    assert calls == [4, 4, 2, 2]  # those of equal strengths are drawn together, both halves of guidance at once
    for k, one in enumerate(asked):
        alone = model.run(**ASKED, adapters=one, first_id=k)
        torch.testing.assert_close(many.tensor[k], alone.tensor[0], rtol=0, atol=1e-4)
        assert many.info[k] == alone.info[0] and many.info[k]["adapters"] == {"style": 1.0, "lines": 0.5, **one}
    prompts = _picture(model, prompt=["a cat", "a dog"], adapters=asked[1:])
    torch.testing.assert_close(prompts[1:], _picture(model, prompt="a dog", adapters=asked[2], first_id=1), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="adapters has 3 for 2 pictures"):
        _picture(model, prompt=["a cat", "a dog"], adapters=asked)
    # a record draws again, however the adapters stand then
    adapting.set_strengths(model, {"style": 0.9})
    again = model.run(**request_of(many.info[2]))
    torch.testing.assert_close(again.tensor[0], many.tensor[2], rtol=0, atol=1e-4)


def test_strengths_of_a_request_compile_nothing_again() -> None:
    torch.compiler.reset()
    net, x = twice_adapted()
    made = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        first = made(x)
        with torch.compiler.set_stance("fail_on_recompile"):
            for asked in ({"a": 0.5, "b": 0.25}, {"a": 0.0}, {"b": -2.0}):
                with strengths(asked):
                    ours, plain = made(x), net(x)
                torch.testing.assert_close(ours, plain)
                assert not torch.allclose(ours, first)
            torch.testing.assert_close(made(x), first)


def test_strengths_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style = _adapters(folder, tmp_path / "style.safetensors", 0)
    out = tmp_path / "cat.png"
    command = ["generate", str(folder), "a red cat", "--plan", "ddim:2", "--seed", "5", "--size", "32x32", "--device", "cpu"]
    main([*command, "--lora", str(style), "--adapters", "style=0.2", "style=0.8", "--out", str(out)])
    model = lv.load(folder)
    adapting.add_lora(model, style)
    for k, strength in enumerate((0.2, 0.8)):
        file = tmp_path / f"cat-{k}.png"
        assert _off(file, _picture(model, adapters={"style": strength}, first_id=k)) <= 1
        assert read_record(file)["adapters"] == {"style": strength}
    main(
        ["generate", str(folder), "--again", str(tmp_path / "cat-1.png"), "--device", "cpu", "--out", str(tmp_path / "same.png")]
    )
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "cat-1.png").read_bytes()
    for words, why in (
        (["--adapters", "style=0.2"], "adapters says how much those of lora count; say both"),
        (["--adapters", "style", "--lora", str(style)], "adapters is 'style'; give NAME=STRENGTH"),
        (["--adapters", "stile=1", "--lora", str(style)], "no adapters named 'stile'"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *words, "--out", str(out)])
        assert why in capsys.readouterr().err
