"""Runs between the launcher and the server and becomes the server: gives up root, ties its life to the launcher's.

    python -I -S child.py PARENT SIGNAL UID GID REACH PROGRAM ARGUMENT…

A program of its own, importing nothing of ours, and not a `preexec_fn`: that would run Python in the forked
copy of a process with threads, whose locks nobody is left to release.
"""

import ctypes
import os
import sys

# <linux/prctl.h>, <linux/capability.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1

_STAY = -1  # as UID: no other account


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, value: int, more: int = 0) -> None:
    _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(more), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _become(uid: int, gid: int, reach: bool) -> None:
    """Change the account; with `reach` keep one of root's powers, to pass directories closed to the account.

    The checkout or the state may lie in root's home (mode 0700), which is not ours to open for everybody.
    """
    if reach:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if reach:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        one = 1 << _CAP_DAC_OVERRIDE
        _call("capset", header, (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0))  # effective, permitted, inheritable
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)  # through exec


def main() -> None:
    parent, death_signal, uid, gid, reach = map(int, sys.argv[1:6])
    command = sys.argv[6:]
    try:
        if uid != _STAY:
            _become(uid, gid, bool(reach))
        if sys.platform == "linux":
            # After the change of account, which clears it.
            _prctl(_PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != parent:  # it died before we asked to be told
                sys.exit("The launcher is gone.")
        os.execv(command[0], command)  # noqa: S606 - no shell is what we want
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run as user {os.geteuid()}: {error}")


if __name__ == "__main__":
    main()
