"""Printed memory next to that of the paper's software, on a terminal of 80 columns."""

from collections.abc import Iterator

from .stack_rows import Stack, StackRow

_HEADINGS = ("Cell", "Printed", "Reserved", "less", "evaluated", "less", "Block")
_WIDTHS = (31, 7, 8, 5, 9, 5, 7)


def stack_lines(stack: Stack) -> Iterator[str]:
    """Yield the lines of the table, its conclusion, and whether it holds."""
    first = stack.rows[0]
    yield "Memory of FPT and FPT+ as printed and as emulated, in MiB"
    yield f"PyTorch {first.torch_version}, {first.gpu}, batch 16, fp32"
    yield _line(_HEADINGS)
    for row in stack.rows:
        yield _line(_texts(row))
    yield "less: printed less reserved. evaluated: with an evaluation after each epoch."
    yield "Block: the keys of a batch. III: FPT+ with 6 side layers, as with ViT-B."
    yield from conclusion(stack)


def conclusion(stack: Stack) -> Iterator[str]:
    """Yield what the rows say about the constant, in lines of 80 columns."""
    ranges = [stack.constants_mib(evaluated=evaluated) for evaluated in (False, True)]
    if all(low <= high for low, high in ranges):
        yield f"Printed less reserved is one constant within one block in all {len(stack.rows)} cells:"
    else:
        yield "Printed less reserved is NOT one constant within one block:"
    before, after = (f"{low:.0f} to {high:.0f} MiB" if low <= high else "none" for low, high in ranges)
    yield f"{before} before the first evaluation, {after} with evaluations."
    evaluated = sum(stack.counts_evaluation(row) for row in stack.rows)
    furthest_mib = max(abs(stack.unexplained_mib(row)) for row in stack.rows)
    yield f"At the nearer of the two it is {stack.context_mib:.0f} ± {furthest_mib:.0f} MiB: " + (
        f"before in {len(stack.rows) - evaluated} cells, after in {evaluated}."
    )


def _texts(row: StackRow) -> tuple[str, ...]:
    numbers = (
        row.printed_mib,
        row.training_reserved_mib,
        row.printed_less_training_mib,
        row.reserved_mib,
        row.printed_less_reserved_mib,
    )
    return f"{row.table}, {row.row}", *(f"{number:,.0f}" for number in numbers), f"{row.block_mib:.1f}"


def _line(texts: tuple[str, ...]) -> str:
    first, *others = (
        text.ljust(w) if w == _WIDTHS[0] else text.rjust(w) for text, w in zip(texts, _WIDTHS, strict=True)
    )
    return " ".join((first, *others))
