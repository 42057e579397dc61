"""Published networks at full size with random weights, ours beside diffusers' with the same weights, in one run.

    python bench/networks.py                                  # the networks below, float32 and bfloat16, eager
    python bench/networks.py --networks dit-xl2 --compiled    # torch.compile takes minutes
    python bench/networks.py --start                          # from process start to the first denoising step, tiny checkpoint
    python bench/networks.py --gpu --networks sd15 dit-xl2 decoder sdxl

The peer makes each network from its published configuration, draws the weights and saves them as it publishes them; both sides
load that folder, each in a process of its own, and take a forward pass in turn, round after round, so that a neighbour's load
falls on both. Times are CPU seconds of the process over the number of threads, OMP_NUM_THREADS or 2 (wall seconds beside them;
CUDA events on a GPU); loading is the second of two loads in wall time, so that the file stands in memory for both. Peak memory is
the highest resident set above that of the process with its imports. Every row gives the difference of the two outputs over the
largest value.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from contenders import Contender, resident, timed
from rows import parsed, replace
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
# class of the peer, its configuration, and the shapes of a call
NETWORKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "sd15": (
        "UNet2DConditionModel",
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "2x4x64x64, 77 tokens of 768",
    ),
    "decoder": (
        "AutoencoderKL",
        {
            "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
        "1x4x64x64 to 1x3x512x512",
    ),
    "dit-xl2": (
        "DiTTransformer2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 32, "out_channels": 8},
        "2x4x32x32, labels",
    ),
    "sdxl": (
        "UNet2DConditionModel",
        {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        "2x4x64x64, 77 tokens of 2048",
    ),
}  # fmt: skip
MODES = ("float32", "float32 channels_last", "bfloat16", "bfloat16 channels_last")


def inputs(network: str, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """What a call is given, the same on both sides."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, dtype)

    if network == "decoder":
        return {"z": normal(1, 4, 64, 64)}
    made = {"z": normal(2, 4, 32, 32) if network == "dit-xl2" else normal(2, 4, 64, 64), "t": torch.full((2,), 500.0)}
    made["t"] = made["t"].to(device)
    if network == "dit-xl2":
        return {**made, "label": torch.tensor([1, 2], device=device)}
    made["tokens"] = normal(2, 77, 768 if network == "sd15" else 2048)
    if network == "sdxl":
        made |= {"pooled": normal(2, 1280), "size": torch.tensor([[512.0, 512, 0, 0, 512, 512]] * 2, device=device).to(dtype)}
    return made


def save(network: str, folder: Path) -> None:
    """The peer's network with weights drawn at random, none of them zero, as it publishes them."""
    import diffusers

    name, config, _ = NETWORKS[network]
    net = getattr(diffusers, name)(**config)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            wide = p.ndim > 1
            p.copy_(torch.randn(p.shape, generator=g) * (0.5 / p[0].numel() ** 0.5 if wide else 0.1) + (not wide))
    if network == "dit-xl2":  # its publishers have one embedder, which this layout copies into every block
        for block in net.transformer_blocks:
            block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    net.save_pretrained(folder, max_shard_size="100GB")


class Decoder(nn.Module):
    """An autoencoder as a network that decodes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Any:
        return self.net.decode(z)  # pyright: ignore[reportCallIssue]


def ours(network: str, folder: str, dtype: torch.dtype) -> nn.Module:
    import langevin as lv

    net = lv.load(folder, dtype=dtype)
    return Decoder(net) if network == "decoder" else net


def diffusers(network: str, folder: str, dtype: torch.dtype) -> nn.Module:
    import diffusers as peer

    net = getattr(peer, NETWORKS[network][0]).from_pretrained(folder, torch_dtype=dtype).eval()
    return Decoder(net) if network == "decoder" else net


def called(who: str, network: str, net: nn.Module, given: dict[str, Tensor]) -> Tensor:
    if network == "decoder":
        out = net(given["z"])
        return out if who == "langevin" else out.sample
    if who == "langevin":
        return net(given["z"], given["t"], {n: v for n, v in given.items() if n not in ("z", "t")})
    if network == "dit-xl2":
        return net(given["z"], given["t"], class_labels=given["label"]).sample
    extra = {}
    if network == "sdxl":
        extra = {"added_cond_kwargs": {"text_embeds": given["pooled"], "time_ids": given["size"]}}
    return net(given["z"], given["t"], encoder_hidden_states=given["tokens"], **extra).sample


LOAD = {"langevin": ours, "diffusers": diffusers}


def worker(who: str, network: str, mode: str, folder: str, device: str) -> None:
    """One side in a process of its own: a forward pass for each line read."""
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    dtype = torch.bfloat16 if mode.startswith("bfloat16") else torch.float32
    try:
        __import__("langevin.zoo.load" if who == "langevin" else "diffusers")
        LOAD[who](network, folder, dtype)
        begun = time.perf_counter()
        before = resident()
        net = LOAD[who](network, folder, dtype).to(device)
        loading = time.perf_counter() - begun
        if "channels_last" in mode:
            net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if "packed" in mode and who == "langevin":
            from langevin.networks.packing import pack

            net = pack(net)
        if "compiled" in mode:
            net.compile()
        given = inputs(network, dtype, device)
        with torch.no_grad():
            out = called(who, network, net, given)
            torch.save(out.float().cpu(), Path(folder) / f"{who}.out")
            called(who, network, net, given)
    except (ImportError, RuntimeError, AttributeError, ValueError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]}), flush=True)
        return
    print(json.dumps({"parameters": sum(p.numel() for p in net.parameters()), "loading": loading}), flush=True)
    for _ in sys.stdin:
        with torch.no_grad():
            spent, wall = timed(lambda: called(who, network, net, given), device)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident() - before
        print(json.dumps({"spent": spent / (THREADS if device == "cpu" else 1), "wall": wall, "peak": peak}), flush=True)
    print(json.dumps({"done": 1}), flush=True)


def measure(network: str, modes: list[str], rounds: int, device: str, keep: Path | None) -> list[dict[str, Any]]:
    rows = []
    folder = Path(tempfile.mkdtemp(dir=keep)) / network
    try:
        # in a process of its own, so that its memory is gone afterwards
        subprocess.run([sys.executable, __file__, "--save", network, str(folder)], check=True)
        for mode in modes:
            sides = [Contender(__file__, who, network, mode, str(folder), device) for who in LOAD]
            for one in [s for s in sides if "error" in s.told]:
                print(f"{network} {mode}: {one.who} is left out: {one.told['error']}", flush=True)
            sides = [s for s in sides if "error" not in s.told]
            for _ in range(rounds):
                for one in sides:
                    one.step()
            outs = [torch.load(folder / f"{s.who}.out", weights_only=True) for s in sides]
            error = float((outs[0] - outs[-1]).abs().max() / outs[-1].abs().max())
            for one in sides:
                one.end()
                spent = sorted(t["spent"] for t in one.times)
                rows.append({
                    "network": network, "call": NETWORKS[network][2], "mode": mode, "who": one.who,
                    "parameters": one.told["parameters"], "seconds": round(one.middle("spent"), 4), "least": round(spent[0], 4),
                    "most": round(spent[-1], 4), "wall": round(one.middle("wall"), 4), "loading": round(one.told["loading"], 3),
                    "peak_mib": round(one.middle("peak") / 2**20), "difference": f"{error:.2g}",
                })  # fmt: skip
                print({k: v for k, v in rows[-1].items() if k != "call"}, flush=True)
        report(network, [r for r in rows if r["network"] == network])
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return rows


def report(network: str, rows: list[dict[str, Any]]) -> None:
    for dtype in dict.fromkeys(r["mode"].split()[0] for r in rows):
        best = {}
        for who in LOAD:
            mine = [r for r in rows if r["who"] == who and r["mode"].startswith(dtype)]
            if mine:
                best[who] = min(mine, key=lambda r: r["seconds"])
        if len(best) == 2:
            a, b = best["langevin"], best["diffusers"]
            print(
                f"{network} {dtype}, best mode of each ({a['mode']}; {b['mode']}): "
                f"{a['seconds'] / b['seconds']:.2f} of the peer's time, {a['peak_mib'] / b['peak_mib']:.2f} of its memory, "
                f"{a['loading'] / b['loading']:.2f} of its loading",
                flush=True,
            )


FIRST = """
import sys, time
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
def stop(p, i, t, kw):
    print("first step", flush=True)
    raise SystemExit(0)
pipe("a red bicycle", num_inference_steps=2, callback_on_step_end=stop)
"""


def start(folder: str, rounds: int) -> list[dict[str, Any]]:
    """From process start to the end of the first denoising step, wall seconds, on a pipeline folder."""
    commands = {
        "langevin": [
            sys.executable,
            "-m",
            "langevin",
            "generate",
            folder,
            "a red bicycle",
            "--steps",
            "1",
            "--size",
            "64x64",
        ],
        "diffusers": [sys.executable, "-c", FIRST, folder],
    }
    times: dict[str, list[float]] = {who: [] for who in commands}
    with tempfile.TemporaryDirectory() as out:
        for _ in range(rounds + 1):
            for who, command in commands.items():
                extra = ["--out", str(Path(out) / "picture.png")] if who == "langevin" else []
                begun = time.perf_counter()
                subprocess.run([*command, *extra], check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
                times[who].append(time.perf_counter() - begun)
    rows = []
    for who, every in times.items():
        kept = sorted(every[1:])
        row = {"network": "start", "call": "to the first step", "mode": "tiny checkpoint", "who": who}
        rows.append({**row, "wall": round(kept[len(kept) // 2], 3), "least": round(kept[0], 3), "most": round(kept[-1], 3)})
        print(rows[-1], flush=True)
    return rows


FIELDS = ("network", "call", "mode", "who", "parameters", "seconds", "least", "most", "wall", "loading", "peak_mib", "difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "networks.csv")
    parser.add_argument("--networks", nargs="*", default=["sd15", "decoder", "dit-xl2"], choices=list(NETWORKS))
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--compiled", action="store_true", help="each mode under torch.compile instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--start", default=None, help="a pipeline folder; measures the time to its first step alone")
    parser.add_argument("--folder", type=Path, default=None, help="where weights are kept meanwhile")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--save", nargs=2, default=None, help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.worker:
        worker(*json.loads(args.worker))
        return
    if args.save:
        save(args.save[0], Path(args.save[1]))
        return
    modes = [f"{mode} compiled" for mode in args.modes] if args.compiled else args.modes
    rows: list[dict[str, Any]] = []
    if args.start:
        rows += start(args.start, args.rounds)
    else:
        for network in args.networks:
            chosen = [m for m in modes if network != "dit-xl2" or "channels_last" not in m]
            rows += measure(network, chosen, args.rounds, "cuda" if args.gpu else "cpu", args.folder)
    replace(args.out, FIELDS, rows, ("network", "mode", "who"))


if __name__ == "__main__":
    main()
