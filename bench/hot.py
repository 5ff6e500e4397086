"""hot.py <PROFILE >PROFILE    Of what `llvm-profdata merge --text` wrote, the functions of which a part ran a thousand times: a seventh of the size, and
all that is to be gained. The others are compiled as without a profile."""
import sys

LEAST = 1000


def hottest(function):
    """The largest count of a function: a line for each, behind how many there are."""
    lines = function.splitlines()
    counters = lines.index("# Counter Values:") + 1
    return max(map(int, lines[counters : counters + int(lines[counters - 2])]))


header, functions = sys.stdin.read().split(":ir\n", 1)
functions = [function for function in functions.split("\n\n") if function.strip()]
hot = [function.strip("\n") for function in functions if hottest(function) >= LEAST]
print(f"{len(hot)} of {len(functions)} functions kept", file=sys.stderr)
print(header + ":ir\n" + "\n\n".join(hot) + "\n")
