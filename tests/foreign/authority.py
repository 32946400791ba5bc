"""A certificate authority of its own, by the command `openssl`."""

import base64
import hashlib
import os
import pathlib
import ssl
import subprocess

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()


class Authority:
    """Issues the gateway's certificate into files of a directory, and renews it there."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        subject = "-x509 -days 2 -subj /CN=tests".split()
        self.openssl("req", *KEY, *subject, "-keyout", "ca.key", "-out", "ca.pem")
        names = self.directory / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n", encoding="utf-8")
        self.renew()

    def openssl(self, *arguments, **more):
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.directory, check=True, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **more,
        )
        return done.stdout

    def renew(self):
        """Another certificate for another key, put in the place of the old one as ACME clients do:
        written beside it, then renamed. Answers the certificate."""
        self.openssl("req", *KEY, "-subj", "/CN=localhost", "-keyout", "new.key", "-out", "new.csr")
        issue = "x509 -req -in new.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 60"
        self.openssl(*issue.split(), "-extfile", "names", "-out", "new.pem")
        os.replace(self.directory / "new.pem", self.directory / "cert.pem")
        os.replace(self.directory / "new.key", self.directory / "key.pem")
        return self.certificate()

    def certificate(self):
        """The certificate in the file, as bytes."""
        text = (self.directory / "cert.pem").read_text(encoding="utf-8")
        return ssl.PEM_cert_to_DER_cert(text)

    def settings(self):
        """What a gateway is told to use it."""
        return (
            "tls.listen=127.0.0.1:0",
            f"tls.certificate={self.directory}/cert.pem",
            f"tls.key={self.directory}/key.pem",
        )

    def client(self):
        """What a client needs to trust the authority, and nobody else."""
        return ssl.create_default_context(cafile=self.directory / "ca.pem")

    def key_fingerprint(self):
        """What Chromium calls the fingerprint of the certificate's key."""
        key = self.openssl("x509", "-in", "cert.pem", "-pubkey", "-noout")
        key = self.openssl("pkey", "-pubin", "-outform", "der", input=key)
        return base64.b64encode(hashlib.sha256(key).digest()).decode()
