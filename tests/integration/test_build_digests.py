"""Builds as root and as an ordinary user: the same input is the same image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import built_images
from built_images import built
from ordinary_user import OrdinaryUser

from sandbox_kernel.image.store import Store


def test_the_same_input_gives_the_same_digest_to_everybody(
    store: Store, tmp_path: Path, ordinary_user: OrdinaryUser
) -> None:
    context = tmp_path / "context"
    built_images.make_root(context / "root")
    (context / "sub").mkdir()
    (context / "sub/b.py").write_text("b\n")
    text = "FROM scratch AS base\nCOPY root /\n" + (
        "RUN mkdir -p /srv/a/b && echo x > /srv/a/x && ln /srv/a/x /srv/a/y && chown 7:8 /srv/a/b\n"
        "COPY --chown=app sub /sub\nWORKDIR /work/x\nENV A=1\nRUN date > /dev/null; rm /etc/hosts\n"
    )
    (context / "Containerfile").write_text(text)
    digests = [
        built(store, context, None, use_cache=False, epoch=1_700_000_000)[0].digest
        for _ in range(2)
    ]
    subprocess.run(["/bin/chmod", "-R", "a+rX", str(context)], check=True)
    for folder in list(context.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    done = ordinary_user.run(
        ["python", "-m", "sandbox_kernel.cli.main", "build", "--quiet", str(context)],
        env={"SOURCE_DATE_EPOCH": "1700000000"},
    )
    assert done.returncode == 0, done.stderr
    assert {*digests, done.stdout.strip()} == {digests[0]}
