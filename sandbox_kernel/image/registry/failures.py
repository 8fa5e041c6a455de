"""Why a request failed, in words: of TLS, of timeouts, and of what a registry says itself."""

from __future__ import annotations

import datetime
import json
import ssl
from email.utils import parsedate_to_datetime

import httpcore
import httpx

from sandbox_kernel.errors import shown
from sandbox_kernel.image.registry.connections import deadline

TRANSIENT = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
)
"""What may go well when it is tried again, unless it is a certificate."""
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
    """Why there was no whole answer."""
    problem = tls_problem(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {shown(problem.verify_message)}"
    if problem is not None:
        return f"TLS: {shown(problem.reason or problem)}"
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    return shown(error) or type(error).__name__


def retry_after(text: str) -> float | None:
    """`Retry-After`: seconds, or a date; None when it is neither."""
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    now = datetime.datetime.now(at.tzinfo)
    return max(0.0, (at - now).total_seconds())


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
