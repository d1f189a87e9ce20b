from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.hashing import hash64, murmur2, partitions

KEYS = st.lists(st.binary(max_size=70), max_size=30)
LONG_ONES = st.lists(st.integers(0, 400).map(lambda size: bytes(i * 7 % 256 for i in range(size))), max_size=30)
MASK = 2**64 - 1


def slow_hash64(key: bytes, seed: int = 0) -> int:
    m = 0xC6A4A7935BD1E995
    h = seed ^ (len(key) * m & MASK)
    whole = len(key) // 8 * 8
    for i in range(0, whole, 8):
        k = int.from_bytes(key[i : i + 8], "little") * m & MASK
        k = (k ^ (k >> 47)) * m & MASK
        h = (h ^ k) * m & MASK
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & MASK
    h = (h ^ (h >> 47)) * m & MASK
    return h ^ (h >> 47)


@given(KEYS)
def test_murmur2_equals_that_of_a_kafka_client(keys):
    assert murmur2(keys).tolist() == [kafka_murmur2(key) & 0xFFFFFFFF for key in keys]


@given(KEYS, st.integers(1, 100))
def test_partition_is_the_one_a_kafka_client_chooses(keys, count):
    assert partitions(keys, count).tolist() == [(kafka_murmur2(key) & 0x7FFFFFFF) % count for key in keys]


@given(KEYS)
def test_hash64_equals_the_plain_algorithm(keys):
    assert hash64(keys).tolist() == [slow_hash64(key) for key in keys]


def test_the_plain_algorithm_has_the_published_verification_value():
    # SMHasher's VerificationTest: hash the keys (), (0), (0, 1), ... with seeds 256, 255, ..., then all the hashes.
    hashes = b"".join(slow_hash64(bytes(range(i)), 256 - i).to_bytes(8, "little") for i in range(256))
    assert slow_hash64(hashes) & 0xFFFFFFFF == 0x1F0D3804


@given(LONG_ONES)
def test_keys_that_are_gone_through_one_by_one_have_the_same_hashes(keys):
    assert hash64(keys).tolist() == [slow_hash64(key) for key in keys]
    assert murmur2(keys).tolist() == [kafka_murmur2(key) & 0xFFFFFFFF for key in keys]


def test_very_long_and_very_short_keys_share_a_batch():
    keys = [b"x" * 5000, b"", b"y", b"z" * 4096]
    assert hash64(keys).tolist() == [slow_hash64(key) for key in keys]
    assert murmur2(keys).tolist() == [kafka_murmur2(key) & 0xFFFFFFFF for key in keys]
