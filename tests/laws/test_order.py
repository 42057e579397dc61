"""Laws of reading: each sample once per epoch, the same batches for any number of processes, passes, workers, restarts."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.core.noise import Noise
from langevin.data import Arrays, Order, loader, order
from langevin.data.decode import mirror

SIZE = 53
GROUPS = torch.tensor([0] * 5 + [1] * 30 + [2] * 18)[torch.from_numpy(np.random.default_rng(0).permutation(SIZE))]
WORLDS = [(world, accumulate) for world in (1, 2, 4) for accumulate in (1, 3)]


class Grouped(Arrays):
    """Rows that say their own index, in groups."""

    def __init__(self, groups=None):
        super().__init__(torch.arange(SIZE)[:, None].float(), {"label": torch.arange(SIZE)})
        self.groups = groups

    def augment(self, batch, noise):
        return lv.core.batch.Batch(batch.x + noise.normal((1,)), batch.cond)  # pyright: ignore


def taken(count, *args, **options):
    """The first `count` steps."""
    return list(islice(loader(*args, **options), count))


def test_without_groups_the_reading_is_one_endless_shuffle():
    batches = [Order(3, SIZE, 8).batch(k) for k in range(20)]
    assert [place for place, _ in batches] == list(range(0, 160, 8))
    whole = torch.cat([index for _, index in batches])
    assert torch.equal(whole, order(3, SIZE, 0, 160))
    # by the definition: the ranks of one uniform number per sample and epoch
    for epoch in range(3):
        ranks = Noise(3, torch.arange(SIZE), epoch, "order").uniform(()).argsort()
        assert torch.equal(whole[epoch * SIZE : (epoch + 1) * SIZE], ranks)


def test_with_groups_each_epoch_has_every_sample_once_in_batches_of_one_group():
    plan = Order(3, SIZE, 8, GROUPS)
    per_epoch = 1 + 4 + 3
    reading = [plan.batch(k) for k in range(3 * per_epoch)]
    for (place, index), (after, _) in pairwise(reading):
        assert after == place + len(index)
    for epoch in range(3):
        part = reading[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert part[0][0] == epoch * SIZE
        assert sorted(torch.cat([index for _, index in part]).tolist()) == list(range(SIZE))
        for _, index in part:
            assert len(GROUPS[index].unique()) == 1
        assert sorted(len(index) for _, index in part) == [2, 5, 6, 8, 8, 8, 8, 8]
    turns = [[int(GROUPS[index[0]]) for _, index in reading[e * per_epoch : (e + 1) * per_epoch]] for e in range(3)]
    assert turns[0] != sorted(turns[0]) and len({tuple(t) for t in turns}) > 1  # groups are mixed, anew each epoch


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_a_batch_depends_on_seed_and_step_alone(groups):
    whole = [Order(5, SIZE, 8, groups).batch(k) for k in range(25)]
    for k in (24, 0, 13, 7):  # in any order, each from a new start
        place, index = Order(5, SIZE, 8, groups).batch(k)
        assert place == whole[k][0] and torch.equal(index, whole[k][1])
    assert not torch.equal(Order(6, SIZE, 8, groups).batch(0)[1], whole[0][1])


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize(("world", "accumulate"), WORLDS)
def test_processes_and_passes_share_out_the_batch_and_lose_nothing(groups, world, accumulate):
    source = Grouped(groups)
    steps = 8 if groups is not None else 7  # an epoch, or just over
    alone = taken(steps, source, Order(1, SIZE, 8, groups))
    ranks = [taken(steps, source, Order(1, SIZE, 8, groups), accumulate=accumulate, rank=r, world=world) for r in range(world)]
    seen = []
    for step in range(steps):
        (whole,) = alone[step]
        pieces = [piece for rank in ranks for piece in rank[step]]
        assert len(pieces) == world * accumulate and abs(sum(p.share for p in pieces) - 1) < 1e-12
        real = [p for p in pieces if p.share]
        # the union is the batch, in order, with the noise of one process
        assert torch.equal(torch.cat([p.batch.x for p in real]), whole.batch.x)
        assert [p.place for p in real] == (whole.place + np.cumsum([0] + [len(p.batch.x) for p in real[:-1]])).tolist()
        assert all(p.share == len(p.batch.x) / len(whole.batch.x) for p in real)
        assert max(len(p.batch.x) for p in pieces) - min(len(p.batch.x) for p in real) <= 1
        for empty in (p for p in pieces if not p.share):
            assert torch.equal(empty.batch.x, whole.batch.x[:1]) and empty.place == whole.place
        seen += torch.cat([p.batch.cond["label"] for p in real]).tolist()
    assert sorted(seen[:SIZE]) == list(range(SIZE))


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_going_on_in_another_topology_is_going_on(groups):
    source, plan = Grouped(groups), Order(1, SIZE, 8, groups)
    whole = taken(16, source, plan)
    first = [taken(5, source, plan, rank=r, world=4) for r in range(4)]
    rest = [taken(11, source, plan, first_step=5, accumulate=2, rank=r, world=2) for r in range(2)]
    for step in range(16):
        parts = [p for rank in (first if step < 5 else rest) for p in rank[step if step < 5 else step - 5] if p.share]
        assert torch.equal(torch.cat([p.batch.x for p in parts]), whole[step][0].batch.x)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_workers_change_nothing(groups):
    def read(workers):
        return taken(12, Grouped(groups), Order(1, SIZE, 8, groups), first_step=3, accumulate=2, workers=workers)

    before = torch.random.get_rng_state()
    for one, other in zip(read(0), read(2), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.place, a.share) == (b.place, b.share)
            assert torch.equal(a.batch.x, b.batch.x) and torch.equal(a.batch.cond["label"], b.batch.cond["label"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flips_are_a_function_of_seed_and_place():
    x = torch.arange(8.0).reshape(1, 1, 1, 8).repeat(4000, 1, 1, 1)
    noise = Noise.of(0, 4000)
    flipped = mirror(lv.core.batch.Batch(x), noise).x[:, 0, 0, 0] == 7  # pyright: ignore
    assert abs(float(flipped.float().mean()) - 0.5) < 4 * 0.5 / 4000**0.5
    part = mirror(lv.core.batch.Batch(x[:5]), Noise.of(0, 5, 100)).x[:, 0, 0, 0] == 7  # pyright: ignore
    assert torch.equal(part, flipped[100:105])


def test_settings_that_do_not_fit_are_refused():
    source = Grouped()
    for args, options, words in [
        ((source, Order(0, SIZE, 8)), {"rank": 2, "world": 2}, "ranks run from 0 to 1"),
        ((source, Order(0, SIZE, 8)), {"accumulate": 0}, "accumulate is 0"),
        ((source, Order(0, SIZE + 1, 8)), {}, "54 samples and the source has 53"),
        ((source, lv.data.InOrder(0, 8)), {}, "a Stream is read InOrder"),
    ]:
        with pytest.raises(ValueError, match=words):
            loader(*args, **options)
    with pytest.raises(ValueError, match="one group per sample"):
        Order(0, SIZE, 8, GROUPS[:-1])
    with pytest.raises(ValueError, match="batch is 0"):
        Order(0, SIZE, 0)
