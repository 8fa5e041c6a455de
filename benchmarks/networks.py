"""Networks of containers beside docker's, and beside two bare network namespaces with a veth pair.

docker's engine runs in a network namespace of its own, so that nothing of the machine's is touched.
Throughput is iperf3's between two containers of one network, for one second, in turn with the peer;
latency is a byte there and back. Needs root, and Debian's packages `iperf3` and `iproute2`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import sandbox_kernel
from benchmarks import docker
from benchmarks.pairs import Amounts, Pair, Size, measure
from sandbox_kernel import image, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.network.client import Holder
from sandbox_kernel.runtime import client

NETWORK = "benchmark"
MANY = 200
IPERF = "/usr/bin/iperf3"
SECONDS = 1
SMALL, LARGE = 10, 10_000
CONNECTIONS = 300
TRIPS = 2000
ECHO = """
import socket
listener = socket.create_server(("", 9000))
while True:
    talk = listener.accept()[0]
    talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := talk.recv(64):
        talk.sendall(data)
"""
TRIP = f"""
import socket, sys, time
talk = socket.create_connection((sys.argv[1], 9000), 10)
talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(200):
    talk.sendall(b"x"); talk.recv(1)
begin = time.perf_counter()
for _ in range({TRIPS}):
    talk.sendall(b"x"); talk.recv(1)
print((time.perf_counter() - begin) / {TRIPS})
"""
CONNECT = f"""
import socket, sys, time
begin = time.perf_counter()
for _ in range({CONNECTIONS}):
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
print((time.perf_counter() - begin) / {CONNECTIONS})
"""
Run = Callable[[list[str]], str]


def rows(rounds: int) -> Iterator[Pair | Amounts | Size]:
    """All of them."""
    with Holder.start():
        yield ready(rounds)
        yield lists(max(3, rounds // 8))
        turns = max(3, rounds * 3 // 5)  # one second of iperf3 tells little: a quarter more or less
        with ours() as mine:
            with bare() as peer:
                yield throughput(mine, "veth pair", peer, turns)
            with docker_network() as others:
                if others is not None:
                    yield throughput(mine, "docker", others.ends(), turns)
                    yield latency(mine, others.ends(), max(3, rounds // 8))
                    yield many(others)


def ready(rounds: int) -> Size:
    """How much longer a fresh container takes with a way out, when one of each is ready."""
    took: dict[str, list[float]] = {"none": [], "bridge": []}
    for name in took:
        for _ in range(3):
            sandbox_kernel.run("pass", network=name).check()
    for number in range(rounds):
        for name in ("none", "bridge") if number % 2 else ("bridge", "none"):
            _await_ready()
            begin = time.perf_counter()
            sandbox_kernel.run("pass", network=name).check()
            took[name].append(time.perf_counter() - begin)
    client.stop_pool()
    more = [a - b for a, b in zip(took["bridge"], took["none"], strict=True)]
    what = "a fresh container with `bridge`, more than with `none`"
    return Size(what, statistics.median(more) * 1000, "ms", 3)


def lists(rounds: int) -> Pair:
    """A connection to what is on a list of 10,000 entries, beside one of 10."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.settimeout(None)
        port = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        with _listed(SMALL, port) as small, _listed(LARGE, port) as large:

            def of(run: Run) -> Callable[[], float]:
                target = _gateway()
                return lambda: float(run(["python3", "-c", CONNECT, target, str(port)]))

            what = f"a connection by a list of {LARGE} entries"
            return _pair(what, of(large), f"of {SMALL}", of(small), 1.1, rounds)


def throughput(mine: tuple[Run, Run], name: str, theirs: tuple[Run, Run], rounds: int) -> Pair:
    """Seconds for a gigabyte."""

    def of(ends: tuple[Run, Run]) -> Callable[[], float]:
        address = _address(ends[0])
        return lambda: 1e9 / _iperf(ends[1], address)

    bound = 1 / 0.95 if name == "veth pair" else 1.0
    what = "a gigabyte from container to container"
    return _pair(what, of(mine), name, of(theirs), bound, rounds)


def latency(mine: tuple[Run, Run], theirs: tuple[Run, Run], rounds: int) -> Pair:
    """A byte there and back."""

    def of(ends: tuple[Run, Run]) -> Callable[[], float]:
        address = _address(ends[0])
        return lambda: float(ends[1](["python3", "-c", TRIP, address]))

    return _pair("a byte there and back", of(mine), "docker", of(theirs), 1.0, rounds)


def many(engine: Engine) -> Pair:
    """Containers on one network, made and removed, all there at once."""
    plan = policy.plan(settings.PROGRAM, image="host", memory="64m", network=NETWORK)
    spec = ProcessSpec(argv=("/bin/sleep", "600"))

    def ours() -> None:
        made = [Container.create(plan, process=spec) for _ in range(MANY)]
        for container in made:
            container.remove()

    def theirs() -> None:
        made = [engine.start(["/bin/sleep", "600"]) for _ in range(MANY)]
        subprocess.run([*engine.client, "rm", "--force", *made], check=True, capture_output=True)

    what = f"{MANY} containers of a network made and removed"
    return measure(what, ours, "docker", theirs, bound=0.1, rounds=1, warm=0)


def _pair(
    what: str,
    ours: Callable[[], float],
    peer: str,
    theirs: Callable[[], float],
    bound: float,
    rounds: int,
) -> Pair:
    """As `measure`, of what tells by itself how long it took."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(-1, rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            took = (ours, theirs)[index]()
            if number >= 0:
                seconds[index].append(took)
    return Pair(what, peer, tuple(seconds[0]), tuple(seconds[1]), bound)


@contextlib.contextmanager
def ours() -> Iterator[tuple[Run, Run]]:
    """Two containers of one network: with servers, and one from which they are asked."""
    plan = policy.plan(settings.PROGRAM, image="host", network=NETWORK)
    with Container.create(plan) as server, Container.create(plan) as asker:
        programs = ((IPERF, "--server"), ("python3", "-c", ECHO))
        servers = [server.run(ProcessSpec(argv=argv)) for argv in programs]
        yield _in(server), _in(asker)
        for process in servers:
            process.close()


@contextlib.contextmanager
def bare() -> Iterator[tuple[Run, Run]]:
    """Two network namespaces with a veth pair."""
    names = [f"benchmark-{os.getpid()}-{end}" for end in "ab"]
    ip = "/sbin/ip"
    try:
        for name in names:
            subprocess.run([ip, "netns", "add", name], check=True)
        for words in (
            f"link add va netns {names[0]} type veth peer name eth0 netns {names[1]}",
            f"-n {names[0]} link set va name eth0",
            *(f"-n {name} addr add 10.9.8.{n}/24 dev eth0" for n, name in enumerate(names, 1)),
            *(f"-n {name} link set {link} up" for name in names for link in ("eth0", "lo")),
        ):
            subprocess.run([ip, *words.split()], check=True)
        ends = tuple(_run_in([ip, "netns", "exec", name]) for name in names)
        server = subprocess.Popen(
            [ip, "netns", "exec", names[0], IPERF, "--server"], stdout=subprocess.DEVNULL
        )
        try:
            yield ends[0], ends[1]
        finally:
            server.kill()
            server.wait()
    finally:
        for name in names:
            subprocess.run([ip, "netns", "delete", name], check=False)


class Engine:
    """docker with a network."""

    def __init__(self, client: list[str], words: list[str]) -> None:
        self.client = client
        self._words = words
        self._ends: tuple[Run, Run] | None = None

    def start(self, argv: list[str]) -> str:
        """A container that goes on."""
        done = subprocess.run(
            [*self._words, "--detach", docker.IMAGE, *argv],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def ends(self) -> tuple[Run, Run]:
        """As of `ours`."""
        if self._ends is None:
            made = [self.start(["/bin/sleep", "600"]) for _ in range(2)]
            for argv in ([IPERF, "--server"], ["python3", "-c", ECHO]):
                subprocess.run([*self.client, "exec", "--detach", made[0], *argv], check=True)
            ends = [_run_in([*self.client, "exec", name]) for name in made]
            self._ends = (ends[0], ends[1])
        return self._ends


@contextlib.contextmanager
def docker_network() -> Iterator[Engine | None]:
    """A bridge network of an engine of ours; None where it is not installed."""
    with docker.engine(own_network=True) as command:
        if command is None:
            yield None
            return
        subprocess.run([*command, "network", "create", NETWORK], check=True, capture_output=True)
        shown = docker.run(command, image.resolve("host").expanded(), [])
        words = [NETWORK if word == "none" else word for word in shown[:-1]]
        kept = [word for word in words if word != "--rm"]
        engine = Engine(command, [*kept, "--tmpfs", "/tmp"])
        try:
            yield engine
        finally:
            listed = [*command, "ps", "--all", "--quiet"]
            left = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
            if left:
                subprocess.run([*command, "rm", "--force", *left], capture_output=True, check=False)


@contextlib.contextmanager
def _listed(count: int, port: int) -> Iterator[Run]:
    """A container with a list of so many entries, the last of which is this machine's."""
    entries = [f"45.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:443" for n in range(count - 1)]
    allow = [*entries, f"{_gateway()}:{port}"]
    plan = policy.plan(settings.PROGRAM, image="host", network="bridge", allow=allow)
    with Container.create(plan) as container:
        yield _in(container)


def _gateway() -> str:
    """This machine, as the networks reach it: the far end of the way out."""
    with Holder.start() as holder:
        whole = str(holder.about["range"]).split(".")
    return f"{whole[0]}.{whole[1]}.252.1"


def _in(container: Container) -> Run:
    def run(argv: list[str]) -> str:
        out, into = os.pipe()
        try:
            process = container.run(ProcessSpec(argv=tuple(argv), descriptors={1: into}))
        finally:
            os.close(into)
        with os.fdopen(out) as said:
            text = said.read()
        assert process.wait(60).status == 0
        process.close()
        return text

    return run


def _run_in(words: list[str]) -> Run:
    def run(argv: list[str]) -> str:
        done = subprocess.run([*words, *argv], check=True, capture_output=True, text=True)
        return done.stdout

    return run


def _iperf(run: Run, address: str) -> float:
    """Bytes a second."""
    words = [IPERF, "--client", address, "--time", str(SECONDS), "--json"]
    for _ in range(100):
        try:
            return float(json.loads(run(words))["end"]["sum_received"]["bits_per_second"]) / 8
        except (AssertionError, KeyError, subprocess.CalledProcessError):
            time.sleep(0.1)  # the server does not listen yet, or is busy with the last one
    raise RuntimeError("iperf3 has no server")


def _address(run: Run) -> str:
    code = "import fcntl, socket, struct; s = socket.socket(); print(socket.inet_ntoa(fcntl.ioctl("
    code += "s, 0x8915, struct.pack('16s24x', b'eth0'))[20:24]))"
    return run(["python3", "-c", code]).strip()


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def _await_ready() -> None:
    """Until one of each kind waits."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if sum(template["ready"] for template in client.shared().pool()) >= 2:
            return
        time.sleep(0.02)
