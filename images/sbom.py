#!/usr/bin/env python3
"""sbom.py PACKAGE NAME VERSION OUT.spdx.json [FILE-OF-DEBIAN ...] <TREE

Says in SPDX 2.3 what is in an image: the crates that were linked into its binary and the Debian packages that its other
files come from. TREE is what `cargo tree --prefix depth -e normal,no-proc-macro --format '|{p}|{l}'` said of all packages that
were built together (their features are united, so their crates must be read together); checksums are Cargo.lock's.
"""
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import time


def linked(tree, package):
    """{(name, version): licence} of all that `package` depends on. A crate's own part of the tree is printed once only."""
    children, licences, path = {}, {}, []
    for line in tree:
        match = re.match(r"(\d+)\|(\S+) v(\S+)[^|]*\|([^(]*)", line)
        if not match:
            continue
        depth, crate = int(match[1]), (match[2], match[3])
        licences[crate] = match[4].strip().replace("/", " OR ")
        path[depth:] = [crate]
        if depth:
            children.setdefault(path[depth - 1], set()).add(crate)
    found, todo = set(), [crate for crate in licences if crate[0] == package]
    while todo:
        crate = todo.pop()
        if crate not in found:
            found.add(crate)
            todo.extend(children.get(crate, ()))
    return {crate: licences[crate] for crate in sorted(found)}


def owners(files):
    """{package: version} of the Debian packages that files come from."""
    found = {}
    for file in files:
        # A merged /usr: dpkg may know a file by its other name.
        for name in (file, file.removeprefix("/usr"), "/usr" + file):
            said = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True).stdout
            if said:
                package = said.split(":")[0]
                show = ["dpkg-query", "-W", "-f", "${Version}", package]
                found[package] = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("\n")[0]
                break
        else:
            sys.exit(f"sbom.py: no Debian package has {file}")
    return dict(sorted(found.items()))


def main():
    package, name, version, out, *debian = sys.argv[1:]
    crates = linked(sys.stdin.read().splitlines(), package)
    with open("Cargo.lock", "rb") as lock:
        sums = {(one["name"], one["version"]): one.get("checksum") for one in tomllib.load(lock)["package"]}
    image = {
        "SPDXID": "SPDXRef-image", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False, "licenseDeclared": "Apache-2.0", "primaryPackagePurpose": "CONTAINER",
    }
    packages = [image]
    for (crate, release), licence in crates.items():
        part = {
            "SPDXID": "SPDXRef-crate-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{crate}-{release}"), "name": crate, "versionInfo": release,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseDeclared": licence or "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": f"pkg:cargo/{crate}@{release}",
            }],
        }
        if sums.get((crate, release)):
            part["checksums"] = [{"algorithm": "SHA256", "checksumValue": sums[crate, release]}]
            part["downloadLocation"] = f"https://crates.io/api/v1/crates/{crate}/{release}/download"
        packages.append(part)
    for part, release in owners(debian).items():
        packages.append({
            "SPDXID": "SPDXRef-debian-" + re.sub(r"[^A-Za-z0-9.-]", "-", part), "name": part, "versionInfo": release,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseDeclared": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": f"pkg:deb/debian/{part}@{release}",
            }],
        })
    described = json.dumps(packages, sort_keys=True).encode()
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or 0)))
    relation = lambda one, kind, other: {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
    document = {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
        # A namespace must be the document's own: it is made of what the document says.
        "documentNamespace": f"https://remora.dev/sbom/{name}-{hashlib.sha256(described).hexdigest()}",
        "creationInfo": {"created": created, "creators": ["Tool: remora-images-sbom.py"]},
        "packages": packages,
        "relationships": [relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
        + [relation("SPDXRef-image", "CONTAINS", part["SPDXID"]) for part in packages[1:]],
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")
    print(f"{len(crates)} crates, {len(packages) - 1 - len(crates)} Debian packages")


main()
