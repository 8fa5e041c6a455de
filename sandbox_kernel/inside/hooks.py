"""What happens when a cell imports certain modules: IPython's display, matplotlib, linecache.

None of them is imported by us. A module that is found by the others' finders is loaded as always,
and then changed a little, before the cell sees it.
"""

import os
import sys

TAKERS_OF_DISPLAY = ("IPython.display", "IPython.core.display", "matplotlib_inline.backend_inline")


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


def install(display, cell_name, text):
    """Prepares the actions; those for modules that are there already are done at once."""
    os.environ.setdefault("MPLBACKEND", "agg")

    def lines_of_the_cell(module):
        lines = [line + "\n" for line in text.split("\n")]
        module.cache[cell_name] = (len(text), None, lines, cell_name)

    def show_instead_of_window(module):
        def show(*arguments, **options):
            """Shows the open figures in the notebook."""
            show_figures(display)

        module.show = show

    def our_display(module):
        ours = {
            "display": display.display,
            "clear_output": display.clear_output,
            "publish_display_data": display.publish,
            "DisplayHandle": display.Handle,
        }
        # Those that a template has imported have taken these names from it already.
        takers = [sys.modules[name] for name in TAKERS_OF_DISPLAY if name in sys.modules]
        for name, own in ours.items():
            original = getattr(module, name, None)
            for taker in takers:
                if getattr(taker, name, None) is original:
                    setattr(taker, name, own)
            setattr(module, name, own)

    actions = {
        "linecache": lines_of_the_cell,
        "matplotlib.pyplot": show_instead_of_window,
        "IPython.core.display_functions": our_display,
    }
    for name in [name for name in actions if name in sys.modules]:
        actions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, AfterImport(actions))


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
