#include "meet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ADDRESSES = 8, CALL_MS = 2000 };

// Where rank 0 can be reached; `run` tells this run's rank 0 from what else may listen there (a stale file, another run)
typedef struct {
    uint64_t run;
    int32_t  port, count;
    char     address[ADDRESSES][16];      // dotted IPv4, loopback last
} Place;

typedef struct { char magic[8]; uint64_t run; int32_t rank, world; } Hello;
typedef struct { int32_t welcome; char why[124]; } Answer;
static const char MAGIC[8] = {'m', 'o', 'b', 'a', 'm', 'e', 'e', 't'};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(int ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

// ---- bytes over a connection, until a deadline --------------------------------------------------------------------------------

static bool ready(int socket, short events, double deadline) {
    double left = deadline - now();
    struct pollfd wait = {socket, events, 0};
    return left > 0 && poll(&wait, 1, (int)(left * 1000) + 1) > 0;
}

static bool send_all(int socket, const void* data, size_t bytes, double deadline) {
    const char* at = (const char*)data;
    while (bytes) {
        if (!ready(socket, POLLOUT, deadline)) { return false; }
        ssize_t sent = send(socket, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) { continue; }
        if (sent <= 0) { return false; }
        at += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static bool receive_all(int socket, void* data, size_t bytes, double deadline) {
    char* at = (char*)data;
    while (bytes) {
        if (!ready(socket, POLLIN, deadline)) { return false; }
        ssize_t got = recv(socket, at, bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) { continue; }
        if (got <= 0) { return false; }
        at += got;
        bytes -= (size_t)got;
    }
    return true;
}

// ---- rank 0: listens, and takes one call from each rank --------------------------------------------------------------------------

static int listen_at(int port, int* taken_port, Error* err) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 4096) != 0
        || getsockname(listener, (struct sockaddr*)&address, &size) != 0) {
        error_set(err, EXIT_LOST_RANK, "rank 0 cannot listen on port %d: %s", port, strerror(errno));
        if (listener >= 0) { close(listener); }
        return -1;
    }
    *taken_port = ntohs(address.sin_port);
    return listener;
}

static void list_addresses(Place* place) {
    struct ifaddrs* list = NULL;
    if (getifaddrs(&list) != 0) { list = NULL; }
    for (int loopback = 0; loopback < 2; loopback++) {
        for (struct ifaddrs* i = list; i && place->count < ADDRESSES; i = i->ifa_next) {
            if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) { continue; }
            uint32_t address = ntohl(((struct sockaddr_in*)(void*)i->ifa_addr)->sin_addr.s_addr);
            if ((address >> 24 == 127) != loopback) { continue; }
            inet_ntop(AF_INET, &((struct sockaddr_in*)(void*)i->ifa_addr)->sin_addr, place->address[place->count++], 16);
        }
    }
    if (list) { freeifaddrs(list); }
    if (place->count == 0) { snprintf(place->address[place->count++], 16, "127.0.0.1"); }
}

static void say_no_delay(int socket) {
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void missing_ranks(const Star* star, char* text, size_t room) {
    size_t used = 0;
    text[0] = 0;
    for (int r = 1; r < star->world && used + 32 < room; r++) {
        if (star->socket[r] < 0) { used += (size_t)snprintf(text + used, room - used, "%s%d", used ? ", " : "", r); }
    }
    if (used + 32 >= room) { snprintf(text + used, room - used, " and more"); }
}

// One call. False only when it shows that the run is started wrongly; a stranger is sent away.
static bool take_call(Star* star, int caller, uint64_t run, int* arrived, Error* err) {
    Hello hello;
    Answer answer = {1, ""};
    double soon = now() + CALL_MS / 1e3;
    if (!receive_all(caller, &hello, sizeof hello, soon) || memcmp(hello.magic, MAGIC, sizeof MAGIC) != 0 || hello.run != run) {
        close(caller);
        return true;
    }
    if (hello.world != star->world) {
        snprintf(answer.why, sizeof answer.why, "rank %d was started as one of %d ranks, rank 0 as one of %d", hello.rank, hello.world, star->world);
    } else if (hello.rank < 1 || hello.rank >= star->world || star->socket[hello.rank] >= 0) {
        snprintf(answer.why, sizeof answer.why, "two processes were started as rank %d", hello.rank);
    }
    answer.welcome = answer.why[0] == 0;
    bool heard = send_all(caller, &answer, sizeof answer, soon);
    if (!answer.welcome) {
        close(caller);
        return error_set(err, EXIT_USAGE, "%s", answer.why);
    }
    if (!heard) { close(caller); return true; }
    say_no_delay(caller);
    star->socket[hello.rank] = caller;
    (*arrived)++;
    return true;
}

static bool take_calls(Star* star, int listener, uint64_t run, double deadline, double timeout, Error* err) {
    for (int arrived = 1; arrived < star->world; ) {
        if (!ready(listener, POLLIN, deadline)) {
            char missing[160];
            missing_ranks(star, missing, sizeof missing);
            return error_set(err, EXIT_LOST_RANK, "%d of %d ranks met within %g s (--timeout); missing: %s", arrived, star->world, timeout, missing);
        }
        int caller = accept(listener, NULL, NULL);
        if (caller >= 0 && !take_call(star, caller, run, &arrived, err)) { return false; }
    }
    return true;
}

// ---- the others: call until rank 0 answers --------------------------------------------------------------------------------------------

static int call(const char* host, int port) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints, *list = NULL;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, service, &hints, &list) != 0) { return -1; }
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), failed = 0;
    socklen_t size = sizeof failed;
    bool there = connection >= 0
              && (connect(connection, list->ai_addr, list->ai_addrlen) == 0 || errno == EINPROGRESS)
              && ready(connection, POLLOUT, now() + CALL_MS / 1e3)
              && getsockopt(connection, SOL_SOCKET, SO_ERROR, &failed, &size) == 0 && failed == 0;
    freeaddrinfo(list);
    if (there) { return connection; }
    if (connection >= 0) { close(connection); }
    return -1;
}

// -1: nobody of this run there (yet). On a refusal *err has rank 0's sentence and err->code is set.
static int introduce(const Star* star, const char* host, int port, uint64_t run, double deadline, Error* err) {
    int connection = call(host, port);
    if (connection < 0) { return -1; }
    Hello hello;
    Answer answer;
    memcpy(hello.magic, MAGIC, sizeof MAGIC);
    hello.run = run;
    hello.rank = star->rank;
    hello.world = star->world;
    double soon = deadline < now() + 5 ? deadline : now() + 5;
    if (send_all(connection, &hello, sizeof hello, soon) && receive_all(connection, &answer, sizeof answer, soon)) {
        answer.why[sizeof answer.why - 1] = 0;
        if (answer.welcome) { say_no_delay(connection); return connection; }
        error_set(err, EXIT_USAGE, "%s", answer.why);
    }
    close(connection);
    return -1;
}

static bool read_place(const char* path, Place* place) {
    FILE* file = fopen(path, "rb");
    if (!file) { return false; }
    bool whole = fread(place, sizeof *place, 1, file) == 1 && place->count >= 1 && place->count <= ADDRESSES;
    fclose(file);
    for (int i = 0; whole && i < ADDRESSES; i++) { place->address[i][15] = 0; }
    return whole;
}

static bool write_place(const char* path, const Place* place, Error* err) {
    char* temporary = xformat("%s.tmp-%d", path, (int)getpid());
    FILE* file = fopen(temporary, "wb");
    bool ok = file && fwrite(place, sizeof *place, 1, file) == 1;
    if (file) { ok = fclose(file) == 0 && ok; }
    ok = ok && rename(temporary, path) == 0;
    if (!ok) {
        error_set(err, EXIT_NO_OUTPUT, "--meet %s: rank 0 cannot write it: %s", path, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
    return ok;
}

// file: the place is read anew before each try, since an earlier run's file may lie there
static bool call_rank0(Star* star, MeetKind kind, const char* where, Place place, double deadline, double timeout, Error* err) {
    err->code = 0;
    while (star->socket[0] < 0 && err->code == 0) {
        if (now() > deadline) {
            return error_set(err, EXIT_LOST_RANK, "rank %d did not reach rank 0 at %s within %g s (--timeout)", star->rank,
                             where ? where : place.address[0], timeout);
        }
        bool known = kind != MEET_FILE || read_place(where, &place);
        for (int i = 0; known && i < place.count && star->socket[0] < 0 && err->code == 0; i++) {
            star->socket[0] = introduce(star, kind == MEET_TCP ? where : place.address[i], place.port, place.run, deadline, err);
        }
        if (star->socket[0] < 0) { sleep_ms(50); }
    }
    return err->code == 0;
}

// ---- the whole ------------------------------------------------------------------------------------------------------------------------

// HOST:PORT -> *host (the caller's to free), *port
static bool split_address(const char* where, char** host, int* port, Error* err) {
    const char* colon = strrchr(where, ':');
    char* end = NULL;
    long number = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == where || *end || number < 1 || number > 65535) {
        return error_set(err, EXIT_USAGE, "--meet: '%.60s' is not HOST:PORT, as --init tcp wants it", where);
    }
    *host = xformat("%.*s", (int)(colon - where), where);
    *port = (int)number;
    return true;
}

// a connection a rank, which may be more than a process is allowed at first
static void allow_sockets(int world) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= (rlim_t)world + 256) { return; }
    files.rlim_cur = files.rlim_max < (rlim_t)world + 256 ? files.rlim_max : (rlim_t)world + 256;
    setrlimit(RLIMIT_NOFILE, &files);
}

static bool meet_as_rank0(Star* star, MeetKind kind, const char* where, Place* place, double deadline, double timeout, Error* err) {
    allow_sockets(star->world);
    int listener = listen_at(place->port, &place->port, err);
    if (listener < 0) { return false; }
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    place->run = kind == MEET_TCP ? 0 : ((uint64_t)t.tv_sec << 32) ^ ((uint64_t)t.tv_nsec << 12) ^ (uint64_t)getpid();
    list_addresses(place);
    if (kind == MEET_MPI) { mpi_broadcast(place, sizeof *place); }
    bool ok = (kind != MEET_FILE || write_place(where, place, err)) && take_calls(star, listener, place->run, deadline, timeout, err);
    if (kind == MEET_FILE) { unlink(where); }
    close(listener);
    return ok;
}

bool star_open(Star* star, MeetKind kind, const char* where, int rank, int world, double timeout, Error* err) {
    double deadline = now() + timeout;
    Place place;
    memset(&place, 0, sizeof place);
    char* host = NULL;
    if (kind == MEET_MPI) { mpi_start(&rank, &world); }
    star->rank = rank;
    star->world = world;
    star->timeout = timeout;
    star->told = 0;
    star->socket = (int*)xmalloc((size_t)world * sizeof(int));
    for (int r = 0; r < world; r++) { star->socket[r] = -1; }
    bool ok = kind != MEET_TCP || split_address(where, &host, &place.port, err);
    if (ok && rank == 0) {
        ok = meet_as_rank0(star, kind, where, &place, deadline, timeout, err);
    } else if (ok) {
        if (kind == MEET_MPI) { mpi_broadcast(&place, sizeof place); }
        if (kind == MEET_TCP) { place.count = 1; }
        ok = call_rank0(star, kind, kind == MEET_TCP ? host : where, place, deadline, timeout, err);
    }
    free(host);
    if (!ok) { star_close(star); }
    return ok;
}

// Before the bytes of an exchange goes DATA, and before that AT_WORK as often as may be; rank 0 passes it on to those who wait for it.
typedef enum { AT_WORK, DATA } Sign;

void star_at_work(Star* star) {
    const char sign = AT_WORK;
    if (now() - star->told < star->timeout / 20) { return; }
    star->told = now();
    for (int r = 0; r < star->world; r++) {
        if (star->socket[r] >= 0) { send(star->socket[r], &sign, 1, MSG_NOSIGNAL | MSG_DONTWAIT); }
    }
}

static bool send_data(Star* star, int to, const void* data, size_t bytes, double deadline) {
    const char sign = DATA;
    return send_all(star->socket[to], &sign, 1, deadline) && send_all(star->socket[to], data, bytes, deadline);
}

static bool receive_data(Star* star, int from, void* data, size_t bytes, double* deadline) {
    for (char sign = AT_WORK; receive_all(star->socket[from], &sign, 1, *deadline); ) {
        if (sign == DATA) { return receive_all(star->socket[from], data, bytes, *deadline); }
        *deadline = now() + star->timeout;
        star_at_work(star);
    }
    return false;
}

static bool lost(const Star* star, int rank, Error* err) {
    return error_set(err, EXIT_LOST_RANK, "rank %d has left, or gave no sign of life for %g s (--timeout)", rank, star->timeout);
}

bool star_exchange(Star* star, const void* mine, void* all, size_t bytes, Error* err) {
    double deadline = now() + star->timeout;
    bool ok = true;
    memcpy((char*)all + (size_t)star->rank * bytes, mine, bytes);
    for (int r = 1; ok && r < star->world && star->rank == 0; r++) {
        ok = receive_data(star, r, (char*)all + (size_t)r * bytes, bytes, &deadline) || lost(star, r, err);
    }
    if (star->rank > 0) {
        ok = send_data(star, 0, mine, bytes, deadline) || lost(star, 0, err);
    }
    return ok && star_broadcast(star, all, bytes * (size_t)star->world, err);
}

bool star_broadcast(Star* star, void* data, size_t bytes, Error* err) {
    double deadline = now() + star->timeout;
    if (star->rank > 0) {
        return receive_data(star, 0, data, bytes, &deadline) || lost(star, 0, err);
    }
    for (int r = 1; r < star->world; r++) {
        if (!send_data(star, r, data, bytes, deadline)) { return lost(star, r, err); }
    }
    return true;
}

void star_close(Star* star) {
    for (int r = 0; star->socket && r < star->world; r++) {
        if (star->socket[r] >= 0) { close(star->socket[r]); }
    }
    free(star->socket);
    star->socket = NULL;
}
