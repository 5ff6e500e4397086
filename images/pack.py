#!/usr/bin/env python3
"""pack.py CONTAINERFILE CONTEXT NAME:TAG OUT.tar [ARG=VALUE ...]

Builds the image that a Containerfile describes and writes it as an archive that docker load, podman load, skopeo and
ctr images import read (an OCI layout with docker's manifest.json beside). Needs no engine, no registry and no root,
and the same input always gives the same bytes: owners are root, times are SOURCE_DATE_EPOCH (0 where it is not set).
Knows what an image from scratch needs: FROM scratch, ARG, LABEL, COPY, ENV, USER, WORKDIR, ENTRYPOINT, CMD, STOPSIGNAL.
Prints the image's digest and the bytes of its layer.
"""
import hashlib
import io
import json
import os
import re
import shlex
import sys
import tarfile
import time

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
OCI = "application/vnd.oci.image"


def fail(message):
    sys.exit(f"pack.py: {message}")


def instructions(path):
    """The words of a Containerfile: (line number, instruction, the rest)."""
    pending, first = "", 0
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.lstrip().startswith("#") or not (line.strip() or pending):
                continue
            first = first if pending else number
            pending += line.rstrip("\n")
            if pending.endswith("\\"):
                pending = pending[:-1] + " "
                continue
            word, _, rest = pending.strip().partition(" ")
            yield first, word.upper(), rest.strip()
            pending = ""


class Layer:
    """The only layer: a tar of files by name, in order."""

    def __init__(self):
        self.entries = {}

    def add(self, source, target):
        """A file, a link, or all that is in a folder, at an absolute path."""
        target = target.strip("/")
        for part in range(1, target.count("/") + 1):
            self.entries.setdefault("/".join(target.split("/")[:part]), None)
        if os.path.islink(source) or not os.path.isdir(source):
            self.entries[target] = source
            return
        if target:
            self.entries.setdefault(target, None)
        for name in sorted(os.listdir(source)):
            self.add(os.path.join(source, name), f"{target}/{name}")

    def tar(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(self.entries):
                source = self.entries[name]
                info = tarfile.TarInfo(name)
                info.mtime = EPOCH
                if source is None:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                elif os.path.islink(source):
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(source), 0o777
                    tar.addfile(info)
                else:
                    info.mode = 0o755 if os.stat(source).st_mode & 0o111 else 0o644
                    info.size = os.path.getsize(source)
                    with open(source, "rb") as content:
                        tar.addfile(info, content)
        return out.getvalue()


def pairs(text):
    """KEY=VALUE words, as LABEL and ENV have them."""
    return dict(word.split("=", 1) for word in shlex.split(text))


def read(containerfile, context, arguments):
    """The layer and the configuration that a Containerfile describes."""
    layer, config, declared = Layer(), {}, {}
    for number, word, rest in instructions(containerfile):
        where = f"{containerfile}:{number}"

        def value(match):
            name = match[1] or match[2]
            return declared[name] if name in declared else fail(f"{where}: no ARG {name}")

        if word not in ("ENTRYPOINT", "CMD"):
            rest = re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, rest)
        if word == "FROM" and rest == "scratch":
            continue
        if word == "ARG":
            name, _, default = rest.partition("=")
            declared[name] = arguments.get(name, default)
        elif word == "LABEL":
            config.setdefault("Labels", {}).update(pairs(rest))
        elif word == "ENV":
            config.setdefault("Env", []).extend(f"{key}={text}" for key, text in pairs(rest).items())
        elif word == "COPY" and len(rest.split()) == 2:
            source, target = rest.split()
            path = os.path.join(context, source.rstrip("/"))
            if not os.path.lexists(path):
                fail(f"{where}: {path} is not there")
            layer.add(path, target)
        elif word in ("ENTRYPOINT", "CMD") and rest.startswith("["):
            config[word.capitalize()] = json.loads(rest)
        elif word in ("USER", "STOPSIGNAL", "WORKDIR"):
            config[{"USER": "User", "STOPSIGNAL": "StopSignal", "WORKDIR": "WorkingDir"}[word]] = rest
        else:
            fail(f"{where}: {word} {rest}: not known here")
    # As every builder does: a process should find programs even where nothing was said.
    if not any(pair.startswith("PATH=") for pair in config.get("Env", [])):
        config.setdefault("Env", []).insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return layer, config


def dumps(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(out, name, layer, config):
    """The archive. Gives the digest of the image's manifest."""
    blobs = {}

    def blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    tar = blob(layer, f"{OCI}.layer.v1.tar")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    about = blob(dumps({
        "architecture": "amd64", "os": "linux", "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [tar["digest"]]},
        "history": [{"created": created, "created_by": "images/pack.py"}],
    }), f"{OCI}.config.v1+json")
    manifest = blob(dumps({
        "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": about, "layers": [tar],
    }), f"{OCI}.manifest.v1+json")
    named = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    file = lambda part: "blobs/sha256/" + part["digest"].partition(":")[2]
    files = dict(sorted(blobs.items())) | {
        "index.json": dumps({"schemaVersion": 2, "manifests": [manifest | {"annotations": named}]}),
        "manifest.json": dumps([{"Config": file(about), "RepoTags": [name], "Layers": [file(tar)]}]),
        "oci-layout": dumps({"imageLayoutVersion": "1.0.0"}),
    }
    with tarfile.open(out + ".new", mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(content), EPOCH
            archive.addfile(info, io.BytesIO(content))
    os.replace(out + ".new", out)
    return manifest["digest"]


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    containerfile, context, name, out, *arguments = sys.argv[1:]
    layer, config = read(containerfile, context, dict(argument.split("=", 1) for argument in arguments))
    tar = layer.tar()
    print(write(out, name, tar, config), len(tar))


main()
