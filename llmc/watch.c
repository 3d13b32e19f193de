#include "watch.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WHAT = 40 };
typedef enum { SIGN_OF_LIFE = 1, LOST_DIED, LOST_SILENT, LOST_STUCK, LOST_FAILED } Kind;

// The only thing that is ever sent. From a rank: how far it is. From rank 0: the same of rank 0, or which rank is lost.
typedef struct {
    uint32_t kind;
    int32_t  rank;             // who speaks, or who is lost
    int64_t  step, begun;      // collectives begun since the start
    float    waiting;          // seconds in the present one, 0: in none
    float    quiet;            // seconds since the rank said that it is at work; from rank 0: since any rank did
    char     what[WHAT];
} Message;

typedef struct {
    Message last;              // heard from this rank
    double  heard;             // when
    bool    gone;              // connection closed while the run ended
    char    half[sizeof(Message)];
    size_t  half_bytes;        // of a message that has not wholly arrived
} Peer;

struct Watch {
    Star      star;
    char    (*hosts)[HOST_NAME];
    Peer*     peers;           // (world); elsewhere than on rank 0 only peers[0] is heard
    double    timeout;
    pthread_t thread;
    pthread_mutex_t lock;      // of what follows
    const char* (*detail)(void*);
    void*     argument;
    Message   mine;
    double    since;           // began to wait; 0: does not
    double    worked;          // said last that it is at work
    bool      ending, quit;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// ---- the training thread's side -------------------------------------------------------------------------------------------------

void watch_begin(Watch* w, int64_t step, const char* what) {
    if (!w) { return; }
    pthread_mutex_lock(&w->lock);
    w->mine.step = step;
    w->mine.begun++;
    snprintf(w->mine.what, WHAT, "%s", what);
    w->since = now();
    pthread_mutex_unlock(&w->lock);
}

void watch_end(Watch* w) {
    if (!w) { return; }
    pthread_mutex_lock(&w->lock);
    w->since = 0;
    pthread_mutex_unlock(&w->lock);
}

void watch_at_work(Watch* w) {
    pthread_mutex_lock(&w->lock);
    w->worked = now();
    pthread_mutex_unlock(&w->lock);
}

void watch_detail(Watch* w, const char* (*detail)(void*), void* argument) {
    if (!w) { return; }
    pthread_mutex_lock(&w->lock);
    w->detail = detail;
    w->argument = argument;
    pthread_mutex_unlock(&w->lock);
}

void watch_ending(Watch* w) {
    if (!w) { return; }
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_mutex_unlock(&w->lock);
}

// ---- the end ------------------------------------------------------------------------------------------------------------------------

static Message present(Watch* w) {
    pthread_mutex_lock(&w->lock);
    Message m = w->mine;
    m.kind = SIGN_OF_LIFE;
    m.rank = w->star.rank;
    m.waiting = w->since > 0 ? (float)(now() - w->since) : 0;
    m.quiet = (float)(now() - w->worked);
    pthread_mutex_unlock(&w->lock);
    return m;
}

static bool is_ending(Watch* w) {
    pthread_mutex_lock(&w->lock);
    bool ending = w->ending;
    pthread_mutex_unlock(&w->lock);
    return ending;
}

static void send_to(Watch* w, int rank, const Message* m) {
    if (w->star.socket[rank] >= 0) { send(w->star.socket[rank], m, sizeof *m, MSG_NOSIGNAL | MSG_DONTWAIT); }
}

static void send_to_all(Watch* w, const Message* m) {
    for (int r = 0; r < w->star.world; r++) { send_to(w, r, m); }
}

// While the watchdog is open, a process that exits does so because something broke: perhaps a peer is gone and NCCL or CUDA saw it before the
// watchdog, which can name the peer and has the right exit status. It gets a moment; then the error is this rank's own, and the others hear
// so. (exit() can reach nothing but a global.)
static Watch* volatile opened;

static void let_speak(void) {
    struct timespec moment = {0, 500000000};
    if (!opened || is_ending(opened)) { return; }
    nanosleep(&moment, NULL);
    Message m = present(opened);
    m.kind = LOST_FAILED;
    send_to_all(opened, &m);
}

// What the training thread waits for in particular. The answer comes from the device, and a driver whose queue a lost peer has filled may never
// give it: a thread of its own asks, and has a second.
typedef struct { const char* (*detail)(void*); void* argument; const char* said; bool done; } Question;

static void* ask(void* question) {
    Question* q = (Question*)question;
    q->said = q->detail(q->argument);
    __atomic_store_n(&q->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static const char* detail_in_time(Watch* w) {
    static Question q;                                     // the thread may outlast this call
    pthread_t thread;
    pthread_mutex_lock(&w->lock);
    q.detail = w->detail;
    q.argument = w->argument;
    pthread_mutex_unlock(&w->lock);
    if (!q.detail || pthread_create(&thread, NULL, ask, &q) != 0) { return NULL; }
    pthread_detach(thread);
    const struct timespec moment = {0, 10000000};
    for (int i = 0; i < 100 && !__atomic_load_n(&q.done, __ATOMIC_ACQUIRE); i++) { nanosleep(&moment, NULL); }
    return __atomic_load_n(&q.done, __ATOMIC_ACQUIRE) ? q.said : NULL;
}

// One sentence in one write, so that those of several ranks do not mix; then out, past everything that could wait or save.
__attribute__((noreturn))
static void give_up(Watch* w, Kind kind, int rank) {
    Message mine = present(w);
    const char* where = mine.waiting > 0 ? detail_in_time(w) : NULL;
    const char* how = kind == LOST_DIED ? "is lost: it has ended" : kind == LOST_SILENT ? "is lost: it gives no sign of life"
                    : kind == LOST_STUCK ? "is lost: it does not arrive" : "has ended with an error of its own";
    char text[512];
    int length = snprintf(text, sizeof text, "error: rank %d of %d (%s) %s, while rank %d (%s) is in step %lld, %s%s; "
                          "nothing is saved, the same command goes on from the last checkpoint (--timeout %g)\n",
                          rank, w->star.world, w->hosts[rank], how, w->star.rank, w->hosts[w->star.rank], (long long)mine.step,
                          mine.waiting > 0 ? "waiting in " : "after ", where ? where : mine.what[0] ? mine.what : "start-up", w->timeout);
    bool speaks = kind != LOST_FAILED || w->star.rank == (rank == 0 ? 1 : 0);
    ssize_t ignored = speaks ? write(STDERR_FILENO, text, (size_t)length) : 0;
    (void)ignored;
    struct timespec others_speak = {0, 300000000};         // mpirun ends the others as soon as one exits
    nanosleep(&others_speak, NULL);
    _exit(EXIT_LOST_RANK);
}

__attribute__((noreturn))
static void lose(Watch* w, Kind kind, int rank) {
    Message m = present(w);
    m.kind = kind;
    m.rank = rank;
    send_to_all(w, &m);
    give_up(w, kind, rank);
}

// ---- the watchdog's side ----------------------------------------------------------------------------------------------------------

static void hear(Watch* w, int from, const Message* m) {
    w->peers[from].heard = now();
    if (m->kind == SIGN_OF_LIFE) { w->peers[from].last = *m; return; }
    if (m->kind == LOST_FAILED && from > 0) { lose(w, LOST_FAILED, from); }
    if (m->kind >= LOST_DIED && m->kind <= LOST_FAILED && m->rank >= 0 && m->rank < w->star.world && from == 0) { give_up(w, (Kind)m->kind, m->rank); }
}

// everything that has arrived from this rank
static void listen_to(Watch* w, int rank) {
    Peer* p = &w->peers[rank];
    for (;;) {
        ssize_t got = recv(w->star.socket[rank], p->half + p->half_bytes, sizeof(Message) - p->half_bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) { return; }
        if (got <= 0) {
            if (!is_ending(w)) { lose(w, LOST_DIED, rank); }
            p->gone = true;
            return;
        }
        p->half_bytes += (size_t)got;
        if (p->half_bytes < sizeof(Message)) { continue; }
        Message m;
        memcpy(&m, p->half, sizeof m);
        p->half_bytes = 0;
        hear(w, rank, &m);
    }
}

// Some rank has waited too long, and all give signs of life: the one that is least far is to blame.
static int hindmost(Watch* w, const Message* mine) {
    int worst = 0;
    Message least = *mine;
    for (int r = 1; r < w->star.world; r++) {
        Message m = w->peers[r].last;
        bool behind = m.step != least.step ? m.step < least.step : m.begun != least.begun ? m.begun < least.begun : least.waiting > 0 && m.waiting == 0;
        if (behind) { least = m; worst = r; }
    }
    return worst;
}

// seconds since any rank said that it is at work, as far as this one has heard
static float quiet(Watch* w, const Message* mine) {
    double least = mine->quiet, time = now();
    for (int r = 0; r < w->star.world; r++) {
        Peer* p = &w->peers[r];
        if (p->last.kind == SIGN_OF_LIFE) { least = fmin(least, p->last.quiet + (time - p->heard)); }
    }
    return (float)least;
}

// rank 0 judges all, the others rank 0
static void judge(Watch* w) {
    Message mine = present(w);
    double time = now(), longest = mine.waiting;
    int judged = w->star.rank == 0 ? w->star.world : 1;
    for (int r = w->star.rank == 0 ? 1 : 0; r < judged; r++) {
        Peer* p = &w->peers[r];
        if (p->gone) { continue; }
        if (time - p->heard > 0.5 * w->timeout) { lose(w, LOST_SILENT, r); }
        if (p->last.waiting > longest) { longest = p->last.waiting; }
    }
    longest = fmin(longest, quiet(w, &mine));
    if (w->star.rank == 0 && longest > 0.8 * w->timeout) { lose(w, LOST_STUCK, hindmost(w, &mine)); }
    if (w->star.rank > 0 && fmin(mine.waiting, longest) > w->timeout) { lose(w, LOST_STUCK, 0); }      // rank 0 should have judged by now
}

static void* watch_main(void* argument) {
    Watch* w = (Watch*)argument;
    int world = w->star.world, interval = (int)fmin(fmax(w->timeout * 1000 / 40, 20), 500);
    struct pollfd* wait = (struct pollfd*)xcalloc((size_t)world, sizeof *wait);
    double last_round = now();
    for (;;) {
        for (int r = 0; r < world; r++) {
            wait[r].fd = w->peers[r].gone ? -1 : w->star.socket[r];
            wait[r].events = POLLIN;
            wait[r].revents = 0;
        }
        poll(wait, (nfds_t)world, interval);
        for (int r = 0; r < world; r++) {
            if (wait[r].revents) { listen_to(w, r); }
        }
        pthread_mutex_lock(&w->lock);
        bool quit = w->quit;
        pthread_mutex_unlock(&w->lock);
        if (quit) { break; }
        if ((now() - last_round) * 1000 < interval) { continue; }
        // after a pause of this very process what it has not heard says nothing of the others
        if (now() - last_round > 0.25 * w->timeout) {
            for (int r = 0; r < world; r++) { w->peers[r].heard = now(); }
        }
        last_round = now();
        Message mine = present(w);
        if (w->star.rank == 0) { mine.quiet = quiet(w, &mine); }
        send_to_all(w, &mine);
        judge(w);
    }
    free(wait);
    return NULL;
}

Watch* watch_open(Star* star, const char (*hosts)[HOST_NAME], double timeout) {
    Watch* w = (Watch*)xcalloc(1, sizeof *w);
    w->star = *star;
    star->socket = NULL;
    w->hosts = (char(*)[HOST_NAME])xmalloc((size_t)star->world * HOST_NAME);
    memcpy(w->hosts, hosts, (size_t)star->world * HOST_NAME);
    w->peers = (Peer*)xcalloc((size_t)star->world, sizeof(Peer));
    for (int r = 0; r < star->world; r++) {
        w->peers[r].heard = now();
        w->peers[r].gone = r == star->rank;
    }
    w->timeout = timeout;
    w->worked = now();
    pthread_mutex_init(&w->lock, NULL);
    sigset_t all, before;                        // signals are the main thread's
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, watch_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    opened = w;
    atexit(let_speak);
    if (failed) { FAIL(EXIT_INTERNAL, "the watchdog's thread cannot be started: %s", strerror(failed)); }
    return w;
}

void watch_close(Watch* w) {
    if (!w) { return; }
    pthread_mutex_lock(&w->lock);
    w->ending = w->quit = true;
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    opened = NULL;
    star_close(&w->star);
    pthread_mutex_destroy(&w->lock);
    free(w->peers);
    free(w->hosts);
    free(w);
}
