"""FLUX.1 Redux as diffusers publishes it: a picture encoder (transformers' SigLIP, loaded strictly), and two layers that make of
its tokens what FLUX takes for tokens of a text."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.linear import Linear
from langevin.zoo.configs import filled
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import KeyMap


class Redux(nn.Module):
    """Tokens of a picture (B, L, width) -> tokens beside a text's (B, L, text)."""

    def __init__(self, width: int = 1152, text: int = 4096) -> None:
        super().__init__()
        self.up, self.down = Linear(width, 3 * text), Linear(3 * text, text)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class Sight(nn.Module):
    """Pictures (B, 3, side, side) in [-1, 1] -> tokens (B, L, D) after the last norm.

    Args:
        model: of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.side = model, int(model.config.image_size)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pixel_values=pictures).last_hidden_state


def _build(config: Config) -> nn.Module:
    c = filled(config, {"redux_dim": 1152, "txt_in_features": 4096}, "ReduxImageEncoder")
    return Redux(c["redux_dim"], c["txt_in_features"])


def _sight(config: Config) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise ImportError("this picture encoder needs transformers; install the extra: pip install 'langevin[text]'.") from None
    # code that a repository brings along is never asked for
    plain = {k: v for k, v in config.items() if k not in ("model_type", "auto_map", "architectures", "transformers_version")}
    return Sight(transformers.AutoModel.from_config(transformers.AutoConfig.for_model("siglip_vision_model", **plain)))


def _config(net: nn.Module) -> dict[str, Any]:
    net = of_kind(net, Redux)
    return {"_class_name": "ReduxImageEncoder", "redux_dim": net.up.in_features, "txt_in_features": net.down.out_features}


COMPONENTS = (
    Component("ReduxImageEncoder", _build, lambda config, net: KeyMap(renames=((r"^(up|down)\.", r"redux_\1."),)), _config),
    Component(
        "SiglipVisionModel",
        _sight,
        lambda config, net: KeyMap(renames=((r"^model\.", ""),), aliases=((r"^(model\.)?vision_model\.", ""),)),
    ),
)
