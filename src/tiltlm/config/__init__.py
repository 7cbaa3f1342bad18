"""YAML ⇄ settings ⇄ overrides. Only the command line, and the calls that are its twins, come through here."""

from tiltlm.config.resolve import parse_overrides, resolve, to_yaml

__all__ = ["parse_overrides", "resolve", "to_yaml"]
