"""Makes the pages of this folder out of what the program itself declares: `make docs`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from magics import grammar
from magics import verbs as container
from sandbox_kernel import arguments, errors, settings, settings_files
from sandbox_kernel.arguments import HELP, Flag
from sandbox_kernel.bundle import seccomp_profile
from sandbox_kernel.cli import main as command
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.image.environments.conda import configuration as conda
from sandbox_kernel.image.registry import configuration

HERE = Path(__file__).parent
MADE_OF = "Made from {} by `make docs`; change it there."


def pages() -> dict[str, str]:
    """File name -> text, of every page that is made."""
    return {
        "settings.md": "\n".join(_settings()) + "\n",
        "jupyter_sandbox_config.py": "\n".join(_configuration()) + "\n",
        "command-line.md": "\n".join(_command_line()) + "\n",
        "magics.md": "\n".join(_magics()) + "\n",
        "errors.md": "\n".join(_errors()) + "\n",
        "seccomp.md": seccomp_profile.markdown(),
    }


def verbs() -> Iterator[tuple[str, Verb]]:
    """The verbs of the command, in its own order."""
    for name, (module, _) in command.VERBS.items():
        yield name, importlib.import_module(f"sandbox_kernel.cli.{module}").VERBS[name]


# -- settings -------------------------------------------------------------------------------------


def _settings() -> Iterator[str]:
    yield from ("# Settings", "")
    yield MADE_OF.format("the options in `sandbox_kernel/settings.py`")
    yield from (
        "",
        "A setting has one name everywhere: `memory` in a file, `memory=` in Python, `--memory`",
        "in a magic or a command. `-` and `_` are the same in names.",
        "",
        "## Where they come from",
        "",
        "A later source wins over an earlier one.",
        "",
        "| source | where | held to the ceilings |",
        "|---|---|---|",
        '| configuration | `~/.jupyter/jupyter_sandbox_config.py` (`c.Sandbox.memory = "1g"`), '
        'then `~/.config/sandbox-kernel/config.toml` (`memory = "1g"`) | no: it sets them |',
        "| project | `[tool.sandbox-kernel]` of `pyproject.toml`, then `sandbox.toml`, "
        "in the working folder | yes |",
        f"| kernelspec | `{settings.KERNELSPEC_VARIABLE}`, written by `sandbox-kernel install` "
        "| yes |",
        f"| notebook | `{settings_files.NOTEBOOK_KEY}` in its metadata, a table, where Jupyter "
        "Server started the kernel; then `%sandbox` | yes |",
        "| magic | `%%container` | yes |",
        "| command line | `sandbox-kernel run` and the others | no: it is the user's own word |",
        "| program | `sandbox_kernel.run(...)`, `sandbox_kernel.Sandbox(...)` "
        "| no: it runs on the host anyway |",
        "",
        "A file that another user owns, or that everybody can write, is refused; so are unknown",
        "names and keys that are given twice. `sandbox-kernel plan` prints every value with its",
        "source.",
    )
    groups: dict[str, list[str]] = {}
    for name, option in settings.OPTIONS.items():
        groups.setdefault(option.group, []).append(name)
    for group, names in groups.items():
        yield from ("", f"## {group.capitalize()}", "")
        yield "| setting | option | value | default | what it does |"
        yield "|---|---|---|---|---|"
        for name in names:
            option = settings.OPTIONS[name]
            many = "; can be given again" if option.kind.identity else ""
            yield _row(
                f"`{name}`",
                ", ".join(f"`{flag}`" for flag in option.flags),
                (f"`{option.kind.metavar}`" if option.kind.metavar else "`true`, `false`") + many,
                _default(option),
                option.help,
            )
    yield from (
        "",
        "## Ceilings",
        "",
        "The most that a project, a kernelspec, a notebook or a magic may ask for. They stand",
        "under `[ceiling]` in the user's `config.toml`, or as `c.SandboxCeiling` in",
        "[`jupyter_sandbox_config.py`](jupyter_sandbox_config.py), and nowhere else.",
        "",
        "| ceiling | value | default | what it does |",
        "|---|---|---|---|",
    )
    yield from _rows(settings.CEILINGS)
    yield from (
        "",
        "## Registries",
        "",
        "How images are pulled and pushed: see [registries](../registries.md). They stand under",
        "`[registry]` in the user's `config.toml`, or as `c.SandboxRegistry` in",
        "`jupyter_sandbox_config.py`, and nowhere else. A list of pairs may be a table.",
        "",
        "| setting | value | default | what it does |",
        "|---|---|---|---|",
    )
    yield from _rows(configuration.REGISTRY)
    yield from (
        "",
        "## Channels of conda",
        "",
        "Where packages of `conda:` come from: see [environments](../environments.md). They stand",
        "under `[conda]` in the user's `config.toml`, or as `c.SandboxConda` in",
        "`jupyter_sandbox_config.py`, and nowhere else. A list of pairs may be a table.",
        "",
        "| setting | value | default | what it does |",
        "|---|---|---|---|",
    )
    yield from _rows(conda.CONDA)


def _configuration() -> Iterator[str]:
    """A file to begin with: every setting as a trait, with its help and default."""
    yield "# " + MADE_OF.format("the options in `sandbox_kernel/settings.py`")
    yield "# Goes to ~/.jupyter/jupyter_sandbox_config.py; take away the `# ` before what you set."
    yield "# fmt: off"
    yield "c = get_config()  # noqa: F821 - Jupyter knows it"
    classes = (settings.Sandbox, settings.SandboxCeiling)
    for declared in (*classes, configuration.SandboxRegistry, conda.SandboxConda):
        yield settings.traits(declared).class_config_section().rstrip()


def _rows(declared: Mapping[str, settings.Option]) -> Iterator[str]:
    for name, option in declared.items():
        value = f"`{option.kind.metavar}`" + ("; a list" if option.kind.identity else "")
        yield _row(f"`{name}`", value, _default(option), option.help)


def _default(option: settings.Option) -> str:
    if option.default_text:
        return option.default_text
    shown = option.show(option.default_value)
    return "none" if shown == "-" else f"`{shown}`"


# -- command and magics ---------------------------------------------------------------------------


def _command_line() -> Iterator[str]:
    yield from ("# The command", "")
    yield MADE_OF.format("the verbs in `sandbox_kernel/cli/`")
    found = dict(verbs())
    yield from ("", "| command | what it does |", "|---|---|")
    for name in found:
        yield _row(f"[`sandbox-kernel {name}`](#{name})", command.VERBS[name][1])
    yield from (
        "",
        f"Every error of ours is one line on standard error, and exit status {command.FAILED}.",
        "Options are docker's where docker has them; values are checked before anything starts.",
    )
    for name, verb in found.items():
        yield from ("", f"## {name}", "", "```", f"sandbox-kernel {verb.usage}", "```", "")
        yield verb.summary
        yield from _flags(verb.flags)
        yield from _which_settings(verb.options)
        for flag in verb.all_flags():
            option = settings.OPTIONS.get(flag.name)
            if option and flag not in verb.flags and flag.spellings[0] != option.flags[0]:
                yield f"`{flag.spellings[0]}` stands for the setting `{flag.name}` here."


def _magics() -> Iterator[str]:
    yield from ("# The magics", "")
    yield MADE_OF.format("`magics/grammar.py`")
    yield from (
        "",
        "`%load_ext sandbox_kernel` makes them known; `%%container?` prints their help.",
    )
    yield from ("", "## %%container", "", "```", grammar.CELL_USAGE, "```", "")
    yield grammar.CELL_SUMMARY
    yield from _flags(grammar.CELL)
    yield from _which_settings(None)
    yield from ("", "## %container", "", "| subcommand | what it does |", "|---|---|")
    for name in container.VERBS:
        yield _row(f"`%container {name}`", command.VERBS[name][1])
    yield from ("", "Each prints its options with `--help`.")
    yield from ("", "## %sandbox", "", "```", grammar.SANDBOX_USAGE, "```", "")
    yield grammar.SANDBOX_SUMMARY
    yield from (
        'In a kernel "Sandbox (Python 3)" it shows and changes the live limits of the kernel\'s',
        "own container.",
    )
    yield from _which_settings(None)


def _flags(flags: Iterable[Flag]) -> Iterator[str]:
    yield from ("", "| option | value | what it does |", "|---|---|---|")
    for flag in (*flags, HELP):
        value = f"`{flag.metavar}`" if flag.metavar else ""
        if flag.choices:
            value = ", ".join(f"`{choice}`" for choice in flag.choices)
        text = flag.help + (f" Default: `{flag.default}`." if flag.default else "")
        yield _row(", ".join(f"`{s}`" for s in flag.spellings), value, text)


def _which_settings(names: tuple[str, ...] | None) -> Iterator[str]:
    if names == ():
        return
    flags = {flag.name: flag for flag in arguments.option_flags(names)}
    missing = [name for name in settings.OPTIONS if name not in flags]
    shown = [f"`{settings.OPTIONS[name].flags[0]}`" for name in missing]
    yield ""
    if not missing:
        more = ", ".join(
            f"`{flag.spellings[0]} {flag.metavar}`".replace(" `", "`")
            for flag in flags.values()
            if flag.name not in settings.OPTIONS
        )
        yield f"With all [settings](settings.md) as options, and {more}."
    elif len(missing) < len(flags):
        yield f"With all [settings](settings.md) as options but {', '.join(shown)}."
    else:
        only = ", ".join(f"`{flag.spellings[0]}`" for flag in flags.values())
        yield f"With these [settings](settings.md) as options: {only}."


# -- errors ---------------------------------------------------------------------------------------


def _errors() -> Iterator[str]:
    yield from ("# Errors", "")
    yield MADE_OF.format("the docstrings of `sandbox_kernel/errors.py`")
    yield from (
        "",
        "A message says what was being done, to what (in backticks), why it failed, and what to",
        "do. Most exceptions are also one of Python's own: `except MemoryError` catches an",
        "`OutOfMemory`. `SandboxError` of `sandbox_kernel.errors` is above all.",
        "",
        "| exception | is also | when | what to do |",
        "|---|---|---|---|",
    )
    for name, kind in vars(errors).items():
        if not (inspect.isclass(kind) and issubclass(kind, errors.SandboxError)):
            continue
        parents = [base for base in kind.__bases__ if base not in (errors.SandboxError, Exception)]
        when, remedy = _when_and_remedy(kind)
        yield _row(f"`{name}`", ", ".join(f"`{base.__name__}`" for base in parents), when, remedy)


def _when_and_remedy(kind: type) -> tuple[str, str]:
    text = inspect.cleandoc(vars(kind)["__doc__"])
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    remedies = [part.removeprefix("Do: ") for part in paragraphs if part.startswith("Do: ")]
    if len(remedies) != 1:
        raise ValueError(f"docstring of `{kind.__name__}`: one paragraph begins with `Do:`")
    return paragraphs[0], remedies[0][0].upper() + remedies[0][1:]


def _row(*cells: str) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


if __name__ == "__main__":
    for file_name, content in pages().items():
        (HERE / file_name).write_text(content)
