"""The registry client without a registry: where names lead, who is told what, what is chosen."""

from __future__ import annotations

import base64
import ipaddress
import json
import threading
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sandbox_kernel import settings
from sandbox_kernel.errors import InvalidOption, RegistryError
from sandbox_kernel.image import documents, reference
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Index, Platform
from sandbox_kernel.image.registry import (
    authentication,
    configuration,
    credentials,
    endpoints,
    failures,
    manifests,
    threads,
)
from sandbox_kernel.image.registry.configuration import Configuration, Mirror, Wanted
from sandbox_kernel.image.registry.connections import Cancellation, Cancelled
from sandbox_kernel.image.registry.endpoints import Endpoint, Origin
from sandbox_kernel.image.registry.progress import Progress, Teller


@pytest.mark.parametrize(
    ("name", "leads_to", "may_be_plain"),
    [
        ("python:3", "https://registry-1.docker.io/library/python", False),
        ("ghcr.io/o/n", "https://ghcr.io/o/n", False),
        ("registry.test:5000/n", "https://registry.test:5000/n", False),
        ("localhost:5000/n", "https://localhost:5000/n", True),
        ("127.0.0.1:5000/n", "https://127.0.0.1:5000/n", True),
        ("127.8.7.6:5000/n", "https://127.8.7.6:5000/n", True),
        ("[::1]:5000/n", "https://[::1]:5000/n", True),
        ("localhost/n", "https://localhost/n", False),
        ("10.0.0.1:5000/n", "https://10.0.0.1:5000/n", False),
        ("localhost.test:5000/n", "https://localhost.test:5000/n", False),
        ("plain.test:5000/n", "http://plain.test:5000/n", False),
        ("plain.test/n", "https://plain.test/n", False),
    ],
)
def test_where_a_name_leads(name: str, leads_to: str, may_be_plain: bool) -> None:
    known = Configuration(plain_http=("plain.test:5000",))
    (found,) = endpoints.endpoints(reference.registry(name), known)
    assert (str(found), found.may_be_plain) == (leads_to, may_be_plain)


def test_mirrors_come_first_and_keep_what_credentials_go_by() -> None:
    mirror = Mirror("docker.io", "https", "mirror.test:5000", "/hub")
    found = list(
        endpoints.endpoints(reference.registry("python"), Configuration(mirrors=(mirror,)))
    )
    assert [(str(each), each.registry) for each in found] == [
        ("https://mirror.test:5000/hub/library/python", "mirror.test:5000"),
        ("https://registry-1.docker.io/library/python", "docker.io"),
    ]
    (other,) = endpoints.endpoints(
        reference.registry("ghcr.io/o/n"), Configuration(mirrors=(mirror,))
    )
    assert other.registry == "ghcr.io"


@pytest.mark.parametrize(
    ("address", "far"),
    [
        ("169.254.169.254", 0), ("fe80::1", 0), ("0.0.0.0", 0), ("::", 0), ("224.0.0.1", 0),
        ("::ffff:169.254.169.254", 0), ("127.0.0.1", 1), ("127.255.0.9", 1), ("::1", 1),
        ("::ffff:127.0.0.1", 1), ("2002:7f00:1::", 1), ("10.1.2.3", 2), ("192.168.1.1", 2),
        ("100.100.100.200", 2), ("fd00:ec2::254", 2), ("93.184.216.34", 3), ("2606:4700::1", 3),
    ],
)  # fmt: skip
def test_how_far_an_address_is(address: str, far: int) -> None:
    assert endpoints.distance(ipaddress.ip_address(address)) == far


# -- what is said of who we are --------------------------------------------------------------------


def test_challenges_are_read_as_the_grammar_has_them() -> None:
    headers = [
        'Bearer realm="https://a.test/t",service="s \\"quoted\\", x" , scope="r:n:pull"',
        'Negotiate, Basic realm="a, b"',
        "???",
    ]
    found = authentication.challenges(headers)
    assert found[0] == ("bearer", {
        "realm": "https://a.test/t", "service": 's "quoted", x', "scope": "r:n:pull",
    })  # fmt: skip
    assert found[1:] == [("negotiate", {}), ("basic", {"realm": "a, b"})]


@given(some.lists(some.text(), max_size=4))
def test_no_challenge_is_too_odd_to_be_read(headers: list[str]) -> None:
    authentication.challenges(headers)


def test_a_long_challenge_is_read_in_no_time() -> None:
    begun = time.process_time()
    for header in (
        "a " * 100_000,
        'Bearer realm="' + "\\" * 100_000,
        "a=" * 100_000,
        "," * 100_000,
    ):
        authentication.challenges([header] * 10)
    assert time.process_time() - begun < 1


REGISTRY = Endpoint(Origin("https", "registry.test", 443), "some/image", "registry.test")


@pytest.mark.parametrize(
    ("realm", "secret", "allowed"),
    [
        ("https://registry.test/token", True, True),
        ("https://registry.test:443/token", True, True),
        ("https://registry.test:8443/token", True, False),
        ("https://tokens.test/token", True, False),
        ("https://tokens.test/token", False, True),
        ("http://tokens.test/token", False, False),
        ("http://registry.test/token", True, False),
        ("http://registry.test/token", False, False),
        ("https://1.2.3.4/token", False, False),
        ("https://allowed.test/token", True, True),
        ("https://allowed.test:8443/token", True, False),
        ("https://allowed.test@tokens.test/token", True, False),
    ],
)
def test_who_may_be_asked_for_a_token(realm: str, secret: bool, allowed: bool) -> None:
    challenge = authentication.Challenge("bearer", {"realm": realm})
    known = Configuration(token_realms=(("registry.test", "allowed.test"),))
    if allowed:
        assert authentication.realm(REGISTRY, challenge, known, secret=secret) == httpx.URL(realm)
    else:
        with pytest.raises(RegistryError):
            authentication.realm(REGISTRY, challenge, known, secret=secret)


def test_a_refresh_token_is_sent_in_a_form_and_a_password_in_a_header() -> None:
    url = httpx.URL("https://registry.test/token?kept=1")
    challenge = authentication.Challenge("bearer", {"service": "the service"})
    scopes = ["repository:some/image:pull", "repository:other/image:pull"]
    refresh = credentials.Credentials(identity_token="secret")
    form = authentication.token_request(url, challenge, scopes, refresh)
    assert (form.method, str(form.url)) == ("POST", str(url))
    sent = dict(parse_qsl(form.read().decode()))
    assert (sent["refresh_token"], sent["scope"]) == ("secret", " ".join(scopes))
    assert "Authorization" not in form.headers

    named = credentials.Credentials("me", "the-password")
    query = authentication.token_request(url, challenge, scopes, named)
    assert query.method == "GET"
    assert parse_qsl(query.url.query.decode()) == [
        ("kept", "1"), ("service", "the service"), ("scope", scopes[0]), ("scope", scopes[1]),
        ("account", "me"),
    ]  # fmt: skip
    assert query.headers["Authorization"] == named.basic()


def test_docker_hubs_tokens_are_made_by_another_host() -> None:
    (hub,) = endpoints.endpoints(reference.registry("python"), Configuration())
    challenge = authentication.Challenge("bearer", {"realm": "https://auth.docker.io/token"})
    authentication.realm(hub, challenge, Configuration(), secret=True)


def _file(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _pair(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_credentials_are_found_as_podman_and_docker_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path))
    _file(tmp_path / "run/containers/auth.json", {"auths": {
        "a.test": _pair("podman:first"), "a.test/team": _pair("team:second"),
        "a.test/team/deep": _pair("deep:third"),
    }})  # fmt: skip
    _file(tmp_path / ".docker/config.json", {"auths": {
        "a.test": _pair("docker:never"), "https://b.test/v1/": _pair("docker:b:with colon"),
        "https://index.docker.io/v1/": _pair("hub:word"), "c.test": {},
        "d.test": {"identitytoken": "refresh", **_pair("<token>:")},
    }})  # fmt: skip

    def found(registry: str, repository: str) -> tuple[str, str] | None:
        credential = credentials.find(registry, repository)
        return None if credential is None else (credential.name, credential.password)

    assert found("a.test", "other/image") == ("podman", "first")
    assert found("a.test", "team") == ("team", "second")
    assert found("a.test", "team/deep/image") == ("deep", "third")
    assert found("a.test", "teams/image") == ("podman", "first")
    assert found("a.test:5000", "team") is None
    assert found("b.test", "x") == ("docker", "b:with colon")
    assert found("docker.io", "library/python") == ("hub", "word")
    assert found("c.test", "x") is None
    identity = credentials.find("d.test", "x")
    assert identity is not None
    assert identity.identity_token == "refresh"
    assert "refresh" not in repr(identity)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"auths": {"a.test": {"auth": "%%"}}}', "base64"),
    ],
)
def test_a_broken_file_of_credentials_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    path = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    path.write_text(content)
    with pytest.raises(RegistryError, match=says):
        credentials.find("a.test", "image")
    path.chmod(0o666)
    with pytest.raises(RegistryError, match="everybody can write it"):
        credentials.find("a.test", "image")


# -- settings --------------------------------------------------------------------------------------

TABLE = """
[registry]
plain_http = ["plain.test:5000"]
ca_files = ["/etc/ca.pem"]
platform = "linux/arm64/v8"
parallel = 2
[registry.mirrors]
"docker.io" = "https://Mirror.test:5000/hub"
[registry.token_realms]
"registry.test" = "https://tokens.test"
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's configuration file, and the project's folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    user, project = tmp_path / "config/sandbox-kernel/config.toml", tmp_path / "project"
    user.parent.mkdir(parents=True)
    project.mkdir()
    (tmp_path / "jupyter").mkdir()
    return user, project


def test_the_users_settings_for_registries(places: tuple[Path, Path]) -> None:
    user, project = places
    user.write_text(TABLE)
    found = configuration.load(settings.load(str(project)))
    assert found == Configuration(
        mirrors=(Mirror("docker.io", "https", "mirror.test:5000", "/hub"),),
        plain_http=("plain.test:5000",),
        ca_files=("/etc/ca.pem",),
        token_realms=(("registry.test", "tokens.test"),),
        platform=Wanted("linux", "arm64", "v8"),
        parallel=2,
    )
    jupyter = user.parents[2] / "jupyter/jupyter_sandbox_config.py"
    jupyter.write_text(
        "c.SandboxRegistry.parallel = 3\nc.SandboxRegistry.plain_http = ['x.test']\n"
    )
    user.write_text("[registry]\nparallel = 5\n")
    found = configuration.load(settings.load(str(project)))
    assert (found.parallel, found.plain_http) == (5, ("x.test",))


@pytest.mark.parametrize("name", ["sandbox.toml", "pyproject.toml"])
def test_a_project_says_nothing_of_registries(places: tuple[Path, Path], name: str) -> None:
    user, project = places
    text = TABLE if name == "sandbox.toml" else TABLE.replace("[reg", "[tool.sandbox-kernel.reg")
    (project / name).write_text(text)
    with pytest.raises(InvalidOption, match=rf"{name}.*registries stand only in `{user}`"):
        settings.load(str(project))


@pytest.mark.parametrize(
    "line",
    [
        'plain_http = ["http://a.test"]', 'plain_http = ["*"]', 'ca_files = ["ca.pem"]',
        'mirrors = ["docker.io=ftp://a.test"]', 'mirrors = ["docker.io"]', "parallel = 0",
        'mirrors = ["docker.io=https://me:word@a.test"]', 'token_realms = ["a.test=http://b.test"]',
        'platform = "amd64"', "verify = false", "parallel = true",
    ],
)  # fmt: skip
def test_settings_that_can_not_be(places: tuple[Path, Path], line: str) -> None:
    user, project = places
    user.write_text(f"[registry]\n{line}\n")
    with pytest.raises(InvalidOption, match=r"config.toml:2: registry"):
        configuration.load(settings.load(str(project)))


# -- choosing --------------------------------------------------------------------------------------


def _index(*platforms: str) -> Index:
    made = []
    for number, text in enumerate(platforms):
        parts = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        digest = Digest(f"sha256:{number:064x}")
        made.append(
            Descriptor(
                media_type=documents.OCI_MANIFEST, digest=digest, size=2, platform=Platform(**parts)
            )
        )
    return Index(schema_version=2, manifests=made)


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64/v8", "linux/amd64", "unknown/unknown"], 1),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/amd64", ["linux/amd64/v3"], None),
        ("linux/s390x", ["linux/amd64"], None),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
    ],
)
def test_the_platform_of_an_index(wanted: str, there: list[str], chosen: int | None) -> None:
    index, asked = _index(*there), configuration.platform(wanted, "--platform")
    if chosen is None:
        with pytest.raises(RegistryError, match=f"none for {wanted}, only for {there[0]}"):
            manifests.choose(index, asked, "name")
    else:
        assert manifests.choose(index, asked, "name") is index.manifests[chosen]


def test_how_long_a_registry_says_to_wait() -> None:
    later = formatdate(time.time() + 100, usegmt=True)
    assert failures.retry_after("7") == 7
    assert 90 < (failures.retry_after(later) or 0) <= 100
    assert failures.retry_after(formatdate(0, usegmt=True)) == 0
    for odd in ("", "soon", "-1", "1e9", "٣", "Fri, 99 Foo 2026 99:99:99 GMT"):
        assert failures.retry_after(odd) is None


@pytest.mark.fault(12)
@pytest.mark.parametrize("years", [-1, 1])
def test_a_wait_until_a_date_is_counted_from_the_date_of_the_answer(years: int) -> None:
    """Whoever's clock is wrong by a year, that of the registry or ours."""
    said = time.time() + years * 365 * 86400
    until, date = formatdate(said + 7, usegmt=True), formatdate(said, usegmt=True)
    assert failures.retry_after(until, date) == 7
    assert failures.retry_after(until, "no date") in (0, pytest.approx(365 * 86400 + 7, abs=5))


# -- many at once ----------------------------------------------------------------------------------


def test_the_first_failure_ends_all_and_is_the_one_told() -> None:
    cancellation, begun = Cancellation(), threading.Barrier(3)
    ended: list[int] = []

    def do(number: int) -> None:
        begun.wait(5)
        if number == 1:
            raise RegistryError("fetch", "layer", "it is gone")
        try:
            cancellation.wait(20)
        except Cancelled:
            ended.append(number)
            raise

    with pytest.raises(RegistryError, match="it is gone"):
        threads.in_turn(do, [0, 1, 2, 3], threads=3, cancellation=cancellation)
    assert sorted(ended) == [0, 2]


def test_progress_is_told_by_one_thread_at_a_time_and_to_its_end() -> None:
    events: list[Progress] = []
    digest = Digest("sha256:" + 64 * "0")
    teller = Teller(events.append)
    for done in range(0, 1001):
        teller.tell(digest, "downloading", done, 1000)
    teller.tell(digest, "done", 1000, 1000)
    assert len(events) < 50
    assert [(event.stage, event.done) for event in events[-2:]] == [
        ("downloading", 1000), ("done", 1000),
    ]  # fmt: skip
