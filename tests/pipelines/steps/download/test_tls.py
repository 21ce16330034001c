"""TLS: the certificate must be that of the name in the URL, though we connect to an address."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobs.demo.bad_answers import good_jpeg
from jobs.demo.server import LoopbackServer
from pipelines.steps.download.failure import FetchFailed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a certificate for photos.example."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def port(certificate):
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(certificate)
    with LoopbackServer(tls=settings) as server:
        yield server.url.rpartition(":")[2]


def to_loopback(host, deadline):
    return ["127.0.0.1"]


def test_certificate_is_checked_against_the_name_not_the_address(port, certificate, make_fetcher):
    trusting = ssl.create_default_context(cafile=certificate)
    fetcher = make_fetcher(resolver=to_loopback, tls=trusting)
    assert fetcher.fetch(f"https://photos.example:{port}/bad/good").data == good_jpeg()
    # The dot that ends a full name is no part of a certificate.
    assert fetcher.fetch(f"https://photos.example.:{port}/bad/good").data == good_jpeg()
    with pytest.raises(FetchFailed, match="tls_failed"):
        fetcher.fetch(f"https://other.example:{port}/bad/good")


def test_certificate_that_nobody_vouches_for_is_refused(port, make_fetcher):
    with pytest.raises(FetchFailed, match="tls_failed"):
        make_fetcher(resolver=to_loopback).fetch(f"https://photos.example:{port}/bad/good")


def test_deadline_holds_over_tls(port, certificate, make_fetcher):
    trusting = ssl.create_default_context(cafile=certificate)
    fetcher = make_fetcher(resolver=to_loopback, tls=trusting, timeout_s=1.0)
    with pytest.raises(FetchFailed, match="download_timed_out"):
        fetcher.fetch(f"https://photos.example:{port}/bad/drip")
