"""Tensors with false attributes: nothing that Python code can change determines which memory is read or written."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import FakeTensorMode

from hex_ssl import HexLoss
from hex_ssl.functional import hex_loss, hex_loss_with_keys

Z1, Z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))

LIES: dict[str, Any] = {
    "shape": torch.Size([60_000, 4_000]),
    "size": lambda *_: torch.Size([60_000, 4_000]),
    "stride": lambda *_: (1 << 30, 1 << 20),
    "data_ptr": lambda *_: 64,
    "dtype": torch.float64,
    "device": torch.device("cuda:3"),
    "is_contiguous": lambda *_: False,
    "layout": torch.sparse_coo,
}
"""Attributes and methods that describe a tensor."""


@functools.cache
def kind_of_liar(name: str) -> type[Tensor]:
    """A subclass that overrides the given attribute."""
    lie = LIES[name]
    return type("Liar", (Tensor,), {name: lie if callable(lie) else property(lambda _: lie)})


def liar(tensor: Tensor, name: str) -> Tensor:
    """The tensor as an instance of the subclass."""
    return tensor.as_subclass(kind_of_liar(name))


def right_or_refused(call: Callable[[], Tensor], expected: Tensor) -> None:
    """Asserts that a call gives the right number, or a one-line error."""
    try:
        loss = call()
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        assert "expected" in str(error)  # noqa: PT017  # either is right
        return
    torch.testing.assert_close(loss.detach().as_subclass(Tensor), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("grad", [False, True])
def test_subclasses(grad: bool, name: str, backend: str) -> None:
    expected = hex_loss(Z1, Z2)
    with_keys = hex_loss_with_keys(Z1, Z2.flip(0), positives=Z2)
    z1, z2 = (liar(each.clone().requires_grad_(grad), name) for each in (Z1, Z2))
    right_or_refused(lambda: hex_loss(z1, z2), expected)
    right_or_refused(lambda: hex_loss(Z1, z2), expected)
    right_or_refused(lambda: hex_loss_with_keys(Z1, liar(Z2.flip(0), name), positives=z2), with_keys)


@pytest.mark.parametrize("name", LIES)
def test_gradients_of_subclasses(name: str, backend: str) -> None:
    leaf = Z1.clone().requires_grad_()
    hex_loss(leaf, Z2).backward()
    ours = Z1.clone().requires_grad_()
    right_or_refused(lambda: hex_loss(liar(ours, name), liar(Z2, name)), hex_loss(Z1, Z2))
    try:
        loss = hex_loss(liar(ours, name), liar(Z2, name))
    except (ValueError, RuntimeError):
        return
    loss.backward()
    assert torch.equal(ours.grad, leaf.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["size", "stride", "data_ptr", "is_contiguous"])
def test_methods_of_one_tensor(name: str, backend: str) -> None:
    z1, labels = Z1.clone(), torch.arange(6) % 2
    expected = HexLoss(threshold="supervised")(z1, Z2, labels=labels)
    for each in (z1, labels):
        setattr(each, name, LIES[name])
    right_or_refused(lambda: HexLoss(threshold="supervised")(z1, Z2, labels=labels), expected)


@pytest.mark.parametrize("name", ["stride", "data_ptr", "is_contiguous", "contiguous", "resolve_neg"])
def test_methods_of_every_tensor(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hex_loss(Z1, Z2)
    lies: dict[str, Any] = {**LIES, **dict.fromkeys(("contiguous", "resolve_neg"), lambda _: torch.zeros(1).half())}
    monkeypatch.setattr(Tensor, name, lies[name])
    loss = hex_loss(Z1, Z2)
    monkeypatch.undo()
    assert torch.equal(loss, expected)


NO_MATRIX = r"^expected `z[12]` to be a dense tensor, but got (one of layout torch\.|a nested one)"


@pytest.mark.parametrize("place", ["z1", "z2"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda z: z.to_sparse(), NO_MATRIX),
        (lambda z: z.to_sparse_csr(), NO_MATRIX),
        (lambda z: z.to_mkldnn(), NO_MATRIX),
        (lambda z: torch.nested.nested_tensor([z[:2], z[2:]]), NO_MATRIX),
        (lambda z: torch.nested.nested_tensor([z[:2], z[2:]], layout=torch.jagged), NO_MATRIX),
        (
            lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.quint8),
            r"^expected `z[12]` to have one of the dtypes float64, float32, bfloat16, float16, but got quint8; "
            r"write z[12]\.dequantize\(\)$",
        ),
        (lambda z: torch.complex(z, z), r"^expected `z[12]` to have one of the dtypes .* but got complex64$"),
    ],
    ids=["coo", "csr", "mkldnn", "nested", "jagged", "quantized", "complex"],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of what is a prototype or on its way out
def test_tensors_without_rows(make: Callable[[Tensor], Tensor], text: str, place: str) -> None:
    given = {"z1": Z1, "z2": Z2, place: make(Z1)}
    with pytest.raises(ValueError, match=text):
        hex_loss(given["z1"], given["z2"])


@pytest.mark.parametrize(("dtype", "past"), [(torch.float32, 1), (torch.float64, 4), (torch.bfloat16, 1)], ids=str)
def test_memory_that_is_not_aligned(dtype: torch.dtype, past: int) -> None:
    rows = Z1.to(dtype)
    memory = bytearray(past) + rows.view(torch.uint8).numpy().tobytes()
    unaligned = torch.frombuffer(memory, offset=past, dtype=dtype).view(rows.shape)
    if unaligned.data_ptr() % dtype.itemsize == 0:
        pytest.skip("the buffer begins at an odd place itself")
    with pytest.raises(
        ValueError, match="expected tensors in aligned memory, but got .* past a multiple of .: pass a clone"
    ):
        hex_loss(unaligned, unaligned)
    assert torch.equal(hex_loss(unaligned.clone(), rows), hex_loss(rows, rows))


def test_sparse_labels() -> None:
    labels = (torch.arange(6) % 2).to_sparse()
    with pytest.raises(ValueError, match="^expected `labels` to be a dense tensor, but got one of layout torch.sparse"):
        hex_loss(Z1, Z2, threshold="supervised", labels=labels)


@pytest.mark.parametrize("grad", [False, True])
def test_views_that_are_negated_or_conjugated_when_read(grad: bool, backend: str) -> None:
    expected = hex_loss(-Z1, Z2)
    conjugated = torch.complex(Z2, Z1).conj().imag
    for z in (torch._neg_view(Z1), conjugated):
        assert z.is_neg()
        torch.testing.assert_close(hex_loss(z.requires_grad_(grad), Z2).detach(), expected, rtol=1e-6, atol=0)


def test_fake_tensors() -> None:
    with FakeTensorMode():
        z1, z2 = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
        loss = hex_loss(z1, z2)
        loss.backward()
        assert (loss.shape, z1.grad.shape) == ((), (6, 4))  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        hex_loss(z1, Z2)


def test_functorch_wrappers_that_outlived_their_transform() -> None:
    kept: list[Tensor] = []
    torch.func.grad(lambda z: (kept.append(z), z.sum())[1])(Z1)
    torch.func.vmap(lambda z: (kept.append(z), z.sum())[1])(Z1[None])
    of_grad, of_vmap = kept
    assert torch.equal(hex_loss(of_grad, Z2), hex_loss(Z1, Z2))
    with pytest.raises(NotImplementedError, match="do not support torch.func.vmap"):
        hex_loss(of_vmap, Z2)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """A device mesh with only this process."""
    from torch.distributed.tensor import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_distributed_tensors(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for placement in (Shard(0), Replicate()):
        z = distribute_tensor(Z1, mesh, [placement])
        with pytest.raises(NotImplementedError, match="does not have a sharding strategy registered"):
            hex_loss(z, z)
        with pytest.raises(RuntimeError, match="got mixed torch.Tensor and DTensor"):
            hex_loss(z, Z2)
        assert hex_loss(z.to_local(), Z2).isfinite()
