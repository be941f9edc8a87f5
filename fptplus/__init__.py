"""FPT and FPT+ (Huang et al.): memory-efficient fine-tuning of a frozen Vision Transformer.

What can be imported from here is listed in `__init__.pyi`, and loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
