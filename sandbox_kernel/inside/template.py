"""An interpreter with modules imported that forks, once for each container, a child that enters it.

It runs no caller's code and holds no capability. The child gets the namespaces of one container as
descriptors, and by the owner rule of user_namespaces(7) it may join that container's user
namespace and then the others. There it gives everything up, says that it is there, and waits: who
checks it is the launcher, and only then comes what it is to run. Why this is safe, and for what it
is not, stands in `runtime/templates.py`.

The outside says one thing at a time over descriptor 4, and what comes is from the launcher alone.
"""

# Of what there is in C and once more in Python, that in C: a child goes through less of it.
import _signal
import _socket
import ctypes
import json
import os
import struct
import sys

CONTROL = 4
PACKET = 1 << 16
SPACE = _socket.CMSG_SPACE(4 * 64)
"""For so many descriptors."""
# include/uapi/linux/sched.h
CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h: a filter sees the flags
# of this call, and not those of clone3(2).
CLONE = {"x86_64": 56, "aarch64": 220}
# include/uapi/linux/prctl.h, include/uapi/linux/capability.h, include/uapi/linux/seccomp.h
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
# include/uapi/asm-generic/unistd.h and include/uapi/linux/landlock.h
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63

# A fork copies each page that it first writes to. So functions are looked up, types made and code
# gone through here, as far as may be, and not once more in each child.
libc = ctypes.CDLL(None, use_errno=True)
setns, capset = libc.setns, libc.capset
prctl = libc.prctl
prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
# PyDLL keeps the interpreter's lock during a call.
system_call = ctypes.PyDLL(None, use_errno=True).syscall
system_call.restype = ctypes.c_long
before_fork = ctypes.pythonapi.PyOS_BeforeFork
after_fork_in_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
after_fork_in_child = ctypes.pythonapi.PyOS_AfterFork_Child
decoder = json.JSONDecoder()
NO_CAPABILITY = ((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
REHEARSALS = 16
"""So often a template goes the way of its children: its interpreter has adapted to it then."""
REHEARSAL_SECONDS = 10.0
"""The longest that a kernel may take for it, which can go that way in a fork alone."""


class Program(ctypes.Structure):
    """struct sock_fprog, linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def check(result):
    """Raises OSError for a C function that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main():
    """Imports what it is told to, then forks on request until the outside has gone."""
    os.close(3)
    control = known(CONTROL)
    os.set_inheritable(CONTROL, False)
    message, _ = receive(control)
    become_environment(message["environment"])
    if message["main"] == "cell":
        from . import hooks

        hooks.prepare()
    declared = dict(os.environ)
    for name in message["modules"]:
        why = import_module(name)
        if why:
            send(control, {"refused": name, "why": why})
            os._exit(1)
    # What the children need, so that none of them has to look for it.
    import __future__  # noqa: F401

    import atexit  # noqa: F401
    import faulthandler  # noqa: F401
    import fcntl  # noqa: F401

    from . import cell, channel, display, failure, hooks, template_memory, values  # noqa: F401

    # What a cell is to get fresh must not have been used here.
    rules = bytes.fromhex(message["filter"])
    rules = ctypes.create_string_buffer(rules, len(rules))
    closing = Program(len(rules) // 8, ctypes.cast(rules, ctypes.c_void_p))
    main = __import__("sandbox_inside." + message["main"], fromlist=["main"])
    if os.environ != declared:  # what a module did to it
        become_environment(declared)
    sys.modules.pop(__name__, None)
    ahead = Ahead(main, closing)
    lay_together(main)
    template_memory.settle()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # children of ours end at once, by themselves
    send(control, {"ready": True, "pid": os.getpid()})
    while True:
        received = receive(control)
        if received is None:
            os._exit(0)
        descriptor, user = received[1]
        try:
            if os.fork() == 0:
                become_forker(control, descriptor, user, ahead)
        finally:
            os.close(descriptor)
            os.close(user)


def lay_together(main):
    """What the children write to lies side by side from now on: their way is gone here, or, where
    that can't be, in a fork."""
    from . import template_memory

    also = (
        become_forker, fork_beside, child, known, check, bound, give_up, install, new_seeds, send,
        receive, run, place,
    )  # fmt: skip
    if hasattr(main, "rehearse"):
        for _ in range(REHEARSALS):
            rehearse_all(main)
        written = template_memory.written_by(lambda: rehearse_all(main))
        template_memory.lay_together((*written, *also, *main.UNREHEARSED))
        # Before what is looked up last, of which the interpreter keeps as much as it has place for.
        template_memory.give_versions()
        for _ in range(REHEARSALS):
            rehearse_all(main)
        look_up((*also, *main.UNREHEARSED))
        return
    from . import first_cell

    def become(told):
        rehearse(CONTROL)
        first_cell.of_a_kernel(told)

    written = template_memory.written_by_a_fork(become, REHEARSAL_SECONDS)
    if written:
        template_memory.lay_together((*written, *also))
    template_memory.forget_lookups()


def rehearse_all(main):
    """All of a child's way that can be gone ahead, once."""
    rehearse(CONTROL)
    main.rehearse()


def look_up(functions):
    """What these functions ask of modules is known from here on to be none of modules as such."""
    for function in functions:
        for name in function.__code__.co_names:
            getattr(os, name, None)


class Ahead:
    """What is the same for all children, and made before there is one."""

    def __init__(self, main, closing):
        self.main = main
        self.closing = closing
        # Until a child begins with it, it says nothing.
        self.arguments = (main.prepare(),) if hasattr(main, "prepare") else ()
        self.rehearse = getattr(main, "rehearse", None)
        self.clone = clone_arguments()


def become_forker(control, descriptor, user, ahead):
    """Joins the user namespace of a slot, and forks a child for each container made there.

    It is a child of pid 1 of the nest, and so are its children (CLONE_PARENT): nobody who runs the
    image's code has to be asked how they ended. Never returns.
    """
    channel = known(descriptor)
    try:
        control.close()
        check(setns(user, CLONE_NEWUSER))
        os.close(user)
        check(prctl(PR_SET_DUMPABLE, 0, None, 0, 0))
        bound()
        if os.fork():
            os._exit(0)
        while True:
            received = receive(channel)
            if received is None:
                os._exit(0)
            order, descriptors = received
            try:
                check(setns(descriptors[1], CLONE_NEWPID))
                if fork_beside(ahead.clone) == 0:
                    child(channel, order, descriptors, ahead)
            except OSError as error:
                send(channel, {"failed": order["container"], "why": str(error)})
            for number in descriptors:
                os.close(number)
    finally:
        os._exit(1)


def fork_beside(arguments):
    """As os.fork, but the child is one of our parent's. Returns 0 in the child.

    The C library's fork knows no flags, so this does what it does for a process with one thread:
    Python's own handlers before and after, and the number of the thread where the library keeps it.
    """
    before_fork()
    try:
        pid = check(system_call(*arguments))
    except OSError:
        after_fork_in_parent()
        raise
    if pid == 0:
        after_fork_in_child()
    else:
        after_fork_in_parent()
    return pid


def clone_arguments():
    """clone(2): its number and the order of its arguments on this machine. A fork has the same."""
    kept = ctypes.c_void_p()
    flags = CLONE_PARENT | _signal.SIGCHLD
    if prctl(PR_GET_TID_ADDRESS, ctypes.addressof(kept), None, 0, 0) == 0 and kept.value:
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    number = CLONE[os.uname().machine]
    where = kept.value or 0
    last = (where, 0) if number == CLONE["x86_64"] else (0, where)
    return [ctypes.c_long(value) for value in (number, flags, 0, 0, *last)]


def import_module(name):
    """Why the module can't be part of a template; None when it is imported."""
    try:
        __import__(name)
    except BaseException as error:
        return "%s: %s" % (type(error).__name__, str(error)[:500])
    if threads() == 1:
        return None
    # OpenBLAS, for one, ends its threads before a fork, and starts them again when it needs them.
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    left = threads() - 1
    if left == 0:
        return None
    return "it starts %d thread%s that a fork would lose" % (left, "" if left == 1 else "s")


def threads():
    """How many threads this process has, also those that Python does not know."""
    return len(os.listdir("/proc/self/task"))


def known(descriptor):
    """The socket that is this descriptor, of the one kind that there is here."""
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)


def send(channel, message):
    channel.send(json.dumps(message).encode())


def receive(channel):
    """The next message and its descriptors; None at the end."""
    body, control, _, _ = channel.recvmsg(PACKET, SPACE, _socket.MSG_CMSG_CLOEXEC)
    numbers = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers += memoryview(data[: len(data) // 4 * 4]).cast("i")
    if not body:
        return None
    if body == b"memfd":
        memory = numbers.pop()
        body = os.pread(memory, os.fstat(memory).st_size, 0)
        os.close(memory)
    return decoder.raw_decode(body.decode())[0], numbers


def child(forker, order, descriptors, ahead):
    """Enters the container, waits there for what it is to run, and runs it. Never returns."""
    step = "start"
    try:
        forker.close()
        own = descriptors[0]
        count = len(order["namespaces"])
        step = "enter the cgroup"
        for entrance in descriptors[2 + count :]:
            os.write(entrance, b"0")
        step = "join a namespace"
        for index, flag in enumerate(order["namespaces"]):
            check(setns(descriptors[2 + index], flag))
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        step = "become root of the container"
        os.setsid()
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        step = "give up capabilities"
        give_up()
        check(prctl(PR_SET_DUMPABLE, 1, None, 0, 0))  # as after execve(2)
        if order["landlock"]:
            step = "enter a Landlock domain"
            confine(order["landlock"])
        step = "close descriptors"
        os.closerange(3, own)
        os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
        step = "install the filter"
        install(ahead.closing)
        step = "prepare"
        new_seeds()
        if order["rehearses"] and ahead.rehearse:
            rehearse(own)
            ahead.rehearse()
        channel = known(own)
        step = "say that it is there"
        # What `json` would write to are ten pages to copy.
        channel.send(b'{"here":"%s"}' % order["container"].encode())
        received = receive(channel)
    except BaseException as error:
        try:
            send(known(descriptors[0]), {"failed": step, "why": repr(error)})
        finally:
            os._exit(1)
    if received is None:
        os._exit(0)
    run(channel, *received, ahead)


def rehearse(descriptor):
    """What `run` does, on things that stay as they are (see `cell.rehearse`)."""
    for _ in range(2):
        moved = duplicate_above(descriptor, descriptor + 1)
        place([moved], [moved + 1])
        os.close(moved + 1)
    become_environment(json.loads(json.dumps(dict(os.environ))))
    os.chdir(os.getcwd())


def bound():
    """No child of this process gets a capability by a program; what it has already stays."""
    for number in range(LAST_CAPABILITY + 1):
        if prctl(PR_CAPBSET_DROP, number, None, 0, 0) < 0:
            break  # the kernel knows no more


def give_up():
    """No capability in any set, and, with `bound`, none that could come back."""
    check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, None, 0, 0))
    check(capset(*NO_CAPABILITY))


def confine(domain):
    """A domain as `linux/landlock.py` has it: of files below the root, which is the container's."""
    ruleset = bytes.fromhex(domain["ruleset"])
    ruleset = check(system_call(LANDLOCK_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0))
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    rule = struct.pack("=Qi", domain["below_root"], root)
    check(system_call(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0))
    check(system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(root)
    os.close(ruleset)


def install(program):
    """What the template's filter allows and the container's does not, on top of the template's."""
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def run(channel, order, descriptors, ahead):
    """Becomes what the outside asked for."""
    os.close(channel.detach())
    place(descriptors, order["numbers"])
    if order["environment"] is not None:  # as it was declared for the template too
        become_environment(order["environment"])
    os.chdir(order["directory"])
    ahead.main.main(*ahead.arguments)
    os._exit(0)


def become_environment(wanted):
    os.environ.clear()
    os.environ.update(wanted)


def place(descriptors, numbers):
    """Gives each descriptor the number where the outside wants it."""
    if any(wanted in descriptors[index + 1 :] for index, wanted in enumerate(numbers)):
        above = max([*numbers, *descriptors]) + 1
        moved = [duplicate_above(descriptor, above) for descriptor in descriptors]
        for descriptor in descriptors:
            os.close(descriptor)
        descriptors = moved
    for index, wanted in enumerate(numbers):
        descriptor = descriptors[index]
        if descriptor == wanted:
            os.set_inheritable(wanted, True)
        else:
            os.dup2(descriptor, wanted, inheritable=True)
    for descriptor in descriptors:
        if descriptor not in numbers:
            os.close(descriptor)


def duplicate_above(descriptor, least):
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def new_seeds():
    """Random numbers of its own. The seed of `hash` can't be changed: it is the template's."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None
    if "uuid" in modules:
        modules["uuid"]._last_timestamp = None
        modules["uuid"]._node = None
    if "_ssl" in modules:
        # OpenSSL sees a fork by the process number, which is the same in many containers.
        modules["_ssl"].RAND_add(os.urandom(32), 32.0)
