"""Hashes of many keys at once, with numpy: Kafka's murmur2 and the 64-bit MurmurHash64A.

Both are Austin Appleby's (https://github.com/aappleby/smhasher, public domain). Neither resists an adversary who
chooses keys in order to collide. Time grows with the bytes of all keys, plus some numpy calls for each word of the
longest one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Hashes, Ints

_Words = NDArray[np.uint32] | NDArray[np.uint64]

FEW = 24
LONG = 16
"""Where so few keys have more words than this, these are gone through one by one: a call of numpy costs ten of them."""
_WIDEST = 8
"""Bytes of the larger kind of word."""
_SEED_32 = np.uint32(0x9747B28C)
_M_32 = np.uint32(0x5BD1E995)
_M_64 = np.uint64(0xC6A4A7935BD1E995)


class Keys:
    """Keys in one piece, for whoever hashes them more than once.

    Args:
        data: One after the other.
        sizes: Bytes of each.
    """

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.bytes = data
        self.sizes = sizes
        self.padded = data + bytes(_WIDEST)
        """The same, with enough behind the last one to take a word from there."""

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> "Keys":
        """Return some keys, in order.

        Raises:
            TypeError: one of them is None.
        """
        return cls(b"".join(keys), list(map(len, keys)))


def partitions(keys: Sequence[bytes] | Keys, count: int) -> Ints:
    """Return the partition of each key under Kafka's default partitioner, for a topic of *count* partitions."""
    return (murmur2(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % count


def murmur2(keys: Sequence[bytes] | Keys) -> NDArray[np.uint32]:
    """Return Kafka's murmur2 of each of n keys, shape (n,), in their order."""
    table = _Table(keys, 4)
    h = _SEED_32 ^ table.lengths.astype(np.uint32)
    for n, k in table.words():
        k *= _M_32
        k ^= k >> np.uint32(24)
        k *= _M_32
        h[:n] *= _M_32
        h[:n] ^= k
    for row, words in table.long():
        h[row] = _long_32(int(h[row]), words)
    h = np.where(table.rest > 0, (h ^ table.tails()) * _M_32, h)
    h ^= h >> np.uint32(13)
    h *= _M_32
    h ^= h >> np.uint32(15)
    return h[table.back]


def hash64(keys: Sequence[bytes] | Keys) -> Hashes:
    """Return MurmurHash64A (seed 0) of each of n keys, shape (n,), in their order."""
    table = _Table(keys, 8)
    h = table.lengths.astype(np.uint64) * _M_64
    for n, k in table.words():
        k *= _M_64
        k ^= k >> np.uint64(47)
        k *= _M_64
        h[:n] ^= k
        h[:n] *= _M_64
    for row, words in table.long():
        h[row] = _long_64(int(h[row]), words)
    h = np.where(table.rest > 0, (h ^ table.tails()) * _M_64, h)
    h ^= h >> np.uint64(47)
    h *= _M_64
    h ^= h >> np.uint64(47)
    return h[table.back]


def _long_32(h: int, words: list[int]) -> int:
    """Go on with the words of one key, as :func:`murmur2` does with those of many."""
    m, most = int(_M_32), 0xFFFFFFFF
    for k in words:
        k = k * m & most
        k = (k ^ k >> 24) * m & most
        h = (h * m & most) ^ k
    return h


def _long_64(h: int, words: list[int]) -> int:
    """Likewise for :func:`hash64`."""
    m, most = int(_M_64), 0xFFFFFFFFFFFFFFFF
    for k in words:
        k = k * m & most
        k = (k ^ k >> 47) * m & most
        h = (h ^ k) * m & most
    return h


class _Table:
    """Keys as columns of little-endian words, most words first, so that those with a j-th word are the first n."""

    def __init__(self, keys: Sequence[bytes] | Keys, width: int) -> None:
        joined = keys if isinstance(keys, Keys) else Keys.of(keys)
        sizes, data = joined.sizes, joined.padded
        # One word begins at every byte: keys need not be aligned.
        self._data = np.ndarray((len(data) - width + 1,), f"<u{width}", data, strides=(1,))
        self._width = width
        self._stride = sizes[0] if sizes and sizes.count(sizes[0]) == len(sizes) else 0
        """Bytes of every key, where all have the same length; else 0."""
        self.lengths: Ints = np.array(sizes, dtype=np.int64)
        self.back: Ints | slice = slice(None)
        """Place in the table of each key as it was given."""
        self._starts: Ints = np.cumsum(self.lengths) - self.lengths
        if not self._stride:
            order = np.argsort(-(self.lengths // width), kind="stable")
            self.lengths, self._starts = self.lengths[order], self._starts[order]
            self.back = np.empty_like(order)
            self.back[order] = np.arange(len(order))
        self.rest: Ints = self.lengths % width
        self._read = 0
        """Whole words of each key that were yielded."""

    def words(self) -> Iterator[tuple[int, _Words]]:
        """Yield (n, the j-th whole word of the first n keys) for j = 0, 1, ... while more than a few keys have one."""
        whole = self.lengths // self._width
        having = len(whole) - np.cumsum(np.bincount(whole)) if len(whole) else whole
        width, stride = self._width, self._stride
        for j, n in enumerate(having.tolist()[:-1]):
            if n <= FEW and j >= LONG:
                return
            self._read = j + 1
            if stride:
                yield n, self._data[j * width :: stride][:n].copy()
            else:
                yield n, self._data[self._starts[:n] + j * width]

    def long(self) -> Iterator[tuple[int, list[int]]]:
        """Yield (place in the table, the further whole words) of each key of which :meth:`words` left some."""
        for row, size in enumerate((self.lengths[:FEW] // self._width).tolist()):
            if size <= self._read:
                return
            start = int(self._starts[row])
            places = slice(start + self._read * self._width, start + size * self._width, self._width)
            yield row, self._data[places].tolist()

    def tails(self) -> _Words:
        """Return what follows the last whole word of each key, 0 where nothing does."""
        words: _Words = self._data[self._starts + (self.lengths - self.rest)]
        bits = (self.rest * 8).astype(words.dtype)
        words &= np.left_shift(np.ones_like(bits), bits) - np.ones_like(bits)
        return words
