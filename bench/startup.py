"""startup.py CALLGRIND...   A linker script that puts the functions of remora-proxy that ran before all others. See startup.sh."""
import re
import sys

# Assembly has no sections by function: the files of aws-lc that a certificate's check and random numbers use.
ASSEMBLY = ["aesni-x86_64", "p256-x86_64-asm", "sha256-x86_64", "bignum_montinv_p256"]


def executed(file):
    names, place, hot = {}, None, set()
    for line in open(file):
        found = re.match(r"c?(ob|fn)=\((\d+)\)(?: (.*))?", line)
        if not found:
            continue
        key = found.group(1, 2)
        if found[3]:
            names[key] = found[3].strip()
        if line.startswith("ob="):
            place = names[key]
        elif line.startswith("fn=") and place and place.endswith("/remora-proxy"):
            hot.add(names[key])
    return hot


def exact(name):
    """The sections of a function as it is named here: what two units have has a number behind its name, which may be another next time."""
    name = re.sub(r"\.(llvm\.\d+|\d+)$", ".*", name)
    return f"*(.text.{name} .text.unlikely.{name})"


def pattern(name):
    """What the name is whatever the compiler, the profile and the versions of crates are. It has a `*` for their hashes."""
    name = re.sub(r"17h[0-9a-f]{16}E.*$", "17h*", name)
    if name.startswith("_R"):
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
    return re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", name)


names = {name for file in sys.argv[1:] for name in executed(file)}
# Without how often one called itself.
names = {re.sub(r"('\d+|\.localalias)+$", "", name) for name in names}
names = {name for name in names if re.fullmatch(r"[A-Za-z_][\w.$]*", name)}
print("/* Written by bench/startup.sh: what runs in a sidecar that has nothing to do. */")
print("SECTIONS {\n.text : {")
print("\n".join([f"*{name}*(.text)" for name in ASSEMBLY] + ["*(.text.startup .text.startup.*)"]))
# As they are named, first: a pattern takes every instance of a generic function, of which most do not run. It is for names that have another
# hash by now.
print("\n".join(sorted(map(exact, names))))
print("\n".join(sorted({f"*(.text.*{pattern(name)})" for name in names if pattern(name) != name})))
print("*(.text .text.*)\n}\n}\nINSERT BEFORE .init;")
