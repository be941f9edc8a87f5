"""Which layers FPT and FPT+ are made of: plain ones that can be read, or lean ones that cost less."""

from typing import Literal, get_args

from fptplus.errors import InvalidInput

LayerKind = Literal["plain", "lean"]
"""`plain`: every operation by itself, its backward pass left to autograd, one layer's prompts fused at a time.

`lean`: the layers of `lean/`, whose backward passes are written by hand: they keep less for them, leave out tokens that
nobody reads, fuse the prompts of all layers at once, and have kernels of their own on a CPU. The numbers are the same
but for rounding.
"""


def check_layer_kind(layer_kind: LayerKind, *, fused_attention: bool) -> None:
    """Refuse what no layer does.

    Args:
        layer_kind: to check.
        fused_attention: whether attention is to be without its score matrices; lean layers have no other.

    Raises:
        InvalidInput: if there is no such kind, or it has no explicit attention.
    """
    if layer_kind not in get_args(LayerKind):
        raise InvalidInput(f"layer_kind must be one of {', '.join(get_args(LayerKind))}, got {layer_kind!r}.")
    if layer_kind == "lean" and not fused_attention:
        raise InvalidInput(
            "layer_kind must be plain where attention is explicit (fused_attention=False), got 'lean', "
            "whose attention is always fused; choose plain layers or fused attention."
        )
