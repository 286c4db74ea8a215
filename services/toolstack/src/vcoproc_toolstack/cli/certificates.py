"""A small certificate authority for the control API: X.509 by the library cryptography.

Everything is in one directory, for its owner alone: ca.crt and ca.key; server.crt and server.key;
access.toml; and clients/NAME with ca.crt, client.crt and client.key for each caller. Any other
authority will do as well: the toolstack only needs the files.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vcoproc.config import name_problem
from vcoproc.errors import AlreadyExists, InvalidArgument, NotFound
from vcoproc_toolstack.access import parse_roles
from vcoproc_toolstack.records import Role

_ACCESS_FILE: Final = "access.toml"
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}", re.IGNORECASE)
"""A host name as of RFC 1123 section 2.1, with the underscores that container engines allow; the
first label may be a wildcard."""
_HOST_CHARACTERS_MAX: Final = 253
_BACKDATED: Final = datetime.timedelta(minutes=5)
"""Clocks of two machines differ a little."""


class Authority:
    """Signs certificates. Its files are in `directory`."""

    def __init__(
        self, directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._directory = directory
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, directory: Path, *, days: int, hosts: Sequence[str] = LOCAL_HOSTS) -> Authority:
        """A new one, with a certificate for the server and an access file with nobody in it.

        Args:
            hosts: DNS names and addresses under which clients reach the server; at least one.

        Raises:
            AlreadyExists: there is one in that directory.
            InvalidArgument: the directory cannot be made, or a host is neither name nor address.
        """
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        if (directory / "ca.key").exists():
            raise AlreadyExists("authority", str(directory))
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgument("directory", f"{directory}: {error.strerror}") from None
        key = ec.generate_private_key(ec.SECP256R1())
        # Two authorities must not have one name: a client that trusts both would mix them up.
        name = _name(f"vcoproc authority {secrets.token_hex(4)}")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = (
            _builder(name, name, key.public_key(), days)
            .add_extension(constraints, critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(directory / "ca.crt", _pem(certificate))
        _write(directory / "ca.key", _key_pem(key))
        authority = cls(directory, certificate, key)
        authority._issue(
            directory / "server", "vcoproc server", ExtendedKeyUsageOID.SERVER_AUTH, names, days
        )
        authority._write_roles({})
        return authority

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The one of a directory.

        Raises:
            NotFound: there is none.
            InvalidArgument: its files are not what they should be.
        """
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        except FileNotFoundError:
            raise NotFound("authority", str(directory)) from None
        except (OSError, ValueError, TypeError) as error:
            raise InvalidArgument("authority", f"{directory}: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidArgument("authority", f"{directory}: ca.key is of another kind")
        return cls(directory, certificate, key)

    def add_client(self, name: str, role: str, *, days: int) -> tuple[Path, str]:
        """Makes a certificate for a caller and writes its role.

        Args:
            role: empty for the one that it has, or viewer.

        Returns:
            The caller's directory, and the role.

        Raises:
            InvalidArgument: no such role, or no name.
        """
        if why := name_problem(name):
            raise InvalidArgument("name", f"the name {why}")
        role = role or self._roles().get(name, Role.VIEWER).name.lower()
        if role.upper() not in Role.__members__:
            known = ", ".join(each.name.lower() for each in Role)
            raise InvalidArgument("role", f"{role!r} is not one of {known}")
        folder = self._directory / "clients" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / "ca.crt", _pem(self._certificate))
        self._issue(folder / "client", name, ExtendedKeyUsageOID.CLIENT_AUTH, None, days)
        self._write_roles({**self._roles(), name: Role[role.upper()]})
        return folder, role

    def remove_client(self, name: str) -> None:
        """Takes the role of a name away.

        Raises:
            NotFound: it has none.
        """
        roles = self._roles()
        if name not in roles:
            raise NotFound("caller", name)
        del roles[name]
        self._write_roles(roles)

    def _issue(
        self,
        path: Path,
        name: str,
        purpose: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        days: int,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write(path.with_suffix(".crt"), _pem(certificate))
        _write(path.with_suffix(".key"), _key_pem(key))

    def _roles(self) -> dict[str, Role]:
        path = self._directory / _ACCESS_FILE
        if not path.exists():
            return {}
        return parse_roles(path.read_text(), str(path))

    def _write_roles(self, roles: dict[str, Role]) -> None:
        lines = [
            f"{json.dumps(name)} = {json.dumps(role.name.lower())}"
            for name, role in sorted(roles.items())
        ]
        _write(self._directory / _ACCESS_FILE, "\n".join(["[roles]", *lines, ""]).encode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > _HOST_CHARACTERS_MAX or not _HOST.fullmatch(host):
        raise InvalidArgument("host", f"{host!r} is no name and no address")
    return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    """Writes a file for its owner alone, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    scratch.replace(path)
