"""The vendor sandbox: the vendors' wire protocols over a bars history, up to a market clock.

One process speaks TLS for every vendor's hosts behind a CONNECT proxy that refuses all others.
A namespace (the proxy's user name, or the first part of a base URL) has its own market clock,
faults and call limits, so that parallel backfills each see only what was known at their session.
Real client libraries connect to it by product settings alone (``egress.proxy_url``,
``egress.ca_bundle``, a vendor's ``base_url``).

Belongs here: markets (``world``, ``packaged``, ``generated``, ``folder``), one module a vendor's
wire (``vendors``), faults, the proxy and the control API. Does not belong: anything that reads a
vendor (``marketlake.sources``).
"""
