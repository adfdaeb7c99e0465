"""As much of PyTorch as llama.cpp's converter takes with --no-lazy for a Qwen3-VL in f32: arrays of numpy by PyTorch's
names. PyTorch itself is 3 GB, and does nothing here that numpy does not. What is missing fails by its name."""

import contextlib

import numpy

__version__ = "0.0.0"


class dtype:
    def __init__(self, name):
        self.of_numpy = numpy.dtype(name)


float64, float32, float16 = dtype("f8"), dtype("f4"), dtype("f2")
int64, int32, int16, int8, uint8, bool = (dtype(name) for name in ("i8", "i4", "i2", "i1", "u1", "?"))
# Types that a file of f32 has not; the converter lists them.
bfloat16, float8_e4m3fn, float8_e5m2 = dtype("V2"), dtype("V1"), dtype("V1")
DTYPES = [float64, float32, float16, int64, int32, int16, int8, uint8, bool]


class Tensor:
    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.ndim = array.ndim

    @property
    def dtype(self):
        return next(kind for kind in DTYPES if kind.of_numpy == self.array.dtype)

    def __getitem__(self, at):
        return Tensor(self.array[at])

    def dim(self):
        return self.ndim

    def numpy(self):
        return numpy.ascontiguousarray(self.array)

    def view(self, kind):
        return Tensor(self.array.view(kind.of_numpy))

    def reshape(self, shape):
        return Tensor(self.array.reshape(shape))

    def permute(self, *axes):
        return Tensor(self.array.transpose(axes))

    def contiguous(self):
        return Tensor(numpy.ascontiguousarray(self.array))

    def to(self, kind):
        return Tensor(self.array.astype(kind.of_numpy))


Size = tuple
from_numpy = Tensor
inference_mode = contextlib.nullcontext
