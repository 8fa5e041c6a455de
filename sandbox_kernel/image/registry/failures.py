"""Why a request failed, in words: of TLS, of timeouts, and of what a registry says itself."""

from __future__ import annotations

import datetime
import json
import ssl
from email.utils import parsedate_to_datetime

import httpcore
import httpx

from sandbox_kernel.errors import shown
from sandbox_kernel.image.registry.connections import NoNameServer, deadline

TRANSIENT = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
)
"""What may go well when it is tried again, unless it is a certificate."""
_OUT_OF_TIME = {9: "it is not valid yet", 10: "it has expired"}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED: X509_STORE_CTX_get_error(3)."""
_SPEAKS_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "HTTP_REQUEST")


def tls_problem(error: BaseException | None) -> ssl.SSLError | None:
    """The error of TLS that another one came of."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def is_certificate(error: BaseException) -> bool:
    """Whether TLS itself refused: then no second try is made."""
    problem = tls_problem(error)
    return problem is not None and not isinstance(
        problem, (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    )


def reason(error: Exception) -> str:
    """Why there was no whole answer, and through which proxy it would have come."""
    return ", ".join((_why(error), *_notes(error)))


def remedy(error: Exception, usual: str = "try again") -> str:
    """What helps against it; `usual` where nothing is known that is more to the point."""
    if _out_of_time(error):
        return (
            "look at this machine's clock (`date -u`); if it is right, the keeper of the registry "
            "has to renew the certificate"
        )
    if is_certificate(error):
        return "if you trust who made the certificate, name its file in `ca_files`"
    if _notes(error):
        return "see whether the proxy runs and lets us through; `NO_PROXY` names who needs none"
    if isinstance(error, NoNameServer):
        return "see whether this machine is on the network, and look at its `/etc/resolv.conf`"
    return usual


def _notes(error: BaseException) -> list[str]:
    """What `transport` noted: the proxy."""
    return getattr(error, "__notes__", [])


def _out_of_time(error: BaseException) -> str | None:
    """What is wrong with the dates of a certificate, when they are why it is refused."""
    problem = tls_problem(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return _OUT_OF_TIME.get(problem.verify_code)
    return None


def _why(error: Exception) -> str:
    if wrong := _out_of_time(error):
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"its certificate is not valid at this machine's time, {now}: {wrong}"
    problem = tls_problem(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {shown(problem.verify_message)}"
    if problem is not None:
        return f"TLS: {shown(problem.reason or problem)}"
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    return shown(error) or type(error).__name__


def retry_after(text: str, date: str = "") -> float | None:
    """`Retry-After`: seconds, or a date; None when it is neither.

    `date`: that of the answer. A wait is the time between the two, whatever our own clock says.
    """
    if text.isascii() and text.isdigit():
        return float(text[:12])
    until = _moment(text)
    if until is None:
        return None
    now = _moment(date) or datetime.datetime.now(datetime.UTC)
    return max(0.0, (until - now).total_seconds())


def _moment(text: str) -> datetime.datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def speaks_no_tls(error: Exception) -> bool:
    """Whether what answered a greeting of TLS does not know it at all."""
    problem = str(tls_problem(error) or "")
    return any(word in problem for word in _SPEAKS_NO_TLS)


def said(answer: httpx.Response, most: int, seconds: float) -> str:
    """What the body of an error says: distribution specification, "Error Codes"."""
    body = b""
    try:
        with deadline(seconds):
            for part in answer.iter_raw():
                body += part
                if len(body) > most:
                    return ""
        first = json.loads(body)["errors"][0]
        text = first.get("message") or first.get("code")
    except (*TRANSIENT, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return f": {shown(text)}" if isinstance(text, str) and text else ""
