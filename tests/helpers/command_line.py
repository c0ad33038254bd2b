"""The command line in this process, with all its commands: building them takes a third of a second, so once."""

from consortia.cli import build_app

__all__ = ["APP"]

APP = build_app()
