"""The plain baseline and our training step are the same training: logits, losses, gradients, 200 steps."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fptplus
from fptplus.network.features import Features
from fptplus.network.precision import autocast
from fptplus.network.weights import side_to_reference
from fptplus.reference import PlainFPT, plain_features, plain_step
from fptplus.store.layout import RowLayout
from fptplus.training.step import TrainingStep, make_optimizer
from methods import create_backbone

GOLDEN = Path(__file__).parents[2] / "golden"
LPM_DIM, HEADS, TOKENS, CLASSES = 48, 3, 7, 3
STEPS = 200


def plain_like(model, variant, **options):
    """The baseline with a model's weights."""
    layers, prompts, _ = model.fusion.prompts.shape
    plain = PlainFPT(
        variant=variant,
        num_layers=layers,
        num_prompts=prompts,
        lpm_dim=model.fusion.out_proj.in_features,
        num_heads=model.fusion.num_heads,
        dim=model.fusion.out_proj.out_features,
        res=model.side.res,
        patch_size=model.side.patch_embed.kernel_size[0],
        num_classes=model.side.head.out_features,
        **options,
    )
    plain.load_state_dict(side_to_reference(model.state_dict()))
    return plain


def assert_close(got, expected, what):
    error = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= 1e-4, f"{what} differs by {error:.2e} of its largest entry"


@pytest.mark.parametrize("variant", ["fptplus", "fpt"])
@pytest.mark.parametrize(("layer_kind", "fused_attention"), [("lean", True), ("plain", True), ("plain", False)])
@pytest.mark.parametrize("fuses_at_once", [True, False])
def test_logits_loss_and_every_gradient_are_the_baselines(variant, layer_kind, fused_attention, fuses_at_once):
    path = GOLDEN / f"{variant}_reference.safetensors"
    golden = fptplus.read_checkpoint(path)
    model = fptplus.load_official_checkpoint(path, layer_kind=layer_kind, fused_attention=fused_attention).eval()
    plain = plain_like(model, variant, fuses_at_once=fuses_at_once).eval()
    features = golden["out.key_states"], golden["out.value_states"]
    logits = model(golden["in.image_low"], Features(*features)), plain(golden["in.image_low"], torch.stack(features))
    losses = [F.cross_entropy(some, golden["in.target"]) for some in logits]
    for loss in losses:
        loss.backward()
    assert_close(*logits, "logits")
    assert_close(*losses, "loss")
    gradients = side_to_reference({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, parameter in plain.named_parameters():
        if name.endswith("attention.key.bias"):  # it changes no softmax: its gradient is 0 but for rounding
            assert max(gradients[name].abs().max(), parameter.grad.abs().max()) < 1e-8
        else:
            assert_close(gradients[name], parameter.grad, f"the gradient of {name}")


def trained_on(variant, dtype):
    """A small model, features as a store of a type keeps them, and those features as the plain fp32 they stand for."""
    torch.manual_seed(0)
    config = fptplus.FPTConfig(
        variant=variant, side_res=32, tapped_share=1.0, num_prompts=4, reduction_factor=2, side_patch_size=16
    )
    model = fptplus.build_fpt(config, lpm_dim=LPM_DIM, lpm_heads=HEADS, lpm_depth=2, num_classes=CLASSES)
    model.fusion.dropout.p = 0.0  # both would draw other masks
    layout = RowLayout(layers=2, heads=HEADS, tokens=TOKENS, head_dim=LPM_DIM // HEADS, dtype=dtype)
    raw = layout.unpack(layout.pack(*torch.randn(2, 2, 24, HEADS, TOKENS, LPM_DIM // HEADS)))
    return model, raw, torch.randn(24, 3, 32, 32), torch.randint(CLASSES, (24,))


@pytest.mark.parametrize(
    ("variant", "precision", "dtype", "tolerance"),
    [
        ("fptplus", "fp32", "fp32", 2e-3),
        ("fptplus", "bf16", "bf16", 0.06),
        ("fptplus", "bf16", "int8", 0.06),
        ("fpt", "fp32", "fp32", 2e-3),
        ("fpt", "bf16", "int8", 0.06),
    ],
)
def test_200_steps_have_the_losses_of_the_baseline(variant, precision, dtype, tolerance):
    """Tolerance: of the mean loss over 10 steps, in nats; it falls from about 1.1 to below 0.3."""
    model, raw, images, targets = trained_on(variant, dtype)
    plain = plain_like(model, variant)
    plain.fusion.dropout.p = 0.0
    step = TrainingStep(
        model,
        make_optimizer("adamw_fused", model.parameters(), weight_decay=0.1),
        autocast=partial(autocast, precision, "cpu"),
    )
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.1)
    meant = torch.stack(raw.keys_and_values())
    losses = torch.empty(2, STEPS)
    for number in range(STEPS):
        chosen = torch.arange(8) + 8 * (number % 3)
        stored = raw.by_layer()._replace(rows=chosen).of_batch()
        losses[0, number] = step((images[chosen], stored), targets[chosen])
        losses[1, number] = plain_step(plain, plain_optimizer, images[chosen], meant[:, :, chosen], targets[chosen])
    ours, theirs = losses.unflatten(1, (-1, 10)).mean(dim=2)
    assert theirs[0] > 1 and theirs[-1] < 0.3
    assert (ours - theirs).abs().max() <= tolerance


def test_preloaded_features_are_the_baselines():
    torch.manual_seed(0)
    vit = create_backbone("test_vit", 160, 2)
    backbone, images = fptplus.FrozenBackbone(vit, (3, 5), 0.2), torch.randn(2, 3, 160, 160)
    features = plain_features(vit, images, (3, 5), 0.2)
    for ours, plain in zip(backbone(images)[:2], features, strict=True):
        assert_close(ours, plain, "features")
