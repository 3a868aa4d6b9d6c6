"""What supply chain tools read of an artifact, held to their own schemas."""

import json
import shutil
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from typer.testing import CliRunner

from planish.backends.manifest import read_measurements
from planish.driver.attestation import Attested, bill_of_materials, provenance
from planish.driver.cli import app
from planish.driver.integrity import check_integrity


@pytest.mark.wide
def test_both_fit_their_schemas_and_say_what_the_artifact_does(artifact: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # which takes 4 seconds

    told = provenance(Attested.read(artifact))
    statement = json_format.ParseDict(told, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())  # refuses what SLSA doesn't know
    assert {it["name"] for it in told["subject"]} == {path.name for path in artifact.iterdir()}
    built_of = {it["name"]: it for it in told["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert built_of["torch"]["uri"].startswith("pkg:pypi/torch@")
    assert {"model", "evaluation"} <= built_of.keys()

    told = bill_of_materials(Attested.read(artifact))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(told)) is None
    card = told["metadata"]["component"]["modelCard"]
    found = {it["type"]: float(it["value"]) for it in card["quantitativeAnalysis"]["performanceMetrics"]}
    measured = read_measurements(artifact)
    assert found["accuracy"] == measured["built"]["metric"]
    assert found["latency_seconds"] == measured["built"]["latency_seconds"]
    assert told == bill_of_materials(Attested.read(artifact))


def test_they_are_written_beside_an_artifact_that_is_as_it_was_built(artifact: Path, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(artifact, tmp_path / "dist"))

    def attest(*arguments: object) -> tuple[int, str]:
        ended = CliRunner().invoke(app, ["attest", *map(str, arguments)])
        return ended.exit_code, ended.output

    assert attest(artifact, "--bom", tmp_path / "new" / "bom.json")[0] == 0
    assert json.loads((tmp_path / "new" / "bom.json").read_text()) == bill_of_materials(Attested.read(artifact))
    assert not check_integrity(artifact).faults
    code, said = attest(artifact, "--bom", artifact / "bom.json")
    assert (code, "would be no part of the artifact" in said) == (2, True)
    assert attest(artifact)[0] == 2

    model = artifact / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    assert attest(artifact, "--bom", tmp_path / "other.json")[0] == 4
    assert not (tmp_path / "other.json").exists()
