"""A site makes its own key: whoever makes the kits never holds it, and the kit is whole only at that site."""

import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from medfl.cli import app
from medfl.engines.nvflare.preflight import site_name
from medfl.engines.nvflare.provision import AUTHORITY, intact
from medfl.engines.nvflare.site_keys import complete, make_request, read_requests
from medfl.engines.nvflare.startup_kit import make_kits
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import OWN
from tests.engines.nvflare.test_startup_kit import keys_in
from tests.engines.remote.test_kit_identity import name
from tests.tiny import tiny

SITE = "site-01"


def plan(folder):
    """A pipeline of two sites whose data are elsewhere."""
    root = {"data": {"root": str(folder)}}
    return load_pipeline(tiny(data=OWN, sites={"train": [{"name": SITE, **root}, {"name": "site-02", **root}]}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kits of which one was made for a request, and the folder of the site that made it."""
    folder = tmp_path_factory.mktemp("own-key")
    done = CliRunner().invoke(app.app, ["deploy", "request", SITE, "--out", str(folder / "site")])
    assert done.exit_code == 0, done.output
    assert "tell them its digest another way: SHA-256" in " ".join(done.output.split())
    make_kits(plan(folder), folder / "kits", "localhost", 8002, [folder / "site" / f"{SITE}.csr"])
    return folder


@pytest.fixture
def parts(made, tmp_path):
    """A kit and a key to be spoilt."""
    kit, key = tmp_path / SITE, tmp_path / f"{SITE}.key"
    shutil.copytree(made / "kits" / SITE, kit)
    shutil.copy(made / "site" / key.name, key)
    return kit, key


def test_who_makes_the_kits_has_no_key_of_the_site(made):
    key = made / "site" / f"{SITE}.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert keys_in(made / "kits" / SITE) == set()
    (own,) = keys_in(made / "site")
    assert own not in keys_in(made / "kits")
    assert "put the `site-01.key`" in (made / "kits" / SITE / "README.md").read_text()
    assert "put the" not in (made / "kits" / "site-02" / "README.md").read_text()
    with pytest.raises(MedflError, match=r"has no key, since the site made its own; put site-01\.key beside the kit"):
        site_name(made / "kits" / SITE)


def test_the_key_beside_the_kit_makes_it_whole(parts):
    kit, key = parts
    assert complete(kit) == kit.resolve().parent / key.name
    assert (kit / "startup" / "client.key").stat().st_mode & 0o777 == 0o600
    assert site_name(kit) == SITE
    assert complete(kit) is None
    (kit / "startup" / "fed_client.json").write_text("{}")
    assert not intact(kit, "startup")  # the rest is signed as in every kit


def test_the_certificate_is_as_other_sites_have_it(made):
    both = [
        x509.load_pem_x509_certificate((made / "kits" / each / "startup" / "client.crt").read_bytes())
        for each in (SITE, "site-02")
    ]
    root = x509.load_pem_x509_certificate((made / "kits" / "authority" / AUTHORITY[0]).read_bytes())
    for one in both:
        one.verify_directly_issued_by(root)
    assert [part.oid for part in both[0].extensions] == [part.oid for part in both[1].extensions]
    assert both[0].not_valid_after_utc - both[0].not_valid_before_utc == (
        both[1].not_valid_after_utc - both[1].not_valid_before_utc
    )


def test_no_key_and_another_key_are_sentences(parts, tmp_path):
    kit, key = parts
    other, _ = make_request("other", tmp_path)
    with pytest.raises(MedflError, match="is not the key of this kit's certificate"):
        complete(kit, other)
    key.unlink()
    with pytest.raises(MedflError, match=r"site-01.key that `medfl deploy request` wrote beside the kit, or name it"):
        complete(kit)
    shutil.copy(other, kit / "startup" / "client.key")
    with pytest.raises(MedflError, match="is not the key of this kit's certificate; put the key that belongs"):
        site_name(kit)


def requested(subject, key):
    made = x509.CertificateSigningRequestBuilder(name(subject)).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_what_is_no_request_of_a_site_is_a_sentence(made, tmp_path):
    good = (made / "site" / f"{SITE}.csr").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    contents = {
        "none": (b"", "is no certificate request"),
        "key": ((made / "site" / f"{SITE}.key").read_bytes(), "is no certificate request"),
        "curve": (requested(SITE, ec.generate_private_key(ec.SECP256R1())), "RSA key of at least 2048 bits"),
        "flipped": (bytes(flipped), "is no certificate request|is not signed by an RSA key"),
    }
    for word, (content, says) in contents.items():
        (tmp_path / word).write_bytes(content)
        with pytest.raises(MedflError, match=says):
            read_requests([tmp_path / word], [SITE])
    (tmp_path / "good").write_bytes(good)
    for files, sites, says in (
        (["good"], ["north"], "is of site-01, and the pipeline has north"),
        (["good", "good"], [SITE], "is a second one of site-01"),
        (["absent"], [SITE], "cannot be read"),
    ):
        with pytest.raises(MedflError, match=says):
            read_requests([tmp_path / file for file in files], sites)


def test_a_key_is_never_written_over_and_no_kit_that_is_there_is_changed(made, tmp_path):
    make_request(SITE, tmp_path)
    with pytest.raises(MedflError, match="is there already"):
        make_request(SITE, tmp_path)
    with pytest.raises(MedflError, match="move that kit away"):
        make_kits(plan(made), made / "kits", "localhost", 8002, [made / "site" / f"{SITE}.csr"])
    done = CliRunner().invoke(app.app, ["deploy", "request", "../up", "--out", str(tmp_path)])
    assert isinstance(done.exception, MedflError)
