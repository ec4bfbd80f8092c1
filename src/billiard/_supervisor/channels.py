"""What goes to and comes from workers: calls that the core gave out, frames that it is told of.

May be cut short by an exception anywhere: a frame is applied before it is consumed, and counts as written only when it is
on its way; so each of these may be repeated (see billiard._wire.channel).
"""

from __future__ import annotations

import signal
import time

from .._core import outbox, preemption
from .._core.core import Core
from .._core.state import Cause, Job, Phase, Worker
from .._typing import Any, Final
from .._wire import frames
from .._wire.frames import FrameError
from . import log
from .function_table import FunctionTable
from .poll_set import IN, OUT, PollSet
from .worker_link import WorkerLink

LOST_CHANNEL_S: Final = 1.0  # a worker that closed its channel and lives has this long to end by itself
_DRAIN_MAX: Final = 10_000  # reads at a time: a worker that writes faster than we read must not keep the turn for ever
_UNSURE: Final = -1  # what a socket is polled for, while that is being changed


class Channels:
    """The channels of one pool's workers."""

    def __init__(self, core: Core, poll_set: PollSet) -> None:
        self._core = core
        self._poll_set = poll_set
        self.functions = FunctionTable()
        self.accepting = False  # calls that want to be told of their start have been submitted

    def write_all(self) -> None:
        """Write what was given out, to one worker after the other. Repeatable."""
        unwritten = self._core.dispatch.unwritten
        while unwritten:
            worker = next(iter(unwritten))
            self._write(worker)
            del unwritten[worker]

    def on_channel(self, worker: Worker, mask: int) -> None:
        """Deal with what the poll set reports of a worker's channel; `mask`: of IN and OUT. Repeatable."""
        link: WorkerLink | None = worker.link
        if link is None:
            return
        if mask & OUT:
            link.channel.flush()
            self._write(worker)
        if mask & ~OUT and not link.channel.closed_by_peer:
            self._receive(worker)
        if link.channel.closed_by_peer and link.registered:
            self.unwatch_channel(link)
            if not link.exited:
                # it closed its end and may be ending; a worker without a channel is of no use
                self._core.timers.set(worker, preemption.ESCALATE, time.monotonic() + LOST_CHANNEL_S)

    def _receive(self, worker: Worker) -> None:
        link: WorkerLink = worker.link
        channel = link.channel
        try:
            while True:  # for what `more` says is there no event will come
                received, mark = channel.receive()
                if received:
                    self._apply(worker, received)
                    channel.consume(mark)
                if not channel.more:
                    break
        except FrameError as exc:
            self._distrust(worker, exc)
        if channel.awaits_body or link.watched:
            self._watch_socket(worker)

    def drain(self, worker: Worker) -> None:
        """Read until nothing is there."""
        channel = worker.link.channel
        for _ in range(_DRAIN_MAX):
            self._receive(worker)
            if channel.empty or channel.closed_by_peer:
                return

    def _apply(self, worker: Worker, received: list[Any]) -> None:
        if self.accepting:
            # before the results, which may have come with them and take their calls out of flight
            for kind, _, number, body in received:
                if kind == frames.ACCEPTED and not number:
                    self._accepted(worker, body)
        for kind, _, _, body in self._core.dispatch.results(worker, received):
            self._apply_rare(worker, kind, body)
        if worker.phase >= Phase.RETIRING:
            self._core.worker_set.emptied(worker)

    def _apply_rare(self, worker: Worker, kind: int, body: bytes) -> None:
        core = self._core
        if kind == frames.READY:
            if worker.pid is None:
                worker.link.ready_early = True  # it was faster than the news of its start, which tells its pid
            else:
                core.worker_set.ready(worker)
            return
        if kind == frames.FAILED:
            worker.link.failure = body
            return
        number, _ = frames.read_about(body)
        if kind == frames.ACCEPTED:
            pass  # dealt with before the results
        elif kind == frames.SKIPPED:
            core.preemption.skipped(worker, number)
        elif kind == frames.LEAVING:
            core.worker_set.leaving(worker, number)
            core.worker_set.emptied(worker)
        elif kind == frames.DROPPED:
            core.preemption.dropped(worker, number)
        else:
            raise FrameError(f"no frame is of kind {kind}")

    def _accepted(self, worker: Worker, body: bytes) -> None:
        number, started_ns = frames.read_about(body)
        job = worker.inflight.get(number)
        if job is not None:
            self._core.outbox.notifications.append((outbox.ACCEPTED, job, (worker.pid, started_ns / 1e9)))

    def _distrust(self, worker: Worker, exc: FrameError) -> None:
        """What it sends is no frame, or too large for us: kill it, and let its call fail."""
        log.error("worker %s is killed: %s", worker.pid, exc)
        self._core.preemption.kill_now(worker, signal.SIGKILL, Cause.LOST, time.monotonic())
        # only now: cut short before it, the next turn finds the same bytes, and condemns it again
        worker.link.channel.closed_by_peer = True
        worker.link.failure = None  # what it said of its initializer is not to be believed either

    def _write(self, worker: Worker) -> None:
        link: WorkerLink | None = worker.link
        if link is None or link.exited:
            return
        link.write(worker, self.functions)
        if link.channel.busy or link.watched:
            self._watch_socket(worker)

    def _watch_socket(self, worker: Worker) -> None:
        """Poll it for what is wanted of it now: room for calls, the body of a result, or nothing.

        While a body is awaited the pipe is not polled: what a task may have written there would be news again and again.
        """
        link: WorkerLink = worker.link
        channel = link.channel
        wanted = (OUT if channel.busy else 0) | (IN if channel.awaits_body else 0)
        if wanted == link.watched or not link.registered:
            return
        link.watched = _UNSURE  # cut short from here on, all of it is done again
        # one of the two is in the poll set at any time, or a turn that was cut short in here would forget this worker
        if not wanted & IN:
            self._poll_set.watch(channel.fd, worker)
        if wanted:
            self._poll_set.watch(channel.sock_fd, worker, wanted)
        else:
            self._poll_set.unwatch(channel.sock_fd)
        if wanted & IN:
            self._poll_set.unwatch(channel.fd)
        link.watched = wanted

    def answer(self, job: Job, run: bool) -> None:
        """Tell the worker that asks whether to begin `job`, if it still has it."""
        worker = job.holder
        if worker is not None and worker.link is not None and job.number in worker.inflight:
            worker.link.control += (frames.frame(frames.VERDICT, int(run), job.number),)
            self._core.dispatch.unwritten[worker] = None

    def unwatch_channel(self, link: WorkerLink) -> None:
        """Poll its descriptors no more; before they are closed."""
        self._poll_set.unwatch(link.channel.fd)
        self._poll_set.unwatch(link.channel.sock_fd)
        link.registered, link.watched = False, 0

    def forget_function(self, number: int) -> None:
        """No call names this function any more: the parent's pickle of it and the workers' copies can go."""
        self.functions.pickles.pop(number, None)
        self._core.dispatch.forget_function(number)
        for worker in self._core.worker_set.workers.values():
            link: WorkerLink | None = worker.link
            if link is not None and number in link.known:
                # goes along with the next call: not worth a wake-up
                link.control += (frames.frame(frames.FORGET, number, 0),)
                link.known.discard(number)
