"""A coverage-guided fuzzer on all that reads a stream: the parent's channel, the worker's, and what takes bodies apart.

    python -m tests.wire.fuzz --seconds 60
    python -m tests.wire.fuzz --seconds 600 --corpus .cache/fuzz     keep what was found to reach new code, and go on from it
    python -m tests.wire.fuzz --again FILE                           one input again, with its traceback

Needs atheris (`pip install atheris`), which nothing else here does: the suite fuzzes with hypothesis (`test_wire_*`).

An input is a stream and the pieces in which it arrives. For each:
- the parent's channel, with its real buffer and with a tiny one whose ends short inputs reach, the stream's first part coming
  through its pipe and the rest by its socket, delivers the frames that a plain reading of both finds, in order, in whatever
  pieces they came; or raises FrameError, and then only where that reading finds a frame that must be refused, or may be.
  Nothing else is raised, nothing hangs, reading again before `consume` gives the same frames, and never more than
  max(trusted size, 2 x what has arrived) is committed;
- the worker's reader delivers the frames of the whole stream;
- each body is taken apart, as large and as about a call: views that lie inside it, or FrameError.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not any((Path(entry) / "billiard" / "_core").is_dir() for entry in sys.path if entry):
    sys.path.insert(0, str(ROOT / "src"))

TINY_BUFFER, TINY_TRUST, TINY_IN_PIPE = 96, 256, 24
MAX_INPUT = 1024

Plain = tuple[int, int, int, bytes]


class Modules:
    """What is fuzzed; imported late, so that the fuzzer can instrument it."""

    frames: ModuleType
    channel: ModuleType
    stream: ModuleType


class ScriptedSocket:
    """Hands out a stream in pieces. A piece of 0 bytes: nothing is there now."""

    def __init__(self, stream: bytes, pieces: list[int], blocking: bool) -> None:
        self.stream, self.pieces, self.blocking = stream, pieces, blocking
        self.at = self.turn = self.given = 0

    def fileno(self) -> int:
        return -1

    def readv(self, fd: int, views: tuple[memoryview]) -> int:
        """`os.readv`, for a scripted pipe."""
        return self.recv_into(views[0])

    def recv_into(self, view: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        assert len(view), "asked for nothing: the answer would look like the stream's end"
        if self.at == len(self.stream):
            return 0
        piece = self.pieces[self.turn % len(self.pieces)] if self.pieces else len(self.stream)
        self.turn += 1
        if not piece:
            if not self.blocking or flags & socket.MSG_DONTWAIT:
                raise BlockingIOError
            piece = 1
        count = min(piece, len(view), len(self.stream) - self.at)
        view[:count] = self.stream[self.at : self.at + count]
        self.at += count
        return count

    def held_read(self, fd: int, address: int, size: int) -> int:
        """`gil_held.read`, for a scripted pipe."""
        memory = (ctypes.c_char * size).from_address(address)
        try:
            return self.recv_into(memoryview(memory).cast("B"))
        except BlockingIOError:
            return -1

    send = sendmsg = close = None  # nobody writes here


def plain_reading(stream: bytes) -> list[Plain]:
    """The frames of a stream."""
    frames, at, found = Modules.frames, 0, []
    while len(stream) - at >= frames.HEADER_SIZE:
        kind, tag, number, size = frames.HEADER.unpack_from(stream, at)
        stop = at + frames.HEADER_SIZE + size
        if stop > len(stream):
            break
        found.append((kind, tag, number, stream[at + frames.HEADER_SIZE : stop]))
        at = stop
    return found


def is_possible(kind: int, tag: int, number: int, size: int, given: int, in_pipe: int) -> bool:
    """Whether a worker that was given the calls below `given` sends such a header."""
    frames = Modules.frames
    beside, what = kind > frames.KIND, kind & frames.KIND
    if beside and kind not in (0x42, 0x43, 0x47, 0xC2):
        return False
    if what in (frames.RESULT, frames.ERROR):
        rightly = 1 <= number < given
    elif what == frames.FAILED:
        rightly = number == tag == 0 and given == 1
    else:
        rightly = 1 <= what <= 8 and number == tag == 0 and size in range(17)
    return rightly and (beside or size <= in_pipe)


def plain_reading_of_both(pipe: bytes, sock: bytes, given: int, in_pipe: int) -> tuple[list[Plain], bool]:
    """The frames of a pipe and of the socket beside it, and whether one of them may or must be refused."""
    frames, at, used, found, refused = Modules.frames, 0, 0, [], False
    while len(pipe) - at >= frames.HEADER_SIZE:
        kind, tag, number, size = frames.HEADER.unpack_from(pipe, at)
        at += frames.HEADER_SIZE
        if kind > frames.KIND:
            if not is_possible(kind, tag, number, size, given, in_pipe):
                return found, True
            again = sock[used : used + frames.HEADER_SIZE]
            if len(again) == frames.HEADER_SIZE and again != pipe[at - frames.HEADER_SIZE : at]:
                return found, True
            used += frames.HEADER_SIZE
            if used + size > len(sock):
                break
            found.append((kind & ~frames.BY_SOCKET, tag, number, sock[used : used + size]))
            used += size
            continue
        # if it does not happen to be there at once
        refused = refused or not is_possible(kind, tag, number, size, given, in_pipe)
        if at + size > len(pipe):
            break
        found.append((kind, tag, number, pipe[at : at + size]))
        at += size
    return found, refused


def whole(received: list[Any]) -> list[Plain]:
    return [(kind, tag, number, bytes(body)) for kind, tag, number, body in received]


def read_as_parent(pipe: bytes, beside: bytes, pieces: list[int], tiny: bool) -> None:
    channel_module = Modules.channel
    buffer, trusted, in_pipe = (TINY_BUFFER, TINY_TRUST, TINY_IN_PIPE) if tiny else (1 << 17, 1 << 24, 1 << 15)
    channel_module._BUFFER_SIZE, channel_module._TRUSTED_SIZE, channel_module.IN_PIPE = buffer, trusted, in_pipe
    given = (1, 1 << 63)[len(pipe) % 3 > 0]
    expected, refused = plain_reading_of_both(pipe, beside, given, in_pipe)
    pipe_end = ScriptedSocket(pipe, pieces, blocking=False)
    sock = ScriptedSocket(beside, pieces[1:] + pieces[:1], blocking=False)
    real_os, channel_module.os = channel_module.os, SimpleNamespace(readv=pipe_end.readv)
    real_calls = channel_module.gil_held
    channel_module.gil_held = SimpleNamespace(read=pipe_end.held_read, address_of=real_calls.address_of)
    channel = channel_module.Channel(sock, [-1], gil_waiters=range(len(pipe) % 2))
    channel.given = given
    got: list[Plain] = []
    try:
        # in each run through the pieces at least a byte comes
        for _ in range((len(pipe) + len(beside) + 1) * (len(pieces) + 1) + 100):
            before = pipe_end.at + sock.at
            received, mark = channel.receive()
            committed = len(channel._assembly.memory) if channel._assembly is not None else 0
            assert committed <= max(trusted, 2 * sock.at), f"{committed} bytes for {sock.at} that came"
            if received:
                first = whole(received)
                if before % 3 == 0:  # a signal's exception before `consume`: the same again, and perhaps more
                    received, mark = channel.receive()
                    assert whole(received)[: len(first)] == first, "read again it is not the same"
                got += whole(received)
                channel.consume(mark)
            elif channel.closed_by_peer and not channel.more:
                break
        else:
            raise AssertionError("it never came to an end")
    except Modules.frames.FrameError:
        assert refused, "a stream of good frames was refused"
        assert got == expected[: len(got)]
        return
    finally:
        channel_module.os, channel_module.gil_held = real_os, real_calls
        channel._fds.clear()
    assert got == expected, f"{len(got)} frames instead of {len(expected)}"


def read_as_worker(stream: bytes, pieces: list[int], tiny: bool) -> None:
    Modules.stream._BUFFER_SIZE = TINY_BUFFER if tiny else 1 << 16
    frames, got = Modules.frames, []
    expected = plain_reading(stream)
    at = sum(frames.HEADER_SIZE + len(body) for _, _, _, body in expected)
    if len(stream) - at >= frames.HEADER_SIZE and frames.HEADER.unpack_from(stream, at)[3] > 1 << 20:
        stream = stream[:at]  # it trusts its parent, and takes the memory that the parent's header says
    try:
        for kind, tag, number, body in Modules.stream.receive(ScriptedSocket(stream, pieces, blocking=True)):
            got.append((kind, tag, number, bytes(body)))
    except SystemExit:
        pass  # the stream ended in the middle of a large frame
    assert got == expected, f"{len(got)} frames instead of {len(expected)}"


def take_apart(body: bytes) -> None:
    frames = Modules.frames
    try:
        pickled, buffers = frames.unpack_large(memoryview(body))
    except frames.FrameError:
        pass
    else:
        assert len(pickled) + sum(map(len, buffers)) <= len(body)
        parts, size = frames.pack_large(pickled, buffers)
        again, views = frames.unpack_large(memoryview(b"".join(parts)))
        assert (bytes(again), list(map(bytes, views))) == (bytes(pickled), list(map(bytes, buffers)))
        assert size <= len(body)
    try:
        number, value = frames.read_about(body)
    except frames.FrameError:
        pass
    else:
        assert frames.about(1, number, value)[frames.HEADER_SIZE :] == body


def one_input(data: bytes) -> None:
    """First a byte of choices, then the pieces behind their count, how much comes by the socket, then the stream."""
    if len(data) < 3:
        return
    choices, count, beside = data[0], data[1] % 16, 4 * data[2]
    pieces, stream = list(data[3 : 3 + count]), data[3 + count :]
    if not any(pieces):
        pieces = []  # else nothing would ever come
    split = max(0, len(stream) - beside)
    read_as_parent(stream[:split], stream[split:], pieces, tiny=bool(choices & 1))
    read_as_worker(stream, pieces, tiny=bool(choices & 2))
    take_apart(stream)
    for _, _, _, body in plain_reading(stream):
        take_apart(body)


# -- running it


def seeds() -> list[bytes]:
    """Streams of every kind of frame, whole, cut and across a tiny buffer's end."""
    frames = Modules.frames
    about = b"".join(frames.about(kind, 7, 9) for kind in range(4, 9))
    results = b"".join(frames.frame(frames.RESULT, i, i + 1, bytes([i]) * (i * 9)) for i in range(8))
    parts, _ = frames.pack_large(b"pickle", [memoryview(b"a" * 20), memoryview(b"b" * 33)])
    large = frames.frame(frames.RESULT | frames.LARGE, 0, 3, b"".join(parts))
    one, two = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 20, 100), frames.HEADER.pack(0xC3, 1, 21, 358)
    huge = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 1, 1 << 40)
    beside = [  # the last 500 bytes come by the socket
        results + one + about + two + results + one + bytes(range(100)) + two + bytes(358),
        huge + huge + bytes(479), results + one + bytes(500),
        frames.HEADER.pack(frames.ACCEPTED | frames.BY_SOCKET, 0, 1, 40) + bytes(500),
    ]  # fmt: skip
    streams = [
        frames.frame(frames.READY, 4242, 0), about, results, large, results + about + large, large + results,
        frames.frame(frames.ERROR, 0, 5, b"e" * 400) + about, frames.frame(frames.FAILED, 0, 0, b"f" * 120),
        frames.HEADER.pack(frames.RESULT, 0, 1, 1 << 40) + bytes(600), frames.HEADER.pack(frames.ACCEPTED, 0, 0, 1 << 20),
        results[:-5], b"".join(parts),
        frames.frame(frames.RESULT, 0, 1) + frames.frame(frames.RESULT, 0, 2, b"x" * 150) + results,
    ]  # fmt: skip
    return [
        bytes([choices, len(pieces), by_socket, *pieces]) + stream
        for chosen, by_socket in ((streams, 0), (beside, 125)) for stream in chosen
        for choices, pieces in ((0, []), (3, [37, 0, 5]), (1, [96]), (2, [1, 200]))
    ]  # fmt: skip


def load(instrument: Any) -> None:
    with instrument:
        from billiard._wire import channel, frames
        from billiard._worker import stream
    Modules.frames, Modules.channel, Modules.stream = frames, channel, stream


def fuzz_here(words: list[str]) -> None:
    """In the fuzzer's process, which ends in here."""
    import atheris

    load(atheris.instrument_imports(include=["billiard._wire.frames", "billiard._wire.channel", "billiard._worker.stream"]))
    atheris.Setup([sys.argv[0], *words], one_input)
    atheris.Fuzz()


def fuzz(seconds: int, corpus: Path, seed: int) -> int:
    """Start the fuzzer, and say what it did."""
    load(contextlib.nullcontext())
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (corpus / f"seed-{number:03}").write_bytes(data)
    found = corpus.parent / "found-"
    words = [
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", "-timeout=10", "-rss_limit_mb=1024", f"-seed={seed}",
        "-print_final_stats=1", f"-artifact_prefix={found}", str(corpus),
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--inside", *words], capture_output=True, text=True, check=False, timeout=seconds + 120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", said))
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
    if done.returncode == 0 and figures and covered:
        edges, features, inputs = covered[-1]
        runs = int(figures["number_of_executed_units"])
        took = time.monotonic() - began
        print(f"{runs:,} executions in {took:.0f} s: {runs / seconds:,.0f}/s; memory at most {figures['peak_rss_mb']} MB")
        print(f"{edges} edges ({covered[0][0]} by the seeds), {features} features, {inputs} inputs kept; nothing wrong found")
        return 0
    print(said[-6000:])
    print(f"the fuzzer ended with {done.returncode}; an input that did it is at {found}*")
    return 1


def main(argv: list[str]) -> int:
    if argv[:1] == ["--inside"]:
        fuzz_here(argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a directory to keep and to go on from; default: a new one")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run one input")
    options = parser.parse_args(argv)
    if options.again:
        load(contextlib.nullcontext())
        one_input(options.again.read_bytes())
        print("nothing wrong")
        return 0
    try:
        import atheris  # noqa: F401 - asked for here, used by the process that is started
    except ImportError:
        print(f"this needs atheris in {sys.executable}: pip install atheris (CPython 3.11 to 3.13)", file=sys.stderr)
        return 2
    if options.corpus:
        return fuzz(options.seconds, options.corpus, options.seed)
    folder = Path(tempfile.mkdtemp(prefix="billiard-fuzz-"))
    status = fuzz(options.seconds, folder / "corpus", options.seed)
    if status == 0:  # else the input that did it is in there
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
