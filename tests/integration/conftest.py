"""What several files of integration tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import oci_bundles
import pytest
from oci_bundles import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A bundle whose containers are gone at the end."""
    with oci_bundles.made(tmp_path_factory.mktemp("bundle")) as made:
        yield made
