"""Conda environments: declared by an `environment.yml`, resolved by rattler, linked by ourselves.

The library is asked in a process of its own (`rattler`), what it chose is a lock (`lock`), and what
it fetched is taken apart here (`archives`, `linking`). No code of a package is run.
"""
