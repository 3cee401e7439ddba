#!/usr/bin/env python3
"""Writes what the binary is made of, as CycloneDX 1.5 on stdout: the crates that `cargo build`
links or runs for the server, and the npm packages that the pages are built from. What only tests
use is not in it. The same sources give the same bytes.

    deploy/sbom.py > nilometer.cdx.json
"""

import base64
import json
import os
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = "nilometer-server"
TARGET = os.environ.get("SBOM_TARGET", "x86_64-unknown-linux-gnu")


def crates():
    """Packages of the lock file that the server's build needs, and what each of them needs."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {
        node["id"]: sorted(
            dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        )
        for node in metadata["resolve"]["nodes"]
    }
    (server,) = (name for name, package in packages.items() if package["name"] == SERVER)
    found, waiting = set(), [server]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(needs[name])
    return server, {name: packages[name] for name in found}, {name: needs[name] for name in found}


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}


def licensed(expression):
    # Older crates write "MIT/Apache-2.0".
    return {"licenses": [{"expression": expression.replace("/", " OR ")}]} if expression else {}


def hashed(algorithm, content):
    return {"hashes": [{"alg": algorithm, "content": content}]} if content else {}


def of_crate(package, known, kind="library"):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version.replace('+', '%2B')}"
    return {
        "type": kind,
        "bom-ref": purl,
        "name": name,
        "version": version,
        **hashed("SHA-256", known.get((name, version))),
        **licensed(package["license"]),
        "purl": purl,
    }


def npm_packages():
    lock = json.loads((ROOT / "dashboard/web/package-lock.json").read_text())
    for path, package in sorted(lock["packages"].items()):
        if not path or package.get("dev"):
            continue
        name = path.rpartition("node_modules/")[2]
        algorithm, _, digest = package["integrity"].partition("-")
        assert algorithm == "sha512", path
        purl = f"pkg:npm/{name.replace('@', '%40')}@{package['version']}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": package["version"],
            **hashed("SHA-512", base64.b64decode(digest).hex()),
            **licensed(package.get("license")),
            "purl": purl,
        }


def bill():
    server, packages, needs = crates()
    known = checksums()
    parts = {name: of_crate(package, known) for name, package in packages.items()}
    pages = list(npm_packages())
    refs = {name: part["bom-ref"] for name, part in parts.items()}
    dependencies = [
        {"ref": refs[name], "dependsOn": sorted(refs[other] for other in others)}
        for name, others in needs.items()
    ]
    (dashboard,) = (name for name, part in parts.items() if part["name"] == "nilometer-dashboard")
    for dependency in dependencies:
        if dependency["ref"] == refs[dashboard]:
            dependency["dependsOn"] += [page["bom-ref"] for page in pages]
    components = [part for name, part in parts.items() if name != server] + pages
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": of_crate(packages[server], known, "application")},
        "components": sorted(components, key=lambda part: part["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda one: one["ref"]),
    }


if __name__ == "__main__":
    made = bill()
    # Named by its content.
    made["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(made, sort_keys=True)).urn
    json.dump(made, sys.stdout, indent=1, sort_keys=True)
    print()
