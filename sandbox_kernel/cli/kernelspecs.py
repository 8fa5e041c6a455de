"""`sandbox-kernel install` and `uninstall`: kernelspecs, from the templates in `kernelspec/`.

The argv stays `[python, -m, sandbox_kernel, -f, {connection_file}]`, which every front end knows;
"Sandbox Cells" has `--cells` before `-f`.
The options of a kernelspec travel in its `env`, as JSON in SANDBOX_KERNEL_OPTIONS: jupyter_client
fills in `{resource_dir}` in argv only. `PYTHONSAFEPATH` keeps the notebook's folder off the module
path of the host side: `python -m` would look there first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Any

from sandbox_kernel import image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output, transfers
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import InvalidOption, NotAllowed
from sandbox_kernel.grammar import Mount

NAME = "sandbox-python3"
CELLS_NAME = "sandbox-cells-python3"
DISPLAYED = {NAME: "Sandbox (Python 3)", CELLS_NAME: "Sandbox Cells (Python 3)"}
_PLACE = ".sandbox-kernel-"
_PLACES = (
    Flag("user", ("--user",), "", "For this user, whatever Python Jupyter runs with."),
    Flag("sys-prefix", ("--sys-prefix",), "", "Into the environment of this Python (the usual "
        "place when it is a virtual environment)."),
    Flag("prefix", ("--prefix",), "DIR", "Below DIR/share/jupyter/kernels."),
)  # fmt: skip
_KERNEL_NAME = Flag(
    "kernel",
    ("--name",),
    "NAME",
    "The name of one kernelspec, in small letters. Without it, and "
    f"without `--cells`, both kernels are installed: {NAME} and {CELLS_NAME}.",
)
_DISPLAY = Flag("display", ("--display-name",), "TEXT", "What the launcher of Jupyter shows.")
_CELLS = Flag("cells", ("--cells",), "", "The kernel that runs each cell by itself: see `--mode`.")


def install(found: Parsed) -> int:
    """Checks the options, writes the kernelspecs, says where they are."""
    typed = settings.read_options(found.options, settings.COMMAND_LINE)
    cells = bool(found.own.get("cells"))
    if "mode" in typed and not cells:
        raise InvalidOption("--mode", typed["mode"], "`--cells` beside it, whose kernel has modes")
    plan = policy.plan(settings.KERNELSPEC, **typed)  # what each start would refuse is refused now
    with transfers.Bars() as listen:
        image.resolve(plan.image, progress=listen)
    given = found.own.get("kernel")
    if given is not None or cells:
        name = _name(CELLS_NAME if given is None else given)
        chosen = {name: (found.own.get("display") or _display(name, cells=cells), cells)}
    else:
        chosen = {NAME: (found.own.get("display") or DISPLAYED[NAME], False)}
        chosen[CELLS_NAME] = (DISPLAYED[CELLS_NAME], True)
    folders = {name: _destination(found.own, name) for name in chosen}
    for folder in folders.values():
        _refuse_another_kernel(folder)
    for name, (display, is_cells) in chosen.items():
        with _beside(folders[name]) as place:
            _write(f"{place}/new", display, typed, cells=is_cells)
            _take_away(folders[name], place)
            os.rename(f"{place}/new", folders[name])
    rows = [
        {"name": name, "display_name": display, "folder": folders[name]}
        for name, (display, _) in chosen.items()
    ]
    if found.own.get("format") == "json":
        output.data(rows)
    for row in rows if found.own.get("format") != "json" else ():
        print(f"installed kernel `{row['name']}` ({row['display_name']}) in {row['folder']}")
    return 0


def uninstall(found: Parsed) -> int:
    """Removes kernelspecs that `install` wrote, and nothing else."""
    names = [_name(found.rest[0])] if found.rest else list(DISPLAYED)
    folders = {name: folder for name in names if (folder := _installed(found.own, name))}
    if not folders:
        raise InvalidOption("NAME", names[0], "the name of an installed kernel: see `doctor`")
    for folder in folders.values():
        _refuse_another_kernel(folder)
    for name, folder in folders.items():
        with _beside(folder) as place:
            _take_away(folder, place)
        print(f"removed kernel `{name}` from {folder}")
    return 0


def ours() -> dict[str, str]:
    """Name -> folder of every kernelspec that starts this package."""
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs()
    return {name: folder for name, folder in sorted(found.items()) if _starts_us(folder)}


def kernel_json(display: str, options: dict[str, Any], *, cells: bool = False) -> dict[str, Any]:
    """The content of `kernel.json`: the template with what was chosen."""
    file = "cells.json" if cells else "kernel.json"
    template = resources.files("kernelspec").joinpath(file).read_text("utf-8")
    spec: dict[str, Any] = json.loads(template)
    spec["argv"] = [sys.executable if word == "{python}" else word for word in spec["argv"]]
    spec["display_name"] = display
    if options:
        text = json.dumps({name: _plain(value) for name, value in options.items()})
        # jupyter_client reads `$` in env as a variable; in JSON text it can be written otherwise
        spec["env"][settings.KERNELSPEC_VARIABLE] = text.replace("$", "\\u0024")
    return spec


def _write(folder: str, display: str, options: dict[str, Any], *, cells: bool) -> None:
    os.mkdir(folder, 0o755)
    with open(os.path.join(folder, "kernel.json"), "w", encoding="utf-8") as file:
        json.dump(kernel_json(display, options, cells=cells), file, indent=2)
        file.write("\n")
    kind = "cells-" if cells else ""
    for logo in ("logo-svg.svg", "logo-32x32.png", "logo-64x64.png"):
        with open(os.path.join(folder, logo), "wb") as file:
            file.write(resources.files("kernelspec").joinpath(kind + logo).read_bytes())


@contextmanager
def _beside(folder: str) -> Iterator[str]:
    """A place from which a rename makes a kernel whole, and to which one takes it away whole.

    Whoever is killed leaves the kernel as it was, as it shall be or not at all, and the place,
    which the next one removes. Not where Jupyter looks for kernels: it would list what lies there.
    """
    kernels = os.path.dirname(folder)
    os.makedirs(kernels, exist_ok=True)
    above = os.path.dirname(kernels)
    lock = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in os.listdir(above):
            if left.startswith(_PLACE):
                shutil.rmtree(f"{above}/{left}")
        with tempfile.TemporaryDirectory(prefix=_PLACE, dir=above) as place:
            yield place
    finally:
        os.close(lock)


def _take_away(folder: str, place: str) -> None:
    with suppress(FileNotFoundError):
        os.rename(folder, f"{place}/old")


def _user_or_prefix(own: dict[str, Any]) -> tuple[bool, str | None]:
    chosen = [name for name in ("user", "sys-prefix", "prefix") if own.get(name)]
    if len(chosen) > 1:
        raise InvalidOption(f"--{chosen[1]}", f"--{chosen[0]}", "one place, not two")
    if "prefix" in chosen:
        return False, os.path.abspath(own["prefix"])
    if "user" in chosen or (not chosen and sys.prefix == sys.base_prefix):
        return True, None
    return False, sys.prefix


def _destination(own: dict[str, Any], name: str) -> str:
    user, prefix = _user_or_prefix(own)
    if user:
        from jupyter_core.paths import jupyter_data_dir

        return os.path.join(jupyter_data_dir(), "kernels", name)
    assert prefix is not None
    return os.path.join(prefix, "share", "jupyter", "kernels", name)


def _installed(own: dict[str, Any], name: str) -> str | None:
    """Where the kernel is: in the place that was named, else wherever Jupyter finds it."""
    if any(own.get(place) for place in ("user", "sys-prefix", "prefix")):
        folder = _destination(own, name)
        return folder if os.path.isdir(folder) else None
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager().find_kernel_specs().get(name)


def _refuse_another_kernel(folder: str) -> None:
    if os.path.lexists(folder) and not _starts_us(folder):
        raise NotAllowed("--name", os.path.basename(folder), f"`{folder}` is another kernel",
            "choose another name, or remove that one with `jupyter kernelspec remove`")  # fmt: skip


def _starts_us(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "kernel.json"), encoding="utf-8") as file:
            argv = json.load(file).get("argv", [])
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(argv, list) and argv[1:3] == ["-m", "sandbox_kernel"]


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text):
        raise InvalidOption("--name", text, "1 to 63 small letters, digits, `.`, `_` or `-`")
    return text


def _display(name: str, *, cells: bool) -> str:
    return DISPLAYED.get(name) or (f"Sandbox Cells ({name})" if cells else f"Sandbox ({name})")


def _plain(value: object) -> object:
    """A typed value in the form of JSON that the grammar reads again."""
    if isinstance(value, Mount):
        named = {"type": value.type, "source": value.source, "target": value.target,
            "readonly": value.read_only, "size": value.size}  # fmt: skip
        return {key: item for key, item in named.items() if item not in (None, "")}
    if isinstance(value, tuple) and not all(isinstance(item, (str, type(None))) for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, (str, int, float)):
        return value
    return list(value) if isinstance(value, tuple) else str(value)


_OPTIONS = tuple(name for name in settings.OPTIONS if name not in ("name", "keep", "entrypoint"))
VERBS = {
    "install": Verb(
        "install [--user | --sys-prefix | --prefix DIR] [--name NAME] [--cells] [options]",
        "Install Jupyter kernels whose code runs in a container with these options.",
        install,
        (*_PLACES, _KERNEL_NAME, _DISPLAY, _CELLS, FORMAT),
        options=_OPTIONS,
        most=0,
    ),
    "uninstall": Verb(
        "uninstall [--user | --sys-prefix | --prefix DIR] [NAME]",
        "Remove a kernel that `install` made; without NAME, those that it makes without a name.",
        uninstall,
        _PLACES,
        most=1,
    ),
}
