"""Products of linear layers on this processor, in float32, by every way torch has, in turn in one process.

    python bench/linear.py                # the shapes of DiT-XL/2
    python bench/linear.py --rounds 21

CPU milliseconds on one thread, median and least of the rounds: neighbours on a shared machine slow all ways down alike, and the
least is what the processor does undisturbed. With "gelu" each way also does the tanh form of GELU on what comes out, as in a
feed-forward. `pack` is `langevin.networks.packing.pack`; `native` and `onednn` are what `library` there chooses between; `mkl
packed` is MKL's own packed form, which needs the number of rows in advance and the plain weight beside it, and so is not used.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import in_turn, processor
from rows import parsed, read, write
from torch import Tensor, nn

from langevin.networks.linear import Linear
from langevin.networks.packing import pack

RESULTS = Path(__file__).parent / "results"
SHAPES = [(512, 1152, 1152), (512, 1152, 4608), (512, 4608, 1152), (2048, 1152, 4608), (2, 1152, 6912)]


def ways(rows: int, inner: int, out: int, gelu: bool) -> dict[str, Callable[[], Tensor]]:
    """Each way, without arguments."""
    layer = Linear(inner, out)
    x, w, b = torch.randn(rows, inner), layer.weight.detach(), layer.bias.detach()

    def after(y: Tensor) -> Tensor:
        return F.gelu(y, approximate="tanh") if gelu else y

    packed = pack(nn.Sequential(Linear(inner, out), *([nn.GELU(approximate="tanh")] if gelu else [])))
    plain = torch.ops.mkldnn._linear_pointwise
    made = {
        "native": lambda: after(F.linear(x, w, b)),
        "onednn": lambda: after(plain(x, w, b, "none", [], "")),
        "pack": lambda: packed(x),
    }
    if torch.backends.mkl.is_available():
        laid = torch.ops.mkl._mkl_reorder_linear_weight(w, rows)
        made["mkl packed"] = lambda: after(torch.ops.mkl._mkl_linear(x, laid, w, b, rows))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "linear.csv")
    args = parsed(parser)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows, here = [], processor()
    for shape in SHAPES:
        for gelu in (False, True) if shape[2] == 4608 else (False,):
            every = ways(*shape, gelu)
            times = in_turn(every, args.rounds)
            for name, spent in times.items():
                middle, least, native = statistics.median(spent), min(spent), statistics.median(times["native"])
                flops = 2 * shape[0] * shape[1] * shape[2]
                rows.append({
                    "processor": here, "rows": shape[0], "inner": shape[1], "out": shape[2], "gelu": gelu, "way": name,
                    "milliseconds": round(1e3 * middle, 2), "least": round(1e3 * least, 2),
                    "gflop_per_second": round(flops / middle / 1e9), "ratio": round(middle / native, 3),
                })  # fmt: skip
                print({k: v for k, v in rows[-1].items() if k != "processor"}, flush=True)
    kept = [row for row in read(args.out) if row["processor"] != here]
    write(args.out, list(rows[0]), [*kept, *rows])


if __name__ == "__main__":
    main()
