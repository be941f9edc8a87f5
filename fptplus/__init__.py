"""FPT and FPT+ (Huang et al.): memory-efficient fine-tuning of a frozen Vision Transformer.

`__init__.pyi` lists what can be imported from here; each name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
