"""Networks of containers: bridges, addresses, rules, names, a way out; all by netlink (D11)."""
