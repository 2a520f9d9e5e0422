"""The loss, the optimizer and the schedule without NeMo, compared with NeMo's own."""

import pytest
import torch
from tiny import tiny_examples, tiny_reader

from helpers.model import step, training
from helpers.model.compute import Compute
from helpers.model.encoder import pad
from helpers.model.features import gather


def tiny_batch(count=9, seed=0):
    reader = tiny_reader(seed)
    return reader, gather(reader.windows(tiny_examples(count), training=True), range(count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_gradient_equal_those_of_nemo_to_the_last_bit(dtype):
    from nemo.collections.common.losses import SpanningLoss

    _, batch = tiny_batch()
    logits = torch.randn(len(batch.ids), 2, dtype=dtype, generator=torch.Generator().manual_seed(1))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = step.span_loss(ours, batch)
    padded = pad(theirs, batch, float("-inf"))
    expected, _, _ = SpanningLoss()(
        logits=padded, start_positions=batch.start.clone(), end_positions=batch.end.clone()
    )
    found.backward()
    expected.backward()
    assert torch.equal(found, expected)
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.abs().sum() > 0


def test_the_loss_leaves_padding_out():
    """It equals cross-entropies computed window by window, without any padding."""
    reader, batch = tiny_batch(8)
    logits = step.logits_of(reader.model, batch)
    expected, low = [], 0
    for length, start, end in zip(batch.lengths, batch.start, batch.end, strict=True):
        own = logits[low : low + length]
        expected += [torch.nn.functional.cross_entropy(own[:, i], t) for i, t in
                     enumerate((start, end))]  # fmt: skip
        low += length
    torch.testing.assert_close(step.span_loss(logits, batch), torch.stack(expected).mean())


@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (3, 10), (1, 2), (9, 10)])
def test_the_learning_rates_equal_those_of_nemo_to_the_last_bit(warmup, steps):
    from nemo.core.optim.lr_scheduler import WarmupAnnealing

    def rates(schedule):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-5)
        made = schedule(optimizer, warmup_steps=warmup, max_steps=steps)
        for _ in range(steps + 2):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            made.step()

    assert list(rates(step.LinearSchedule)) == list(rates(WarmupAnnealing))


def test_the_schedule_continues_from_a_checkpoint_of_nemo_s():
    from nemo.core.optim.lr_scheduler import WarmupAnnealing

    def optimizer():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    theirs = WarmupAnnealing(optimizer(), warmup_steps=2, max_steps=8)
    for _ in range(4):
        theirs.optimizer.step()
        theirs.step()
    ours = step.LinearSchedule(optimizer(), warmup_steps=2, max_steps=8)
    ours.load_state_dict(theirs.state_dict())
    for schedule in (ours, theirs):
        schedule.optimizer.step()
        schedule.step()
    assert ours.get_last_lr() == theirs.get_last_lr() and ours.last_epoch == 5


def test_training_without_nemo_gives_the_same_weights(tmp_path):
    settings = {"dropout": 0.1, "warmup_fraction": 0.2, "accumulate": 2}
    expected, found = tiny_reader(1, **settings), tiny_reader(1, **settings)
    history = training.fine_tune(expected, tiny_examples(18), tmp_path / "nemo").history
    windows = found.windows(tiny_examples(18), training=True)
    batches = training.plan_batches(windows.lengths, found.settings)
    optim = training.optim_of(found.settings, len(batches))
    module = step.SpanModule(found.model, optim, found.settings.seed)
    recorder = step.Recorder(tmp_path / "h.csv", tmp_path / "last.ckpt", len(batches), False)
    trainer = training.make_trainer(found)
    trainer.callbacks.append(recorder)
    training.fit_batches(trainer, module, found, windows, batches)
    recorder.close()
    assert [row[:3] for row in recorder.rows] == [row[:3] for row in history]
    states = (reader.model.state_dict().values() for reader in (expected, found))
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


def test_a_step_without_lightning_lowers_the_loss():
    reader, batch = tiny_batch()
    reader.model.train()
    optimizer = step.make_optimizer(reader.model.parameters(), 5e-3, 0.0)
    losses = [step.take_step(reader.model, batch, optimizer, Compute()) for _ in range(8)]
    assert not losses[0].requires_grad and losses[-1] < losses[0] / 2
