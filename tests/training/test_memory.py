"""Micro-batches, and what an error of memory is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landseg.network.build import Normalisation, build
from landseg.training import memory
from landseg.training.memory import (
    Measured,
    Probe,
    choose_micro,
    cut,
    free_bytes,
    halved,
    is_out_of_memory,
    normalises_single_values,
    rehearse,
)

SIZES = st.integers(1, 300)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@given(SIZES, SIZES)
def test_a_batch_is_cut_into_as_few_and_even_parts_as_need_be(count: int, most: int) -> None:
    sizes = cut(count, most)
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= most or (most, max(sizes)) == (2, 3) or (most > 1 and count == 1)
    if most > 1 and count > 1:
        assert min(sizes) > 1, "a single tile is no batch for batch normalisation"
    assert len(sizes) == 1 or -(-count // (len(sizes) - 1)) > most, "fewer parts would be too large"


@given(SIZES, SIZES)
def test_halving_always_makes_the_largest_part_smaller_and_comes_to_an_end(count: int, most: int) -> None:
    tried = max(cut(count, most))
    for _ in range(10):
        smaller = halved(tried)
        if smaller == 0:
            break
        assert max(cut(count, smaller)) < tried
        assert 2 * smaller >= tried - 1, "no size is passed over that might have fitted"
        tried = max(cut(count, smaller))
    assert tried == 1


@pytest.mark.parametrize(("kind", "states"), [("sgd", 1), ("plain", 0), ("adamw", 2)])
def test_the_step_of_an_optimiser_is_rehearsed(kind: str, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Linear(7, 5), nn.Linear(3, 2)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimiser: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "plain": lambda: torch.optim.SGD(parameters, lr=0.1),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.1),
    }[kind]()
    asked: list[int] = []
    make = torch.empty_like

    def noting(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(tensor.numel())
        return make(tensor)

    monkeypatch.setattr(memory.torch, "empty_like", noting)
    layers[0](torch.rand(1, 7)).sum().backward()  # the second layer is frozen
    rehearse(optimiser)
    assert sum(asked) == states * 40 + 2 * 35
    assert not optimiser.state, "it is only asked for"
    optimiser.step()
    asked.clear()
    rehearse(optimiser)
    assert sum(asked) == 2 * 35, "its state is there now"


@pytest.mark.parametrize(("network", "edge", "is_single"), [("deeplabv3plus", 64, True), ("unet", 64, False), ("unet", 32, True)])
def test_networks_that_cannot_learn_from_one_tile_are_known(network: str, edge: int, is_single: bool) -> None:
    """Of 32 pixels the last map of any encoder is one pixel."""
    built = build(network, "resnet18", 3, 4, Normalisation((0.0,) * 3, (1.0,) * 3)).train()
    built.encoder.eval()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    modes = [module.training for module in built.modules()]
    assert normalises_single_values(built, torch.rand(1, 3, edge, edge)) is is_single
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.state_dict().items())
    assert [module.training for module in built.modules()] == modes
    if is_single:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            built.train()(torch.rand(1, 3, edge, edge))
    else:
        built.train()(torch.rand(1, 3, edge, edge))


def linear(fixed: float, each: float, *, rate: float = 8.0, fits: int = 10**9) -> tuple[list[int], Callable[[int], Probe | None]]:
    """Steps of ``fixed + each * n`` bytes, and which were taken."""
    taken: list[int] = []

    def probe(tiles: int) -> Probe | None:
        taken.append(tiles)
        return Probe(tiles, fixed + each * tiles, tiles / rate) if tiles <= fits else None

    return taken, probe


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(1, 200), st.integers(0, 10**11), st.booleans())
def test_as_many_tiles_as_nine_tenths_of_the_free_memory_hold(fixed: int, each: int, batch: int, free: int, for_speed: bool) -> None:
    taken, probe = linear(fixed, each)
    choice = choose_micro(probe, batch, free, for_speed=for_speed)
    room = 0.9 * free + 1
    assert choice.micro in (2, 3) or choice.bytes <= room
    assert all(tiles in (2, 3) or fixed + each * tiles <= room for tiles in taken), "what cannot fit is not tried"
    parts = len(cut(max(2, batch), choice.micro))
    is_all = parts == 1 or (for_speed and choice.micro * 2 > 16)
    assert is_all or fixed + each * -(-batch // (parts - 1)) > room - 2, "in fewer parts it would have fitted"
    assert choice.micro == max(cut(max(2, batch), choice.micro)), "it is what the parts will have"


def test_a_step_that_runs_out_of_memory_bounds_the_choice() -> None:
    taken, probe = linear(0, 1, fits=12)
    assert choose_micro(probe, 64, 10**9, for_speed=False).micro == max(cut(64, 15))
    assert taken == [2, 2, 3, 4, 8, 16]
    assert choose_micro(linear(0, 1, fits=1)[1], 64, 10**9, for_speed=False).micro == 2


@pytest.mark.parametrize(("grows_to", "micro"), [(16, 16), (32, 32), (64, 64), (1000, 100), (2, 16)])
def test_on_a_cpu_more_tiles_than_sixteen_must_be_faster(grows_to: int, micro: int) -> None:
    def probe(tiles: int) -> Probe:
        return Probe(tiles, float(tiles), tiles / min(tiles, grows_to))

    assert choose_micro(probe, 100, 10**9, for_speed=True).micro == max(cut(100, micro))
    assert choose_micro(probe, 100, 10**9, for_speed=False).micro == 100
    assert choose_micro(probe, 16, 10**9, for_speed=True).micro == 16


def test_a_choice_is_said_in_one_line() -> None:
    text = choose_micro(linear(1e8, 62.5e6)[1], 16, 9_800_000_000, for_speed=True).as_text(16)
    assert text == "micro-batch 16 of 16: 1.1 GB of 9.8 GB free, 8 images/s"
    assert "unknown" in choose_micro(linear(1e8, 62.5e6)[1], 16, None, for_speed=True).as_text(16)


def test_what_a_step_keeps_is_counted_once_and_grows_with_the_tiles() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    found = []
    for tiles in (2, 4):
        with Measured(torch.device("cpu"), network.parameters()) as measured:
            network(torch.rand(tiles, 3, 16, 16)).sum().backward()
        found.append(measured.bytes)
    images, features = 3 * 16 * 16 * 4, 8 * 16 * 16 * 4  # those of ReLU and of the layer after it are one tensor
    assert found == [1.5 * tiles * (images + features) + weights for tiles in (2, 4)]


def test_the_free_memory_of_this_machine_is_known() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is not None and free > 0
