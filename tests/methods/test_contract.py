"""The contract that every fine-tuning method must fulfil."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from fptplus.network.features import Features, tensors_of
from fptplus.network.precision import autocast
from fptplus.training.step import make_optimizer, moving_average
from methods import METHODS, VARIANTS, create_backbone, find_method
from methods.backbone import MODELS

MODEL, RES, BATCH, CLASSES = "test_vit", 64, 3, 5

LEARNABLE = {
    "full": r".*",
    "linear": r"head\..*",
    "vpt": r"head\..*|blocks\.\d+\.prompts",
    "attention": r"head\..*|blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)",
    "adapter": r"head\..*|blocks\.\d+\.(attn|mlp)\.adapter\.(down|up)\.(weight|bias)",
    "bitfit": r"head\.weight|.*\.bias",
    "lora": r"head\..*|blocks\.\d+\.attn\.qkv\.(query|value)\.lora_[AB]\.default\.weight",
    "adalora": r"head\..*|blocks\.\d+\.attn\.qkv\.(query|value)\.lora_[ABE]\.default",
    "fpt": r"(side|fusion)\..*",
    "fptplus": r"(side|fusion)\..*",
    "fptplus_bf16": r"(side|fusion)\..*",
    "fptplus_int8": r"(side|fusion)\..*",
    "fpt_live": r"trained\.(side|fusion)\..*",
    "fptplus_live": r"trained\.(side|fusion)\..*",
    "adapter_96": r"head\..*|blocks\.\d+\.mlp\.adapter\.(norm|down|up)\.(weight|bias)",
    "attention_pos": r"head\..*|pos_embed|blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)",
    "side_only": r"side\..*",
    "side_mlp": r"(side|mlps)\..*",
    "side_fusion": r"trained\.(side|fusion)\..*",
    "side_fusion_asymmetric": r"trained\.(side|fusion)\..*",
}
"""The parameters that each method says it moves, and no others."""

everything = pytest.mark.parametrize("name", METHODS | VARIANTS)


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    vit = create_backbone(MODEL, RES, CLASSES, **options)
    return find_method(name).build(vit, RES)


def batch(tuning, seed=1):
    torch.manual_seed(seed)
    return tuning.example_inputs(BATCH), torch.arange(BATCH) % CLASSES


def train(tuning, steps=3, **options):
    """Losses of a few steps on one batch."""
    inputs, targets = batch(tuning)
    step = tuning.training_step(make_optimizer("adamw", tuning.model.parameters(), weight_decay=0), **options)
    torch.manual_seed(2)
    return [step(inputs, targets) for _ in range(steps)]


@everything
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gives_one_logit_a_class(name, attention):
    tuning = build(name, attention=attention)
    inputs, _ = batch(tuning)
    assert tuning.model(*inputs).shape == (BATCH, CLASSES)


@everything
def test_eager_and_fused_attention_give_the_same_logits(name):
    logits = []
    for attention in ("eager", "sdpa"):
        tuning = build(name, attention=attention)
        tuning.model.eval()
        inputs, _ = batch(tuning)
        logits.append(tuning.model(*inputs))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@everything
def test_only_the_declared_parameters_move_and_all_of_them_do(name):
    tuning = build(name)
    before = {key: value.clone() for key, value in tuning.model.state_dict().items()}
    train(tuning)
    moved = {key for key, value in tuning.model.state_dict().items() if not torch.equal(value, before[key])}
    declared = {key for key, _ in tuning.model.named_parameters() if re.fullmatch(LEARNABLE[name], key)}
    assert moved == declared
    assert declared == {key for key, parameter in tuning.model.named_parameters() if parameter.requires_grad}


@everything
def test_the_same_seed_gives_the_same_losses(name):
    assert train(build(name)) == train(build(name))


@everything
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_trains_under_bf16_autocast(name, attention):
    losses = train(build(name, attention=attention), autocast=partial(autocast, "bf16", "cpu"))
    assert all(torch.isfinite(loss) for loss in losses)


@everything
def test_checkpointing_changes_no_loss(name):
    plain, checkpointed = (train(build(name, checkpointing=kind)) for kind in ("none", "block"))
    torch.testing.assert_close(plain, checkpointed)


@everything
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_trains_with_all_weights_in_bf16(name, attention):
    tuning = build(name, attention=attention).with_bf16_weights()
    assert {parameter.dtype for parameter in tuning.model.parameters()} == {torch.bfloat16}
    assert not any(tensor.dtype == torch.float32 for tensor in tensors_of(tuning.example_inputs(BATCH)))
    assert all(torch.isfinite(loss) for loss in train(tuning))


@everything
def test_micro_batches_give_the_gradients_of_the_whole_batch(name):
    tuning = build(name)
    tuning.model.eval()  # without dropout
    inputs, targets = batch(tuning)
    gradients = []
    for accumulation_steps in (1, BATCH):
        options = {"max_grad_norm": None, "accumulation_steps": accumulation_steps}
        frozen_weights = make_optimizer("sgd_no_momentum", tuning.model.parameters(), lr=0.0)
        replace(tuning, after_step=None).training_step(frozen_weights, **options)(inputs, targets)
        gradients.append([p.grad.clone() for p in tuning.model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@everything
@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_a_moving_average_is_a_model_of_its_own(name, checkpointing):
    tuning = build(name, checkpointing=checkpointing)
    tuning.model.eval()
    inputs, _ = batch(tuning)
    averaged = moving_average(tuning.model)
    before = averaged(*inputs)
    with torch.no_grad():
        for parameter in tuning.model.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(averaged(*inputs), before)
    assert not torch.allclose(tuning.model(*inputs), before)


@everything
def test_the_loss_falls_on_one_batch(name):
    losses = train(build(name), steps=30)
    assert min(losses[-5:]) < losses[0]


@everything
def test_says_which_inputs_its_model_takes(name):
    method = find_method(name)
    images, *others = batch(build(name))[0]
    assert images.shape[-2:] == (method.input_res(RES),) * 2
    assert method.reads_features == any(isinstance(other, Features) for other in others)


@everything
def test_is_itself_for_a_training_of_any_length(name):
    """But for a schedule that it may have."""
    method = find_method(name).for_training(7)
    assert (type(method), method.title) == (type(find_method(name)), find_method(name).title)
    vit = create_backbone(MODEL, RES, CLASSES)
    assert method.build(vit, RES).model(*batch(build(name))[0]).shape == (BATCH, CLASSES)


@everything
def test_total_params_count_what_is_frozen_too(name):
    tuning = build(name)
    learnable = sum(p.numel() for p in tuning.model.parameters() if p.requires_grad)
    assert 0 < learnable <= tuning.total_params
    assert (learnable == tuning.total_params) == (name in ("full", "side_only"))


@pytest.mark.parametrize(
    "model", [*MODELS, "vit_base_patch14_reg4_dinov2", "vit_base_patch8_224", "vit_base_patch16_clip_224"]
)
@everything
def test_drives_every_kind_of_vit_it_says_it_does(name, model):
    res = 224
    with torch.device("meta"):
        tuning = find_method(name).build(create_backbone(model, res, CLASSES), res)
        assert tuning.model(*tuning.example_inputs(2)).shape == (2, CLASSES)
