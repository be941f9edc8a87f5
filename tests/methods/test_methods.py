"""Each method compared with an independent statement of what it is."""

import pytest
import torch
from torch import nn

from fptplus.network.features import tensors_of
from fptplus.training.step import make_optimizer
from methods import create_backbone, find_method
from methods.adalora import AdaLoRA, orthogonality
from methods.backbone import published_params
from methods.lora import TARGETS, LoRA, separate_qkv

MODEL, RES, CLASSES = "test_vit", 64, 5


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return create_backbone(MODEL, RES, CLASSES).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, RES, RES)


def test_vpt_deep_replaces_the_prompts_of_the_block_before(vit, images):
    with torch.no_grad():
        tuning = find_method("vpt").build(vit, RES)
        prompts = [block.prompts for block in vit.blocks]
        x = vit._pos_embed(vit.patch_embed(images))
        x = torch.cat([x[:, :1], prompts[0].expand(2, -1, -1), x[:, 1:]], dim=1)
        for block, own in zip(vit.blocks, prompts, strict=True):
            x[:, 1 : 1 + len(own)] = own
            x = block.block(x)
        expected = vit.head(vit.norm(x)[:, 0])
        torch.testing.assert_close(tuning.model(images), expected)


def test_vpt_adds_no_prompt_to_the_pooled_tokens(images):
    vit = create_backbone("test_vit2", RES, CLASSES).eval()
    with torch.no_grad():
        find_method("vpt").build(vit, RES)
        assert vit.forward_features(images).shape[1] == (RES // 16) ** 2 + vit.num_prefix_tokens


@pytest.mark.parametrize("method", ["adapter", "adapter_96"])
def test_an_adapter_starts_as_the_identity(vit, images, method):
    with torch.no_grad():
        before = vit(images)
        torch.testing.assert_close(find_method(method).build(vit, RES).model(images), before)


@pytest.mark.parametrize(
    ("method", "percent"), [("adapter", 2.032), ("adapter_96", 2.042), ("attention", 32.80), ("attention_pos", 33.71)]
)
def test_baselines_the_paper_does_not_describe_have_these_shares_of_vit_b(method, percent):
    """Printed: 2.03 for the adapter, 33.8 for attention-tuning. The paper counts the LPM as published."""
    with torch.device("meta"):
        vit = create_backbone("vit_b", 512, 5)
        tuning = find_method(method).build(vit, 512)
        published = published_params(create_backbone("vit_b", 512, 5))
    assert 100 * tuning.learnable_params / tuning.total_params == pytest.approx(percent, abs=0.005)
    as_printed = 100 * tuning.learnable_params / (tuning.learnable_params + published)
    if method.startswith("adapter"):
        assert as_printed == pytest.approx({"adapter": 2.022, "adapter_96": 2.033}[method], abs=0.0005)


def test_separate_qkv_gives_what_the_fused_layer_gives(vit, images):
    with torch.no_grad():
        before = vit(images)
        separate_qkv(vit)
        torch.testing.assert_close(vit(images), before)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_low_rank_updates_leave_the_key_alone(vit, method):
    qkv = vit.blocks[0].attn.qkv
    tokens = torch.randn(2, 7, vit.embed_dim)
    before = qkv(tokens)
    model = find_method(method).build(vit, RES).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                nn.init.normal_(parameter)
    query, key, value = (model.blocks[0].attn.qkv(tokens) - before).chunk(3, dim=-1)
    assert torch.equal(key, torch.zeros_like(key)) or key.abs().max() < 1e-5
    assert query.abs().max() > 1 and value.abs().max() > 1


def test_lora_adds_alpha_over_rank_times_b_a(vit):
    model = find_method("lora").build(vit, RES).model
    layer = model.blocks[2].attn.qkv.value
    tokens = torch.randn(3, vit.embed_dim)
    with torch.no_grad():
        a, b = layer.lora_A["default"].weight.normal_(), layer.lora_B["default"].weight.normal_()
        expected = layer.base_layer(tokens) + 16 / 16 * tokens @ a.T @ b.T
        torch.testing.assert_close(layer(tokens), expected)


def test_lora_starts_as_the_pretrained_model(vit, images):
    with torch.no_grad():
        before = vit(images)
        torch.testing.assert_close(find_method("lora").build(vit, RES).model(images), before)


def test_adalora_shrinks_the_ranks_to_its_budget(vit, images):
    method = AdaLoRA(init_rank=6, target_rank=2, total_steps=12, warmup_steps=2, final_steps=3, allocation_interval=1)
    tuning = method.build(vit.train(), RES)
    step = tuning.training_step(make_optimizer("adamw", tuning.model.parameters(), lr=1e-2))
    ranks = [p for name, p in tuning.model.named_parameters() if ".lora_E." in name]
    active = []
    for _ in range(12):
        step((images,), torch.tensor([0, 1]))
        active.append(sum(int((rank != 0).sum()) for rank in ranks))
    assert active[1] == len(ranks) * 6, "nothing is cut while warming up"
    assert active[-1] == len(ranks) * 2, "the budget is reached"
    assert active == sorted(active, reverse=True)


def test_adalora_keeps_the_proportion_of_its_phases_in_a_training_of_another_length():
    longer = find_method("adalora").for_training(15_200)
    assert (longer.warmup_steps, longer.final_steps, longer.total_steps) == (2000, 5000, 15_200)
    assert longer.for_training(1520) == find_method("adalora")


def test_adalora_adds_the_orthogonality_of_the_singular_bases_to_its_loss(vit):
    tuning = find_method("adalora").build(vit, RES)
    bases = [p for name, p in tuning.model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
    with torch.no_grad():
        for basis in bases:
            long_side_first = basis if basis.shape[0] > basis.shape[1] else basis.T
            long_side_first.copy_(torch.linalg.qr(torch.randn(long_side_first.shape))[0])
    assert orthogonality(tuning.model) < 1e-5
    with torch.no_grad():
        for basis in bases:
            basis.mul_(2**0.5)
    # every Gram matrix is now 2·I, at a Frobenius distance of sqrt(rank) from I
    torch.testing.assert_close(tuning.regularizer(), torch.tensor(0.5 * 12**0.5))


def test_linear_probing_keeps_nothing_of_the_backbone_for_the_backward_pass(vit, images):
    saved = []
    tuning = find_method("linear").build(vit, RES)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        tuning.model(images)
    assert set(saved) <= {(2, vit.embed_dim), (CLASSES, vit.embed_dim), (vit.embed_dim, CLASSES)}


@pytest.mark.parametrize("name", ["fpt", "fptplus"])
def test_preloaded_inputs_have_the_shapes_that_the_preloader_makes(vit, images, name):
    tuning = find_method(name).build(vit, RES)
    _, features = tuning.example_inputs(2)
    made = tuning.preloader(images)
    assert [tensor.shape for tensor in tensors_of(features)] == [tensor.shape for tensor in tensors_of(made)]


@pytest.mark.parametrize(
    "targets", [("query", "value"), ("key",), ("qkv",), ("proj",), ("fc1", "fc2"), ("query", "key", "value", "proj")]
)
def test_lora_adapts_the_layers_it_is_told_to_in_every_block_and_starts_as_the_identity(vit, images, targets):
    with torch.no_grad():
        before = vit(images)
        model = LoRA(rank=3, targets=targets).build(vit, RES).model
        torch.testing.assert_close(model(images), before)
    adapted = {
        name.removesuffix(".lora_A.default.weight") for name, _ in model.named_parameters() if ".lora_A." in name
    }
    assert adapted == {f"blocks.{i}.{TARGETS[target]}" for i in range(len(vit.blocks)) for target in targets}
    assert {len(matrix) for name, matrix in model.named_parameters() if ".lora_A." in name} == {3}


def test_lora_on_the_fused_layer_leaves_it_fused(vit):
    LoRA(targets=("qkv", "fc1")).build(vit, RES)
    assert vit.blocks[0].attn.qkv.base_layer.out_features == 3 * vit.embed_dim
