"""Runs a module as `python -m` does, in a process that ends when its parent is gone.

The engine ends its plugins; one that was killed cannot.
"""

import os
import runpy
import sys
import threading
import time


def end_with_parent() -> None:
    """Have this process end within a second of its parent's end."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent()
    sys.path[0] = ""  # the working folder, as `-m` has it
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
