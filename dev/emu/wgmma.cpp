// wgmma: D (64 x N) = A (64 x 16) B (16 x N) + D of a warpgroup, and its asynchrony.
// The product is made when all 128 threads have issued it, but is handed over only when a thread waits for its group: until then the
// accumulators hold NaN. At the wait the operands in shared memory have to be the same as at the issue.
#include "emu.h"

#include <string.h>

#include <algorithm>
#include <vector>

enum { THREADS = 128, ROWS = 64, K = 16, MOST_N = 256 };
static const uint32_t POISON = 0xffffffffu;

static float bits_to_float(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
static float bf16_to_float(uint16_t bits) { return bits_to_float((uint32_t)bits << 16); }

// ---- operands in shared memory --------------------------------------------------------------------------------------------
struct Operand { uint64_t descriptor; bool mn_major; int size; unsigned window; };       // size: of M or N; where the CTA's shared memory begins

// Canonical layouts, in units of 16 bytes (8 elements); width = chunks in a row of the swizzle's pattern (1, 2, 4, 8):
//   K-major:  element (r, k): (r%8) * width, (r/8) * stride, chunk k/8 at 1, without swizzle at leading
//   MN-major: element (r, k): chunk r/8: (c%width) + (c/width) * leading; (k%8) * width + (k/8) * stride; leading and stride swap without swizzle
// The swizzle is of the address: its bits 4.. are changed by its bits 7.. (one bit for 32, two for 64, three for 128 bytes).
struct Layout { unsigned start, leading, stride, phase, width; };

static Layout layout_of(uint64_t d) {
    static const unsigned widths[4] = {1, 8, 4, 2};
    return Layout{(unsigned)(d & 0x3fff) << 4, (unsigned)(d >> 16 & 0x3fff) << 4, (unsigned)(d >> 32 & 0x3fff) << 4, (unsigned)(d >> 49 & 7), widths[d >> 62]};
}

static unsigned swizzled(const Layout& l, unsigned address) { return address ^ ((((address >> 7) - l.phase) & (l.width - 1)) << 4); }

// address of 8 elements: K-major: row `major`, k = 8 minor..;  MN-major: k = minor, rows 8 major..
static unsigned chunk_address(const Layout& l, bool mn_major, unsigned major, unsigned minor) {
    unsigned offset;
    if (!mn_major) { offset = major % 8 * l.width * 16 + major / 8 * l.stride + minor * (l.width == 1 ? l.leading : 16); }
    else if (l.width == 1) { offset = major * l.stride + minor % 8 * 16 + minor / 8 * l.leading; }
    else { offset = major % l.width * 16 + major / l.width * l.leading + minor % 8 * l.width * 16 + minor / 8 * l.stride; }
    return swizzled(l, l.start + offset);
}

// visits the chunks of rows first..first+count, each with its place in the arena
template <class F> static void for_chunks(const Operand& o, int first, int count, F visit) {
    Layout l = layout_of(o.descriptor);
    if (o.mn_major) {
        for (int c = first / 8; c < (first + count) / 8; c++) { for (int k = 0; k < K; k++) { visit(o.window + chunk_address(l, true, (unsigned)c, (unsigned)k), c, k); } }
    } else {
        for (int r = first; r < first + count; r++) { for (int h = 0; h < 2; h++) { visit(o.window + chunk_address(l, false, (unsigned)r, (unsigned)h), r, h); } }
    }
}

static uint64_t hash_of(const Operand& o, int first, int count) {
    uint64_t hash = 1;
    for_chunks(o, first, count, [&](unsigned place, int, int) {
        uint64_t word[2];
        memcpy(word, emu_arena + place, 16);
        hash = (hash ^ word[0]) * 0x9e3779b97f4a7c15ull;
        hash = ((hash ^ hash >> 29) + word[1]) * 0xbf58476d1ce4e5b9ull;
    });
    return hash;
}

// to[k * pitch + r]
static void load(const Operand& o, float* to, int pitch, int reader, const char* file, int line) {
    for_chunks(o, 0, o.size, [&](unsigned place, int i, int j) {
        uint16_t x[8];
        emu_check_place(place, 16, file, line);
        memcpy(x, emu_arena + place, 16);
        emu_check_async_access("wgmma", place, 16, reader, file, line);
        for (int e = 0; e < 8; e++) {
            int r = o.mn_major ? 8 * i + e : i, k = o.mn_major ? j : 8 * j + e;
            to[k * pitch + r] = bf16_to_float(x[e]);
        }
    });
}

// ---- what is in flight ----------------------------------------------------------------------------------------------------
struct Lane { float** d; const uint32_t* a; uint64_t descriptor_a, descriptor_b; int n; bool scale_d, a_mn_major, b_mn_major; int scale_a, scale_b; const void* from; const char* file; int line; };

// a warpgroup's accumulators: where each thread has them, and what they will be
struct Accumulators { std::vector<float*> at; std::vector<float> value; int n, group, left; bool delivered[THREADS]; const char* file; int line; };
struct Product { Operand a, b; bool a_in_registers; uint64_t hash_a[4], hash_b; int group; unsigned verified; const char* file; int line; };
struct Finished { std::vector<float*> at; std::vector<float> value; };      // accumulators at the last wait or wgmma.fence, to see writes after it

struct Warpgroup {
    std::vector<Accumulators*> accumulators;
    std::vector<Product> products;
    std::vector<Finished> finished[THREADS];
    int group[THREADS];
    bool fenced[THREADS], fenced_since_wait[THREADS];
};
static Warpgroup warpgroups[EMU_THREADS / THREADS];
static bool used;
long emu_wgmma_count;

void emu_wgmma_block_begins() {
    if (!used) { return; }
    for (Warpgroup& w : warpgroups) {
        for (Accumulators* a : w.accumulators) { delete a; }
        w.accumulators.clear();
        w.products.clear();
        for (auto& f : w.finished) { f.clear(); }
        memset(w.group, 0, sizeof w.group);
        memset(w.fenced, 0, sizeof w.fenced);
        memset(w.fenced_since_wait, 0, sizeof w.fenced_since_wait);
    }
    used = false;
}

void emu_wgmma_block_ends(int cta) {
    for (int g = 0; g < EMU_BLOCK_THREADS / THREADS; g++) {
        for (Accumulators* a : warpgroups[cta * EMU_BLOCK_THREADS / THREADS + g].accumulators) { emu_error("the block ended with a wgmma in flight that was issued at %s:%d: no wgmma.wait_group for it", a->file, a->line); }
    }
}

static Warpgroup* mine(int* index) {
    *index = emu_thread() % THREADS;
    used = true;
    return &warpgroups[emu_thread() / THREADS];
}

// The values that accumulators have now are the ones the next wgmma may find.
void emu_wgmma_fence() {
    int t;
    Warpgroup* w = mine(&t);
    w->fenced[t] = w->fenced_since_wait[t] = true;
    for (Finished& f : w->finished[t]) { for (size_t i = 0; i < f.value.size(); i++) { f.value[i] = *f.at[i]; } }
}
void emu_wgmma_commit() { int t; mine(&t)->group[t]++; }

// ---- issue ----------------------------------------------------------------------------------------------------------------
static void check_alike(int first, Lane** lane) {
    const Lane* l = lane[0];
    for (int t = 1; t < THREADS; t++) {
        const Lane* o = lane[t];
        if (o->descriptor_a != l->descriptor_a || o->descriptor_b != l->descriptor_b || o->scale_d != l->scale_d) {
            emu_error("wgmma: %s has other descriptors or another scale-d than %s  [%s:%d]", emu_thread_name(first + t), emu_thread_name(first), l->file, l->line);
        }
    }
}

// NaN in place of the accumulators that are handed over later
static Accumulators* take(int first, Lane** lane) {
    Accumulators* a = new Accumulators();
    int each = lane[0]->n / 2;
    a->n = lane[0]->n; a->left = THREADS;
    memset(a->delivered, 0, sizeof a->delivered);
    a->at.resize((size_t)THREADS * each);
    a->value.resize((size_t)THREADS * each);
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < each; i++) {
            a->at[t * each + i] = lane[t]->d[i];
            a->value[t * each + i] = *lane[t]->d[i];
            memcpy(lane[t]->d[i], &POISON, sizeof POISON);
        }
    }
    (void)first;
    return a;
}

// The accumulators of this product if they are in flight. Those partly in flight are a mistake.
static Accumulators* in_flight(Warpgroup* w, int first, Lane** lane) {
    size_t each = (size_t)lane[0]->n / 2;
    for (Accumulators* a : w->accumulators) {
        size_t had = (size_t)a->n / 2;
        bool same = had == each, overlap = false;
        for (int t = 0; t < THREADS && same; t++) { same = memcmp(&a->at[t * each], lane[t]->d, each * sizeof(float*)) == 0; }
        if (same) {
            for (int t = 0; t < THREADS; t++) {
                if (a->delivered[t]) { emu_error("wgmma: %s has waited for these accumulators, others of its warpgroup not  [%s:%d]", emu_thread_name(first + t), lane[0]->file, lane[0]->line); }
            }
            return a;
        }
        for (size_t i = 0; i < each && !overlap; i++) { overlap = std::find(a->at.begin(), a->at.begin() + (long)had, lane[0]->d[i]) != a->at.begin() + (long)had; }
        if (overlap) {
            emu_error("wgmma into accumulators of which some are in flight in a wgmma of another shape, issued at %s:%d; wait first  [%s:%d]", a->file, a->line,
                      lane[0]->file, lane[0]->line);
        }
    }
    return nullptr;
}

// wgmma.fence has to come between ordinary writes of accumulators or of A's registers and the first wgmma that uses them. Registers are not
// watched: accumulators count as written if their values changed since the last wait or fence, A's registers if there was a wait since the fence.
static void check_fences(Warpgroup* w, int first, Lane** lane, bool chained) {
    for (int t = 0; t < THREADS; t++) {
        const Lane* l = lane[t];
        const char* what = w->fenced[t] ? nullptr : "no wgmma.fence at all";
        if (l->a && !w->fenced_since_wait[t]) { what = "A in registers, and no wgmma.fence since the last wait"; }
        for (Finished& f : w->finished[t]) {
            if (chained || f.at.size() != (size_t)l->n / 2 || memcmp(f.at.data(), l->d, f.at.size() * sizeof(float*))) { continue; }
            for (size_t i = 0; i < f.at.size(); i++) {
                if (memcmp(f.at[i], &f.value[i], sizeof(float))) { what = "accumulators that were written after the last wgmma.fence"; }
            }
        }
        if (what) { emu_error("wgmma with %s (%s)  [%s:%d]", what, emu_thread_name(first + t), l->file, l->line); }
    }
}

static void a_from_registers(Lane** lane, float* a) {                  // a[k * ROWS + r]
    for (int t = 0; t < THREADS; t++) {
        int row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
        for (int i = 0; i < 4; i++) {
            int r = row + i % 2 * 8, k = column + i / 2 * 8;
            a[k * ROWS + r] = bits_to_float(lane[t]->a[i] << 16);
            a[(k + 1) * ROWS + r] = bits_to_float(lane[t]->a[i] & 0xffff0000u);
        }
    }
}

// element i of a thread is at row 16 warp + lane/4 (+8 for i%4 >= 2), column 8 (i/4) + 2 (lane%4) + i%2
static size_t element(int t, int i, int n) { return (size_t)(t / 32 * 16 + t % 32 / 4 + (i % 4 >= 2 ? 8 : 0)) * n + (size_t)(i / 4 * 8 + t % 4 * 2 + i % 2); }

static void multiply(const float* a, const float* b, float* d, int n) {
    for (int r = 0; r < ROWS; r++) {
        for (int k = 0; k < K; k++) {
            float x = a[k * ROWS + r];
            const float* from = b + k * n;
            float* to = d + r * n;
            for (int c = 0; c < n; c++) { to[c] += x * from[c]; }
        }
    }
}

// for the race check
static void note_reads(const Product& p, int thread, const void* from) {
    auto read = [=](unsigned place, int, int) { emu_race_read_as(thread, emu_arena + place, 16, from); };
    if (!p.a_in_registers) { for_chunks(p.a, thread % THREADS / 32 * 16, 16, read); }
    for_chunks(p.b, 0, p.b.size, read);
}

static void issue(int first, void** lanes) {
    Lane** lane = (Lane**)lanes;
    const Lane* l = lane[0];
    Warpgroup* w = &warpgroups[first / THREADS];
    check_alike(first, lane);
    for (int t = 1; t < THREADS; t++) {
        if (w->group[t] != w->group[0]) { emu_error("wgmma: %s has committed %d groups, %s %d  [%s:%d]", emu_thread_name(first + t), w->group[t], emu_thread_name(first), w->group[0], l->file, l->line); }
    }
    emu_wgmma_count++;
    Accumulators* acc = in_flight(w, first, lane);
    check_fences(w, first, lane, acc != nullptr);
    if (!acc) { w->accumulators.push_back(acc = take(first, lane)); }
    acc->group = w->group[0]; acc->file = l->file; acc->line = l->line;

    static float a[K * ROWS], b[K * MOST_N], d[ROWS * MOST_N];
    Product p = {};
    unsigned window = emu_cluster_rank() * EMU_STRIDE;
    p.a = Operand{l->descriptor_a, l->a_mn_major, ROWS, window};
    p.b = Operand{l->descriptor_b, l->b_mn_major, l->n, window};
    p.a_in_registers = l->a != nullptr; p.group = w->group[0]; p.file = l->file; p.line = l->line;
    if (l->a) { a_from_registers(lane, a); }
    else {
        load(p.a, a, ROWS, first, l->file, l->line);
        for (int warp = 0; warp < 4; warp++) { p.hash_a[warp] = hash_of(p.a, 16 * warp, 16); }
    }
    load(p.b, b, l->n, first, l->file, l->line);
    p.hash_b = hash_of(p.b, 0, l->n);
    w->products.push_back(p);
    if (emu_race_check) { for (int warp = 0; warp < 4; warp++) { note_reads(p, first + 32 * warp, l->from); } }

    int n = l->n, each = n / 2;
    float sign = (float)(l->scale_a * l->scale_b);
    if (sign < 0) { for (int i = 0; i < K * ROWS; i++) { a[i] = -a[i]; } }
    for (int t = 0; t < THREADS; t++) { for (int i = 0; i < each; i++) { d[element(t, i, n)] = l->scale_d ? acc->value[t * each + i] : 0.0f; } }
    multiply(a, b, d, n);
    for (int t = 0; t < THREADS; t++) { for (int i = 0; i < each; i++) { acc->value[t * each + i] = d[element(t, i, n)]; } }
    emu_progress();
}

void emu_wgmma(int n, float** d, const uint32_t* a, uint64_t descriptor_a, uint64_t descriptor_b, bool scale_d, int scale_a, int scale_b, bool a_mn_major,
               bool b_mn_major, const char* file, int line) {
    if ((scale_a != 1 && scale_a != -1) || (scale_b != 1 && scale_b != -1)) { emu_error("wgmma: imm-scale has to be 1 or -1  [%s:%d]", file, line); }
    Lane lane = {d, a, descriptor_a, descriptor_b, n, scale_d, a_mn_major, b_mn_major, scale_a, scale_b, __builtin_return_address(0), file, line};
    used = true;
    emu_meet_warpgroup("wgmma.mma_async", issue, &lane, file, line);
}

// ---- wait -----------------------------------------------------------------------------------------------------------------
static void verify(Product* p, int warp, const char* file, int line) {
    bool changed_a = !p->a_in_registers && hash_of(p->a, 16 * warp, 16) != p->hash_a[warp], changed_b = hash_of(p->b, 0, p->b.size) != p->hash_b;
    if (changed_a || changed_b) {
        emu_error("shared memory of operand %s (start address %u) changed while the wgmma issued at %s:%d was in flight; waited for at %s:%d", changed_a ? "A" : "B",
                  layout_of((changed_a ? p->a : p->b).descriptor).start, p->file, p->line, file, line);
    }
}

static void deliver(Warpgroup* w, Accumulators* a, int t, const char* file, int line) {
    size_t each = (size_t)a->n / 2;
    for (size_t i = 0; i < each; i++) {
        float* at = a->at[t * each + i];
        if (memcmp(at, &POISON, sizeof POISON)) {
            emu_error("accumulator %zu was written while the wgmma issued at %s:%d was in flight; waited for at %s:%d", i, a->file, a->line, file, line);
        }
        *at = a->value[t * each + i];
    }
    float **from = &a->at[t * each], **to = from + each;
    std::vector<Finished>& done = w->finished[t];
    done.erase(std::remove_if(done.begin(), done.end(), [=](Finished& f) { return std::find(from, to, f.at[0]) != to || std::find(f.at.begin(), f.at.end(), from[0]) != f.at.end(); }),
               done.end());
    done.push_back(Finished{std::vector<float*>(from, to), std::vector<float>(a->value.begin() + (long)(t * each), a->value.begin() + (long)((t + 1) * each))});
    a->delivered[t] = true;
    a->left--;
}

struct Wait { Warpgroup* w; int warp, before; const void* from; const char* file; int line; };

static void verify_all(void** lane, unsigned) {                          // when the whole warp has come
    Wait* wait = (Wait*)lane[0];
    std::vector<Product>& products = wait->w->products;
    for (Product& p : products) {
        if (p.group < wait->before && !(p.verified >> wait->warp & 1)) {
            verify(&p, wait->warp, wait->file, wait->line);
            p.verified |= 1u << wait->warp;
            if (emu_race_check) { note_reads(p, emu_thread() / THREADS * THREADS + wait->warp * 32, wait->from); }
        }
    }
    products.erase(std::remove_if(products.begin(), products.end(), [](Product& p) { return p.verified == 15; }), products.end());
}

void emu_wgmma_wait(int newest_left, const char* file, int line) {
    int t;
    Warpgroup* w = mine(&t);
    w->fenced_since_wait[t] = false;
    Wait wait = {w, t / 32, w->group[t] - newest_left, __builtin_return_address(0), file, line};
    emu_meet("wgmma.wait_group", verify_all, 0xffffffffu, &wait, true, file, line);
    for (size_t i = 0; i < w->accumulators.size(); i++) {
        Accumulators* a = w->accumulators[i];
        if (a->group >= wait.before || a->delivered[t]) { continue; }
        deliver(w, a, t, file, line);
        if (a->left == 0) { delete a; w->accumulators.erase(w->accumulators.begin() + (long)i--); }
    }
}
