"""A training step (forward, backward, clipping, AdamW, weight average) beside the peers' own loops, in one run.

    python bench/training.py --out bench/results/training.csv
    python bench/training.py --compiled --networks dit-s        # torch.compile takes minutes
    python bench/training.py --gpu --networks dit-b unet --batch 64

Every contender lives in a process of its own and they take a step in turn, round after round, so that a neighbour's load falls
on all of them. One thread on the CPU, timed in CPU time of the process (wall time stands beside it); CUDA events on a GPU.
Memory is the highest resident set of that process above what it had after a step of a tiny network, which is what its imports
took (on a GPU, the most allocated). With checkpointing, the operations counted hold those done again. Ours is
`Trainer.update`; diffusers runs the loop of its train_unconditional example under accelerate, and denoising-diffusion-pytorch
(lucidrains) that of its Trainer, whose pictures come from memory here as they do for all; its U-Net is another architecture, and
is made 144 wide to have as many parameters as the other two, which are the same to the parameter. Peers are measured where
installed (pip install diffusers accelerate; pip install --no-deps denoising-diffusion-pytorch ema-pytorch).
"""

import argparse
import json
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import Contender, Step, resident, timed
from rows import parsed, write
from torch import Tensor, nn

import langevin as lv
from langevin.training.trainer import Trainer

ADAM = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.01}
# (channels, side) of the data, then the U-Net's or the transformer's own shape
SHAPES = {
    "unet": ((3, 32), {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2}),
    "dit-s": ((4, 32), {"width": 384, "depth": 12, "heads": 6}),
    "dit-b": ((4, 32), {"width": 768, "depth": 12, "heads": 12}),
    "unet-tiny": ((3, 8), {"width": 32, "multipliers": (1, 2), "blocks": 1}),
    "dit-tiny": ((4, 8), {"width": 64, "depth": 2, "heads": 2}),
}
MODES = ("float32", "float32 channels_last", "bf16 autocast", "bf16 weights", "float32 checkpointing")
# dense FLOP/s in (float32, bfloat16), by the makers' data sheets, by a part of the device's name
PEAKS = {"H100": (67e12, 989e12), "H200": (67e12, 989e12), "A100": (19.5e12, 312e12), "L40S": (91.6e12, 362e12)}


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
    config = lv.config.TrainConfig(
        batch=batch, lr=1e-4, betas=(0.9, 0.999), ema=0.9999, precision=precision,
        activation_checkpointing="checkpointing" in mode,
    )  # fmt: skip
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
    if "checkpointing" in mode:
        net.enable_gradient_checkpointing()
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

    if "checkpointing" in mode:
        raise RuntimeError("it has no activation checkpointing")
    (channels, side), shape = SHAPES[network]
    count = len(shape["multipliers"])
    net = Unet(
        shape["width"] * 9 // 8, channels=channels, dim_mults=tuple(shape["multipliers"]), dropout=0.1, flash_attn=True,
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


def work(step: Step) -> int:
    """Floating point operations of a step's matrix products and convolutions, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    def products(x: tuple[int, ...], w: tuple[int, ...], *rest: object, **named: object) -> int:
        return 2 * x[0] * x[1] * w[0]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: products}) as counter:
        step()
    return counter.get_total_flops()


def worker(who: str, network: str, mode: str, batch: int, device: str) -> None:
    """One contender in a process of its own: a step for each line read, and what it took for each line written."""
    plain = mode.replace(" compiled", "")
    try:
        step, net = BUILD[who](f"{network.partition('-')[0]}-tiny", plain, 2, device)
        step()  # imports what it needs when it needs it: torch's optimisers alone bring 150 MiB
        del step, net
        before = resident()
        torch.manual_seed(0)
        step, net = BUILD[who](network, mode, batch, device)
        step()  # allocates the optimiser's state, and compiles
        step()
    except (ImportError, RuntimeError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]}), flush=True)
        return
    print(json.dumps({"parameters": sum(p.numel() for p in net.parameters())}), flush=True)
    for _ in sys.stdin:
        spent, wall = timed(step, device)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident() - before
        print(json.dumps({"spent": spent, "wall": wall, "peak": peak}), flush=True)
    if "compiled" in mode:  # the counter sees no compiled products: count those of the same step as written
        del step, net
        step, net = BUILD[who](network, plain, batch, device)
    print(json.dumps({"work": work(step)}), flush=True)


def fastest(mode: str, device: str) -> float | None:
    """The most FLOP/s of the device in the mode's dtype, where known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peaks["bf16" in mode] for part, peaks in PEAKS.items() if part in name), None)


def measure(network: str, modes: list[str], batch: int, rounds: int, device: str, peak: float | None) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for mode in modes:
        everyone = []
        for who in BUILD:
            if who == "lucidrains" and not network.startswith("unet"):
                continue
            one = Contender(__file__, who, network, mode, batch, device)
            if "error" in one.told:
                print(f"{network} {mode}: {who} is left out: {one.told['error']}", flush=True)
            else:
                everyone.append(one)
        for _ in range(rounds):
            for one in everyone:
                one.step()
        most = peak or fastest(mode, device)
        for one in everyone:
            one.end()
            seconds = sorted(t["spent"] for t in one.times)
            row = {
                "network": network, "batch": batch, "mode": mode, "who": one.who, "parameters": one.told["parameters"],
                "gflop": round(one.told["work"] / 1e9, 1), "seconds": round(one.middle("spent"), 4),
                "least": round(seconds[0], 4), "most": round(seconds[-1], 4), "wall": round(one.middle("wall"), 4),
                "samples_per_second": round(batch / one.middle("spent"), 2), "peak_mib": round(one.middle("peak") / 2**20),
                "mfu": round(one.told["work"] / one.middle("spent") / most, 3) if most else "",
            }  # fmt: skip
            rows.append(row)
            print(
                f"{network:6} {mode:22} {one.who:11} {one.told['parameters'] / 1e6:5.1f}M {row['gflop']:7.1f} GFLOP "
                f"{one.middle('spent') * 1e3:8.1f} ms ({seconds[0] * 1e3:.1f} .. {seconds[-1] * 1e3:.1f}) "
                f"{row['peak_mib']:6} MiB {row['mfu']}",
                flush=True,
            )
    for name, chosen in [*[(m, [r for r in rows if r["mode"] == m]) for m in modes], ("best mode of each", rows)]:
        best = {who: min(float(r["seconds"]) for r in chosen if r["who"] == who) for who in {r["who"] for r in chosen}}  # pyright: ignore[reportArgumentType]
        for who in sorted(set(best) - {"langevin"}):
            if "langevin" in best:
                print(f"{network:6} {name:22} langevin is {best[who] / best['langevin']:.2f} times as fast as {who}")
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
    parser.add_argument("--peak", type=float, default=None, help="FLOP/s of the device, if not known by name")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    args = parsed(parser)
    torch.set_num_threads(1)
    if args.worker:
        worker(*json.loads(args.worker))
        return
    modes = [f"{mode} compiled" for mode in args.modes] if args.compiled else args.modes
    rows = []
    for network in args.networks:
        chosen = [m for m in modes if network.startswith("unet") or "channels_last" not in m]
        rows += measure(network, chosen, args.batch, args.rounds, "cuda" if args.gpu else "cpu", args.peak)
    if args.out:
        write(args.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
