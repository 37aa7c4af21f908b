"""The zygote: one small process, forked before the core has threads, that forks every child of the core.

Theory of operation. What all processes share is imported once; then the core forks the zygote, before its first
thread, event loop or zmq Context, because none of them survives a fork. The zygote does nothing but fork on request,
reap and report, so it is always in its poll and never holds anything a child should not inherit. A request is one
datagram with three descriptors: a memfd with the order (so size is no limit), the write end of a pipe for stdout and
stderr, and the write end of a pipe for a result. Lives are chained by the kernel: the zygote is killed when the core
dies, each child when the zygote dies, whatever the child is doing and however the parent died. Each child leads its
own session; when it ends, what is left of its process group is killed before its end is reported.
"""

from __future__ import annotations

from sparkd.zygote.birth import Main
from sparkd.zygote.children import Child, Exit
from sparkd.zygote.zygote import Zygote

__all__ = ["Child", "Exit", "Main", "Zygote"]
