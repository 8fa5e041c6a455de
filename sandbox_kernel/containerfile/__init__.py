"""Containerfiles (Dockerfiles) as data: reading one, its words, its ignore file. Pure, no build."""

from sandbox_kernel.containerfile.parse import Containerfile, Stage, parse

__all__ = ["Containerfile", "Stage", "parse"]
