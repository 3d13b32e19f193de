// Forward of MoBA attention on Hopper. One persistent kernel does two kinds of work: "pieces", up to PIECE entries of one block's list,
// whose normalised partial outputs go to slots, and "tiles" of 128 consecutive queries, which attend to their own block and merge their slots.
//
// CTAs draw tickets. Tickets go head by head: step u is the pieces of head u, and among them, evenly, the tiles of head u - lag. So slots
// are read soon after they were written, and a room of slots is used again after `ring` heads: they stay in the L2 cache. A tile waits
// until its head's pieces are done, a piece until the tiles of the head that had the room before are; both are earlier tickets, and a CTA
// finishes its tickets in order, so the oldest one can always go on.
//
// In a CTA one warp produces: it gathers query rows (cp.async) and loads keys and values (TMA) into two stages each. Two warpgroups
// consume, 64 queries each: S = Q K^T, softmax in registers, P as left operand of P V. With blocks of at most 128 a query meets all keys
// at once.
#ifndef MOBA_HOPPER_FORWARD_CUH
#define MOBA_HOPPER_FORWARD_CUH

#include "hopper_tile.cuh"
#include "moba_common.cuh"

enum { CHUNK = 128, PIECE = 2 * CHUNK, CONSUMERS = 2 * WARPGROUP, FORWARD_THREADS = CONSUMERS + WARP };

struct MobaWork {
    floatX* partial;                   // (ring, T, slots, D)  slots of a head are in room head % ring
    float* partial_lse2;               // (ring, T, slots)
    int4* piece;                       // (heads, bound)  x: block, y: first entry in the head's list, z: count
    int *pieces, *pieces_done;         // (heads)  how many; how many warpgroups have finished one
    int *tiles_done;                   // (heads)  the same of tiles
    int* ticket;
    int heads, bound, ring, lag, tiles;
};

// ---- pieces: which there are --------------------------------------------------------------------------------------------
// one CTA per head: pieces of block 0, block 1, ...; and the counters of the forward kernel to zero
__global__ __launch_bounds__(THREADS)
void moba_plan_kernel(MobaWork w, Moba m) {
    __shared__ int warp_total[WARPS];
    int head = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, used = 0;
    const int* offset = head_offset(m, head);
    for (int from = 0; from < m.blocks && m.slots > 0; from += THREADS) {
        int j = from + threadIdx.x, first = j < m.blocks ? offset[j] : 0, length = j < m.blocks ? offset[j + 1] - first : 0;
        int mine = (length + PIECE - 1) / PIECE, sum = mine;
        for (int step = 1; step < WARP; step *= 2) {
            int below = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) { sum += below; }
        }
        if (lane == WARP - 1) { warp_total[warp] = sum; }
        __syncthreads();
        int at = used + sum - mine;
        for (int i = 0; i < WARPS; i++) {
            if (i < warp) { at += warp_total[i]; }
            used += warp_total[i];
        }
        for (int i = 0; i < mine; i++) {
            w.piece[(size_t)head * w.bound + at + i] = make_int4(j, first + i * PIECE, min((int)PIECE, length - i * PIECE), 0);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        w.pieces[head] = used;
        w.pieces_done[head] = w.tiles_done[head] = 0;
        if (head == 0) { *w.ticket = 0; }
    }
}

// ---- tickets --------------------------------------------------------------------------------------------------------------
struct Walk { int step, start, pieces; };          // start: the step's first ticket; pieces: of its head
struct Place { int head, index; bool tile; };      // index: of the piece or tile

__device__ inline int step_pieces(const MobaWork& w, int step) { return step < w.heads ? w.pieces[step] : 0; }

// Tickets only grow, so the walk only goes forward. False behind the last one.
__device__ inline bool find_place(Place& place, Walk& walk, const MobaWork& w, int ticket) {
    for (;;) {
        int head = walk.step - w.lag, tiles = head >= 0 && head < w.heads ? w.tiles : 0;
        int size = walk.pieces + tiles, i = ticket - walk.start;
        if (walk.step >= w.heads + w.lag) { return false; }
        if (i < size) {
            int before = (int)((int64_t)i * tiles / size), after = (int)((int64_t)(i + 1) * tiles / size);
            if (w.lag == 0) { before = max(0, i - walk.pieces); after = before + (i >= walk.pieces); }       // pieces first
            bool tile = after > before;
            place = {tile ? head : walk.step, tile ? before : i - before, tile};
            return true;
        }
        walk.start += size;
        walk.step++;
        walk.pieces = step_pieces(w, walk.step);
    }
}

__device__ inline void wait_for_count(const int* count, int expected) {
    while (*(volatile const int*)count < expected) { __nanosleep(100); }
    __threadfence();
}

// both warpgroups count
__device__ inline void wait_for_slots(const MobaWork& w, const Place& place) {
    if (place.tile) { wait_for_count(w.pieces_done + place.head, 2 * w.pieces[place.head]); }
    else if (place.head >= w.ring) { wait_for_count(w.tiles_done + place.head - w.ring, 2 * w.tiles); }
}

// ---- shared memory ----------------------------------------------------------------------------------------------------
// What the consumers do with a stage of queries.
struct QueryChunk {
    int head;               // -1: nothing more
    int query;              // of a tile's first row; -1: a piece's chunk, entries[] says which
    int count;              // rows there are
    int key, key_tiles;     // first key, how many tiles of KEYS keys are visited
    int last;               // of its piece; with ONE, chunks of a piece share the keys
};

template <int D, int KEYS> struct ForwardShared {
    floatX q[2][CHUNK * D], k[2][KEYS * D], v[2][KEYS * D];
    QueryChunk chunk[2];
    int entries[2][CHUNK];
    uint64_t q_full[2], q_empty[2], keys_full[2], keys_empty[2];
};

// the n-th use of a pair of stages: which one, and the parity of its barriers' phase
__device__ inline int stage_of(int n)  { return n % 2; }
__device__ inline int parity_of(int n) { return n / 2 % 2; }

// ---- producer: one warp -----------------------------------------------------------------------------------------------
// tile row 32*i + lane = q row row[i] of that lane, zeros for -1; rows from `count` on, to a multiple of 64, are left as they are
template <int D>
__device__ inline void gather_queries(floatX* tile, const floatX* q, int ldq, const int (&row)[CHUNK / WARP], int count) {
    const int CHUNKS = D / 8, STEP = WARP / CHUNKS;
    int lane = threadIdx.x % WARP, chunk = lane % CHUNKS;
    #pragma unroll
    for (int i = 0; i < CHUNK / STEP; i++) {
        if (i * STEP / 64 * 64 >= count) { return; }
        int r = i * STEP + lane / CHUNKS, from = __shfl_sync(0xffffffffu, row[i * STEP / WARP], r % WARP);
        cp_async_16(tile + panel_at<CHUNK>(r, chunk), q + (size_t)max(from, 0) * ldq + chunk * 8, from >= 0);
    }
}

template <int D, int KEYS>
__device__ inline void load_keys_tile(ForwardShared<D, KEYS>& shared, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                      const AttnShape& s, int head, int key, int n) {
    int stage = stage_of(n);
    mbarrier_wait(&shared.keys_empty[stage], parity_of(n) ^ 1);
    if (threadIdx.x % WARP == 0) {
        mbarrier_arrive_expect(&shared.keys_full[stage], 2 * KEYS * D * (int)sizeof(floatX));
        tma_load_rows<D, KEYS>(shared.k[stage], k_map, s, head, key, &shared.keys_full[stage]);
        tma_load_rows<D, KEYS>(shared.v[stage], v_map, s, head, key, &shared.keys_full[stage]);
    }
    __syncwarp();
}

// the queries of a chunk and what is to be done with them, into stage n
template <int D, int KEYS>
__device__ inline void load_queries_chunk(ForwardShared<D, KEYS>& shared, const Moba& m, const QueryChunk& chunk,
                                          const int* entries, int n) {
    int stage = stage_of(n), lane = threadIdx.x % WARP, row[CHUNK / WARP];
    #pragma unroll
    for (int i = 0; i < CHUNK / WARP; i++) {
        int r = i * WARP + lane, entry = r < chunk.count && entries ? entries[r] : 0;
        row[i] = r >= chunk.count ? -1 : entries ? entry / MOBA_MAX_TOPK : chunk.query + r;
        shared.entries[stage][r] = entry;
    }
    gather_queries<D>(shared.q[stage], head_rows(m.q, m.shape.ldq, m.shape, chunk.head), m.shape.ldq, row, chunk.count);
    cp_async_commit();
    if (lane == 0) { shared.chunk[stage] = chunk; }
    cp_async_wait<0>();
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) { mbarrier_arrive(&shared.q_full[stage]); }
}

template <int D, int KEYS, bool ONE>
__device__ inline void produce(ForwardShared<D, KEYS>& shared, const MobaWork& w, const Moba& m, const CUtensorMap* k_map,
                               const CUtensorMap* v_map) {
    int chunks = 0, key_tiles = 0, lane = threadIdx.x % WARP, drawn = lane == 0 ? atomicAdd(w.ticket, 1) : 0;
    Walk walk = {0, 0, step_pieces(w, 0)};
    Place place;
    while (find_place(place, walk, w, __shfl_sync(0xffffffffu, drawn, 0))) {
        if (lane == 0) { drawn = atomicAdd(w.ticket, 1); }            // the answer is wanted in the next round only
        int query = place.index * CHUNK, tile_block = query / m.block;
        int4 piece = place.tile ? make_int4(tile_block, 0, min((int)CHUNK, m.shape.T - query), 0)
                                : w.piece[(size_t)place.head * w.bound + place.index];
        int key = piece.x * m.block, visible = place.tile ? query + piece.z - key : m.block;
        const int* list = head_list(m, place.head) + piece.y;
        wait_for_slots(w, place);
        for (int first = 0; first < piece.z; first += CHUNK, chunks++) {
            QueryChunk chunk = {place.head, place.tile ? query : -1, min((int)CHUNK, piece.z - first), key, (visible + KEYS - 1) / KEYS,
                                first + CHUNK >= piece.z};
            bool keys_stay = ONE && first > 0;
            mbarrier_wait(&shared.q_empty[stage_of(chunks)], parity_of(chunks) ^ 1);
            if (ONE && !keys_stay) { load_keys_tile(shared, k_map, v_map, m.shape, place.head, key, key_tiles++); }
            load_queries_chunk(shared, m, chunk, place.tile ? NULL : list + first, chunks);
            for (int i = ONE; i < chunk.key_tiles; i++) {
                load_keys_tile(shared, k_map, v_map, m.shape, place.head, key + i * KEYS, key_tiles++);
            }
        }
    }
    mbarrier_wait(&shared.q_empty[stage_of(chunks)], parity_of(chunks) ^ 1);
    if (lane == 0) {
        shared.chunk[stage_of(chunks)].head = -1;
        mbarrier_arrive(&shared.q_full[stage_of(chunks)]);
    }
}

// ---- consumers: two warpgroups ------------------------------------------------------------------------------------------
// A warp's 16 queries: this thread has rows g and g+8 (index 0 and 1), columns 8n + 2c and the next (hopper_ptx.cuh).
template <int D> struct Rows {
    float acc[D / 2];       // sum of P v
    float top[2], sum[2];   // largest score, before scaling; sum of exponentials relative to it
};

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// keys after the query become -inf.  query, key: positions of the warp's first row and of the first column
template <int COUNT>
__device__ inline void mask_scores(float (&s)[COUNT], int query, int key) {
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if (key + i / 4 * 8 + 2 * c + i % 2 > query + g + i % 4 / 2 * 8) { s[i] = -INFINITY; }
    }
}

// Scores become exponentials relative to the row's new maximum. shrink: what the sums up to now are to be
// multiplied by; sum: this thread's share.
template <int COUNT>
__device__ inline void exponentials(float (&s)[COUNT], float (&top)[2], float (&sum)[2], float (&shrink)[2], float scale2) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = top[half], share = 0;
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) { now = fmaxf(now, fmaxf(s[i], s[i + 1])); }
        now = quad_max(now);
        float base = now * scale2;
        shrink[half] = exp2_approx(top[half] * scale2 - base);
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) {
            s[i] = exp2_approx(fmaf(s[i], scale2, -base));
            s[i + 1] = exp2_approx(fmaf(s[i + 1], scale2, -base));
            share += s[i] + s[i + 1];
        }
        sum[half] = sum[half] * shrink[half] + share;
        top[half] = now;
    }
}

// A sum over the row's two halves of a thread: x becomes 8 columns of row g + 8*half, of chunk 4*i + c
template <int D>
__device__ inline void chunk_columns(float (&x)[8], const float (&acc)[D / 2], int half, int i, float factor) {
    uint32_t even[4], odd[4];
    #pragma unroll
    for (int n = 0; n < 4; n++) {
        even[n] = __float_as_uint(acc[16 * i + 4 * n + 2 * half] * factor);
        odd[n] = __float_as_uint(acc[16 * i + 4 * n + 2 * half + 1] * factor);
    }
    quad_transpose(even);
    quad_transpose(odd);
    #pragma unroll
    for (int n = 0; n < 4; n++) {
        x[2 * n] = __uint_as_float(even[n]);
        x[2 * n + 1] = __uint_as_float(odd[n]);
    }
}

// the rows of a piece's chunk, normalised, to their entries' slots
template <int D>
__device__ inline void store_partial(const MobaWork& w, const Moba& m, const Rows<D>& r, const QueryChunk& chunk,
                                     const int (&entry)[2], int row, float scale2) {
    int c = threadIdx.x % 4;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = quad_sum(r.sum[half]), factor = 1 / sum;
        bool live = row + 8 * half < chunk.count;
        size_t slot = ((size_t)(chunk.head % w.ring) * m.shape.T + entry[half] / MOBA_MAX_TOPK) * m.slots + entry[half] % MOBA_MAX_TOPK;
        #pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint32_t x[4];
            #pragma unroll
            for (int n = 0; n < 4; n++) {
                x[n] = pack_bf16(r.acc[16 * i + 4 * n + 2 * half] * factor, r.acc[16 * i + 4 * n + 2 * half + 1] * factor);
            }
            quad_transpose(x);
            if (live) { *reinterpret_cast<uint4*>(w.partial + slot * D + 32 * i + 8 * c) = make_uint4(x[0], x[1], x[2], x[3]); }
        }
        if (live && c == 0) { w.partial_lse2[slot] = r.top[half] * scale2 + log2f(sum); }
    }
}

// log2-sum-exps of slots s, s+4 of a query, -inf where it has none; written by other CTAs, so not from the L1 cache
__device__ inline void slot_lse2(float (&lse2)[2], const MobaWork& w, const Moba& m, const uint16_t* sel, size_t slot, int s) {
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        bool used = s + 4 * i < m.slots && sel[s + 4 * i] != MOBA_NONE;
        lse2[i] = used ? __ldcg(w.partial_lse2 + slot + s + 4 * i) : -INFINITY;
    }
}

// Query t's own part (row g + 8*HALF of r) merged with its slots, to out and lse. All four threads of the row call it.
template <int D, int HALF>
__device__ inline void merge_row(floatX* out, float* lse, const MobaWork& w, const Moba& m, const Rows<D>& r, int head, int t,
                                 float scale2) {
    const int PARTS = D / 32, BATCH = 128 / D;          // slots whose loads are in flight; more do not fit the registers
    int c = threadIdx.x % 4, first_lane = threadIdx.x % WARP - c, row = min(t, m.shape.T - 1);
    size_t slot = ((size_t)(head % w.ring) * m.shape.T + row) * m.slots;
    const uint16_t* sel = query_sel(m, head, row);
    float lse2[2], own = r.top[HALF] * scale2, top = own;
    for (int s = 0; s < m.slots; s += 8) {
        slot_lse2(lse2, w, m, sel, slot, s + c);
        top = fmaxf(top, quad_max(fmaxf(lse2[0], lse2[1])));
    }
    float weight = exp2_approx(own - top), sum = weight * quad_sum(r.sum[HALF]), x[PARTS][8];
    #pragma unroll
    for (int i = 0; i < PARTS; i++) { chunk_columns<D>(x[i], r.acc, HALF, i, weight); }
    for (int s = 0; s < m.slots; s += 8) {
        if (m.slots > 8) { slot_lse2(lse2, w, m, sel, slot, s + c); }
        #pragma unroll
        for (int from = 0; from < 8; from += BATCH) {
            if (s + from >= m.slots) { break; }
            float mine = exp2_approx(lse2[from / 4] - top), weights[BATCH];
            uint4 part[BATCH][PARTS];
            #pragma unroll
            for (int j = 0; j < BATCH; j++) {
                weights[j] = __shfl_sync(0xffffffffu, mine, first_lane + (from + j) % 4);
                #pragma unroll
                for (int i = 0; i < PARTS; i++) {
                    const floatX* at = w.partial + (slot + s + from + j) * D + 32 * i + 8 * c;
                    part[j][i] = weights[j] != 0 ? __ldcg(reinterpret_cast<const uint4*>(at)) : make_uint4(0, 0, 0, 0);
                }
            }
            #pragma unroll
            for (int j = 0; j < BATCH; j++) {
                sum += weights[j];
                #pragma unroll
                for (int i = 0; i < PARTS; i++) {
                    const uint32_t words[4] = {part[j][i].x, part[j][i].y, part[j][i].z, part[j][i].w};
                    #pragma unroll
                    for (int n = 0; n < 4; n++) {
                        x[i][2 * n] += weights[j] * __uint_as_float(words[n] << 16);
                        x[i][2 * n + 1] += weights[j] * __uint_as_float(words[n] & 0xffff0000u);
                    }
                }
            }
        }
    }
    if (t >= m.shape.T) { return; }
    float factor = 1 / sum;
    floatX* to = head_rows(out, m.shape.ldo, m.shape, head) + (size_t)t * m.shape.ldo + 8 * c;
    #pragma unroll
    for (int i = 0; i < PARTS; i++) {
        #pragma unroll
        for (int n = 0; n < 8; n++) { x[i][n] *= factor; }
        store8_rounded(to + 32 * i, x[i]);
    }
    if (c == 0) { lse[(size_t)head * m.shape.T + t] = (top + log2f(sum)) * LN2; }
}

// What a warpgroup has finished and not yet told: the counter, in its first thread. The fence before it takes a while, so it is sent while
// the next product runs, or when there is nothing to do.
struct Report { int* counter; };

__device__ inline void report_send(Report& report) {
    if (report.counter) {
        __threadfence();
        atomicAdd(report.counter, 1);
        report.counter = NULL;
    }
}

__device__ inline void arrive_warp(uint64_t* barrier) {                // its count is the consumers' warps
    __syncwarp();
    if (threadIdx.x % WARP == 0) { mbarrier_arrive(barrier); }
}

// The warpgroup's queries, rows q_row .. of the tile, meet WIDTH keys, rows `from` .. of theirs; query, key: positions of the warp's first
// query and the first key. again: r holds sums already. q_empty: where to say that q is not needed any more, or NULL.
template <int D, int KEYS, int WIDTH>
__device__ inline void visit(Rows<D>& r, const floatX* q, const floatX* k, const floatX* v, int q_row, int from, int query,
                             int key, bool again, float scale2, Report& report, uint64_t* q_empty) {
    float s[WIDTH / 2], shrink[2];
    uint32_t p[WIDTH / 16][4];
    product_abt<D, CHUNK, KEYS>(s, q, q_row, k, from);
    report_send(report);
    __syncwarp();
    wgmma_wait<0>();
    wgmma_ready(s);
    if (q_empty) { arrive_warp(q_empty); }
    if (query < key + WIDTH - 1) { mask_scores(s, query, key); }
    exponentials(s, r.top, r.sum, shrink, scale2);
    round_operand(p, s);
    if (again) {
        #pragma unroll
        for (int i = 0; i < D / 2; i++) { r.acc[i] *= shrink[i % 4 / 2]; }
    }
    product_ab<KEYS>(r.acc, p, v, from, again);
    wgmma_wait<0>();
    wgmma_ready(r.acc);
}

// a warpgroup's half of a chunk
template <int D, int KEYS, bool ONE>
__device__ inline void consume_chunk(ForwardShared<D, KEYS>& shared, floatX* out, float* lse, const MobaWork& w, const Moba& m,
                                     const QueryChunk& chunk, int n, int& key_tiles, Report& report) {
    const int WIDTH = ONE ? KEYS : 64;
    int stage = stage_of(n), q_row = threadIdx.x / WARPGROUP * 64, warp_row = threadIdx.x / WARP * 16;
    int row = warp_row + threadIdx.x % WARP / 4, entry[2] = {shared.entries[stage][row], shared.entries[stage][row + 8]};
    int first = chunk.query + q_row, block_start = first / m.block * m.block;
    bool live = q_row < chunk.count, tile = chunk.query >= 0, again = false;
    float scale2 = m.scale * LOG2E;
    Rows<D> r;
    r.top[0] = r.top[1] = -INFINITY;
    r.sum[0] = r.sum[1] = 0;
    for (int i = 0; i < chunk.key_tiles; i++) {
        int keys = stage_of(key_tiles);
        mbarrier_wait(&shared.keys_full[keys], parity_of(key_tiles));
        for (int from = 0; from < KEYS; from += WIDTH) {
            int key = chunk.key + i * KEYS + from;
            bool seen = live && (!tile || (key < first + 64 && key + WIDTH > block_start));
            if (!seen) { continue; }
            visit<D, KEYS, WIDTH>(r, shared.q[stage], shared.k[keys], shared.v[keys], q_row, from, tile ? chunk.query + warp_row : AFTER_ALL,
                                  key, !ONE && again, scale2, report, ONE ? &shared.q_empty[stage] : NULL);
            again = true;
        }
        if (!ONE || chunk.last) {
            arrive_warp(&shared.keys_empty[keys]);
            key_tiles++;
        }
    }
    if (!ONE || !live) { arrive_warp(&shared.q_empty[stage]); }
    if (live && tile) {
        merge_row<D, 0>(out, lse, w, m, r, chunk.head, chunk.query + row, scale2);
        merge_row<D, 1>(out, lse, w, m, r, chunk.head, chunk.query + row + 8, scale2);
    } else if (live) {
        store_partial<D>(w, m, r, chunk, entry, row, scale2);
    }
}

template <int D, int KEYS, bool ONE>
__device__ inline void consume(ForwardShared<D, KEYS>& shared, floatX* out, float* lse, const MobaWork& w, const Moba& m) {
    Report report = {NULL};
    for (int n = 0, key_tiles = 0;; n++) {
        uint64_t* full = &shared.q_full[stage_of(n)];
        if (report.counter && !mbarrier_test(full, parity_of(n))) { report_send(report); }
        mbarrier_wait(full, parity_of(n));
        __syncwarp();
        QueryChunk chunk = shared.chunk[stage_of(n)];
        if (chunk.head < 0) { break; }
        consume_chunk<D, KEYS, ONE>(shared, out, lse, w, m, chunk, n, key_tiles, report);
        if (chunk.last) {
            report_send(report);
            if (threadIdx.x < WARPGROUP) { named_barrier(1, WARPGROUP); }        // all its stores are issued
            else                         { named_barrier(2, WARPGROUP); }
            if (threadIdx.x % WARPGROUP == 0) { report.counter = (chunk.query >= 0 ? w.tiles_done : w.pieces_done) + chunk.head; }
        }
    }
    report_send(report);
}

// ---- the kernel -----------------------------------------------------------------------------------------------------------
template <int D> struct ForwardResident { static const int CTAS = D == 64 ? 2 : 1; };       // on a multiprocessor, by shared memory

// persistent; KEYS: in a stage. ONE: a block is one stage
template <int D, int KEYS, bool ONE>
__global__ __launch_bounds__(FORWARD_THREADS, ForwardResident<D>::CTAS)
void moba_hopper_forward_kernel(floatX* out, float* lse, MobaWork w, Moba m, const __grid_constant__ CUtensorMap k_map,
                                const __grid_constant__ CUtensorMap v_map) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char moba_hopper_shared[];
    ForwardShared<D, KEYS>& shared = *reinterpret_cast<ForwardShared<D, KEYS>*>(moba_hopper_shared);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&shared.q_full[i], 1);
            mbarrier_init(&shared.keys_full[i], 1);
            mbarrier_init(&shared.q_empty[i], CONSUMERS / WARP);
            mbarrier_init(&shared.keys_empty[i], CONSUMERS / WARP);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) { produce<D, KEYS, ONE>(shared, w, m, &k_map, &v_map); }
    else                          { consume<D, KEYS, ONE>(shared, out, lse, w, m); }
#endif
}

// ---- launch ---------------------------------------------------------------------------------------------------------------
static int piece_bound(AttnShape s, int block, int topk) {
    return topk > 1 ? (int)((size_t)s.T * (topk - 1) / PIECE) + ceil_div(s.T, block) : 0;
}

// what the scratch holds beside the slots
static size_t forward_plan_bytes(AttnShape s, int block, int topk) {
    size_t heads = (size_t)s.B * s.H;
    return heads * piece_bound(s, block, topk) * sizeof(int4) + (3 * heads + 4) * sizeof(int);
}

// rooms: heads whose slots fit into the scratch; ctas: of the forward kernel
static MobaWork moba_work(const Moba& m, void* scratch, int rooms, int ctas) {
    const AttnShape& s = m.shape;
    MobaWork w;
    w.heads = s.B * s.H;
    w.bound = piece_bound(s, m.block, m.slots + 1);
    w.tiles = ceil_div(s.T, CHUNK);
    int tickets = (int)((size_t)s.T * m.slots / PIECE) + w.tiles;                  // of a head
    int lag = m.slots > 0 ? min_int(ceil_div(2 * ctas, tickets), w.heads) : 0;     // so that a tile's pieces are done when it is drawn
    w.ring = min_int(rooms, lag + 2);
    w.lag = min_int(lag, w.ring - 1);
    w.piece = (int4*)scratch;
    w.partial = (floatX*)(w.piece + (size_t)w.heads * w.bound);
    w.partial_lse2 = (float*)(w.partial + (size_t)w.ring * s.T * m.slots * s.D);
    w.pieces = (int*)(w.partial_lse2 + (size_t)w.ring * s.T * m.slots);
    w.pieces_done = w.pieces + w.heads;
    w.tiles_done = w.pieces_done + w.heads;
    w.ticket = w.tiles_done + w.heads;
    return w;
}

template <int D, int KEYS, bool ONE>
static void hopper_forward_keys(floatX* out, float* lse, const Moba& m, void* scratch, int rooms, stream_t stream) {
    const AttnShape& s = m.shape;
    int ctas = ForwardResident<D>::CTAS * device_attribute(cudaDevAttrMultiProcessorCount);
    MobaWork w = moba_work(m, scratch, rooms, ctas);
    CUtensorMap k_map = rows_map(m.k, s.B, s.T, s.H * D, s.ldk, KEYS), v_map = rows_map(m.v, s.B, s.T, s.H * D, s.ldv, KEYS);
    moba_plan_kernel<<<w.heads, THREADS, 0, stream>>>(w, m);
    LAUNCH_CHECK();
    size_t shared = sizeof(ForwardShared<D, KEYS>), tickets = (size_t)w.heads * (w.bound + w.tiles);
    int grid = (int)min_size(tickets, (size_t)ctas);
    allow_shared(moba_hopper_forward_kernel<D, KEYS, ONE>, shared);
    moba_hopper_forward_kernel<D, KEYS, ONE><<<grid, FORWARD_THREADS, shared, stream>>>(out, lse, w, m, k_map, v_map);
    LAUNCH_CHECK();
}

template <int D>
static void hopper_forward(floatX* out, float* lse, const Moba& m, void* scratch, int rooms, stream_t stream) {
    if (m.block == 64)       { hopper_forward_keys<D, 64, true>(out, lse, m, scratch, rooms, stream); }
    else if (m.block == 128) { hopper_forward_keys<D, 128, true>(out, lse, m, scratch, rooms, stream); }
    else                     { hopper_forward_keys<D, 128, false>(out, lse, m, scratch, rooms, stream); }
}

#endif
