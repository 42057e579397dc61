"""A training step (forward, backward, clipping, AdamW, weight average) beside the peers' own loops, in one run.

    python bench/training.py --out bench/results/training.csv
    python bench/training.py --compiled --networks dit-s        # torch.compile takes minutes
    python bench/training.py --gpu --networks dit-b unet --batch 64

Every contender takes one step in turn, round after round, so that a neighbour's load falls on all of them; one thread on the
CPU, timed in CPU time of the process (wall time stands beside it), in CUDA events on a GPU. Memory is measured in a process
of its own per contender: the highest resident set of two steps above what the imports left (on a GPU, the most allocated).
Ours is `Trainer.update`; diffusers runs the loop of its train_unconditional example under accelerate, and
denoising-diffusion-pytorch (lucidrains) that of its Trainer, whose pictures come from memory here as they do for all. Peers are
measured where installed (pip install diffusers accelerate; pip install --no-deps denoising-diffusion-pytorch ema-pytorch).
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import langevin as lv
from langevin.training.trainer import Trainer

Step = Callable[[], object]
ADAM = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.01}
# (channels, side) of the data, then the U-Net's or the transformer's own shape
SHAPES = {
    "unet": ((3, 32), {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2}),
    "dit-s": ((4, 32), {"width": 384, "depth": 12, "heads": 6}),
    "dit-b": ((4, 32), {"width": 768, "depth": 12, "heads": 12}),
    "unet-tiny": ((3, 8), {"width": 32, "multipliers": (1, 2), "blocks": 1}),
    "dit-tiny": ((4, 8), {"width": 64, "depth": 2, "heads": 2}),
}
PEERS = ("langevin", "diffusers", "lucidrains")
MODES = ("float32", "float32 channels_last", "bf16 autocast", "bf16 weights")


def data(network: str, rows: int) -> Tensor:
    channels, side = SHAPES[network][0]
    return torch.rand(rows, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def prepared(model: nn.Module, mode: str, device: str) -> nn.Module:
    """The model on its device, in the mode's dtype and memory format."""
    model = model.to(device, torch.bfloat16 if mode.startswith("bf16 weights") else torch.float32)
    if "channels_last" in mode:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if "compiled" in mode:
        model.compile()
    return model


def ours(network: str, mode: str, batch: int, device: str) -> tuple[Step, nn.Module]:
    (channels, side), shape = SHAPES[network]
    if network.startswith("unet"):
        net = lv.networks.UNet(channels, attention=(1,), head_width=256, dropout=0.1, time="add", **shape)
    else:
        net = lv.networks.DiT(channels, side, 2, classes=1000, **shape)
    denoiser = lv.Denoiser(prepared(net, mode, device), lv.Gaussian(lv.schedules.betas("linear")), "eps")
    precision = "bfloat16" if "autocast" in mode else "float32"
    x = data(network, 4 * batch)
    labels = None if network.startswith("unet") else {"label": torch.arange(len(x)) % 1000}
    config = lv.config.TrainConfig(batch=batch, lr=1e-4, betas=(0.9, 0.999), ema=0.9999, precision=precision)
    trainer = Trainer(denoiser, lv.data.Arrays(x, labels), lv.objectives.Denoising(), config)
    return trainer.update, net


def diffusers(network: str, mode: str, batch: int, device: str) -> tuple[Step, nn.Module]:
    import diffusers as peer
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    (channels, side), shape = SHAPES[network]
    if network.startswith("unet"):
        kinds = [i == 1 for i in range(len(shape["multipliers"]))]
        net = peer.UNet2DModel(
            sample_size=side, in_channels=channels, out_channels=channels, layers_per_block=shape["blocks"], dropout=0.1,
            block_out_channels=[m * shape["width"] for m in shape["multipliers"]], norm_eps=1e-6, attention_head_dim=None,
            down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in kinds],
            up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(kinds)],
            norm_num_groups=min(32, shape["width"] // 4), downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        )  # fmt: skip
    else:
        net = peer.DiTTransformer2DModel(
            num_attention_heads=shape["heads"], attention_head_dim=shape["width"] // shape["heads"], in_channels=channels,
            out_channels=channels, num_layers=shape["depth"], sample_size=side, patch_size=2,
        )  # fmt: skip
    net = prepared(net, mode, device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if "autocast" in mode else "no")
    net, optimiser = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), **ADAM))
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True)
    average.to(accelerator.device)
    schedule = peer.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    x = data(network, 4 * batch).to(device, next(net.parameters()).dtype)
    net.train()

    def step() -> None:
        clean = x[torch.randint(len(x), (batch,))]
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        t = torch.randint(0, 1000, (batch,), device=clean.device)
        noisy = schedule.add_noise(clean, noise, t)
        with accelerator.accumulate(net):
            extra = {} if network.startswith("unet") else {"class_labels": torch.randint(0, 1000, (batch,), device=clean.device)}
            loss = F.mse_loss(net(noisy, t, **extra).sample.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
        average.step(net.parameters())
        loss.detach().item()

    return step, net


def lucidrains(network: str, mode: str, batch: int, device: str) -> tuple[Step, nn.Module]:
    # torchvision is used for its pictures from folders alone; ours come from memory
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    for name in ("transforms", "utils"):
        setattr(sys.modules["torchvision"], name, sys.modules[f"torchvision.{name}"])
    from accelerate import Accelerator
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    (channels, side), shape = SHAPES[network]
    count = len(shape["multipliers"])
    net = Unet(
        shape["width"], channels=channels, dim_mults=tuple(shape["multipliers"]), dropout=0.1, flash_attn=True,
        full_attn=tuple(i == 1 for i in range(count)),
    )  # fmt: skip
    net = prepared(net, mode, device)
    model = GaussianDiffusion(net, image_size=side, objective="pred_noise", beta_schedule="linear", auto_normalize=False)
    model.to(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if "autocast" in mode else "no")
    average = EMA(model, beta=0.995, update_every=10)
    model, optimiser = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99)))
    x = data(network, 4 * batch).to(device, next(net.parameters()).dtype)

    def step() -> None:
        model.train()
        clean = x[torch.randint(len(x), (batch,))]
        with accelerator.autocast():
            loss = model(clean)
            loss.item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.update()

    return step, net


BUILD = {"langevin": ours, "diffusers": diffusers, "lucidrains": lucidrains}


def built(who: str, network: str, mode: str, batch: int, device: str) -> tuple[Step, nn.Module] | None:
    """The contender, or None where the peer has no such network, cannot run the mode, or is not installed."""
    if who == "lucidrains" and not network.startswith("unet"):
        return None
    torch.manual_seed(0)
    try:
        step, net = BUILD[who](network, mode, batch, device)
        step()  # a first step allocates the optimiser's state, and compiles
    except (ImportError, RuntimeError) as error:
        print(f"{network} {mode}: {who} is left out: {str(error).splitlines()[0]}")
        return None
    return step, net


def resident() -> int:
    """Highest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(who: str, network: str, mode: str, batch: int, device: str) -> int:
    """Bytes that a training step needs at most, above what the imports of all contenders took."""
    import accelerate  # noqa: F401
    import diffusers

    _ = diffusers.UNet2DModel, diffusers.DiTTransformer2DModel, diffusers.DDPMScheduler
    before = resident()
    made = built(who, network, mode, batch, device)
    if made is None:
        return 0
    made[0]()
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident() - before


def memory_apart(*what: object) -> float:
    """`memory` in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--memory-of", json.dumps(what)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return int(told) / 2**20


def timed(step: Step, device: str) -> tuple[float, float]:
    """(seconds, wall seconds) of a step: CPU time on the CPU, time between events on a GPU."""
    wall = time.perf_counter()
    if device == "cuda":
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        step()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3, time.perf_counter() - wall
    spent = time.process_time()
    step()
    return time.process_time() - spent, time.perf_counter() - wall


def flops(network: str, batch: int) -> int:
    """Of our network's forward and backward pass, by torch's counter (matrix products and convolutions)."""
    from torch.utils.flop_counter import FlopCounterMode

    step, _ = ours(network, "float32", batch, "cpu")
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(network: str, modes: list[str], batch: int, rounds: int, device: str, peak: float | None) -> list[list[object]]:
    steps: dict[tuple[str, str], Step] = {}
    sizes: dict[tuple[str, str], int] = {}
    for mode in modes:
        for who in PEERS:
            made = built(who, network, mode, batch, device)
            if made is not None:
                steps[who, mode], sizes[who, mode] = made[0], sum(p.numel() for p in made[1].parameters())
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            spent[key].append(timed(step, device))
    steps.clear()
    middle = {key: statistics.median(t for t, _ in times) for key, times in spent.items()}
    fastest = min((middle[key] for key in spent if key[0] != "langevin"), default=float("nan"))
    work = flops(network, batch) if peak else 0
    rows = []
    for (who, mode), times in spent.items():
        key, seconds = (who, mode), sorted(t for t, _ in times)
        peers = [middle[k] for k in spent if k[1] == mode and k[0] != "langevin"]
        mib = memory_apart(who, network, mode, batch, device)
        row = {
            "network": network, "batch": batch, "mode": mode, "who": who, "parameters": sizes[key],
            "seconds": round(middle[key], 4), "least": round(seconds[0], 4), "most": round(seconds[-1], 4),
            "wall": round(statistics.median(w for _, w in times), 4), "samples_per_second": round(batch / middle[key], 2),
            "faster_than_best_peer_in_mode": round(min(peers) / middle[key], 3) if peers and who == "langevin" else "",
            "faster_than_best_peer": round(fastest / middle[key], 3) if who == "langevin" else "",
            "peak_mib": round(mib), "mfu": round(work / middle[key] / peak, 3) if peak else "",
        }  # fmt: skip
        rows.append(row)
        beside = f"{min(peers) / middle[key]:.2f} x the best peer in this mode" if peers and who == "langevin" else ""
        print(
            f"{network:6} {mode:22} {who:11} {sizes[key] / 1e6:5.1f}M {middle[key] * 1e3:8.1f} ms "
            f"({seconds[0] * 1e3:.1f} .. {seconds[-1] * 1e3:.1f}) {mib:7.0f} MiB {row['mfu']} {beside}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="CSV file; rows are printed in any case")
    parser.add_argument("--networks", nargs="+", default=["unet", "dit-s"], choices=list(SHAPES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--compiled", action="store_true", help="each mode under torch.compile instead")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--peak", type=float, default=None, help="FLOP/s of the device in this dtype, for the share of it used")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(memory(*json.loads(args.memory_of)))
        return
    modes = [f"{mode} compiled" for mode in args.modes] if args.compiled else args.modes
    rows = []
    for network in args.networks:
        chosen = [m for m in modes if network.startswith("unet") or "channels_last" not in m]
        rows += measure(network, chosen, args.batch, args.rounds, "cuda" if args.gpu else "cpu", args.peak)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
