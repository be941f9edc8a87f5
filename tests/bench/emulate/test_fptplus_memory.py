"""Memory of FPT+'s step compared with the plain baseline's, both emulated: ViT-B, 512 px, batch 16, A6000.

The CUDA context is not included.
"""

import on_emulated_plain
import pytest

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.emulate.build import why_not
from bench.emulate.pool import Job
from bench.predict.predictor import predict

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

BATCH, TOKENS, GPU = 16, 205, "a6000"


@pytest.fixture(scope="module")
def plain(emulated_pool):
    """Allocated bytes of the plain step."""
    job = Job(gpu=GPUS[GPU], arguments=(BATCH, TOKENS))
    (answer,) = emulated_pool.map(on_emulated_plain.peak_allocated_bytes, [job])
    return answer


def peak_bytes(method, **axes):
    return predict(CellConfig(method=method, model="vit_b", res=512, batch_size=BATCH, gpu=GPU, **axes)).peak


def test_the_fast_step_on_int8_features_takes_at_most_a_third(plain):
    fast = peak_bytes("fptplus_int8", precision="bf16", attention="sdpa", optimizer="adamw_fused")
    assert fast.allocated_bytes <= plain / 3


def test_each_change_takes_less_than_the_one_before(plain):
    fused = {"attention": "sdpa", "optimizer": "adamw_fused"}
    steps = [
        peak_bytes("fptplus", **fused),
        peak_bytes("fptplus", **fused, precision="bf16"),
        peak_bytes("fptplus_bf16", **fused, precision="bf16"),
        peak_bytes("fptplus_int8", **fused, precision="bf16"),
        peak_bytes("fptplus_int8", **fused, precision="bf16", checkpointing="block"),
    ]
    sizes = [plain, *(peak.allocated_bytes for peak in steps)]
    assert sizes == sorted(sizes, reverse=True)
