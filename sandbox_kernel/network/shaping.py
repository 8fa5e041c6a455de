"""How slow a link is: a bandwidth by `tbf`, latency and loss by `netem`, where the kernel has them.

Both are for what a link sends, so each container's link is shaped at both ends.
Sources: tc-tbf(8), tc-netem(8), include/uapi/linux/pkt_sched.h.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELQDISC, RTM_NEWQDISC, TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import sched_netem, sched_tbf, tcmsg

from sandbox_kernel.errors import LimitNotEnforceable
from sandbox_kernel.network.netlink import Netlink
from sandbox_kernel.network.protocol import Shape

LONGEST_QUEUE_SECONDS = 0.4
"""Of packets that wait for their turn; what comes beyond is dropped, as a slow link would."""
LEAST_BURST = 32 << 10
_ROOT, _INNER = 0x10000, 0x20000
_FIRST_CLASS = 0x10001
_PACKETS_EACH_SECOND = 100_000


def shape(links: Netlink, index: int, wanted: Shape) -> None:
    """Have a link send so, from now on. Raises LimitNotEnforceable, OSError."""
    message = tcmsg()
    message["index"], message["parent"] = index, TC_H_ROOT
    try:
        links.request([(RTM_DELQDISC, 0, message)])
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # there was none
            raise
    if not wanted:
        return
    parent, handle = TC_H_ROOT, _ROOT
    if wanted.latency or wanted.loss:
        asked = f"{wanted.latency:g} s" if wanted.latency else f"{wanted.loss:.2%}"
        _add(links, index, parent, handle, "netem", _netem(wanted), asked)
        parent, handle = _FIRST_CLASS, _INNER
    if wanted.bandwidth:
        asked = f"{wanted.bandwidth} bit/s"
        _add(links, index, parent, handle, "tbf", _tbf(wanted.bandwidth), asked)


def _add(
    links: Netlink,
    index: int,
    parent: int,
    handle: int,
    kind: str,
    options: dict[str, Any],
    asked: str,
) -> None:
    message = tcmsg()
    message["index"], message["parent"], message["handle"] = index, parent, handle
    message["attrs"] = [("TCA_KIND", kind), ("TCA_OPTIONS", options)]
    try:
        links.request([(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, message)])
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        option = "--bandwidth" if kind == "tbf" else "--latency` and `--loss"
        raise LimitNotEnforceable(
            option,
            asked,
            f"its kernel has no `{kind}`",
            f"use one with CONFIG_NET_SCH_{kind.upper()}, or load the module sch_{kind}",
        ) from error


def _tbf(bandwidth: int) -> dict[str, Any]:
    rate = max(1, bandwidth // 8)
    burst = max(LEAST_BURST, rate // 100)
    limit = burst + int(rate * LONGEST_QUEUE_SECONDS)
    found: dict[str, Any] = sched_tbf.get_parameters(
        {"rate": rate, "burst": burst, "limit": limit, "mtu": 0}
    )
    return found


def _netem(wanted: Shape) -> dict[str, Any]:
    waiting = int(wanted.latency * _PACKETS_EACH_SECOND) + 1000
    found: dict[str, Any] = sched_netem.get_parameters(
        {
            "delay": int(wanted.latency * 1_000_000),
            "loss": wanted.loss * 100,
            "limit": waiting,
        }
    )
    return found
