"""`sandbox-kernel pull`, `push`, `tags` and `referrers`: what is done with registries."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from sandbox_kernel import grammar
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output, transfers
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import reference
from sandbox_kernel.image.store import Store, Stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_kernel.image.documents import Descriptor
    from sandbox_kernel.image.registry import Listener
    from sandbox_kernel.image.registry.configuration import Configuration

_FORMAT = Flag(
    "format", ("--format",), "FORMAT", "How to print.", choices=("text", "json"), default="text"
)
_QUIET = Flag("quiet", ("--quiet", "-q"), "", "Print no progress, only the digest at the end.")
_PLATFORM = Flag(
    "platform",
    ("--platform",),
    "OS/ARCH",
    "Which image of those for many platforms, such as linux/arm64.",
    default="that of this machine",
)
_ARTIFACT = Flag("artifact_type", ("--artifact-type",), "TYPE", "Only what is of this media type.")


def pull(found: Parsed) -> int:
    """Pulls one image and prints its name and digest."""
    with _view(found) as listen:
        stored = pull_one(found, listen)
    for notice in notices(stored):
        print(f"sandbox-kernel: note: {notice}", file=sys.stderr)
    show(found, found.rest[0], stored.digest)
    return 0


def push(found: Parsed) -> int:
    """Pushes one image and prints its name and digest there."""
    with _view(found) as listen:
        digest = push_one(found, listen)
    show(found, found.rest[-1], digest)
    return 0


def pull_one(found: Parsed, listen: Listener | None) -> Stored:
    """The words of `pull`, carried out. Raises ImageError."""
    from sandbox_kernel.image import registry

    asked = reference.registry(found.rest[0])
    return registry.pull(Store.open(), asked, progress=listen, configuration=_configuration(found))


def push_one(found: Parsed, listen: Listener | None) -> str:
    """The words of `push`, carried out; the digest. Raises ImageError."""
    from sandbox_kernel.image import registry

    source, target = found.rest[0], found.rest[-1]
    store = Store.open()
    try:
        name = reference.registry(target)
    except ImageError:
        if len(found.rest) > 1:
            raise
        raise ImageError(
            f"push image `{source}`: it is no name that a registry has: give one behind it, such "
            "as `localhost:5000/NAME:TAG`"
        ) from None
    return registry.push(
        store, store.find(source), name, progress=listen, configuration=_configuration(found)
    )


def notices(stored: Stored) -> tuple[str, ...]:
    """What is to be said of how the image was unpacked, one line each."""
    from sandbox_kernel.image import unpacked

    store = Store.open()
    trees = unpacked.unpack(store, stored)
    return tuple(dict.fromkeys(filter(None, map(store.notice, trees))))


def show(found: Parsed, name: str, digest: str) -> None:
    """The name as it was typed, and the digest."""
    full = str(reference.registry(name))
    if found.own.get("format") == "json":
        output.data({"reference": full, "digest": digest})
    elif found.own.get("quiet"):
        print(digest)
    else:
        print(f"{full.partition('@')[0]}@{digest}")


def _view(found: Parsed) -> transfers.Bars | nullcontext[None]:
    if found.own.get("quiet") or found.own.get("format") == "json":
        return nullcontext()
    return transfers.Bars()


def _configuration(found: Parsed) -> Configuration:
    from sandbox_kernel.image.registry import configuration

    settings = configuration.load()
    given = found.own.get("platform")
    if given is None:
        return settings
    return replace(settings, platform=configuration.platform(given, "--platform"))


def tags(found: Parsed) -> int:
    """Prints the tags of a repository, one a line."""
    listed = listed_tags(found.rest[0])
    if found.own.get("format") == "json":
        output.data(listed)
    else:
        for tag in listed:
            print(output.clean(tag))
    return 0


def listed_tags(name: str) -> Sequence[str]:
    """The tags of a repository. Raises ImageError."""
    from sandbox_kernel.image import registry

    return registry.tags(reference.registry(name))


def referrers(found: Parsed) -> int:
    """Prints what refers to an image in its registry."""
    listed = listed_referrers(found)
    if found.own.get("format") == "json":
        output.data(
            [
                {
                    "artifact_type": each.artifact_type,
                    "digest": each.digest,
                    "size": each.size,
                    "annotations": each.annotations or {},
                }
                for each in listed
            ]
        )
        return 0
    output.table(REFERRERS, referrer_rows(listed))
    return 0


REFERRERS = ("artifact type", "digest", "size")


def listed_referrers(found: Parsed) -> Sequence[Descriptor]:
    """What refers to the image that the words name. Raises ImageError."""
    from sandbox_kernel.image import registry

    kind = found.own.get("artifact_type")
    return registry.referrers(reference.registry(found.rest[0]), artifact_type=kind)


def referrer_rows(listed: Sequence[Descriptor]) -> list[tuple[str, ...]]:
    """One row for each."""
    return [
        (each.artifact_type or each.media_type, each.digest, grammar.shown_size(each.size))
        for each in listed
    ]


VERBS = {
    "pull": Verb(
        "pull [options] NAME[:TAG|@DIGEST]",
        "Fetch an image from a registry, its layers several at once and unpacked while they come. "
        "What is stored already is not fetched again, and what broke off goes on where it was.",
        pull,
        flags=(_PLATFORM, _QUIET, _FORMAT),
        least=1,
        most=1,
    ),
    "push": Verb(
        "push [options] IMAGE [NAME[:TAG]]",
        "Bring a stored image to a registry, by its own name or another one; only what the "
        "registry lacks is sent.",
        push,
        flags=(_QUIET, _FORMAT),
        least=1,
        most=2,
    ),
    "tags": Verb(
        "tags [options] NAME",
        "The tags that a repository has in its registry.",
        tags,
        flags=(_FORMAT,),
        least=1,
        most=1,
    ),
    "referrers": Verb(
        "referrers [options] NAME[:TAG|@DIGEST]",
        "What refers to an image in its registry: signatures, lists of parts, provenance.",
        referrers,
        flags=(_ARTIFACT, FORMAT),
        least=1,
        most=1,
    ),
}
