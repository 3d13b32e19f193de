"""Turns CUDA C++ into C++ that calls emu.h: launches, __shared__ variables, inline PTX. Line numbers stay.

    rewrite.py INPUT OUTPUT NAME        NAME is what messages call the file
"""
import re
import sys


def blank_comments(text):
    """Comments become spaces, so that the patterns below see code only. Strings stay."""
    def keep(match):
        s = match.group(0)
        return s if s[0] in "\"'" else re.sub(r"\\(?!\n)|[^\n\\]", " ", s)
    return re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/', keep, text, flags=re.S)


def matching(text, start):
    """Index behind the bracket that closes the one at `start`."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    stack, i = [], start
    while i < len(text):
        c = text[i]
        if c in "\"'":
            i = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'').match(text, i).end()
            continue
        if c in pairs:
            stack.append(pairs[c])
        elif c in ")]}":
            if stack.pop() != c:
                raise ValueError("brackets do not match")
            if not stack:
                return i + 1
        i += 1
    raise ValueError("a bracket is not closed")


def split(text, separator):
    """Splits at separators outside of brackets and strings."""
    parts, depth, last, i = [], 0, 0, 0
    while i < len(text):
        c = text[i]
        if c in "\"'":
            i = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'').match(text, i).end()
            continue
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == separator and depth == 0:
            parts.append(text[last:i])
            last = i + 1
        i += 1
    return parts + [text[last:]]


def newlines(text):
    """What keeps the line count of `text` (with the backslashes of a macro)."""
    return "".join(re.findall(r"\\?\n", text))


def one_line(text):
    return re.sub(r"(\s|\\\n)+", " ", text).strip()


# ---- kernel<<<grid, block, shared, stream>>>(arguments) --------------------------------------------------------------------
def launch_name_start(text, end):
    """The kernel's name ends at `end`: maybe with template arguments, maybe with a namespace."""
    i = end
    while text[i - 1].isspace():
        i -= 1
    if text[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            depth += {">": 1, "<": -1}.get(text[i], 0)
            if depth == 0:
                break
        while text[i - 1].isspace():
            i -= 1
    while re.match(r"[\w:]", text[i - 1]):
        i -= 1
    return i


def rewrite_launches(text):
    while True:
        at = text.find("<<<")
        if at < 0:
            return text
        close = text.index(">>>", at)
        open_paren = re.compile(r"[\s\\]*\(").match(text, close + 3).end() - 1
        end = matching(text, open_paren)
        start = launch_name_start(text, at)
        name, config, arguments = text[start:at].strip(), text[at + 3:close], text[open_paren:end]
        shown = re.sub(r"\s+", " ", name).replace('"', "")
        new = f'emu_launch("{shown}", (const void*)({name}), __FILE__, __LINE__, [&]() EMU_NO_RACE {{ {name}{arguments}; }}, {config})'
        gaps = text[start + len(name):at] + text[close + 3:open_paren]
        text = text[:start] + new + newlines(gaps) + text[end:]


# ---- __shared__ -------------------------------------------------------------------------------------------------------------
ALIGN = r"(?:__align__|alignas)\s*\("


def rewrite_shared(text):
    pattern = re.compile(r"\b(extern\s+)?(?:static\s+)?__shared__\b")
    while True:
        match = pattern.search(text)
        if not match:
            return text
        end = text.index(";", match.end())
        body = text[match.end():end]
        align = "0"
        found = re.search(ALIGN, body)
        if found:
            close = matching(body, found.end() - 1)
            align = body[found.end():close - 1]
            body = body[:found.start()] + body[close:]
        first, *rest = split(body, ",")
        head = re.match(r"\s*(.*?)\s*\b(\w+)\s*((?:\[.*\])?)\s*$", first, re.S)
        kind = one_line(head.group(1))
        out = []
        for name, dims in [head.group(2, 3)] + [re.match(r"\s*(\w+)\s*((?:\[.*\])?)\s*$", r, re.S).group(1, 2) for r in rest]:
            if match.group(1):
                out.append(f'{kind}* {name} = ({kind}*)emu_dynamic_shared({align} > (int)alignof({kind}) ? {align} : (int)alignof({kind}), "{name}")')
            else:
                out.append(f'typedef {kind} emu_type_{name}{dims}; static EmuShared emu_place_{name}; '
                           f'emu_type_{name}& {name} = *(emu_type_{name}*)emu_static_shared(&emu_place_{name}, sizeof(emu_type_{name}), '
                           f'{align} > (int)alignof(emu_type_{name}) ? {align} : (int)alignof(emu_type_{name}), "{name}")')
        text = text[:match.start()] + one_line("; ".join(out)) + newlines(text[match.start():end]) + text[end:]


# ---- asm --------------------------------------------------------------------------------------------------------------------
HERE = "__FILE__, __LINE__"


def matrix_move(function, registers, address, opcode, store):
    names = split(registers.strip("{} "), ",")
    trans = "true" if ".trans" in opcode else "false"
    inits = ", ".join(f"(uint32_t)({n})" for n in names) if store else ""
    after = "" if store else " ".join(f"{n.strip()} = emu_m[{i}];" for i, n in enumerate(names))
    return f"uint32_t emu_m[{len(names)}] = {{{inits}}}; {function}(emu_m, {len(names)}, {trans}, (unsigned)({address.strip('[] ')}), {HERE}); {after}"


def flat(operands):
    return ", ".join(o.strip().strip("{}") for o in operands)


def instruction(opcode, operands):
    """The C++ statement for one PTX instruction, or None."""
    ops = [o.strip() for o in operands]
    base = opcode.split(".")[0]
    if opcode == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32":
        return f"emu_mma_m16n8k16_bf16({flat(ops)}, {HERE});"
    if opcode == "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32":
        return f"emu_mma_m16n8k8_tf32({flat(ops)}, {HERE});"
    if re.fullmatch(r"ldmatrix\.sync\.aligned\.(m8n8\.x[124]|x[124]\.m8n8)(\.trans)?\.shared(::cta)?\.b16", opcode):
        return matrix_move("emu_ldmatrix", ops[0], ops[1], opcode, False)
    if re.fullmatch(r"stmatrix\.sync\.aligned\.(m8n8\.x[124]|x[124]\.m8n8)(\.trans)?\.shared(::cta)?\.b16", opcode):
        return matrix_move("emu_stmatrix", ops[1], ops[0], opcode, True)
    if opcode == "movmatrix.sync.aligned.m8n8.trans.b16":
        return f"{ops[0]} = emu_movmatrix({ops[1]}, {HERE});"
    if re.fullmatch(r"cp\.async\.c[ag]\.shared(::cta)?\.global(\.L1::\w+)?(\.L2::\w+)?", opcode):
        source = ops[3] if len(ops) > 3 else ops[2]
        return f"emu_cp_async((unsigned)({ops[0].strip('[]')}), (const void*)({ops[1].strip('[]')}), {ops[2]}, (int)({source}), {HERE});"
    if opcode == "cp.async.commit_group":
        return "emu_cp_async_commit();"
    if opcode == "cp.async.wait_group":
        return f"emu_cp_async_wait({ops[0]});"
    if opcode == "cp.async.wait_all":
        return "emu_cp_async_wait_all();"
    if opcode == "cvt.rn.bf16x2.f32":
        return f"{ops[0]} = emu_pack_bf16x2({ops[1]}, {ops[2]});"
    if re.fullmatch(r"ex2\.approx(\.ftz)?\.f32", opcode):
        return f"{ops[0]} = exp2f({ops[1]});"
    if re.fullmatch(r"lg2\.approx(\.ftz)?\.f32", opcode):
        return f"{ops[0]} = log2f({ops[1]});"
    if re.fullmatch(r"rcp\.approx(\.ftz)?\.f32", opcode):
        return f"{ops[0]} = 1.0f / ({ops[1]});"
    if re.fullmatch(r"rsqrt\.approx(\.ftz)?\.f32", opcode):
        return f"{ops[0]} = rsqrtf({ops[1]});"
    if opcode == "tanh.approx.f32":
        return f"{ops[0]} = tanhf({ops[1]});"
    if opcode == "bar.sync" and len(ops) == 1 and ops[0] == "0":
        return "__syncthreads();"
    if opcode in ("mov.u32", "mov.b32") and ops[1] in ("%laneid", "%%laneid"):
        return f"{ops[0]} = (unsigned)emu_lane();"
    if base in ("prefetch", "prefetchu", "fence", "membar") or opcode == "griddepcontrol.wait" or opcode == "griddepcontrol.launch_dependents":
        return ";"
    return None


def operand_list(section):
    """[(constraint, expression)] of one part of an asm statement."""
    found = []
    for part in split(section, ","):
        match = re.match(r'\s*(?:\[\w+\]\s*)?"([^"]*)"\s*\((.*)\)\s*$', part.replace("\\\n", " "), re.S)
        if match:
            found.append(match.groups())
    return found


def asm_statement(inside):
    parts = split(inside, ":")
    template = "".join(re.findall(r'"((?:\\.|[^"\\])*)"', parts[0])).replace("\\n", "\n").replace("\\t", " ")
    operands = [o for part in parts[1:3] for o in operand_list(part)]

    def value(match):
        constraint, expression = operands[int(match.group(1))]
        return f"({one_line(expression)})"
    out = []
    lines = re.sub(r"//[^\n]*", "", template)
    for text in filter(None, (t.strip() for t in lines.split(";"))):
        opcode, _, rest = text.partition(" ")
        code = None
        if not text.startswith("{"):
            code = instruction(opcode.strip(), split(re.sub(r"%(\d+)", value, re.sub(r"\s+", " ", rest)), ","))
        if code is None:
            shown = re.sub(r"\s+", " ", template).replace('"', "'").replace("\\", "")
            return f'emu_unknown_ptx("{shown}", {HERE});'
        out.append(code)
    return "{ " + " ".join(out) + " }"


def rewrite_asm(text):
    pattern = re.compile(r"\b(?:asm|__asm__)\s*(?:(?:volatile|__volatile__)\b\s*)?\(")
    at = 0
    while True:
        match = pattern.search(text, at)
        if not match:
            return text
        end = matching(text, match.end() - 1)
        inside = re.sub(r'("(?:\\.|[^"\\])*")|(::)', lambda m: m.group(1) or ": :", text[match.end():end - 1])
        new = asm_statement(inside)
        semicolon = re.compile(r"\s*;").match(text, end)
        tail = semicolon.end() if semicolon else end
        text = text[:match.start()] + new + newlines(text[match.start():tail]) + text[tail:]
        at = match.start() + len(new)


def rewrite(text):
    return rewrite_asm(rewrite_shared(rewrite_launches(blank_comments(text))))


if __name__ == "__main__":
    source, target, shown = sys.argv[1:]
    with open(source) as f:
        result = rewrite(f.read())
    with open(target, "w") as f:
        f.write(f'#line 1 "{shown}"\n' + result)
