"""What other tools read of an artifact's origin: in-toto's statement of how it was built, and its bill of materials.

Both say what manifest and measurements say and nothing else, so that they can be written of any artifact at any time,
and the same bytes come out.
"""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.manifest import MANIFEST, MEASUREMENTS, read_manifest, read_measurements
from ..ir.errors import CheckError
from .integrity import check_integrity

_BUILD_TYPE = "urn:planish:build:1"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, _BUILD_TYPE)


@dataclass(frozen=True, slots=True)
class Attested:
    """An artifact that is as it was built.

    Attributes:
        name: the name of its folder.
        manifest: what it holds and was built of.
        measurements: what was measured on it; empty if it has none.
        digests: the SHA-256 of each file.
    """

    name: str
    manifest: Mapping[str, Any]
    measurements: Mapping[str, Any]
    digests: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path, key: bytes | None = None) -> "Attested":
        """Read an artifact, and hold its files to what it says of them.

        Args:
            directory: the artifact's folder.
            key: the key that it has to be signed with; None to take it unsigned, too.

        Raises:
            ModelError: it is no artifact, or isn't signed with the key.
            CheckError: a file isn't as it was built.
        """
        if faults := check_integrity(directory, key).faults:
            raise CheckError("; ".join(faults))
        manifest = read_manifest(directory, key)
        own = {name for name in (MANIFEST, MEASUREMENTS) if (directory / name).exists()}
        measurements = read_measurements(directory) if MEASUREMENTS in own else {}
        listed = {**manifest["files"], **measurements.get("files", {})}
        digests = {name: entry["sha256"] for name, entry in listed.items()}
        digests |= {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in own}
        return cls(directory.resolve().name, manifest, measurements, dict(sorted(digests.items())))

    @property
    def packages(self) -> Iterator[tuple[str, str, str]]:
        """The name, version and package URL of each library that took part."""
        for name, version in sorted(self.manifest.get("versions", {}).items()):
            yield name, version, f"pkg:{'generic' if name == 'python' else 'pypi'}/{name}@{version}"

    @property
    def data(self) -> Iterator[tuple[str, str, str]]:
        """The role, reference and digest of the data that were read; the digest is the SHA-256 of their arrays."""
        for role, digest in self.manifest.get("data", {}).items():
            if digest:
                yield role, str(self.recipe["data"][role]), digest

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe that was built; empty where the artifact was made by no build."""
        return self.manifest.get("recipe", {})


def provenance(artifact: Attested) -> dict[str, Any]:
    """How an artifact was built, as a statement that signing tools take.

    Source: in-toto Attestation Framework, Statement v1; SLSA Provenance v1.
    """
    sources = [{"name": role, "digest": {"planishArrays": it}, "uri": uri} for role, uri, it in artifact.data]
    if artifact.recipe:
        graph = {"planishGraph": artifact.manifest["source"]}
        sources.insert(0, {"name": "model", "digest": graph, "uri": artifact.recipe["model"]})
    libraries = [{"name": name, "uri": url} for name, _, url in artifact.packages]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in artifact.digests.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"recipe": artifact.recipe},
                "internalParameters": {"backend": artifact.manifest["backend"]},
                "resolvedDependencies": [*sources, *libraries],
            },
            "runDetails": {"builder": {"id": "urn:planish", "version": {"planish": artifact.manifest["planish"]}}},
        },
    }


def bill_of_materials(artifact: Attested) -> dict[str, Any]:
    """What an artifact holds, was made of and does, with its model card.

    Source: CycloneDX 1.6, and its machine learning bill of materials.
    """
    identity = artifact.digests[MANIFEST]
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_hash(digest)]}
        for name, digest in artifact.digests.items()
    ]
    libraries = [
        {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
        for name, version, url in artifact.packages
    ]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": artifact.name,
        "version": identity[:12],
        "hashes": [_hash(identity)],
        "modelCard": _model_card(artifact),
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": "planish", "version": artifact.manifest["planish"]},
                ]
            },
            "component": model,
        },
        "components": [*files, *libraries],
        "dependencies": [{"ref": "model", "dependsOn": [it["bom-ref"] for it in (*files, *libraries)]}],
    }


def _model_card(artifact: Attested) -> dict[str, Any]:
    manifest = artifact.manifest
    datasets = [
        {
            "type": "dataset",
            "name": role,
            "contents": {
                "properties": [{"name": "reference", "value": uri}, {"name": "planishArrays", "value": digest}]
            },
        }
        for role, uri, digest in artifact.data
    ]
    formats = {
        key: [{"format": f"{port['name']}: {port['dtype']}{port['shape']}"} for port in manifest[key]]
        for key in ("inputs", "outputs")
    }
    origin = {
        "backend": manifest["backend"],
        "model": artifact.recipe.get("model"),
        "planishGraph": manifest.get("source"),
    }
    return {
        "modelParameters": {"datasets": datasets, **formats},
        "quantitativeAnalysis": {"performanceMetrics": list(_performance(artifact.measurements))},
        "properties": [{"name": f"planish:{name}", "value": value} for name, value in origin.items() if value],
    }


def _performance(measurements: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The metric, what it lost, latency and size, as far as they were measured."""
    built, metric = measurements.get("built", {}), measurements.get("metric")
    if (value := built.get("metric")) is not None:
        yield {"type": metric, "value": str(value)}
    if (drop := measurements.get("metric_drop")) is not None:
        interval = measurements.get("metric_drop_interval")
        bounds = interval and {"lowerBound": str(interval[0]), "upperBound": str(interval[1])}
        yield {"type": f"drop of {metric}", "value": str(drop), **({"confidenceInterval": bounds} if bounds else {})}
    for name in ("latency_seconds", "size_bytes"):
        if (value := built.get(name)) is not None:
            yield {"type": name, "value": str(value)}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
