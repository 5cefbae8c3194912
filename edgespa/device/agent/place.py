"""Whether a folder is ours alone: what lies in it is run, so nobody else may put anything there.

As ssh's StrictModes for ``~/.ssh``. `edgespa.device.link.boot` carries it too, for before the agent is there.
"""

from __future__ import annotations

import os
import stat

MOST_LINKS = 40


def unsafe(path: str) -> str | None:
    """Who else could change what lies at a path, in words; None where nobody could.

    Every folder from the root on, and what links on the way lead through, must belong to us or to root, and be writable
    by nobody else. A folder with the sticky bit, as /tmp has it, may lie on the way: nobody can replace what is ours
    there. What is not there yet is made by us.

    Args:
        path: A folder or a file, there or not.
    """
    rest = _words(path if path.startswith("/") else os.path.join(os.getcwd(), path))
    at, links, last = "/", 0, os.lstat("/")
    while rest:
        problem = _others(at, last, on_the_way=True)
        if problem:
            return problem
        name = rest.pop()
        if name == "..":
            at = os.path.dirname(at)
            last = os.lstat(at)
            continue
        here = os.path.join(at, name)
        try:
            state = os.lstat(here)
        except OSError:  # not there, or not to be looked at: nothing of it is used
            return None
        if not stat.S_ISLNK(state.st_mode):
            at, last = here, state
            continue
        links += 1
        if links > MOST_LINKS:
            return here + " is a link without an end"
        if state.st_uid not in (0, os.geteuid()):
            return here + " is a link that belongs to " + _name(state.st_uid)
        target = os.readlink(here)
        rest += _words(target)
        if target.startswith("/"):
            at, last = "/", os.lstat("/")
    return _others(at, last, on_the_way=False)


def _words(path: str) -> list[str]:
    """The parts of a path, the first one last."""
    return [word for word in reversed(path.split("/")) if word not in ("", ".")]


def _others(path: str, state: os.stat_result, on_the_way: bool) -> str | None:
    if state.st_uid not in (0, os.geteuid()):
        return path + " belongs to " + _name(state.st_uid)
    if on_the_way and state.st_mode & stat.S_ISVTX:
        return None
    if state.st_mode & stat.S_IWOTH:
        return path + " can be written by everybody"
    if state.st_mode & stat.S_IWGRP and not _nobody_else_in(state.st_gid, path):
        return path + " can be written by its group"
    return None


def _nobody_else_in(group: int, path: str) -> bool:
    """Whether a group is that of root or of this user alone, as many systems give one to each."""
    try:
        if hasattr(os, "listxattr") and "system.posix_acl_access" in os.listxattr(path):
            return False  # the bits of the group are those of anybody who is listed there
    except OSError:
        pass
    try:
        import grp
        import pwd

        every = pwd.getpwall()
        # A bare number, as containers run as, is in no list: then the group of root alone is known.
        own, first = next(((e.pw_name, e.pw_gid) for e in every if e.pw_uid == os.geteuid()), ("root", 0))
        members = {each.pw_name for each in every if each.pw_gid == group} | set(grp.getgrgid(group).gr_mem)
    except (ImportError, KeyError):
        return False
    return group in (0, first) and members <= {"root", own}


def _name(user: int) -> str:
    try:
        import pwd

        return str(pwd.getpwuid(user).pw_name)
    except (ImportError, KeyError):
        return "user " + str(user)
