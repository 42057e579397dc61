"""A published model that is compiled for a size: one graph for every request of it."""

import warnings
from typing import Any

import pytest
import torch

from langevin.tasks.declared import declared
from langevin.zoo import adapting
from tests.parity.test_strengths import folder, model  # noqa: F401


def test_requests_of_a_published_model_compile_nothing(model: Any, tmp_path: Any) -> None:  # noqa: F811
    asked: list[dict[str, Any]] = [
        {"prompt": "a red cat", "plan": "dpmpp:3", "seed": 1}, {"prompt": "dogs", "negative": "blurred", "steps": 2},
        {"prompt": "a cat", "steps": 2, "guidance": 3.0, "adapters": {"style": 0.2, "lines": 0.0}},
    ]  # fmt: skip
    plain = [model.run(**request, size=(32, 32)).tensor for request in asked]
    torch.compiler.reset()
    declared(model, [(32, 32)], guidance=(None,), backend="eager")
    with torch.compiler.set_stance("fail_on_recompile"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for request, wanted in zip(asked, plain, strict=True):
            torch.testing.assert_close(model.run(**request, size=(32, 32)).tensor, wanted, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="compiled for declared sizes, and would not see what is added; add it before"):
        adapting.add_lora(model, tmp_path / "style.safetensors", name="more")
    torch.compiler.reset()
