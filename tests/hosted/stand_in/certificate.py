"""A certificate for the providers' names, created with the openssl program for one test run."""

import ssl
import subprocess
from pathlib import Path


class Certificate:
    """`trust` is for clients, `serve` for the server; `file` is the authority, for SSL_CERT_FILE."""

    def __init__(self, folder: Path, hosts: tuple[str, ...], expired: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.key = folder / "authority.pem", folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in hosts)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        about = ["-subj", "/CN=stand-in", "-addext", f"subjectAltName={names}"]
        run("req", "-x509", *curve, *about, "-keyout", str(self.key), "-out", str(self.file))
        if expired:
            run("x509", "-in", str(self.file), "-signkey", str(self.key), "-days", "-1", "-out", str(self.file))
        self.trust = ssl.create_default_context(cafile=str(self.file))
        self.serve = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.serve.load_cert_chain(self.file, self.key)


def run(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
