"""A server on this machine that speaks like the providers, over TLS and under their names, with faults on demand.

The code under test is told nothing: names lead here because the resolver given to it (or this process's
`socket.getaddrinfo`) says so, and the certificate is good because its authority is trusted for the test.
"""

from .certificate import Certificate
from .pictures import PICTURE, SIGNATURE, png
from .server import HOSTS, OVERSIZED, Loopback, Request, StandIn

__all__ = ["HOSTS", "OVERSIZED", "PICTURE", "SIGNATURE", "Certificate", "Loopback", "Request", "StandIn", "png"]
