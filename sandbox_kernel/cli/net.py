"""`sandbox-kernel net`: the networks of this user, who is in them, and what goes on there."""

from __future__ import annotations

from collections.abc import Callable

from sandbox_kernel import container, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import network_facts, output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.network.protocol import Shape
from sandbox_kernel.observe import networks

_DISALLOW = Flag("disallow", ("--disallow",), "ENTRY",
    "With `change`: take an entry off the allow-list; what it let through ends at once.",
    many=True)  # fmt: skip
_RULES = Flag("rules", ("--rules",), "", "With `show`: also the rules that all containers share.")
_UNTIL_NOW = Flag("until_now", ("--until-now",), "", "With `watch`: print what was, and end.")
CHANGING = ("allow", "bandwidth", "latency", "loss")


def net(found: Parsed) -> int:
    """Sorts the words to what does them."""
    return perform(found, settings.COMMAND_LINE)


def perform(found: Parsed, source: str) -> int:
    """As `net`, on the word of a source: a notebook may not widen what its user allows."""
    do, *rest = found.rest or ["ls"]
    if do not in _DO:
        raise InvalidOption("net", do, f"one of {', '.join(_DO)}")
    least, most, act = _DO[do]
    if not least <= len(rest) <= most:
        raise InvalidOption(f"net {do}", " ".join(rest) or "nothing", f"sandbox-kernel {USAGE}")
    for name, of in (("disallow", "change"), ("rules", "show"), ("until_now", "watch")):
        if name in found.own and do != of:
            raise InvalidOption("--" + name.replace("_", "-"), do, f"only with `net {of}`")
    if found.options and do != "change":
        name = next(iter(found.options))
        raise InvalidOption(settings.OPTIONS[name].flags[0], do, "only with `net change`")
    act(found, rest, source)
    return 0


def _list(found: Parsed, rest: list[str], source: str) -> None:
    listed = networks.list_all()
    if found.own.get("format") == "json":
        output.data(listed)
        return
    section = network_facts.networks(listed)
    output.table(section.headings, section.rows)


def _create(found: Parsed, rest: list[str], source: str) -> None:
    print(networks.create(rest[0])["name"])


def _remove(found: Parsed, rest: list[str], source: str) -> None:
    for name in rest:
        networks.remove(name)
        print(name)


def _inspect(found: Parsed, rest: list[str], source: str) -> None:
    output.data([networks.inspect(name) for name in rest])


def _connect(found: Parsed, rest: list[str], source: str) -> None:
    made = networks.connect(*rest)
    print(f"{made['interface']} {made['address']}")


def _disconnect(found: Parsed, rest: list[str], source: str) -> None:
    networks.disconnect(*rest)


def _show(found: Parsed, rest: list[str], source: str) -> None:
    facts = networks.facts(rest[0])
    if found.own.get("format") == "json":
        output.data(facts)
        return
    print(output.clean(network_facts.title(facts)))
    for section in network_facts.sections(facts, rules=bool(found.own.get("rules"))):
        print(f"\n{section.title}:" + ("" if section.rows else f" {section.nothing}"))
        if section.rows:
            output.table(section.headings, section.rows)


def _change(found: Parsed, rest: list[str], source: str) -> None:
    """What is added is held to the ceilings of the user; to take away is always well."""
    live = container.find(rest[0])
    dropped = found.own.get("disallow", ())
    if not found.options and not dropped:
        flags = ", ".join(settings.OPTIONS[name].flags[0] for name in CHANGING)
        raise InvalidOption("net change", rest[0], f"{flags} or --disallow with it")
    wished = policy.change_network(live.plan, source, **found.options)
    added = settings.read_options(found.options, source).get("allow", ())
    shape = None
    if shaped := found.options.keys() & {"bandwidth", "latency", "loss"}:
        # What is not named stays as it is, which an earlier change may have set.
        values = {**networks.facts(live.id)["shape"], **{k: getattr(wished, k) for k in shaped}}
        shape = Shape(values["bandwidth"] or 0, values["latency"] or 0.0, values["loss"] or 0.0)
    networks.change(live.id, add=[str(entry) for entry in added], drop=list(dropped), shape=shape)


def _watch(found: Parsed, rest: list[str], source: str) -> None:
    """What is dropped, as it happens, until it is interrupted."""
    reference = rest[0] if rest else None
    until_now = found.own.get("until_now")
    for drop in (
        networks.drops(reference)["drops"] if until_now else networks.watch_drops(reference)
    ):
        if found.own.get("format") == "json":
            output.line(drop)
        else:
            print(output.clean(network_facts.drop_line(drop)), flush=True)


_MANY = 1000
_DO: dict[str, tuple[int, int, Callable[[Parsed, list[str], str], None]]] = {
    "ls": (0, 0, _list),
    "create": (1, 1, _create),
    "rm": (1, _MANY, _remove),
    "inspect": (1, _MANY, _inspect),
    "connect": (2, 2, _connect),
    "disconnect": (2, 2, _disconnect),
    "show": (1, 1, _show),
    "change": (1, 1, _change),
    "watch": (0, 1, _watch),
}
WORDS = tuple(_DO)
USAGE = (
    "net ls | create NETWORK | rm NETWORK... | inspect NETWORK... | connect NETWORK CONTAINER | "
    "disconnect NETWORK CONTAINER | show CONTAINER | change [options] CONTAINER | watch [CONTAINER]"
)
VERBS = {
    "net": Verb(
        USAGE,
        "The networks of yours: list, make, remove; connect a container that lives to one more; "
        "show all that is known of a container's network; change what it may reach, at once; watch "
        "what is dropped.",
        net,
        (_DISALLOW, _RULES, _UNTIL_NOW, FORMAT),
        options=CHANGING,
    )
}
