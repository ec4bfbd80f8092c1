"""A private redis-server on its own free port, with its own directory.

It may not touch a server that somebody else runs: the port is chosen here, nothing is saved outside `directory`, and
only the process started here is ever signalled.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


class RedisMissingError(RuntimeError):
    """redis-server is not installed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Start, stop and restart (keeping data) one redis-server."""

    def __init__(self, directory: Path, databases: int = 512) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RedisMissingError("redis-server is not on PATH; install it (Debian: apt-get install redis-server)")
        self.program = program
        self.directory = directory
        self.databases = databases
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def start(self, limit_s: float = 10.0) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "redis.log"
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--databases", str(self.databases), "--save", "", "--appendonly", "no", "--logfile", str(log)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal must not stop the broker under the tests' clean-up
        )
        deadline = time.monotonic() + limit_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                self.stop()
                raise RuntimeError(f"redis-server on port {self.port} did not start:\n{tail}")
            time.sleep(0.02)

    def command(self, *words: str, limit_s: float = 5.0) -> str:
        """One command over a fresh connection, its raw reply; enough for PING, SAVE and FLUSHALL without a client."""
        text = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=limit_s) as connection:
            connection.sendall(text.encode())
            return connection.recv(4096).decode(errors="replace").strip()

    def answers(self) -> bool:
        try:
            return self.command("PING") == "+PONG"
        except OSError:
            return False

    def stop(self, limit_s: float = 10.0) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, down_s: float = 0.0) -> None:
        """Save, stop, stay away for `down_s`, come back on the same port with the same data."""
        process = self.process
        if process is None:
            raise RuntimeError("not running")
        # One command: what came in between a SAVE and a stop would be forgotten.
        if reply := self.command("SHUTDOWN", "SAVE", limit_s=30):
            raise RuntimeError(f"SHUTDOWN SAVE answered {reply}")
        process.wait(10)
        self.stop()
        time.sleep(down_s)
        self.start()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
