"""Call a function in a forked process on a card of its own. The process that forks must not have started CUDA."""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from .launch import describe

if TYPE_CHECKING:
    from bench.cards.gpus import Gpu

JOB_LIMIT_S = 600
"""Time limit of a call in seconds; a call that takes longer waits for a value that no kernel will ever write."""

Answer = TypeVar("Answer")


class JobFailed(RuntimeError):
    """A process on an emulated card died; the message says what is known."""


def on_card(
    gpu: "Gpu", function: Callable[..., Answer], *arguments: object, context_bytes: int | None = None
) -> Answer:
    """Return what a function returns in a process whose CUDA device is an emulated card.

    Args:
        gpu: the card.
        function, arguments: the function to call there, and its arguments.
        context_bytes: size of the process's CUDA context; by default the card's typical size.

    Raises:
        JobFailed: if the process dies.
        Exception: whatever the function raises.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ["EMULATED_GPU"] = describe(gpu, context_bytes)
            with os.fdopen(sending, "wb") as file:
                file.write(pickled_answer(function, arguments))
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise JobFailed(f"the process on the emulated {gpu.name} {how_it_ended(status)}")
    answer = pickle.loads(data)
    if isinstance(answer, Exception):
        raise answer
    return answer


def pickled_answer(function: Callable, arguments: tuple) -> bytes:
    """Return what a function returns or raises, pickled, within the time limit."""
    signal.alarm(JOB_LIMIT_S)
    try:
        answer = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        answer = error
    signal.alarm(0)
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # an exception may pickle and yet fail to unpickle
    except Exception:
        data = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))
    return data


def how_it_ended(status: int) -> str:
    """Return an exit status in words."""
    if status == -signal.SIGALRM:
        return f"took longer than {JOB_LIMIT_S} s; it may be waiting for a value that no kernel writes"
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
