#!/usr/bin/env bash
# The house: every op stands in its five places; includes go one way (ARCHITECTURE: level 0 below, main above); files stay readable.
. "$(dirname "$0")/script.sh"

# ---- five places
lacking=""
for op in $(sed -nE 's/^\/\/ ---- ([a-z_]+)[ :].*-{4,}$/\1/p' llmc/ops.h); do
    for place in "llmc/$op.cu" "llmc/cpu/$op.c" "test/test_$op.cu" "dev/cuda/$op.cu"; do [ -f "$place" ] || lacking="$lacking $place"; done
done
count=$(sed -nE 's/^\/\/ ---- ([a-z_]+)[ :].*-{4,}$/\1/p' llmc/ops.h | wc -l)
if [ "$count" -lt 14 ]; then fail layers_every_op_has_five_places "only $count ops found in llmc/ops.h"
elif [ -n "$lacking" ]; then fail layers_every_op_has_five_places "missing:$lacking"
else ok layers_every_op_has_five_places; fi

# ---- arrows: a file may include its own level and below, said in the first lines of each header ("Level N:")
wrong=""
level_of() { sed -nE '1,3s/^\/\/ Level ([0-9]).*/\1/p' "llmc/$1" | head -n 1; }
for header in llmc/*.h; do
    name=$(basename "$header"); mine=$(level_of "$name")
    [ "$name" = options.h ] && mine=3
    [ -n "$mine" ] || { wrong="$wrong $name:says-no-level"; continue; }
    for source in "$header" "llmc/${name%.h}.c"; do
        [ -f "$source" ] || continue
        for used in $(sed -nE 's/^#include "([a-z_]+\.h)"/\1/p' "$source"); do
            [ -f "llmc/$used" ] || continue
            theirs=$(level_of "$used"); [ "$used" = options.h ] && theirs=3
            [ "${theirs:-9}" -le "$mine" ] || wrong="$wrong $(basename "$source"):$mine->$used:$theirs"
        done
    done
done
for kernel in llmc/*.cu llmc/*.cuh llmc/cpu/*.c; do
    for used in $(sed -nE 's/^#include "([a-z_]+\.h)"/\1/p' "$kernel"); do
        [ -f "llmc/$used" ] || continue
        [ "$(level_of "$used")" -le 3 ] || wrong="$wrong $(basename "$kernel")->$used"
    done
done
[ -z "$wrong" ] && ok layers_includes_go_one_way || fail layers_includes_go_one_way "$wrong"

# ---- rooms one can live in
long=$(find . -path ./build -prune -o \( -name '*.c' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' -o -name '*.py' -o -name '*.sh' \) -print |
       xargs wc -l | awk '$2 != "total" && $1 > 620 { print $2 ":" $1 }')
[ -z "$long" ] && ok layers_no_file_is_too_long || fail layers_no_file_is_too_long "$long"

[ $failures -eq 0 ]
