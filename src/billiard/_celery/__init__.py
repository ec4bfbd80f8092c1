"""The legacy pool: the pool that Celery's ``AsynPool`` subclasses, with every name it hangs on to.

`billiard.pool.Pool` is the engine. Only a class statement that overrides one of `choose.HOOKS` gets this layer's pool
as its base instead. The layer keeps a frozen contract, so it may look old; it may not grow.

    choose.py    the table of hooks, and who gets which pool        worker.py    the child's side
    pool.py      life of the pool: construct, shut down             wire.py      what crosses the pipes
    worker_set.py  life of its workers: start, watch, replace       handlers.py  results, limits, and their old names
    reaping.py   end of its workers, and of what they held          locks.py     the bounded semaphore
    submitting.py  what it takes on: calls, maps                    signal_retry.py signals that strike in a __del__
    results.py   what callers hold                                  gc_freeze.py what the garbage collector passes over
    seams.py     names that others replace while it runs            log.py       its log, which is never silent
    worker_signals.py  the child's signals

Beside the legacy pool, and staying when it goes: ``task_pool*.py``, the engine as `billiard.celery:TaskPool` needs it.

Frozen names, and who uses them (A: ``celery.concurrency.asynpool``, P: its ``prefork``, W: the rest of Celery's worker,
T: Celery's unit tests, B: programs written for billiard 4):

    constants     ACK NACK RUN TERMINATE (A) CLOSE (P) READY TASK DEATH (wire) EX_OK EX_FAILURE EX_RECYCLE (B)
    module        WorkersJoined (A) Lock, rebound by celery.worker.components (W) _kill SIGKILL TERM_SIGNAL os time (B)
    Worker        12 arguments, inq outq (T) on_loop_start (A) contribute_to_object after_fork workloop _do_exit (B)
    process       inq outq synq inqW_fd outqR_fd synqR_fd synqW_fd send_job_offset send_syn_offset index (A)
    ResultHandler cache check_timeouts join_exited_workers state_handlers on_state_change _state handle_event
                  register_with_event_loop on_stop_not_started (A) 8 positional arguments and on_job_ready= (T)
    TimeoutHandler on_soft_timeout on_hard_timeout handle_event (A) handle_timeouts _trywaitkill (B)
    ApplyResult   _job _accepted _terminated _write_to _scheduled_for correlation_id _ack _set_terminated _cancel
                  discard (A) terminate (W) ApplyResult({}, callback) (T)
    hooks         Worker ResultHandler WorkerProcess _create_worker_process on_job_ready get_process_queues on_grow
                  on_shrink on_job_process_down on_job_process_lost _process_cleanup_queues _stop_task_handler
                  create_result_handler _process_register_queues _setup_queues process_flush_queues on_partial_read
                  _set_result_sentinel _help_stuff_finish_args _help_stuff_finish (A overrides them)
    set later     on_timeout_set on_timeout_cancel on_process_up on_process_down _quick_put send_ack
                  handle_result_event (A assigns them to the instance: read at call time)
    pool, read    _pool _processes _cache _state synack _timeout_handler _result_handler mark_as_worker_lost (A)
                  _maxtasksperchild timeout soft_timeout (P) terminate_job grow shrink restart did_start_ok
                  maintain_pool close join terminate apply_async (P, W) _create_worker_process, patched (T)
"""
