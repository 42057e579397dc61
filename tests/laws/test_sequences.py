"""Sequences: what may see what, writing from memory, and the bound by counting masks."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.sample import sample, trajectory
from langevin.data import Documents, Packed
from langevin.evaluate.ngrams import NGrams, entropy_bits
from langevin.guidance import CFG, Cached, Sharpened
from langevin.networks import SequenceTransformer
from langevin.networks.sequence import SequenceCache
from langevin.objectives import Denoising, Masking
from langevin.objectives.masking import charged, counted
from langevin.tasks.elbo import variational_bound
from langevin.tasks.writing import blanks_of, infill, write
from tests.laws.test_objectives import Believing
from tests.laws.test_unmasking import TRIPLE

K, L = 5, 12
PROCESS = Categorical(K, schedules.keep_linear(), "mask")
TEXT = (Noise.of(4, 3).uniform((L,)) * K).long()


def network(block=None, timed=False, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = SequenceTransformer(K + 1, K, 16, 2, 2, block, timed, **options)
        for p in net.parameters():  # what begins at 0 would see nothing
            torch.nn.init.normal_(p, std=0.3)
    return net.double().eval()


def depends(net, **options):
    """(L, L) bool: does the output at i change with the token z_j?"""
    z, level = TEXT[:1], torch.full((1,), 500.0)
    base = net(z, level, **options)
    out = []
    for j in range(L):
        other = z.clone()
        other[0, j] = (other[0, j] + 1) % K
        out.append((net(other, level, **options) - base).abs().amax(-1)[0] > 1e-9)
    return torch.stack(out, 1)


def test_tokens_see_their_own_block_and_those_before():
    at = torch.arange(L)
    assert depends(network()).all()
    for block in (3, 4):
        assert torch.equal(depends(network(block)), at[:, None] // block >= at // block)
    assert torch.equal(depends(network(1)), at[:, None] > at)  # the tokens before, and not what stands there itself


def test_learning_all_blocks_at_once_is_learning_one_after_the_other():
    # each block, noisy, given the clean text before it: what writing will ask
    for block, timed in ((3, False), (4, True)):
        net, z = network(block, timed), torch.where(Noise.of(7, 3).uniform((L,)) < 0.5, K, TEXT)
        level = 1000 * Noise.of(8, 3).uniform((L // block,)).repeat_interleave(block, 1)
        at_once = net(z, level, {"text": TEXT})
        for b in range(0, L, block):
            known = torch.arange(L) < b
            part = net(torch.where(known, TEXT, z)[:, : b + block], torch.where(known, 0.0, level)[:, : b + block])
            assert torch.allclose(at_once[:, b : b + block], part[:, b:], atol=1e-10)
    net = network(1)
    assert torch.equal(net(torch.full_like(TEXT, K), torch.zeros(3), {"text": TEXT}), net(TEXT, torch.zeros(3)))


@pytest.mark.parametrize("block, first", [(1, 1), (1, 4), (3, 6), (4, 4), (None, 5)])
def test_what_is_remembered_is_what_was_read(block, first):
    net, level = network(block), torch.zeros(3)
    cache, step = SequenceCache(net.depth), block or L - first
    if block is None:  # sees what follows as well, so that only one continuation is a whole
        whole = net(TEXT, level)
        assert torch.allclose(net.extend(TEXT, level, cache), whole, atol=1e-10)
        return
    whole = net(TEXT, level)
    said = [net.extend(TEXT[:, :first], level, cache)] if first > 1 or block > 1 else [net.extend(TEXT[:, :1], level, cache)]
    cache.commit(TEXT[:, :first])
    for at in range(first, L, step):
        net.extend(TEXT[:, at : at + step].flip(0), level, cache)  # an evaluation that is not kept leaves no trace
        said.append(net.extend(TEXT[:, at : at + step], level, cache))
        cache.commit(TEXT[:, at : at + step])
    assert torch.allclose(torch.cat(said, 1), whole, atol=1e-10) and cache.length == L


@pytest.mark.parametrize("block", [None, 1, 4])
def test_packed_texts_do_not_see_each_other(block):
    document = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    net, level = network(block), torch.zeros(1)
    packed = net(TEXT[:1], level, {"document": document})
    other = torch.where(document == 1, (TEXT[:1] + 1) % K, TEXT[:1])
    changed = (net(other, level, {"document": document}) - packed).abs().amax(-1)[0] > 1e-9
    assert not changed[document[0] != 1].any() and changed[document[0] == 1].any()
    if block != 4:  # positions are relative, so a packed text is the text alone
        alone = net(TEXT[:1, 5:9], level)
        assert torch.allclose(packed[:, 5:9], alone, atol=1e-10)
    if block is not None:
        noisy = torch.full_like(TEXT[:1], K)
        told = net(noisy, level, {"document": document, "text": TEXT[:1]})
        again = net(noisy, level, {"document": document, "text": other})
        assert torch.allclose(told[:, :5], again[:, :5]) and torch.allclose(told[:, 9:], again[:, 9:])


def test_positions_are_relative_and_padding_is_not_seen():
    net, level = network(), torch.zeros(1)
    real = torch.arange(L + 4)[None] < L
    padded = torch.nn.functional.pad(TEXT[:1], (0, 4), value=2)
    assert torch.allclose(net(padded, level, mask=real)[:, :L], net(TEXT[:1], level), atol=1e-10)


# the bound


class Told(Believing):
    """An exact denoiser, which says logits."""


def test_counting_masks_is_the_bound():
    exact, n = oracle.enumerated(PROCESS3, TRIPLE), 6_000
    flat = torch.multinomial(TRIPLE.flatten(), n, True, generator=torch.Generator().manual_seed(0))
    data = Batch(torch.stack([flat // 9, flat // 3 % 3, flat % 3], 1))
    entropy = float(-(TRIPLE * TRIPLE.log()).sum())
    model = Told(exact, "subs")
    # each number of masks has its term, by the sets of as many; with exact beliefs they add up to the entropy
    terms = torch.stack([counted(model, PROCESS3, data, torch.full((n, 1), k), Noise.of(k, n))[0] for k in (1, 2, 3)])
    assert float(terms.sum(0).mean()) == pytest.approx(entropy, rel=0.03)
    found, level = Masking(seen=0)(model, data, Noise.of(0, n)), Denoising("elbo")(model, data, Noise.of(0, n))
    assert 3 * float(found.total) == pytest.approx(entropy, rel=0.03) and 3 * float(level.total) == pytest.approx(
        entropy, rel=0.06
    )
    assert float(found.each[""].var()) < 0.5 * float(level.each[""].var())  # which is why
    # levels are those at which a state of so many masks is met: of all, shares of masks are evenly spread
    blank = 1 - PROCESS3.schedule.alpha(found.levels[""])
    assert torch.allclose(blank.sort().values, torch.linspace(0, 1, n, dtype=torch.float64), atol=0.03)


PROCESS3 = Categorical(3, schedules.keep_cosine(), "mask")


def test_the_levels_shown_do_not_depend_on_the_schedule_but_through_it():
    exact = oracle.enumerated(PROCESS3, TRIPLE)
    k, data = torch.full((4000, 1), 2), Batch(torch.zeros(4000, 3, dtype=torch.int64))
    level = counted(Told(exact, "subs"), PROCESS3, data, k, Noise.of(0, 4000))[1]
    blank = 1 - PROCESS3.schedule.alpha(level)  # the second of three uniforms
    assert float(blank.mean()) == pytest.approx(0.5, abs=0.02) and float(blank.var()) == pytest.approx(0.05, abs=0.005)


def test_blocks_of_one_token_are_autoregression():
    net = network(1)
    model = Denoiser(net, PROCESS, "subs")
    loss = Masking()(model, Batch(TEXT), Noise.of(0, 3)).total.detach()
    said = torch.log_softmax(net(TEXT, torch.zeros(3)), -1).gather(-1, TEXT[..., None])[..., 0]
    assert float(loss) == pytest.approx(-float(said.mean().detach()), rel=1e-12)
    assert torch.equal(loss, Masking()(model, Batch(TEXT), Noise.of(9, 3)).total.detach())  # nothing is drawn: it is no bound


def test_the_bound_of_blocks_is_the_sum_over_them():
    net, block = network(4), 4
    model = Denoiser(net, PROCESS, "subs")
    each, _ = counted(model, PROCESS, Batch(TEXT), torch.full((3, 3), 4), Noise.of(0, 3))
    for b in range(3):  # all masked: the block given the text before it
        before = TEXT[:, : b * block]
        z = torch.cat([before, torch.full((3, block), K)], 1)
        said = torch.log_softmax(net(z, torch.zeros(3)), -1)[:, b * block :]
        expected = -said.gather(-1, TEXT[:, b * block : (b + 1) * block, None])[..., 0].mean(1)
        assert torch.allclose(each[:, b], expected, atol=1e-10)


def test_learning_by_counts_and_by_levels_is_learning_the_same():
    net = network()
    model = Denoiser(net, PROCESS, "subs")
    data, gradients = Batch(TEXT[:1].expand(1500, L)), []
    for objective in (Masking(seen=0), Denoising("elbo")):
        net.zero_grad()
        objective(model, data, Noise.of(0, 1500)).total.backward()
        gradients.append(net.final.weight.grad.flatten().clone())  # pyright: ignore
    a, b = gradients
    assert float(a @ b / (a.norm() * b.norm())) > 0.97 and float(a.norm() / b.norm()) == pytest.approx(1, abs=0.1)


def test_tokens_that_are_seen_are_asked_for_beside_the_bound_and_change_no_likelihood():
    for block in (None, 4):
        net = network(block)
        model, noise = Denoiser(net, PROCESS, "subs"), Noise.of(0, 3)
        alone, beside = Masking(seen=0)(model, Batch(TEXT), noise), Masking(seen=0.5)(model, Batch(TEXT), noise)
        assert torch.equal(alone.logs["nats"], beside.logs["nats"]) and torch.equal(alone.total, alone.logs["nats"])
        assert torch.equal(alone.each[""], beside.each[""]) and torch.equal(alone.levels[""], beside.levels[""])
        # what the network says of 4 seen tokens of the block of 12, or of 1 of each block of 4, given those before
        size = block or L
        k = torch.full((3, L // size), 8 if block is None else 3)
        _, known, _ = charged(model, PROCESS, Batch(TEXT), k, noise)
        rank = noise.at("masks").uniform((L // size, size)).argsort(2).argsort(2)
        chosen = (rank < k[..., None]).reshape(3, L)
        given = {"text": TEXT} if block else None
        said = torch.log_softmax(net(torch.where(chosen, K, TEXT), torch.zeros(3), given), -1).gather(-1, TEXT[..., None])[..., 0]
        expected = -torch.where(chosen, 0.0, said).reshape(3, L // size, size).sum(2) / size
        assert torch.allclose(known, expected, atol=1e-12) and bool((known > 0).all())
        assert torch.allclose(beside.total, beside.logs["nats"] + 0.5 * beside.logs["seen"])
    # of single tokens none is seen
    one = Masking(seen=3.0)(Denoiser(network(1), PROCESS, "subs"), Batch(TEXT), Noise.of(0, 3))
    assert torch.equal(one.total, one.logs["nats"])


def test_a_bound_and_samples_do_not_ask_what_a_network_says_of_seen_tokens():
    net = network()

    class Wrong(torch.nn.Module):
        """Of what it sees it says something else."""

        def forward(self, z, level, cond=None, mask=None):
            other = 9.0 * torch.nn.functional.one_hot((z + 1) % K, K).double()
            return torch.where((z < K)[..., None], other, net(z, level))

    right, wrong = (Denoiser(n, PROCESS, "subs", (L,)) for n in (net, Wrong()))
    bounds = [variational_bound(m, Batch(TEXT), draws=6)[0].nats for m in (right, wrong)]
    assert torch.equal(*bounds)
    for plan in (plans.ddpm(6), plans.flow_jumps(6, 0.5), plans.first_hitting(L)):
        assert torch.equal(*(sample(m, plan, 3, seed=2) for m in (right, wrong)))


@pytest.mark.parametrize("case, message", [
    (lambda: SequenceTransformer(6, 5, 16, 2, 2, 0), "block is 0; a block has"),
    (lambda: SequenceTransformer(6, 5, 18, 2, 6), "width is 18 for 6 heads; rotary"),
    (lambda: Masking()(Denoiser(network(5), PROCESS, "subs"), Batch(TEXT), Noise.of(0, 3)),
     "12 tokens and the network blocks of 5"),
    (lambda: Masking()(Denoiser(network(), Categorical(K, schedules.keep_linear()), "logits"), Batch(TEXT), Noise.of(0, 3)),
     "counts the masks of one process"),
    (lambda: Masking(drop=1.0), "drop is 1.0; it is a probability"),
    (lambda: Masking(seen=-1.0), "seen is -1.0; it is the weight"),
], ids=["block", "width", "length", "uniform", "drop", "seen"])  # fmt: skip
def test_misuse_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        case()


def test_bits_are_counted_in_nats_over_ln_2():
    # an untrained network says nothing: log2 K bits a token
    net = SequenceTransformer(K + 1, K, 16, 1, 2)
    loss = Masking()(Denoiser(net, PROCESS, "subs"), Batch(TEXT), Noise.of(0, 3)).logs["nats"]
    assert float(loss) / math.log(2) == pytest.approx(math.log2(K), rel=1e-6)


# writing


class Chain(BaseDenoiser):
    """The exact belief about a text whose tokens are each one more than the one before, from any token that is shown; where none
    is, all beginnings are alike."""

    def __init__(self, window):
        super().__init__()
        self.process, self.shape = PROCESS, (window,)

    def forward(self, z, t, cond, mask):
        state = z[""]
        at = torch.arange(state.shape[1])
        begins = (state[:, :, None] - at[:, None]) % K == torch.arange(K)  # (B, L, K)
        begins = torch.where((state < K)[..., None], begins, True).all(1)
        logits = torch.where(begins, 0.0, -1e4)[:, None].expand(-1, len(at), -1)
        logits = logits.gather(2, ((torch.arange(K) - at[:, None]) % K).expand(len(state), -1, -1))
        return CategoricalPosterior(logits, PROCESS.evidence(state, t[""]))


def test_windows_go_on_where_the_last_one_ended():
    for prefix, length, stride in ((None, 8, None), (torch.tensor([3, 4]), 8, 3), (torch.tensor([2]), 29, 3), (None, 21, 7)):
        text = write(Chain(8), plans.first_hitting(8), 20, length, prefix=prefix, stride=stride, seed=1)
        assert text.shape == (20, length) and ((text[:, 1:] - text[:, :-1]) % K == 1).all()
        assert prefix is None or (text[:, : len(prefix)] == prefix).all()
    begins = write(Chain(8), plans.ddpm(8), 400, 8, seed=1)[:, 0]
    assert (torch.bincount(begins, minlength=K) > 40).all()
    assert torch.equal(
        write(Chain(8), plans.ddpm(8), 5, 20, seed=3)[2:], write(Chain(8), plans.ddpm(8), 3, 20, seed=3, first_id=2)
    )


def test_blanks_are_filled_given_both_sides():
    text, blank = blanks_of("a__d_a", "_", lambda s: ["abcde".index(c) for c in s])
    assert text.tolist() == [0, 0, 0, 3, 0, 0] and blank.tolist() == [False, True, True, False, True, False]
    found = infill(Chain(6), plans.confidence(3), text, blank, 4)
    assert (found == torch.tensor([0, 1, 2, 3, 4, 0])).all()


@pytest.mark.parametrize("block", [1, 3, 4])
def test_blocks_are_written_from_memory_as_without_it(block):
    model = Denoiser(network(block), PROCESS, "subs", shape=(L,))
    whole, plan = Denoiser(network(block), PROCESS, "subs", shape=(L,)), plans.ddpm(block)
    for prefix in (None, TEXT[0, :5]):
        text = write(model, plan, 3, L, prefix=prefix, seed=2)
        assert prefix is None or (text[:, :5] == prefix).all()
        # the same by whole texts, of which only one block is unknown and those after it are not there yet
        made = torch.zeros(3, 0, dtype=torch.int64)
        for at in range(0, L, block):
            first = max(at, 0 if prefix is None else len(prefix) // block * block)
            if at < first:
                made = TEXT[0, :5][: at + block].expand(3, -1)
                continue
            given = torch.nn.functional.pad(made, (0, block))
            known = torch.arange(at + block).expand(3, -1) < at
            if prefix is not None:
                given, known = given.clone(), known | (torch.arange(at + block) < len(prefix))
                given[:, : min(len(prefix), at + block)] = prefix[: at + block]
            seen = {"given": given, "known": known}
            made = _same_draws(whole, plan, 3, at, block, seen)
        assert torch.equal(text, made)


def _same_draws(model, plan, count, at, block, seen):
    """A block by `sample` on the whole text so far, with the draws that writing it from memory takes."""

    class Part(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return model.net(torch.cat([seen["given"][:, :at], z], 1), level)[:, at:]

    part = Denoiser(Part(), PROCESS, "subs", (block,))
    options = {"given": seen["given"][:, at:], "known": seen["known"][:, at:]} if bool(seen["known"][:, at:].any()) else {}
    drawn = sample(part, plan, count, seed=2 if at == 0 else 2 * 1_000_003 + 7919 * at, **options)
    return torch.cat([seen["given"][:, :at], drawn], 1)


class Asked(torch.nn.Module):
    """A network of masks and classes that counts the samples it is asked about."""

    timed = False

    def __init__(self):
        super().__init__()
        self.net, self.count = network(), 0

    def forward(self, z, level, cond=None, mask=None):
        self.count += len(z)
        out = self.net(z, level, mask=mask)
        if cond is None:
            return out
        label = torch.where(cond.get("drop", torch.zeros(len(z), dtype=torch.bool)), 0, cond["label"])
        return out + label[:, None, None] * torch.linspace(-1, 1, K, dtype=out.dtype)


PLANS = {"ddpm": plans.ddpm(30), "remask": plans.remask(30, 0.4), "confidence": plans.confidence(12, threshold=0.4)}


@pytest.mark.parametrize("name", PLANS)
def test_a_network_that_is_not_told_the_level_is_asked_only_about_what_has_changed(name):
    model = Denoiser(Asked(), PROCESS, "subs", shape=(L,))
    states = [s.z for s in trajectory(model, PLANS[name], 5, seed=2)]
    assert model.net.count == 5 * len(states)
    before = [torch.full((5, L), K), *states[:-1]]
    changed = [5] + [int((a != b).any(1).sum()) for a, b in zip(before, before[1:], strict=False)]
    model.net.count, cached = 0, Cached()
    assert torch.equal(sample(model, PLANS[name], 5, seed=2, guidance=cached), states[-1])
    assert model.net.count == cached.computed == sum(changed) < 5 * len(states) == cached.computed + cached.left
    together, model.net.count = Cached(together=True), 0
    assert torch.equal(sample(model, PLANS[name], 5, seed=2, guidance=together), states[-1])
    assert model.net.count == together.computed == 5 * sum(n > 0 for n in changed)


def test_what_is_kept_is_of_its_own_conditions_and_of_states_as_they_were():
    model = Denoiser(Asked(), PROCESS, "subs", shape=(L,))
    options: dict[str, Any] = {"cond": {"label": torch.tensor([3, 1, 0, 2])}, "seed": 5}
    for guidance in (CFG(2.0), CFG(2.0, interval=(0.2, 0.7)), Sharpened(0.5)):
        plain = sample(model, plans.ddpm(20), 4, guidance=guidance, **options)
        asked, model.net.count = model.net.count, 0
        assert torch.equal(sample(model, plans.ddpm(20), 4, guidance=lambda d, g=guidance: g(Cached()(d)), **options), plain)
        assert model.net.count < asked or isinstance(guidance, CFG)
    believed = Cached()(model)
    z = torch.full((2, L), K)
    with torch.no_grad():
        believed(z, 0.5)
        z[0, :3] = 1  # by whoever watches
        assert torch.equal(believed(z, 0.3).log_probs, model(z, 0.3).log_probs)
        shorter = z[:, :6]
        assert torch.equal(believed(shorter, 0.3).log_probs, model(shorter, 0.3).log_probs)


def test_texts_are_written_by_a_network_that_is_asked_about_what_has_changed():
    model, blank = Denoiser(Asked(), PROCESS, "subs", shape=(L,)), torch.arange(L) % 5 == 2
    z = infill(model, plans.ddpm(50), TEXT[0], blank, 3, seed=1)
    given = {"given": TEXT[:1].expand(3, -1), "known": ~blank.expand(3, -1)}
    assert model.net.count <= 3 * (1 + int(blank.sum()))
    assert torch.equal(z, sample(model, plans.ddpm(50), 3, seed=1, **given))
    model.net.count = 0
    write(model, plans.ddpm(50), 1, L, prefix=TEXT[0, :9])
    assert model.net.count <= 1 + 3
    with pytest.raises(ValueError, match="SequenceTransformer is told the level"):
        Cached()(Denoiser(network(timed=True), PROCESS, "subs", shape=(L,)))
    with pytest.raises(ValueError, match="Chain asks another denoiser"):
        Cached()(Chain(8))


def test_texts_end():
    text = write(Chain(8), plans.first_hitting(8), 4, 40, prefix=torch.tensor([0]), end=3)
    assert (text == torch.tensor([0, 1, 2] + [3] * 37)).all()
    model = Denoiser(network(4), PROCESS, "subs", shape=(L,))
    text = write(model, plans.ddpm(4), 4, 200, end=0, seed=1)
    assert text.shape == (4, 200)
    for row in text:
        ended = (row == 0).nonzero()
        assert not len(ended) or (row[int(ended[0]) :] == 0).all()


@pytest.mark.parametrize("top", [0.3, 0.7, 0.9, 0.99])
def test_the_nucleus_is_of_the_belief_and_not_of_the_logits(top):
    # tokens are replaced, so that the state speaks too: at level 0.4 for the category that the network holds unlikely
    process = Categorical(4, schedules.keep_linear())
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    class Blind(BaseDenoiser):
        shape = (1,)

        def forward(self, z, t, cond, mask):
            return CategoricalPosterior(logits.expand(*z[""].shape, 4), process.evidence(z[""], t[""]))

    blind, z = Blind(), torch.tensor([[3]])
    blind.process = process
    whole, kept = blind(z, 0.4).probs[0, 0], Sharpened(top=top)(blind)(z, 0.4).probs[0, 0]
    assert int(whole.argmax()) == 0 and int(whole.argsort()[-2]) == 3  # the state has raised the least likely to the second
    order = whole.argsort(descending=True)
    size = int((whole[order].cumsum(0) < top).sum()) + 1  # the fewest categories with that mass
    expected = torch.zeros(4).index_copy(0, order[:size], whole[order[:size]] / whole[order[:size]].sum())
    assert torch.allclose(kept.float(), expected.float(), atol=1e-6)


def test_temperature_and_nucleus():
    belief, of_four = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), Categorical(4, schedules.keep_linear(), "mask")

    class Blind(BaseDenoiser):
        process, shape = of_four, (1,)

        def forward(self, z, t, cond, mask):
            return CategoricalPosterior(belief.expand(*z[""].shape, 4), of_four.evidence(z[""], t[""]))

    z = torch.full((1, 1), 4)
    for temperature in (0.5, 2.0):
        assert torch.allclose(
            Sharpened(temperature)(Blind())(z, 1.0).probs[0, 0], torch.softmax(belief / temperature, 0), atol=1e-6
        )
    for top, kept in ((0.5, 1), (0.6, 2), (0.81, 3), (1.0, 4), (1e-6, 1)):
        probs = Sharpened(top=top)(Blind())(z, 1.0).probs[0, 0]
        assert int((probs > 0).sum()) == kept and torch.allclose(probs[:kept], torch.softmax(belief[:kept], 0), atol=1e-6)
    assert Sharpened(0.5)(Blind())(torch.ones(1, 1, dtype=torch.int64), 0.3).probs[0, 0].tolist() == [0, 1, 0, 0]
    with pytest.raises(ValueError, match="temperature is 0"):
        Sharpened(0.0)


@pytest.mark.parametrize("case, message", [
    (lambda: write(Chain(8), plans.ddpm(2), 1, 3, prefix=TEXT[0, :5]), "length is 3 and the prefix has 5"),
    (lambda: write(Chain(8), plans.ddpm(2), 1, 20, stride=9), "stride is 9 for windows of 8"),
    (lambda: write(Chain(8), plans.ddpm(2), 1, prefix=torch.tensor([K])), "prefix spans 5"),
    (lambda: infill(Chain(4), plans.ddpm(2), TEXT[0], TEXT[0] == 0), "12 tokens and the model sees 4"),
    (lambda: infill(Denoiser(network(3), PROCESS, "subs", (L,)), plans.ddpm(2), TEXT[0], TEXT[0] == 0), "blocks of 3 and sees"),
], ids=["length", "stride", "prefix", "window", "blocks"])  # fmt: skip
def test_what_cannot_be_written_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        case()


# likelihoods


def test_likelihoods_of_categories_are_the_bound_in_continuous_time():
    x = torch.cartesian_prod(*[torch.arange(3)] * 3)
    weight, entropy = TRIPLE.flatten(), float(-(TRIPLE * TRIPLE.log()).sum())
    exact = oracle.enumerated(PROCESS3, TRIPLE)
    found, how = variational_bound(Told(exact, "subs"), Batch(x), draws=30)
    assert "numbers of masks" in how and -float(weight @ found.nats) == pytest.approx(entropy, abs=0.05)
    uniform = Categorical(3, schedules.keep_cosine())
    found, how = variational_bound(Told(oracle.enumerated(uniform, TRIPLE), "logits"), Batch(x.repeat(20, 1)), draws=20)
    mean = found.nats.reshape(20, 27).mean(0)
    assert "continuous" in how and -float(weight @ mean) == pytest.approx(entropy, abs=0.1)
    # a schedule that stops short of data leaves the decoder its term
    short = Categorical(3, schedules.clipped(schedules.keep_cosine(), 0.1))
    found, _ = variational_bound(Told(oracle.enumerated(short, TRIPLE), "logits"), Batch(x.repeat(60, 1)), draws=20)
    assert -float(weight @ found.nats.reshape(60, 27).mean(0)) == pytest.approx(entropy, abs=0.1)
    model = Denoiser(network(1), PROCESS, "subs", shape=(L,))
    found, how = variational_bound(model, Batch(TEXT))
    with torch.no_grad():
        each = torch.log_softmax(model.net(TEXT, torch.zeros(3)), -1).gather(-1, TEXT[..., None]).sum((1, 2))
    assert torch.allclose(found.nats, each, atol=1e-9) and float(found.error.max()) == 0 and "exact" in how


def test_counted_patterns_are_witten_and_bells():
    tokens = np.array([0, 1, 0, 1, 0, 2])
    model = NGrams(tokens, 3, 2)
    one = [(3 + 3 / 3) / 9, (2 + 3 / 3) / 9, (1 + 3 / 3) / 9]  # c(w) of 6, 3 different
    after = (2 + 2 * one[1]) / (3 + 2)  # 0 is followed three times, by 1 twice and by 2
    found = np.exp(model.log_probs(np.array([0, 1])))
    assert found == pytest.approx([one[0], after]) and sum(one) == pytest.approx(1)
    every = sum(np.exp(model.log_probs(np.array([0, w]))[1]) for w in range(3))
    assert every == pytest.approx(1)
    assert np.exp(model.log_probs(np.array([2, 1])))[1] == pytest.approx(one[1])  # what followed 2 was never seen
    assert entropy_bits(np.array([0, 0, 1, 1]), 4) == 1.0
    with pytest.raises(ValueError, match="order is 50"):
        NGrams(tokens, 3, 50)


def test_packed_texts_are_whole_and_numbered(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(["ab", "c", "abc", "b", "ca"]))
    texts = Documents(tmp_path / "a.txt", alphabet="characters", length=5, split="all", held_out=0)
    packed = Packed(texts, 4, 2, apart=True)
    assert packed.tokens.tolist() == [0, 1, 3, 2, 3, 0, 1, 2, 3, 1, 3, 2, 0, 3] and packed.letters == 14
    batch: Any = packed.batch(torch.tensor([0, 1, 2]))
    assert batch.x.tolist() == [[0, 1, 3, 2], [3, 2, 3, 0], [3, 0, 1, 2]]
    assert batch.cond["document"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 2], [0, 1, 1, 1]]
    assert len(packed) == 6 and packed.digest() != Packed(texts, 4, apart=True).digest()
    joined = Packed(texts, 4, 2)
    assert joined.digest() != packed.digest() and torch.equal(joined.batch(torch.arange(6)).x, packed.batch(torch.arange(6)).x)
    with pytest.raises(ValueError, match="fewer than a window of 20"):
        Packed(texts, 20)


def test_the_bound_of_packed_texts_is_of_the_texts_with_their_ends(tmp_path):
    # texts of one letter (but the last) say nothing but how long they are, and a network may read whatever it is told
    (tmp_path / "a.txt").write_text(
        "\n".join("a" * n for n in (1, 2, 3, 1, 1, 4, 2, 2, 3, 5, 1, 3, 2, 4, 1, 2, 1, 3, 3, 1)) + "\nb"
    )
    process = Categorical(3, schedules.keep_linear(), "mask")

    class Reader(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            logits = torch.zeros(*z.shape, 3)
            if cond and "document" in cond:
                ends = cond["document"][:, 1:] != cond["document"][:, :-1]
                logits[:, :-1] = 50.0 * torch.stack([~ends, torch.zeros_like(ends), ends], -1)
            return logits

    texts = Documents(tmp_path / "a.txt", alphabet="characters", length=8, split="all", held_out=0)
    model, total = Denoiser(Reader(), process, "subs", shape=(4,)), {}
    for how, packed in (("joined", Packed(texts, 4, 1)), ("apart", Packed(texts, 4, 1, apart=True))):
        batch = packed.batch(torch.arange(len(packed)))
        index = torch.tensor([int(k[0]) for w in batch.x.unique(dim=0) if len(k := (batch.x == w).all(1).nonzero()[:, 0])])
        cond = None if batch.cond is None else {n: v[index] for n, v in batch.cond.items()}
        found, _ = variational_bound(model, Batch(batch.x[index], cond), draws=8)
        total[how] = float(found.nats.exp().sum())
        assert len(index) > 4
    assert total["joined"] <= 1 + 1e-6  # of windows that exclude each other
    assert total["apart"] > 2  # no law of texts: their lengths were told
