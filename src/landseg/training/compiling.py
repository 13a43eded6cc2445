"""Compiling the network by torch.compile, and which errors say that it cannot be done here. It decides nothing; `step` goes on without."""

from __future__ import annotations

import logging

import torch
from torch import nn

log = logging.getLogger("landseg")

_RAISED_BY = ("torch._dynamo.exc", "torch._inductor.exc")
"""Where torch has the classes of all errors that come of tracing a network (dynamo) and of making code of it (inductor): no compiler, no
Triton, a GPU too old for it, an operation that is not supported, a compiler that fails. They are named by their modules because loading
these takes seconds, which a run that does not compile need not spend."""


def compiled(model: nn.Module) -> nn.Module:
    """The network, to be compiled at its first step; the network itself, with a word, where this Python or system compiles nothing."""
    try:
        return torch.compile(model)  # type: ignore[return-value]
    except RuntimeError as error:
        log.warning("train.compile: torch compiles nothing here (%s); training goes on uncompiled", str(error).partition("\n")[0])
        return model


def is_compile_failure(error: BaseException) -> bool:
    """True where a step failed because its network could not be compiled, and not because memory ran out meanwhile."""
    if isinstance(getattr(error, "inner_exception", None), torch.OutOfMemoryError):
        return False
    return any(kind.__module__ in _RAISED_BY for kind in type(error).__mro__)
