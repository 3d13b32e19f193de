// Instructions that kernels write as inline PTX. Layouts of fragments: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
#include "emu.h"

#include <math.h>
#include <string.h>

#include <vector>

static float bits_to_float(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
static float bf16_half(uint32_t pair, int half) { return bits_to_float(half ? pair & 0xffff0000u : pair << 16); }

static uint32_t bf16_bits(float x) {
    uint32_t wide;
    memcpy(&wide, &x, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u) { return 0x7fff; }
    return (wide + 0x7fffu + (wide >> 16 & 1u)) >> 16;
}
uint32_t emu_pack_bf16x2(float high, float low) { return bf16_bits(high) << 16 | bf16_bits(low); }

// ---- mma ------------------------------------------------------------------------------------------------------------------
// lane = 4 * group + t.  C and D: element i is at row group (+8 for i >= 2), column 2t + i%2
struct MmaLane { uint32_t a[4], b[2]; float c[4], d[4]; };

template <int K> static void multiply(void** lane, const float a[16][K], const float b[K][8]) {
    float d[16][8];
    for (int l = 0; l < 32; l++) {
        for (int i = 0; i < 4; i++) { d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] = ((MmaLane*)lane[l])->c[i]; }
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < K; k++) {
            for (int column = 0; column < 8; column++) { d[row][column] += a[row][k] * b[k][column]; }
        }
    }
    for (int l = 0; l < 32; l++) {
        for (int i = 0; i < 4; i++) { ((MmaLane*)lane[l])->d[i] = d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]; }
    }
}

// A: element i of 8 is at row group (+8 for i in 2,3,6,7), column 2t + i%2 (+8 for i >= 4).  B: element i of 4 at row 2t + i%2 (+8 for i >= 2), column group
static void mma_bf16(void** lane, unsigned) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const MmaLane* m = (const MmaLane*)lane[l];
        int group = l / 4, t = l % 4;
        for (int i = 0; i < 8; i++) { a[group + (i % 4 >= 2 ? 8 : 0)][2 * t + i % 2 + (i >= 4 ? 8 : 0)] = bf16_half(m->a[i / 2], i % 2); }
        for (int i = 0; i < 4; i++) { b[2 * t + i % 2 + (i >= 2 ? 8 : 0)][group] = bf16_half(m->b[i / 2], i % 2); }
    }
    multiply<16>(lane, a, b);
}

// m16n8k8, one element a register. A: register i at row group (+8 for i in 1,3), column t (+4 for i >= 2).  B: register i at row t (+4 for i = 1), column group
static void mma_tf32(void** lane, unsigned) {
    float a[16][8], b[8][8];
    for (int l = 0; l < 32; l++) {
        const MmaLane* m = (const MmaLane*)lane[l];
        int group = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++) { a[group + (i % 2 ? 8 : 0)][t + (i >= 2 ? 4 : 0)] = bits_to_float(m->a[i] & 0xffffe000u); }
        for (int i = 0; i < 2; i++) { b[t + 4 * i][group] = bits_to_float(m->b[i] & 0xffffe000u); }
    }
    multiply<8>(lane, a, b);
}

#define MMA(name, meeting) \
    void name(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, \
              uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3, const char* file, int line) { \
        MmaLane mine = {{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, {}}; \
        emu_meet("mma.sync", meeting, 0xffffffffu, &mine, true, file, line); \
        d0 = mine.d[0]; d1 = mine.d[1]; d2 = mine.d[2]; d3 = mine.d[3]; \
    }
MMA(emu_mma_m16n8k16_bf16, mma_bf16)
MMA(emu_mma_m16n8k8_tf32, mma_tf32)

// ---- ldmatrix, stmatrix, movmatrix ----------------------------------------------------------------------------------------
// Lane 8m + r gives the address of row r of matrix m; lane l holds elements 2(l%4), 2(l%4)+1 of row l/4 of each matrix,
// transposed: of column l/4.
struct MatrixLane { char* row; uint32_t* value; };

static void place(int lane, int half, bool transposed, int* row, int* column) {
    *row = transposed ? lane % 4 * 2 + half : lane / 4;
    *column = transposed ? lane / 4 : lane % 4 * 2 + half;
}

template <int Matrices, bool Transposed, bool Store> static void move_matrices(void** lane, unsigned) {
    for (int m = 0; m < Matrices; m++) {
        for (int l = 0; l < 32; l++) {
            uint32_t* value = &((MatrixLane*)lane[l])->value[m];
            uint32_t pair = 0;
            for (int half = 0; half < 2; half++) {
                int row, column;
                place(l, half, Transposed, &row, &column);
                uint16_t* cell = (uint16_t*)((MatrixLane*)lane[8 * m + row])->row + column;
                if (Store) { *cell = (uint16_t)(*value >> (16 * half)); }
                else { pair |= (uint32_t)*cell << (16 * half); }
            }
            if (!Store) { *value = pair; }
        }
    }
}

template <bool Store> static EmuMeeting matrix_meeting(int matrices, bool transposed) {
    switch (matrices) {
        case 1: return transposed ? move_matrices<1, true, Store> : move_matrices<1, false, Store>;
        case 2: return transposed ? move_matrices<2, true, Store> : move_matrices<2, false, Store>;
        default: return transposed ? move_matrices<4, true, Store> : move_matrices<4, false, Store>;
    }
}

void emu_ldmatrix(uint32_t* out, int matrices, bool transposed, unsigned address, const char* file, int line) {
    MatrixLane mine = {nullptr, out};
    if (emu_lane() < 8 * matrices) { mine.row = emu_shared_pointer(address, 16, file, line); emu_touch(mine.row, 16, false); }
    emu_meet("ldmatrix", matrix_meeting<false>(matrices, transposed), 0xffffffffu, &mine, true, file, line);
}

void emu_stmatrix(const uint32_t* in, int matrices, bool transposed, unsigned address, const char* file, int line) {
    MatrixLane mine = {nullptr, (uint32_t*)in};
    if (emu_lane() < 8 * matrices) { mine.row = emu_shared_pointer(address, 16, file, line); emu_touch(mine.row, 16, true); emu_generic_write(mine.row, 16, emu_thread(), false); }
    emu_meet("stmatrix", matrix_meeting<true>(matrices, transposed), 0xffffffffu, &mine, true, file, line);
}

uint32_t emu_movmatrix(uint32_t value, const char* file, int line) {
    struct Lane { uint32_t in, out; } mine = {value, 0};
    emu_meet("movmatrix", [](void** lane, unsigned) {
        for (int l = 0; l < 32; l++) {
            for (int half = 0; half < 2; half++) {
                int row = l % 4 * 2 + half, column = l / 4;
                ((Lane*)lane[l])->out |= (((Lane*)lane[4 * row + column / 2])->in >> (16 * (column % 2)) & 0xffffu) << (16 * half);
            }
        }
    }, 0xffffffffu, &mine, true, file, line);
    return mine.out;
}

// ---- cp.async -------------------------------------------------------------------------------------------------------------
// The worst case on both sides: the destination is spoilt when the copy is issued, the data are read and written when it is waited for.
struct Copy { char* to; const void* from; int bytes, source_bytes, group; uint64_t number; };
struct Copies { std::vector<Copy> pending; int group = 0; };
static uint64_t copies_begun;
static Copies copies[EMU_THREADS];
static bool copies_used;

void emu_cp_async(unsigned to, const void* from, int bytes, int source_bytes, const char* file, int line) {
    char* pointer = emu_shared_pointer(to, (size_t)bytes, file, line);
    if (source_bytes < 0 || source_bytes > bytes) { emu_error("cp.async of %d bytes with src-size %d  [%s:%d]", bytes, source_bytes, file, line); }
    if ((uintptr_t)from % (size_t)bytes) { emu_error("cp.async from %p, which is not a multiple of %d  [%s:%d]", from, bytes, file, line); }
    emu_touch(pointer, (size_t)bytes, true);
    emu_generic_write(pointer, (size_t)bytes, emu_thread(), false);
    memset(pointer, 0xff, (size_t)bytes);
    Copies* mine = &copies[emu_thread()];
    mine->pending.push_back(Copy{pointer, from, bytes, source_bytes, mine->group, copies_begun++});
    copies_used = true;
}

void emu_cp_async_commit() { copies[emu_thread()].group++; }

static void finish(const Copy& copy, int thread, bool arrives) {
    emu_generic_write(copy.to, (size_t)copy.bytes, thread, arrives);
    memset(copy.to, 0, (size_t)copy.bytes);
    memcpy(copy.to, copy.from, (size_t)copy.source_bytes);
}

static void finish_copies(int groups_left, bool uncommitted) {
    Copies* mine = &copies[emu_thread()];
    size_t kept = 0;
    for (Copy& copy : mine->pending) {
        if (uncommitted || copy.group < mine->group - groups_left) {
            emu_touch(copy.to, (size_t)copy.bytes, true);
            finish(copy, emu_thread(), false);
        } else {
            mine->pending[kept++] = copy;
        }
    }
    mine->pending.resize(kept);
}

uint64_t emu_cp_async_mark() { return copies_begun; }

void emu_cp_async_finish(int thread, uint64_t mark) {
    Copies* its = &copies[thread];
    size_t kept = 0;
    for (Copy& copy : its->pending) {
        if (copy.number < mark) { finish(copy, thread, true); }
        else { its->pending[kept++] = copy; }
    }
    its->pending.resize(kept);
}
void emu_cp_async_wait(int newest_left) { finish_copies(newest_left, false); }
void emu_cp_async_wait_all()            { finish_copies(0, true); }

void emu_fibers_reset_copies() {
    if (!copies_used) { return; }
    for (Copies& c : copies) { c.pending.clear(); c.group = 0; }
    copies_used = false;
}

void emu_unknown_ptx(const char* text, const char* file, int line) {
    emu_error("no emulation of this PTX (add it to dev/emu/rewrite.py): %s  [%s:%d]", text, file, line);
}

// ---- named barriers -------------------------------------------------------------------------------------------------------
static struct Named { int expected, arrived, waiting[EMU_BLOCK_THREADS], count; const char* file; int line; } named[EMU_CTAS][16];

void emu_named_barriers_begin() { for (auto& block : named) { for (Named& b : block) { b.arrived = b.count = 0; } } }

void emu_named_barrier(unsigned id, int count, bool wait, const char* file, int line) {
    int threads = (int)(blockDim.x * blockDim.y * blockDim.z), me = emu_thread();
    if (id == 0 && (count < 0 || count == threads) && wait) { emu_barrier(EMU_SYNC, 0, file, line); return; }
    if (id > 15) { emu_error("named barrier %u: there are 0..15  [%s:%d]", id, file, line); }
    if (count < 0) { count = threads; }
    if (count % 32 || count == 0 || count > threads) { emu_error("named barrier of %d threads in a block of %d: a multiple of 32  [%s:%d]", count, threads, file, line); }
    Named* b = &named[emu_cluster_rank()][id];
    if (b->arrived == 0) { b->expected = count; b->file = file; b->line = line; }
    if (b->expected != count) { emu_error("named barrier %u of %d threads, while others are at %s:%d with %d  [%s:%d]", id, count, b->file, b->line, b->expected, file, line); }
    b->arrived++;
    if (wait) { b->waiting[b->count++] = me; }
    emu_race_arrive(b, me);
    if (b->arrived == count) {
        emu_race_complete(b);
        int waiting[EMU_BLOCK_THREADS], n = b->count;
        memcpy(waiting, b->waiting, sizeof(int) * (size_t)n);
        b->arrived = b->count = 0;
        emu_shuffle(waiting, n);
        for (int i = 0; i < n; i++) { if (waiting[i] != me) { emu_wake(waiting[i]); } }
        emu_progress();
        if (wait) { emu_race_wait(b); }
        return;
    }
    if (wait) { emu_park("bar.sync of a named barrier", file, line); emu_race_wait(b); }
}

// ---- small ones of Hopper -------------------------------------------------------------------------------------------------
void emu_setmaxnreg(int registers, const char* file, int line) {
    if (registers < 24 || registers > 256 || registers % 8) { emu_error("setmaxnreg %d: not a multiple of 8 in 24..256  [%s:%d]", registers, file, line); }
}

bool emu_elect(unsigned mask, uint32_t* elected, const char* file, int line) {
    emu_meet("elect.sync", [](void**, unsigned) {}, mask, nullptr, false, file, line);
    *elected = (uint32_t)__builtin_ctz(mask);
    return *elected == (uint32_t)emu_lane();
}

void emu_acquiring_load(const void* address, uint64_t value, const char* file, int line) {
    static struct { const void* address; uint64_t value; } last[EMU_THREADS];
    auto* mine = &last[emu_thread()];
    bool again = mine->address == address && mine->value == value;
    mine->address = address; mine->value = value;
    if (emu_zone(address) == EMU_DEVICE_ZONE) { emu_block_used_atomics = true; }
    if (again) { emu_spin("ld.acquire or ld.volatile, which reads the same value again", file, line); }
}
