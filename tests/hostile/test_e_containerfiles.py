"""Corpus E of security.md, entries 63 to 69, and the flaws of other builders (rows 13-18 and 20).

A canary of the host lies where no build may reach. What a build makes is looked at from outside,
in its layers; what may not be is an error that names line and column, in bounded time.
"""

from __future__ import annotations

import bz2
import hashlib
import http.server
import io
import lzma
import os
import resource
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import built_images
import hostile_archives
import pytest
import races
from built_images import Node, built, files
from commands import COMMAND
from hostile_registry import Handler, Server
from layer_archives import snapshot
from registries import certificates, free_port

from sandbox_kernel import policy, settings
from sandbox_kernel.building.addresses import begins_a_tar
from sandbox_kernel.building.events import StepDone, StepOutput
from sandbox_kernel.building.workshop import CAPABILITIES
from sandbox_kernel.cli import building
from sandbox_kernel.containerfile.parse import parse
from sandbox_kernel.errors import (
    BuildFailed,
    ContainerfileError,
    ImageError,
    InvalidOption,
    NotAllowed,
    SandboxError,
)
from sandbox_kernel.image.layers import limits
from sandbox_kernel.image.store import Store

CANARY = "canary-3f9c1e"
BASE = "localhost/hostile:1"
SECONDS = 5.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with built_images.store_with(BASE, tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(CANARY)
    return folder


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("mine\n")
    return folder


def image_holds_canary(store: Store, text: str, context: Path) -> bool:
    """Whether the canary's bytes are in any layer that the build made."""
    image, _ = built(store, context, text)
    for layer in image.manifest.layers:
        path = Path(store.root, "blobs", layer.digest.replace(":", "/"))
        with tarfile.open(path) as archive:
            for member in archive:
                data = archive.extractfile(member) if member.isfile() else None
                if data is not None and CANARY.encode() in data.read():
                    return True
    return False


def refusal(store: Store, text: str, context: Path | None, **more: object) -> str:
    """The message of a build that fails, which it has to do soon."""
    begun = time.monotonic()
    with pytest.raises(SandboxError) as caught:
        built(store, context, text, **more)
    assert time.monotonic() - begun < SECONDS
    return str(caught.value)


# -- 63: out of the context -----------------------------------------------------------------------


def test_e63_a_source_above_the_context_is_refused(
    store: Store, context: Path, canary: Path
) -> None:
    for source in (
        "../outside/secret",
        "x/../../outside/secret",
        "./../outside",
        "/../outside/secret",
    ):
        assert "`..`" in refusal(store, f"FROM scratch\nCOPY {source} /stolen", context)
    assert "line 2, column 1" in refusal(store, "FROM scratch\nCOPY ../outside /x", context)


@pytest.mark.everybody
def test_e63_a_link_out_of_the_context_leads_nowhere(
    store: Store, context: Path, canary: Path
) -> None:
    (context / "absolute").symlink_to(canary / "secret")
    (context / "relative").symlink_to("../outside/secret")
    (context / "folder").symlink_to(canary)
    for source in ("absolute", "relative", "folder", "folder/secret", "fold*/secret"):
        assert "copy" in refusal(store, f"FROM scratch\nCOPY {source} /stolen", context)
    # As part of a folder a link is copied as a link, with nothing behind it.
    assert not image_holds_canary(store, "FROM scratch\nCOPY . /all", context)
    image, _ = built(store, context, "FROM scratch\nCOPY . /all")
    assert files(store, image)["all/folder"].kind == "link"


def test_e63_a_link_that_is_swapped_in_during_the_copy_is_not_followed(
    store: Store, context: Path, canary: Path
) -> None:
    (context / "many").mkdir()
    for number in range(200):
        (context / "many" / f"{number}").write_text("x")
    victim, stop = context / "many/100", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in (
                lambda new: new.symlink_to(canary / "secret"),
                lambda new: new.write_text("x"),
            ):
                new = context / "new"
                make(new)
                new.rename(victim)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in races.turns(least=8):
            try:
                text = f"FROM scratch\nLABEL n={number}\nCOPY many /many{number}"
                assert not image_holds_canary(store, text, context)
            except SandboxError as error:
                assert "changed" in str(error) or "copy" in str(error)
    finally:
        stop.set()
        swapping.join()


# -- 64: from elsewhere ---------------------------------------------------------------------------


ADDRESSES = [
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:PORT/file",
    "http://localhost:PORT/file",
    "http://[::1]:PORT/file",
    "http://0.0.0.0:PORT/file",
    "http://2130706433:PORT/file",
    "http://[::ffff:127.0.0.1]:PORT/file",
    "https://10.0.0.1/file",
    "ftp://example.org/file",
    "file:///etc/passwd",
    "git@example.org:--upload-pack=touch.git",
    "https://127.0.0.1:PORT/--upload-pack=x.git",
    "ext::sh% -c% touch% /tmp/owned",
    "git://example.org/x",
]


def test_e64_no_private_address_and_no_git_is_fetched(
    store: Store, context: Path, server: tuple[int, list[str]]
) -> None:
    port, asked = server
    for address in ADDRESSES:
        text = f"FROM scratch\nADD {address.replace('PORT', str(port))} /got"
        assert "line 2" in refusal(store, text, context), address
    assert not asked


def test_e64_a_redirect_to_a_private_address_is_judged_too(
    store: Store, context: Path, server: tuple[int, list[str]]
) -> None:
    port, asked = server
    allowed = {"allow_hosts": frozenset({f"127.0.0.1:{port}"})}
    text = f"FROM scratch\nADD http://127.0.0.1:{port}/file /got"
    image, _ = built(store, context, text, **allowed)
    assert "got" in files(store, image)
    away = f"FROM scratch\nADD http://127.0.0.1:{port}/away/file /got"
    assert "public network" in refusal(store, away, context, **allowed)
    assert asked == ["/file", "/away/file"]


def test_e64_a_checksum_that_is_wrong_is_refused(
    store: Store, context: Path, server: tuple[int, list[str]]
) -> None:
    port, _ = server
    text = f"FROM scratch\nADD --checksum=sha256:{'0' * 64} http://127.0.0.1:{port}/file /got"
    said = refusal(store, text, context, allow_hosts=frozenset({f"127.0.0.1:{port}"}))
    assert "--checksum" in said and "sha256:" in said


@pytest.mark.fault(12)
@pytest.mark.fault(14)
def test_an_address_that_is_down_breaks_off_or_has_an_old_certificate_is_told_of_in_one_line(
    store: Store, context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = certificates(tmp_path / "tls", begin=-4, days=-2)
    folder = tmp_path / "settings/sandbox-kernel"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'[registry]\nca_files = ["{old.ca}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent))

    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"a part")
        handler.close_connection = True

    unknown = certificates(tmp_path / "others")
    with Server() as plain, Server(tls=old) as guarded, Server(tls=unknown) as others:
        plain.answers["GET", "/file"] = cut
        for scheme, authority, says in (
            ("http", f"127.0.0.1:{free_port()}", "Connection refused"),
            ("http", plain.authority, "peer closed connection"),
            ("https", guarded.authority, "not valid at this machine's time"),
            ("https", others.authority, "if you trust who made the certificate"),
        ):
            text = f"FROM scratch\nADD {scheme}://{authority}/file /got"
            said = refusal(store, text, context, allow_hosts=frozenset({authority}))
            assert "line 2" in said
            assert says in said


@pytest.mark.parametrize("what", ["FROM", "ADD"])
def test_a_build_whom_a_server_keeps_waiting_can_be_interrupted(
    store: Store, context: Path, what: str
) -> None:
    begun = threading.Event()
    with Server() as silent:

        def hangs(handler: Handler) -> None:
            begun.set()
            silent.ended.wait()

        silent.answers["GET", "/file"] = silent.answers["GET", silent.blob] = hangs
        base = silent.name if what == "FROM" else "scratch"
        (context / "Containerfile").write_text(
            f"FROM {base} AS a\nADD http://{silent.authority}/file /got\n"
            "FROM scratch\nCOPY --from=a /got /\n"
        )
        building = subprocess.Popen(
            [*COMMAND, "build", "--allow", silent.authority, str(context)],
            env={**os.environ, "SANDBOX_KERNEL_IMAGES": store.root},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert begun.wait(SECONDS)
        building.send_signal(signal.SIGINT)
        _, said = building.communicate(timeout=SECONDS)
    assert building.returncode == 130 and "Traceback" not in said


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """A listener of this machine: its port, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            away = self.path.startswith("/away")
            self.send_response(302 if away else 200)
            if away:
                self.send_header("Location", "http://169.254.169.254/file")
            self.end_headers()
            if not away:
                self.wfile.write(b"content")

        def log_message(self, *words: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening.server_address[1], asked
    listening.shutdown()
    thread.join()
    listening.server_close()


def hostile_members(canary: Path) -> dict[str, list[tuple[str, bytes, str]]]:
    """Name, type and link or content of each member."""
    link, hard, file = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE
    return {
        "dots": [("../escaped", file, "x")],
        "inner-dots": [("a/../../escaped", file, "x")],
        "link-then-file": [("out", link, str(canary)), ("out/escaped", file, "x")],
        "link-chain": [("a", link, ".."), ("a/b", link, ".."), ("a/b/escaped", file, "x")],
        "hard-link-outside": [("stolen", hard, f"{canary}/secret")],
        "hard-link-dots": [("stolen", hard, "../../../../etc/passwd")],
        "hard-link-of-link": [("l", link, str(canary / "secret")), ("stolen", hard, "l")],
        "magic-link": [("p", link, "/proc/1/root"), ("p/escaped", file, "x")],
        "root-itself": [(".", link, str(canary)), ("escaped", file, "x")],
    }


@pytest.mark.parametrize("name", hostile_members(Path("/")))
def test_e64_a_hostile_archive_of_add_writes_and_reads_nothing_outside(
    store: Store, context: Path, canary: Path, name: str
) -> None:
    with tarfile.open(context / "evil.tar", "w") as archive:
        for path, kind, value in hostile_members(canary)[name]:
            member = tarfile.TarInfo(path)
            member.type = kind
            data = value.encode() if kind == tarfile.REGTYPE else b""
            member.size = len(data)
            member.linkname = "" if data else value
            archive.addfile(member, io.BytesIO(data))
    before = sorted(os.listdir(canary))
    try:
        assert not image_holds_canary(store, f"FROM {BASE}\nADD evil.tar /in/here/", context)
    except SandboxError as error:
        assert "line 2" in str(error)
    assert sorted(os.listdir(canary)) == before
    assert not list(context.parent.rglob("escaped"))


NOT_READ = {"47 empty streams", "47 a wide window", "48 framing", "48 headers"}
"""Groups in which some do not begin as an archive: such a file is copied and never unpacked."""
BROUGHT = {
    "46 devices": {"file": ()},
    "46 attributes": {"d": (("user.kept", "y"),), "f": (("user.kept", "y"),)},
}
"""Of those that are taken: what is made of them, with its attributes."""


@pytest.mark.parametrize("group", hostile_archives.CASES)
def test_e64_add_takes_no_archive_that_a_layer_may_not_be(
    store: Store, context: Path, canary: Path, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = context / "evil"
    before = snapshot(canary), sorted(os.listdir(context.parent))
    for hostile in hostile_archives.CASES[group]:
        evil.write_bytes(hostile.data)
        monkeypatch.setattr(limits, "DEFAULT", hostile.limits or hostile_archives.USUAL)
        made = brought(store, context)
        if made is None:
            assert group not in BROUGHT
        elif group in BROUGHT:
            assert {path: node.attributes for path, node in made.items()} == BROUGHT[group]
        else:
            assert group in NOT_READ
            digest = hashlib.sha256(hostile.data).hexdigest()
            assert [(path, node.content) for path, node in made.items()] == [("evil", digest)]
            if hostile.compression == "none":
                assert not begins_a_tar(hostile.data[:512])
    assert (snapshot(canary), sorted(os.listdir(context.parent))) == before


@pytest.mark.parametrize("bomb", hostile_archives.BOMBS)
def test_e64_a_bomb_of_add_is_bounded_by_the_storage_of_the_build(
    store: Store, context: Path, bomb: str
) -> None:
    make, environment = hostile_archives.command_of_bomb(bomb)
    with (context / "evil").open("wb") as file:
        subprocess.run(make, env=environment, stdout=file, check=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = policy.plan(settings.COMMAND_LINE, storage_size="64m")
    made = brought(store, context, plan=plan)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    if bomb == "many directories":
        assert made is not None and len(made) == 8000
    else:
        assert made is None


def test_e64_an_archive_that_asks_for_gibibytes_to_be_unpacked_is_not(
    store: Store, context: Path
) -> None:
    (context / "evil").write_bytes(hostile_archives.wide_xz())
    assert list(brought(store, context) or ()) == ["evil"]
    said = refusal(store, "FROM scratch\nADD --unpack evil /", context)
    assert "line 2" in said and "Memory usage limit" in said


@pytest.mark.parametrize("module", [bz2, lzma])
def test_e64_an_archive_of_very_many_empty_streams_is_not_read_to_its_end(
    store: Store, context: Path, module: Any
) -> None:
    header = tarfile.TarInfo("file").tobuf()
    (context / "evil").write_bytes(module.compress(header) + module.compress(b"") * 2000)
    assert "more than 1000 empty" in refusal(store, "FROM scratch\nADD evil /", context)


def brought(store: Store, context: Path, **more: object) -> dict[str, Node] | None:
    """What ADD makes of the file `evil`, by its names there; None: it refuses it, with its line."""
    try:
        image, _ = built(store, context, f"FROM {BASE}\nADD evil /in/here/", **more)
    except SandboxError as error:
        assert "line 2" in str(error)
        return None
    below = "in/here/"
    return {
        path.removeprefix(below): node
        for path, node in files(store, image).items()
        if path.startswith(below)
    }


# -- 65 and rows 16, 17, 18: mounts of RUN --------------------------------------------------------

MOUNTS = {
    "type=bind,source=../../etc,target=/m": "`..`",
    "type=bind,source=x/../../../etc,target=/m": "`..`",
    "type=bind,target=/m,bind-propagation=rshared": "no option of `type=bind`",  # CVE-2024-9407
    "type=bind,target=/m,bind-propagation=rshared:Z": "no option of `type=bind`",
    "type=tmpfs,target=/m,options=exec": "no option of `type=tmpfs`",
    "type=bind,target=/m,rw=maybe": "true or false",
    "type=bind,target=/m,ro,rw": "not both",
    "type=bind,target=/proc/sys": "below /proc",
    "type=bind,target=/": "is not /",
    "type=bind,target=/m/../proc": "`..`",
    "type=ssh": "type=secret",
    "type=ssh,id=default,target=/s": "type=secret",
    "type=devices,target=/m": "no kind of mount",
    "type=cache,target=/c,id=../../etc": "named by",  # CVE-2024-9675
    "type=cache,target=/c,id=/etc": "named by",
    "type=cache,target=/c,id=a/../../b": "named by",
    "type=cache,target=/c,sharing=all": "one of shared, private, locked",
    "type=cache,target=/c,from=localhost/hostile:1,source=/x": "for `type=bind`",  # CVE-2024-23651
    "type=secret,id=../x,target=/s": "named by",
    "type=secret,id=none,required": "is required",
    "type=tmpfs,target=/m,size=-1": "a number with k, m or g",
    "type=tmpfs": "needs `target",
    "target=/a,target=/b": "twice",
}


@pytest.mark.cve("CVE-2024-9407", "CVE-2024-9675")
def test_e65_a_mount_that_is_not_of_the_listed_kind_is_refused(store: Store, context: Path) -> None:
    for mount, said in MOUNTS.items():
        text = f"FROM {BASE} AS base\nRUN --mount={mount} true"
        assert said in refusal(store, text, context), mount
    assert not list(Path(store.root, "builds").rglob("..*"))


def test_e65_a_mount_source_that_is_a_link_out_of_the_context_is_refused(
    store: Store, context: Path, canary: Path
) -> None:
    (context / "out").symlink_to(canary)
    text = f"FROM {BASE}\nRUN --mount=type=bind,source=out,target=/m cat /m/secret"
    assert "copy `out`" in refusal(store, text, context)


@pytest.mark.everybody
@pytest.mark.cve("CVE-2024-1753")
def test_cve_2024_1753_a_mount_source_is_looked_up_in_its_stage_alone(
    store: Store, context: Path, canary: Path
) -> None:
    text = (
        f"FROM {BASE} AS evil\nRUN ln -s / /x && ln -s {canary} /y && echo own > /mark\n"
        f"FROM {BASE}\nRUN --mount=type=bind,from=evil,source=/x,target=/m cat /m/mark\n"
    )
    _, events = built(store, context, text)
    assert "own" in "".join(e.text for e in events if isinstance(e, StepOutput))
    said = refusal(
        store, text + "RUN --mount=type=bind,from=evil,source=/y,target=/m true", context
    )
    assert "No such file" in said
    text += "COPY --from=evil /x/mark /copied\nCOPY --from=evil /y /stolen"
    assert "No such file" in refusal(store, text, context)


@pytest.mark.cve("CVE-2024-23651")
def test_cve_2024_23651_steps_that_share_a_cache_see_each_other_and_nothing_of_the_host(
    store: Store, context: Path, canary: Path
) -> None:
    """One step makes the cache's folders links to the host while the other one writes there."""
    cache = "--mount=type=cache,target=/c,id=shared"
    now = "$(busybox date +%s)"
    again = f"end=$(({now} + {races.seconds():.0f})); while [ {now} -lt $end ]; do"
    swap = f"{again} rm -rf /c/d; ln -s {canary} /c/d; rm -f /c/d; mkdir -p /c/d; done"
    write = f"{again} echo x > /c/d/escaped || true; cat /c/d/secret >> /seen || true; done"
    text = (
        f"FROM {BASE} AS one\nRUN {cache} {swap}\nFROM {BASE} AS two\nRUN {cache} {write}\n"
        f"FROM {BASE}\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\n"
    )
    assert not image_holds_canary(store, text, context)
    assert os.listdir(canary) == ["secret"]


@pytest.mark.cve("CVE-2024-23652")
def test_cve_2024_23652_a_mount_place_swapped_for_a_link_removes_nothing_outside(
    store: Store, context: Path, canary: Path
) -> None:
    mounts = "--mount=type=tmpfs,target=/m/secret --mount=type=cache,target=/k/host,id=s"
    text = (
        f"FROM {BASE}\nRUN {mounts} rm -rf /m /k 2>/dev/null; mv /m /n; ln -s {canary} /m;"
        f" ln -s {canary.parent} /k; true\nRUN ls /"
    )
    built(store, context, text)
    assert (canary / "secret").read_text() == CANARY


# -- row 15: more rights by any entrance ----------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["RUN --security=insecure true", "RUN --network=host true", "RUN --device=x true"]
)
@pytest.mark.cve("CVE-2024-23653")
def test_cve_2024_23653_a_containerfile_asks_for_more_rights_in_vain(
    store: Store, context: Path, line: str
) -> None:
    assert "line 2" in refusal(store, f"FROM {BASE}\n{line}", context)


RIGHTS = (
    "--cap-add SYS_ADMIN",
    "--privileged",
    "--security-opt seccomp=unconfined",
    "--network host",
    "--mount /:/host",
    "--allow 127.0.0.1:80",
)


@pytest.mark.cve("CVE-2024-23653")
def test_cve_2024_23653_a_magic_asks_for_more_rights_in_vain(
    context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox_kernel import arguments

    monkeypatch.chdir(context)
    for words in RIGHTS:
        with pytest.raises((InvalidOption, NotAllowed)):
            found = arguments.parse([*words.split(), "."], building.VERBS["build"].all_flags())
            building.perform(found, settings.MAGIC, "FROM scratch", stream=io.StringIO())


def test_cve_2024_23653_a_magic_builds_from_no_folder_that_it_may_not_mount(
    context: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox_kernel import arguments

    monkeypatch.chdir(context)
    found = arguments.parse([str(canary)], building.VERBS["build"].all_flags())
    with pytest.raises(NotAllowed):
        building.perform(found, settings.MAGIC, "FROM scratch\nCOPY . /", stream=io.StringIO())


def test_cve_2024_23653_a_magic_reads_no_file_or_variable_that_is_not_its_own(
    context: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox_kernel import arguments

    monkeypatch.chdir(context)
    monkeypatch.setenv("TOKEN", CANARY)
    for words in (
        f"--secret id=a,src={canary}/secret",
        "--secret id=TOKEN",
        "--secret id=a,env=TOKEN",
        "--build-arg TOKEN",
        f"--file {canary}/secret",
    ):
        found = arguments.parse([*words.split(), "."], building.VERBS["build"].all_flags())
        with pytest.raises((InvalidOption, NotAllowed)):
            building.perform(found, settings.MAGIC, "FROM scratch", stream=io.StringIO())


def test_a_reference_names_no_file_outside_of_its_folder(
    store: Store, context: Path, canary: Path
) -> None:
    from sandbox_kernel.building import referenced
    from sandbox_kernel.image import reference

    (context / "link").symlink_to(canary / "secret")
    for file in ("../outside/secret", str(canary / "secret"), "link"):
        asked = reference.parse(f"build:{context}#{file}")
        with pytest.raises(ImageError, match="does not lie in that folder"):
            referenced.build(store, asked)


DEFAULTS_OF_DOCKER = """
CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE
SYS_CHROOT KILL AUDIT_WRITE
"""


@pytest.mark.everybody
def test_a_step_has_the_listed_capabilities_and_another_user_has_none(
    store: Store, context: Path
) -> None:
    from sandbox_kernel.linux import capabilities

    assert {f"CAP_{name}" for name in DEFAULTS_OF_DOCKER.split()} == set(CAPABILITIES)
    assert len(CAPABILITIES) == 14
    text = f"FROM {BASE}\nRUN grep Cap /proc/self/status\nUSER app\nRUN grep Cap /proc/self/status"
    _, events = built(store, context, text)
    outputs = ["".join(e.text for e in events if isinstance(e, StepOutput) and e.number == n)
               for n in (1, 3)]  # fmt: skip
    held = [dict(line.split(":\t") for line in out.splitlines()) for out in outputs]
    mask = f"{capabilities.to_mask(CAPABILITIES):016x}"
    assert held[0]["CapEff"] == held[0]["CapBnd"] == held[1]["CapBnd"] == mask
    assert held[1]["CapEff"] == held[1]["CapPrm"] == held[1]["CapAmb"] == "0" * 16


@pytest.mark.everybody
def test_a_step_has_raw_sockets_of_ip_and_none_of_packets(store: Store, context: Path) -> None:
    text = (
        f"FROM {BASE}\nRUN busybox ping -c 1 127.0.0.1"
        "\nRUN busybox arping -c 1 -I lo 127.0.0.1 2>&1 || true"
    )
    _, events = built(store, context, text)
    said = "".join(e.text for e in events if isinstance(e, StepOutput))
    assert "1 packets received" in said
    assert "Address family not supported" in said


# -- 66: a file that would take for ever ----------------------------------------------------------


def bombs() -> dict[str, tuple[str, str]]:
    doubling = "\n".join(f"ENV A{n + 1}=$A{n}$A{n}" for n in range(60))
    return {
        "loop of stages": ("FROM b AS a\nFROM a AS b", "begins later"),
        "stage of itself": ("FROM scratch AS a\nCOPY --from=a / /", "does not come before"),
        "stage number": ("FROM scratch\nCOPY --from=7 / /", "no stage 7"),
        "own stage number": ("FROM scratch\nCOPY --from=0 / /", "no stage 0"),
        "doubling": (f"FROM scratch\nENV A0=0123456789\n{doubling}", "grows to more than"),
        "doubling argument": (
            "FROM scratch\nARG A=" + "x" * 1000 + "\nARG B=" + "$A" * 900, "grows to more than"),
        "nested variables": ("FROM scratch\nENV A=" + "${A:-" * 500 + "}" * 500, "deep"),
        "never closed": ("FROM scratch\nRUN <<EOF\n" + "x\n" * 100_000, "never closed"),
        "many stages": ("FROM scratch\n" * 100_000, "more than"),
        "many instructions": ("FROM scratch\n" + "ENV A=1\n" * 100_000, "more than"),
        "deep list": ("FROM scratch\nSHELL " + "[" * 100_000, "list in JSON"),
        "pattern bomb": (
            "FROM scratch\nARG A=" + "a" * 50_000 + "\nENV B=${A##" + "*a" * 999 + "b}",
            "too long"),
        "nothing": ("", "no FROM"),
        "zero byte": ("FROM scratch\nRUN a\0b", "NUL"),
        "unknown word": ("FROM scratch\nRUNN x", "did you mean `RUN`"),
    }  # fmt: skip


def test_e66_a_bomb_is_a_named_error_in_bounded_time(store: Store, context: Path) -> None:
    for name, (text, said) in bombs().items():
        message = refusal(store, text, context)
        assert said in message and "line" in message, name
        assert len(message) < 2000


def test_e66_a_line_of_100_mib_is_refused_before_it_is_read_through(
    store: Store, context: Path
) -> None:
    file = context / "Containerfile"
    with file.open("w") as out:
        out.write("FROM scratch\nRUN ")
        for _ in range(100):
            out.write("x" * (1 << 20))
    begun = time.monotonic()
    with pytest.raises(ContainerfileError, match="larger than 4 MiB"):
        built(store, context)
    assert time.monotonic() - begun < SECONDS


# -- 67 and row 20: words that lead elsewhere -----------------------------------------------------


WORDS = [
    ("WORKDIR /proc/self/fd/7", "is the kernel's"),
    ("WORKDIR /a/../proc/1/root", "is the kernel's"),
    ("WORKDIR //proc/self/cwd", "is the kernel's"),
    ("USER $(id)", "is no user"),
    ("USER -x", "is no user"),
    ("USER 4294967296", "above the largest id"),
    ("USER a:b:c", "is no user"),
    ("VOLUME /", "is no volume"),
    ("VOLUME /a/../..", "is no volume"),
    ("STOPSIGNAL $(x)", "is no signal"),
    ("EXPOSE 99999", "is no port"),
    ("EXPOSE 1-65535", "more than 1024 ports"),
    ("ONBUILD ONBUILD RUN x", "not allowed in ONBUILD"),
    ("ONBUILD FROM x", "not allowed in ONBUILD"),
    ("ONBUILD RUNN x", "is no instruction"),
]


def test_e67_a_word_that_leads_elsewhere_is_refused(store: Store, context: Path) -> None:
    for line, said in WORDS:
        message = refusal(store, f"FROM {BASE}\n{line}\nRUN true", context)
        assert said in message and "line 2" in message, line


def test_e67_no_foreign_front_end_is_fetched() -> None:
    with pytest.raises(ContainerfileError, match="none is ever fetched"):
        parse("# syntax=evil.example.org/front:end\nFROM scratch")
    assert parse("# syntax=docker/dockerfile:1.7\nFROM scratch").stages


def test_e67_a_trigger_runs_once_and_makes_no_chain(store: Store, context: Path) -> None:
    built(store, context, f"FROM {BASE}\nONBUILD RUN echo triggered", name="localhost/trigger:1")
    image, events = built(store, context, "FROM localhost/trigger:1\nRUN true")
    told = "".join(e.text for e in events if isinstance(e, StepOutput))
    assert told.count("triggered") == 1
    assert not (image.config.execution().get("OnBuild"))
    built(
        store, context, f"FROM {BASE}\nONBUILD COPY --from=other / /x", name="localhost/trigger:2"
    )
    text = "FROM scratch AS other\nFROM localhost/trigger:2\nRUN true"
    assert "a trigger can't name a stage" in refusal(store, text, context)


@pytest.mark.everybody
@pytest.mark.cve("CVE-2026-55686")
def test_cve_2026_55686_workdir_through_a_link_makes_nothing_on_the_host(
    store: Store, context: Path, canary: Path
) -> None:
    for target in (str(canary), "/proc/1/root" + str(canary), "/proc/self/fd/3", "/dev"):
        text = f"FROM {BASE}\nRUN ln -s {target} /l\nWORKDIR /l/made\nRUN true"
        try:
            built(store, context, text)
        except SandboxError as error:
            assert "line" in str(error)
        assert os.listdir(canary) == ["secret"]
        assert (canary / "secret").stat().st_uid == os.getuid()


# -- 68: steps ------------------------------------------------------------------------------------


@pytest.mark.everybody
def test_e68_a_daemon_that_a_step_leaves_is_ended_and_changes_nothing_later(
    store: Store, context: Path
) -> None:
    text = (
        f"FROM {BASE}\nRUN (setsid sh -c 'while true; do echo x >> /log; sleep 60017; done' &) ; "
        "sleep 60017 & echo done"
    )
    begun = time.monotonic()
    _, events = built(store, context, text)
    assert time.monotonic() - begun < SECONDS
    assert any(isinstance(e, StepOutput) and "done" in e.text for e in events)
    listed = subprocess.run(["/bin/ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 60017" not in listed.stdout


def test_e68_a_step_that_fills_the_disk_ends_at_its_limit(store: Store, context: Path) -> None:
    plan = policy.plan(settings.COMMAND_LINE, storage_size="8m")
    text = f"FROM {BASE}\nRUN dd if=/dev/zero of=/big bs=1024 count=20000"
    with pytest.raises(BuildFailed, match="No space left") as caught:
        built(store, context, text, plan=plan)
    assert caught.value.status == 1
    assert caught.value.line == 2


@pytest.mark.skipif(
    "SANDBOX_KERNEL_TEST_MACHINE" in os.environ,
    reason="the machine's Linux 6.1 can't show a tmpfs, where secrets lie, under other ids",
)
@pytest.mark.everybody
def test_e68_a_secret_is_in_no_layer_history_configuration_or_output(
    store: Store, context: Path
) -> None:
    secret = b"hunter2-" + os.urandom(6).hex().encode()
    text = (
        f"FROM {BASE}\nRUN --mount=type=secret,id=s cat /run/secrets/s; stat -c %a /run/secrets/s\n"
        "RUN --mount=type=secret,id=s,target=/etc/key cat /etc/key | sed s/^/x/\n"
        'RUN --mount=type=secret,id=s,env=KEY echo $KEY; test -n "$KEY"\n'
        "RUN test ! -e /run/secrets/s && test ! -e /etc/key && echo $KEY > /left"
    )
    image, events = built(store, context, text, secrets={"s": secret})
    told = "".join(e.text for e in events if isinstance(e, StepOutput))
    assert "***" in told and "400" in told and secret.decode() not in told
    tree = files(store, image)
    assert "run/secrets" not in tree and "etc/key" not in tree
    for folder, _, names in os.walk(store.root):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink() and path.stat().st_size < 1 << 20:
                assert secret not in path.read_bytes(), path
    for layer in image.manifest.layers:
        with tarfile.open(Path(store.root, "blobs", layer.digest.replace(":", "/"))) as archive:
            for member in archive:
                data = archive.extractfile(member) if member.isfile() else None
                assert data is None or secret not in data.read(), member.name


def test_e68_what_a_step_leaves_in_a_cache_reaches_no_other_project(
    store: Store, context: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    evil = f"FROM {BASE}\nRUN --mount=type=cache,target=/c,id=pip echo poison > /c/lib"
    built(store, context, evil)
    look = f"FROM {BASE}\nRUN --mount=type=cache,target=/c,id=pip cat /c/* 2>/dev/null || true"
    _, own = built(store, context, look, use_cache=False)
    _, foreign = built(store, other, look, use_cache=False)
    told = [
        "".join(e.text for e in events if isinstance(e, StepOutput)) for events in (own, foreign)
    ]
    assert "poison" in told[0] and "poison" not in told[1]


def test_e68_the_cache_of_steps_sees_every_input(store: Store, context: Path) -> None:
    """Equal text with another environment, user, file or argument is another step."""
    text = f"FROM {BASE}\nARG A\nENV E=%s\nUSER %s\nCOPY file /f\nRUN echo $A > /tmp/out"
    cached = []
    for values, argument, content in (
        (("1", "app"), "a", "1"),
        (("1", "app"), "a", "1"),
        (("2", "app"), "a", "1"),
        (("1", "root"), "a", "1"),
        (("1", "app"), "b", "1"),
        (("1", "app"), "a", "2"),
    ):
        (context / "file").write_text(content)
        _, events = built(store, context, text % values, arguments={"A": argument})
        cached.append([e.cached for e in events if isinstance(e, StepDone)][-1])
    assert cached == [False, True, False, False, False, False]


# -- 69: ignore files -----------------------------------------------------------------------------


def test_e69_an_ignore_file_can_not_reach_out_of_the_context(
    store: Store, context: Path, canary: Path
) -> None:
    for line in ("!../outside/secret", "../outside", "!a/../../outside"):
        (context / ".dockerignore").write_text(f"*\n{line}\n")
        assert "leads out of the context" in refusal(store, "FROM scratch\nCOPY . /all", context)
    (context / ".dockerignore").unlink()
    (context / ".dockerignore").symlink_to(canary / "secret")
    assert not image_holds_canary(store, "FROM scratch\nCOPY file /all/", context)


def test_e69_patterns_take_linear_time_and_names_may_hold_newlines(
    store: Store, context: Path
) -> None:
    patterns = ["*a" * 100 + "b", "**/" * 100 + "x", "?*" * 200, "[a-z]*" * 100 + "!"]
    (context / ".dockerignore").write_text("\n".join(patterns) + "\n")
    (context / ("a" * 250)).write_text("x")
    deep = context
    for _ in range(60):
        deep = deep / "a"
    deep.mkdir(parents=True)
    (deep / "b").write_text("x")
    (context / "two\nlines").write_text("x")
    begun = time.monotonic()
    image, _ = built(store, context, "FROM scratch\nCOPY . /all")
    assert time.monotonic() - begun < SECONDS
    assert "all/two\nlines" in files(store, image)
    said = refusal(store, 'FROM scratch\nCOPY ["two\\nlinex", "/x"]', context)
    assert "\n" not in said


def test_e69_a_fifo_or_a_device_in_the_context_blocks_nothing(store: Store, context: Path) -> None:
    os.mkfifo(context / "fifo")
    assert "no file, folder or link" in refusal(store, "FROM scratch\nCOPY . /all", context)
    assert "no file" in refusal(store, "FROM scratch\nCOPY fifo /all", context)
    os.mkfifo(context / "Containerfile.fifo")
    with pytest.raises((InvalidOption, ContainerfileError, ImageError)):
        built(store, context, None, file=str(context / "Containerfile.fifo"))
