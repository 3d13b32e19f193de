#!/usr/bin/env bash
# README's option section, between <!-- options --> and <!-- /options -->, is what the program says of itself.
#   test/test_readme.sh            prints ok or FAIL
#   test/test_readme.sh --write    puts the section right
set -u
cd "$(dirname "$0")/.." || exit 1
program=${MOBA_PROGRAM:-./train_moba_cpu}
name=readme_options_are_those_of_the_program
fail() { echo "FAIL $name $1"; exit 1; }
failures=0
fail_too() { echo "FAIL $1 $2"; failures=1; }
[ -x "$program" ] || fail "$program is not built"
[ -f README.md ] || fail "there is no README.md"
[ "$(grep -c '^<!-- /\?options -->$' README.md)" = 2 ] || fail "README.md has not exactly one <!-- options --> and one <!-- /options --> line"
section=$(mktemp); trap 'rm -f "$section" "$section.new"' EXIT
"$program" --help-markdown > "$section" || fail "$program --help-markdown ended with status $?"
[ "$(grep -c '^| `--' "$section")" -gt 20 ] || fail "$program --help-markdown prints no options"
# README with the section in place; a blank line on either side, as Markdown wants
awk -v section="$section" '
    /^<!-- \/options -->$/ { print ""; while ((getline line < section) > 0) { print line }; print ""; inside = 0 }
    !inside                { print }
    /^<!-- options -->$/   { inside = 1 }' README.md > "$section.new"
if [ "${1:-}" = "--write" ]; then cat "$section.new" > README.md; fi
# every fault of README's table is shown by a test that is in the tree (a * stands for what a loop puts into a name)
faults() { sed -n '/^| fault | /,/^$/p' README.md | tail -n +3 | grep '^|'; }
named() { sed -E 's/.*\|([^|]*)\|$/\1/' | grep -oE '`[^`]+`' | tr -d '`'; }
lost=""
while read -r row; do
    tests=$(named <<< "$row")
    [ -n "$tests" ] || lost="$lost (no test: $row)"
    for test in $tests; do grep -rqE --include='test_*' -- "$(sed 's/[.]/\\./g; s/\*/.*/g' <<< "$test")" test || lost="$lost $test"; done
done < <(faults)
if [ "$(faults | wc -l)" -lt 15 ]; then fail_too readme_faults_have_tests "the table has $(faults | wc -l) rows"
elif [ -n "$lost" ]; then fail_too readme_faults_have_tests "not in test/:$lost"
else echo "ok readme_faults_have_tests"; fi
# its section on speed is what the benchmark's lines make it
if said=$(python3 dev/step_report.py --check 2>&1); then echo "ok readme_speed_is_that_of_the_results"; else fail_too readme_speed_is_that_of_the_results "$said"; fi
if difference=$(diff README.md "$section.new" | sed -n 2p); [ -z "$difference" ]; then echo "ok $name"
else fail "first difference: $difference (test/test_readme.sh --write puts it right)"; fi
[ $failures -eq 0 ]
