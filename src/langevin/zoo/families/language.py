"""Language models whose hidden states are read as text (Sana, Lumina 2): transformers' own modules, loaded strictly."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from langevin.zoo.family import Component, Config
from langevin.zoo.keys import KeyMap


@dataclass(frozen=True)
class Said:
    """Hidden states (B, L, D) before the first layer and after each, the last one normed."""

    hidden: list[Tensor]
    last: Tensor
    pooled: None = None


class Language(nn.Module):
    """Token ids (B, L) and a mask (B, L) bool -> `Said`.

    Args:
        model: of transformers, without its head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.width = model, int(model.config.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Said:
        made = self.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return Said(list(made.hidden_states), made.last_hidden_state)


def _build(kind: str) -> Callable[[Config], nn.Module]:
    def build(config: Config) -> nn.Module:
        try:
            import transformers
        except ImportError:
            raise ImportError("this text encoder needs transformers; install the extra: pip install 'langevin[text]'.") from None
        # code that a repository brings along is never asked for
        plain = {k: v for k, v in config.items() if k not in ("model_type", "auto_map", "architectures", "transformers_version")}
        made = transformers.AutoConfig.for_model(kind, **plain)
        return Language(transformers.AutoModel.from_config(made))

    return build


def _keys(config: Config, net: nn.Module) -> KeyMap:
    return KeyMap(
        renames=((r"^model\.", ""),),
        aliases=((r"^model\.", ""),),
        ignored=((r"lm_head\.weight", "the head"), (r".*rotary_emb\.inv_freq", "computed")),
    )


KINDS = {"Gemma": "gemma", "Gemma2": "gemma2", "Llama": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}
COMPONENTS = tuple(
    Component(f"{name}{role}", _build(kind), _keys) for name, kind in KINDS.items() for role in ("Model", "ForCausalLM")
)
