"""Any training script on emulated cards: run it unchanged, watch its memory, and report what it needs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"emulated_gpu": ["Call", "EmulatedGpu", "FunctionFailed", "emulated"]}
)
