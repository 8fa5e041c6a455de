"""Containerfiles (Dockerfiles) as data: `parse` reads one, `words` its values. Pure, no build.

Nothing is imported here: `glob` and `ignore` are used by the launcher, which has to stay light.
"""
