"""Copies of tensors that can be put back: those of a network's statistics, which a forward pass changes layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Copies:
    """Room for a copy of each of some tensors, which stays; all of a kind are copied by one launch on a GPU, not by one a tensor."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kinds = {tensor.dtype for tensor in tensors}
        self._own = [[tensor for tensor in tensors if tensor.dtype == kind] for kind in kinds]
        self._copies = [[torch.empty_like(tensor) for tensor in alike] for alike in self._own]

    def take(self) -> None:
        """Copy the tensors as they are now."""
        for own, copies in zip(self._own, self._copies, strict=True):
            torch._foreach_copy_(copies, own)

    def put_back(self) -> None:
        """Make the tensors what they were when they were copied."""
        for own, copies in zip(self._own, self._copies, strict=True):
            torch._foreach_copy_(own, copies)

    def put_back_where(self, is_so: Tensor) -> None:
        """The same where a boolean scalar on their device is True, which the host does not wait for; else they stay."""
        for own, copies in zip(self._own, self._copies, strict=True):
            now, then = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (own, copies))
            chosen = torch.split(torch.where(is_so, then, now), [tensor.numel() for tensor in own])
            torch._foreach_copy_(own, [part.view(tensor.shape) for part, tensor in zip(chosen, own, strict=True)])
