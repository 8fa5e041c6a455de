"""Passwords as docker and podman keep them: their files, and the helpers that those files name.

Sources: containers-auth.json(5); docker's `config.json`; docker-credential-helpers' protocol. Only
read here, never written: `docker login` and `podman login` do that.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.errors import RegistryError, shown
from sandbox_kernel.grammar import DEFAULT_REGISTRY
from sandbox_kernel.settings_files import parse_json

MOST_BYTES = 1 << 20
HELPER_FOLDERS = ("/usr/local/bin", "/usr/bin", "/usr/libexec/podman", "/opt/homebrew/bin")
"""Where `docker-credential-NAME` is looked for; never on the PATH of whoever called."""
HELPER_SECONDS = 10.0
HELPER_VARIABLES = (
    "HOME", "USER", "LOGNAME", "LANG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME", "PASSWORD_STORE_DIR",
)  # fmt: skip
"""What helpers are told of the environment; AWS's and others' read files below HOME."""
_HELPER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OLD_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")
_BY_TOKEN = "<token>"  # noqa: S105 - what a helper says in place of a name, not a secret


@dataclass(frozen=True)
class Credentials:
    """A name with a password, or a token to get others with. The secrets are not printed."""

    name: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    where: str = ""
    """Which file or helper they are from, for messages."""

    def basic(self) -> str:
        """The value of an Authorization header: RFC 7617."""
        pair = f"{self.name}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


def find(registry: str, repository: str) -> Credentials | None:
    """The first that a file has for `HOST[:PORT]`, or for a name below it, longest first.

    Raises RegistryError for a file or helper that can't be used: going on without could quietly
    take another image.
    """
    for path in files():
        content = _read(path)
        if content is None:
            continue
        for key in _keys(registry, repository):
            found = _from_helper(content, key, path) or _from_auths(content, key, path)
            if found is not None:
                return found
    return None


def files() -> Iterator[str]:
    """Where credentials may lie, in podman's order."""
    home = os.path.expanduser("~")
    if chosen := os.environ.get("REGISTRY_AUTH_FILE"):
        yield os.path.abspath(chosen)
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield os.path.join(runtime, "containers/auth.json")
    elif os.geteuid() == 0:
        yield "/run/containers/0/auth.json"
    config = os.environ.get("XDG_CONFIG_HOME", "")
    config = config if os.path.isabs(config) else os.path.join(home, ".config")
    yield os.path.join(config, "containers/auth.json")
    docker = os.environ.get("DOCKER_CONFIG", "")
    yield os.path.join(docker if os.path.isabs(docker) else f"{home}/.docker", "config.json")


def _keys(registry: str, repository: str) -> Iterator[str]:
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join((registry, *parts[:count]))
    yield registry
    if registry == DEFAULT_REGISTRY:
        yield from _OLD_DOCKER_HUB[:2]


def _read(path: str) -> Mapping[str, Any] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or "it can't be opened") from None
    with open(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise _unusable(path, "it is no regular file")
        if seen.st_uid not in (os.geteuid(), 0):
            raise _unusable(path, f"user {seen.st_uid} owns it")
        if seen.st_mode & stat.S_IWOTH:
            raise _unusable(path, "everybody can write it")
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise _unusable(path, f"it is larger than {MOST_BYTES} bytes")
    if not raw.strip():
        return None
    try:
        content = parse_json(raw, path)
    except ValueError as error:
        raise _unusable(path, f"it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise _unusable(path, "it is no JSON object")
    return content


def _from_auths(content: Mapping[str, Any], key: str, path: str) -> Credentials | None:
    auths = content.get("auths")
    if not isinstance(auths, dict):
        return None
    entry = next((auths[name] for name in _spellings(key) if name in auths), None)
    if not isinstance(entry, dict):
        return None
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    name, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            pair = base64.b64decode(texts["auth"], validate=True).decode()
        except ValueError:  # binascii.Error and UnicodeDecodeError are; so is what is no ASCII
            raise _unusable(path, f"`auth` of `{shown(key)}` is no base64 text") from None
        name, _, password = pair.partition(":")
        password = password.rstrip("\0")
    identity, registry = texts.get("identitytoken", ""), texts.get("registrytoken", "")
    if not (name or identity or registry):
        return None  # docker leaves an empty entry where a helper has the password
    return Credentials(name, password, identity, registry, path)


def _spellings(key: str) -> tuple[str, ...]:
    return (key, f"https://{key}", f"https://{key}/", f"https://{key}/v1/", f"https://{key}/v2/")


def _from_helper(content: Mapping[str, Any], key: str, path: str) -> Credentials | None:
    if "/" in key.removeprefix("https://").rstrip("/").removesuffix("/v1"):
        return None  # helpers know hosts, no names below them
    helpers = content.get("credHelpers")
    own = helpers.get(key) if isinstance(helpers, dict) else None
    name = own or content.get("credsStore")
    if not name:
        return None
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise _unusable(path, f"`{shown(name)}` is no name of a credential helper")
    program = f"docker-credential-{name}"
    places = [os.path.join(folder, program) for folder in HELPER_FOLDERS]
    helper = next((place for place in places if os.access(place, os.X_OK)), None)
    if helper is None:
        raise _unusable(path, f"`{program}`, which it names, is in none of {HELPER_FOLDERS}")
    return _ask(helper, key)


def _ask(helper: str, key: str) -> Credentials | None:
    environment = {name: os.environ[name] for name in HELPER_VARIABLES if name in os.environ}
    environment["PATH"] = ":".join((*HELPER_FOLDERS, "/bin"))
    try:
        done = subprocess.run(
            [helper, "get"],
            input=key.encode(),
            env=environment,
            cwd="/",
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unusable(helper, f"it did not answer in {HELPER_SECONDS:g} s") from None
    except OSError as error:
        raise _unusable(helper, error.strerror or "it can't be started") from None
    if done.returncode != 0:
        said = (done.stdout or done.stderr)[:200].decode(errors="replace").strip()
        if "not found" in said:
            return None
        raise _unusable(helper, f"for `{key}` it ended with {done.returncode}: {shown(said)}")
    try:
        answer = json.loads(done.stdout[:MOST_BYTES])
        name, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name, secret = None, None
    if not isinstance(name, str) or not isinstance(secret, str):
        raise _unusable(helper, f"its answer for `{key}` is no JSON with `Username` and `Secret`")
    if name == _BY_TOKEN:
        return Credentials(identity_token=secret, where=helper)
    return Credentials(name, secret, where=helper)


def _unusable(what: str, why: str) -> RegistryError:
    return RegistryError(
        "read credentials", what, why, "mend it, or log in again with `docker` or `podman`"
    )
