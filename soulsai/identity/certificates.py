"""Certificates of an own authority, which clients know, and of the server that it signs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from soulsai.errors import ConfigError
from soulsai.wire.secrets import CA, write_file

CA_KEY = "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_DAYS = 30  # before the end
_HOSTS_ALWAYS = ("localhost", "127.0.0.1")
_SKEW = timedelta(hours=25)  # a client's clock may be in another time zone by mistake


def issue(folder: Path, hosts: Sequence[str], now: datetime, mode: int) -> list[str]:
    """Create or renew the files of a TLS server; return the names of the files written.

    Args:
        folder: Folder of the files.
        hosts: Names and addresses of the server; if empty, existing certificates are renewed 30
            days before they expire.
        now: With a time zone.
        mode: Permissions of the server's key; the authority's key is always private.
    """
    for host in hosts:
        _alternative(host)  # refused before any file is written
    current = _read(folder / SERVER)
    before = _hosts_of(current)  # stay: earlier invites name them
    names = list(dict.fromkeys([*hosts, *_HOSTS_ALWAYS, *before])) if hosts else before
    if not names:
        return []
    written: list[str] = []
    authority = _read(folder / CA)
    if authority is None:
        _make_authority(folder, now)
        authority = _read(folder / CA)
        written += [CA_KEY, CA]
    if authority is None:
        raise ConfigError(f"{folder / CA}: cannot be read back")
    if current is None or not _serves(current, authority, names, now):
        _make_server(folder, authority, names, now, mode)
        written += [SERVER_KEY, SERVER]
    (folder / SERVER_KEY).chmod(mode)
    return written


def _serves(
    certificate: x509.Certificate, authority: x509.Certificate, hosts: list[str], now: datetime
) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    ends = certificate.not_valid_after_utc
    return set(hosts) <= set(_hosts_of(certificate)) and ends - now > timedelta(days=_RENEW_DAYS)


def _make_authority(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "soulsai")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key, now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder, CA_KEY, CA, key, certificate, 0o600)


def _make_server(
    folder: Path, authority: x509.Certificate, hosts: list[str], now: datetime, mode: int
) -> None:
    signer = _authority_key(folder / CA_KEY)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _builder(name, authority.subject, key, now, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(map(_alternative, hosts)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(of_authority, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(folder, SERVER_KEY, SERVER, key, certificate, mode)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _write(
    folder: Path,
    key_name: str,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    mode: int,
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_file(folder / key_name, pem.decode(), mode)
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    write_file(folder / name, text, 0o644)


def _authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: the authority's key cannot be read ({type(error).__name__}); remove {CA} "
            f"beside it to begin a new authority, which clients must be told of"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: is not a key that was made here")
    return key


def _read(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is not a certificate ({type(error).__name__})") from None


def _hosts_of(certificate: x509.Certificate | None) -> list[str]:
    if certificate is None:
        return []
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"--host {host}: is no name for a certificate: {error}") from None
