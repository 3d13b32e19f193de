// mbarriers, and what completes on them behind the threads' backs: TMA (cp.async.bulk and cp.async.bulk.tensor), cp.async.mbarrier.arrive.
// Bulk loads spoil their destination when they are issued and arrive when no thread can go on, in an order that changes with EMU_SEED;
// bulk stores read and write when they are waited for, and what they read must not have changed until then.
#include "include/cuda.h"

#include <map>
#include <vector>

// ---- mbarrier -------------------------------------------------------------------------------------------------------------
struct Mbarrier { int expected, pending; long bytes; uint64_t phase; int initialiser; bool fenced; std::vector<int> waiting; };
static std::map<unsigned, Mbarrier> mbarriers;
static const uint64_t MARK = 0x6d6261727269e721ull;      // what lies in shared memory in place of an mbarrier's state
enum { MOST_BYTES = (1 << 20) - 1 };

static Mbarrier* find(const char* what, unsigned address, const char* file, int line) {
    char* p = emu_shared_pointer(address, 8, file, line);
    auto found = mbarriers.find(address);
    if (found == mbarriers.end()) { emu_error("%s: no mbarrier was initialised at shared address %u  [%s:%d]", what, address, file, line); }
    if (memcmp(p, &MARK, 8)) { emu_error("%s: the mbarrier at shared address %u was overwritten  [%s:%d]", what, address, file, line); }
    return &found->second;
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
    char* p = emu_shared_pointer(address, 8, file, line);
    if (count == 0 || count > MOST_BYTES) { emu_error("mbarrier.init with count %u  [%s:%d]", count, file, line); }
    if (mbarriers.count(address)) { emu_error("mbarrier.init: there is an mbarrier at shared address %u already  [%s:%d]", address, file, line); }
    mbarriers[address] = Mbarrier{(int)count, (int)count, 0, 0, emu_thread(), false, {}};
    emu_touch(p, 8, true);
    memcpy(p, &MARK, 8);
}

void emu_mbarrier_inval(unsigned address, const char* file, int line) {
    Mbarrier* m = find("mbarrier.inval", address, file, line);
    if (!m->waiting.empty()) { emu_error("mbarrier.inval while threads wait  [%s:%d]", file, line); }
    mbarriers.erase(address);
}

void emu_fence_mbarrier_init() { for (auto& m : mbarriers) { if (m.second.initialiser == emu_thread()) { m.second.fenced = true; } } }

void emu_mbarrier_expect_tx(unsigned address, unsigned bytes, const char* file, int line) {
    Mbarrier* m = find("mbarrier.expect_tx", address, file, line);
    m->bytes += bytes;
    if (m->bytes > MOST_BYTES) { emu_error("mbarrier.expect_tx: more than %d bytes  [%s:%d]", MOST_BYTES, file, line); }
}

static void complete_bytes(Mbarrier* m, long bytes) {
    m->bytes -= bytes;
    complete_if_done(m);
}

void emu_mbarrier_complete_tx(unsigned address, unsigned bytes, const char* file, int line) { complete_bytes(find("mbarrier.complete_tx", address, file, line), bytes); }

uint64_t emu_mbarrier_arrive(unsigned address, unsigned count, long expect_bytes, const char* file, int line) {
    if (expect_bytes >= 0) { emu_mbarrier_expect_tx(address, (unsigned)expect_bytes, file, line); }
    Mbarrier* m = find("mbarrier.arrive", address, file, line);
    uint64_t state = m->phase;
    m->pending -= (int)count;
    if (m->pending < 0) { emu_error("mbarrier.arrive: more arrivals in this phase than the %d the mbarrier at shared address %u expects  [%s:%d]", m->expected, address, file, line); }
    emu_race_arrive(m, emu_thread());
    complete_if_done(m);
    return state;
}

// `done` is asked again each time: the phase may have changed.
template <class Done> static bool wait(const char* what, Mbarrier* m, bool blocking, Done done, const char* file, int line) {
    if (done()) { emu_race_wait(m); return true; }
    if (!blocking || emu_random(4) == 1) {               // try_wait may give up as well
        emu_spin(what, file, line);
    } else {
        while (!done()) { m->waiting.push_back(emu_thread()); emu_park(what, file, line); }
    }
    if (done()) { emu_race_wait(m); return true; }
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
        fprintf(stderr, "emu:   mbarrier at shared address %u (%ld from the start of the dynamic bytes): in phase %llu, %d of %d arrivals and %ld bytes missing, %zu threads wait\n",
                e.first, (long)e.first - (long)dynamic, (unsigned long long)m.phase, m.pending, m.expected, m.bytes, m.waiting.size());
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
enum Kind { TENSOR_LOAD, BULK_LOAD, COPIES_ARRIVE, TENSOR_STORE, BULK_STORE };
struct Operation {
    Kind kind;
    TensorMap map;
    int at[5];
    unsigned shared, mbarrier;
    char* global;
    size_t bytes;
    int thread, group;
    uint64_t mark, hash;
    uint32_t clock[32];
    const char* file;
    int line;
};
static std::vector<Operation> arriving, leaving;         // loads and arrivals; stores
static int store_group[1024];

static size_t box_bytes(const TensorMap& t) {
    size_t bytes = t.element_bytes;
    for (int i = 0; i < t.rank; i++) { bytes *= t.box[i]; }
    return bytes;
}

static const char* check_shared(unsigned address, size_t bytes, unsigned align, const Operation& o) {
    if (address % align) { emu_error("bulk copy: shared address %u is not a multiple of %u  [%s:%d]", address, align, o.file, o.line); }
    for (size_t i = 0; i < bytes; i += 16) { emu_shared_pointer(address + (unsigned)i, 16, o.file, o.line); }
    return emu_arena + address;
}

static uint64_t hash_shared(unsigned address, size_t bytes) {
    uint64_t hash = 1, word;
    for (size_t i = 0; i < bytes; i += 8) { memcpy(&word, emu_arena + address + i, 8); hash = (hash ^ word) * 0x9e3779b97f4a7c15ull; hash ^= hash >> 29; }
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
            unsigned address = o.shared + (unsigned)(r * row_bytes + b);
            address ^= (address >> 7 & bits) << 4;
            if (load) { memcpy(emu_arena + address, row + b, 16); }
            else { memcpy(row + b, emu_arena + address, 16); }
        }
        if (!load && inside) { memcpy(global, in_row, bytes); }
    }
}

static void begin_load(Operation o) {
    Mbarrier* m = find("bulk copy", o.mbarrier, o.file, o.line);
    if (!m->fenced) { emu_error("bulk copy: thread %d initialised the mbarrier and did not fence (fence.mbarrier_init or fence.proxy.async)  [%s:%d]", m->initialiser, o.file, o.line); }
    emu_check_async_access("a bulk copy into shared memory", o.shared, o.bytes, emu_thread(), o.file, o.line);
    memset(emu_arena + o.shared, 0xff, o.bytes);
    emu_race_bulk_begins(emu_arena + o.shared, o.bytes, o.clock);
    arriving.push_back(o);
}

static void begin_store(Operation o) {
    emu_check_async_access("a bulk copy out of shared memory", o.shared, o.bytes, emu_thread(), o.file, o.line);
    o.group = store_group[o.thread];
    o.hash = hash_shared(o.shared, o.bytes);
    leaving.push_back(o);
}

static Operation operation(Kind kind, unsigned shared, size_t bytes, unsigned mbarrier, const char* file, int line) {
    Operation o = {};
    o.kind = kind; o.shared = shared; o.bytes = bytes; o.mbarrier = mbarrier; o.thread = emu_thread(); o.file = file; o.line = line;
    return o;
}

void emu_tma_load(unsigned to, const void* map, std::initializer_list<int> at, unsigned mbarrier, const char* file, int line) {
    Operation o = operation(TENSOR_LOAD, to, 0, mbarrier, file, line);
    o.map = *map_at(map, (int)at.size(), file, line);
    o.bytes = box_bytes(o.map);
    int i = 0;
    for (int x : at) { o.at[i++] = x; }
    check_shared(to, o.bytes, 128, o);
    begin_load(o);
}

void emu_tma_store(const void* map, std::initializer_list<int> at, unsigned from, const char* file, int line) {
    Operation o = operation(TENSOR_STORE, from, 0, 0, file, line);
    o.map = *map_at(map, (int)at.size(), file, line);
    o.bytes = box_bytes(o.map);
    int i = 0;
    for (int x : at) { o.at[i++] = x; }
    check_shared(from, o.bytes, 128, o);
    begin_store(o);
}

static void check_bulk(const void* global, unsigned bytes, const Operation& o) {
    if ((uintptr_t)global % 16 || bytes % 16 || bytes == 0) { emu_error("cp.async.bulk of %u bytes, global address %p: both have to be multiples of 16  [%s:%d]", bytes, global, o.file, o.line); }
    if (!emu_in_device_memory(global, bytes)) { emu_error("cp.async.bulk of %u bytes at %p, outside of device buffers  [%s:%d]", bytes, global, o.file, o.line); }
    check_shared(o.shared, bytes, 16, o);
}

void emu_bulk_load(unsigned to, const void* from, unsigned bytes, unsigned mbarrier, const char* file, int line) {
    Operation o = operation(BULK_LOAD, to, bytes, mbarrier, file, line);
    o.global = (char*)from;
    check_bulk(from, bytes, o);
    begin_load(o);
}

void emu_bulk_store(void* to, unsigned from, unsigned bytes, const char* file, int line) {
    Operation o = operation(BULK_STORE, from, bytes, 0, file, line);
    o.global = (char*)to;
    check_bulk(to, bytes, o);
    begin_store(o);
}

void emu_bulk_commit() { store_group[emu_thread()]++; }

void emu_bulk_wait(int newest_left, const char*, int) {
    int thread = emu_thread();
    for (size_t i = 0; i < leaving.size();) {
        Operation& o = leaving[i];
        if (o.thread != thread || o.group >= store_group[thread] - newest_left) { i++; continue; }
        if (hash_shared(o.shared, o.bytes) != o.hash) { emu_error("shared memory changed while the bulk store issued at %s:%d was reading it", o.file, o.line); }
        if (o.kind == BULK_STORE) { memcpy(o.global, emu_arena + o.shared, o.bytes); }
        else { move_box(o, false); }
        leaving.erase(leaving.begin() + (long)i);
    }
}

// cp.async.mbarrier.arrive: when this thread's copies so far are there. Without noinc the arrival is one that the count does not contain.
void emu_cp_async_arrive(unsigned mbarrier, bool noinc, const char* file, int line) {
    Mbarrier* m = find("cp.async.mbarrier.arrive", mbarrier, file, line);
    if (!noinc) { m->pending++; }
    Operation o = operation(COPIES_ARRIVE, 0, 0, mbarrier, file, line);
    o.mark = emu_cp_async_mark();
    emu_race_bulk_begins(nullptr, 0, o.clock);
    arriving.push_back(o);
}

bool emu_async_step() {
    if (arriving.empty()) { return false; }
    size_t i = emu_random((unsigned)arriving.size());
    Operation o = arriving[i];
    arriving.erase(arriving.begin() + (long)i);
    Mbarrier* m = find("the end of an asynchronous copy", o.mbarrier, o.file, o.line);
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
    complete_bytes(m, (long)o.bytes);
    return true;
}

void emu_tma_block_begins() {
    mbarriers.clear();
    arriving.clear();
    leaving.clear();
    memset(store_group, 0, sizeof store_group);
}

void emu_tma_block_ends() {
    for (Operation& o : arriving) {
        if (o.kind != COPIES_ARRIVE) { emu_error("the block ended with a bulk copy in flight that was issued at %s:%d: nobody waited for its mbarrier", o.file, o.line); }
    }
    for (Operation& o : leaving) { emu_error("the block ended with a bulk store in flight that was issued at %s:%d: no cp.async.bulk.wait_group for it", o.file, o.line); }
}

// ---- the parts' blocks ----------------------------------------------------------------------------------------------------
void emu_fibers_reset_copies();
void emu_proxy_block_begins();
void emu_wgmma_block_begins();
void emu_wgmma_block_ends();

void emu_async_block_begins() {
    emu_fibers_reset_copies();
    emu_proxy_block_begins();
    emu_wgmma_block_begins();
    emu_tma_block_begins();
}

void emu_async_block_ends() {
    emu_wgmma_block_ends();
    emu_tma_block_ends();
}
