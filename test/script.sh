# Sourced by test scripts: cases that print "ok NAME" or "FAIL NAME why", a scratch directory, the program under test.
#   PROGRAM=./train_moba test/test_resume.sh      runs the same cases on the CUDA program
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PROGRAM=${PROGRAM:-./train_moba_cpu}
SUFFIX=${SUFFIX:-}                       # distinguishes the case names of a second backend
WORK=$(mktemp -d); trap 'chmod -R u+rwx "$WORK" 2> /dev/null; rm -rf "$WORK"' EXIT
failures=0

ok()   { echo "ok $1$SUFFIX"; }
fail() { echo "FAIL $1$SUFFIX $2"; failures=$((failures + 1)); }
skip() { echo "skip $1$SUFFIX $2"; }

# expect NAME STATUS PATTERN COMMAND...: the command ends with STATUS and says PATTERN (an extended regular expression) on stderr in one line
expect() {
    local name=$1 status=$2 pattern=$3; shift 3
    local found=0
    timeout 60 "$@" > "$WORK/out" 2> "$WORK/err" || found=$?
    if [ "$found" != "$status" ]; then fail "$name" "exit status $found, expected $status: $(head -c 300 "$WORK/err" | tr '\n' ' ')"; return; fi
    if ! grep -qE -- "$pattern" "$WORK/err"; then fail "$name" "stderr lacks '$pattern': $(head -c 300 "$WORK/err" | tr '\n' ' ')"; return; fi
    if [ "$(grep -c '^error:' "$WORK/err")" != 1 ]; then fail "$name" "not one error sentence: $(head -c 300 "$WORK/err" | tr '\n' ' ')"; return; fi
    ok "$name"
}

# columns of log.jsonl that must not depend on anything but the run itself: step, loss, norm, lr as written
columns() { sed -nE 's/^\{"kind":"step","step":([0-9]+),"loss":([^,]*),"norm":([^,]*),"lr":([^,]*),.*/\1 \2 \3 \4/p' "$1/log.jsonl"; }

# a byte-level shard of this repository's own text
make_shard() { build/data/bytes --out "$1" README.md llmc/*.h llmc/*.c > /dev/null; }
