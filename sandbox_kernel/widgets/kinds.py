"""Which views there are: the words for `--show`, and what opens each. Imports nothing heavy."""

from __future__ import annotations

from sandbox_kernel.errors import InvalidOption

KINDS: dict[str, str] = {
    "limits": "sandbox_kernel.widgets.opening:limits",
    "namespaces": "sandbox_kernel.widgets.opening:namespaces",
    "layers": "sandbox_kernel.widgets.opening:layers",
    "containers": "sandbox_kernel.widgets.opening:containers",
    "network": "sandbox_kernel.widgets.opening_walls:network",
    "capabilities": "sandbox_kernel.widgets.opening_walls:capabilities",
    "system-calls": "sandbox_kernel.widgets.opening_walls:system_calls",
    "compare": "sandbox_kernel.widgets.opening_walls:compare",
    "plan": "sandbox_kernel.widgets.opening_walls:plan",
    "lifecycle": "sandbox_kernel.widgets.opening_walls:lifecycle",
}
"""The word for `--show`, and the function that opens such a view, as `module:function`."""
OF_ALL: frozenset[str] = frozenset({"compare", "containers"})
"""Views that are of no one container."""
ALONE: frozenset[str] = OF_ALL | {"network", "plan"}
"""Views that can be shown without naming one: these, and those of one that say something then."""


def class_name(name: str) -> str:
    """The name of the class in `sandbox_kernel.widgets` for a word: `system-calls`, SystemCalls."""
    return "".join(part.title() for part in name.split("-"))


def read(words: str, option: str = "show") -> list[str]:
    """The words of `--show limits,layers`, each once. Raises InvalidOption."""
    found = [word for word in words.split(",") if word]
    for word in found:
        if word not in KINDS:
            raise InvalidOption(option, word, f"one of {', '.join(KINDS)}")
    return list(dict.fromkeys(found))
