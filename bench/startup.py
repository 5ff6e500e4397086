"""startup.py CALLGRIND...    A linker script that puts the functions of remora-proxy that ran before all others. See startup.sh.
startup.py --check PROGRAM   Fails when the program has too few of the functions that proxy/startup.ld names."""
import pathlib
import re
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parent.parent / "proxy/startup.ld"
# Assembly has no sections by function: the files of aws-lc that a certificate's check and random numbers use.
# Some of it is for processors that have more than valgrind's.
ASSEMBLY = ["aesni-x86_64", "p256-x86_64-asm", "rdrand-x86_64", "sha256-x86_64", "x86_64-mont", "bignum_montinv_p256"]
# The least share of the listed functions that a program has: a third run in the containers' program only, which is inlined otherwise.
LEAST = 0.55


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


def pattern(name):
    """What the name is whatever the folder, the features, the profile and the versions of crates are: it has a `*` for each hash, which says
    which crate of its name is meant, and for what points back by how far that is, which the length of a hash changes."""
    if name.startswith("_R"):
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
        name = re.sub(r"B[0-9A-Za-z]{1,2}_", "B*_", name)
    # What two units of the compiler have has a number behind its name.
    name = re.sub(r"\.(llvm\.\d+|\d+)$", ".*", name)
    return re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", name)


def script(files):
    names = {name for file in files for name in executed(file)}
    # Without how often one called itself.
    names = {re.sub(r"('\d+|\.localalias)+$", "", name) for name in names}
    patterns = sorted({pattern(name) for name in names if re.fullmatch(r"[A-Za-z_][\w.$]*", name)})
    print("/* Written by bench/startup.sh: what runs in a sidecar that has nothing to do. */")
    print("SECTIONS {\n.text : {")
    print("\n".join([f"*{name}*(.text)" for name in ASSEMBLY] + ["*(.text.startup .text.startup.*)"]))
    # A profile of the load says of some that they are hot.
    print("\n".join(f"*(.text.{name} .text.hot.{name} .text.unlikely.{name})" for name in patterns))
    print("*(.text .text.*)\n}\n}\nINSERT BEFORE .init;")


def check(program):
    listed = set(re.findall(r"^\*\(\.text\.(\S+) \.text\.hot\.", SCRIPT.read_text(), re.M))
    symbols = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout.split()
    found = len(listed & set(map(pattern, symbols)))
    print(f"{program} has {found} of the {len(listed)} functions that proxy/startup.ld names")
    if found < LEAST * len(listed):
        sys.exit("Too few: an idle sidecar takes more memory than it needs. bench/startup.sh writes the list anew.")


if sys.argv[1] == "--check":
    check(sys.argv[2])
else:
    script(sys.argv[1:])
