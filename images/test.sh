#!/bin/bash
# What is said of the images is true of them: labels, users, entry points, sizes, no shell, static programs, and iptables that
# runs from the image's own files. Where buildah is here or can be installed, it builds the same Containerfiles from the same
# files, and the images must agree in every file and every word of their configuration.
# Needs what build.sh wrote; root.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
export PATH=$PATH:/usr/sbin:/sbin
out=$(readlink -m "${CARGO_TARGET_DIR:-target}")/images
[ -e "$out/init.tar" ] || { echo "no images in $out (make images)" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 - "$out" "$scratch" <<'EOP'
import json, os, sys, tarfile
out, scratch = sys.argv[1:]
said = {
    "init": ("0:0", "/remora-init"), "proxy": ("1337:1337", "/remora-proxy"), "control": ("65532:65532", "/remora"),
}
for image, (user, entry) in said.items():
    with tarfile.open(f"{out}/{image}.tar") as archive:
        read = lambda name: archive.extractfile(name).read()
        about = json.loads(read("manifest.json"))[0]
        config = json.loads(read(about["Config"]))["config"]
        layer = archive.extractfile(about["Layers"][0])
        with tarfile.open(fileobj=layer) as files:
            members = files.getmembers()
            files.extractall(f"{scratch}/{image}")
    assert (config["User"], config["Entrypoint"]) == (user, [entry]), config
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert {"title", "description", "version", "vendor", "licenses"} <= labels.keys(), labels
    assert about["RepoTags"][0].endswith(f"remora/{image}:{labels['version']}"), about
    assert all((one.uid, one.gid, one.mode & 0o7022) == (0, 0, 0) or one.issym() for one in members), "owners and modes"
    names = {os.path.basename(one.name) for one in members}
    assert not names & {"sh", "bash", "dash", "busybox"}, f"{image} has a shell"
    with open(f"{out}/{image}.spdx.json") as sbom:
        listed = json.load(sbom)
    assert listed["spdxVersion"] == "SPDX-2.3" and len(listed["packages"]) > 20, f"the SBOM of {image}"
    size = sum(one.size for one in members)
    limit = 25_000_000 if image == "proxy" else 40_000_000
    assert size <= limit, f"{image} has {size} bytes, more than {limit}"
    print(f"ok   {image}: {user} {entry}, {len(members)} files, {size / 1e6:.1f} MB, {len(listed['packages']) - 1} parts in its SBOM")
EOP
for program in init/remora-init proxy/remora-proxy control/remora; do
  said=$(chroot "$scratch/${program%/*}" "/${program#*/}" --version)
  if ldd "$scratch/$program" 2>/dev/null | grep -q '=>'; then echo "FAILED $program is not static"; exit 1; fi
  echo "ok   $program is static and runs from its image alone: $said"
done
# In a network namespace of its own, from the image's files alone: both variants, twice (the second changes nothing), and verify.
for variant in nft legacy; do
  printf '%s\n' "set -e; ip link set lo up; mkdir -p $scratch/init/dev; mount --bind /dev $scratch/init/dev; mkdir -p $scratch/init/proc; mount -t proc proc $scratch/init/proc; for action in apply apply; do chroot $scratch/init /remora-init \$action --backend $variant; done" \
    "chroot $scratch/init /usr/sbin/xtables-$variant-multi iptables-save -t nat | grep -q REDIRECT" >"$scratch/try"
  unshare --net --mount bash "$scratch/try" >/dev/null
  echo "ok   init redirects with its own iptables-$variant"
done

if ! command -v buildah >/dev/null; then
  ./tests/packages.sh buildah runc 2>/dev/null || { echo "SKIPPED buildah's images beside ours: no buildah here"; exit 0; }
fi
printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\nevents_logger = "file"\n' >"$scratch/containers.conf"
export CONTAINERS_CONF=$scratch/containers.conf
store=(--root "$scratch/store" --runroot "$scratch/run" --storage-driver vfs)
for image in init proxy control; do
  version=$("$scratch/init/remora-init" --version); version=${version##* }
  buildah "${store[@]}" build -q --isolation chroot --format oci --timestamp 0 --build-arg "VERSION=$version" \
    -f "images/$image.Containerfile" -t "ours/$image" "$out/context/$image" >/dev/null
  buildah "${store[@]}" push -q "ours/$image" "docker-archive:$scratch/$image.tar"
done
python3 - "$out" "$scratch" <<'EOP'
import hashlib, json, sys, tarfile
out, scratch = sys.argv[1:]
def image(path):
    with tarfile.open(path) as archive:
        about = json.load(archive.extractfile("manifest.json"))[0]
        config = json.load(archive.extractfile(about["Config"]))["config"]
        found = {}
        for layer in about["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                for one in files:
                    content = hashlib.sha256(files.extractfile(one).read()).hexdigest() if one.isfile() else one.linkname
                    found[one.name.strip("/")] = (one.type, one.mode & 0o7777, one.uid, one.gid, content)
    found.pop("", None)
    config["Labels"].pop("io.buildah.version", None)
    return {key: value for key, value in config.items() if value}, found
for name in ("init", "proxy", "control"):
    ours, theirs = image(f"{out}/{name}.tar"), image(f"{scratch}/{name}.tar")
    assert ours[0] == theirs[0], (ours[0], theirs[0])
    differ = {path for path in ours[1].keys() | theirs[1].keys() if ours[1].get(path) != theirs[1].get(path)}
    assert not differ, [(path, ours[1].get(path), theirs[1].get(path)) for path in sorted(differ)[:5]]
    print(f"ok   {name}: buildah makes the same of its Containerfile, {len(ours[1])} files and the configuration")
EOP
