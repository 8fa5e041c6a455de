"""A bill of materials: what is installed in an image, as SPDX 2.3 in JSON.

Source: the SPDX specification 2.3, clauses 6, 7 and 11; package URLs by purl-spec. Licences are
what a package's metadata declares, where that is an SPDX expression; nothing is concluded.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from typing import Any
from urllib.parse import quote

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import environment, installed
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.installed import Package
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image

NOT_ASSERTED = "NOASSERTION"
DOCUMENT = "SPDXRef-DOCUMENT"
ROOT = "SPDXRef-Image"
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
MOST_OS_RELEASE = 64 << 10
VENDORS = {"deb": "debian", "apk": "alpine", "pypi": "", "conda": ""}


def packages(image: Image) -> list[Package]:
    """Everything that databases in the image name. Raises ImageError for one that can't be read."""
    with environment.tree(image) as files:
        return _packages(image, files)


def missing(image: Image) -> list[str]:
    """What is installed and not in the list, a line for each database that is not read."""
    with environment.tree(image) as files:
        return _missing(files)


def _missing(files: Tree) -> list[str]:
    return [
        f"`{shown(path)}`: the rpm database is not read: the system's packages are not in the list"
        for path in installed.unread(files)
    ]


def document(image: Image, *, tool: str) -> dict[str, Any]:
    """The SPDX document of an image. Its date is SOURCE_DATE_EPOCH, else now.

    `tool` names the program and its version. Raises ImageError.
    """
    with environment.tree(image) as files:
        found = _packages(image, files)
        vendor = _vendor(files)
        comment = "; ".join(_missing(files))
    entries = [_entry(package, vendor) for package in found]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", image.reference).strip("-") or "image"
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{image.digest.partition(':')[2]}",
        "creationInfo": {
            "created": _now(),
            "creators": [f"Tool: {tool}"],
            **({"comment": comment} if comment else {}),
        },
        "packages": [
            {
                "SPDXID": ROOT,
                "name": image.reference,
                "versionInfo": image.digest,
                "primaryPackagePurpose": "CONTAINER",
                "downloadLocation": NOT_ASSERTED,
                "filesAnalyzed": False,
            },
            *entries,
        ],
        "relationships": [
            _relation(DOCUMENT, "DESCRIBES", ROOT),
            *(_relation(ROOT, "CONTAINS", entry["SPDXID"]) for entry in entries),
        ],
    }


def _packages(image: Image, files: Tree) -> list[Package]:
    try:
        if not image.mounts:
            return installed.packages(files)
        # Over `host` the machine's packages are there, but of its Pythons only the one that runs.
        python = environment.python_of(image)
        own = pythons.site_folders(files, python, image.interpreter or python.path)
        of_python = installed.of_python(files, own)
        return sorted({*installed.of_system(files), *installed.of_conda(files), *of_python})
    except OSError as error:
        raise ImageError(
            f"list packages of `{shown(image.reference)}`: `{shown(error.filename)}`: "
            f"{error.strerror}: use an image that is whole and that you can read"
        ) from None


def _entry(package: Package, vendor: str) -> dict[str, Any]:
    key = "\n".join((package.kind, package.name, package.version, package.architecture,
                     package.source))  # fmt: skip
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{package.kind}-{package.name}")
    entry: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}",
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": NOT_ASSERTED,
        "filesAnalyzed": False,
        "licenseConcluded": NOT_ASSERTED,
        "licenseDeclared": _licence(package.licence),
        "copyrightText": NOT_ASSERTED,
        "sourceInfo": f"installed, by {package.source}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": _package_url(package, vendor),
            }
        ],
    }
    if package.supplier:
        entry["supplier"] = f"Organization: {shown(package.supplier)}"
    if re.fullmatch(r"https?://[!-~]+", package.homepage):
        entry["homepage"] = package.homepage
    return entry


def _package_url(package: Package, vendor: str) -> str:
    known = VENDORS[package.kind]
    namespace = f"{quote(vendor or known, safe='')}/" if known else ""
    name, version = quote(package.name, safe=""), quote(package.version, safe="")
    machine = quote(package.architecture, safe="")
    return f"pkg:{package.kind}/{namespace}{name}@{version}" + (
        f"?arch={machine}" if machine else ""
    )


def _licence(text: str) -> str:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return canonicalize_license_expression(text) if text else NOT_ASSERTED
    except InvalidLicenseExpression:
        return NOT_ASSERTED


def _vendor(files: Tree) -> str:
    """`ID` of os-release(5)."""
    for path in OS_RELEASE:
        try:
            text = files.read(path, MOST_OS_RELEASE).decode("utf-8", "replace")
        except OSError:
            continue
        if match := re.search(r"(?m)^ID=[\"']?([a-z0-9._-]+)", text):
            return match[1]
    return ""


def _relation(first: str, kind: str, then: str) -> dict[str, str]:
    return {"spdxElementId": first, "relationshipType": kind, "relatedSpdxElement": then}


def _now() -> str:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    utc = datetime.UTC
    moment = (
        datetime.datetime.fromtimestamp(int(given), utc)
        if given.isascii() and given.isdigit() and len(given) < 12
        else datetime.datetime.now(utc)
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
