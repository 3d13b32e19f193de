// The data loader: order as a pure function of (seed, step), the same for every number of ranks, and errors before the step that would use them.
#include "dataloader.h"
#include "rng.h"
#include "test.h"
#include "shard_files.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { T = 4, ROWS = 2100, BATCH = 840 };    // 840 is a multiple of 1 to 8; two epochs are five steps, the third straddles them

// 2100 rows in three shards with remainders; the first token of a row tells which row it is
static ShardSet* open_rows(void) {
    Error err = { 0 };
    file_u32("order_0.bin", 1000 * T + 3, 0, 1000000);
    file_u32("order_1.bin", 1000 * T + 1, 100000, 1000000);
    file_u32("order_2.bin", 100 * T + 4, 200000, 1000000);
    ShardSet* set = shard_open(file_path("order_*.bin"), T, 1000000, &err);
    CHECK(set, "%s", err.text);
    CHECK_EQ(set->rows, ROWS);
    return set;
}

static int row_of_token(int token) { return token / 100000 * 1000 + token % 100000 / (7 * T); }

static void next(DataLoader* d, const int** inputs, const int** targets) {
    Error err = { 0 };
    CHECK(loader_next(d, inputs, targets, &err), "%s", err.text);
}

// order: (steps * BATCH) the rows of all items, as `world` ranks see them together
static void collect(int* order, const ShardSet* set, int world, int micro_rows, int steps, uint64_t seed) {
    for (int rank = 0; rank < world; rank++) {
        DataLoader* d = loader_open(set, micro_rows, BATCH, rank, world, seed, true);
        for (int step = 0; step < steps; step++) {
            for (int m = 0; m < BATCH / (micro_rows * world); m++) {
                const int *inputs, *targets;
                next(d, &inputs, &targets);
                for (int j = 0; j < micro_rows; j++) {
                    order[step * BATCH + (m * world + rank) * micro_rows + j] = row_of_token(inputs[j * T]);
                }
            }
        }
        loader_close(d);
    }
}

// R11
TEST(loader_order_is_the_same_on_1_to_8_ranks_and_an_epoch_has_every_row_once) {
    ShardSet* set = open_rows();
    static int one[5 * BATCH], many[5 * BATCH];
    collect(one, set, 1, 1, 5, 1337);
    for (int epoch = 0; epoch < 2; epoch++) {
        bool seen[ROWS] = { false };
        for (int i = 0; i < ROWS; i++) {
            int row = one[epoch * ROWS + i];
            CHECK(row >= 0 && row < ROWS && !seen[row], "epoch %d, item %d: row %d again", epoch, i, row);
            seen[row] = true;
            CHECK_EQ(row, loader_row_of_item(epoch * ROWS + i, ROWS, 1337, true));
        }
    }
    for (int world = 1; world <= 8; world++) {
        int micro_rows = BATCH / world % 3 == 0 ? 3 : 5;
        memset(many, -1, sizeof many);
        collect(many, set, world, micro_rows, 5, 1337);
        for (int i = 0; i < 5 * BATCH; i++) { CHECK(many[i] == one[i], "%d ranks, item %d: row %d, expected %d", world, i, many[i], one[i]); }
    }
    shard_close(set);
}

TEST(loader_epochs_and_seeds_have_orders_of_their_own) {
    int epochs = 0, seeds = 0, unshuffled = 0;
    for (int i = 0; i < ROWS; i++) {
        int64_t row = loader_row_of_item(i, ROWS, 1337, true);
        epochs += row == loader_row_of_item(ROWS + i, ROWS, 1337, true);
        seeds += row == loader_row_of_item(i, ROWS, 1338, true);
        unshuffled += row == i;
    }
    CHECK(epochs < 12 && seeds < 12 && unshuffled < 12, "rows in the same place: epochs %d, seeds %d, unshuffled %d", epochs, seeds, unshuffled);
}

TEST(loader_targets_are_the_inputs_one_token_on) {
    ShardSet* set = open_rows();
    DataLoader* d = loader_open(set, 2, 8, 1, 2, 5, true);
    for (int n = 0; n < 600; n++) {
        const int *inputs, *targets;
        int row[T + 1];
        next(d, &inputs, &targets);
        for (int j = 0; j < 2; j++) {
            int64_t item = n / 2 * 8 + (n % 2 * 2 + 1) * 2 + j;
            CHECK(shard_read_row(set, loader_row_of_item(item, ROWS, 5, true), row, NULL), "row of item %lld", (long long)item);
            CHECK(memcmp(inputs + j * T, row, T * sizeof(int)) == 0, "inputs of item %lld", (long long)item);
            CHECK(memcmp(targets + j * T, row + 1, T * sizeof(int)) == 0, "targets of item %lld", (long long)item);
        }
    }
    loader_close(d);
    shard_close(set);
}

TEST(loader_seek_goes_where_running_goes) {
    ShardSet* set = open_rows();
    static int order[5 * BATCH];
    collect(order, set, 1, 1, 5, 42);
    DataLoader* d = loader_open(set, 1, BATCH, 0, 1, 42, true);
    const int steps[] = { 3, 0, 4, 4, 1, 2, 0 };
    for (int s = 0; s < 7; s++) {
        loader_seek(d, steps[s]);
        for (int m = 0; m < 1 + 100 * (s % 3); m++) {
            const int *inputs, *targets;
            next(d, &inputs, &targets);
            CHECK_EQ(row_of_token(inputs[0]), order[steps[s] * BATCH + m]);
        }
    }
    loader_seek(d, 1000000000000);                      // far on costs nothing
    const int *inputs, *targets;
    next(d, &inputs, &targets);
    CHECK_EQ(row_of_token(inputs[0]), loader_row_of_item(1000000000000 * BATCH, ROWS, 42, true));
    loader_close(d);
    shard_close(set);
}

TEST(loader_batch_holds_until_the_next_call) {
    ShardSet* set = open_rows();
    DataLoader* d = loader_open(set, 4, 8, 0, 1, 9, true);
    int kept[2][4 * T];
    for (int n = 0; n < 20; n++) {
        const int *inputs, *targets;
        next(d, &inputs, &targets);
        memcpy(kept[0], inputs, sizeof kept[0]);
        memcpy(kept[1], targets, sizeof kept[1]);
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);      // the thread has read ahead by now
        CHECK(memcmp(kept[0], inputs, sizeof kept[0]) == 0 && memcmp(kept[1], targets, sizeof kept[1]) == 0, "batch %d changed", n);
    }
    loader_close(d);
    shard_close(set);
}

// unshuffled: 2100 rows in micro-batches of 8 on one of two ranks; the last one has 4 rows and 4 that do not count
TEST(loader_of_a_validation_set_reads_it_once_in_order) {
    ShardSet* set = open_rows();
    DataLoader* d = loader_open(set, 8, 16, 0, 2, 0, false);
    int rows = 0;
    for (int step = 0; step < 133; step++) {
        const int *inputs, *targets;
        next(d, &inputs, &targets);
        for (int j = 0; j < 8; j++) {
            int item = step * 16 + j;
            if (item < ROWS) {
                CHECK_EQ(row_of_token(inputs[j * T]), item);
                CHECK_EQ(targets[j * T], inputs[j * T + 1]);
                rows++;
                continue;
            }
            for (int t = 0; t < T; t++) { CHECK(inputs[j * T + t] == 0 && targets[j * T + t] == -1, "item %d is past the end", item); }
        }
    }
    CHECK_EQ(rows, 131 * 8 + 4);
    loader_close(d);
    shard_close(set);
}

// An id that goes bad after the check at the start stands for one in a set too large for that check.
TEST(loader_bad_id_stops_the_step_that_would_use_it_and_none_before) {
    const int bad_row = 77;
    Error err = { 0 };
    ShardSet* set = open_rows();
    int file = open(set->shards[0].path, O_WRONLY);
    uint32_t good = 7 * (bad_row * T + 2), bad = 1000000;
    off_t at = SHARD_HEADER_BYTES + (bad_row * T + 2) * 4;
    CHECK(pwrite(file, &bad, 4, at) == 4, "pwrite");
    DataLoader* d = loader_open(set, 2, 4, 0, 1, 1337, true);
    int64_t item = 0;
    while (loader_row_of_item(item, ROWS, 1337, true) != bad_row) { item++; }
    const int *inputs = NULL, *targets = NULL;
    for (int64_t micro = 0; micro < item / 2; micro++) { next(d, &inputs, &targets); }
    for (int attempt = 0; attempt < 2; attempt++) {
        CHECK(!loader_next(d, &inputs, &targets, &err), "the bad row was handed out");
        CHECK_EQ(err.code, EXIT_DATA);
        CHECK(strstr(err.text, "order_0.bin: token 310 (row 77 of the shard) is id 1000000, outside the vocabulary of 1000000"), "%s", err.text);
    }
    CHECK(pwrite(file, &good, 4, at) == 4, "pwrite");
    next(d, &inputs, &targets);
    CHECK_EQ(row_of_token(inputs[item % 2 * T]), bad_row);
    close(file);
    loader_close(d);
    shard_close(set);
}

static volatile sig_atomic_t handled_by_main, handled;
static pthread_t main_thread;
static void on_signal(int number) { (void)number; handled = 1; handled_by_main = pthread_equal(pthread_self(), main_thread); }

TEST(loader_thread_leaves_signals_to_the_main_thread) {
    ShardSet* set = open_rows();
    main_thread = pthread_self();
    struct sigaction action = { .sa_handler = on_signal }, before;
    sigset_t mask, none;
    sigaction(SIGUSR1, &action, &before);
    DataLoader* d = loader_open(set, 1, 1, 0, 1, 0, true);
    pthread_sigmask(SIG_SETMASK, NULL, &none);
    CHECK(!sigismember(&none, SIGUSR1), "opening a loader blocked signals of the main thread");
    sigfillset(&mask);
    pthread_sigmask(SIG_SETMASK, &mask, &none);          // now no thread takes it: it stays pending
    kill(getpid(), SIGUSR1);
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    CHECK(!handled, "the reading thread took the signal");
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    CHECK(handled && handled_by_main, "the main thread did not take the signal");
    sigaction(SIGUSR1, &before, NULL);
    loader_close(d);
    shard_close(set);
}

// opened, used and closed a thousand times: no descriptor, no thread left
TEST(loader_leaves_nothing_open) {
    int before = open("/dev/null", O_RDONLY);
    close(before);
    for (int i = 0; i < 1000; i++) {
        ShardSet* set = open_rows();
        DataLoader* d = loader_open(set, 2, 2, 0, 1, (uint64_t)i, true);
        const int *inputs, *targets;
        if (i % 3) { next(d, &inputs, &targets); }
        if (i % 3 == 2) { loader_seek(d, i); }
        loader_close(d);
        shard_close(set);
    }
    int after = open("/dev/null", O_RDONLY);
    close(after);
    CHECK_EQ(after, before);
}

TEST_MAIN()
