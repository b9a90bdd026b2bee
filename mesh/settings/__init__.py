"""Typed settings from flags, the environment, a YAML file and defaults, in this order.

    loaded = load("sage.yaml")
    loaded.settings.broker.grace        # 2.0
    loaded.origin("broker.grace")       # "sage.yaml:12"

It reads and checks; what the values do is the business of whoever is given them.
"""

from __future__ import annotations

from mesh.settings.keys import Key, canonical, keys, value_of
from mesh.settings.load import FILE_VARIABLE, Flags, Loaded, changed, load
from mesh.settings.model import BUILT_IN, Settings
from mesh.settings.rules import (
    BOTH,
    CLIENTS,
    WORKERS,
    Wanted,
    binds,
    brokers,
    monitor_at,
    wanted,
)
from mesh.settings.text import default_yaml, schema, schema_text, show_rows, show_yaml
from mesh.settings.values import Problem

__all__ = [
    "BOTH",
    "BUILT_IN",
    "CLIENTS",
    "FILE_VARIABLE",
    "WORKERS",
    "Flags",
    "Key",
    "Loaded",
    "Problem",
    "Settings",
    "Wanted",
    "binds",
    "brokers",
    "canonical",
    "changed",
    "default_yaml",
    "keys",
    "load",
    "monitor_at",
    "schema",
    "schema_text",
    "show_rows",
    "show_yaml",
    "value_of",
    "wanted",
]
