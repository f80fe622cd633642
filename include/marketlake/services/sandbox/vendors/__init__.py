"""The vendors that the sandbox speaks for, one module each.

A vendor turns a request and a way to look at the market into an answer, and words its own
refusals. To add one, write a module with a class that has this protocol and list it in
:data:`VENDORS`. What does not belong here: transport, faults, clocks.
"""

from __future__ import annotations

from marketlake.services.sandbox.vendors.alpaca import Alpaca
from marketlake.services.sandbox.vendors.alpha_vantage import AlphaVantage
from marketlake.services.sandbox.vendors.fred import Fred
from marketlake.services.sandbox.vendors.stooq import Stooq
from marketlake.services.sandbox.vendors.wire import Vendor
from marketlake.services.sandbox.vendors.yahoo import Yahoo

VENDORS: tuple[Vendor, ...] = (Yahoo(), AlphaVantage(), Alpaca(), Fred(), Stooq())
