"""The magics themselves: each reads its line, and hands over to what does it.

What runs cells is imported by the first cell, so that loading the extension takes no time.
"""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from magics import grammar, oneline, verbs
from magics.notebook import Notebook
from sandbox_kernel import arguments, audit, settings
from sandbox_kernel.errors import InvalidOption


@magics_class
class ContainerMagics(Magics):
    """`%%container`, `%container` and `%sandbox`."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.notebook = Notebook()

    @line_cell_magic
    def container(self, line: str, cell: str | None = None) -> None:
        with oneline.one_line(), audit.refusals(settings.MAGIC):
            if cell is None:
                verbs.run(self.notebook, line)
                return
            words = arguments.words(line)
            if words[:1] == ["build"]:
                from magics import building

                building.run(self.notebook, words[1:], cell)
                return
            read = grammar.read_cell(line)
            if read.help:
                print(grammar.cell_help())
                return
            from magics.running import Runner

            assert self.shell is not None
            Runner(self.shell, self.notebook).run(read, cell)

    @line_magic
    def sandbox(self, line: str) -> None:
        with oneline.one_line():
            found = arguments.parse(arguments.words(line), arguments.option_flags())
            if found.own.get("help"):
                print(grammar.sandbox_help())
                return
            if found.rest == [grammar.RESET] and not found.options:
                self.notebook.defaults = {}
            elif found.rest == [grammar.UPDATE] and not found.options:
                print(self.notebook.pinning.update(self.notebook.plan({})))
            elif found.rest[:1] in ([grammar.COURSE], [grammar.CHECK]) and not found.options:
                from magics import course

                assert self.shell is not None
                course.run(found.rest, self.shell.user_ns)
            elif found.rest:
                allowed = "options, or `reset`, `update` or `course` alone, or `check NAME`"
                raise InvalidOption("%sandbox", found.rest[0], allowed)
            elif found.options:
                self.notebook.set_defaults(found.options)
            else:
                verbs.print_plan(self.notebook.plan({}))


ContainerMagics.container.__doc__ = grammar.cell_help() + "\n" + verbs.help_text()
ContainerMagics.sandbox.__doc__ = grammar.sandbox_help()
