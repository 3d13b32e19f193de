// Thread block clusters: which blocks form one, their barrier, and addresses in each other's shared memory.
#include "emu.h"

#include <stdio.h>
#include <string.h>

#include <map>
#include <vector>

// ---- geometry -------------------------------------------------------------------------------------------------------------
static struct { dim3 dims, asked; const void* function; size_t now; } cluster;
static std::map<const void*, dim3> compiled;             // kernels with __cluster_dims__, of which a thread has run

static bool same(dim3 a, dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

unsigned emu_cluster_size() { return cluster.dims.x * cluster.dims.y * cluster.dims.z; }
unsigned emu_cluster_rank() { return emu_thread() < 0 ? 0 : (unsigned)emu_thread() / EMU_BLOCK_THREADS; }
dim3 emu_cluster_grid()     { return dim3(gridDim.x / cluster.dims.x, gridDim.y / cluster.dims.y, gridDim.z / cluster.dims.z); }
uint3 emu_cluster_id()      { return uint3{blockIdx.x / cluster.dims.x, blockIdx.y / cluster.dims.y, blockIdx.z / cluster.dims.z}; }
uint3 emu_cluster_place()   { return uint3{blockIdx.x % cluster.dims.x, blockIdx.y % cluster.dims.y, blockIdx.z % cluster.dims.z}; }
dim3 emu_cluster_shape()    { return cluster.dims; }

uint3 emu_cluster_block(unsigned rank) {
    dim3 d = cluster.dims, grid = emu_cluster_grid();
    size_t c = cluster.now;
    return uint3{(unsigned)(c % grid.x) * d.x + rank % d.x, (unsigned)(c / grid.x % grid.y) * d.y + rank / d.x % d.y,
                 (unsigned)(c / grid.x / grid.y) * d.z + rank / d.x / d.y};
}

// A launch asks for clusters with an attribute (0 otherwise), or its kernel is compiled for them.
void emu_cluster_launch(const void* function, dim3 asked) {
    auto found = compiled.find(function);
    cluster.function = function; cluster.asked = asked;
    cluster.dims = found != compiled.end() ? found->second : asked.x ? asked : dim3(1);
    dim3 d = cluster.dims;
    if (asked.x && !same(asked, d)) {
        emu_error("the launch asks for clusters of (%u,%u,%u), the kernel is compiled for (%u,%u,%u)", asked.x, asked.y, asked.z, d.x, d.y, d.z);
    }
    if (emu_cluster_size() == 0 || emu_cluster_size() > EMU_CTAS) {
        emu_error("clusters of (%u,%u,%u) blocks: the emulator has room for %d (EMU_CTAS in emu.h)", d.x, d.y, d.z, EMU_CTAS);
    }
    if (gridDim.x % d.x || gridDim.y % d.y || gridDim.z % d.z) {
        emu_error("invalid grid: (%u,%u,%u) blocks are not a multiple of the cluster's (%u,%u,%u)", gridDim.x, gridDim.y, gridDim.z, d.x, d.y, d.z);
    }
}

// The first thread of a kernel's first launch gets here in a cluster of one block: the launch begins again.
void emu_cluster_dims(unsigned x, unsigned y, unsigned z) {
    dim3 dims(x, y, z);
    if (same(cluster.dims, dims)) { return; }
    compiled[cluster.function] = dims;
    emu_restart_launch();
}

// ---- addresses ------------------------------------------------------------------------------------------------------------
unsigned emu_mapa(unsigned address, unsigned rank, const char* file, int line) {
    if (rank >= emu_cluster_size()) { emu_error("mapa to CTA %u of a cluster of %u  [%s:%d]", rank, emu_cluster_size(), file, line); }
    return (rank + 1) << 24 | (address & 0xffffffu);
}

// ---- barrier.cluster --------------------------------------------------------------------------------------------------------
// Complete when all threads of the cluster that live have arrived. A thread's arrivals and waits take turns, so arrival n is for phase n.
static struct { int phase, arrived; std::vector<int> waiting; int arrivals[EMU_THREADS], waits[EMU_THREADS]; } barrier;

int emu_cluster_arrivals(int thread) { return barrier.arrivals[thread]; }
int emu_cluster_waits(int thread)    { return barrier.waits[thread]; }
int emu_cluster_waits_of(int cta) {
    int most = 0;
    for (int t = cta * EMU_BLOCK_THREADS; t < (cta + 1) * EMU_BLOCK_THREADS; t++) { if (barrier.waits[t] > most) { most = barrier.waits[t]; } }
    return most;
}

void emu_cluster_begins(size_t number) {
    static bool used;
    cluster.now = number;
    if (used) {
        memset(barrier.arrivals, 0, sizeof barrier.arrivals);
        memset(barrier.waits, 0, sizeof barrier.waits);
    }
    used = emu_cluster_size() > 1;
    barrier.phase = barrier.arrived = 0;
    barrier.waiting.clear();
}

static void complete_if_all() {
    if (barrier.arrived == 0 || barrier.arrived < emu_alive(-1)) { return; }
    barrier.phase++;
    barrier.arrived = 0;
    emu_race_complete(&barrier);
    std::vector<int> waiting;
    waiting.swap(barrier.waiting);
    emu_shuffle(waiting.data(), (int)waiting.size());
    for (int thread : waiting) { emu_wake(thread); }
    emu_progress();
}

void emu_cluster_thread_exits(int thread) {
    if (emu_cluster_size() == 1) { return; }
    if (barrier.arrivals[thread] > barrier.phase) { barrier.arrived--; }
    complete_if_all();
}

void emu_cluster_describe() {
    if (barrier.arrived == 0) { return; }
    fprintf(stderr, "emu:   barrier.cluster: in phase %d, %d of %d living threads have arrived, %zu wait\n", barrier.phase, barrier.arrived, emu_alive(-1), barrier.waiting.size());
}

static void whole_warp(const char* what, const char* file, int line) {
    unsigned left = blockDim.x * blockDim.y * blockDim.z - (unsigned)emu_thread() % EMU_BLOCK_THREADS / 32 * 32;
    emu_meet(what, [](void**, unsigned) {}, left < 32 ? (1u << left) - 1 : 0xffffffffu, nullptr, true, file, line);
}

static void check_cluster(const char* what, const char* file, int line) {
    if (emu_cluster_size() == 1) { emu_error("%s in a launch without clusters  [%s:%d]", what, file, line); }
}

void emu_cluster_arrive(bool release, bool aligned, const char* file, int line) {
    check_cluster("barrier.cluster.arrive", file, line);
    if (aligned) { whole_warp("barrier.cluster.arrive.aligned", file, line); }
    int me = emu_thread();
    if (barrier.arrivals[me] > barrier.waits[me]) { emu_error("barrier.cluster.arrive of a thread that has arrived and did not wait  [%s:%d]", file, line); }
    barrier.arrivals[me]++;
    barrier.arrived++;
    if (release) { emu_race_arrive(&barrier, me); }
    complete_if_all();
}

void emu_cluster_wait(bool aligned, const char* file, int line) {
    check_cluster("barrier.cluster.wait", file, line);
    if (aligned) { whole_warp("barrier.cluster.wait.aligned", file, line); }
    int me = emu_thread();
    if (barrier.arrivals[me] == barrier.waits[me]) { emu_error("barrier.cluster.wait of a thread that did not arrive  [%s:%d]", file, line); }
    while (barrier.phase <= barrier.waits[me]) {
        barrier.waiting.push_back(me);
        emu_park("barrier.cluster.wait", file, line);
    }
    barrier.waits[me]++;
    emu_race_wait(&barrier);
}
