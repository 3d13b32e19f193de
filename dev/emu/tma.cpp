// mbarriers, and what completes on them behind the threads' backs: TMA (cp.async.bulk and cp.async.bulk.tensor), cp.async.mbarrier.arrive.
// A multicast is a load for each CTA of its mask. Bulk loads spoil their destination when they are issued and arrive when no thread can go on, in an order that changes with EMU_SEED;
// bulk stores read and write when they are waited for, and what they read must not have changed until then.
#include "include/cuda.h"

#include <map>
#include <vector>

// ---- mbarrier -------------------------------------------------------------------------------------------------------------
// What a load or another CTA's arrival did to an mbarrier, and its own CTA does not know by a wait: in which phase, by which thread, after how many
// arrivals of this thread at the cluster's barrier (which no load waits for).
struct Effect { uint64_t phase; bool load; int thread, arrivals; const char* file; int line; };
struct Mbarrier { int expected, pending; long bytes; uint64_t phase; int initialiser, arrivals_before; bool fenced; std::vector<int> waiting; std::vector<Effect> effects; };
static std::map<unsigned, Mbarrier> mbarriers;           // by place
static const uint64_t MARK = 0x6d6261727269e721ull;      // what lies in shared memory in place of an mbarrier's state
enum { MOST_BYTES = (1 << 20) - 1 };

static int cta_of(unsigned place) { return (int)(place / EMU_STRIDE); }
static int cta_of_thread(int thread) { return thread / EMU_BLOCK_THREADS; }

static Mbarrier* at(const char* what, unsigned place, const char* file, int line) {
    const char* of = emu_cta_name(cta_of(place));
    unsigned offset = place % EMU_STRIDE;
    auto found = mbarriers.find(place);
    if (found == mbarriers.end()) { emu_error("%s: no mbarrier was initialised at shared address %u%s  [%s:%d]", what, offset, of, file, line); }
    if (memcmp(emu_arena + place, &MARK, 8)) { emu_error("%s: the mbarrier at shared address %u%s was overwritten  [%s:%d]", what, offset, of, file, line); }
    return &found->second;
}

static Mbarrier* find(const char* what, unsigned address, const char* file, int line) { return at(what, emu_place(address, 8, false, file, line), file, line); }

// One that may be another CTA's: which has to have initialised it before a cluster barrier that this thread waited for, and must not have ended.
static Mbarrier* find_in_cluster(const char* what, unsigned place, const char* file, int line) {
    int cta = cta_of(place), me = emu_thread();
    if (cta == cta_of_thread(me)) { return at(what, place, file, line); }
    if (emu_alive(cta) == 0) { emu_error("%s: CTA %d, to whose shared memory this goes, has ended: a barrier.cluster belongs before its end  [%s:%d]", what, cta, file, line); }
    if (emu_cluster_waits(me) == 0) { emu_error("%s: goes to CTA %d before this thread has waited at a barrier.cluster, by which that CTA has begun  [%s:%d]", what, cta, file, line); }
    Mbarrier* m = at(what, place, file, line);
    if (emu_cluster_waits(me) <= m->arrivals_before) { emu_error("%s: no barrier.cluster since CTA %d initialised the mbarrier  [%s:%d]", what, cta, file, line); }
    return m;
}

static void complete_if_done(Mbarrier* m) {
    if (m->pending != 0 || m->bytes != 0) { return; }
    m->phase++;
    emu_race_complete(m);
    m->pending = m->expected;
    std::vector<int> waiting;
    waiting.swap(m->waiting);
    for (size_t n = waiting.size(); n > 0; n--) {
        size_t i = emu_random((unsigned)n);
        emu_wake(waiting[i]);
        waiting[i] = waiting[n - 1];
    }
    emu_progress();
}

void emu_mbarrier_init(unsigned address, unsigned count, const char* file, int line) {
    unsigned place = emu_place(address, 8, false, file, line);
    if (count == 0 || count > MOST_BYTES) { emu_error("mbarrier.init with count %u  [%s:%d]", count, file, line); }
    if (mbarriers.count(place)) { emu_error("mbarrier.init: there is an mbarrier at shared address %u already  [%s:%d]", address, file, line); }
    mbarriers[place] = Mbarrier{(int)count, (int)count, 0, 0, emu_thread(), emu_cluster_arrivals(emu_thread()), false, {}, {}};
    emu_touch(emu_arena + place, 8, true);
    memcpy(emu_arena + place, &MARK, 8);
}

void emu_mbarrier_inval(unsigned address, const char* file, int line) {
    Mbarrier* m = find("mbarrier.inval", address, file, line);
    if (!m->waiting.empty()) { emu_error("mbarrier.inval while threads wait  [%s:%d]", file, line); }
    mbarriers.erase(emu_place(address, 8, false, file, line));
}

void emu_fence_mbarrier_init() { for (auto& m : mbarriers) { if (m.second.initialiser == emu_thread()) { m.second.fenced = true; } } }

static void expect(Mbarrier* m, long bytes, const char* file, int line) {
    m->bytes += bytes;
    if (m->bytes > MOST_BYTES) { emu_error("mbarrier.expect_tx: more than %d bytes  [%s:%d]", MOST_BYTES, file, line); }
}

void emu_mbarrier_expect_tx(unsigned address, unsigned bytes, const char* file, int line) { expect(find("mbarrier.expect_tx", address, file, line), bytes, file, line); }

static void complete_bytes(Mbarrier* m, long bytes) {
    m->bytes -= bytes;
    complete_if_done(m);
}

void emu_mbarrier_complete_tx(unsigned address, unsigned bytes, const char* file, int line) { complete_bytes(find("mbarrier.complete_tx", address, file, line), bytes); }

uint64_t emu_mbarrier_arrive(unsigned address, unsigned count, long expect_bytes, bool in_cluster, const char* file, int line) {
    unsigned place = emu_place(address, 8, in_cluster, file, line);
    Mbarrier* m = find_in_cluster("mbarrier.arrive", place, file, line);
    if (expect_bytes >= 0) { expect(m, expect_bytes, file, line); }
    uint64_t state = m->phase;
    m->pending -= (int)count;
    if (m->pending < 0) {
        emu_error("mbarrier.arrive: more arrivals in this phase than the %d the mbarrier at shared address %u%s expects  [%s:%d]", m->expected, place % EMU_STRIDE,
                  emu_cta_name(cta_of(place)), file, line);
    }
    if (cta_of(place) != cta_of_thread(emu_thread())) { m->effects.push_back(Effect{state, false, emu_thread(), emu_cluster_arrivals(emu_thread()), file, line}); }
    emu_race_arrive(m, emu_thread());
    complete_if_done(m);
    return state;
}

static void know(Mbarrier* m) {
    emu_race_wait(m);
    size_t kept = 0;
    for (Effect& e : m->effects) { if (e.phase >= m->phase) { m->effects[kept++] = e; } }
    m->effects.resize(kept);
}

// `done` is asked again each time: the phase may have changed.
template <class Done> static bool wait(const char* what, Mbarrier* m, bool blocking, Done done, const char* file, int line) {
    if (done()) { know(m); return true; }
    if (!blocking || emu_random(4) == 1) {               // try_wait may give up as well
        emu_spin(what, file, line);
    } else {
        while (!done()) { m->waiting.push_back(emu_thread()); emu_park(what, file, line); }
    }
    if (done()) { know(m); return true; }
    return false;
}

bool emu_mbarrier_test_parity(unsigned address, unsigned parity, bool blocking, const char* file, int line) {
    const char* what = !blocking ? (parity ? "mbarrier.test_wait.parity 1" : "mbarrier.test_wait.parity 0") : parity ? "mbarrier.try_wait.parity 1" : "mbarrier.try_wait.parity 0";
    Mbarrier* m = find(what, address, file, line);
    if (parity > 1) { emu_error("mbarrier.try_wait with parity %u  [%s:%d]", parity, file, line); }
    return wait(what, m, blocking, [=] { return (m->phase & 1) != parity; }, file, line);
}

bool emu_mbarrier_test_state(unsigned address, uint64_t state, bool blocking, const char* file, int line) {
    const char* what = blocking ? "mbarrier.try_wait" : "mbarrier.test_wait";
    Mbarrier* m = find(what, address, file, line);
    return wait(what, m, blocking, [=] { return m->phase != state; }, file, line);
}

void emu_describe_waits() {
    size_t bytes, dynamic = emu_dynamic_offset(&bytes);
    for (auto& e : mbarriers) {
        Mbarrier& m = e.second;
        unsigned offset = e.first % EMU_STRIDE;
        fprintf(stderr, "emu:   mbarrier%s at shared address %u (%ld from the start of the dynamic bytes): in phase %llu, %d of %d arrivals and %ld bytes %s, %zu threads wait\n",
                emu_cta_name(cta_of(e.first)), offset, (long)offset - (long)dynamic, (unsigned long long)m.phase, m.pending, m.expected, labs(m.bytes),
                m.bytes < 0 ? "too many" : "missing", m.waiting.size());
        if (m.waiting.size() % 32) {
            fprintf(stderr, "emu:     (was a lane overtaken? If the lanes of a warp wait one by one, and one of them lets the next phase begin, a __syncwarp() belongs between)\n");
        }
    }
}

// ---- tensor maps ----------------------------------------------------------------------------------------------------------
struct TensorMap { uint64_t mark; char* start; uint64_t size[5]; uint32_t stride16[4]; uint16_t box[5]; uint8_t rank, element_bytes, swizzle; };
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap), "a tensor map is 128 bytes");
static const uint64_t MAP_MARK = 0x70616d20726f736eull;

CUresult emu_encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* start, const cuuint64_t* size, const cuuint64_t* stride,
                          const cuuint32_t* box, const cuuint32_t* element_stride, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                          CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
    static const uint8_t bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    static const unsigned span[] = {0, 32, 64, 128};
    const char* wrong = nullptr;
    TensorMap t = {};
    t.mark = MAP_MARK; t.start = (char*)start; t.rank = (uint8_t)rank; t.swizzle = (uint8_t)swizzle;
    t.element_bytes = (unsigned)type < sizeof bytes ? bytes[type] : 0;
    if ((uintptr_t)map % 64) { wrong = "the map is not aligned to 64 bytes"; }
    else if (rank < 1 || rank > 5) { wrong = "rank"; }
    else if ((uintptr_t)start % 16) { wrong = "globalAddress is not a multiple of 16"; }
    else if (t.element_bytes == 0) { wrong = "data type"; }
    else if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || (unsigned)swizzle > 3) { wrong = "interleave, swizzle or fill that the emulator does not know"; }
    for (unsigned i = 0; i < rank && !wrong; i++) {
        t.size[i] = size[i]; t.box[i] = (uint16_t)box[i];
        if (size[i] == 0 || size[i] > (1ull << 32)) { wrong = "globalDim is 0 or above 2^32"; }
        else if (box[i] == 0 || box[i] > 256) { wrong = "boxDim is 0 or above 256"; }
        else if (element_stride[i] != 1) { wrong = "elementStrides other than 1 (valid, but not emulated)"; }
        else if (i > 0 && (stride[i - 1] % 16 || stride[i - 1] >= 1ull << 40)) { wrong = "globalStrides: not a multiple of 16, or 2^40 and more"; }
        else if (i > 0) { t.stride16[i - 1] = (uint32_t)(stride[i - 1] / 16); }
    }
    unsigned row = t.box[0] * t.element_bytes;
    if (!wrong && row % 16) { wrong = "the box's rows are not a multiple of 16 bytes"; }
    if (!wrong && swizzle && row > span[swizzle]) { wrong = "the box's rows are longer than the swizzle's span"; }
    if (!wrong && swizzle && row < span[swizzle]) { wrong = "the box's rows are shorter than the swizzle's span (not emulated)"; }
    if (wrong) {
        fprintf(stderr, "emu: cuTensorMapEncodeTiled: %s\n", wrong);
        return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy((void*)map, &t, sizeof t);
    return CUDA_SUCCESS;
}

// ---- asynchronous operations ----------------------------------------------------------------------------------------------
enum Kind { TENSOR_LOAD, BULK_LOAD, COPIES_ARRIVE, TENSOR_STORE, BULK_STORE, BULK_ADD };
struct Operation {
    Kind kind;
    TensorMap map;
    int at[5];
    unsigned shared, mbarrier;                           // places
    char* global;
    size_t bytes;
    int thread, arrivals, group;
    uint64_t mark, hash;
    uint32_t clock[EMU_WARPS];
    bool was_read;                                       // of a bulk store: a thread waited for its reading, `data` is what it read
    std::vector<char> data;
    const void* from;                                    // where in the kernel
    const char* file;
    int line;
};
static std::vector<Operation> arriving, leaving;         // loads and arrivals; stores
static int favoured;                                     // the CTA whose loads arrive first, so that the other falls behind; -1: neither
static int store_group[EMU_THREADS];

static size_t box_bytes(const TensorMap& t) {
    size_t bytes = t.element_bytes;
    for (int i = 0; i < t.rank; i++) { bytes *= t.box[i]; }
    return bytes;
}

static void check_shared(unsigned align, const Operation& o) {
    if (o.shared % align) { emu_error("bulk copy: shared address %u is not a multiple of %u  [%s:%d]", o.shared % EMU_STRIDE, align, o.file, o.line); }
    for (size_t i = 0; i < o.bytes; i += 16) { emu_check_place(o.shared + (unsigned)i, 16, o.file, o.line); }
}

static uint64_t hash_shared(unsigned place, size_t bytes) {
    uint64_t hash = 1, word;
    for (size_t i = 0; i < bytes; i += 8) { memcpy(&word, emu_arena + place + i, 8); hash = (hash ^ word) * 0x9e3779b97f4a7c15ull; hash ^= hash >> 29; }
    return hash;
}

static const TensorMap* map_at(const void* p, int rank, const char* file, int line) {
    const TensorMap* t = (const TensorMap*)p;
    if ((uintptr_t)p % 64 || t->mark != MAP_MARK) { emu_error("%p is not a tensor map of cuTensorMapEncodeTiled, aligned to 64 bytes  [%s:%d]", p, file, line); }
    if (t->rank != rank) { emu_error("a tensor map of %d dimensions used with %d coordinates  [%s:%d]", t->rank, rank, file, line); }
    return t;
}

// Between the box in shared memory and the tensor; outside of the tensor a load gives zeros and a store does nothing.
static void move_box(const Operation& o, bool load) {
    const TensorMap& t = o.map;
    size_t row_bytes = (size_t)t.box[0] * t.element_bytes, rows = box_bytes(t) / row_bytes;
    unsigned bits = t.swizzle == 0 ? 0 : (1u << t.swizzle) - 1;       // 32 bytes: 1, 64: 3, 128: 7
    for (size_t r = 0; r < rows; r++) {
        char row[256 * 8] = {};
        long from = o.at[0] < 0 ? -(long)o.at[0] : 0, to = (long)t.size[0] - o.at[0];
        if (to > t.box[0]) { to = t.box[0]; }
        bool inside = from < to;
        char* global = t.start + ((long)o.at[0] + from) * t.element_bytes;
        size_t left = r;
        for (int i = 1; i < t.rank; i++) {
            long x = (long)o.at[i] + (long)(left % t.box[i]);
            left /= t.box[i];
            inside = inside && x >= 0 && x < (long)t.size[i];
            global += x * (long)t.stride16[i - 1] * 16;
        }
        size_t bytes = inside ? (size_t)(to - from) * t.element_bytes : 0;
        if (inside && !emu_in_device_memory(global, bytes)) { emu_error("TMA touches %zu bytes at %p outside of device buffers (the map's sizes or strides are wrong)  [%s:%d]", bytes, (void*)global, o.file, o.line); }
        char* in_row = row + (size_t)(inside ? from : 0) * t.element_bytes;
        if (load && inside) { memcpy(in_row, global, bytes); }
        for (size_t b = 0; b < row_bytes; b += 16) {
            unsigned place = o.shared + (unsigned)(r * row_bytes + b);
            place ^= (place >> 7 & bits) << 4;
            if (load) { memcpy(emu_arena + place, row + b, 16); }
            else { memcpy(row + b, emu_arena + place, 16); }
        }
        if (!load && inside) { memcpy(global, in_row, bytes); }
    }
}

static void begin_load(Operation o) {
    Mbarrier* m = find_in_cluster("bulk copy", o.mbarrier, o.file, o.line);
    if (!m->fenced) {
        emu_error("bulk copy: %s initialised the mbarrier and did not fence (fence.mbarrier_init or fence.proxy.async)  [%s:%d]", emu_thread_name(m->initialiser), o.file, o.line);
    }
    for (Operation& other : arriving) {
        if (o.shared < other.shared + other.bytes && other.shared < o.shared + o.bytes) {
            emu_error("a bulk copy into shared memory%s into which the one issued at %s:%d by %s is still in flight  [%s:%d]", emu_cta_name(cta_of(o.shared)), other.file,
                      other.line, emu_thread_name(other.thread), o.file, o.line);
        }
    }
    emu_check_async_access("a bulk copy into shared memory", o.shared, o.bytes, emu_thread(), o.file, o.line);
    memset(emu_arena + o.shared, 0xff, o.bytes);
    emu_race_bulk_begins(emu_arena + o.shared, o.bytes, o.from, o.clock);
    arriving.push_back(o);
}

// To one CTA, or to the same places of every CTA in the mask.
static void begin_loads(Operation o, int where, unsigned align) {
    if (where < 0 && cta_of(o.shared) != cta_of(o.mbarrier)) { emu_error("bulk copy: the destination and the mbarrier are in different CTAs  [%s:%d]", o.file, o.line); }
    if (where >= 0 && (where == 0 || where >> emu_cluster_size())) { emu_error("multicast to the CTAs of mask %#x in a cluster of %u  [%s:%d]", where, emu_cluster_size(), o.file, o.line); }
    check_shared(align, o);
    if (where < 0) { begin_load(o); return; }
    for (unsigned r = 0; r < emu_cluster_size(); r++) {
        if (!(where >> r & 1)) { continue; }
        o.shared = r * EMU_STRIDE + o.shared % EMU_STRIDE;
        o.mbarrier = r * EMU_STRIDE + o.mbarrier % EMU_STRIDE;
        begin_load(o);
    }
}

static void begin_store(Operation o) {
    emu_check_async_access("a bulk copy out of shared memory", o.shared, o.bytes, emu_thread(), o.file, o.line);
    o.group = store_group[o.thread];
    o.hash = hash_shared(o.shared, o.bytes);
    leaving.push_back(o);
}

static Operation operation(Kind kind, size_t bytes, const void* from, const char* file, int line) {
    Operation o = {};
    o.from = from; o.kind = kind; o.bytes = bytes; o.thread = emu_thread(); o.arrivals = emu_cluster_arrivals(o.thread); o.file = file; o.line = line;
    return o;
}

void emu_tma_load(unsigned to, const void* map, std::initializer_list<int> at, unsigned mbarrier, int where, const char* file, int line) {
    Operation o = operation(TENSOR_LOAD, 0, __builtin_return_address(0), file, line);
    o.shared = emu_place(to, 16, where != EMU_OWN_CTA, file, line);
    o.mbarrier = emu_place(mbarrier, 8, where != EMU_OWN_CTA, file, line);
    o.map = *map_at(map, (int)at.size(), file, line);
    o.bytes = box_bytes(o.map);
    int i = 0;
    for (int x : at) { o.at[i++] = x; }
    begin_loads(o, where, 128);
}

void emu_tma_store(const void* map, std::initializer_list<int> at, unsigned from, const char* file, int line) {
    Operation o = operation(TENSOR_STORE, 0, __builtin_return_address(0), file, line);
    o.shared = emu_place(from, 16, false, file, line);
    o.map = *map_at(map, (int)at.size(), file, line);
    o.bytes = box_bytes(o.map);
    int i = 0;
    for (int x : at) { o.at[i++] = x; }
    check_shared(128, o);
    begin_store(o);
}

static void check_bulk(const void* global, size_t bytes, const Operation& o) {
    if ((uintptr_t)global % 16 || bytes % 16 || bytes == 0) { emu_error("cp.async.bulk of %zu bytes, global address %p: both have to be multiples of 16  [%s:%d]", bytes, global, o.file, o.line); }
    if (!emu_in_device_memory(global, bytes)) { emu_error("cp.async.bulk of %zu bytes at %p, outside of device buffers  [%s:%d]", bytes, global, o.file, o.line); }
}

void emu_bulk_load(unsigned to, const void* from, unsigned bytes, unsigned mbarrier, int where, const char* file, int line) {
    Operation o = operation(BULK_LOAD, bytes, __builtin_return_address(0), file, line);
    o.shared = emu_place(to, 16, where != EMU_OWN_CTA, file, line);
    o.mbarrier = emu_place(mbarrier, 8, where != EMU_OWN_CTA, file, line);
    o.global = (char*)from;
    check_bulk(from, bytes, o);
    begin_loads(o, where, 16);
}

void emu_bulk_store(void* to, unsigned from, unsigned bytes, bool add, const char* file, int line) {
    Operation o = operation(add ? BULK_ADD : BULK_STORE, bytes, __builtin_return_address(0), file, line);
    o.shared = emu_place(from, 16, false, file, line);
    o.global = (char*)to;
    check_bulk(to, bytes, o);
    check_shared(16, o);
    begin_store(o);
}

void emu_bulk_commit() { store_group[emu_thread()]++; }

// What a bulk store reads; from then on its shared memory may change.
static void read_store(Operation& o) {
    if (o.was_read) { return; }
    if (hash_shared(o.shared, o.bytes) != o.hash) { emu_error("shared memory changed while the bulk store issued at %s:%d was reading it", o.file, o.line); }
    if (o.kind == TENSOR_STORE) { return; }
    o.data.assign(emu_arena + o.shared, emu_arena + o.shared + o.bytes);
    o.was_read = true;
}

static void write_store(const Operation& o) {
    if (o.kind == TENSOR_STORE) { move_box(o, false); }
    if (o.kind == BULK_STORE) { memcpy(o.global, o.data.data(), o.bytes); }
    for (size_t i = 0; o.kind == BULK_ADD && i < o.bytes; i += sizeof(float)) {
        float x, sum;
        memcpy(&x, o.data.data() + i, sizeof x);
        memcpy(&sum, o.global + i, sizeof sum);
        sum += x;
        memcpy(o.global + i, &sum, sizeof sum);
    }
}

// only_read: until shared memory has been read; what is written is there at the next wait, or at the block's end (a tensor's at once)
void emu_bulk_wait(int newest_left, bool only_read, const char*, int) {
    int thread = emu_thread();
    for (size_t i = 0; i < leaving.size();) {
        Operation& o = leaving[i];
        if (o.thread != thread || o.group >= store_group[thread] - newest_left) { i++; continue; }
        read_store(o);
        if (only_read && o.kind != TENSOR_STORE) { i++; continue; }
        write_store(o);
        leaving.erase(leaving.begin() + (long)i);
    }
}

// cp.async.mbarrier.arrive: when this thread's copies so far are there. Without noinc the arrival is one that the count does not contain.
void emu_cp_async_arrive(unsigned mbarrier, bool noinc, const char* file, int line) {
    Mbarrier* m = find("cp.async.mbarrier.arrive", mbarrier, file, line);
    if (!noinc) { m->pending++; }
    Operation o = operation(COPIES_ARRIVE, 0, __builtin_return_address(0), file, line);
    o.mbarrier = emu_place(mbarrier, 8, false, file, line);
    o.mark = emu_cp_async_mark();
    emu_race_bulk_begins(nullptr, 0, o.from, o.clock);
    arriving.push_back(o);
}

static size_t next_to_arrive() {
    size_t n = arriving.size(), first = emu_random((unsigned)n);
    for (size_t i = 0; i < n && favoured >= 0; i++) { if (cta_of(arriving[(first + i) % n].mbarrier) == favoured) { return (first + i) % n; } }
    return first;
}

bool emu_async_step() {
    if (arriving.empty()) { return false; }
    size_t i = next_to_arrive();
    Operation o = arriving[i];
    arriving.erase(arriving.begin() + (long)i);
    Mbarrier* m = at("the end of an asynchronous copy", o.mbarrier, o.file, o.line);
    if (o.kind == COPIES_ARRIVE) {
        emu_cp_async_finish(o.thread, o.mark);
        if (--m->pending < 0) { emu_error("cp.async.mbarrier.arrive: more arrivals than the %d the mbarrier expects  [%s:%d]", m->expected, o.file, o.line); }
        emu_race_bulk_ends(m, o.clock);
        complete_if_done(m);
        return true;
    }
    if (o.kind == BULK_LOAD) { memcpy(emu_arena + o.shared, o.global, o.bytes); }
    else { move_box(o, true); }
    emu_async_write(o.shared, o.bytes);
    emu_race_bulk_ends(m, o.clock);
    m->effects.push_back(Effect{m->phase, true, o.thread, o.arrivals, o.file, o.line});
    complete_bytes(m, (long)o.bytes);
    return true;
}

void emu_tma_block_begins() {
    mbarriers.clear();
    arriving.clear();
    leaving.clear();
    memset(store_group, 0, sizeof store_group);
    favoured = emu_cluster_size() > 1 ? (int)emu_random(EMU_CTAS + 1) - 1 : -1;
}

static void unwaited_load(int cta, int thread, const char* file, int line) {
    emu_error("the block ended with a bulk copy in flight that was issued at %s:%d (%s): nobody waited for its mbarrier%s", file, line, emu_thread_name(thread), emu_cta_name(cta));
}

// A load may be in flight until a wait for its mbarrier. Another CTA's arrival has to come before the end, by such a wait or by a cluster barrier.
static void check_effects(int cta, unsigned place, const Mbarrier& m) {
    for (const Effect& e : m.effects) {
        if (e.load) { unwaited_load(cta, e.thread, e.file, e.line); }
        if (emu_cluster_waits_of(cta) > e.arrivals) { continue; }
        emu_error("CTA %d ended, and nothing made it wait for the arrival of %s at its mbarrier at shared address %u, issued at %s:%d: a barrier.cluster belongs before the end "
                  "of the CTAs", cta, emu_thread_name(e.thread), place % EMU_STRIDE, e.file, e.line);
    }
}

void emu_tma_block_ends(int cta) {
    for (Operation& o : arriving) { if (o.kind != COPIES_ARRIVE && cta_of(o.mbarrier) == cta) { unwaited_load(cta, o.thread, o.file, o.line); } }
    for (Operation& o : leaving) {
        if (cta_of_thread(o.thread) == cta && o.was_read) { write_store(o); o.thread = -1; continue; }
        if (o.thread >= 0 && cta_of_thread(o.thread) == cta) { emu_error("the block ended with a bulk store in flight that was issued at %s:%d: no cp.async.bulk.wait_group for it", o.file, o.line); }
    }
    for (auto& m : mbarriers) { if (cta_of(m.first) == cta) { check_effects(cta, m.first, m.second); } }
}

// ---- the parts' blocks ----------------------------------------------------------------------------------------------------
void emu_fibers_reset_copies();
void emu_proxy_block_begins();
void emu_wgmma_block_begins();
void emu_wgmma_block_ends(int cta);

void emu_async_block_begins() {
    emu_fibers_reset_copies();
    emu_proxy_block_begins();
    emu_wgmma_block_begins();
    emu_tma_block_begins();
}

void emu_async_block_ends(int cta) {
    emu_wgmma_block_ends(cta);
    emu_tma_block_ends(cta);
}
