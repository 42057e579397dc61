"""Networks: levels per element, dropped conditions, zero starts, and where modalities may meet."""

import pytest
import torch

import langevin as lv
from langevin.networks import MLP, CategoryPort, DiT, JointTransformer, PicturePort, PixelCategories, UNet
from langevin.networks.blocks import Attention, Conditions, Gated, Grow, sinusoid

G = torch.Generator().manual_seed(0)
PICTURE = torch.randn(3, 2, 8, 8, generator=G)


def awake(net):
    """Zero-initialised layers made non-zero, so that what they see matters."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return net.eval()


def nets(**k):
    return {
        "unet": awake(UNet(2, 16, (1, 2), 1, (1,), 8, **k)),
        "unet add": awake(UNet(2, 16, (1, 2), 1, (0, 1), 8, time="add", **k)),
        "dit": awake(DiT(2, 8, 2, 16, 2, 2, **k)),
    }


@pytest.mark.parametrize("name", ["unet", "unet add", "dit"])
def test_equal_levels_are_one_level(name):
    net, level = nets()[name], torch.tensor([100.0, 500.0, 900.0])
    whole = net(PICTURE, level)
    for shape in ((3, 1, 1, 1), (3, 1, 8, 8), (3, 2, 8, 8)):
        assert torch.allclose(net(PICTURE, level.reshape(3, 1, 1, 1).expand(shape)), whole, atol=1e-5)
    varied = level.reshape(3, 1, 1, 1).expand(3, 1, 8, 8).clone()
    varied[..., :4] = 0
    assert not torch.allclose(net(PICTURE, varied), whole, atol=1e-3)


@pytest.mark.parametrize("name", ["unet", "unet add", "dit"])
def test_dropped_is_null_and_conditions_matter(name):
    net, level = nets(classes=4, tokens=5)[name], torch.full((3,), 300.0)
    tokens = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(2))
    cond = {"label": torch.tensor([0, 1, 2]), "tokens": tokens}
    drop = {**cond, "drop": torch.tensor([False, True, False])}
    null, full, part = net(PICTURE, level), net(PICTURE, level, cond), net(PICTURE, level, drop)
    assert torch.allclose(part[1], null[1], atol=1e-5) and torch.allclose(part[[0, 2]], full[[0, 2]], atol=1e-6)
    for other in ({**cond, "label": torch.tensor([3, 3, 3])}, {**cond, "tokens": tokens + 1}):
        assert (net(PICTURE, level, other) - full).abs().amax((1, 2, 3)).min() > 1e-4


def test_networks_begin_at_zero_and_blocks_at_the_identity():
    for net in (UNet(2, 16, (1, 2), 1, (1,), 8), DiT(2, 8, 2, 16, 2, 2)):
        assert (net(PICTURE, torch.zeros(3)) == 0).all()


def test_samples_do_not_see_each_other():
    for net in nets().values():
        level = torch.tensor([100.0, 500.0, 900.0])
        assert torch.allclose(net(PICTURE[1:2], level[1:2]), net(PICTURE, level)[1:2], atol=1e-5)


def test_patches_come_back_where_they_were():
    port = PicturePort(2 * 2 * 3, 3, (4, 6), 2)
    with torch.no_grad():  # make entering and leaving the identity on pixels
        port.project.weight.copy_(torch.eye(12).reshape(12, 3, 2, 2))
        port.project.bias.zero_()
        port.get_buffer("positions").zero_()
        port.final.weight.copy_(torch.eye(12))
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(port.leave(*port.enter(x)), x, atol=1e-6)


def test_modalities_meet_in_the_joint_network():
    net = awake(JointTransformer({"image": PicturePort(16, 2, (8, 8), 4), "label": CategoryPort(16, 5, 4)}, 16, 2, 2))
    z, level = {"image": PICTURE, "label": torch.tensor([0, 1, 4])}, {"image": torch.full((3,), 500.0), "label": torch.zeros(3)}
    out = net(z, level)
    assert out["label"].shape == (3, 4)
    swapped = net({**z, "label": torch.tensor([2, 2, 2])}, level)
    assert (swapped["image"] - out["image"]).abs().max() > 1e-4
    noisier = net(z, {**level, "label": torch.full((3,), 900.0)})
    assert (noisier["image"] - out["image"]).abs().max() > 1e-5
    half = torch.full((3, 1, 8, 8), 500.0)
    assert torch.allclose(net(z, {**level, "image": half})["image"], out["image"], atol=1e-5)


# (Heun on a coarse Karras grid divides rounding by the last level, as EDM's does, so here it takes even steps)
@pytest.mark.parametrize("plan", ["dpmpp:6", "ddpm:6", "euler_ancestral:6", "heun:4:grid=uniform"])
def test_a_networks_sample_is_the_same_in_any_batch(plan):
    denoiser = lv.Denoiser(nets(classes=4)["unet"], lv.Gaussian(lv.schedules.cosine()), "v", shape=(2, 8, 8))
    label = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    table, guidance = lv.plans.parse(plan), lv.CFG(2.0)
    eight = lv.sample(denoiser, table, 8, seed=3, cond={"label": label}, guidance=guidance)
    assert torch.equal(lv.sample(denoiser, table, 8, seed=3, cond={"label": label}, guidance=guidance), eight)
    for first, count in ((2, 1), (5, 3)):
        cond = {"label": label[first : first + count]}
        part = lv.sample(denoiser, table, count, seed=3, first_id=first, cond=cond, guidance=guidance)
        assert torch.allclose(part, eight[first : first + count], atol=1e-5 * float(eight.abs().max()))


def test_attention_mask_hides():
    attention = Attention(8, 2).eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    y = x.clone()
    y[:, 3:] += 10
    assert torch.allclose(attention(x, mask=mask)[:, :3], attention(y, mask=mask)[:, :3], atol=1e-6)


def test_padded_tokens_are_inert():
    net = awake(JointTransformer({"": CategoryPort(16, 5, 4, length=6)}, 16, 2, 2))
    z, level = torch.randint(0, 5, (2, 6), generator=torch.Generator().manual_seed(0)), torch.full((2,), 300.0)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    other = z.clone()
    other[:, 4:] = (z[:, 4:] + 1) % 5
    assert torch.allclose(net(z, level, mask=mask)[:, :4], net(other, level, mask=mask)[:, :4], atol=1e-6)
    assert not torch.allclose(net(z, level)[:, :4], net(other, level)[:, :4], atol=1e-4)
    with pytest.raises(ValueError, match="mark each token"):
        net(z, level, mask=mask[:, :3])


def test_a_null_condition_that_is_never_used_is_in_the_graph():
    # replicas wait for the gradient of each parameter
    conditions = Conditions(16, tokens=5)
    tokens = torch.randn(3, 4, 5)
    _, context = conditions({"tokens": tokens}, 3, torch.device("cpu"))
    assert torch.equal(context, conditions.tokens(tokens))  # pyright: ignore
    context.square().sum().backward()  # pyright: ignore
    assert conditions.null.grad is not None and not conditions.null.grad.any()  # pyright: ignore


def test_pixels_as_categories():
    net = awake(PixelCategories(UNet(2 * 16, 16, (1, 2), 1, (1,), 8, out_channels=2 * 4), 5, 4, (2, 8, 8)))
    z = torch.randint(0, 5, (3, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    out = net(z, torch.full((3,), 100.0))
    assert out.shape == (3, 2, 8, 8, 4)
    moved = z.clone()
    moved[0, 0, 0, 0] = (z[0, 0, 0, 0] + 1) % 5
    change = (net(moved, torch.full((3,), 100.0)) - out).abs().amax((1, 2, 3, 4))
    assert change[0] > 1e-5 and (change[1:] == 0).all()


def test_mlp_levels_per_element():
    net, z = awake(MLP(3, 32, 2, classes=2)), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([10.0, 200.0, 500.0, 900.0])
    assert torch.allclose(net(z, level), net(z, level[:, None].expand(4, 3)), atol=1e-6)
    mixed = level[:, None].expand(4, 3).clone()
    mixed[:, 1] = 0
    assert (net(z, mixed) - net(z, level)).abs().max() > 1e-4


def test_what_is_done_otherwise_without_gradients_is_the_same():
    """Large pictures grow by weights that were added up, many tokens pass a gated network in parts."""
    grow, gated = Grow(3, 4, folds=False), Gated(6, 5)
    x, tokens = torch.randn(2, 3, 24, 32, generator=G), torch.randn(3, 1500, 6, generator=G)
    with torch.no_grad():
        quick, odd, parted = grow(x), grow(x, (47, 63)), gated(tokens)
    slow = grow(x)
    assert not torch.equal(quick, slow) and torch.allclose(quick, slow, atol=1e-6)
    assert torch.allclose(odd[..., :-1, :-1], slow[..., :46, :62], atol=1e-6)  # the last ones meet other neighbours
    assert torch.allclose(parted, gated(tokens), atol=1e-6)


def test_sinusoids_are_the_transformers():
    value = sinusoid(torch.tensor([3.0]), 4)[0]
    expected = [torch.tensor(3.0).cos(), torch.tensor(0.03).cos(), torch.tensor(3.0).sin(), torch.tensor(0.03).sin()]
    assert torch.allclose(value, torch.stack(expected), atol=1e-6)


def test_wrong_conditions_are_refused():
    conditions = Conditions(8, classes=3)
    with pytest.raises(ValueError, match="no condition 'lable'; did you mean 'label'"):
        conditions({"lable": torch.zeros(2)}, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="classes run from 0 to 2"):
        conditions({"label": torch.tensor([0, 7])}, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="multiples of 2"):
        UNet(1, 16, (1, 2))(torch.zeros(1, 1, 7, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="make patch divide"):
        DiT(1, 9, 2)


@pytest.mark.parametrize("label", [-1, 3, 4])
def test_a_label_that_nobody_checked_is_never_the_null(monkeypatch, label):
    # as on a GPU or in a compiled network, where the table is the last to look
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    conditions = Conditions(8, classes=3)
    with pytest.raises(IndexError):
        conditions({"label": torch.tensor([0, label])}, 2, torch.device("cpu"))
    right, _ = conditions({"label": torch.tensor([0, 2])}, 2, torch.device("cpu"))
    assert torch.equal(right, conditions.label.weight[[0, 2]])  # pyright: ignore


def test_the_recipes_ncsnpp_is_the_published_network():
    """The same parameters, and the same numbers for a field of channels and levels; published answers are divided by sigma."""
    from langevin.core.gaussian import Gaussian
    from langevin.recipes import config as c
    from langevin.recipes.domains.pictures import network
    from langevin.recipes.facts import Facts
    from langevin.zoo.families.unconditional import build

    attending, plain = "AttnSkip{}Block2D", "Skip{}Block2D"
    published = build(
        {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [128, 128],
         "layers_per_block": 1, "down_block_types": [plain.format("Down"), attending.format("Down")], "norm_num_groups": None,
         "up_block_types": [attending.format("Up"), plain.format("Up")], "time_embedding_type": "fourier", "norm_eps": 1e-6,
         "attention_head_dim": None, "mid_block_scale_factor": 2**0.5, "center_input_sample": False}
    )  # fmt: skip
    cfg = c.UNetConfig(style="ncsnpp", width=128, multipliers=(1, 1), blocks=1, attention=(1,), head_width=128, time="add",
                       dropout=0.0)  # fmt: skip
    ours = network(cfg, Facts(shape=(3, 8, 8), classes=None), Gaussian(lv.schedules.ve()))
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(v.shape, generator=generator) * 0.05 for name, v in ours.state_dict().items()}
    published.load_state_dict(weights)
    ours.load_state_dict(weights)
    z, sigma = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([0.3, 5.0])
    with torch.no_grad():
        assert torch.allclose(ours(z, sigma) / sigma[:, None, None, None], published(z, sigma), rtol=1e-5, atol=1e-6)
