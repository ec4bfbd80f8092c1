"""Every module and name of billiard 4.3.2 that is public or used by Celery, and which objects are the very same."""

import importlib
import subprocess
import sys

import pytest

import billiard

words = str.split  # one word a line would fill pages

TOP = words(
    """
    Array AuthenticationError Barrier BoundedSemaphore BufferTooShort Condition Event JoinableQueue Lock Manager
    Pipe Pool Process ProcessError Queue RLock RawArray RawValue Semaphore SimpleQueue SoftTimeLimitExceeded
    TimeLimitExceeded TimeoutError Value WorkerLostError active_children allow_connection_pickling cpu_count
    current_process forking_enable forking_is_enabled freeze_support get_all_start_methods get_context get_logger
    get_start_method log_to_stderr set_executable set_forkserver_preload set_start_method
    """
)

NAMES = {
    "_ext": "_billiard supports_exec ensure_multiprocessing",
    "common": "TERM_SIGNAL TERM_SIGNAME REMAP_SIGTERM TERMSIGS_IGNORE TERMSIGS_FORCE TERMSIGS_DEFAULT TERMSIGS_FULL "
    "SIGMAP EX_SOFTWARE _should_have_exited human_status pickle_loads pickle_load maybe_setsignal _shutdown_cleanup "
    "terminate_handler_fired clear_terminate_handler_fired reset_signals signum restart_state",
    "compat": "close_open_fds get_fdmax isblocking setblocking send_offset maybe_fileno uniq get_errno "
    "spawnv_passfds mem_rss maxrss_to_kb fsencode fsdecode _winapi _FD_DIR _open_fds _dev_fd_is_fdescfs "
    "FILENO_ERRORS E_PSUTIL_MISSING E_RESOURCE_MISSING",
    "connection": "Client Listener Pipe wait Connection detach _SocketContainer is_pypy reduce_connection "
    "rebuild_connection deliver_challenge answer_challenge families address_type SocketListener "
    "send_offset setblocking",
    "context": "BaseContext DefaultContext ForkContext SpawnContext ForkServerContext ForkProcess SpawnProcess "
    "ForkServerProcess Process _default_context _concrete_contexts _force_start_method assert_spawning "
    "get_spawning_popen set_spawning_popen _tls W_NO_EXECV TimeLimitExceeded SoftTimeLimitExceeded WorkerLostError "
    "ProcessError BufferTooShort TimeoutError AuthenticationError",
    "dummy": "Process DummyProcess current_process active_children freeze_support Lock RLock Semaphore "
    "BoundedSemaphore Condition Event Queue Manager Pipe Pool JoinableQueue Namespace Array Value shutdown",
    "dummy.connection": "Client Listener Pipe Connection families",
    "einfo": "ExceptionInfo Traceback ExceptionWithTraceback RemoteTraceback rebuild_exc _Frame _Code _Object "
    "_Truncated DEFAULT_MAX_FRAMES",
    "exceptions": "ProcessError BufferTooShort TimeoutError AuthenticationError TimeLimitExceeded "
    "SoftTimeLimitExceeded WorkerLostError Terminated RestartFreqExceeded CoroStop",
    "forkserver": "ensure_running get_inherited_fds connect_to_new_process set_forkserver_preload ForkServer",
    "heap": "Arena Heap BufferWrapper",
    "managers": "BaseManager SyncManager BaseProxy Token BaseListProxy DictProxy IteratorProxy AutoProxy MakeProxyType "
    "NamespaceProxy Namespace Server State SharedMemoryManager dispatch public_methods",
    "popen_fork": "Popen",
    "popen_forkserver": "Popen",
    "popen_spawn_posix": "Popen",
    "popen_spawn_win32": "",
    "process": "BaseProcess Process current_process active_children AuthenticationString _set_current_process _cleanup "
    "_children _current_process _process_counter _dangling _exitcode_to_name ORIGINAL_DIR _maybe_flush parent_process",
    "queues": "Queue SimpleQueue JoinableQueue _SimpleQueue Empty Full",
    "reduction": "ForkingPickler HAVE_SEND_HANDLE DupFd sendfds recvfds send_handle recv_handle dump register",
    "resource_sharer": "DupFd stop",
    "resource_tracker": "register unregister ensure_running",
    "semaphore_tracker": "SemaphoreTracker register unregister ensure_running getfd main _semaphore_tracker",
    "shared_memory": "SharedMemory ShareableList",
    "sharedctypes": "RawValue RawArray Value Array synchronized copy SynchronizedBase Synchronized typecode_to_type",
    "spawn": "spawn_main freeze_support set_executable get_executable get_preparation_data get_command_line prepare "
    "import_main_path is_forking _setup_logging_in_child_hack",
    "synchronize": "Lock RLock Semaphore BoundedSemaphore Condition Event Barrier SemLock SEM_VALUE_MAX sem_unlink "
    "RECURSIVE_MUTEX SEMAPHORE",
    "util": "Finalize ForkAwareLocal ForkAwareThreadLock get_temp_dir is_exiting register_after_fork "
    "_run_after_forkers _run_finalizers _exit_function _finalizer_registry _finalizer_counter _afterfork_registry "
    "_afterfork_counter _args_from_interpreter_flags _logger get_logger log_to_stderr sub_debug debug info sub_warning "
    "warning error NOTSET SUBDEBUG DEBUG INFO SUBWARNING WARNING ERROR set_pdeathsig get_pdeathsig PR_SET_PDEATHSIG "
    "PR_GET_PDEATHSIG _eintr_retry LOGGER_NAME DEFAULT_LOGGING_FORMAT",
}

SAME = {
    "exceptions": "ProcessError BufferTooShort TimeoutError AuthenticationError",
    "process": "current_process parent_process _children _process_counter _dangling AuthenticationString",
    "context": "_tls assert_spawning get_spawning_popen set_spawning_popen",
    "connection": "wait deliver_challenge",
    "util": "Finalize ForkAwareLocal ForkAwareThreadLock get_temp_dir is_exiting register_after_fork "
    "_run_after_forkers _run_finalizers _exit_function _finalizer_registry _finalizer_counter _afterfork_registry "
    "_afterfork_counter",
}


@pytest.mark.parametrize("module", NAMES)
def test_every_name_is_there(module):
    public = importlib.import_module(f"billiard.{module}")
    missing = [name for name in NAMES[module].split() if not hasattr(public, name)]
    assert missing == []
    assert set(NAMES[module].split()) & set(dir(public)) == set(NAMES[module].split())


@pytest.mark.parametrize("module", NAMES)
def test_what_a_public_module_exports_exists(module):
    public = importlib.import_module(f"billiard.{module}")
    assert [name for name in getattr(public, "__all__", ()) if not hasattr(public, name)] == []


@pytest.mark.parametrize("module", SAME)
def test_objects_compared_by_identity_are_multiprocessings(module):
    ours = importlib.import_module(f"billiard.{module}")
    theirs_name = "context" if module == "exceptions" else module
    theirs = importlib.import_module(f"multiprocessing.{theirs_name}")
    assert [name for name in SAME[module].split() if getattr(ours, name) is not getattr(theirs, name)] == []


@pytest.mark.parametrize("module", ["resource_sharer", "resource_tracker", "shared_memory", "forkserver", "popen_fork"])
def test_a_public_module_with_nothing_behind_it_is_the_standard_librarys_module(module):
    ours = importlib.import_module(f"billiard.{module}")
    assert ours is importlib.import_module(f"multiprocessing.{module}")
    assert getattr(billiard, module) is ours


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match=r"billiard.*nonsense"):
        _ = billiard.nonsense
    from billiard import connection

    with pytest.raises(AttributeError, match=r"billiard\.connection.*nonsense"):
        _ = connection.nonsense


def test_top_level():
    assert billiard.__all__ == TOP
    assert [name for name in TOP if not hasattr(billiard, name)] == []
    assert billiard.__version__ == "5.0.0"
    assert billiard.VERSION == (5, 0, 0, "")
    assert (billiard.SUBDEBUG, billiard.SUBWARNING) == (5, 25)
    assert billiard.ensure_multiprocessing() is None
    assert set(TOP) <= set(dir(billiard))
    context = billiard.context._default_context
    assert all(getattr(billiard, name) == getattr(context, name) for name in TOP)


def test_what_multiprocessing_has_beyond_billiard_4():
    assert billiard.parent_process() is None
    assert callable(billiard.Process.kill)
    assert billiard.shared_memory.SharedMemory


def test_the_main_module_has_its_spawned_name():
    assert sys.modules["__mp_main__"] is sys.modules["__main__"]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_of_it():
    loaded = run(
        "import billiard, sys; print([m for m in sys.modules if m.startswith(('billiard.', 'multiprocessing'))])"
    )
    assert loaded == "[]\n"


def test_a_context_method_is_had_without_its_machinery():
    code = (
        "from billiard import Pool, Queue, Lock, Manager; import sys; "
        "print(sorted(m for m in sys.modules if m.startswith('billiard.')))"
    )
    assert "'billiard.pool'" not in run(code)
    assert "'billiard.managers'" not in run(code)


def test_default_start_method_of_the_platform():
    for platform, method, forking in [("darwin", "spawn", False), ("linux", "fork", True)]:
        code = (
            f"from unittest.mock import patch; patch('sys.platform', {platform!r}).start()\n"
            "import billiard; print(billiard.get_start_method(), billiard.forking_is_enabled())"
        )
        assert run(code) == f"{method} {forking}\n"


@pytest.mark.parametrize("name", ["Process", "Pool", "Queue", "context.Process", "process.Process", "process.BaseProcess"])
def test_names_can_be_replaced_and_put_back(name):
    from unittest import mock

    module, _, attribute = f"billiard.{name}".rpartition(".")
    public = importlib.import_module(module)
    before = getattr(public, attribute)
    with mock.patch(f"billiard.{name}") as replaced:
        assert getattr(public, attribute) is replaced
    assert getattr(public, attribute) == before
