"""What the coverage-guided fuzzer judges by (`python -m tests.wire.fuzz`), on its seeds and on what hypothesis thinks up."""

import contextlib

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billiard._wire import frames

fuzz.load(contextlib.nullcontext())

KINDS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 0x82, 0x83, 0x1F, 0x42, 0x43, 0x44, 0xC2])
FRAMES = st.builds(
    frames.frame, KINDS, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=150) | st.just(bytes(16))
)
HEADERS = st.builds(frames.HEADER.pack, KINDS, st.just(3), st.integers(0, 2**64 - 1), st.integers(0, 200))
STREAMS = st.lists(FRAMES | HEADERS | st.binary(max_size=40), max_size=12).map(b"".join)
PIECES = st.lists(st.integers(0, 255), max_size=15)


@pytest.fixture(autouse=True)
def real_sizes(monkeypatch):
    """The fuzzer changes them; afterwards they are what they were."""
    channel, stream = fuzz.Modules.channel, fuzz.Modules.stream
    for module, name in ((channel, "_BUFFER_SIZE"), (channel, "_TRUSTED_SIZE"), (channel, "IN_PIPE"), (stream, "_BUFFER_SIZE")):
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.parametrize("seed", fuzz.seeds(), ids=lambda seed: f"{len(seed)} B")
def test_the_fuzzers_seeds(seed):
    fuzz.one_input(seed)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.integers(0, 255), PIECES, STREAMS)
def test_streams(choices, by_socket, pieces, stream):
    fuzz.one_input(bytes([choices, len(pieces), by_socket, *pieces]) + stream)
