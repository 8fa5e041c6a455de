"""What happens when a cell imports certain modules: IPython's display, matplotlib, linecache.

None of them is imported by us. A module that is found by the others' finders is loaded as always,
and then changed a little, before anybody sees it. In a template that is before its modules are
imported: what these take from IPython is ours, and shows in whichever cell runs then.
"""

import os
import sys

from . import display as displays


class AfterImport:
    """A finder that finds what the rest of sys.meta_path finds, and acts after it was loaded."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        action = self.actions.pop(name, None)
        if action is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = Loader(spec.loader, action)
                return spec
        return None


class Loader:
    """Another loader, with one action after it."""

    def __init__(self, loader, action):
        self.loader = loader
        self.action = action

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        # The module keeps its own loader: inspect and pickle look at it.
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.action(module)

    def __getattr__(self, name):
        return getattr(self.loader, name)


def prepare():
    """Changes the modules that are there already, and each other one as it is imported."""
    os.environ.setdefault("MPLBACKEND", "agg")  # in a template, so that its children have it
    finder = AfterImport(
        {
            "matplotlib.pyplot": show_instead_of_window,
            "IPython.core.display_functions": our_display,
        }
    )
    for name in [name for name in finder.actions if name in sys.modules]:
        finder.actions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, finder)
    return finder


def show_instead_of_window(module):
    def show(*arguments, **options):
        """Shows the open figures in the notebook."""
        show_figures(displays.current)

    module.show = show


def our_display(module):
    module.display = displays.display
    module.clear_output = displays.clear_output
    module.publish_display_data = displays.publish
    module.DisplayHandle = displays.Handle


def install(display, cell_name, text):
    """For one cell: where it shows, and what tracebacks of it quote."""
    os.environ.setdefault("MPLBACKEND", "agg")
    displays.current = display

    def lines_of_the_cell(module):
        lines = [line + "\n" for line in text.split("\n")]
        module.cache[cell_name] = (len(text), None, lines, cell_name)

    finders = [one for one in sys.meta_path if isinstance(one, AfterImport)]
    finder = finders[0] if finders else prepare()
    if "linecache" in sys.modules:
        lines_of_the_cell(sys.modules["linecache"])
    else:
        finder.actions["linecache"] = lines_of_the_cell


def show_figures(display):
    """Shows and closes each open figure that has something in it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        pyplot.close(figure)
        if figure.axes or figure.lines or getattr(figure, "subfigs", ()):
            display.display(figure)
