"""A certificate authority as Let's Encrypt is one, in the stack's own network: pebble."""

import json
import ssl
import urllib.request
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.stack.stack_cases import free_port

DOMAIN = "train.example.test"
OVERRIDE = """
services:
  nginx:
    networks: {{server: {{aliases: [{domain}]}}}}
  certbot:
    environment: {{REQUESTS_CA_BUNDLE: /pebble/cert.pem}}
    volumes: ["{folder}:/pebble:ro"]
    depends_on: {{pebble: {{condition: service_healthy}}}}
  pebble:
    image: soulsai-pebble:test
    user: "${{SOULSAI_UID}}:${{SOULSAI_GID}}"
    command: [pebble, -config, /pebble/pebble.json, -dnsserver, "127.0.0.11:53"]
    environment: {{PEBBLE_VA_NOSLEEP: "1"}}
    init: true
    networks: [server]
    ports: ["127.0.0.1:{port}:15000"]
    volumes: ["{folder}:/pebble:ro"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, --no-check-certificate, "https://127.0.0.1:14000/dir"]
      interval: 1s
      start_period: 30s
"""


class Authority:
    """The files of an authority, and what its clients must know of it."""

    def __init__(self, stack):
        self.folder = stack.folder / "pebble"
        self.folder.mkdir(mode=0o755)
        self.management = free_port()
        self._pair()
        settings = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": "/pebble/cert.pem",
            "privateKey": "/pebble/key.pem",
            "httpPort": 8080,
            "tlsPort": 8443,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        override = stack.folder / "deploy/reverse_proxy/test.yaml"
        override.write_text(
            OVERRIDE.format(domain=DOMAIN, folder=self.folder, port=self.management)
        )
        for file in self.folder.iterdir():
            file.chmod(0o644)

    def root(self):
        """Return the root certificate that it issues from, as PEM."""
        own = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        url = f"https://localhost:{self.management}/roots/0"
        with urllib.request.urlopen(url, context=own, timeout=10) as answer:
            return answer.read().decode()

    def _pair(self):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pebble")])
        names = [x509.DNSName(word) for word in ("pebble", "localhost")]
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=9))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.folder / "key.pem").write_bytes(private)
        (self.folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
