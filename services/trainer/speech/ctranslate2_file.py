"""Reads a CTranslate2 ``model.bin`` without copying it.

The layout is the one that CTranslate2's own converter writes (``ctranslate2.specs.model_spec``): version,
specification, revision, then the variables, each with name, shape, type and bytes, then aliases for tied variables.
"""

import mmap
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from narrative.errors import WeightsError

_DTYPES: dict[int, type[np.generic]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSION = 6

Variables = dict[str, npt.NDArray[np.generic]]


def read_variables(path: Path, specification: str) -> Variables:
    """Variables by name, as views of the file; tied ones appear under both names.

    Args:
        path: a ``model.bin``.
        specification: kind of model that is expected, for example ``WhisperSpec``.

    Raises:
        WeightsError: no such file, not of this format or kind, truncated, or of a type that NumPy has not (bfloat16).
    """
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    try:
        return _Reader(buffer, path).variables(specification)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise WeightsError(f"{path} is truncated or no CTranslate2 model") from error


class _Reader:
    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self._buffer, self._path, self._offset = buffer, path, 0

    def variables(self, specification: str) -> Variables:
        version = self._number("<I")
        if version != _VERSION:
            raise WeightsError(f"{self._path} is no CTranslate2 model of version {_VERSION}")
        found = self._string()
        if found != specification:
            raise WeightsError(f"{self._path} holds a {found} model; a {specification} model is needed")
        self._number("<I")
        variables = dict(self._variable() for _ in range(self._number("<I")))
        for _ in range(self._number("<I")):
            alias = self._string()
            variables[alias] = variables[self._string()]
        return variables

    def _variable(self) -> tuple[str, npt.NDArray[np.generic]]:
        name = self._string()
        shape = [self._number("<I") for _ in range(self._number("<B"))]
        type_id, size_bytes = self._number("<B"), self._number("<I")
        if type_id not in _DTYPES:
            raise WeightsError(f"{self._path}: {name} is of a type (number {type_id}) that cannot be read here")
        dtype = np.dtype(_DTYPES[type_id])
        array = np.frombuffer(self._buffer, dtype, size_bytes // dtype.itemsize, self._offset).reshape(shape)
        self._offset += size_bytes
        return name, array

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._buffer, self._offset)
        self._offset += struct.calcsize(code)
        return int(value)

    def _string(self) -> str:
        length = self._number("<H")
        text = self._buffer[self._offset : self._offset + length - 1].decode()
        self._offset += length
        return text
