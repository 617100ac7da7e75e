"""Certificates, keys, tokens and kubeconfigs for one throw-away cluster."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ADMIN = "admin"
BINDER = "system:kube-controller-manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Files in one directory, and the token of each user."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    service_account_key: Path
    token_file: Path
    tokens: Mapping[str, str]
    authority: trustme.CA
    """Whose certificates the API server takes, of users as well."""


def make(directory: Path, users: Mapping[str, Sequence[str]]) -> Credentials:
    """Write everything that kube-apiserver wants to be given; `users` maps a user to groups."""
    authority = trustme.CA()
    made = Credentials(
        ca_file=directory / "ca.pem",
        cert_file=directory / "server.pem",
        key_file=directory / "server-key.pem",
        service_account_key=directory / "service-account-key.pem",
        token_file=directory / "tokens.csv",
        tokens={user: secrets.token_urlsafe(24) for user in users},
        authority=authority,
    )
    server = authority.issue_cert("127.0.0.1", "localhost", "::1")
    authority.cert_pem.write_to_path(made.ca_file)
    for blob in server.cert_chain_pems:
        blob.write_to_path(made.cert_file, append=True)
    server.private_key_pem.write_to_path(made.key_file)
    made.service_account_key.write_bytes(_signing_key())
    made.token_file.write_text(
        "".join(
            f'{made.tokens[user]},{user},{user},"{",".join(groups)}"\n'
            for user, groups in users.items()
        )
    )
    return made


def write_kubeconfig(path: Path, *, url: str, ca_file: Path, token: str) -> None:
    """Write a file that kubectl and client libraries take as it is."""
    named = {"name": "real"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**named, "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{**named, "user": {"token": token}}],
        "contexts": [{**named, "context": {"cluster": "real", "user": "real"}}],
        "current-context": "real",
    }
    # JSON is YAML, and needs no library.
    path.write_text(json.dumps(config, indent=2))


def _signing_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
