"""An artifact is signed by a private key, and held to that by the public one."""

import hashlib
import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from planish.backends.manifest import read_manifest, write_manifest
from planish.driver.cli import app

model_signing = pytest.importorskip("model_signing")
from cryptography.hazmat.primitives import serialization as formats  # noqa: E402 -- comes with it
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402


def planish(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def write_keys(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    private = (formats.Encoding.PEM, formats.PrivateFormat.PKCS8, formats.NoEncryption())
    public = (formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(key.private_bytes(*private))
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(*public))


@pytest.fixture
def signed(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact, `dist`, its signature and keys; there is no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", None)
    shutil.copytree(artifact, "dist")
    write_keys(tmp_path, "mine", ec.generate_private_key(ec.SECP256R1()))
    write_keys(tmp_path, "other", ec.generate_private_key(ec.SECP384R1()))
    done = planish("attest", "dist", "--signature", "dist.sig", "--private-key", "mine.pem")
    assert (done.exit_code, done.output) == (0, "wrote dist.sig\n")
    return tmp_path


def verified(signature: str = "dist.sig", key: str = "mine.pub", artifact: str = "dist") -> Result:
    return planish("verify", artifact, "--signature", signature, "--public-key", key)


def test_a_signature_is_that_of_the_files_by_the_key(signed: Path) -> None:
    assert "dist.sig signs them" in verified().output
    (signed / "link").symlink_to("dist")
    assert verified(artifact="link").exit_code == 0
    told = planish("verify", "dist", "--signature", "dist.sig", "--public-key", "mine.pub", "--json")
    assert json.loads(told.stdout)["signature"] == "dist.sig"

    other = verified(key="other.pub")
    assert (other.exit_code, "dist.sig is no signature of dist with other.pub" in other.output) == (4, True)
    assert planish("attest", "dist", "--signature", "new/other.sig", "--private-key", "other.pem").exit_code == 0
    assert verified("new/other.sig", "other.pub").exit_code == 0


def test_openssf_takes_what_was_signed(signed: Path) -> None:
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=signed / "mine.pub")
    config.verify(signed / "dist", signed / "dist.sig")


def test_a_changed_byte_is_refused_even_if_the_manifest_says_so(signed: Path) -> None:
    model = signed / "dist" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    manifest = read_manifest(signed / "dist")
    assert "no signature of dist" in verified().output

    manifest["files"]["model.onnx"]["sha256"] = hashlib.sha256(data).hexdigest()
    write_manifest(signed / "dist", manifest)
    assert planish("verify", "dist").exit_code == 0
    refused = verified()
    assert refused.exit_code == 4
    assert "model.onnx" in refused.output
    (signed / "dist" / "more.txt").touch()
    assert "more.txt" in verified().output


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verificationMaterial": {}}', "[" * 100_000])
def test_any_other_file_is_no_signature(signed: Path, text: str) -> None:
    (signed / "dist.sig").write_text(text)
    refused = verified()
    assert (refused.exit_code, "dist.sig is no signature of dist" in refused.output) == (4, True)


def test_a_signature_of_something_else_is_none(signed: Path) -> None:
    """One whose content was exchanged after it was signed."""
    bundle = json.loads((signed / "dist.sig").read_text())
    (signed / "empty").mkdir()
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=signed / "other.pem")
    config.sign(signed / "empty", signed / "empty.sig")
    bundle["dsseEnvelope"]["payload"] = json.loads((signed / "empty.sig").read_text())["dsseEnvelope"]["payload"]
    (signed / "dist.sig").write_text(json.dumps(bundle))
    assert "InvalidSignature" in verified().output


def test_keys_and_files_that_cannot_be_used_are_named(signed: Path) -> None:
    write_keys(signed, "rsa", rsa.generate_private_key(65537, 2048))
    (signed / "text.pem").write_text("no key")
    for key in ("rsa.pem", "text.pem", "missing.pem"):
        refused = planish("attest", "dist", "--signature", "new.sig", "--private-key", key)
        assert (refused.exit_code, f"{key} can't be used as the private key" in refused.output) == (2, True)
    assert not (signed / "new.sig").exists()
    assert (verified(key="missing.pub").exit_code, verified("missing.sig").exit_code) == (2, 2)
    for arguments in (("attest", "dist", "--signature", "a.sig"), ("verify", "dist", "--public-key", "mine.pub")):
        alone = planish(*arguments)
        assert (alone.exit_code, "go together" in alone.output) == (2, True)
    inside = planish("attest", "dist", "--signature", "dist/a.sig", "--private-key", "mine.pem")
    assert (inside.exit_code, "would be no part of the artifact" in inside.output) == (2, True)


def test_what_is_missing_is_named(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    refused = verified()
    assert refused.exit_code == 6
    assert "signatures need model_signing: pip install 'planish[signing]'" in refused.output
