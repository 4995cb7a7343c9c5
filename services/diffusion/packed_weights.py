"""The weights of a model in one contiguous buffer, so that moving them is one copy."""

import contextlib
import gc
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from narrative.errors import OutOfMemory
from narrative.runtime.device_memory import is_out_of_memory, trying_twice

# CUDA's own allocator aligns so, and no CPU kernel asks for more.
_ALIGNMENT = 256
_KEY = "packed"


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies in the buffer; dtype and strides are those that it had when it was packed, and gets again."""

    tensor: torch.Tensor
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]
    num_bytes: int

    def view_in(self, buffer: torch.Tensor) -> torch.Tensor:
        """Its part of a buffer, as the tensor sees it."""
        flat = buffer[self.offset : self.offset + self.num_bytes].view(self.dtype)
        return flat.as_strided(self.size, self.stride)

    def empty(self) -> None:
        """Lets go of the tensor's elements."""
        self.tensor.data = torch.empty(0, dtype=self.dtype)


class PackedWeights:
    """Every parameter and buffer of some modules: on a device while it is loaded, in host memory or on disk while not.

    An away model has tensors without elements, so that using it without loading it fails instead of being wrong.
    Weights are taken for constant while they are on the device, but for those that ``refresh`` is told of; tensors that
    were added or removed meanwhile (adapters) are noticed, and the whole is packed anew.

    Args:
        modules: whose tensors; packed and away once this returns.
        host: "memory" keeps them in one host buffer, pinned where CUDA is there; "disk" in a safetensors file that is
            mapped into memory, so that the system may take its pages back.
        folder: where the file goes, for "disk".
    """

    def __init__(
        self, modules: Sequence[nn.Module], host: Literal["memory", "disk"] = "memory", folder: Path | None = None
    ) -> None:
        self._modules = modules
        self._file = _new_file(folder) if host == "disk" else None
        self._slots: list[_Slot] = []
        self._host = torch.empty(0, dtype=torch.uint8)
        self._pack()
        self._empty()

    @property
    def num_bytes(self) -> int:
        """Bytes that they take on a device."""
        return self._host.numel()

    def load(self, device: str) -> None:
        """Brings the weights to "cuda:0" or the like, or to memory of this machine for a declared "host:0".

        Raises:
            OutOfMemory: there is no room, even after everything that can be given back has been.
        """
        target = torch.device("cpu" if device.startswith("host") else device)

        def give_back() -> None:
            gc.collect()
            _give_back(target)

        try:
            buffer = trying_twice(lambda: self._copy_to(target), give_back)
        except (RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"no {self.num_bytes} bytes are free on {device}, although they should be", retry_after_s=5.0
            ) from error
        for slot in self._slots:
            slot.tensor.data = slot.view_in(buffer)

    def refresh(self, tensors: Iterable[torch.Tensor]) -> None:
        """Takes over tensors that were written over in place on the device."""
        written = {id(tensor) for tensor in tensors}
        for slot in self._slots:
            if id(slot.tensor) in written and slot.num_bytes:
                slot.view_in(self._host).copy_(slot.tensor.detach())

    def offload(self) -> None:
        """Sends the weights away and gives the device's memory back."""
        tensors = list(_tensors(self._modules))
        devices = {tensor.device for tensor in tensors}
        if [id(tensor) for tensor in tensors] != [id(slot.tensor) for slot in self._slots]:
            self._pack()
        self._empty()
        for device in devices:
            _give_back(device)

    def close(self) -> None:
        """Removes the file, where there is one."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _pack(self) -> None:
        slots, offset = [], 0
        for tensor in _tensors(self._modules):
            # What a copy would be: no gaps, and the strides of the original where those had none either.
            copy = torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format)
            num_bytes = copy.numel() * copy.element_size()
            slots.append(_Slot(tensor, tensor.dtype, offset, copy.size(), copy.stride(), num_bytes))
            offset += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        host = _host_buffer(offset, pinned=torch.cuda.is_available() and self._file is None)
        for slot in slots:
            if slot.num_bytes:
                slot.view_in(host).copy_(slot.tensor.detach())
            if self._file is None:
                slot.empty()  # One by one: a model of gigabytes is not there twice.
        self._slots = slots
        self._host = host if self._file is None else _on_disk(host, self._file)

    def _copy_to(self, target: torch.device) -> torch.Tensor:
        if target.type != "cuda":
            return _host_buffer(self.num_bytes).copy_(self._host)
        # A stream of its own: the copy waits for nothing that another model computes. What was freed on the current one
        # may still be written to, so the buffer is not taken from there.
        stream = torch.cuda.Stream(target)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            buffer = torch.empty(self.num_bytes, dtype=torch.uint8, device=target)
            buffer.copy_(self._host, non_blocking=True)
        stream.synchronize()
        # Whoever gets this memory after the model waits for what computes with it until then.
        buffer.record_stream(torch.cuda.current_stream(target))
        return buffer

    def _empty(self) -> None:
        for slot in self._slots:
            slot.empty()


def _host_buffer(num_bytes: int, *, pinned: bool = False) -> torch.Tensor:
    """Uint8 (num_bytes,) in memory of this machine: pinned, or in pages as large as the system has them.

    Small pages are handed out one by one, which takes longer than to fill them; large ones cost a tenth.
    """
    if pinned or num_bytes == 0 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # A kernel without them.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _new_file(folder: Path | None) -> Path:
    descriptor, name = tempfile.mkstemp(".safetensors", "weights-", folder)
    os.close(descriptor)
    return Path(name)


def _tensors(modules: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """Parameters and buffers, each once however often it is shared."""
    seen: set[int] = set()
    for module in modules:
        for part in module.modules():
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _on_disk(packed: torch.Tensor, file: Path) -> torch.Tensor:
    """Writes the buffer and gives it back as mapped from the file, without a copy in memory."""
    save_file({_KEY: packed}, file)
    with safe_open(file, framework="pt") as mapped:
        tensor: torch.Tensor = mapped.get_tensor(_KEY)
    return tensor


def _give_back(device: torch.device) -> None:
    """Returns what torch keeps for later to the driver, so that other processes can have it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
