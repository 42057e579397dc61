"""Reference checkpoints and what their peers compute with them, made once per session by the generator in ../shared/peers."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from langevin.header import read_header
from langevin.tensors import load
from langevin.zoo.family import Component, load_into, published, unset

SHARED = Path(os.environ.get("LANGEVIN_SHARED", Path(__file__).parents[3] / "shared"))
GENERATOR = SHARED / "peers" / "make_reference_checkpoints.py"


class Goldens:
    """The cases of a generated set: all families at once, since the peer's imports take longer than they do.

    Args:
        root: where they are generated. heldout: draws other configurations from this seed.
    """

    def __init__(self, root: Path, heldout: int | None = None) -> None:
        self.root, self.heldout = root, heldout

    @cached_property
    def families(self) -> dict[str, dict[str, Any]]:
        with FileLock(f"{self.root}.lock"):
            if not (self.root / "manifest.json").exists():
                self._generate()
        made: dict[str, dict[str, Any]] = {}
        for case in json.loads((self.root / "manifest.json").read_text())["cases"]:
            made.setdefault(case["family"], {})[case["name"]] = case
        return made

    def _generate(self) -> None:
        if not GENERATOR.exists():
            pytest.skip(f"the generator of reference checkpoints is not at {GENERATOR}")
        pytest.importorskip("diffusers", reason="the peer is not installed")
        pytest.importorskip("transformers", reason="the peer's text encoders are not installed")
        command = [sys.executable, str(GENERATOR), "--out", str(self.root)]
        command += [] if self.heldout is None else ["--heldout", str(self.heldout)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        assert done.returncode == 0, done.stderr[-2000:]

    def case(self, family: str, name: str) -> "Case":
        return Case(self.root, self.families[family][name])

    def cases(self, family: str) -> list[str]:
        return list(self.families[family])


class Case:
    """One checkpoint, with inputs and outputs."""

    def __init__(self, root: Path, entry: dict[str, Any]) -> None:
        self.entry, self.dir = entry, root / entry["dir"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return _loaded(self.dir / "golden.safetensors")

    def config(self, component: str) -> dict[str, Any]:
        return json.loads((self.dir / component / "config.json").read_text())

    def network(self, component: str, part: Component, file: str = "diffusion_pytorch_model.safetensors") -> nn.Module:
        """The network of ours with the weights of the file, in evaluation mode."""
        path, config = self.dir / component / file, self.config(component)
        with unset():
            net = part.build(config)
        tensors = load(path)
        return load_into(net, part.keys(config, net), list(tensors), tensors.__getitem__, str(path)).eval()

    def argument(self, call: str, name: str) -> Any:
        """An argument of a recorded call: a tensor or a literal, dicts and lists of them."""
        return self._value(self.entry["calls"][call]["args"][name])

    def arguments(self, call: str) -> dict[str, Any]:
        return {name: self._value(value) for name, value in self.entry["calls"][call]["args"].items()}

    def _value(self, said: Mapping[str, Any]) -> Any:
        if "tensor" in said:
            return self.tensors[said["tensor"]]
        if "image" in said:
            return self.tensors[said["image"]]
        if "dict" in said:
            return {k: self._value(v) for k, v in said["dict"].items()}
        if "list" in said:
            return [self._value(v) for v in said["list"]]
        return said["value"]

    def first_call(self) -> tuple[dict[str, Any], Tensor]:
        """The first call of a recorded pipeline's denoiser, and what it said."""
        given: dict[str, Any] = {}
        for name, value in self.tensors.items():
            if name.startswith("denoiser/first/in/"):
                *path, last = name.removeprefix("denoiser/first/in/").split("/")
                node = given
                for part in path:
                    node = node.setdefault(part, {})
                node[last] = value
        return given, self.tensors["denoiser/first/out"]

    def agrees(self, call: str, output: str, ours: Tensor, exact: Tensor | None = None) -> float:
        """Our error over the one allowed: 10 times the peer's own in float32, and 1e-5 of the largest value. Asserts it.

        `exact` is what the peer says in float64, for calls whose own error the manifest does not tell.
        """
        recorded = self.entry["calls"][call]
        theirs = self.tensors[recorded["outputs"][output]]
        said = recorded["fp64"].get(output) or {}
        own = said.get("float32_error", 0.0) if exact is None else float((theirs.double() - exact).abs().max())
        largest = float(theirs.abs().max())
        allowed = max(10 * own, 1e-5 * largest)
        assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
        error = float((ours.double() - theirs.double()).abs().max())
        assert error <= allowed, (
            f"{self.entry['dir']} {call} {output}: error {error:.3g}, allowed {allowed:.3g}, largest {largest:.3g}"
        )
        return error / allowed

    def goes_back(
        self, component: str, part: Component, net: nn.Module, file: str = "diffusion_pytorch_model.safetensors"
    ) -> None:
        """The network's tensors, in the published layout, are those of the file: same names, same bytes."""
        path = self.dir / component / file
        theirs, ours = load(path), published(net, part.keys(self.config(component), net))
        assert set(ours) == {e.name for e in read_header(path).entries}
        for name, value in theirs.items():
            assert value.dtype == ours[name].dtype and torch.equal(value, ours[name]), name


@lru_cache(maxsize=8)
def _loaded(path: Path) -> dict[str, Tensor]:
    return load(path)
