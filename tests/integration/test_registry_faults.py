"""Pulls that are killed, race, get less than was promised, or find no space.

Afterwards the store is whole, the error has said which layer and why, and the next try works.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from calendar import timegm
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import dns.message
import dns.rrset
import made_images
import pytest
from hostile_registry import REPOSITORY, Handler, Server, digest, image, in_own_network
from proxies import Fault, Proxy
from registries import Certificates, certificates, free_port, registry

from sandbox_kernel.errors import HostLacks, ImageError, RegistryError
from sandbox_kernel.image import reference
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.registry import pull, push
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.image.store import Store

PLAIN = Configuration(limits=Limits(first_wait=0.01, tries=2))
COMMAND = [sys.executable, "-m", "sandbox_kernel.cli.main"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "images"))


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever runs the tests are not for us."""
    (tmp_path / "no-credentials").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-credentials"))


def start(store: Store, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SANDBOX_KERNEL_IMAGES": store.root}
    return subprocess.Popen(
        [*COMMAND, "pull", name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def whole(store: Store, server: Server) -> None:
    """The image is there, each blob and tree of it, and the store has no fault."""
    found = store.find(server.name)
    assert [layer.digest for layer in found.manifest.layers] == [
        digest(blob) for blob in server.image.layers
    ]
    for diff_id in found.diff_ids:
        assert store.layer(diff_id)
    assert store.check() == []
    assert [name for name in os.listdir(f"{store.root}/partial") if "layer" in name] == []


class Stalling:
    """Gives a part of a layer, says so, and then nothing, until it is told to go on."""

    def __init__(self, server: Server, blob: bytes, count: int) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.blob, self.count, self.server = blob, count, server
        server.answers["GET", server.path_of(blob)] = self

    def __call__(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.blob)))
        handler.end_headers()
        handler.wfile.write(self.blob[: self.count])
        self.reached.set()
        while not (self.go_on.wait(0.05) or self.server.ended.is_set()):
            pass
        handler.wfile.write(self.blob[self.count :])


@pytest.fixture
def server() -> Iterator[Server]:
    """An image of a small and a larger layer."""
    with Server(image({"small": b"small"}, {"large": os.urandom(3 << 20)})) as running:
        yield running


def _partial_size(store: Store, blob: bytes) -> int:
    partial = store.partial(Digest(digest(blob)))
    return partial.size if partial else 0


@pytest.mark.fault(14)
def test_a_connection_that_breaks_is_made_anew_for_the_rest(store: Store, server: Server) -> None:
    """Within one pull: nothing comes twice, and what is unpacked already goes on."""
    large = server.image.layers[1]
    pieces = [len(large) // 4, len(large) // 2, len(large)]

    def break_off(handler: Handler) -> None:
        begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(large) - begin))
        if begin:
            part = f"bytes {begin}-{len(large) - 1}/{len(large)}"
            handler.send_header("Content-Range", part)
        handler.end_headers()
        end = next(piece for piece in pieces if piece > begin)
        handler.wfile.write(large[begin:end])
        handler.close_connection = True

    server.answers["GET", server.path_of(large)] = break_off
    pull(store, reference.registry(server.name), configuration=Configuration())
    asked = [request.headers.get("Range") for request in server.seen("GET", server.path_of(large))]
    assert asked == [None, f"bytes={pieces[0]}-", f"bytes={pieces[1]}-"]
    whole(store, server)


@pytest.mark.fault(13)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_is_ended_goes_on_where_it_was(
    store: Store, server: Server, how: signal.Signals
) -> None:
    large, count = server.image.layers[1], 2 << 20
    stalling = Stalling(server, large, count)
    pulling = start(store, server.name)
    assert stalling.reached.wait(20)
    end = time.monotonic() + 10
    while _partial_size(store, large) < count and time.monotonic() < end:
        time.sleep(0.01)  # what was sent has to be read by another process
    asked = time.monotonic()
    pulling.send_signal(how)
    _, said = pulling.communicate(timeout=10)
    assert time.monotonic() - asked < 1.5
    assert pulling.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert said == b""
    assert store.images() == []
    assert [str(problem) for problem in store.check() if "partial" not in str(problem)] == []
    assert _partial_size(store, large) == count

    server.answers.clear()
    server.requests.clear()
    pull(store, reference.registry(server.name), configuration=PLAIN)
    (again,) = server.seen("GET", server.path_of(large))
    assert again.headers["Range"] == f"bytes={count}-"
    assert server.seen("GET", server.blob) == []  # the small one was done
    whole(store, server)


def test_a_layer_that_came_whole_before_the_end_is_not_asked_for_again(
    store: Store, server: Server
) -> None:
    for blob in server.image.layers:
        with store.writer(Digest(digest(blob)), len(blob)) as writer:
            writer.write(blob)  # and no commit: killed between the two
    pull(store, reference.registry(server.name), configuration=PLAIN)
    assert [server.seen("GET", server.path_of(blob)) for blob in server.image.layers] == [[], []]
    whole(store, server)


@pytest.mark.fault(15)
def test_two_pulls_at_once_fetch_each_layer_once(store: Store, server: Server) -> None:
    stalling = Stalling(server, server.image.layers[1], 1 << 20)
    first = start(store, server.name)
    assert stalling.reached.wait(20)
    second = start(store, server.name)
    manifests = "/v2/some/image/manifests/1"
    end = time.monotonic() + 10
    while len(server.seen("GET", manifests)) < 2 and time.monotonic() < end:
        time.sleep(0.01)  # the second must be under way before the first goes on
    stalling.go_on.set()
    for pulling in (first, second):
        out, said = pulling.communicate(timeout=30)
        assert (pulling.returncode, said) == (0, b"")
        assert digest(server.image.manifest).encode() in out
    for blob in server.image.layers:
        assert len(server.seen("GET", server.path_of(blob))) == 1
    whole(store, server)


def test_a_layer_that_its_registry_has_lost_a_part_of(store: Store, tmp_path: Path) -> None:
    """A real registry, whose disk has lost the end of a file."""
    with registry(tmp_path / "registry") as served:
        other = Store.open(str(tmp_path / "other"))
        made = made_images.put(other, "cut:1", [made_images.layer({"x": os.urandom(1 << 20)})])
        name = reference.registry(f"{served.authority}/cut:1")
        push(other, made, name, configuration=PLAIN)
        (layer,) = made.manifest.layers
        hexadecimal = layer.digest.partition(":")[2]
        blobs = tmp_path / "registry/data/docker/registry/v2/blobs/sha256"
        kept = blobs / hexadecimal[:2] / hexadecimal / "data"
        content = kept.read_bytes()
        kept.write_bytes(content[: len(content) // 2])
        with pytest.raises(RegistryError, match=rf"layer.*{layer.digest}.*{layer.size}"):
            pull(store, name, configuration=PLAIN)
        assert store.images() == []
        assert store.check() == []
        kept.write_bytes(content)
        found = pull(store, name, configuration=PLAIN)
    assert store.layer(found.diff_ids[0])
    assert store.check() == []


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    """For the blob, and then for the tree of it."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=True)
    try:
        store = Store.open(str(place / "images"))
        for size in ("2m", "4m"):
            subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)
            said = r"(blob|layer) `sha256:\w+`.*: No space left on device: free space"
            with pytest.raises((ImageError, HostLacks), match=said):
                pull(store, reference.registry(server.name), configuration=PLAIN)
            assert store.images() == []
        subprocess.run(["mount", "-o", "remount,size=40m", place], check=True)
        pull(store, reference.registry(server.name), configuration=PLAIN)
        whole(store, server)
    finally:
        subprocess.run(["umount", place], check=True)


def test_memory_stays_small_whatever_the_layer(store: Store, tmp_path: Path) -> None:
    """Of the pull and of what unpacks, taken together; below 150 MiB for 264 of them."""
    content = os.urandom(64 << 20) + bytes(200 << 20)
    with Server(image({"large": content})) as server:
        program = (
            "import re, resource, sys\n"
            "from sandbox_kernel.cli.main import main\n"
            "status = main(sys.argv[1:])\n"
            # ru_maxrss of a process counts that of whom it was forked from
            "own = int(re.search(r'VmHWM:\\s+([0-9]+)', open('/proc/self/status').read())[1])\n"
            "others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
            "print(own + others)\n"
            "sys.exit(status)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "pull", server.name],
            env={**os.environ, "SANDBOX_KERNEL_IMAGES": store.root},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert int(done.stdout.split()[-1]) < 150 << 10


# -- 12: the clock ---------------------------------------------------------------------------------

YEAR = 365
OUT_OF_TIME = {
    "our clock is behind": (YEAR - 1, YEAR + 1, "it is not valid yet"),
    "our clock is ahead": (-YEAR - 1, -YEAR + 1, "it has expired"),
}
"""From and until when a certificate is valid, in days from now: what a wrong clock makes of it."""


def tells_the_time(problem: RegistryError, wrong: str) -> None:
    """The error says what is wrong with a certificate, at which time, and to look at the clock."""
    said = re.search(r"not valid at this machine's time, ([^,]+) UTC: (.*)", problem.why)
    assert said is not None, problem
    moment = timegm(time.strptime(said[1], "%Y-%m-%d %H:%M:%S"))
    assert 0 <= time.time() - moment < 60
    assert said[2] == wrong
    assert problem.remedy.startswith("look at this machine's clock (`date -u`)")
    assert "\n" not in str(problem)


@pytest.mark.fault(12)
@pytest.mark.parametrize(("begin", "end", "wrong"), OUT_OF_TIME.values(), ids=OUT_OF_TIME)
def test_a_certificate_of_another_time_is_told_of_with_this_machines_time(
    store: Store, tmp_path: Path, begin: int, end: int, wrong: str
) -> None:
    """By a real registry, which has the image and gives it when its certificate is right."""
    folder = tmp_path / "registry"
    other = Store.open(str(tmp_path / "other"))
    made = made_images.put(other, "timely:1", [made_images.layer({"x": b"x"})])
    off = certificates(tmp_path / "off", begin=begin, days=end)
    good = certificates(tmp_path / "good")
    with registry(folder, tls=good) as served:
        settings = replace(PLAIN, ca_files=(str(good.ca),))
        push(
            other, made, reference.registry(f"{served.authority}/timely:1"), configuration=settings
        )
    with registry(folder, tls=off) as served:
        name = reference.registry(f"{served.authority}/timely:1")
        with pytest.raises(RegistryError) as problem:
            pull(store, name, configuration=replace(PLAIN, ca_files=(str(off.ca),)))
        tells_the_time(problem.value, wrong)
        assert store.images() == []
    with registry(folder, tls=good) as served:
        name = reference.registry(f"{served.authority}/timely:1")
        assert pull(store, name, configuration=settings).digest == made.digest


@pytest.mark.root
@pytest.mark.fault(12)
def test_a_certificate_of_another_time_is_told_of_once_by_who_gives_tokens(
    store: Store, tmp_path: Path
) -> None:
    """Another try would find the same clock."""
    begin, end, wrong = OUT_OF_TIME["our clock is ahead"]
    good = certificates(tmp_path / "good", names="DNS:registry.test")
    off = certificates(tmp_path / "off", names="DNS:tokens.test", begin=begin, days=end)
    trusted = (str(good.ca), str(off.ca))
    settings = Configuration(ca_files=trusted, limits=Limits(first_wait=10))

    def scenario() -> None:
        with (
            Server(address="93.184.216.34", tls=good) as server,
            Server(address="93.184.216.35", tls=off) as tokens,
        ):
            realm = f'Bearer realm="https://tokens.test:{tokens.port}/token"'
            server.answers["*", "*"] = lambda handler: handler.reply(
                401, b"", {"WWW-Authenticate": realm}
            )
            name = reference.registry(f"registry.test:{server.port}/{REPOSITORY}:1")
            begun = time.monotonic()
            with pytest.raises(RegistryError) as problem:
                pull(store, name, configuration=settings)
            assert time.monotonic() - begun < 4
            assert "ask for a token" in str(problem.value)
            tells_the_time(problem.value, wrong)

    names = {"registry.test": "93.184.216.34", "tokens.test": "93.184.216.35"}
    in_own_network(scenario, tmp_path, addresses=names)


@pytest.mark.fault(12)
@pytest.mark.parametrize("days", [-YEAR, YEAR])
def test_a_registry_with_another_clock_is_waited_for_as_long_as_it_asks(
    store: Store, server: Server, days: int
) -> None:
    """Neither for a year, nor not at all."""
    asked: list[float] = []

    def busy_once(handler: Handler) -> None:
        now = time.time() + days * 86400
        asked.append(time.monotonic())
        if len(asked) > 1:
            server.decent(handler)
            return
        handler.date_time_string = lambda timestamp=None: formatdate(now, usegmt=True)
        handler.reply(429, b"", {"Retry-After": formatdate(now + 1, usegmt=True)})

    server.answers["GET", f"/v2/{REPOSITORY}/manifests/1"] = busy_once
    pull(store, reference.registry(server.name), configuration=PLAIN)
    assert 0.9 < asked[1] - asked[0] < 5
    whole(store, server)


# -- 14: who answers names -------------------------------------------------------------------------

NAME_SERVER, PRIVATE = "127.0.0.53", "10.9.8.7"
PATIENT = Limits(first_wait=0.01, tries=3)
HASTY = replace(PATIENT, connect=0.5)


class NameServer:
    """Says nothing, until it is to: then each name has the one address."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((NAME_SERVER, 53))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", (NAME_SERVER, 53))  # the end, for its own thread
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            wire, source = self._socket.recvfrom(4096)
            if not wire:
                return
            self.asked.set()
            if self.answers:
                query = dns.message.from_wire(wire)
                answer = dns.message.make_response(query)
                name, kind = query.question[0].name, query.question[0].rdtype
                if kind == dns.rdatatype.A:
                    answer.answer.append(dns.rrset.from_text(name, 1, "IN", "A", PRIVATE))
                self._socket.sendto(answer.to_wire(), source)


def ends_by_a_signal(pulling: subprocess.Popen[bytes]) -> None:
    """Ctrl-C ends it within a second, as is usual and without a word."""
    asked = time.monotonic()
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate(timeout=20)
    assert time.monotonic() - asked < 1.5  # with the end of its processes on a busy machine
    assert (pulling.returncode, said) == (130, b"")


@pytest.mark.root
@pytest.mark.fault(14)
@pytest.mark.parametrize("silent", [True, False], ids=["says nothing", "is gone"])
def test_without_a_name_server_a_pull_ends_in_time_and_says_what_it_lacks(
    store: Store, tmp_path: Path, silent: bool
) -> None:
    def scenario() -> None:
        with Server(address=PRIVATE) as server:
            authority = f"registry.test:{server.port}"
            name = reference.registry(f"{authority}/{REPOSITORY}:1")
            settings = Configuration(limits=PATIENT, plain_http=(authority,))
            impatient = replace(settings, limits=HASTY) if silent else settings

            def fails() -> None:
                begun = time.monotonic()
                with pytest.raises(RegistryError) as problem:
                    pull(store, name, configuration=impatient)
                assert time.monotonic() - begun < 3
                late = " in 0.5 s" if silent else ""
                assert problem.value.why == (
                    f"no name server had an answer for `registry.test`{late}, 2 times"
                )
                assert "/etc/resolv.conf" in problem.value.remedy
                assert server.requests == []

            if not silent:
                fails()
            with NameServer() as names:
                if silent:
                    fails()
                    assert names.asked.is_set()
                names.answers = True
                pull(store, name, configuration=settings)
            assert store.check() == []

    in_own_network(scenario, tmp_path, addresses={"own.test": PRIVATE}, name_server=NAME_SERVER)


@pytest.mark.root
@pytest.mark.fault(14)
@pytest.mark.fault(26)
@pytest.mark.parametrize("what", ["registry", "layer"])
def test_who_waits_for_a_silent_name_server_is_interrupted_within_a_second(
    store: Store, tmp_path: Path, what: str
) -> None:
    """The C library would ask it for ten."""

    def scenario() -> None:
        with Server() as server, NameServer() as names:
            away = {"Location": "https://blobs.test/layer"}
            server.answers["GET", server.blob] = lambda handler: handler.reply(307, b"", away)
            name = f"registry.test/{REPOSITORY}:1" if what == "registry" else server.name
            pulling = start(store, name)
            assert names.asked.wait(20)
            ends_by_a_signal(pulling)
            assert bool(server.requests) == (what == "layer")

    in_own_network(scenario, tmp_path, addresses={"own.test": PRIVATE}, name_server=NAME_SERVER)
    assert store.images() == []


@pytest.mark.root
@pytest.mark.fault(14)
def test_a_layer_that_waits_for_a_silent_name_server_ends_when_another_one_failed(
    store: Store, tmp_path: Path, server: Server
) -> None:
    gone, away = server.path_of(server.image.layers[1]), {"Location": "https://blobs.test/layer"}

    def scenario() -> None:
        # of the network that this thread is in
        with Server(server.image) as there, NameServer() as names:

            def missing(handler: Handler) -> None:
                assert names.asked.wait(20)
                handler.reply(404)

            there.answers["GET", server.blob] = lambda handler: handler.reply(307, b"", away)
            there.answers["GET", gone] = missing
            begun = time.monotonic()
            with pytest.raises(RegistryError, match="answer 404"):
                pull(store, reference.registry(there.name), configuration=PLAIN)
            assert time.monotonic() - begun < 3

    in_own_network(scenario, tmp_path, addresses={"own.test": PRIVATE}, name_server=NAME_SERVER)


# -- 14: proxies -----------------------------------------------------------------------------------

FAULTS_OF_A_PROXY: dict[str, tuple[Fault, int, str]] = {
    # name: what it does, after how many bytes, what is said of it
    "refuses": ("answers 502", 0, "502 Bad Gateway"),
    "says nothing": ("says nothing", 0, "no answer in time"),
    "is silent at the greeting": ("stalls", 0, "no answer in time"),
    "cuts off a layer": ("cuts off", 300_000, "peer closed connection .*"),
    "stalls in a layer": ("stalls", 300_000, "no answer in time"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"), names="DNS:registry.test")


@pytest.fixture
def guarded(good: Certificates) -> Iterator[Server]:
    """A registry that speaks TLS, with an image of one larger layer."""
    with Server(image({"large": os.urandom(1_200_000)}), tls=good) as running:
        yield running


@pytest.fixture
def proxy(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The only way to it. It wants a password, which no error may show."""
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Proxy(("127.0.0.1", guarded.port)) as running:
        monkeypatch.setenv("https_proxy", f"http://user:secret@{running.authority}")
        yield running


def through(proxy: Proxy, problem: RegistryError, why: str) -> None:
    """The error names the proxy and what it did, and has no password."""
    assert re.match(f"{why}, through the proxy `http://{proxy.authority}`", problem.why), problem
    assert "see whether the proxy runs" in problem.remedy
    assert "secret" not in str(problem)


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("fault", "after", "why"), FAULTS_OF_A_PROXY.values(), ids=FAULTS_OF_A_PROXY
)
def test_a_proxy_that_fails_is_named_after_a_few_tries_and_the_next_pull_goes_on(
    store: Store, good: Certificates, guarded: Server, proxy: Proxy,
    fault: Fault, after: int, why: str,
) -> None:  # fmt: skip
    name = reference.registry(f"registry.test/{REPOSITORY}:1")
    settings = Configuration(ca_files=(str(good.ca),), limits=PATIENT)
    waits = fault in ("says nothing", "stalls")
    hasty = replace(PATIENT, connect=0.5, silence=0.5, headers=0.5) if waits else PATIENT
    proxy.fault, proxy.after = fault, after
    begun = time.monotonic()
    with pytest.raises(RegistryError) as problem:
        pull(store, name, configuration=replace(settings, limits=hasty))
    assert time.monotonic() - begun < 8
    through(proxy, problem.value, why)
    assert len(proxy.asked) == PATIENT.tries
    assert all(head.startswith("CONNECT registry.test:443 ") for head in proxy.asked)
    assert store.images() == []

    proxy.fault = ""
    begins = _partial_size(store, guarded.image.layers[0])
    assert (begins > 0) == (after > 0)
    guarded.requests.clear()
    pull(store, name, configuration=settings)
    (layer,) = guarded.seen("GET", guarded.blob)
    assert layer.headers.get("Range") == (f"bytes={begins}-" if begins else None)
    assert store.check() == []


@pytest.mark.fault(14)
def test_a_proxy_that_is_dead_is_named_after_two_tries(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RegistryError) as problem:
        pull(store, reference.registry(f"registry.test/{REPOSITORY}:1"), configuration=PLAIN)
    assert problem.value.why.endswith(
        f"Connection refused, through the proxy `http://127.0.0.1:{port}`, 2 times"
    )
    assert "see whether the proxy runs" in problem.value.remedy


@pytest.mark.fault(14)
@pytest.mark.fault(26)
@pytest.mark.parametrize(("fault", "after"), [("says nothing", 0), ("stalls", 300_000)])
def test_who_waits_for_a_silent_proxy_is_interrupted_within_a_second(
    store: Store, good: Certificates, proxy: Proxy, monkeypatch: pytest.MonkeyPatch,
    fault: Fault, after: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(good.ca))
    proxy.fault, proxy.after = fault, after
    pulling = start(store, f"registry.test/{REPOSITORY}:1")
    assert proxy.stalled.wait(20)
    ends_by_a_signal(pulling)
    assert store.images() == []
