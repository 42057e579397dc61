"""Metrics against closed forms, hand counts and brute force; feature networks against what they are defined by."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load, save_file

import langevin as lv
from langevin import evaluate
from langevin.evaluate import Card, Evaluation, FeatureCard, Result, Split, card, classifier, metrics, refuse_small
from langevin.evaluate.features import colour
from langevin.evaluate.inception import resize_tf
from tests.soaking import Soak


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return lv.Noise.of(seed, n).normal((d,), torch.float64)


def with_moments(n: int, mean: torch.Tensor, cov: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples whose empirical mean and covariance are exactly these."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False)
    return (torch.linalg.cholesky(cov) @ white).T + mean


def test_frechet_is_the_distance_of_normal_laws():
    d = 6
    a, b = (torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    cov_a, cov_b = a @ a.T + torch.eye(d), b @ b.T + torch.eye(d)
    mean = torch.linspace(-1, 1, d, dtype=torch.float64)
    x, y = with_moments(50, mean, cov_a, 0), with_moments(70, 0 * mean, cov_b, 1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ values.sqrt().diag() @ vectors.T
    middle = torch.linalg.eigvalsh(root @ cov_b @ root).sqrt().sum()  # tr (A^1/2 B A^1/2)^1/2
    expected = mean.square().sum() + cov_a.trace() + cov_b.trace() - 2 * middle
    assert evaluate.frechet(x, y) == pytest.approx(float(expected), rel=1e-10)
    one = with_moments(40, torch.tensor([2.0]).double(), torch.tensor([[9.0]]).double(), 3)
    two = with_moments(40, torch.tensor([-1.0]).double(), torch.tensor([[4.0]]).double(), 4)
    assert evaluate.frechet(one, two) == pytest.approx(9 + 1, rel=1e-10)  # (2 + 1)^2 + (3 - 2)^2


def test_frechet_with_fewer_samples_than_features():
    # tr (C_a C_b)^1/2 is the sum of singular values of the centred data's product, which squares nothing
    a, b = normal(20, 50, 0), normal(30, 50, 1) * 2
    ca, cb = (x - x.mean(0) for x in (a, b))
    root = torch.linalg.svdvals(ca @ cb.T).sum() / math.sqrt(19 * 29)
    expected = (a.mean(0) - b.mean(0)).square().sum() + ca.square().sum() / 19 + cb.square().sum() / 29 - 2 * root
    assert evaluate.frechet(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_extrapolated_frechet_loses_the_bias_of_few_samples():
    real = normal(20_000, 10, 9)
    plain, endless = ([f(normal(1500, 10, s), real) for s in range(6)] for f in (evaluate.frechet, evaluate.frechet_infinity))
    assert abs(np.mean(endless)) < 0.25 * np.mean(plain)


def test_kid_by_hand():
    # k(x, y) = (x y + 1)^3: within a 1, within b 27, across (1 + 1 + 8 + 27) / 4
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert evaluate.kid(a, b, subsets=3) == (1 + 27 - 2 * 37 / 4, None)


def test_kid_of_all_there_is_has_no_deviation():
    a, b = normal(40, 4), normal(40, 4, 1)
    assert evaluate.kid(a, b) == evaluate.kid(a, b, subsets=1) and evaluate.kid(a, b)[1] is None  # rather than 0, which none has
    assert evaluate.kid(a, b, size=39)[1] > 0 and evaluate.kid(a, normal(41, 4, 1))[1] > 0  # pyright: ignore


def test_kid_is_unbiased_and_its_subsets_are_a_function_of_the_seed():
    found = np.array([evaluate.kid(normal(60, 4, 2 * s), normal(40, 4, 2 * s + 1), subsets=1)[0] for s in range(200)])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(len(found))
    a, b = normal(100, 4), normal(100, 4, 1) + 1
    one, again, other = (evaluate.kid(a, b, subsets=5, size=50, seed=s) for s in (0, 0, 1))
    assert one == again != other and one[1] is not None and one[1] > 0


def test_cmmd_is_the_biased_discrepancy_of_unit_vectors():
    a, b = normal(30, 8, 0), normal(20, 8, 1) + 0.5
    x, y = (v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (a, b))

    def mean(p, q):
        return np.exp(-((p[:, None] - q[None]) ** 2).sum(-1) / 200).mean()

    assert evaluate.cmmd(a, b) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-9)
    assert evaluate.cmmd(a, 3 * a) == pytest.approx(0, abs=1e-9)


def test_clip_score_and_inception_score():
    pictures = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    texts = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])  # cosines 1, 1 / sqrt 2 and -1, which counts as 0
    assert evaluate.clip_score(pictures, texts)[0] == pytest.approx(100 * (1 + math.sqrt(0.5)) / 3)
    assert evaluate.inception_score(torch.full((20, 4), 0.25)) == (pytest.approx(1), 0)
    assert evaluate.inception_score(torch.eye(5).repeat(20, 1))[0] == pytest.approx(5)
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double()
    kl = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * math.log(1 / 0.75)
    assert evaluate.inception_score(p, splits=1)[0] == pytest.approx(math.exp(kl), rel=1e-12)
    with pytest.raises(ValueError, match="pass them through a softmax"):
        evaluate.inception_score(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))


def test_precision_recall_density_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # balls, k = 1: 1, 1, 1, 8
    samples = torch.tensor([[0.5], [30.0], [31.0]])  # balls: 29.5, 1, 1
    # 0.5 lies in two balls, the others in none; the sample's wide ball holds all; balls of 0 and 1 hold 0.5
    assert evaluate.prdc(samples, real, k=1) == (1 / 3, 1.0, 2 / 3, 0.5)


def test_precision_recall_density_coverage_by_brute_force():
    real, samples, k = normal(90, 5, 0).numpy(), 0.8 * normal(70, 5, 1).numpy() + 0.2, 3

    def distances(p, q):
        return np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1))

    reach_real = np.sort(distances(real, real), 1)[:, k]
    reach_own = np.sort(distances(samples, samples), 1)[:, k]
    cross = distances(samples, real)
    inside = cross <= reach_real
    expected = (
        inside.any(1).mean(), (cross <= reach_own[:, None]).any(0).mean(), inside.sum() / (k * len(samples)), inside.any(0).mean()
    )  # fmt: skip
    assert evaluate.prdc(torch.tensor(samples), torch.tensor(real), k) == pytest.approx(expected, abs=1e-12)


def test_blocks_of_pairs_change_nothing(monkeypatch):
    a, b = normal(57, 5, 0), normal(43, 5, 1) + 0.3

    def every():
        return [
            *evaluate.kid(a, b, subsets=2), evaluate.cmmd(a, b), evaluate.energy_distance(a, b), *evaluate.prdc(a, b, 4),
            *evaluate.nearest(a, b)[0].tolist(),
        ]  # fmt: skip

    whole = every()
    monkeypatch.setattr(metrics, "CELLS", 200)
    monkeypatch.setattr(evaluate.neighbours, "CELLS", 200)
    assert every() == pytest.approx(whole, rel=1e-9)


def test_copies_are_found():
    train, held = normal(500, 6, 0), normal(300, 6, 1)
    honest = evaluate.memorisation(normal(2000, 6, 2), train, held)
    assert honest.share == pytest.approx(0.05, abs=0.03) and honest.ratio == pytest.approx(1, abs=0.05)
    samples = normal(200, 6, 2).clone()
    samples[[3, 70]] = train[[11, 499]] + torch.tensor([[1e-3], [2e-3]])
    found = evaluate.memorisation(samples, train, held)
    assert found.closest(2).tolist() == [3, 70] and found.index[[3, 70]].tolist() == [11, 499]
    copied = evaluate.memorisation(train[:100], train, held)
    assert copied.share == 1 and copied.ratio < 1e-6 and torch.equal(copied.index, torch.arange(100))


def test_features_that_cannot_be_compared_are_refused():
    for a, b, why in (
        (torch.zeros(1, 3), torch.zeros(4, 3), "at least 2"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "one network"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "not finite"),
    ):
        for metric in (evaluate.frechet, evaluate.kid, evaluate.energy_distance, lambda a, b: evaluate.prdc(a, b, 1)):
            with pytest.raises(ValueError, match=why):
                metric(a, b)
    with pytest.raises(ValueError, match="k is 4"):
        evaluate.prdc(torch.zeros(4, 2), torch.zeros(9, 2), 4)
    with pytest.raises(ValueError, match="subsets of 5"):
        evaluate.kid(torch.zeros(4, 2), torch.zeros(9, 2), size=5)


# Cards


def of(samples: int, small: bool) -> Card:
    return Card(
        samples=samples, small=small, real=Split(name="test", size=297, hash="ab"), pixels="8 bits", metrics={"fd": "..."},
        weights="EMA 0.999", plan="ddim:3", nfe=3, guidance=(1.0, 1.5), seeds=(1,), device="cpu", langevin="0", torch="2",
    )  # fmt: skip


def test_a_result_is_a_number_and_its_protocol():
    whole = Evaluation(metrics={"fd_real": 1.0, "w=1.5": {"kid": 0.25}}, spread={"w=1.5.kid": 0.5}, protocol=of(50, True))
    assert Evaluation.model_validate_json(whole.model_dump_json()) == whole
    result = whole["w=1.5.kid"]
    assert result == Result(value=0.25, spread=0.5, card=of(50, True)) and whole.names() == ["fd_real", "w=1.5.kid"]
    assert Result.model_validate_json(result.model_dump_json()) == result
    assert "small n" in str(whole) and "0.2500 +- 0.5000" in str(whole) and "small n" not in str(of(50_000, False))
    with pytest.raises(KeyError, match="there are fd_real"):
        whole["w=1.kid"]
    with pytest.raises(ValidationError):
        Card.model_validate({**of(1, True).model_dump(), "sampels": 3})


def test_evaluations_stand_beside_each_other_under_one_protocol_alone():
    one = Evaluation(metrics={"fd": 1.0, "w=1.5": {"fd": 0.5}}, protocol=of(50, True))
    card = of(50, True).model_copy(update={"weights": "EMA 0.99", "plan": "ddim:1", "nfe": 1, "seeds": (2,), "device": "cuda"})
    other = Evaluation(metrics={"fd": 2.0, "w=2": {"fd": 3.0}}, protocol=card)
    assert one.beside(other) == {"fd": (one["fd"], other["fd"])} and other.beside(one) == {"fd": (other["fd"], one["fd"])}
    for change, why in (
        ({"samples": 51}, "samples is 50 in one protocol and 51 in the other"),
        ({"real": Split(name="test", size=297, hash="cd")}, "real is .*ab.* and .*cd"),
        ({"pixels": "floats"}, "pixels is 8 bits"),
        ({"features": FeatureCard(name="pca", hash="e", width=20, resize="none")}, "features is None"),
        ({"metrics": {"fd": "other"}}, "fd is ... in one protocol and other"),
    ):
        with pytest.raises(ValueError, match=why):
            one.beside(other.model_copy(update={"protocol": card.model_copy(update=change)}))
    with pytest.raises(ValueError, match=r"no metric is in both \(fd, w=1.5.fd; kid\)"):
        one.beside(Evaluation(metrics={"kid": 0.1}, protocol=card.model_copy(update={"metrics": {"kid": "..."}})))


def test_few_samples_are_refused_unless_said():
    assert not refuse_small(10_000, 10_000, 2048, small=False) and not refuse_small(10_000, 60_000, 64, small=True)
    for n, m, width, what in (
        (9_999, 10_000, 64, "samples"),
        (50_000, 297, 64, "real samples"),
        (12_000, 50_000, 12_000, "12001"),
    ):
        with pytest.raises(ValueError, match=what):
            refuse_small(n, m, width, small=False)
        assert refuse_small(n, m, width, small=True)
    assert card.PUBLISHED == 10_000


# Networks


def tiny(registers: int = 0, gated: bool = False) -> evaluate.DINOv2:
    torch.manual_seed(0)
    net = evaluate.DINOv2(width=64, depth=2, hidden=96, gated=gated, places=25, registers=registers).eval().requires_grad_(False)
    for p in net.parameters():
        p.normal_(std=0.2)
    return net


@pytest.mark.parametrize(("registers", "gated"), [(0, False), (4, False), (0, True)])
def test_dinov2_is_read_off_its_tensors(registers, gated, tmp_path):
    net = tiny(registers, gated)
    save_file({**net.state_dict(), "mask_token": torch.zeros(1, 64)}, tmp_path / "net.safetensors")
    read = evaluate.load_features(tmp_path / "net.safetensors")
    x = normal(3, 3 * 20 * 20).float().reshape(3, 3, 20, 20) / 2
    assert torch.equal(read.features(x), net.features(x)) and len(read.digest()) == 16
    assert (read.offset, read.antialias) == ((0.0, True) if registers else (0.1, False))


def test_dinov2_sees_patches_with_their_places_in_no_order():
    net = tiny()
    x = normal(2, 3 * 70 * 70).float().reshape(2, 3, 70, 70)  # 5 x 5 patches of 14: the learned places themselves
    mixed = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    patches = x.reshape(2, 3, 5, 14, 5, 14).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, mixed]
    moved = patches.unflatten(1, (5, 5)).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 70, 70)
    before = net.tokens(x)
    net.pos_embed[:, 1:] = net.pos_embed[:, 1:][:, mixed].clone()
    after = net.tokens(moved)
    assert torch.allclose(after[:, 0], before[:, 0], atol=1e-5) and torch.allclose(
        after[:, 1:], before[:, 1:][:, mixed], atol=1e-5
    )


def cubic(at: float) -> float:
    """The kernel of bicubic interpolation without antialiasing, a = -3/4 (Keys 1981)."""
    at, a = abs(at), -0.75
    if at <= 1:
        return (a + 2) * at**3 - (a + 3) * at**2 + 1
    return a * at**3 - 5 * a * at**2 + 8 * a * at - 4 * a if at < 2 else 0.0


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_dinov2_stretches_its_places(offset):
    net = tiny()
    net.offset = offset
    grid = normal(5, 5).float()
    net.pos_embed[0, 1:] = grid.reshape(25, 1).expand(25, 64)
    weights = np.zeros((10, 5))
    for i in range(10):
        at = (i + 0.5) * 5 / (10 + offset) - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[i, min(max(tap, 0), 4)] += cubic(at - tap)
    found = net._places(10, 10)[0, :, 0].reshape(10, 10)
    assert np.allclose(found, weights @ grid.numpy() @ weights.T, atol=1e-5)


def test_pictures_are_resized_as_pillow_does():
    net = tiny()
    x = normal(1, 3 * 300 * 300).float().reshape(1, 3, 300, 300) / 3
    whole = colour(x) / 255
    resized = torch.nn.functional.interpolate(whole, (224, 224), mode="bicubic", antialias=True)
    for channel in range(3):
        pillow = Image.fromarray(whole[0, channel].numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        assert np.abs(resized[0, channel].numpy() - np.asarray(pillow)).max() < 1e-5
    assert net.features(x[:, :1]).shape == (1, 64)  # grey pictures are shown as colour


def test_tensorflows_resizing():
    x = torch.tensor([[0.0, 2.0], [4.0, 6.0]])[None, None]
    expected = torch.tensor([[0.0, 1.0, 2.0, 2.0], [2.0, 3.0, 4.0, 4.0], [4.0, 5.0, 6.0, 6.0], [4.0, 5.0, 6.0, 6.0]])
    assert torch.equal(resize_tf(x, 4)[0, 0], expected)  # pixel i at i / 2, the last one repeated
    y = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(resize_tf(y, 3), y[:, :, ::2, ::2]) and torch.equal(resize_tf(y, 6), y)


def test_inception_file_with_and_without_counters(tmp_path):
    path = tmp_path / "inception.safetensors"
    with torch.device("meta"):
        names = {k: v.shape for k, v in evaluate.InceptionTF().state_dict().items()}
    tensors = {k: torch.ones(s) if k.endswith(("bn.weight", "running_var")) else torch.zeros(s) for k, s in names.items()}
    tensors["fc.bias"][7], tensors["fc.weight"][3] = 5.0, 0.5
    tensors["Mixed_7c.branch1x1.bn.bias"][:] = 2.0  # the only maps that are not 0
    save_file({**tensors, "Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}, path)
    net = evaluate.load_features(path)
    assert isinstance(net, evaluate.InceptionTF)
    features = evaluate.extract(net, torch.zeros(1, 1, 8, 8))
    assert features.shape == (1, 2048) and torch.equal(features[0, :320], torch.full((320,), 2.0)) and not features[0, 320:].any()
    p, logits = net.probabilities(features)[0], net.logits(features)[0]
    assert p.argmax() == 3 and p.sum() == pytest.approx(1) and p[7] == p[8]  # no bias in the score
    assert logits[7] == 5 and logits[3] == 320
    del tensors["fc.bias"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lacks 'fc\.bias'.*nearest is 'fc\.weight'"):
        evaluate.load_features(path)
    save_file({**tensors, "fc.bias": torch.zeros(1000), "fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(ValueError, match="it is another network"):
        evaluate.load_features(path)


def test_files_of_other_kinds_are_refused_in_a_sentence(tmp_path):
    net = tiny()
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    with pytest.raises(ValueError, match=r"no whole safetensors file.*convert it"):
        evaluate.load_features(path)
    path = tmp_path / "net.safetensors"
    save_file({"blocks.0.attn.wqk.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"neither InceptionTF nor DINOv2.*nearest 'blocks\.0\.attn\.wqk\.weight'"):
        evaluate.load_features(path)
    save_file({**net.state_dict(), "blocks.1.attn.extra": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"has 'blocks\.1\.attn\.extra', which DINOv2 has not"):
        evaluate.load_features(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        evaluate.load_features(path)
    with pytest.raises(ValueError, match="cannot be read"):
        evaluate.load_features(tmp_path / "nothing")


# Classifiers of our own


def test_a_kept_classifier_survives_torn_files(tmp_path, monkeypatch):
    data = lv.data.digits()
    trained = []
    train = classifier.train_classifier

    def few(x, y, classes):
        trained.append(1)
        return train(x, y, classes, steps=3)

    monkeypatch.setattr(classifier, "train_classifier", few)

    def kept():
        return evaluate.kept_classifier(data.x, data.cond["label"], tmp_path, "abc").digest()  # pyright: ignore

    first = kept()
    assert kept() == first and len(trained) == 1
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    tensors = load(whole)
    changed = {**tensors, "head.bias": tensors["head.bias"] + 1}
    for damage in (b"", whole[: len(whole) // 2], whole[:-1], b"x" * 100):
        file.write_bytes(damage)
        assert kept() == first and file.read_bytes() == whole
    save_file(changed, file)  # a whole file, of other weights than it says
    assert kept() == first and len(trained) == 6 and [p.name for p in tmp_path.iterdir()] == ["classifier-abc.safetensors"]


@pytest.mark.soak
def test_the_judge_of_mnist_is_good(capsys):
    from tests.e2e.test_data import SHARED

    if not (SHARED / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("no MNIST files beside the project")
    train, test = lv.data.mnist(SHARED), lv.data.mnist(SHARED, "test")
    judge = evaluate.train_classifier(train.x, train.cond["label"], 10)  # pyright: ignore
    right = float((judge.label(test.x) == test.cond["label"]).float().mean())  # pyright: ignore
    Soak(capsys, "judge", 0, "").say(
        f"of MNIST, trained on {len(train):,} pictures, labels {100 * right:.2f} % of {len(test):,} others right\n"
    )
    assert right >= 0.985
