"""cuBLAS and cuDNN of the emulated device: what they answer, and the scratch memory that PyTorch takes for them."""

import on_emulated_operators as on_device
import pytest
import torch

from bench.cards.gpus import GPUS
from bench.emulate.build import why_not
from bench.emulate.pool import Job
from bench.units import MIB

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FP32, TF32, FP64, FP16, BF16, INT32 = 68, 77, 70, 68, 68, 72
"""Compute types, as cuBLAS numbers them (cublasComputeType_t); half precision is added up in fp32."""

R_32F, R_64F, R_16F, R_8I, R_16BF, R_8F_E4M3 = 0, 1, 2, 3, 14, 28
"""Types of numbers, as CUDA numbers them (cudaDataType)."""


@pytest.fixture(scope="module")
def pool(emulated_pool):
    return emulated_pool


def run(pool, function, *arguments, gpu="a6000"):
    (answer,) = pool.map(function, [Job(gpu=GPUS[gpu], arguments=arguments)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_cudnns_version_is_the_one_that_pytorch_was_compiled_with_or_a_later_one_of_its_release(pool):
    said, compiled = run(pool, on_device.versions)
    assert said[0] == compiled[0]
    assert said >= compiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layer", on_device.LAYERS)
def test_layers_train(pool, layer, dtype):
    shape, wrong_grads, _, unanswered = run(pool, on_device.trains, layer, dtype)
    with torch.device("meta"):
        make, input_shape = on_device.LAYERS[layer]
        expected = make()(torch.empty(input_shape))
    assert shape == (expected[0] if isinstance(expected, tuple) else expected).shape
    assert not wrong_grads
    assert not unanswered


@pytest.mark.parametrize("layer", ["Conv2d", "BatchNorm2d"])
def test_layers_train_with_channels_last(pool, layer):
    _, wrong_grads, _, unanswered = run(pool, on_device.trains, layer, torch.float32, True)
    assert not wrong_grads
    assert not unanswered


def test_scratch_memory_of_convolutions_is_known_where_the_installed_cudnn_plans_them(pool):
    if torch.backends.cudnn.version() < 90800:
        pytest.skip("cuDNN plans without a device since 9.8")
    *_, unknown = run(pool, on_device.trains, "Conv2d in patches", torch.float32)
    assert unknown == ""


@pytest.mark.parametrize(
    ("gpu", "dtype", "forward_bytes", "backward_bytes"),
    [
        ("t4", torch.float32, 0, 125_375),
        ("a6000", torch.float32, 6_272, 120_586_384),
        ("h100", torch.float32, 103_022_608, 123_732_112),
        ("h100", torch.bfloat16, 95_420_432, 233_832_592),
    ],
)
def test_a_patch_embedding_takes_what_cudnn_plans_for_the_card(pool, gpu, dtype, forward_bytes, backward_bytes):
    """Figures of cuDNN 9.24.0, asked by a separate program with a description of the card ("deviceless" plans)."""
    if torch.backends.cudnn.version() != 92400:
        pytest.skip(f"the figures are of cuDNN 9.24.0, this is {torch.backends.cudnn.version()}")
    forward, backward, _ = run(pool, on_device.patch_embedding_bytes, dtype, gpu=gpu)
    assert (forward, backward) == (forward_bytes, backward_bytes)


def test_an_engine_that_pytorch_would_choose_by_measuring_is_said_to_be_unknown_and_does_not_depend_on_time(pool):
    jobs = [Job(gpu=GPUS["a6000"], arguments=()) for _ in range(2)]
    (first, unknown), (second, _) = pool.map(on_device.benchmarked_convolution_bytes, jobs)
    assert unknown == "operators chosen by cudnn.benchmark"
    assert first == second


def test_batch_normalisation_allocates_its_output_and_two_statistics(pool):
    added, output_bytes, unknown = run(pool, on_device.batch_norm_bytes, (32, 64, 56, 56))
    assert added == output_bytes + 2 * 64 * 4  # a mean and a deviation of each channel
    assert unknown == "batch normalisation"


@pytest.mark.parametrize("layer", ["LSTM", "LSTM with projection", "GRU", "RNN"])
def test_weights_of_recurrent_networks_lie_in_one_buffer_of_their_size(pool, layer):
    buffer_bytes, parameter_bytes = run(pool, on_device.recurrent_weights_bytes, layer)
    assert buffer_bytes == parameter_bytes


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gpu", ["a100-80gb", "h100", "b200", "rtx5090"])
def test_cudnns_attention_runs_forward_and_backward(pool, gpu, dtype, is_causal):
    shape = batch, heads, tokens, width = 16, 12, 1025, 64
    forward_bytes, backward_bytes, names = run(pool, on_device.cudnn_attention_bytes, dtype, shape, is_causal, gpu=gpu)
    assert "attention (cuDNN)" in names
    assert 0 <= forward_bytes <= MIB
    grad_q_in_fp32 = 4 * batch * heads * tokens * width  # gradients of the queries are added up in fp32
    assert grad_q_in_fp32 <= backward_bytes <= 3 * grad_q_in_fp32


def test_cudnns_attention_has_no_kernel_for_a_turing_card(pool):
    with pytest.raises(RuntimeError, match="No available kernel"):
        run(pool, on_device.cudnn_attention_bytes, torch.float16, (2, 4, 64, 64), False, gpu="t4")


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("mm fp32", (30, 10, 20, 1, R_32F, FP32)),
        ("mm tf32", (30, 10, 20, 1, R_32F, TF32)),
        ("mm fp64", (30, 10, 20, 1, R_64F, FP64)),
        ("mm fp16", (30, 10, 20, 1, R_16F, FP16)),
        ("mm bf16", (30, 10, 20, 1, R_16BF, BF16)),
        ("baddbmm", (30, 10, 20, 4, R_32F, FP32)),
        ("linear with bias", (30, 10, 20, 1, R_32F, FP32)),
        ("linear with gelu", (30, 10, 20, 1, R_32F, FP32)),
        ("mv", (10, 1, 20, 1, R_32F, FP32)),
        ("int8", (48, 32, 64, 1, R_8I, INT32)),
        ("fp8", (32, 32, 64, 1, R_8F_E4M3, FP32)),
    ],
)
def test_products_are_recorded_with_their_shapes_and_types(pool, operator, expected):
    """cuBLAS counts columns first, so m and n change places."""
    assert run(pool, on_device.products, operator, gpu="h100") == [expected]


def test_fp8_products_are_refused_by_pytorch_on_a_card_that_has_none(pool):
    with pytest.raises(RuntimeError, match="compute capability"):
        run(pool, on_device.products, "fp8", gpu="a6000")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("inverses of a batch", (4, 8, 8)), ("triangular", (8, 8)), ("least squares of a batch", (4, 8, 8))],
)
def test_solvers_of_cublas_run(pool, name, shape):
    assert run(pool, on_device.solver, name) == (shape, "")


def test_library_calls_of_a_captured_graph_are_counted_when_it_is_replayed(pool):
    captured, replayed = run(pool, on_device.library_calls_of_replays, 3)
    assert captured == 0
    assert replayed == 3 * 2


def test_linear_algebra_transforms_and_sparse_products_are_counted(pool):
    shapes, unknown, unanswered = run(pool, on_device.linear_algebra)
    square = dict.fromkeys(["cholesky", "qr", "eigh", "solve", "lstsq", "ldl"], (64, 64))
    sparse = dict.fromkeys(["sparse product", "sparse rows"], (4, 8))
    assert shapes == square | sparse | {"svd": (64,), "inv": (2, 1024, 1024), "rfft2": (64, 33)}
    assert not unanswered
    assert all(library in unknown for library in ("cuSOLVER", "cuFFT", "cuSPARSE"))


@pytest.mark.parametrize("gpu", ["t4", "a6000", "rtx4090", "h100", "rtx5090"])
def test_sorting_and_counting_run_on_cards_that_pytorch_was_not_compiled_for_exactly(pool, gpu):
    sizes, permuted, unanswered = run(pool, on_device.sorted_and_counted, gpu=gpu)
    assert (sizes, permuted, unanswered) == ([0, 5000, 5000], 5000, "")


@pytest.mark.parametrize("size", [1, 5000], ids=["one number", "across pages"])
def test_what_a_kernel_computes_is_zero_and_not_what_lay_there(pool, size):
    assert run(pool, on_device.computed_after_other_numbers, size) == (0, 7)
