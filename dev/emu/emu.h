// Runs CUDA kernels on the CPU: every CUDA thread is a fiber, blocks (or clusters of them) run one after another, and the collectives
// (__syncthreads, shuffles, mma, ...) are the places where fibers wait for each other.
// Kernels see this through include/cuda_runtime.h; rewrite.py turns their sources into plain C++ that calls it.
#ifndef EMU_H
#define EMU_H

#include <stddef.h>
#include <stdint.h>

#include <initializer_list>

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};

// the running fiber's place; set at every switch
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

// A cluster's blocks (CTAs) run at the same time. Thread t of CTA r has the number EMU_BLOCK_THREADS r + t, everywhere in the emulator.
enum { EMU_CTAS = 2, EMU_BLOCK_THREADS = 1024, EMU_THREADS = EMU_CTAS * EMU_BLOCK_THREADS, EMU_WARPS = EMU_THREADS / 32 };

#define EMU_HERE const char* file = __builtin_FILE(), int line = __builtin_LINE()

// ---- launch -----------------------------------------------------------------------------------------------------------
typedef void (*EmuBody)(void* arguments);            // one thread's run through the kernel
void emu_launch_body(const char* kernel, const void* function, dim3 grid, dim3 block, size_t shared_bytes, EmuBody body, void* arguments,
                     const char* file, int line, dim3 cluster);

// kernel<<<grid, block, shared_bytes, stream>>>(...) becomes emu_launch("kernel", (const void*)kernel, [&] { kernel(...); }, grid, block, ...)
template <class Call>
void emu_launch(const char* kernel, const void* function, const char* file, int line, Call call,
                dim3 grid, dim3 block, size_t shared_bytes = 0, struct CUstream_st* = nullptr, dim3 cluster = dim3(0, 0, 0)) {
    emu_launch_body(kernel, function, grid, block, shared_bytes, [](void* c) { (*(Call*)c)(); }, &call, file, line, cluster);
}

// An error of the kernel, with its name and the running thread; ends the program.
__attribute__((noreturn, format(printf, 1, 2))) void emu_error(const char* format, ...);

// ---- shared memory: an arena with a window for each CTA of the cluster --------------------------------------------------
// A place is an offset into the arena. A shared::cta address is an offset into the own window; a shared::cluster address, as mapa gives it,
// has the CTA's rank + 1 in its high byte.
struct EmuShared { uint64_t launch; unsigned offset; };
void* emu_static_shared(EmuShared* place, size_t bytes, size_t align, const char* name);
void* emu_dynamic_shared(size_t align, const char* name);
unsigned emu_shared_address(const void* pointer, EMU_HERE);                      // __cvta_generic_to_shared
char* emu_shared_pointer(unsigned address, size_t bytes, const char* file, int line);

// ---- collectives --------------------------------------------------------------------------------------------------------
enum EmuBarrier { EMU_SYNC, EMU_COUNT, EMU_AND, EMU_OR };
int emu_barrier(EmuBarrier kind, int predicate, const char* file, int line);

// The lanes of `mask` wait for each other. The last one runs `meeting` over everybody's `mine` (undefined for lanes outside the mask).
// `aligned`: all 32 lanes must come, from the same line.
typedef void (*EmuMeeting)(void** lane, unsigned mask);
void emu_meet(const char* what, EmuMeeting meeting, unsigned mask, void* mine, bool aligned, const char* file, int line);
int emu_lane();

// The same for the 128 threads of a warpgroup; `first` is the first of them.
typedef void (*EmuWarpgroupMeeting)(int first, void** mine);
void emu_meet_warpgroup(const char* what, EmuWarpgroupMeeting meeting, void* mine, const char* file, int line);

// A fiber that waits for an event: parked until woken, or spinning, which gives the others a turn.
void emu_park(const char* what, const char* file, int line);
void emu_wake(int thread);
void emu_spin(const char* what, const char* file, int line);
void emu_progress();                                  // what is spun on has changed
unsigned emu_random(unsigned n);                      // 0..n-1 by EMU_SEED
void emu_shuffle(int* item, int n);
unsigned emu_living_lanes();                          // lanes of this warp that have not returned from the kernel

// ---- PTX, one function an instruction; operands in PTX order ------------------------------------------------------------
void emu_mma_m16n8k16_bf16(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3, EMU_HERE);
void emu_mma_m16n8k8_tf32(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                          uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3, EMU_HERE);
void emu_ldmatrix(uint32_t* out, int matrices, bool transposed, unsigned address, const char* file, int line);
void emu_stmatrix(const uint32_t* in, int matrices, bool transposed, unsigned address, const char* file, int line);
uint32_t emu_movmatrix(uint32_t value, const char* file, int line);
void emu_cp_async(unsigned to, const void* from, int bytes, int source_bytes, EMU_HERE);
void emu_cp_async_commit();
void emu_cp_async_wait(int newest_left);              // all but the newest groups are finished
void emu_cp_async_wait_all();                         // uncommitted ones too
uint32_t emu_pack_bf16x2(float high, float low);
__attribute__((noreturn)) void emu_unknown_ptx(const char* text, const char* file, int line);


// ---- Hopper ----------------------------------------------------------------------------------------------------------------
extern long emu_wgmma_count;                          // products since it was set to 0
void emu_wgmma_fence();
void emu_wgmma_commit();
void emu_wgmma_wait(int newest_left, const char* file, int line);
void emu_wgmma(int n, float** d, const uint32_t* a, uint64_t descriptor_a, uint64_t descriptor_b, bool scale_d, int scale_a, int scale_b, bool a_mn_major,
               bool b_mn_major, const char* file, int line);
void emu_fence_proxy_async();
void emu_fence_mbarrier_init();
void emu_mbarrier_init(unsigned address, unsigned count, const char* file, int line);
void emu_mbarrier_inval(unsigned address, const char* file, int line);
void emu_mbarrier_expect_tx(unsigned address, unsigned bytes, const char* file, int line);
void emu_mbarrier_complete_tx(unsigned address, unsigned bytes, const char* file, int line);
uint64_t emu_mbarrier_arrive(unsigned address, unsigned count, long expect_bytes, bool in_cluster, const char* file, int line);
bool emu_mbarrier_test_parity(unsigned address, unsigned parity, bool blocking, const char* file, int line);
bool emu_mbarrier_test_state(unsigned address, uint64_t state, bool blocking, const char* file, int line);
void emu_cp_async_arrive(unsigned mbarrier, bool noinc, const char* file, int line);
enum { EMU_OWN_CTA = -1, EMU_ONE_CTA = -2 };          // where a bulk copy goes, if not to a mask of CTAs: addresses are shared::cta or shared::cluster
void emu_tma_load(unsigned to, const void* map, std::initializer_list<int> at, unsigned mbarrier, int where, const char* file, int line);
void emu_tma_store(const void* map, std::initializer_list<int> at, unsigned from, const char* file, int line);
void emu_bulk_load(unsigned to, const void* from, unsigned bytes, unsigned mbarrier, int where, const char* file, int line);
void emu_bulk_store(void* to, unsigned from, unsigned bytes, bool add, const char* file, int line);      // add: to the floats there
void emu_bulk_commit();
void emu_bulk_wait(int newest_left, bool only_read, const char* file, int line);
void emu_named_barrier(unsigned id, int count, bool wait, const char* file, int line);
void emu_named_barriers_begin();
void emu_setmaxnreg(int registers, const char* file, int line);
bool emu_elect(unsigned mask, uint32_t* elected, const char* file, int line);
void emu_acquiring_load(const void* address, uint64_t value, const char* file, int line);    // spins if it reads the same again and again

// ---- clusters (cluster.cpp) ----------------------------------------------------------------------------------------------
void emu_cluster_dims(unsigned x, unsigned y = 1, unsigned z = 1);     // what __cluster_dims__ becomes: a kernel's first statement
unsigned emu_cluster_size();                          // CTAs
unsigned emu_cluster_rank();                          // of the running CTA
uint3 emu_cluster_id();
uint3 emu_cluster_place();                            // of the running CTA in its cluster
dim3 emu_cluster_shape();
dim3 emu_cluster_grid();                              // the grid in clusters
unsigned emu_mapa(unsigned address, unsigned rank, const char* file, int line);
void emu_cluster_arrive(bool release, bool aligned, const char* file, int line);
void emu_cluster_wait(bool aligned, const char* file, int line);

void emu_cluster_launch(const void* function, dim3 asked);
void emu_cluster_begins(size_t cluster);
uint3 emu_cluster_block(unsigned rank);               // its place in the grid
void emu_cluster_thread_exits(int thread);
void emu_cluster_describe();                          // for the report of a deadlock
int emu_cluster_arrivals(int thread);                 // at the cluster's barrier
int emu_cluster_waits(int thread);
int emu_cluster_waits_of(int cta);                    // of the CTA's furthest thread

// ---- for the other parts of the emulator ------------------------------------------------------------------------------
void emu_restart_launch();                            // from a kernel's first statement; does not come back
int emu_alive(int cta);                               // its threads that have not returned from the kernel; cta < 0: of the whole cluster
const char* emu_thread_name(int thread);              // "thread 5", "thread 5 of CTA 1"
const char* emu_cta_name(int cta);                    // "" or " of CTA 1"
void emu_generic_write(const void* address, size_t bytes, int thread, bool reader_fences);
void emu_async_write(unsigned place, size_t bytes);
void emu_check_async_access(const char* what, unsigned place, size_t bytes, int reader, const char* file, int line);
uint64_t emu_cp_async_mark();                         // the running thread's copies so far
void emu_cp_async_finish(int thread, uint64_t mark);
void emu_race_block_begins();
void emu_race_everybody(int cta);                     // all its threads met
void emu_race_arrive(const void* barrier, int thread);
void emu_race_complete(const void* barrier);          // those who wait may go on, with what the arrivals brought
void emu_race_wait(const void* barrier);
void emu_race_read_as(int thread, const void* address, size_t bytes, const void* from);      // from: where in the kernel
void emu_race_bulk_begins(const void* address, size_t bytes, const void* from, uint32_t* clock);   // clock[EMU_WARPS]
void emu_race_bulk_ends(const void* barrier, const uint32_t* clock);
enum { EMU_WINDOW = 256 << 10, EMU_STRIDE = 2 * EMU_WINDOW, EMU_ARENA = EMU_CTAS * EMU_STRIDE };      // nothing between a window and the next
extern char* emu_arena;
unsigned emu_place(unsigned address, size_t bytes, bool in_cluster, const char* file, int line);
void emu_check_place(unsigned place, size_t bytes, const char* file, int line);
size_t emu_dynamic_offset(size_t* bytes);             // in a window
void emu_print_calls();
void emu_describe_waits();                            // mbarriers, for the report of a deadlock
bool emu_async_step();                                // finishes one asynchronous operation, if there is one
void emu_async_block_begins();
void emu_async_block_ends(int cta);
extern bool emu_in_kernel;
void emu_device_memory_open();                        // device memory can be touched between open and close
void emu_device_memory_close();
void emu_check_canaries(const char* when);
size_t emu_allowed_shared(const void* function);      // bytes of dynamic shared memory the kernel may be launched with
const char* emu_describe_address(const void* address, char* text, size_t size);
const char* emu_describe_device_address(const char* address, char* text, size_t size);
int emu_thread();                                     // the running thread's number, -1 outside
unsigned emu_block_start();                           // counts blocks (clusters, where there are some), over all launches
unsigned emu_warp_epoch_of(int warp);                 // counts the warp's meetings
void emu_warp_meets(int warp);
unsigned emu_launch_number();
enum EmuZone { EMU_ELSEWHERE, EMU_SHARED_ZONE, EMU_DEVICE_ZONE };
EmuZone emu_zone(const void* address);
bool emu_in_device_memory(const void* address, size_t bytes);
extern bool emu_race_check;
extern bool emu_block_used_atomics;                   // on global memory
void emu_print_place();
void emu_touch(const void* address, size_t bytes, bool write);    // tells the race check about an access the emulator makes itself
void emu_touch_atomically(const void* address, size_t bytes);

#endif
