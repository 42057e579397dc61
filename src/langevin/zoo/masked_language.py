"""Published masked language models as masked diffusion: transformers' modules as the network.

A model that was trained to fill in masks at every share of them (LLaDA, 2502.09992; MDLM's and DiffuLLaMA's kind) believes what a
masked process asks for, and so every plan, guidance and task of masks runs on it. Models that met 15 % of masks alone (BERT) fill
blanks well and write badly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.messages import one_line
from langevin.core.plan import Draft, Plan
from langevin.schedules import keep_linear
from langevin.tasks.writing import infill, write


class MaskedLanguage(nn.Module):
    """A masked language model as a network: tokens (B, L), masks as one more -> logits (B, L, categories).

    Args:
        model: answers `model(input_ids=..., attention_mask=...)` with `logits` (B, L, at least categories).
        mask_id: the token that it knows as a mask.
        categories: tokens of its vocabulary.
        never: tokens that are not to be written, such as those that pad.
        shifted: it says each token one place before it, as models do that were autoregressive once.
    """

    never: Tensor
    timed = False

    def __init__(self, model: nn.Module, mask_id: int, categories: int, never: Sequence[int] = (), shifted: bool = False) -> None:
        super().__init__()
        self.model, self.mask_id, self.categories, self.shifted = model, mask_id, categories, shifted
        shut = torch.zeros(categories, dtype=torch.bool)
        shut[[mask_id, *never]] = True
        self.register_buffer("never", shut, persistent=False)

    def forward(self, z: Tensor, level: Tensor, cond: Any = None, mask: Tensor | None = None) -> Tensor:
        ids = torch.where(z == self.categories, self.mask_id, z)
        said = self.model(input_ids=ids, attention_mask=None if mask is None else mask.long()).logits[..., : self.categories]
        if self.shifted:
            said = torch.cat([said[:, :1], said[:, :-1]], 1)
        return said.masked_fill(self.never, -1e4)


@dataclass(frozen=True)
class Writer:
    """A masked language model and its tokenizer, ready to write.

    Attributes:
        denoiser: for `sample`, and whatever else takes one.
        tokenizer: of transformers.
    """

    denoiser: Denoiser
    tokenizer: Any

    def fill(
        self, text: str, plan: Plan | Draft, count: int = 1, *, blank: str | None = None, seed: int = 0, guidance: Any = None
    ) -> list[str]:
        """A text with its blanks filled, each sign `blank` (the tokenizer's own mask by default) being one token."""
        own = self.tokenizer
        # read as a whole: what a tokenizer makes of the space before a mask is its own
        tokens = torch.tensor(own.encode(text.replace(blank, own.mask_token) if blank else text, add_special_tokens=True))
        hole = tokens == own.mask_token_id
        made = infill(self.denoiser, plan, tokens, hole, count, seed=seed, guidance=guidance)
        first, last = self._frame()
        return [own.decode(row[len(first) : len(row) - len(last)].tolist()) for row in made]

    def go_on(
        self, prompt: str, plan: Plan | Draft, length: int, count: int = 1, *, seed: int = 0, guidance: Any = None,
        whole: bool = False,
    ) -> list[str]:  # fmt: skip
        """So many tokens after a prompt, up to the one that ends; of the `whole` text with the prompt."""
        first = self._frame()[0]
        before = torch.tensor([*first, *self._ids(prompt)], dtype=torch.int64)
        made = write(
            self.denoiser, plan, count, len(before) + length, prefix=before, end=self._end(), seed=seed, guidance=guidance
        )
        begin = len(first) if whole else len(before)
        return [self.tokenizer.decode(row[begin:].tolist(), skip_special_tokens=True) for row in made]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        ids, own = self.tokenizer.encode("", add_special_tokens=True), self.tokenizer
        if not ids:
            return [], []
        begins = ids[:1] if ids[0] in (own.cls_token_id, own.bos_token_id) else []
        return begins, ids[len(begins) :]

    def _end(self) -> int | None:
        own = self.tokenizer
        return own.eos_token_id if own.eos_token_id is not None else own.sep_token_id


def masked_language(
    folder: str | Path, length: int = 512, *, never: Sequence[int] = (), shifted: bool = False, device: torch.device | str = "cpu"
) -> Writer:
    """A published masked language model, of a class that transformers itself has, from a folder on this machine.

    Args:
        length: tokens it is to see at once.
        never: tokens that are not to be written, besides mask and padding.
        shifted: see `MaskedLanguage`.

    Raises:
        ImportError: without the extra `text`.
        ValueError: for a folder that is none, lacks weights, brings code along, or whose tokenizer has no mask.
    """
    try:
        import transformers
    except ImportError:
        raise ImportError("masked language models need transformers; install the extra: pip install 'langevin[text]'.") from None
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} is no published model: it has no config.json; give its folder.")
    fixed: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, info = transformers.AutoModelForMaskedLM.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **fixed
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **fixed)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is no masked language model that transformers has ({one_line(error, 300)}).") from None
    if info["missing_keys"]:
        raise ValueError(f"{folder} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}; give a whole model.")
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer of {folder} has no mask; name the token in its tokenizer_config.json.")
    categories = int(model.config.vocab_size)
    shut = {int(i) for i in (*never, tokenizer.pad_token_id) if i is not None}
    net = MaskedLanguage(model.eval().requires_grad_(False), int(tokenizer.mask_token_id), categories, sorted(shut), shifted)
    return Writer(Denoiser(net.to(device), Categorical(categories, keep_linear(), "mask"), "subs", (length,)), tokenizer)
