"""Mode `fresh`: each cell in a container of its own; what crosses lies here as plain data (D6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sandbox_kernel import engine
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.errors import InvalidOption, ValueNotTransferable
from sandbox_kernel.policy import ContainerPlan

NOT_DEFINED = "?"
"""The type that is told of a variable which the cell has not defined."""


class Fresh:
    """The values of the notebook, and the names that go into each cell and come out again."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.shared: dict[str, None] = {}

    def request(
        self,
        code: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        *,
        carried: bool = False,
    ) -> CellRequest:
        """The cell with what it gets and gives. Raises InvalidOption for an unknown `--in`.

        Where the state is `carried`, it has what is shared, as it was in that very state.
        """
        for asked in inputs:
            if asked not in self.values:
                known = ", ".join(self.values) or "none yet: `--out` and `share` keep some"
                raise InvalidOption("--in", asked, f"values that were kept: {known}")
        shared = () if carried else self.shared
        given = {key: self.values[key] for key in (*inputs, *shared) if key in self.values}
        wanted = tuple(dict.fromkeys((*outputs, *self.shared)))
        return CellRequest(
            code=code, name=name, inputs=given, outputs=wanted, shell_lines=True, by="cells"
        )

    def take(self, running: Iterable[e.Event], outputs: tuple[str, ...]) -> Iterator[e.Event]:
        """The events of a run; values are kept, and what was shared and deleted is forgotten."""
        for event in running:
            match event:
                case e.Value():
                    self.values[event.name] = event.value
                case e.Error(failure=ValueNotTransferable() as failure) if (
                    failure.kind == NOT_DEFINED and failure.name not in outputs
                ):
                    self.values.pop(failure.name, None)
                case _:
                    yield event

    def start(self, plan: ContainerPlan, request: CellRequest) -> engine.Run:
        """The cell in a container that no other cell had or will have."""
        return engine.start(plan, request)

    def describe(self) -> Mapping[str, str]:
        """Each kept value: name to its type, `shared` or not."""
        told = {}
        for name in dict.fromkeys((*self.shared, *self.values)):
            kind = type(self.values[name]).__name__ if name in self.values else "no value yet"
            told[name] = f"{kind}, shared" if name in self.shared else kind
        return told
