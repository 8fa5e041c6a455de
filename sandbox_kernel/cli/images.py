"""`sandbox-kernel images`, `history`, `tag`, `rmi`, `prune` and `image`: what the store holds."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sandbox_kernel import errors, grammar, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FAILED, FORMAT, Verb
from sandbox_kernel.image import reference
from sandbox_kernel.image.store import Store

if TYPE_CHECKING:
    from sandbox_kernel.image.documents import Descriptor, History
    from sandbox_kernel.image.store import Collected, Listed, Stored

_QUIET = Flag("quiet", ("--quiet", "-q"), "", "Print the digests only.")
_FORCE = Flag("force", ("--force", "-f"), "", "By digest: with all its names.")
_ALL = Flag("all", ("--all", "-a"), "", "Also images that have a name.")
_NO_TRUNC = Flag("no_trunc", ("--no-trunc",), "", "Print commands and digests whole.")
SHORT = 12


def images(found: Parsed) -> int:
    """Lists the images of this user."""
    rows = listed(found.rest[0] if found.rest else None)
    if found.own.get("quiet"):
        for row in rows:
            print(row.digest)
    elif found.own.get("format") == "json":
        output.data([listed_facts(row) for row in rows])
    else:
        output.table(HEADINGS, table_rows(rows))
    return 0


def listed(only: str | None = None) -> list[Listed]:
    """The images, what came last first, as docker has it. Raises ImageError for an unknown one."""
    store = Store.open()
    rows = store.images()
    if only is not None:
        wanted = store.find(only).digest
        rows = [row for row in rows if row.digest == wanted]
    return rows[::-1]


HEADINGS = ("name", "digest", "created", "size")


def table_rows(rows: list[Listed]) -> list[tuple[str, ...]]:
    """One row for each name of each image."""
    return [
        (name, short_digest(row.digest), age(row.created), grammar.shown_size(row.size))
        for row in rows
        for name in ([familiar(name) for name in row.names] or ["-"])
    ]


def listed_facts(row: Listed) -> dict[str, Any]:
    """A row of `images --format json`. Sizes in bytes."""
    return {
        "digest": row.digest,
        "names": [familiar(name) for name in row.names],
        "created": row.created,
        "size": row.size,
        "source": row.source,
    }


def facts(text: str) -> dict[str, Any] | None:
    """What `inspect` prints about an image; None when there is none such. Sizes in bytes."""
    store = Store.open()
    try:
        found = store.lookup(text)
    except errors.ImageError:
        return None  # no name that an image can have
    if found is None:
        return None
    layers = zip(found.manifest.layers, found.diff_ids, strict=True)
    return {
        "digest": found.digest,
        "names": [familiar(name) for name in found.names],
        "index": found.index,
        "source": found.source,
        "created": found.created,
        "size": found.size,
        "platform": str(found.config.platform),
        "config": found.config.execution(),
        "config_digest": found.manifest.config.digest,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": diff_id,
                "size": layer.size,
                "media_type": layer.media_type,
                "unpacked": store.layer(diff_id) is not None,
            }
            for layer, diff_id in layers
        ],
        "annotations": found.manifest.annotations or {},
    }


def history(found: Parsed) -> int:
    """Lists what made an image, the last step first."""
    steps = history_facts(Store.open().find(found.rest[0]))
    if found.own.get("format") == "json":
        output.data(steps)
    else:
        output.table(STEPS, history_rows(steps, whole=bool(found.own.get("no_trunc"))))
    return 0


STEPS = ("created", "made by", "size", "layer")


def history_rows(steps: list[dict[str, Any]], *, whole: bool) -> list[tuple[str, ...]]:
    """One row for each step; `whole`: nothing in it is shortened."""
    return [
        (
            age(step["created"]),
            step["created_by"] if whole else output.short(step["created_by"], 60),
            grammar.shown_size(step["size"]) if step["digest"] else "-",
            (step["digest"] if whole else short_digest(step["digest"])) or "-",
        )
        for step in steps
    ]


def history_facts(image: Stored) -> list[dict[str, Any]]:
    """The steps, last first; one that changed configuration only has no digest and size 0.

    Layers that the history does not tell of are listed after it.
    """
    layers = list(image.manifest.layers)
    steps = []
    for entry in image.config.history or ():
        layer = None if entry.empty_layer or not layers else layers.pop(0)
        steps.append(_step(entry, layer))
    steps += [_step(None, layer) for layer in layers]
    return steps[::-1]


def _step(entry: History | None, layer: Descriptor | None) -> dict[str, Any]:
    return {
        "created": (entry and entry.created) or "",
        "created_by": " ".join(((entry and entry.created_by) or "").split()),
        "comment": (entry and entry.comment) or "",
        "digest": layer.digest if layer else "",
        "size": layer.size if layer else 0,
    }


def tag(found: Parsed) -> int:
    """Gives an image one more name, or an environment its first."""
    store = Store.open()
    image, name = found.rest
    if image.startswith(grammar.ENVIRONMENTS):  # it is kept by being named
        from sandbox_kernel.image.resolve import stored

        plan = policy.plan(settings.COMMAND_LINE, image=image)
        known = stored(store, reference.parse(plan.image))
    else:
        known = store.find(image)
    store.tag(name, known.descriptor, source=known.source, index=known.index)
    return 0


def remove(found: Parsed) -> int:
    """Takes names from images; an image goes with its last name."""
    status = 0
    store = Store.open()
    rows: list[dict[str, Any]] = []
    for text in found.rest:
        try:
            rows.append(_remove(store, text, force=bool(found.own.get("force"))))
        except errors.SandboxError as error:
            sys.stderr.write(f"sandbox-kernel: rmi: {output.clean(str(error))}\n")
            status = FAILED
    if any(row["stuck"] for row in rows):
        status = FAILED
    if found.own.get("format") == "json":
        output.data(rows)
        return status
    for row in rows:
        for name in row["untagged"]:
            print(f"untagged: {name}")
        if row["deleted"]:
            print(f"deleted: {row['deleted']}")
    return status


def _remove(store: Store, text: str, *, force: bool) -> dict[str, Any]:
    image = store.find(text)
    by_digest = text not in image.names and _full(text) not in image.names
    if by_digest and len(image.names) > 1 and not force:
        names = ", ".join(familiar(name) for name in image.names)
        raise errors.InvalidOption(
            "IMAGE", text, f"one of its names ({names}), or `--force` for all of them"
        )
    done = store.remove(text)
    _tell(done.collected)
    return {
        "untagged": [familiar(name) for name in done.names],
        "deleted": done.digest if done.last else None,
        "stuck": done.collected.stuck,
    }


def _full(text: str) -> str | None:
    """The whole name that a text is, if it is one."""
    try:
        return str(reference.parse(text))
    except errors.ImageError:
        return None


def prune(found: Parsed) -> int:
    """Removes images without a name, what no image needs, and packages not used for a while."""
    from sandbox_kernel.building import collecting as steps
    from sandbox_kernel.image.environments import collecting

    store, whole = Store.open(), bool(found.own.get("all"))
    with output.progress("removing what no image needs"):
        done = store.prune(named=whole)
        steps.prune(store, caches=whole)
        packages = collecting.prune(older_than=0 if whole else collecting.KEPT_SECONDS)
    _tell(done.collected)
    status = FAILED if done.collected.stuck else 0
    if found.own.get("format") == "json":
        packed = {"package_bytes": packages}
        output.data({"images": done.images, **output_of(done.collected), **packed})
        return status
    for digest in done.images:
        print(f"deleted: {digest}")
    print(f"{grammar.shown_size(done.collected.bytes + packages)} are free again")
    return status


def output_of(collected: Collected) -> dict[str, Any]:
    """What a collection did, as data."""
    return {
        "blobs": collected.blobs,
        "layers": collected.layers,
        "bytes": collected.bytes,
        "in_use": collected.in_use,
        "stuck": collected.stuck,
    }


def _tell(collected: Collected) -> None:
    if collected.busy:
        sys.stderr.write(
            "sandbox-kernel: images are being added just now: `sandbox-kernel prune` removes the "
            "content later\n"
        )
    if collected.in_use:
        sys.stderr.write(
            f"sandbox-kernel: {collected.in_use} layers are in use by containers: "
            "`sandbox-kernel prune` removes them later\n"
        )
    for what in collected.stuck:
        sys.stderr.write(
            f"sandbox-kernel: {output.clean(what)}: it stays, no image needs it, and the rest is "
            "removed: mend that, then `sandbox-kernel prune`\n"
        )


def image(found: Parsed) -> int:
    """`image check` and `image repair`: the store itself; `image inspect`: one image."""
    verb, *rest = found.rest
    if verb == "inspect" and rest:
        output.data([_facts(text) for text in rest])
        return 0
    if verb not in ("check", "repair") or rest:
        raise errors.InvalidOption("image", verb, "check, repair, or inspect IMAGE...")
    store = Store.open()
    with output.progress("reading all that is stored"):
        problems = store.check() if verb == "check" else store.repair()
    if found.own.get("format") == "json":
        output.data(problems)
    else:
        for problem in problems:
            print(output.clean(str(problem)))
        if not problems:
            print("all that is stored is whole")
    return int(not all(problem.mended for problem in problems))


def _facts(text: str) -> dict[str, Any]:
    found = facts(text)
    if found is None:
        Store.open().find(text)  # says that and why there is none
        raise errors.ImageError(f"find image `{errors.shown(text)}`: it went away just now")
    return found


def familiar(name: str) -> str:
    """A name as people write it; one that another program wrote into the store, as it is."""
    try:
        return reference.registry(name).familiar
    except errors.ImageError:
        return name


def short_digest(digest: str) -> str:
    """The beginning of a digest that is enough to name it."""
    return digest.partition(":")[2][:SHORT]


def age(created: str) -> str:
    """`2026-01-02T03:04:05Z` -> `3 d`; `-` when it is not known."""
    try:
        moment = datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return "-"
    return output.shown_age(time.time() - moment)


VERBS = {
    "images": Verb(
        "images [options] [IMAGE]",
        "List your images: name, digest, age, and the size that they have in a registry.",
        images,
        (_QUIET, FORMAT),
        options=(),
        most=1,
    ),
    "history": Verb(
        "history [options] IMAGE",
        "Print the steps that made an image, the last one first, and the layer of each.",
        history,
        (_NO_TRUNC, FORMAT),
        options=(),
        least=1,
        most=1,
    ),
    "tag": Verb(
        "tag IMAGE NAME",
        "Give an image one more name. What the name meant before keeps its other names. A Python "
        "environment, such as `packages: numpy on python:3.12`, becomes a stored image by it.",
        tag,
        options=(),
        least=2,
        most=2,
    ),
    "rmi": Verb(
        "rmi [options] IMAGE...",
        "Take names from images. An image is removed with its last name, but for the layers that "
        "containers use.",
        remove,
        (_FORCE, FORMAT),
        options=(),
        least=1,
    ),
    "prune": Verb(
        "prune [options]",
        "Remove images without a name, blobs and layers that no image needs, and packages of "
        "environments that were not used for 30 days. What containers use stays.",
        prune,
        (_ALL, FORMAT),
        options=(),
        most=0,
    ),
    "image": Verb(
        "image check|repair|inspect [IMAGE...]",
        "check: read all that is stored, and tell what is broken; the status is 1 then. repair: "
        "set it aside, so that the next pull or load gets it again. inspect: print an image.",
        image,
        (FORMAT,),
        options=(),
        least=1,
    ),
}
