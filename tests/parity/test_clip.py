"""CLIP's text encoders beside transformers'."""

import json

import pytest
import torch

from langevin.networks.text import TextEncoder
from langevin.zoo.families.clip import COMPONENTS
from tests.parity.goldens import Goldens

PARTS = {part.name: part for part in COMPONENTS}
FILE = "model.safetensors"


@pytest.mark.parametrize("name", ["clip_l", "open_clip_h", "open_clip_bigg", "clip_eos_id"])
def test_states_are_the_peers(goldens: Goldens, name: str):
    case = goldens.case("text_encoders", name)
    part = PARTS[case.entry["components"]["text_encoder"]["class"]]
    net = case.network("text_encoder", part, FILE)
    with torch.no_grad():
        said = net(case.argument("encode", "input_ids"))
    ours = {"last_hidden_state": said.last, "pooler_output": said.pooled, "text_embeds": said.pooled}
    ours |= {f"hidden_states/{i}": h for i, h in enumerate(said.hidden)}
    outputs = case.entry["calls"]["encode"]["outputs"]
    assert {"last_hidden_state", "hidden_states/0"} <= set(outputs)
    for output in outputs:
        case.agrees("encode", output, ours[output])
    case.goes_back("text_encoder", part, net, FILE)
    # what is published of a network made here builds the same network
    again = part.build(json.loads(json.dumps(part.config(net)))) if part.config else None
    assert again is not None and {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    assert isinstance(again, TextEncoder) and again.end == net.end


def test_files_with_positions_are_read(goldens: Goldens):
    case = goldens.case("text_encoders", "clip_l")
    plain = case.network("text_encoder", PARTS["CLIPTextModel"], FILE)
    older = case.network("text_encoder", PARTS["CLIPTextModel"], "../with_position_ids/model.safetensors")
    for (name, a), b in zip(plain.state_dict().items(), older.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
