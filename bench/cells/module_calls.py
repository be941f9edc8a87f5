"""Follow which module of a model is in its forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@contextmanager
def following_modules(model: nn.Module, enter: Callable[[str], object], leave: Callable[[], object]) -> Iterator[None]:
    """Call functions as the forward pass of each module begins and ends, also if it fails.

    Args:
        model: whose modules are named; any other module has no name.
        enter: called with the module's name in the model.
        leave: called as the module that was entered last is left.
    """
    names = {module: name for name, module in model.named_modules()}

    def entered(module: nn.Module, _inputs: tuple) -> None:  # what a hook returns takes the place of inputs or output
        enter(names.get(module, ""))

    def left(_module: nn.Module, _inputs: tuple, _output: object) -> None:
        leave()

    hooks = [register_module_forward_pre_hook(entered), register_module_forward_hook(left, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
