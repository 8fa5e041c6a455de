# First code inside: makes the modules that came on descriptor 3 importable and runs one of them.
# The outside sends, after this text and a zero byte: the magic number of its own byte code, the
# length of the marshalled code objects, these, and the same modules as source for other Pythons.
# Nothing is looked up by path, so neither a rootfs nor a working folder can take a module's place.


def boot(data: bytes, main: str) -> None:
    import marshal
    import os
    import sys
    from _frozen_importlib import ModuleSpec  # importlib itself costs more than an empty cell
    from _frozen_importlib_external import MAGIC_NUMBER

    _, _, shipped = data.partition(b"\0")
    end = 8 + int.from_bytes(shipped[4:8], "little")
    if shipped[:4] == MAGIC_NUMBER:
        codes = marshal.loads(shipped[8:end])
    else:
        sources = eval(shipped[end:])  # a dict literal that the outside wrote
        codes = {
            name: compile(text, "<sandbox " + name + ">", "exec") for name, text in sources.items()
        }
        del sources
    del data, shipped  # half a MiB, and this function runs as long as the program

    class Shipped:
        """A finder and loader for the package `sandbox_inside`."""

        @staticmethod
        def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
            if name in codes:
                return ModuleSpec(name, Shipped, is_package=name == "sandbox_inside")  # type: ignore[arg-type]
            return None

        @staticmethod
        def create_module(spec):  # type: ignore[no-untyped-def]
            return None

        @staticmethod
        def exec_module(module):  # type: ignore[no-untyped-def]
            exec(codes[module.__name__], module.__dict__)

    # The empty entry is the working folder: a file `json.py` there is the cell's, not ours.
    folder = sys.path[:1] == [""]
    if folder:
        del sys.path[0]
    sys.meta_path.insert(0, Shipped)  # type: ignore[arg-type]
    module = __import__(main)
    for part in main.split(".")[1:]:
        module = getattr(module, part)
    if folder:
        sys.path.insert(0, "")
    # The kernel layer of images without ipykernel: mounted by the outside, behind what the image
    # has, or before it where the image's own packages are too old for any ipykernel.
    for name in ("first", "last"):
        layer = "/opt/sandbox-kernel/" + name
        if os.path.isdir(layer):
            own = [index for index, path in enumerate(sys.path) if path.endswith("-packages")]
            sys.path.insert(own[0] if own and name == "first" else len(sys.path), layer)
    module.main()
