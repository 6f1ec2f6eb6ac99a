"""Runs an engine so that nothing of it outlives this process's parent. Started as a script of its own, stdlib only.

    python -I -S leash.py FD -- ARGV…

Forebay holds the other end of the pipe FD. When it closes, because Forebay wants the engine dead or is dead itself,
everything the engine started is killed. SIGTERM is passed on. When the engine's first process ends, what is left of
its family is killed too (a wedged worker may never exit by itself), and its status is taken over.

Descendants that left the process group are found all the same: this process is their reaper (PR_SET_CHILD_SUBREAPER),
so an orphan's parent is us.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GIVE_UP_S = 10.0


def main(argv: list[str]) -> int:
    """Run the command after `--`; return its status, 128 + n if signal n ended it."""
    lifeline, command = int(argv[1]), argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    child = os.fork()
    if child == 0:
        _become(command, lifeline, libc)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _send(child, signal.SIGTERM))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        status = _reap(child)
        if status is not None:
            _kill_family()
            return status
        readable, _, _ = select.select([lifeline, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
        if lifeline in readable and not os.read(lifeline, 4096):
            _send(-child, signal.SIGKILL)
            _kill_family()
            return 128 + signal.SIGKILL


def _become(command: list[str], lifeline: int, libc: ctypes.CDLL) -> None:
    """In the child: a session of its own, bound to the leash, then the command."""
    try:
        os.close(lifeline)
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.execvp(command[0], command)
    except OSError as failure:
        print(f"ERROR cannot start {command[0]}: {failure.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _reap(child: int) -> int | None:
    """Collect what has ended; the child's status once it is among them."""
    status = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def _kill_family() -> None:
    """Kill every descendant, again and again until none is left: the dying may still fork."""
    until = time.monotonic() + GIVE_UP_S
    while time.monotonic() < until:
        family = _descendants(os.getpid())
        for pid in family:
            _send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry))
    found: set[int] = set()
    frontier = [root]
    while frontier:
        for pid in children.get(frontier.pop(), []):
            if pid not in found:
                found.add(pid)
                frontier.append(pid)
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
