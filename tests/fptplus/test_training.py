import pytest
import torch
from torch import nn

from fptplus import InvalidInput
from fptplus.training import TrainingStep, make_optimizer


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


@pytest.mark.parametrize("name", ["adamw", "adamw_fused", "sgd"])
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
    with pytest.raises(InvalidInput, match="optimizer must be one of adamw, adamw_fused, sgd, sgd_no_momentum, got 'lion'"):
        make_optimizer("lion", model.parameters())
