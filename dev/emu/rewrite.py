"""Turns CUDA C++ into C++ that calls emu.h: launches, clusters' dimensions, __shared__ variables, inline PTX. Line numbers stay.

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
        new = f'emu_launch("{shown}", (const void*)({name}), __FILE__, __LINE__, [&]() __attribute__((no_sanitize("thread"))) {{ {name}{arguments}; }}, {config})'
        gaps = text[start + len(name):at] + text[close + 3:open_paren]
        text = text[:start] + new + newlines(gaps) + text[end:]


# ---- void __cluster_dims__(2, 1, 1) kernel(parameters) { body } -------------------------------------------------------------
def rewrite_cluster_dims(text):
    """The dimensions become the kernel's first statement: the first thread that gets there says what its launch lacks."""
    pattern = re.compile(r"\b__cluster_dims__[\s\\]*\(")
    while True:
        match = pattern.search(text)
        if not match:
            return text
        end = matching(text, match.end() - 1)
        dims = text[match.end() - 1:end]
        text = text[:match.start()] + newlines(text[match.start():end]) + text[end:]
        parameters = matching(text, text.index("(", match.start()))
        body = re.compile(r"[\s\\]*\{").match(text, parameters)
        if body:                                                       # not a declaration alone
            text = text[:body.end()] + f" emu_cluster_dims{one_line(dims)};" + text[body.end():]


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
TYPES = {"u8": "uint8_t", "s8": "int8_t", "b8": "uint8_t", "u16": "uint16_t", "s16": "int16_t", "b16": "uint16_t", "u32": "uint32_t", "s32": "int32_t",
         "b32": "uint32_t", "u64": "uint64_t", "s64": "int64_t", "b64": "uint64_t", "f32": "float", "f64": "double", "pred": "bool"}
SPECIAL = {"laneid": "(uint32_t)emu_lane()", "warpid": "(uint32_t)(emu_thread() % EMU_BLOCK_THREADS / 32)", "smid": "(uint32_t)0", "clock": "(uint32_t)clock64()", "clock64": "clock64()",
           "globaltimer": "clock64()", "cluster_ctarank": "emu_cluster_rank()", "cluster_nctarank": "emu_cluster_size()",
           **{f"{a}.{d}": f"{c}.{d}" for a, c in (("tid", "threadIdx"), ("ctaid", "blockIdx"), ("ntid", "blockDim"), ("nctaid", "gridDim"),
                                                  ("clusterid", "emu_cluster_id()"), ("nclusterid", "emu_cluster_grid()"),
                                                  ("cluster_ctaid", "emu_cluster_place()"), ("cluster_nctaid", "emu_cluster_shape()")) for d in "xyz"}}


def matrix_move(function, registers, address, opcode, store):
    names = split(registers.strip("{} "), ",")
    trans = "true" if ".trans" in opcode else "false"
    inits = ", ".join(f"(uint32_t)({n})" for n in names) if store else ""
    after = "" if store else " ".join(f"{n.strip()} = emu_m[{i}];" for i, n in enumerate(names))
    return f"uint32_t emu_m[{len(names)}] = {{{inits}}}; {function}(emu_m, {len(names)}, {trans}, {shared_at(address)}, {HERE}); {after}"


def flat(operands):
    return ", ".join(o.strip().strip("{}") for o in operands)


def listed(operand):
    return [o.strip() for o in split(operand.strip().strip("{}"), ",")]


def address(operand):
    """[register + offset], the offset in bytes"""
    base, *offset = split(operand.strip().strip("[]"), "+")
    return f"((uintptr_t)({base.strip()}) + ({offset[0].strip() if offset else 0}))"


def shared_at(operand):
    return f"(unsigned){address(operand)}"


def global_at(operand):
    return f"(void*){address(operand)}"


def wgmma(opcode, ops):
    n = int(re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.bf16\.bf16", opcode).group(1))
    d = listed(ops[0])
    if len(d) != n // 2 or n % 8 or not 8 <= n <= 256:
        return f'emu_error("wgmma of n = {n} with {len(d)} accumulators  [%s:%d]", {HERE});'
    registers = ops[1].startswith("{")
    a = f"uint32_t emu_a[4] = {{{flat([ops[1]])}}};" if registers else ""
    trans = ops[6:]
    trans_a, trans_b = ("0", trans[0]) if registers else trans
    return (f"float* emu_d[{len(d)}] = {{{', '.join('&' + x for x in d)}}}; {a} emu_wgmma({n}, emu_d, {'emu_a' if registers else 'nullptr'}, "
            f"{'0' if registers else ops[1]}, {ops[2]}, {ops[3]}, {ops[4]}, {ops[5]}, {trans_a}, {trans_b}, {HERE});")


def load_or_store(opcode, ops):
    base, *parts = opcode.split(".")
    kind = TYPES.get(parts[-1])
    known = ("global", "shared", "shared::cta", "volatile", "acquire", "relaxed", "release", "gpu", "cta", "sys", "cluster", "nc", "cs", "cg", "ca", "lu", "cv", "wb", "wt",
             "weak", "v2", "v4")
    if kind is None or any(p not in known and "::" not in p for p in parts[:-1]) or "shared::cluster" in parts:
        return None
    values, at = (listed(ops[0]), ops[1]) if base == "ld" else (listed(ops[1]), ops[0])
    shared = "shared" in parts or "shared::cta" in parts
    n = len(values)
    pointer = f"emu_shared_pointer({shared_at(at)}, {n} * sizeof({kind}), {HERE})" if shared else f"emu_aligned({global_at(at)}, {n} * sizeof({kind}), {HERE})"
    strong = any(p in parts for p in ("acquire", "release", "volatile", "relaxed"))
    kind_there = "volatile " + kind if strong else kind
    code = f"{kind_there}* emu_p = ({kind_there}*){pointer}; "
    if base == "ld":
        code += " ".join(f"{kind} emu_v{i} = emu_p[{i}]; emu_set({v}, emu_v{i});" for i, v in enumerate(values))
        return code + (f" emu_acquiring_load((const void*)emu_p, (uint64_t)emu_v0, {HERE});" if strong else "")
    code += " ".join(f"{kind} emu_v{i}; emu_set(emu_v{i}, {v}); emu_p[{i}] = emu_v{i};" for i, v in enumerate(values))
    return code + (" emu_progress();" if strong else "")


def atomic(opcode, ops):
    base, *parts = opcode.split(".")
    kind = {"u32": "unsigned", "s32": "int", "b32": "unsigned", "u64": "unsigned long long", "b64": "unsigned long long"}.get(parts[-1])
    name = {"add": "Add", "min": "Min", "max": "Max", "and": "And", "or": "Or", "xor": "Xor", "exch": "Exch", "cas": "CAS"}.get(parts[-2])
    if kind is None or name is None or "shared::cluster" in parts:
        return None
    destination, at, rest = (None, ops[0], ops[1:]) if base == "red" else (ops[0], ops[1], ops[2:])
    shared = "shared" in parts or "shared::cta" in parts
    pointer = f"emu_shared_pointer({shared_at(at)}, sizeof({kind}), {HERE})" if shared else global_at(at)
    values = "".join(f", ({kind})({v})" for v in rest)
    return f"auto emu_old = atomic{name}(({kind}*){pointer}{values}); emu_progress();" + (f" emu_set({destination}, emu_old);" if destination and destination != "_" else "")


def mbarrier(opcode, ops):
    what = re.sub(r"\.(acquire|release|relaxed|cta|cluster|b64|shared::cta|shared::cluster|shared)(?=\.|$)", "", opcode)
    in_cluster = "shared::cluster" in opcode
    if in_cluster and (what not in ("mbarrier.arrive", "mbarrier.arrive.expect_tx") or ops[0].startswith("[") or ops[0] != "_"):
        return None                                                    # of another CTA's mbarrier nobody gets the state
    if what == "mbarrier.init":
        return f"emu_mbarrier_init({shared_at(ops[0])}, {ops[1]}, {HERE});"
    if what == "mbarrier.inval":
        return f"emu_mbarrier_inval({shared_at(ops[0])}, {HERE});"
    if what in ("mbarrier.expect_tx", "mbarrier.complete_tx"):
        return f"emu_{what.replace('.', '_')}({shared_at(ops[0])}, {ops[1]}, {HERE});"
    if what in ("mbarrier.arrive", "mbarrier.arrive.expect_tx", "mbarrier.arrive.noComplete"):
        state, *rest = ops if not ops[0].startswith("[") else ["_", *ops]
        expects = what.endswith("expect_tx")
        extra = rest[1] if len(rest) > 1 else "1"
        count, expected = ("1", extra) if expects else (extra, "-1")
        code = f"uint64_t emu_s = emu_mbarrier_arrive({shared_at(rest[0])}, {count}, {expected}, {'true' if in_cluster else 'false'}, {HERE}); (void)emu_s;"
        return code + (f" emu_set({state}, emu_s);" if state != "_" else "")
    match = re.fullmatch(r"mbarrier\.(try|test)_wait(\.parity)?", what)
    if match:
        function = "parity" if match.group(2) else "state"
        return f"{ops[0]} = emu_mbarrier_test_{function}({shared_at(ops[1])}, {ops[2]}, {'true' if match.group(1) == 'try' else 'false'}, {HERE});"
    return None


def bulk(opcode, ops):
    if opcode == "cp.async.bulk.commit_group":
        return "emu_bulk_commit();"
    if opcode in ("cp.async.bulk.wait_group", "cp.async.bulk.wait_group.read"):
        return f"emu_bulk_wait({ops[0]}, {'true' if opcode.endswith('.read') else 'false'}, {HERE});"
    if opcode.startswith("cp.async.bulk.prefetch"):
        return ";"
    hint = r"(\.L2::cache_hint)?"
    where = "EMU_ONE_CTA" if "shared::cluster" in opcode else "EMU_OWN_CTA"
    match = re.fullmatch(r"cp\.async\.bulk\.tensor\.[1-5]d\.shared::(cluster|cta)\.global(\.tile)?\.mbarrier::complete_tx::bytes(\.multicast::cluster)?" + hint, opcode)
    if match and not (match.group(3) and match.group(1) == "cta"):
        tensor, at = split(ops[1].strip("[]"), ",")
        where = f"(uint16_t)({ops[3]})" if match.group(3) else where
        return f"emu_tma_load({shared_at(ops[0])}, (const void*)({tensor}), {at}, {shared_at(ops[2])}, {where}, {HERE});"
    if re.fullmatch(r"cp\.async\.bulk\.tensor\.[1-5]d\.global\.shared::cta(\.tile)?\.bulk_group" + hint, opcode):
        tensor, at = split(ops[0].strip("[]"), ",")
        return f"emu_tma_store((const void*)({tensor}), {at}, {shared_at(ops[1])}, {HERE});"
    if re.fullmatch(r"cp\.async\.bulk\.shared::(cluster|cta)\.global\.mbarrier::complete_tx::bytes" + hint, opcode):
        return f"emu_bulk_load({shared_at(ops[0])}, {global_at(ops[1])}, {ops[2]}, {shared_at(ops[3])}, {where}, {HERE});"
    if re.fullmatch(r"cp\.async\.bulk\.global\.shared::cta\.bulk_group" + hint, opcode):
        return f"emu_bulk_store({global_at(ops[0])}, {shared_at(ops[1])}, {ops[2]}, false, {HERE});"
    if opcode == "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32":
        return f"emu_bulk_store({global_at(ops[0])}, {shared_at(ops[1])}, {ops[2]}, true, {HERE});"
    return None


BINARY = {"add": "+", "sub": "-", "mul.lo": "*", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


def arithmetic(opcode, ops):
    head, _, suffix = opcode.rpartition(".")
    kind = TYPES.get(suffix)
    if kind is None:
        return None
    if head == "mov" and ops[0].startswith("{"):
        return f"uint64_t emu_x = {ops[1]}; " + " ".join(f"emu_set({v}, (uint32_t)(emu_x >> {i * 64 // len(listed(ops[0]))}));" for i, v in enumerate(listed(ops[0])))
    if head == "mov" and ops[1].startswith("{"):
        parts = listed(ops[1])
        return f"emu_set({ops[0]}, ({kind})(" + " | ".join(f"(uint64_t){v} << {i * int(suffix[1:]) // len(parts)}" for i, v in enumerate(parts)) + "));"
    if head == "mov":
        return f"emu_set({ops[0]}, {ops[1]});" if suffix[0] == "b" else f"emu_set({ops[0]}, ({kind})({ops[1]}));"
    if head.startswith("setp."):
        return f"{ops[0]} = ({kind})({ops[1]}) {COMPARE[head.split('.')[1]]} ({kind})({ops[2]});" if head.split(".")[1] in COMPARE else None
    if head == "selp":
        return f"emu_set({ops[0]}, {ops[3]} ? ({kind})({ops[1]}) : ({kind})({ops[2]}));"
    if head in BINARY:
        return f"emu_set({ops[0]}, ({kind})(({kind})({ops[1]}) {BINARY[head]} ({kind})({ops[2]})));"
    if head == "not":
        return f"{ops[0]} = ({kind})({'!' if kind == 'bool' else '~'}({ops[1]}));"
    if re.fullmatch(r"cvt\.[us](32|64)", head) or head == "cvta.to.shared" or head == "cvta.to.global":
        if head == "cvta.to.shared":
            return f"emu_set({ops[0]}, ({kind})emu_shared_address((const void*)(uintptr_t)({ops[1]}), {HERE}));"
        to = TYPES[head.split(".")[1]] if head.startswith("cvt.") else kind
        return f"emu_set({ops[0]}, ({to})({kind})({ops[1]}));"
    return None


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
    if re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16", opcode):
        return wgmma(opcode, ops)
    if opcode == "wgmma.fence.sync.aligned":
        return "emu_wgmma_fence();"
    if opcode == "wgmma.commit_group.sync.aligned":
        return "emu_wgmma_commit();"
    if opcode == "wgmma.wait_group.sync.aligned":
        return f"emu_wgmma_wait({ops[0]}, {HERE});"
    if re.fullmatch(r"cp\.async\.c[ag]\.shared(::cta)?\.global(\.L1::\w+)?(\.L2::\w+)?", opcode):
        given = len(ops) - (".L2::cache_hint" in opcode)                # destination, source, size, and how much of it is read
        source = ops[3] if given > 3 else ops[2]
        return f"emu_cp_async({shared_at(ops[0])}, {global_at(ops[1])}, {ops[2]}, (int)({source}), {HERE});"
    if opcode == "cp.async.commit_group":
        return "emu_cp_async_commit();"
    if opcode == "cp.async.wait_group":
        return f"emu_cp_async_wait({ops[0]});"
    if opcode == "cp.async.wait_all":
        return "emu_cp_async_wait_all();"
    if re.fullmatch(r"cp\.async\.mbarrier\.arrive(\.noinc)?(\.shared(::cta)?)?\.b64", opcode):
        return f"emu_cp_async_arrive({shared_at(ops[0])}, {'true' if 'noinc' in opcode else 'false'}, {HERE});"
    if opcode.startswith(("cp.async.bulk", "cp.reduce.async.bulk")):
        return bulk(opcode, ops)
    if base == "mbarrier":
        return mbarrier(opcode, ops)
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
    if re.fullmatch(r"(bar|barrier)(\.cta)?\.(sync|arrive)(\.aligned)?", opcode):
        return f"emu_named_barrier((unsigned)({ops[0]}), {f'(int)({ops[1]})' if len(ops) > 1 else -1}, {'true' if '.sync' in opcode else 'false'}, {HERE});"
    if re.fullmatch(r"barrier\.cluster\.(arrive(\.release|\.relaxed)?|wait(\.acquire)?)(\.aligned)?", opcode):
        aligned = "true" if opcode.endswith(".aligned") else "false"
        if ".wait" in opcode:
            return f"emu_cluster_wait({aligned}, {HERE});"
        return f"emu_cluster_arrive({'false' if '.relaxed' in opcode else 'true'}, {aligned}, {HERE});"
    if opcode == "mapa.shared::cluster.u32":
        return f"emu_set({ops[0]}, emu_mapa((unsigned)({ops[1]}), (unsigned)({ops[2]}), {HERE}));"
    if opcode == "elect.sync":
        lane, chosen = ops[0].split("|")
        set_lane = f"emu_set({lane}, emu_e);" if lane.strip() != "_" else ""
        return f"uint32_t emu_e; {chosen} = emu_elect((unsigned)({ops[1]}), &emu_e, {HERE}); {set_lane}"
    if re.fullmatch(r"setmaxnreg\.(inc|dec)\.sync\.aligned\.u32", opcode):
        return f"emu_setmaxnreg({ops[0]}, {HERE});"
    if re.fullmatch(r"fence\.proxy\.async(\.shared::(cta|cluster))?", opcode):
        return "emu_fence_proxy_async(); emu_fence_mbarrier_init();"
    if opcode == "fence.mbarrier_init.release.cluster":
        return "emu_fence_mbarrier_init();"
    if base in ("ld", "st"):
        return load_or_store(opcode, ops)
    if base in ("atom", "red"):
        return atomic(opcode, ops)
    if base == "nanosleep":
        return "__nanosleep(0);"
    if base == "createpolicy":
        return f"emu_set({ops[0]}, (uint64_t)0);"
    if base in ("prefetch", "prefetchu", "fence", "membar") or opcode == "griddepcontrol.wait" or opcode == "griddepcontrol.launch_dependents":
        return ";"
    return arithmetic(opcode, ops)


def operand_list(section):
    """[(name, expression)] of one part of an asm statement; the name may be None."""
    found = []
    for part in split(section, ","):
        match = re.match(r'\s*(?:\[(\w+)\]\s*)?"[^"]*"\s*\((.*)\)\s*$', part.replace("\\\n", " "), re.S)
        if match:
            found.append(match.groups())
    return found


def declaration(text, names):
    """`.reg .pred p, q` as a declaration of C++, its names noted"""
    match = re.fullmatch(r"\.reg\s*\.(\w+)\s+(.*)", text, re.S)
    if not match or match.group(1) not in TYPES:
        return None
    new = []
    for name in match.group(2).split(","):
        name = name.strip().lstrip("%")
        count = re.fullmatch(r"(\w+)<(\d+)>", name)
        new += [f"{count.group(1)}{i}" for i in range(int(count.group(2)))] if count else [name]
    names.update(new)
    return f"{TYPES[match.group(1)]} {', '.join('emu_r_' + n for n in new)};"


def asm_statement(inside):
    parts = split(inside, ":")
    template = "".join(re.findall(r'"((?:\\.|[^"\\])*)"', parts[0])).replace("\\n", "\n").replace("\\t", " ").replace("\\r", " ")
    operands = [o for part in parts[1:3] for o in operand_list(part)]
    named = {name: i for i, (name, _) in enumerate(operands) if name}
    names, labels, out = set(), re.findall(r"(?:^|[;{}\s])(\w+)\s*:(?!:)", template), []

    def value(match):
        index = match.group(1)
        expression = operands[int(index) if index.isdigit() else named[index[1:-1]]][1]
        return f"({one_line(expression)})"

    def local(match):
        return "emu_r_" + match.group(1) if match.group(1) in names else match.group(0)

    def translated(text):
        text = re.sub(r"%%([a-z_]\w*(?:\.[xyz])?)", lambda m: f"({SPECIAL[m.group(1)]})" if m.group(1) in SPECIAL and m.group(1) not in names else m.group(1), text)
        text = re.sub(r"(?<!%)%([a-z_]\w*(?:\.[xyz])?)", lambda m: f"({SPECIAL[m.group(1)]})" if m.group(1) in SPECIAL else m.group(0), text)
        opcode, _, rest = re.sub(r"\s+", " ", text).strip().partition(" ")
        rest = re.sub(r"(?<![\w.:%])([A-Za-z_]\w*)(?![\w(])", local, rest)
        if opcode in ("bra", "bra.uni"):
            return f"goto emu_l_{rest.strip()};"
        return instruction(opcode, split(re.sub(r"%(\d+|\[\w+\])", value, rest), ","))

    for text in re.sub(r"//[^\n]*", "", template).split(";"):
        text = text.strip()
        while True:
            match = re.match(r"([{}])\s*|(\w+)\s*:(?!:)\s*", text)
            if not match:
                break
            out.append(match.group(1) if match.group(1) else f"emu_l_{match.group(2)}: ;")
            text = text[match.end():]
        if not text:
            continue
        if text.startswith(".reg"):
            code = declaration(text, names)
        else:
            guard = re.match(r"@(!?)%*(\w+)\s+", text)
            code = translated(text[guard.end():] if guard else text)
            if code is not None:
                code = "{ " + code + " }"
                if guard:
                    name = guard.group(2)
                    name = f"emu_r_{name}" if name in names else name
                    code = f"if ({guard.group(1)}{name}) {code}"
        if code is None:
            shown = re.sub(r"\s+", " ", template).replace('"', "'").replace("\\", "").replace("%", "%")
            return f'emu_unknown_ptx("{shown}", {HERE});'
        out.append(code)
    declared = f"__label__ {', '.join('emu_l_' + l for l in labels)}; " if labels else ""
    return "{ " + declared + " ".join(out) + " }"


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
    return rewrite_asm(rewrite_shared(rewrite_cluster_dims(rewrite_launches(blank_comments(text)))))


if __name__ == "__main__":
    source, target, shown = sys.argv[1:]
    with open(source) as f:
        result = rewrite(f.read())
    with open(target, "w") as f:
        f.write(f'#line 1 "{shown}"\n' + result)
