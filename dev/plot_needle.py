#!/usr/bin/env python3
"""Draws the needle scores of train_moba --eval-out as heat maps, depth down and length across: one SVG file that any browser opens.

    ./train_moba --out runs/340M --eval-only --eval-data 'needle_*.bin' --eval-out scores.jsonl
    python3 dev/plot_needle.py scores.jsonl needles.svg

Needs nothing but Python."""
import json
import os
import sys
from html import escape

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
from common import EXIT_DATA, ToolError

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, GAP = 64, 26, 70, 56, 50
LOW, HIGH = (247, 224, 219), (33, 113, 81)             # colours of 0 and 1


def read_maps(path):
    """task -> (length, depth) -> [right, items]"""
    maps = {}
    for number, line in enumerate(common.lines_of(common.read_bytes(path, "scores").decode(errors="replace")), 1):
        try:
            row = json.loads(line)
            if "length" in row:
                cell = maps.setdefault(row["task"], {}).setdefault((row["length"], row["depth"]), [0, 0])
                cell[0] += row["greedy"]
                cell[1] += 1
        except (ValueError, KeyError, TypeError):
            raise ToolError(EXIT_DATA, f"scores {path}: line {number} is not a score (cut copy?)")
    if not maps:
        raise ToolError(EXIT_DATA, f"scores {path}: no needle's score among them (data/needle.py makes the task)")
    return maps


def text(x, y, words, anchor="middle", colour="#222", size=12):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(str(words))}</text>'


def cell(x, y, right, items):
    share = right / items
    colour = "#%02x%02x%02x" % tuple(round(low + share * (high - low)) for low, high in zip(LOW, HIGH))
    return (f'<rect x="{x}" y="{y}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" fill="{colour}"><title>{right} of {items}</title></rect>'
            + text(x + CELL_WIDTH / 2 - 1, y + CELL_HEIGHT / 2 + 3, f"{share:.2f}", colour="#fff" if share > 0.5 else "#222"))


def heat_map(task, cells, top):
    """SVG of one task from `top` down, and where it ends."""
    lengths, depths = (sorted({key[i] for key in cells}) for i in (0, 1))
    total = [sum(cell[i] for cell in cells.values()) for i in (0, 1)]
    parts = [text(LEFT, top + 18, f"{task}: {total[0]} of {total[1]} right", "start", size=15),
             text(LEFT - 8, top + TOP - 8, "depth %", "end", "#777")]
    parts += [text(LEFT + CELL_WIDTH * (i + 0.5), top + TOP - 8, length, colour="#777") for i, length in enumerate(lengths)]
    for d, depth in enumerate(depths):
        y = top + TOP + d * CELL_HEIGHT
        parts.append(text(LEFT - 8, y + CELL_HEIGHT / 2 + 3, depth, "end", "#777"))
        parts += [cell(LEFT + i * CELL_WIDTH, y, *cells[length, depth]) for i, length in enumerate(lengths) if (length, depth) in cells]
    return "\n".join(parts), top + TOP + len(depths) * CELL_HEIGHT + GAP, LEFT + len(lengths) * CELL_WIDTH


def main():
    parser = common.Parser("Draws needle scores as heat maps, depth down and length across, into one SVG file.")
    parser.add_argument("scores", help="train_moba --eval-out")
    parser.add_argument("out", help="the SVG file to write")
    options = parser.parse_args()
    drawings, top, width = [], 0, 320
    for task, cells in read_maps(options.scores).items():
        drawing, top, right = heat_map(task, cells, top)
        drawings.append(drawing)
        width = max(width, right + 20)
    with common.whole_file(options.out) as file:
        file.write((f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif">\n'
                    f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(drawings) + "\n</svg>\n").encode())
    print(f"{options.out}: {len(drawings)} maps")


if __name__ == "__main__":
    common.run(main)
