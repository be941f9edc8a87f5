"""Operators that the tests run on an emulated card; they are in a module since a job's process finds them by name."""

import ctypes
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.emulate.device_state import unanswered, unknown_workspaces

LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(8, 16, 3, padding=1), (4, 8, 28, 28)),
    "Conv2d in patches": (lambda: nn.Conv2d(3, 192, 16, 16), (4, 3, 64, 64)),
    "Conv2d depthwise": (lambda: nn.Conv2d(8, 8, 7, padding=3, groups=8), (4, 8, 28, 28)),
    "Conv2d dilated": (lambda: nn.Conv2d(8, 16, 3, padding=2, dilation=2), (4, 8, 28, 28)),
    "Conv3d": (lambda: nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), (2, 3, 4, 32, 32)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 16, 2, 2), (4, 8, 28, 28)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), (4, 8, 28, 28)),
    "LSTM": (lambda: nn.LSTM(12, 20, 2, bidirectional=True, dropout=0.1), (7, 4, 12)),
    "LSTM with projection": (lambda: nn.LSTM(12, 20, proj_size=5), (7, 4, 12)),
    "GRU": (lambda: nn.GRU(12, 20, 2), (7, 4, 12)),
    "RNN": (lambda: nn.RNN(12, 20), (7, 4, 12)),
}


class Product(ctypes.Structure):
    """A matrix product as the device records it (device/library.h)."""

    _fields_ = [(name, ctypes.c_int64) for name in ("m", "n", "k", "batch")]
    _fields_ += [(name, ctypes.c_int32) for name in ("type", "compute_type")]


def trains(layer, dtype, channels_last=False):
    """Sizes of the output, gradients that are missing or of another shape, and what was not known or answered."""
    make, shape = LAYERS[layer]
    module, x = make().to("cuda", dtype), torch.ones(shape, device="cuda", dtype=dtype)
    if channels_last:
        module, x = (value.to(memory_format=torch.channels_last) for value in (module, x))
    x.requires_grad_()
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    y.sum().backward()
    tensors = {"input": x, **dict(module.named_parameters())}
    wrong = [name for name, tensor in tensors.items() if tensor.grad is None or tensor.grad.shape != tensor.shape]
    return tuple(y.shape), wrong, unknown_workspaces(), unanswered()


def added_bytes(function):
    """Result of a call, and the most that it has asked for besides what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    result = function()
    return result, torch.cuda.memory_stats()["requested_bytes.all.peak"] - before


def patch_embedding_bytes(dtype):
    """Bytes that the forward and backward pass take besides output and gradients: a ViT-B/16's patches, 16 images."""
    x = torch.empty(16, 3, 512, 512, device="cuda", dtype=dtype)
    weight = torch.empty(768, 3, 16, 16, device="cuda", dtype=dtype, requires_grad=True)
    y, forward_bytes = added_bytes(lambda: F.conv2d(x, weight, stride=16))
    grad = torch.empty_like(y)
    _, backward_bytes = added_bytes(lambda: y.backward(grad))
    return forward_bytes - y.nbytes, backward_bytes - weight.nbytes, unknown_workspaces()


def benchmarked_convolution_bytes():
    """Peak of a convolution whose engine PyTorch chooses by measuring, and what is not known of it."""
    torch.backends.cudnn.benchmark = True
    conv, x = nn.Conv2d(64, 128, 3, padding=1).cuda(), torch.empty(16, 64, 56, 56, device="cuda")
    conv(x).sum().backward()
    return torch.cuda.max_memory_allocated(), unknown_workspaces()


def batch_norm_bytes(shape):
    """What a training batch normalisation asks for in its forward pass, and its output."""
    norm, x = nn.BatchNorm2d(shape[1]).cuda(), torch.empty(shape, device="cuda")
    y, added = added_bytes(lambda: norm(x))
    return added, y.nbytes, unknown_workspaces()


def recurrent_weights_bytes(layer):
    """Bytes of the one buffer that cuDNN's weights lie in, and of the parameters."""
    module = LAYERS[layer][0]().cuda()
    (buffer,) = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage() for weight in module._flat_weights
    }.values()
    return buffer.nbytes(), sum(parameter.nbytes for parameter in module.parameters())


def cudnn_attention_bytes(dtype, shape, is_causal):
    """Bytes that cuDNN's attention takes forward and backward, besides output, log-sum-exp and gradients."""
    batch, heads, tokens, width = shape
    make = lambda: torch.empty(batch, tokens, heads, width, device="cuda", dtype=dtype, requires_grad=True)  # noqa: E731
    q, k, v = (make().transpose(1, 2) for _ in range(3))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        y, forward_bytes = added_bytes(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal))
    grad = torch.empty_like(y)
    _, backward_bytes = added_bytes(lambda: y.backward(grad))
    log_sum_exp_bytes = 4 * batch * heads * tokens
    return forward_bytes - y.nbytes - log_sum_exp_bytes, backward_bytes - 3 * y.nbytes, set(launches_by_name())


def launches_by_name():
    """How often each kernel, and each call of a library, has been launched."""
    library = ctypes.CDLL(None)
    library.emulated_launches_by_name.restype = ctypes.c_size_t
    text = ctypes.create_string_buffer(library.emulated_launches_by_name(None, ctypes.c_size_t(0)))
    library.emulated_launches_by_name(text, ctypes.c_size_t(len(text)))
    lines = (line.partition(" ") for line in text.value.decode().splitlines())
    return {name: int(count) for count, _, name in lines}


def versions():
    """cuDNN's version as the device says it, and the one that PyTorch was compiled with: major, minor, patch."""
    return torch._C._cudnn.getRuntimeVersion(), torch._C._cudnn.getCompileVersion()


def products(name):
    """Products of an operator: m, n, k, batch, type of the factors, compute type."""

    def ones(*shape, dtype=torch.float32):
        return torch.ones(shape, device="cuda").to(dtype)

    def eighths(*shape):
        return torch.zeros(shape, dtype=torch.int8, device="cuda")

    def scaled():
        left, right, scale = ones(32, 64), ones(32, 64), torch.ones((), device="cuda")
        left, right = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn)
        return torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16)

    def in_tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        return ones(10, 20) @ ones(20, 30)

    half, brain = torch.float16, torch.bfloat16
    operators = {
        "mm fp32": lambda: ones(10, 20) @ ones(20, 30),
        "mm tf32": in_tf32,
        "mm fp64": lambda: ones(10, 20, dtype=torch.float64) @ ones(20, 30, dtype=torch.float64),
        "mm fp16": lambda: ones(10, 20, dtype=half) @ ones(20, 30, dtype=half),
        "mm bf16": lambda: ones(10, 20, dtype=brain) @ ones(20, 30, dtype=brain),
        "baddbmm": lambda: torch.baddbmm(ones(4, 10, 30), ones(4, 10, 20), ones(4, 20, 30)),
        "linear with bias": lambda: F.linear(ones(10, 20), ones(30, 20), ones(30)),
        "linear with gelu": lambda: torch._addmm_activation(ones(30), ones(10, 20), ones(20, 30), use_gelu=True),
        "mv": lambda: ones(10, 20) @ ones(20),
        "int8": lambda: torch._int_mm(eighths(32, 64), eighths(64, 48)),
        "fp8": scaled,
    }
    library = ctypes.CDLL(None)
    library.emulated_products_enable(1)
    operators[name]()
    found = (Product * 8)()
    library.emulated_products_read.restype = ctypes.c_size_t
    count = library.emulated_products_read(found, ctypes.c_size_t(len(found)))
    return [tuple(getattr(product, field) for field, _ in Product._fields_) for product in found[:count]]


def solver(name):
    """Shape of what a solver of cuBLAS returns, and the functions that had no answer."""
    matrices, matrix = torch.ones(4, 8, 8, device="cuda"), torch.ones(8, 8, device="cuda")
    solvers = {
        "inverses of a batch": lambda: torch.linalg.inv(matrices),
        "triangular": lambda: torch.linalg.solve_triangular(matrix, matrix, upper=True),
        "least squares of a batch": lambda: torch.linalg.lstsq(matrices, matrices)[0],
    }
    return tuple(solvers[name]().shape), unanswered()


def library_calls_of_replays(num_replays):
    """How often a captured convolution and product are counted while they are captured, and while they are replayed."""
    conv, x = nn.Conv2d(8, 16, 3).cuda(), torch.ones(4, 8, 28, 28, device="cuda")
    y = torch.ones(64, 64, device="cuda")
    with torch.no_grad():
        conv(x), y @ y  # engines and workspaces are there before
    counts = [_library_calls()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        conv(x), y @ y
    counts.append(_library_calls())
    for _ in range(num_replays):
        graph.replay()
    counts.append(_library_calls())
    return [after - before for before, after in pairwise(counts)]


def _library_calls():
    launches = launches_by_name()
    return launches["convolution"] + launches["cublasSgemm"]


def linear_algebra():
    """Shapes of results of cuSOLVER, cuFFT and cuSPARSE, and what was not known or answered."""
    linalg, square, batch = torch.linalg, torch.ones(64, 64, device="cuda"), torch.ones(2, 1024, 1024, device="cuda")
    sparse = torch.eye(4).to_sparse().cuda()
    results = {
        "cholesky": linalg.cholesky(square),
        "qr": linalg.qr(square)[0],
        "svd": linalg.svd(square)[1],
        "eigh": linalg.eigh(square)[1],
        "inv": linalg.inv(batch),
        "solve": linalg.solve(square, square),
        "lstsq": linalg.lstsq(square, square)[0],
        "ldl": linalg.ldl_factor(square)[0],
        "rfft2": torch.fft.rfft2(square),
        "sparse product": torch.sparse.mm(sparse, torch.ones(4, 8, device="cuda")),
        "sparse rows": sparse.to_sparse_csr() @ torch.ones(4, 8, device="cuda"),
    }
    return {name: tuple(result.shape) for name, result in results.items()}, unknown_workspaces(), unanswered()


def sorted_and_counted():
    """Results whose size depends on values, of operators that CUB computes; and whether all were zero."""
    numbers = torch.ones(5000, device="cuda")
    sizes = [len(torch.nonzero(numbers)), len(torch.sort(numbers).values), len(torch.cumsum(numbers, 0))]
    return sizes, len(torch.randperm(5000, device="cuda")), unanswered()


def computed_after_other_numbers(size):
    """What a kernel has computed in memory that held other numbers just before, and that a fill there is kept."""
    torch.full((size,), 7.0, device="cuda")  # given back at once, and next in line
    computed = torch.exp(torch.empty(size, device="cuda")).cpu()
    return computed.abs().sum().item(), torch.full((size,), 7.0, device="cuda").cpu().mean().item()
