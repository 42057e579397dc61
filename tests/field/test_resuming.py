"""Complaints about runs that are stopped and go on, in miniature: each names the thread it comes from."""

import copy
import shutil
from itertools import islice
from typing import Any

import pytest
import torch

import langevin as lv
from langevin.config import TrainConfig
from langevin.data import Arrays, Order, loader
from langevin.data.cache import cached
from langevin.training import Trainer, load_latest
from tests.field.test_complaints import trainer, weights
from tests.reliability.poison import Poisoned, Torn

SIZE = 50


class Numbered(Arrays):
    """Samples that tell which of them were read."""

    def __init__(self):
        super().__init__(torch.linspace(-1, 1, SIZE)[:, None] * torch.ones(2))
        self.read = []

    def batch(self, index):
        self.read += index.tolist()
        return super().batch(index)


def reader(out, resume=False):
    torch.manual_seed(0)
    model = lv.Denoiser(lv.networks.MLP(2, 8, 1), lv.Gaussian(lv.schedules.cosine()), "v")
    data, config = Numbered(), TrainConfig(steps=15, batch=8, accumulate=2, save_every=100, warmup=8)
    run = Trainer(model, data, lv.objectives.Denoising(), config, out, resume)
    data.read.clear()  # what the trainer looked at to begin with
    return run, data


@pytest.mark.filterwarnings("ignore:the data has")
def test_lightning_19764_a_stop_inside_an_epoch_reads_on_from_there(tmp_path):
    # there: an epoch is begun anew with a warning, and the state of the loader is the user's to keep; here there is none to keep
    whole, every = reader(None)
    for _ in range(15):
        whole.update()
    read, run, out = [], None, tmp_path / "run"
    for stop in (3, 4, 9, 15):  # 8 of 50: each of them inside an epoch
        run, data = reader(out, resume=out.exists())
        while run.step < stop:
            run.update()
        run.save()
        run.close()
        read += data.read
    assert read == every.read and len(read) == 120
    for epoch in (read[:SIZE], read[SIZE : 2 * SIZE]):
        assert sorted(epoch) == list(range(SIZE))  # each once, none twice and none never
    assert run is not None and torch.equal(weights(run.denoiser), weights(whole.denoiser))


def test_simpletuner_2986_and_torchtitan_816_four_processes_read_each_sample_once_after_a_stop():
    # there: the sampler of the first process alone was kept, and of 12 images 2 were trained on twice and 2 never
    data = Arrays(torch.arange(12.0)[:, None])

    def read(first_step, steps, world):
        every = [list(islice(loader(data, Order(5, 12, 4), first_step, rank=r, world=world), steps)) for r in range(world)]
        return [int(x) for k in range(steps) for rank in every for piece in rank[k] if piece.share for x in piece.batch.x[:, 0]]

    for before, after in ((4, 4), (4, 1), (2, 4)):  # processes before the stop, and after it
        epoch = read(0, 1, before) + read(1, 2, after)
        assert sorted(epoch) == list(range(12)) and epoch == read(0, 3, 1)


@pytest.mark.parametrize("left", ["cut", "without its list", "empty"])
def test_simpletuner_2613_and_2353_half_a_checkpoint_is_never_the_latest(tmp_path, capsys, left):
    # there: a full disk left the half of one, which was chosen at the next start, and training crashed
    run = trainer(tmp_path, save_every=4)
    while run.step < 8:
        run.update()
        if run.step % 4 == 0:
            run.save()
    run.close()
    last = tmp_path / "checkpoints" / "step-00000008"
    if left == "cut":
        largest = max(last.iterdir(), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif left == "without its list":
        (last / "manifest.json").unlink()
    else:
        shutil.rmtree(last)
        last.mkdir()
    again = trainer(tmp_path, resume=True)
    assert again.step == 4 and "step-00000008" in capsys.readouterr().err
    again.run(progress=False)
    whole = trainer(None)
    whole.run(progress=False)
    assert torch.equal(weights(again.denoiser), weights(whole.denoiser))


def test_marin_5386_what_is_refused_costs_no_step_before_it(tmp_path, capsys):
    # there: the last good checkpoint was 8,000 steps old when the loss was found to be no number
    made, order = trainer(None), Order(0, 100, 10)
    config = TrainConfig(steps=9, batch=10, save_every=1000, log_every=1)

    def begun(out, times, resume=False):
        data = Poisoned(made.data, int(order.batch(5)[1][3]), float("nan"), times)  # met in the sixth step
        return Trainer(copy.deepcopy(made.denoiser), data, made.objective, config, out, resume)

    run = begun(tmp_path, 10**9)
    with pytest.raises(FloatingPointError, match="step 5 has loss nan"):
        run.run(progress=False)
    assert "step 5 was saved after all" in capsys.readouterr().err
    kept = load_latest(tmp_path / "checkpoints")
    assert run.step == 5 and kept is not None and kept.step == 5
    again, whole = begun(tmp_path, 0, resume=True), begun(None, 0)  # the sample was mended
    for each in (again, whole):
        each.run(progress=False)
    assert torch.equal(weights(again.denoiser), weights(whole.denoiser))
    # weights that are no numbers themselves are not written over good ones
    bad = begun(tmp_path / "bad", 0)
    bad.update()
    bad.save()
    with torch.no_grad():
        next(iter(bad.denoiser.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="is not finite already"):
        bad.run(progress=False)
    kept = load_latest(tmp_path / "bad" / "checkpoints")
    assert kept is not None and all(bool(value.isfinite().all()) for value in kept.tensors["model"].values())


@pytest.mark.parametrize("broken", ["data", "data, read ahead", "network", "optimiser"])
def test_an_error_in_the_middle_costs_no_step_before_it(tmp_path, capsys, broken):
    made, order = trainer(None), Order(0, 100, 10)
    workers = int("ahead" in broken)
    config = TrainConfig(steps=9, batch=10, save_every=1000, log_every=1, workers=workers)
    runs: list[Trainer] = []

    class Norm(torch.nn.BatchNorm1d):
        """The sixth update comes to its end, and not to that of the network."""

        def forward(self, input):
            made = super().forward(input)
            if broken == "network" and self.training and runs[-1].step == 5:
                raise RuntimeError("the network fails")
            return made

    def begun(out, torn=True, resume=False):
        model = copy.deepcopy(made.denoiser)
        net: Any = model.net
        net.leave = torch.nn.Sequential(net.leave, Norm(2))
        data = Torn(made.data, int(order.batch(5)[1][3]), 10**9 if torn and broken.startswith("data") else 0)
        run = Trainer(model, data, made.objective, config, out, resume)
        runs.append(run)
        if torn and broken == "optimiser":  # which has moved some of the weights, and not others
            step, updates = run.optimiser.step, []

            def fails(*args, **options):
                updates.append(1)
                step(*args, **options)
                if len(updates) == 6:
                    raise MemoryError("no room for moments")

            run.optimiser.step = fails
        return run

    run = begun(tmp_path)
    with pytest.raises((EOFError, ChildProcessError, RuntimeError, MemoryError), match=r"ends too soon|network fails|no room"):
        run.run(progress=False)
    kept = load_latest(tmp_path / "checkpoints")
    if broken == "optimiser":
        assert kept is None and "was saved after all" not in capsys.readouterr().err
        return
    assert "step 5 was saved after all" in capsys.readouterr().err
    assert run.step == 5 and kept is not None and kept.step == 5
    broken = "mended"
    again, whole = begun(tmp_path, torn=False, resume=True), begun(None, torn=False)
    for each in (again, whole):
        each.run(progress=False)
    for name, value in whole.denoiser.state_dict().items():  # statistics of norms as well
        assert torch.equal(again.denoiser.state_dict()[name], value), name


def test_what_fails_at_its_first_step_leaves_nothing(tmp_path):
    made = trainer(None)
    run = Trainer(made.denoiser, Torn(made.data, int(Order(0, 100, 10).batch(0)[1][3])), made.objective,
                  TrainConfig(steps=9, batch=10), tmp_path)  # fmt: skip
    with pytest.raises(EOFError):
        run.run(progress=False)
    assert load_latest(tmp_path / "checkpoints") is None


def test_sd_scripts_1413_what_was_encoded_in_another_precision_is_not_used(tmp_path):
    # there: text states cached in fp16 were read by a run in bf16, and the loss was no number
    data = Arrays(torch.linspace(0, 70_000, 8)[:, None])
    made = cached(data, lambda x: x, tmp_path, "e", "float32")
    assert torch.equal(made.batch(torch.arange(8)).x, data.x)
    with pytest.raises(ValueError, match="its dtype is float32, and float16"):
        cached(data, lambda x: x, tmp_path, "e", "float16")
    with pytest.raises(ValueError, match=r"not finite in float16 for sample 7; keep it as float32"):
        cached(data, lambda x: x, tmp_path / "other", "e", "float16")
