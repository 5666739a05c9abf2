"""A local server that behaves like the providers, over TLS and under their names, with faults on demand.

The code under test has no switch for tests: names lead here through the resolver that it is given (or this process's
`socket.getaddrinfo`), and the certificate is valid because its authority is trusted during the test.
"""

from .certificate import Certificate
from .pictures import PICTURE, SIGNATURE, png
from .server import HOSTS, OVERSIZED, Loopback, Request, StandIn

__all__ = ["HOSTS", "OVERSIZED", "PICTURE", "SIGNATURE", "Certificate", "Loopback", "Request", "StandIn", "png"]
