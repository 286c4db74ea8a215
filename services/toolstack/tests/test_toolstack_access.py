"""Who may do what: roles, certificates, and calls over TCP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc.api.v1 import cluster_pb2, toolstack_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.client.connection import Tls
from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.access import CHANGES, NEEDED, Access, AccessFile, Caller, parse_roles
from vcoproc_toolstack.cli.advice import next_step
from vcoproc_toolstack.cli.certificates import Authority
from vcoproc_toolstack.records import Role

CONFIG = 'name = "d"\nmemory = 1\n'


def public_methods() -> list[str]:
    return [
        method.name
        for module in (toolstack_pb2, cluster_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def test_every_call_of_the_api_has_a_role() -> None:
    assert sorted(NEEDED) == sorted(public_methods())


def test_every_call_with_a_request_id_needs_more_than_a_look_and_is_written_down() -> None:
    for service in toolstack_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            if "request_id" in method.input_type.fields_by_name:
                assert NEEDED[method.name] >= Role.OPERATOR, method.name
                assert method.name in CHANGES


def access_file(path: Path, text: str) -> AccessFile:
    path.write_text(text)
    return AccessFile(path, Log("test"))


SSL = {"transport_security_type": [b"ssl"]}


def test_the_owner_of_the_unix_socket_is_an_admin() -> None:
    assert Access(None).caller("unix:", {}) == Caller(f"uid {os.getuid()}", Role.ADMIN)


def test_nobody_comes_over_tcp_without_a_certificate() -> None:
    with pytest.raises(Unauthenticated):
        Access(None).caller("ipv4:127.0.0.1:1", {})
    with pytest.raises(Unauthenticated, match="common name"):
        Access(None).caller("ipv4:127.0.0.1:1", SSL)


def test_a_name_has_the_role_of_the_file_and_others_that_of_everybody(tmp_path: Path) -> None:
    roles = access_file(tmp_path / "a", '[roles]\nalice = "admin"\n"*" = "viewer"\n')
    access = Access(roles)
    assert access.caller("ipv4:", {**SSL, "x509_common_name": [b"alice"]}).role is Role.ADMIN
    assert access.caller("ipv4:", {**SSL, "x509_common_name": [b"bob"]}).role is Role.VIEWER
    with pytest.raises(Unauthenticated):
        access.caller("ipv4:", {**SSL, "x509_common_name": [b"*"]})


def test_a_name_without_a_role_is_refused(tmp_path: Path) -> None:
    access = Access(access_file(tmp_path / "a", '[roles]\nalice = "admin"\n'))
    with pytest.raises(PermissionDenied, match="bob is nobody"):
        access.caller("ipv4:", {**SSL, "x509_common_name": [b"bob"]})


def test_a_viewer_may_look_and_nothing_more() -> None:
    viewer = Caller("v", Role.VIEWER)
    Access.check(viewer, "ListDomains")
    with pytest.raises(PermissionDenied, match="v is viewer; CreateDomain needs operator"):
        Access.check(viewer, "CreateDomain")
    with pytest.raises(PermissionDenied, match="needs admin"):
        Access.check(Caller("o", Role.OPERATOR), "RemoveCoproc")


def test_a_role_is_taken_and_given_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    roles = access_file(path, '[roles]\nalice = "viewer"\n')
    path.write_text('[roles]\nbob = "operator"\n')
    assert roles.role_of("alice") is None
    assert roles.role_of("bob") is Role.OPERATOR
    path.write_text("[roles\n")
    assert roles.role_of("bob") is Role.OPERATOR, "a broken file changes nothing"
    path.unlink()
    assert roles.role_of("bob") is Role.OPERATOR


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one table"),
        ("", r"one table \[roles\]"),
        ('[roles]\na = "root"\n', "'root', a role is one of viewer, operator, admin"),
        ("[roles]\na = 1\n", "a role is one of"),
        ('[roles]\na = "admin"\n[other]\n', "one table"),
        ("roles = 3\n", "one table"),
        ("= x", "access.toml"),
    ],
)
def test_a_wrong_access_file_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_roles(text, "access.toml")


# --- certificates ---------------------------------------------------------------------------------


def test_an_authority_is_not_made_twice(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", days=1)
    with pytest.raises(AlreadyExists):
        Authority.create(tmp_path / "ca", days=1)
    with pytest.raises(NotFound):
        Authority.load(tmp_path / "other")


def test_a_new_authority_has_all_that_the_server_reads_and_nobody_in_it(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", days=1)
    made = {each.name for each in (tmp_path / "ca").iterdir()}
    assert made == {"ca.crt", "ca.key", "server.crt", "server.key", "access.toml"}
    assert AccessFile(tmp_path / "ca" / "access.toml", Log("test")).role_of("alice") is None


@pytest.mark.parametrize("host", ["", "two words", "a..b", "-a", "a-", "a/b", "x" * 64, "ä.de"])
def test_a_host_that_is_none_leaves_nothing_behind(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidArgument, match="no name and no address"):
        Authority.create(tmp_path / "ca", days=1, hosts=["localhost", host])
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize("host", ["a_b.example.org", "*.example.org", "h" * 63 + ".org", "::1"])
def test_hosts_are_names_and_addresses(tmp_path: Path, host: str) -> None:
    Authority.create(tmp_path / "ca", days=1, hosts=[host])


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", days=1)
    authority.add_client("alice", "admin", days=1)
    keys = list((tmp_path / "ca").rglob("*.key"))
    assert len(keys) == 3
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)


def test_callers_come_and_go(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", days=1)
    authority.add_client("alice", "admin", days=1)
    authority.add_client("bob", "viewer", days=1)
    file = tmp_path / "ca" / "access.toml"
    assert parse_roles(file.read_text(), "f") == {"alice": Role.ADMIN, "bob": Role.VIEWER}
    assert authority.add_client("alice", "", days=1)[1] == "admin", "a new certificate, no new role"
    assert authority.add_client("carol", "", days=1)[1] == "viewer"
    roles = {"alice": Role.ADMIN, "bob": Role.VIEWER, "carol": Role.VIEWER}
    assert parse_roles(file.read_text(), "f") == roles
    authority.remove_client("alice")
    authority.remove_client("bob")
    assert AccessFile(file, Log("test")).role_of("alice") is None
    with pytest.raises(NotFound):
        authority.remove_client("bob")
    with pytest.raises(InvalidArgument, match="role"):
        authority.add_client("carol", "king", days=1)
    with pytest.raises(InvalidArgument, match="name"):
        authority.add_client("../carol", "admin", days=1)


def test_what_is_missing_here_is_not_looked_for_in_the_cluster() -> None:
    assert "access.toml" in next_step(NotFound("caller", "bob"))
    assert "access init" in next_step(NotFound("authority", "ca"))
    assert "domain list" in next_step(NotFound("domain", "a"))


# --- over TCP -------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority.create(tmp_path / "ca", days=1)
    for name, role in (("admin", "admin"), ("operator", "operator"), ("viewer", "viewer")):
        authority.add_client(name, role, days=1)
    return authority


@pytest.fixture
def server(short_path: Path, tmp_path: Path, authority: Authority) -> Iterator[Server]:
    folder = tmp_path / "ca"
    tls = grpc_kit.TlsFiles(folder / "server.crt", folder / "server.key", folder / "ca.crt")
    server = Server(short_path / "run", listen=("127.0.0.1:0", tls), roles=folder / "access.toml")
    yield server
    server.close()


class Remote:
    """Calls over TCP with the certificates of a directory."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.channel = grpc_kit.channel(server.address, Tls.of_directory(folder).read())
        self.api = rpc.ToolstackServiceStub(self.channel)

    def create(self) -> api.Domain:
        request = api.CreateDomainRequest(config=CONFIG)
        return self.api.CreateDomain(request, timeout=TIMEOUT_S)

    def list(self) -> api.ListDomainsResponse:
        return self.api.ListDomains(api.ListDomainsRequest(), timeout=TIMEOUT_S)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_error: object) -> None:
        self.channel.close()


def test_a_caller_with_a_certificate_does_what_its_role_allows(
    server: Server, tmp_path: Path
) -> None:
    clients = tmp_path / "ca" / "clients"
    with Remote(server, clients / "viewer") as viewer:
        assert not viewer.list().domains
        with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "viewer is viewer"):
            viewer.create()
    with Remote(server, clients / "operator") as operator:
        assert operator.create().name == "domains/d"
        with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "needs admin"):
            operator.api.OpenDomain(api.OpenDomainRequest(name="domains/d"), timeout=TIMEOUT_S)
    with Remote(server, clients / "admin") as admin:
        access = admin.api.OpenDomain(api.OpenDomainRequest(name="domains/d"), timeout=TIMEOUT_S)
        assert access.irq_credential


def test_a_removed_caller_is_refused_on_its_open_connection(
    server: Server, tmp_path: Path, authority: Authority
) -> None:
    with Remote(server, tmp_path / "ca" / "clients" / "viewer") as viewer:
        viewer.list()
        authority.remove_client("viewer")
        with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "viewer is nobody"):
            viewer.list()


def test_a_certificate_of_another_authority_opens_nothing(server: Server, tmp_path: Path) -> None:
    other, _ = Authority.create(tmp_path / "other", days=1).add_client("admin", "admin", days=1)
    # It trusts our server, but our server does not trust it.
    (other / "ca.crt").write_bytes((tmp_path / "ca" / "ca.crt").read_bytes())
    with Remote(server, other) as stranger, pytest.raises(grpc.RpcError) as caught:
        stranger.list()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_without_tls_or_certificate_opens_nothing(server: Server, tmp_path: Path) -> None:
    ca = (tmp_path / "ca" / "ca.crt").read_bytes()
    for channel in (
        grpc.insecure_channel(server.address),
        grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca)),
    ):
        with channel, pytest.raises(grpc.RpcError) as caught:
            rpc.ToolstackServiceStub(channel).ListDomains(
                api.ListDomainsRequest(), timeout=TIMEOUT_S
            )
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_server_certificate_counts_without_a_restart(
    server: Server, tmp_path: Path
) -> None:
    fresh = Authority.create(tmp_path / "fresh", days=1)
    client, _ = fresh.add_client("admin", "admin", days=1)
    for name in ("server.crt", "server.key", "ca.crt"):
        (tmp_path / "fresh" / name).replace(tmp_path / "ca" / name)
    with Remote(server, client) as admin:
        admin.list()
