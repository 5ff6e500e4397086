# Sourced by what takes its settings from the environment: given arguments, it shows what there are, and ends.
[ $# -eq 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
