"""Our metrics and feature networks beside those of torch-fidelity, torchmetrics, prdc and transformers, on the same inputs.

The peers are no dependencies of the library: install them elsewhere with `pip install --no-deps --target PEERS torch-fidelity
torchmetrics lightning-utilities torchvision prdc transformers tokenizers regex`, then

PYTHONPATH=PEERS python bench/metrics_parity.py --out bench/results/metrics_parity.csv

No published weights are needed: networks have random ones, the same on both sides.
"""

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from rows import parsed, write
from torch import Tensor, nn

from langevin import evaluate
from langevin.evaluate.inception import Norm

Row = tuple[str, str, float, float]  # what, peer, ours, theirs

# torchvision's operators are compiled for another build of torch; it only has to import
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def sets(n: int = 400, d: int = 64) -> tuple[Tensor, Tensor]:
    """Two sets of features, one correlated and moved."""
    g = torch.Generator().manual_seed(0)
    mix = torch.eye(d) + 0.1 * torch.randn(d, d, generator=g)
    return torch.randn(n, d, generator=g) @ mix + 0.1, torch.randn(n, d, generator=g)


def distances() -> Iterator[Row]:
    from prdc import compute_prdc
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    a, b = (x.double() for x in sets())
    fd = evaluate.frechet(a, b)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    yield "Frechet distance", "torch-fidelity", fd, theirs["frechet_inception_distance"]
    yield "Frechet distance", "torchmetrics", fd, float(_compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)))
    whole, _ = evaluate.kid(a, b, subsets=1, size=len(a))
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=len(a), kid_kernel="poly", verbose=False)
    yield "KID, one subset of all", "torch-fidelity", whole, theirs["kernel_inception_distance_mean"]
    yield "KID, one subset of all", "torchmetrics", whole, float(poly_mmd(a, b))
    logits = 3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(1))
    mean, std = evaluate.inception_score(logits.double().softmax(1))
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    yield "Inception score", "torch-fidelity", mean, theirs["inception_score_mean"]
    yield "Inception score, deviation", "torch-fidelity", std, theirs["inception_score_std"]
    ours = evaluate.prdc(a, b, k=3)
    precision, recall = calculate_precision_recall_full(a, b, 3)
    yield "precision, k = 3", "torch-fidelity", ours.precision, precision
    yield "recall, k = 3", "torch-fidelity", ours.recall, recall
    theirs = compute_prdc(b.numpy(), a.numpy(), 5)
    for name, value in evaluate.prdc(a, b, k=5)._asdict().items():
        yield f"{name}, k = 5", "prdc", value, float(theirs[name])


def inception() -> Iterator[Row]:
    from torch_fidelity import feature_extractor_inceptionv3 as peer

    torch.manual_seed(0)
    net = evaluate.InceptionTF().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, Norm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    counters = {f"{name}.num_batches_tracked": torch.tensor(0) for name, m in net.named_modules() if isinstance(m, Norm)}
    peer.load_state_dict_from_url = lambda *a, **k: {**net.state_dict(), **counters}
    other = peer.FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased", "logits"])
    for size in (32, 299, 400):
        x = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            ours = net.features(x.float() / 127.5 - 1)
            theirs = other(x)
            pairs = zip((ours, ours @ net.fc.weight.T, net.logits(ours)), theirs, ("features", "unbiased logits", "logits"))
        for one, two, name in pairs:
            yield f"InceptionTF {name}, {size} px: norm", "torch-fidelity", float(one.norm()), float(two.norm())
            off = float((one - two).abs().max() / two.norm())
            yield f"InceptionTF {name}, {size} px: largest difference / norm", "torch-fidelity", off, 0.0


def dinov2() -> Iterator[Row]:
    from transformers import Dinov2Config, Dinov2Model

    for gated in (False, True):
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=70, use_swiglu_ffn=gated)
        peer = Dinov2Model(config).eval()
        with torch.no_grad():
            for p in peer.parameters():
                p.normal_(std=0.1)
        tensors = facebook_names(peer.state_dict(), 3, gated)
        net = evaluate.DINOv2.of(tensors).eval()
        net.load_state_dict(tensors)
        net.offset = 0.0  # this peer interpolates positions without the tenth of a patch
        for size in (70, 98):
            x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
            with torch.no_grad():
                ours, theirs = net.tokens(x), peer(x).last_hidden_state
            name = f"DINOv2 tokens{', gated' if gated else ''}, {size} px"
            yield f"{name}: norm", "transformers", float(ours.norm()), float(theirs.norm())
            yield f"{name}: largest difference / norm", "transformers", float((ours - theirs).abs().max() / theirs.norm()), 0.0


def facebook_names(s: dict[str, Tensor], depth: int, gated: bool) -> dict[str, Tensor]:
    """transformers' tensors under their publishers' names."""
    out = {
        "cls_token": s["embeddings.cls_token"],
        "pos_embed": s["embeddings.position_embeddings"],
        **{f"patch_embed.proj.{w}": s[f"embeddings.patch_embeddings.projection.{w}"] for w in ("weight", "bias")},
        **{f"norm.{w}": s[f"layernorm.{w}"] for w in ("weight", "bias")},
    }
    for i in range(depth):
        theirs, ours = f"encoder.layer.{i}", f"blocks.{i}"
        for w in ("weight", "bias"):
            out[f"{ours}.attn.qkv.{w}"] = torch.cat([s[f"{theirs}.attention.{one}_proj.{w}"] for one in "qkv"])
            out[f"{ours}.attn.proj.{w}"] = s[f"{theirs}.attention.o_proj.{w}"]
            for norm in ("norm1", "norm2"):
                out[f"{ours}.{norm}.{w}"] = s[f"{theirs}.{norm}.{w}"]
            if gated:
                out[f"{ours}.mlp.w12.{w}"] = torch.cat([s[f"{theirs}.mlp.{one}_proj.{w}"] for one in ("gate", "up")])
                out[f"{ours}.mlp.w3.{w}"] = s[f"{theirs}.mlp.down_proj.{w}"]
            else:
                for layer in ("fc1", "fc2"):
                    out[f"{ours}.mlp.{layer}.{w}"] = s[f"{theirs}.mlp.{layer}.{w}"]
        for scale in "12":
            out[f"{ours}.ls{scale}.gamma"] = s[f"{theirs}.layer_scale{scale}.lambda1"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/metrics_parity.csv"))
    args = parsed(parser)
    rows = [row for part in (distances, inception, dinov2) for row in part()]
    told = []
    for what, peer, ours, theirs in rows:
        told.append({"what": what, "peer": peer, "version": version(peer), "ours": f"{ours:.9g}", "theirs": f"{theirs:.9g}",
                     "difference": f"{abs(ours - theirs):.1e}"})  # fmt: skip
        print(f"{what:60} {peer:15} {ours:.9g} {theirs:.9g}")
    write(args.out, list(told[0]), told)


if __name__ == "__main__":
    main()
