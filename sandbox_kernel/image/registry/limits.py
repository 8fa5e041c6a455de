"""The most that a registry may make us read, wait for or follow. Bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every bound on what a registry does to us; tests lower some."""

    document: int = 4 << 20
    """Manifests and indexes: distribution specification 1.1, "Pushing Manifests"."""
    config: int = 4 << 20
    answer: int = 1 << 20
    """Tokens, tags, errors, referrers."""
    token: int = 64 << 10
    layers: int = 500
    """What overlayfs(5) mounts over each other."""
    layer: int = 1 << 38
    redirects: int = 5
    tries: int = 5
    """How often one thing is asked for before its failure is told."""
    pages: int = 100
    connect: float = 10.0
    """For the look-up of a name, and again for each connection."""
    headers: float = 60.0
    """From the request to the end of the answer's headers."""
    whole: float = 120.0
    """A whole document, from the first request to its end, with all tries."""
    silence: float = 30.0
    """Between two pieces of a body."""
    least_rate: int = 1024
    """Bytes a second of a layer, over each `rate_seconds`."""
    rate_seconds: float = 30.0
    wait: float = 15.0
    """Before the next try; a registry that asks for a longer wait is told of at once."""
    first_wait: float = 0.25
