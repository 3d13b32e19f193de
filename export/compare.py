#!/usr/bin/env python3
"""Holds two files of log-likelihoods against each other, item by item: train_moba --eval-out and export/harness.py --out.

    python3 export/compare.py program.jsonl harness.jsonl

For each task that both have, over the items both have: right answers, items whose answer differs, log-likelihood differences. Which choice is right is said by
either file; where neither says it, "-" stands for the right answers, and the items whose answer differs bound their difference. Exit status 1 if --accuracy or
--loglik is exceeded."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
from common import EXIT_DATA, ToolError


def read_scores(path):
    """task -> item -> choice -> row"""
    tasks = {}
    for number, line in enumerate(common.lines_of(common.read_bytes(path, "scores").decode(errors="replace")), 1):
        try:
            row = json.loads(line)
            items = tasks.setdefault(row["task"].removesuffix("_openai"), {})
            items.setdefault(row["item"], {})[row["choice"]] = row
            float(row["loglik"])
        except (ValueError, KeyError, TypeError):
            raise ToolError(EXIT_DATA, f"scores {path}: line {number} is not a score (cut copy?)")
    return tasks


def best(choices):
    return max(sorted(choices), key=lambda choice: choices[choice]["loglik"])


def answer(choices):
    """What an item's score comes down to: greedy or not, or the likeliest choice."""
    return bool(choices[0]["greedy"]) if len(choices) == 1 else best(choices)


def right_answer(ours, theirs):
    """True where the one continuation must be greedy, else the choice that either side has as right; None if neither says."""
    if len(ours) == 1:
        return True
    return next((choice for side in (ours, theirs) for choice, row in side.items() if row.get("gold")), None)


def margin(choices):
    """How far the likeliest choice is ahead of the next; None where there is one choice."""
    ordered = sorted((row["loglik"] for row in choices.values()), reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else None


def compare(task, ours, theirs):
    """-> printed line, difference of accuracies (as a share of the items; at most, where it is not known), largest difference of log-likelihoods"""
    shared = sorted(set(ours) & set(theirs))
    if any(set(ours[item]) != set(theirs[item]) for item in shared):
        raise ToolError(EXIT_DATA, f"{task}: the two files have different numbers of choices; were they made from one source?")
    pairs = [(ours[item], theirs[item]) for item in shared]
    differences = [abs(a[choice]["loglik"] - b[choice]["loglik"]) for a, b in pairs for choice in a]
    flips = [item for item, (a, b) in zip(shared, pairs) if answer(a) != answer(b)]
    close = [margin(theirs[item]) for item in flips]
    answers = [right_answer(a, b) for a, b in pairs]
    known = None not in answers
    right = [sum(answer(side) == expected for side, expected in zip(sides, answers)) if known else "-" for sides in zip(*pairs)]
    line = (f"{task:<16} {len(shared):>6} items   right {right[0]:>6} {right[1]:>6}   answers differ {len(flips):>4}"
            f"   log-likelihoods differ by {sum(differences) / len(differences):.3g} on average, {max(differences):.3g} at most")
    if [m for m in close if m is not None]:
        line += f"; where answers differ the lead is {max(m for m in close if m is not None):.3g} at most"
    return line, (abs(right[0] - right[1]) if known else len(flips)) / len(shared), max(differences)


def main():
    parser = common.Parser("Holds two files of log-likelihoods against each other.")
    parser.add_argument("--accuracy", type=float, default=1.0, metavar="X", help="largest difference of accuracies that passes")
    parser.add_argument("--loglik", type=float, default=1e9, metavar="X", help="largest difference of log-likelihoods that passes")
    parser.add_argument("ours", help="train_moba --eval-out")
    parser.add_argument("theirs", help="export/harness.py --out")
    options = parser.parse_args()
    ours, theirs = read_scores(options.ours), read_scores(options.theirs)
    tasks = [task for task in ours if task in theirs and set(ours[task]) & set(theirs[task])]
    if not tasks:
        raise ToolError(EXIT_DATA, f"{options.ours} and {options.theirs} have no task in common")
    failed = False
    for task in tasks:
        line, accuracy, loglik = compare(task, ours[task], theirs[task])
        failed |= accuracy > options.accuracy or loglik > options.loglik
        print(line)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    common.run(main)
