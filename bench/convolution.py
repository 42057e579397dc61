"""3 x 3 convolutions of pictures on this processor, in float32, as torch has them and by fewer products, in turn in one process.

    python bench/convolution.py                # the shapes of Stable Diffusion 1.5 and its decoder, and of a small U-Net
    python bench/convolution.py --rounds 21

CPU milliseconds on one thread, median and least of the rounds. `native` is `nn.Conv2d`, `winograd` what
`langevin.networks.convolution` does, its filters transformed at every call, `pack` the same with filters that were transformed
and laid out once. `chosen` is what the library takes by itself; `error` is the root mean square beside float64, over that of the
values.
"""

import argparse
import copy
import statistics
from pathlib import Path

import torch
from contenders import in_turn, processor
from rows import parsed, read, write
from torch import Tensor, nn

from langevin.networks import convolution
from langevin.networks.convolution import Conv2d
from langevin.networks.packing import PackedWinograd

RESULTS = Path(__file__).parent / "results"
# batch, channels in and out, side
SHAPES = [
    (2, 320, 320, 64), (2, 640, 640, 32), (2, 1280, 1280, 16), (2, 2560, 1280, 16), (2, 1280, 1280, 8), (1, 512, 512, 64),
    (1, 256, 256, 128), (1, 128, 128, 256), (8, 128, 128, 32), (8, 256, 256, 16), (8, 256, 256, 8),
]  # fmt: skip


class Always(Conv2d):
    """By fewer products, whether that pays or not."""

    def forward(self, input: Tensor) -> Tensor:
        return self.by_fewer(input)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "convolution.csv")
    args = parsed(parser)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows, here = [], processor()
    for batch, into, out, side in SHAPES:
        native = nn.Conv2d(into, out, 3, padding=1)
        always = Always(into, out, 3, padding=1)
        always.load_state_dict(native.state_dict())
        layers = {"native": native, "winograd": always, "pack": PackedWinograd(copy.deepcopy(native))}
        for order in ("apart", "side by side"):
            kept = torch.channels_last if order == "side by side" else torch.contiguous_format
            x = torch.randn(batch, into, side, side).contiguous(memory_format=kept)
            exact = copy.deepcopy(native).double()(x.double())
            errors = {
                n: float((layer(x) - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for n, layer in layers.items()
            }
            times = in_turn({name: lambda layer=layer, x=x: layer(x) for name, layer in layers.items()}, args.rounds)
            chosen = "winograd" if convolution.pays(x, out) else "native"
            for name, spent in times.items():
                middle = statistics.median(spent)
                rows.append({
                    "processor": here, "batch": batch, "in": into, "out": out, "side": side, "channels": order, "way": name,
                    "milliseconds": round(1e3 * middle, 2), "least": round(1e3 * min(spent), 2),
                    "ratio": round(middle / statistics.median(times["native"]), 3), "error": f"{errors[name]:.1e}",
                    "chosen": int(name == chosen),
                })  # fmt: skip
                print({k: v for k, v in rows[-1].items() if k != "processor"}, flush=True)
    kept_rows = [row for row in read(args.out) if row["processor"] != here]
    write(args.out, list(rows[0]), [*kept_rows, *rows])


if __name__ == "__main__":
    main()
