#!/usr/bin/env bash
# The data tools in C: what they write, byte for byte, and how they refuse. Tools are looked for in build/data.
set -u
cd "$(dirname "$0")/.." || exit 1
tools=$PWD/build/data
data=${MOBA_DATA:-$PWD/../shared/data}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

# run_case NAME: the function NAME decides; it says why on stdout and returns non-zero when it fails
run_case() {
    local why
    if why=$("$1" 2>&1); then echo "ok $1"; else echo "FAIL $1 $(echo "$why" | tail -n 1)"; failures=$((failures + 1)); fi
}
same() { [ "$1" = "$2" ] || { echo "found '$1', expected '$2'"; return 1; }; }          # found expected
tokens() { od -An -v -w2 -tu2 -j1024 "$1" | tr -d ' '; }                                # a uint16 shard's tokens, one a line
header() { od -An -v -w4 -td4 -N1024 "$1" | tr -d ' ' | tr '\n' ' ' | sed 's/ 0//g; s/ $//'; }
# refused STATUS PART COMMAND...: ends with this status and a sentence that has this part
refused() {
    local status=$1 part=$2 said code
    shift 2
    said=$("$@" 2>&1); code=$?
    [ $code -eq "$status" ] || { echo "$* ended with $code, expected $status: $said"; return 1; }
    case $said in *"$part"*) ;; *) echo "'$part' is not in: $said"; return 1 ;; esac
}

data_synthetic_writes_the_same_bytes_again() {
    for kind in uniform zipf copy; do
        "$tools/synthetic" --kind $kind --tokens 10001 --vocab 1000 --seed 5 --out a.bin &&
        "$tools/synthetic" --kind $kind --tokens 10001 --vocab 1000 --seed 5 --out b.bin &&
        "$tools/synthetic" --kind $kind --tokens 10001 --vocab 1000 --seed 6 --out c.bin || return 1
        cmp a.bin b.bin || return 1
        ! cmp -s a.bin c.bin || { echo "$kind: seeds 5 and 6 give the same shard"; return 1; }
        same "$(header a.bin)" "20240520 1 10001" && same "$(stat -c %s a.bin)" 21026 || return 1
    done
}

data_synthetic_has_the_distribution_it_says() {
    "$tools/synthetic" --kind uniform --tokens 100000 --vocab 10 --out u.bin && "$tools/synthetic" --kind zipf --tokens 100000 --vocab 100 --out z.bin || return 1
    # 10000 of each, 5 standard deviations are 474
    tokens u.bin | sort -n | uniq -c | awk '{ n++; if ($1 < 9526 || $1 > 10474) { print "id " $2 " came " $1 " times of 100000"; bad = 1 } } END { exit bad || n != 10 }' || return 1
    # id k with probability 1/(k+1)/5.18738: 19278 times 0, half as often 1; 5 standard deviations are 624 and 467
    tokens z.bin | awk '{ n[$1]++ } END { if (n[0] < 18654 || n[0] > 19902 || n[1] < 9172 || n[1] > 10106) { print "ids 0, 1 came " n[0] ", " n[1] " times"; exit 1 } }'
}

data_synthetic_copy_repeats_each_period() {
    "$tools/synthetic" --kind copy --tokens 6000 --vocab 50000 --period 30 --out p.bin || return 1
    tokens p.bin | awk '{ t[NR - 1] = $1 } END { for (i = 0; i < NR; i++) { if (i % 60 >= 30 && t[i] != t[i - 30]) { print "token " i " is not token " i - 30; exit 1 }
                         if (i % 60 < 30 && i >= 30) { again += t[i] == t[i - 30] } } if (again > 3) { print again " new tokens are repeats"; exit 1 } }'
}

data_synthetic_writes_both_widths() {
    "$tools/synthetic" --tokens 3000 --vocab 65536 --out n.bin && "$tools/synthetic" --tokens 3000 --vocab 65537 --out w.bin &&
    "$tools/synthetic" --tokens 3000 --vocab 65536 --dtype u32 --out n32.bin || return 1
    same "$(header n.bin)" "20240520 1 3000" && same "$(header w.bin)" "20240801 7 3000" && same "$(stat -c %s w.bin)" 13024 || return 1
    tokens n.bin > n.txt
    od -An -v -w4 -tu4 -j1024 n32.bin | tr -d ' ' | cmp - n.txt
}

text_of_two_files() {
    printf 'The first line.\nSecond  line,\ttabbed\n<|endoftext|>\nDocument two\n' > one.txt
    printf 'no line end \303\244' > two.txt
}

data_bytes_writes_every_byte_and_an_end_of_text_before_each_document() {
    text_of_two_files
    "$tools/bytes" --out all.bin --sidecar one.txt two.txt || return 1
    { echo 256; printf 'The first line.\nSecond  line,\ttabbed' | od -An -v -w1 -tu1; echo 256; printf 'Document two' | od -An -v -w1 -tu1
      echo 256; printf 'no line end \303\244' | od -An -v -w1 -tu1; } | tr -d ' ' > expected.txt
    tokens all.bin | cmp - expected.txt || return 1
    same "$(cat all.json)" '{"bytes":62,"words":12,"join":"eot","tokens":65,"tokenizer":"byte","vocab":257,"documents":[0,37,50]}' || return 1
    cp all.bin again.bin; cp all.json again.json
    "$tools/bytes" --out all.bin --sidecar one.txt two.txt && cmp all.bin again.bin && cmp all.json again.json
}

data_bytes_first_last_and_doubled_separators_are_no_text() {
    local e='<|endoftext|>'
    printf 'A\n%s\nB\n' "$e" > plain.txt; "$tools/bytes" --out plain.bin plain.txt || return 1
    for text in "$e\nA\n$e\nB\n" "A\n$e\nB\n$e\n" "A\n$e\nB\n$e" "A\n$e\n$e\nB\n" "$e\n$e\nA\n$e\n$e\n$e\nB\n$e"; do
        printf "$text" > odd.txt; "$tools/bytes" --out odd.bin odd.txt && cmp plain.bin odd.bin || { echo "of '$text'"; return 1; }
    done
    for text in "A\r\n$e\r\nB\r\n" "$e\r\nA\r\n$e\r\n$e\r\nB" "A\n$e\r\nB\n" "A\r\n$e\nB\r\n$e\r\n"; do
        printf "$text" > odd.txt; "$tools/bytes" --out odd.bin odd.txt && cmp plain.bin odd.bin || { echo "of '$text'"; return 1; }
    done
    printf 'A\r\nB\r\n\r\n%s\r\n\r\n%s\n' "$e" "$e" > odd.txt; "$tools/bytes" --out odd.bin odd.txt || return 1      # inside, empty lines too
    same "$(tokens odd.bin | tr '\n' ' ')" "256 65 13 10 66 13 10 256 " || return 1
    printf 'A\r\n' > odd.txt; "$tools/bytes" --out odd.bin odd.txt; same "$(tokens odd.bin | tr '\n' ' ')" "256 65 13 10 " || return 1
    printf '%s\n' "x$e" "$e " "$e$e" "$e"$'\r\r' > literal.txt; "$tools/bytes" --out literal.bin literal.txt || return 1
    same "$(tokens literal.bin | wc -l)" $((1 + $(stat -c %s literal.txt))) || return 1
    printf '%s\n' "$e" > none.txt; "$tools/bytes" --out none.bin none.txt 2> said.txt; same $? 65 && grep -q 'holds no document' said.txt && [ ! -e none.bin ]
}

data_bytes_divides_at_a_line_and_loses_nothing() {
    seq 1 20000 > numbers.txt
    "$tools/bytes" --out train.bin --val-out val.bin --val-fraction 0.25 numbers.txt || return 1
    tokens train.bin | awk '$1 < 256 { printf "%c", $1 }' > train.txt
    tokens val.bin | awk '$1 < 256 { printf "%c", $1 }' > val.txt
    cat train.txt val.txt | cmp - numbers.txt || return 1
    same "$(tail -c 1 train.txt | od -An -tu1 | tr -d ' ')" 10 || return 1
    local bytes; bytes=$(stat -c %s val.txt)
    [ "$bytes" -le 27223 ] && [ "$bytes" -gt 27213 ] || { echo "validation has $bytes bytes, a quarter of the text is 27223"; return 1; }
    same "$(cat val.json)" "{\"bytes\":$bytes,\"words\":$(wc -w < val.txt | tr -d ' '),\"join\":\"eot\",\"tokens\":$((bytes + 1)),\"tokenizer\":\"byte\",\"vocab\":257,\"documents\":[0]}" || return 1
    [ ! -e train.json ] || { echo "a sidecar of the training shard was not asked for"; return 1; }
    # whole documents first: the border falls into the fourth of four equal ones
    for i in 1 2 3 4; do seq 1 1000 > doc$i.txt; done
    "$tools/bytes" --out train.bin --val-out val.bin --val-fraction 0.1 doc?.txt || return 1
    same "$(tokens train.bin | grep -c '^256$') $(tokens val.bin | grep -c '^256$')" "4 1"
}

data_shardinfo_says_what_is_there() {
    text_of_two_files
    "$tools/bytes" --out all.bin --sidecar one.txt two.txt && "$tools/shardinfo" --seq-len 10 --first 3 all.bin > said.txt || return 1
    cat > expected.txt <<'END'
all.bin
  header     magic 20240520, version 1: uint16 tokens
  size       1154 bytes, 65 tokens
  rows       6 of 10 tokens, 4 left over
  ids        9 to 256
  documents  3 (tokens with id 256)
  first      256 84 104
  sidecar    all.json: {"bytes":62,"words":12,"join":"eot","tokens":65,"tokenizer":"byte","vocab":257,"documents":[0,37,50]}
END
    diff said.txt expected.txt | head -n 3 | tr '\n' ' '
    cmp -s said.txt expected.txt || return 1
    mkfifo pipe.json; cp all.bin pipe.bin            # no sidecar, and nothing to wait for
    same "$(timeout 20 "$tools/shardinfo" pipe.bin | grep -c sidecar)" 0 && same "$(timeout 20 "$tools/shardinfo" pipe.bin | grep -c header)" 1 || return 1
    cp all.bin all2.bin
    same "$("$tools/shardinfo" --seq-len 10 'all*.bin' | tail -n 1)" "all*.bin: 2 shards, 2308 bytes, 130 tokens, 12 rows"
}

data_tools_refuse_in_sentences() {
    text_of_two_files
    "$tools/synthetic" --tokens 100 --out good.bin > /dev/null || return 1
    head -c 1223 good.bin > cut.bin
    : > empty.txt; mkfifo pipe.txt
    printf 'one line alone' > line.txt
    for tool in synthetic shardinfo bytes; do
        "$tools/$tool" --help | grep -q '^usage:' || { echo "$tool --help says no usage"; return 1; }
        refused 64 "usage:" "$tools/$tool" --frobnicate && refused 64 "see --help" "$tools/$tool" || return 1
    done
    cp good.bin kept.bin
    refused 64 "are one file" "$tools/bytes" --out good.bin --val-out ./good.bin cut.bin && cmp good.bin kept.bin && [ ! -e good.bin.tmp ] || return 1
    refused 64 "--tokens: 'abc' is not a whole number" "$tools/synthetic" --tokens abc --out x.bin &&
    refused 64 "--tokens: 0 is outside [1, 2147483647]" "$tools/synthetic" --tokens 0 --out x.bin &&
    refused 64 "--kind: 'noise' is none of uniform, zipf, copy" "$tools/synthetic" --kind noise --tokens 5 --out x.bin &&
    refused 64 "does not end in .bin" "$tools/synthetic" --tokens 5 --out x.txt &&
    refused 64 "ids of a vocabulary of 70000 need u32" "$tools/synthetic" --tokens 5 --vocab 70000 --dtype u16 --out x.bin &&
    refused 64 "--val-fraction: '1.5' is not a number between 0 and 1" "$tools/bytes" --out x.bin --val-out y.bin --val-fraction 1.5 one.txt &&
    refused 64 "both 'x.bin'" "$tools/bytes" --out x.bin --val-out x.bin one.txt &&
    refused 65 "no line starts in the validation part" "$tools/bytes" --out x.bin --val-out y.bin line.txt &&
    refused 65 "text empty.txt is empty" "$tools/bytes" --out x.bin empty.txt &&
    refused 65 "text pipe.txt is not a file" timeout 20 "$tools/bytes" --out x.bin pipe.txt &&
    refused 65 "expected a file that is not empty" timeout 20 "$tools/tokenize" --out x.bin pipe.txt &&
    refused 66 "text absent.txt cannot be read" "$tools/bytes" --out x.bin absent.txt &&
    refused 73 "absent/x.bin: cannot be created" "$tools/bytes" --out absent/x.bin one.txt &&
    refused 73 "absent/x.bin: cannot be created" "$tools/synthetic" --tokens 5 --out absent/x.bin &&
    refused 65 "cut.bin: header promises 100 tokens" "$tools/shardinfo" cut.bin good.bin &&
    refused 66 "no token shard matches 'absent*.bin'" "$tools/shardinfo" 'absent*.bin' cut.bin &&
    refused 65 "outside the vocabulary of 100" "$tools/shardinfo" --vocab 100 good.bin || return 1
    ls x.bin* y.bin* 2> /dev/null | grep . && { echo "a refused command left files"; return 1; }
    return 0
}

# written bytes beyond this limit are an error, as on a full disk
data_tools_without_room_leave_nothing() {
    seq 1 20000 > long.txt
    (ulimit -f 8
     refused 74 "full.bin: cannot be written: File too large" "$tools/synthetic" --tokens 100000 --out full.bin &&
     refused 74 "full.bin: cannot be written: File too large" "$tools/bytes" --out full.bin --val-out fullval.bin long.txt &&
     refused 74 "full.bin: cannot be written: File too large" "$tools/tokenize" --out full.bin long.txt) || return 1
    ls full*.bin* 2> /dev/null | grep . && { echo "something half-written was left"; return 1; }
    return 0
}

# what is in a shard or checkpoint and cannot be said is no success
data_info_tools_without_room_are_no_success() {
    "$tools/synthetic" --tokens 100 --out good.bin > /dev/null || return 1
    refused 74 "standard output cannot be written" bash -c '"$1" good.bin > /dev/full' x "$tools/shardinfo" &&
    refused 74 "standard output cannot be written" bash -c '"$1" --help > /dev/full' x "$tools/ckptinfo" &&
    refused 74 "standard output cannot be written" bash -c 'head -c 8192 /dev/zero > said.txt; ulimit -f 8; "$1" good.bin >> said.txt' x "$tools/shardinfo"
}

data_shardinfo_reads_the_published_shard() {
    same "$("$tools/shardinfo" --vocab 50257 --first 0 "$data/fineweb-edu/fineweb_edu_sample_1MB.gpt2.bin" | sed -n 's/^  \(size\|documents\) *//p' | tr '\n' ';')" \
         "436802 bytes, 217889 tokens;1 (tokens with id 50256);"
}

for name in data_synthetic_writes_the_same_bytes_again data_synthetic_has_the_distribution_it_says data_synthetic_copy_repeats_each_period \
            data_synthetic_writes_both_widths data_bytes_writes_every_byte_and_an_end_of_text_before_each_document \
            data_bytes_first_last_and_doubled_separators_are_no_text \
            data_bytes_divides_at_a_line_and_loses_nothing data_shardinfo_says_what_is_there data_tools_refuse_in_sentences \
            data_tools_without_room_leave_nothing data_info_tools_without_room_are_no_success; do
    run_case $name
done
if [ -e "$data/fineweb-edu/fineweb_edu_sample_1MB.gpt2.bin" ]; then run_case data_shardinfo_reads_the_published_shard
else echo "skip data_shardinfo_reads_the_published_shard (no data kit in $data)"; fi
[ $failures -eq 0 ]
