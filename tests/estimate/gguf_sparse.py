# SPDX-License-Identifier: Apache-2.0
"""Writes GGUF files with a real header over nothing: the tensors' bytes are a hole in the file.

A llama program reads such a file's shape as it would the real one's and says what the model would need.
"""
import math
import os
import struct

# name: (number in the file, elements in a block, bytes of a block)
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q5_0": (6, 32, 22), "Q8_0": (8, 32, 34),
         "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "BF16": (30, 1, 2),
         "MXFP4": (39, 32, 17)}
ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def scalar(kind, v):
    if kind == STRING:
        return string(v)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def kind_of(v):
    if isinstance(v, bool):
        return BOOL
    if isinstance(v, int):
        return I32 if v < 0 else U32
    return F32 if isinstance(v, float) else STRING


def pair(key, v):
    if not isinstance(v, list):
        return string(key) + struct.pack("<I", kind_of(v)) + scalar(kind_of(v), v)
    kind = kind_of(v[0])
    return string(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(scalar(kind, x) for x in v)


def tensor_bytes(dims, kind):
    _, block, size = TYPES[kind]
    if dims[0] % block:
        raise ValueError(f"{dims[0]} is no multiple of {block} ({kind})")
    return math.prod(dims) // block * size


def write(path, keys, tensors):
    """keys: {name: value}; tensors: [(name, dims fastest first, type name)]."""
    infos, offset = [], 0
    for name, dims, kind in tensors:
        shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        infos.append(string(name) + shape + struct.pack("<IQ", TYPES[kind][0], offset))
        offset += -(-tensor_bytes(dims, kind) // ALIGNMENT) * ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(pair(k, v) for k, v in keys.items()) + b"".join(infos)
    head += bytes(-len(head) % ALIGNMENT)
    with open(path, "wb") as f:
        f.write(head)
        f.truncate(len(head) + offset)
    return os.path.getsize(path)
