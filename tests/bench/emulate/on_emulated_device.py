"""Functions that the tests run on an emulated card; they are in a module since a job's process finds them by name."""

import gc
import os

import torch


def allocator_settings_in_force(settings):
    torch.cuda.memory._set_allocator_settings(settings)
    before = torch.cuda.memory_reserved()
    blocks = [torch.empty(5 * 2**20, dtype=torch.uint8, device="cuda") for _ in range(3)]
    del blocks
    return torch.cuda.memory_reserved() - before


def expandable_segments():
    """Reserved bytes after a block has grown where another stood before it."""
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    small = torch.empty(30 * 2**20, dtype=torch.uint8, device="cuda")
    del small
    large = torch.empty(60 * 2**20, dtype=torch.uint8, device="cuda")
    return torch.cuda.max_memory_reserved(), large.numel()


def out_of_memory(num_bytes):
    kept = torch.empty(2**20, device="cuda")
    try:
        torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        return str(error), torch.cuda.mem_get_info(), kept.numel()
    return None


def frees_what_it_keeps_before_it_gives_up(num_bytes):
    """Allocate three quarters of the memory twice, the first freed but kept by PyTorch."""
    first = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
    del first
    second = torch.empty(num_bytes + 2**21, dtype=torch.uint8, device="cuda")
    return torch.cuda.memory_stats()["num_alloc_retries"], second.numel()


def small_copies():
    """What comes back of small and large tensors."""
    small = torch.arange(10).cuda()
    large = torch.ones(2**20).cuda()
    return small.clone().cpu().tolist(), large.cpu().sum().item(), (small + 1).cpu().tolist()


def captured_graph():
    """Kernels launched by a captured step and by its replays, and memory of its pool."""
    from bench.emulate.device_state import kernel_launches

    x = torch.ones(64, 64, device="cuda")
    (x @ x).relu()  # workspaces are there before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x @ x).relu()
    begin = kernel_launches()
    graph.replay()
    graph.replay()
    return kernel_launches() - begin, y.shape


def launches_of_three_kernels():
    from bench.emulate.device_state import kernel_launches

    x = torch.ones(64, 64, device="cuda")
    begin = kernel_launches()
    x.relu().exp().sin()
    return kernel_launches() - begin


def streams():
    """Memory of another stream is given back once its work is done."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x = torch.empty(2**20, device="cuda")
    x.record_stream(torch.cuda.current_stream())
    del x
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


def unanswered_function():
    from bench.emulate.device_state import unanswered

    try:
        sparse = torch.eye(64).to_sparse().cuda()
        torch.sparse.mm(sparse, sparse)
    except RuntimeError as error:
        return str(error), unanswered()
    return None, unanswered()


def process():
    return os.getpid(), torch.cuda.is_initialized()


def dies():
    os.kill(os.getpid(), 9)


def raises():
    raise ValueError("as asked")


def filled(name):
    """Small tensors filled after others of their places had other values, and the beginning of a large one."""
    dtype = getattr(torch, name)
    for _ in range(2):
        kept = [torch.full((9,), value, dtype=dtype, device="cuda") for value in (1, 0)]
        told = [tensor.tolist() for tensor in kept] + [torch.ones(3, 3, dtype=dtype, device="cuda").flatten().tolist()]
    return told, torch.full((10**6,), 1, dtype=dtype, device="cuda")[:3].tolist()


def scaled_steps(num_steps):
    """Optimizer steps that mixed precision takes: those whose gradients are said to be finite."""
    layer, scaler, taken = torch.nn.Linear(64, 64).cuda(), torch.amp.GradScaler(), []
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    optimizer.register_step_post_hook(lambda *_: taken.append(True))
    for _ in range(num_steps):
        labels = torch.ones(64, dtype=torch.long).cuda()  # leaves real bytes in a small block
        scaler.scale(layer(torch.randn(8, 64, device="cuda")).sum() + labels[0]).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        del labels
    return len(taken)
