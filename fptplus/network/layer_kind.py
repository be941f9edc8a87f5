"""The kind of layers FPT and FPT+ are made of: plain ones that are easy to read, or lean ones that cost less."""

from typing import Literal, get_args

from fptplus.errors import InvalidInput

LayerKind = Literal["plain", "lean"]
"""`plain`: one operation after another, the backward pass left to autograd, prompts fused one layer at a time.

`lean`: the layers of `lean/`, whose backward passes are written by hand. They keep less for the backward pass, leave
out tokens that nothing reads, fuse the prompts of all layers at once, and have their own CPU kernels. The numbers are
the same except for rounding.
"""


def check_layer_kind(layer_kind: LayerKind, *, fused_attention: bool) -> None:
    """Refuse a combination that no layer supports.

    Args:
        layer_kind: the kind to check.
        fused_attention: whether attention avoids score matrices; lean layers have no other.

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
