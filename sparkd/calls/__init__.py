"""Calls: methods of interfaces, called by name from anywhere on the node and between nodes."""

from __future__ import annotations

from sparkd.calls.address import Address, parse_address
from sparkd.calls.current import current_call
from sparkd.calls.endpoint import Channel, Endpoint
from sparkd.calls.guests import Guests
from sparkd.calls.handlers import Handlers
from sparkd.calls.hosts import connect_to_core, open_to_hosts
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.outgoing import Call, ItemStream, OutgoingCall, Result
from sparkd.calls.payloads import Payloads, whole
from sparkd.calls.router import CallRouter
from sparkd.calls.rules import Rules
from sparkd.calls.stub import Terms, request_plain, requester, stub
from sparkd.calls.witness import Finish, Witness

__all__ = [
    "Address",
    "Call",
    "CallRouter",
    "Channel",
    "Endpoint",
    "Finish",
    "Guests",
    "Handlers",
    "IncomingCall",
    "ItemStream",
    "OutgoingCall",
    "Payloads",
    "Result",
    "Rules",
    "Terms",
    "Witness",
    "connect_to_core",
    "current_call",
    "open_to_hosts",
    "parse_address",
    "request_plain",
    "requester",
    "stub",
    "whole",
]
