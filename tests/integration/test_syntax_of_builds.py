"""The words of a Containerfile one by one: what each does, seen in the image that comes of it.

Most need no RUN. The base is an image of the store, so that nothing is fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import io
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import built_images
import pytest
from built_images import Node, built, files
from commands import COMMAND

from sandbox_kernel import policy, settings
from sandbox_kernel.building import mounting, referenced
from sandbox_kernel.building.events import Event, StepOutput
from sandbox_kernel.errors import BuildFailed, ContainerfileError, NotAllowed, OutOfMemory
from sandbox_kernel.image import reference
from sandbox_kernel.image.layers import limits
from sandbox_kernel.image.store import Store, Stored

BASE = "localhost/base:1"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
PLATFORM = f"linux/{MACHINE}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with built_images.store_with(BASE, tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.txt").write_text("one\n")
    (folder / "sub/a.py").write_text("a\n")
    (folder / "sub/a.pyc").write_text("compiled\n")
    return folder


def environment(image: Stored) -> dict[str, str]:
    return dict(each.split("=", 1) for each in image.config.execution()["Env"])


def outputs(events: list[Event]) -> dict[tuple[str, int], str]:
    """What each step wrote, by the name of its stage and its number."""
    found: dict[tuple[str, int], str] = {}
    for event in events:
        if isinstance(event, StepOutput):
            key = (event.stage, event.number)
            found[key] = found.get(key, "") + event.text
    return found


def content(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- FROM and ARG ---------------------------------------------------------------------------------


def test_the_arguments_of_the_platform_are_those_of_this_machine(store: Store) -> None:
    names = [side + what for side in ("TARGET", "BUILD") for what in
             ("PLATFORM", "OS", "ARCH", "VARIANT")]  # fmt: skip
    values = " ".join(f"SEEN_{name}=${name}" for name in names)
    text = f"FROM scratch\nENV BEFORE=$TARGETARCH\nARG {' '.join(names)}\nENV {values}"
    image, _ = built(store, None, text)
    seen = environment(image)
    assert seen["BEFORE"] == ""  # they are there for who asks for them
    expected = [PLATFORM, "linux", MACHINE, ""] * 2
    assert [seen[f"SEEN_{name}"] for name in names] == expected
    image, _ = built(store, None, text, arguments={"TARGETARCH": "another"})
    assert environment(image)["SEEN_TARGETARCH"] == "another"


@pytest.mark.parametrize("platform", [PLATFORM, "$BUILDPLATFORM", "${TARGETPLATFORM}", "$P"])
def test_a_stage_for_the_platform_of_this_machine(store: Store, platform: str) -> None:
    image, _ = built(store, None, f"ARG P={PLATFORM}\nFROM --platform={platform} {BASE}\nENV A=1")
    assert (image.config.os, image.config.architecture) == ("linux", MACHINE)


def test_a_stage_for_another_platform_is_refused(store: Store) -> None:
    with pytest.raises(ContainerfileError, match=f"line 1.*builds for {PLATFORM} only"):
        built(store, None, f"FROM --platform=linux/s390x {BASE}")


def test_an_argument_of_before_the_first_stage_names_its_base(store: Store) -> None:
    text = (
        "ARG NAME=nothing\nARG WHOLE=localhost/$NAME\nFROM ${WHOLE}:1 AS first\n"
        "ENV OUTSIDE=$NAME\nARG NAME\nARG WHOLE=of-the-stage\nENV INSIDE=$NAME OWN=$WHOLE\n"
    )
    image, _ = built(store, None, text, arguments={"NAME": "base"})
    assert "etc/passwd" in files(store, image)
    seen = environment(image)
    assert (seen["OUTSIDE"], seen["INSIDE"], seen["OWN"]) == ("", "base", "of-the-stage")


# -- images beside the base -----------------------------------------------------------------------


def test_files_of_an_image_that_is_no_stage(store: Store, context: Path) -> None:
    """By `COPY --from` and by a mount; policy hears of each such image."""
    asked: list[str] = []
    text = (
        f"FROM {BASE} AS begin\nFROM scratch\nCOPY --from={BASE} /etc/passwd /etc/group /of/\n"
        f"FROM {BASE}\nCOPY --from=1 /of /of\n"
        f"RUN --mount=type=bind,from={BASE},source=/etc,target=/m "
        "cat /m/passwd; touch /m/x 2>/dev/null || echo read-only"
    )
    image, events = built(store, None, text, allow_image=asked.append)
    passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
    assert files(store, image)["of/passwd"].content == content(passwd)
    assert outputs(events)["2", 2] == f"{passwd}read-only\n"
    assert "m" not in files(store, image)
    assert set(asked) == {BASE}

    def refuse(image: str) -> None:
        raise NotAllowed("image", image, "another one", "take that")

    for line in (f"COPY --from={BASE} / /", f"RUN --mount=type=bind,from={BASE},target=/m true"):
        with pytest.raises((BuildFailed, NotAllowed), match="another one"):
            built(store, None, f"FROM scratch\n{line}", allow_image=refuse)


# -- ADD ------------------------------------------------------------------------------------------


def archive(kind: str, *, size: int = 7) -> bytes:
    """A tar with one file, `top/file`, of zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as made:
        for name, folder in (("top", True), ("top/file", False)):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
            member.mode, member.uid, member.gid = 0o751, 11, 12
            member.size = 0 if folder else size
            made.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


UNPACKED = Node("file", 0o751, 11, 12, content("\0" * 7))


@pytest.fixture
def server() -> Iterator[str]:
    """HOST:PORT of loopback, where every address gives an archive."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
            self.end_headers()
            self.wfile.write(archive("xz"))

        def log_message(self, *words: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_file_of_an_address_with_the_right_checksum(store: Store, server: str) -> None:
    data = archive("xz")
    digest = hashlib.sha256(data).hexdigest()
    address = f"http://{server}/a%20file.tar.xz"
    text = (
        f"FROM scratch\nARG SUM=sha256:{digest}\nADD --checksum=$SUM {address} /kept/\n"
        f"ADD --checksum=sha256:{digest} --chmod=644 --chown=7:8 {address} /named\n"
        f"ADD --checksum=sha256:{digest} --unpack {address} /unpacked/\n"
    )
    image, _ = built(store, None, text, allow_hosts=frozenset({server}))
    tree = files(store, image)
    assert tree["kept/a file.tar.xz"][:5] == ("file", 0o600, 0, 0, digest)
    assert tree["named"][:5] == ("file", 0o644, 7, 8, digest)
    assert tree["unpacked/top/file"] == UNPACKED


def test_the_options_of_add(store: Store, context: Path) -> None:
    (context / "a.tar").write_bytes(archive(""))
    text = (
        f"FROM {BASE}\nADD --chown=app:staff --chmod=640 one.txt /plain\n"
        "ADD --exclude=*.pyc --exclude=**/*.pyc sub /sub/\n"
        "ADD --unpack=false a.tar /kept/\nADD --link --chown=7:8 one.txt /etc/\nADD a.tar /a\n"
    )
    image, _ = built(store, context, text)
    tree = files(store, image)
    assert tree["plain"][:5] == ("file", 0o640, 1000, 50, content("one\n"))
    assert "sub/a.py" in tree and "sub/a.pyc" not in tree
    assert tree["kept/a.tar"].content == hashlib.sha256(archive("")).hexdigest()
    assert tree["etc/one.txt"][1:4] == (0o644, 7, 8)
    assert tree["a/top/file"] == UNPACKED
    linked = image.manifest.layers[-2]
    other, _ = built(store, context, "FROM scratch\nADD --link --chown=7:8 one.txt /etc/")
    assert other.manifest.layers == [linked]


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_an_archive_is_unpacked_whatever_compressed_it(
    store: Store, context: Path, kind: str
) -> None:
    whole = archive(kind)
    plain = archive("")
    cut = len(plain) // 2
    pack = __import__({"bz2": "bz2", "xz": "lzma"}[kind]).compress
    (context / f"a.tar.{kind}").write_bytes(whole)
    # Programs that pack with many threads write a stream for each piece; xz may pad them.
    (context / "pieces").write_bytes(pack(plain[:cut]) + pack(plain[cut:]) + bytes(8))
    image, _ = built(store, context, f"FROM scratch\nADD a.tar.{kind} /a/\nADD pieces /b")
    tree = files(store, image)
    assert tree["a/top/file"] == tree["b/top/file"] == UNPACKED
    (context / "cut").write_bytes(whole[:-9])
    (context / "damaged").write_bytes(whole[:20] + bytes(20) + whole[40:])
    for name in ("cut", "damaged"):
        step = f"ADD --unpack {name} /"  # without it that is no archive, but any file
        with pytest.raises(BuildFailed, match=f"line 2, column 1, `{step}`: unpack `{name}`"):
            built(store, context, f"FROM scratch\n{step}")


@pytest.mark.parametrize("kind", ["bz2", "xz"])
@pytest.mark.parametrize(("limit", "size"), [("ratio_from", 4 << 20), ("plain", 1 << 20)])
def test_e66_an_archive_that_is_a_bomb_is_refused(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str, size: int
) -> None:
    (context / "bomb").write_bytes(archive(kind, size=size))
    monkeypatch.setattr(limits, "DEFAULT", limits.DEFAULT._replace(**{limit: 1 << 20}))
    with pytest.raises(BuildFailed, match=r"unpack `bomb`: it unpacks to more than 1[0-9]{6} byte"):
        built(store, context, "FROM scratch\nADD bomb /")


# -- RUN ------------------------------------------------------------------------------------------


def stages_that_meet(name: str, mount: str, script: str) -> str:
    """Two stages that wait for each other, and then do the same with a cache of one name."""
    meet = f"--mount=type=cache,id={name},target=/m"
    text = ""
    for own, other in ("ab", "ba"):
        text += (
            f"FROM {BASE} AS {own}\nRUN {meet} touch /m/{own}; "
            f"while ! test -e /m/{other}; do sleep 0.02; done\n"
            f"RUN {meet} {mount} {script.replace('OWN', own).replace('OTHER', other)}\n"
        )
    return f"{text}FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"


QUICK = {"plan": policy.plan(settings.COMMAND_LINE, timeout="60s")}


def test_a_locked_cache_is_had_by_one_step_at_a_time(store: Store, context: Path) -> None:
    text = stages_that_meet(
        "meet",
        "--mount=type=cache,target=/c,sharing=locked",
        "test ! -e /c/busy && touch /c/busy && sleep 0.5 && rm /c/busy && echo x >> /c/log && "
        "wc -l < /c/log",
    )
    _, events = built(store, context, text, **QUICK)
    assert sorted(outputs(events).values()) == ["1\n", "2\n"]


def test_a_private_cache_is_another_one_for_whom_it_would_be_busy(
    store: Store, context: Path
) -> None:
    caches = Path(store.root, "builds/caches")
    before = set(caches.iterdir()) if caches.exists() else set()
    for number in (1, 2):  # the second time both are found again, so that none is left for nobody
        text = stages_that_meet(
            f"meet-{number}",
            "--mount=type=cache,target=/c,id=private,sharing=private",
            "echo OWN >> /c/log; touch /m/OWN2; while ! test -e /m/OTHER2; do sleep 0.02; done; "
            "cat /c/log",
        )
        _, events = built(store, context, text, **QUICK)
        wrote = outputs(events)
        assert wrote["a", 2].endswith("a\n") and wrote["b", 2].endswith("b\n")
        assert [len(each.split()) for each in wrote.values()] == [number, number]
    assert len(set(caches.iterdir()) - before) == 2 + 2  # and one to meet in, each time


def test_e66_no_step_waits_for_ever_for_a_cache(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for itself, nor one for the other that has what it wants and wants what it has."""

    def mounts(*ids: str, sharing: str = "locked") -> str:
        return " ".join(
            f"--mount=type=cache,id={each},target=/{number},sharing={sharing}"
            for number, each in enumerate(ids)
        )

    for more in ("locked", "shared", "private"):
        twice = f"{mounts('x')} --mount=type=cache,id=x,target=/again,sharing={more}"
        text = f"FROM {BASE}\nRUN {twice} echo {more} > /0/said; cat /again/said\n"
        (context / "Containerfile").write_text(text)
        done = subprocess.run(
            [*COMMAND, "build", str(context)],
            env={**os.environ, "SANDBOX_KERNEL_IMAGES": store.root},
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        assert f"{more}\n" in done.stderr
    locked: list[str] = []
    lock = mounting._lock
    monkeypatch.setattr(mounting, "_lock", lambda *given: locked.append(given[2]) or lock(*given))
    built(store, context, f"FROM {BASE}\nRUN {mounts('x', 'y')} true\nRUN {mounts('y', 'x')} true")
    assert len(set(locked)) == 2 and locked[:2] == locked[2:]


WAITS = f"""FROM {BASE} AS a
RUN --mount=type=cache,id=had,target=/c,sharing=locked true
FROM scratch
COPY --from=a /etc/passwd /a
"""


def cache_of(store: Store, context: Path) -> Path:
    """Builds `WAITS`; the folder of its cache."""
    caches = Path(store.root, "builds/caches")
    before = set(caches.iterdir()) if caches.exists() else set()
    built(store, context, WAITS, use_cache=False, **QUICK)
    (folder,) = set(caches.iterdir()) - before
    return folder


def test_a_build_that_waits_for_a_cache_can_be_interrupted(store: Store, context: Path) -> None:
    (context / "Containerfile").write_text(WAITS)
    words = [*COMMAND, "build", "--no-cache", str(context)]
    environment = {**os.environ, "SANDBOX_KERNEL_IMAGES": store.root}
    with locked_by_us(cache_of(store, context)):
        waiting = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        assert any("waits for the cache `had`" in line for line in waiting.stderr)
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=2)
    assert waiting.returncode == 130 and "Traceback" not in said


def test_a_step_that_waits_for_a_cache_that_is_pruned_makes_another(
    store: Store, context: Path
) -> None:
    folder = cache_of(store, context)
    with ThreadPoolExecutor(1) as threads:
        with locked_by_us(folder):
            building = threads.submit(built, store, context, WAITS, use_cache=False, **QUICK)
            time.sleep(0.5)
            assert not building.done()
            folder.rename(folder.with_name("gone"))
        assert building.result(20)
    assert (folder / "tree").is_dir()


@contextmanager
def locked_by_us(folder: Path) -> Iterator[None]:
    """The lock of a cache is had by us."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def test_a_step_may_have_no_network_in_a_build_that_has_one(store: Store) -> None:
    text = (
        f"FROM {BASE}\nRUN ls /sys/class/net\nRUN --network=none ls /sys/class/net\n"
        "RUN --network=default echo; ls /sys/class/net\n"
    )
    plan = policy.plan(settings.COMMAND_LINE, network="builds")
    _, events = built(store, None, text, plan=plan)
    assert list(outputs(events).values()) == ["eth0\nlo\n", "lo\n", "\neth0\nlo\n"]


def test_a_step_that_is_over_its_memory_is_told_with_its_line(store: Store) -> None:
    plan = policy.plan(settings.COMMAND_LINE, memory="64m")
    text = f"FROM {BASE}\nRUN true\nRUN echo begun; dd if=/dev/zero of=/dev/null bs=256M count=1\n"
    with pytest.raises(BuildFailed, match=r"line 3, column 1, .*out of memory: .*64 MiB") as caught:
        built(store, None, text, plan=plan)
    assert isinstance(caught.value.__cause__, OutOfMemory)
    assert (caught.value.line, caught.value.output) == (3, "begun\n")


def test_a_step_starts_no_more_processes_than_the_plan_has(store: Store) -> None:
    plan = policy.plan(settings.COMMAND_LINE, pids_limit=24)
    text = f"FROM {BASE}\nRUN for i in $(echo 1 2 3); do sleep 60 & done; echo few\n"
    text += "RUN i=0; while test $i -lt 40; do sleep 60 & i=$((i + 1)); done; echo all started"
    with pytest.raises(BuildFailed, match=r"line 3, column 1, .*can't fork") as caught:
        built(store, None, text, plan=plan)
    assert "all started" not in caught.value.output


# -- what is kept for who runs it -----------------------------------------------------------------


def test_the_options_of_a_health_check(store: Store) -> None:
    options = "--interval=30s --timeout=1m30s --start-period=500ms --start-interval=5s --retries=3"
    image, _ = built(store, None, f"FROM scratch\nHEALTHCHECK {options} CMD test -e /ok")
    assert image.config.execution()["Healthcheck"] == {
        "Test": ["CMD-SHELL", "test -e /ok"], "Interval": 30_000_000_000,
        "Timeout": 90_000_000_000, "StartPeriod": 500_000_000, "StartInterval": 5_000_000_000,
        "Retries": 3,
    }  # fmt: skip


# -- files of the context -------------------------------------------------------------------------


def test_which_ignore_file_holds(store: Store, context: Path) -> None:
    """That of the Containerfile, else `.containerignore`, else `.dockerignore`."""
    text = "FROM scratch\nCOPY . /\n"
    for name in ("Containerfile", "Containerfile.x"):
        (context / name).write_text(text)

    def seen(**more: Any) -> set[str]:
        image, _ = built(store, context, **more)
        return {name for name in files(store, image) if name in ("one.txt", "sub/a.py")}

    assert seen() == {"one.txt", "sub/a.py"}
    (context / ".dockerignore").write_text("**\n")
    assert seen() == set()
    (context / ".containerignore").write_text("sub\n")
    assert seen() == {"one.txt"}
    (context / "Containerfile.x.dockerignore").write_text("one.txt\n")
    assert seen(file=str(context / "Containerfile.x")) == {"sub/a.py"}
    assert seen() == seen(text=text) == {"one.txt"}


def test_a_reference_names_a_containerfile_of_its_folder(store: Store, context: Path) -> None:
    (context / "Containerfile").write_text("FROM scratch\nENV WHICH=usual\n")
    (context / "sub/Containerfile.x").write_text("FROM scratch\nENV WHICH=other\nCOPY . /\n")
    (context / "sub/Containerfile.x.dockerignore").write_text("**/*.pyc\n")
    image = referenced.build(store, reference.parse(f"build:{context}#sub/Containerfile.x"))
    assert environment(image)["WHICH"] == "other"
    assert "sub/a.py" in files(store, image) and "sub/a.pyc" not in files(store, image)
    usual = referenced.build(store, reference.parse(f"build:{context}"))
    assert environment(usual)["WHICH"] == "usual"
