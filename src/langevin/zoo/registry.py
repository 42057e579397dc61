"""Which file of `zoo/families` knows a published class. Files are imported when one of theirs is asked for."""

import importlib
import pkgutil

from langevin import spec
from langevin.zoo.family import Component

PLACES: dict[str, str] = {
    "AutoencoderKL": "autoencoders", "VQModel": "autoencoders", "AutoencoderTiny": "autoencoders",
    "AutoencoderDC": "autoencoders", "CLIPTextModel": "clip", "CLIPTextModelWithProjection": "clip",
    "CLIPVisionModel": "clip", "CLIPVisionModelWithProjection": "clip", "DiTTransformer2DModel": "dit",
    "FluxTransformer2DModel": "flux", "GemmaModel": "language", "GemmaForCausalLM": "language", "Gemma2Model": "language",
    "Gemma2ForCausalLM": "language", "LlamaModel": "language", "LlamaForCausalLM": "language", "Qwen2Model": "language",
    "Qwen2ForCausalLM": "language", "Qwen3Model": "language", "Qwen3ForCausalLM": "language",
    "Lumina2Transformer2DModel": "lumina", "PixArtTransformer2DModel": "pixart", "SanaTransformer2DModel": "sana",
    "UNet2DConditionModel": "stable_diffusion", "ControlNetModel": "stable_diffusion",
    "ReduxImageEncoder": "redux", "SiglipVisionModel": "redux",
    "SD3Transformer2DModel": "stable_diffusion_3", "T5EncoderModel": "t5", "UMT5EncoderModel": "t5",
    "UNet2DModel": "unconditional", "NCSNpp": "score_sde",
}  # fmt: skip
"""The file of each class; those that are not listed are looked for in all files, which takes longer."""


def component(name: str) -> Component:
    """The component of a class such as UNet2DConditionModel.

    Raises:
        ValueError: naming the nearest class, if there is none.
    """
    if name in PLACES:
        found = _of(PLACES[name])
        if name in found:
            return found[name]
    known: dict[str, Component] = {}
    for place in places():
        known.update(_of(place))
    if name not in known:
        near = f"; did you mean {spec.nearest(name, list(known))!r}?" if known else "."
        raise ValueError(f"the class is {name!r}, and no family here builds it{near}")
    return known[name]


def components() -> list[Component]:
    """All there are."""
    return [part for place in places() for part in _of(place).values()]


def places() -> list[str]:
    """The files there are."""
    from langevin.zoo import families

    return sorted(module.name for module in pkgutil.iter_modules(families.__path__))


def _of(place: str) -> dict[str, Component]:
    module = importlib.import_module(f"langevin.zoo.families.{place}")
    return {part.name: part for part in module.COMPONENTS}
