"""Multiply-accumulates (MACs) compared with closed forms for every method and both kinds of attention."""

from dataclasses import dataclass

import pytest
import torch

from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.macs import forward_macs, fvcore_macs
from bench.predict.predictor import predict
from methods import METHODS, VARIANTS

MODEL, RES, BATCH, CLASSES = "vit_s", 224, 2, 5
DIM, DEPTH, HEADS, PATCH, MLP = 384, 12, 6, 16, 4
PATCHES = (RES // PATCH) ** 2
ATTENTION = ("eager", "sdpa")


@dataclass
class Count:
    """MACs of one image: the forward pass, and a whole training step but for what does not depend on the batch."""

    forward: int = 0
    step: int = 0

    def product(self, macs, *, input_grad=True, weight_grad=True):
        """A matrix product costs as much again for each of its two gradients."""
        self.forward += macs
        self.step += macs * (1 + input_grad + weight_grad)

    def attention(self, tokens, dim, kind, *, keys=None, grad=True, key_grad=True):
        """Two products of tokens x keys x dim; a fused backward pass makes the scores once more."""
        macs = tokens * (keys or tokens) * dim
        self.forward += 2 * macs
        self.step += 2 * macs
        if grad:
            self.step += macs * ((4 if key_grad else 3) if kind == "eager" else 5)


def vit_block(
    count, kind, *, tokens, dim=DIM, mlp=MLP, first=False, qkv_weight=False, proj_weight=False, mlp_weight=False
):
    """A block that the gradient runs through; in the `first` nothing asks for the gradient of its input."""
    count.product(3 * tokens * dim * dim, input_grad=not first, weight_grad=qkv_weight)
    count.attention(tokens, dim, kind)
    count.product(tokens * dim * dim, weight_grad=proj_weight)
    for _ in range(2):
        count.product(mlp * tokens * dim * dim, weight_grad=mlp_weight)


def patch_embedding(count, *, weight_grad, dim=DIM, patches=PATCHES):
    count.product(patches * 3 * PATCH * PATCH * dim, input_grad=False, weight_grad=weight_grad)


def head(count, *, dim=DIM, input_grad=True):
    count.product(dim * CLASSES, input_grad=input_grad)


def full(count, kind):
    patch_embedding(count, weight_grad=True)
    for _ in range(DEPTH):
        vit_block(count, kind, tokens=PATCHES + 1, qkv_weight=True, proj_weight=True, mlp_weight=True)
    head(count)


def linear(count, kind):
    frozen = Count()
    full(frozen, kind)
    count.forward = frozen.forward
    count.step = frozen.forward + DIM * CLASSES


def vpt(count, kind):
    patch_embedding(count, weight_grad=False)
    for _ in range(DEPTH):
        vit_block(count, kind, tokens=PATCHES + 1 + 16)
    head(count)


def attention(count, kind):
    patch_embedding(count, weight_grad=False)
    for layer in range(DEPTH):
        vit_block(count, kind, tokens=PATCHES + 1, first=layer == 0, qkv_weight=True, proj_weight=True)
    head(count)


def bitfit(count, kind):
    patch_embedding(count, weight_grad=False)
    for _ in range(DEPTH):
        vit_block(count, kind, tokens=PATCHES + 1)
    head(count)


def adapter(count, kind):
    tokens, bottleneck = PATCHES + 1, 48
    patch_embedding(count, weight_grad=False)
    for layer in range(DEPTH):
        first = layer == 0
        count.product(3 * tokens * DIM * DIM, input_grad=not first, weight_grad=False)
        count.attention(tokens, DIM, kind, grad=not first)
        count.product(tokens * DIM * DIM, input_grad=not first, weight_grad=False)
        count.product(tokens * DIM * bottleneck, input_grad=not first)
        count.product(tokens * DIM * bottleneck)
        for _ in range(2):
            count.product(MLP * tokens * DIM * DIM, weight_grad=False)
        for _ in range(2):
            count.product(tokens * DIM * bottleneck)
    head(count)


def low_rank(count, kind, rank):
    tokens = PATCHES + 1
    patch_embedding(count, weight_grad=False)
    for layer in range(DEPTH):
        first = layer == 0
        count.product(3 * tokens * DIM * DIM, input_grad=not first, weight_grad=False)
        for _ in ("query", "value"):
            count.product(tokens * DIM * rank, input_grad=not first)
            count.product(tokens * DIM * rank)
        count.attention(tokens, DIM, kind)  # the keys come out of the same concatenation, so they get a gradient
        count.product(tokens * DIM * DIM, weight_grad=False)
        for _ in range(2):
            count.product(MLP * tokens * DIM * DIM, weight_grad=False)
    head(count)


def lora(count, kind):
    low_rank(count, kind, rank=16)


def adalora(count, kind):
    low_rank(count, kind, rank=12)


def adalora_regularizer():
    """Gram matrices of both singular bases of query and value, and two gradients each; once a step."""
    return DEPTH * 2 * 2 * 3 * 12 * 12 * DIM


def side(count, kind, *, side_res, layers):
    dim, patches, prompts, kept = DIM // 8, (side_res // PATCH) ** 2, 16, int(0.2 * (PATCHES + 1))
    patch_embedding(count, weight_grad=True, dim=dim, patches=patches)
    for layer in range(layers):
        macs = prompts * kept * DIM
        count.forward += 2 * macs
        # stored keys and values get no gradient; with fused attention a GPU computes the scores again for the backward
        count.step += (4 if kind == "eager" else 5) * macs
        count.product(prompts * DIM * dim)
        tokens = patches + 1 + prompts
        if kind == "eager":
            vit_block(count, kind, tokens=tokens, dim=dim, qkv_weight=True, proj_weight=True, mlp_weight=True)
        else:
            block_of_first(count, kind, dim=dim, tokens=tokens, used=1 if layer == layers - 1 else patches + 1)
    head(count, dim=dim)


def block_of_first(count, kind, *, dim, tokens, used):
    """A block of whose tokens all become keys and values, and only those used later attend and go on."""
    count.product(3 * tokens * dim * dim)
    count.attention(used, dim, kind, keys=tokens)
    count.product(used * dim * dim)
    for _ in range(2):
        count.product(MLP * used * dim * dim)
    count.step += tokens * 3 * dim + used * (dim + MLP * dim + dim)  # the biases' gradients are products with ones


def fpt(count, kind):
    side(count, kind, side_res=224, layers=DEPTH)


def fpt_queries():
    """The prompts' projection, once a step for all images."""
    return DEPTH * 16 * (DIM // 8) * DIM


def fptplus(count, kind):
    side(count, kind, side_res=128, layers=DEPTH // 2)


CLOSED_FORMS = {
    form.__name__: form for form in (full, linear, vpt, attention, adapter, bitfit, lora, adalora, fpt, fptplus)
}
ONCE_A_STEP = {"adalora": (0, adalora_regularizer()), "fpt": (fpt_queries(), 3 * fpt_queries())}
"""Forward and whole-step MACs that do not grow with the batch."""


def cell(method, **axes):
    return CellConfig(method=method, model=MODEL, res=RES, batch_size=BATCH, num_classes=CLASSES, **axes)


def test_every_method_has_a_closed_form():
    assert CLOSED_FORMS.keys() == METHODS.keys()


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("method", METHODS)
def test_macs_equal_the_closed_form(method, kind):
    count = Count()
    CLOSED_FORMS[method](count, kind)
    once_forward, once_step = ONCE_A_STEP.get(method, (0, 0))

    prediction = predict(cell(method, attention=kind))

    assert prediction.forward_macs == count.forward + once_forward
    assert prediction.train_step_macs == BATCH * count.step + once_step


def test_preloading_costs_the_tapped_backbone_and_the_importance_scores():
    plain = Count()
    full(plain, "eager")
    tokens = PATCHES + 1
    last_mlp_left_out = plain.forward - DIM * CLASSES - 8 * tokens * DIM * DIM
    importance = DEPTH // 2 * tokens * tokens * DIM
    assert predict(cell("fptplus")).backbone_forward_macs == last_mlp_left_out + importance


def test_fvcore_does_not_see_fused_attention_and_counts_layer_norm():
    pytest.importorskip("fvcore")
    eager, fused = (predict(cell("full", attention=kind)) for kind in ATTENTION)
    tokens = PATCHES + 1
    layer_norms = 5 * (2 * DEPTH + 1) * tokens * DIM
    assert eager.fvcore_forward_macs == eager.forward_macs + layer_norms
    assert fused.fvcore_forward_macs == fused.forward_macs + layer_norms - DEPTH * 2 * tokens * tokens * DIM


@pytest.mark.parametrize(("method", "side_res", "layers"), [("fpt", 224, DEPTH), ("fptplus", 128, DEPTH // 2)])
def test_fvcore_sees_the_layers_of_a_side_network_but_not_their_attention(method, side_res, layers):
    pytest.importorskip("fvcore")
    dim, prompts, tokens, stored = DIM // 8, 16, (side_res // PATCH) ** 2 + 1, int(0.2 * (PATCHES + 1))
    kept = (layers - 1) * tokens + 1  # over all layers: of the last one only the class token goes on
    self_attention = 2 * kept * (tokens + prompts) * dim
    cross_attention = layers * 2 * prompts * stored * DIM
    normed = dim * (layers * (tokens + prompts) + kept + 1)
    if method == "fptplus":
        normed += layers * prompts * DIM  # the fused prompts

    prediction = predict(cell(method, attention="sdpa"))

    products = prediction.forward_macs - self_attention - cross_attention
    assert prediction.fvcore_forward_macs == products + 5 * normed


def test_fvcore_says_the_same_of_meta_tensors_as_of_real_ones():
    analysis = pytest.importorskip("fvcore.nn").FlopCountAnalysis
    small = CellConfig(method="fptplus", model="test_vit", res=64)
    meta, _ = build_on("meta", small)
    real, _ = build_on("cpu", small)
    with torch.device("meta"):
        on_meta = fvcore_macs(meta.model, meta.example_inputs(1))
    counted = analysis(real.model, real.example_inputs(1)).unsupported_ops_warnings(False)
    assert on_meta == counted.uncalled_modules_warnings(False).total()


class Convolutions(torch.nn.Module):
    """One of each kind, one of them grouped and one without a module."""

    def __init__(self):
        super().__init__()
        self.patches, self.depthwise = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.line, self.head = torch.nn.Conv1d(8, 4, 3), torch.nn.Linear(4, 2)

    def forward(self, images):
        maps = self.depthwise(self.patches(images))
        maps = torch.nn.functional.conv2d(maps, self.depthwise.weight, groups=8, padding=1)
        return self.head(self.line(maps.flatten(2)).mean(dim=2))


def test_fvcore_counts_a_method_with_convolutions_of_any_kind():
    """A tracer cannot trace a convolution on meta tensors, which failed the cell."""
    pytest.importorskip("fvcore")
    with torch.device("meta"):
        model, inputs = Convolutions(), (torch.randn(1, 3, 16, 16),)
        patches, depthwise, line = 16 * 8 * 3 * 16, 16 * 8 * 9, 14 * 4 * 8 * 3
        assert fvcore_macs(model, inputs) == patches + 2 * depthwise + line + 8 == forward_macs(model, inputs)


@pytest.mark.parametrize("method", VARIANTS)
def test_every_variant_is_counted_by_both_counters(method):
    pytest.importorskip("fvcore")
    prediction = predict(CellConfig(method=method, model="test_vit", res=64))
    assert prediction.fvcore_forward_macs > 0 and prediction.forward_macs > 0


def test_a_vit_with_attention_pooling_is_counted():
    """Its pooling query is a parameter that is the input of a layer."""
    pooled, plain = (predict(CellConfig(model=m, method="full", res=64)) for m in ("test_vit3", "test_vit2"))
    assert pooled.forward_macs > plain.forward_macs > 0
