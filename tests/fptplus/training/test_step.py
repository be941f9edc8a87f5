import pytest
import torch
from torch import nn

from fptplus import InvalidInput
from fptplus.network.features import Features
from fptplus.training.step import EMA_DECAY, TrainingStep, make_optimizer, moving_average


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def batch():
    torch.manual_seed(1)
    return (torch.randn(4, 3, 2, 2) * 100,), torch.tensor([0, 1, 2, 0])


def test_one_step_is_forward_loss_backward_clip_and_update(model):
    (images,), targets = batch()
    reference = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    reference.load_state_dict(model.state_dict())
    loss = nn.functional.cross_entropy(reference(images), targets)
    loss.backward()
    assert nn.utils.clip_grad_norm_(reference.parameters(), 1.0) > 1, "the test must clip something"
    torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1).step()

    got = TrainingStep(model, make_optimizer("adamw", model.parameters(), lr=0.01))((images,), targets)
    torch.testing.assert_close(got, loss.detach())
    for own, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, expected)


def test_the_phases_are_told_in_order(model):
    phases = []
    TrainingStep(model, make_optimizer("sgd", model.parameters()))(*batch(), phases.append)
    assert phases == ["forward", "loss", "backward", "optimizer"]


def test_hooks_of_a_method_see_the_gradients_and_add_to_the_loss(model):
    seen = []
    plain = TrainingStep(model, make_optimizer("sgd", model.parameters(), lr=1e-9))(*batch())
    step = TrainingStep(
        model,
        make_optimizer("sgd", model.parameters(), lr=1e-9),
        regularizer=lambda: torch.tensor(7.0),
        after_step=lambda done: seen.append((done, model[1].weight.grad is not None)),
    )
    torch.testing.assert_close(step(*batch()), plain + 7)
    step(*batch())
    assert seen == [(1, True), (2, True)]


@pytest.mark.parametrize("name", ["adamw", "adamw_fused", "sgd", "sgd_no_momentum"])
def test_optimizers_take_only_what_has_a_gradient(model, name):
    model[1].bias.requires_grad = False
    optimizer = make_optimizer(name, model.parameters())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_the_two_forms_of_adamw_agree(model):
    weights = []
    for name in ("adamw", "adamw_fused"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        step = TrainingStep(model, make_optimizer(name, model.parameters()))
        for _ in range(3):
            step(*batch())
        weights.append(model[1].weight)
    torch.testing.assert_close(*weights)


def test_an_unknown_optimizer_is_answered_with_the_known_ones(model):
    with pytest.raises(
        InvalidInput, match="optimizer must be one of adamw, adamw_fused, sgd, sgd_no_momentum, got 'lion'"
    ):
        make_optimizer("lion", model.parameters())


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


def sgd(model, lr=1e-9):
    return make_optimizer("sgd", model.parameters(), lr=lr)


def test_micro_batches_add_up_to_the_gradients_and_the_loss_of_the_whole_batch(model):
    (images,), targets = batch()
    loss = nn.functional.cross_entropy(model(images), targets)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    seen, phases = [], []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    step = TrainingStep(model, sgd(model), accumulation_steps=2, max_grad_norm=None)
    torch.testing.assert_close(step((images,), targets, phases.append), loss.detach())
    torch.testing.assert_close(gradients(model), list(expected))
    assert seen == [2, 2] and step.steps_done == 1
    assert phases == ["forward", "loss", "backward"] * 2 + ["optimizer"]


def test_each_input_is_split_along_its_own_axis():
    seen = []

    class Pair(nn.Linear):
        def forward(self, images, features):
            seen.append((images.flatten().tolist(), features[0].tolist()))
            return super().forward(images)

    model = Pair(1, 2)
    images, features = torch.arange(4.0).view(4, 1), torch.arange(8.0).view(2, 4)
    step = TrainingStep(model, sgd(model), accumulation_steps=2, batch_axes=(0, 1))
    step((images, features), torch.zeros(4, dtype=torch.long))
    assert seen == [([0, 1], [0, 1]), ([2, 3], [2, 3])]


def test_features_are_split_by_images_and_what_is_not_there_stays_away():
    seen = []

    class Reads(nn.Linear):
        def forward(self, images, features):
            seen.append(features)
            return super().forward(images)

    model = Reads(1, 2)
    keys, values = torch.randn(2, 3, 4, 2, 5, 6)
    inputs = (torch.randn(4, 1), Features(keys, values))
    step = TrainingStep(model, sgd(model), accumulation_steps=2, batch_axes=(0, 1, 1, None, None, None))
    step(inputs, torch.zeros(4, dtype=torch.long))
    assert [part.keys.tolist() for part in seen] == [keys[:, :2].tolist(), keys[:, 2:].tolist()]
    assert [part.values.tolist() for part in seen] == [values[:, :2].tolist(), values[:, 2:].tolist()]
    assert all(part[2:] == (None, None, None) for part in seen)


def test_a_batch_without_equal_micro_batches_is_refused(model):
    step = TrainingStep(model, sgd(model), accumulation_steps=3)
    with pytest.raises(InvalidInput, match="accumulation_steps must divide the batch of 4 images, got 3"):
        step(*batch())


@pytest.mark.parametrize(("where", "alive"), [("before_forward", False), ("after_forward", True)])
def test_gradients_live_through_the_next_forward_pass_only_if_they_are_released_after_it(model, where, alive):
    step = TrainingStep(model, sgd(model), zero_grad=where)
    step(*batch())
    seen = {}
    step(*batch(), lambda phase: seen.setdefault(phase, model[1].weight.grad is not None))
    assert seen == {"forward": alive, "loss": alive, "backward": False, "optimizer": True}


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_where_gradients_are_released_changes_nothing_that_is_trained(accumulation_steps):
    weights = []
    for where in ("before_forward", "after_forward"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        step = TrainingStep(model, sgd(model, 0.1), zero_grad=where, accumulation_steps=accumulation_steps)
        for _ in range(3):
            step(*batch())
        weights.append(model[1].weight)
    assert torch.equal(*weights)


def test_without_a_norm_gradients_stay_as_they_are(model):
    norms = []
    for max_grad_norm in (1.0, None):
        TrainingStep(model, sgd(model), max_grad_norm=max_grad_norm)(*batch())
        norms.append(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in gradients(model)])).item())
    assert norms[0] == pytest.approx(1, rel=1e-4) and norms[1] > 2


def test_the_moving_average_starts_as_the_first_step_s_weights_and_follows_them(model):
    averaged = moving_average(model)
    step = TrainingStep(model, sgd(model, 0.1), averaged=averaged)
    step(*batch())
    expected = model[1].weight.detach().clone()
    for _ in range(2):
        step(*batch())
        expected = EMA_DECAY * expected + (1 - EMA_DECAY) * model[1].weight.detach()
    torch.testing.assert_close(averaged.module[1].weight.detach(), expected)
    assert not torch.equal(expected, model[1].weight)


def test_sgd_without_momentum_keeps_no_state_and_steps_against_the_gradient(model):
    before = model[1].bias.detach().clone()
    optimizer = make_optimizer("sgd_no_momentum", model.parameters(), lr=0.1, weight_decay=0)
    TrainingStep(model, optimizer)(*batch())
    torch.testing.assert_close(model[1].bias.detach(), before - 0.1 * model[1].bias.grad)
    assert not any(torch.is_tensor(value) for state in optimizer.state.values() for value in state.values())


def test_a_regularizer_of_the_weights_is_not_rounded_by_autocast(model):
    """It ran under autocast, where a Gram matrix is made in bf16."""
    basis, seen = torch.full((1, 3), 1 / 3), []

    def regularizer():
        seen.append(basis @ basis.T)
        return seen[-1].sum()

    step = TrainingStep(
        model, sgd(model), autocast=lambda: torch.autocast("cpu", torch.bfloat16), regularizer=regularizer
    )
    step(*batch())
    assert seen[0].dtype == torch.float32 and seen[0].item() == pytest.approx(1 / 3, abs=1e-6)
