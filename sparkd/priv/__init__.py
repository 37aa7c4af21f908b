"""sparkd-priv: the few deeds of a node that need root, and nothing else. Programs layer.

Theory of operation. The core runs without any right and cannot start system units. This daemon can, and is kept
small: systemd holds its socket and starts it for a request, one thread answers each connection, and it leaves when
nobody has asked for a while. Who may connect is one account (SO_PEERCRED). What may be asked is a fixed list
(`sparkd.deeds`), cut down by root's own `/etc/sparkd/priv.toml`. How a unit looks comes from root's config, read here
afresh for each start, and never from the request. Programs are run by absolute path with a list of arguments, an
environment of our own and a time limit; there is no shell. Every request leaves a synced line in the audit.
"""

from __future__ import annotations

from sparkd.priv.main import main

__all__ = ["main"]
