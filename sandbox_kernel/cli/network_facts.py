"""The facts of a container's network as titled tables, for a terminal and for a notebook."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sandbox_kernel import grammar


class Section(NamedTuple):
    """One table. `rows` may be empty: then `nothing` says so."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    nothing: str = "none"


WHY = {
    "private": "a private, link-local or other special address, or one of this machine",
    "not-allowed": "not on the allow-list",
    "no-way-out": "its network has no way out",
    "too-many-flows": "it has more connections than it may at once",
    "spoofed": "another address than it was given",
    "ipv6": "IPv6 is off",
    "to-gateway": "the gateway has nothing for containers but names",
    "multicast": "broadcasts and multicasts are not passed on",
    "unknown-protocol": "neither IPv4 nor ARP",
}
"""What the reasons of `network.protocol.REASONS` mean."""


def sections(facts: Mapping[str, Any], *, rules: bool = True) -> list[Section]:
    """All tables, in the order in which one asks: where is it, what may it, what did it do."""
    found = [_networks(facts), _allowed(facts), *_inside(facts["inside"])]
    found += [_asked(facts["asked"], facts["questions_dropped"]), _dropped(facts["drops"])]
    return [*found, _rules(facts["rules"])] if rules else found


def title(facts: Mapping[str, Any]) -> str:
    """Whose facts these are."""
    name = facts["name"]
    return f"{name} ({facts['container']})" if name else str(facts["container"])


def networks(listed: Sequence[Mapping[str, Any]]) -> Section:
    """All networks of this user."""
    rows = [
        (
            str(network["name"]),
            str(network["subnet"]),
            str(network["gateway"]),
            "yes" if network["outside"] else "no",
            ", ".join(each["name"] or key for key, each in network["containers"].items()) or "-",
            str(network["ready"]),
        )
        for network in listed
    ]
    headings = ("network", "addresses", "gateway", "way out", "containers", "ready")
    return Section("networks", headings, rows)


def drop_line(drop: Mapping[str, Any]) -> str:
    """One packet that was not let through, as a line of a log."""
    moment = time.strftime("%H:%M:%S", time.localtime(drop["time"]))
    target = drop["destination"] + (f":{drop['port']}" if drop["port"] else "")
    why = WHY.get(drop["reason"], drop["reason"])
    return f"{moment} dropped {drop['protocol']} {drop['source']} -> {target}: {why}"


def asked_line(asked: Mapping[str, Any]) -> str:
    """One question for a name, as a line of a log."""
    moment = time.strftime("%H:%M:%S", time.localtime(asked["time"]))
    told = ", ".join(asked["addresses"])
    outcome = f"{asked['outcome']}: {told}" if told else str(asked["outcome"])
    return f"{moment} asked {asked['kind']} {asked['name']}: {outcome}"


def _networks(facts: Mapping[str, Any]) -> Section:
    rows = []
    for link in facts["networks"]:
        others = ", ".join(f"{name} {at}" for name, at in link["neighbours"].items())
        way = "yes" if link["outside"] else "no"
        rows.append(
            (link["network"], link["interface"], link["address"], link["mac"], link["gateway"],
             way, others or "-")
        )  # fmt: skip
    headings = ("network", "link", "address", "hardware", "gateway", "way out", "neighbours")
    return Section("networks", headings, rows)


def _allowed(facts: Mapping[str, Any]) -> Section:
    listed = facts["allow"]
    shape = facts["shape"]
    shaped = [
        f"{shape['bandwidth']} bit/s" if shape["bandwidth"] else "",
        f"latency {grammar.shown_seconds(shape['latency'])}" if shape["latency"] else "",
        f"loss {shape['loss'] * 100:g} %" if shape["loss"] else "",
    ]
    rows = [("shape", ", ".join(word for word in shaped if word) or "as fast as it can be")]
    if listed is not None:
        more = facts["allow_count"] - len(listed)
        rows += [("allowed", entry) for entry in listed]
        rows += [("allowed", f"and {more} more")] if more else []
        rows += [] if listed else [("allowed", "nothing")]
    elif any(link["outside"] for link in facts["networks"]):
        rows.append(("allowed", "all public addresses"))
    return Section("what it may", ("kind", "value"), rows)


def _inside(inside: Mapping[str, Any]) -> list[Section]:
    links = [
        (
            str(link["name"]),
            ", ".join(link["addresses"]) or "-",
            str(link["mac"] or "-"),
            str(link["mtu"]),
            "up" if link["up"] else "down",
            str(link["queueing"] or "-"),
            _counted(link, "received"),
            _counted(link, "sent"),
        )
        for link in inside["links"]
    ]
    routes = [
        (route["to"], route["via"] or "-", route["link"] or "-") for route in inside["routes"]
    ]
    connections = [
        (
            each["protocol"],
            each["state"],
            f"{each['local']}:{each['local_port']}",
            f"{each['remote']}:{each['remote_port']}" if each["remote_port"] else "-",
            f"{each['waiting']}/{each['unsent']}",
        )
        for each in inside["connections"]
    ]
    headings = ("link", "addresses", "hardware", "mtu", "state", "queueing", "received", "sent")
    return [
        Section("links inside", headings, links),
        Section("routes inside", ("to", "via", "link"), routes),
        Section("connections", ("protocol", "state", "own", "other", "unread/unsent"), connections),
    ]


def _counted(link: Mapping[str, Any], way: str) -> str:
    dropped = link[f"{way}_dropped"]
    text = f"{link[f'{way}_packets']} packets, {grammar.shown_size(link[f'{way}_bytes'])}"
    return text + (f", {dropped} dropped" if dropped else "")


def _asked(asked: Sequence[Mapping[str, Any]], too_many: int) -> Section:
    """Questions that are the same are one row."""
    counted = Counter(
        (each["name"], each["kind"], each["outcome"], ", ".join(each["addresses"]))
        for each in asked
    )
    rows = [
        (name, kind, str(count), outcome, addresses or "-")
        for (name, kind, outcome, addresses), count in counted.items()
    ]
    if too_many:
        rows.append(("-", "-", str(too_many), "too many at once: not read", "-"))
    return Section("names asked for", ("name", "type", "times", "answer", "addresses"), rows)


def _dropped(drops: Sequence[Mapping[str, Any]]) -> Section:
    counted = Counter(
        (each["protocol"], each["destination"], each["port"], each["reason"]) for each in drops
    )
    rows = [
        (
            protocol,
            f"{destination}:{port}" if port else str(destination),
            str(count),
            WHY.get(reason, reason),
        )
        for (protocol, destination, port, reason), count in counted.most_common()
    ]
    return Section("dropped", ("protocol", "to", "packets", "why"), rows)


def _rules(rules: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        (
            f"{rule['family']} {rule['chain']}",
            str(rule["rule"]),
            "-" if rule["packets"] is None else str(rule["packets"]),
        )
        for rule in rules
    ]
    return Section("rules outside, of all containers", ("chain", "rule", "packets"), rows)
