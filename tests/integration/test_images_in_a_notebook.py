"""Images in a real notebook: cells of a stored image, tables of images and of their history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import registries
from made_images import layer, program, put, small

from notebooks import error, executed, text
from sandbox_kernel.image import archives
from sandbox_kernel.image.store import Store

DPKG = b"Package: words\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\n"


def table(outputs: list[Any]) -> str:
    (found,) = outputs
    assert found.data["text/plain"]
    shown = found.data["text/html"]
    assert isinstance(shown, str)
    return shown


def program_layer() -> bytes:
    return layer({"bin": None, "bin/says": program()})


def allow(folder: Path, authority: str) -> None:
    """What the user's configuration says of registries, when it lies in that folder."""
    settings = folder / "sandbox-kernel/config.toml"
    settings.parent.mkdir()
    settings.write_text(f'[ceiling]\nimage = ["docker.io/*", "{authority}/*"]\n')


def test_a_notebook_gets_an_image_looks_at_it_and_runs_it(store: Store, tmp_path: object) -> None:
    made = small(store, "app:1")
    odd = layer({"<b>": None, "<b>/says": program()})
    put(store, "odd:1", [odd], cmd=["<script>alert(1)</script>"])
    archives.save_layout(store, made, f"{tmp_path}/layout", "app")
    store.remove("app:1")
    outputs = executed(
        f"%container load -i {tmp_path}/layout",
        f"%container tag {made.digest[7:19]} app:1",
        "%container images",
        "%container history app:1",
        "%%container app:1 --program '/bin/says cat note'\nx",
        "%container images --format json",
        f"%container save -o {tmp_path}/saved.tar app:1",
        "%container rmi app:1",
        "%container image check",
        "%%container app:1 --program '/bin/says'\nx",
        "%%container ghcr.io/x/y --program '/bin/says'\nx",
        "%container images no-such-image",
        "%container tree odd:1",
        "%container tree --format json odd:1",
    )
    assert text(outputs[0]) == f"loaded: {made.digest}\n"
    (table,) = outputs[2]
    assert "<td>app:1</td>" in table.data["text/html"]
    assert "app:1" in table.data["text/plain"]
    (table,) = outputs[3]
    assert "made by hand 2" in table.data["text/html"]
    assert text(outputs[4]) == "first\n", outputs[4]
    assert made.digest in text(outputs[5])
    assert text(outputs[7]) == f"untagged: app:1\ndeleted: {made.digest}\n"
    assert text(outputs[8]) == "all that is stored is whole\n"
    assert error(outputs[9]).ename in ("RegistryError", "ImageError")
    assert error(outputs[10]).ename == "NotAllowed"
    assert "images of docker.io" in error(outputs[10]).evalue
    assert "has none such" in error(outputs[11]).evalue
    (tree,) = outputs[12]
    assert "<code>&lt;b&gt;/</code>" in tree.data["text/html"]
    assert "<b>" not in tree.data["text/html"]
    assert "layer 1" in tree.data["text/plain"]
    assert '"<b>"' in text(outputs[13])
    for one in (outputs[9], outputs[10], outputs[11]):
        assert len(error(one).traceback) == 1


def test_what_is_known_of_images_is_shown_as_tables(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small(store, "app:1")
    small(store, "app:2", note=b"another\n")
    database = layer(
        {
            "var/lib/dpkg/status": DPKG,
            "<b>": b"x",
            "var/lib/rpm/Packages": b"",
            "etc/note": b"the third\n",
        }
    )
    put(store, "app:3", [program_layer(), database], cmd=["/bin/says"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with registries.registry(tmp_path / "registry") as served:
        allow(tmp_path, served.authority)
        name = f"{served.authority}/team/app"
        outputs = executed(
            "%container diff app:1 app:3",
            "%container inspect app:1",
            "%container sbom app:3",
            f"%container push app:1 {name}:first",
            f"%container tags {name}",
            f"%container referrers {name}:first",
            "%%container app:1 --keep --name kept --program '/bin/says'\nx",
            "%container commit kept made:1",
            "%container diff kept made:1",
            "%container diff --format json app:1 app:2",
            "%container sbom --format spdx app:3",
            "%container rm kept",
            "%container rmi made:1",
            "%container prune --all",
            "%container images --quiet",
        )
    shown = table(outputs[0])
    assert "<td>added</td><td>/&lt;b&gt;</td>" in shown
    assert "<td>changed</td><td>/etc/note</td><td>content, size</td>" in shown
    assert f"<td>digest</td><td>{first.digest}</td>" in table(outputs[1])
    assert "<td>config Env</td><td>WORD=of the image</td>" in table(outputs[1])
    assert "<td>deb</td><td>words</td><td>1.0-1</td>" in table(outputs[2][:1])
    assert "`/var/lib/rpm/Packages`: the rpm database is not read" in text(outputs[2])
    assert "<td>first</td>" in table(outputs[4])
    assert "<th>artifact type</th>" in table(outputs[5])
    assert text(outputs[7]).startswith("sha256:"), outputs[7]
    assert text(outputs[8]) == "nothing is different\n", outputs[8]
    assert '"path": "/etc/note"' in text(outputs[9])
    assert '"spdxVersion": "SPDX-2.3"' in text(outputs[10])
    assert "are free again" in text(outputs[13])
    assert text(outputs[14]) == ""


def test_what_is_not_stored_is_looked_at_only_where_a_cell_may_have_it(store: Store) -> None:
    small(store, "app:1")
    far = "registry.example/x/y"
    for outputs in executed(
        f"%container tree {far}",
        f"%container diff app:1 {far}",
        f"%container sbom {far}",
        f"%container tags {far}",
        f"%container referrers {far}",
        f"%container tag 'packages: words on {far}' made:1",
    ):
        assert error(outputs).ename == "NotAllowed", outputs


def test_86_a_name_that_is_an_option_or_a_path_is_none(store: Store) -> None:
    small(store, "app:1")
    names = ["--help", "-x", "../x", ".", "a" * 10_000, "", "а:1", "-v/:/x"]
    for outputs in executed(*(f"%container tag app:1 -- {name!r}" for name in names)):
        assert error(outputs).ename in ("ImageError", "InvalidOption")
    assert store.names().keys() == {"docker.io/library/app:1"}


def test_names_of_images_are_completed(store: Store) -> None:
    small(store, "app:1")
    shell = "get_ipython().Completer.complete"
    lines = ["%%container ap", "%%container app:", "%container rmi ap", "%%container --image ap"]
    for outputs in executed(*(f"print({shell}(line_buffer={line!r})[1])" for line in lines)):
        assert "app:1" in text(outputs) or text(outputs) == "['1']\n", text(outputs)


def test_a_notebook_has_no_pipe_for_an_archive(store: Store) -> None:
    small(store, "app:1")
    for outputs in executed("%container save app:1", "%container load"):
        assert error(outputs).ename in ("InvalidOption", "ImageError")
        assert len(error(outputs).traceback) == 1
