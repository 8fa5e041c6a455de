"""One endpoint of a registry and one repository in it: requests, tries, redirects, credentials.

Whatever goes wrong is a RegistryError that names the address and why. A request is tried again
after a failure that may pass, a bounded number of times; a wrong certificate is never one of these.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

import httpcore
import httpx

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image.registry import authentication, credentials
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.connections import Cancellation, deadline
from sandbox_kernel.image.registry.endpoints import Endpoint
from sandbox_kernel.image.registry.failures import (
    TRANSIENT,
    is_certificate,
    reason,
    remedy,
    retry_after,
    said,
    speaks_no_tls,
)
from sandbox_kernel.image.registry.foreign import Foreign, Reach, redirected
from sandbox_kernel.image.registry.transport import Transport, trust

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
MOST_CONNECTS = 2
"""How often a connection that is refused is tried: there may be a mirror, or a wrong name."""
Content = bytes | Callable[[], Iterable[bytes]] | None
"""A body; one that is made anew for each try is given by what makes it."""


class Client:
    """Many threads may use one. `actions`: what tokens are for, such as `pull`."""

    def __init__(
        self,
        endpoint: Endpoint,
        configuration: Configuration,
        cancellation: Cancellation,
        *,
        actions: str = "pull",
    ) -> None:
        self.endpoint = endpoint
        self.configuration = configuration
        self.limits = configuration.limits
        self.cancellation = cancellation
        self.scopes = [f"repository:{endpoint.repository}:{actions}"]
        reach = Reach()
        trusted = trust((*configuration.ca_files, *_host_certificates(endpoint)))
        self._own = Transport(
            admit=reach.admit_registry, cancellation=cancellation, trust=trusted, connections=32
        )
        self._foreign = Foreign(reach, cancellation, configuration.ca_files)
        self._lock = threading.Lock()
        self._authorization: str | None = None
        self._given = 0
        """How many times an authorization was got: what was refused may be old already."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.close()
        self._foreign.close()

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        what: str,
        accept: Iterable[int] = (200,),
        headers: Mapping[str, str] | None = None,
        content: Content = None,
        tries: int | None = None,
        seconds: float | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer whose headers are there and whose status is one of `accept`.

        `path` is below the repository, or a whole path when it begins with a slash. `what` is what
        an error says was wanted, `seconds` how long sending may take. Raises RegistryError, with
        `status` if an answer came.
        """
        answer = self._answer(
            method,
            path,
            what,
            frozenset(accept),
            headers or {},
            content,
            tries=tries,
            seconds=seconds,
        )
        try:
            yield answer
        except TRANSIENT as error:
            problem = RegistryError(what, self.address(path), reason(error), remedy(error))
            problem.passes = True
            raise problem from None
        finally:
            with contextlib.suppress(*TRANSIENT):
                answer.close()

    def document(
        self, path: str, *, most: int, what: str, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, httpx.Headers]:
        """A whole small document and its headers. Raises RegistryError when it is longer, or when
        all the tries together take too long."""
        with deadline(self.limits.whole):
            for attempt in range(1, self.limits.tries + 1):
                answer = self._answer("GET", path, what, frozenset({200}), headers or {}, None)
                try:
                    return self._body(answer, most, what, path), answer.headers
                except TRANSIENT as error:
                    if attempt == self.limits.tries:
                        raise RegistryError(
                            what, self.address(path), reason(error), remedy(error)
                        ) from None
                finally:
                    with contextlib.suppress(*TRANSIENT):
                        answer.close()
                self.cancellation.wait(self.pause(attempt))
        raise AssertionError("the last try ends")

    def settle(self) -> None:
        """Finds out whether the registry speaks TLS and who we have to be, before many ask at once.

        Raises RegistryError when it does not answer.
        """
        with self.open("GET", "/v2/", what="speak to the registry"):
            pass

    def location(self, answer: httpx.Response, path: str) -> str:
        """Where an answer says that an upload goes on, or a list. Raises RegistryError unless it is
        on the same origin: with an upload go our credentials."""
        text = answer.headers.get("location", "")
        try:
            url = httpx.URL(self.address(path)).join(text)
        except (httpx.InvalidURL, TypeError, ValueError):
            url = httpx.URL("")
        if not text or url.userinfo or authentication.origin_of(url) != self.endpoint.origin:
            raise RegistryError(
                "upload to", text, f"`{self.endpoint.registry}` sends us there, to another origin",
                "its keeper has to mend that",
            )  # fmt: skip
        return str(url)

    # -- one answer ----------------------------------------------------------------------------

    def _answer(
        self,
        method: str,
        path: str,
        what: str,
        accept: frozenset[int],
        headers: Mapping[str, str],
        content: Content,
        *,
        tries: int | None = None,
        seconds: float | None = None,
    ) -> httpx.Response:
        refused = 0
        attempt, most = 1, tries or self.limits.tries
        while True:
            given = self._given
            try:
                with deadline(seconds or self.limits.headers):
                    answer = self._once(method, path, headers, content)
            except TRANSIENT as error:
                if self._falls_back(error):
                    continue
                nobody = isinstance(error, httpcore.ConnectError) and attempt >= MOST_CONNECTS
                if attempt >= most or nobody or is_certificate(error):
                    raise self._unreachable(what, path, error, attempt) from None
                self.cancellation.wait(self.pause(attempt))
                attempt += 1
                continue
            if answer.status_code in accept:
                return answer
            try:
                if answer.status_code == 401 and refused < 2 and self._authorize(answer, given):
                    refused += 1
                    continue
                if answer.status_code not in MAY_PASS or attempt >= most:
                    raise self._failed(answer, what, path)
                pause = self._retry_after(answer, what, path, attempt)
            finally:
                with contextlib.suppress(*TRANSIENT):
                    answer.close()
            self.cancellation.wait(pause)
            attempt += 1

    def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: Content,
    ) -> httpx.Response:
        """Sent, and followed where it leads; no status is wrong here."""
        url = httpx.URL(self.address(path))
        followed, has_left = 0, False
        while True:
            request = httpx.Request(
                method,
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": _agent(), **headers},
                content=content() if callable(content) else content,
                extensions={"timeout": self._timeouts()},
            )
            if authentication.origin_of(url) == self.endpoint.origin:
                if self._authorization and not has_left:
                    request.headers["Authorization"] = self._authorization
                answer = self._own.handle_request(request)
            else:
                has_left = True  # from now on another host says what is asked for
                answer = self._foreign.send(request)
            if answer.status_code not in REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            followed += 1
            answer.close()
            if followed > self.limits.redirects:
                raise RegistryError(
                    method, self.address(path), f"it is redirected more than {followed - 1} times"
                )
            url = redirected(answer, url, self.endpoint.origin)

    def _timeouts(self) -> dict[str, float]:
        limits = self.limits
        return {
            "connect": limits.connect,
            "read": limits.silence,
            "write": limits.silence,
            "pool": limits.headers,
        }

    def address(self, path: str) -> str:
        """The whole address of a path."""
        if path.startswith(("https://", "http://")):
            return path
        if path.startswith("/"):
            return f"{self.endpoint.origin}{path}"
        return f"{self.endpoint.origin}/v2/{self.endpoint.repository}/{path}"

    def _body(self, answer: httpx.Response, most: int, what: str, path: str) -> bytes:
        parts, size = [], 0
        for part in answer.iter_raw():
            size += len(part)
            if size > most:
                raise RegistryError(what, self.address(path), f"it is larger than {most} bytes")
            parts.append(part)
        return b"".join(parts)

    # -- who we are ----------------------------------------------------------------------------

    def _authorize(self, answer: httpx.Response, given: int) -> bool:
        """Gets what the next try is sent with; False: there is nothing else to try."""
        with self._lock:
            if given != self._given:  # another thread was quicker
                return True
            before = self._authorization
            self._authorization = self._obtain(answer)
            self._given += 1
            return self._authorization is not None and (
                before != self._authorization or self._authorization.startswith("Bearer")
            )

    def _obtain(self, answer: httpx.Response) -> str | None:
        known = credentials.find(self.endpoint.registry, self.endpoint.repository)
        if known is not None and known.registry_token:
            return f"Bearer {known.registry_token}"
        for challenge in authentication.challenges(answer.headers.get_list("www-authenticate")):
            if challenge.scheme == "bearer":
                return f"Bearer {self._token(challenge, known)}"
            if challenge.scheme == "basic" and known is not None and known.name:
                return known.basic()
        return None

    def _token(
        self, challenge: authentication.Challenge, known: credentials.Credentials | None
    ) -> str:
        url = authentication.realm(
            self.endpoint, challenge, self.configuration, secret=known is not None
        )
        request = authentication.token_request(url, challenge, self.scopes, known)
        request.extensions["timeout"] = self._timeouts()
        request.headers["User-Agent"] = _agent()
        for attempt in range(1, self.limits.tries + 1):
            try:
                body = self._token_answer(request)
                return authentication.read_token(body, self.endpoint, self.limits.token)
            except TRANSIENT as error:
                where = url.copy_with(query=None)
                problem = RegistryError("ask for a token", where, reason(error), remedy(error))
                if is_certificate(error):
                    raise problem from None
            except RegistryError as error:
                if error.status not in MAY_PASS:
                    raise
                problem = error
            if attempt < self.limits.tries:
                self.cancellation.wait(self.pause(attempt))
        raise problem

    def _token_answer(self, request: httpx.Request) -> bytes:
        """One request for a token, which is never redirected: the secret is for that address."""
        url, what = request.url, "ask for a token"
        own = authentication.origin_of(url) == self.endpoint.origin
        with deadline(self.limits.headers):
            answer = self._own.handle_request(request) if own else self._foreign.send(request)
            try:
                where = str(url.copy_with(query=None))
                if answer.status_code != 200:
                    raise self._failed(answer, what, where)
                return self._body(answer, self.limits.answer, what, where)
            finally:
                answer.close()

    # -- what goes wrong -----------------------------------------------------------------------

    def _falls_back(self, error: Exception) -> bool:
        """A loopback registry that is known to speak no TLS is spoken to without from now on."""
        if not self.endpoint.may_be_plain:
            return False
        if not speaks_no_tls(error):
            return False
        with self._lock:
            if self.endpoint.may_be_plain:
                self.endpoint = self.endpoint.plain()
        return True

    def pause(self, attempt: int) -> float:
        """Longer each time, and not the same for all who failed at once."""
        longest = min(self.limits.wait, self.limits.first_wait * 2.0 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads, hides nothing

    def _retry_after(self, answer: httpx.Response, what: str, path: str, attempt: int) -> float:
        asked = retry_after(answer.headers.get("retry-after", ""), answer.headers.get("date", ""))
        if asked is None:
            return self.pause(attempt)
        if asked > self.limits.wait:
            raise self._failed(answer, what, path, f"; it says to wait {asked:.0f} s")
        return max(asked, self.pause(attempt))

    def _failed(
        self, answer: httpx.Response, what: str, path: str, more: str = ""
    ) -> RegistryError:
        status = answer.status_code
        words = said(answer, self.limits.answer, self.limits.silence)
        problem = RegistryError(
            what, self.address(path), f"answer {status}{words}{more}", self._remedy(status)
        )
        problem.status = status
        return problem

    def _remedy(self, status: int) -> str:
        name = self.endpoint.registry
        if status in (401, 403):
            return f"log in by `docker login {name}` or `podman login {name}`, or look at the name"
        return "look at the name, tag and digest" if status == 404 else "try again later"

    def _unreachable(self, what: str, path: str, error: Exception, tries: int) -> RegistryError:
        why = reason(error) + (f", {tries} times" if tries > 1 else "")
        helps = remedy(error, "see whether the registry runs and the name is right")
        return RegistryError(what, self.address(path), why, helps)


@functools.cache
def _agent() -> str:
    from importlib.metadata import version  # the package itself stands above this floor

    return f"sandbox-kernel/{version('sandbox-kernel')}"


def _host_certificates(endpoint: Endpoint) -> list[str]:
    """What docker and podman are told to trust for one registry: `certs.d/HOST:PORT/*.crt`."""
    import glob
    import os

    home = os.path.expanduser("~/.config/containers")
    folders = (f"{home}/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d")
    name = glob.escape(endpoint.registry)
    return [path for folder in folders for path in sorted(glob.glob(f"{folder}/{name}/*.crt"))]
