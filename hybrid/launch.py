"""Start one command as several processes on this machine, and end all of them when one fails.

torchrun and srun do this across machines; a process that they started is told so by its environment, and starts no
others itself.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG, sys/prctl.h


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run `hybrid ARGUMENTS` as `ranks` processes. The exit status is the first one that is not 0.

    Signals are passed on to all. When one process fails, the rest are killed, since they would only wait for it; a
    line says which rank it was, unless it has said so itself (status 2) or was asked to stop.
    """
    common = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks))),
    }
    command = [sys.executable, "-P", "-m", "hybrid.cli", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A group of their own: Ctrl-C reaches them once, through us.
            child = subprocess.Popen(
                command, env=os.environ | common | own, start_new_session=True, preexec_fn=die_with_parent
            )
            children.append(child)
        return _watch(children, asked)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(children: Sequence["subprocess.Popen[bytes]"], asked: Sequence[int]) -> int:
    """Wait until all have ended well, or one has not."""
    while True:
        failed = _failed(children)
        if failed and not asked:
            time.sleep(0.2)  # a consequence, such as a lost connection, may be seen before its cause
            rank, state = min(_failed(children), key=lambda one: (one[1] >= 0, one[1] != 2))
            if state != 2:
                how = f"was killed by {signal.Signals(-state).name}" if state < 0 else f"ended with status {state}"
                print(
                    f"hybrid: rank {rank} of {len(children)} {how}, and the others were ended; what was saved is "
                    "intact, and the same command goes on from there",
                    file=sys.stderr,
                )
            return _status(state)
        if all(child.poll() is not None for child in children):
            return _status(failed[0][1]) if failed else 0
        time.sleep(0.05)


def _failed(children: Sequence["subprocess.Popen[bytes]"]) -> list[tuple[int, int]]:
    return [(rank, state) for rank, child in enumerate(children) if (state := child.poll())]


def _status(state: int) -> int:
    """A process's end as a shell gives it."""
    return 128 - state if state < 0 else state


def die_with_parent() -> None:
    """For a process to be: end as soon as whoever starts it does (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
