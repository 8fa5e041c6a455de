"""Real registries on loopback, images made by other people's tools, and certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SERVER = "docker-registry"


class Served(NamedTuple):
    """A registry that runs. `authority`: HOST:PORT; `ca`: the file that its certificate needs."""

    authority: str
    folder: Path
    process: subprocess.Popen[bytes]
    ca: Path | None = None


class Certificates(NamedTuple):
    """A certificate authority of our own, and what it signed."""

    ca: Path
    certificate: Path
    key: Path


def certificates(
    folder: Path,
    *,
    names: str = "DNS:localhost,IP:127.0.0.1",
    begin: float = -3,
    days: float = 2,
) -> Certificates:
    """An authority, and a certificate of it for these names.

    It is valid from `begin` to `days`, in days from now: both below 0, and it has expired.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    key, request, made = folder / "key.pem", folder / "request.pem", folder / "certificate.pem"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _quietly(
        ["openssl", "req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2",
         "-subj", "/CN=authority of a test"])  # fmt: skip
    _quietly(["openssl", "req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=registry"])
    extensions = folder / "extensions"
    extensions.write_text(
        f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    # openssl-x509(1) begins today; openssl-ca(1) can sign what has ended already
    (folder / "index").write_text("")
    table = folder / "ca.conf"
    table.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=any\nrand_serial=yes\n[any]\ncommonName=supplied\n"
    )
    moments = [time.gmtime(time.time() + 86400 * at) for at in (begin, days)]
    dates = [time.strftime("%Y%m%d%H%M%SZ", moment) for moment in moments]
    _quietly(
        ["openssl", "ca", "-batch", "-notext", "-config", table, "-cert", ca, "-keyfile", ca_key,
         "-in", request, "-out", made, "-extfile", extensions, "-startdate", dates[0],
         "-enddate", dates[1]])  # fmt: skip
    return Certificates(ca, made, key)


def _quietly(words: list[object]) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def registry(
    folder: Path, *, tls: bool | Certificates = False, users: dict[str, str] | None = None
) -> Iterator[Served]:
    """A `docker-registry` that serves from a folder; with TLS, and for users with a password.

    `tls`: with what certificate; True: with a good one that is made for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        "version: 0.1", "log: {level: warn, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
        "http:", f"  addr: 127.0.0.1:{port}",
    ]  # fmt: skip
    ca = None
    if tls:
        made = tls if isinstance(tls, Certificates) else certificates(folder / "certificates")
        ca = made.ca
        lines.append(f"  tls: {{certificate: {made.certificate}, key: {made.key}}}")
    if users:
        table = folder / "htpasswd"
        table.write_text("".join(_hashed(name, word) for name, word in users.items()))
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {table}}}}}")
    configuration = folder / "config.yml"
    configuration.write_text("\n".join(lines) + "\n")
    # it takes REGISTRY_AUTH_FILE, which is podman's, for a part of its configuration
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("REGISTRY")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SERVER, "serve", configuration], env=environment,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        _wait_for(port, process, folder / "log")
        yield Served(f"127.0.0.1:{port}", folder, process, ca)
    finally:
        process.terminate()
        process.wait(20)


def _hashed(name: str, password: str) -> str:
    made = subprocess.run(
        ["htpasswd", "-nbB", "-C", "4", name, password], check=True, capture_output=True, text=True
    )
    return made.stdout.strip() + "\n"


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(log.read_text())
        time.sleep(0.02)


def skopeo(*words: str) -> str:
    """`skopeo WORDS` on loopback registries, without the machine's own policy."""
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
